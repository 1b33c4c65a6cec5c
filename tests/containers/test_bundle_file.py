"""The one file of `make bundle`: whole or refused, and installed where there is an engine, no image and no network."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.fix_bundle import ROOT
from tests.fix_containers import IMAGES, docker, surroundings, tag

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1500)]

EXTRA = "0099_add_a_table_of_the_next_version"
# What a second engine inside a container needs; it is not given to anything that ships.
CAPABILITIES = [word for name in ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE") for word in ("--cap-add", name)]
UNCONFINED = ["--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"]
# The whole job as somebody on that machine sees it, on a network that has loopback and nothing else.
INSIDE = """
import json, sys, time
import httpx
from tests.fix_containers import ToThisMachine

key, link = sys.argv[1:]
api = httpx.Client(
    base_url="https://staff.opennotice.localhost/api/v1/", headers={"authorization": f"Bearer {key}"},
    transport=ToThisMachine(verify=False), timeout=20,
)
if not link:
    page = {"slug": "a", "title": "Your hearing", "markdown": "Room 4"}
    portal = api.post("portals", json={"display_name": "P", "kind": "hosted", "pages": [page]}).json()
    link = api.post("links", json={"portal": portal["name"]}).json()["url"]
visit = httpx.Client(transport=ToThisMachine(verify=False), timeout=20).get(link)
end = time.monotonic() + 30
found = []
while visit.headers["x-open-id"] not in found and time.monotonic() < end:
    found = [row["open_id"] for row in api.get("opens").json()["opens"]]
