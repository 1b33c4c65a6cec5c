"""deploy/opennotice: each fault of the machine or the operator is one line that says what to do, and does no harm."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.containers.installs import installed, refused, runs
from tests.fix_bundle import ROOT
from tests.fix_containers import Containers, docker, surroundings, tag, write_env

TOOLS = (
    "sh readlink dirname basename sed grep cat cut sort head tail id cp chmod mktemp mv rm date sleep awk tr wc flock"
    " env"
)
NAMES = tuple(f"{name}.opennotice.localhost" for name in ("links", "staff", "api"))


# --- the machine; the engine's client is one of the test


def told(folder: Path, client: str | None, *words: str) -> str:
    """Runs the command where the engine's client is a script; returns the one line that it says."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    for tool in TOOLS.split():
        found = which(tool)
        if found and not (tools / tool).exists():
            (tools / tool).symlink_to(found)
    if client is not None:
        (tools / "docker").write_text(f"#!/bin/sh\n{client}\n")
        (tools / "docker").chmod(0o755)
    done = subprocess.run(
        [ROOT / "deploy" / "opennotice", *(words or ("ps",))],
        env={"PATH": str(tools), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr.removeprefix("opennotice: ").strip()


REFUSED = "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock"
ANSWERS = 'case "$1" in version) echo 20.10.24; exit;; esac\n'


@pytest.mark.parametrize(
    ("client", "line"),
    [
        pytest.param(None, "docker is not installed", id="no engine"),
        pytest.param(
            "echo 'Cannot connect to the Docker daemon' >&2; exit 1", "no container engine answers", id="stopped"
        ),
        pytest.param(f"echo '{REFUSED}' >&2; exit 1", "you may not use the container engine", id="not in the group"),
        pytest.param(
            ANSWERS + "echo \"docker: 'compose' is not a command\" >&2; exit 1", "no compose v2", id="no compose"
        ),
        pytest.param(ANSWERS + "echo 1.29.2", "docker compose is 1.29.2; it must be 2.24 or newer", id="compose v1"),
        pytest.param(ANSWERS + "echo v2.20.3", "docker compose is 2.20.3; it must be 2.24 or newer", id="compose 2.20"),
    ],
)
def test_what_the_machine_lacks_is_one_line(tmp_path: Path, client: str | None, line: str) -> None:
    assert line in told(tmp_path, client)


# --- settings


@pytest.fixture(scope="module")
def project(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    with installed(tmp_path_factory.mktemp("operator")) as made:
        yield made


@pytest.mark.engine
@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"OPENNOTICE_PUBLIC_ULR": "https://x.example"}, "OPENNOTICE_PUBLIC_ULR"),
        ({"OPENNOTICE_PUBLIC_URL": "http://links.example"}, "OPENNOTICE_PUBLIC_URL must be https://"),
        ({"OPENNOTICE_STAFF_URL": "https://links.opennotice.localhost"}, "need three different names"),
        ({"OPENNOTICE_TRUSTED_PROXIES": "0.0.0.0/0"}, "OPENNOTICE_TRUSTED_PROXIES"),
        ({"OPENNOTICE_ADMIN_EMAIL": "nobody"}, "OPENNOTICE_ADMIN_EMAIL"),
        ({"OPENNOTICE_HTTP_PORT": "https"}, "OPENNOTICE_HTTP_PORT: must be a port from 1 to 65535"),
        ({"OPENNOTICE_PUBLISH_ADDRESS": "here"}, "OPENNOTICE_PUBLISH_ADDRESS: must be an IPv4 address"),
        ({"OPENNOTICE_FRONT_SUBNET": "172.30.251.0"}, "OPENNOTICE_FRONT_SUBNET"),
        ({"OPENNOTICE_FRONT_SUBNET": "everything"}, "OPENNOTICE_FRONT_SUBNET"),
        ({"COMPOSE_FILE": "compose.yaml:deploy/own-postgre.yaml"}, "own-postgre.yaml"),
    ],
)
def test_a_wrong_setting_is_one_line_and_starts_nothing(
    project: Containers, settings: dict[str, str], line: str
) -> None:
    write_env(project.folder, {**project.settings, **settings})
    assert line in refused(project)
    write_env(project.folder, project.settings)
    assert runs(project) == []


# --- certificates


