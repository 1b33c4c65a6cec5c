"""What clients see of us: plain pages, readable on an old phone, without script, nothing loaded from anywhere."""

import base64
import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from services.tracking.link import Page, Portal

_FOLDER = Path(__file__).resolve().parent
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# Stands for the token in pages that are kept rendered. As long as a token, so that the length is known beforehand, and
# not to be foreseen: who writes a page must not be able to put the visitor's token into an address of somebody else.
_TOKEN_PLACE = secrets.token_urlsafe(16)
_STYLE = (_FOLDER / "page.css").read_text(encoding="utf-8")
_ENVIRONMENT.globals["style"] = _STYLE

# Only our own style element; no script, image, frame, form or base. A page that was tampered with can do nothing.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A page as bytes, with places for the token."""

    body: bytes

    def for_token(self, token: str) -> bytes:
        """Returns the page with links that lead on from this visit."""
        return self.body.replace(_TOKEN_PLACE.encode(), token.encode())


def _render(name: str, **values: object) -> bytes:
    return _ENVIRONMENT.get_template(name).render(**values).encode()


def hosted(portal: Portal, page: Page) -> Rendered:
    """Renders a page of a hosted portal with a way to its other pages. The text was sanitized by link."""
    others = [(slug, title) for slug, title in zip(portal.slugs, portal.titles, strict=True)]
    return Rendered(
        _render("hosted.html", title=page.title, html=page.html, slug=page.slug, pages=others, token=_TOKEN_PLACE)
    )


EXPIRED = _render("expired.html")
ENDED = _render("ended.html")
UNKNOWN = _render("unknown.html")
UNAVAILABLE = _render("unavailable.html")
TOO_MANY = _render("too_many.html")
NO_SUCH_PAGE = Rendered(_render("no_such_page.html", token=_TOKEN_PLACE))
