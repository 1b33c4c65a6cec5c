"""Templates to text: autoescaped, strict about what is missing; and static files with their version in the address."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

ADMIN_UI = Path(__file__).resolve().parents[2] / "admin_ui"

_environment = Environment(
    loader=FileSystemLoader(ADMIN_UI / "templates"),
    autoescape=True,
    # A name that a handler forgot is an error and not a hole in the page.
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def text_of(template: str, **context: Any) -> str:
    """Renders a template as text."""
    return _environment.get_template(template).render(**context)


@cache
def assets_prefix() -> str:
    """Returns where styles and scripts are served; it changes with any file, so browsers may keep them for ever."""
    folder = ADMIN_UI / "static"
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}|".encode() + path.read_bytes())
    return f"/static/{digest.hexdigest()[:12]}"
