"""What operators are given agrees: figures of the code, alarms, the dashboard and the guide that explains them."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml

from bundle.containers import PROBE_PORT
from bundle.processes import OWN
from tests.contract.source import ROOT, modules

FOLDER = ROOT / "deploy" / "monitoring"
GUIDE = (ROOT / "docs" / "operations.md").read_text()
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((FOLDER / "alarms.yaml").read_text())["groups"]
    for rule in group["rules"]
}
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# Of Prometheus itself, blackbox_exporter and node_exporter; the guide says where they are needed.
FOREIGN = {"up", "probe_success", "probe_ssl_earliest_cert_expiry", "node_timex_sync_status"}
SUFFIXES = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}
# Words of PromQL that are no figures.
FUNCTIONS = {
    "rate", "increase", "changes", "time", "histogram_quantile", "min_over_time", "max_over_time", "sum", "max", "min",
}  # fmt: skip
WORDS = {"by", "and", "or", "unless", "on"}
# Labels that Prometheus adds, and that of every histogram.
LABELS = {"job", "instance", "le"}


def declared() -> dict[str, tuple[str, set[str]]]:
    """Returns kind and labels of every figure that the source declares, by name."""
    found = {}
    for _, tree in modules("services", "gateway", "bundle"):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            kind = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if kind in SUFFIXES and isinstance(name, str):
                labels = ast.literal_eval(node.args[2]) if len(node.args) > 2 else []
                found[name.removesuffix("_total")] = (kind, set(labels))
    return found


DECLARED = declared()
EXPOSED = {
    name + suffix: labels for name, (kind, labels) in DECLARED.items() for suffix in SUFFIXES[kind]
} | {
    sample.name: set[str]()
    for collector in (prometheus_client.PROCESS_COLLECTOR, prometheus_client.PLATFORM_COLLECTOR)
    for metric in collector.collect()
    for sample in metric.samples
}  # fmt: skip


def expressions() -> Iterator[tuple[str, str]]:
    """Yields every PromQL expression with where it stands."""
    for name, rule in RULES.items():
        yield name, rule["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def anchors(text: str) -> set[str]:
    """Returns the anchors of the headings of a page, as the usual viewers make them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)
    }


def test_figures_are_named_after_the_product() -> None:
    assert DECLARED
    assert all(name.startswith("opennotice_") for name in DECLARED)


def test_the_guide_explains_every_figure_and_no_other() -> None:
    ours = {name + ("_total" if kind == "Counter" else "") for name, (kind, _) in DECLARED.items()}
    explained = set(re.findall(r"^\| `(opennotice_\w+)` \|", GUIDE, re.MULTILINE))
    assert explained == ours
    assert set(re.findall(r"\bopennotice_[a-z_]+\b", GUIDE)) <= ours | set(EXPOSED)


def test_every_alarm_has_its_section_and_every_section_its_alarm() -> None:
    alarms = GUIDE.split("\n# Alarms\n")[1].split("\n# What no alarm tells\n")[0]
    assert re.findall(r"^## (\w+)$", alarms, re.MULTILINE) == list(RULES)
    for section in re.split(r"^## ", alarms, flags=re.MULTILINE)[1:]:
        for part in ("**Means.**", "**Ends**", "\n1. "):
            assert part in section, f"{section.splitlines()[0]} lacks {part.strip()}"


@pytest.mark.parametrize("name", RULES)
def test_an_alarm_says_how_urgent_it_is_and_where_to_read(name: str) -> None:
    rule = RULES[name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    page, _, anchor = rule["annotations"]["guide"].partition("#")
    assert page == "docs/operations.md"
    assert anchor in anchors(GUIDE)
    assert rule["annotations"]["summary"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_an_expression_is_whole_and_asks_for_figures_that_exist(where: str, expression: str) -> None:
    bare = re.sub(r'"[^"]*"', "", expression)
    assert '"' not in bare
    assert _is_balanced(bare)
    # By turns a value and something between two values.
    assert not re.search(r"(?:[-+*/<>]|==|\b(?:and|or|unless|on)\b)\s*(?:[)\]}]|$)", bare), "ends in the middle"
    for selector, labels in re.findall(r"(\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)\s*[!=]~?", labels)) <= EXPOSED.get(selector, set()) | LABELS
    outside = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(?:by|on)\s*\([^)]*\)", "", bare)
    for grouped in re.findall(r"\bby\s*\(([^)]*)\)", bare):
        assert {label.strip() for label in grouped.split(",")} <= LABELS.union(*EXPOSED.values())
    for window in re.findall(r"\[([^]]*)\]", bare):
        assert re.fullmatch(r"[1-9]\d*[smhd]|\$__rate_interval", window)
    for word, called in re.findall(r"([A-Za-z_]\w*)\s*(\(?)", re.sub(r"\d[\w.]*", "", outside)):
        if word in WORDS:
            continue
        assert word in (FUNCTIONS if called else set(EXPOSED) | FOREIGN), f"{where}: there is no {word}"


def _is_balanced(text: str) -> bool:
    closing, waiting = {"(": ")", "[": "]", "{": "}"}, []
    for letter in text:
        if letter in closing:
            waiting.append(closing[letter])
        elif letter in closing.values() and (not waiting or waiting.pop() != letter):
            return False
    return not waiting


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_a_panel_says_what_it_shows_and_in_what(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    # The alarms it names are there.
    named = re.search(r"Alarms? ([\w, ]+)\.", panel["description"])
    if named:
        assert set(named[1].split(", ")) <= set(RULES)


def test_the_dashboard_fits_any_grafana_and_shows_every_figure() -> None:
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"
    assert DASHBOARD["schemaVersion"] >= 38
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = [tuple(panel["gridPos"][side] for side in "xy") for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    shown = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    assert [name for name in DECLARED if name not in shown] == []


def test_prometheus_reaches_every_process_by_name() -> None:
    override = yaml.safe_load((ROOT / "deploy" / "monitoring.yaml").read_text())
    assert override["services"] == {name: {"networks": ["monitoring"]} for name in OWN}
    job = yaml.safe_load((FOLDER / "scrape.yaml").read_text())["scrape_configs"][0]
    assert set(job["static_configs"][0]["targets"]) == {f"{name}:{PROBE_PORT}" for name in OWN}
    assert f'job="{job["job_name"]}"' in RULES["ProcessGone"]["expr"]


def test_the_guide_knows_every_line_that_asks_for_a_person() -> None:
    for path, tree in modules("services", "gateway"):
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "error"):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id.lower() == "_log":
                told = node.args[0]
                event = told.value if isinstance(told, ast.Constant) else _constant(tree, told)
                assert f"`{event}`" in GUIDE, f"{path}: docs/operations.md does not say what to do about {event!r}"


def _constant(tree: ast.Module, name: ast.expr) -> object:
    assert isinstance(name, ast.Name)
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name.id:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{name.id} is no constant of this file")


def test_what_the_guide_points_at_is_there() -> None:
    for page, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", GUIDE):
        path = ROOT / "docs" / page if page else ROOT / "docs" / "operations.md"
        assert path.exists(), page
        assert not anchor or anchor in anchors(path.read_text()), f"{page}#{anchor}"
    for name in re.findall(r"\bdeploy/[\w./-]*\w", GUIDE):
        assert (ROOT / name).exists(), name
    for module in re.findall(r"python -m (services\.[\w.]+)", GUIDE):
        assert Path(ROOT, *module.split(".")).with_suffix(".py").exists()
