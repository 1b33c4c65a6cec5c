"""Alarms ring when they should and are silent when they should: Prometheus itself works them out, with `promtool`.

Series are in promtool's notation: a value each minute, `0x9` is ten zeros, `1+2x3` is 1, 3, 5, 7.
"""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.contract.test_operations_guide import FOLDER, PANELS, RULES

PROMTOOL = shutil.which("promtool")
no_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, which is in Debian's package prometheus")


@dataclass
class Case:
    """What happens minute by minute, and what an alarm makes of it."""

    alarm: str
    # By figure; a name without labels is of `process`.
    series: dict[str, str]
    rings: int
    summary: str
    silent: tuple[int, ...] = ()
    process: str = "tracking"
    # Of the alarm that rings, besides its severity; of `process` when nothing is said.
    labels: dict[str, str] | None = None
    more: dict[str, str] = field(default_factory=dict)

    def as_test(self) -> dict[str, object]:
        """Returns what promtool takes."""
        ours = {"job": "opennotice", "instance": self.process}
        rule = RULES[self.alarm]
        told = {
            "exp_labels": {**rule["labels"], **(ours | self.more if self.labels is None else self.labels)},
            "exp_annotations": {"summary": self.summary, "guide": rule["annotations"]["guide"]},
        }
        moments: dict[int, list[object]] = {minute: [] for minute in self.silent} | {self.rings: [told]}
        return {
            "interval": "1m",
            "input_series": [
                {"series": _labelled(name, ours), "values": values} for name, values in self.series.items()
            ],
            "alert_rule_test": [
                {"eval_time": f"{minute}m", "alertname": self.alarm, "exp_alerts": expected}
                for minute, expected in sorted(moments.items())
            ],
        }


def _labelled(name: str, ours: dict[str, str]) -> str:
    name, _, own = name.partition("{")
    # What a series says of itself goes first: a label twice is an error.
    said = own.removesuffix("}").split(",") if own else []
    there = {label.partition("=")[0] for label in said}
    return name + "{" + ",".join(said + [f'{key}="{value}"' for key, value in ours.items() if key not in there]) + "}"


# From the tenth to the nineteenth minute.
_TEN_MINUTES = "0x9 1x9 0x9"
_PROBE = '{job="opennotice-certificate",instance="https://links.court.example"}'
_OF_PROBE = {"job": "opennotice-certificate", "instance": "https://links.court.example"}

