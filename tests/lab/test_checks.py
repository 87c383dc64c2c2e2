"""Every daily check fails when its subject is broken, names it, says what to do, and passes when it is whole again.

The faults are those of vedr.readiness.faults, done to the running lab (breaking.py).  Those that spare each other's
subjects are there at once, so that a lab is broken twice in place of twenty times.
"""

import contextlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from flows import chain_snapshot, config_backup, key_backup, provider_state_backup, snapshot_verify
from tasks.orders import RegionJob, SnapshotProof
from vedr.adapters import pkcs11_token_site
from vedr.adapters.check_probes import open_ports
from vedr.adapters.site import OpenSite
from vedr.custody.escrow_rotation import rotate
from vedr.custody.key_material import KINDS
from vedr.errors import DeadlineError
from vedr.inventory import Site
from vedr.lab import faults
from vedr.lab.plan import Plan
from vedr.policies.checks import Checks
from vedr.readiness.faults import FAULTS, Fault, Shown, Wave
from vedr.readiness.finding import Finding
from vedr.readiness.registry import CHECKS
from vedr.readiness.validation import choose, validate
from vedr.runbook.steps import Runbook

pytestmark = pytest.mark.lab

WITHIN_S: Final = 120.0  # on a busy machine; on an idle one seconds
DEADLINES: Final = {"deadline_s": 60.0, "subject_deadline_s": 20.0}
DRY_RUN_S: Final = 60.0
SLACK_S: Final = 10.0  # of a busy machine, beside the deadline
TRUE_WARNINGS: Final = {"topology"}
"""Three regions alone cannot lose any one of them and go on, and two validators sign from files: docs/lab.md."""


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


breaking = _beside("breaking")


@dataclass(frozen=True)
class Looked:
    """What the checks said while a wave of faults was there, and afterwards."""

    broken: dict[str, Finding]
    mended: dict[str, Finding]


def look(site: Site, *names: str, dry_run_s: float = DRY_RUN_S) -> dict[str, Finding]:
    deadlines = DEADLINES | {"deadlines_s": {"restore-dry-run": dry_run_s}}
    policy = Checks.model_validate(site.checks.model_dump() | deadlines)
    chosen = site.model_copy(update={"checks": policy})
    found = validate(choose(CHECKS, names), partial(open_ports, chosen), policy)
    return {finding.check: finding for finding in found}


def is_well(finding: Finding) -> bool:
    return finding.passed or (finding.check in TRUE_WARNINGS and not finding.is_failure)


def eventually_well(site: Site, *names: str) -> dict[str, Finding]:
    """The checks again and again, until none is worse than it is on a healthy lab."""
    deadline = time.monotonic() + WITHIN_S
    seen = look(site, *names)
    while bad := {name for name, one in seen.items() if not is_well(one)}:
        assert time.monotonic() < deadline, [seen[name] for name in bad]
        seen |= look(site, *bad)
    return seen


def perform(runbook: Runbook[Any], order: Any) -> None:
    outcome = runbook.perform(order)
    assert outcome.outcome == "completed"  # type: ignore[attr-defined]


def perform_when_calm(runbook: Runbook[Any], order: Any) -> None:
    """A busy machine may not freeze a node within the second that it may be paused: then once more."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            return perform(runbook, order)
        except DeadlineError:
            if time.monotonic() > deadline:
                raise


def back_up(opened: OpenSite) -> None:
    """What `make up` and a day's schedules leave behind."""

    def of_region(region: str) -> None:
        perform(key_backup.RUNBOOK, RegionJob(region=region))
        perform(snapshot_verify.RUNBOOK, SnapshotProof(region=region))

    regions = opened.site.regions_by_priority
    for region in regions:  # before what takes all processors: nodes and daemons are paused for a second at most
        for runbook in (chain_snapshot.RUNBOOK, provider_state_backup.RUNBOOK):
            perform_when_calm(runbook, RegionJob(region=region))
    for kind in KINDS:
        if not opened.keys.escrow.epochs(kind):
            rotate(opened.keys, kind, regions)
    with ThreadPoolExecutor(len(regions)) as pool:
        list(pool.map(of_region, regions))
    for region in regions:
        perform(config_backup.RUNBOOK, RegionJob(region=region))  # one after the other: they commit to one repository
    for node in opened.site.nodes:
        if node.is_validator:
            pkcs11_token_site.make(opened, node.name, role="validator")


