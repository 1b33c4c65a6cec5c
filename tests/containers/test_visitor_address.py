"""Whose address is recorded: that of the connection, whatever visitors say, unless the agency's balancer says it."""

import json
from typing import Any

import pytest

from tests.e2e.test_main_job import eventually, new_client, new_link, opens_of
from tests.fix_containers import Containers, docker, tag
from tests.product import T_MOBILE

pytestmark = pytest.mark.engine
FORGED = {
    "X-Forwarded-For": "198.51.100.7",
    "Forwarded": "for=198.51.100.7;proto=https",
    "X-Real-IP": "198.51.100.7",
    "X-Client-IP": "198.51.100.7",
    "True-Client-IP": "198.51.100.7",
    "CF-Connecting-IP": "198.51.100.7",
    "X-Original-Forwarded-For": "198.51.100.7",
    "X-Cluster-Client-IP": "198.51.100.7",
}
VISIT = """
import json, socket, ssl, sys
certificate, url, headers = json.loads(sys.stdin.read())
name, path = url.removeprefix("https://").split("/", 1)
trust = ssl.create_default_context(cadata=certificate)
plain = socket.create_connection(("proxy", 8443), 10)
with trust.wrap_socket(plain, server_hostname=name.split(":")[0]) as connection:
    lines = ["GET /" + path + " HTTP/1.1", "Host: " + name, "Connection: close", "User-Agent: Mozilla/5.0"]
    connection.sendall("\\r\\n".join([*lines, *headers, "", ""]).encode())
    answer = b""
    while part := connection.recv(65536):
        answer += part
head = answer.split(b"\\r\\n\\r\\n")[0].decode().split("\\r\\n")
found = {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in head[1:]}
print(json.dumps([head[0], found.get("x-open-id"), socket.gethostbyname(socket.gethostname())]))
"""


def visit_from_a_container(containers: Containers, url: str, headers: list[str]) -> Any:
    """Opens a link from another machine on the network outside: a container that the proxy does not trust."""
    said = docker(
        *("run", "--rm", "--interactive", "--network", f"{containers.project}_outside"),
        *(f"opennotice/app:{tag()}", "python", "-c", VISIT),
        input=json.dumps([containers.certificate, url, headers]),
    )
    return json.loads(said.stdout)


@pytest.fixture(scope="module")
def api(containers: Containers) -> Any:
    with containers.api(containers.new_key()) as client:
        yield client


@pytest.fixture(scope="module")
def portal(api: Any) -> Any:
    page = {"slug": "a", "title": "A", "markdown": "a"}
    return api.post("portals", json={"display_name": "P", "kind": "hosted", "pages": [page]}).json()


def recorded(api: Any, client: Any, open_id: str) -> str:
    """Returns the address that an open was recorded with."""
    rows = eventually(lambda: {row["open_id"]: row for row in opens_of(api, client=client["name"])}.get(open_id), 20)
    address: str = rows["ip_address"]
    return address


def test_what_a_visitor_says_about_their_address_is_not_believed(containers: Containers, api: Any, portal: Any) -> None:
    client = new_client(api)
    url = new_link(api, portal, client)["url"]
    alone = [f"{name}: {value}" for name, value in FORGED.items()]
    # The same header twice, and a list, in which a careless server takes the first or the last.
    twice = ["X-Forwarded-For: 198.51.100.7", "X-Forwarded-For: 198.51.100.8, 127.0.0.1", "x-forwarded-for: 10.0.0.1"]
    for headers in (alone, twice, []):
        status, open_id, own = visit_from_a_container(containers, url, headers)
        assert " 200 " in status
        assert recorded(api, client, open_id) == own


def test_the_agencys_balancer_is_believed_and_only_its_last_word(containers: Containers, api: Any, portal: Any) -> None:
    client = new_client(api)
    url = new_link(api, portal, client)["url"]
    # What stands before the address that the balancer added came from the visitor.
    for told in (T_MOBILE, f"198.51.100.7, {T_MOBILE}"):
        open_id = containers.visit(url, address=told).headers["x-open-id"]
        assert recorded(api, client, open_id) == T_MOBILE


def test_plain_http_only_leads_to_https(containers: Containers, api: Any, portal: Any) -> None:
    client = new_client(api)
    url = new_link(api, portal, client)["url"]
    token = url.rpartition("/")[2]
    plain = f"http://links.opennotice.localhost:{containers.settings['OPENNOTICE_HTTP_PORT']}/{token}"
    answer = containers.visit(plain)
    assert (answer.status_code, answer.headers["location"]) == (301, url)
    assert opens_of(api, client=client["name"]) == []
