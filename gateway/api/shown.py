"""Resources as the API shows them. Missing is null."""

from typing import Any

from google.protobuf.message import Message
from msgspec import Struct
from opennotice.auth.v1 import auth_pb2
from opennotice.link.v1 import link_pb2
from opennotice.reporting.v1 import reporting_pb2

from gateway.words import CHANNEL, DELIVERY_STATUS, LINK_STATE, PORTAL_KIND, ROLE, open_json, time_text


class PageShown(Struct):
    """One page of a hosted portal."""

    slug: str
    title: str
    markdown: str | None


class PortalShown(Struct):
    """A portal. Lists leave out the text of pages."""

    name: str
    display_name: str
    kind: str | None
    target_uri: str | None
    active: bool
    pages: list[PageShown]
    create_time: str | None
    update_time: str | None
    revision: int


class ClientShown(Struct):
    """A client."""

    name: str
    display_name: str
    ref: str | None
    email: str | None
    phone: str | None
    officer: str | None
    create_time: str | None
    update_time: str | None
    revision: int


class CampaignShown(Struct):
    """A campaign."""

    name: str
    display_name: str
    create_time: str | None
    revision: int


class DeliveryShown(Struct):
    """One report about a message."""

    status: str | None
    event_time: str | None


class MessageShown(Struct):
    """A message. Lists leave out its deliveries."""

    name: str
    client: str
    campaign: str | None
    channel: str | None
    send_time: str | None
    delivery_status: str | None
    deadline_time: str | None
    deliveries: list[DeliveryShown]
    create_time: str | None
    revision: int


class LinkShown(Struct):
    """A link. `url` is shown by the creation and by :reveal only."""

    name: str
    url: str | None
    portal: str
    page: str | None
    client: str | None
    message: str | None
    state: str | None
    expire_time: str | None
    revoke_time: str | None
    create_time: str | None
    revision: int


class RedirectShown(Struct):
    """A redirect. `url` is shown by the creation and by :reveal only."""

    name: str
    url: str | None
    display_name: str
    target_uri: str
    active: bool
    create_time: str | None
    update_time: str | None
    revision: int


class CallerShown(Struct):
    """Who is asking."""

    name: str
    display_name: str
    role: str | None
    permissions: list[str]
    own_clients_only: bool
    agency: str
    agency_display_name: str
    time_zone: str


def portal_shown(found: link_pb2.Portal) -> PortalShown:
    """Shows a portal."""
    return PortalShown(
        name=found.name,
        display_name=found.display_name,
        kind=PORTAL_KIND.word(found.kind),
        target_uri=found.target_uri or None,
        active=found.active,
        pages=[PageShown(page.slug, page.title, page.markdown or None) for page in found.pages],
        create_time=time_text(found, "create_time"),
        update_time=time_text(found, "update_time"),
        revision=found.revision,
    )


def client_shown(found: link_pb2.Client) -> ClientShown:
    """Shows a client."""
    return ClientShown(
        name=found.name,
        display_name=found.display_name,
        ref=found.ref or None,
        email=found.email or None,
        phone=found.phone or None,
        officer=found.officer or None,
        create_time=time_text(found, "create_time"),
        update_time=time_text(found, "update_time"),
        revision=found.revision,
    )


def campaign_shown(found: link_pb2.Campaign) -> CampaignShown:
    """Shows a campaign."""
    return CampaignShown(found.name, found.display_name, time_text(found, "create_time"), found.revision)


def message_shown(found: link_pb2.Message) -> MessageShown:
    """Shows a message."""
    return MessageShown(
        name=found.name,
        client=found.client,
        campaign=found.campaign or None,
        channel=CHANNEL.word(found.channel),
        send_time=time_text(found, "send_time"),
        delivery_status=DELIVERY_STATUS.word(found.delivery_status),
        deadline_time=time_text(found, "deadline_time"),
        deliveries=[
            DeliveryShown(DELIVERY_STATUS.word(delivery.status), time_text(delivery, "event_time"))
            for delivery in found.deliveries
        ],
        create_time=time_text(found, "create_time"),
        revision=found.revision,
    )


def link_shown(found: link_pb2.Link) -> LinkShown:
    """Shows a link."""
    return LinkShown(
        name=found.name,
        url=found.uri or None,
        portal=found.portal,
        page=found.page or None,
        client=found.client or None,
        message=found.message or None,
        state=LINK_STATE.word(found.state),
        expire_time=time_text(found, "expire_time"),
        revoke_time=time_text(found, "revoke_time"),
        create_time=time_text(found, "create_time"),
        revision=found.revision,
    )


def redirect_shown(found: link_pb2.Redirect) -> RedirectShown:
    """Shows a redirect."""
    return RedirectShown(
        name=found.name,
        url=found.uri or None,
        display_name=found.display_name,
        target_uri=found.target_uri,
        active=found.active,
        create_time=time_text(found, "create_time"),
        update_time=time_text(found, "update_time"),
        revision=found.revision,
    )


def caller_shown(found: auth_pb2.Caller) -> CallerShown:
    """Shows who is asking."""
    return CallerShown(
        name=found.name,
        display_name=found.display_name,
        role=ROLE.word(found.role),
        permissions=sorted(found.permissions),
        own_clients_only=found.own_clients_only,
        agency=found.agency.name,
        agency_display_name=found.agency.display_name,
        time_zone=found.agency.time_zone,
    )


def entry_shown(found: reporting_pb2.TimelineEntry) -> dict[str, Any]:
    """Shows one thing that happened with a client: its kind, and the thing under that name."""
    kind = found.WhichOneof("entry")
    shown: dict[str, Any] = {"time": time_text(found, "time"), "kind": kind}
    if kind == "message":
        shown["message"] = message_shown(found.message)
    elif kind == "delivery":
        status = DELIVERY_STATUS.word(found.delivery.status)
        shown["delivery"] = {"message": found.delivery.message, "status": status}
    elif kind == "open":
        shown["open"] = open_json(found.open)
    return shown


def page_of(key: str, shown: list[Any], answer: Message) -> dict[str, Any]:
    """Shows one page of a list."""
    return {key: shown, "next_page_token": getattr(answer, "next_page_token", "") or None}
