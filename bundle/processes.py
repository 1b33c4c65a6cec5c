"""Our own processes: which there are, and exactly the environment each of them gets."""

import dataclasses
import importlib
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from bundle.home import Home, write_private
from bundle.program import Program
from bundle.settings import SERVICES, BundleSettings
from services.chassis.migrate import LOGIN_ROLES
from services.chassis.settings import Address, ServiceSettings

ROOT = Path(__file__).resolve().parent.parent
# In the order in which they are stopped: those that people reach first, then those they lean on.
OWN = ("gateway", "tracking", "reporting", "enrichment", "link", "auth")
PROBE_PORTS = [f"{name}-probe" for name in OWN]
# What a process needs of the surroundings it was started from; nothing else comes along.
_INHERITED = ("HOME", "LANG", "LC_ALL", "PATH", "TZ", "TMPDIR")


def settings_class(process: str) -> type[ServiceSettings]:
    """Returns the settings class of a process: the one its settings module defines."""
    module = importlib.import_module("gateway.settings" if process == "gateway" else f"services.{process}.settings")
    found = [
        entry
        for entry in vars(module).values()
        if isinstance(entry, type) and issubclass(entry, ServiceSettings) and entry.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise LookupError(f"{module.__name__} must define one settings class, it defines {len(found)}")
    return found[0]


@dataclass(frozen=True)
class Surroundings:
    """What the bundle knows and its processes may need."""

    settings: BundleSettings
    home: Home
    ports: Mapping[str, int]
    ip_data: Path
    public_socket: int

    def probe(self, process: str) -> Address:
        """Returns where a process answers /live, /ready and /metrics."""
        return Address("127.0.0.1", self.ports[f"{process}-probe"])

    def address(self, process: str) -> Address:
        """Returns where others reach a process."""
        return self.settings.staff_bind if process == "gateway" else self.settings.grpc_bind(process)

    def program(self, process: str) -> Program:
        """Returns how a process is run."""
        module = "gateway" if process == "gateway" else f"services.{process}"
        # Nothing is half-done by a sudden end (that is what the services promise), and nothing may outlive us.
        return Program(
            [sys.executable, "-m", module],
            self.environment(process),
            ROOT,
            death_signal=signal.SIGKILL,
            inherited=[self.public_socket] if process == "tracking" else [],
        )

    def environment(self, process: str) -> dict[str, str]:
        """Returns the environment of a process: what its settings declare and the bundle knows, and no more."""
        known = self._known(process)
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "proto")])
        environment["PYTHONUNBUFFERED"] = "1"
        for field in dataclasses.fields(settings_class(process)):
            name = field.metadata["name"]
            given = f"{name}_FILE" if field.metadata["secret"] else name
            if given in known:
                environment[given] = known[given]
            elif field.default is dataclasses.MISSING:
                raise LookupError(f"{process} needs {name}, which the bundle does not know")
        return environment

    def _known(self, process: str) -> dict[str, str]:
        home, settings = self.home, self.settings
        known = {
            "OPENNOTICE_PROBE_BIND": str(self.probe(process)),
            "OPENNOTICE_LOG_LEVEL": settings.log_level,
            "OPENNOTICE_DATA_DIR": str(home.root / "tracking"),
            "OPENNOTICE_IP_DATA_DIR": str(self.ip_data),
            "OPENNOTICE_PUBLIC_BIND": str(settings.public_bind),
            "OPENNOTICE_PUBLIC_URL": settings.public_url,
            "OPENNOTICE_PUBLIC_SOCKET_FD": str(self.public_socket),
            "OPENNOTICE_STAFF_BIND": str(settings.staff_bind),
            "OPENNOTICE_STAFF_URL": settings.staff_url,
        }
        if settings.trusted_proxies:
            known["OPENNOTICE_TRUSTED_PROXIES"] = ",".join(map(str, settings.trusted_proxies))
        known |= {f"{name}_FILE": str(path) for name, path in secret_files(home, process).items()}
        for service in SERVICES:
            bind = str(settings.grpc_bind(service))
            known[f"OPENNOTICE_{service.upper()}_GRPC_BIND"] = bind
            known[f"OPENNOTICE_{service.upper()}_GRPC_ADDRESS"] = reached_at(settings.grpc_bind(service))
        return known


def secret_files(home: Home, process: str) -> dict[str, Path]:
    """Returns the file of every secret a process may ask for, by the name of its setting."""
    known = {
        "OPENNOTICE_IDENTITY_KEY": home.identity_key(process),
        "OPENNOTICE_IDENTITY_TRUST": home.secret("identity-trust.json"),
        "OPENNOTICE_PAGING_KEY": home.secret("paging.key"),
        "OPENNOTICE_LINK_TOKEN_KEY": home.secret("link-token.key"),
        "OPENNOTICE_COOKIE_KEY": home.secret("cookie.key"),
        "OPENNOTICE_NATS_URL": home.secret("nats.url"),
    }
    for use in LOGIN_ROLES:
        known[f"OPENNOTICE_{use.upper()}_DATABASE_URL"] = home.database_url(f"{process}_{use}")
    return known


def reached_at(bind: Address) -> str:
    """Returns where a listener is reached from this machine: a bind to all addresses is no address to call."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind.host, bind.host)
    return str(Address(host, bind.port))


def write_urls(home: Home, admin_url: str, nats_url: str) -> None:
    """Writes the files through which the processes get their URLs, each readable by its owner only."""
    parts = conninfo_to_dict(admin_url)
    host, port, name = parts.get("host", "127.0.0.1"), parts.get("port", "5432"), parts.get("dbname", "postgres")
    shown = f"[{host}]" if ":" in str(host) else host
    rest = "&".join(f"{key}={parts[key]}" for key in ("sslmode", "sslrootcert") if parts.get(key))
    for role, password in home.role_passwords().items():
        url = f"postgresql://{role}:{password}@{shown}:{port}/{name}" + (f"?{rest}" if rest else "")
        write_private(home.database_url(role), url)
    write_private(home.secret("nats.url"), nats_url)
