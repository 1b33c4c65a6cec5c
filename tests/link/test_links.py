"""Links one by one: made, shown, listed, ended, extended, revealed."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from opennotice.link.v1 import events_pb2, link_pb2

from services.chassis.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from services.chassis.names import new_id
from services.link.token import token_hash
from tests.cast import ALICE, BOB, DANA
from tests.link.conftest import PUBLIC_URL, Link, refusal


def at(**delta: float) -> Timestamp:
    """Returns a time that far from now, in whole milliseconds."""
    stamp = Timestamp()
    moment = datetime.now(UTC) + timedelta(**delta)
    stamp.FromDatetime(moment.replace(microsecond=0))
    return stamp


def token_in(uri: str) -> str:
    return uri.rpartition("/")[2]


async def test_a_link_is_answered_with_its_address_once(link: Link) -> None:
    portal, client = await link.portal(), await link.client()
    made = await link.link(portal=portal.name, client=client.name, page="payment", expire_time=at(days=3))
    assert made.uri.startswith(f"{PUBLIC_URL}/")
    assert len(token_in(made.uri)) == 22
    assert made.state == link_pb2.LINK_STATE_ACTIVE
    shown = await link.stub.GetLink(link_pb2.GetLinkRequest(name=made.name), metadata=link.by(DANA))
    assert shown.uri == ""
    made.uri = ""
    assert shown == made


async def test_the_token_is_nowhere_in_the_database(link: Link) -> None:
    made = await link.link(portal=(await link.portal()).name)
    token = token_in(made.uri)
    tables = [row["t"] for row in link.rows("select tablename as t from pg_tables where schemaname = 'link'")]
    for table in tables:
        assert not link.rows(f"select 1 from link.{table} as row where row::text like %s", f"%{token}%"), table
    assert link.rows("select token_hash from link.links")[0]["token_hash"] == token_hash(token)


async def test_a_revealed_link_shows_the_same_address_and_the_audit_log_hears_of_it(link: Link) -> None:
    made = await link.link(portal=(await link.portal()).name)
    shown = await link.stub.RevealLink(link_pb2.RevealLinkRequest(name=made.name), metadata=link.by(DANA))
    assert shown.uri == made.uri
    heard = await link.heard(events_pb2.ActionTaken, lambda acts: any(a.action.verb == "link.reveal" for a in acts))
    act = next(event.action for event in heard if event.action.verb == "link.reveal")
    assert (act.target, act.actor, act.source_address) == (made.name, DANA.name, "192.0.2.10")


async def test_an_auditor_may_not_reveal(link: Link) -> None:
    made = await link.link(portal=(await link.portal()).name)
    error = await refusal(link.stub.RevealLink(link_pb2.RevealLinkRequest(name=made.name), metadata=link.by(BOB)))
    assert isinstance(error, PermissionDenied)


async def test_revoking_ends_a_link_for_good_and_can_be_repeated(link: Link) -> None:
    made = await link.link(portal=(await link.portal()).name)
    request = link_pb2.RevokeLinkRequest(name=made.name)
    first = await link.stub.RevokeLink(request, metadata=link.by(DANA))
    second = await link.stub.RevokeLink(request, metadata=link.by(DANA))
    assert first.state == link_pb2.LINK_STATE_REVOKED
    assert second == first
    error = await refusal(
        link.stub.ExtendLink(link_pb2.ExtendLinkRequest(name=made.name, expire_time=at(days=1)), metadata=link.by(DANA))
    )
    assert (type(error), error.reason) == (FailedPrecondition, "LINK_REVOKED")


async def test_extending_sets_and_removes_the_expiry(link: Link) -> None:
    made = await link.link(portal=(await link.portal()).name, expire_time=at(days=1))
    later = at(days=30)
    extended = await link.stub.ExtendLink(
        link_pb2.ExtendLinkRequest(name=made.name, expire_time=later), metadata=link.by(DANA)
    )
    assert extended.expire_time == later
    assert extended.revision > made.revision
    endless = await link.stub.ExtendLink(link_pb2.ExtendLinkRequest(name=made.name), metadata=link.by(DANA))
    assert not endless.HasField("expire_time")
    error = await refusal(
        link.stub.ExtendLink(
            link_pb2.ExtendLinkRequest(name=made.name, expire_time=at(hours=-1)), metadata=link.by(DANA)
        )
    )
    assert (type(error), error.reason) == (InvalidArgument, "EXPIRE_TIME_PAST")


async def test_an_expired_link_can_be_extended_and_works_again(link: Link) -> None:
    made = await link.link(portal=(await link.portal()).name, expire_time=at(days=1))
    link.rows("update link.links set expire_time = now() - interval '1 day'")
    shown = await link.stub.GetLink(link_pb2.GetLinkRequest(name=made.name), metadata=link.by(DANA))
    assert shown.state == link_pb2.LINK_STATE_EXPIRED
    again = await link.stub.ExtendLink(
        link_pb2.ExtendLinkRequest(name=made.name, expire_time=at(days=1)), metadata=link.by(DANA)
    )
    assert again.state == link_pb2.LINK_STATE_ACTIVE


@pytest.mark.parametrize(
    ("fields", "error_type", "reason", "field"),
    [
        pytest.param(lambda _: {"portal": ""}, InvalidArgument, "FIELDS_INVALID", "link.portal", id="no portal"),
        pytest.param(
            lambda _: {"portal": f"portals/{new_id()}"}, NotFound, "PORTAL_UNKNOWN", "link.portal", id="unknown portal"
        ),
        pytest.param(
            lambda _: {"portal": "9223372036854775808"}, NotFound, "PORTAL_UNKNOWN", "link.portal", id="A07-2^63"
        ),
        pytest.param(
            lambda p: {"portal": p.name.upper()}, NotFound, "PORTAL_UNKNOWN", "link.portal", id="A07-other-spelling"
        ),
        pytest.param(lambda p: {"page": "no-such"}, NotFound, "PAGE_UNKNOWN", "link.page", id="unknown page"),
        pytest.param(lambda p: {"page": "a\0b"}, NotFound, "PAGE_UNKNOWN", "link.page", id="A02-NUL-in-page"),
        pytest.param(lambda p: {"client": "clients/-1"}, NotFound, "CLIENT_UNKNOWN", "link.client", id="A07-negative"),
        pytest.param(
            lambda p: {"message": f"messages/{new_id()}"},
            NotFound,
            "MESSAGE_UNKNOWN",
            "link.message",
            id="unknown message",
        ),
        pytest.param(
            lambda p: {"expire_time": at(seconds=-5)},
            InvalidArgument,
            "EXPIRE_TIME_PAST",
            "link.expire_time",
            id="past",
        ),
        pytest.param(
            lambda p: {"expire_time": Timestamp(seconds=1 << 60)},
            InvalidArgument,
            "FIELDS_INVALID",
            "link.expire_time",
            id="G10-time-out-of-range",
        ),
        pytest.param(
            lambda p: {"expire_time": Timestamp(seconds=1, nanos=-1)},
            InvalidArgument,
            "FIELDS_INVALID",
            "link.expire_time",
            id="G10-negative-nanos",
        ),
    ],
)
async def test_a_wrong_link_is_refused_naming_the_field(
    link: Link, fields: Callable[[Any], dict[str, Any]], error_type: type, reason: str, field: str
) -> None:
    portal = await link.portal()
    error = await refusal(link.link(**({"portal": portal.name} | fields(portal))))
    assert (type(error), error.reason, error.fields[0][0]) == (error_type, reason, field)
    assert not link.rows("select 1 from link.links")


async def test_all_faults_of_a_request_are_named_together(link: Link) -> None:
    error = await refusal(link.link(portal="", expire_time=Timestamp(seconds=-1), request_id="not-a-uuid"))
    assert {name for name, _ in error.fields} == {"link.portal", "link.expire_time", "request_id"}


async def test_a_message_must_be_to_the_client_of_the_link(link: Link) -> None:
    portal, one, other = await link.portal(), await link.client(), await link.client(display_name="Other")
    message = await link.message(client=one.name)
    wrong: list[dict[str, Any]] = [{"client": other.name}, {}]
    for fields in wrong:
        error = await refusal(link.link(portal=portal.name, message=message.name, **fields))
        assert (type(error), error.reason) == (InvalidArgument, "MESSAGE_OF_OTHER_CLIENT")
    assert (await link.link(portal=portal.name, client=one.name, message=message.name)).message == message.name


async def test_links_are_listed_newest_first_page_by_page(link: Link) -> None:
    portal, client = await link.portal(), await link.client()
    other = await link.portal(display_name="Other")
    names = [(await link.link(portal=portal.name, client=client.name)).name for _ in range(5)]
    await link.link(portal=other.name)
    request = link_pb2.ListLinksRequest(portal=portal.name, client=client.name, page_size=2)
    found: list[str] = []
    while True:
        page = await link.stub.ListLinks(request, metadata=link.by(DANA))
        assert all(not shown.uri for shown in page.links)
        found += [shown.name for shown in page.links]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == names[::-1]


@pytest.mark.parametrize(
    ("page_size", "count"),
    [
        pytest.param(0, 50, id="G09-0"),
        pytest.param(2**31 - 1, 200, id="G09-largest"),
        pytest.param(7, 7, id="as asked"),
    ],
)
async def test_a_page_has_the_size_that_the_contract_says(link: Link, page_size: int, count: int) -> None:
    portal = await link.portal()
    requests = [link_pb2.CreateLinkRequest(link=link_pb2.Link(portal=portal.name)) for _ in range(205)]
    async for _ in link.stub.CreateLinks(iter(requests), metadata=link.by(DANA)):
        pass
    page = await link.stub.ListLinks(link_pb2.ListLinksRequest(page_size=page_size), metadata=link.by(DANA))
    assert len(page.links) == count


async def test_a_page_token_works_for_its_own_query_only(link: Link) -> None:
    portal = await link.portal()
    for _ in range(3):
        await link.link(portal=portal.name)
    first = await link.stub.ListLinks(link_pb2.ListLinksRequest(page_size=1), metadata=link.by(DANA))
    token = first.next_page_token
    for case, request in {
        "G09-other-query": link_pb2.ListLinksRequest(portal=portal.name, page_token=token),
        "G09-altered": link_pb2.ListLinksRequest(page_token=token[:-3] + "AAA"),
        "A05-forged": link_pb2.ListLinksRequest(page_token="1"),
    }.items():
        error = await refusal(link.stub.ListLinks(request, metadata=link.by(DANA)))
        assert (type(error), error.reason) == (InvalidArgument, "PAGE_TOKEN_INVALID"), case
    error = await refusal(link.stub.ListLinks(link_pb2.ListLinksRequest(page_size=-1), metadata=link.by(DANA)))
    assert error.fields[0][0] == "page_size"
    # The size of the next page may differ; that changes no row of the query.
    rest = await link.stub.ListLinks(link_pb2.ListLinksRequest(page_size=9, page_token=token), metadata=link.by(DANA))
    assert len(rest.links) == 2


async def test_the_same_request_id_with_other_content_is_refused(link: Link) -> None:
    portal, request_id = await link.portal(), str(new_id())
    first = await link.link(portal=portal.name, request_id=request_id)
    assert (await link.link(portal=portal.name, request_id=request_id)) == first
    error = await refusal(link.link(portal=portal.name, page="payment", request_id=request_id))
    assert (type(error), error.reason) == (AlreadyExists, "REQUEST_ID_REUSED")


async def test_an_expired_result_is_still_the_result_of_its_request(link: Link) -> None:
    portal, request_id, soon = await link.portal(), str(new_id()), at(seconds=2)
    first = await link.link(portal=portal.name, expire_time=soon, request_id=request_id)
    # The expiry passes: a retry after an outage must still get the address.
    await asyncio.sleep((soon.ToDatetime(tzinfo=UTC) - datetime.now(UTC)).total_seconds() + 0.01)
    again = await link.link(portal=portal.name, expire_time=soon, request_id=request_id)
    assert (again.name, again.uri, again.state) == (first.name, first.uri, link_pb2.LINK_STATE_EXPIRED)


async def test_a_clerk_makes_links_for_own_clients_only(link: Link) -> None:
    portal, foreign = await link.portal(), await link.client()
    own = await link.client(ALICE)
    assert (await link.link(ALICE, portal=portal.name, client=own.name)).client == own.name
    error = await refusal(link.link(ALICE, portal=portal.name, client=foreign.name))
    assert (type(error), error.reason) == (NotFound, "CLIENT_UNKNOWN")
    error = await refusal(link.link(ALICE, portal=portal.name))
    assert (type(error), error.reason) == (PermissionDenied, "SHARED_LINK_REFUSED")


async def test_a_link_whose_key_is_gone_cannot_be_revealed_with_a_wrong_address(link: Link) -> None:
    made = await link.link(portal=(await link.portal()).name)
    request = link_pb2.RevealLinkRequest(name=made.name)
    for change in ("key_version = 9", "key_version = 1, token_hash = sha256('another key')"):
        link.rows(f"update link.links set {change}")
        error = await refusal(link.stub.RevealLink(request, metadata=link.by(DANA)))
        assert (type(error), error.reason) == (FailedPrecondition, "TOKEN_KEY_LOST")


async def test_what_only_the_service_decides_is_ignored_when_it_is_sent(link: Link) -> None:
    """Bad-input row A09."""
    portal = await link.portal(name=f"portals/{new_id()}", revision=99, create_time=at(days=-9))
    assert portal.revision == 1
    assert portal.create_time.seconds > at(minutes=-5).seconds
    other = str(new_id())
    made = await link.link(
        portal=portal.name,
        name=f"links/{other}",
        uri="https://evil.example/AAAAAAAAAAAAAAAAAAAAAA",
        revoke_time=at(days=-1),
        state=link_pb2.LINK_STATE_REVOKED,
        revision=7,
    )
    assert other not in made.name
    assert made.uri.startswith(PUBLIC_URL)
    assert (made.state, made.revision) == (link_pb2.LINK_STATE_ACTIVE, 2)
    assert not made.HasField("revoke_time")
