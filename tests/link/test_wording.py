"""Text as people type it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.link.wording import check_mail_address, check_text, search_form


def faults_of(value: str, longest: int = 200) -> list[str]:
    found: list[str] = []
    check_text(value, "name", longest, lambda _, message: found.append(message))
    return found


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("<script>alert(1)</script>", id="A02-script"),
        pytest.param("{{7*7}}", id="A02-braces"),
        pytest.param("${7*7}", id="A02-dollar"),
        pytest.param("\u202eevil\u202c", id="A02-bidi"),
        pytest.param("👩‍⚖️ Judge", id="A02-emoji"),
        pytest.param("Z\u0351\u0324a", id="A02-combining"),
        pytest.param("O'Brien; drop table clients --", id="A02-quote"),
        pytest.param(" padded ", id="A02-padded"),
    ],
)
def test_what_can_be_seen_is_kept_as_typed(value: str) -> None:
    assert not faults_of(value)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="A02-empty"),
        pytest.param("   ", id="A02-only-spaces"),
        pytest.param("\u00a0\u2003\u200b", id="A02-only-invisible"),
        pytest.param("a\0b", id="A02-NUL"),
        pytest.param("a\nb", id="A02-newline"),
        pytest.param("a\x9bb", id="A02-C1-control"),
        pytest.param("a" * 10_000, id="A02-10,000-characters"),
    ],
)
def test_what_cannot_be_stored_or_seen_is_refused(value: str) -> None:
    assert len(faults_of(value)) == 1


@pytest.mark.parametrize("address", ["a@b.example", "jane.o'hara+case@mail.court.example", "josé@münchen.example"])
def test_mail_addresses_in_use_are_accepted(address: str) -> None:
    found: list[str] = []
    check_mail_address(address, "email", lambda name, _: found.append(name))
    assert not found


@pytest.mark.parametrize(
    "address",
    [
        "a", "a@b", "a@@b.example", "a b@c.example", "a@b.example\n", "a@b.example, c@d.example", "<a@b.example>",
        "@b.example", "a@-b.example", f"{'a' * 65}@b.example", f"a@{'b' * 250}.example", "a\0@b.example",
        "a@b\u202e.example",
    ],
)  # fmt: skip
def test_what_is_no_mail_address_is_refused(address: str) -> None:
    found: list[str] = []
    check_mail_address(address, "email", lambda name, _: found.append(name))
    assert found == ["email"]


def test_names_are_found_without_case_and_accents() -> None:
    assert search_form("José ÅNGSTRÖM Straße") == "jose angstrom strasse"


@given(st.text(max_size=50))
def test_the_search_form_is_stable(text: str) -> None:
    assert search_form(search_form(text)) == search_form(text)


@given(st.text(min_size=1, max_size=20), st.text(max_size=10), st.text(max_size=10))
def test_a_part_of_a_plain_name_is_found_in_it(part: str, before: str, after: str) -> None:
    plain = "".join(char for char in part if char.isascii())
    assert search_form(plain.upper()) in search_form(f"{before}|{plain}|{after}")
