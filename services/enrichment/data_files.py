"""The folder of IP data: finds the files, has each tried in a process of its own, opens a private copy, and swaps.

The copy is the point: a file that is cut or overwritten in place while it is mapped would end the service with SIGBUS,
and the file that is opened must be the one that was tried.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

import geoip2.database
import geoip2.errors
import maxminddb

from services.chassis import log
from services.enrichment import network
from services.enrichment.network import Holder, IPAddress, KnownNetwork, Origin, Place

_LOG = log.get(__name__)

CATALOGUE_FILE = Path(__file__).with_name("rules") / "data_sets.toml"
PROBE_FILE = Path(__file__).with_name("probe.py")
PURPOSES = ("network", "place")
FAMILIES = (4, 6)
_PROBE_SECONDS = 40.0
_OLD = timedelta(days=400)
# One entry is some 500 bytes; a visitor who comes back and a campaign read on one office network are found here.
_CACHE_SIZE = 20_000
# Whatever a reader may raise over bytes that are not what they claim to be.
_DAMAGE = (
    maxminddb.InvalidDatabaseError, ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError,
)  # fmt: skip

# What geoip2 raises over a record of another shape, and when there is none.
_MISFIT = (geoip2.errors.AddressNotFoundError, ValueError, TypeError, AttributeError, LookupError)

Slot = tuple[str, int]


@dataclass(frozen=True)
class Kind:
    """A kind of file that may lie in the folder."""

    file: str
    purpose: str
    families: tuple[int, ...]
    credit: str
    title: str


@dataclass(frozen=True)
class Signature:
    """What changes when a file is replaced, or may be read by others than before."""

    device: int
    inode: int
    size: int
    changed_ns: int


@dataclass(frozen=True)
class SetState:
    """What is told about one data set."""

    purpose: str
    title: str = ""
    build_time: datetime | None = None
    credit: str = ""
    problem: str = ""


class Refused(Exception):
    """Says why a file is not used."""


def load_catalogue(path: Path = CATALOGUE_FILE) -> tuple[Kind, ...]:
    """Reads which files are known, the preferred ones first."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["data_set"]
    return tuple(
        Kind(row["file"], row["purpose"], tuple(row["families"]), row["credit"], row.get("title", "")) for row in rows
    )


class DataFile:
    """One open file."""

    def __init__(self, path: str, kind: Kind) -> None:
        """Opens a file that the probe has passed; the path may be unlinked afterwards."""
        self.kind = kind
        # geoip2 knows the shapes of MaxMind's own files and refuses all others, which maxminddb below it reads.
        self._reader = geoip2.database.Reader(path, mode=maxminddb.MODE_MMAP_EXT)
        self._raw = maxminddb.open_database(path, maxminddb.MODE_MMAP_EXT)
        metadata = self._raw.metadata()
        self._type = network.clean(metadata.database_type)
        self.title = kind.title or self._type.removesuffix("-GeoLite2-ASN") or kind.purpose
        self.build_time = _time_of(metadata.build_epoch)
        self.label = f"{self.title} {self.build_time:%Y-%m-%d}" if self.build_time else self.title
        self._told_damage = False

    def holder(self, address: IPAddress) -> Holder:
        """Looks up who holds the network of an address; raises Refused when the file is damaged there."""
        try:
            return self._maxmind_holder(address) or network.holder_of(self._raw.get(address))
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def place(self, address: IPAddress) -> Place:
        """Looks up where an address is used; raises Refused when the file is damaged there."""
        try:
            return self._maxmind_place(address) or network.place_of(self._raw.get(address))
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def _maxmind_holder(self, address: IPAddress) -> Holder | None:
        """Reads with geoip2; None where it does not understand the file or the record."""
        try:
            if "GeoIP2-ISP" in self._type:
                isp = self._reader.isp(address)
                return network.holder(isp.autonomous_system_number, isp.isp or isp.autonomous_system_organization)
            if "GeoLite2-ASN" in self._type:
                asn = self._reader.asn(address)
                return network.holder(asn.autonomous_system_number, asn.autonomous_system_organization)
        except _MISFIT:
            return None
        return None

    def _maxmind_place(self, address: IPAddress) -> Place | None:
        """Reads with geoip2; None where it does not understand the file or the record."""
        if "City" not in self._type:
            return None
        try:
            city = self._reader.city(address)
            region = city.subdivisions[0].name if city.subdivisions else ""
            found = network.place(city.country.iso_code, region, city.city.name)
        except _MISFIT:
            return None
        return None if found == Place() else found

    def _damaged(self, error: Exception) -> Refused:
        if not self._told_damage:
            self._told_damage = True
            _LOG.error("IP data file is damaged inside", data_set=self.label, error=type(error).__name__)
        return Refused("it is damaged inside")


