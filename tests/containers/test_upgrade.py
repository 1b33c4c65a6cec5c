"""Upgrade and way back on running containers: nothing is lost while visits go on, and what was before comes back."""

import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.e2e.test_main_job import eventually, new_client, new_link
from tests.fix_containers import IMAGES, Containers, docker, make_project, surroundings, tag

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

EXTRA = "0099_add_a_table_of_the_next_version"
PAUSE_SECONDS = 0.05


def make_next_version(version: str, folder: Path) -> None:
    """Makes images of a version that differs by one migration."""
    name = f"opennotice-test-{uuid4().hex[:8]}"
    migration = folder / f"{EXTRA}.sql"
    migration.write_text("-- What the next version needs.\ncreate table reporting.next_version (id int);\n")
    migration.chmod(0o644)
    docker("create", "--name", name, f"opennotice/app:{tag()}")
    try:
        docker("cp", str(migration), f"{name}:/opt/opennotice/services/reporting/migrations/{EXTRA}.sql")
        docker("commit", name, f"opennotice/app:{version}")
    finally:
        docker("rm", name)
    for image in IMAGES[1:]:
        docker("tag", f"opennotice/{image}:{tag()}", f"opennotice/{image}:{version}")


class Install:
    """A folder as an installer leaves it, whose VERSION says which images `up` starts."""

    def __init__(self, containers: Containers) -> None:
        self.containers = containers

    def put(self, version: str) -> None:
        """Does what an installer does to the folder."""
        (self.containers.folder / "VERSION").write_text(f"{version}\n")

    def keep(self) -> None:
        """Does what an installer does before it replaces what an earlier one has shipped."""
        previous = self.containers.folder / "previous"
        previous.mkdir()
        for name in ("compose.yaml", "VERSION"):
            shutil.copy(self.containers.folder / name, previous)
        shutil.copytree(self.containers.folder / "deploy", previous / "deploy")

    def opennotice(self, *words: str, stdin: str = "") -> tuple[int, str]:
        """Runs the operator's command."""
        folder = self.containers.folder
        done = subprocess.run(
            [folder / "deploy" / "opennotice", *words],
            cwd=folder,
            env=surroundings(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.containers.__dict__.pop("ids", None)
        return done.returncode, done.stdout + done.stderr

    def up(self) -> str:
        """Brings it up to date."""
        code, said = self.opennotice("up")
        assert code == 0, said + self.containers.logs("20")
        return said

    def sql(self, query: str) -> str:
        """Asks the database as its superuser."""
        script = 'PGPASSWORD=$(cat /run/opennotice/password) psql -h 127.0.0.1 -U postgres -At -c "$0" opennotice'
        return self.containers.inside("postgres", "sh", "-c", script, query).stdout.strip()


class Visitors:
    """Opens a link every 50 ms, each on a connection of its own, and keeps what came of it."""

    def __init__(self, containers: Containers, url: str) -> None:
        self._containers = containers
        self._url = url
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers: Counter[str] = Counter()
        self.open_ids: set[str] = set()
        self.slowest = 0.0

    def __enter__(self) -> "Visitors":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(PAUSE_SECONDS):
            began = time.monotonic()
            try:
                answer = self._containers.visit(self._url)
            except httpx.HTTPError as error:
                self.answers[str(error)[:60]] += 1
            else:
                self.answers[str(answer.status_code)] += 1
                if open_id := answer.headers.get("x-open-id"):
                    self.open_ids.add(open_id)
            self.slowest = max(self.slowest, time.monotonic() - began)


@pytest.fixture(scope="module")
def versions(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Gives the tags of two versions, of which the second changes the schema."""
    mark = uuid4().hex[:8]
    first, second = f"test-{mark}-1", f"test-{mark}-2"
    try:
        for image in IMAGES:
            docker("tag", f"opennotice/{image}:{tag()}", f"opennotice/{image}:{first}")
        make_next_version(second, tmp_path_factory.mktemp("next"))
        yield first, second
    finally:
        docker("image", "rm", *(f"opennotice/{image}:{version}" for image in IMAGES for version in (first, second)))


@pytest.fixture(scope="module")
def install(versions: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Install]:
    """Gives an install of the first version, running."""
    found = Install(make_project(tmp_path_factory.mktemp("upgrade")))
    try:
        found.put(versions[0])
        found.up()
        yield found
    except BaseException:
        print(found.containers.logs("40"))
        raise
    finally:
        found.containers.remove()


@pytest.fixture(scope="module")
def api(install: Install) -> Iterator[httpx.Client]:
    with install.containers.api(install.containers.new_key()) as client:
        yield client


@pytest.fixture(scope="module")
def link(install: Install, api: httpx.Client) -> Any:
    """Gives a link that was made and opened in the first version."""
    page = {"slug": "a", "title": "Your hearing", "markdown": "Room 4"}
    portal = api.post("portals", json={"display_name": "P", "kind": "hosted", "pages": [page]}).json()
    made = new_link(api, portal, new_client(api))
    seen = install.containers.visit(made["url"]).headers["x-open-id"]
    eventually(lambda: seen in ids(api), seconds=30)
    return {**made, "seen": seen}


def ids(api: httpx.Client) -> set[str]:
    """Returns every open that the report has."""
    found: set[str] = set()
    query: dict[str, Any] = {"page_size": 200}
    while True:
        answer = api.get("opens", params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found |= {row["open_id"] for row in page["opens"]}
        if not page.get("next_page_token"):
            return found
        query["page_token"] = page["next_page_token"]


def complete(install: Install, api: httpx.Client, wanted: set[str]) -> bool:
    """Whether the report has them all."""
    return wanted <= ids(api)


def test_an_upgrade_migrates_once_and_loses_no_visit(
    install: Install,
    api: httpx.Client,
    link: Any,
    versions: tuple[str, str],
    record_property: Any,
) -> None:
    install.put(versions[1])
    with Visitors(install.containers, link["url"]) as visitors:
        time.sleep(1)
        said = install.up()
        time.sleep(1)
    told = f"{dict(visitors.answers)}, slowest {visitors.slowest:.1f} s"
    print(f"visits during the upgrade: {told}")
    record_property("visits during an upgrade", told)
    assert f"restore point of {versions[0]}: " in said
    # The proxy has to be replaced too, and on a busy machine a service may start for longer than the proxy waits; both
    # are moments. No other fault may show.
    assert sum(visitors.answers.values()) - visitors.answers["200"] < 10 / PAUSE_SECONDS, told
    assert not [answer for answer in visitors.answers if answer in ("500", "502", "504")], told
    # Nothing that was answered with an id is missing, and nothing of before.
    eventually(lambda: complete(install, api, visitors.open_ids | {link["seen"]}), seconds=60)
    applied = install.sql(f"select count(*) from reporting.schema_migrations where name = '{EXTRA}'")
    assert applied == "1"
    assert install.containers.visit(link["url"]).status_code == 200


def test_an_older_program_is_refused_before_anything_that_runs_is_touched(
    install: Install, link: Any, versions: tuple[str, str]
) -> None:
    install.put(versions[0])
    code, said = install.opennotice("up")
    install.put(versions[1])
    assert code == 1
    assert f"the data were written by a newer OpenNotice ({versions[1]}, it has reporting/{EXTRA})" in said
    assert len(said.strip().splitlines()) == 1
    assert install.containers.is_healthy()
    assert install.containers.visit(link["url"]).status_code == 200


def test_what_was_written_since_is_not_given_up_by_accident(
    install: Install, api: httpx.Client, link: Any, versions: tuple[str, str]
) -> None:
    code, said = install.opennotice("back")
    assert code == 1
    assert f"written since the upgrade, and {versions[0]} would not know of it: " in said
    assert " opens" in said
    code, said = install.opennotice("back", "--lose-new", stdin="no\n")
    assert code == 1
    assert "nothing was changed" in said
    assert install.containers.is_healthy()
    assert f"opennotice/app:{versions[1]}" in install.containers.inspect()["tracking"]["Config"]["Image"]


def test_what_is_given_up_on_purpose_is_set_aside(
    install: Install, api: httpx.Client, link: Any, versions: tuple[str, str]
) -> None:
    page = {"slug": "b", "title": "Later", "markdown": "later"}
    portal = api.post("portals", json={"display_name": "Later", "kind": "hosted", "pages": [page]}).json()
    later = new_link(api, portal)
    assert install.containers.visit(later["url"]).status_code == 200
    began = time.monotonic()
    code, said = install.opennotice("back", "--lose-new", stdin="lose\n")
    assert code == 0, said + install.containers.logs("20")
    print(f"way back: {time.monotonic() - began:.0f} s")
    # What an installer of the first version would leave.
    install.put(versions[0])
    assert install.containers.inspect()["tracking"]["Config"]["Image"] == f"opennotice/app:{versions[0]}"
    assert install.sql("select to_regclass('reporting.next_version') is null") == "t"
    # A link of before works; one that the database does not know any more leads nowhere, also not from a copy of it.
    visit = install.containers.visit(link["url"])
    assert visit.status_code == 200
    assert install.containers.visit(later["url"]).status_code == 404
    eventually(lambda: complete(install, api, {link["seen"], visit.headers["x-open-id"]}), seconds=60)
    aside = said.split("stays in the database ")[1].split(",")[0]
    assert aside in install.sql("select datname from pg_database").split()


def test_an_upgrade_without_new_writes_is_taken_back_with_one_word(
    install: Install, api: httpx.Client, link: Any, versions: tuple[str, str]
) -> None:
    before = ids(api)
    install.keep()
    install.put(versions[1])
    install.up()
    code, said = install.opennotice("back")
    assert code == 0, said + install.containers.logs("20")
    folder = install.containers.folder
    # The files of then, too: a compose file of the next version may say what the images of this one do not understand.
    assert (folder / "VERSION").read_text().strip() == versions[0]
    assert not (folder / "previous").exists()
    assert "stays in the database" not in said
    # Visits that were cut off while the earlier test replaced the proxy may come in late; none that was there may go.
    assert ids(api) >= before
    assert install.containers.visit(link["url"]).status_code == 200
    code, said = install.opennotice("back")
    assert code == 1
    assert "there is no version before" in said
