"""The main job, end to end on the real lab: snapshot, prove, kill, wipe, recover, and nothing signed twice.

The tests share one lab and run in this order; each leaves every node in sync.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import chain_snapshot, config_backup, provider_state_backup, single_node_failure, snapshot_verify
from flows.backup_restore import RUNBOOK as BACKUP_RESTORE
from tasks.orders import BackupRestore, RegionJob, SingleNodeFailure, SnapshotProof
from vedr.adapters.rpc import HttpChainRpc
from vedr.adapters.site import OpenSite
from vedr.backup.provider_state import read_checkpoints
from vedr.backup.repository import list_snapshots
from vedr.backup.verify import newest_proofs
from vedr.chain.sign_state import read_sign_state
from vedr.errors import InvalidInputError, RefusedError
from vedr.inventory import Height, Site
from vedr.lab import corruption, faults
from vedr.lab.plan import Plan
from vedr.runbook.run import Outcome

pytestmark = pytest.mark.lab

SYNC_LIMIT_S = 120.0


@pytest.fixture(scope="module")
def opened(lab: Site) -> Iterator[OpenSite]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VEDR_SITE", lab.name)
        environment.setenv("VEDR_PLAIN", "1")
        with OpenSite(lab) as site:
            yield site


@pytest.fixture(scope="module")
def snapshot(opened: OpenSite) -> str:
    """A first snapshot of us-east."""
    outcome = chain_snapshot.RUNBOOK.perform(RegionJob(region="us-east"))
    assert isinstance(outcome, Outcome)
    assert outcome.outcome == "completed"
    return list_snapshots(opened.repository, "us-east", "state").snapshots[0].id


def recover(node: str, **order: Any) -> Outcome:
    """Run RB-DR-001 plainly."""
    outcome = single_node_failure.RUNBOOK.perform(SingleNodeFailure(node=node, **order))
    assert isinstance(outcome, Outcome)
    assert outcome.outcome == "completed"
    assert outcome.met
    return outcome


def results(opened: OpenSite, outcome: Outcome) -> dict[str, Any]:
    entries = opened.journal.read(outcome.run_id).entries
    return {str(e.payload["step"]): e.payload["result"] for e in entries if e.kind == "step_completed"}


def in_sync(opened: OpenSite, name: str) -> Height:
    """The height at which the node's block and app hash equal another node's."""
    node = opened.site.node(name)
    other = next(n for n in opened.site.nodes if n.region != node.region and n.role == "archive")
    own, theirs = opened.rpc(node, deadline_s=5), opened.rpc(other, deadline_s=5)
    height = Height(min(one.status().latest_height for one in (own, theirs)))
    assert own.commit(height).header.app_hash == theirs.commit(height).header.app_hash
    return height


def kill(plan: Plan, name: str) -> None:
    faults.kill(plan, faults.find(plan, name))


def wipe(opened: OpenSite, plan: Plan, name: str) -> None:
    """Kill the node and lose its disk."""
    kill(plan, name)
    corruption.corrupt(opened.site.node(name).home, "wipe-data", record=plan.folder / "damage.log")


def evidence(rpc: HttpChainRpc, first: int) -> list[int]:
    """The blocks from `first` on that hold evidence of misbehaviour."""
    return [h for h in range(first, rpc.status().latest_height + 1) if rpc.block(Height(h)).evidence]


def test_a_snapshot_is_whole_in_three_regions_and_its_header_is_verified(opened: OpenSite, snapshot: str) -> None:
    (listed,) = list_snapshots(opened.repository, "us-east", "state").snapshots
    assert listed.id == snapshot
    assert set(listed.regions) == set(opened.site.regions)


def test_a_second_scheduled_run_finds_the_first_one_fresh(opened: OpenSite, snapshot: str) -> None:
    assert snapshot
    outcome = chain_snapshot.RUNBOOK.perform(RegionJob(region="us-east"))
    assert isinstance(outcome, Outcome)
    assert list(results(opened, outcome)) == ["find_fresh"]


def test_the_snapshot_is_proven_by_booting_a_node_from_it(opened: OpenSite, snapshot: str) -> None:
    outcome = snapshot_verify.RUNBOOK.perform(SnapshotProof(region="us-east"))
    assert isinstance(outcome, Outcome)
    assert outcome.outcome == "completed"
    proofs = newest_proofs(opened.repository, "us-east", "state")
    assert {str(one): proof.depth for one, proof in proofs.items()} == {snapshot: 3}


def test_configuration_is_stored_and_committed_without_keys(opened: OpenSite) -> None:
    outcome = config_backup.RUNBOOK.perform(RegionJob(region="eu-west", even_if_fresh=True))
    assert isinstance(outcome, Outcome)
    committed = results(opened, outcome)["commit_configuration"]
    command = ["git", "--git-dir", str(opened.site.config_repository.path), "ls-tree", "-r", "--name-only"]
    names = subprocess.run([*command, committed["revision"]], capture_output=True, check=True, text=True).stdout.split()
    assert "eu-west/validator-eu-west-0/config/config.toml" in names
    assert not [name for name in names if "key" in name]


def test_provider_state_is_stored_and_read_back(opened: OpenSite) -> None:
    outcome = provider_state_backup.RUNBOOK.perform(RegionJob(region="us-east", even_if_fresh=True))
    assert isinstance(outcome, Outcome)
    assert set(results(opened, outcome)["prove_provider_state"]["sequences"]) == {
        "provider-us-east-0",
        "provider-us-east-1",
    }


def test_a_restored_provider_goes_on_where_its_disk_proves_that_it_was(opened: OpenSite, tmp_path: Path) -> None:
    """Restored from the snapshot above, reconciled with the live home as the survivor: nothing is replayed."""
    provider = opened.site.providers[0]
    vedr = str(Path(sys.executable).with_name("vedr"))
    command = [vedr, "snapshot", "restore", "--kind", "provider", "--source", provider.name, "--home", str(tmp_path)]
    subprocess.run([*command, "--survivor", str(provider.home)], check=True, capture_output=True)
    restored, live = (read_checkpoints(home / "data") for home in (tmp_path / "data", provider.home))
    assert {point.file for point in restored} == {point.file for point in live}
    assert list((tmp_path / "data" / "callbacks").iterdir())
    assert all(point.last_sequence <= {p.file: p.last_sequence for p in live}[point.file] for point in restored)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        subprocess.run(command, check=True, capture_output=True)
    assert refused.value.returncode == InvalidInputError.exit_code


def test_a_healthy_node_is_refused(opened: OpenSite) -> None:
    with pytest.raises(RefusedError, match="is healthy"):
        single_node_failure.RUNBOOK.perform(SingleNodeFailure(node="fullnode-us-east-0"))
    assert opened.rpc(opened.site.node("fullnode-us-east-0")).status().latest_height


def test_a_killed_full_node_is_restarted(opened: OpenSite, lab_plan: Plan) -> None:
    kill(lab_plan, "fullnode-eu-west-0")
    outcome = recover("fullnode-eu-west-0")
    assert results(opened, outcome)["choose_way"]["way"] == "restart"
    assert in_sync(opened, "fullnode-eu-west-0")


def test_a_wiped_full_node_comes_back_from_a_proven_snapshot(opened: OpenSite, lab_plan: Plan, snapshot: str) -> None:
    wipe(opened, lab_plan, "fullnode-ap-south-0")
    outcome = recover("fullnode-ap-south-0", way="snapshot")
    proven = {str(one) for region in opened.site.regions for one in newest_proofs(opened.repository, region, "state")}
    assert snapshot in proven
    assert results(opened, outcome)["recover_data"]["snapshot"] in proven
    assert in_sync(opened, "fullnode-ap-south-0")


def test_a_wiped_validator_signs_again_only_above_its_floor(opened: OpenSite, lab_plan: Plan, snapshot: str) -> None:
    assert snapshot
    node = opened.site.node("validator-eu-west-1")
    witness = opened.rpc(opened.site.node("fullnode-us-east-1"), deadline_s=5)
    wipe(opened, lab_plan, node.name)
    killed_at = witness.status().latest_height
    outcome = recover(node.name, way="snapshot")
    floor_height = int(results(opened, outcome)["guard_signing"]["floor"].split("/")[0])
    assert floor_height > killed_at + 1
    signed = [
        height
        for height in range(killed_at + 2, witness.status().latest_height)
        if any(sig.address.hex().upper() == node.address for sig in witness.commit(Height(height)).commit.signatures)
    ]
    assert signed
    assert min(signed) >= floor_height
    assert read_sign_state(node.home / "data" / "priv_validator_state.json").height >= floor_height
    assert not evidence(witness, killed_at)


def test_a_run_killed_in_the_middle_goes_on_by_its_incident(opened: OpenSite, lab_plan: Plan, snapshot: str) -> None:
    """`kill -9` of the command while the data is being brought; the same id finishes the work."""
    assert snapshot
    wipe(opened, lab_plan, "fullnode-us-east-2")
    before = set(opened.journal.runs_of("RB-DR-001"))
    vedr = str(Path(sys.executable).with_name("vedr"))
    command = [vedr, "run", "RB-DR-001", "--node", "fullnode-us-east-2", "--way", "snapshot"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        incident = _await_step(opened, before, "recover_data")
    finally:
        process.kill()
        process.wait()
    again = subprocess.run(
        [vedr, "run", "RB-DR-001", "--incident", incident, "--json"], capture_output=True, check=True, text=True
    )
    assert json.loads(again.stdout)["outcome"] == "completed"
    assert in_sync(opened, "fullnode-us-east-2")


def _await_step(opened: OpenSite, before: set[Any], step: str) -> str:
    """The new run's id, once that step has started."""
    deadline = time.monotonic() + SYNC_LIMIT_S
    while time.monotonic() < deadline:
        for run_id in set(opened.journal.runs_of("RB-DR-001")) - before:
            if any(e.payload.get("step") == step for e in opened.journal.read(run_id).entries):
                return str(run_id)
        time.sleep(0.1)
    raise AssertionError(f"{step} did not start")


def test_rb_dr_006_restores_a_node_from_another_regions_store(opened: OpenSite, lab_plan: Plan, snapshot: str) -> None:
    """The home region's store is down: the objects come from the others."""
    assert snapshot
    store = lab_plan.stores["us-east"].name
    faults.stop(lab_plan, faults.find(lab_plan, store))
    try:
        outcome = BACKUP_RESTORE.perform(BackupRestore(node="fullnode-us-east-0"))
    finally:
        faults.start(lab_plan, faults.find(lab_plan, store))
    assert isinstance(outcome, Outcome)
    proven = results(opened, outcome)["fetch_and_prove"]
    assert "us-east" not in proven["from_regions"]
    assert in_sync(opened, "fullnode-us-east-0")


def test_the_ledger_of_all_of_this_verifies(opened: OpenSite) -> None:
    for run_id in opened.journal.runs():
        opened.journal.heal(run_id)
    deadline = time.monotonic() + SYNC_LIMIT_S
    while (verified := opened.journal.verify()).silent:  # us-east's store was down a moment ago
        assert time.monotonic() < deadline, f"{verified.silent} do not answer"
        time.sleep(0.5)
    assert verified.entries
