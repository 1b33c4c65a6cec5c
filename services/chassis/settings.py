"""Settings: environment variables, read once, checked strictly, every fault told together."""

import dataclasses
import ipaddress
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from services.chassis.address import Network

PREFIX = "OPENNOTICE_"
# The test suite's own switches share the prefix but are no business of a process.
TEST_PREFIX = "OPENNOTICE_TEST_"
PLACEHOLDERS = {"changeme", "change-me", "password", "secret", "example", "todo"}

T = TypeVar("T")


class SettingsFault(Exception):
    """Says what is wrong with the settings, one line each, without showing a value."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


class Missing:
    """Marks a setting that has no default."""


REQUIRED = Missing()


def setting(
    name: str, parse: Callable[[str], T], help: str, *, default: T | Missing = REQUIRED, secret: bool = False
) -> Any:  # dataclasses want the field object where the type checker wants the value
    """Declares one setting: its variable, how to read it, what it is for. A secret may come as NAME_FILE."""
    metadata = {"name": name, "parse": parse, "help": help, "secret": secret}
    if isinstance(default, Missing):
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def load(cls: type[T], environ: Mapping[str, str] | None = None) -> T:
    """Reads every field of a settings class; raises SettingsFault naming all faults."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    faults: list[str] = []
    known: set[str] = set()
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = field.metadata["name"]
        known |= {name, f"{name}_FILE"} if field.metadata["secret"] else {name}
        try:
            text = _text_of(name, environ, secret=field.metadata["secret"])
            if text is not None:
                values[field.name] = field.metadata["parse"](text)
            elif field.default is dataclasses.MISSING:
                faults.append(f"{name} is not set: {field.metadata['help']}")
        except ValueError as fault:
            faults.append(f"{name} {fault}")
    faults += [
        f"{name} is not a setting of this program; is it misspelled?"
        for name in sorted(environ)
        if name.startswith(PREFIX) and not name.startswith(TEST_PREFIX) and name not in known
    ]
    if faults:
        raise SettingsFault(faults)
    return cls(**values)


def load_or_exit(cls: type[T]) -> T:
    """Reads the settings of this process, or ends it with exit code 2 and a line for each fault."""
    try:
        return load(cls)
    except SettingsFault as fault:
        for line in fault.faults:
            print(f"settings: {line}", file=sys.stderr)  # noqa: T201  (the log is not set up yet)
        sys.exit(2)


def _text_of(name: str, environ: Mapping[str, str], *, secret: bool) -> str | None:
    """Returns the text of a setting, None when it is not set."""
    file_name = f"{name}_FILE"
    if secret and file_name in environ:
        if name in environ:
            raise ValueError(f"is set twice, also as {file_name}; keep one")
        return _text_of_file(file_name, environ[file_name])
    if name not in environ:
        return None
    text = environ[name].strip()
    if not text:
        raise ValueError("is empty; remove it or give it a value")
    if secret and text.lower() in PLACEHOLDERS:
        raise ValueError("is a placeholder; give it a value of your own")
    return text


def _text_of_file(file_name: str, path: str) -> str:
    try:
        # Editors and shells end a file with a newline that is no part of a secret.
        text = Path(path.strip()).read_text(encoding="utf-8").strip()
        mode = Path(path.strip()).stat().st_mode
    except IsADirectoryError:
        raise ValueError(f"cannot be read: the path in {file_name} is a folder") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not text"
        raise ValueError(f"cannot be read from the file in {file_name}: {reason}") from None
    if not text:
        raise ValueError(f"is empty in the file of {file_name}")
    if text.lower() in PLACEHOLDERS:
        raise ValueError(f"is a placeholder in the file of {file_name}")
    if mode & 0o004:
        print(f"settings: warning: the file in {file_name} can be read by every user; use mode 0600", file=sys.stderr)  # noqa: T201
    return text


def text(limit: int) -> Callable[[str], str]:
    """Plain text of 1 to limit characters."""

    def parse(value: str) -> str:
        if len(value) > limit or any(ord(char) < 32 for char in value):
            raise ValueError(f"must be text of at most {limit} characters without control characters")
        return value

    return parse


