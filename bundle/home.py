"""The home: the one folder that holds an install. Its layout, its lock, its keys."""

import fcntl
import json
import os
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc.jwk import OKPKey

from bundle.embedded import wait_until
from bundle.program import Account, HostFault, free_port, is_free, reachable
from services.chassis.migrate import role_names

# Who signs identities; each has a key pair of its own, all trust each other's public half.
ISSUERS = ("auth", "enrichment", "gateway", "host", "link", "reporting", "tracking")


class HomeInUse(HostFault):
    """Another process runs on this home."""


@dataclass(frozen=True)
class Home:
    """The paths inside a home."""

    root: Path

    @property
    def secrets(self) -> Path:
        """Keys and passwords, each in a file that only its owner can read."""
        return self.root / "secrets"

    @property
    def logs(self) -> Path:
        """What every process wrote, in full."""
        return self.root / "log"

    @property
    def status(self) -> Path:
        """What runs, as the supervisor last saw it."""
        return self.root / "status.json"

    @property
    def reach(self) -> Path:
        """The settings that tell other commands how to reach what runs here."""
        return self.root / "reach.json"

    @property
    def probes(self) -> Path:
        """Where the processes say whether they are ready, when they run in containers of their own."""
        return self.root / "probes.json"

    @property
    def schema(self) -> Path:
        """What has been done to the database, so that an older program is refused before it starts."""
        return self.root / "schema.json"

    @property
    def restore(self) -> Path:
        """Dumps of the database as earlier versions left it."""
        return self.root / "restore"

    @property
    def admin_password(self) -> Path:
        """The first administrator's password, when it was made here."""
        return self.root / "admin-password"

    @property
    def demo(self) -> Path:
        """What the demo has made so far."""
        return self.root / "demo.json"

    def identity_key(self, issuer: str) -> Path:
        """The private key an issuer signs with."""
        return self.secrets / f"identity-{issuer}.pem"

    def database_url(self, role: str) -> Path:
        """The file with the URL of a database role."""
        return self.secrets / f"database-{role}.url"

    def secret(self, name: str) -> Path:
        """The file of a secret."""
        return self.secrets / name

    def make_folders(self) -> None:
        """Makes the folders; a home that cannot be written is one clear line."""
        try:
            # Others may pass, not look: an unprivileged PostgreSQL has its data below.
            self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
            for folder in (self.secrets, self.logs, self.root / "tracking"):
                folder.mkdir(mode=0o700, exist_ok=True)
            probe = self.root / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            reason = error.strerror or "not possible"
            raise HostFault(f"OPENNOTICE_HOME: cannot write to {self.root}: {reason}") from None

    def lock(self) -> int:
        """Claims the home for this process. The kernel gives the lock back when we end, however we end."""
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        # Others hold it for an instant when they only ask whether somebody runs.
        if not wait_until(lambda: _claim(descriptor), seconds=1):
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise HomeInUse(
                f"OPENNOTICE_HOME: {self.root} is in use by process {holder}; stop it, or choose another home"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor

    def is_running(self) -> bool:
        """Tells whether somebody holds the lock."""
        try:
            descriptor = os.open(self.root / "lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise HostFault(f"OPENNOTICE_HOME: cannot read {self.root}: {error.strerror}") from None
        try:
            return not _claim(descriptor)
        finally:
            os.close(descriptor)

    def make_secrets(self) -> None:
        """Makes every key and password that is missing; those that exist stay, links and sessions depend on them."""
        trust = []
        for issuer in ISSUERS:
            path = self.identity_key(issuer)
            if not path.exists():
                key = Ed25519PrivateKey.generate()
                write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
            public = OKPKey.import_key(path.read_text()).as_dict(private=False)
            trust.append({**public, "kid": issuer})
        write_private(self.secret("identity-trust.json"), json.dumps({"keys": trust}, indent=1))
        _make(self.secret("paging.key"), Fernet.generate_key().decode())
        for name in ("link-token.key", "cookie.key"):
            _make(self.secret(name), urlsafe_b64encode(secrets.token_bytes(32)).decode())
        for name in ("postgres.password", "nats.password"):
            _make(self.secret(name), secrets.token_urlsafe(32))
        for role in role_names():
            _make(self.secret(f"database-{role}.password"), secrets.token_urlsafe(32))

    def role_passwords(self) -> dict[str, str]:
        """Returns the password of every database role."""
        return {role: self.secret(f"database-{role}.password").read_text() for role in role_names()}

    def ports(self, names: list[str]) -> dict[str, int]:
        """Returns a free loopback port for each name: the one of last time, unless somebody took it."""
        path = self.root / "ports.json"
        kept: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        for name in names:
            while name not in kept or not is_free("127.0.0.1", kept[name]) or _is_shared(kept, name):
                kept[name] = free_port()
        path.write_text(json.dumps(kept, indent=1))
        return kept

    def postgres_folder(self, account: Account | None, shared: Path) -> Path:
        """Returns where the database lies: in the home, or where its account can reach it, with a link in the home."""
        inside = self.root / "postgres"
        if inside.is_symlink():
            return inside.resolve()
        # Our own folder needs only to be passed; it is closed to eyes.
        if inside.exists() or reachable(self.root, account, wanted=0o1):
            return inside
        outside = shared / f"postgres-{secrets.token_hex(4)}"
        outside.mkdir(parents=True)
        for folder in (shared, outside):
            folder.chmod(0o711)
        inside.symlink_to(outside / "data")
        return outside / "data"


def _claim(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_shared(kept: dict[str, int], name: str) -> bool:
    return list(kept.values()).count(kept[name]) > 1


def _make(path: Path, value: str) -> None:
    if not path.exists():
        write_private(path, value)


def write_private(path: Path, value: str) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        fresh.unlink()
        error.filename = str(path)
        raise
    fresh.rename(path)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file of the home; an absent one is empty."""
    return dict(json.loads(path.read_text())) if path.exists() else {}
