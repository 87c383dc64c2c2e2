"""Keys on the real lab: backed up, restored, rotated; and RB-DR-005 for a provider, a node and a validator.

The tests share one lab and run in this order, after those of test_runbooks.py (by name).  The last one retires a
validator for good: nothing may come after it.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import key_backup, key_compromise
from tasks.compromise import KeyCompromise
from tasks.orders import RegionJob
from vedr.adapters.site import OpenSite
from vedr.chain.rpc import Status
from vedr.custody import key_backup_store
from vedr.custody.escrow_rotation import rotate
from vedr.custody.key_material import KINDS
from vedr.errors import RefusedError, UnavailableError
from vedr.inventory import Height, Node, Site
from vedr.runbook.run import Outcome

pytestmark = pytest.mark.lab

WAIT_S = 60.0


@pytest.fixture(scope="module")
def opened(lab: Site) -> Iterator[OpenSite]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VEDR_SITE", lab.name)
        environment.setenv("VEDR_PLAIN", "1")
        with OpenSite(lab) as site:
            yield site


def vedr(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("vedr")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def results(opened: OpenSite, outcome: Outcome) -> dict[str, Any]:
    entries = opened.journal.read(outcome.run_id).entries
    return {str(e.payload["step"]): e.payload["result"] for e in entries if e.kind == "step_completed"}


def compromise(opened: OpenSite, **order: Any) -> dict[str, Any]:
    """Run RB-DR-005 plainly; its steps' results."""
    outcome = key_compromise.RUNBOOK.perform(KeyCompromise(**order))
    assert isinstance(outcome, Outcome)
    assert outcome.outcome == "completed"
    assert outcome.met
    return results(opened, outcome)


def await_height(opened: OpenSite, height: int) -> Height:
    archive = next(node for node in opened.site.nodes if node.role == "archive" and node.region == "eu-west")
    rpc = opened.rpc(archive, deadline_s=5)
    deadline = time.monotonic() + WAIT_S
    while (tip := rpc.status().latest_height) < height:
        assert time.monotonic() < deadline, f"the chain stands at {tip}"
        time.sleep(0.2)
    return tip


def await_growth(opened: OpenSite, node: Node, height: Height) -> Status:
    """What the node says once it answers again and is above that height."""
    deadline, rpc = time.monotonic() + WAIT_S, opened.rpc(node, deadline_s=5)
    while True:
        with contextlib.suppress(UnavailableError):  # it was only just started
            if (status := rpc.status()).latest_height > height:
                return status
        assert time.monotonic() < deadline, f"{node.name} does not go on"
        time.sleep(0.2)


def test_every_region_s_keys_are_backed_up_and_open(opened: OpenSite) -> None:
    for kind in KINDS:
        if not opened.keys.escrow.epochs(kind):
            rotate(opened.keys, kind, opened.site.regions_by_priority)
    for region in opened.site.regions:
        outcome = key_backup.RUNBOOK.perform(RegionJob(region=region, even_if_fresh=True))
        assert isinstance(outcome, Outcome)
        assert outcome.outcome == "completed"
    verified = vedr("keys", "verify", "--json")
    assert verified.returncode == 0, verified.stderr
    key_files = [node for node in opened.site.nodes if node.is_validator and not opened.site.signers_of(node.name)]
    owners = len(key_files) + len(opened.site.nodes) + len(opened.site.providers)  # the others' keys are in their HSMs
    assert len(json.loads(verified.stdout)["checked"]) == owners
    assert vedr("keys", "status").returncode == 0


def test_a_running_node_s_keys_are_not_written_over(opened: OpenSite) -> None:
    node = opened.site.node("fullnode-us-east-0")
    newest = key_backup_store.newest(opened.keys, node.region, "node", node.name)
    assert newest is not None
    assert vedr("keys", "restore", newest.id).returncode == RefusedError.exit_code


def test_a_rotation_leaves_every_backup_readable(opened: OpenSite) -> None:
    rotated = vedr("keys", "rotate-passphrase", "--kind", "node", "--json")
    assert rotated.returncode == 0, rotated.stderr
    assert vedr("keys", "verify").returncode == 0
    assert all(row["verified"] >= len(opened.site.nodes) for row in json.loads(rotated.stdout))


def test_rb_dr_005_for_a_provider(opened: OpenSite) -> None:
    provider = opened.site.providers[0]
    done = compromise(opened, kind="provider", owner=provider.name)
    assert done["contain"]["stopped"]
    status = opened.fleet.status(provider.unit, provider.zone)
    assert (status.pid, status.desired) == (None, "stopped")
    opened.fleet.start(provider.unit, provider.zone)


def test_rb_dr_005_for_a_node_which_serves_again_under_another_id(opened: OpenSite) -> None:
    node = opened.site.node("fullnode-ap-south-0")
    before = opened.rpc(node, deadline_s=5).status()
    done = compromise(opened, kind="node", owner=node.name)
    status = await_growth(opened, node, before.latest_height)
    assert status.node_id == done["rotate_key"]["known_as"] != before.node_id
    assert not done["audit_use"]["alarm"]


def test_rb_dr_005_for_a_validator_which_never_signs_again(opened: OpenSite) -> None:
    """ap-south's: without it the other four keep the chain going."""
    node = opened.site.node("validator-ap-south-0")
    done = compromise(opened, kind="validator", owner=node.name, audit_blocks=100)
    signing = done["audit_use"]["signing"]
    assert signing["signed"]
    assert done["audit_use"]["audited"]
    assert not done["audit_use"]["alarm"]
    contained = done["contain"]["tip"]
    tip = await_height(opened, contained + 10)
    archive = next(one for one in opened.site.nodes if one.role == "archive" and one.region == "us-east")
    rpc = opened.rpc(archive, deadline_s=5)
    for height in range(contained + 2, tip):
        commit = rpc.commit(Height(height)).commit
        assert all(sig.address.hex().upper() != node.address for sig in commit.signatures)
    [old] = done["fence_key"]["fingerprints"]
    assert key_backup_store.revocations(opened.keys, node.region, [old])
    found, _ = key_backup_store.list_backups(opened.keys, [node.region], kind="validator", owner=node.name)
    entries = [key_backup_store.load(opened.keys, one) for one in found]
    compromised = next(entry for entry in entries if old in entry.fingerprints)
    assert vedr("keys", "restore", compromised.id).returncode == RefusedError.exit_code
