"""Nothing is acknowledged before it is on disk, shown by the order of system calls as strace sees it.

One strace holds PostgreSQL, nats-server and tracking: each of their calls stops until it has been written down, so that
the order of its lines is the order in which things happened. For each open it is then known

* where in the log of PostgreSQL its commit stands; when the bytes of that place were written, and when the sync that
  began after it returned, whoever did either;
* when tracking wrote it and the end of its transaction into the log of the spool, and when the sync after it returned;
* when tracking began to write the answer with its X-Open-Id.

No protocol is read and no order of requests is needed for that, so it holds for any number of visitors at once.
"""

import ast
import asyncio
import contextlib
import re
import shutil
import signal
import subprocess
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nats
import psutil
import psycopg
from opennotice.tracking.v1 import events_pb2

from bundle.embedded import Nats, Postgres
from tests.chaos.rig import Rig, wait_for
from tests.chaos.trial import LEAD_SECONDS, Outcome, Run, Trial

# So many opens at least have to be seen on each way, whatever the scale.
OPENS = 200
# The debugger makes every call slow; more visitors would only go to the spool.
_RATE = 150.0
_SECONDS_EACH_WAY = 6.0
_WRITES = ("write", "writev", "pwrite64", "pwritev", "pwritev2", "sendto", "sendmsg")
_SYNCS = ("fsync", "fdatasync")
_MOST_BYTES = 4 * 1024 * 1024

_SLOT = "chaos"
_SEGMENT_BYTES = 16 * 1024 * 1024
_PAGE_BYTES = 8192
_SEGMENT = re.compile(r"/pg_wal/([0-9A-F]{24})$")
_BLOCK = re.compile(r"/TRACKING/msgs/\d+\.blk$")
_FRAME_HEADER_BYTES = 24

_CALL = re.compile(r"(\d+) +(\w+)\(\d+<([^>]*)>(.*)", re.DOTALL)
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
_OFFSET = re.compile(r", (\d+)(?:\) +=| <unfinished)")
_ANSWER = re.compile(r"x-open-id: ([0-9a-f-]{36})", re.IGNORECASE)
_PUB_ACK = re.compile(r'\{\\"stream\\":\\"TRACKING\\", ?\\"seq\\":(\d+)')


@dataclass(slots=True)
class Call:
    """A call that wrote or synced a file. `began` and `ended` are places in the order of all that happened."""

    name: str
    path: str
    said: str
    began: int
    # None when it was never seen to end, or failed.
    ended: int | None = None

    @property
    def data(self) -> bytes:
        """What was written."""
        return b"".join(ast.literal_eval(f'b"{text}"') for text in _TEXT.findall(self.said))

    @property
    def offset(self) -> int:
        """Where in the file it was written."""
        found = _OFFSET.search(self.said, max(0, len(self.said) - 200))
        assert found is not None
        return int(found[1])


