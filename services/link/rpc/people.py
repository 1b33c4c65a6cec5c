"""Clients and campaigns."""

from dataclasses import replace
from uuid import UUID

import grpc
from opennotice.link.v1 import link_pb2

from services.chassis import clock
from services.chassis.errors import AlreadyExists, Faults
from services.chassis.identity import caller
from services.chassis.names import format_name, new_id, parse_name
from services.chassis.postgres import Connection
from services.link import events
from services.link.client import Client, ClientText, check_client
from services.link.message import Campaign
from services.link.once import digest_of
from services.link.portal import check_display_name
from services.link.rpc import shapes
from services.link.rpc.desk import AtDesk, check_revision, chosen_fields, not_found, own_officer
from services.link.store import feed, people
from services.link.wording import search_form

_TEXTS = ("display_name", "ref", "email", "phone")
_CHANGEABLE = (*_TEXTS, "officer")
_LONGEST_QUERY = 200
Context = grpc.aio.ServicerContext


class Clients(AtDesk):
    """The rpcs about clients."""

    async def CreateClient(self, request: link_pb2.CreateClientRequest, context: Context) -> link_pb2.Client:
        """Creates a client."""
        given, faults = request.client, Faults()
        text = ClientText(given.display_name, given.ref, given.email, given.phone)
        check_client(text, faults.add)
        officer_id = _read_officer(given.officer, faults) or own_officer()
        request_id = shapes.request_uuid(request.request_id, faults)
        faults.stop()
        if officer_id is not None:
            await self._desk.check_officer(officer_id, "client.officer")
        digest = digest_of("client", text, officer_id)
        client_id, now = new_id(), clock.now()
        async with self._desk.transaction() as conn:
            if first := await self._desk.claim(conn, request_id, digest, client_id):
                return shapes.client_proto(await _one(conn, first))
            client = Client(
                client_id=client_id,
                agency_id=caller().agency,
                search_name=search_form(text.display_name),
                **vars(text),
                officer_id=officer_id,
                create_time=now,
                update_time=now,
                revision=await feed.advance(conn, feed.PEOPLE),
            )
            try:
                await people.insert_client(conn, client)
            except people.RefTaken as taken:
                raise _ref_taken(client.ref) from taken
            await _announce(conn, client, "client.create")
        return shapes.client_proto(client)

    async def GetClient(self, request: link_pb2.GetClientRequest, context: Context) -> link_pb2.Client:
        """Returns one client."""
        async with self._desk.reading() as conn:
            return shapes.client_proto(await _named(conn, request.name))

    async def ListClients(self, request: link_pb2.ListClientsRequest, context: Context) -> link_pb2.ListClientsResponse:
        """Lists clients by display name."""
        faults = Faults()
        if len(request.query) > _LONGEST_QUERY or "\0" in request.query:
            faults.add("query", f"must be at most {_LONGEST_QUERY} characters, without NUL")
        faults.stop()
        window = self._desk.window(request)
        after = (str(window.after[0]), UUID(str(window.after[1]))) if window.after else None
        query = request.query.strip()
        async with self._desk.reading() as conn:
            rows = await people.clients_by_name(conn, search_form(query), query, own_officer(), after, window.size + 1)
        shown, token = window.cut(rows, lambda client: [client.search_name, str(client.client_id)])
        return link_pb2.ListClientsResponse(
            clients=[shapes.client_proto(client) for client in shown], next_page_token=token
        )

    async def UpdateClient(self, request: link_pb2.UpdateClientRequest, context: Context) -> link_pb2.Client:
        """Changes a client."""
        given, faults = request.client, Faults()
        fields = chosen_fields(request.update_mask, given, _CHANGEABLE, faults)
        changed = {name: getattr(given, name) for name in fields & set(_TEXTS)}
        blank = {"display_name": "-", "ref": "", "email": "", "phone": ""}
        check_client(ClientText(**(blank | changed)), faults.add)
        if "officer" in fields:
            changed["officer_id"] = _read_officer(given.officer, faults)
            if own_officer() and changed["officer_id"] is None:
                faults.add("client.officer", "must be yourself")
        faults.stop()
        if changed.get("officer_id") is not None:
            await self._desk.check_officer(changed["officer_id"], "client.officer")
        async with self._desk.transaction() as conn:
            before = await _named(conn, given.name, lock=True)
            check_revision(given.revision, before.revision)
            after = replace(before, **changed)
            if after == before:
                return shapes.client_proto(before)
            revision = await feed.advance(conn, feed.PEOPLE)
            after = replace(
                after, search_name=search_form(after.display_name), update_time=clock.now(), revision=revision
            )
            try:
                await people.update_client(conn, after)
            except people.RefTaken as taken:
                raise _ref_taken(after.ref) from taken
            await _announce(conn, after, "client.update")
        return shapes.client_proto(after)


