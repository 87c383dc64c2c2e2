"""A lab on paper: the real template with settings of its own, nothing started."""

from dataclasses import replace
from pathlib import Path

import pytest

from vedr.lab.addresses import Mode
from vedr.lab.plan import Plan, Settings
from vedr.lab.template import load_template

REPOSITORY = Path(__file__).parents[3]
TEMPLATE = REPOSITORY / "deployments" / "sites" / "lab.toml"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    settings = Settings(
        name="paper",
        network="10.79",
        port_base=4400,
        mode="namespaces",
        folder=tmp_path / "paper",
        programs=tmp_path / "bin",
        project=REPOSITORY,
    )
    settings.folder.mkdir()
    return Plan(settings, load_template(TEMPLATE))


def in_mode(plan: Plan, mode: Mode) -> Plan:
    return Plan(replace(plan.settings, mode=mode), plan.template)
