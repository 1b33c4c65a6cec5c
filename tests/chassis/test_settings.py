"""Settings are read strictly: every fault at once, the name told, never the value."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bundle.processes import settings_class
from services.chassis import settings
from services.chassis.settings import Address, SettingsFault, load, setting


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One setting of each kind."""

    bind: Address = setting("OPENNOTICE_BIND", settings.address, "where")
    key: str = setting("OPENNOTICE_KEY", settings.key_text, "a key", secret=True)
    url: str = setting("OPENNOTICE_URL", settings.web_url, "a URL", default="http://127.0.0.1:8080")
    count: int = setting("OPENNOTICE_COUNT", settings.whole(1, 100), "a count", default=3)
    switch: bool = setting("OPENNOTICE_SWITCH", settings.boolean, "a switch", default=False)
    proxies: Any = setting("OPENNOTICE_PROXIES", settings.cidrs, "networks", default=())


GOOD = {"OPENNOTICE_BIND": "127.0.0.1:1234", "OPENNOTICE_KEY": "k" * 43}


def test_good_settings_are_typed() -> None:
    found = load(
        Sample, {**GOOD, "OPENNOTICE_PROXIES": "10.0.0.0/8, fd00::/8", "OPENNOTICE_TEST_REQUIRE": "x", "PATH": ""}
    )
    assert found.bind == Address("127.0.0.1", 1234)
    assert [str(network) for network in found.proxies] == ["10.0.0.0/8", "fd00::/8"]
    assert found.count == 3


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        pytest.param({"OPENNOTICE_BIND": None}, ["OPENNOTICE_BIND is not set"], id="E01 missing"),
        pytest.param({"OPENNOTICE_BIND": ""}, ["OPENNOTICE_BIND is empty"], id="E01 empty"),
        pytest.param({"OPENNOTICE_BIND": "  "}, ["OPENNOTICE_BIND is empty"], id="E01 spaces"),
        pytest.param({"OPENNOTICE_COUNT": "-1"}, ["OPENNOTICE_COUNT"], id="E02 negative"),
        pytest.param({"OPENNOTICE_COUNT": "0"}, ["OPENNOTICE_COUNT"], id="E02 zero"),
        pytest.param({"OPENNOTICE_COUNT": "1e3"}, ["OPENNOTICE_COUNT"], id="E02 exponent"),
        pytest.param({"OPENNOTICE_COUNT": "1_0"}, ["OPENNOTICE_COUNT"], id="E02 underscore"),
        pytest.param({"OPENNOTICE_COUNT": "true"}, ["OPENNOTICE_COUNT"], id="E02 word"),
        pytest.param({"OPENNOTICE_COUNT": "٣"}, ["OPENNOTICE_COUNT"], id="E02 other digits"),
        pytest.param({"OPENNOTICE_COUNT": "9" * 30}, ["OPENNOTICE_COUNT"], id="E02 huge"),
        pytest.param({"OPENNOTICE_SWITCH": "yes"}, ["OPENNOTICE_SWITCH"], id="E02 not a boolean"),
        pytest.param({"OPENNOTICE_BNID": "x"}, ["OPENNOTICE_BNID is not a setting"], id="E03 misspelled"),
        pytest.param({"OPENNOTICE_KEY": "changeme"}, ["OPENNOTICE_KEY is a placeholder"], id="E04 placeholder"),
        pytest.param({"OPENNOTICE_KEY": "tiny-key-of-mine"}, ["OPENNOTICE_KEY is too short"], id="E05 short key"),
        pytest.param({"OPENNOTICE_URL": "http://court.example"}, ["OPENNOTICE_URL"], id="E06 http"),
        pytest.param({"OPENNOTICE_URL": "https://court.example/x"}, ["OPENNOTICE_URL"], id="E06 path"),
        pytest.param({"OPENNOTICE_URL": "https://a@court.example"}, ["OPENNOTICE_URL"], id="E06 user"),
        pytest.param({"OPENNOTICE_URL": "https://court.example:x"}, ["OPENNOTICE_URL"], id="E06 port"),
        pytest.param({"OPENNOTICE_PROXIES": "*"}, ["OPENNOTICE_PROXIES"], id="E07 star"),
        pytest.param({"OPENNOTICE_PROXIES": "0.0.0.0/0"}, ["OPENNOTICE_PROXIES"], id="E07 everybody"),
        pytest.param({"OPENNOTICE_PROXIES": "::/0"}, ["OPENNOTICE_PROXIES"], id="E07 everybody IPv6"),
        pytest.param({"OPENNOTICE_PROXIES": "10.0.0.1/8"}, ["OPENNOTICE_PROXIES"], id="E07 host bits"),
        pytest.param({"OPENNOTICE_PROXIES": "10.0.0.0/8,"}, ["OPENNOTICE_PROXIES"], id="E07 empty part"),
        pytest.param(
            {"OPENNOTICE_BIND": "x", "OPENNOTICE_COUNT": "x", "OPENNOTICE_X": "x"},
            ["OPENNOTICE_BIND", "OPENNOTICE_COUNT", "OPENNOTICE_X"],
            id="all together",
        ),
    ],
)
def test_a_fault_names_the_setting_and_not_its_value(changes: dict[str, str | None], names: list[str]) -> None:
    environ = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises(SettingsFault) as caught:
        load(Sample, environ)
    assert len(caught.value.faults) == len(names)
    for name, fault in zip(names, caught.value.faults, strict=True):
        assert fault.startswith(name)
        for value in changes.values():
            # Short and example-like values can stand in the sentence by chance.
            assert not value or len(value) < 6 or value in {"10.0.0.0/8,"} or value not in fault


