"""Verdicts: every rule hits what it is for and leaves people alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.enrichment import device, verdict
from services.enrichment.verdict import Request
from tests.enrichment.test_device import corpus, machines

PACK = verdict.load()
_CHROME = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0"
PHONE = f"Mozilla/5.0 (Linux; Android 14; Pixel 8) {_CHROME} Mobile Safari/537.36"
GMAIL_PROXY = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"
IMESSAGE = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_11_1) AppleWebKit/601.2.4 (KHTML, like Gecko) Version/9.0.1 "
    "Safari/601.2.4 facebookexternalhit/1.1 Facebot Twitterbot/1.0"
)
# The five agents of crawler-user-agents that people's own programs send; see `distrusted` in the pack.
PEOPLE_IN_THE_LIST = 5


def judge(agent: str = PHONE, kind: str = "portal", method: str = "GET", **rest: object) -> tuple[str, tuple[str, ...]]:
    """Returns verdict and codes."""
    found = PACK.judge(Request(kind=kind, method=method, agent=device.cut(agent), **rest))  # type: ignore[arg-type]
    return found.verdict, found.codes


@pytest.mark.parametrize("kind", ["portal", "redirect", "email"])
def test_nothing_known_is_unconfirmed_with_an_honest_sentence(kind: str) -> None:
    found = PACK.judge(Request(kind=kind, method="GET", agent=PHONE))
    assert (found.verdict, found.codes) == ("unconfirmed", ("no_evidence",))
    assert "Nothing shows either that a person looked" in found.reasons[0].sentence


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        pytest.param({"sec-purpose": "prefetch"}, "purpose_prefetch", id="Sec-Purpose: prefetch"),
        pytest.param({"sec-purpose": "prefetch;prerender"}, "purpose_prefetch", id="prerender"),
        pytest.param({"sec-purpose": " Prefetch;anonymous-client-ip"}, "purpose_prefetch", id="case and space"),
        pytest.param({"purpose": "prefetch"}, "purpose_prefetch", id="Purpose: prefetch"),
        pytest.param({"purpose": "preview"}, "purpose_prefetch", id="Purpose: preview (Safari)"),
        pytest.param({"x-purpose": "instant"}, "purpose_prefetch", id="X-Purpose"),
        pytest.param({"x-moz": "prefetch"}, "purpose_prefetch", id="X-Moz: prefetch (Firefox)"),
        pytest.param({"sec-fetch-dest": "image"}, "fetched_as_image", id="Sec-Fetch-Dest: image"),
        pytest.param({"range": "bytes=0-0"}, "range_request", id="Range: bytes=0-0"),
    ],
)
def test_headers_give_a_machine_away(headers: dict[str, str], code: str) -> None:
    found, codes = judge(headers=headers)
    assert codes == (code,)
    assert found == ("machine_certain" if code == "purpose_prefetch" else "machine_likely")


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"sec-gpc": "1", "dnt": "1"}, id="asks for privacy"),
        pytest.param({"sec-fetch-dest": "document", "sec-fetch-user": "?1"}, id="click"),
        pytest.param({"sec-fetch-dest": "empty"}, id="weak sign"),
        pytest.param({"purpose": "none", "sec-purpose": ""}, id="purpose without meaning"),
        pytest.param({"referer": "https://nam01.safelinks.protection.outlook.com/"}, id="wrapped link, person behind"),
        pytest.param({"x-forwarded-for": "prefetch"}, id="word in another header"),
    ],
)
def test_headers_of_people_are_no_sign(headers: dict[str, str]) -> None:
    assert judge(headers=headers) == ("unconfirmed", ("no_evidence",))


@pytest.mark.parametrize(
    ("agent", "found", "code"),
    [
        pytest.param("", "machine_likely", "ua_empty", id="no agent"),
        pytest.param("  ", "machine_likely", "ua_empty", id="spaces"),
        pytest.param("Mozilla/5.0", "machine_likely", "ua_bare", id="first words only"),
        pytest.param("curl/8.5.0", "machine_certain", "ua_library", id="curl"),
        pytest.param("python-requests/2.32.3", "machine_certain", "ua_library", id="requests"),
        pytest.param("Go-http-client/2.0", "machine_certain", "ua_library", id="Go"),
        pytest.param("okhttp/4.12.0", "machine_certain", "ua_library", id="okhttp"),
        pytest.param("Java/17.0.1", "machine_certain", "ua_library", id="Java"),
        pytest.param("axios/1.7.2", "machine_certain", "ua_library", id="axios"),
        pytest.param(
            f"Mozilla/5.0 (X11; Linux x86_64) {_CHROME.replace('Chrome', 'HeadlessChrome')} Safari/537.36",
            "machine_certain",
            "ua_headless",
            id="headless Chrome",
        ),
        pytest.param(IMESSAGE, "machine_certain", "ua_preview", id="iMessage"),
        pytest.param("WhatsApp/2.24.10.85 A", "machine_certain", "ua_preview", id="WhatsApp"),
        pytest.param("TelegramBot (like TwitterBot)", "machine_certain", "ua_preview", id="Telegram"),
        pytest.param(
            "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", "machine_certain", "ua_preview", id="Slack"
        ),
        pytest.param(
            "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5",
            "machine_certain",
            "ua_preview",
            id="Teams",
        ),
        pytest.param("Snap URL Preview Service; bot; snapchat", "machine_certain", "ua_preview", id="Snapchat"),
        pytest.param("Barracuda Sentinel (EE)", "machine_certain", "ua_scanner", id="Barracuda"),
        pytest.param(
            f"{PHONE} (compatible; Google-Safety; +http://www.google.com/bot.html)",
            "machine_certain",
            "ua_scanner",
            id="Google on text messages",
        ),
        pytest.param(GMAIL_PROXY, "machine_certain", "ua_preview", id="image proxy that fetches a page"),
        pytest.param(
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "machine_certain",
            "ua_crawler",
            id="Googlebot",
        ),
    ],
)
def test_agents_that_say_they_are_machines(agent: str, found: str, code: str) -> None:
    assert judge(agent) == (found, (code,))


@pytest.mark.parametrize(
    "agent",
    [
        pytest.param(
            "Mozilla/5.0 (Linux; Android 14; Pixel 8 Pro Build/UQ1A.240205.004; wv) AppleWebKit/537.36 "
            "(KHTML, like Gecko) Version/4.0 Chrome/124.0.6367.82 Mobile Safari/537.36 "
            "Instagram 330.0.0.40.92 Android (34/14; 420dpi; 1344x2833; Google/google; "
            "Pixel 8 Pro; husky; husky; en_US; 596227443)",
            id="Instagram on Pixel",
        ),
        pytest.param(
            "Mozilla/5.0 (Linux; Android 15; CPH2557 Build/AP3A.240617.008; wv) AppleWebKit/537.36 (KHTML, like Gecko) "
            "Version/4.0 Chrome/136.0.7103.142 Mobile Safari/537.36",
            id="phone whose build is in the published list",
        ),
        pytest.param(
            "Mozilla/5.0 (Linux; Android 16; Pixel 10 Pro XL Build/CP1A.260305.018; wv) AppleWebKit/537.36 "
            "(KHTML, like Gecko) Version/4.0 Chrome/146.0.7680.174 Mobile Safari/537.36 MetaIAB Facebook",
            id="Facebook's in-app browser",
        ),
        pytest.param(
            "Mozilla/5.0 (Linux; Android 5.0.2; HTC Butterfly s) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/38.0 "
            "Mobile Safari/537.36",
            id="telephone with a crawler's name",
        ),
        pytest.param(
            "Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 10.0; WOW64; Trident/8.0; .NET4.0C; .NET4.0E; "
            "ms-office; MSOffice 16)",
            id="Outlook on Windows",
        ),
        pytest.param(
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
            "Mobile/15E148 [FBAN/FBIOS;FBAV/466.0.0.51.108;FBBV/603229083;FBDV/iPhone15,2;"
            "FBMD/iPhone;FBSN/iOS;FBSV/17.5;FBSS/3]",
            id="Facebook on iPhone",
        ),
        pytest.param("Links (2.29; Linux 6.1.0 x86_64; GNU C 12; text)", id="text browser"),
    ],
)
@pytest.mark.parametrize("kind", ["portal", "redirect", "email"])
def test_people_are_not_taken_for_machines(agent: str, kind: str) -> None:
    assert judge(agent, kind) == ("unconfirmed", ("no_evidence",))


def test_no_browser_of_a_published_corpus_is_a_machine() -> None:
    agents = corpus()
    assert len(agents) >= 500
    assert [agent for agent in agents if judge(agent) != ("unconfirmed", ("no_evidence",))] == []


def test_machines_of_a_published_list_are_machines() -> None:
    agents = machines()
    missed = [agent for agent in agents if not judge(agent)[0].startswith("machine")]
    # Seen: all of about 2,100 but those that people's own programs send as well.
    assert len(missed) <= PEOPLE_IN_THE_LIST
    assert len(missed) / len(agents) <= 0.003


@pytest.mark.parametrize(
    "agent",
    [
        pytest.param(GMAIL_PROXY, id="Gmail"),
        pytest.param("YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html", id="Yahoo"),
        pytest.param("Mozilla/5.0", id="Apple Mail Privacy Protection"),
    ],
)
def test_a_mailbox_proxy_is_a_reason_on_a_pixel_only(agent: str) -> None:
    assert judge(agent, "email") == ("unconfirmed", ("mailbox_proxy",))
    assert "mailbox_proxy" not in judge(agent, "portal")[1]
    assert judge(agent, "portal")[0].startswith("machine")


def test_head_is_certain_and_comes_first_whoever_asks() -> None:
    assert judge(method="HEAD") == ("machine_certain", ("method_head",))
    told = judge("curl/8.5.0", method="HEAD", headers={"purpose": "prefetch"}, from_staff_network=True)
    assert told == ("machine_certain", ("method_head", "purpose_prefetch", "ua_library", "staff_network"))


def test_the_agencys_own_network_is_staff_unless_a_machine_says_so() -> None:
    assert judge(from_staff_network=True) == ("staff", ("staff_network",))
    assert judge("", from_staff_network=True) == ("staff", ("staff_network", "ua_empty"))
    assert judge("curl/8.5.0", from_staff_network=True)[0] == "machine_certain"


def test_only_networks_of_mail_security_count_and_never_more_than_likely() -> None:
    assert judge(network_kind="mail_security") == ("machine_likely", ("network_mail_security",))
    for kind in ("mobile", "home", "hosting", "relay", ""):
        assert judge(network_kind=kind) == ("unconfirmed", ("no_evidence",))


@given(
    st.text(max_size=600),
    st.text(max_size=20),
    st.dictionaries(st.text(max_size=20), st.text(max_size=100), max_size=5),
)
def test_without_the_page_nothing_makes_a_person_and_there_is_always_a_reason(
    agent: str, method: str, headers: dict[str, str]
) -> None:
    found, codes = judge(agent, method=method, headers=headers)
    assert found in {"unconfirmed", "machine_likely", "machine_certain"}
    assert codes


def test_every_reason_is_a_stable_code_with_a_sentence_for_people() -> None:
    for rule in PACK.rules:
        assert rule.reason.code.replace("_", "").isalpha()
        assert rule.reason.code.islower()
        assert rule.reason.sentence.endswith(".")
        assert len(rule.reason.sentence) <= 200
    assert [rule.reason.code for rule in PACK.rules] == [
        "method_head", "purpose_prefetch", "mailbox_proxy", "ua_scanner", "ua_preview", "ua_headless", "ua_library",
        "ua_crawler", "staff_network", "ua_empty", "ua_bare", "fetched_as_image", "range_request",
        "network_mail_security", "no_evidence",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('version = "1"\nrul = []', "version, rule", id="unknown key"),
        pytest.param(
            'version = "1"\n[[rule]]\ncode = "a"\nverdict = "unconfirmed"', "unknown or missing", id="no sentence"
        ),
        pytest.param(
            'version = "1"\n[[rule]]\ncode = "a"\nverdict = "person_likely"\nsentence = "A."',
            "verdict",
            id="a person by rule",
        ),
        pytest.param(
            'version = "1"\n[[rule]]\ncode = "a"\nverdict = "staff"\nsentence = "A."\nstaff = true',
            "last rule",
            id="no end",
        ),
        pytest.param(
            'version = "1"\n[[rule]]\ncode = "a"\nverdict = "machine_likely"\nsentence = "A."\nagent = ["("]\n'
            '[[rule]]\ncode = "b"\nverdict = "unconfirmed"\nsentence = "B."',
            "cannot be used",
            id="broken pattern",
        ),
        pytest.param(
            'version = "1"\n[distrusted]\npatterns = ["gone"]\n[[rule]]\ncode = "b"\nverdict = "unconfirmed"\n'
            'sentence = "B."',
            "no such pattern",
            id="the published list has changed under us",
        ),
    ],
)
def test_a_rule_pack_that_is_not_understood_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pack.toml").write_text(text)
    with pytest.raises(verdict.PackFault, match=message):
        verdict.load(tmp_path / "pack.toml")


@pytest.mark.parametrize(
    ("header", "language"),
    [
        pytest.param("es-MX,es;q=0.9,en;q=0.8", "es-MX", id="first of several"),
        pytest.param("en", "en", id="one"),
        pytest.param(" zh-Hant-TW ;q=1", "zh-Hant-TW", id="script and region"),
        pytest.param("*", "", id="any"),
        pytest.param("", "", id="none"),
        pytest.param("<script>,en", "", id="not a language"),
        pytest.param("x" * 5_000, "", id="5 KB"),
        pytest.param("\u00e9\u00e9", "", id="not ASCII"),
    ],
)
def test_the_preferred_language(header: str, language: str) -> None:
    assert verdict.preferred_language(header) == language
