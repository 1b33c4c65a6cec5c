"""No secret and no link's token stands where it can be read by somebody who looks after the machine.

Looked through: logs, what the engine tells about containers and images, environments, command lines, the layers of the
images, error pages, metrics.
"""

import ipaddress
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import grpc
import httpx
import pytest
import re2
from opennotice.link.v1 import link_pb2, link_pb2_grpc

from tests.e2e.test_main_job import eventually, new_client, new_link, opens_of
from tests.fix_bundle import ROOT
from tests.fix_containers import IMAGES, STAYING, Containers, docker, tag
from tests.product import IPHONE

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
LINKS = 1000
# Files of the home without a secret of their own: public keys, and URLs made of passwords that are looked for.
NOT_SECRET = re.compile(r"identity-trust\.json|.+\.url")


@dataclass
class Planted:
    """What must be found nowhere, by what it is."""

    secrets: dict[str, str]
    tokens: list[str]
    # Answers that visitors and callers got to see when something was wrong.
    errors: dict[str, bytes] = field(default_factory=dict)

    def needles(self) -> dict[bytes, str]:
        """Returns every text to look for with what it is. Of a key in PEM each full line gives it away."""
        found = {token.encode(): "a link's token" for token in self.tokens}
        for name, secret in self.secrets.items():
            lines = [line for line in secret.splitlines() if not line.startswith("-----") and len(line) >= 15]
            assert lines, name
            found |= {line.encode(): name for line in lines}
        return found


class Search:
    """Looks for many texts at once in whatever passes by."""

    def __init__(self, needles: dict[bytes, str]) -> None:
        self._needles = needles
        self._longest = max(map(len, needles))
        options = re2.Options()
        options.max_mem = 1 << 28
        self._pattern = re2.compile(b"|".join(map(re2.escape, needles)), options)

    def __call__(self, text: bytes) -> set[str]:
        """Returns the names of what stands in a text."""
        return {self._needles[found] for found in self._pattern.findall(text)}

    def passing(self, stream: Any) -> "Passing":
        """Returns a file that reads as another one does and is searched on the way."""
        return Passing(stream, self, self._longest)


class Passing:
    """A stream that is searched while it is read."""

    def __init__(self, stream: Any, search: Search, overlap: int) -> None:
        self._stream, self._search, self._overlap = stream, search, overlap
        self._end = b""
        self.found: set[str] = set()

    def read(self, size: int) -> bytes:
        """Reads on."""
        data: bytes = self._stream.read(size)
        self.found |= self._search(self._end + data)
        self._end = data[-self._overlap :]
        return data


def home_of(containers: Containers) -> dict[str, str]:
    """Returns every secret of the install by the name of its file."""
    program = (
        "import json, pathlib; home = pathlib.Path('/var/lib/opennotice/home');"
        "print(json.dumps({p.name: p.read_text() for p in [*home.glob('secrets/*'), home / 'admin-password']}))"
    )
    said = containers.compose("run", "--rm", "-T", "--entrypoint", "python", "cli", "-c", program).stdout
    found: dict[str, str] = json.loads(said.splitlines()[-1])
    secrets = {name: text for name, text in found.items() if not NOT_SECRET.fullmatch(name)}
    key = re.search(r"-----BEGIN PRIVATE KEY-----.+", secrets["certificate.pem"], re.DOTALL)
    assert key
    return {**secrets, "certificate.pem": key[0]}


def sign_in(containers: Containers, email: str, password: str) -> dict[str, str]:
    """Signs in as a browser does; returns the cookies."""
    with httpx.Client(base_url=containers.staff_url, transport=containers.transport(), timeout=30) as browser:
        answer = browser.post(
            "/sign-in",
            data={"email": email, "password": password},
            headers={"origin": containers.staff_url, "sec-fetch-site": "same-origin"},
        )
    assert answer.status_code == 303, answer.text
    pairs = (cookie.split(";")[0].partition("=") for cookie in answer.headers.get_list("set-cookie"))
    return {name: value for name, _, value in pairs if value}


def make_links(containers: Containers, key: str, portal: str, count: int) -> list[str]:
    """Makes links in one call, as a court system that sends many letters does."""
    target, authority, certificate = (
        containers.channel("link").__dict__[k] for k in ("target", "authority", "certificate")
    )
    credentials = grpc.ssl_channel_credentials(certificate.encode())
    with grpc.secure_channel(target, credentials, [("grpc.default_authority", authority)]) as channel:
        requests = (link_pb2.CreateLinkRequest(link=link_pb2.Link(portal=portal)) for _ in range(count))
        parts = link_pb2_grpc.LinkServiceStub(channel).CreateLinks(
            requests, metadata=[("authorization", f"Bearer {key}")], timeout=120
        )
        return [result.link.uri for part in parts for result in part.results]


