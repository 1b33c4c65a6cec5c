"""Messages and the reports of what became of them."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import grpc
from opennotice.link.v1 import link_pb2

from services.chassis import clock
from services.chassis.errors import Faults, invalid
from services.chassis.identity import caller
from services.chassis.names import format_name, new_id
from services.chassis.postgres import Connection
from services.link import events
from services.link.message import Delivery, Message, newest_status, too_far_ahead
from services.link.once import digest_of
from services.link.rpc import shapes
from services.link.rpc.desk import AtDesk, not_found, own_officer
from services.link.store import feed, people

Context = grpc.aio.ServicerContext


class Messages(AtDesk):
    """The rpcs about messages."""

    async def CreateMessage(self, request: link_pb2.CreateMessageRequest, context: Context) -> link_pb2.Message:
        """Creates a message to one client."""
        given, faults = request.message, Faults()
        if not given.client:
            faults.add("message.client", "must be given")
        channel = shapes.channel(given.channel, "message.channel", faults)
        status = shapes.delivery_status(given.delivery_status, "message.delivery_status", faults, otherwise="queued")
        send_time = shapes.moment(given, "send_time", "message.send_time", faults)
        deadline_time = shapes.moment(given, "deadline_time", "message.deadline_time", faults)
        request_id = shapes.request_uuid(request.request_id, faults)
        faults.stop()
        client_id = shapes.reference("clients", given.client)
        campaign_id = shapes.reference("campaigns", given.campaign) if given.campaign else None
        digest = digest_of("message", client_id, campaign_id, channel, status, send_time, deadline_time)
        message_id, now = new_id(), clock.now()
        async with self._desk.transaction() as conn:
            if first := await self._desk.claim(conn, request_id, digest, message_id):
                return await _shown(conn, await _one(conn, first))
            if await people.client(conn, client_id, own_officer()) is None:
                raise not_found("clients", given.client)
            if campaign_id and await people.campaign(conn, campaign_id) is None:
                raise not_found("campaigns", given.campaign)
            message = Message(
                message_id=message_id,
                agency_id=caller().agency,
                client_id=client_id,
                campaign_id=campaign_id,
                channel=channel,
                send_time=send_time,
                delivery_status=status,
                deadline_time=deadline_time,
                create_time=now,
                revision=await feed.advance(conn, feed.PEOPLE),
            )
            await people.insert_message(conn, message)
            await _announce(conn, message, [])
            name = format_name("messages", message_id)
            await events.announce_action(conn, caller(), "message.create", name, now)
        return shapes.message_proto(message, [])

    async def GetMessage(self, request: link_pb2.GetMessageRequest, context: Context) -> link_pb2.Message:
        """Returns one message with its deliveries."""
        async with self._desk.reading() as conn:
            return await _shown(conn, await _named(conn, request.name))

    async def ListMessages(
        self, request: link_pb2.ListMessagesRequest, context: Context
    ) -> link_pb2.ListMessagesResponse:
        """Lists messages, newest first."""
        window = self._desk.window(request)
        before = UUID(str(window.after[0])) if window.after else None
        client_id = shapes.reference("clients", request.client) if request.client else None
        async with self._desk.reading() as conn:
            rows = await people.newest_messages(conn, client_id, own_officer(), before, window.size + 1)
            shown, token = window.cut(rows, lambda message: [str(message.message_id)])
            reports = await people.deliveries_of(conn, [message.message_id for message in shown])
        return link_pb2.ListMessagesResponse(
            messages=[shapes.message_proto(message, reports[message.message_id]) for message in shown],
            next_page_token=token,
        )

    async def ReportDelivery(self, request: link_pb2.ReportDeliveryRequest, context: Context) -> link_pb2.Message:
        """Records what became of a message; the newest event decides, the same report twice is kept once."""
        faults, now = Faults(), clock.now()
        status = shapes.delivery_status(request.status, "status", faults)
        event_time = shapes.moment(request, "event_time", "event_time", faults) or now
        faults.stop()
        if too_far_ahead(event_time, now):
            raise invalid("event_time", "must be at most one day in the future")
        async with self._desk.transaction() as conn:
            before = await _named(conn, request.name, lock=True)
            report = Delivery(before.message_id, status, event_time)
            if not await people.insert_delivery(conn, before.agency_id, report):
                return await _shown(conn, before)
            reports = (await people.deliveries_of(conn, [before.message_id]))[before.message_id]
            after = replace(
                before, delivery_status=newest_status(reports), revision=await feed.advance(conn, feed.PEOPLE)
            )
            await people.set_status(conn, after.message_id, after.delivery_status, after.revision)
            await _announce(conn, after, reports)
            await events.announce_action(
                conn, caller(), "delivery.report", request.name, now, details={"status": status}
            )
        return shapes.message_proto(after, reports)


async def _named(conn: Connection, name: str, *, lock: bool = False) -> Message:
    return await _one(conn, shapes.reference("messages", name), name, lock=lock)


async def _one(conn: Connection, message_id: UUID, name: str = "", *, lock: bool = False) -> Message:
    found = await people.message(conn, message_id, own_officer(), lock=lock)
    if found is None:
        raise not_found("messages", name)
    return found


async def _shown(conn: Connection, message: Message) -> link_pb2.Message:
    reports = await people.deliveries_of(conn, [message.message_id])
    return shapes.message_proto(message, reports[message.message_id])


async def _announce(conn: Connection, message: Message, reports: Sequence[Delivery]) -> None:
    await events.announce_people(conn, [events.message_entry(message, reports)])
