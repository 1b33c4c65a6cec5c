"""A clerk's afternoon in a real browser: sign in, portal, client, link; a phone opens it; the row arrives by itself."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.fix_bundle import ADMIN_EMAIL, ADMIN_PASSWORD, Bundle
from tests.product import IPHONE, T_MOBILE

pytestmark = [pytest.mark.e2e, pytest.mark.browser]
SIZES = {"wide": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def desk(browser: Browser, bundle: Bundle) -> Iterator[BrowserContext]:
    """Gives the browser of somebody who has signed in."""
    context = browser.new_context(base_url=bundle.staff_url, viewport=SIZES["wide"], accept_downloads=True)
    context.set_default_timeout(10_000)
    sign_in(context.new_page())
    yield context
    context.close()


def sign_in(page: Page, email: str = ADMIN_EMAIL, password: str = ADMIN_PASSWORD) -> None:
    page.goto("/sign-in")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def make_portal(page: Page, name: str) -> None:
    page.goto("/portals/new")
    page.get_by_role("link", name="Pages kept here").click()
    page.get_by_label("Name").fill(name)
    page.get_by_label("Title").first.fill("Your hearing")
    page.get_by_label("Last part of its address").first.fill("hearing-details")
    page.get_by_label("Text").first.fill("Your hearing is on **March 3** at 9:00.\n\n- Room 4\n- Bring your papers")
    page.get_by_role("button", name="Create the portal").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)


def make_link(page: Page, client: str, portal: str) -> str:
    page.goto("/clients/new")
    page.get_by_label("Name").fill(client)
    page.locator("[name=ref]").fill(f"CR-{client}")
    page.get_by_role("button", name="Add the client").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(client)
    page.get_by_role("link", name="New link").click()
    choice = page.get_by_label("Portal and page")
    value = choice.locator("option").filter(has_text=portal).first.get_attribute("value")
    choice.select_option(value)
    page.get_by_role("button", name="Create the link").click()
    found = re.search(r"http://127\.0\.0\.1:\d+/[A-Za-z0-9_-]{22}", page.content())
    assert found, page.content()
    return found[0]


def test_a_link_is_made_opened_by_a_phone_and_seen_without_reload(
    desk: BrowserContext, browser: Browser, bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    page = desk.new_page()
    make_portal(page, "Hearing details")
    url = make_link(page, "Jordan Miles", "Hearing details")

    opens = desk.new_page()
    opens.goto("/opens")
    expect(opens.locator("#live-badge")).to_contain_text("Live")
    rows = opens.locator("#opens-rows tr")
    before = rows.count()
    opens.evaluate("document.body.dataset.mark = 'same page'")

    phone = browser.new_context(
        user_agent=IPHONE, viewport=SIZES["phone"], extra_http_headers={"x-forwarded-for": T_MOBILE}
    )
    visit = phone.new_page()
    answer = visit.goto(url)
    assert answer is not None
    assert answer.status == 200
    expect(visit.get_by_role("heading", level=1)).to_have_text("Your hearing")
    visit.screenshot(path=pictures / "client-page.png")

    row = opens.locator(f"#open-{answer.headers['x-open-id']}")
    expect(row).to_be_visible(timeout=5000)
    assert rows.count() == before + 1
    assert opens.evaluate("document.body.dataset.mark") == "same page", "the row arrived without a reload"
    for text in ("Jordan Miles", "Hearing details", "Mobile", "Mobile Safari 17.5", "iOS 17.5.1", T_MOBILE, "T-Mobile"):
        expect(row).to_contain_text(text)
    opens.screenshot(path=pictures / "opens.png")

    opens.get_by_label("Client name or ID").fill("jordan")
    opens.get_by_role("button", name="Search").click()
    expect(opens).to_have_url(re.compile("client=jordan"))
    expect(opens.locator("#opens-rows tr")).to_have_count(1)
    with opens.expect_download() as download:
        opens.get_by_role("link", name="Export CSV").click()
    file = tmp_path / "opens.csv"
    download.value.save_as(file)
    assert len(file.read_bytes().decode("utf-8-sig").strip().split("\r\n")) == 2

    opens.locator("#opens-rows tr").get_by_role("link").filter(has=opens.locator("time")).click()
    expect(opens.get_by_role("heading", level=1)).to_be_visible()
    expect(opens.get_by_text(IPHONE)).to_be_visible()
    expect(opens.locator("main")).to_contain_text("does not prove")
    phone.close()


def test_the_demo_fills_the_opens_page(browser: Browser, bundle: Bundle, pictures: Path) -> None:
    done = bundle.command("demo")
    assert done.returncode == 0, done.stderr
    said = dict(re.findall(r"(Sign in as|Password) +(\S+)", done.stdout))
    context = browser.new_context(base_url=bundle.staff_url, viewport=SIZES["wide"])
    page = context.new_page()
    sign_in(page, said["Sign in as"], said["Password"])
    page.goto("/opens")
    expect(page.locator("#opens-rows tr")).to_have_count(50)
    expect(page.locator("#live-badge")).to_contain_text("Live")
    page.screenshot(path=pictures / "demo-opens.png")
    context.close()


def test_a_wrong_password_is_one_clear_sentence_that_tells_nothing(browser: Browser, bundle: Bundle) -> None:
    context = browser.new_context(base_url=bundle.staff_url)
    page = context.new_page()
    told = []
    for email in (ADMIN_EMAIL, "nobody@first-court.example"):
        sign_in(page, email, "not the right password")
        expect(page.get_by_role("alert").first).to_be_visible()
        told.append(page.get_by_role("alert").first.inner_text())
    assert told[0] == told[1]
    context.close()


def test_everything_can_be_reached_with_the_keyboard(desk: BrowserContext) -> None:
    page = desk.new_page()
    page.goto("/opens")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to main content")
    page.keyboard.press("Enter")
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.name || document.activeElement.textContent.trim()"))
    assert {"client", "portal", "Search"} <= seen


@pytest.mark.parametrize("size", list(SIZES))
@pytest.mark.parametrize(
    "path",
    ["/opens", "/opens?client=nobody-of-this-name", "/clients", "/clients/new", "/portals", "/portals/new/hosted",
     "/portals/new/external", "/redirects", "/account/password", "/api/docs", "/nothing-here"],
)  # fmt: skip
def test_a_page_is_accessible_fits_and_breaks_no_rule_of_its_own(
    desk: BrowserContext, browser: Browser, bundle: Bundle, pictures: Path, path: str, size: str
) -> None:
    # A second context because axe is injected, which the pages' own policy rightly forbids.
    context = browser.new_context(
        base_url=bundle.staff_url, viewport=SIZES[size], bypass_csp=True, storage_state=desk.storage_state()
    )
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path)
    name = re.sub(r"\W+", "-", path).strip("-")
    page.screenshot(path=pictures / f"{name}-{size}.png", full_page=True)
    if path != "/nothing-here":
        assert complaints == []
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= SIZES[size]["width"], f"the page is {width} wide and has to be scrolled sideways"
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    context.close()


def test_without_javascript_the_main_pages_still_work(browser: Browser, bundle: Bundle) -> None:
    context = browser.new_context(base_url=bundle.staff_url, java_script_enabled=False)
    page = context.new_page()
    sign_in(page)
    page.goto("/opens")
    page.get_by_label("Client name or ID").fill("jordan")
    page.get_by_role("button", name="Search").click()
    expect(page).to_have_url(re.compile("client=jordan"))
    make_portal(page, "Without script")
    assert make_link(page, "Pat Quinn", "Without script")
    context.close()
