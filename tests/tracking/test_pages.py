"""What clients see: light, in two languages, without script, and safe from what staff wrote."""

import re
import runpy
from html.parser import HTMLParser

import pytest

from services.chassis.names import new_id
from services.tracking import pages
from services.tracking.link import Page, Portal

TOKEN = "7HqX-_a0Zz19bcdEFGhiJQ"
CONSTANT = {
    "expired": pages.EXPIRED,
    "ended": pages.ENDED,
    "unknown": pages.UNKNOWN,
    "unavailable": pages.UNAVAILABLE,
    "too-many": pages.TOO_MANY,
    "no-such-page": pages.NO_SUCH_PAGE.for_token(TOKEN),
}
PORTAL = Portal(new_id(), 1, new_id(), True, "", True, ("a", "b"), ("First <b>", "Second & last"))
HOSTED = pages.hosted(PORTAL, Page("b", "Second & last", "<p>On <strong>3 March</strong></p>")).for_token(TOKEN)


class Outline(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes a tag."""
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Returns the attributes of every tag of a name."""
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize("name", [*CONSTANT, "hosted"])
def test_a_page_is_light_and_loads_nothing(name: str) -> None:
    page = CONSTANT.get(name, HOSTED)
    outline = Outline(page)
    assert len(page) < 30 * 1024
    assert not [tag for tag, _ in outline.tags if tag in ("script", "img", "link", "iframe", "form", "base", "object")]
    assert not [attrs for _, attrs in outline.tags if any(key.startswith("on") or key == "style" for key in attrs)]
    assert outline.all("html") == [{"lang": "en"}]
    assert len(outline.all("h1")) == 1
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in outline.all("meta")


@pytest.mark.parametrize("name", CONSTANT)
def test_a_page_of_ours_says_it_in_spanish_too(name: str) -> None:
    assert {"class": "other", "lang": "es"} in Outline(CONSTANT[name]).all("div")


def test_the_policy_allows_exactly_our_style() -> None:
    import base64
    import hashlib

    style = re.findall(rb"<style>(.*?)</style>", HOSTED, re.DOTALL)
    assert len(style) == 1
    digest = base64.b64encode(hashlib.sha256(style[0]).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in pages.CONTENT_SECURITY_POLICY
    assert pages.CONTENT_SECURITY_POLICY.startswith("default-src 'none'")


def test_a_hosted_page_leads_to_the_others_and_says_where_one_is() -> None:
    links = Outline(HOSTED).all("a")
    assert links == [{"href": f"/{TOKEN}/a"}, {"href": f"/{TOKEN}/b", "aria-current": "page"}]


def test_who_writes_a_page_cannot_foresee_where_the_token_goes() -> None:
    # Else a link of theirs would carry the visitor's token to another site.
    places = {runpy.run_path(str(pages.__file__))["_TOKEN_PLACE"] for _ in range(2)}
    assert len(places) == 2
    assert {len(place) for place in places} == {len(TOKEN)}
    page = Page("b", "b", '<a href="https://elsewhere.example/0TOKEN-STANDS-HERE-000">x</a>')
    led = [link["href"] or "" for link in Outline(pages.hosted(PORTAL, page).for_token(TOKEN)).all("a")]
    assert [TOKEN in href for href in led] == [True, True, False]


def test_titles_are_text_and_nothing_else() -> None:
    assert b"First &lt;b&gt;" in HOSTED
    assert b"<title>Second &amp; last</title>" in HOSTED


def test_colors_have_enough_contrast() -> None:
    pairs = [("#1b1b1b", "#ffffff"), ("#005ea2", "#ffffff"), ("#54278f", "#ffffff"), ("#ffffff", "#162e51")]
    pairs += [("#ffffff", "#005ea2"), ("#1b1b1b", "#f0f0f0")]
    for front, back in pairs:
        assert contrast(front, back) >= 4.5, (front, back)


def contrast(front: str, back: str) -> float:
    """Returns the contrast of two colors by WCAG 2.2."""
    lights = sorted((luminance(front), luminance(back)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(color: str) -> float:
    """Returns the relative luminance of a color."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
