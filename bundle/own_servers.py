"""Servers of the agency's own in place of those of compose.yaml: what an operator hands over, and how it is used."""

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from bundle.home import Home
from bundle.program import HostFault
from services.chassis.settings import is_loopback, service_url

# Where a process finds the agency's certificate authority; no file is there when none was handed over.
CA_OF_PROCESS = Path("/run/opennotice/ca.pem")
_CA_OF_SYSTEM = Path("/etc/ssl/certs/ca-certificates.crt")
_SCHEMES = {"postgres-url": ("postgresql",), "nats-url": ("nats", "tls")}
# What a URL may not name, because no file of the host is seen inside a container.
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "passfile", "service", "servicefile")


def checked(name: str, value: str) -> str:
    """Returns what an operator hands over as it is kept; raises HostFault when it is not what its name says."""
    value = value.strip()
    if not value:
        raise HostFault(f"{name}: the file is empty")
    if name == "ca-certificate":
        try:
            x509.load_pem_x509_certificates(value.encode())
        except ValueError:
            raise HostFault(f"{name}: must be one or more certificates in PEM form") from None
        return value + "\n"
    try:
        service_url(*_SCHEMES[name])(value)
    except ValueError as error:
        raise HostFault(f"{name}: {error}") from None
    if any(character.isspace() for character in value):
        raise HostFault(f"{name}: must be one line without blanks")
    host = urlsplit(value).hostname or ""
    if is_loopback(host):
        raise HostFault(f"{name}: {host} is the container itself there; use this machine's name or address")
    if name == "postgres-url":
        _check_postgres_url(value)
    return value


def _check_postgres_url(value: str) -> None:
    try:
        parts = conninfo_to_dict(value)
    except ProgrammingError as error:
        raise HostFault(f"postgres-url: {str(error).splitlines()[0]}") from None
    for part, called in (("user", "user"), ("password", "password"), ("dbname", "database")):
        if not parts.get(part):
            raise HostFault(f"postgres-url: names no {called}: postgresql://USER:PASSWORD@HOST:5432/DATABASE")
    if found := [key for key in _FILES if parts.get(key)]:
        raise HostFault(
            f"postgres-url: leave {found[0]} out; hand certificates over with: opennotice secret ca-certificate FILE"
        )


def postgres_url(home: Home, ca: Path | None = None) -> str:
    """Returns the URL of the agency's PostgreSQL with the certificates that it is to be held against.

    `ca` is where the one that connects finds the agency's authority. Who hands one over wants it used.
    """
    url = home.secret("postgres-url").read_text()
    parts = conninfo_to_dict(url)
    mode = str(parts.get("sslmode") or "")
    added = []
    given = home.secret("ca-certificate")
    if given.exists() and not mode:
        mode = "verify-full"
        added.append(f"sslmode={mode}")
    if mode.startswith("verify-"):
        trusted = (ca or given) if given.exists() else _CA_OF_SYSTEM
        added.append(f"sslrootcert={trusted}")
    return url + ("&" if "?" in url else "?") * bool(added) + "&".join(added)


def check_choice(home: Home, chosen: Iterable[str]) -> None:
    """Refuses compose files that say one thing and secrets that say another; raises HostFault."""
    for server in ("postgres", "nats"):
        handed_over = home.secret(f"{server}-url").exists()
        if server in chosen and not handed_over:
            raise HostFault(
                f"COMPOSE_FILE names deploy/own-{server}.yaml, but which server it is was not said: "
                f"opennotice secret {server}-url FILE"
            )
        if handed_over and server not in chosen:
            raise HostFault(
                f"{server}-url was handed over, but COMPOSE_FILE in .env does not name deploy/own-{server}.yaml; "
                f"add it, or go back with: opennotice secret {server}-url --forget"
            )
