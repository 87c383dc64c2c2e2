"""Rules, their tests, the dashboard and the exporter name the same metrics; every alert leads to a page."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from vedr.reports.metrics import FAMILIES

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "deployments" / "prometheus"
RULES = PROMETHEUS / "vedr.rules.yml"
RULE_TESTS = [PROMETHEUS / "vedr.rules.test.yml", PROMETHEUS / "vedr.rules.days.test.yml"]
DASHBOARD = ROOT / "deployments" / "grafana" / "vedr.json"
PAGE = ROOT / "docs" / "metrics.md"
OURS = {family.name: set(family.labels) for family in FAMILIES}
OF_THE_SCRAPE = {"job", "instance", "site"}
NAME = re.compile(r"\b(?:vedr|dr)_[a-z_]+\b")
SELECTOR = re.compile(r"\b((?:vedr|dr)_[a-z_]+)\{([^}]*)\}")
VIRTENGINE = {
    "dr_backup_age_hours",
    "dr_backup_size_bytes",
    "dr_test_failures",
    "dr_restore_duration_seconds",
    "dr_provider_backup_age_hours",
    "dr_last_backup_timestamp",
}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    """Of every panel; those of other exporters' metrics are none of ours."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def check_expression(expression: str) -> None:
    for name in NAME.findall(re.sub(r'"[^"]*"', '""', expression)):
        assert name in OURS, f"{name} in {expression!r} is no metric of the exporter"
    for name, inside in SELECTOR.findall(expression):
        used = {part.split("=")[0].strip("!~ ") for part in re.sub(r'"[^"]*"', "", inside).split(",") if part}
        assert used <= OURS[name] | OF_THE_SCRAPE, f"{name} has no labels {used - OURS[name]}"


def test_every_metric_and_label_of_the_rules_is_exported() -> None:
    for alert in alerts():
        check_expression(alert["expr"])


def test_every_metric_and_label_of_the_dashboard_is_exported() -> None:
    assert expressions()
    for expression in expressions():
        check_expression(expression)


def test_every_metric_that_virtengines_alerts_expect_is_exported_and_alerted_on() -> None:
    used = {name for alert in alerts() for name in NAME.findall(alert["expr"])}
    assert OURS.keys() >= VIRTENGINE
    assert used >= VIRTENGINE


def test_every_alert_has_a_severity_a_summary_and_a_page_that_exists() -> None:
    names = [alert["alert"] for alert in alerts()]
    assert len(set(names)) == len(names)
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning"), alert["alert"]
        assert alert["annotations"]["summary"]
        base, _, path = alert["annotations"]["runbook_url"].partition("}}/")
        assert base == "{{ $externalLabels.vedr_docs "
        pages = [ROOT / "docs" / path]
        if "{{ $labels.runbook }}" in path:
            pages = [ROOT / "docs" / "runbooks" / f"RB-DR-00{number}.md" for number in range(1, 7)]
        for page in pages:
            assert page.is_file(), f"{alert['alert']} leads to {page.relative_to(ROOT)}, which is not there"


def test_every_labels_used_in_a_text_is_one_that_the_alert_has() -> None:
    known = set().union(*OURS.values())
    for alert in alerts():
        used = set(re.findall(r"\$labels\.(\w+)", json.dumps(alert["annotations"])))
        assert used <= known, f"{alert['alert']}: {used - known}"


def test_no_alert_mixes_sites_or_loses_whose_it_is() -> None:
    """`on (…)` only matches; what is aggregated keeps nothing but what it names."""
    for alert in alerts():
        for kept in re.findall(r"^(?:max|min|sum|count|avg) by \(([^)]*)\)", alert["expr"]):
            assert "site" in re.split(r",\s*", kept), f"{alert['alert']} does not tell its site"


def test_every_alert_has_a_test_that_makes_it_fire() -> None:
    told = "".join(file.read_text() for file in RULE_TESTS)
    for alert in alerts():
        assert alert["alert"] in told, f"no test of {alert['alert']}"


def test_the_page_names_every_metric_and_every_alert() -> None:
    told = PAGE.read_text()
    for name in [*OURS, *(alert["alert"] for alert in alerts())]:
        assert f"`{name}`" in told, f"docs/metrics.md leaves out {name}"


def test_the_example_prometheus_reads_the_rules_and_names_the_job_that_they_ask_for() -> None:
    example = yaml.safe_load((PROMETHEUS / "prometheus.example.yml").read_text())
    assert example["rule_files"] == [RULES.name]
    assert "vedr_docs" in example["global"]["external_labels"]
    assert "vedr" in {one["job_name"] for one in example["scrape_configs"]}


@pytest.mark.server
@pytest.mark.parametrize(
    "arguments",
    [
        ("test", "rules", *(file.name for file in RULE_TESTS)),
        ("check", "rules", RULES.name),
        ("check", "config", "prometheus.example.yml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install --no-install-recommends prometheus)")
    told = subprocess.run([promtool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