class Trace:
    """What strace has written down."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.calls: list[Call] = []
        # Where the first byte of each answer left, and of each acknowledgement of NATS.
        self.answers: dict[str, int] = {}
        self.acks: dict[int, int] = {}
        under_way: dict[str, Call] = {}
        for at, line in enumerate(lines):
            if resumed := _RESUMED.match(line):
                call = under_way.pop(resumed[1], None)
                if call is not None and _succeeded(line):
                    call.ended = at
            elif found := _CALL.match(line):
                thread, name, path, said = found.groups()
                call = Call(name, path, said, at)
                if said.rstrip().endswith("<unfinished ...>"):
                    under_way[thread] = call
                elif _succeeded(said):
                    call.ended = at
                self._take(call)
        self._syncs: defaultdict[str, list[Call]] = defaultdict(list)
        for call in self.calls:
            if call.name in _SYNCS and call.ended is not None:
                self._syncs[call.path].append(call)

    def _take(self, call: Call) -> None:
        if call.path.startswith("/"):
            self.calls.append(call)
            return
        for open_id in _ANSWER.findall(call.said):
            self.answers.setdefault(open_id, call.began)
        for sequence in _PUB_ACK.findall(call.said):
            self.acks.setdefault(int(sequence), call.began)

    def writes(self, path: re.Pattern[str]) -> list[Call]:
        """Returns the writes to files, in order."""
        return [call for call in self.calls if call.name in _WRITES and path.search(call.path)]

    def synced(self, write: Call) -> int | None:
        """Returns when what a write wrote was on disk: the end of a sync of that file that began after its end."""
        if write.ended is None:
            return None
        syncs = self._syncs[write.path]
        after = syncs[bisect_right(syncs, write.ended, key=lambda sync: sync.began) :]
        return min((sync.ended for sync in after if sync.ended is not None), default=None)


def _succeeded(line: str) -> bool:
    result = line.rpartition(" = ")[2]
    return result[:1].isdigit()


@dataclass(frozen=True)
class Commit:
    """The end of a transaction in the log of PostgreSQL: the bytes of it that lie in its last page, and their place."""

    segment: str
    place: int
    data: bytes


def commits_since(server: Postgres, start: str) -> dict[str, Commit]:
    """Returns where the commit of each open stands in the log, for what was written since a place in it."""
    with psycopg.connect(server.admin_url, autocommit=True) as conn:
        conn.execute("create extension if not exists pg_walinspect")
        rows = conn.execute(
            """
            select o.open_id::text, r.start_lsn - '0/0', r.end_lsn - '0/0', pg_walfile_name(r.end_lsn - 1)
            from tracking.raw_opens o
            join pg_get_wal_records_info(%s, pg_current_wal_flush_lsn()) r on r.xid = o.xmin
            where r.resource_manager = 'Transaction' and r.record_type = 'COMMIT'
            """,
            (start,),
        ).fetchall()
        conn.execute("drop extension pg_walinspect")
        conn.execute("select pg_drop_replication_slot(%s)", (_SLOT,))
    found = {}
    for open_id, begin, end, segment in rows:
        begin, end = int(begin), int(end)
        begin = max(begin, (end - 1) // _PAGE_BYTES * _PAGE_BYTES)
        place = begin % _SEGMENT_BYTES
        with (server.data / "pg_wal" / segment).open("rb") as file:
            file.seek(place)
            found[open_id] = Commit(segment, place, file.read(end - begin))
    return found


def in_postgres(trace: Trace, commits: dict[str, Commit]) -> dict[str, int]:
    """Returns since when each open was on disk in PostgreSQL."""
    writes = trace.writes(_SEGMENT)
    decoded = [(write, write.path.rpartition("/")[2], write.offset, write.data) for write in writes]
    found = {}
    for open_id, commit in commits.items():
        end = commit.place + len(commit.data)
        for at, (write, segment, offset, data) in enumerate(decoded):
            # A page is written again and again as it fills: only a write that carries these bytes counts.
            if segment != commit.segment or not offset <= commit.place < end <= offset + len(data):
                continue
            if data[commit.place - offset : end - offset] == commit.data:
                before = {earlier.path: earlier for earlier in writes[:at]} | {write.path: write}
                synced = [trace.synced(one) for one in before.values()]
                known = [one for one in synced if one is not None]
                if len(known) == len(synced):
                    found[open_id] = max(known)
                break
    return found


def in_spool(trace: Trace, open_ids: Iterable[str]) -> dict[str, int]:
    """Returns since when each open was on disk in the spool."""
    writes = trace.writes(re.compile(r"/spool\.sqlite-wal$"))
    found = {}
    for open_id in open_ids:
        first = next((at for at, write in enumerate(writes) if open_id in write.said), None)
        if first is None:
            continue
        # Each page follows its header, and the header of the last page of a transaction says so.
        for header, page in zip(writes[max(0, first - 1) :], writes[max(1, first) :], strict=False):
            data = header.data
            if len(data) == _FRAME_HEADER_BYTES and any(data[4:8]):
                if (synced := trace.synced(page)) is not None:
                    found[open_id] = synced
                break
    return found


def in_stream(trace: Trace, packs: dict[int, list[str]]) -> dict[int, int]:
    """Returns since when each pack was on disk in NATS."""
    writes = trace.writes(_BLOCK)
    first: dict[str, Call] = {}
    for write in writes:
        for open_id in re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", write.said):
            first.setdefault(open_id, write)
    found = {}
    for sequence, opens in packs.items():
        synced = [trace.synced(first[one]) if one in first else None for one in opens]
        known = [one for one in synced if one is not None]
        if known and len(known) == len(synced):
            found[sequence] = max(known)
    return found


def packs_of(server: Nats) -> dict[int, list[str]]:
    """Returns the opens of each event in the stream, by its number."""

    async def read() -> dict[int, list[str]]:
        client = await nats.connect(server.url)
        stream = client.jetstream()
        state = (await stream.stream_info("TRACKING")).state
        found = {}
        for sequence in range(state.first_seq, state.last_seq + 1):
            event = await stream.get_msg("TRACKING", sequence)
            found[sequence] = [one.open_id for one in events_pb2.OpensRecorded.FromString(event.data or b"").opens]
        await client.close()
        return found

    return asyncio.run(read())


@contextlib.contextmanager
def traced(rig: Rig, names: Iterable[str], to: Path) -> Iterator[None]:
    """Writes down what processes of the rig write and sync, those that they start and all their threads too."""
    program = shutil.which("strace")
    if program is None:
        raise RuntimeError("strace is not installed (Debian package strace), and nothing else shows the order")
    processes = [psutil.Process(rig.pid(name)) for name in names]
    family = [one.pid for process in processes for one in [process, *process.children(recursive=True)]]
    command = [program, "-f", "-y", "-s", str(_MOST_BYTES), "-e", f"trace={','.join(_WRITES + _SYNCS)}"]
    command += ["-o", str(to), *(part for pid in family for part in ("-p", str(pid)))]
    strace = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 10
        while not all(map(_is_traced, filter(psutil.pid_exists, family))):
            if strace.poll() is not None or time.monotonic() > deadline:
                strace.kill()
                said = strace.communicate()[1].decode(errors="replace").strip().splitlines()
                raise RuntimeError(f"strace cannot attach: {said[-1] if said else 'no reason given'}")
            time.sleep(0.05)
        yield
    finally:
        # It lets go of everything and ends; were it killed, the kernel would do the same.
        strace.send_signal(signal.SIGINT)
        try:
            strace.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            strace.kill()
            strace.communicate()


def _is_traced(pid: int) -> bool:
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            if "TracerPid:\t0\n" in (thread / "status").read_text():
                return False
    return True


def on_disk_first(run: Run) -> Outcome:
    """No byte of an answer leaves before its open is on disk, in PostgreSQL and while it is away."""
    rig = run.rig
    store, bus = rig.servers["postgres"].server, rig.servers["nats"].server
    assert isinstance(store, Postgres)
    assert isinstance(bus, Nats)
    with psycopg.connect(store.admin_url) as conn:
        # The slot keeps the log, which is thrown away when the server stops.
        row = conn.execute(
            "select pg_current_wal_insert_lsn()::text, pg_create_physical_replication_slot(%s, true)", (_SLOT,)
        ).fetchone()
        assert row is not None
    started = time.time()
    away: list[float] = []

    def damage() -> None:
        time.sleep(_SECONDS_EACH_WAY)
        away.append(time.time())
        rig.servers["postgres"].end()
        # Its successors are not traced, so nobody visits any more when it comes back.
        time.sleep(_SECONDS_EACH_WAY + 3)
        rig.servers["postgres"].start()

    path = rig.folder / "trace"
    with traced(rig, ("postgres", "nats", "tracking"), path):
        seconds = LEAD_SECONDS + 2 * _SECONDS_EACH_WAY
        requests, _ = run.load(_RATE, damage, seconds=seconds, plain=True)
    wait_for(lambda: not rig.metric("tracking", "opennotice_spool_opens"), 60, "the spool to be empty")
    with path.open(errors="replace") as lines:
        trace = Trace(lines)
    path.unlink()

    recorded = [one.open_id for one in requests if one.open_id]
    stored = in_postgres(trace, commits_since(store, row[0]))
    spooled = in_spool(trace, recorded)
    _judge(run, recorded, trace.answers, stored, spooled)
    packs = {sequence: opens for sequence, opens in packs_of(bus).items() if opens and sequence in trace.acks}
    moved = in_stream(trace, packs)
    early = [number for number in packs if number not in moved or moved[number] >= trace.acks[number]]
    run.outcome.figures |= {"packs": len(packs), "packs_inverted": len(early)}
    run.outcome.must(len(packs) >= OPENS / 10, f"only {len(packs)} acknowledgements of NATS were seen")
    run.outcome.must(not early, f"NATS acknowledged {len(early)} of {len(packs)} packs before they were on disk")
    run.outcome.must(bool(away) and started < away[0], "PostgreSQL was not taken away")
    return run.outcome


def _judge(
    run: Run, recorded: list[str], answers: dict[str, int], stored: dict[str, int], spooled: dict[str, int]
) -> None:
    never = float("inf")
    unseen = [one for one in recorded if one not in answers]
    by_store = [one for one in recorded if one in answers and stored.get(one, never) < answers[one]]
    by_spool = [one for one in recorded if one in answers and spooled.get(one, never) < answers[one]]
    early = set(recorded) - set(unseen) - set(by_store) - set(by_spool)
    run.outcome.figures |= {
        "on_disk_in_postgres": len(by_store),
        "on_disk_in_spool": len(by_spool),
        "inverted": len(early),
    }
    outcome = run.outcome
    outcome.must(not unseen, f"{len(unseen)} answers were not seen to leave")
    outcome.must(not early, f"{len(early)} of {len(recorded)} answers left before their open was on disk")
    outcome.must(len(by_store) >= OPENS, f"only {len(by_store)} opens went to PostgreSQL")
    outcome.must(len(by_spool) >= OPENS, f"only {len(by_spool)} opens went to the spool")


TRIALS = [Trial("P2", "on disk before the answer", on_disk_first, own=("nats", "postgres"))]
