"""Clients, and who of the staff may see them."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.link.wording import Fault, check_mail_address, check_text


@dataclass(frozen=True)
class Client:
    """The person a message is for."""

    client_id: UUID
    agency_id: UUID
    display_name: str
    search_name: str
    ref: str
    email: str
    phone: str
    officer_id: UUID | None
    create_time: datetime
    update_time: datetime
    revision: int


@dataclass(frozen=True)
class ClientText:
    """What staff may type about a client."""

    display_name: str
    ref: str
    email: str
    phone: str


def check_client(text: ClientText, fault: Fault) -> None:
    """Notes what is wrong with the text about a client."""
    check_text(text.display_name, "client.display_name", 200, fault)
    check_text(text.ref, "client.ref", 100, fault, required=False)
    check_mail_address(text.email, "client.email", fault)
    check_text(text.phone, "client.phone", 40, fault, required=False)
