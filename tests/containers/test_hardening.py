"""Every container is as small as compose.yaml says: read from the file, from the engine, and tried from inside."""

import json
import re
from typing import Any

import pytest

from tests.fix_containers import ONCE, PROPERTY, STAYING, Containers, docker

pytestmark = pytest.mark.engine
MIB = 1 << 20
# Folders that a service owns besides what was dealt out to it.
OWN_DATA = {"postgres": "/var/lib/postgresql", "nats": "/var/lib/nats", "tracking": "/var/lib/opennotice/tracking"}
NETWORKS = {
    "set-up": set(),
    "migrate": {"data"},
    "first-agency": {"calls"},
    "cli": {"calls", "data", "front"},
    "postgres": {"data"},
    "nats": {"data"},
    "proxy": {"outside", "front"},
    "auth": {"calls", "data", "front"},
    "link": {"calls", "data", "front"},
    "tracking": {"calls", "data", "front"},
    "enrichment": {"calls", "data"},
    "reporting": {"calls", "data", "front"},
    "gateway": {"calls", "front"},
}


@pytest.fixture(scope="module")
def rendered(containers: Containers) -> dict[str, Any]:
    """Gives compose.yaml as compose reads it, with what runs only when asked for."""
    found: dict[str, Any] = json.loads(containers.compose("--profile", "*", "config", "--format", "json").stdout)
    return found


@pytest.fixture(scope="module")
def inspected(containers: Containers) -> dict[str, dict[str, Any]]:
    return containers.inspect()


# --- the file


def test_the_file_names_no_container_that_is_not_looked_at(rendered: dict[str, Any]) -> None:
    assert set(rendered["services"]) == {*STAYING, *ONCE, "cli"}
    assert {name for name, one in rendered["services"].items() if one.get("profiles")} == {"cli"}


def test_every_container_of_the_file_is_hardened(rendered: dict[str, Any]) -> None:
    for name, one in rendered["services"].items():
        assert one["user"] == "10001:10001", name
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode", "group_add"} & set(one), name
        assert 0 < int(one["mem_limit"]) <= 1024 * MIB, name
        assert 0 < one["pids_limit"] <= 200, name
        assert one["ulimits"]["nofile"]["hard"] <= 16384, name
        # Some versions of compose leave a zero out when they print it; what counts is what the engine got, below.
        assert not any((one["ulimits"]["core"] or {}).values()), name
        rotated = {"driver": "json-file", "options": {"max-size": "10m", "max-file": "5"}}
        # What the operator's command shows once is written nowhere.
        assert one["logging"] == ({"driver": "none"} if name == "cli" else rotated), name
        for folder in one["tmpfs"]:
            assert re.fullmatch(r"/tmp:size=\d+m,mode=1777,noexec,nosuid,nodev", folder), name


def test_what_stays_comes_back_and_ends_in_peace(rendered: dict[str, Any]) -> None:
    for name in STAYING:
        one = rendered["services"][name]
        assert one["restart"] == "unless-stopped", name
        assert one["healthcheck"]["test"][0] == "CMD", name
        assert re.fullmatch(r"[1-9]\d+s|1m0s", one["stop_grace_period"]), name
    for name in (*ONCE, "cli"):
        assert rendered["services"][name]["restart"] == "no", name


def test_only_the_proxy_publishes_ports_and_leads_outside(rendered: dict[str, Any]) -> None:
    services = rendered["services"]
    assert {name for name, one in services.items() if one.get("ports")} == {"proxy"}
    assert {port["target"] for port in services["proxy"]["ports"]} == {8443, 8080}
    assert all(one.get("network_mode") in (None, "none") for one in services.values())
    assert {name: set(one.get("networks") or ()) for name, one in services.items()} == NETWORKS
    internal = {name for name, network in rendered["networks"].items() if network.get("internal")}
    assert internal == {"front", "calls", "data"}


