"""What lies on disk is destroyed, or the disk is full."""

import contextlib
import json
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import httpx
import psycopg

from bundle.embedded import Nats
from tests.chaos.disk import Filling
from tests.chaos.rig import Rig, wait_for
from tests.chaos.trial import LEAD_SECONDS, Outcome, Run, Trial

_CUT_BYTES = 1_000
_MOST_SEGMENTS = 40
_LOSSES = "opennotice_nats_losses_total"
_AGAIN = "opennotice_opens_published_again_total"


def _blocks(folder: Path) -> list[Path]:
    """Returns the files with the events of tracking, oldest first."""
    return sorted(folder.glob("jetstream/*/streams/TRACKING/msgs/*.blk"), key=lambda path: int(path.stem))


def deleted(folder: Path, _: Random) -> None:
    """The whole volume is gone."""
    shutil.rmtree(folder / "jetstream")


def flipped(folder: Path, chance: Random) -> None:
    """One bit is not what was written."""
    path = chance.choice([path for path in _blocks(folder) if path.stat().st_size])
    with path.open("r+b") as file:
        place = chance.randrange(path.stat().st_size)
        file.seek(place)
        byte = file.read(1)[0] ^ 1 << chance.randrange(8)
        file.seek(place)
        file.write(bytes([byte]))


def cut(folder: Path, _: Random) -> None:
    """The last block ends too early."""
    path = _blocks(folder)[-1]
    with path.open("r+b") as file:
        file.truncate(max(0, path.stat().st_size - _CUT_BYTES))


def _events(server: Nats) -> int | None:
    """Returns how many events the stream of tracking says it has; None while there is no such stream."""
    with contextlib.suppress(httpx.HTTPError):
        said = httpx.get(f"http://127.0.0.1:{server.monitor_port}/jsz?streams=1", timeout=5).json()
        for account in said.get("account_details", []):
            for stream in account.get("stream_detail", []):
                if stream["name"] == "TRACKING":
                    return int(stream["state"]["messages"])
    return None


# Each with what has to wait unread before it, as a share of the backlog.
_HARMS: tuple[tuple[Callable[[Path, Random], None], float], ...] = (
    (deleted, 1.0),
    (flipped, 1.0),
    (flipped, 0.1),
    (flipped, 0.1),
    (cut, 1.0),
)
_REPORTED_SECONDS = 300


def destroyed(run: Run) -> Outcome:
    """Events that nobody has read yet are destroyed in the files of NATS, one harm after the other."""
    rig, scale = run.rig, run.scale
    server = rig.servers["nats"].server
    assert isinstance(server, Nats)
    again = rig.metric("tracking", _AGAIN)
    made, told, untold = list[float](), dict[str, float](), list[str]()

    def damage() -> None:
        known = rig.metric("enrichment", _LOSSES)
        with rig.frozen("enrichment"):
            for harm, share in _HARMS:
                wanted = rig.metric("tracking", "opennotice_opens_total") + share * scale.backlog
                enough = partial(_has_opened, rig, wanted)
                wait_for(enough, 30 + 3 * scale.backlog / scale.busy, "opens that wait")
                how = run.random.choice([signal.SIGTERM, signal.SIGKILL])
                rig.servers["nats"].end(how)
                harm(server.folder, run.random)
                before = rig.metric("tracking", _LOSSES)
                rig.servers["nats"].start()
                began = time.monotonic()
                wait_for(lambda: _events(server) is not None, 60, "the stream to be made again")
                made.append(time.monotonic() - began)
                try:
                    wait_for(partial(_has_lost, rig, "tracking", before), 60 if harm is deleted else 3, "word of it")
                    told[f"{harm.__name__}_told_s"] = time.monotonic() - began
                except TimeoutError:
                    untold.append(harm.__name__)
        # NATS itself finds a changed bit when it comes to that event, and so does who was to read it. That the whole
        # stream was made anew enrichment tells too.
        if untold:
            began = time.monotonic()
            wait_for(partial(_has_lost, rig, "enrichment", known + 1), 60, f"word of what was {', '.join(untold)}")
            told["read_told_s"] = time.monotonic() - began

    shares = sum(share for _, share in _HARMS)
    _, verdict = run.load(scale.busy, damage, seconds=shares * scale.backlog / scale.busy * 1.2 + 8 * len(_HARMS))
    outcome = run.outcome
    outcome.must(verdict.unknown == verdict.refused == verdict.unrecorded == 0, "visitors noticed")
    run.within("complete_s", float(str(outcome.figures["complete_s"])), _REPORTED_SECONDS)
    run.within("streams_again_s", max(made, default=0.0), 60)
    outcome.must("deleted" not in untold, "nobody told that everything had been deleted")
    for what, seconds in told.items():
        run.within(what, seconds, 60)
    outcome.figures["published_again"] = round(rig.metric("tracking", _AGAIN) - again)
    outcome.must(rig.metric("tracking", _AGAIN) > again, "nothing was destroyed, or nobody told that it was")
    return outcome


