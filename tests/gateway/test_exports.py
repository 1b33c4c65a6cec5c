"""CSV: exactly the filtered rows, RFC 4180, and no cell that a spreadsheet would run."""

import asyncio
import contextlib
import csv
import io
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.datastructures import Headers
from opennotice.auth.v1 import auth_pb2
from opennotice.reporting.v1 import reporting_pb2

from gateway import exports
from gateway.app import create_app
from gateway.clients import connect
from gateway.exports import cells_of, csv_text, safe_cell
from gateway.words import OPEN_COLUMNS
from services.chassis.errors import Unauthenticated
from services.chassis.identity import Exchanger
from services.chassis.serve import Process
from services.chassis.settings import Address
from tests.cast import ALICE, MORGAN
from tests.gateway.conftest import House, gateway_settings, make_client, until
from tests.gateway.test_opens import COLUMNS, START, id_of, listed, put
from tests.reporting.sample import an_open

FORMULAS = [
    "=cmd|' /C calc'!A0",
    "=1+1",
    "+1",
    "-1",
    "@SUM(1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    " =1+1",
    "\u00a0=1+1",
    "\ufeff=1+1",
    "\u200b=1+1",
    ";=1+1",
    ",=1+1",
    '"=1+1',
    '"=1+1"',
    "'=1+1",
    "＝1+1",
    "＋1",
    "－1",
    "＠SUM(1)",
    '=HYPERLINK("https://evil.example","x")',
    '=WEBSERVICE("https://evil.example")',
    "=1+1;=2+2",
    "+49 30 123456",
    "-2+3+cmd|' /C calc'!A0",
    "\x00=1+1",
]
HARMLESS = [
    "Ana Rivera",
    "1+1",
    "O'Neil",
    "Smith, John",
    'the "quiet" one',
    "a\nb",
    "2001:db8::1",
    "007",
    "1E5",
    "",
    "José",
]


@pytest.mark.parametrize("text", [pytest.param(text, id=f"C08-{text!r}") for text in FORMULAS])
def test_what_a_spreadsheet_could_run_begins_with_a_single_quote(text: str) -> None:
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", HARMLESS)
def test_all_other_text_stays_as_it_is(text: str) -> None:
    assert safe_cell(text) == text


@given(st.text(max_size=40))
def test_a_cell_never_begins_like_a_formula_and_gives_back_its_text(text: str) -> None:
    made = safe_cell(text)
    assert not made.strip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))
    assert made == text or made[1:] == text
    # What reads the file back takes one quote away exactly where one was put.
    assert (made[1:] if made != text else made) == text


@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=3, max_size=3), max_size=5
    )
)
def test_the_file_is_rfc_4180_and_reads_back_as_written(rows: list[list[str]]) -> None:
    made = csv_text(rows)
    assert list(csv.reader(io.StringIO(made, newline=""), strict=True)) == rows
    assert made == "" or made.endswith("\r\n")


def test_missing_is_empty_and_reasons_are_joined_by_a_space() -> None:
    row: dict[str, Any] = dict.fromkeys(OPEN_COLUMNS) | {"reasons": ["a", "b"], "asn": 7922, "active_seconds": 12.5}
    cells = dict(zip(OPEN_COLUMNS, cells_of(row), strict=True))
    assert (cells["reasons"], cells["asn"], cells["active_seconds"], cells["city"]) == ("a b", "7922", "12.5", "")
    assert dict(zip(OPEN_COLUMNS, cells_of(row | {"active_seconds": 3.0}), strict=True))["active_seconds"] == "3"


@pytest.fixture
def api(house: House) -> Iterator[httpx.Client]:
    with house.api() as http:
        yield http