print(json.dumps({"link": link, "status": visit.status_code, "text": visit.text, "seen": len(found)}))
"""


class EmptyEngine:
    """A second engine, with nothing in it, on a network of its own that leads nowhere.

    It runs in a container of the first one, but on the files of this machine: whoever may use an engine can start it.
    """

    def __init__(self) -> None:
        # Not below pytest's folders: a socket's path may have no more than 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="opennotice-engine-", dir="/var/tmp"))
        self.name = self.folder.name
        self.environment = {"PATH": os.environ["PATH"], "DOCKER_HOST": f"unix://{self.folder}/socket"}
        if config := os.environ.get("DOCKER_CONFIG"):
            self.environment["DOCKER_CONFIG"] = config

    def start(self) -> None:
        """Starts it; skips where this machine has no engine to start."""
        start = (
            f"ip link set lo up; exec dockerd --data-root {self.folder}/data --exec-root {self.folder}/exec "
            f"--pidfile {self.folder}/pid -H unix://{self.folder}/socket >{self.folder}/log 2>&1"
        )
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        if not any(Path(folder, "dockerd").exists() for folder in path[5:].split(":")):
            pytest.skip("dockerd is not on this machine")
        docker(
            *("run", "--detach", "--name", self.name, "--network", "none", "--pid", "host", "--cgroupns", "host"),
            *(*CAPABILITIES, *UNCONFINED, "--device-cgroup-rule", "a *:* rwm", "--volume", "/:/host"),
            *("--user", "0:0", "--env", path, "--entrypoint", "/usr/sbin/chroot"),
            *(f"opennotice/app:{tag()}", "/host", "sh", "-c", start),
        )
        end = time.monotonic() + 60
        while self.docker("version", check=False).returncode != 0:
            assert time.monotonic() < end, docker("logs", self.name, check=False).stdout
            time.sleep(0.5)

    def stop(self) -> None:
        """Ends it with all it holds."""
        self.docker("compose", "--project-name", "opennotice", "kill", check=False)
        self.docker("compose", "--project-name", "opennotice", "down", "--volumes", check=False, seconds=120)
        docker("stop", "--time", "30", self.name, check=False)
        docker("rm", "--force", self.name, check=False)
        remove = ["run", "--rm", "--user", "0:0", "--volume", "/var/tmp:/x", "--entrypoint", "rm"]
        docker(*remove, f"opennotice/app:{tag()}", "-rf", f"/x/{self.name}", seconds=120)

    def docker(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs the engine's client on it."""
        return docker(*words, env=self.environment, **options)

    def run(self, *words: str | Path, folder: Path, stdin: str = "") -> tuple[int, str]:
        """Runs a program of the operator's; nothing but the engine is in its environment."""
        done = subprocess.run(
            words,
            cwd=folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def inside(self, *arguments: str) -> Any:
        """Runs the visitor's and clerk's part on the network of that engine."""
        # As root of the container, which must not leave compiled files in our tree.
        python = ["env", f"PYTHONPATH={ROOT}:{ROOT}/proto", "PYTHONDONTWRITEBYTECODE=1", sys.executable, "-c"]
        done = docker("exec", self.name, "/usr/sbin/chroot", "/host", *python, textwrap.dedent(INSIDE), *arguments)
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def version(engine: None) -> Iterator[str]:
    """Gives a tag of our own on the images under test, gone again once the file is written."""
    version = f"test-{uuid4().hex[:8]}"
    names = [f"opennotice/{image}:{version}" for image in IMAGES]
    for image, name in zip(IMAGES, names, strict=True):
        docker("tag", f"opennotice/{image}:{tag()}", name)
    yield version
    docker("image", "rm", *names)


@pytest.fixture(scope="module")
def bundle_file(version: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes the file as `make bundle` does."""
    path = tmp_path_factory.mktemp("bundle") / f"opennotice-{version}.run"
    began = time.monotonic()
    done = subprocess.run(
        [ROOT / "deploy" / "bundle", path],
        env={**surroundings(), "OPENNOTICE_VERSION": version},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{path}: {path.stat().st_size // 1_000_000} MB." in done.stdout
    print(f"\nbundle: {path.stat().st_size / 1e6:.0f} MB in {time.monotonic() - began:.0f} s")
    # Images together take more than twice as much when each is saved alone.
    assert path.stat().st_size < 500e6
    return path


def tried(path: Path, folder: Path, *words: str) -> tuple[int, list[str]]:
    """Runs the file without any engine to be reached; returns its exit code and what it says."""
    environment = {"PATH": os.environ["PATH"], "DOCKER_HOST": "unix:///nonexistent/socket"}
    done = subprocess.run(
        ["sh", path, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_half_a_file_is_one_clear_line_and_no_change(bundle_file: Path, tmp_path: Path) -> None:
    size = bundle_file.stat().st_size
    for length in (size // 3, size - 1, 5_000):
        part = tmp_path / "half.run"
        with bundle_file.open("rb") as source:
            part.write_bytes(source.read(length))
        code, said = tried(part, tmp_path)
        assert code == 1
        told = f"{length // 1_000_000} of {size // 1_000_000} MB"
        assert said == [f"opennotice: this file is incomplete: {told}; copy it again"]
        assert list(tmp_path.iterdir()) == [part]


@pytest.mark.parametrize("place", ["head", "payload"])
def test_a_damaged_file_is_refused(bundle_file: Path, tmp_path: Path, place: str) -> None:
    damaged = tmp_path / "damaged.run"
    content = bytearray(bundle_file.read_bytes())
    at = content.index(b"Needed: an engine") if place == "head" else len(content) * 2 // 3
    content[at] ^= 1
    damaged.write_bytes(content)
    code, said = tried(damaged, tmp_path)
    assert code == 1
    assert said[-1] == "opennotice: this file is damaged: its content is not what was written; copy it again"
    damaged.write_bytes(bytes(content) + b"\n")
    assert "1 bytes too long" in tried(damaged, tmp_path)[1][-1]
    assert list(tmp_path.iterdir()) == [damaged]


def test_what_it_says_about_itself(bundle_file: Path, version: str, tmp_path: Path) -> None:
    code, said = tried(bundle_file, tmp_path, "--check")
    assert (code, said[-1].endswith("whole")) == (0, True)
    code, said = tried(bundle_file, tmp_path, "--help")
    assert code == 0
    assert version in said[0]
    assert tried(bundle_file, tmp_path, "--wrong")[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_is_one_clear_line_and_no_change(bundle_file: Path, tmp_path: Path) -> None:
    code, said = tried(bundle_file, tmp_path)
    assert code == 1
    assert said[-1].startswith("opennotice: no container engine answers at unix:///nonexistent/socket")
    code, said = tried(bundle_file, tmp_path, "no/such")
    assert said == [f"opennotice: there is no folder {tmp_path}/no"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").touch()
    code, said = tried(bundle_file, tmp_path, "full")
    assert said == [f"opennotice: {tmp_path}/full holds other things; name another folder"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "letter"]


@pytest.fixture(scope="module")
def empty_engine(engine: None) -> Iterator[EmptyEngine]:
    found = EmptyEngine()
    try:
        found.start()
        yield found
    finally:
        found.stop()


def files(folder: Path) -> dict[str, str]:
    """Returns what a folder holds, by content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_it_installs_in_an_empty_engine_without_network_and_works(
    empty_engine: EmptyEngine, bundle_file: Path, version: str, tmp_path: Path
) -> None:
    assert empty_engine.docker("image", "ls", "--quiet").stdout == ""
    began = time.monotonic()
    code, said = empty_engine.run("sh", bundle_file, folder=tmp_path)
    assert code == 0, said
    installed = time.monotonic()
    folder = tmp_path / "opennotice"
    assert "./opennotice up" in said
    assert [path.name for path in tmp_path.iterdir()] == ["opennotice"]
    assert (folder / ".env").stat().st_mode & 0o077 == 0
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)

    code, said = empty_engine.run("./opennotice", "up", folder=folder)
    assert code == 0, said
    ready = time.monotonic()
    print(f"\ninstalled in {installed - began:.0f} s, ready in another {ready - installed:.0f} s")
    # Built images are healthy in under three minutes.
    assert ready - installed < 180
    code, said = empty_engine.run(
        *("./opennotice", "api-key", "create", "--name", "tests", "--scopes", "all", "--json"), folder=folder
    )
    assert code == 0, said
    key = json.loads(said)["key"]
    seen = empty_engine.inside(key, "")
    assert (seen["status"], seen["seen"]) == (200, 1)
    assert "Room 4" in seen["text"]

    upgrade_in_place(empty_engine, bundle_file, version, folder)
    older_over_newer(empty_engine, bundle_file, version, folder)
    assert empty_engine.inside(key, seen["link"])["seen"] == 2


def upgrade_in_place(engine: EmptyEngine, file: Path, version: str, folder: Path) -> None:
    """The file replaces what another version has shipped, keeps that for a way back, and leaves the rest alone."""
    (folder / "VERSION").write_text("0.0.9\n")
    (folder / "compose.yaml").write_text((folder / "compose.yaml").read_text() + "# of 0.0.9\n")
    (folder / "mine.yaml").write_text("services: {}\n")
    settings = (folder / ".env").read_text()
    for _ in range(2):
        code, said = engine.run("sh", file, folder, folder=folder.parent)
        assert code == 0, said
    assert (folder / ".env").read_text() == settings
    assert (folder / "mine.yaml").exists()
    assert (folder / "VERSION").read_text() == f"{version}\n"
    assert "# of 0.0.9" not in (folder / "compose.yaml").read_text()
    assert (folder / "previous" / "VERSION").read_text() == "0.0.9\n"
    assert "# of 0.0.9" in (folder / "previous" / "compose.yaml").read_text()
    assert not [path for path in folder.iterdir() if re.match(r"\..*\.gone|\.previous|\.opennotice", path.name)]


def older_over_newer(engine: EmptyEngine, file: Path, version: str, folder: Path) -> None:
    """A newer version has written the data: the file of this one is refused and changes nothing."""
    newer = f"{version}-newer"
    migration = folder.parent / f"{EXTRA}.sql"
    migration.write_text("create table reporting.next_version (id int);\n")
    migration.chmod(0o644)
    engine.docker("create", "--name", "newer", f"opennotice/app:{version}")
    engine.docker("cp", str(migration), f"newer:/opt/opennotice/services/reporting/migrations/{EXTRA}.sql")
    engine.docker("commit", "newer", f"opennotice/app:{newer}")
    engine.docker("rm", "newer")
    for image in IMAGES[1:]:
        engine.docker("tag", f"opennotice/{image}:{version}", f"opennotice/{image}:{newer}")
    (folder / "VERSION").write_text(f"{newer}\n")
    code, said = engine.run("./opennotice", "up", folder=folder)
    assert code == 0, said
    assert f"restore point of {version}: " in said
    # As after an upgrade from a file, when nobody keeps the images of before.
    engine.docker("image", "rm", *(f"opennotice/{image}:{version}" for image in IMAGES))
    before = files(folder)
    code, said = engine.run("sh", file, folder, folder=folder.parent)
    assert code == 1
    told = f"nothing was installed: the data were written by a newer OpenNotice ({newer}, it has reporting/{EXTRA})"
    assert f"opennotice: {told}" in said.splitlines()[-1]
    assert files(folder) == before
    assert version not in engine.docker("image", "ls", "--format", "{{.Tag}}").stdout.split()
    code, said = engine.run("./opennotice", "back", folder=folder)
    assert code == 1
    assert f"the way back leads to {version}, but its image opennotice/app:{version} is not here any more" in said
