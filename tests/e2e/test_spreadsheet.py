"""What staff open in a spreadsheet stays data."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.test_main_job import eventually, new_client, new_link, opens_of
from tests.fix_bundle import Bundle

pytestmark = [pytest.mark.e2e, pytest.mark.office]
FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(1)", "＝1+1", '=HYPERLINK("http://evil.example";"x")', "=cmd|' /C calc'!A0"]


def test_an_export_has_no_formula_cell_in_libreoffice(bundle: Bundle, tmp_path: Path) -> None:
    office = shutil.which("soffice")
    if office is None:
        pytest.skip("no LibreOffice on this machine: the export was not opened as a spreadsheet")
    with bundle.api(bundle.new_key()) as api:
        page = {"slug": "a", "title": "A", "markdown": "a"}
        portal = api.post("portals", json={"display_name": "=2+2", "kind": "hosted", "pages": [page]}).json()
        for formula in FORMULAS:
            client = new_client(api, formula)
            url = new_link(api, portal, client)["url"]
            bundle.visit(url, agent="=3+3", headers={"referer": "=4+4", "accept-language": "=5"})
            eventually(lambda client=client: opens_of(api, client=client["name"]))
        csv = tmp_path / "opens.csv"
        csv.write_bytes(api.get("opens.csv", params={"portal": portal["name"]}).content)
    # Flat XML names the formula of every cell that has one. The last token makes it evaluate formulas as on a desk.
    arguments = ["--headless", f"-env:UserInstallation=file://{tmp_path}/profile", "--convert-to", "fods"]
    infilter = ["--infilter=CSV:44,34,76,1,,0,false,true,false,false,false,-1"]
    subprocess.run(
        [office, *arguments, *infilter, "--outdir", str(tmp_path), str(csv)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    sheets = list(tmp_path.glob("*.fods"))
    assert sheets
    text = "".join(sheet.read_text(encoding="utf-8") for sheet in sheets)
    assert "table:formula" not in text
    assert text.count("HYPERLINK") == 1
