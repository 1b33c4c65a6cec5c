"""Which passwords are accepted, how they are kept, and how one is made."""

import pytest

from services.auth import password
from services.auth.password import Hasher

OWN = ("dana.reyes@court.example", "Dana Margarethe Reyes", "First District Court")


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param("correct battery herons", id="words"),
        pytest.param("x7#kQ9!mZ2@pL5$", id="A14-shortest"),
        pytest.param("kühle Nächte über Köln", id="A14-unicode"),
        pytest.param(" leading and trailing ", id="A14-spaces"),
        pytest.param(("seven quiet herons by the mill " * 5)[:128], id="A14-longest"),
        pytest.param("Dana Reyes likes herons", id="own name among other words"),
    ],
)
def test_length_and_guessability_are_all_that_counts(chosen: str) -> None:
    assert password.fault(chosen, own_words=OWN) is None


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        pytest.param("", "at least 15", id="A14-empty"),
        pytest.param("x7#kQ9!", "at least 15", id="A14-7-characters"),
        pytest.param("x7#kQ9!mZ2@pL5", "at least 15", id="A14-14-characters"),
        pytest.param("e\u0308" * 14, "at least 15", id="A14-14-characters-in-28-code-points"),
        pytest.param("x7#kQ9!mZ2@pL5$" * 9, "at most 128", id="A14-135-characters"),
        pytest.param("DANA.REYES@court.example", "e-mail", id="A14-own-address"),
        pytest.param("dana margarethe REYES", "name", id="A14-own-name"),
        pytest.param("first district court", "name", id="A14-agency-name"),
        pytest.param("seven quiet\0herons", "NUL", id="A14-nul"),
        pytest.param("correct horse battery staple", "guess", id="A14-from-a-comic"),
        pytest.param("passwordpassword", "guess", id="A14-twice-password"),
        pytest.param("Password1234567!", "guess", id="A14-padded"),
        pytest.param("OpenNotice-2026-2026", "guess", id="A14-product"),
        pytest.param("administrator!!!", "guess", id="A14-role"),
        pytest.param("aaaaaaaaaaaaaaaa", "guess", id="A14-one-letter"),
        pytest.param("abcabcabcabcabcabc", "guess", id="A14-three-letters"),
        pytest.param("123456789012345", "guess", id="A14-digits"),
        pytest.param("qwertyuiopasdfgh", "guess", id="A14-keyboard"),
        pytest.param("zyxwvutsrqponmlk", "guess", id="A14-alphabet-backwards"),
        pytest.param(" " * 20, "guess", id="A14-only-spaces"),
        pytest.param("2026-11-23-2026-11-23", "guess", id="A14-only-a-date"),
    ],
)
def test_a_weak_password_is_refused_with_its_reason(chosen: str, told: str) -> None:
    assert told in (password.fault(chosen, own_words=OWN) or "accepted")


def test_a_made_password_is_strong_by_its_own_rules_and_new_each_time() -> None:
    made = {password.make() for _ in range(100)}
    assert len(made) == 100
    assert all(len(each) == 23 and password.fault(each, own_words=OWN) is None for each in made)


async def test_a_password_is_kept_as_argon2id() -> None:
    stored = await Hasher().hash("seven quiet herons")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert "herons" not in stored


async def test_only_the_right_password_matches() -> None:
    hasher = Hasher()
    stored = await hasher.hash("seven quiet herons é")
    assert await hasher.matches("seven quiet herons é", stored)
    assert await hasher.matches("seven quiet herons e\u0301", stored), "two keyboards, one password"
    assert not await hasher.matches("seven quiet herons è", stored)
    assert not await hasher.matches("seven quiet herons é ", stored), "nothing is cut off"


async def test_without_an_account_nothing_matches() -> None:
    assert not await Hasher().matches("seven quiet herons", None)
