"""Where pages come from: Jinja with autoescape and strict undefined, and static files with their version in the path."""

import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

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
