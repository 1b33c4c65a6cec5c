"""The words of the product: enums both ways, times, names, and an open as the flat row that JSON and CSV share."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from opennotice.audit.v1 import audit_pb2
from opennotice.auth.v1 import auth_pb2
from opennotice.enrichment.v1 import events_pb2 as enrichment_pb2
from opennotice.link.v1 import link_pb2
from opennotice.reporting.v1 import reporting_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_pb2


class Words:
    """One enum as lower-case words without prefix. Unspecified has no word."""

    def __init__(self, enum: Any, prefix: str) -> None:  # a generated enum is another class at run time
        self._words: dict[int, str] = {
            number: name.removeprefix(prefix).lower() for name, number in enum.items() if number != 0
        }
        self._numbers = {word: number for number, word in self._words.items()}

    @property
    def all(self) -> tuple[str, ...]:
        """Every word, in the order of the contract."""
        return tuple(self._numbers)

    def word(self, number: int) -> str | None:
        """Returns the word of a value; None for unspecified and for a value that a newer service made."""
        return self._words.get(number)

    def number(self, word: str) -> Any:  # the generated enum types are distinct ints to the type checker
        """Returns the value of a word; None for anything that is no word of this enum."""
        return self._numbers.get(word)


DEVICE = Words(enrichment_pb2.Device, "DEVICE_")
VERDICT = Words(enrichment_pb2.Verdict, "VERDICT_")
NETWORK_STATUS = Words(enrichment_pb2.NetworkStatus, "NETWORK_STATUS_")
KIND = Words(tracking_pb2.OpenKind, "OPEN_KIND_")
LINK_STATE = Words(link_pb2.LinkState, "LINK_STATE_")
PORTAL_KIND = Words(link_pb2.PortalKind, "PORTAL_KIND_")
CHANNEL = Words(link_pb2.Channel, "CHANNEL_")
DELIVERY_STATUS = Words(link_pb2.DeliveryStatus, "DELIVERY_STATUS_")
SUMMARY_KEY = Words(reporting_pb2.SummaryKey, "SUMMARY_KEY_")
ROLE = Words(auth_pb2.Role, "ROLE_")
OUTCOME = Words(audit_pb2.Outcome, "OUTCOME_")


def id_of(name: str) -> str | None:
    """Returns the bare UUID of a resource name; None for no name."""
    return name.rpartition("/")[2] or None


def moment_of(message: Any, field: str) -> datetime | None:
    """Returns a time of a message; None where it is not set."""
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(tzinfo=UTC)


def rfc3339(moment: datetime | None) -> str | None:
    """Writes a time as RFC 3339 in UTC with milliseconds."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time_text(message: Any, field: str) -> str | None:
    """Writes a time of a message; None where it is not set."""
    return rfc3339(moment_of(message, field))


def _active_seconds(found: reporting_pb2.Open) -> float | None:
    if not found.HasField("active_duration"):
        return None
    duration: Duration = found.active_duration
    return duration.ToMilliseconds() / 1000


# The contract's columns in the contract's order; a list, the CSV and the keys in JSON are all made from it.
_COLUMNS: dict[str, Callable[[reporting_pb2.Open], Any]] = {
    "open_id": lambda found: id_of(found.name),
    "opened_at": lambda found: time_text(found, "open_time"),
    "client": lambda found: found.client_display_name or None,
    "client_ref": lambda found: found.client_ref or None,
    "portal": lambda found: found.portal_display_name or None,
    "page": lambda found: found.page or None,
    "kind": lambda found: KIND.word(found.kind),
    "device": lambda found: DEVICE.word(found.device),
    "browser": lambda found: found.browser or None,
    "os": lambda found: found.os or None,
    "ip_address": lambda found: found.ip_address or None,
    "network": lambda found: found.network or None,
    "asn": lambda found: found.asn or None,
    "country": lambda found: found.country or None,
    "region": lambda found: found.region or None,
    "city": lambda found: found.city or None,
    "link_state": lambda found: LINK_STATE.word(found.link_state),
    "verdict": lambda found: VERDICT.word(found.verdict),
    "reasons": lambda found: list(found.reasons),
    "active_seconds": _active_seconds,
    "referrer": lambda found: found.referrer or None,
    "language": lambda found: found.language or None,
    "message_id": lambda found: id_of(found.message),
    "link_id": lambda found: id_of(found.link),
    "user_agent": lambda found: found.user_agent or None,
}
OPEN_COLUMNS = tuple(_COLUMNS)


def open_row(found: reporting_pb2.Open) -> dict[str, Any]:
    """Returns an open as one flat row whose keys are the columns, in order; missing is None."""
    return {column: value(found) for column, value in _COLUMNS.items()}


def open_json(found: reporting_pb2.Open) -> dict[str, Any]:
    """Returns an open as JSON shows it: the row, the two resource names, and the detail where there is one."""
    shown = open_row(found) | {"client_name": found.client or None, "portal_name": found.portal or None}
    if found.HasField("detail"):
        shown["detail"] = _detail_json(found.detail)
    return shown


def _detail_json(detail: reporting_pb2.OpenDetail) -> dict[str, Any]:
    return {
        "reasons": [{"code": reason.code, "sentence": reason.sentence} for reason in detail.reasons],
        "method": detail.method or None,
        "status": detail.status or None,
        "directory_stale": detail.directory_stale,
        "revoke_time": time_text(detail, "revoke_time"),
        "token_repaired": detail.token_repaired,
        "query": detail.query or None,
        "accept_language": detail.accept_language or None,
        "headers": [{"name": header.name, "value": header.value} for header in detail.headers],
        "network_status": NETWORK_STATUS.word(detail.network_status),
        "rule_pack": detail.rule_pack or None,
        "data_sets": list(detail.data_sets),
        "enrich_time": time_text(detail, "enrich_time"),
        "arrive_time": time_text(detail, "arrive_time"),
    }
