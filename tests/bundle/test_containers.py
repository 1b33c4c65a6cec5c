"""What set-up does with an operator's settings, and what it deals out: to every container its own files, no others."""

import dataclasses
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundle.containers import (
    STAYING,
    ContainerSettings,
    file_name,
    forget_secret,
    keep_secret,
    load_container_settings,
    set_up,
)
from bundle.home import Home, HomeInUse
from bundle.processes import OWN, settings_class
from bundle.program import HostFault
from services.chassis.settings import SettingsFault, load

NAMES = {
    "OPENNOTICE_PUBLIC_URL": "https://links.court.example",
    "OPENNOTICE_STAFF_URL": "https://staff.court.example",
    "OPENNOTICE_API_URL": "https://api.court.example",
}


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def deal(tmp_path: Path) -> Path:
    """Gives what the engine mounts for set-up: one empty volume a container."""
    for name in STAYING:
        (tmp_path / "deal" / name).mkdir(parents=True)
    return tmp_path / "deal"


def faults_of(**environ: str) -> list[str]:
    try:
        load_container_settings({**NAMES, **environ})
    except SettingsFault as fault:
        return fault.faults
    return []


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_nothing_has_to_be_set() -> None:
    assert load_container_settings({}) == ContainerSettings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            pytest.param(field.metadata["name"], value, id=f"E01 {what} {field.metadata['name'][11:]}")
            for field in dataclasses.fields(ContainerSettings)
            for value, what in (("", "empty"), ("   ", "spaces"))
        ],
        *[
            pytest.param(name, value, id=f"E02 {name[11:]} {value[:9]}")
            for name in ("OPENNOTICE_HTTPS_PORT", "OPENNOTICE_HTTP_PORT")
            for value in ("0", "-1", "65536", "1e3", "1_000", "true", "four-four-three", "443 ports")
        ],
        pytest.param("OPENNOTICE_LOG_LEVEL", "verbose", id="E02 unknown word"),
        pytest.param("OPENNOTICE_ADMIN_EMAIL", "dana.first-court", id="E02 no address"),
        pytest.param("OPENNOTICE_AGENCY_NAME", "First\tCourt", id="E02 control character"),
        pytest.param("OPENNOTICE_RESTORE_POINT", "perhaps", id="E02 neither yes nor no"),
        pytest.param("OPENNOTICE_NATS_MONITOR_URL", "nats.court.example", id="E02 no URL"),
        pytest.param("OPENNOTICE_FRONT_SUBNET", "10.99.88.0", id="E02 no network"),
        pytest.param("OPENNOTICE_FRONT_SUBNET", "10.99.88.7/24", id="E07 host bits"),
        pytest.param("OPENNOTICE_FRONT_SUBNET", "172.30.251.0/30", id="E02 too small"),
        pytest.param("OPENNOTICE_FRONT_SUBNET", "fd00:1234::/64", id="E02 IPv6"),
        pytest.param("OPENNOTICE_FRONT_SUBNET", "10.1.0.0/16,10.2.0.0/16", id="E02 two networks"),
        pytest.param("OPENNOTICE_PUBLIC_ULR", "https://l.court.example", id="E03 misspelled"),
        pytest.param("OPENNOTICE_ADMIN_PASSWORD", "a long enough password", id="E03 of another program"),
        *[
            pytest.param(name, value, id=f"E06 {name[11:]} {what}")
            for name in NAMES
            for value, what in (
                ("http://l.court.example", "http"),
                ("https://l.court.example/links", "path"),
                ("https://dana:word@l.court.example", "user"),
                ("https://l.court.example?x=1", "query"),
                ("https://127.0.0.1:8443", "loopback"),
                ("https://localhost", "localhost"),
                ("l.court.example", "no scheme"),
                ("https://", "no name"),
                ("https://l.court.example:99999", "port"),
            )
        ],
        *[
            pytest.param("OPENNOTICE_TRUSTED_PROXIES", value, id=f"E07 {value}")
            for value in ("*", "0.0.0.0/0", "::/0", "10.1.2.3/8", "10.0.0.0/8,,", "load-balancer")
        ],
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(name: str, value: str) -> None:
    [told] = faults_of(**{name: value})
    assert told.startswith(name)
    assert "\n" not in told
    # Short ones can stand in the sentence by chance.
    assert len(value.strip()) < 9 or value not in told


