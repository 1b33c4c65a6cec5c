"""Portals and redirects: made, shown, changed, ruled out."""

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from opennotice.link.v1 import link_pb2

from services.chassis.errors import Aborted, InvalidArgument, NotFound, PermissionDenied
from services.chassis.names import new_id
from tests.cast import ALICE, BOB, DANA, MORGAN, SAM
from tests.link.conftest import PUBLIC_URL, Link, refusal

EXTERNAL: dict[str, Any] = {
    "kind": link_pb2.PORTAL_KIND_EXTERNAL,
    "pages": [],
    "target_uri": "https://court.example/my-case",
}
A_PAGE = link_pb2.Page(slug="start", title="Start", markdown="*x*")


async def update(link: Link, portal: link_pb2.Portal, *paths: str) -> link_pb2.Portal:
    mask = FieldMask(paths=paths) if paths else None
    request = link_pb2.UpdatePortalRequest(portal=portal, update_mask=mask)
    changed: link_pb2.Portal = await link.stub.UpdatePortal(request, metadata=link.by(MORGAN))
    return changed


async def test_a_hosted_portal_keeps_its_pages_in_order(link: Link) -> None:
    made = await link.portal(MORGAN)
    assert [page.slug for page in made.pages] == ["hearing-details", "payment"]
    assert made.active
    shown = await link.stub.GetPortal(link_pb2.GetPortalRequest(name=made.name), metadata=link.by(BOB))
    assert shown == made
    assert all(page.markdown and not page.html for page in shown.pages)
    listed = await link.stub.ListPortals(link_pb2.ListPortalsRequest(), metadata=link.by(ALICE))
    assert [page.title for page in listed.portals[0].pages] == ["Your hearing", "Payment"]
    assert not any(page.markdown or page.html for page in listed.portals[0].pages)


async def test_an_external_portal_keeps_its_target_as_typed(link: Link) -> None:
    made = await link.portal(**EXTERNAL | {"target_uri": "https://Court.Example/My-Case?x=1#top", "active": False})
    assert (made.target_uri, made.active) == ("https://Court.Example/My-Case?x=1#top", False)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        pytest.param({"display_name": ""}, "portal.display_name", id="no name"),
        pytest.param({"display_name": "a\0b"}, "portal.display_name", id="A02-NUL"),
        pytest.param({"display_name": "a" * 10_000}, "portal.display_name", id="A02-10,000-characters"),
        pytest.param({"kind": 0}, "portal.kind", id="no kind"),
        pytest.param({"kind": 99}, "portal.kind", id="G10-unknown-kind"),
        pytest.param({"pages": []}, "portal.pages", id="hosted without pages"),
        pytest.param({"target_uri": "https://court.example"}, "portal.target_uri", id="hosted with a target"),
        pytest.param(EXTERNAL | {"pages": [A_PAGE]}, "portal.pages", id="external with pages"),
        pytest.param({"pages": [A_PAGE, A_PAGE]}, "portal.pages[1].slug", id="slug twice"),
        pytest.param(
            {"pages": [link_pb2.Page(slug=f"p{number}", title="T") for number in range(51)]},
            "portal.pages",
            id="51 pages",
        ),
        pytest.param(
            {"pages": [link_pb2.Page(slug=f"p{n}", title="T", markdown="&" * 17_000) for n in range(4)]},
            "portal.pages",
            id="too long when rendered",
        ),
    ],
)
async def test_a_wrong_portal_is_refused_naming_the_field(link: Link, fields: dict[str, Any], field: str) -> None:
    error = await refusal(link.portal(**fields))
    assert isinstance(error, InvalidArgument)
    assert field in [name for name, _ in error.fields]
    assert not link.rows("select 1 from link.portals")


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("javascript:alert(1)", id="A01-javascript"),
        pytest.param("https://192.0.2.1/", id="A01-ip"),
        pytest.param("https://court.example@evil.example", id="A01-user-info"),
        pytest.param("https://court\n.example", id="A01-newline"),
        pytest.param("", id="A01-empty"),
    ],
)
async def test_a_target_is_refused_for_portals_and_redirects_alike(link: Link, target: str) -> None:
    for call, field in (
        (link.portal(**EXTERNAL | {"target_uri": target}), "portal.target_uri"),
        (link.redirect(target_uri=target), "redirect.target_uri"),
    ):
        error = await refusal(call)
        assert (type(error), error.reason, error.fields[0][0]) == (InvalidArgument, "TARGET_NOT_ALLOWED", field)


