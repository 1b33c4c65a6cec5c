"""Where a portal or redirect may lead."""

import string
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.link.target import TargetRefused, check_target, host_allowed, host_of

ALLOWED = ["pay.court.gov", "xn--grndig-court-xxx.example"]

REFUSED = {
    "A01-javascript": "javascript:alert(1)",
    "A01-data": "data:text/html,x",
    "A01-file": "file:///etc/passwd",
    "A01-ftp": "ftp://pay.court.gov/",
    "A01-http": "http://pay.court.gov/",
    "A01-no-scheme": "//pay.court.gov/",
    "A01-slash-backslash": "/\\pay.court.gov/",
    "A01-https-backslash": "https:\\\\pay.court.gov/",
    "A01-backslash-in-host": "https://pay.court.gov\\@evil.example/",
    "A01-no-slashes": "https:pay.court.gov",
    "A01-one-slash": "https:/pay.court.gov",
    "A01-three-slashes": "https:///pay.court.gov",
    "A01-user-info": "https://pay.court.gov@evil.example/",
    "A01-user-and-password": "https://a:b@pay.court.gov/",
    "A01-empty-user": "https://@pay.court.gov/",
    "A01-host-as-prefix": "https://pay.court.gov.example/",
    "A01-host-as-suffix": "https://evil-pay.court.gov/",
    "A01-subdomain": "https://a.pay.court.gov/",
    "A01-parent": "https://court.gov/",
    "A01-trailing-dot": "https://pay.court.gov./",
    "A01-port-22": "https://pay.court.gov:22/",
    "A01-port-80": "https://pay.court.gov:80/",
    "A01-port-empty": "https://pay.court.gov:/",
    "A01-port-443-padded": "https://pay.court.gov:0443/",
    "A01-punycode-not-listed": "https://xn--pay-court-9ya.gov/",
    "A01-mixed-script": "https://p\u0430y.court.gov/",
    "A01-fullwidth": "https://pay\uff0ecourt.gov/",
    "A01-ideographic-dot": "https://pay\u3002court.gov/",
    "A01-soft-hyphen": "https://pay.co\u00adurt.gov/",
    "A01-escaped-dot": "https://pay%2ecourt.gov/",
    "A01-ipv4": "https://192.0.2.1/",
    "A01-ipv4-decimal": "https://3221225985/",
    "A01-ipv4-hex": "https://0xc0000201/",
    "A01-ipv4-octal": "https://0300.0.2.1/",
    "A01-ipv4-short": "https://127.1/",
    "A01-ipv4-hex-part": "https://192.0.2.0x1/",
    "A01-ipv4-dot": "https://192.0.2.1./",
    "A01-ipv6": "https://[2001:db8::1]/",
    "A01-ipv6-mapped": "https://[::ffff:127.0.0.1]/",
    "A01-metadata": "https://169.254.169.254/latest/meta-data",
    "A01-metadata-name": "https://metadata.google.internal/",
    "A01-localhost": "https://localhost/",
    "A01-localhost-dot": "https://court.localhost/",
    "A01-localdomain": "https://localhost.localdomain/",
    "A01-single-label": "https://intranet/",
    "A01-local": "https://printer.local/",
    "A01-home-arpa": "https://nas.home.arpa/",
    "A01-tab": "https://pay.court\t.gov/",
    "A01-newline": "https://pay.court.gov/\nx",
    "A01-carriage-return": "https://pay.court.gov/\r\nSet-Cookie: a=b",
    "A01-leading-space": " https://pay.court.gov/",
    "A01-trailing-newline": "https://pay.court.gov/\n",
    "A01-NUL": "https://pay.court.gov/\0",
    "A01-delete": "https://pay.court.gov/\x7f",
    "A01-quote": 'https://pay.court.gov/"onmouseover=',
    "A01-angle": "https://pay.court.gov/<script>",
    "A01-space": "https://pay.court.gov/a b",
    "A01-bad-escape": "https://pay.court.gov/%zz",
    "A01-bidi": "https://pay.court.gov/\u202e",
    "A01-underscore": "https://pay_.court.gov/",
    "A01-empty-label": "https://pay..court.gov/",
    "A01-hyphen": "https://-pay.court.gov/",
    "A01-long-label": f"https://{'a' * 64}.gov/",
    "A01-long-host": f"https://{'a.' * 126}gov/",
    "A01-too-long": f"https://pay.court.gov/{'a' * 2_000}",
    "A01-empty": "",
    "A01-scheme-only": "https://",
    "A01-two-addresses": "https://pay.court.gov, https://pay.court.gov",
}


