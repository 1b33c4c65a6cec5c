"""The certificate the proxy shows: the operator's is checked and left alone, our own is made again when it must be."""

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from bundle.certificate import accept, check, check_or_make
from bundle.program import HostFault

NAMES = ["links.court.example", "staff.court.example", "api.court.example"]


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Maker:
    """Makes certificates as an authority does: one for itself, and others that it signs."""

    def __init__(self, name: str = "Court CA", above: "Maker | None" = None) -> None:
        self.name = named(name)
        self.key = ec.generate_private_key(ec.SECP256R1())
        signer = above or self
        self.pem = self.sign(self.name, self.key.public_key(), [], signer)

    def sign(self, subject: x509.Name, key: Any, names: list[str], signer: "Maker", **days: float) -> str:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(signer.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days.get("begin", -1)))
            .not_valid_after(now + timedelta(days=days.get("end", 365)))
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
        return builder.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def leaf(self, names: list[str] = NAMES, **days: float) -> tuple[str, str]:
        """Returns a certificate with its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = named(names[0] if names else "nobody")
        return self.sign(subject, key.public_key(), names, self, **days), key_text(key)


def key_text(key: ec.EllipticCurvePrivateKey, lock: KeySerializationEncryption | None = None) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock or NoEncryption()).decode()


@pytest.fixture(scope="module")
def maker() -> Maker:
    return Maker()


def refused(pem: str) -> str:
    with pytest.raises(HostFault) as caught:
        check(pem, NAMES)
    said = str(caught.value)
    assert said.startswith("certificate: ")
    assert "\n" not in said
    return said


def test_a_good_certificate_with_its_chain_is_taken_without_a_word(maker: Maker) -> None:
    certificate, key = maker.leaf()
    assert check(certificate + maker.pem + key, NAMES) == []


def test_it_comes_out_in_the_order_a_proxy_wants_however_it_was_handed_over(tmp_path: Path, maker: Maker) -> None:
    between = Maker("Between", above=maker)
    certificate, key = between.leaf()
    path = tmp_path / "certificate.pem"
    accept(path, f"Bag Attributes\n  x: y\n{key}\r\n{between.pem}{maker.pem}{certificate}", NAMES)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
    found = x509.load_pem_x509_certificates(path.read_bytes())
    assert [one.subject for one in found] == [named(NAMES[0]), between.name, maker.name]


@pytest.mark.parametrize(
    ("names", "fits"),
    [
        (["*.court.example"], True),
        ([name.upper() for name in NAMES], True),
        ([*NAMES, "more.court.example"], True),
        (["*.example"], False),
        (["*.staff.court.example", "links.court.example", "api.court.example"], False),
        (["court.example"], False),
        (NAMES[:2], False),
        ([], False),
    ],
)
def test_every_name_has_to_be_covered(maker: Maker, names: list[str], fits: bool) -> None:
    certificate, key = maker.leaf(names)
    if fits:
        assert check(certificate + maker.pem + key, NAMES) == []
    else:
        assert "api.court.example" in refused(certificate + key) or "staff.court.example" in refused(certificate + key)


def test_the_key_of_another_is_refused(maker: Maker) -> None:
    assert "another certificate" in refused(maker.leaf()[0] + maker.leaf()[1])


def test_a_locked_key_is_refused(maker: Maker) -> None:
    locked = key_text(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"sesame"))
    assert "passphrase" in refused(maker.leaf()[0] + locked)


def test_a_key_locked_in_the_old_form_is_refused(maker: Maker) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"sesame"))
    assert "passphrase" in refused(maker.leaf()[0] + locked.decode())


def test_what_is_missing_or_too_much_is_said(maker: Maker) -> None:
    certificate, key = maker.leaf()
    assert "private key" in refused(certificate)
    assert "private key" in refused(certificate + key + maker.leaf()[1])
    assert "no certificate" in refused(key)
    assert "private key" in refused("")
    assert "private key" in refused("\x00\xff binary, as a PKCS#12 file is")


@pytest.mark.parametrize("part", ["certificate", "key"])
def test_damage_is_said(maker: Maker, part: str) -> None:
    certificate, key = maker.leaf()
    lines = (certificate if part == "certificate" else key).splitlines(keepends=True)
    damaged = "".join([lines[0], "AAAA" + lines[1][4:], *lines[2:]])
    assert "damaged" in refused(damaged + key if part == "certificate" else certificate + damaged)


def test_half_a_file_is_said(maker: Maker) -> None:
    certificate, key = maker.leaf()
    whole = key + certificate
    for length in (len(key) // 2, len(key), len(key) + len(certificate) // 2):
        refused(whole[:length])


def test_time_is_said(maker: Maker) -> None:
    gone, key = maker.leaf(begin=-20, end=-10)
    assert "ran out on" in refused(gone + key)
    soon, key = maker.leaf(begin=10)
    assert "not valid before" in refused(soon + key)
    [warning] = check("".join(maker.leaf(end=10)) + maker.pem, NAMES)
    assert "runs out on" in warning


def test_one_in_use_that_ran_out_is_told_of_and_keeps_nothing_from_starting(maker: Maker, tmp_path: Path) -> None:
    path = tmp_path / "certificate.pem"
    path.write_text("".join(maker.leaf(begin=-20, end=-10)) + maker.pem)
    told: list[str] = []
    assert not check_or_make(path, NAMES, told.append)
    [warning] = told
    assert "ran out on" in warning


def test_a_certificate_without_its_chain_is_worth_a_warning(maker: Maker) -> None:
    [warning] = check("".join(maker.leaf()), NAMES)
    assert "chain" in warning


def test_ours_is_made_once_and_fits(tmp_path: Path) -> None:
    path = tmp_path / "certificate.pem"
    assert check_or_make(path, NAMES, print)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made = path.read_text()
    assert check(made, NAMES) == []
    assert check_or_make(path, NAMES, print)
    assert path.read_text() == made


def test_ours_is_made_again_when_names_change(tmp_path: Path) -> None:
    path = tmp_path / "certificate.pem"
    check_or_make(path, NAMES, print)
    before = path.read_text()
    check_or_make(path, ["other.court.example"], print)
    assert path.read_text() != before
    check(path.read_text(), ["other.court.example"])


def test_ours_is_made_again_before_it_runs_out(tmp_path: Path) -> None:
    path = tmp_path / "certificate.pem"
    check_or_make(path, NAMES, print)
    ours = x509.load_pem_x509_certificate(path.read_bytes()).issuer
    old = Maker()
    old.name = ours
    path.write_text("".join(old.leaf(end=20)))
    check_or_make(path, NAMES, print)
    assert check(path.read_text(), NAMES) == []


def test_the_operators_is_never_touched(tmp_path: Path, maker: Maker) -> None:
    path = tmp_path / "certificate.pem"
    accept(path, "".join(maker.leaf()) + maker.pem, NAMES)
    before = path.read_text()
    assert not check_or_make(path, NAMES, print)
    with pytest.raises(HostFault, match=r"not for other\.court\.example"):
        check_or_make(path, ["other.court.example"], print)
    assert path.read_text() == before


def test_a_refused_one_leaves_the_one_before_in_place(tmp_path: Path, maker: Maker) -> None:
    path = tmp_path / "certificate.pem"
    accept(path, "".join(maker.leaf()) + maker.pem, NAMES)
    before = path.read_text()
    with pytest.raises(HostFault):
        accept(path, "".join(maker.leaf(["wrong.example"])), NAMES)
    assert path.read_text() == before


def test_what_lies_there_damaged_is_said(tmp_path: Path) -> None:
    path = tmp_path / "certificate.pem"
    path.write_text("not a certificate")
    with pytest.raises(HostFault, match="certificate: "):
        check_or_make(path, NAMES, print)
