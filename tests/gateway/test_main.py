"""The gateway as a process: settings, probes, an orderly end."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.fix_rpc import Keyring, free_address
from tests.gateway.conftest import COOKIE_KEY, until

ROOT = Path(__file__).resolve().parents[2]


def _environment(keyring: Keyring, folder: Path) -> dict[str, str]:
    files = {
        "OPENNOTICE_IDENTITY_KEY_FILE": keyring.private_pem["gateway"],
        "OPENNOTICE_IDENTITY_TRUST_FILE": keyring.trust,
        "OPENNOTICE_COOKIE_KEY_FILE": COOKIE_KEY,
    }
    for name, text in files.items():
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OPENNOTICE_")}
    return inherited | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")]),
        "OPENNOTICE_PROBE_BIND": str(free_address()),
        "OPENNOTICE_STAFF_BIND": str(free_address()),
        **{name: str(folder / name) for name in files},
    }


def _start(environment: dict[str, str], folder: Path) -> "subprocess.Popen[bytes]":
    with (folder / "log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", "gateway"], env=environment, cwd=ROOT, stdout=log, stderr=log)


def _answers(url: str) -> int:
    try:
        return httpx.get(url, timeout=2).status_code
    except httpx.HTTPError:
        return 0


def test_it_starts_without_its_services_and_ends_when_told(keyring: Keyring, tmp_path: Path) -> None:
    environment = _environment(keyring, tmp_path)
    process = _start(environment, tmp_path)
    try:
        probes, staff = (f"http://{environment[f'OPENNOTICE_{name}_BIND']}" for name in ("PROBE", "STAFF"))
        until(lambda: _answers(f"{probes}/ready") == 200, "ready")
        assert _answers(f"{probes}/live") == 200
        assert "process_cpu_seconds_total" in httpx.get(f"{probes}/metrics").text
        assert _answers(f"{staff}/sign-in") == 200
        assert httpx.get(f"{staff}/metrics").status_code == 404, "the inside is not on the staff address"
        # Somebody is there with an open connection; that must not keep it from ending.
        with socket.create_connection((staff.split("/")[2].split(":")[0], int(staff.rpartition(":")[2]))):
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({"OPENNOTICE_STAFF_BNID": "x"}, "OPENNOTICE_STAFF_BNID is not a setting", id="misspelled"),
        pytest.param({"OPENNOTICE_STAFF_BIND": "8000"}, "OPENNOTICE_STAFF_BIND must be HOST:PORT", id="no-host"),
        pytest.param({"OPENNOTICE_STAFF_URL": "http://staff.example"}, "OPENNOTICE_STAFF_URL must be", id="plain-http"),
        pytest.param(
            {"OPENNOTICE_TRUSTED_PROXIES": "0.0.0.0/0"}, "OPENNOTICE_TRUSTED_PROXIES must not", id="trust-all"
        ),
        pytest.param({"OPENNOTICE_TRUSTED_PROXIES": "*"}, "OPENNOTICE_TRUSTED_PROXIES must be", id="trust-star"),
        pytest.param({"OPENNOTICE_COOKIE_KEY_FILE": "/nowhere"}, "OPENNOTICE_COOKIE_KEY cannot be read", id="no-key"),
    ],
)
def test_a_wrong_setting_ends_it_with_one_clear_line(
    keyring: Keyring, tmp_path: Path, change: dict[str, str], told: str
) -> None:
    process = _start(_environment(keyring, tmp_path) | change, tmp_path)
    assert process.wait(30) == 2
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line for line in lines if told in line], lines
    assert not [line for line in lines if "Traceback" in line]


def test_a_taken_port_is_one_clear_line(keyring: Keyring, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = _start(_environment(keyring, tmp_path) | {"OPENNOTICE_STAFF_BIND": address}, tmp_path)
        assert process.wait(30) == 1
    log = (tmp_path / "log").read_text()
    assert f"cannot listen on {address}" in log
    assert "Traceback" not in log