def test_a_slash_at_the_end_of_a_url_is_taken_away() -> None:
    assert load(Sample, {**GOOD, "OPENNOTICE_URL": "https://l.court.example/"}).url == "https://l.court.example"


def test_a_secret_comes_from_a_file_without_its_newline(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("s" * 50 + "\n")
    file.chmod(0o600)
    environ = {"OPENNOTICE_BIND": "127.0.0.1:1", "OPENNOTICE_KEY_FILE": str(file)}
    assert load(Sample, environ).key == "s" * 50


def test_a_secret_that_every_user_can_read_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "key"
    file.write_text("s" * 50)
    file.chmod(0o644)
    load(Sample, {"OPENNOTICE_BIND": "127.0.0.1:1", "OPENNOTICE_KEY_FILE": str(file)})
    assert "can be read by every user" in capsys.readouterr().err


@pytest.mark.parametrize("case", ["twice", "missing", "folder", "empty", "placeholder", "binary"])
def test_a_broken_secret_file_is_one_clear_fault(tmp_path: Path, case: str) -> None:
    file = tmp_path / "key"
    environ = {"OPENNOTICE_BIND": "127.0.0.1:1", "OPENNOTICE_KEY_FILE": str(file)}
    if case == "twice":
        file.write_text("s" * 50)
        environ["OPENNOTICE_KEY"] = "t" * 50
    elif case == "folder":
        file.mkdir()
    elif case == "empty":
        file.write_text("\n")
    elif case == "placeholder":
        file.write_text("changeme\n")
    elif case == "binary":
        file.write_bytes(b"\xff\xfe" * 40)
    with pytest.raises(SettingsFault) as caught:
        load(Sample, environ)
    assert len(caught.value.faults) == 1
    assert caught.value.faults[0].startswith("OPENNOTICE_KEY "), "E04"


@pytest.mark.parametrize("process", ["gateway", "auth", "link", "tracking", "enrichment", "reporting"])
def test_every_process_is_told_of_proxies_in_the_same_words(process: str) -> None:
    named = {field.metadata["name"]: field.metadata["parse"] for field in dataclasses.fields(settings_class(process))}
    assert named["OPENNOTICE_TRUSTED_PROXIES"] is settings.cidrs
