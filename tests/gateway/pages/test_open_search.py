"""The address of the Opens page: read strictly, and built again with one thing changed."""

from urllib.parse import parse_qsl, urlsplit

import pytest
from litestar.datastructures import MultiDict

from gateway.pages.open_search import LONGEST_TRAIL, Option, Search, search_of
from gateway.pages.times import Zone
from gateway.words import DEVICE, VERDICT
from services.chassis.errors import InvalidArgument

ZONE = Zone("America/Chicago")
PORTAL = "portals/01890000-0000-7000-8000-000000000001"


def _search(query: str) -> Search:
    return search_of(MultiDict(parse_qsl(query, keep_blank_values=True)), ZONE)


def test_a_search_becomes_a_filter() -> None:
    found = _search(
        f"client=Rivera&portal={PORTAL}&device=mobile&device=tablet&verdict=staff&network=AS7018&ip=10.0.0.0/8"
    )
    assert found.form.problems == []
    assert (found.filter.client, found.filter.portal, found.filter.network) == ("Rivera", PORTAL, "AS7018")
    assert [DEVICE.word(number) for number in found.filter.devices] == ["mobile", "tablet"]
    assert [VERDICT.word(number) for number in found.filter.verdicts] == ["staff"]
    assert found.filter.ip == "10.0.0.0/8"


def test_days_are_those_of_the_agency_and_both_included() -> None:
    found = _search("from=2026-11-23&to=2026-11-23")
    assert found.filter.start_time.ToJsonString() == "2026-11-23T06:00:00Z"
    assert found.filter.end_time.ToJsonString() == "2026-11-24T06:00:00Z"
    assert found.api_href("/api/v1/opens.csv").endswith(
        "from=2026-11-23T06%3A00%3A00.000Z&to=2026-11-24T06%3A00%3A00.000Z"
    )


def test_fields_left_empty_filter_nothing_and_leave_the_address() -> None:
    found = _search("client=&portal=&from=&to=&network=&ip=&device=")
    assert found.form.problems == []
    assert found.here() == "/opens"
    assert found.filter.ByteSize() == 0


@pytest.mark.parametrize(
    ("query", "field"),
    [
        pytest.param("from=2026-12-02&to=2026-12-01", "to", id="A04 from after to"),
        pytest.param("from=2026-02-31", "from", id="A04 no such day"),
        pytest.param("to=99999-01-01", "to", id="A04 year 99999"),
        pytest.param("device=toaster", "device-mobile", id="unknown device"),
        pytest.param("verdict=person_confirmed&verdict=x", "verdict-person_confirmed", id="one of two unknown"),
        pytest.param("portal=1", "portal", id="A07 no portal name"),
        pytest.param("portal=clients/01890000-0000-7000-8000-000000000001", "portal", id="A07 name of another kind"),
        pytest.param("client=" + "x" * 201, "client", id="A03 long"),
    ],
)
def test_a_wrong_value_is_a_problem_of_its_field(query: str, field: str) -> None:
    assert [problem.field for problem in _search(query).form.problems] == [field]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        pytest.param("agency_id=2", "agency_id", id="A09 extra field"),
        pytest.param("client=a&client=b", "client", id="A10 twice"),
    ],
)
def test_what_the_form_cannot_have_sent_is_refused(query: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        _search(query)
    assert [name for name, _ in caught.value.fields] == [field]


def test_each_filter_can_be_taken_away_alone() -> None:
    found = _search(f"client=Li&portal={PORTAL}&device=mobile&device=other")
    chips = {(chip.name, chip.value): chip.clear_href for chip in found.chips([Option(PORTAL, "Payments")])}
    assert parse_qsl(urlsplit(chips["Portal", "Payments"]).query) == [
        ("client", "Li"),
        ("device", "mobile"),
        ("device", "other"),
    ]
    assert ("device", "mobile") not in parse_qsl(urlsplit(chips["Device", "Mobile"]).query)


def test_older_and_newer_lead_back_to_where_one_was() -> None:
    first = _search("client=Li")
    second = _search(urlsplit(first.pages("token-2").older).query)
    third = _search(urlsplit(second.pages("token-3").older).query)
    assert (first.pages("").newer, first.pages("").older) == ("", "")
    assert third.page_token == "token-3"
    back = _search(urlsplit(third.pages("").newer).query)
    assert (back.page_token, back.trail) == ("token-2", [""])
    assert _search(urlsplit(back.pages("").newer).query).here() == "/opens?client=Li"


def test_the_way_back_does_not_grow_without_end() -> None:
    search = _search("client=Li")
    for page in range(LONGEST_TRAIL + 20):
        search = _search(urlsplit(search.pages(f"token-{page}").older).query)
    assert len(search.trail) == LONGEST_TRAIL
    assert search.trail[-1] == f"token-{LONGEST_TRAIL + 18}"