async def test_only_listed_hosts_are_allowed_once_there_is_a_list(link: Link) -> None:
    link.rows("update link.agencies set allowed_hosts = '{pay.court.example}'")
    error = await refusal(link.portal(**EXTERNAL))
    assert (error.reason, error.fields[0][0]) == ("TARGET_NOT_ALLOWED", "portal.target_uri")
    redirect = await link.redirect(target_uri="https://PAY.court.example:443/x")
    redirect.target_uri = "https://court.example/"
    error = await refusal(
        link.stub.UpdateRedirect(link_pb2.UpdateRedirectRequest(redirect=redirect), metadata=link.by(DANA))
    )
    assert error.reason == "TARGET_NOT_ALLOWED"


async def test_an_update_changes_the_masked_fields_only(link: Link) -> None:
    made = await link.portal()
    given = link_pb2.Portal(name=made.name, display_name="Ignored", active=False)
    changed = await update(link, given, "active")
    assert (changed.display_name, changed.active) == ("Hearings", False)
    assert changed.revision > made.revision
    assert changed.pages == made.pages


async def test_an_update_without_a_mask_changes_every_populated_field(link: Link) -> None:
    made = await link.portal()
    changed = await update(link, link_pb2.Portal(name=made.name, display_name="Renamed", pages=[A_PAGE]))
    assert (changed.display_name, changed.active) == ("Renamed", True)
    assert [page.slug for page in changed.pages] == ["start"]
    shown = await link.stub.GetPortal(link_pb2.GetPortalRequest(name=made.name), metadata=link.by(DANA))
    assert shown == changed


async def test_an_update_that_changes_nothing_makes_no_revision(link: Link) -> None:
    made = await link.portal()
    assert await update(link, made) == made
    assert await update(link, made, "*") == made


@pytest.mark.parametrize(
    ("portal", "paths", "field"),
    [
        pytest.param({"kind": link_pb2.PORTAL_KIND_EXTERNAL}, ["kind"], "update_mask", id="G10-kind-never-changes"),
        pytest.param({}, ["no_such"], "update_mask", id="G10-unknown-path"),
        pytest.param({}, ["portal.active"], "update_mask", id="G10-nested-path"),
        pytest.param({}, ["display_name"], "portal.display_name", id="empty name"),
        pytest.param({}, ["active"], "portal.active", id="active not given"),
        pytest.param({}, ["pages"], "portal.pages", id="no page left"),
        pytest.param({"target_uri": "https://a.example"}, ["target_uri"], "portal.target_uri", id="hosted with target"),
    ],
)
async def test_a_wrong_update_is_refused_naming_the_field(
    link: Link, portal: dict[str, Any], paths: list[str], field: str
) -> None:
    made = await link.portal()
    error = await refusal(update(link, link_pb2.Portal(name=made.name, **portal), *paths))
    assert isinstance(error, InvalidArgument)
    assert [name for name, _ in error.fields] == [field]
    shown = await link.stub.GetPortal(link_pb2.GetPortalRequest(name=made.name), metadata=link.by(DANA))
    assert shown == made


async def test_who_changes_an_old_revision_is_told(link: Link) -> None:
    made = await link.portal()
    await update(link, link_pb2.Portal(name=made.name, display_name="First", revision=made.revision))
    error = await refusal(update(link, link_pb2.Portal(name=made.name, display_name="Second", revision=made.revision)))
    assert (type(error), error.reason) == (Aborted, "CHANGED_MEANWHILE")


async def test_a_portal_that_is_switched_off_makes_its_links_inactive(link: Link) -> None:
    portal = await link.portal()
    made = await link.link(portal=portal.name)
    await update(link, link_pb2.Portal(name=portal.name, active=False))
    shown = await link.stub.GetLink(link_pb2.GetLinkRequest(name=made.name), metadata=link.by(DANA))
    assert shown.state == link_pb2.LINK_STATE_PORTAL_INACTIVE


