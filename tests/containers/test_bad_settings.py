"""Wrong settings and volumes in containers: each ends within five seconds, in lines that name the key and no value.

What the operator's command makes of them is in test_operator_command.py.
"""

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
import yaml

from bundle.containers import ContainerSettings
from bundle.processes import OWN, settings_class
from tests.fix_bundle import ROOT
from tests.fix_containers import Containers, docker, tag

pytestmark = pytest.mark.engine
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
# As compose.yaml runs every one.
HARDENED = [
    *("--rm", "--user", "10001:10001", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--tmpfs", "/tmp", "--memory", "512m", "--pids-limit", "100", "--network", "none"),
]
MODULES = {name: "gateway" if name == "gateway" else f"services.{name}" for name in OWN}
CANARY = "canary-7f3a91"
# Starts a process once for each case; one container for all of them, because starting those takes longest.
TIMED = """
import os, subprocess, sys, time, json
for changes in json.loads(sys.argv[2]):
    environ = {**os.environ, **{k: v for k, v in changes.items() if v is not None}}
    for name in [k for k, v in changes.items() if v is None]:
        environ.pop(name, None)
    begin = time.monotonic()
    try:
        words = [sys.executable, "-m", sys.argv[1]]
        done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=20)
        code, said = done.returncode, done.stderr + done.stdout
    except subprocess.TimeoutExpired:
        code, said = 0, "went on"
    print(json.dumps([code, time.monotonic() - begin, said]))
"""


def run(image: str, *words: str, options: tuple[str, ...] = (), **rest: Any) -> subprocess.CompletedProcess[str]:
    """Runs a container of its own, as compose.yaml would."""
    return docker("run", *HARDENED, *options, f"opennotice/{image}:{tag()}", *words, check=False, **rest)


@pytest.fixture
def volume(engine: None) -> Iterator[str]:
    """Gives the name of an empty volume."""
    name = f"opennotice-test-{uuid4().hex[:8]}"
    docker("volume", "create", name)
    yield name
    docker("volume", "rm", "--force", name)


def told_by_compose(process: str) -> dict[str, str]:
    """Returns a good environment of a process; its secrets are in files that the test makes."""
    told: dict[str, str] = COMPOSE["services"][process]["environment"]
    return {name: value for name, value in told.items() if "${" not in value}


SECRETS = """
mkdir -p /tmp/secrets; cd /tmp/secrets; umask 077
secret=canary-7f3a91-canary-7f3a91-canary-7f3a91-canary
for name in "$@"; do echo "postgresql://u:$secret@127.0.0.1:1/x" >"$name"; done
"""


@pytest.mark.parametrize("process", OWN)
def test_a_process_ends_at_once_when_a_setting_is_missing_or_wrong(process: str, engine: None) -> None:
    fields = dataclasses.fields(settings_class(process))
    secrets = [f"{field.metadata['name']}_FILE" for field in fields if field.metadata["secret"]]
    required = [
        f"{field.metadata['name']}_FILE" if field.metadata["secret"] else field.metadata["name"]
        for field in fields
        if field.default is dataclasses.MISSING
    ]
    good = told_by_compose(process) | {name: f"/tmp/secrets/{name}" for name in secrets}
    plain = [field.metadata["name"] for field in fields if not field.metadata["secret"]]
    typed = [name for name in plain if name not in ("OPENNOTICE_DATA_DIR", "OPENNOTICE_IP_DATA_DIR")]
    # Every fault is told at once, so that one start shows what many would.
    unknown = "OPENNOTICE_DATABSE_URL"
    all_secrets = {name.removesuffix("_FILE") for name in secrets}
    cases: list[tuple[dict[str, str | None], set[str]]] = [
        (dict.fromkeys(required) | {unknown: CANARY}, {unknown, *(name.removesuffix("_FILE") for name in required)}),
        (dict.fromkeys(typed, ""), set(typed)),
        (dict.fromkeys(typed, CANARY) | dict.fromkeys(secrets, f"/tmp/{CANARY}"), {*typed, *all_secrets}),
        (dict.fromkeys(all_secrets, CANARY), all_secrets),
    ]
    environ = [option for name, value in good.items() for option in ("--env", f"{name}={value}")]
    script = SECRETS + 'cd /opt/opennotice; exec python -c "$PROGRAM" "$MODULE" "$CASES"'
    said = run(
        *("app", "bash", "-c", script, "bash", *secrets),
        options=(
            *environ,
            *("--env", f"PROGRAM={TIMED}", "--env", f"MODULE={MODULES[process]}"),
            *("--env", f"CASES={json.dumps([case for case, _ in cases])}"),
        ),
        seconds=120,
    )
    assert said.returncode == 0, said.stderr
    for line, (_, names) in zip(said.stdout.splitlines(), cases, strict=True):
        code, seconds, output = json.loads(line)
        assert code == 2, output
        assert seconds < limit(), output
        assert CANARY not in output
        assert "Traceback" not in output
        lines = [one.split()[1] for one in output.splitlines() if not one.startswith("settings: warning")]
        assert set(lines) >= names, output
        assert all(one.startswith("settings: OPENNOTICE_") for one in output.splitlines() if "warning" not in one)


def limit() -> float:
    """Returns how long an end may take: five seconds on a machine that does nothing else, which tests never have."""
    return 5 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


# --- set-up


WRONG = {
    "OPENNOTICE_PUBLIC_URL": "http://l.canary-7f3a91.example",
    "OPENNOTICE_STAFF_URL": "https://s.canary-7f3a91.example/path",
    "OPENNOTICE_API_URL": "canary-7f3a91",
    "OPENNOTICE_PUBLISH_ADDRESS": "canary-7f3a91" * 9,
    "OPENNOTICE_HTTPS_PORT": "canary-7f3a91",
    "OPENNOTICE_HTTP_PORT": "-7391",
    "OPENNOTICE_FRONT_SUBNET": "10.73.91.7/24",
    "OPENNOTICE_TRUSTED_PROXIES": "0.0.0.0/0",
    "OPENNOTICE_AGENCY_NAME": " ",
    "OPENNOTICE_ADMIN_EMAIL": "canary-7f3a91",
    "OPENNOTICE_NATS_MONITOR_URL": "canary-7f3a91",
    "OPENNOTICE_LOG_LEVEL": "canary-7f3a91",
}


def set_up(volume: str, *env: str) -> tuple[int, list[str], float]:
    """Runs set-up on a volume; returns its code, its lines and how long it took."""
    begin = time.monotonic()
    done = run(
        *("app", "opennotice", "containers", "set-up"),
        options=("--volume", f"{volume}:/var/lib/opennotice", *(part for one in env for part in ("--env", one))),
    )
    return done.returncode, (done.stderr + done.stdout).splitlines(), time.monotonic() - begin


def listing(volume: str) -> str:
    """Returns every file on a volume with what is in it, as one hash each."""
    command = "cd /v && find . -type f ! -name lock -exec sha256sum {} + | sort"
    return run("app", "sh", "-c", command, options=("--volume", f"{volume}:/v:ro")).stdout


def test_set_up_refuses_every_wrong_setting_by_its_name(volume: str) -> None:
    assert set(WRONG) <= {field.metadata["name"] for field in dataclasses.fields(ContainerSettings)}
    code, lines, seconds = set_up(
        volume, *(f"{name}={value}" for name, value in WRONG.items()), f"OPENNOTICE_CLOR={CANARY}"
    )
    assert code == 2
    assert seconds < limit()
    assert {line.split()[1] for line in lines} == {*WRONG, "OPENNOTICE_CLOR"}
    assert all(line.startswith("settings: OPENNOTICE_") for line in lines)
    assert not any(part in line for line in lines for part in (CANARY, "73.91", "-7391"))
    assert not listing(volume)


def test_set_up_refuses_names_that_are_the_same(volume: str) -> None:
    same = "https://one.court.example"
    code, lines, _ = set_up(volume, f"OPENNOTICE_PUBLIC_URL={same}", f"OPENNOTICE_STAFF_URL={same}")
    assert code == 2
    assert len(lines) == 1
    assert "three different names" in lines[0]


def test_set_up_refuses_data_of_a_newer_version_and_leaves_them_alone(volume: str) -> None:
    assert set_up(volume)[0] == 0
    newer = json.dumps({"version": "9.9.9", "migrations": ["link/9999_newer.sql"]})
    into = ("--volume", f"{volume}:/var/lib/opennotice")
    assert run("app", "sh", "-c", f"echo '{newer}' >/var/lib/opennotice/home/schema.json", options=into).returncode == 0
    before = listing(volume)
    code, lines, seconds = set_up(volume)
    assert code == 1
    assert seconds < limit()
    assert len(lines) == 1
    assert "9.9.9" in lines[0]
    assert listing(volume) == before


def test_set_up_says_in_one_line_that_it_cannot_write(volume: str) -> None:
    nowhere = ("--volume", f"{volume}:/var/lib/opennotice/home:ro")
    done = run("app", "opennotice", "containers", "set-up", options=nowhere)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "cannot write to /var/lib/opennotice/home" in done.stderr
    dealt = ("--tmpfs", "/var/lib/opennotice/home:uid=10001,mode=0700")
    done = run(
        "app",
        "opennotice",
        "containers",
        "set-up",
        options=(*dealt, "--volume", f"{volume}:/var/lib/opennotice/deal/link:ro"),
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "cannot write to the volume of" in done.stderr


def test_two_set_ups_at_once_make_one_set_of_keys(volume: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: set_up(volume), range(2)))
    assert 0 in [code for code, _, _ in results]
    before = listing(volume)
    assert set_up(volume)[0] == 0
    assert listing(volume) == before


# --- volumes of those that stay


def test_a_second_tracking_on_the_same_volume_ends(containers: Containers) -> None:
    environ = containers.inspect()["tracking"]["Config"]["Env"]
    begin = time.monotonic()
    done = run(
        *("app", "python", "-m", "services.tracking"),
        options=(
            *("--volumes-from", containers.container("tracking")),
            *(part for one in environ for part in ("--env", one)),
        ),
    )
    assert done.returncode == 1
    assert time.monotonic() - begin < limit()
    assert "OPENNOTICE_DATA_DIR is in use" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    assert containers.inspect()["tracking"]["State"]["Health"]["Status"] == "healthy"


@pytest.mark.parametrize("case", ["of another user", "read only", "no folder"])
def test_tracking_says_that_its_folder_cannot_be_written(containers: Containers, volume: str, case: str) -> None:
    environ = dict(one.split("=", 1) for one in containers.inspect()["tracking"]["Config"]["Env"])
    mount = f"{volume}:/mnt/data"
    if case == "of another user":
        docker("run", "--rm", "--user", "0", "--volume", mount, f"opennotice/app:{tag()}", "chown", "0:0", "/mnt/data")
    environ["OPENNOTICE_DATA_DIR"] = "/etc/hostname" if case == "no folder" else "/mnt/data"
    run_volume = f"{containers.project}_run-tracking:/run/opennotice:ro"
    done = run(
        *("app", "python", "-m", "services.tracking"),
        options=(
            *("--volume", f"{mount}:ro" if case == "read only" else mount, "--volume", run_volume),
            *(part for name, value in environ.items() for part in ("--env", f"{name}={value}")),
        ),
    )
    said = done.stderr + done.stdout
    assert done.returncode == 1, said
    assert "OPENNOTICE_DATA_DIR" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("image", "data"), [("postgres", "/var/lib/postgresql"), ("nats", "/var/lib/nats")])
def test_servers_do_not_start_on_a_volume_that_they_cannot_write(
    containers: Containers, volume: str, image: str, data: str
) -> None:
    run_volume = f"{containers.project}_run-{image}:/run/opennotice:ro"
    begin = time.monotonic()
    done = run(image, options=("--volume", f"{volume}:{data}:ro", "--volume", run_volume))
    assert done.returncode != 0
    assert time.monotonic() - begin < limit()
    assert data in done.stderr + done.stdout
