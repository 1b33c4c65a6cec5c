"""The `opennotice` command: what an operator types."""

import asyncio
import dataclasses
import errno
import json
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from bundle.auth_calls import AuthCalls, CallRefused
from bundle.home import Home, read_json
from bundle.processes import OWN
from bundle.program import HostFault
from bundle.settings import SERVICES, BundleSettings, email, load_bundle_settings
from bundle.terminal import Terminal
from services.chassis.settings import SettingsFault

F = TypeVar("F", bound=Callable[..., Any])
ROLES = ("admin", "manager", "supervisor", "clerk", "auditor")
# What an operator may hand over to an install in containers.
OPERATORS_SECRETS = ("postgres-url", "nats-url", "ca-certificate")
PROCESSES = ("auth", "link", "tracking", "enrichment", "reporting", "gateway", "nats", "postgres", "proxy")

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for a script.")
_agency = click.option("--agency", metavar="agencies/…", help="Which agency; the first one when left out.")


def main() -> None:
    """Runs the command; what an operator can put right is told in lines, not in tracebacks."""
    try:
        opennotice.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as fault:
        fault.show()
        sys.exit(fault.exit_code)
    except SettingsFault as fault:
        _complain("settings", fault.faults)
        sys.exit(2)
    except (HostFault, CallRefused) as fault:
        _complain("opennotice", str(fault).splitlines())
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        _complain("opennotice", [f"cannot write to {error.filename or 'the disk'}: {error.strerror}"])
        sys.exit(1)


def _complain(source: str, lines: list[str]) -> None:
    for line in lines:
        print(f"{source}: {line}", file=sys.stderr)


def _calls(command: F) -> F:
    """Gives a command what it needs to talk to auth of a running bundle."""

    @wraps(command)
    def with_calls(*arguments: Any, **options: Any) -> Any:
        return command(AuthCalls(*running()), *arguments, **options)

    return with_calls  # type: ignore[return-value]


def running() -> tuple[Home, BundleSettings]:
    """Returns the home and how to reach what runs on it; refuses when nothing does."""
    home = Home(load_bundle_settings().home)
    if not home.probes.exists() and not home.is_running():
        raise HostFault(f"nothing runs with the home {home.root}; start it with `make run`, or set OPENNOTICE_HOME")
    # As it was started, whatever this terminal's own settings say.
    return home, load_bundle_settings({**read_json(home.reach), "OPENNOTICE_HOME": str(home.root)})


def _chosen(auth: AuthCalls, agency: str | None) -> str:
    if agency:
        return agency
    agencies = auth.agencies()
    if not agencies:
        raise HostFault("there is no agency yet; make one with `opennotice agency create`")
    return agencies[0].name


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def opennotice() -> None:
    """Tells a court agency whether, when and how a person opened the notice they were sent."""


@opennotice.command()
@click.option("--verbose", is_flag=True, help="Show every line of every process, not only what needs attention.")
def run(verbose: bool) -> None:
    """Run everything on this machine until Ctrl-C."""
    # Here, so that `opennotice status` does not load what it takes to run a product: it is asked often.
    from bundle.run import run as run_bundle

    settings = load_bundle_settings()
    asyncio.run(run_bundle(settings, Terminal(every_line=verbose)))


@opennotice.command()
def demo() -> None:
    """Load an agency with sample portals, clients, messages, links and opens."""
    from bundle.demo import load_demo

    load_demo(*running(), print)


