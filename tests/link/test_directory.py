"""The two feeds: gapless, in order, complete, and the same by event and by export."""

import asyncio
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from opennotice.link.v1 import events_pb2, link_pb2

from services.chassis.errors import InvalidArgument, NotFound
from services.link import events
from services.link.token import token_hash
from tests.cast import CHARLIE, DANA, FIRST_COURT, OTHER_COURT
from tests.link.conftest import Link, refusal

VISITORS, PEOPLE = link_pb2.FEED_VISITORS, link_pb2.FEED_PEOPLE


def id_in(entry: link_pb2.DirectoryEntry) -> str:
    return str(getattr(entry, str(entry.WhichOneof("entry"))).name)


async def test_an_export_carries_the_state_of_everything_in_order(link: Link) -> None:
    portal = await link.portal()
    made = await link.link(portal=portal.name, page="payment")
    redirect = await link.redirect(CHARLIE)
    await link.stub.RevokeLink(link_pb2.RevokeLinkRequest(name=made.name), metadata=link.by(DANA))
    entries = await link.export(VISITORS)
    assert [(entry.revision, id_in(entry)) for entry in entries] == [
        (1, portal.name),
        (3, redirect.name),
        (4, made.name),
    ]
    first, second, third = entries
    assert [page.html for page in first.portal.pages] == [
        "<p>Bring <strong>this</strong> letter.</p>\n",
        "<p>Pay before the hearing.</p>\n",
    ]
    assert not any(page.markdown for page in first.portal.pages)
    assert (first.agency_id, second.agency_id) == (str(FIRST_COURT), str(OTHER_COURT))
    assert second.token_hash == token_hash(redirect.uri.rpartition("/")[2])
    assert third.token_hash == token_hash(made.uri.rpartition("/")[2])
    assert third.link.HasField("revoke_time")
    assert not any(entry.link.uri or entry.redirect.uri for entry in entries)
    assert [entry.revision for entry in await link.export(VISITORS, after=3)] == [4]
    assert await link.export(VISITORS, after=4) == []


async def test_the_people_feed_counts_for_itself_and_carries_reports(link: Link) -> None:
    await link.portal()
    client = await link.client()
    message = await link.message(client=client.name)
    request = link_pb2.ReportDeliveryRequest(name=message.name, status=link_pb2.DELIVERY_STATUS_SENT)
    reported = await link.stub.ReportDelivery(request, metadata=link.by(DANA))
    entries = await link.export(PEOPLE)
    assert [(entry.revision, id_in(entry)) for entry in entries] == [(1, client.name), (3, message.name)]
    assert entries[0].client == client
    assert entries[1].message == reported


async def test_events_say_the_same_as_the_export(link: Link) -> None:
    portal, client = await link.portal(), await link.client()
    await link.link(portal=portal.name, client=client.name)
    request = link_pb2.UpdatePortalRequest(
        portal=link_pb2.Portal(name=portal.name, active=False), update_mask=FieldMask(paths=["active"])
    )
    await link.stub.UpdatePortal(request, metadata=link.by(DANA))
    heard = await link.heard(events_pb2.DirectoryChanged, lambda packs: len(packs) >= 3)
    newest = {id_in(entry): entry for pack in heard for entry in pack.entries}
    assert sorted(newest.values(), key=lambda entry: entry.revision) == await link.export(VISITORS)
    assert [entry.revision for pack in heard for entry in pack.entries] == [1, 2, 3]
    people = await link.heard(events_pb2.PeopleChanged, lambda packs: len(packs) >= 1)
    assert [entry for pack in people for entry in pack.entries] == await link.export(PEOPLE)


async def test_every_change_leaves_a_line_for_the_audit_log(link: Link) -> None:
    portal, client = await link.portal(), await link.client()
    made = await link.link(portal=portal.name, client=client.name)
    redirect = await link.redirect()
    await link.stub.RevokeLink(link_pb2.RevokeLinkRequest(name=made.name), metadata=link.by(DANA))
    heard = await link.heard(events_pb2.ActionTaken, lambda acts: len(acts) >= 5)
    acts = [event.action for event in heard]
    assert [(act.verb, act.target) for act in acts] == [
        ("portal.create", portal.name),
        ("client.create", client.name),
        ("link.create", made.name),
        ("redirect.create", redirect.name),
        ("link.revoke", made.name),
    ]
    assert {(act.actor, act.actor_display_name, act.source_address, act.agency_id) for act in acts} == {
        (DANA.name, DANA.display_name, "192.0.2.10", str(FIRST_COURT))
    }
    assert all(event.event_id == event.action.action_id for event in heard)


