"""Pages of hosted portals: their rules, and Markdown turned into HTML that is safe to serve."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import nh3
from markdown_it import MarkdownIt

from services.link.wording import Fault, check_text

MOST_PAGES = 50
LONGEST_TITLE = 200
LONGEST_MARKDOWN = 20_000
# All pages of a portal travel in one directory entry, and an event may not be larger than 256 KiB.
LARGEST_HTML_BYTES = 200 * 1024

_SLUG = re.compile(r"[a-z0-9-]{1,60}", re.ASCII)
# No images: one from elsewhere would tell a third party that the client read the page.
_TAGS = {
    *(
        "p",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "strong",
        "em",
        "a",
        "ul",
        "ol",
        "li",
        "blockquote",
        "code",
        "pre",
        "hr",
        "br",
    ),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
_ATTRIBUTES = {"a": {"href"}, "ol": {"start"}}
# A relative address would leave the token's folder, and //host is a link to anywhere.
_LINK = re.compile(r"(?:https?://|mailto:|tel:)\S+", re.ASCII | re.IGNORECASE)
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


@dataclass(frozen=True)
class Page:
    """One page of a hosted portal, with its rendered body."""

    slug: str
    title: str
    markdown: str
    html: str


def render(markdown: str) -> str:
    """Returns the sanitized HTML of a CommonMark text with tables; raw HTML in it is shown as text."""
    tokens = _MARKDOWN.parse(markdown)
    for token in tokens:
        # The page's title is its only first-level heading.
        if token.tag == "h1":
            token.tag = "h2"
    html = _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})
    return nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=_kept,
        url_schemes={"https", "http", "mailto", "tel"},
        link_rel="noopener noreferrer nofollow",
    )


def _kept(tag: str, attribute: str, value: str) -> str | None:
    if (tag, attribute) == ("a", "href") and not _LINK.fullmatch(value):
        return None
    return value


def check_page(slug: str, title: str, markdown: str, field: str, fault: Fault) -> None:
    """Notes what is wrong with one page."""
    if not _SLUG.fullmatch(slug):
        fault(f"{field}.slug", 'must be 1 to 60 of a-z, 0-9 and "-"')
    check_text(title, f"{field}.title", LONGEST_TITLE, fault)
    check_text(markdown, f"{field}.markdown", LONGEST_MARKDOWN, fault, required=False, lines=True)


def check_together(pages: Sequence[Page], field: str, fault: Fault) -> None:
    """Notes what is wrong with the pages of one portal taken together."""
    slugs = [page.slug for page in pages]
    for index, slug in enumerate(slugs):
        if slug in slugs[:index]:
            fault(f"{field}[{index}].slug", "is used by another page of this portal")
    if sum(len(page.html.encode()) + len(page.title.encode()) for page in pages) > LARGEST_HTML_BYTES:
        fault(field, f"are too long together: at most {LARGEST_HTML_BYTES // 1024} KiB when rendered")
