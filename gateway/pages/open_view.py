"""Opens as pages show them: a row of the table, and everything about one."""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlencode

from opennotice.reporting.v1 import reporting_pb2

from gateway import words
from gateway.pages import labels
from gateway.pages.labels import Label
from gateway.pages.times import Moment, Zone

SHARED_LINK = "Shared link"
NO_CLIENT = "No client"


@dataclass(frozen=True)
class OpenRow:
    """One open in a table."""

    id: str
    href: str
    client: str
    client_href: str
    client_ref: str
    portal: str
    page: str
    opened: Moment
    device: str
    browser: str
    os: str
    ip_address: str
    network: str
    labels: list[Label]


@dataclass(frozen=True)
class Fact:
    """One line about an open."""

    name: str
    value: str = ""
    href: str = ""
    note: str = ""
    moment: Moment | None = None


@dataclass(frozen=True)
class Group:
    """Facts that belong together."""

    title: str
    facts: list[Fact]


@dataclass(frozen=True)
class Header:
    """One header of the request."""

    name: str
    value: str


@dataclass(frozen=True)
class OpenPage:
    """Everything about one open."""

    title: str
    opened: Moment
    labels: list[Label]
    late_sentence: str
    what: Group
    device: Group
    network: Group
    record: Group
    verdict: Label
    verdict_sentence: str
    reasons: list[str]
    limits: tuple[str, ...]
    user_agent: str
    headers: list[Header]
    has_link: bool
    others: list[OpenRow]
    others_href: str


def rows_of(opens: Iterable[reporting_pb2.Open], zone: Zone) -> list[OpenRow]:
    """Returns opens as rows of the table."""
    return [row_of(found, zone) for found in opens]


def row_of(found: reporting_pb2.Open, zone: Zone) -> OpenRow:
    """Returns one open as a row of the table."""
    identifier = words.id_of(found.name) or ""
    return OpenRow(
        id=identifier,
        href=f"/opens/{identifier}",
        client=_client(found),
        client_href=f"/{found.client}" if found.client else "",
        client_ref=found.client_ref,
        portal=found.portal_display_name or "Not known",
        page=found.page,
        opened=zone.at(found, "open_time"),
        device=labels.DEVICES.get(words.DEVICE.word(found.device) or "", "Other"),
        browser=found.browser,
        os=found.os,
        ip_address=found.ip_address,
        network=found.network or (f"AS{found.asn}" if found.asn else ""),
        labels=labels_of(found),
    )


def labels_of(found: reporting_pb2.Open) -> list[Label]:
    """Returns the small tags of an open: late first, as that is what staff act on, then who made it."""
    tags = []
    state = labels.OPEN_STATE_LABELS.get(words.LINK_STATE.word(found.link_state) or "")
    if state:
        tags.append(state)
    tags.append(labels.VERDICT_LABELS.get(words.VERDICT.word(found.verdict) or "", labels.UNKNOWN))
    if found.kind != words.KIND.number("portal"):
        tags.append(Label(labels.KINDS.get(words.KIND.word(found.kind) or "", "Other"), "calm"))
    return tags


def opens_href(**query: str) -> str:
    """Returns the address of the Opens page with a filter."""
    return f"/opens?{urlencode(query)}"


def page_of(found: reporting_pb2.Open, others: Iterable[reporting_pb2.Open], zone: Zone, *, clients: bool) -> OpenPage:
    """Returns everything about one open; `clients` tells whether the reader may look at clients."""
    verdict = words.VERDICT.word(found.verdict) or ""
    state = _state(found)
    what = "a shared link" if found.portal else found.portal_display_name or "a redirect"
    if found.client:
        what = f"the link of {_client(found)}"
    return OpenPage(
        title=f"Open of {what}",
        opened=zone.at(found, "open_time"),
        labels=labels_of(found),
        late_sentence=labels.STATE_SENTENCES.get(state, ""),
        what=_what(found, zone, clients),
        device=_device(found),
        network=_network(found),
        record=_record(found, zone),
        verdict=labels.VERDICT_LABELS.get(verdict, labels.UNKNOWN),
        verdict_sentence=labels.VERDICT_SENTENCES.get(verdict, ""),
        reasons=[reason.sentence or reason.code for reason in found.detail.reasons],
        limits=labels.LIMITS,
        user_agent=found.user_agent,
        headers=[Header(header.name, header.value) for header in found.detail.headers],
        has_link=bool(found.link),
        others=rows_of((other for other in others if other.name != found.name), zone),
        others_href=opens_href(link=found.link),
    )


