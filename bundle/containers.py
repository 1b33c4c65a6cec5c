"""What the one-shot containers of compose.yaml do: what every container may know, the database, the first agency.

The home is a volume that only they and the operator's command mount. Each container that stays has a small volume of
its own, which it cannot write, and finds there what it may know and nothing else: whoever takes over one process does
not hold the keys of the others.
"""

import asyncio
import dataclasses
import json
import os
import urllib.request
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import make_conninfo

from bundle import certificate, own_servers, upgrade
from bundle.cache import Say
from bundle.embedded import nats_configuration
from bundle.first_steps import DATABASE, bring_up_to_date, make_database, make_first_agency, patiently
from bundle.home import Home, read_json, write_private
from bundle.preflight import check_nats, check_postgres
from bundle.processes import OWN, secret_files, settings_class, write_urls
from bundle.program import HostFault
from bundle.settings import SERVICES, email, http_url, load_bundle_settings
from services.chassis.address import Network
from services.chassis.settings import (
    SettingsFault,
    choice,
    cidrs,
    is_loopback,
    load,
    setting,
    text,
    web_url,
    whole,
)

HOME = Path("/var/lib/opennotice/home")
# Where the volumes of the other containers are mounted while they are filled.
DEAL = Path("/var/lib/opennotice/deal")
STAYING = (*OWN, "postgres", "nats", "proxy")
PROBE_PORT = 9000
_GRPC_PORTS = {"auth": 50051, "link": 50052, "tracking": 50053, "enrichment": 50054, "reporting": 50055}
_NOBODY: tuple[Network, ...] = ()


def https_url(value: str) -> str:
    """https://NAME or https://NAME:PORT; the proxy answers nothing else."""
    url = web_url(value)
    name = urlsplit(url).hostname or ""
    if not url.startswith("https:") or (is_loopback(name)):
        raise ValueError("must be https://NAME or https://NAME:PORT, with a name of its own")
    return url


def subnet(value: str) -> Network:
    """One network in CIDR form with room for every container on it."""
    found = cidrs(value)
    if len(found) != 1 or found[0].version != 4 or found[0].prefixlen > 28:
        raise ValueError("must be one IPv4 network of /28 or larger, for example 172.30.251.0/24")
    return found[0]


def yes(value: str) -> bool:
    """What a compose file says about itself."""
    return choice("yes", "no")(value) == "yes"


@dataclass(frozen=True, kw_only=True)
class ContainerSettings:
    """What an operator says in `.env` beside compose.yaml."""

    public_url: str = setting(
        "OPENNOTICE_PUBLIC_URL", https_url, "how clients' links begin", default="https://links.opennotice.localhost"
    )
    staff_url: str = setting(
        "OPENNOTICE_STAFF_URL", https_url, "what staff type", default="https://staff.opennotice.localhost"
    )
    api_url: str = setting(
        "OPENNOTICE_API_URL", https_url, "gRPC for other court systems", default="https://api.opennotice.localhost"
    )
    publish_address: str = setting(
        "OPENNOTICE_PUBLISH_ADDRESS",
        text(64),
        "address that the proxy is reached at",
        default="0.0.0.0",
    )
    https_port: int = setting("OPENNOTICE_HTTPS_PORT", whole(1, 65535), "published port of https", default=443)
    http_port: int = setting("OPENNOTICE_HTTP_PORT", whole(1, 65535), "published port that leads to https", default=80)
    front_subnet: Network = setting(
        "OPENNOTICE_FRONT_SUBNET",
        subnet,
        "internal network between the proxy and what it serves; change it where your network uses the same",
        default=cidrs("172.30.251.0/24")[0],
    )
    trusted_proxies: tuple[Network, ...] = setting(
        "OPENNOTICE_TRUSTED_PROXIES",
        cidrs,
        "load balancers of your own before this machine, whose X-Forwarded-For counts, as CIDRs with commas",
        default=_NOBODY,
    )
    agency_name: str = setting(
        "OPENNOTICE_AGENCY_NAME", text(200), "name of the agency made on first start", default="My agency"
    )
    admin_email: str = setting(
        "OPENNOTICE_ADMIN_EMAIL", email, "its first administrator", default="admin@opennotice.localhost"
    )
    nats_monitor_url: str = setting(
        "OPENNOTICE_NATS_MONITOR_URL", http_url, "monitoring address of a nats-server of your own", default=""
    )
    # Said by the compose files of deploy/, never by an operator.
    own_proxy: bool = setting("OPENNOTICE_OWN_PROXY", yes, "deploy/without-proxy.yaml is chosen", default=False)
    own_postgres: bool = setting("OPENNOTICE_OWN_POSTGRES", yes, "deploy/own-postgres.yaml is chosen", default=False)
    own_nats: bool = setting("OPENNOTICE_OWN_NATS", yes, "deploy/own-nats.yaml is chosen", default=False)
    log_level: str = setting(
        "OPENNOTICE_LOG_LEVEL", choice("debug", "info", "warning", "error"), "how much is logged", default="info"
    )
    build_files: str = setting(
        "OPENNOTICE_BUILD_FILES", text(4096), "folder with mirrors and certificates for building images", default=""
    )
    restore_point: bool = setting(
        "OPENNOTICE_RESTORE_POINT", yes, "whether an upgrade keeps a copy of the database to go back to", default=True
    )
    version: str = setting("OPENNOTICE_VERSION", text(100), "tag of the images", default="latest")

    def own_servers(self) -> list[str]:
        """Returns which servers are the agency's own."""
        return [name for name, own in (("postgres", self.own_postgres), ("nats", self.own_nats)) if own]

    def names(self) -> dict[str, str]:
        """Returns the three host names with the part of the proxy that answers each."""
        urls = {"tracking": self.public_url, "gateway": self.staff_url, "api": self.api_url}
        return {urlsplit(url).hostname or "": part for part, url in urls.items()}


