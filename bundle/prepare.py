"""Gets what is not in the tree: the assets of the staff pages, and the data about networks and places.

Both are kept in the user's cache folder, where all copies of OpenNotice share them. Each is made aside and moved into
place whole; of two copies that prepare at once the second waits and finds it done.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bundle.asn_file import build_asn_file
from bundle.cache import Say, alone, cache_folder
from bundle.node import ROOT, find_node
from bundle.program import HostFault

_UI = ROOT / "admin_ui"
_VENDOR = _UI / "static" / "vendor"
_IP_LOCK_FOLDER = ROOT / "bundle" / "ip_data"


def ip_data_folder() -> Path:
    """Returns the folder with the .mmdb files that belong to the locked versions."""
    return cache_folder() / f"ip-data-{_hash([_IP_LOCK_FOLDER / 'package-lock.json', ROOT / 'bundle' / 'asn_file.py'])}"


def ip_data_are_ready() -> bool:
    """Tells whether the data are there; they appear whole or not at all."""
    return ip_data_folder().is_dir()


def web_assets_are_ready() -> bool:
    """Tells whether the assets are those that our sources make."""
    mark = _VENDOR / "SOURCES"
    return mark.exists() and mark.read_text() == _web_key()


def _web_key() -> str:
    sources = [_UI / "package-lock.json", _UI / "build.mjs", *(_UI / "src").rglob("*")]
    return _hash([source for source in sorted(sources) if source.is_file()])


def _hash(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def prepare_ip_data(say: Say) -> None:
    """Downloads the lists and builds the .mmdb files, unless they are there."""
    target = ip_data_folder()
    with alone("ip-data", say):
        if ip_data_are_ready():
            return
        work = target.with_name(f"{target.name}.{os.getpid()}")
        work.mkdir()
        try:
            for name in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy(_IP_LOCK_FOLDER / name, work)
            say("downloading the data about networks and places (90 MB)")
            find_node(say).install(work)
            say("building the file of networks")
            packages = work / "node_modules" / "@ip-location-db"
            ready = work / "ready"
            ready.mkdir()
            build_asn_file(packages / "asn", ready / "asn.mmdb", _published(packages / "asn"))
            for file in (packages / "dbip-city-mmdb").glob("*.mmdb"):
                file.rename(ready / file.name)
            for licence in [*packages.glob("*/*LICENSE"), *packages.glob("*/MODIFICATIONS")]:
                shutil.copy(licence, ready / f"{licence.parent.name}-{licence.name}")
            ready.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _published(package: Path) -> datetime:
    """Returns the day of the data, which their packages carry in the version: 2.3.2026061719."""
    version = json.loads((package / "package.json").read_text())["version"]
    return datetime.strptime(version.split(".")[2][:8], "%Y%m%d").replace(tzinfo=UTC)


def prepare_web_assets(say: Say) -> None:
    """Puts the built assets into the tree: from the cache, or built now."""
    key = _web_key()
    kept = cache_folder() / f"web-{key}"
    with alone("web", say):
        if web_assets_are_ready():
            return
        if not kept.is_dir():
            node = find_node(say)
            installed = _UI / "node_modules" / ".package-lock.json"
            if not installed.exists() or installed.stat().st_mtime < (_UI / "package-lock.json").stat().st_mtime:
                say("downloading the design system of the staff pages (15 MB)")
                node.install(_UI)
            node.build(_UI, "build.mjs")
            (_VENDOR / "SOURCES").write_text(key)
            fresh = kept.with_name(f"{kept.name}.{os.getpid()}")
            shutil.copytree(_VENDOR, fresh)
            fresh.rename(kept)
            return
        fresh = _VENDOR.with_name(f"vendor.new-{os.getpid()}")
        shutil.copytree(kept, fresh)
        shutil.rmtree(_VENDOR, ignore_errors=True)
        fresh.rename(_VENDOR)


_PARTS: dict[str, tuple[str, Callable[[Say], None], str]] = {
    "ip": (
        "data about networks and places",
        prepare_ip_data,
        "opens are recorded without network and place until the next start",
    ),
    "web": ("assets of the staff pages", prepare_web_assets, "staff pages look plain until the next start"),
}


def main(parts: list[str]) -> int:
    """Prepares the named parts, or all; a failure is told in one line and is not the end of anything."""
    failed = 0
    for part in parts or list(_PARTS):
        title, prepare, without = _PARTS[part]
        started = time.monotonic()
        try:
            prepare(print)
        except (HostFault, OSError, ValueError) as error:
            failed += 1
            print(f"warning: no {title}: {error}; {without}")
        else:
            print(f"{title}: ready ({time.monotonic() - started:.0f} s)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