def test_names_have_to_differ() -> None:
    [told] = faults_of(OPENNOTICE_STAFF_URL="https://LINKS.court.example:8443")
    assert all(name in told for name in NAMES)


def test_ports_have_to_differ() -> None:
    [told] = faults_of(OPENNOTICE_HTTPS_PORT="8443", OPENNOTICE_HTTP_PORT="8443")
    assert "OPENNOTICE_HTTPS_PORT" in told


def test_all_faults_are_told_together() -> None:
    told = faults_of(OPENNOTICE_HTTPS_PORT="x", OPENNOTICE_COLOR="blue", OPENNOTICE_PUBLIC_URL="http://x.example")
    assert {line.split()[0] for line in told} == {
        "OPENNOTICE_HTTPS_PORT",
        "OPENNOTICE_COLOR",
        "OPENNOTICE_PUBLIC_URL",
    }


def test_wrong_settings_make_nothing(home: Home, deal: Path) -> None:
    with pytest.raises(SettingsFault):
        set_up(home, print, deal, {**NAMES, "OPENNOTICE_HTTP_PORT": "x"})
    assert not home.root.exists()
    assert not contents(deal)


@pytest.mark.parametrize("process", OWN)
def test_every_process_finds_all_its_secrets_and_no_other_file(home: Home, deal: Path, process: str) -> None:
    set_up(home, print, deal, NAMES)
    secrets = [field for field in dataclasses.fields(settings_class(process)) if field.metadata["secret"]]
    assert {path.name for path in (deal / process).iterdir()} == {file_name(f.metadata["name"]) for f in secrets}
    files = {f"{f.metadata['name']}_FILE": str(deal / process / file_name(f.metadata["name"])) for f in secrets}
    rest = {
        "OPENNOTICE_PROBE_BIND": "0.0.0.0:9000",
        **({"OPENNOTICE_DATA_DIR": "/data"} if process == "tracking" else {}),
    }
    load(settings_class(process), {**files, **rest})


def test_no_process_holds_what_signs_or_opens_the_database_for_another(home: Home, deal: Path) -> None:
    set_up(home, print, deal, NAMES)
    held = {name: contents(deal / name) for name in STAYING}
    for name in OWN:
        others = {value for other in OWN if other != name for value in (held[other]["identity_key"],)}
        assert not others & set(held[name].values())
        urls = [value for file, value in held[name].items() if file.endswith("database_url")]
        assert all(f"://{name}_" in url for url in urls)
    passwords = [home.secret(f"database-{name}.password").read_text() for name in home.role_passwords()]
    assert len(set(passwords)) == len(passwords)
    admin = home.secret("postgres.password").read_text()
    assert [name for name in STAYING if any(admin in value for value in held[name].values())] == ["postgres"]
    assert {name for name in STAYING if "certificate.pem" in held[name]} == {"proxy"}
    assert {name for name in STAYING if "link_token_key" in held[name]} == {"link"}
    assert {name for name in STAYING if "cookie_key" in held[name]} == {"gateway"}


def test_only_the_owner_reads_what_is_made(home: Home, deal: Path) -> None:
    set_up(home, print, deal, NAMES)
    for folder in (home.secrets, deal):
        for path in folder.rglob("*"):
            if path.is_file():
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_second_start_rewrites_nothing(home: Home, deal: Path) -> None:
    set_up(home, print, deal, NAMES)
    before = {path: path.stat().st_ino for path in deal.rglob("*")}
    kept = contents(home.secrets)
    set_up(home, print, deal, NAMES)
    assert {path: path.stat().st_ino for path in deal.rglob("*")} == before
    assert contents(home.secrets) == kept


def test_lost_volumes_are_filled_again_and_old_files_go(home: Home, deal: Path) -> None:
    set_up(home, print, deal, NAMES)
    before = contents(deal)
    shutil.rmtree(deal / "link")
    (deal / "link").mkdir()
    (deal / "auth" / "key_of_an_older_version").write_text("secret")
    (deal / "proxy" / "trusted.lst").write_text("0.0.0.0/0")
    set_up(home, print, deal, NAMES)
    assert contents(deal) == before


