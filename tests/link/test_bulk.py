"""Ten thousand links in one call, and the same request made twice."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from opennotice.link.v1 import events_pb2, link_pb2

from services.chassis.errors import AlreadyExists, PermissionDenied, ResourceExhausted, ServiceError, from_rpc_error
from services.chassis.names import new_id
from tests import cast
from tests.cast import ALICE, BOB, CHARLIE, DANA
from tests.link.conftest import Link, refusal


def asks(portal: str, count: int, **fields: Any) -> list[link_pb2.CreateLinkRequest]:
    return [
        link_pb2.CreateLinkRequest(link=link_pb2.Link(portal=portal, **fields), request_id=str(new_id()))
        for _ in range(count)
    ]


async def create(
    link: Link, requests: Iterable[link_pb2.CreateLinkRequest], who: cast.Person = DANA
) -> list[link_pb2.CreateLinkResult]:
    found: list[link_pb2.CreateLinkResult] = []
    async for part in link.stub.CreateLinks(iter(requests), metadata=link.by(who)):
        assert len(part.results) <= 500
        found += part.results
    return found


async def test_ten_thousand_links_are_made_in_one_call_and_leave_in_packs(link: Link) -> None:
    portal, client = await link.portal(), await link.client()
    results = await create(link, asks(portal.name, 10_000, client=client.name))
    assert [result.index for result in results] == list(range(10_000))
    assert all(result.WhichOneof("result") == "link" for result in results)
    assert len({result.link.uri for result in results}) == 10_000
    assert link.rows("select count(*) from link.links")[0]["count"] == 10_000
    heard = await link.heard(
        events_pb2.DirectoryChanged, lambda packs: sum(len(pack.entries) for pack in packs) >= 10_001
    )
    assert all(len(pack.entries) <= 500 and pack.ByteSize() <= 256 * 1024 for pack in heard)
    revisions = sorted(entry.revision for pack in heard for entry in pack.entries)
    assert revisions == list(range(1, 10_002))


async def test_the_10001st_link_ends_the_call_and_the_groups_before_it_stay(link: Link) -> None:
    portal = await link.portal()
    answered = 0
    with pytest.raises(Exception) as caught:
        async for part in link.stub.CreateLinks(iter(asks(portal.name, 10_001)), metadata=link.by(DANA)):
            answered += len(part.results)
    error = from_rpc_error(caught.value)  # type: ignore[arg-type]
    assert (type(error), error.reason) == (ResourceExhausted, "TOO_MANY_LINKS")
    assert answered == 10_000


async def test_a_refused_link_is_an_error_in_its_place(link: Link) -> None:
    portal, client, other = await link.portal(), await link.client(), await link.client(display_name="Other")
    message = await link.message(client=client.name)
    requests = asks(portal.name, 8)
    requests[1].link.portal = f"portals/{new_id()}"
    requests[2].link.page = "no-such"
    requests[3].link.portal = ""
    requests[4].link.client, requests[4].link.message = other.name, message.name
    requests[5].request_id = requests[0].request_id
    requests[6].request_id, requests[6].link.page = requests[0].request_id, "payment"
    results = await create(link, requests)
    assert [result.error.reason for result in results] == [
        "", "PORTAL_UNKNOWN", "PAGE_UNKNOWN", "FIELDS_INVALID", "MESSAGE_OF_OTHER_CLIENT", "", "REQUEST_ID_REUSED", "",
    ]  # fmt: skip
    assert [result.error.field for result in results] == [
        "", "link.portal", "link.page", "link.portal", "link.message", "", "request_id", "",
    ]  # fmt: skip
    assert results[5].link == results[0].link
    assert link.rows("select count(*) from link.links")[0]["count"] == 2


async def test_a_call_that_is_repeated_creates_each_link_once(link: Link) -> None:
    requests = asks((await link.portal()).name, 700)
    stream = link.stub.CreateLinks(iter(requests), metadata=link.by(DANA))
    first = (await anext(aiter(stream))).results
    stream.cancel()
    results = await create(link, requests)
    assert [result.link.uri for result in results[: len(first)]] == [result.link.uri for result in first]
    assert link.rows("select count(*) from link.links")[0]["count"] == 700


async def test_a_caller_that_waits_for_answers_gets_them(link: Link) -> None:
    portal, answers = await link.portal(), asyncio.Queue[link_pb2.Link]()

    async def one_by_one() -> AsyncIterator[link_pb2.CreateLinkRequest]:
        for request in asks(portal.name, 3):
            yield request
            await answers.get()

    count = 0
    async for part in link.stub.CreateLinks(one_by_one(), metadata=link.by(DANA)):
        for result in part.results:
            answers.put_nowait(result.link)
            count += 1
    assert count == 3


async def test_an_empty_call_is_answered_with_nothing(link: Link) -> None:
    assert await create(link, []) == []


async def test_bulk_creation_keeps_to_roles_and_agencies(link: Link) -> None:
    portal, foreign = await link.portal(), await link.client()
    own = await link.client(ALICE)
    with pytest.raises(Exception) as caught:
        await create(link, asks(portal.name, 1), BOB)
    assert isinstance(from_rpc_error(caught.value), PermissionDenied)  # type: ignore[arg-type]
    reasons = [
        result.error.reason
        for result in await create(
            link,
            asks(portal.name, 1, client=own.name) + asks(portal.name, 1, client=foreign.name) + asks(portal.name, 1),
            ALICE,
        )
    ]
    assert reasons == ["", "CLIENT_UNKNOWN", "SHARED_LINK_REFUSED"]
    results = await create(link, asks(portal.name, 1), CHARLIE)
    assert results[0].error.reason == "PORTAL_UNKNOWN"


async def test_parallel_bulk_calls_with_the_same_ids_in_another_order_create_each_once(link: Link) -> None:
    requests = asks((await link.portal()).name, 900)
    one, other = await asyncio.gather(create(link, requests), create(link, requests[::-1]))
    assert [result.link.uri for result in one] == [result.link.uri for result in other[::-1]]
    assert len({result.link.uri for result in one}) == 900
    assert link.rows("select count(*) from link.links")[0]["count"] == 900


CREATES = {
    "portal": lambda link, name, rid: link.stub.CreatePortal(
        link_pb2.CreatePortalRequest(
            portal=link_pb2.Portal(
                display_name=name,
                kind=link_pb2.PORTAL_KIND_HOSTED,
                pages=[link_pb2.Page(slug="a", title="A", markdown="a")],
            ),
            request_id=rid,
        ),
        metadata=link.by(DANA),
    ),
    "client": lambda link, name, rid: link.stub.CreateClient(
        link_pb2.CreateClientRequest(client=link_pb2.Client(display_name=name, ref="R-1"), request_id=rid),
        metadata=link.by(DANA),
    ),
    "campaign": lambda link, name, rid: link.stub.CreateCampaign(
        link_pb2.CreateCampaignRequest(campaign=link_pb2.Campaign(display_name=name), request_id=rid),
        metadata=link.by(DANA),
    ),
    "redirect": lambda link, name, rid: link.stub.CreateRedirect(
        link_pb2.CreateRedirectRequest(
            redirect=link_pb2.Redirect(display_name=name, target_uri="https://a.example/"), request_id=rid
        ),
        metadata=link.by(DANA),
    ),
}


@pytest.mark.parametrize("kind", list(CREATES))
async def test_the_same_request_at_once_creates_once(link: Link, kind: str) -> None:
    """Bad-input row G13."""
    request_id = str(new_id())
    made = await asyncio.gather(*(CREATES[kind](link, "One", request_id) for _ in range(6)))
    assert all(result == made[0] for result in made)
    assert link.rows(f"select count(*) from link.{kind}s")[0]["count"] == 1
    assert await CREATES[kind](link, "One", request_id.upper()) == made[0]
    error = await refusal(CREATES[kind](link, "Other", request_id))
    assert (type(error), error.reason) == (AlreadyExists, "REQUEST_ID_REUSED")


async def test_a_parallel_race_of_two_contents_has_one_winner(link: Link) -> None:
    async def outcome(name: str) -> str:
        try:
            return str((await CREATES["campaign"](link, name, request_id)).display_name)
        except Exception as error:
            return from_rpc_error(error).reason  # type: ignore[arg-type]

    for _ in range(5):
        request_id = str(new_id())
        assert sorted(await asyncio.gather(outcome("A"), outcome("B")))[1] == "REQUEST_ID_REUSED"


async def test_one_id_stands_for_one_thing_of_any_kind(link: Link) -> None:
    request_id = str(new_id())
    await CREATES["campaign"](link, "One", request_id)
    assert (await refusal(CREATES["client"](link, "One", request_id))).reason == "REQUEST_ID_REUSED"


async def test_a_failed_request_does_not_use_up_its_id(link: Link) -> None:
    client, request_id = await link.client(), str(new_id())
    unknown = link_pb2.Message(client=f"clients/{new_id()}", channel=link_pb2.CHANNEL_SMS)
    request = link_pb2.CreateMessageRequest(message=unknown, request_id=request_id)
    assert (await refusal(link.stub.CreateMessage(request, metadata=link.by(DANA)))).reason == "CLIENT_UNKNOWN"
    request.message.client = client.name
    made = await link.stub.CreateMessage(request, metadata=link.by(DANA))
    assert await link.stub.CreateMessage(request, metadata=link.by(DANA)) == made


async def test_agencies_do_not_share_request_ids(link: Link) -> None:
    request_id = str(new_id())
    made = await link.link(portal=(await link.portal()).name, request_id=request_id)
    other = await link.link(CHARLIE, portal=(await link.portal(CHARLIE)).name, request_id=request_id)
    assert made.name != other.name


async def test_a_request_id_must_be_a_uuid(link: Link) -> None:
    error: ServiceError = await refusal(CREATES["client"](link, "One", "7"))
    assert [name for name, _ in error.fields] == ["request_id"]