@opennotice.command()
@_json
def status(as_json: bool) -> None:
    """Show what runs."""
    settings = load_bundle_settings()
    home = Home(settings.home)
    if home.probes.exists():
        from bundle import containers as steps

        running, found = True, steps.status(home)
    else:
        running = home.is_running()
        found = {entry["name"]: entry for entry in read_json(home.status).get("processes", [])} if running else {}
    processes = [found[name] for name in PROCESSES if name in found]
    if as_json:
        print(json.dumps({"processes": processes}, indent=1))
    elif running:
        for entry in processes:
            told = f"pid {entry['pid'] or '-':<8} restarts {'-' if entry['restarts'] is None else entry['restarts']:<4}"
            print(f"{entry['name']:<11} {entry['state']:<9} {told} {entry['address']}")
    if not running:
        raise HostFault(f"nothing runs with the home {home.root}")
    if any(entry["state"] != "ready" for entry in processes) or len(processes) < len(OWN):
        sys.exit(1)


@opennotice.group()
def agency() -> None:
    """Agencies of this install."""


@agency.command("create")
@click.option("--name", required=True, help="Name of the agency as staff see it.")
@click.option("--admin-email", required=True, help="E-mail address of its first administrator.")
@_json
@_calls
def agency_create(auth: AuthCalls, name: str, admin_email: str, as_json: bool) -> None:
    """Make an agency with its first administrator."""
    made, password = auth.create_agency(name, _checked_email(admin_email))
    if as_json:
        print(json.dumps({"name": made, "admin_password": password}))
        return
    print(f"made {made}\nadministrator {admin_email}\npassword      {password}   (shown once)")


@agency.command("list")
@_json
@_calls
def agency_list(auth: AuthCalls, as_json: bool) -> None:
    """List the agencies, the oldest first."""
    agencies = auth.agencies()
    if as_json:
        print(json.dumps({"agencies": [dataclasses.asdict(one) for one in agencies]}))
        return
    for one in agencies:
        print(f"{one.name}  {one.display_name}  ({one.time_zone})")


@agency.command("set")
@click.option("--name", help="Name of the agency as staff see it.")
@click.option("--time-zone", help="Zone that its times are shown in, for example America/New_York.")
@click.option("--allowed-hosts", help="Hosts that links may lead to, with commas between; empty: any public one.")
@click.option("--staff-networks", help="Its own networks as CIDRs with commas between; opens from there are staff.")
@_agency
@_json
@_calls
def agency_set(
    auth: AuthCalls,
    name: str | None,
    time_zone: str | None,
    allowed_hosts: str | None,
    staff_networks: str | None,
    agency: str | None,
    as_json: bool,
) -> None:
    """Change settings of an agency; what is not named stays as it is."""
    changes: dict[str, Any] = {}
    for field, value in (("display_name", name), ("time_zone", time_zone)):
        if value is not None:
            changes[field] = value
    for field, value in (("allowed_hosts", allowed_hosts), ("staff_networks", staff_networks)):
        if value is not None:
            changes[field] = [part.strip() for part in value.split(",") if part.strip()]
    if not changes:
        raise click.UsageError("name at least one setting to change")
    now = auth.set_agency(_chosen(auth, agency), **changes)
    if as_json:
        print(json.dumps(dataclasses.asdict(now)))
        return
    print(f"{now.name}  {now.display_name}\ntime zone       {now.time_zone}")
    print(f"allowed hosts   {', '.join(now.allowed_hosts) or 'any public one'}")
    print(f"staff networks  {', '.join(now.staff_networks) or 'none'}")


@opennotice.group("api-key")
def api_key() -> None:
    """Keys of other court systems."""


@api_key.command("create")
@click.option("--name", required=True, help="What the key is for.")
@click.option("--scopes", required=True, help="Permissions with commas between, for example opens:read; or all.")
@_agency
@_json
@_calls
def api_key_create(auth: AuthCalls, name: str, scopes: str, agency: str | None, as_json: bool) -> None:
    """Make a key; it is shown once."""
    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    made, secret = auth.create_api_key(_chosen(auth, agency), name, wanted)
    if as_json:
        print(json.dumps({"key": secret}))
        return
    print(f"made {made}\nkey  {secret}   (shown once)")