def _time_of(epoch: object) -> datetime | None:
    in_range = isinstance(epoch, int) and 0 < epoch < 4_000_000_000
    return datetime.fromtimestamp(epoch, UTC) if in_range and isinstance(epoch, int) else None


class Lookup:
    """The files of one moment; never changed, only replaced as a whole."""

    def __init__(self, files: Mapping[Slot, DataFile], table: Mapping[int, KnownNetwork]) -> None:
        self.files = files
        self._table = table
        self.missing = tuple(
            (purpose, family) for family in FAMILIES for purpose in PURPOSES if (purpose, family) not in files
        )
        self.origin_of = lru_cache(maxsize=_CACHE_SIZE)(self._origin_of)

    def _origin_of(self, written: IPAddress | None) -> Origin:
        """Finds out about an address. "unavailable" when any file it would be looked up in is missing or damaged."""
        address = network.public_address(written)
        if address is None:
            return Origin("not_public")
        holder, place, complete = Holder(), Place(), True
        used: list[str] = []
        for purpose in PURPOSES:
            file = self.files.get((purpose, address.version))
            try:
                if file is None:
                    complete = False
                    continue
                if purpose == "network":
                    holder = file.holder(address)
                else:
                    place = file.place(address)
                used.append(file.label)
            except Refused:
                complete = False
        return network.origin(holder, place, self._table, "found" if complete else "unavailable", used)


