"""The copy of the directory: newer wins, memory is bounded, holes are noticed, disks may fail."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg
from opennotice.link.v1 import events_pb2 as link_events_pb2
from opennotice.link.v1 import link_pb2

from services.chassis.names import new_id
from services.tracking.directory import Changes, Directory
from services.tracking.events import DirectoryFeed, Revisions
from services.tracking.link import Link, Page, Portal, Redirect, State, location_of, state_of
from services.tracking.store import directory as store
from services.tracking.store.directory import PortalWithPages

AGENCY = new_id()
PORTAL = Portal(new_id(), 1, AGENCY, True, "", True, ("hearing", "payment"), ("Hearing", "Payment"))
WITH_PAGES = PortalWithPages(PORTAL, (Page("hearing", "Hearing", "<p>1</p>"), Page("payment", "Payment", "<p>2</p>")))


def a_link(number: int = 1, revision: int = 1, **more: object) -> Link:
    """Makes a link."""
    made = Link(number.to_bytes(32), revision, UUID(int=number), PORTAL.portal_id, "", None, None, None, False)
    return replace(made, **more)  # type: ignore[arg-type]


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[Directory]:
    """Gives an empty copy that keeps ten links in memory."""
    made = Directory(tmp_path, in_memory=10)
    await made.open()
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("link", "active", "state"),
    [
        pytest.param(a_link(), True, State.ACTIVE, id="active"),
        pytest.param(a_link(expire_ms=1001), True, State.ACTIVE, id="not-yet-expired"),
        pytest.param(a_link(expire_ms=1000), True, State.EXPIRED, id="expires-this-very-millisecond"),
        pytest.param(a_link(expire_ms=1, revoked=True), False, State.REVOKED, id="revoked-comes-first"),
        pytest.param(a_link(expire_ms=1), False, State.EXPIRED, id="expired-comes-second"),
        pytest.param(a_link(), False, State.PORTAL_INACTIVE, id="portal-inactive-comes-last"),
    ],
)
def test_of_several_states_the_first_counts(link: Link, active: bool, state: State) -> None:
    assert state_of(link, replace(PORTAL, active=active), 1000) is state


@pytest.mark.parametrize(
    ("target", "location"),
    [
        pytest.param("https://a.example/x?y=1#z", b"https://a.example/x?y=1#z", id="plain"),
        pytest.param("https://a.example/é", b"https://a.example/%C3%A9", id="not-ascii"),
        pytest.param("https://a.example/\r\nX: y", None, id="line-break"),
        pytest.param("javascript:alert(1)", None, id="script"),
        pytest.param("//a.example", None, id="no-scheme"),
        pytest.param("https://a.example\\@evil.example", None, id="backslash"),
        pytest.param("", None, id="empty"),
    ],
)
def test_only_what_can_be_a_location_becomes_one(target: str, location: bytes | None) -> None:
    assert location_of(target) == location


async def test_a_newer_state_replaces_an_older_one_and_never_the_other_way(directory: Directory) -> None:
    await directory.apply(Changes(links=[a_link(revision=5, revoked=True)]))
    await directory.apply(Changes(links=[a_link(revision=4)]))
    found = await directory.find(a_link().token_hash)
    assert isinstance(found, Link)
    assert found.revoked
    await directory.apply(Changes(links=[a_link(revision=6)]))
    assert await directory.find(a_link().token_hash) == a_link(revision=6)
    assert directory.state.links == 1


async def test_what_is_read_while_it_changes_is_the_newer(directory: Directory) -> None:
    for revision in range(2, 60, 2):
        number = 1000 + revision
        await directory.apply(Changes(links=[a_link(number, revision)]))
        reading = asyncio.create_task(directory.find(a_link(number).token_hash))
        await asyncio.sleep(0)
        await directory.apply(Changes(links=[a_link(number, revision + 1, revoked=True)]))
        await reading
        assert directory.known(a_link(number).token_hash) == a_link(number, revision + 1, revoked=True)


async def test_memory_is_bounded_and_the_rest_is_found_on_disk(directory: Directory) -> None:
    await directory.apply(Changes(links=[a_link(number) for number in range(1, 101)]), watermark=100)
    assert directory.state.links == 100
    for number in range(1, 101):
        assert await directory.find(a_link(number).token_hash) == a_link(number)
    assert len(directory._known) == 10
    assert directory.known(a_link(1).token_hash) is None


async def test_everything_is_there_after_opening_it_again(directory: Directory, tmp_path: Path) -> None:
    redirect = Redirect(b"r" * 32, 2, AGENCY, new_id(), "https://a.example/", True)
    link = a_link(client_id=new_id(), message_id=new_id(), expire_ms=7, page="payment")
    await directory.apply(Changes(links=[link], redirects=[redirect], portals=[WITH_PAGES]), watermark=3)
    again = Directory(tmp_path)
    await again.open()
    assert await again.find(link.token_hash) == link
    assert await again.find(redirect.token_hash) == redirect
    assert again.portal(PORTAL.portal_id) == PORTAL
    assert await again.page(PORTAL, "payment") == WITH_PAGES.pages[1]
    assert (again.state.watermark, again.state.links) == (3, 2)
    await again.close()


async def test_pages_of_a_portal_are_replaced_as_a_whole(directory: Directory) -> None:
    await directory.apply(Changes(portals=[WITH_PAGES]))
    assert await directory.page(PORTAL, "payment")
    changed = replace(PORTAL, revision=2, slugs=("hearing",), titles=("Changed",))
    await directory.apply(Changes(portals=[PortalWithPages(changed, (Page("hearing", "Changed", "<p>3</p>"),))]))
    assert await directory.page(changed, "hearing") == Page("hearing", "Changed", "<p>3</p>")
    assert await directory.page(changed, "payment") is None
    assert changed.slug_of(a_link(page="payment"), None) == "hearing"


async def test_a_feed_that_began_anew_replaces_higher_numbers(directory: Directory) -> None:
    await directory.apply(Changes(links=[a_link(revision=90, revoked=True)]), watermark=90)
    await directory.apply(Changes(links=[a_link(revision=3)]), watermark=5, begun_anew=True)
    assert await directory.find(a_link().token_hash) == a_link(revision=3)
    assert directory.state.watermark == 5


async def test_a_copy_that_cannot_be_written_is_still_read_and_changes_live_in_memory(tmp_path: Path) -> None:
    first = Directory(tmp_path)
    await first.open()
    await first.apply(Changes(links=[a_link()], portals=[WITH_PAGES]), watermark=1)
    await first.close()
    # Where its log would be stands a folder: SQLite can neither write nor open the file the usual way.
    (tmp_path / "directory.sqlite-wal").mkdir()
    second = Directory(tmp_path)
    await second.open()
    assert await second.find(a_link().token_hash) == a_link()
    assert not await second.apply(Changes(links=[a_link(revision=2, revoked=True), a_link(7, 3)]), watermark=3)
    assert second.known(a_link().token_hash) == a_link(revision=2, revoked=True)
    assert await second.find(a_link(7).token_hash) == a_link(7, 3)
    assert (second.is_saved, second.state.watermark) == (False, 1)
    await second.close()


async def test_a_file_that_is_no_copy_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "directory.sqlite").write_bytes(os.urandom(8192))
    directory = Directory(tmp_path)
    await directory.open()
    assert await directory.apply(Changes(links=[a_link()]))
    assert len(list(tmp_path.glob("directory.sqlite.broken-*"))) == 1
    await directory.close()


async def test_a_disk_that_hangs_delays_no_revocation(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    await directory.apply(Changes(links=[a_link(number, number) for number in (1, 2, 3)]), watermark=3)
    await directory.find(a_link(2).token_hash)
    go, save = threading.Event(), store.save_entries

    def hang(*given: Any, **named: Any) -> Any:
        go.wait(10)
        return save(*given, **named)

    monkeypatch.setattr(store, "save_entries", hang)
    feed = DirectoryFeed(directory, None, None, tuple)  # type: ignore[arg-type]
    feed._reasons = feed._covered = 0
    async with asyncio.timeout(5):
        # One after the other, as the library calls back; the last one is in memory nowhere.
        for number in (1, 2, 3):
            await feed._take(changed(number, number + 3))
        for number in (1, 2, 3):
            found = await directory.find(a_link(number).token_hash)
            assert isinstance(found, Link)
            assert found.revoked
    assert feed.is_stale, "link is asked again once the disk is back"
    go.set()


async def test_a_disk_that_hangs_keeps_nobody_waiting_for_a_page(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await directory.apply(Changes(portals=[WITH_PAGES]))
    go, find, reads = threading.Event(), store.find_page, 0

    def hang(*given: Any) -> Page | None:
        nonlocal reads
        reads += 1
        go.wait(10)
        return find(*given)

    monkeypatch.setattr(store, "find_page", hang)
    async with asyncio.timeout(2):
        # Visitors of one page wait for one reading, those who gave up included: else they would fill the queue.
        assert await asyncio.gather(*(directory.page(PORTAL, "payment") for _ in range(20))) == [None] * 20
        assert await directory.page(PORTAL, "payment") is None
    go.set()
    async with asyncio.timeout(5):
        while await directory.page(PORTAL, "payment") != WITH_PAGES.pages[1]:
            await asyncio.sleep(0.01)
    assert reads == 1


def changed(number: int, revision: int) -> Msg:
    """Makes the event that ends a link."""
    link = link_pb2.Link(name=f"links/{UUID(int=number)}", portal=f"portals/{PORTAL.portal_id}")
    link.revoke_time.FromSeconds(1)
    entry = link_pb2.DirectoryEntry(revision=revision, agency_id=str(AGENCY), link=link, token_hash=number.to_bytes(32))
    event = link_events_pb2.DirectoryChanged(event_id=str(new_id()), entries=[entry])
    return Msg(_client=None, data=event.SerializeToString())  # type: ignore[arg-type]


@given(st.permutations(list(range(1, 13))))
def test_revisions_are_complete_when_the_last_hole_is_filled_in_any_order(order: list[int]) -> None:
    revisions = Revisions(0)
    for at, revision in enumerate(order):
        revisions.arrived(revision, revision, float(at + 1))
        arrived = set(order[: at + 1])
        assert revisions.complete == next(n for n in range(13) if n + 1 not in arrived)
        assert (revisions.gap_since is not None) == (max(arrived) > revisions.complete)


def test_a_confirmed_export_closes_a_hole() -> None:
    revisions = Revisions(10)
    revisions.arrived(13, 15, 1.0)
    assert (revisions.complete, revisions.gap_since) == (10, 1.0)
    revisions.confirmed(12, 2.0)
    assert (revisions.complete, revisions.gap_since) == (15, None)