def _has_lost(rig: Rig, who: str, before: float) -> bool:
    return rig.metric(who, _LOSSES) > before


def _has_opened(rig: Rig, wanted: float) -> bool:
    return rig.metric("tracking", "opennotice_opens_total") >= wanted


def _place(rig: Rig, name: str) -> Path:
    """Returns the folder that lies on the small disk."""
    return rig.bundle.home if name == "home" else rig.bundle.home / name


def use_up_log(rig: Rig) -> None:
    """Fills what PostgreSQL had set aside for its log: where that ends on a full disk, the server ends too."""
    port = json.loads((rig.bundle.home / "ports.json").read_text())["postgres"]
    password = (rig.bundle.home / "secrets" / "postgres.password").read_text()
    try:
        with psycopg.connect(f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres", autocommit=True) as conn:
            for _ in range(_MOST_SEGMENTS):
                conn.execute("select pg_logical_emit_message(true, 'chaos', 'full')")
                conn.execute("select pg_switch_wal()")
    except psycopg.OperationalError:
        return
    raise AssertionError("PostgreSQL went on writing its log on a full disk")


def full(
    name: str, tells: Callable[[Rig], bool], *, other_way: bool, worse: Callable[[Rig], None] | None = None
) -> Callable[[Run], Outcome]:
    """The disk of something is full for a while, and then has room again. `other_way`: opens can still be recorded."""

    def trial(run: Run) -> Outcome:
        rig = run.rig
        told: list[float] = []
        again: list[float] = []
        seconds = run.scale.full_disk_seconds

        def damage() -> None:
            wait_for(lambda: not tells(rig), 30, "nothing to be told of")
            began = time.monotonic()
            with Filling(_place(rig, name)) as filling:
                while (passed := time.monotonic() - began) < seconds:
                    filling.keep()
                    if not told and tells(rig):
                        told.append(passed)
                        if worse is not None:
                            worse(rig)
                    time.sleep(0.1)
            freed = time.monotonic()

            wait_for(lambda: rig.is_ready() and not tells(rig), 120, "everything to work again")
            again.append(time.monotonic() - freed)

        began = rig.metric("tracking", "opennotice_unrecorded_opens_total")
        _, verdict = run.load(run.scale.usual, damage, seconds=LEAD_SECONDS + 1.5 * seconds)
        outcome = run.outcome
        run.all_served(verdict)
        outcome.must(bool(told), "nothing told of it")
        run.within("told_s", told[0] if told else seconds, 5)
        run.within("recovered_s", again[0], 60)
        run.within("complete_s", float(str(outcome.figures["complete_s"])), 60)
        unrecorded = rig.metric("tracking", "opennotice_unrecorded_opens_total") - began
        outcome.must(
            verdict.unrecorded == unrecorded,
            f"{verdict.unrecorded} visitors were served without a record, and {unrecorded:.0f} were told of",
        )
        outcome.must(
            not (other_way and verdict.unrecorded), f"{verdict.unrecorded} visitors were left out of the record"
        )
        return outcome

    return trial


def _says(metric: str, above: float = 0) -> Callable[[Rig], bool]:
    return lambda rig: rig.metric("tracking", metric) > above


TRIALS = [
    Trial("P5", "files of NATS destroyed", destroyed, own=("nats", "postgres")),
    *(
        Trial("P6", f"disk of {fault} full", full(disk, tells, other_way=other_way, worse=worse), small_disk=disk)
        for fault, disk, tells, other_way, worse in (
            ("PostgreSQL", "postgres", _says("opennotice_postgres_away"), True, None),
            ("PostgreSQL and its log", "postgres", _says("opennotice_postgres_away"), True, use_up_log),
            ("NATS", "nats", _says("opennotice_outbox_packs", above=50), True, None),
            ("the spool", "tracking", _says("opennotice_spool_failing"), True, None),
            ("everything", "home", lambda rig: rig.probe("tracking", "/ready")[0] != 200, False, None),
        )
    ),
]
