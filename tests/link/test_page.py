"""Pages: Markdown in, safe HTML out."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.link.page import LARGEST_HTML_BYTES, Page, check_page, check_together, render

_HARMLESS_TAGS = {
    "p", "h2", "h3", "h4", "h5", "h6", "strong", "em", "a", "ul", "ol", "li", "blockquote", "code", "pre", "hr", "br",
    "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def elements(html: str) -> list[tuple[str, dict[str, str | None]]]:
    reader = _Reader()
    reader.feed(html)
    return reader.seen


def test_markdown_with_tables_becomes_html() -> None:
    html = render("# Hearing\n\nBring *this* **letter**.\n\n| Room | Time |\n|---|---:|\n| 4 | 9:00 |\n\n3. third\n")
    tags = [tag for tag, _ in elements(html)]
    assert tags[0] == "h2"
    assert {"em", "strong", "table", "thead", "td", "li"} <= set(tags)
    assert '<ol start="3">' in html
    assert "style" not in html


def test_links_lead_to_plain_addresses_and_give_nothing_away() -> None:
    html = render("[pay](https://pay.court.example/x) [call](tel:+15550100) [write](mailto:clerk@court.example)")
    found = [attributes for tag, attributes in elements(html) if tag == "a"]
    assert [attributes["href"] for attributes in found] == [
        "https://pay.court.example/x",
        "tel:+15550100",
        "mailto:clerk@court.example",
    ]
    assert all(attributes["rel"] == "noopener noreferrer nofollow" for attributes in found)


@pytest.mark.parametrize(
    "markdown",
    [
        pytest.param("<script>alert(1)</script>", id="A02-script"),
        pytest.param("<img src=x onerror=alert(1)>", id="A02-onerror"),
        pytest.param("[x](javascript:alert(1))", id="A02-javascript"),
        pytest.param("[x](JaVaScRiPt&#58;alert(1))", id="A02-javascript-entity"),
        pytest.param("[x](data:text/html;base64,PHNjcmlwdD4=)", id="A02-data"),
        pytest.param("[x](vbscript:x)", id="A02-vbscript"),
        pytest.param("[x](//evil.example)", id="A02-scheme-relative"),
        pytest.param("[x](/r/abc)", id="A02-relative"),
        pytest.param("![x](https://evil.example/pixel.gif)", id="A02-image"),
        pytest.param('<https://a.example/"onmouseover="alert(1)>', id="A02-autolink"),
        pytest.param("[x]: javascript:alert(1)\n\n[x]", id="A02-reference"),
        pytest.param("`<b>` <iframe src=//evil.example>", id="A02-iframe"),
        pytest.param('<a href="https://x.example" style="position:fixed">x</a>', id="A02-style"),
        pytest.param("<!-- --!><svg/onload=alert(1)>", id="A02-svg"),
        pytest.param("{{7*7}} ${7*7}", id="A02-template"),
    ],
)
def test_nothing_that_could_run_or_phone_home_survives(markdown: str) -> None:
    html = render(markdown)
    for tag, attributes in elements(html):
        assert tag in _HARMLESS_TAGS
        assert set(attributes) <= {"href", "rel", "start"}
        assert re.match(r"https?://|mailto:|tel:", attributes.get("href") or "https://")
    assert "49" not in html


def test_raw_html_is_shown_as_text() -> None:
    assert render("<b>bold?</b>").strip() == "<p>&lt;b&gt;bold?&lt;/b&gt;</p>"


@given(st.text(alphabet="<>[]()!*_`#|-:\\\"'&;/ \nabjs", max_size=300))
def test_no_text_gets_a_tag_or_attribute_past_the_sanitizer(markdown: str) -> None:
    for tag, attributes in elements(render(markdown)):
        assert tag in _HARMLESS_TAGS
        assert set(attributes) <= {"href", "rel", "start"}


@pytest.mark.parametrize(
    ("slug", "title", "markdown", "field"),
    [
        pytest.param("", "T", "x", "page.slug", id="no slug"),
        pytest.param("Hearing", "T", "x", "page.slug", id="capital"),
        pytest.param("a/b", "T", "x", "page.slug", id="slash"),
        pytest.param("ä", "T", "x", "page.slug", id="not ASCII"),
        pytest.param("a" * 61, "T", "x", "page.slug", id="61 characters"),
        pytest.param("a\n", "T", "x", "page.slug", id="newline"),
        pytest.param("a", "", "x", "page.title", id="no title"),
        pytest.param("a", " \u200b\u202e ", "x", "page.title", id="A02-nothing-to-see"),
        pytest.param("a", "T\0", "x", "page.title", id="A02-NUL"),
        pytest.param("a", "T" * 201, "x", "page.title", id="A02-too-long"),
        pytest.param("a", "T", "x" * 20_001, "page.markdown", id="A02-markdown-too-long"),
        pytest.param("a", "T", "x\0", "page.markdown", id="A02-NUL-in-markdown"),
        pytest.param("a", "T", "x\x1b[2J", "page.markdown", id="A02-escape-sequence"),
    ],
)
def test_a_wrong_page_is_named_with_its_field(slug: str, title: str, markdown: str, field: str) -> None:
    faults: list[str] = []
    check_page(slug, title, markdown, "page", lambda name, _: faults.append(name))
    assert faults == [field]


def test_a_page_may_hold_line_breaks_emoji_and_other_scripts() -> None:
    faults: list[str] = []
    check_page("a", "موعد المحكمة 📅 e\u0301", "a\r\n\tb\n\u202bc\u202c", "page", lambda name, _: faults.append(name))
    assert not faults


def test_pages_together_have_unique_slugs_and_fit_into_an_event() -> None:
    faults: list[str] = []
    half = "x" * (LARGEST_HTML_BYTES // 2)
    pages = [Page("a", "T", "", half), Page("b", "T", "", half), Page("a", "T", "", "")]
    check_together(pages, "portal.pages", lambda name, _: faults.append(name))
    assert faults == ["portal.pages[2].slug", "portal.pages"]