@pytest.mark.parametrize("uri", [pytest.param(uri, id=case) for case, uri in REFUSED.items()])
def test_an_address_that_is_not_plain_public_and_allowed_is_refused(uri: str) -> None:
    with pytest.raises(TargetRefused) as refused:
        check_target(uri, ALLOWED)
    assert 10 < len(str(refused.value)) < 200


# Refused also by an agency that allows every public host; those that are only not on the list are left out.
_ONLY_NOT_LISTED = {"A01-host-as-prefix", "A01-host-as-suffix", "A01-subdomain", "A01-parent"}


@pytest.mark.parametrize(
    "uri", [pytest.param(uri, id=case) for case, uri in REFUSED.items() if case not in _ONLY_NOT_LISTED]
)
def test_an_empty_list_allows_public_hosts_only(uri: str) -> None:
    with pytest.raises(TargetRefused):
        check_target(uri, [])


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("https://pay.court.gov", id="bare"),
        pytest.param("https://pay.court.gov/", id="slash"),
        pytest.param("https://pay.court.gov:443/x", id="port 443"),
        pytest.param("HTTPS://Pay.Court.GOV/Case", id="capitals"),
        pytest.param("https://pay.court.gov/a/../b?x=1&y=%20#top", id="query and fragment"),
        pytest.param("https://pay.court.gov?x=@y:z", id="at sign after the host"),
        pytest.param("https://pay.court.gov/" + "a" * 1_978, id="2,000 characters"),
    ],
)
def test_an_allowed_address_is_accepted_with_its_host(uri: str) -> None:
    assert check_target(uri, ALLOWED) == "pay.court.gov"


def test_an_internationalized_host_is_allowed_by_name_only() -> None:
    assert check_target(f"https://{ALLOWED[1]}/", ALLOWED) == ALLOWED[1]
    assert not host_allowed(ALLOWED[1], [])
    assert host_allowed("pay.court.example", [])


@given(st.text(alphabet=string.printable + "\u0430\u3002\uff0e\u202e", max_size=60))
def test_whatever_is_accepted_leads_to_the_host_that_was_checked(tail: str) -> None:
    for uri in (f"https://{tail}", f"https://pay.court.gov{tail}", f"https://{tail}pay.court.gov/", tail):
        try:
            host = check_target(uri, ["pay.court.gov"])
        except TargetRefused:
            continue
        assert host == "pay.court.gov"
        # What a browser takes for the host: all up to the first slash, backslash, question mark or hash.
        authority = uri[len("https://") :].replace("\\", "/").replace("?", "/").replace("#", "/").split("/")[0]
        assert authority.lower() in ("pay.court.gov", "pay.court.gov:443")
        assert urlsplit(uri).hostname == "pay.court.gov"


@given(st.from_regex(r"\A[a-z][a-z0-9]{0,10}(\.[a-z][a-z0-9]{0,10}){0,3}\.(gov|example|org)\Z"), st.text(max_size=30))
def test_a_plain_public_host_is_read_alike_by_both_parsers(host: str, path: str) -> None:
    plain = "".join(char for char in path if char in string.ascii_letters + string.digits + "-._~/")
    assert host_of(f"https://{host}/{plain}") == host
