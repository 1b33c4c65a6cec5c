"""docs/install.md: its commands are run word for word, and everything it names exists.

What docs/operations.md has people type after the loss of the database is run there as well, on the same install.
"""

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
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
# Those of a list are indented.
BLOCK = re.compile(r"<!-- tested -->\n *```sh\n(.+?)^ *```", re.DOTALL | re.MULTILINE)
# What the test asks besides. A revocation and an open take a moment to arrive.
ASKED = """
PHONE="Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X)"
visit() { curl -ksS -o page.html -w '%{http_code}\\n' -A "$PHONE" "$1"; }
made() { sed 's/.*"url":"\\([^"]*\\)".*/\\1/'; }
until_visit() ( for _ in $(seq 30); do [ "$(visit "$1")" != "$2" ] || exit 0; sleep 1; done; exit 1 )
opens() { api opens | grep -o '"open_id"' | wc -l; }
until_opens() ( for _ in $(seq 60); do [ "$(opens)" -ne "$1" ] || exit 0; sleep 1; done; api opens >&2; exit 1 )
"""
REVOKE_AND_MAKE = """
NAME=$(api links | sed 's/.*"name":"\\(links\\/[^"]*\\)".*/\\1/')
api "$NAME:revoke" -d '{}' >/dev/null
until_visit "$LINK" 410
LATER=$(api links -d "{\\"portal\\": \\"$PORTAL\\"}" | made)
until_visit "$LATER" 200
"""


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
@pytest.mark.timeout(1500)
def test_the_guide_leads_from_an_empty_folder_to_a_recorded_open_and_back_from_every_backup(bare: Containers) -> None:
    blocks = BLOCK.findall(GUIDE)
    settings, looks, restore, dump_restore = (
        next(number for number, block in enumerate(blocks) if text in block)
        for text in ("settings.env .env", "api opens", "-mindepth 1 -delete", "pg_restore")
    )
    # What an operator does with an editor.
    blocks[settings] += "{ grep -v '^[A-Z]' .env; cat chosen; } >edited; mv edited .env\n"
    blocks[looks] += ASKED
    # A visit that no copy has; and somebody who types this in a new shell.
    blocks[restore] = f'visit "$LINK"\nunset VERSION PROJECT\n{blocks[restore]}'
    # After the dump a link is revoked and another one made. The way back forgets both; the earlier open stays.
    blocks[dump_restore] = REVOKE_AND_MAKE + blocks[dump_restore]
    after_dump = 'visit "$LINK"\nvisit "$LATER"\nuntil_opens 2\napi opens\n'
    # The database is lost while its spool holds an open that is nowhere else.
    lose = (
        'docker compose stop postgres\nvisit "$LINK"\n'
        f"docker compose rm --force postgres\ndocker volume rm {bare.project}_postgres\n"
    )
    rescue = BLOCK.findall(OPERATIONS)
    assert len(rescue) == 2
    after_loss = "ls rescue-*/tracking.tar rescue-*/nats.tar\nuntil_opens 2\napi opens\n"
    blocks.insert(restore + 1, "api opens\n")
    blocks += [after_dump, lose, *rescue, after_loss]
    script = "set -eu\n" + "".join(f"printf '\\036'\n{block}" for block in blocks)
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=bare.folder,
        env={**surroundings(), "OPENNOTICE_VERSION": tag()},
        capture_output=True,
        text=True,
        timeout=1400,
        check=False,
    )
    told = done.stdout.split("\036")[1:]
    assert done.returncode == 0, f"in block {len(told)}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    answered, _, listed = told[looks].partition("\n")
    assert answered == "200"
    for answer in (listed, told[restore + 1]):
        (found,) = json.loads(answer)["opens"]
        assert (found["client"], found["portal"], found["device"]) == ("Jordan Miles", "Hearing details", "mobile")
    assert (bare.folder / "backup" / "opennotice.dump").read_bytes().startswith(b"PGDMP")
    # The revoked link works again, as the guide says; one that the dump does not know leads nowhere.
    revoked, unknown, after = told[blocks.index(after_dump)].split("\n", 2)
    assert (revoked, unknown) == ("200", "404")
    # After the loss: what the copy had, and what only the spool had.
    assert told[blocks.index(lose)].splitlines()[0] == "200"
    for answer in (after, told[-1].splitlines()[-1]):
        there = json.loads(answer)["opens"]
        assert found["open_id"] in {one["open_id"] for one in there}
        assert [one["client"] for one in there] == ["Jordan Miles", "Jordan Miles"]


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