class DataFolder:
    """Keeps the look-up up to date with a folder that an operator changes at any moment."""

    def __init__(self, folder: Path | None, most_bytes: int, table: Mapping[int, KnownNetwork]) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._table = table
        self._catalogue = load_catalogue()
        self._seen: dict[str, Signature] | None = None
        self._open: dict[str, DataFile] = {}
        self._refused: dict[str, str] = {}
        self.current = Lookup({}, table)
        self.states: tuple[SetState, ...] = ()
        # Grows when other files are in use, so that others notice.
        self.generation = 0

    async def refresh(self, now: datetime) -> bool:
        """Opens what is new; tells whether the look-up was replaced."""
        seen = await asyncio.to_thread(self._scan)
        if seen == self._seen:
            return False
        before = self._seen or {}
        for name in [name for name in self._open if name not in seen]:
            del self._open[name]
        self._refused = {name: why for name, why in self._refused.items() if name in seen}
        changed = [(name, signature) for name, signature in seen.items() if before.get(name) != signature]
        await asyncio.gather(*(self._take(name, signature, now) for name, signature in changed))
        self._seen = seen
        self._swap()
        return True

    def _scan(self) -> dict[str, Signature]:
        found: dict[str, Signature] = {}
        if self._folder is None:
            return found
        try:
            names = sorted(os.listdir(self._folder), reverse=True)
        except OSError:
            return found
        for name in names:
            if self._kind_of(name) is None:
                continue
            try:
                stat = os.stat(self._folder / name)
            except OSError:
                found[name] = Signature(0, 0, -1, 0)
            else:
                found[name] = Signature(stat.st_dev, stat.st_ino, stat.st_size, stat.st_ctime_ns)
        return found

    def _kind_of(self, name: str) -> Kind | None:
        return next((kind for kind in self._catalogue if fnmatchcase(name, kind.file)), None)

    async def _take(self, name: str, signature: Signature, now: datetime) -> None:
        """Opens one file; when it is refused the one before stays in use."""
        kind = self._kind_of(name)
        assert kind is not None
        assert self._folder is not None
        try:
            self._open[name] = await self._opened(self._folder / name, signature, kind)
        except Refused as refusal:
            self._refused[name] = str(refusal)
            _LOG.error("IP data file refused", file=name, problem=str(refusal), kept_previous=name in self._open)
            return
        self._refused.pop(name, None)
        file = self._open[name]
        age = now - file.build_time if file.build_time else None
        _LOG.info("IP data file in use", file=name, data_set=file.label, credit=kind.credit)
        if age is None or age > _OLD or age < timedelta(days=-1):
            _LOG.warning("IP data file has an odd date; replace it by a fresh one", file=name, data_set=file.label)

    async def _opened(self, path: Path, signature: Signature, kind: Kind) -> DataFile:
        if signature.size > self._most_bytes:
            raise Refused("it is larger than OPENNOTICE_IP_DATA_MOST_MIB allows")
        if signature.size == 0:
            raise Refused("it is empty")
        copy = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="opennotice-ip-data-"))
        try:
            try:
                await asyncio.to_thread(shutil.copyfile, path, copy / "data.mmdb")
            except OSError as error:
                raise Refused(f"it cannot be read: {error.strerror or type(error).__name__}") from error
            await _probe(copy / "data.mmdb", kind.purpose)
            try:
                return DataFile(str(copy / "data.mmdb"), kind)
            except (*_DAMAGE, OSError) as error:
                raise Refused("it is damaged or not a MaxMind DB file") from error
        finally:
            # The mapping keeps the bytes; nothing is left behind when the process is killed later.
            await asyncio.to_thread(shutil.rmtree, copy, ignore_errors=True)

    def _swap(self) -> None:
        slots: dict[Slot, DataFile] = {}
        for kind in self._catalogue:
            for _, file in sorted(self._open.items(), reverse=True):
                if file.kind == kind:
                    for family in kind.families:
                        slots.setdefault((kind.purpose, family), file)
        self.current = Lookup(slots, self._table)
        self.states = self._states_of(slots)
        self.generation += 1
        if self.current.missing:
            _LOG.warning(
                "IP data missing; opens go on without and are explained again when they come", missing=self.problem()
            )

    def _states_of(self, slots: Mapping[Slot, DataFile]) -> tuple[SetState, ...]:
        # Files of one data set, such as one for each version of IP, are shown as one.
        used = {(file.kind.purpose, file.title): file for file in slots.values()}.values()
        states = [SetState(file.kind.purpose, file.title, file.build_time, file.kind.credit) for file in used]
        for name, why in sorted(self._refused.items()):
            kind = self._kind_of(name)
            states.append(SetState(kind.purpose if kind else "", problem=f"{name}: {why}"))
        states += [
            SetState(purpose, problem=f"no file for IPv{family} addresses") for purpose, family in self.current.missing
        ]
        return tuple(states)

    def problem(self) -> str:
        """Says what is missing; empty when every address can be looked up."""
        return "; ".join(f"no {purpose} data for IPv{family}" for purpose, family in self.current.missing)


async def _probe(path: Path, purpose: str) -> None:
    """Has a file read for the first time by a child process; raises Refused when the child refuses or dies."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(PROBE_FILE), str(path), purpose,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env={},
    )  # fmt: skip
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            told, _ = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        raise Refused("reading it takes too long") from None
    if child.returncode != 0:
        raise Refused(told.decode("utf-8", "replace").strip()[:200] or "the reader does not survive it")
