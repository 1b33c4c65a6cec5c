"""The copy of the agencies' lists of hosts, and targets that are ruled out and in again."""

import asyncio
from typing import Any

import pytest
from opennotice.auth.v1 import auth_pb2
from opennotice.auth.v1 import events_pb2 as auth_events_pb2
from opennotice.link.v1 import events_pb2, link_pb2

from services.chassis.bus import Bus
from services.chassis.errors import Unavailable
from services.chassis.names import new_id
from tests.cast import CHARLIE, DANA, FIRST_COURT, OTHER_COURT
from tests.link.conftest import Link, refusal
from tests.link.test_portals import EXTERNAL

VISITORS = link_pb2.FEED_VISITORS


async def say(link: Link, hosts: list[str], revision: int, name: str = f"agencies/{FIRST_COURT}") -> None:
    """Publishes what auth publishes when an agency has changed."""
    event_id = str(new_id())
    agency = auth_pb2.Agency(name=name, allowed_hosts=hosts, revision=revision)
    bus = Bus(link.nats_url, "test", ["AUTH"])
    running = asyncio.create_task(bus.run())
    await bus.connected()
    await bus.publish(auth_events_pb2.AgencyChanged(event_id=event_id, agency=agency), event_id)
    running.cancel()
    await bus.close()


async def eventually(link: Link, query: str, *values: object) -> None:
    async with asyncio.timeout(10):
        while not link.rows(query, *values):
            await asyncio.sleep(0.02)


async def active(link: Link) -> dict[str, bool]:
    """Returns what visitors get to know: which portals and redirects lead somewhere."""
    return {
        (entry.portal or entry.redirect).target_uri or entry.redirect.target_uri: (
            entry.portal.active if entry.HasField("portal") else entry.redirect.active
        )
        for entry in await link.export(VISITORS)
    }


async def test_a_host_that_is_taken_off_the_list_stops_working_and_comes_back(link: Link) -> None:
    kept, gone = "https://pay.court.example/", "https://old.court.example/"
    portal = await link.portal(**EXTERNAL | {"target_uri": gone})
    await link.portal(**EXTERNAL | {"target_uri": kept})
    await link.redirect(target_uri=gone)
    await link.redirect(CHARLIE, target_uri=gone)
    made = await link.link(portal=portal.name)
    await say(link, ["pay.court.example"], 2)
    heard = await link.heard(
        events_pb2.DirectoryChanged, lambda packs: any(entry.revision == 7 for pack in packs for entry in pack.entries)
    )
    changed = {entry.revision: entry for pack in heard for entry in pack.entries}
    assert (changed[6].portal.target_uri, changed[6].portal.active) == (gone, False)
    assert (changed[7].redirect.target_uri, changed[7].redirect.active) == (gone, False)
    assert link.rows("select revision from link.feeds where feed = 'visitors'")[0]["revision"] == 7
    # Staff see the portal as they left it, and its links as what they are for visitors now.
    shown = await link.stub.GetPortal(link_pb2.GetPortalRequest(name=portal.name), metadata=link.by(DANA))
    assert shown.active
    found = await link.stub.GetLink(link_pb2.GetLinkRequest(name=made.name), metadata=link.by(DANA))
    assert found.state == link_pb2.LINK_STATE_PORTAL_INACTIVE
    await say(link, [], 3)
    await eventually(link, "select 1 from link.agencies where revision = 3")
    assert all(
        entry.portal.active or entry.redirect.active or entry.HasField("link") for entry in await link.export(VISITORS)
    )


async def test_an_older_list_changes_nothing(link: Link) -> None:
    await link.redirect(target_uri="https://a.example/")
    await say(link, ["a.example"], 5)
    await eventually(link, "select 1 from link.agencies where revision = 5")
    await say(link, ["b.example"], 4)
    await say(link, ["b.example"], 1, f"agencies/{OTHER_COURT}")
    await eventually(link, "select 1 from link.agencies where revision = 1")
    assert link.rows("select allowed_hosts from link.agencies where agency_id = %s", FIRST_COURT) == [
        {"allowed_hosts": ["a.example"]}
    ]
    assert [entry.redirect.active for entry in await link.export(VISITORS)] == [True]


