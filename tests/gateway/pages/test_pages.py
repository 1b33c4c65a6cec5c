"""The pages over HTTP, on real services: what a person sees, changes and is refused."""

import re
import uuid
from typing import Any
from uuid import UUID

import httpx
import pytest
from opennotice.enrichment.v1 import events_pb2
from opennotice.link.v1 import link_pb2

from services.chassis.clock import now
from services.chassis.names import new_id
from tests.auth.conftest import PASSWORD, email_of
from tests.cast import ALICE, BOB, CHARLIE, DANA, MORGAN, SAM, Person
from tests.gateway.conftest import COOKIE, House, make_client, make_link, make_portal, until
from tests.reporting.sample import an_open

NOBODY = "01890000-0000-7000-8000-0000000000ff"


def _client_form(**fields: str) -> dict[str, str]:
    return {"display_name": "Ana Rivera", "request_id": str(uuid.uuid4()), "revision": "0"} | fields


def _id(made: dict[str, Any]) -> UUID:
    return UUID(made["name"].partition("/")[2])


def _open_of(
    link: dict[str, Any], client: dict[str, Any], portal: dict[str, Any], **more: Any
) -> events_pb2.OpenEnriched:
    return an_open(now(), link_id=_id(link), client_id=_id(client), portal_id=_id(portal), **more)


def _hidden(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, f"no field {name}"
    return found[1]


def _problems(answer: httpx.Response) -> list[str]:
    return re.findall(r'class="usa-error-message" id="([^"]+)-error"', answer.text)


@pytest.mark.parametrize(
    "path",
    ["/opens", "/clients", "/clients/new", "/portals", "/portals/opens", "/portals/new", "/portals/new/hosted",
     "/portals/new/external", "/redirects", "/redirects/new", "/account/password"],
)  # fmt: skip
def test_a_page_names_agency_and_time_zone_and_is_not_kept(house: House, path: str) -> None:
    answer = house.browser(DANA).get(path)
    assert answer.status_code == 200, answer.text
    assert "Times are shown in the time zone of" in answer.text
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/opens?client=x", "/clients", "/portals/new"])
def test_who_is_not_signed_in_is_led_to_sign_in_and_back(house: House, path: str) -> None:
    answer = house.stranger().get(path)
    assert answer.status_code == 303
    shown = house.stranger().get(answer.headers["location"])
    assert shown.status_code == 200
    assert _hidden(shown.text, "next").replace("&amp;", "&") == path


@pytest.mark.parametrize(
    "email",
    [
        pytest.param("nobody@first.example", id="unknown address"),
        pytest.param("not an address", id="no address"),
        pytest.param("x" * 300, id="long"),
        pytest.param(email_of(BOB), id="known address, wrong password"),
    ],
)
def test_sign_in_says_one_thing_for_every_reason(house: House, email: str) -> None:
    answer = house.stranger().post("/sign-in", data={"email": email, "password": "wrong", "next": "/"})
    assert answer.status_code == 401
    assert _problems(answer) == ["email"]
    assert "The e-mail address or the password is wrong." in answer.text
    assert COOKIE not in answer.cookies


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example", "/\\evil.example", "/sign-in", ""])
def test_sign_in_leads_to_no_other_site(house: House, wanted: str) -> None:
    form = {"email": email_of(MORGAN), "password": PASSWORD, "next": wanted}
    answer = house.stranger().post("/sign-in", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_a_client_is_added_once_however_often_the_form_is_sent(house: House) -> None:
    """A13: double click, back button, reload."""
    http, form = house.browser(DANA), _client_form(ref="A13")
    answers = [http.post("/clients/new", data=form) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {303}
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert "The client was added." in http.get(answers[0].headers["location"]).text


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        pytest.param({"display_name": ""}, "display_name", id="A02 empty"),
        pytest.param({"display_name": "x" * 10_000}, "display_name", id="A02 10,000 characters"),
        pytest.param({"display_name": "a\x00b"}, "display_name", id="A02 NUL"),
        pytest.param({"email": "no address"}, "email", id="e-mail address"),
        pytest.param({"phone": "5" * 41}, "phone", id="long phone"),
    ],
)
def test_a_wrong_client_is_shown_again_with_the_problem_next_to_its_field(
    house: House, fields: dict[str, str], problem: str
) -> None:
    answer = house.browser(DANA).post("/clients/new", data=_client_form(phone="555 0100") | fields)
    assert answer.status_code == 422, answer.text
    assert _problems(answer) == [problem]
    assert f'href="#{problem}"' in answer.text
    if problem != "phone":
        assert 'value="555 0100"' in answer.text


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "{{7*7}}", "${7*7}", "‮evil", "👩‍⚖️", "é́́"])
def test_a_strange_name_is_shown_as_typed(house: House, name: str) -> None:
    """A02: stored as typed, shown encoded, isolated from the text around it."""
    http = house.browser(DANA)
    answer = http.post("/clients/new", data=_client_form(display_name=name))
    if answer.status_code == 422:
        # Direction controls may be refused; then nothing is stored.
        assert _problems(answer) == ["display_name"]
        return
    page = http.get(answer.headers["location"]).text
    shown = name.replace("<", "&lt;").replace(">", "&gt;")
    assert f"<bdi>{shown}</bdi>" in page
    assert "<script>alert" not in page


