"""One-time notes ("Link created.") that survive the redirect after a POST, in a signed cookie of a minute."""

import base64
import hmac
import json
from dataclasses import dataclass
from typing import Any, Literal

from litestar import Response
from litestar.connection import ASGIConnection

from gateway.access import gate_of, visitor_of

COOKIE = "opennotice_note"
SECONDS = 60
LONGEST_TEXT = 500

Kind = Literal["success", "info", "warning", "error"]


@dataclass(frozen=True)
class Note:
    """What the person who just did something is told."""

    text: str
    kind: str


def leave(
    request: ASGIConnection[Any, Any, Any, Any], response: Response[Any], text: str, kind: Kind = "success"
) -> None:
    """Leaves a note for the next page of the same session."""
    body = base64.urlsafe_b64encode(json.dumps([text[:LONGEST_TEXT], kind]).encode()).decode().rstrip("=")
    gate = gate_of(request)
    response.set_cookie(gate.cookie(COOKIE, f"{body}.{gate.signature(visitor_of(request), body)}", SECONDS))


def read(request: ASGIConnection[Any, Any, Any, Any]) -> list[Note]:
    """Returns the notes left for this page; none when they are forged or of another session."""
    body, _, signature = request.cookies.get(COOKIE, "").partition(".")
    wanted = gate_of(request).signature(visitor_of(request), body)
    if not body or not hmac.compare_digest(signature.encode(), wanted.encode()):
        return []
    text, kind = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return [Note(text, kind)]


def forget(request: ASGIConnection[Any, Any, Any, Any], response: Response[Any]) -> None:
    """Takes the notes from the browser once they were shown."""
    response.set_cookie(gate_of(request).cookie(COOKIE, "", 0))
