"""Tokens: derived, unguessable without the key, in two separate spaces."""

import base64
import re
from uuid import UUID

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.settings import SettingsFault, load
from services.link.settings import Settings
from services.link.token import LENGTH, TokenKeys, TokenKind, parse_keys, token_hash

KEYS = TokenKeys({1: bytes(range(32)), 2: bytes(range(1, 33))})
ONE = base64.b64encode(bytes(range(32))).decode()
TWO = base64.urlsafe_b64encode(bytes(range(200, 232))).decode()


def test_a_token_stays_the_same_for_ever() -> None:
    # Printed on paper: a change of this value breaks every link that was ever sent.
    identifier = UUID("01890000-0000-7000-8000-000000000001")
    assert KEYS.token(TokenKind.LINK, identifier, 1) == "GnvV_R_Ig9FzK0FZkyMdXA"
    assert KEYS.token(TokenKind.REDIRECT, identifier, 1) == "PCYe1EIwzUz9gNrubJ4W_Q"


@given(st.uuids(), st.uuids())
def test_tokens_differ_by_id_kind_and_key_and_fit_a_url(one: UUID, other: UUID) -> None:
    tokens = {
        KEYS.token(kind, identifier, version) for kind in TokenKind for identifier in {one, other} for version in (1, 2)
    }
    assert len(tokens) == 4 * len({one, other})
    assert all(re.fullmatch(rf"[A-Za-z0-9_-]{{{LENGTH}}}", token) for token in tokens)
    assert len({token_hash(token) for token in tokens}) == len(tokens)
    assert KEYS.token(TokenKind.LINK, one, 1) == KEYS.token(TokenKind.LINK, one, 1)


def test_keys_are_read_in_both_base64_alphabets_with_their_versions() -> None:
    assert parse_keys(ONE).by_version == {1: bytes(range(32))}
    both = parse_keys(f"1:{ONE}\n7:{TWO}\n")
    assert both.by_version == {1: bytes(range(32)), 7: bytes(range(200, 232))}
    assert both.newest == 7
    assert ONE not in repr(both)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(base64.b64encode(b"x" * 31).decode(), id="E05-31-bytes"),
        pytest.param("not base64 at all!", id="E05-not-base64"),
        pytest.param("A" * 45, id="E05-impossible-length"),
        pytest.param(f"1:{ONE}\n1:{TWO}", id="E05-version-twice"),
        pytest.param(f"1:{ONE}\n2:{ONE}", id="E05-same-key-twice"),
        pytest.param(f"{ONE}\n{TWO}", id="E05-no-versions"),
        pytest.param(f"0:{ONE}", id="E05-version-0"),
        pytest.param("", id="E05-empty"),
    ],
)
def test_a_key_that_is_too_weak_or_unclear_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_keys(text)
    assert not text or text not in str(refused.value)


def test_the_process_does_not_start_with_one_key_for_two_purposes() -> None:
    key = Fernet.generate_key().decode()
    environ = {
        "OPENNOTICE_PROBE_BIND": "127.0.0.1:1",
        "OPENNOTICE_IDENTITY_KEY": "x" * 50,
        "OPENNOTICE_IDENTITY_TRUST": "x" * 50,
        "OPENNOTICE_SERVE_DATABASE_URL": "postgresql://a@b/c",
        "OPENNOTICE_INGEST_DATABASE_URL": "postgresql://a@b/c",
        "OPENNOTICE_DIRECTORY_DATABASE_URL": "postgresql://a@b/c",
        "OPENNOTICE_NATS_URL": "nats://127.0.0.1:1",
        "OPENNOTICE_PAGING_KEY": key,
        "OPENNOTICE_LINK_TOKEN_KEY": key,
    }
    with pytest.raises(SettingsFault) as refused:
        load(Settings, environ)
    assert key not in str(refused.value)
    assert load(Settings, environ | {"OPENNOTICE_LINK_TOKEN_KEY": ONE}).token_keys.newest == 1