async def test_revisions_have_no_gap_and_appear_in_order_while_many_write(link: Link) -> None:
    portal = await link.portal()
    seen: list[list[int]] = []
    writing = True

    async def write(number: int) -> None:
        for _ in range(8):
            made = await link.link(portal=portal.name)
            if number % 2:
                await link.stub.RevokeLink(link_pb2.RevokeLinkRequest(name=made.name), metadata=link.by(DANA))
            # Refused after the feed may have been taken: such a try must leave no gap.
            await asyncio.gather(link.link(portal=portal.name, page="no-such"), return_exceptions=True)
            await asyncio.gather(link.client(ref="same"), link.client(ref="same"), return_exceptions=True)

    async def watch() -> None:
        newest = 0
        while writing:
            entries = await link.export(VISITORS, after=newest)
            seen.append([entry.revision for entry in entries])
            newest = max((newest, *seen[-1]))

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(write(number) for number in range(6)))
    writing = False
    await watching
    total = 1 + 6 * 8 + 3 * 8
    assert link.rows("select revision from link.feeds where feed = 'visitors'")[0]["revision"] == total
    assert link.rows("select revision from link.feeds where feed = 'people'")[0]["revision"] == 1
    heard = await link.heard(
        events_pb2.DirectoryChanged, lambda packs: sum(len(pack.entries) for pack in packs) >= total
    )
    assert sorted(entry.revision for pack in heard for entry in pack.entries) == list(range(1, total + 1))
    # Who follows the export sees revisions grow and misses no object.
    flat = [revision for part in seen for revision in part] + [
        entry.revision for entry in await link.export(VISITORS, after=max(max(part, default=0) for part in seen))
    ]
    assert flat == sorted(set(flat))
    missed = {entry.revision for entry in await link.export(VISITORS)} - set(flat)
    assert not missed


async def test_an_export_that_is_longer_than_a_slice_misses_nothing(link: Link) -> None:
    portal = await link.portal()
    requests = [link_pb2.CreateLinkRequest(link=link_pb2.Link(portal=portal.name)) for _ in range(1_300)]
    async for _ in link.stub.CreateLinks(iter(requests), metadata=link.by(DANA)):
        pass
    for number in range(3):
        await link.redirect(display_name=f"R{number}")
    request = link_pb2.UpdatePortalRequest(portal=link_pb2.Portal(name=portal.name, display_name="Moved to the end"))
    await link.stub.UpdatePortal(request, metadata=link.by(DANA))
    parts = []
    asked = link_pb2.ExportDirectoryRequest(feed=VISITORS)
    async for part in link.stub.ExportDirectory(asked, metadata=link.by("reporting")):
        parts.append(part)
    assert [part.complete for part in parts] == [False] * (len(parts) - 1) + [True]
    assert all(len(part.entries) <= 500 and part.feed_revision == 1_305 for part in parts)
    assert [entry.revision for part in parts for entry in part.entries] == list(range(2, 1_306))


async def test_large_portals_are_cut_into_several_messages(link: Link) -> None:
    page = link_pb2.Page(slug="p", title="T", markdown="a" * 20_000)
    pages = [link_pb2.Page(slug=f"p{number}", title="T", markdown=page.markdown) for number in range(9)]
    for _ in range(3):
        await link.portal(pages=pages)
    asked = link_pb2.ExportDirectoryRequest(feed=VISITORS)
    parts = [part async for part in link.stub.ExportDirectory(asked, metadata=link.by("tracking"))]
    assert sum(len(part.entries) for part in parts) == 3
    assert all(part.ByteSize() <= 256 * 1024 for part in parts)
    heard = await link.heard(events_pb2.DirectoryChanged, lambda packs: len(packs) == 3)
    assert all(pack.ByteSize() <= 256 * 1024 for pack in heard)


def test_packs_are_cut_by_number_and_by_size() -> None:
    small = [link_pb2.DirectoryEntry(revision=number) for number in range(1_001)]
    assert [len(pack) for pack in events.packs(small)] == [500, 500, 1]
    large = [link_pb2.DirectoryEntry(agency_id="x" * 100_000) for _ in range(5)]
    assert [len(pack) for pack in events.packs(large)] == [2, 2, 1]
    assert list(events.packs([])) == []


async def test_a_token_resolves_at_once_to_the_link_with_its_portal(link: Link) -> None:
    portal = await link.portal()
    made, redirect = await link.link(portal=portal.name), await link.redirect()

    async def resolve(uri: str) -> Any:
        request = link_pb2.ResolveTokenRequest(token_hash=token_hash(uri.rpartition("/")[2]))
        return await link.stub.ResolveToken(request, metadata=link.by("tracking"))

    answer = await resolve(made.uri)
    assert list(answer.entries) == (await link.export(VISITORS))[:2]
    assert [id_in(entry) for entry in answer.entries] == [portal.name, made.name]
    assert [id_in(entry) for entry in (await resolve(redirect.uri)).entries] == [redirect.name]
    error = await refusal(resolve("https://l.court.example/AAAAAAAAAAAAAAAAAAAAAA"))
    assert (type(error), error.reason) == (NotFound, "LINK_UNKNOWN")


async def test_a_wrong_question_is_refused_naming_the_field(link: Link) -> None:
    for hashed in (b"", b"x" * 31, b"x" * 33):
        request = link_pb2.ResolveTokenRequest(token_hash=hashed)
        error = await refusal(link.stub.ResolveToken(request, metadata=link.by("tracking")))
        assert (type(error), error.fields[0][0]) == (InvalidArgument, "token_hash")
    for asked, field in (
        (link_pb2.ExportDirectoryRequest(), "feed"),
        (link_pb2.ExportDirectoryRequest(feed=9), "feed"),  # type: ignore[arg-type]
        (link_pb2.ExportDirectoryRequest(feed=VISITORS, after_revision=-1), "after_revision"),
    ):
        stream = link.stub.ExportDirectory(asked, metadata=link.by("tracking"))
        error = await refusal(anext(aiter(stream)))
        assert (type(error), error.fields[0][0]) == (InvalidArgument, field)