@api_key.command("list")
@_agency
@_json
@_calls
def api_key_list(auth: AuthCalls, agency: str | None, as_json: bool) -> None:
    """List the keys, the newest first, without their secrets."""
    keys = auth.api_keys(_chosen(auth, agency))
    if as_json:
        rows = [
            {"name": key.name, "display_name": key.display_name, "scopes": list(key.scopes), "revoked": key.revoked}
            for key in keys
        ]
        print(json.dumps({"api_keys": rows}))
        return
    for key in keys:
        print(f"{key.name}  {'revoked' if key.revoked else 'active':<8} {key.display_name}  ({' '.join(key.scopes)})")


@api_key.command("revoke")
@click.argument("name", metavar="apiKeys/…")
@_agency
@_calls
def api_key_revoke(auth: AuthCalls, name: str, agency: str | None) -> None:
    """End a key; it is refused everywhere within 5 seconds."""
    auth.revoke_api_key(_chosen(auth, agency), name)
    print(f"revoked {name}")


@opennotice.group()
def user() -> None:
    """People who sign in."""


@user.command("create")
@click.option("--email", "address", required=True, help="E-mail address; unique in the install.")
@click.option("--name", required=True, help="Name as others see it.")
@click.option("--role", type=click.Choice(ROLES), required=True)
@_agency
@_json
@_calls
def user_create(auth: AuthCalls, address: str, name: str, role: str, agency: str | None, as_json: bool) -> None:
    """Make a user; their first password is shown once."""
    made, password = auth.create_user(_chosen(auth, agency), _checked_email(address), name, role)
    if as_json:
        print(json.dumps({"name": made.name, "password": password}))
        return
    print(f"made {made.name}\npassword {password}   (shown once)")


@user.command("list")
@_agency
@_json
@_calls
def user_list(auth: AuthCalls, agency: str | None, as_json: bool) -> None:
    """List the users of an agency."""
    users = auth.users(_chosen(auth, agency))
    if as_json:
        print(json.dumps({"users": [vars(one) for one in users]}))
        return
    for one in users:
        print(f"{one.email:<36} {one.role:<11} {one.state:<9} {one.display_name}")


@user.command("unlock")
@click.argument("email")
@_calls
def user_unlock(auth: AuthCalls, email: str) -> None:
    """Unlock an account that failed sign-ins have locked."""
    agency, found = _find_user(auth, email)
    auth.unlock(agency, found)
    print(f"unlocked {email}")


@user.command("reset-password")
@click.argument("email")
@_json
@_calls
def user_reset_password(auth: AuthCalls, email: str, as_json: bool) -> None:
    """Give a user a new password, shown once; it ends their sessions."""
    agency, found = _find_user(auth, email)
    password = auth.reset_password(agency, found)
    print(json.dumps({"password": password}) if as_json else f"password {password}   (shown once)")


@opennotice.group("dead-letters")
def dead_letters() -> None:
    """Events that a process could not take in and has set aside."""


_service = click.option("--service", type=click.Choice(SERVICES), help="Only those of one service.")


@dead_letters.command("list")
@_service
@_json
def dead_letters_list(service: str | None, as_json: bool) -> None:
    """List them, the oldest first, with what went wrong."""
    from bundle.operations_calls import OperationsCalls

    found = list(OperationsCalls(*running()).dead_letters(service))
    if as_json:
        print(json.dumps({"dead_letters": [dataclasses.asdict(one) for one in found]}))
        return
    for one in found:
        kind = one.message_type.rpartition(".")[2] or "unknown"
        print(f"{one.service:<11} {one.name:<18} {one.create_time}  {kind}, {one.bytes} bytes: {one.error}")
    if not found:
        print("nothing was set aside")


