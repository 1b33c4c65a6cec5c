"""Another court system: a second process that has only proto/ and an API key."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.test_main_job import eventually, new_client, new_link, opens_of
from tests.fix_bundle import ROOT, Bundle

pytestmark = pytest.mark.e2e

PROGRAM = """
import json, sys, threading, time, urllib.request
import grpc
from opennotice.link.v1 import link_pb2, link_pb2_grpc
from opennotice.reporting.v1 import reporting_pb2, reporting_pb2_grpc

reporting_address, link_address, key, url = sys.argv[1:]
metadata = (("authorization", "Bearer " + key),)
opens = reporting_pb2_grpc.ReportingServiceStub(grpc.insecure_channel(reporting_address))
links = link_pb2_grpc.LinkServiceStub(grpc.insecure_channel(link_address))
out = {}
first = opens.ListOpens(reporting_pb2.ListOpensRequest(page_size=1), metadata=metadata)
out["listed"] = len(first.opens)
out["more"] = bool(first.next_page_token)
rows = [row for part in opens.ExportOpens(reporting_pb2.ExportOpensRequest(), metadata=metadata) for row in part.opens]
out["exported"] = len(rows)
watch = opens.WatchOpens(reporting_pb2.WatchOpensRequest(), metadata=metadata)
next(watch)
if url:
    with urllib.request.urlopen(url) as answer:
        out["visited"] = answer.headers["X-Open-Id"]
    for part in watch:
        if part.opens:
            out["watched"] = part.opens[0].name
            break
watch.cancel()
requests = (link_pb2.CreateLinkRequest(link=link_pb2.Link(portal=sys.stdin.readline().strip())) for _ in range(1))
try:
    results = [result for part in links.CreateLinks(requests, metadata=metadata) for result in part.results]
    out["created"] = [bool(result.link.uri) for result in results]
except grpc.RpcError as error:
    out["created"] = error.code().name
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies proto/ alone into a folder and generates the stubs there, as another team would."""
    folder = tmp_path_factory.mktemp("other-system")
    for source in (ROOT / "proto").rglob("*.proto"):
        target = folder / source.relative_to(ROOT / "proto")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text())
    files = [str(path.relative_to(folder)) for path in folder.rglob("*.proto")]
    arguments = ["-m", "grpc_tools.protoc", "-I.", "--python_out=.", "--grpc_python_out=.", *files]
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True)
    (folder / "program.py").write_text(textwrap.dedent(PROGRAM))
    return folder


def run(stranger: Path, bundle: Bundle, key: str, url: str = "", portal: str = "") -> Any:
    done = subprocess.run(
        [sys.executable, "program.py", bundle.grpc["reporting"], bundle.grpc["link"], key, url],
        cwd=stranger,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(stranger)},
        input=f"{portal}\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_process_with_only_proto_lists_streams_watches_and_creates(bundle: Bundle, stranger: Path) -> None:
    key = bundle.new_key()
    with bundle.api(key) as api:
        page = {"slug": "a", "title": "A", "markdown": "a"}
        portal = api.post("portals", json={"display_name": "P", "kind": "hosted", "pages": [page]}).json()
        client = new_client(api)
        link = new_link(api, portal, client)
        for _ in range(2):
            bundle.visit(link["url"])
        eventually(lambda: len(opens_of(api, client=client["name"])) == 2)
    seen = run(stranger, bundle, key, link["url"], portal["name"])
    assert seen["listed"] == 1
    assert seen["more"]
    assert seen["exported"] >= 2
    assert seen["watched"] == f"opens/{seen['visited']}"
    assert seen["created"] == [True]


def test_a_key_of_another_agency_sees_none_of_it(bundle: Bundle, stranger: Path) -> None:
    other = bundle.json("agency", "create", "--name", "Third Court", "--admin-email", f"{uuid4()}@third.example")
    key = bundle.new_key("--agency", other["name"])
    seen = run(stranger, bundle, key)
    assert (seen["listed"], seen["exported"]) == (0, 0)


def test_a_wrong_key_is_one_clear_error(bundle: Bundle, stranger: Path) -> None:
    done = subprocess.run(
        [sys.executable, "program.py", bundle.grpc["reporting"], bundle.grpc["link"], "onk_wrong", ""],
        cwd=stranger,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(stranger)},
        input="\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "UNAUTHENTICATED" in done.stderr
