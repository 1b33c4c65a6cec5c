"""Clients, campaigns, messages and what became of them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from opennotice.link.v1 import link_pb2

from services.chassis.errors import Aborted, AlreadyExists, InvalidArgument, NotFound, PermissionDenied, Unavailable
from services.chassis.names import new_id
from tests.cast import ALICE, BOB, CHARLIE, DANA, SAM
from tests.link.conftest import Link, refusal

QUEUED, SENT, DELIVERED, BOUNCED = (
    link_pb2.DELIVERY_STATUS_QUEUED,
    link_pb2.DELIVERY_STATUS_SENT,
    link_pb2.DELIVERY_STATUS_DELIVERED,
    link_pb2.DELIVERY_STATUS_BOUNCED,
)


def at(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime(2026, 3, 3, 9, tzinfo=UTC) + timedelta(seconds=seconds))
    return stamp


async def found(link: Link, query: str, who: Any = DANA) -> list[str]:
    answer = await link.stub.ListClients(link_pb2.ListClientsRequest(query=query), metadata=link.by(who))
    return [client.display_name for client in answer.clients]


async def test_a_client_is_kept_as_typed(link: Link) -> None:
    given: dict[str, Any] = {
        "display_name": "José <script>alert(1)</script> \u202bعلي\u202c",
        "ref": "2026-CF-001",
        "email": "jose@mail.example",
        "phone": "(555) 010-0199 ext. 4",
    }
    made = await link.client(**given)
    shown = await link.stub.GetClient(link_pb2.GetClientRequest(name=made.name), metadata=link.by(BOB))
    assert shown == made
    assert {name: getattr(shown, name) for name in given} == given


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        pytest.param({"display_name": ""}, "client.display_name", id="no name"),
        pytest.param({"display_name": " \u200b"}, "client.display_name", id="A02-only-spaces"),
        pytest.param({"display_name": "a\0"}, "client.display_name", id="A02-NUL"),
        pytest.param({"ref": "r" * 101}, "client.ref", id="A02-ref-too-long"),
        pytest.param({"ref": "a\nb"}, "client.ref", id="A02-newline"),
        pytest.param({"email": "not an address"}, "client.email", id="no address"),
        pytest.param({"phone": "5" * 41}, "client.phone", id="phone too long"),
        pytest.param({"officer": "users/1"}, "client.officer", id="A07-officer"),
    ],
)
async def test_a_wrong_client_is_refused_naming_the_field(link: Link, fields: dict[str, Any], field: str) -> None:
    error = await refusal(link.client(**fields))
    assert (type(error), [name for name, _ in error.fields]) == (InvalidArgument, [field])
    assert not link.rows("select 1 from link.clients")


async def test_a_ref_is_unique_in_the_agency(link: Link) -> None:
    await link.client(ref="A-1")
    error = await refusal(link.client(display_name="Other", ref="A-1"))
    assert (type(error), error.reason) == (AlreadyExists, "REF_TAKEN")
    other = await link.client(display_name="Other", ref="A-2")
    await link.client(CHARLIE, ref="A-1")
    await link.client(display_name="Without a ref")
    await link.client(display_name="Another without")
    request = link_pb2.UpdateClientRequest(client=link_pb2.Client(name=other.name, ref="A-1"))
    error = await refusal(link.stub.UpdateClient(request, metadata=link.by(DANA)))
    assert (type(error), error.reason) == (AlreadyExists, "REF_TAKEN")


async def test_clients_are_found_by_part_of_the_name_or_exact_ref(link: Link) -> None:
    for name, ref in (("José Díaz", "R1"), ("Josephine Baker", "R12"), ("100% O'Brien_", "%"), ("Bob \\ Smith", "")):
        await link.client(display_name=name, ref=ref)
    assert await found(link, "JOSE") == ["José Díaz", "Josephine Baker"]
    assert await found(link, "R1") == ["José Díaz"]
    assert len(await found(link, "")) == 4
    assert len(await found(link, "o")) == 4


@pytest.mark.parametrize(
    ("query", "names"),
    [
        pytest.param("%", ["100% O'Brien_"], id="A03-percent"),
        pytest.param("_", ["100% O'Brien_"], id="A03-underscore"),
        pytest.param("\\", ["Bob \\ Smith"], id="A03-backslash"),
        pytest.param("'", ["100% O'Brien_"], id="A03-quote"),
        pytest.param('";--', [], id="A03-sql"),
        pytest.param(".*", [], id="A03-regex"),
        pytest.param("NULL", [], id="A03-null"),
        pytest.param("⚖️", [], id="A03-emoji"),
        pytest.param("\u0301", [], id="A03-only-an-accent"),
    ],
)
async def test_a_search_takes_every_character_literally(link: Link, query: str, names: list[str]) -> None:
    await link.client(display_name="100% O'Brien_")
    await link.client(display_name="Bob \\ Smith")
    assert await found(link, query) == names


async def test_an_overlong_search_is_refused(link: Link) -> None:
    for query in ("x" * 201, "a\0b"):
        error = await refusal(found(link, query))
        assert (type(error), error.fields[0][0]) == (InvalidArgument, "query")


async def test_clients_are_listed_by_name_page_by_page(link: Link) -> None:
    for name in ("b", "A", "c", "B", "a"):
        await link.client(display_name=name)
    request, names = link_pb2.ListClientsRequest(page_size=2), []
    while True:
        page = await link.stub.ListClients(request, metadata=link.by(DANA))
        names += [client.display_name for client in page.clients]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert names == ["A", "a", "b", "B", "c"]


async def test_an_update_changes_the_masked_fields_and_can_empty_them(link: Link) -> None:
    made = await link.client(ref="A-1", email="a@b.example", phone="1")
    given = link_pb2.Client(name=made.name, display_name="Jane", email="")
    request = link_pb2.UpdateClientRequest(client=given, update_mask=FieldMask(paths=["email", "display_name"]))
    changed = await link.stub.UpdateClient(request, metadata=link.by(DANA))
    assert (changed.display_name, changed.ref, changed.email, changed.phone) == ("Jane", "A-1", "", "1")
    assert await found(link, "jane") == ["Jane"]
    given = link_pb2.Client(name=made.name, display_name="Late", revision=made.revision)
    error = await refusal(link.stub.UpdateClient(link_pb2.UpdateClientRequest(client=given), metadata=link.by(DANA)))
    assert (type(error), error.reason) == (Aborted, "CHANGED_MEANWHILE")
    request.update_mask.paths[:] = ["agency_id"]
    error = await refusal(link.stub.UpdateClient(request, metadata=link.by(DANA)))
    assert [name for name, _ in error.fields] == ["update_mask"]


async def test_an_officer_must_be_an_active_user_of_the_agency(auth: Any, link: Link) -> None:
    made = await link.client(officer=SAM.name)
    assert made.officer == SAM.name
    for officer in (CHARLIE.name, f"users/{new_id()}"):
        error = await refusal(link.client(officer=officer))
        assert (type(error), error.reason, error.fields[0][0]) == (InvalidArgument, "OFFICER_UNKNOWN", "client.officer")
    link.rows("update auth.users set disabled = true where user_id = %s", SAM.name.removeprefix("users/"))
    assert (await refusal(link.client(officer=SAM.name))).reason == "OFFICER_UNKNOWN"
    request = link_pb2.UpdateClientRequest(
        client=link_pb2.Client(name=made.name), update_mask=FieldMask(paths=["officer"])
    )
    assert (await link.stub.UpdateClient(request, metadata=link.by(DANA))).officer == ""


async def test_without_auth_an_officer_cannot_be_checked_and_that_is_said(link: Link) -> None:
    error = await refusal(link.client(officer=SAM.name))
    assert (type(error), error.reason) == (Unavailable, "AUTH_AWAY")
    # A clerk's own clients need no question: the identity says who they are.
    assert (await link.client(ALICE)).officer == ALICE.name


async def test_a_clerk_cannot_give_a_client_away(link: Link) -> None:
    own = await link.client(ALICE)
    for call in (
        link.client(ALICE, officer=SAM.name),
        link.stub.UpdateClient(
            link_pb2.UpdateClientRequest(client=link_pb2.Client(name=own.name, officer=SAM.name)),
            metadata=link.by(ALICE),
        ),
        link.stub.UpdateClient(
            link_pb2.UpdateClientRequest(
                client=link_pb2.Client(name=own.name), update_mask=FieldMask(paths=["officer"])
            ),
            metadata=link.by(ALICE),
        ),
    ):
        error = await refusal(call)
        assert (type(error), error.fields) == (InvalidArgument, [("client.officer", "must be yourself")])


async def test_campaigns_are_made_shown_and_listed_newest_first(link: Link) -> None:
    made = []
    for name in ("Spring", "Summer"):
        request = link_pb2.CreateCampaignRequest(campaign=link_pb2.Campaign(display_name=name))
        made.append(await link.stub.CreateCampaign(request, metadata=link.by(DANA)))
    shown = await link.stub.GetCampaign(link_pb2.GetCampaignRequest(name=made[0].name), metadata=link.by(BOB))
    assert shown == made[0]
    first = await link.stub.ListCampaigns(link_pb2.ListCampaignsRequest(page_size=1), metadata=link.by(BOB))
    assert list(first.campaigns) == [made[1]]
    rest = await link.stub.ListCampaigns(
        link_pb2.ListCampaignsRequest(page_token=first.next_page_token), metadata=link.by(BOB)
    )
    assert list(rest.campaigns) == [made[0]]
    request = link_pb2.CreateCampaignRequest(campaign=link_pb2.Campaign(display_name=""))
    error = await refusal(link.stub.CreateCampaign(request, metadata=link.by(DANA)))
    assert error.fields[0][0] == "campaign.display_name"
    error = await refusal(link.stub.GetCampaign(link_pb2.GetCampaignRequest(name="x"), metadata=link.by(DANA)))
    assert (type(error), error.reason) == (NotFound, "CAMPAIGN_UNKNOWN")


async def test_a_message_is_queued_unless_said_otherwise(link: Link) -> None:
    client = await link.client()
    made = await link.message(client=client.name, deadline_time=at(0))
    assert (made.delivery_status, made.deadline_time) == (QUEUED, at(0))
    assert not made.HasField("send_time")
    sent = await link.message(client=client.name, delivery_status=SENT, send_time=at(0))
    assert sent.delivery_status == SENT
    listed = await link.stub.ListMessages(link_pb2.ListMessagesRequest(client=client.name), metadata=link.by(DANA))
    assert list(listed.messages) == [sent, made]
    listed = await link.stub.ListMessages(
        link_pb2.ListMessagesRequest(client=f"clients/{new_id()}"), metadata=link.by(DANA)
    )
    assert not listed.messages


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        pytest.param({"client": ""}, "FIELDS_INVALID", "message.client", id="no client"),
        pytest.param({"channel": 0}, "FIELDS_INVALID", "message.channel", id="no channel"),
        pytest.param({"channel": 7}, "FIELDS_INVALID", "message.channel", id="G10-channel"),
        pytest.param({"delivery_status": 77}, "FIELDS_INVALID", "message.delivery_status", id="G10-status"),
        pytest.param(
            {"send_time": Timestamp(seconds=253402300800)}, "FIELDS_INVALID", "message.send_time", id="G10-year-10000"
        ),
        pytest.param(
            {"deadline_time": Timestamp(seconds=-1)}, "FIELDS_INVALID", "message.deadline_time", id="G10-1969"
        ),
        pytest.param({"client": "clients/x"}, "CLIENT_UNKNOWN", None, id="unknown client"),
        pytest.param({"campaign": f"campaigns/{new_id()}"}, "CAMPAIGN_UNKNOWN", None, id="unknown campaign"),
    ],
)
async def test_a_wrong_message_is_refused(link: Link, fields: dict[str, Any], reason: str, field: str | None) -> None:
    client = await link.client()
    error = await refusal(link.message(**({"client": client.name} | fields)))
    assert error.reason == reason
    assert [name for name, _ in error.fields] == ([field] if field else [])
    assert not link.rows("select 1 from link.messages")


async def report(link: Link, name: str, status: Any, when: Timestamp | None = None) -> link_pb2.Message:
    request = link_pb2.ReportDeliveryRequest(name=name, status=status, event_time=when)
    reported: link_pb2.Message = await link.stub.ReportDelivery(request, metadata=link.by(SAM))
    return reported


async def test_the_newest_report_decides_and_all_are_kept_in_order(link: Link) -> None:
    made = await link.message(client=(await link.client()).name)
    await report(link, made.name, DELIVERED, at(10))
    late = await report(link, made.name, SENT, at(5))
    assert late.delivery_status == DELIVERED
    assert [delivery.status for delivery in late.deliveries] == [SENT, DELIVERED]
    bounced = await report(link, made.name, BOUNCED, at(20))
    assert bounced.delivery_status == BOUNCED
    assert bounced.revision > late.revision > made.revision
    shown = await link.stub.GetMessage(link_pb2.GetMessageRequest(name=made.name), metadata=link.by(DANA))
    assert shown == bounced


async def test_the_same_report_twice_is_kept_once(link: Link) -> None:
    made = await link.message(client=(await link.client()).name)
    first = await report(link, made.name, DELIVERED, at(10))
    assert await report(link, made.name, DELIVERED, at(10)) == first


async def test_only_the_newest_fifty_reports_are_shown(link: Link) -> None:
    made = await link.message(client=(await link.client()).name)
    for second in range(52):
        shown = await report(link, made.name, SENT, at(second))
    assert [delivery.event_time for delivery in shown.deliveries] == [at(second) for second in range(2, 52)]
    assert link.rows("select count(*) from link.deliveries")[0]["count"] == 52


@pytest.mark.parametrize(
    ("status", "seconds_ahead", "field"),
    [
        pytest.param(0, 0, "status", id="G10-unspecified"),
        pytest.param(44, 0, "status", id="G10-unknown"),
        pytest.param(2, 86_400 + 60, "event_time", id="more than a day ahead"),
    ],
)
async def test_a_wrong_report_is_refused(link: Link, status: int, seconds_ahead: int, field: str) -> None:
    made = await link.message(client=(await link.client()).name)
    when = Timestamp()
    when.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds_ahead))
    error = await refusal(report(link, made.name, status, when))
    assert (type(error), [name for name, _ in error.fields]) == (InvalidArgument, [field])
    assert not link.rows("select 1 from link.deliveries")


async def test_reports_need_their_own_permission(link: Link) -> None:
    own = await link.message(ALICE, client=(await link.client(ALICE)).name)
    request = link_pb2.ReportDeliveryRequest(name=own.name, status=SENT)
    assert isinstance(await refusal(link.stub.ReportDelivery(request, metadata=link.by(ALICE))), PermissionDenied)
