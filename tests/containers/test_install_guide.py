"""docs/install.md: its commands are run word for word, and everything it names exists."""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from bundle.command import opennotice
from bundle.containers import ContainerSettings
from tests.fix_bundle import ROOT
from tests.fix_containers import Containers, make_project, surroundings, tag

GUIDE = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
SCRIPT = (ROOT / "deploy" / "opennotice").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- tested -->\n```sh\n(.+?)```", re.DOTALL)


@pytest.fixture
def bare(engine: None, tmp_path: Path) -> Iterator[Containers]:
    """What an installer leaves in a folder: nothing is set, nothing was started."""
    project = make_project(tmp_path)
    (tmp_path / ".env").rename(tmp_path / "chosen")
    try:
        yield project
    finally:
        (tmp_path / "chosen").replace(tmp_path / ".env")
        project.remove()


@pytest.mark.engine
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_the_guide_leads_from_an_empty_folder_to_a_recorded_open_and_back_from_a_backup(bare: Containers) -> None:
    blocks = BLOCK.findall(GUIDE)
    settings, restore = (
        next(number for number, block in enumerate(blocks) if text in block)
        for text in ("settings.env .env", "-mindepth 1 -delete")
    )
    # What an operator does with an editor, and a visit that no copy has.
    blocks[settings] += "{ grep -v '^[A-Z]' .env; cat chosen; } >edited; mv edited .env\n"
    blocks[restore] = 'curl -ksS -o page.html "$LINK"\n' + blocks[restore]
    blocks.append("api opens\n")
    script = "set -eu\n" + "".join(f"printf '\\036'\n{block}" for block in blocks)
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=bare.folder,
        env={**surroundings(), "OPENNOTICE_VERSION": tag()},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    told = done.stdout.split("\036")[1:]
    assert done.returncode == 0, f"in block {len(told)}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    looked = next(number for number, block in enumerate(blocks) if "api opens" in block)
    answered, _, listed = told[looked].partition("\n")
    assert answered == "200"
    for answer in (listed, told[-1]):
        (found,) = json.loads(answer)["opens"]
        assert (found["client"], found["portal"], found["device"]) == ("Jordan Miles", "Hearing details", "mobile")
    assert (bare.folder / "backup" / "opennotice.dump").read_bytes().startswith(b"PGDMP")


def test_every_setting_it_names_exists() -> None:
    known = {field.metadata["name"] for field in fields(ContainerSettings)}
    # Read by the proxy's own configuration.
    known.add("OPENNOTICE_PROXY_IPV6")
    assert set(re.findall(r"OPENNOTICE_[A-Z0-9_]*[A-Z0-9]", GUIDE)) <= known


def test_every_verb_it_names_exists() -> None:
    known = set(re.findall(r"^([a-z|-]+)\) ", SCRIPT, re.MULTILINE)) | set(opennotice.commands)
    named = set(re.findall(r"deploy/opennotice ([a-z-]+)", GUIDE))
    assert {"up", "down", "certificate", "secret", "back", "remove", "ps", "logs"} <= named
    assert named <= known


def test_every_file_it_names_exists() -> None:
    named = set(re.findall(r"\b(?:deploy/[\w./-]*\w|compose\.yaml|SECURITY\.md)", GUIDE))
    assert "deploy/without-proxy.yaml" in named
    assert {"deploy/own-postgres.yaml", "deploy/own-nats.yaml"} <= named
    assert {name for name in named if not (ROOT / name).exists()} <= {"deploy/own"}


def test_every_place_it_points_to_exists() -> None:
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", GUIDE, flags=re.DOTALL), re.MULTILINE)
    places = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) <= places


def test_every_message_it_explains_is_one_that_is_said() -> None:
    sources = [ROOT / "deploy" / "opennotice", ROOT / "deploy" / "images", ROOT / "deploy" / "without-proxy.yaml"]
    sources += sorted((ROOT / "bundle").glob("*.py")) + sorted((ROOT / "deploy" / "proxy").iterdir())
    said = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    # A message that is broken into lines of source.
    said = re.sub(r'"\s+f?"', "", said)
    table = GUIDE[GUIDE.index("# When something goes wrong") :]
    pieces = {
        piece.strip(" :;")
        for row in re.findall(r"^\| (`[^|]+`) \|", table, re.MULTILINE)
        for message in re.findall(r"`([^`]+)`", row)
        for piece in message.split("…")
        if piece.strip(" :;")
    }
    assert len(pieces) > 15
    assert {piece for piece in pieces if piece not in said} == set()
