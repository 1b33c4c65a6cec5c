"""Forged requests: a page of another site must not act with the session of somebody who is signed in here.

Two checks, because each has gaps. The browser says where a request comes from (Sec-Fetch-Site, or Origin where it is
older). And every form and every htmx request carries a token that only a page of this session can know: an HMAC of the
session, so nothing has to be stored and the token of another person or of an earlier session never fits.
"""

import base64
import hashlib
import hmac
from typing import Any
from urllib.parse import urlsplit

from litestar import Request

HEADER = "x-csrf-token"
FIELD = "csrf_token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def token_for(key: str, session: str) -> str:
    """Returns the token that belongs to one session."""
    digest = hmac.new(key.encode(), b"csrf|" + hashlib.sha256(session.encode()).digest(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def foreign_origin(request: Request[Any, Any, Any]) -> str | None:
    """Says why a request cannot come from our own pages; None when it may."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return None if site in ("same-origin", "none") else f"sec-fetch-site is {site[:20]}"
    origin = request.headers.get("origin")
    # The Host header was checked before, and a browser lets no page choose it.
    if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower():
        return "origin is another site"
    return None


async def token_fault(request: Request[Any, Any, Any], key: str, session: str) -> str | None:
    """Says why the token of a request does not fit its session; None when it does."""
    sent = request.headers.get(HEADER)
    if sent is None and request.content_type[0] in ("application/x-www-form-urlencoded", "multipart/form-data"):
        value = (await request.form()).get(FIELD)
        sent = value if isinstance(value, str) else None
    if not sent:
        return "token missing"
    if not hmac.compare_digest(sent.encode(), token_for(key, session).encode()):
        return "token of another session"
    return None
