"""The home: one bundle at a time, keys that stay, nothing for other eyes."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from bundle.home import ISSUERS, Home, HomeInUse
from bundle.processes import OWN, PROBE_PORTS, ROOT, Surroundings, write_urls
from bundle.program import Account, HostFault, free_port, reachable
from bundle.settings import load_bundle_settings
from services.chassis.identity import Checker, Signer
from services.chassis.settings import load


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with its folders and keys."""
    made = Home(tmp_path / "home")
    made.make_folders()
    made.make_secrets()
    return made


def test_a_second_run_on_the_same_home_is_refused(home: Home) -> None:
    lock = home.lock()
    other = subprocess.run(
        [sys.executable, "-c", "import sys; from bundle.home import *; Home(Path(sys.argv[1])).lock()", str(home.root)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"is in use by process {os.getpid()}" in other.stderr
    assert home.is_running()
    os.close(lock)
    assert not home.is_running()


def test_a_lock_left_by_a_killed_run_is_no_lock(home: Home) -> None:
    script = (
        "import os, signal, sys; from bundle.home import *; "
        "Home(Path(sys.argv[1])).lock(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(home.root)], cwd=ROOT, check=False)
    assert (home.root / "lock").read_text().strip().isdigit()
    assert not home.is_running()
    os.close(home.lock())


def test_who_only_asks_does_not_get_in_the_way(home: Home) -> None:
    asking = os.open(home.root / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(asking, fcntl.LOCK_EX)
    with pytest.raises(HomeInUse):
        home.lock()
    fcntl.flock(asking, fcntl.LOCK_UN)
    os.close(home.lock())
    os.close(asking)


def test_a_home_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(HostFault, match=r"OPENNOTICE_HOME: cannot write to .*: Not a directory"):
        Home(tmp_path / "file" / "home").make_folders()


def test_keys_stay_the_same_at_the_next_start(home: Home) -> None:
    before = {path.name: path.read_text() for path in home.secrets.iterdir()}
    home.make_secrets()
    assert {path.name: path.read_text() for path in home.secrets.iterdir()} == before


def test_only_the_owner_can_read_what_is_secret(home: Home) -> None:
    write_urls(home, "postgresql://postgres:pw@127.0.0.1:5432/opennotice", "nats://u:p@127.0.0.1:4222")
    assert home.secrets.stat().st_mode & 0o077 == 0
    assert [path.name for path in home.secrets.iterdir() if path.stat().st_mode & 0o077] == []


def test_no_two_keys_are_the_same(home: Home) -> None:
    values = [path.read_text() for path in home.secrets.iterdir()]
    assert len(set(values)) == len(values)
    Fernet(home.secret("paging.key").read_text())


@pytest.mark.parametrize("issuer", ISSUERS)
def test_every_process_trusts_what_every_other_signs(home: Home, issuer: str) -> None:
    signer = Signer(issuer, home.identity_key(issuer).read_text())
    caller = Checker(home.secret("identity-trust.json").read_text()).check(signer.as_process())
    assert caller.issuer == issuer


def test_ports_are_kept_and_a_taken_one_is_replaced(home: Home) -> None:
    import socket

    first = home.ports(["postgres", "nats"])
    assert home.ports(["postgres", "nats"]) == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first["nats"]))
        taken.listen()
        second = home.ports(["postgres", "nats"])
    assert second["postgres"] == first["postgres"]
    assert second["nats"] != first["nats"]


def test_a_database_that_cannot_be_reached_below_the_home_lies_elsewhere(tmp_path: Path) -> None:
    closed = Home(tmp_path / "closed")
    closed.make_folders()
    tmp_path.chmod(0o700)
    stranger = Account("stranger", 54321, 54321)
    assert not reachable(closed.root, stranger, wanted=0o1)
    folder = closed.postgres_folder(stranger, tmp_path / "shared")
    assert folder.is_relative_to(tmp_path / "shared")
    # The next start finds the same one.
    assert (closed.root / "postgres").is_symlink()
    assert closed.postgres_folder(stranger, tmp_path / "shared") == folder
    # Under one's own account it lies in the home.
    assert Home(tmp_path / "mine").postgres_folder(None, tmp_path / "shared") == tmp_path / "mine" / "postgres"


@pytest.mark.parametrize("process", OWN)
def test_a_process_gets_exactly_the_environment_that_it_understands(home: Home, process: str) -> None:
    from bundle.processes import settings_class

    write_urls(home, "postgresql://postgres:pw@127.0.0.1:5432/opennotice", "nats://u:p@127.0.0.1:4222")
    settings = load_bundle_settings({"OPENNOTICE_TRUSTED_PROXIES": "127.0.0.1/32"})
    ports = {name: free_port() for name in PROBE_PORTS}
    environment = Surroundings(settings, home, ports, home.root / "ip", 7).environment(process)
    load(settings_class(process), environment)
    secret = {path.read_text().strip() for path in home.secrets.iterdir()}
    assert secret.isdisjoint(environment.values())


def test_no_process_but_link_gets_the_key_of_tokens(home: Home) -> None:
    settings = load_bundle_settings({})
    surroundings = Surroundings(settings, home, dict.fromkeys(PROBE_PORTS, 1), home.root, 7)
    holders = [name for name in OWN if "OPENNOTICE_LINK_TOKEN_KEY_FILE" in surroundings.environment(name)]
    assert holders == ["link"]


def test_what_other_commands_need_is_kept_without_secrets(home: Home) -> None:
    settings = load_bundle_settings({"OPENNOTICE_ADMIN_PASSWORD": "correct horse battery"})
    kept = json.dumps(settings.as_environment())
    assert "correct horse" not in kept
    assert load_bundle_settings(settings.as_environment()).staff_url == settings.staff_url
