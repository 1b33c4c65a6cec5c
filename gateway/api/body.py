"""Request bodies: JSON of a declared shape; an unknown field, a missing one or a wrong value is an error naming it."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from litestar import Request
from msgspec import UNSET, Meta, Struct, UnsetType

from services.chassis.errors import InvalidArgument, invalid

T = TypeVar("T", bound=Struct)

Moment = Annotated[datetime, Meta(tz=True, description="RFC 3339 with its offset.")]
Name = Annotated[str, Meta(description="1 to 200 characters, no control characters.")]
RequestId = Annotated[str, Meta(description="A UUID of yours: the same one twice creates once.")]
Revision = Annotated[
    int,
    Meta(ge=0, le=2**63 - 1, description="The revision you saw; another one is a conflict. 0 or absent: not checked."),
]
Status = Literal["queued", "sent", "delivered", "bounced", "failed"]


class Body(Struct, kw_only=True, forbid_unknown_fields=True):
    """What every body has in common: nothing more than is declared."""


class PageBody(Body):
    """One page of a hosted portal."""

    slug: Annotated[str, Meta(description="Last part of its address: 1 to 60 of a-z, 0-9 and -.")]
    title: Name
    markdown: Annotated[str, Meta(description="CommonMark with tables, at most 20,000 characters.")] = ""


class PortalBody(Body):
    """A portal to create."""

    display_name: Name
    kind: Literal["external", "hosted"]
    target_uri: Annotated[str | None, Meta(description="Where an external portal lives: https, an allowed host.")] = (
        None
    )
    pages: Annotated[list[PageBody], Meta(description="Pages of a hosted portal; the first is the default.")] = []
    active: bool | None = None
    request_id: RequestId | None = None


class PortalChange(Body):
    """What to change of a portal; what is not sent stays."""

    display_name: Name | UnsetType = UNSET
    target_uri: str | UnsetType = UNSET
    active: bool | UnsetType = UNSET
    pages: list[PageBody] | UnsetType = UNSET
    revision: Revision = 0


class ClientBody(Body):
    """A client to create."""

    display_name: Name
    ref: Annotated[str | None, Meta(description="Your own id of the client, unique in the agency.")] = None
    email: str | None = None
    phone: str | None = None
    officer: Annotated[str | None, Meta(description="users/{id} of the clerk or officer whose client this is.")] = None
    request_id: RequestId | None = None


class ClientChange(Body):
    """What to change of a client; what is not sent stays, null empties."""

    display_name: Name | UnsetType = UNSET
    ref: str | UnsetType | None = UNSET
    email: str | UnsetType | None = UNSET
    phone: str | UnsetType | None = UNSET
    officer: str | UnsetType | None = UNSET
    revision: Revision = 0


class CampaignBody(Body):
    """A campaign to create."""

    display_name: Name
    request_id: RequestId | None = None


class MessageBody(Body):
    """A message to record."""

    client: Annotated[str, Meta(description="clients/{id}.")]
    channel: Literal["sms", "email"]
    campaign: Annotated[str | None, Meta(description="campaigns/{id}.")] = None
    send_time: Moment | None = None
    delivery_status: Status | None = None
    deadline_time: Annotated[Moment | None, Meta(description="The hearing or due date it is about.")] = None
    request_id: RequestId | None = None


class DeliveryBody(Body):
    """What became of a message."""

    status: Status
    event_time: Annotated[Moment | None, Meta(description="When it happened. Default: now.")] = None


class LinkBody(Body):
    """A link to create."""

    portal: Annotated[str, Meta(description="portals/{id}.")]
    page: Annotated[str | None, Meta(description="Slug of a page; none: the portal's first.")] = None
    client: Annotated[str | None, Meta(description="clients/{id}; none makes a shared link.")] = None
    message: Annotated[str | None, Meta(description="messages/{id} of the same client.")] = None
    expire_time: Annotated[Moment | None, Meta(description="None: never.")] = None
    request_id: RequestId | None = None


class ExtendBody(Body):
    """A new expiry."""

    expire_time: Annotated[Moment | None, Meta(description="In the future; null: never.")]


class RedirectBody(Body):
    """A redirect to create."""

    display_name: Name
    target_uri: Annotated[str, Meta(description="https, an allowed host.")]
    active: bool | None = None
    request_id: RequestId | None = None


class RedirectChange(Body):
    """What to change of a redirect; what is not sent stays."""

    display_name: Name | UnsetType = UNSET
    target_uri: str | UnsetType = UNSET
    active: bool | UnsetType = UNSET
    revision: Revision = 0


class EmptyBody(Body):
    """Nothing."""


async def read_body(request: Request[Any, Any, Any], shape: type[T]) -> T:
    """Reads a body of a shape; no body is an empty object."""
    sent = await request.body()
    if sent and request.content_type[0] not in ("application/json", ""):
        raise invalid("body", "must be JSON with content-type application/json", "BODY_MALFORMED")
    try:
        return msgspec.json.decode(sent or b"{}", type=shape)
    except msgspec.ValidationError as error:
        raise _named(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid("body", f"is not JSON: {str(error)[:200]}", "BODY_MALFORMED") from None


def _named(told: str) -> InvalidArgument:
    """Turns "Expected `str`, got `int` - at `$.display_name`" into the field and what is wrong with it."""
    message, _, place = told.partition(" - at ")
    path = place.strip("`").removeprefix("$").lstrip(".")
    if match := re.search(r"(unknown|missing required) field `([^`]*)`", message):
        path = f"{path}.{match[2]}" if path else match[2]
        message = "is not a field of this request" if match[1] == "unknown" else "is required"
    elif match := re.fullmatch(r"Invalid enum value (.*)", message):
        message = "is none of the words for it"
    else:
        message = f"is wrong: {message[:1].lower()}{message[1:]}"
    return invalid(path[:200] or "body", message)