def visit_all(containers: Containers, urls: list[str]) -> None:
    """Opens every link over a few connections."""

    def some(part: list[str]) -> list[int]:
        with httpx.Client(transport=containers.transport(), headers={"user-agent": IPHONE}, timeout=30) as browser:
            return [browser.get(url).status_code for url in part]

    with ThreadPoolExecutor(4) as pool:
        codes = [code for part in pool.map(some, (urls[begin::4] for begin in range(4))) for code in part]
    assert set(codes) == {200}


def raw(containers: Containers, request: bytes) -> bytes:
    """Sends what no client library would, and returns the answer."""
    with (
        socket.create_connection(("127.0.0.1", containers.https_port), 10) as plain,
        containers.trust.wrap_socket(plain, server_hostname="links.opennotice.localhost") as connection,
    ):
        connection.sendall(request)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except (OSError, ssl.SSLError):
            pass
        return answer


def answer_of(response: httpx.Response) -> bytes:
    """Returns all that a client got: head and body."""
    head = "".join(f"{name}: {value}\n" for name, value in response.headers.items())
    return f"{response.status_code}\n{head}\n".encode() + response.content


@pytest.fixture(scope="module")
def planted(containers: Containers) -> Planted:
    """Uses the product with every kind of secret, in good and in bad ways, and returns what was used."""
    home = home_of(containers)
    key = containers.new_key()
    email = f"{uuid4()}@first-court.example"
    person = containers.json("user", "create", "--email", email, "--name", "Carol", "--role", "clerk")
    cookies = sign_in(containers, email, person["password"])
    administrator = sign_in(containers, containers.settings["OPENNOTICE_ADMIN_EMAIL"], home["admin-password"].strip())
    secrets = {
        **home,
        "an API key": key,
        "a user's password": person["password"],
        **{f"the cookie {name}": value for name, value in cookies.items()},
        **{f"the administrator's cookie {name}": value for name, value in administrator.items()},
    }
    with containers.api(key) as api:
        page = {"slug": "a", "title": "A", "markdown": "a"}
        portal = api.post("portals", json={"display_name": "P", "kind": "hosted", "pages": [page]}).json()
        urls = make_links(containers, key, portal["name"], LINKS)
        tokens = [url.rpartition("/")[2] for url in urls]
        assert len(set(tokens)) == LINKS
        visit_all(containers, urls)
        client = new_client(api)
        link = new_link(api, portal, client)
        tokens.append(link["url"].rpartition("/")[2])
        containers.visit(link["url"])
        eventually(lambda: opens_of(api, client=client["name"]), 20)
        planted = Planted(secrets, tokens)
        make_errors(containers, planted, api, link, key)
    return planted


def make_errors(containers: Containers, planted: Planted, api: httpx.Client, link: Any, key: str) -> None:
    """Does everything wrong that leads to an error page, with secrets where they are written by mistake."""
    token, errors = planted.tokens[-1], planted.errors
    links, staff = containers.public_url, containers.staff_url
    host = links.removeprefix("https://").encode()

    def ask(name: str, status: int, url: str, method: str = "GET", **options: Any) -> None:
        answer = containers.visit(url, method=method, **options)
        assert answer.status_code == status, f"{name}: {answer.status_code}"
        errors[name] = answer_of(answer)

    ask("404, token and more", 404, f"{links}/{token}/x/{token}")
    ask("404, token of nobody", 404, f"{links}/{token[:-1]}?key={key}")
    ask("404, a link at the staff's name", 404, f"{staff}/{token}")
    ask("401, key in a URL", 401, f"{staff}/api/v1/opens?key={key}")
    ask("405", 405, f"{links}/{token}", method="DELETE")
    ask("413", 413, f"{links}/{token}", method="POST", content=b"x" * 100_000)
    errors["400, malformed"] = raw(
        containers, b"GET /%s HTTP/1.1\r\nHost: %s\r\nBad Header: x\r\n\r\n" % (token.encode(), host)
    )
    errors["400, too long"] = raw(
        containers, b"GET /%s?%s HTTP/1.1\r\nHost: %s\r\n\r\n" % (token.encode(), b"x" * 70_000, host)
    )
    for name in ("400, malformed", "400, too long"):
        assert re.match(rb"HTTP/1.1 4\d\d ", errors[name]), errors[name][:80]
    for email in (containers.settings["OPENNOTICE_ADMIN_EMAIL"], "nobody@first-court.example"):
        with httpx.Client(base_url=staff, transport=containers.transport(), timeout=30) as browser:
            answer = browser.post("/sign-in", data={"email": email, "password": planted.secrets["cookie.key"]})
        errors[f"sign-in of {email}"] = answer_of(answer)
    for name, answer in {
        "422": api.post("links", json={"portal": link["url"], "secret": key}),
        "JSON that is cut": api.post("links", content=f'{{"portal": "{link["url"]}'.encode()),
        "404 of the API": api.get(f"links/{token}"),
    }.items():
        assert answer.status_code >= 400
        errors[name] = answer_of(answer)
    assert api.post(f"{link['name']}:revoke").status_code == 200
    eventually(lambda: containers.visit(link["url"]).status_code == 410, 10)
    ask("410", 410, link["url"])
    containers.compose("stop", "tracking")
    ask("503", 503, link["url"], timeout=30)
    containers.compose("start", "tracking")
    eventually(lambda: containers.visit(link["url"], timeout=30).status_code == 410, 60)


