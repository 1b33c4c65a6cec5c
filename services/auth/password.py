"""Rules about passwords: which are accepted, how they are kept, and how one is made."""

import asyncio
import re
import secrets
import unicodedata
from collections.abc import Iterable

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

SHORTEST = 15
LONGEST = 128
# No look-alikes (0 and o, 1 and l), because made passwords are read from paper and typed.
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_ROWS = (
    "0123456789",
    "abcdefghijklmnopqrstuvwxyz",
    "qwertyuiopasdfghjklzxcvbnm",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p",
)
# What people write when they are asked for fifteen characters. Short common passwords are refused by their length, also
# when they are lengthened by digits, signs or by themselves, so this list can be short.
_COMMON = frozenset(
    """
    password passwort passw0rd p@ssword p@ssw0rd passphrase mypassword newpassword secret letmein welcome changeme
    administrator admin superuser root user guest test testing temporary default qwerty qwertyuiop azerty iloveyou
    opennotice court courthouse courtadmin probation probationoffice probationofficer publicdefender clerk clerkofcourt
    justice judge hearing notice agency government county monkey dragon sunshine princess football baseball superman
    batman trustno1 whatever starwars master login hello january february march april may june july august september
    october november december spring summer autumn winter correcthorsebatterystaple thisismypassword
    thisisapassword iforgotmypassword passwordpassword letmeinletmein thequickbrownfox
    """.split()  # noqa: SIM905  (a list of quoted words would be twice as long and harder to read)
)
_PADDING = re.compile(r"^[\W\d_]+|[\W\d_]+$")
_GAPS = re.compile(r"[\s._-]+")


def normal_form(password: str) -> str:
    """Returns the one form of a password that different keyboards may send in several."""
    return unicodedata.normalize("NFC", password)


def fault(password: str, *, own_words: Iterable[str]) -> str | None:
    """Returns why a new password is refused, or None. Only length and guessability count, never kinds of characters."""
    chosen = normal_form(password)
    if len(chosen) < SHORTEST:
        return f"must have at least {SHORTEST} characters"
    if len(chosen) > LONGEST:
        return f"must have at most {LONGEST} characters"
    if "\0" in chosen:
        return "must not contain the character NUL"
    if chosen.casefold() in {normal_form(word).casefold() for word in own_words}:
        return "must not be your e-mail address or a name"
    if _is_common(chosen):
        return "is too easy to guess; choose several words that do not belong together"
    return None


def make() -> str:
    """Makes a password of 100 random bits in four groups."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(5)) for _ in range(4))


def _is_common(password: str) -> bool:
    plain = _GAPS.sub("", password.casefold())
    unit = _repeated_unit(plain)
    words = {plain, unit, _PADDING.sub("", plain), _PADDING.sub("", unit)}
    return len(set(plain)) < 5 or len(unit) < 8 or bool(words & _COMMON) or "" in words or _is_row(plain)


def _repeated_unit(text: str) -> str:
    """Returns the shortest text that makes up the whole by repetition, cut off anywhere."""
    for size in range(1, len(text) // 2 + 1):
        if (text[:size] * (len(text) // size + 1))[: len(text)] == text:
            return text[:size]
    return text


def _is_row(text: str) -> bool:
    """Whether a text only runs along the keyboard, the digits or the alphabet, forwards or backwards."""
    return any(text in line * 8 for row in _ROWS for line in (row, row[::-1]))


class Hasher:
    """Hashes and checks passwords with Argon2id, off the event loop and few at a time."""

    def __init__(self, *, at_once: int = 2) -> None:
        # OWASP's choice, 0.03 s of one core. The costlier ones would let a hundred sign-ins at once take half a minute
        # of both cores of a small server, which also has visitors to answer; five tries an account are few enough.
        self._argon2 = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._places = asyncio.Semaphore(at_once)
        self._nobody = self._argon2.hash(secrets.token_urlsafe(32))

    async def hash(self, password: str) -> str:
        """Returns what is stored of a password."""
        async with self._places:
            return await asyncio.to_thread(self._argon2.hash, normal_form(password))

    async def matches(self, password: str, stored: str | None) -> bool:
        """Whether a password is the stored one. Without a stored one the same work is done and the answer is no.

        So that how long an answer takes does not tell whether an account exists.
        """
        async with self._places:
            right = await asyncio.to_thread(self._verify, normal_form(password), stored or self._nobody)
        return right and stored is not None

    def _verify(self, password: str, stored: str) -> bool:
        try:
            return self._argon2.verify(stored, password)
        except VerifyMismatchError:
            return False
