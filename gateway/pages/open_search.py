"""The search form of the Opens page: from its address to a filter, and back to addresses with one thing changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from litestar.datastructures import MultiDict
from opennotice.reporting.v1 import reporting_pb2

from gateway import words
from gateway.pages import labels
from gateway.pages.forms import Form, read_query
from gateway.pages.times import Zone, read_day
from gateway.words import rfc3339
from services.chassis.clock import to_proto
from services.chassis.names import parse_name

SINGLE = ("client", "portal", "from", "to", "network", "ip", "link", "message")
CHOICES = {"device": words.DEVICE, "verdict": words.VERDICT, "link_state": words.LINK_STATE, "kind": words.KIND}
PAGING = ("page_token",)
# The pages before this one, so that there is a way back: a page of a list knows only the next one.
TRAIL = "before"
LONGEST_TRAIL = 30
LONGEST_TEXT = {"client": 200, "network": 200, "ip": 64}
MORE = ("verdict", "link_state", "kind", "network", "ip")

_CHIP_NAMES = {
    "client": "Client",
    "portal": "Portal",
    "from": "From",
    "to": "To",
    "network": "Network",
    "ip": "IP address",
    "link": "Link",
    "message": "Message",
    "device": "Device",
    "verdict": "Opened by",
    "link_state": "Link was",
    "kind": "Kind",
}
_CHIP_WORDS = {
    "device": labels.DEVICES,
    "verdict": labels.VERDICTS,
    "link_state": labels.LINK_STATES,
    "kind": labels.KINDS,
}
# From a field of the rpc to a field of the form.
FIELDS = {
    "start_time": "from",
    "end_time": "to",
    "client": "client",
    "portal": "portal",
    "network": "network",
    "ip": "ip",
    "link": "",
    "message": "",
}


@dataclass(frozen=True)
class Option:
    """One thing to choose."""

    value: str
    label: str


@dataclass(frozen=True)
class Chip:
    """One filter in use, and the address without it."""

    name: str
    value: str
    clear_href: str


@dataclass(frozen=True)
class Pages:
    """The ways to the neighbours of a page."""

    newer: str = ""
    older: str = ""
    newer_label: str = "Newer"
    older_label: str = "Older"


@dataclass(frozen=True)
class Search:
    """What was asked for. `filter` is only to be used when the form has no problem."""

    form: Form
    filter: reporting_pb2.OpenFilter
    start: datetime | None
    end: datetime | None

    @property
    def page_token(self) -> str:
        """Which page of the list; empty for the newest opens."""
        return self.form.value("page_token")

    @property
    def trail(self) -> list[str]:
        """The tokens of the pages before this one, newest first; the first page has an empty one."""
        return self.form.values(TRAIL)

    def pairs(self) -> list[tuple[str, str]]:
        """Returns the filters in use as they stand in an address."""
        found = [(name, self.form.value(name)) for name in SINGLE if self.form.value(name)]
        return found + [(name, word) for name in CHOICES for word in self.form.values(name) if word]

    def here(self) -> str:
        """Returns the address of this very page, without the fields that were left empty."""
        return self.href("/opens", *_paging(self.page_token, self.trail))

    def href(self, path: str = "/opens", *more: tuple[str, str]) -> str:
        """Returns an address with these filters."""
        query = urlencode([*self.pairs(), *more])
        return f"{path}?{query}" if query else path

    def api_href(self, path: str) -> str:
        """Returns an address of the API with these filters; the API knows instants, not days of an agency."""
        days = {"from": rfc3339(self.start), "to": rfc3339(self.end)}
        query = urlencode([(name, days.get(name) or value) for name, value in self.pairs()])
        return f"{path}?{query}" if query else path

    def chips(self, portals: Sequence[Option]) -> list[Chip]:
        """Returns every filter in use."""
        names = {option.value: option.label for option in portals}
        pairs = self.pairs()
        return [
            Chip(
                _CHIP_NAMES[name],
                _CHIP_WORDS.get(name, {}).get(value) or names.get(value) or _short(name, value),
                _address([pair for pair in pairs if pair != (name, value)]),
            )
            for name, value in pairs
        ]

    def pages(self, next_page_token: str) -> Pages:
        """Returns the addresses of the newer and the older page."""
        newer = ""
        if self.page_token:
            *before, last = self.trail or [""]
            newer = self.href("/opens", *_paging(last, before))
        trail = [*self.trail, self.page_token][-LONGEST_TRAIL:]
        older = self.href("/opens", *_paging(next_page_token, trail)) if next_page_token else ""
        return Pages(newer, older, "Newer opens", "Older opens")


def search_of(query: MultiDict[Any], zone: Zone) -> Search:
    """Reads the address of the Opens page; what is wrong is noted next to its field."""
    form = read_query(query, {*SINGLE, *PAGING}, {*CHOICES, TRAIL})
    wanted = reporting_pb2.OpenFilter(client=form.value("client"), network=form.value("network"), ip=form.value("ip"))
    for name, longest in LONGEST_TEXT.items():
        if len(form.value(name)) > longest:
            form.add(name, f"This must be at most {longest} characters long.")
    for name, collections in (("portal", ("portals",)), ("link", ("links", "redirects")), ("message", ("messages",))):
        value = form.value(name)
        if value and not any(parse_name(collection, value) for collection in collections):
            form.add(name, f"Choose a {name} from the list.")
        else:
            setattr(wanted, name, value)
    for name, known in CHOICES.items():
        numbers = [known.number(word) for word in form.values(name) if word]
        if None in numbers:
            form.add(f"{name}-{known.all[0]}", f"{_CHIP_NAMES[name]} must be one of: {', '.join(known.all)}.")
        else:
            getattr(wanted, f"{name}s").extend(numbers)
    start, end = _days(form, zone)
    if start:
        wanted.start_time.CopyFrom(to_proto(start) or wanted.start_time)
    if end:
        wanted.end_time.CopyFrom(to_proto(end) or wanted.end_time)
    return Search(form, wanted, start, end)


def options_of(texts: dict[str, str]) -> list[Option]:
    """Returns the words of one enum as choices."""
    return [Option(value, label) for value, label in texts.items()]


def _days(form: Form, zone: Zone) -> tuple[datetime | None, datetime | None]:
    """Reads From and To, both whole days in the agency's time zone and both included."""
    start, end = read_day(form.value("from")), read_day(form.value("to"))
    for name, day in (("from", start), ("to", end)):
        if form.value(name) and day is None:
            form.add(name, "This must be a day that exists, such as 2026-11-23.")
    if start and end and start > end:
        form.add("to", "The last day is before the first day.")
        return None, None
    return (zone.start_of(start) if start else None), (zone.end_of(end) if end else None)


def _paging(token: str, trail: Sequence[str]) -> list[tuple[str, str]]:
    if not token:
        return []
    return [("page_token", token), *((TRAIL, before) for before in trail)]


def _address(pairs: Sequence[tuple[str, str]]) -> str:
    return f"/opens?{urlencode(pairs)}" if pairs else "/opens"


def _short(name: str, value: str) -> str:
    """Shows a resource name as the end of its id, which is what tells two apart."""
    if name in ("link", "message", "portal"):
        return f"…{value[-8:]}"
    if name in ("from", "to"):
        day = read_day(value)
        return datetime(day.year, day.month, day.day, tzinfo=UTC).strftime(f"%b {day.day}, %Y") if day else value
    return value
