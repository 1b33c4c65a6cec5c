"""Nobody sees another agency's things; a clerk sees own clients only; the database holds to it by itself."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from google.protobuf.message import Message
from opennotice.audit.v1 import audit_pb2
from opennotice.link.v1 import events_pb2, link_pb2

from services.chassis.errors import NotFound
from services.chassis.postgres import Database as Pool
from services.link.store import links
from tests import cast
from tests.cast import ALICE, CHARLIE, DANA, Person
from tests.fix_postgres import Database
from tests.link.conftest import Link, refusal


@dataclass(frozen=True)
class Things:
    """One of each, of the first court."""

    portal: link_pb2.Portal
    client: link_pb2.Client
    campaign: link_pb2.Campaign
    message: link_pb2.Message
    link: link_pb2.Link
    redirect: link_pb2.Redirect


@pytest.fixture
async def things(link: Link) -> Things:
    portal, client = await link.portal(), await link.client(ref="R-1")
    campaign = await link.stub.CreateCampaign(
        link_pb2.CreateCampaignRequest(campaign=link_pb2.Campaign(display_name="Spring")), metadata=link.by(DANA)
    )
    message = await link.message(client=client.name, campaign=campaign.name)
    made = await link.link(portal=portal.name, client=client.name, message=message.name)
    return Things(portal, client, campaign, message, made, await link.redirect())


def by_name(things: Things) -> list[tuple[str, Message]]:
    """Returns every rpc that takes the name of a thing, with a request that would do something."""
    named = link_pb2
    return [
        ("GetPortal", named.GetPortalRequest(name=things.portal.name)),
        ("UpdatePortal", named.UpdatePortalRequest(portal=named.Portal(name=things.portal.name, display_name="x"))),
        ("GetClient", named.GetClientRequest(name=things.client.name)),
        ("UpdateClient", named.UpdateClientRequest(client=named.Client(name=things.client.name, display_name="x"))),
        ("GetCampaign", named.GetCampaignRequest(name=things.campaign.name)),
        ("GetMessage", named.GetMessageRequest(name=things.message.name)),
        ("ReportDelivery", named.ReportDeliveryRequest(name=things.message.name, status=named.DELIVERY_STATUS_SENT)),
        ("GetLink", named.GetLinkRequest(name=things.link.name)),
        ("RevokeLink", named.RevokeLinkRequest(name=things.link.name)),
        ("ExtendLink", named.ExtendLinkRequest(name=things.link.name)),
        ("RevealLink", named.RevealLinkRequest(name=things.link.name)),
        ("GetRedirect", named.GetRedirectRequest(name=things.redirect.name)),
        (
            "UpdateRedirect",
            named.UpdateRedirectRequest(redirect=named.Redirect(name=things.redirect.name, display_name="x")),
        ),
        ("RevealRedirect", named.RevealRedirectRequest(name=things.redirect.name)),
    ]


LISTS: list[tuple[str, Message]] = [
    ("ListPortals", link_pb2.ListPortalsRequest()),
    ("ListClients", link_pb2.ListClientsRequest()),
    ("ListCampaigns", link_pb2.ListCampaignsRequest()),
    ("ListMessages", link_pb2.ListMessagesRequest()),
    ("ListLinks", link_pb2.ListLinksRequest()),
    ("ListRedirects", link_pb2.ListRedirectsRequest()),
]


async def count_listed(link: Link, name: str, request: Message, who: Person) -> int:
    answer = await getattr(link.stub, name)(request, metadata=link.by(who))
    return len(answer.ListFields()[0][1]) if answer.ListFields() else 0


async def test_every_rpc_with_a_name_is_in_this_test(link: Link, things: Things) -> None:
    service = link_pb2.DESCRIPTOR.services_by_name["LinkService"]
    covered = {name for name, _ in by_name(things)} | {name for name, _ in LISTS}
    rest = {method.name for method in service.methods} - covered
    assert rest == {
        "CreatePortal", "PreviewPage", "CreateClient", "CreateCampaign", "CreateMessage", "CreateLink", "CreateLinks",
        "CreateRedirect", "ResolveToken", "ExportDirectory",
    }  # fmt: skip


async def test_things_of_another_agency_are_not_found_and_unchanged_and_the_try_is_audited(
    link: Link, things: Things
) -> None:
    """Bad-input rows A07 and G12."""
    before = await link.export(link_pb2.FEED_VISITORS), await link.export(link_pb2.FEED_PEOPLE)
    for name, request in by_name(things):
        error = await refusal(getattr(link.stub, name)(request, metadata=link.by(CHARLIE)))
        assert isinstance(error, NotFound), name
    for name, request in LISTS:
        assert await count_listed(link, name, request, CHARLIE) == 0, name
        assert await count_listed(link, name, request, DANA) == 1, name
    assert (await link.export(link_pb2.FEED_VISITORS), await link.export(link_pb2.FEED_PEOPLE)) == before
    tries = len(by_name(things))
    heard = await link.heard(
        events_pb2.ActionTaken, lambda acts: sum(a.action.actor == CHARLIE.name for a in acts) >= tries
    )
    refused = [event.action for event in heard if event.action.actor == CHARLIE.name]
    assert {act.outcome for act in refused} == {audit_pb2.OUTCOME_REFUSED}
    assert {act.target for act in refused} == {
        thing.name
        for thing in (things.portal, things.client, things.campaign, things.message, things.link, things.redirect)
    }
    assert {act.agency_id for act in refused} == {str(cast.OTHER_COURT)}


async def test_things_of_another_agency_cannot_be_used(link: Link, things: Things) -> None:
    portal, client = await link.portal(CHARLIE), await link.client(CHARLIE)
    for fields, reason in (
        ({"portal": things.portal.name}, "PORTAL_UNKNOWN"),
        ({"portal": portal.name, "client": things.client.name}, "CLIENT_UNKNOWN"),
        ({"portal": portal.name, "client": client.name, "message": things.message.name}, "MESSAGE_UNKNOWN"),
    ):
        assert (await refusal(link.link(CHARLIE, **fields))).reason == reason
    assert (await refusal(link.message(CHARLIE, client=things.client.name))).reason == "CLIENT_UNKNOWN"
    error = await refusal(link.message(CHARLIE, client=client.name, campaign=things.campaign.name))
    assert error.reason == "CAMPAIGN_UNKNOWN"


async def test_a_clerk_sees_and_changes_own_clients_only(link: Link, things: Things) -> None:
    hidden = {"GetClient", "UpdateClient", "GetMessage", "GetLink", "RevokeLink", "ExtendLink", "RevealLink"}
    # Of no client at all; without redirects:read, but with links:reveal.
    hidden.add("RevealRedirect")
    for name, request in by_name(things):
        if name in hidden:
            error = await refusal(getattr(link.stub, name)(request, metadata=link.by(ALICE)))
            assert isinstance(error, NotFound), name
    for name in ("ListClients", "ListMessages", "ListLinks"):
        assert await count_listed(link, name, dict(LISTS)[name], ALICE) == 0, name
    own = await link.client(ALICE)
    message = await link.message(ALICE, client=own.name)
    made = await link.link(ALICE, portal=things.portal.name, client=own.name, message=message.name)
    await link.link(portal=things.portal.name)
    for name in ("ListClients", "ListMessages", "ListLinks"):
        assert await count_listed(link, name, dict(LISTS)[name], ALICE) == 1, name
    revoked = await link.stub.RevokeLink(link_pb2.RevokeLinkRequest(name=made.name), metadata=link.by(ALICE))
    assert revoked.HasField("revoke_time")
    request = link_pb2.UpdateClientRequest(client=link_pb2.Client(name=own.name, phone="1"))
    assert (await link.stub.UpdateClient(request, metadata=link.by(ALICE))).phone == "1"
    # A search finds nobody else's client, and neither does the exact ref.
    for query in ("John", "R-1"):
        asked = link_pb2.ListClientsRequest(query=query)
        assert [c.name for c in (await link.stub.ListClients(asked, metadata=link.by(ALICE))).clients] == (
            [own.name] if query == "John" else []
        )


async def test_a_client_who_gets_another_officer_is_gone_for_the_clerk(link: Link) -> None:
    own = await link.client(ALICE)
    request = link_pb2.UpdateClientRequest(client=link_pb2.Client(name=own.name))
    request.update_mask.paths.append("officer")
    await link.stub.UpdateClient(request, metadata=link.by(DANA))
    error = await refusal(link.stub.GetClient(link_pb2.GetClientRequest(name=own.name), metadata=link.by(ALICE)))
    assert isinstance(error, NotFound)


async def test_a_page_token_of_another_agency_or_clerk_is_refused(link: Link) -> None:
    for _ in range(3):
        await link.client(ALICE)
    for giver, taker in ((DANA, CHARLIE), (DANA, ALICE), (ALICE, DANA)):
        page = await link.stub.ListClients(link_pb2.ListClientsRequest(page_size=1), metadata=link.by(giver))
        request = link_pb2.ListClientsRequest(page_token=page.next_page_token)
        error = await refusal(link.stub.ListClients(request, metadata=link.by(taker)))
        assert error.reason == "PAGE_TOKEN_INVALID"


@pytest.fixture
async def serve(database: Database) -> AsyncIterator[Pool]:
    opened = Pool(database.url("link", "serve"), name="test")
    await opened.open()
    yield opened
    await opened.close()


async def test_without_an_agency_the_serving_role_sees_nothing_at_all(link: Link, things: Things, serve: Pool) -> None:
    tables = ("portals", "pages", "clients", "campaigns", "messages", "links", "redirects", "requests", "agencies")
    for agency, some in ((None, False), (cast.OTHER_COURT, False), (cast.FIRST_COURT, True)):
        async with serve.transaction(agency) as conn:
            for table in tables[:7]:
                rows = await (await conn.execute(f"select 1 from link.{table}".encode())).fetchall()
                assert bool(rows) is some, (agency, table)
    async with serve.transaction() as conn:
        for table in tables:
            assert not await (await conn.execute(f"select 1 from link.{table}".encode())).fetchall(), table


async def test_the_serving_role_cannot_write_for_another_agency(link: Link, things: Things, serve: Pool) -> None:
    async with serve.transaction(cast.FIRST_COURT) as conn:
        found = await links.by_id(conn, [], None)
        assert found == {}
    query = "insert into link.requests (agency_id, request_id, digest, resource_id) values (%s, %s, %s, %s)"
    values = (cast.FIRST_COURT, cast.FIRST_COURT, b"x" * 32, cast.FIRST_COURT)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with serve.transaction(cast.OTHER_COURT) as conn:
            await conn.execute(query, values)
    async with serve.transaction(cast.OTHER_COURT) as conn:
        changed = await conn.execute("update link.clients set display_name = 'x'")
        assert changed.rowcount == 0


@pytest.mark.parametrize(
    "statement",
    [
        "delete from link.links", "delete from link.clients", "update link.agencies set revision = 1",
        "select * from link.outbox", "truncate link.feeds", "alter table link.links disable row level security",
        "select * from auth.users",
    ],
)  # fmt: skip
async def test_the_serving_role_can_do_no_more_than_it_needs(link: Link, serve: Pool, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with serve.transaction(cast.FIRST_COURT) as conn:
            await conn.execute(statement.encode())


async def test_the_directory_role_reads_all_agencies_and_writes_nothing(
    link: Link, things: Things, database: Database
) -> None:
    with psycopg.connect(database.url("link", "directory"), autocommit=True) as conn:
        row = conn.execute("select count(*) from link.links").fetchone()
        assert row is not None
        assert row[0] == 1
        for statement in (
            "update link.links set page = 'x'",
            "update link.feeds set revision = 0",
            "delete from link.pages",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode())


async def test_a_row_can_refer_only_to_things_of_its_own_agency(link: Link, things: Things) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        link.rows("update link.links set agency_id = %s, client_id = null, message_id = null", cast.OTHER_COURT)


async def test_processes_and_people_do_not_reach_each_others_rpcs(link: Link, things: Things) -> None:
    asked: Any = link_pb2.ResolveTokenRequest(token_hash=b"x" * 32)
    for metadata in (link.by(DANA), link.by("gateway"), link.by("reporting"), ()):
        assert (await refusal(link.stub.ResolveToken(asked, metadata=metadata))).reason in (
            "PERMISSION_MISSING", "CREDENTIAL_MISSING",
        )  # fmt: skip
    for metadata in (link.by("tracking"), link.by("gateway"), ()):
        request = link_pb2.GetPortalRequest(name=things.portal.name)
        error = await refusal(link.stub.GetPortal(request, metadata=metadata))
        assert error.reason in ("PERMISSION_MISSING", "CREDENTIAL_MISSING")