CASES = [
    Case(
        "OpensNotRecorded", {"opennotice_unrecorded_opens_total": "0x9 1x30"}, 11,
        "Opens were served without a record; their last copy is in the log of tracking", silent=(9, 30),
    ),
    Case(
        "PostgresTakesNoOpens", {"opennotice_postgres_away": _TEN_MINUTES}, 12,
        "PostgreSQL does not take opens; they go to the spool of tracking", silent=(10, 20),
    ),
    Case(
        "SpoolFails", {"opennotice_spool_failing": _TEN_MINUTES}, 12,
        "The disk of tracking would not take an open now", silent=(9, 20),
    ),
    Case(
        "SpoolPutAside", {"opennotice_spool_put_aside_files": _TEN_MINUTES}, 10,
        "A damaged spool was put aside; opens may be in it that are nowhere else", silent=(9, 20),
    ),
    # It was empty in between, and PostgreSQL away in between: both are another matter.
    Case(
        "SpoolDoesNotEmpty",
        {"opennotice_spool_opens": "5x4 0 7x24 0x9", "opennotice_postgres_away": "0x19 1x2 0x30"}, 18,
        "7 opens stay in the spool although PostgreSQL answers", silent=(14, 21, 32),
    ),
    Case(
        "DiskNearlyFull", {"opennotice_tracking_disk_free_bytes": "9e9x9 4e9x19 9e9x9"}, 16,
        "Only 3.725GiB are free on the disk of tracking", silent=(14, 31),
    ),
    Case(
        "DiskFull", {"opennotice_tracking_disk_free_bytes": "4e9x9 5e8x9 4e9x9"}, 12,
        "Only 476.8MiB are left on the disk of tracking", silent=(10, 21),
    ),
    # Once is PostgreSQL started again; again and again is one that is too slow.
    Case(
        "OpensTakeTheDetour", {"opennotice_spooled_opens_total": "0x9 5x29 5+3x30"}, 55,
        "Opens go to the spool again and again: PostgreSQL is too slow for them", silent=(20, 45), labels={},
    ),
    Case(
        "CommitsSlow",
        {
            'opennotice_commit_seconds_bucket{le="0.1"}': "0+100x9 1000+90x40",
            'opennotice_commit_seconds_bucket{le="0.5"}': "0+100x50",
            'opennotice_commit_seconds_bucket{le="+Inf"}': "0+100x50",
        },
        40, "One commit of opens in a hundred takes longer than 460ms", silent=(9, 18), labels={},
    ),
    Case(
        "UnknownLinksNotAnswered",
        {
            'opennotice_misses_total{answer="unavailable"}': "0x9 1+1x20 21x20",
            'opennotice_misses_total{answer="unknown"}': "0+9x40",
        },
        12, "Visitors with a link that tracking has not heard of yet are told to try again", silent=(9, 40),
        more={"answer": "unavailable"},
    ),
    Case(
        "VisitorsGotErrors", {'opennotice_failed_answers_total{status="503"}': "0x9 1x30"}, 12,
        "Visitors with links that work got an error (503)", silent=(9, 30), labels={"status": "503"},
    ),
    Case(
        "LinksNotReachable", {"probe_success" + _PROBE: "1x9 0x9 1x9"}, 13,
        "https://links.court.example is not served: proxy, certificate, name or network", silent=(11, 20),
        labels=_OF_PROBE,
    ),
    Case(
        "DirectoryStale", {"opennotice_directory_stale": _TEN_MINUTES}, 13,
        "tracking may not know the newest links and revocations", silent=(11, 20),
    ),
    Case("NatsAway", {"opennotice_nats_away": _TEN_MINUTES}, 12, "link is without NATS", (10, 20), "link"),
    Case(
        "EventsLost", {"opennotice_nats_losses_total": "0x9 1x40"}, 11,
        "NATS has lost events of reporting; they are sent again from the record", (9, 30), "reporting",
    ),
    # One that is without NATS has an alarm for that.
    Case(
        "EventsNotTaken",
        {
            "opennotice_events_not_taken_total": "0x9 1+1x20 21x9", "opennotice_nats_away": "0x40",
            'opennotice_events_not_taken_total{instance="auth"}': "0x9 1+1x20 21x9",
            'opennotice_nats_away{instance="auth"}': "0x9 1x30",
        },
        16, "NATS answers link and takes none of its events: a full stream, or a full disk", (9, 14, 35), "link",
    ),
    Case(
        "OutboxGrows", {"opennotice_outbox_packs": "10x9 60x19 10x9"}, 17, "60 packs of opens wait for NATS", (14, 30),
    ),
    Case(
        "CanaryLate", {"opennotice_canary_age_seconds": "30x9 100x9 30x9"}, 12,
        "Opens do not reach the report: the last canary was sent 1m 40s ago", (9, 20), "reporting",
    ),
    Case(
        "OpensMissing", {"opennotice_stuck_opens": "0x9 3x19 0x9"}, 16,
        "3 opens on record do not reach the report although they were published again", silent=(14, 30),
    ),
    Case(
        "OpensPublishedAgain", {"opennotice_opens_published_again_total": "0x9 5x40"}, 11,
        "Opens were missing from the report and were published again", silent=(9, 30),
    ),
    Case(
        "OpensWithoutRecord", {"opennotice_opens_without_record_total": "0x9 1x90"}, 11,
        "The report shows opens that are not on record", silent=(9, 80),
    ),
    # A round that ends puts it off.
    Case(
        "ReconcilerStands", {"opennotice_reconciled_until_seconds": "0+60x19 1140x40 3600+60x20"}, 50,
        "Records and report have not been compared for 31m 0s", silent=(19, 36, 62), labels={},
    ),
    # The history is compared within days, which a process that has just started has not had.
    Case(
        "ReconcilerStands",
        {
            "opennotice_reconciled_until_seconds": "0+60x13000", "opennotice_history_compared_seconds": "0x13000",
            "process_start_time_seconds": "0x13000",
        },
        12_000, "Records and report have not been compared for 8d 8h 0m 0s", silent=(6_000, 10_080), labels={},
    ),
    Case(
        "DeadLetters", {"opennotice_dead_letters": "0x9 2x9 0x9"}, 12, "auth has set 2 events aside", (10, 20), "auth",
    ),
    Case(
        "OpensInNoMonth", {"opennotice_opens_without_month": _TEN_MINUTES}, 10,
        "Opens of tracking lie in the default partition: a clock was wrong", silent=(9, 20),
    ),
    Case(
        "OpensInNoMonth", {"opennotice_reporting_months_in_default_partition": _TEN_MINUTES}, 10,
        "Opens of reporting lie in the default partition: a clock was wrong", (9, 20), "reporting",
    ),
    Case(
        "IpDataMissing", {"opennotice_enrichment_ip_data_missing": _TEN_MINUTES}, 16,
        "Opens are explained without data about networks or places", (14, 20), "enrichment",
    ),
    Case(
        "TokenGuessing",
        {
            'opennotice_misses_total{answer="unknown"}': "0+120x19 2400+300x40",
            'opennotice_misses_total{answer="throttled"}': "0x19 0+300x40",
            'opennotice_misses_total{answer="gone"}': "0+6000x60",
        },
        45, "10 requests a second name links that do not exist", silent=(19, 29), labels={},
    ),
    Case(
        "SignInFlood",
        {
            'opennotice_sign_ins_total{outcome="refused"}': "0x9 40x29 100x20",
            'opennotice_sign_ins_total{outcome="done"}': "0+100x60",
        },
        45, "60 sign-ins were refused in ten minutes", (12, 39), "auth", more={"outcome": "refused"},
    ),
    Case(
        "AccountsLocked", {"opennotice_account_locks_total": "0x9 2x29 5x40"}, 45,
        "Several accounts were locked after failed sign-ins", (12, 39, 65), "auth",
    ),
    Case("ProcessGone", {"up": "1x9 0x9 1x9"}, 12, "link does not answer", (10, 20), "link"),
    Case("ProcessNotReady", {"opennotice_ready": "1x9 0x9 1x9"}, 13, "link runs and is not ready", (11, 20), "link"),
    # An upgrade starts each once, or twice.
    Case(
        "ProcessRestartsAgain", {"process_start_time_seconds": "0x9 600x9 1200 1260x40"}, 22,
        "link was started 3 times in a quarter of an hour", (12, 20, 40), "link",
    ),
    Case(
        "MemoryNearLimit",
        {
            "process_resident_memory_bytes": "200e6x9 350e6x29",
            'process_resident_memory_bytes{instance="enrichment"}': "600e6x39",
        },
        21, "link uses 333.8MiB, close to what its container may have", (19,), "link",
    ),
    Case(
        "MemoryNearLimit", {"process_resident_memory_bytes": "600e6x9 700e6x29"}, 21,
        "enrichment uses 667.6MiB, close to what its container may have", (19,), "enrichment",
    ),
    Case(
        "FilesNearLimit", {"process_open_fds": "700x9 900x19", "process_max_fds": "1000x40"}, 16,
        "gateway has nearly as many files and connections open as it may", (14,), "gateway",
    ),
    # The canary of the next minute comes from the right time again; one look must be enough.
    Case(
        "ClockWrong", {"opennotice_canary_age_seconds": "30x9 -100 30x40"}, 14,
        "The clock of the machine was set back or is not kept right", (9, 30), "reporting",
    ),
    Case(
        "ClockWrong", {'node_timex_sync_status{job="opennotice-machine",instance="machine"}': "1x9 0x9 1x9"}, 13,
        "The clock of the machine was set back or is not kept right", silent=(11, 20),
        labels={"job": "opennotice-machine", "instance": "machine"},
    ),
    Case(
        "CertificateRunsOut", {"probe_ssl_earliest_cert_expiry" + _PROBE: f"{15 * 86400}x1600"}, 1510,
        "The certificate runs out in 13d 22h 50m 0s", silent=(1439, 1495), labels=_OF_PROBE,
    ),
]  # fmt: skip