@dead_letters.command("replay")
@click.argument("names", nargs=-1, metavar="[deadLetters/…]...")
@click.option("--all", "everything", is_flag=True, help="Every one, of one service or of all.")
@_service
@_json
def dead_letters_replay(names: tuple[str, ...], everything: bool, service: str | None, as_json: bool) -> None:
    """Have them tried again; those that are taken in are gone from the list, and nothing is doubled."""
    from bundle.operations_calls import OperationsCalls

    if bool(names) == everything:
        raise click.UsageError("name some dead letters, or say --all")
    if names and not service:
        raise click.UsageError("say with --service whose they are")
    outcomes = list(OperationsCalls(*running()).replay(service, list(names)))
    left = [one for one in outcomes if one.error]
    if as_json:
        print(json.dumps({"outcomes": [dataclasses.asdict(one) for one in outcomes]}))
    else:
        for one in left:
            print(f"{one.service:<11} {one.name:<18} {one.error}")
        print(f"{len(outcomes) - len(left)} taken in, {len(left)} still set aside")
    if left:
        sys.exit(1)


@opennotice.group(hidden=True)
def containers() -> None:
    """What the one-shot containers of compose.yaml run."""


@containers.command("set-up")
def containers_set_up() -> None:
    """Make keys and files, and deal them out to the volumes of the containers."""
    from bundle import containers as steps

    steps.set_up(Home(steps.HOME), print)


@containers.command("migrate")
def containers_migrate() -> None:
    """Check PostgreSQL and NATS and bring the database up to date."""
    from bundle import containers as steps

    steps.migrate_in_place(Home(steps.HOME), print)


@containers.command("check-data")
def containers_check_data() -> None:
    """Refuse data that a newer program has written; changes nothing."""
    from bundle import containers as steps
    from bundle import upgrade

    upgrade.refuse_newer_data(Home(steps.HOME))


@containers.command("way-back")
@click.argument("installed")
def containers_way_back(installed: str) -> None:
    """Say which version `opennotice back` leads to, and on a second line what was written since the upgrade."""
    from bundle import containers as steps
    from bundle import restore_point

    way = steps.way_back(Home(steps.HOME), installed)
    print(way.to.version)
    print(restore_point.told(way.written))


@containers.command("go-back")
@click.argument("installed")
@click.option("--lose-new", is_flag=True, help="Also when something was written since the upgrade.")
def containers_go_back(installed: str, lose_new: bool) -> None:
    """Make the database what the version before left."""
    from bundle import containers as steps

    steps.go_back(Home(steps.HOME), installed, print, lose_new=lose_new)


@containers.command("first-agency")
def containers_first_agency() -> None:
    """Make the first agency and its administrator, unless there is one."""
    from bundle import containers as steps

    steps.first_agency(Home(steps.HOME))


@containers.command("welcome")
def containers_welcome() -> None:
    """Show how to sign in; for a terminal, the password is among it."""
    from bundle import containers as steps

    print(steps.welcome(Home(steps.HOME)))


@containers.command("certificate")
def containers_certificate() -> None:
    """Take a certificate with its chain and key from standard input, and deal it out to the proxy."""
    from bundle import containers as steps

    steps.take_certificate(Home(steps.HOME), sys.stdin.read(), print)


@containers.command("secret")
@click.argument("name", type=click.Choice(OPERATORS_SECRETS))
@click.option("--forget", is_flag=True, help="Go back to the server of the compose file.")
def containers_secret(name: str, forget: bool) -> None:
    """Keep a secret that comes on standard input."""
    from bundle import containers as steps

    home = Home(steps.HOME)
    if forget:
        steps.forget_secret(home, name)
        return
    steps.keep_secret(home, name, sys.stdin.read())


def _find_user(auth: AuthCalls, address: str) -> tuple[str, str]:
    """Returns the agency and the name of a user; an e-mail address is unique in the install."""
    for one in auth.agencies():
        for found in auth.users(one.name):
            if found.email.lower() == address.lower():
                return one.name, found.name
    raise HostFault(f"there is no user with the e-mail address {address}")


def _checked_email(address: str) -> str:
    try:
        return email(address)
    except ValueError as error:
        raise HostFault(f"{address!r} {error}") from None


if __name__ == "__main__":
    main()
