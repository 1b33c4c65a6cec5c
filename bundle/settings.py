"""The operator's settings: what may be said about the whole bundle, checked before anything is started."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services.chassis.address import Network
from services.chassis.settings import (
    Address,
    SettingsFault,
    address,
    choice,
    cidrs,
    folder,
    is_loopback,
    load,
    service_url,
    setting,
    text,
    web_url,
)

_NONE: tuple[Network, ...] = ()
SERVICES = ("auth", "link", "tracking", "enrichment", "reporting")


def email(value: str) -> str:
    """An e-mail address; auth checks it closer."""
    local, at, host = value.rpartition("@")
    if not (local and at and host) or len(value) > 254 or any(char.isspace() for char in value):
        raise ValueError("must be an e-mail address")
    return value


def password(value: str) -> str:
    """A first password, by the length that auth asks of every password."""
    if not 15 <= len(value) <= 128:
        raise ValueError("must have 15 to 128 characters")
    return value


def http_url(value: str) -> str:
    """http://HOST:PORT of a server inside."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be http://HOST:PORT")
    return value.rstrip("/")


@dataclass(frozen=True, kw_only=True)
class BundleSettings:
    """Every setting of `opennotice run`; each process gets its own part of them and of what is made in the home."""

    home: Path = setting(
        "OPENNOTICE_HOME", folder, "where everything is kept: database, queue, keys, logs", default=Path("var")
    )
    public_bind: Address = setting(
        "OPENNOTICE_PUBLIC_BIND", address, "where clients' links are answered", default=Address("127.0.0.1", 8080)
    )
    public_url: str = setting(
        "OPENNOTICE_PUBLIC_URL", web_url, "how links begin; the public bind's own address when unset", default=""
    )
    staff_bind: Address = setting(
        "OPENNOTICE_STAFF_BIND", address, "where staff pages are answered", default=Address("127.0.0.1", 8000)
    )
    staff_url: str = setting(
        "OPENNOTICE_STAFF_URL", web_url, "what staff type; the staff bind's own address when unset", default=""
    )
    auth_grpc_bind: Address = setting(
        "OPENNOTICE_AUTH_GRPC_BIND", address, "gRPC of auth", default=Address("127.0.0.1", 50051)
    )
    link_grpc_bind: Address = setting(
        "OPENNOTICE_LINK_GRPC_BIND", address, "gRPC of link", default=Address("127.0.0.1", 50052)
    )
    tracking_grpc_bind: Address = setting(
        "OPENNOTICE_TRACKING_GRPC_BIND", address, "gRPC of tracking", default=Address("127.0.0.1", 50053)
    )
    enrichment_grpc_bind: Address = setting(
        "OPENNOTICE_ENRICHMENT_GRPC_BIND", address, "gRPC of enrichment", default=Address("127.0.0.1", 50054)
    )
    reporting_grpc_bind: Address = setting(
        "OPENNOTICE_REPORTING_GRPC_BIND", address, "gRPC of reporting", default=Address("127.0.0.1", 50055)
    )
    trusted_proxies: tuple[Network, ...] = setting(
        "OPENNOTICE_TRUSTED_PROXIES", cidrs, "proxies whose X-Forwarded-For counts, as CIDRs with commas", default=_NONE
    )
    agency_name: str = setting(
        "OPENNOTICE_AGENCY_NAME", text(200), "name of the agency made on first start", default="My agency"
    )
    admin_email: str = setting(
        "OPENNOTICE_ADMIN_EMAIL", email, "its first administrator", default="admin@opennotice.localhost"
    )
    admin_password: str = setting(
        "OPENNOTICE_ADMIN_PASSWORD", password, "their password; made and shown once when unset", default="", secret=True
    )
    postgres_url: str = setting(
        "OPENNOTICE_POSTGRES_URL",
        service_url("postgresql"),
        "a PostgreSQL (17 or newer) of your own, as a user that may create roles and schemas",
        default="",
        secret=True,
    )
    nats_url: str = setting(
        "OPENNOTICE_NATS_URL", service_url("nats", "tls"), "a nats-server of your own", default="", secret=True
    )
    nats_monitor_url: str = setting(
        "OPENNOTICE_NATS_MONITOR_URL",
        http_url,
        "the monitoring address of that nats-server, which tells whether it syncs; port 8222 of its host when unset",
        default="",
    )
    postgres_account: str = setting(
        "OPENNOTICE_POSTGRES_ACCOUNT",
        text(64),
        "account that the embedded PostgreSQL runs under when you are root",
        default="nobody",
    )
    ip_data_dir: Path | None = setting(
        "OPENNOTICE_IP_DATA_DIR", folder, "a folder with .mmdb files of your own instead of the free ones", default=None
    )
    log_level: str = setting(
        "OPENNOTICE_LOG_LEVEL", choice("debug", "info", "warning", "error"), "how much is logged", default="info"
    )

    def grpc_bind(self, service: str) -> Address:
        """Returns where a service answers gRPC."""
        bind: Address = getattr(self, f"{service}_grpc_bind")
        return bind

    def binds(self) -> dict[str, Address]:
        """Returns every address the operator gives, by the name of its setting."""
        named = {"OPENNOTICE_PUBLIC_BIND": self.public_bind, "OPENNOTICE_STAFF_BIND": self.staff_bind}
        return named | {f"OPENNOTICE_{name.upper()}_GRPC_BIND": self.grpc_bind(name) for name in SERVICES}

    def as_environment(self) -> dict[str, str]:
        """Returns what another command has to know to reach this bundle; no secret is among it."""
        known = {name: str(bind) for name, bind in self.binds().items()}
        known |= {"OPENNOTICE_PUBLIC_URL": self.public_url, "OPENNOTICE_STAFF_URL": self.staff_url}
        if self.trusted_proxies:
            known["OPENNOTICE_TRUSTED_PROXIES"] = ",".join(map(str, self.trusted_proxies))
        return known


def load_bundle_settings(environ: Mapping[str, str] | None = None) -> BundleSettings:
    """Reads the settings and works out what follows from them; raises SettingsFault naming every fault."""
    faults: list[str] = []
    try:
        found = load(BundleSettings, environ)
    except SettingsFault as fault:
        raise SettingsFault(fault.faults) from None
    derived: dict[str, Any] = {}
    for side in ("public", "staff"):
        bind: Address = getattr(found, f"{side}_bind")
        if not getattr(found, f"{side}_url"):
            if is_loopback(bind.host):
                derived[f"{side}_url"] = f"http://{bind}"
            else:
                name = f"OPENNOTICE_{side.upper()}"
                faults.append(f"{name}_URL is not set although {name}_BIND is not loopback: say the https address")
    places: dict[str, str] = {}
    for name, bind in found.binds().items():
        other = places.setdefault(str(bind), name)
        if other != name:
            faults.append(f"{name} is the same address as {other}")
    if found.nats_url and not found.nats_monitor_url:
        host = urlsplit(found.nats_url).hostname
        derived["nats_monitor_url"] = f"http://{host}:8222"
    if faults:
        raise SettingsFault(faults)
    return dataclasses.replace(found, home=found.home.absolute(), **derived)
