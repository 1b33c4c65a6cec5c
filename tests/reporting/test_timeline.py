"""The rules of a client's timeline."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.reporting.timeline import EntryKind, Place, from_values, to_values
from tests.reporting.sample import NOON

places = st.builds(
    Place,
    time=st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    kind=st.sampled_from([int(kind) for kind in EntryKind]),
    identifier=st.uuids(),
    status=st.integers(0, 5),
)


@given(places)
def test_a_place_survives_the_way_through_a_page_token(place: Place) -> None:
    assert from_values(to_values(place)) == place


def test_what_happens_at_one_instant_is_told_in_the_order_it_must_have_happened() -> None:
    one = UUID(int=1)
    message = Place(NOON, EntryKind.MESSAGE, one)
    delivered = Place(NOON, EntryKind.DELIVERY, one, 3)
    opened = Place(NOON, EntryKind.OPEN, one)
    assert message < delivered < opened < Place(NOON + timedelta(microseconds=1), EntryKind.MESSAGE, one)