def _client(found: reporting_pb2.Open) -> str:
    if found.client:
        return found.client_display_name or "Client"
    return SHARED_LINK if found.kind != words.KIND.number("redirect") else NO_CLIENT


def _state(found: reporting_pb2.Open) -> str:
    """Returns what the link was, and that it was served though it had been revoked."""
    state = words.LINK_STATE.word(found.link_state) or ""
    return "served_though_revoked" if state == "active" and found.detail.HasField("revoke_time") else state


def _what(found: reporting_pb2.Open, zone: Zone, clients: bool) -> Group:
    client = Fact("Client", "None: the link is shared" if found.portal else "None")
    if found.client:
        client = Fact("Client", _client(found), href=f"/{found.client}" if clients else "")
    target = Fact("Portal", found.portal_display_name or "Not known", href=f"/{found.portal}" if found.portal else "")
    if not found.portal:
        target = Fact("Redirect", found.portal_display_name or "Not known", href="/redirects")
    message = Fact("Message")
    if found.message and found.client:
        message = Fact("Message", "Shown with the client", href=f"/{found.client}#messages-title" if clients else "")
    measured = found.HasField("active_duration")
    return Group(
        "What was opened",
        _filled(
            client,
            Fact("Client ID", found.client_ref),
            target,
            Fact("Page", found.page),
            Fact("Kind", labels.KINDS.get(words.KIND.word(found.kind) or "", "")),
            Fact("Opened at", moment=zone.at(found, "open_time")),
            Fact("Visible for", _seconds(found) if measured else "Not measured"),
            Fact("Link was", labels.OPENED_STATES.get(_state(found), "Not known")),
            Fact("Revoked at", moment=zone.maybe(found.detail, "revoke_time")),
            message,
        ),
    )


def _device(found: reporting_pb2.Open) -> Group:
    return Group(
        "Device",
        _filled(
            Fact("Device", labels.DEVICES.get(words.DEVICE.word(found.device) or "", "Other")),
            Fact("Browser", found.browser or "Not known"),
            Fact("OS", found.os or "Not known"),
            Fact("Language", found.language),
        ),
    )


def _network(found: reporting_pb2.Open) -> Group:
    why = {
        "not_public": "a private address belongs to no public network",
        "unavailable": "the network data are not there yet; this open is explained again when they are",
    }.get(words.NETWORK_STATUS.word(found.detail.network_status) or "", "")
    place = ", ".join(part for part in (found.city, found.region, found.country) if part)
    return Group(
        "Network and place",
        _filled(
            Fact("IP address", found.ip_address),
            Fact("Network", found.network or "Not known", note=why),
            Fact("ASN", f"AS{found.asn}" if found.asn else ""),
            Fact("Place", place or "Not known", note="approximate" if place else ""),
        ),
    )


def _record(found: reporting_pb2.Open, zone: Zone) -> Group:
    detail = found.detail
    notes = []
    if detail.token_repaired:
        notes.append(Fact("Note", "One character at the end of the address was cut off to find the link."))
    if detail.directory_stale:
        notes.append(Fact("Note", "Tracking knew that its copy of the link could be out of date."))
    return Group(
        "Record",
        _filled(
            Fact("Open ID", words.id_of(found.name) or ""),
            Fact("Link ID", words.id_of(found.link) or ""),
            Fact("Request", f"{detail.method}, answered with {detail.status}" if detail.method else ""),
            Fact("Query", detail.query),
            Fact("Came from", found.referrer),
            Fact("Accepted languages", detail.accept_language),
            Fact("Explained", moment=zone.maybe(detail, "enrich_time")),
            Fact("Searchable since", moment=zone.maybe(detail, "arrive_time")),
            Fact("Rules", detail.rule_pack),
            Fact("Data", ", ".join(detail.data_sets)),
            *notes,
        ),
    )


def _seconds(found: reporting_pb2.Open) -> str:
    seconds = round(found.active_duration.ToMilliseconds() / 1000)
    return "1 second" if seconds == 1 else f"{seconds} seconds"


def _filled(*facts: Fact) -> list[Fact]:
    return [fact for fact in facts if fact.value or fact.moment]
