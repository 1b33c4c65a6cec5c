"""`opennotice run` as operators meet it: two copies, taken ports, sudden ends."""

import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from bundle.embedded import wait_until
from tests.fix_bundle import ROOT, Bundle, make_bundle

pytestmark = pytest.mark.e2e


@pytest.fixture
def second(bundle: Bundle) -> Iterator[Bundle]:
    """Another copy beside the one that all tests share, with its own home and ports; not started."""
    with tempfile.TemporaryDirectory(prefix="opennotice-e2e-") as name:
        Path(name).chmod(0o711)
        data = bundle.environment["OPENNOTICE_IP_DATA_DIR"]
        made = make_bundle(Path(name), OPENNOTICE_IP_DATA_DIR=data, OPENNOTICE_ADMIN_EMAIL="erin@second.example")
        del made.environment["OPENNOTICE_ADMIN_PASSWORD"]
        yield made
        if made.process is not None and made.process.poll() is None:
            made.stop()


def tried(bundle: Bundle) -> list[str]:
    """Runs a bundle that cannot start; returns what it says."""
    done = bundle.command("run")
    assert done.returncode != 0
    return done.stderr.splitlines()


def processes_of(bundle: Bundle) -> list[psutil.Process]:
    """Returns everything that runs for a bundle, its own process first."""
    assert bundle.process is not None
    parent = psutil.Process(bundle.process.pid)
    return [parent, *parent.children(recursive=True)]


def are_over(processes: list[psutil.Process]) -> bool:
    """Tells whether none of them runs any more."""
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


def test_two_copies_run_side_by_side_and_keep_their_data_through_a_sudden_end(bundle: Bundle, second: Bundle) -> None:
    second.start()
    password = (second.home / "admin-password").read_text().strip()
    assert len(password) >= 15
    assert (second.home / "admin-password").stat().st_mode & 0o077 == 0
    # Shown to the person who started it, a moment after all is ready, and nowhere else.
    assert wait_until(lambda: password in second.output(), seconds=10)
    assert not [log for log in (second.home / "log").iterdir() if password in log.read_text()]
    agency = second.json("agency", "list")["agencies"]
    assert bundle.json("agency", "list")["agencies"] != agency

    before = processes_of(second)
    assert len(before) > 8
    before[0].send_signal(signal.SIGKILL)
    assert second.process is not None
    second.process.wait(10)
    assert wait_until(lambda: are_over(before), seconds=20), "something outlived the supervisor"

    second.start()
    assert second.json("agency", "list")["agencies"] == agency
    running = processes_of(second)
    assert second.stop() == 0
    assert are_over(running)
    assert second.command("status", "--json").returncode == 1


def test_a_taken_address_is_one_clear_line(bundle: Bundle, second: Bundle) -> None:
    second.environment["OPENNOTICE_PUBLIC_BIND"] = bundle.environment["OPENNOTICE_PUBLIC_BIND"]
    [line] = tried(second)
    assert line.startswith("opennotice: OPENNOTICE_PUBLIC_BIND: ")
    assert "is taken by another program" in line


def test_a_home_in_use_is_one_clear_line(bundle: Bundle, second: Bundle) -> None:
    second.environment["OPENNOTICE_HOME"] = str(bundle.home)
    [line] = tried(second)
    assert "is in use by process" in line


def test_a_home_that_cannot_be_written_is_one_clear_line(second: Bundle) -> None:
    second.environment["OPENNOTICE_HOME"] = "/proc/opennotice"
    [line] = tried(second)
    assert line.startswith("opennotice: OPENNOTICE_HOME: cannot write to /proc/opennotice")


def test_a_command_without_a_running_bundle_says_so_in_one_line(second: Bundle) -> None:
    done = second.command("agency", "list")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "nothing runs with the home" in line


def test_other_commands_need_only_the_home(bundle: Bundle) -> None:
    environment = {name: value for name, value in bundle.environment.items() if not name.startswith("OPENNOTICE_")}
    elsewhere = Bundle(bundle.home, {**environment, "OPENNOTICE_HOME": str(bundle.home)}, "", "", {})
    assert elsewhere.json("agency", "list") == bundle.json("agency", "list")