async def test_an_event_that_cannot_be_taken_in_stops_no_other(link: Link) -> None:
    await say(link, ["a.example"], 9, "agencies/nonsense")
    await say(link, ["a.example"], 2)
    await eventually(link, "select 1 from link.agencies where revision = 2")


async def test_hosts_are_compared_without_case(link: Link) -> None:
    await say(link, ["Pay.Court.Example"], 2)
    await eventually(link, "select 1 from link.agencies where revision = 2")
    assert (await link.redirect(target_uri="https://PAY.court.example/")).active


async def test_a_target_that_is_stored_while_the_list_changes_is_judged_by_the_new_list(link: Link) -> None:
    changing = [asyncio.create_task(link.redirect(target_uri=f"https://h{n}.example/")) for n in range(20)]
    await say(link, ["h3.example"], 2)
    made = await asyncio.gather(*changing, return_exceptions=True)
    await eventually(link, "select 1 from link.agencies where revision = 2")
    leading = [entry.redirect.target_uri for entry in await link.export(VISITORS) if entry.redirect.active]
    assert set(leading) <= {"https://h3.example/"}
    assert len(made) == 20


async def test_updates_and_a_changing_list_do_not_wait_for_each_other_for_ever(link: Link) -> None:
    made = [await link.redirect(target_uri=f"https://h{n}.example/") for n in range(10)]

    async def keep_changing(redirect: Any) -> None:
        for number in range(5):
            given = link_pb2.Redirect(
                name=redirect.name, target_uri=f"{redirect.target_uri}{number}", display_name=str(number)
            )
            await asyncio.gather(
                link.stub.UpdateRedirect(link_pb2.UpdateRedirectRequest(redirect=given), metadata=link.by(DANA)),
                return_exceptions=True,
            )

    await asyncio.gather(
        *(keep_changing(redirect) for redirect in made), say(link, ["h1.example"], 2), say(link, ["h2.example"], 3)
    )
    await eventually(link, "select 1 from link.agencies where revision = 3")
    rows = link.rows("select target_host, target_allowed from link.redirects")
    assert all(row["target_allowed"] == (row["target_host"] == "h2.example") for row in rows)


async def test_agencies_are_loaded_from_auth_at_start_and_followed(auth: Any, link: Link) -> None:
    await eventually(link, "select 1 from link.agencies where agency_id = %s and revision >= 1", FIRST_COURT)
    request = auth_pb2.UpdateAgencyRequest(agency=auth_pb2.Agency(allowed_hosts=["pay.court.example"]))
    await auth.UpdateAgency(request, metadata=link.by(DANA))
    await eventually(link, "select 1 from link.agencies where allowed_hosts = '{pay.court.example}'")
    assert (await refusal(link.redirect(target_uri="https://a.example"))).reason == "TARGET_NOT_ALLOWED"


async def test_an_agency_not_heard_of_is_asked_for(auth: Any, link: Link) -> None:
    await eventually(link, "select 1 from link.agencies where agency_id = %s and revision >= 1", FIRST_COURT)
    link.rows("delete from link.agencies")
    assert (await link.redirect()).active
    assert link.rows("select 1 from link.agencies where agency_id = %s", FIRST_COURT)


async def test_while_auth_is_away_a_new_agency_cannot_make_targets_and_is_told_so(link: Link) -> None:
    link.rows("delete from link.agencies")
    error = await refusal(link.redirect())
    assert isinstance(error, Unavailable)
    # What leads nowhere outside needs no list.
    assert await link.client()


@pytest.mark.parametrize("service", ["serve", "directory"])
def test_the_copy_is_written_by_the_consumers_role_only(link: Link, service: str) -> None:
    rows = link.rows("select has_table_privilege(%s, 'link.agencies', 'insert') as may", f"link_{service}")
    assert rows == [{"may": False}]