def test_nothing_of_the_host_is_mounted_and_each_finds_only_what_is_its_own(rendered: dict[str, Any]) -> None:
    services = rendered["services"]
    for name, one in services.items():
        assert all(mount["type"] == "volume" for mount in one.get("volumes", ())), name
        assert not one.get("secrets"), name
        assert not one.get("configs"), name
    for name in STAYING:
        mounts = {
            mount["target"]: (mount["source"], mount.get("read_only", False)) for mount in services[name]["volumes"]
        }
        expected = {"/run/opennotice": (f"run-{name}", True)}
        if name in OWN_DATA:
            expected[OWN_DATA[name]] = (name, False)
        assert mounts == expected, name
    with_home = {name for name, one in services.items() if any(m["source"] == "home" for m in one["volumes"])}
    assert with_home == {*ONCE, "cli"}


def test_no_secret_stands_in_an_environment(rendered: dict[str, Any], inspected: dict[str, dict[str, Any]]) -> None:
    for name in STAYING:
        told = rendered["services"][name].get("environment", {})
        for key, value in told.items():
            if re.search(r"KEY|PASSWORD|SECRET|TRUST$|TOKEN|DATABASE|NATS", key):
                assert key.endswith("_FILE"), f"{name}: {key}"
                assert value.startswith("/run/opennotice/"), f"{name}: {key}"
        has = dict(entry.split("=", 1) for entry in inspected[name]["Config"]["Env"])
        assert {key: value for key, value in has.items() if key in told} == told
        assert set(has) - set(told) <= {"PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}, name


# --- the engine


def test_every_container_that_runs_is_hardened(inspected: dict[str, dict[str, Any]], rendered: dict[str, Any]) -> None:
    assert set(inspected) == {*STAYING, *ONCE}
    for name, one in inspected.items():
        host = one["HostConfig"]
        assert one["Config"]["User"] == "10001:10001", name
        assert host["ReadonlyRootfs"], name
        assert not host["Privileged"], name
        assert [drop.removeprefix("CAP_") for drop in host["CapDrop"]] == ["ALL"], name
        assert not host["CapAdd"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert not any("unconfined" in option for option in host["SecurityOpt"]), name
        assert host["Memory"] == int(rendered["services"][name]["mem_limit"]), name
        assert 0 < host["PidsLimit"] <= 200, name
        limits = {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]}
        assert limits["nofile"] <= 16384, name
        assert limits["core"] == 0, name
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5"}}, name
        assert not host["Devices"], name
        assert host["PidMode"] == "", name
        assert host["IpcMode"] in ("", "private", "shareable"), name
        for mount in one["Mounts"]:
            assert mount["Type"] == "volume", name
            assert mount["Destination"] not in ("/var/run/docker.sock", "/run/docker.sock"), name
            assert mount["RW"] is (mount["Destination"] != "/run/opennotice"), name


def test_only_the_proxys_ports_are_open(inspected: dict[str, dict[str, Any]]) -> None:
    for name, one in inspected.items():
        published = {port for port, bound in (one["NetworkSettings"]["Ports"] or {}).items() if bound}
        assert published == ({"8443/tcp", "8080/tcp"} if name == "proxy" else set()), name


def test_internal_networks_have_no_way_out(containers: Containers, inspected: dict[str, dict[str, Any]]) -> None:
    for name, one in inspected.items():
        used = {key.removeprefix(f"{containers.project}_") for key in one["NetworkSettings"]["Networks"]} - {"none"}
        assert used == NETWORKS[name], name
    found = json.loads(
        docker("network", "inspect", *(f"{containers.project}_{name}" for name in ("front", "calls", "data"))).stdout
    )
    assert all(network["Internal"] for network in found)
    assert not any(network["EnableIPv6"] for network in found)


def test_the_images_do_not_run_as_root_either(inspected: dict[str, dict[str, Any]]) -> None:
    for image in json.loads(docker("image", "inspect", *{one["Image"] for one in inspected.values()}).stdout):
        assert image["Config"]["User"] == "10001:10001"
        assert not image["Config"].get("Volumes")


# --- from inside

LOOK = """
grep -hE '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp|Uid|Gid):' /proc/1/status | tr -s '\\t ' ' '
for folder in / /etc /usr/local/bin /var/lib /opt /run /run/opennotice /home; do
    ( : >"$folder/x" ) 2>/dev/null && echo "written: $folder"
done
cp /bin/true /tmp/x 2>/dev/null && /tmp/x 2>/dev/null && echo "ran from /tmp"
rm -f /tmp/x
ls -ld /run/docker.sock /var/run/docker.sock 2>/dev/null
stat -c 'file %a %u' /run/opennotice/*
true
"""


@pytest.mark.parametrize("name", STAYING)
def test_a_process_has_no_rights_and_cannot_write_to_its_root(containers: Containers, name: str) -> None:
    said = containers.inside(name, "bash", "-c", LOOK).stdout
    status = dict(line.split(": ", 1) for line in said.splitlines() if re.match(r"[A-Z]\w+: ", line))
    for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert int(status[f"Cap{kind}"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"10001"}
    assert "written" not in said
    assert "ran from" not in said
    assert "docker.sock" not in said
    assert {line for line in said.splitlines() if line.startswith("file ")} == {"file 600 10001"}


REACH = """
import socket, sys
for address in sys.argv[1:]:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 1).close()
        print(address)
    except OSError:
        pass
"""


def reached(containers: Containers, name: str, *addresses: str) -> set[str]:
    """Returns which of some addresses a container can connect to."""
    return set(containers.inside(name, "python", "-c", REACH, *addresses).stdout.split())


def test_nobody_reaches_what_is_none_of_their_business(
    containers: Containers, inspected: dict[str, dict[str, Any]]
) -> None:
    def address(name: str, network: str) -> str:
        found: str = inspected[name]["NetworkSettings"]["Networks"][f"{containers.project}_{network}"]["IPAddress"]
        return found

    database, queue = f"{address('postgres', 'data')}:5432", f"{address('nats', 'data')}:4222"
    outside = f"{address('proxy', 'outside')}:8443"
    # A public resolver, by its address: there is no name that could not be looked up for another reason.
    internet = "8.8.8.8:53"
    assert reached(containers, "link", database, queue, internet, outside) == {database, queue}
    assert reached(containers, "gateway", database, queue, internet, outside) == set()
    assert reached(containers, "enrichment", f"{address('proxy', 'front')}:8443", outside, internet) == set()
    assert reached(containers, "gateway", "auth:50051", "link:50052", "tracking:8080") == {
        "auth:50051",
        "link:50052",
        "tracking:8080",
    }


def test_the_database_and_the_queue_ask_for_a_password(containers: Containers) -> None:
    said = containers.inside("postgres", "psql", "--no-password", "-h", "127.0.0.1", "-U", "postgres", check=False)
    assert said.returncode != 0
    assert "password" in said.stderr
    ask = "exec 3<>/dev/tcp/127.0.0.1/4222; printf 'CONNECT {}\\r\\nPING\\r\\n' >&3; timeout 3 cat <&3"
    assert "Authorization Violation" in containers.inside("nats", "bash", "-c", ask, check=False).stdout


def test_there_is_no_password_that_everybody_knows(containers: Containers) -> None:
    # Not more of them: after some failures the account is locked.
    for password in ("admin", "changeme"):
        with containers.api("") as nobody:
            answer = nobody.post(
                f"{containers.staff_url}/sign-in",
                data={"email": containers.settings["OPENNOTICE_ADMIN_EMAIL"], "password": password},
                headers={"origin": containers.staff_url},
            )
        assert answer.status_code in (400, 401, 403, 422)
        assert "set-cookie" not in answer.headers or "session" not in answer.headers["set-cookie"]


# --- together


def test_all_of_them_idle_take_less_than_900_mib(containers: Containers, record_property: Any) -> None:
    total = sum(containers.memory.values())
    each = ", ".join(f"{name} {used:.0f}" for name, used in containers.memory.items())
    record_property(PROPERTY, f"{total:.0f} MiB ({each})")
    assert total < 900
