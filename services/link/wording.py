"""Text that people type: what is refused, and the form in which it is searched and sorted."""

import re
import unicodedata
from collections.abc import Callable

# Notes one wrong field: its path in the request, and what is wrong with it.
Fault = Callable[[str, str], None]

_MAIL_LOCAL = re.compile(r"[^\s@\"(),:;<>\[\]\\]{1,64}")
_MAIL_DOMAIN = re.compile(r"(?=.{1,253}\Z)[^\W_](?:[\w-]{0,61}[^\W_])?(?:\.[^\W_](?:[\w-]{0,61}[^\W_])?)+")


def check_text(
    value: str, field: str, longest: int, fault: Fault, *, required: bool = True, lines: bool = False
) -> None:
    """Notes a fault unless the text may be stored as typed: a length, something to see, no control characters.

    Bidi controls and other invisible characters are kept, since names need them; a text of nothing else is refused.
    """
    if not value:
        if required:
            fault(field, "must not be empty")
        return
    if len(value) > longest:
        fault(field, f"must be at most {longest:,} characters")
    elif any(unicodedata.category(char) == "Cc" and not (lines and char in "\t\n\r") for char in value):
        fault(field, "must not contain control characters")
    elif all(unicodedata.category(char)[0] in "ZC" for char in value):
        fault(field, "must contain something that can be seen")


def check_mail_address(value: str, field: str, fault: Fault) -> None:
    """Notes a fault unless the text is empty or looks like one e-mail address."""
    if not value:
        return
    local, _, domain = value.rpartition("@")
    fits = len(value) <= 254 and _MAIL_LOCAL.fullmatch(local) and _MAIL_DOMAIN.fullmatch(domain)
    if not fits or any(unicodedata.category(char)[0] in "ZC" for char in value):
        fault(field, "must be an e-mail address like name@example.org")


def search_form(text: str) -> str:
    """Returns the text without case and accents, so that "jose" finds "José" and both sort together."""
    folded = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in folded if not unicodedata.combining(char)).casefold()