def load_container_settings(environ: Mapping[str, str] | None = None) -> ContainerSettings:
    """Reads the settings and holds them against each other; raises SettingsFault naming every fault."""
    found = load(ContainerSettings, environ)
    faults = []
    if len(found.names()) < 3:
        faults.append("OPENNOTICE_PUBLIC_URL, OPENNOTICE_STAFF_URL and OPENNOTICE_API_URL need three different names")
    if found.https_port == found.http_port:
        faults.append("OPENNOTICE_HTTPS_PORT and OPENNOTICE_HTTP_PORT are the same")
    if faults:
        raise SettingsFault(faults)
    return found


def set_up(home: Home, say: Say, deal: Path = DEAL, environ: Mapping[str, str] | None = None) -> None:
    """Makes what is missing in the home and deals out to every container what it may know. May run at every start."""
    settings = load_container_settings(environ)
    own_servers.check_choice(home, settings.own_servers())
    # Before anything that runs is touched, and before a server that does not fit becomes the one that is used.
    asyncio.run(_check_servers(home, settings, say, settings.own_servers()))
    home.make_folders()
    os.umask(0o077)
    lock = home.lock()
    try:
        upgrade.refuse_newer_data(home)
        home.make_secrets()
        write_urls(home, admin_url(home, own_servers.CA_OF_PROCESS), nats_url(home))
        # Without our proxy nobody sees it, and one that has run out must not be in the way.
        own = not settings.own_proxy and certificate.check_or_make(
            home.secret("certificate.pem"), list(settings.names()), say
        )
        write_private(home.reach, json.dumps(_reach(settings), indent=1))
        write_private(home.probes, json.dumps(_probes(home, settings), indent=1))
        for name in STAYING:
            _deal_out(_part_of(name, home, settings), deal / name)
        if own:
            say("the certificate is one that this install made for itself: browsers will warn about it")
    finally:
        os.close(lock)