def whole(lowest: int, highest: int) -> Callable[[str], int]:
    """A whole number, written in digits only."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", value, re.ASCII) or not lowest <= int(value) <= highest:
            raise ValueError(f"must be a whole number from {lowest} to {highest}")
        return int(value)

    return parse


def boolean(value: str) -> bool:
    """`true` or `false` and nothing else."""
    if value not in ("true", "false"):
        raise ValueError("must be true or false")
    return value == "true"


def choice(*words: str) -> Callable[[str], str]:
    """One of the given words."""

    def parse(value: str) -> str:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return value

    return parse


@dataclass(frozen=True)
class Address:
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(value: str) -> Address:
    """HOST:PORT, with an IPv6 host in brackets; port 1 to 65535."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", value, re.ASCII)
    if not match or not 1 <= int(match[3]) <= 65535:
        raise ValueError("must be HOST:PORT, for example 127.0.0.1:8080")
    return Address(match[1] or match[2], int(match[3]))


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def web_url(value: str) -> str:
    """https://HOST[:PORT] without path; http only for loopback. Returned without a slash at the end."""
    shape = "must be https://HOST or https://HOST:PORT, without user, path or query (http only for loopback)"
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError(shape) from None
    host = parts.hostname or ""
    if parts.scheme not in ("https", "http") or not host or parts.username or parts.password:
        raise ValueError(shape)
    if parts.path not in ("", "/") or parts.query or parts.fragment or re.search(r"[^A-Za-z0-9.:_\[\]/-]", value):
        raise ValueError(shape)
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError(shape)
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port else "")


def cidrs(value: str) -> tuple[Network, ...]:
    """Networks in CIDR form, comma between. None may mean everybody, or trust would have no meaning."""
    networks: list[Network] = []
    for part in value.split(","):
        try:
            network = ipaddress.ip_network(part.strip(), strict=True)
        except ValueError:
            raise ValueError("must be networks in CIDR form like 10.0.0.0/8, without host bits") from None
        if network.prefixlen == 0:
            raise ValueError("must not contain the whole Internet (/0)")
        networks.append(network)
    return tuple(networks)


def folder(value: str) -> Path:
    """A path; whether it exists and can be written is checked by its user."""
    if "\0" in value:
        raise ValueError("must be a path")
    return Path(value)


def service_url(*schemes: str) -> Callable[[str], str]:
    """The URL of a server such as postgresql://… or nats://…; may hold a password."""

    def parse(value: str) -> str:
        try:
            parts = urlsplit(value)
            ok = parts.scheme in schemes and (bool(parts.hostname) or "host=" in parts.query)
            _ = parts.port
        except ValueError:
            ok = False
        if not ok:
            raise ValueError(f"must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value

    return parse


def key_text(value: str) -> str:
    """A key in text form (PEM, JSON or base64); its user checks it closer."""
    if len(value) < 43:
        raise ValueError("is too short for a key")
    return value


_NOBODY: tuple[Network, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What every service needs. Subclasses add `grpc_bind` and their own."""

    probe_bind: Address = setting(
        "OPENNOTICE_PROBE_BIND", address, "where /live, /ready and /metrics answer; internal network only"
    )
    identity_key: str = setting(
        "OPENNOTICE_IDENTITY_KEY", key_text, "this process's own Ed25519 private key, PEM", secret=True
    )
    identity_trust: str = setting(
        "OPENNOTICE_IDENTITY_TRUST", key_text, "public keys of all processes, a JWK set with kid = process", secret=True
    )
    log_level: str = setting(
        "OPENNOTICE_LOG_LEVEL", choice("debug", "info", "warning", "error"), "how much is logged", default="info"
    )
    trusted_proxies: tuple[Network, ...] = setting(
        "OPENNOTICE_TRUSTED_PROXIES",
        cidrs,
        "proxies whose X-Forwarded-For is believed; none: the socket's address counts",
        default=_NOBODY,
    )


@dataclass(frozen=True, kw_only=True)
class StoreSettings(ServiceSettings):
    """What a service with tables and events needs besides."""

    serve_database_url: str = setting(
        "OPENNOTICE_SERVE_DATABASE_URL",
        service_url("postgresql"),
        "PostgreSQL as the role that answers calls, bound to one agency at a time",
        secret=True,
    )
    ingest_database_url: str = setting(
        "OPENNOTICE_INGEST_DATABASE_URL",
        service_url("postgresql"),
        "PostgreSQL as the role of consumers and the relay, which no call reaches",
        secret=True,
    )
    nats_url: str = setting("OPENNOTICE_NATS_URL", service_url("nats", "tls"), "the NATS server", secret=True)
    paging_key: str = setting("OPENNOTICE_PAGING_KEY", key_text, "Fernet key that seals page tokens", secret=True)
