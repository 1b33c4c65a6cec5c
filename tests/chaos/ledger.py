"""What was asked and what was answered: a line a request, kept by the side that asks. The report is held against it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_FIELDS = 9


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a visitor. Times are seconds since 1970; received is 0 when no whole answer came."""

    number: int
    kind: str
    # Place of its link in the list of links; -1 for a token that nobody made.
    link: int
    planned: float
    sent: float
    received: float
    # 0 when no whole answer came.
    status: int
    open_id: str
    # What went wrong when no whole answer came.
    error: str

    @property
    def seconds(self) -> float:
        """How long the visitor waited, from the moment they were due: a server that stalls cannot hide."""
        return self.received - self.planned

    def line(self) -> str:
        """Returns the request as its line in the ledger."""
        times = f"{self.planned:.6f}\t{self.sent:.6f}\t{self.received:.6f}"
        said = f"{self.status}\t{self.open_id or '-'}\t{self.error or '-'}"
        return f"{self.number}\t{self.kind}\t{self.link}\t{times}\t{said}\n"


def read(path: Path) -> list[Request]:
    """Reads a ledger; a last line that was cut off is not a request."""
    found = []
    with path.open() as file:
        for line in file:
            parts = line.rstrip("\n").split("\t")
            if len(parts) != _FIELDS or not line.endswith("\n"):
                continue
            number, kind, link, planned, sent, received, status, open_id, error = parts
            found.append(
                Request(
                    int(number),
                    kind,
                    int(link),
                    float(planned),
                    float(sent),
                    float(received),
                    int(status),
                    "" if open_id == "-" else open_id,
                    "" if error == "-" else error,
                )
            )
    return found


def percentile(values: Iterable[float], share: float) -> float:
    """Returns the value below which a share (0 to 1) of all lies; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0