def test_there_are_secrets_enough_of_every_kind(planted: Planted) -> None:
    assert len(planted.secrets) >= 12
    assert len(planted.tokens) > LINKS
    kinds = {"admin-password", "an API key", "a user's password", "link-token.key", "cookie.key", "paging.key"}
    kinds |= {
        "postgres.password",
        "nats.password",
        "certificate.pem",
        "identity-gateway.pem",
        "database-link_serve.password",
    }
    assert kinds <= set(planted.secrets)
    assert any("cookie" in name for name in planted.secrets)


def test_the_search_finds_what_is_there(planted: Planted) -> None:
    search = Search(planted.needles())
    assert search(b"x" + planted.tokens[7].encode() + b"y") == {"a link's token"}
    assert search(json.dumps(planted.secrets["identity-auth.pem"]).encode()) == {"identity-auth.pem"}


def test_logs_hold_none(containers: Containers, planted: Planted) -> None:
    logs = containers.logs().encode()
    for name in STAYING:
        assert f"{name}-1".encode() in logs, "every container is in there"
    assert Search(planted.needles())(logs) == set()
    assert b"onk_" not in logs
    assert planted.tokens[0][:16].encode() not in logs, "most of a token is as good as the whole"


def test_error_pages_hold_none(planted: Planted) -> None:
    search = Search(planted.needles())
    for name, answer in planted.errors.items():
        assert search(answer) == set(), name


def test_what_the_engine_tells_holds_none(containers: Containers, planted: Planted) -> None:
    search = Search(planted.needles())
    told = json.dumps(containers.inspect())
    names = [f"opennotice/{name}:{tag()}" for name in IMAGES]
    told += docker("image", "inspect", *names).stdout
    for name in names:
        told += docker("history", "--no-trunc", name).stdout
    assert search(told.encode()) == set()


def test_environments_and_command_lines_hold_none(containers: Containers, planted: Planted) -> None:
    search = Search(planted.needles())
    look = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'"
    for name in STAYING:
        said = containers.inside(name, "bash", "-c", look, check=False).stdout
        assert "PATH=" in said, name
        assert search(said.encode()) == set(), name


def test_probes_and_metrics_hold_none(containers: Containers, planted: Planted) -> None:
    program = (
        "import sys, urllib.request as r\n"
        "for url in sys.argv[1:]:\n"
        "    with r.urlopen(url, timeout=10) as answer: print(url, answer.status, answer.read().decode())"
    )
    ours = [name for name in STAYING if name not in ("postgres", "nats", "proxy")]
    urls = [f"http://{name}:9000/{path}" for name in ours for path in ("live", "ready", "metrics")]
    urls += [f"http://nats:8222/{path}" for path in ("varz", "connz", "jsz?streams=1&consumers=1", "healthz")]
    said = containers.compose("run", "--rm", "-T", "--entrypoint", "python", "cli", "-c", program, *urls).stdout
    assert said.count(" 200 ") >= len(urls)
    assert "opennotice_" in said
    assert Search(planted.needles())(said.encode()) == set()