async def test_portals_are_listed_by_name_without_case_and_accents(link: Link) -> None:
    for name in ("Zoning", "émigré services", "Appeals", "EMERGENCY", "appeals"):
        await link.portal(display_name=name)
    request, found = link_pb2.ListPortalsRequest(page_size=2), []
    while True:
        page = await link.stub.ListPortals(request, metadata=link.by(DANA))
        found += [portal.display_name for portal in page.portals]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == ["Appeals", "appeals", "EMERGENCY", "émigré services", "Zoning"]


async def test_a_preview_shows_what_visitors_get_and_stores_nothing(link: Link) -> None:
    request = link_pb2.PreviewPageRequest(page=link_pb2.Page(title="T", markdown="**x** <script>"))
    answer = await link.stub.PreviewPage(request, metadata=link.by(ALICE))
    assert answer.html == "<p><strong>x</strong> &lt;script&gt;</p>\n"
    assert not link.rows("select 1 from link.portals")
    request.page.title = ""
    error = await refusal(link.stub.PreviewPage(request, metadata=link.by(ALICE)))
    assert error.fields[0][0] == "page.title"


async def test_only_those_who_may_write_portals_do(link: Link) -> None:
    for person in (SAM, ALICE, BOB):
        assert isinstance(await refusal(link.portal(person)), PermissionDenied)
        assert isinstance(await refusal(link.redirect(person)), PermissionDenied)


async def test_a_redirect_has_an_address_of_its_own_space(link: Link) -> None:
    made = await link.redirect(MORGAN)
    assert made.uri.startswith(f"{PUBLIC_URL}/r/")
    shown = await link.stub.GetRedirect(link_pb2.GetRedirectRequest(name=made.name), metadata=link.by(BOB))
    assert (shown.uri, shown.target_uri) == ("", made.target_uri)
    again = await link.stub.RevealRedirect(link_pb2.RevealRedirectRequest(name=made.name), metadata=link.by(MORGAN))
    assert again.uri == made.uri
    listed = await link.stub.ListRedirects(link_pb2.ListRedirectsRequest(), metadata=link.by(MORGAN))
    assert list(listed.redirects) == [shown]


async def test_a_redirect_can_be_changed_and_switched_off(link: Link) -> None:
    made = await link.redirect()
    given = link_pb2.Redirect(
        name=made.name, active=False, target_uri="https://court.example/new", revision=made.revision
    )
    changed = await link.stub.UpdateRedirect(link_pb2.UpdateRedirectRequest(redirect=given), metadata=link.by(DANA))
    assert (changed.active, changed.target_uri, changed.display_name) == (False, given.target_uri, made.display_name)
    error = await refusal(
        link.stub.UpdateRedirect(link_pb2.UpdateRedirectRequest(redirect=given), metadata=link.by(DANA))
    )
    assert (type(error), error.reason) == (Aborted, "CHANGED_MEANWHILE")


async def test_redirects_are_listed_newest_first(link: Link) -> None:
    names = [(await link.redirect()).name for _ in range(3)]
    first = await link.stub.ListRedirects(link_pb2.ListRedirectsRequest(page_size=2), metadata=link.by(DANA))
    request = link_pb2.ListRedirectsRequest(page_token=first.next_page_token)
    rest = await link.stub.ListRedirects(request, metadata=link.by(DANA))
    assert [redirect.name for redirect in (*first.redirects, *rest.redirects)] == names[::-1]


async def test_an_unknown_name_is_not_found(link: Link) -> None:
    for name in (f"portals/{new_id()}", "portals/", "", "portals/1", f"redirects/{new_id()}"):
        error = await refusal(link.stub.GetPortal(link_pb2.GetPortalRequest(name=name), metadata=link.by(DANA)))
        assert (type(error), error.reason) == (NotFound, "PORTAL_UNKNOWN")
        error = await refusal(
            link.stub.GetRedirect(link_pb2.GetRedirectRequest(name=f"x{name}"), metadata=link.by(DANA))
        )
        assert (type(error), error.reason) == (NotFound, "REDIRECT_UNKNOWN")
