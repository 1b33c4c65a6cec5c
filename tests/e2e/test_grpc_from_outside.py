"""Another court system: a second process that has only proto/ and an API key."""

import contextlib
import dataclasses
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.test_main_job import eventually, new_client, new_link, opens_of
from tests.fix_bundle import ROOT
from tests.product import Product

pytestmark = pytest.mark.e2e

PROGRAM = """
import json, os, sys
import grpc
from opennotice.link.v1 import link_pb2, link_pb2_grpc
from opennotice.reporting.v1 import reporting_pb2, reporting_pb2_grpc

def channel(target, authority, certificate):
    if not certificate:
        return grpc.insecure_channel(target)
    # The target is an address because the name of a test stands in no DNS.
    options = [("grpc.default_authority", authority)]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(certificate.encode()), options)

key = os.environ["KEY"]
metadata = (("authorization", "Bearer " + key),)
opens = reporting_pb2_grpc.ReportingServiceStub(channel(*json.loads(os.environ["REPORTING"])))
links = link_pb2_grpc.LinkServiceStub(channel(*json.loads(os.environ["LINK"])))
portal, watched = sys.argv[1:]
out = {}
first = opens.ListOpens(reporting_pb2.ListOpensRequest(page_size=1), metadata=metadata)
out["listed"] = len(first.opens)
out["more"] = bool(first.next_page_token)
rows = [row for part in opens.ExportOpens(reporting_pb2.ExportOpensRequest(), metadata=metadata) for row in part.opens]
out["exported"] = len(rows)
watch = opens.WatchOpens(reporting_pb2.WatchOpensRequest(), metadata=metadata)
next(watch)
print("watching", flush=True)
if watched:
    for part in watch:
        if part.opens:
            out["watched"] = part.opens[0].name
            break
watch.cancel()
requests = (link_pb2.CreateLinkRequest(link=link_pb2.Link(portal=portal)) for _ in range(1))
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


@contextlib.contextmanager
def other_system(stranger: Path, product: Product, key: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs the program of the other court, which knows nothing of us but addresses, a certificate and a key."""
    channels = {name.upper(): json.dumps(dataclasses.astuple(product.channel(name))) for name in ("reporting", "link")}
    process = subprocess.Popen(
        [sys.executable, "program.py", *(arguments or ("", ""))],
        cwd=stranger,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(stranger), "KEY": key, **channels},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> Any:
    """Returns what the program prints at its end."""
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


def test_a_process_with_only_proto_lists_streams_watches_and_creates(product: Product, stranger: Path) -> None:
    key = product.new_key()
    with product.api(key) as api:
        page = {"slug": "a", "title": "A", "markdown": "a"}
        portal = api.post("portals", json={"display_name": "P", "kind": "hosted", "pages": [page]}).json()
        client = new_client(api)
        link = new_link(api, portal, client)
        for _ in range(2):
            product.visit(link["url"])
        eventually(lambda: len(opens_of(api, client=client["name"])) == 2)
    with other_system(stranger, product, key, portal["name"], "watch") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        visited = product.visit(link["url"]).headers["x-open-id"]
        seen = said(process)
    assert seen["listed"] == 1
    assert seen["more"]
    assert seen["exported"] >= 2
    assert seen["watched"] == f"opens/{visited}"
    assert seen["created"] == [True]


def test_a_key_of_another_agency_sees_none_of_it(product: Product, stranger: Path) -> None:
    other = product.json("agency", "create", "--name", "Third Court", "--admin-email", f"{uuid4()}@third.example")
    key = product.new_key("--agency", other["name"])
    with other_system(stranger, product, key) as process:
        seen = said(process)
    assert (seen["listed"], seen["exported"]) == (0, 0)


def test_a_wrong_key_is_one_clear_error(product: Product, stranger: Path) -> None:
    with other_system(stranger, product, "onk_wrong") as process:
        _, errors = process.communicate(timeout=60)
    assert "UNAUTHENTICATED" in errors