def promtool(*arguments: str) -> None:
    """Runs it; fails with what it says."""
    done = subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alarm_is_tried() -> None:
    assert {case.alarm for case in CASES} == set(RULES)
    assert all(case.silent for case in CASES)


@pytest.mark.promtool
@no_promtool
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alarm)
def test_it_rings_when_it_should_and_only_then(case: Case, tmp_path: Path) -> None:
    rules = {"rule_files": [str(FOLDER / "alarms.yaml")], "evaluation_interval": "1m", "tests": [case.as_test()]}
    # What is JSON is YAML.
    (tmp_path / "test.yaml").write_text(json.dumps(rules))
    promtool("test", "rules", str(tmp_path / "test.yaml"))


@pytest.mark.promtool
@no_promtool
def test_prometheus_can_read_what_it_is_given(tmp_path: Path) -> None:
    promtool("check", "rules", str(FOLDER / "alarms.yaml"))
    promtool("check", "config", str(FOLDER / "scrape.yaml"))
    shown = [target["expr"].replace("$__rate_interval", "5m") for panel in PANELS for target in panel["targets"]]
    assert not [expression for expression in shown if re.search(r"\$", expression)]
    records = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(shown)]
    (tmp_path / "panels.yaml").write_text(json.dumps({"groups": [{"name": "panels", "rules": records}]}))
    promtool("check", "rules", str(tmp_path / "panels.yaml"))