def test_a_taken_id_is_a_problem_of_its_field(house: House) -> None:
    http, ref = house.browser(DANA), str(new_id())
    assert http.post("/clients/new", data=_client_form(ref=ref)).status_code == 303
    assert _problems(http.post("/clients/new", data=_client_form(ref=ref))) == ["ref"]


def test_of_two_people_who_change_a_client_the_second_is_told(house: House) -> None:
    """A12: nothing is lost."""
    client = make_client(house.api(), display_name="Two Editors")
    http = house.browser(DANA)
    revision = _hidden(http.get(f"/{client['name']}/edit").text, "revision")
    first = http.post(f"/{client['name']}/edit", data=_client_form(display_name="First", revision=revision))
    second = http.post(f"/{client['name']}/edit", data=_client_form(display_name="Second", revision=revision))
    assert first.status_code == 303
    assert second.status_code == 422
    assert "Somebody else changed this meanwhile" in second.text
    assert "First" in http.get(f"/{client['name']}").text


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({"agency_id": "2"}, id="A09 agency_id"),
        pytest.param({"is_locked": "false"}, id="A09 is_locked"),
        pytest.param({"display_name": ["a", "b"]}, id="A10 twice"),
    ],
)
def test_a_field_that_the_form_does_not_have_is_refused(house: House, extra: dict[str, Any]) -> None:
    answer = house.browser(DANA).post("/clients/new", data={**_client_form(), **extra})
    assert answer.status_code == 422
    assert next(iter(extra)) in answer.text


@pytest.mark.parametrize(
    "path", ["/clients/new", "/portals/new/external", "/redirects/new", "/account/password", "/sign-out"]
)
def test_a_form_without_the_token_changes_nothing(house: House, path: str) -> None:
    """A08."""
    http = house.browser(DANA)
    del http.headers["x-csrf-token"]
    assert http.post(path, data={"csrf_token": house.form_token(house.session_of(MORGAN))}).status_code == 403
    assert http.post(path, data={}).status_code == 403
    assert http.get("/opens").status_code == 200


@pytest.mark.parametrize("identifier", [NOBODY, "9223372036854775808", "-1", NOBODY.upper(), "%00", "x" * 3000])
@pytest.mark.parametrize("path", ["/opens/{}", "/clients/{}", "/portals/{}", "/links/{}/revoke", "/redirects/{}/edit"])
def test_an_unknown_thing_is_a_page_that_says_so(house: House, path: str, identifier: str) -> None:
    """A07."""
    answer = house.browser(DANA).get(path.format(identifier))
    assert answer.status_code == 404
    assert "There is nothing here" in answer.text


def test_another_agency_sees_none_of_it(house: House) -> None:
    api = house.api()
    client, portal = make_client(api), make_portal(api)
    link = make_link(api, portal=portal["name"], client=client["name"])
    http = house.browser(CHARLIE)
    for path in (client["name"], f"{client['name']}/edit", portal["name"], f"{link['name']}/reveal"):
        assert http.get(f"/{path}").status_code == 404
    assert http.post(f"/{link['name']}/reveal", data={}).status_code == 404