class Campaigns(AtDesk):
    """The rpcs about campaigns."""

    async def CreateCampaign(self, request: link_pb2.CreateCampaignRequest, context: Context) -> link_pb2.Campaign:
        """Creates a campaign."""
        given, faults = request.campaign, Faults()
        check_display_name(given.display_name, "campaign.display_name", faults.add)
        request_id = shapes.request_uuid(request.request_id, faults)
        faults.stop()
        digest = digest_of("campaign", given.display_name)
        campaign_id, now = new_id(), clock.now()
        async with self._desk.transaction() as conn:
            if first := await self._desk.claim(conn, request_id, digest, campaign_id):
                return shapes.campaign_proto(await _campaign(conn, first))
            revision = await feed.advance(conn, feed.PEOPLE)
            campaign = Campaign(campaign_id, caller().agency, given.display_name, now, revision)
            await people.insert_campaign(conn, campaign)
            await events.announce_people(conn, [events.campaign_entry(campaign)])
            name = format_name("campaigns", campaign_id)
            await events.announce_action(conn, caller(), "campaign.create", name, now)
        return shapes.campaign_proto(campaign)

    async def GetCampaign(self, request: link_pb2.GetCampaignRequest, context: Context) -> link_pb2.Campaign:
        """Returns one campaign."""
        async with self._desk.reading() as conn:
            return shapes.campaign_proto(
                await _campaign(conn, shapes.reference("campaigns", request.name), request.name)
            )

    async def ListCampaigns(
        self, request: link_pb2.ListCampaignsRequest, context: Context
    ) -> link_pb2.ListCampaignsResponse:
        """Lists campaigns, newest first."""
        window = self._desk.window(request)
        before = UUID(str(window.after[0])) if window.after else None
        async with self._desk.reading() as conn:
            rows = await people.newest_campaigns(conn, before, window.size + 1)
        shown, token = window.cut(rows, lambda campaign: [str(campaign.campaign_id)])
        return link_pb2.ListCampaignsResponse(
            campaigns=[shapes.campaign_proto(campaign) for campaign in shown], next_page_token=token
        )


def _read_officer(name: str, faults: Faults) -> UUID | None:
    """Reads who the officer is to be; a caller who sees own clients only cannot give one to somebody else."""
    if not name:
        return None
    officer_id, own = parse_name("users", name), own_officer()
    if officer_id is None:
        faults.add("client.officer", "must be the name of a user: users/{uuid}")
    elif own is not None and officer_id != own:
        faults.add("client.officer", "must be yourself")
    return officer_id


async def _named(conn: Connection, name: str, *, lock: bool = False) -> Client:
    return await _one(conn, shapes.reference("clients", name), name, lock=lock)


async def _one(conn: Connection, client_id: UUID, name: str = "", *, lock: bool = False) -> Client:
    found = await people.client(conn, client_id, own_officer(), lock=lock)
    if found is None:
        raise not_found("clients", name)
    return found


async def _campaign(conn: Connection, campaign_id: UUID, name: str = "") -> Campaign:
    found = await people.campaign(conn, campaign_id)
    if found is None:
        raise not_found("campaigns", name)
    return found


def _ref_taken(ref: str) -> AlreadyExists:
    return AlreadyExists(
        "REF_TAKEN",
        "another client of this agency has this ref",
        fields=[("client.ref", "is used by another client")],
        ref=ref,
    )


async def _announce(conn: Connection, client: Client, verb: str) -> None:
    await events.announce_people(conn, [events.client_entry(client)])
    name = format_name("clients", client.client_id)
    await events.announce_action(conn, caller(), verb, name, client.update_time)
