"""Holds the report against the ledger. Reads only what another court system can read: ReportingService over gRPC."""

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from opennotice.reporting.v1 import reporting_pb2, reporting_pb2_grpc

from tests.chaos.ledger import Request, percentile
from tests.chaos.load import REFERRER
from tests.chaos.rig import Rig, wait_for

# Clocks are one and the same; an instant is cut to whole milliseconds.
_CUT_SECONDS = 0.002
# So much after the run is read as well: an open that nobody asked for would be there.
_AFTER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Row:
    """What is compared of an open in the report."""

    open_id: str
    number: int
    link: str
    opened: float


@dataclass
class Verdict:
    """What the comparison says. All lists but `unrecorded` and `unknown` have to be empty."""

    sent: int = 0
    recorded: int = 0
    lost: list[str] = field(default_factory=list)
    duplicate: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)
    # Rows that say another link or another time than the visitor knows.
    wrong: list[str] = field(default_factory=list)
    # Answered without X-Open-Id although the token is somebody's: served, and only in the log.
    unrecorded: int = 0
    # Without a whole answer, by what went wrong.
    failures: Counter[str] = field(default_factory=Counter)
    # Links that work and were not served: any answer but 302.
    refused: int = 0
    p50: float = 0.0
    p99: float = 0.0
    slowest: float = 0.0

    @property
    def unknown(self) -> int:
        """How many had no whole answer: whether they were recorded they cannot say."""
        return self.failures.total()

    @property
    def unanswered(self) -> str:
        """Says how many had no answer and why."""
        reasons = ", ".join(f"{count} {error}" for error, count in self.failures.most_common())
        return f"{self.unknown} visitors had no answer: {reasons}"

    @property
    def is_true(self) -> bool:
        """Whether the report holds what was answered, once, and nothing else."""
        return not (self.lost or self.duplicate or self.invented or self.wrong) and self.recorded > 0

    def figures(self) -> dict[str, object]:
        """Returns what a line of the outcome says."""
        return {
            "sent": self.sent,
            "recorded": self.recorded,
            "lost": len(self.lost),
            "duplicate": len(self.duplicate),
            "invented": len(self.invented),
            "wrong": len(self.wrong),
            "unknown": self.unknown,
            "unrecorded": self.unrecorded,
            "refused": self.refused,
            "p50_ms": round(self.p50 * 1000, 1),
            "p99_ms": round(self.p99 * 1000, 1),
            "slowest_ms": round(self.slowest * 1000),
        }


def exported(rig: Rig, began: float, ended: float) -> list[reporting_pb2.Open]:
    """Returns every open of a stretch of time as the report shows it."""
    bounds = Timestamp(), Timestamp()
    for bound, moment in zip(bounds, (began, ended), strict=True):
        bound.FromNanoseconds(int(moment * 1e9))
    request = reporting_pb2.ExportOpensRequest(
        filter=reporting_pb2.OpenFilter(start_time=bounds[0], end_time=bounds[1])
    )
    with rig.channel("reporting") as channel:
        stub = reporting_pb2_grpc.ReportingServiceStub(channel)
        return [one for part in stub.ExportOpens(request, metadata=rig.credential, timeout=120) for one in part.opens]


def rows(rig: Rig, began: float, ended: float) -> list[Row]:
    """Returns what is compared of every open of a stretch of time."""
    found: list[Row] = []
    for row in exported(rig, began - _CUT_SECONDS, ended + _AFTER_SECONDS):
        number = row.referrer.removeprefix(REFERRER)
        found.append(
            Row(
                row.name.partition("/")[2],
                int(number) if number.isdigit() else -1,
                row.link,
                row.open_time.ToNanoseconds() / 1e9,
            )
        )
    return found


def compare(rig: Rig, requests: Sequence[Request], found: Sequence[Row]) -> Verdict:
    """Compares every request with the rows that carry its number."""
    verdict = Verdict(sent=len(requests))
    by_number: defaultdict[int, list[Row]] = defaultdict(list)
    for row in found:
        by_number[row.number].append(row)
    for request in requests:
        there = by_number.pop(request.number, [])
        token = rig.expired[request.link] if request.kind == "expired" else rig.tokens[request.link]
        told = f"request {request.number} ({request.kind}, {request.status}, {request.open_id or request.error})"
        if request.link >= 0:
            if not request.status:
                verdict.failures[request.error] += 1
            verdict.unrecorded += bool(request.status and request.status < 500 and not request.open_id)
            verdict.refused += request.kind != "expired" and request.status not in (0, 302)
        if request.open_id:
            verdict.recorded += 1
            if request.open_id not in {row.open_id for row in there}:
                verdict.lost.append(told)
        if len(there) > 1:
            verdict.duplicate.append(f"{told}: {len(there)} rows")
        # What was not answered, or answered without an id, may have got through once; a token of nobody never.
        if there and (request.link < 0 or (request.open_id and there[0].open_id != request.open_id)):
            verdict.invented.append(told)
        for row in there:
            until = request.received or time.time()
            if request.link >= 0 and row.link != rig.names[token]:
                verdict.wrong.append(f"{told}: {row.link}")
            elif not request.sent - _CUT_SECONDS <= row.opened <= until + _CUT_SECONDS:
                verdict.wrong.append(f"{told}: opened {row.opened - request.sent:+.3f} s from when it was sent")
    verdict.invented += [f"{row.open_id} of no request" for left in by_number.values() for row in left]
    answered = [request.seconds for request in requests if request.status]
    verdict.p50, verdict.p99 = percentile(answered, 0.5), percentile(answered, 0.99)
    verdict.slowest = max(answered, default=0.0)
    return verdict


def check(rig: Rig, requests: Sequence[Request], began: float, *, patience: float = 60.0) -> tuple[Verdict, float]:
    """Waits until the report has everything, at most so long; returns what it says and the seconds that it took.

    What is there twice, or of nobody, is looked for once all has arrived and a moment has passed.
    """
    started = time.monotonic()
    ended = max((request.received or request.sent for request in requests), default=began)
    wanted = {request.open_id for request in requests if request.open_id}
    while time.monotonic() - started < patience:
        with contextlib.suppress(grpc.RpcError):
            if wanted <= {row.open_id for row in rows(rig, began, ended)}:
                break
        time.sleep(0.5)
    waited = time.monotonic() - started
    # What has come twice may still be on its way.
    time.sleep(1)
    found = wait_for(lambda: (rows(rig, began, ended),), 60, "the report to be read")[0]
    return compare(rig, requests, found), waited