def test_a_personal_link_is_made_shown_and_made_only_once(house: House) -> None:
    api, http = house.api(), house.browser(DANA)
    client, portal = make_client(api, display_name="Li Wei"), make_portal(api)
    path = f"/{client['name']}/links/new"
    page = http.get(path).text
    assert f'value="{portal["name"]}"' in page
    form = {"request_id": _hidden(page, "request_id"), "target": portal["name"], "expire_date": "2099-12-24"}
    shown = [http.post(path, data=form) for _ in range(2)]
    urls = {re.search(r'id="link-url" type="text" value="([^"]+)"', answer.text)[1] for answer in shown}  # type: ignore[index]
    assert len(urls) == 1
    assert "11:59:59 PM" in shown[0].text
    profile = http.get(f"/{client['name']}").text
    assert profile.count('id="link-') == 1
    assert not any(url in profile for url in urls)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        pytest.param({"target": ""}, "target", id="no portal"),
        pytest.param({"target": f"portals/{NOBODY}"}, "target", id="L19 unknown portal"),
        pytest.param({"target": "PORTAL#no-such-page"}, "target", id="unknown page"),
        pytest.param({"expire_date": "2020-01-01"}, "expire_date", id="day that is over"),
        pytest.param({"expire_date": "2026-02-31"}, "expire_date", id="A04 no such day"),
    ],
)
def test_a_wrong_link_is_a_problem_of_its_field(house: House, fields: dict[str, str], problem: str) -> None:
    api = house.api()
    client, portal = make_client(api), make_portal(api)
    form = {"request_id": str(new_id()), "target": portal["name"]} | fields
    form["target"] = form["target"].replace("PORTAL", portal["name"])
    answer = house.browser(DANA).post(f"/{client['name']}/links/new", data=form)
    assert answer.status_code == 422
    assert _problems(answer) == [problem]


def test_a_link_is_revoked_after_a_question_and_cannot_be_extended_then(house: House) -> None:
    api, http = house.api(), house.browser(DANA)
    client, portal = make_client(api), make_portal(api)
    link = make_link(api, portal=portal["name"], client=client["name"])
    assert "This cannot be undone." in http.get(f"/{link['name']}/revoke").text
    assert http.post(f"/{link['name']}/revoke", data={}).headers["location"] == f"/{client['name']}"
    assert "Revoked" in http.get(f"/{client['name']}").text
    refused = http.post(f"/{link['name']}/extend", data={"expire_date": "2099-01-01"})
    assert refused.status_code == 422
    assert "was revoked" in refused.text


def test_a_portal_with_pages_is_previewed_created_edited_and_switched_off(house: House) -> None:
    http = house.browser(MORGAN)
    form = {
        "request_id": str(new_id()),
        "revision": "0",
        "display_name": "Check-in",
        "title_1": "Before you come",
        "slug_1": "before",
        "markdown_1": "Bring **this letter**.\n\n<script>alert(1)</script>",
    }
    preview = http.post("/portals/new/hosted", data=form | {"preview": "1"})
    assert preview.status_code == 200
    assert "<strong>this letter</strong>" in preview.text
    assert "<script>alert" not in preview.text
    longer = http.post("/portals/new/hosted", data=form | {"add_page": "yes"})
    assert 'name="title_2"' in longer.text
    made = http.post("/portals/new/hosted", data=form | {"title_2": "Where", "slug_2": "where", "markdown_2": "Room 4"})
    portal = made.headers["location"]
    assert "Room 4" in http.get(f"{portal}/edit").text
    http.post(f"{portal}/switch", data={"active": "no"})
    assert "Inactive" in http.get(portal).text


@pytest.mark.parametrize(
    ("uri", "status"),
    [
        pytest.param("https://pay.example.gov/", 303, id="A01 https"),
        pytest.param("javascript:alert(1)", 422, id="A01 javascript"),
        pytest.param("//host", 422, id="A01 no scheme"),
        pytest.param("https://user@evil.example", 422, id="A01 user"),
        pytest.param("https://127.0.0.1/", 422, id="A01 loopback"),
        pytest.param("http://pay.example.gov/", 422, id="A01 http"),
    ],
)
def test_an_address_that_may_not_be_linked_to_is_a_problem_of_its_field(house: House, uri: str, status: int) -> None:
    for path in ("/portals/new/external", "/redirects/new"):
        form = {"request_id": str(new_id()), "revision": "0", "display_name": "Pay", "target_uri": uri}
        answer = house.browser(DANA).post(path, data=form)
        shown = 200 if status == 303 and path.startswith("/redirects") else status
        assert answer.status_code == shown, answer.text
        assert _problems(answer) == ([] if status == 303 else ["target_uri"])


