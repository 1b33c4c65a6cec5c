"""Page tokens are opaque, bound to their query and cannot be forged."""

import pytest
from cryptography.fernet import Fernet

from services.chassis.errors import InvalidArgument
from services.chassis.paging import Pages, page_size, scope_of

PAGES = Pages(Fernet.generate_key().decode())
SCOPE = scope_of("ListOpens", "agency", b"filter")


def test_a_token_gives_back_its_values() -> None:
    token = PAGES.encode(SCOPE, [1_700_000_000_123, "id"])
    assert PAGES.decode(SCOPE, token) == [1_700_000_000_123, "id"]
    assert PAGES.decode(SCOPE, "") is None


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(PAGES.encode(scope_of("ListOpens", "agency", b"other"), [1]), id="G09 of another query"),
        pytest.param(PAGES.encode(scope_of("ListOpens", "other", b"filter"), [1]), id="of another agency"),
        pytest.param(Pages(Fernet.generate_key().decode()).encode(SCOPE, [1]), id="G09 forged"),
        pytest.param(PAGES.encode(SCOPE, [1])[:-5] + "AAAA=", id="A05 altered"),
        pytest.param("nonsense", id="A05 text"),
        pytest.param("é" * 10, id="not ASCII"),
    ],
)
def test_any_other_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        PAGES.decode(SCOPE, token)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize(("asked", "given"), [(0, 50), (1, 1), (200, 200), (201, 200), (2**31 - 1, 200)])
def test_sizes_have_a_default_and_a_limit(asked: int, given: int) -> None:
    assert page_size(asked) == given


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        page_size(-1)
