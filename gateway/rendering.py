"""Pages: Jinja with autoescape and strict undefined, and what every template is given."""

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.response import Template

from gateway import notes
from gateway.access import gate_of, visitor_of

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = ROOT / "admin_ui" / "templates"
STATIC = ROOT / "admin_ui" / "static"


def static_version(folder: Path = STATIC) -> str:
    """Returns a version that changes with any static file, so that browsers may keep them for ever."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}|".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def environment() -> Environment:
    """Makes the Jinja environment; a name that a handler forgot is an error and not a hole in the page."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


def page_context(request: ASGIConnection[Any, Any, Any, Any]) -> dict[str, Any]:
    """Returns what every template is given besides its own view."""
    visitor = visitor_of(request)
    caller = visitor.caller if visitor else None
    assets: str = request.app.state.assets
    return {
        "caller": caller,
        "can": lambda permission: caller is not None and permission in caller.permissions,
        "csrf_token": gate_of(request).csrf_token(visitor),
        "asset": lambda path: f"{assets}/{quote(path)}",
        "path": request.url.path,
        "notes": notes.read(request),
    }


def page(request: Request[Any, Any, Any], template: str, *, status: int = 200, **view: Any) -> Template:
    """Renders a page or a fragment; notes left by the request before are shown once."""
    context = page_context(request) | view
    # Pages hold personal data: neither the browser nor anything between may keep them.
    answer = Template(template, context=context, status_code=status, headers={"cache-control": "no-store"})
    if context["notes"]:
        notes.forget(request, answer)
    return answer