def _part_of(name: str, home: Home, settings: ContainerSettings) -> dict[str, str]:
    """Returns the files of one container by name."""
    if name == "postgres":
        return {"password": home.secret("postgres.password").read_text()}
    if name == "nats":
        password = home.secret("nats.password").read_text()
        return {"nats-server.conf": nats_configuration("0.0.0.0:4222", "0.0.0.0:8222", Path("/var/lib/nats"), password)}
    if name == "proxy":
        names = "".join(f"{host} {part}\n" for host, part in settings.names().items())
        trusted = "".join(f"{network}\n" for network in settings.trusted_proxies)
        pem = home.secret("certificate.pem")
        shown = {"certificate.pem": pem.read_text()} if pem.exists() else {}
        return {**shown, "names.map": names, "trusted.lst": trusted}
    files = secret_files(home, name)
    asked = [field.metadata["name"] for field in dataclasses.fields(settings_class(name)) if field.metadata["secret"]]
    part = {file_name(asked_for): files[asked_for].read_text() for asked_for in asked}
    if home.secret("ca-certificate").exists():
        part["ca.pem"] = home.secret("ca-certificate").read_text()
    return part


def file_name(setting_name: str) -> str:
    """Returns how the file of a secret is called inside a container."""
    return setting_name.removeprefix("OPENNOTICE_").lower()


def _deal_out(part: Mapping[str, str], folder: Path) -> None:
    try:
        for name, value in part.items():
            if not (folder / name).exists() or (folder / name).read_text() != value:
                write_private(folder / name, value)
        for path in folder.iterdir():
            if path.name not in part:
                path.unlink()
    except OSError as error:
        raise HostFault(f"cannot write to the volume of {folder.name}: {error.strerror}") from None


def _reach(settings: ContainerSettings) -> dict[str, str]:
    """Returns the settings under which the operator's command reaches the processes, by name of container."""
    known = {f"OPENNOTICE_{name.upper()}_GRPC_BIND": f"{name}:{_GRPC_PORTS[name]}" for name in SERVICES}
    trusted = [settings.front_subnet, *settings.trusted_proxies]
    return known | {
        "OPENNOTICE_PUBLIC_BIND": "tracking:8080",
        "OPENNOTICE_STAFF_BIND": "gateway:8000",
        "OPENNOTICE_PUBLIC_URL": settings.public_url,
        "OPENNOTICE_STAFF_URL": settings.staff_url,
        "OPENNOTICE_TRUSTED_PROXIES": ",".join(map(str, trusted)),
        "OPENNOTICE_AGENCY_NAME": settings.agency_name,
        "OPENNOTICE_ADMIN_EMAIL": settings.admin_email,
    }


def _probes(home: Home, settings: ContainerSettings) -> dict[str, str]:
    """Returns where everything but PostgreSQL says over HTTP whether it is ready."""
    found = {name: f"http://{name}:{PROBE_PORT}/ready" for name in OWN}
    found["nats"] = f"{monitor_url(home, settings)}/healthz"
    if not settings.own_proxy:
        found["proxy"] = f"http://proxy:{PROBE_PORT}/live"
    return found


def status(home: Home) -> dict[str, dict[str, object]]:
    """Asks everything whether it is ready; the engine, not we, knows how often a container was restarted."""
    # Straight, whatever proxy the environment names: they are on networks of their own.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    found: dict[str, dict[str, object]] = {}

    def told(name: str, state: str, address: str) -> None:
        found[name] = {"name": name, "pid": None, "state": state, "restarts": None, "address": address}

    for name, url in read_json(home.probes).items():
        try:
            with opener.open(url, timeout=3):
                state = "ready"
        except HTTPError:
            state = "starting"
        except OSError:
            state = "failed"
        told(name, state, urlsplit(url).netloc)
    url = admin_url(home)
    try:
        psycopg.connect(make_conninfo(url, connect_timeout=3)).close()
        state = "ready"
    except psycopg.OperationalError:
        state = "failed"
    told("postgres", state, f"{urlsplit(url).hostname}:{urlsplit(url).port or 5432}")
    return found


def monitor_url(home: Home, settings: ContainerSettings) -> str:
    """Returns where nats-server tells about itself."""
    return settings.nats_monitor_url or f"http://{urlsplit(nats_url(home)).hostname}:8222"


def admin_url(home: Home, ca: Path | None = None) -> str:
    """Returns the URL of PostgreSQL as the role that migrates: the agency's own server, or that of the compose file.

    `ca` is where the one that connects finds the agency's certificate authority.
    """
    if home.secret("postgres-url").exists():
        return own_servers.postgres_url(home, ca)
    return f"postgresql://postgres:{home.secret('postgres.password').read_text()}@postgres:5432/{DATABASE}"