def pem(names: tuple[str, ...] = NAMES, days: float = 90, begins: float = -1) -> tuple[str, str]:
    """Returns certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now + timedelta(days=begins)).not_valid_after(now + timedelta(days=days))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate, private.decode()


@pytest.mark.engine
@pytest.mark.parametrize(
    ("content", "line"),
    [
        pytest.param("", "needs exactly one private key", id="empty"),
        pytest.param(pem()[1], "no certificate in PEM form, only a key", id="key only"),
        pytest.param(pem()[0], "needs exactly one private key", id="certificate only"),
        pytest.param("".join((pem()[0], pem()[1])), "the private key belongs to another certificate", id="no pair"),
        pytest.param("".join(pem(days=-0.5)), "it ran out on", id="expired"),
        pytest.param("".join(pem(begins=5)), "it is not valid before", id="not yet"),
        pytest.param(
            "".join(pem(("www.county.example",))), "it is for www.county.example and not for", id="other name"
        ),
        pytest.param("".join(pem(NAMES[:2])), "and not for api.opennotice.localhost", id="one name missing"),
        pytest.param("".join(pem()).replace("M", "N", 3), "damaged", id="damaged"),
    ],
)
def test_a_certificate_that_does_not_fit_is_one_line(project: Containers, content: str, line: str) -> None:
    file = project.folder / "certificate.pem"
    file.write_text(content)
    assert line in refused(project, "certificate", str(file))


@pytest.mark.engine
def test_a_file_that_is_not_there_is_one_line(project: Containers) -> None:
    assert "cannot read /nowhere/fullchain.pem" in refused(project, "certificate", "/nowhere/fullchain.pem")
    assert "name the files" in refused(project, "certificate")
    assert "usage: opennotice secret" in refused(project, "secret", "postgres-url")
    assert "cannot read /nowhere/url" in refused(project, "secret", "postgres-url", "/nowhere/url")
    assert "nothing runs here" in refused(project, "status")


# --- ports, networks, two at once, broken off


@pytest.mark.engine
@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_what_others_have_taken_is_one_line_and_can_be_put_right(engine: None, tmp_path: Path) -> None:
    with installed(tmp_path) as project:
        for setting in ("OPENNOTICE_HTTPS_PORT", "OPENNOTICE_HTTP_PORT"):
            port = project.settings[setting]
            with socket.create_server(("127.0.0.1", int(port))):
                line = refused(project)
            assert line == f"opennotice: port {port} is taken by another program; stop it, or set {setting} in .env"
        taken = f"{project.project}-taken"
        project.compose("down")
        half = project.settings["OPENNOTICE_FRONT_SUBNET"].replace("/24", "/25")
        docker("network", "create", "--subnet", half, taken)
        try:
            assert "is in use here; choose another for OPENNOTICE_FRONT_SUBNET" in refused(project)
        finally:
            docker("network", "rm", taken)

        # Broken off by Ctrl-C, in the middle of what it does; a second one at the same time.
        first = subprocess.Popen(
            [project.folder / "deploy" / "opennotice", "up"],
            cwd=project.folder,
            env={**surroundings(), "OPENNOTICE_VERSION": tag()},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert first.stdout is not None
        while "starting" not in (line := first.stdout.readline()):
            assert line, "it ended"
        assert "another opennotice is at work here" in refused(project)
        time.sleep(4)
        os.killpg(first.pid, signal.SIGINT)
        assert first.wait(60) != 0
        done = project.command("up")
        assert done.returncode == 0, done.stderr
        assert "OpenNotice is ready" in done.stdout
        assert not list(tmp_path.glob(".env.*"))
        found = project.json("status")["processes"]
        assert {one["state"] for one in found} == {"ready"}
        assert "proxy" in {one["name"] for one in found}


@pytest.mark.engine
@pytest.mark.parametrize(
    ("volume", "size", "line"),
    [
        ("home", "40k", "No space left on device"),
        ("postgres", "30m", "postgres finds no space left on the disk; see: df -h /"),
    ],
)
def test_a_full_disk_is_one_line(engine: None, tmp_path: Path, volume: str, size: str, line: str) -> None:
    options = {"type": "tmpfs", "device": "tmpfs", "o": f"size={size},uid=10001,gid=10001,mode=700"}
    (tmp_path / "full.yaml").write_text(json.dumps({"volumes": {volume: {"driver_opts": options}}}))
    with installed(tmp_path, COMPOSE_FILE="compose.yaml:test.yaml:full.yaml") as project:
        assert line in refused(project)
