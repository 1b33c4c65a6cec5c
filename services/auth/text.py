"""Rules about short texts that people type."""

import re
import unicodedata

# An e-mail address has this many characters at most because a mail server accepts no longer path.
EMAIL_LIMIT = 254
NAME_LIMIT = 200
_EMAIL = re.compile(r"[^\s@]{1,64}@[^\s@]{1,253}")


def display_name(value: str) -> str:
    """Returns a name as typed; raises ValueError for an empty, too long or unprintable one."""
    if not value.strip():
        raise ValueError("must not be empty")
    if len(value) > NAME_LIMIT:
        raise ValueError(f"must have at most {NAME_LIMIT} characters")
    if not is_printable(value):
        raise ValueError("must not contain control characters")
    return value


def email(value: str) -> str:
    """Returns an e-mail address as typed; raises ValueError for what cannot be one."""
    if len(value) > EMAIL_LIMIT:
        raise ValueError(f"must have at most {EMAIL_LIMIT} characters")
    if not is_printable(value) or not _EMAIL.fullmatch(value):
        raise ValueError("must be an e-mail address like name@example.org")
    return value


def email_key(value: str) -> str:
    """Returns the form in which two spellings of one e-mail address are equal."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", value).casefold())


def is_printable(value: str) -> bool:
    """Whether a text holds no control character and no half of a surrogate pair, which PostgreSQL cannot store."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in value)