def nats_url(home: Home) -> str:
    """Returns the URL of NATS."""
    own = home.secret("nats-url")
    return (
        own.read_text() if own.exists() else f"nats://opennotice:{home.secret('nats.password').read_text()}@nats:4222"
    )


def keep_secret(home: Home, name: str, value: str) -> None:
    """Keeps what an operator hands over; raises HostFault when it is not what its name says."""
    value = own_servers.checked(name, value)
    home.make_folders()
    write_private(home.secret(name), value)


def forget_secret(home: Home, name: str) -> None:
    """Goes back to the server of the compose file; what is stored there stays where it is."""
    home.secret(name).unlink(missing_ok=True)


def take_certificate(home: Home, pem: str, say: Say, deal: Path = DEAL) -> None:
    """Takes over the operator's certificate; the proxy shows it as soon as it is told to look again."""
    settings = load_container_settings()
    path = home.secret("certificate.pem")
    home.make_folders()
    for warning in certificate.accept(path, pem, list(settings.names())):
        say(f"warning: {warning}")
    write_private(deal / "proxy" / "certificate.pem", path.read_text())
    say(f"the certificate for {', '.join(settings.names())} is in place")


def migrate_in_place(home: Home, say: Say) -> None:
    """Checks both servers, makes the database and brings it up to date."""
    settings = load_container_settings()
    asyncio.run(_check_servers(home, settings, say, ("postgres", "nats")))
    url, own = admin_url(home), home.secret("postgres-url").exists()
    if not own:
        make_database(url.rpartition("/")[0] + "/postgres")
    upgrade.before_migrations(home, url, own_server=own, wanted=settings.restore_point, say=say)
    applied = bring_up_to_date(url, home)
    upgrade.after_migrations(home, settings.version)
    say(f"the database is up to date ({len(applied)} steps applied)")


def way_back(home: Home, installed: str) -> upgrade.WayBack:
    """Finds out where `opennotice back` leads."""
    own = home.secret("postgres-url").exists()
    return upgrade.way_back(home, admin_url(home), own_server=own, installed=installed)


def go_back(home: Home, installed: str, say: Say, *, lose_new: bool) -> None:
    """Makes the database what the version before left."""
    own = home.secret("postgres-url").exists()
    url, queue = admin_url(home), nats_url(home)
    upgrade.go_back(home, url, queue, own_server=own, installed=installed, lose_new=lose_new, say=say)


async def _check_servers(home: Home, settings: ContainerSettings, say: Say, servers: Collection[str]) -> None:
    async def postgres() -> None:
        url, own = admin_url(home), home.secret("postgres-url").exists()
        # Ours is looked at through the database that is always there.
        looked_at = url if own else url.rpartition("/")[0] + "/postgres"
        faults, warnings = await asyncio.to_thread(check_postgres, looked_at, "postgres-url" if own else "postgres")
        for warning in warnings:
            say(f"warning: {warning}")
        if faults:
            raise HostFault("\n".join(faults))

    async def queue() -> None:
        name = "nats-url" if home.secret("nats-url").exists() else "nats"
        if faults := await check_nats(nats_url(home), monitor_url(home, settings), name):
            raise HostFault("\n".join(faults))

    for name, check in (("postgres", postgres), ("nats", queue)):
        if name in servers:
            await patiently(check, say)


def first_agency(home: Home) -> None:
    """Makes the first agency; its administrator's password is kept in the home and shown by `welcome`."""
    settings = load_bundle_settings({**read_json(home.reach), "OPENNOTICE_HOME": str(home.root)})
    make_first_agency(home, settings)


def welcome(home: Home) -> str:
    """Returns what an operator wants to know when everything runs. The password is in it: for a terminal, not a log."""
    settings = load_bundle_settings({**read_json(home.reach), "OPENNOTICE_HOME": str(home.root)})
    password = home.admin_password
    shown = password.read_text().strip() if password.exists() else "the one that was set"
    return "\n".join(
        [
            f"  Staff pages    {settings.staff_url}",
            f"  Administrator  {settings.admin_email}",
            f"  Password       {shown}   (unless it was changed since)",
            f"  Public links   {settings.public_url}",
        ]
    )
