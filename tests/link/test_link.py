"""The rules about links and messages."""

from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import UUID

import pytest

from services.link.link import Link, LinkDraft, LinkState, PortalPages, Surroundings, refusal_of, state_of
from services.link.message import Delivery, newest_status, too_far_ahead
from services.link.once import digest_of

NOW = datetime(2026, 3, 3, 9, tzinfo=UTC)
PORTAL, CLIENT, OTHER, MESSAGE = (UUID(int=number) for number in range(1, 5))
AROUND = Surroundings(
    portals={PORTAL: PortalPages(PORTAL, frozenset({"payment"}))},
    clients=frozenset({CLIENT, OTHER}),
    messages={MESSAGE: CLIENT},
    own_clients_only=False,
)


def draft(**fields: object) -> LinkDraft:
    given = {
        "portal_id": PORTAL,
        "page": "",
        "client_id": CLIENT,
        "message_id": None,
        "expire_time": None,
        "request_id": None,
    }
    return LinkDraft(**(given | fields))  # type: ignore[arg-type]


def a_link(expire_time: datetime | None, revoke_time: datetime | None, portal_open: bool) -> Link:
    return Link(
        link_id=UUID(int=9),
        agency_id=UUID(int=8),
        portal_id=PORTAL,
        page="",
        client_id=None,
        message_id=None,
        expire_time=expire_time,
        revoke_time=revoke_time,
        token_hash=b"",
        key_version=1,
        create_time=NOW,
        revision=1,
        portal_open=portal_open,
    )


@pytest.mark.parametrize(
    ("expired", "revoked", "portal_open"), list(product((False, True), repeat=3)), ids=lambda value: str(value)
)
def test_of_several_states_revoked_then_expired_then_portal_inactive_counts(
    expired: bool, revoked: bool, portal_open: bool
) -> None:
    link = a_link(NOW if expired else None, NOW if revoked else None, portal_open)
    expected = (
        LinkState.REVOKED
        if revoked
        else LinkState.EXPIRED
        if expired
        else LinkState.ACTIVE
        if portal_open
        else LinkState.PORTAL_INACTIVE
    )
    assert state_of(link, NOW) is expected


def test_a_link_expires_at_its_very_millisecond() -> None:
    link = a_link(NOW, None, True)
    assert state_of(link, NOW - timedelta(milliseconds=1)) is LinkState.ACTIVE
    assert state_of(link, NOW) is LinkState.EXPIRED


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        pytest.param({}, None, id="personal"),
        pytest.param({"client_id": None}, None, id="shared"),
        pytest.param({"page": "payment"}, None, id="page"),
        pytest.param({"message_id": MESSAGE}, None, id="message"),
        pytest.param({"portal_id": OTHER}, "PORTAL_UNKNOWN", id="unknown portal"),
        pytest.param({"page": "other"}, "PAGE_UNKNOWN", id="unknown page"),
        pytest.param({"client_id": PORTAL}, "CLIENT_UNKNOWN", id="unknown client"),
        pytest.param({"message_id": PORTAL}, "MESSAGE_UNKNOWN", id="unknown message"),
        pytest.param({"message_id": MESSAGE, "client_id": OTHER}, "MESSAGE_OF_OTHER_CLIENT", id="message of another"),
        pytest.param({"message_id": MESSAGE, "client_id": None}, "MESSAGE_OF_OTHER_CLIENT", id="message, no client"),
        pytest.param({"expire_time": NOW}, "EXPIRE_TIME_PAST", id="expires now"),
        pytest.param({"expire_time": NOW + timedelta(milliseconds=1)}, None, id="expires soon"),
    ],
)
def test_a_link_is_refused_for_one_reason(fields: dict[str, object], reason: str | None) -> None:
    refusal = refusal_of(draft(**fields), AROUND, NOW)
    assert (refusal and refusal.reason) == reason


def test_contents_differ_exactly_when_a_field_differs() -> None:
    variants = [
        draft(),
        draft(portal_id=OTHER),
        draft(page="payment"),
        draft(client_id=None),
        draft(message_id=MESSAGE),
        draft(expire_time=NOW),
        draft(expire_time=NOW + timedelta(milliseconds=1)),
    ]
    assert len({variant.digest() for variant in variants}) == len(variants)
    assert draft(request_id=OTHER).digest() == draft().digest()
    assert digest_of("a", "b", "c") != digest_of("a", "b', 'c") != digest_of("a", "bc")


@pytest.mark.parametrize(
    ("reports", "status"),
    [
        pytest.param([("sent", 0), ("delivered", 5)], "delivered", id="in order"),
        pytest.param([("delivered", 5), ("sent", 0)], "delivered", id="out of order"),
        pytest.param([("bounced", 9), ("delivered", 5)], "bounced", id="bounced later"),
        pytest.param([("delivered", 5), ("sent", 5)], "delivered", id="same instant"),
    ],
)
def test_the_newest_event_decides_the_delivery_status(reports: list[tuple[str, int]], status: str) -> None:
    deliveries = [Delivery(MESSAGE, word, NOW + timedelta(seconds=after)) for word, after in reports]
    assert newest_status(deliveries) == status


def test_a_report_may_be_a_day_ahead_and_no_more() -> None:
    assert not too_far_ahead(NOW + timedelta(days=1), NOW)
    assert too_far_ahead(NOW + timedelta(days=1, milliseconds=1), NOW)