def test_changed_settings_reach_the_proxy(home: Home, deal: Path) -> None:
    set_up(home, print, deal, NAMES)
    old = (deal / "proxy" / "certificate.pem").read_text()
    set_up(home, print, deal, {"OPENNOTICE_TRUSTED_PROXIES": "10.9.0.0/16,fd00::/8"})
    assert (deal / "proxy" / "trusted.lst").read_text().split() == ["10.9.0.0/16", "fd00::/8"]
    assert (deal / "proxy" / "names.map").read_text().splitlines() == [
        "links.opennotice.localhost tracking",
        "staff.opennotice.localhost gateway",
        "api.opennotice.localhost api",
    ]
    assert (deal / "proxy" / "certificate.pem").read_text() != old


def test_the_command_inside_finds_how_to_reach_everything(home: Home, deal: Path) -> None:
    from bundle.settings import load_bundle_settings

    set_up(home, print, deal, {**NAMES, "OPENNOTICE_TRUSTED_PROXIES": "10.9.0.0/16"})
    found = load_bundle_settings({**json.loads(home.reach.read_text()), "OPENNOTICE_HOME": str(home.root)})
    assert found.staff_url == NAMES["OPENNOTICE_STAFF_URL"]
    assert str(found.auth_grpc_bind) == "auth:50051"


def test_data_of_a_newer_version_are_refused_before_anything_is_touched(home: Home, deal: Path) -> None:
    home.make_folders()
    home.schema.write_text(json.dumps({"version": "9.9.9", "migrations": ["link/0001_x.sql", "link/9999_newer.sql"]}))
    before = contents(home.root)
    with pytest.raises(HostFault) as caught:
        set_up(home, print, deal, NAMES)
    assert "9.9.9" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {name: text for name, text in contents(home.root).items() if name != "lock"} == before
    assert not contents(deal)


def test_two_at_once_do_not_make_keys_of_two_kinds(home: Home, deal: Path) -> None:
    home.make_folders()
    held = home.lock()
    try:
        with pytest.raises(HomeInUse, match="in use"):
            set_up(home, print, deal, NAMES)
    finally:
        os.close(held)
    assert not contents(deal)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; the containers' own test does it without")
def test_a_volume_that_cannot_be_written_is_one_line(home: Home, deal: Path) -> None:
    (deal / "link").chmod(0o500)
    with pytest.raises(HostFault, match="cannot write to the volume of link"):
        set_up(home, print, deal, NAMES)


def test_a_missing_volume_is_one_line(home: Home, deal: Path) -> None:
    (deal / "link").rmdir()
    with pytest.raises(HostFault, match="cannot write to the volume of link"):
        set_up(home, print, deal, NAMES)


def test_a_damaged_certificate_is_one_line(home: Home, deal: Path) -> None:
    set_up(home, print, deal, NAMES)
    home.secret("certificate.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(HostFault, match="certificate: "):
        set_up(home, print, deal, NAMES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("postgres-url", ""),
        ("postgres-url", "  \n"),
        ("postgres-url", "mysql://u:longsecret@db.court.example/x"),
        ("postgres-url", "db.court.example"),
        ("nats-url", "http://u:longsecret@nats.court.example"),
        ("ca-certificate", "longsecret"),
    ],
)
def test_a_secret_that_is_not_what_its_name_says_is_refused(home: Home, name: str, value: str) -> None:
    with pytest.raises(HostFault) as caught:
        keep_secret(home, name, value)
    assert str(caught.value).startswith(name)
    assert "longsecret" not in str(caught.value)
    assert not home.secret(name).exists()


def test_a_secret_is_kept_without_its_newline_and_forgotten(home: Home) -> None:
    url = "nats://opennotice:longsecret@nats.court.example:4222"
    keep_secret(home, "nats-url", url + "\n")
    assert home.secret("nats-url").read_text() == url
    assert stat.S_IMODE(home.secret("nats-url").stat().st_mode) == 0o600
    forget_secret(home, "nats-url")
    assert not home.secret("nats-url").exists()
    forget_secret(home, "nats-url")
