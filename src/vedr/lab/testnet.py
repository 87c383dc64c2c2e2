"""The chain's homes and genesis, made once by the lab's node program.

Guarantees: after an interruption the half-made homes are made anew, because none of their keys has signed anything
before `testnet.json` exists; a finished network is never touched again.
"""

import json
import shutil
import subprocess
from typing import Any, Final

from vedr.errors import UnavailableError
from vedr.lab.addresses import METRICS_PORT, P2P_PORT, RPC_PORT
from vedr.lab.credentials import write_whole
from vedr.lab.plan import Plan, PlannedNode

_LIMIT_S: Final = 60


def make_missing(plan: Plan) -> dict[str, str]:
    """Make the network where there is none; returns each validator's consensus address by node name."""
    made = plan.folder / "testnet.json"
    if not made.exists():
        _make(plan)
    identities = json.loads(made.read_text(encoding="utf-8"))["nodes"]
    validators = {node.name for node in plan.nodes if node.role == "validator"}
    return {i["name"]: i["validator_address"] for i in identities if i["name"] in validators}


def network_plan(plan: Plan) -> dict[str, Any]:
    """What `labnode testnet` reads."""
    return {
        "chain_id": plan.chain_id,
        "timeout_commit": f"{round(plan.template.chain.timeout_commit_s * 1000)}ms",
        "db_backend": "goleveldb",
        "nodes": [_node(plan, node) for node in plan.nodes],
    }


def _make(plan: Plan) -> None:
    shutil.rmtree(plan.folder / "nodes", ignore_errors=True)
    asked = plan.folder / "testnet-plan.json"
    write_whole(asked, json.dumps(network_plan(plan), indent=2), mode=0o644)
    done = subprocess.run(
        [str(plan.settings.programs / "labnode"), "testnet", "--plan", str(asked)],
        capture_output=True, text=True, check=False, timeout=_LIMIT_S,
    )  # fmt: skip
    if done.returncode:
        raise UnavailableError(
            f"labnode could not make the network: {done.stderr.strip()}", remedy="Correct the template or the disk."
        )
    for node in plan.nodes:
        (node.home / "config" / "priv_validator_key.json").chmod(0o600)
    genesis = plan.nodes[0].home / "config" / "genesis.json"
    write_whole(plan.folder / "genesis.json", genesis.read_text(encoding="utf-8"), mode=0o644)
    write_whole(plan.folder / "testnet.json", done.stdout, mode=0o644)


def _node(plan: Plan, node: PlannedNode) -> dict[str, Any]:
    snapshots = node.role != "validator"
    described = {
        "name": node.name,
        "home": str(node.home),
        "role": node.role,
        "group": node.zone.region,
        "power": node.power,
        "p2p_listen": f"tcp://{plan.listen(node, P2P_PORT)}",
        "p2p_dial": plan.published(node, P2P_PORT),
        "rpc_listen": f"tcp://{plan.listen(node, RPC_PORT)}",
        "metrics_listen": plan.listen(node, METRICS_PORT),
        "snapshot_interval": plan.template.chain.snapshot_interval if snapshots else 0,
        "snapshot_keep": plan.template.chain.snapshot_keep if snapshots else 0,
        "retain_blocks": 0,
    }
    if plan.settings.mode == "relays":
        described["dial_via"] = {
            peer.name: plan.dialled(peer, P2P_PORT, from_zone=node.zone)
            for peer in plan.nodes
            if peer.name != node.name
        }
    return described
