"""The certificate the proxy shows: the operator's, or one made here so that the first start needs none."""

import ipaddress
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bundle.cache import Say
from bundle.home import write_private
from bundle.program import HostFault

_MAKER = "OpenNotice, made on this machine"
# What phones and browsers accept at most of a certificate that somebody added by hand.
_DAYS = 825
_WARN_DAYS = 30
USAGE = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)


def check_or_make(path: Path, names: Sequence[str], say: Say) -> bool:
    """Makes sure of a certificate for the names; returns whether it is one that was made here.

    One that was made here is made again when names change or it runs out. The operator's is never touched: when it does
    not fit, HostFault says why in one line. One that has run out is told of and no more: opens are still recorded, and
    an install that does not start would be worse.
    """
    if path.exists():
        leaf = _parts(path.read_text())[0][0]
        if not _is_ours(leaf):
            for warning in check(path.read_text(), names, in_use=True):
                say(f"warning: {warning}")
            return False
        if not _missing(leaf, names) and _days_left(leaf) > _WARN_DAYS:
            return True
    write_private(path, _made(names))
    return True


def accept(path: Path, pem: str, names: Sequence[str]) -> list[str]:
    """Keeps a certificate the operator hands over, in the order a proxy wants; returns warnings, raises HostFault."""
    warnings = check(pem, names)
    chain, key = _parts(pem)
    texts = [certificate.public_bytes(Encoding.PEM).decode() for certificate in chain]
    write_private(path, "".join([*texts, key]))
    return warnings


def check(pem: str, names: Sequence[str], *, in_use: bool = False) -> list[str]:
    """Returns what is worth a warning about a certificate with its key; raises HostFault when it cannot be used."""
    chain, _ = _parts(pem)
    leaf = chain[0]
    if missing := _missing(leaf, names):
        covered = ", ".join(_covered(leaf)) or "no name"
        raise HostFault(f"certificate: it is for {covered} and not for {', '.join(missing)}")
    if leaf.not_valid_before_utc > datetime.now(UTC):
        raise HostFault(f"certificate: it is not valid before {leaf.not_valid_before_utc:%Y-%m-%d}")
    warnings = []
    if _days_left(leaf) < 0:
        told = f"it ran out on {leaf.not_valid_after_utc:%Y-%m-%d}"
        if not in_use:
            raise HostFault(f"certificate: {told}")
        warnings.append(f"the certificate is refused by browsers and phones: {told}; hand over the new one")
    elif _days_left(leaf) < _WARN_DAYS:
        warnings.append(f"the certificate runs out on {leaf.not_valid_after_utc:%Y-%m-%d}")
    if len(chain) == 1 and leaf.issuer != leaf.subject:
        warnings.append("the certificate comes without the chain of its issuer: some phones will refuse it")
    return warnings


def _parts(pem: str) -> tuple[list[x509.Certificate], str]:
    """Returns the chain, the one that belongs to the key first, and the key in PEM."""
    blocks = [(found[1], found[0]) for found in _BLOCK.finditer(pem)]
    keys = [text for kind, text in blocks if kind.endswith("PRIVATE KEY")]
    if len(keys) != 1:
        raise HostFault(f"certificate: needs exactly one private key in PEM form, there are {len(keys)}")
    if "ENCRYPTED" in keys[0]:
        raise HostFault("certificate: its private key is locked with a passphrase; hand it over without")
    try:
        certificates = [x509.load_pem_x509_certificate(text.encode()) for kind, text in blocks if kind == "CERTIFICATE"]
        key = load_pem_private_key(keys[0].encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise HostFault("certificate: it is damaged or of a kind that cannot be read") from None
    if not certificates:
        raise HostFault("certificate: there is no certificate in PEM form, only a key")
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    leaf = [
        one
        for one in certificates
        if one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == public
    ]
    if not leaf:
        raise HostFault("certificate: the private key belongs to another certificate")
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return [leaf[0], *(one for one in certificates if one is not leaf[0])], text


def _covered(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def _missing(leaf: x509.Certificate, names: Sequence[str]) -> list[str]:
    covered = {name.lower() for name in _covered(leaf)}
    return [name for name in names if name not in covered and f"*.{name.partition('.')[2]}" not in covered]


def _days_left(leaf: x509.Certificate) -> float:
    return (leaf.not_valid_after_utc - datetime.now(UTC)).total_seconds() / 86400


def _is_ours(leaf: x509.Certificate) -> bool:
    found = leaf.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return bool(found) and found[0].value == _MAKER


def _made(names: Sequence[str]) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _MAKER)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A client whose clock is a little late must not refuse it.
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        # Clients that hold what they were told to trust against RFC 5280, as Python 3.13 does, ask for both.
        .add_extension(USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return certificate.public_bytes(Encoding.PEM).decode() + private


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
