"""Query strings: the declared parameters and no others, each once unless it may repeat; every fault told together."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp
from litestar import Request
from opennotice.reporting.v1 import reporting_pb2

from gateway.words import DEVICE, KIND, LINK_STATE, VERDICT, Words
from services.chassis.clock import to_proto
from services.chassis.errors import Faults, invalid

MOST_PARAMETERS = 200
LARGEST_INT32 = 2**31 - 1


@dataclass(frozen=True)
class Param:
    """One parameter, as it is read and as it is described."""

    name: str
    description: str
    example: str = ""
    words: tuple[str, ...] = ()
    repeatable: bool = False
    whole: bool = False
    required: bool = False


PAGING = (
    Param("page_size", "How many at most. Default 50; above 200 is 200.", "50", whole=True),
    Param("page_token", "`next_page_token` of the answer before, with the same filter."),
)
OPEN_FILTER = (
    Param("client", "Part of the client's name in any case, or the exact `ref`, or `clients/{id}`.", "Rivera"),
    Param("portal", "`portals/{id}`."),
    Param("device", "Kind of device; may be repeated.", words=DEVICE.all, repeatable=True),
    Param("kind", "What was opened; may be repeated.", words=KIND.all, repeatable=True),
    Param("link_state", "What the link was at that instant; may be repeated.", words=LINK_STATE.all, repeatable=True),
    Param("verdict", "Who made the open; may be repeated.", words=VERDICT.all, repeatable=True),
    Param("network", "Part of the network's name in any case, or `AS` with its number.", "AS7018"),
    Param("ip", "An address, or a range in CIDR form.", "203.0.113.0/24"),
    Param("from", "At or after: RFC 3339, or a date, which begins at midnight UTC.", "2026-11-01T00:00:00Z"),
    Param("to", "Before: RFC 3339; or a date, which is included to its end in UTC.", "2026-12-01T00:00:00Z"),
    Param("link", "`links/{id}` or `redirects/{id}`."),
    Param("message", "`messages/{id}`."),
)


class Query:
    """What was asked for."""

    def __init__(self, values: dict[str, list[str]]) -> None:
        self._values = values
        self.faults = Faults()

    def text(self, name: str) -> str:
        """Returns one value; empty when it was not sent."""
        found = self._values.get(name)
        return found[0] if found else ""

    def numbers(self, name: str, words: Words) -> list[Any]:
        """Returns the values of the words that were sent."""
        found = []
        for word in self._values.get(name, []):
            number = words.number(word)
            if number is None:
                self.faults.add(name, f"must be one of {', '.join(words.all)}")
            else:
                found.append(number)
        return found

    def page_size(self) -> int:
        """Returns the size asked for as the services take it; they lower it and refuse a negative one."""
        text = self.text("page_size")
        if not text:
            return 0
        if not re.fullmatch(r"-?[0-9]{1,40}", text, re.ASCII):
            self.faults.add("page_size", "must be a whole number")
            return 0
        if int(text) < 0:
            self.faults.add("page_size", "must not be negative")
            return 0
        return min(int(text), LARGEST_INT32)

    def moment(self, name: str, *, end_of_day: bool = False) -> Timestamp | None:
        """Returns a time; a date stands for its first instant, or the first one after it."""
        text = self.text(name)
        if not text:
            return None
        try:
            if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text, re.ASCII):
                day = date.fromisoformat(text) + timedelta(days=1 if end_of_day else 0)
                found = datetime(day.year, day.month, day.day, tzinfo=UTC)
            else:
                found = msgspec.convert(text, datetime)
                if found.tzinfo is None:
                    raise ValueError
            return to_proto(found.astimezone(UTC))
        except (ValueError, OverflowError, msgspec.ValidationError):
            self.faults.add(name, "must be a time like 2026-11-23T09:30:00Z, or a date like 2026-11-23")
            return None

    def stop(self) -> None:
        """Raises when anything was wrong."""
        self.faults.stop()


def read_query(request: Request[Any, Any, Any], params: Sequence[Param]) -> Query:
    """Reads a query string; what is not declared, or is sent twice and may not be, is an error naming it."""
    try:
        pairs = parse_qsl(
            request.scope["query_string"].decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MOST_PARAMETERS,
        )
    except ValueError:
        raise invalid("query", f"must be UTF-8 with at most {MOST_PARAMETERS} parameters") from None
    known = {param.name: param for param in params}
    values: dict[str, list[str]] = {}
    query = Query(values)
    for name, value in pairs:
        param = known.get(name)
        if param is None:
            query.faults.add(name[:100], "is not a parameter of this request")
        elif name in values and not param.repeatable:
            query.faults.add(name, "must be sent once")
        elif "\0" in value:
            query.faults.add(name, "must not contain NUL")
        elif value or param.words:
            values.setdefault(name, []).append(value)
    for param in params:
        if param.required and param.name not in values:
            query.faults.add(param.name, "is required")
    return query


def no_query(request: Request[Any, Any, Any]) -> None:
    """Refuses every parameter, for requests that have none."""
    read_query(request, ()).stop()


def open_filter(query: Query) -> reporting_pb2.OpenFilter:
    """Returns the filter of opens; its faults stay with the query until it is told to stop."""
    return reporting_pb2.OpenFilter(
        client=query.text("client"),
        portal=query.text("portal"),
        devices=query.numbers("device", DEVICE),
        kinds=query.numbers("kind", KIND),
        link_states=query.numbers("link_state", LINK_STATE),
        verdicts=query.numbers("verdict", VERDICT),
        network=query.text("network"),
        ip=query.text("ip"),
        start_time=query.moment("from"),
        end_time=query.moment("to", end_of_day=True),
        link=query.text("link"),
        message=query.text("message"),
    )
