"""Between protobuf and the rules: enums and words, times, and each resource in its answer."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from google.protobuf.message import Message as ProtoMessage
from opennotice.link.v1 import link_pb2

from services.chassis import clock
from services.chassis.errors import Faults
from services.chassis.names import format_name, parse_name, parse_uuid
from services.link.client import Client
from services.link.link import Link, LinkState
from services.link.message import Campaign, Delivery, Message
from services.link.page import Page
from services.link.portal import Portal, Redirect


def word_of(enum: Any, prefix: str, value: int, field: str, faults: Faults, *, otherwise: str = "") -> str:
    """Returns the lower-case word of an enum value, noting a fault for an unknown one.

    Unspecified is `otherwise`, or a fault where that is empty.
    """
    if value == 0 and otherwise:
        return otherwise
    if value == 0 or value not in enum.values():
        words = ", ".join(name.removeprefix(prefix).lower() for name, number in enum.items() if number)
        faults.add(field, f"must be one of {words}")
        return ""
    return str(enum.Name(value)).removeprefix(prefix).lower()


def portal_kind(value: int, field: str, faults: Faults) -> str:
    """Reads the kind of a portal."""
    return word_of(link_pb2.PortalKind, "PORTAL_KIND_", value, field, faults)


def channel(value: int, field: str, faults: Faults) -> str:
    """Reads how a message was sent."""
    return word_of(link_pb2.Channel, "CHANNEL_", value, field, faults)


def delivery_status(value: int, field: str, faults: Faults, *, otherwise: str = "") -> str:
    """Reads what became of a message."""
    return word_of(link_pb2.DeliveryStatus, "DELIVERY_STATUS_", value, field, faults, otherwise=otherwise)


def moment(message: ProtoMessage, name: str, field: str, faults: Faults) -> datetime | None:
    """Reads a time that may be absent, cut to whole milliseconds."""
    if not message.HasField(name):
        return None
    found = clock.checked(getattr(message, name), field, faults)
    return found and found.replace(microsecond=found.microsecond // 1000 * 1000)


def request_uuid(text: str, faults: Faults) -> UUID | None:
    """Reads a request id that may be empty."""
    found = parse_uuid(text.lower()) if text else None
    if text and found is None:
        faults.add("request_id", "must be a UUID")
    return found


def reference(collection: str, name: str) -> UUID:
    """Reads the id out of a name that is not empty; one in a wrong form is that of nothing."""
    return parse_name(collection, name) or UUID(int=0)


def portal_proto(portal: Portal, pages: Sequence[Page], *, texts: bool = True) -> link_pb2.Portal:
    """Builds a portal as staff see it: with the Markdown, or only with slugs and titles."""
    return link_pb2.Portal(
        name=format_name("portals", portal.portal_id),
        display_name=portal.display_name,
        kind=link_pb2.PortalKind.Value(f"PORTAL_KIND_{portal.kind.upper()}"),
        target_uri=portal.target_uri,
        active=portal.active,
        pages=[
            link_pb2.Page(slug=page.slug, title=page.title, markdown=page.markdown if texts else "") for page in pages
        ],
        create_time=clock.to_proto(portal.create_time),
        update_time=clock.to_proto(portal.update_time),
        revision=portal.revision,
    )


def client_proto(client: Client) -> link_pb2.Client:
    """Builds a client."""
    return link_pb2.Client(
        name=format_name("clients", client.client_id),
        display_name=client.display_name,
        ref=client.ref,
        email=client.email,
        phone=client.phone,
        officer=format_name("users", client.officer_id),
        create_time=clock.to_proto(client.create_time),
        update_time=clock.to_proto(client.update_time),
        revision=client.revision,
    )


def campaign_proto(campaign: Campaign) -> link_pb2.Campaign:
    """Builds a campaign."""
    return link_pb2.Campaign(
        name=format_name("campaigns", campaign.campaign_id),
        display_name=campaign.display_name,
        create_time=clock.to_proto(campaign.create_time),
        revision=campaign.revision,
    )


def message_proto(message: Message, deliveries: Sequence[Delivery]) -> link_pb2.Message:
    """Builds a message with its deliveries."""
    return link_pb2.Message(
        name=format_name("messages", message.message_id),
        client=format_name("clients", message.client_id),
        campaign=format_name("campaigns", message.campaign_id),
        channel=link_pb2.Channel.Value(f"CHANNEL_{message.channel.upper()}"),
        send_time=clock.to_proto(message.send_time),
        delivery_status=_status(message.delivery_status),
        deadline_time=clock.to_proto(message.deadline_time),
        deliveries=[
            link_pb2.Delivery(status=_status(delivery.status), event_time=clock.to_proto(delivery.event_time))
            for delivery in deliveries
        ],
        create_time=clock.to_proto(message.create_time),
        revision=message.revision,
    )


def _status(word: str) -> link_pb2.DeliveryStatus.ValueType:
    return link_pb2.DeliveryStatus.Value(f"DELIVERY_STATUS_{word.upper()}")


def link_proto(link: Link, *, state: LinkState | None = None, uri: str = "") -> link_pb2.Link:
    """Builds a link; without a state in the directory, whose readers decide it by their own clock."""
    return link_pb2.Link(
        name=format_name("links", link.link_id),
        portal=format_name("portals", link.portal_id),
        page=link.page,
        client=format_name("clients", link.client_id),
        message=format_name("messages", link.message_id),
        expire_time=clock.to_proto(link.expire_time),
        revoke_time=clock.to_proto(link.revoke_time),
        state=link_pb2.LinkState.Value(f"LINK_STATE_{state.name}" if state else "LINK_STATE_UNSPECIFIED"),
        uri=uri,
        create_time=clock.to_proto(link.create_time),
        revision=link.revision,
    )


def redirect_proto(redirect: Redirect, *, uri: str = "") -> link_pb2.Redirect:
    """Builds a redirect as staff see it."""
    return link_pb2.Redirect(
        name=format_name("redirects", redirect.redirect_id),
        display_name=redirect.display_name,
        target_uri=redirect.target_uri,
        active=redirect.active,
        uri=uri,
        create_time=clock.to_proto(redirect.create_time),
        update_time=clock.to_proto(redirect.update_time),
        revision=redirect.revision,
    )