@pytest.mark.parametrize(
    ("person", "shown", "hidden"),
    [
        pytest.param(SAM, ["Export CSV"], [], id="supervisor"),
        pytest.param(ALICE, [], ["Export CSV", "/redirects"], id="clerk"),
        pytest.param(BOB, ["/redirects"], ["Export CSV", "New client"], id="auditor"),
    ],
)
def test_a_page_offers_only_what_the_role_may(
    house: House, person: Person, shown: list[str], hidden: list[str]
) -> None:
    api = house.api()
    client = make_client(api, officer=ALICE.name)
    portal = make_portal(api)
    link = make_link(api, portal=portal["name"], client=client["name"])
    house.publish(_open_of(link, client, portal))
    http = house.browser(person)
    until(lambda: "data-row-link" in http.get("/opens").text, "the open")
    text = http.get("/opens").text + http.get("/clients").text
    assert [word for word in shown if word not in text] == []
    assert [word for word in hidden if word in text] == []


def test_a_clerk_becomes_the_officer_of_a_new_client_and_keeps_it(house: House) -> None:
    http = house.browser(ALICE)
    assert 'name="officer"' not in http.get("/clients/new").text
    path = http.post("/clients/new", data=_client_form(display_name="Mine")).headers["location"]
    assert ALICE.display_name in http.get(path).text
    revision = _hidden(http.get(f"{path}/edit").text, "revision")
    assert http.post(f"{path}/edit", data=_client_form(display_name="Still mine", revision=revision)).status_code == 303
    assert ALICE.display_name in http.get(path).text


@pytest.mark.parametrize(
    "query",
    ["%25", "_", "%5C", "%27", "%22%3B--", "NULL", "%F0%9F%98%80", "(", "a" * 200],
)
def test_a_strange_search_is_taken_literally(house: House, query: str) -> None:
    """A03."""
    http = house.browser(DANA)
    for path in (f"/opens?client={query}", f"/clients?query={query}", f"/opens?network={query}"):
        assert http.get(path).status_code == 200


@pytest.mark.parametrize("token", ["x", "-1", "0", "gAAAAA" + "x" * 100])
@pytest.mark.parametrize("path", ["/opens", "/clients", "/portals", "/redirects"])
def test_a_forged_page_of_a_list_is_refused(house: House, path: str, token: str) -> None:
    """A05."""
    assert house.browser(DANA).get(path, params={"page_token": token}).status_code == 422


def test_a_password_is_changed_only_by_who_knows_it_and_types_it_twice(house: House) -> None:
    http = house.browser(DANA)
    wrong = {"current_password": "x", "new_password": "a calm long sentence", "repeated_password": "another sentence"}
    assert _problems(http.post("/account/password", data=wrong)) == ["repeated_password"]
    wrong["repeated_password"] = wrong["new_password"]
    answer = http.post("/account/password", data=wrong)
    assert _problems(answer) == ["current_password"]
    # What was typed into a password field never comes back.
    assert "a calm long sentence" not in answer.text


def test_sign_out_ends_the_session(house: House) -> None:
    session = house.sign_in(SAM)
    http = house.browser(SAM, session)
    assert http.get("/opens").status_code == 200
    assert http.post("/sign-out", data={}).headers["location"] == "/sign-in"
    assert until(lambda: house.browser(SAM, session).get("/opens").status_code == 303, "the end of the session")


def test_a_late_open_is_explained_with_its_reasons_and_limits_and_told_on_the_profile(house: House) -> None:
    api, http = house.api(), house.browser(DANA)
    client, portal = make_client(api, display_name="Late Opener"), make_portal(api)
    link = make_link(api, portal=portal["name"], client=client["name"])
    opens = [_open_of(link, client, portal, open_link_state=link_pb2.LINK_STATE_EXPIRED) for _ in range(2)]
    house.publish(*opens)
    path = f"/opens/{opens[0].open.open_id}"
    until(lambda: http.get(path).status_code == 200, "the open")
    page = http.get(path).text
    for said in (
        "This is a late open",
        "The page gave no sign either way.",
        "What this does not prove",
        opens[0].open.user_agent,
        "203.0.113.7",
        "Trenton, New Jersey, US",
        f'href="/{client["name"]}"',
        f'href="/opens/{opens[1].open.open_id}"',
        "https://db-ip.com",
    ):
        assert said in page, said
    assert "Late open of Hearing details" in http.get(f"/{client['name']}").text
    assert f'href="/opens?portal={portal["name"].replace("/", "%2F")}">2<' in http.get("/portals").text


def test_htmx_is_answered_with_the_address_without_empty_fields(house: House) -> None:
    answer = house.browser(DANA).get("/opens?client=Li&portal=&from=&to=", headers={"hx-request": "true"})
    assert answer.headers["hx-push-url"] == "/opens?client=Li"