def _rows(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"), newline=""), strict=True))


def test_the_csv_has_exactly_the_filtered_rows_and_the_documented_columns(house: House, api: httpx.Client) -> None:
    client = make_client(api, ref=f"CR-{uuid4()}")
    items = [an_open(START + timedelta(seconds=n), client_id=id_of(client)) for n in range(5)]
    wanted = put(house, api, client, *items)
    answer = api.get("/api/v1/opens.csv", params={"client": client["ref"], "to": "2026-11-20T08:00:04Z"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    disposition = answer.headers["content-disposition"]
    assert disposition.startswith('attachment; filename="opens-20')
    assert answer.content.startswith(",".join(COLUMNS).encode() + b"\r\n"), "an API key gets no byte order mark"
    rows = _rows(answer)
    assert [row["open_id"] for row in rows] == wanted[1:]
    for row, shown in zip(rows, listed(api, client=client["ref"])[1:], strict=True):
        for column in COLUMNS:
            told = " ".join(shown[column]) if column == "reasons" else shown[column]
            assert row[column] == ("" if told is None else str(told)), column


def test_the_csv_of_nothing_is_its_header(api: httpx.Client) -> None:
    assert api.get("/api/v1/opens.csv", params={"client": str(uuid4())}).text == ",".join(COLUMNS) + "\r\n", "C14"


def test_a_browser_gets_the_byte_order_mark_that_excel_needs(house: House) -> None:
    with house.browser(MORGAN) as http:
        content = http.get("/api/v1/opens.csv", params={"client": str(uuid4())}).content
    assert content == b"\xef\xbb\xbf" + (",".join(COLUMNS) + "\r\n").encode()


def test_a_refused_export_is_an_error_and_not_a_file(house: House) -> None:
    with house.browser(ALICE) as clerk, house.api("opens:read") as reader:
        for http in (clerk, reader):
            answer = http.get("/api/v1/opens.csv")
            assert (answer.status_code, answer.json()["reason"]) == (403, "PERMISSION_MISSING")


def test_an_export_is_written_to_the_audit_log(house: House) -> None:
    mark = str(uuid4())
    with house.browser(MORGAN) as http:
        assert http.get("/api/v1/opens.csv", params={"client": mark}).status_code == 200
    lines = house.rows("select * from auth.actions where verb = 'opens.export' and details::text like %s", f"%{mark}%")
    assert [line["actor"] for line in lines] == [MORGAN.name]


def _hostile(house: House, api: httpx.Client) -> dict[str, Any]:
    """Makes a client and opens whose every text is a formula."""
    client = make_client(api, display_name="=1+1", ref=f"=cmd {uuid4()}")
    printable = [text for text in FORMULAS if "\x00" not in text]
    items = [
        an_open(
            START + timedelta(seconds=number),
            client_id=id_of(client),
            network=text,
            browser=text,
            city=text,
            open_user_agent=text,
            open_referrer=text,
        )
        for number, text in enumerate(printable)
    ]
    put(house, api, client, *items)
    return client


def test_formulas_in_every_field_stay_text_and_json_keeps_them_exactly(house: House, api: httpx.Client) -> None:
    client = _hostile(house, api)
    rows = _rows(api.get("/api/v1/opens.csv", params={"client": client["ref"]}))
    shown = listed(api, client=client["ref"], page_size=200)
    assert len(rows) == len(shown) > 20
    for row, exact in zip(rows, shown, strict=True):
        for column in ("user_agent", "referrer", "network", "city", "client", "client_ref"):
            assert row[column] == safe_cell(exact[column]), column
            assert not row[column].lstrip().startswith(tuple("=+-@＝＋－＠")), column
    assert {one["client"] for one in shown} == {"=1+1"}


@pytest.mark.office
def test_libreoffice_finds_no_formula_in_the_csv(house: House, api: httpx.Client, tmp_path: Path) -> None:
    office = shutil.which("soffice") or shutil.which("libreoffice")
    if office is None:
        pytest.skip("LibreOffice is not installed")
    client = _hostile(house, api)
    source = tmp_path / "opens.csv"
    with house.browser(MORGAN) as http:
        source.write_bytes(http.get("/api/v1/opens.csv", params={"client": client["ref"]}).content)
    arguments = ["--headless", "--norestore", "--convert-to", "fods", "--outdir", str(tmp_path), str(source)]
    profile = f"-env:UserInstallation=file://{tmp_path}/profile"
    subprocess.run([office, profile, *arguments], check=True, capture_output=True, timeout=110)
    sheet = (tmp_path / "opens.fods").read_text(encoding="utf-8")
    assert client["ref"].removeprefix("=") in sheet
    assert "table:formula" not in sheet


class Cutter:
    """Passes bytes between the gateway and a service, and cuts the first connection after so many of them."""

    def __init__(self, target: Address, cut_after: int) -> None:
        self.target = target
        self.cut_after = cut_after
        self.cuts = 0
        self.port = 0

    async def start(self) -> None:
        """Listens on a free port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self.target.host, self.target.port)
        await asyncio.gather(self._pass(reader, back, cut=False), self._pass(there, writer, cut=True))

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, cut: bool) -> None:
        passed = 0
        with contextlib.suppress(ConnectionError):
            while data := await source.read(16_384):
                sink.write(data)
                await sink.drain()
                passed += len(data)
                if cut and self.cuts == 0 and passed > self.cut_after:
                    self.cuts += 1
                    break
        sink.close()


def test_an_export_goes_on_where_the_connection_to_reporting_broke(house: House, api: httpx.Client) -> None:
    client = make_client(api, ref=f"CR-{uuid4()}")
    items = [an_open(START, number=number, client_id=id_of(client)) for number in range(2400)]
    for start in range(0, len(items), 300):
        house.publish(*items[start : start + 300])
    count = {"client": client["ref"], "by": "day"}
    until(lambda: api.get("/api/v1/opens:summary", params=count).json()["total"] == len(items), "the opens")
    cutter = Cutter(house.addresses["reporting"], cut_after=600_000)
    key = house.key("all")

    async def export() -> httpx.Response:
        await cutter.start()
        process = Process("gateway", house.keyring.settings("gateway"))
        addresses = house.addresses | {"reporting": Address("127.0.0.1", cutter.port)}
        channels = {service: process.channel(address) for service, address in addresses.items()}
        app = create_app(
            gateway_settings(house.keyring), connect(**channels, signer=process.signer), house.keyring.checker()
        )
        asgi: Any = app
        transport = httpx.ASGITransport(app=asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=30) as http:
            headers = {"authorization": f"Bearer {key}"}
            answer = await http.get("/api/v1/opens.csv", params={"client": client["ref"]}, headers=headers)
        await process._end()
        return answer

    rows = _rows(house.run(export()))
    assert cutter.cuts == 1
    assert [row["open_id"] for row in rows] == [item.open.open_id for item in reversed(items)]


def test_an_export_ends_within_five_seconds_after_sign_out(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exports.SESSION_CHECK_SECONDS + Exchanger.KEEP_SECONDS <= 5
    monkeypatch.setattr(exports, "SESSION_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(Exchanger, "KEEP_SECONDS", 0.0)
    with house.api() as http:
        client = make_client(http, ref=f"CR-{uuid4()}")
        moment = START - timedelta(hours=1)
        items = [an_open(moment, number=number, client_id=id_of(client)) for number in range(1200)]
        for start in range(0, len(items), 300):
            house.publish(*items[start : start + 300])
        count = {"client": client["ref"], "by": "day"}
        until(lambda: http.get("/api/v1/opens:summary", params=count).json()["total"] == len(items), "the opens")
    session = house.sign_in(MORGAN)

    async def export() -> None:
        process = Process("gateway", house.keyring.settings("gateway"))
        channels = {service: process.channel(address) for service, address in house.addresses.items()}
        connections = connect(**channels, signer=process.signer)
        app = create_app(gateway_settings(house.keyring), connections, house.keyring.checker())
        request: Any = SimpleNamespace(app=app, client=None, headers=Headers())
        visitor = await app.state.gate.identify(session, "session", "127.0.0.1")
        packs = exports._packs(request, visitor, reporting_pb2.OpenFilter(client=client["ref"]))
        assert len(await anext(packs)) == 500
        calls = connections.as_gateway()
        await calls.ask(calls.auth.SignOut, auth_pb2.SignOutRequest(token=session))
        with pytest.raises(Unauthenticated):
            await anext(packs)
        await packs.aclose()
        await process._end()

    house.run(export())


def test_a_browser_that_leaves_frees_the_export(house: House, api: httpx.Client) -> None:
    client = make_client(api, ref=f"CR-{uuid4()}")
    put(house, api, client, an_open(START, client_id=id_of(client)))
    for _ in range(12):
        with api.stream("GET", "/api/v1/opens.csv", params={"client": client["ref"]}) as answer:
            assert answer.status_code == 200
    until(lambda: api.get("/api/v1/opens.csv", params={"client": client["ref"]}).status_code == 200, "room for another")