def test_the_database_knows_tokens_and_passwords_only_as_hashes(containers: Containers, planted: Planted) -> None:
    url = containers.secret("link", "serve_database_url")
    assert url.startswith("postgresql://link_serve:")
    password = planted.secrets["postgres.password"]
    dump = docker(
        *("exec", "--interactive", containers.container("postgres"), "sh", "-c"),
        "read -r PGPASSWORD; export PGPASSWORD; exec pg_dumpall -h 127.0.0.1 -U postgres --restrict-key=0",
        input=password + "\n",
        seconds=120,
    ).stdout
    assert dump.count("COPY ") > 20
    assert Search(planted.needles())(dump.encode()) == set()


# --- images


def mirrors() -> set[str]:
    """Returns hosts that somebody has told this machine to fetch packages from."""
    found = {os.environ.get(name, "") for name in ("PIP_INDEX_URL", "NPM_CONFIG_REGISTRY", "npm_config_registry")}
    # Both tell what was set, and nothing of what they do by themselves.
    for words in (["pip", "config", "list"], ["npm", "config", "list"]):
        if shutil.which(words[0]):
            found.add(subprocess.run(words, capture_output=True, text=True, timeout=30, check=False).stdout)
    hosts = {host for text in found for host in re.findall(r"https?://(?:[^@/\s'\"]*@)?([^:/\s'\"]+)", text)}
    return {host for host in hosts if host != "localhost" and not _is_loopback(host)}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def certificates(text: str) -> set[str]:
    """Returns a line of each certificate that no other has by chance: the last full one."""
    found = re.findall(r"-----BEGIN CERTIFICATE-----\n(.+?)-----END CERTIFICATE-----", text, re.DOTALL)
    return {lines[-2] for body in found if len(lines := body.split()) > 3}


def layers(stream: Any) -> Iterator[tuple[str, tarfile.TarFile]]:
    """Yields every layer of `docker save` while it passes by."""
    with tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20) as archive:
        for member in archive:
            if member.name.endswith("layer.tar") and member.isfile():
                inner = cast(Any, archive.extractfile(member))
                with tarfile.open(fileobj=inner, mode="r|", bufsize=1 << 20) as layer:
                    yield member.name, layer


def test_layers_of_images_hold_none_and_nothing_of_the_build(containers: Containers, planted: Planted) -> None:
    needles = planted.needles()
    needles |= {host.encode(): "a mirror of the build" for host in mirrors()}
    shipped = containers.inside("gateway", "cat", "/etc/ssl/certs/ca-certificates.crt").stdout
    here = Path("/etc/ssl/certs/ca-certificates.crt")
    own = certificates(here.read_text()) - certificates(shipped) if here.exists() else set()
    needles |= {line.encode(): "a certificate that this machine trusts" for line in own}
    search = Search(needles)
    names = [f"opennotice/{name}:{tag()}" for name in IMAGES]
    files: list[str] = []
    with subprocess.Popen(["docker", "save", *names], stdout=subprocess.PIPE) as saving:
        passing = search.passing(saving.stdout)
        count = 0
        for _, layer in layers(passing):
            count += 1
            files += [member.name for member in layer if member.isfile() and member.size]
        while passing.read(1 << 20):
            pass
    assert saving.returncode == 0
    assert count > 8
    assert passing.found == set()
    assert any(name.endswith("haproxy") for name in files), "it was really read"

    def with_end(*ends: str) -> set[str]:
        return {name for name in files if name.endswith(ends)}

    # Certificates of public authorities are no secret; keys would be.
    allowed = ("etc/ssl/certs/", "certifi/cacert.pem", "grpc/_cython/_credentials/roots.pem")
    assert {n for n in with_end(".pem", ".key", ".p12", ".pfx", ".jks") if not any(a in n for a in allowed)} == set()
    assert {os.path.dirname(name) for name in with_end(".mmdb")} == {"usr/share/opennotice/ip-data"}
    # Files of that name in the repository say only how to install.
    ours = {f"opt/opennotice/{path.relative_to(ROOT)}" for path in ROOT.glob("*/**/.npmrc")}
    assert with_end("pip.conf", "npmrc", "/ca.crt", ".netrc", ".pypirc") <= ours
    assert not [
        name for name in files if name.startswith(("run/secrets/", "root/.cache", "root/.npm", "usr/local/share/ca"))
    ]
    assert not [name for name in files if re.search(r"(^|/)(\.git|\.env|var/home|node_modules)(/|$)", name)]
