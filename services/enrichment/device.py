"""What a user agent says about browser, operating system and kind of device. Reported, never proven."""

import importlib.util
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import ua_parser

# Parsing 64 KB of noise costs 700 times as much as 512 characters of it, and no browser says anything new after those.
AGENT_LIMIT = 512
# One string is at most 2 KB in memory, so this is 16 MB at the very worst and about 4 MB in practice.
CACHE_SIZE = 8_192

DeviceKind = Literal["mobile", "tablet", "desktop", "other"]


@dataclass(frozen=True)
class Device:
    """What a user agent reports. Empty text: it does not say, or what it says is known to be a fixed phrase."""

    kind: DeviceKind = "other"
    browser: str = ""
    browser_version: str = ""
    os: str = ""
    os_version: str = ""


UNKNOWN = Device()

_NAMES = {"Mac OS X": "macOS", "Chrome OS": "ChromeOS"}
_DESKTOP = frozenset(
    {
        *("Windows", "macOS", "ChromeOS", "Linux", "Ubuntu", "Debian", "Fedora", "Red Hat", "CentOS", "SUSE", "Gentoo"),
        *("Arch Linux", "Linux Mint", "Kubuntu", "FreeBSD", "OpenBSD", "NetBSD", "Solaris"),
    }
)
# Screens on a wall, consoles and headsets are neither of the three.
_ODD = re.compile(
    r"\btv\b|smart-?tv|googletv|appletv|hbbtv|netcast|web0s|\bbravia|\baft[a-z]{1,5}\b|crkey|roku|xbox|playstation"
    r"|nintendo|oculus|quest \d|\bvr\b|watch|dalvik/"
)
_TABLET = re.compile(r"ipad|tablet(?! pc)|kindle|playbook|nexus (?:7|9|10)\b")
_PHONE = re.compile(r"mobi|iphone|ipod|windows phone|opera mini|blackberry|symbian")


class SlowParser(Exception):
    """The parser that is quick enough is not installed; the service must not start without it."""


def require_fast_parser() -> None:
    """Raises unless ua-parser runs on its compiled engine; builds that engine now, not at the first open.

    Without it ua-parser falls back in silence to one that is 29 times slower, which shows only on the busiest day.
    """
    if importlib.util.find_spec("ua_parser_rs") is None:
        raise SlowParser("the package ua-parser-rs is missing; install ua-parser[regex]")
    read("")


def cut(user_agent: str) -> str:
    """Returns the part of a user agent that is looked at, without what no UTF-8 text can hold."""
    head = user_agent[:AGENT_LIMIT]
    return head if head.isascii() else head.encode("utf-8", "replace").decode("utf-8")


@lru_cache(maxsize=CACHE_SIZE)
def read(agent: str) -> Device:
    """Reads a user agent that `cut` has returned."""
    # Not `parse`, which looks for the model of the device too: the dearest third, and we do not show it.
    browser = ua_parser.parse_user_agent(agent)
    system = ua_parser.parse_os(agent)
    os = _NAMES.get(system.family, system.family) if system else ""
    numbers = (system.major, system.minor, system.patch) if system else ()
    browser_numbers = (browser.major, browser.minor, browser.patch, browser.patch_minor) if browser else ()
    return Device(
        kind=_kind_of(agent.lower(), os),
        browser=_told(browser.family) if browser else "",
        browser_version=_version(browser_numbers),
        os=_told(os),
        os_version=_os_version(os, _version(numbers), agent, browser.major if browser else None),
    )


def _told(family: str) -> str:
    return "" if family == "Other" else family[:100]


def _version(numbers: tuple[str | None, ...]) -> str:
    """Joins the parts that are there and leaves out zeros at the end: "124.0.0.0" is what people call 124."""
    parts: list[str] = []
    for number in numbers:
        if number is None:
            break
        parts.append(number)
    while len(parts) > 1 and parts[-1] == "0":
        parts.pop()
    return ".".join(parts)[:50]


def _os_version(os: str, version: str, agent: str, browser_major: str | None) -> str:
    """Says no more than the agent can know: browsers froze these numbers so that they no longer tell users apart."""
    if os == "Windows" and version == "10":
        return "10 or 11"
    if os == "macOS" and version in ("10.15", "10.15.7"):
        return "10.15 or later"
    if os == "Android" and "Android 10; K)" in agent:
        return ""
    if os == "iOS" and version.startswith("18.") and browser_major == "26":
        return f"{version} or later"
    # The number is that of a build of the system, which nobody calls its version.
    return "" if os == "ChromeOS" else version


def _kind_of(lowered: str, os: str) -> DeviceKind:
    """Decides the kind; "other" whenever the agent does not say enough."""
    # A Macintosh that calls itself mobile is an iPad, or an iPhone that was asked for the desktop site.
    if _ODD.search(lowered) or ("macintosh" in lowered and "mobile/" in lowered):
        return "other"
    silk_tablet = "silk/" in lowered and "mobi" not in lowered
    android_tablet = "android" in lowered and "mobi" not in lowered and "windows phone" not in lowered
    if _TABLET.search(lowered) or silk_tablet or android_tablet:
        return "tablet"
    if _PHONE.search(lowered):
        return "mobile"
    return "desktop" if os in _DESKTOP else "other"