def test_a_password_given_by_the_operator_is_written_nowhere(bundle: Bundle) -> None:
    given = bundle.environment["OPENNOTICE_ADMIN_PASSWORD"]
    files = [path for path in bundle.home.glob("*") if path.is_file()] + list((bundle.home / "log").iterdir())
    assert not [path for path in files if given in path.read_text(errors="replace")]
    assert given not in bundle.output()


def test_status_has_the_shape_that_scripts_rely_on(bundle: Bundle) -> None:
    done = bundle.command("status", "--json")
    processes = json.loads(done.stdout)["processes"]
    names = ["auth", "link", "tracking", "enrichment", "reporting", "gateway", "nats", "postgres"]
    assert [entry["name"] for entry in processes] == names
    assert all(set(entry) == {"name", "pid", "state", "restarts", "address"} for entry in processes)
    assert all(psutil.pid_exists(entry["pid"]) for entry in processes)


def test_no_secret_is_in_an_environment_or_an_argument(bundle: Bundle) -> None:
    secrets = {path.read_text().strip() for path in (bundle.home / "secrets").iterdir()}
    for process in processes_of(bundle)[1:]:
        shown = [*process.cmdline(), *process.environ().values()]
        assert not [text for text in shown if any(secret in text for secret in secrets)], process.name()


def test_an_unlocked_account_can_be_asked_for_by_its_address(bundle: Bundle) -> None:
    made = bundle.json(
        "user", "create", "--email", f"u{time.time_ns()}@court.example", "--name", "U", "--role", "clerk"
    )
    assert made["name"].startswith("users/")
    [email] = [one["email"] for one in bundle.json("user", "list")["users"] if one["name"] == made["name"]]
    assert bundle.command("user", "unlock", email).returncode == 0
    assert bundle.command("user", "unlock", "nobody@court.example").returncode == 1


def test_settings_of_an_agency_are_changed_from_the_host(bundle: Bundle) -> None:
    own = bundle.json("agency", "create", "--name", "Zone Court", "--admin-email", f"u{time.time_ns()}@zone.example")
    options = [
        "--agency",
        own["name"],
        "--time-zone",
        "America/Chicago",
        "--staff-networks",
        "192.0.2.0/24, 2001:db8::/32",
    ]
    changed = bundle.json("agency", "set", *options)
    assert (changed["time_zone"], changed["display_name"]) == ("America/Chicago", "Zone Court")
    assert changed["staff_networks"] == ["192.0.2.0/24", "2001:db8::/32"]
    assert bundle.json("agency", "set", "--agency", own["name"], "--staff-networks", "")["staff_networks"] == []
    refused = bundle.command("agency", "set", "--agency", own["name"], "--time-zone", "Mars/Base")
    assert refused.returncode == 1
    assert "time_zone" in refused.stderr
    assert bundle.command("agency", "set").returncode == 2


def test_the_demo_can_be_loaded_twice(bundle: Bundle) -> None:
    # The bundle is shared: another test may have loaded it before.
    loaded_before = (bundle.home / "demo.json").exists()
    first = bundle.command("demo")
    assert first.returncode == 0, first.stderr
    assert loaded_before or "opened 300 of 300 links" in first.stdout
    again = bundle.command("demo")
    assert again.returncode == 0, again.stderr
    assert "opened" not in again.stdout
    demo = json.loads((bundle.home / "demo.json").read_text())
    key = bundle.new_key("--agency", demo["agency"])
    with bundle.api(key) as api:
        assert wait_until(lambda: _total(api) == 300, seconds=20), _total(api)
        states = {entry["link_state"] for entry in api.get("/opens", params={"page_size": 200}).json()["opens"]}
    assert {"active", "expired", "revoked"} <= states


def _total(api: httpx.Client) -> int:
    answer = api.get("/opens:summary", params={"by": "verdict"})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["total"])


def test_the_command_explains_itself() -> None:
    script = [str(ROOT / ".venv" / "bin" / "opennotice"), "--help"]
    if not Path(script[0]).exists():
        pytest.skip("the command is not installed in .venv")
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert all(word in done.stdout for word in ("run", "demo", "status", "agency", "api-key", "user"))
