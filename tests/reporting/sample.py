"""Opens, clients and portals that the tests of reporting talk about."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from opennotice.enrichment.v1 import events_pb2
from opennotice.link.v1 import link_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_pb2

from services.chassis.clock import to_proto
from services.chassis.names import new_id
from tests.cast import FIRST_COURT

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/17.5 Mobile/15E148 Safari/604.1"
)


def id_at(moment: datetime, number: int | None = None) -> UUID:
    """Makes a UUIDv7 of a given instant; with a number always the same one, in order of the numbers."""
    tail = random.getrandbits(62) if number is None else number
    milliseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return UUID(int=(milliseconds << 80) | (7 << 76) | (0b10 << 62) | tail)


def an_open(
    moment: datetime = NOON,
    *,
    number: int | None = None,
    agency_id: UUID = FIRST_COURT,
    client_id: UUID | None = None,
    portal_id: UUID | None = None,
    link_id: UUID | None = None,
    message_id: UUID | None = None,
    **more: Any,
) -> events_pb2.OpenEnriched:
    """Makes an explained open; `more` are fields of the explanation, and of the open where they begin with "open_"."""
    explained = events_pb2.OpenEnriched(
        open=tracking_pb2.OpenRecorded(
            open_id=str(id_at(moment, number)),
            open_time=to_proto(moment),
            agency_id=str(agency_id),
            kind=tracking_pb2.OPEN_KIND_PORTAL,
            link_id=str(link_id or new_id()),
            portal_id=str(portal_id) if portal_id else "",
            client_id=str(client_id) if client_id else "",
            message_id=str(message_id) if message_id else "",
            page="hearing",
            link_state=link_pb2.LINK_STATE_ACTIVE,
            method="GET",
            status=200,
            ip_address="203.0.113.7",
            user_agent=IPHONE,
            accept_language="es-MX,es;q=0.9",
            headers=[tracking_pb2.Header(name="sec-fetch-mode", value="navigate")],
        ),
        device=events_pb2.DEVICE_MOBILE,
        browser="Mobile Safari",
        browser_version="17.5",
        os="iOS",
        os_version="17.5.1",
        asn=7922,
        network="Comcast Cable Communications, LLC",
        country="US",
        region="New Jersey",
        city="Trenton",
        network_status=events_pb2.NETWORK_STATUS_FOUND,
        verdict=events_pb2.VERDICT_UNCONFIRMED,
        reasons=[events_pb2.Reason(code="no_evidence", sentence="The page gave no sign either way.")],
        language="es-MX",
        rule_pack="2026.11",
        data_sets=["dbip-city 2026-06-05"],
        enrich_time=to_proto(moment + timedelta(milliseconds=400)),
    )
    for name, value in more.items():
        if name.startswith("open_"):
            setattr(explained.open, name.removeprefix("open_"), value)
        elif name == "enrich_time":
            explained.enrich_time.FromDatetime(value)
        else:
            setattr(explained, name, value)
    return explained


def a_pack(opens: Sequence[events_pb2.OpenEnriched]) -> events_pb2.OpensEnriched:
    """Makes a pack as enrichment publishes it."""
    return events_pb2.OpensEnriched(batch_id=str(new_id()), opens=opens)


def entry(revision: int, *, agency_id: UUID = FIRST_COURT, **thing: Any) -> link_pb2.DirectoryEntry:
    """Makes an entry of a directory: `client=…`, `portal=…` and so on."""
    return link_pb2.DirectoryEntry(revision=revision, agency_id=str(agency_id), **thing)


def a_client(client_id: UUID, display_name: str, *, ref: str = "", officer: str = "") -> link_pb2.Client:
    """Makes a client."""
    return link_pb2.Client(name=f"clients/{client_id}", display_name=display_name, ref=ref, officer=officer)


def a_portal(portal_id: UUID, display_name: str) -> link_pb2.Portal:
    """Makes a portal."""
    return link_pb2.Portal(name=f"portals/{portal_id}", display_name=display_name)


def a_message(message_id: UUID, client_id: UUID, **more: Any) -> link_pb2.Message:
    """Makes a message, sent at noon."""
    values: dict[str, Any] = {"send_time": to_proto(NOON), "channel": link_pb2.CHANNEL_SMS} | more
    return link_pb2.Message(name=f"messages/{message_id}", client=f"clients/{client_id}", **values)


def many_opens(count: int, **more: Any) -> list[events_pb2.OpenEnriched]:
    """Makes opens that differ in nothing but their id and time: a second apart, the first at noon, going back."""
    pattern, found = an_open(**more), []
    for number in range(count):
        moment = NOON - timedelta(seconds=number)
        item = events_pb2.OpenEnriched()
        item.CopyFrom(pattern)
        item.open.open_id = str(id_at(moment, number))
        item.open.open_time.FromDatetime(moment)
        found.append(item)
    return found
