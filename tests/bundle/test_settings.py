"""The operator's settings: wrong ones are told all at once, one clear line each, without their values."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bundle.processes import OWN, ROOT, settings_class
from bundle.settings import BundleSettings, load_bundle_settings
from services.chassis.settings import SettingsFault


def faults_of(**environ: str) -> list[str]:
    """Returns what is told about an environment; none for a good one."""
    try:
        load_bundle_settings(environ)
    except SettingsFault as fault:
        return fault.faults
    return []


def test_nothing_has_to_be_set() -> None:
    settings = load_bundle_settings({})
    assert settings.public_url == "http://127.0.0.1:8080"
    assert settings.staff_url == "http://127.0.0.1:8000"
    assert settings.home == Path("var").absolute()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("OPENNOTICE_AGENCY_NAME", "", id="E01 empty"),
        pytest.param("OPENNOTICE_AGENCY_NAME", "   ", id="E01 only spaces"),
        pytest.param("OPENNOTICE_PUBLIC_BIND", "127.0.0.1:eighty", id="E02 port is a word"),
        pytest.param("OPENNOTICE_PUBLIC_BIND", "127.0.0.1:0", id="E02 port 0"),
        pytest.param("OPENNOTICE_PUBLIC_BIND", "127.0.0.1:-1", id="E02 negative port"),
        pytest.param("OPENNOTICE_PUBLIC_BIND", "127.0.0.1:99999", id="E02 huge port"),
        pytest.param("OPENNOTICE_PUBLIC_BIND", "127.0.0.1:8_080", id="E02 underscore in a number"),
        pytest.param("OPENNOTICE_PUBLIC_BIND", "127.0.0.1:1e3", id="E02 exponent"),
        pytest.param("OPENNOTICE_LOG_LEVEL", "loud", id="E02 unknown word"),
        pytest.param("OPENNOTICE_ADMIN_EMAIL", "dana", id="E02 no e-mail address"),
        pytest.param("OPENNOTICE_ADMIN_PASSWORD", "short", id="E02 short password"),
        pytest.param("OPENNOTICE_PUBLIC_BLIND", "127.0.0.1:80", id="E03 misspelled"),
        pytest.param("OPENNOTICE_DATABSE_URL", "postgresql://x@y/z", id="E03 unknown"),
        pytest.param("OPENNOTICE_ADMIN_PASSWORD", "changeme", id="E04 placeholder"),
        pytest.param("OPENNOTICE_PUBLIC_URL", "http://l.court.example", id="E06 http beyond loopback"),
        pytest.param("OPENNOTICE_PUBLIC_URL", "https://l.court.example/links", id="E06 path"),
        pytest.param("OPENNOTICE_PUBLIC_URL", "https://dana:pw@l.court.example", id="E06 user"),
        pytest.param("OPENNOTICE_PUBLIC_URL", "l.court.example", id="E06 no scheme"),
        pytest.param("OPENNOTICE_TRUSTED_PROXIES", "*", id="E07 star"),
        pytest.param("OPENNOTICE_TRUSTED_PROXIES", "0.0.0.0/0", id="E07 all of IPv4"),
        pytest.param("OPENNOTICE_TRUSTED_PROXIES", "::/0", id="E07 all of IPv6"),
        pytest.param("OPENNOTICE_TRUSTED_PROXIES", "10.0.0.7/8", id="E07 host bits"),
        pytest.param("OPENNOTICE_POSTGRES_URL", "mysql://db/x", id="E02 another database"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(name: str, value: str) -> None:
    [told] = faults_of(**{name: value})
    assert told.startswith(name)
    assert "\n" not in told
    if len(value.strip()) > 4:
        assert value not in told


def test_an_address_for_everybody_needs_to_be_said() -> None:
    [told] = faults_of(OPENNOTICE_PUBLIC_BIND="0.0.0.0:8080")
    assert told.startswith("OPENNOTICE_PUBLIC_URL")


def test_two_listeners_cannot_share_an_address() -> None:
    [told] = faults_of(OPENNOTICE_PUBLIC_BIND="127.0.0.1:8000")
    assert "OPENNOTICE_STAFF_BIND" in told
    assert "OPENNOTICE_PUBLIC_BIND" in told


def test_a_slash_at_the_end_of_a_url_is_harmless() -> None:
    settings = load_bundle_settings({"OPENNOTICE_PUBLIC_URL": "https://l.court.example/"})
    assert settings.public_url == "https://l.court.example"


def test_a_secret_file_may_end_with_a_newline(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("correct horse battery\n")
    settings = load_bundle_settings({"OPENNOTICE_ADMIN_PASSWORD_FILE": str(secret)})
    assert settings.admin_password == "correct horse battery"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param("", "is empty", id="E04 0 bytes"),
        pytest.param(None, "No such file", id="E04 not there"),
        pytest.param("changeme\n", "placeholder", id="E04 placeholder in a file"),
    ],
)
def test_a_useless_secret_file_is_refused(tmp_path: Path, content: str | None, told: str) -> None:
    secret = tmp_path / "password"
    if content is not None:
        secret.write_text(content)
    [fault] = faults_of(OPENNOTICE_ADMIN_PASSWORD_FILE=str(secret))
    assert told in fault


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("correct horse battery")
    [fault] = faults_of(OPENNOTICE_ADMIN_PASSWORD="correct horse battery", OPENNOTICE_ADMIN_PASSWORD_FILE=str(secret))
    assert "twice" in fault


def test_all_faults_are_told_together_and_nothing_is_made(tmp_path: Path) -> None:
    environ = {"OPENNOTICE_HOME": str(tmp_path / "home"), "OPENNOTICE_LOG_LEVEL": "loud", "OPENNOTICE_COLOR": "blue"}
    done = subprocess.run(
        [sys.executable, "-m", "bundle.command", "run"],
        cwd=ROOT,
        env={**environ, "PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["OPENNOTICE_LOG_LEVEL", "OPENNOTICE_COLOR"]
    assert not (tmp_path / "home").exists()


def test_the_example_shows_every_setting_with_its_default() -> None:
    text = (ROOT / ".env.example").read_text()
    shown = {name.removesuffix("_FILE") for name in re.findall(r"^#?(OPENNOTICE_\w+)=", text, re.MULTILINE)}
    assert shown == {field.metadata["name"] for field in dataclasses.fields(BundleSettings)}
    active: dict[str, str] = dict(re.findall(r"^(OPENNOTICE_\w+)=(.*)$", text, re.MULTILINE))
    assert load_bundle_settings(active) == load_bundle_settings({})


@pytest.mark.parametrize("process", OWN)
def test_each_process_declares_settings_that_the_bundle_can_find(process: str) -> None:
    names = {field.metadata["name"] for field in dataclasses.fields(settings_class(process))}
    assert "OPENNOTICE_IDENTITY_KEY" in names