@pytest.fixture(scope="module")
def bench(lab: Site, lab_plan: Plan) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VEDR_SITE", lab.name)
        environment.setenv("VEDR_PLAIN", "1")
        with OpenSite(lab) as opened:
            back_up(opened)
            yield breaking.Bench(lab_plan, opened, lab_plan.folder / "aside")


@pytest.fixture(scope="module")
def healthy(bench: Any) -> dict[str, Finding]:
    return eventually_well(bench.site)


def broken_by(bench: Any, wave: Wave) -> Looked:
    """All faults of a wave at once, the checks concerned, everything back, and these checks again."""
    chosen = [fault for fault in FAULTS if fault.wave == wave]
    names = [one.check for fault in chosen for one in fault.shown]
    with contextlib.ExitStack() as faults_there:
        for fault in chosen:
            faults_there.enter_context(breaking.INJECTORS[fault.name](bench))
        broken = look(bench.site, *names)
    return Looked(broken, eventually_well(bench.site, *names))


@pytest.fixture(scope="module")
def waves(bench: Any, healthy: dict[str, Finding]) -> Callable[[Wave], Looked]:
    assert healthy
    looked: dict[Wave, Looked] = {}

    def of(wave: Wave) -> Looked:
        if wave not in looked:
            looked[wave] = broken_by(bench, wave)
        return looked[wave]

    return of


def test_a_lab_with_its_backups_passes_every_check_but_what_is_true_of_three_regions(
    healthy: dict[str, Finding],
) -> None:
    assert len(healthy) == len(CHECKS)
    assert {name: one.status for name, one in healthy.items() if not one.passed} == {"topology": "warning"}
    said = healthy["topology"].observed
    assert "the loss of region us-east (20 power) halts the chain" in said
    assert "us-east has 40.0 % of the voting power, above 33 %" in said


def test_every_fault_can_be_done() -> None:
    assert set(breaking.INJECTORS) == {fault.name for fault in FAULTS}


@pytest.mark.parametrize(
    ("fault", "shown"),
    [
        pytest.param(fault, one, id=f"{one.check}-{fault.name}")
        for fault in sorted(FAULTS, key=lambda fault: fault.wave, reverse=True)
        for one in fault.shown
    ],
)
def test_a_check_fails_when_its_subject_is_broken_and_passes_when_it_is_whole(
    waves: Callable[[Wave], Looked], fault: Fault, shown: Shown
) -> None:
    looked = waves(fault.wave)
    broken = looked.broken[shown.check]
    assert broken.status == shown.result, broken
    assert shown.names in broken.observed
    assert shown.remedy in broken.remedy
    assert is_well(looked.mended[shown.check])


def test_a_dead_region_costs_its_own_subjects_and_no_other_check(bench: Any, waves: Callable[[Wave], Looked]) -> None:
    """Cut off, so that nothing is refused and everything hangs."""
    assert waves("cut")
    region = faults.find(bench.plan, "ap-south")
    faults.cut(bench.plan, region)
    try:
        began = time.monotonic()
        seen = look(bench.site, dry_run_s=DEADLINES["subject_deadline_s"])  # of the dead region, one day in three
        took_s = time.monotonic() - began
    finally:
        faults.heal(bench.plan, region)
    assert set(seen) == {check.name for check in CHECKS}
    assert took_s < DEADLINES["deadline_s"] + SLACK_S
    for name in ("share-custody", "dns-health"):
        assert seen[name].passed, seen[name]  # nothing of theirs is there
    for name in ("backup-integrity", "bucket-read-write", "node-health", "retention", "service-health"):
        assert seen[name].is_failure, seen[name]
        assert "ap-south" in seen[name].observed
    eventually_well(bench.site, "node-health", "cross-region-connectivity", "sign-states", "bucket-read-write")
