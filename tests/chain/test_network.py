"""The chain rooms against a real network: four validators of powers 10, 20, 30, 40 and a full node."""

import datetime as dt
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest
from chain_network import CHAIN_ID, Network, eventually

from vedr.adapters.rpc import HttpChainRpc
from vedr.chain.block import Flag
from vedr.chain.fence import FenceProof, observe_quiet, observe_tip, observe_votes, prove_stopped, read_final_state
from vedr.chain.floor import apply_floor, floor_from_final_state, floor_while_moving, holds
from vedr.chain.light import LightClient
from vedr.chain.quorum import Domain, assess, map_power, online_addresses
from vedr.chain.sign_state import FILE_NAME, read_sign_state
from vedr.chain.state_sync import StateSyncPlan, finish, prepare, undo
from vedr.chain.sync import wait_caught_up
from vedr.errors import DeadlineError, RefusedError, VerificationFailedError
from vedr.inventory import Height, Node, Site
from vedr.ports import Fleet, UnitStatus

pytestmark = pytest.mark.server


class Rpcs:
    """One open RPC a node, for the length of a test."""

    def __init__(self, network: Network, stack: ExitStack) -> None:
        self._all = {name: stack.enter_context(network.rpc(name)) for name in network.names}

    def __getitem__(self, name: str) -> HttpChainRpc:
        return self._all[name]


@pytest.fixture
def rpcs(network: Network) -> Iterator[Rpcs]:
    with ExitStack() as stack:
        yield Rpcs(network, stack)


class ProcessFleet:
    """Answers as a supervisor would, from the network's processes."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def status(self, unit: str, zone: str) -> UnitStatus:
        del zone
        process = self._network.processes.get(unit)
        running = process is not None and process.poll() is None
        return UnitStatus(
            unit,
            "running" if running else "stopped",
            process.pid if process else None,
            dt.datetime.now(dt.UTC),
            None,
            "running" if running else "stopped",
        )


class LocalFiles:
    def __init__(self, network: Network) -> None:
        self._network = network

    def home(self, node: Node) -> Path:
        return self._network.home(node.name)


def node(network: Network, name: str) -> Node:
    return Node(
        name=name,
        region="us-east",
        zone="us-east-1a",
        role="validator",
        rpc=network.url(name),
        p2p="127.0.0.1:1",
        home=network.home(name),
        unit=name,
        power=1,
        address=network.made[name]["validator_address"],
    )


def fenced(network: Network, name: str) -> FenceProof:
    return prove_stopped(
        cast("Fleet", ProcessFleet(network)), node(network, name), clock=lambda: dt.datetime.now(dt.UTC)
    )


def signs_again(rpc: HttpChainRpc, address: bytes, above: int) -> bool:
    tip = rpc.status().latest_height
    return any(
        sig.address == address and sig.flag is Flag.COMMIT
        for height in range(above, tip)
        for sig in rpc.commit(Height(height)).commit.signatures
    )


def no_evidence(rpc: HttpChainRpc, first: int) -> bool:
    return not any(rpc.block(Height(h)).evidence for h in range(first, rpc.status().latest_height + 1))


def test_the_block_that_two_thirds_prevoted_is_the_one_that_is_committed(rpcs: Rpcs) -> None:
    node = rpcs["val0"]
    valid: dict[Height, bytes] = {}

    def is_shown() -> bool:
        """Only between the prevotes and the commit of a height."""
        state = node.consensus_state()
        if state.valid_block:
            valid[state.height] = state.valid_block
        return len(valid) >= 2

    eventually(is_shown, "a block that was prevoted")
    last = max(valid)
    eventually(lambda: node.status().latest_height >= last, f"block {last}")
    assert {height: node.block(height).hash for height in valid} == valid


def test_headers_of_a_real_network_verify_and_the_next_block_is_waited_for(
    network: Network, rpcs: Rpcs, tmp_path: Path
) -> None:
    light = LightClient(network.chain(), [rpcs["val0"], rpcs["full0"]], tmp_path)
    tip = light.verified_tip()

    assert rpcs["val2"].commit(tip.height).header == tip.header
    following = Height(tip.height + 1)
    assert light.verified_header(following).app_hash == rpcs["val3"].commit(following).header.app_hash.hex().upper()
    assert light.verified_header(Height(2)).height == 2


def test_a_node_of_another_real_chain_is_refused(network: Network, rpcs: Rpcs, tmp_path: Path) -> None:
    with pytest.raises(VerificationFailedError, match="chain id"):
        LightClient(network.chain(chain_id="other-1"), [rpcs["val0"], rpcs["full0"]], tmp_path).verified_tip()


def test_a_running_validator_is_not_fenced(network: Network) -> None:
    with pytest.raises(RefusedError, match="not fenced"):
        fenced(network, "val0")


def test_a_killed_validator_goes_on_from_its_own_final_state(network: Network, rpcs: Rpcs) -> None:
    network.stop("val1", kill=True)
    proof = fenced(network, "val1")
    tip = observe_tip(proof, [rpcs["val0"], rpcs["full0"]], chain_id=CHAIN_ID)
    seen = observe_votes(proof, tip, [rpcs["val0"], rpcs["val2"], rpcs["val3"]])
    floor = floor_from_final_state(read_final_state(proof, LocalFiles(network)), seen)
    state = apply_floor(floor, network.home("val1") / "data" / FILE_NAME)
    network.start("val1")

    assert holds(floor, state)
    assert seen.highest is not None
    eventually(lambda: signs_again(rpcs["full0"], proof.address, tip.height + 2), "val1 signs again")
    assert no_evidence(rpcs["full0"], tip.height)


def test_a_validator_whose_sign_state_is_lost_starts_above_the_floor_and_signs_nothing_twice(
    network: Network, rpcs: Rpcs
) -> None:
    network.stop("val0", kill=True)
    state_file = network.home("val0") / "data" / FILE_NAME
    state_file.unlink()
    proof = fenced(network, "val0")
    tip = observe_tip(proof, [rpcs["val2"], rpcs["full0"]], chain_id=CHAIN_ID)
    quiet = observe_quiet(proof, tip, rpcs["full0"], deadline_s=90)
    floor = floor_while_moving(tip, quiet, observe_votes(proof, tip, [rpcs["val2"], rpcs["val3"]]))
    apply_floor(floor, state_file)
    network.start("val0")

    eventually(lambda: signs_again(rpcs["full0"], proof.address, quiet.last), "val0 signs again")
    assert not signs_again_between(rpcs["full0"], proof.address, tip.height + 2, floor.state.height)
    assert read_sign_state(state_file).hrs > floor.state.hrs
    assert no_evidence(rpcs["full0"], tip.height)


def signs_again_between(rpc: HttpChainRpc, address: bytes, first: int, end: int) -> bool:
    return any(
        sig.address == address for height in range(first, end) for sig in rpc.commit(Height(height)).commit.signatures
    )


def test_losing_more_than_a_third_halts_the_real_chain_as_assessed(network: Network, rpcs: Rpcs) -> None:
    site = cast("Site", type("Nodes", (), {"nodes": [node(network, f"val{i}") for i in range(4)]}))
    signed = rpcs["full0"].commit(Height(rpcs["full0"].status().latest_height - 1))
    powers = map_power(site, rpcs["full0"].validators(signed.header.height))
    everybody = [member.address for member in powers.members]
    assert online_addresses(signed.commit) <= set(everybody)
    assert assess(powers, everybody, losing=[Domain("node", "val3")]).halted
    assert not assess(powers, everybody, losing=[Domain("node", "val2")]).halted

    network.stop("val3", kill=True)
    proof = fenced(network, "val3")
    tip = observe_tip(proof, [rpcs["val0"], rpcs["full0"]], chain_id=CHAIN_ID)
    with pytest.raises(DeadlineError, match="of 20 quiet commits"):
        observe_quiet(proof, tip, rpcs["full0"], deadline_s=3)
    halted_tip = observe_tip(proof, [rpcs["val0"], rpcs["full0"]], chain_id=CHAIN_ID)
    seen = observe_votes(proof, halted_tip, [rpcs["val0"], rpcs["val1"], rpcs["val2"]])
    apply_floor(
        floor_from_final_state(read_final_state(proof, LocalFiles(network)), seen),
        network.home("val3") / "data" / FILE_NAME,
    )
    network.start("val3")

    eventually(lambda: rpcs["full0"].status().latest_height > halted_tip.height + 2, "the chain goes on", within_s=60)
    assert no_evidence(rpcs["full0"], tip.height)


def test_a_wiped_full_node_comes_back_by_state_sync(network: Network, rpcs: Rpcs, tmp_path: Path) -> None:
    network.reach(25, "val0")
    network.stop("full0")
    plan = StateSyncPlan(network.home("full0"), "inc-1")
    light = LightClient(network.chain(), [rpcs["val0"], rpcs["val1"]], tmp_path)
    prepare(plan, [network.url("val0"), network.url("val1")], light.verified_tip(), trust_period_s=3600)
    network.start("full0")

    caught = wait_caught_up(rpcs["full0"], [rpcs["val0"], rpcs["val1"]], deadline_s=90, stall_s=60)
    finish(plan)
    assert rpcs["full0"].status().earliest_height > 1, "it has no older blocks: it did not block sync"
    info = rpcs["full0"].abci_info()
    assert info.app_hash.hex().upper() == light.verified_header(Height(info.height + 1)).app_hash
    assert caught.height > 20
    assert not plan.kept_data.exists()


def test_a_state_sync_that_stalls_is_noticed_and_undone(network: Network, rpcs: Rpcs, tmp_path: Path) -> None:
    network.stop("full0")
    kept = shutil.copytree(network.home("full0") / "data", tmp_path / "before")
    plan = StateSyncPlan(network.home("full0"), "inc-2")
    light = LightClient(network.chain(), [rpcs["val0"], rpcs["val1"]], tmp_path / "trust")
    # Servers that don't answer, as in a region that was lost after the plan was made.
    prepare(plan, ["http://127.0.0.1:1", "http://127.0.0.1:2"], light.verified_tip(), trust_period_s=3600)
    network.start("full0")
    with pytest.raises(DeadlineError):
        wait_caught_up(rpcs["full0"], [rpcs["val0"]], deadline_s=30, stall_s=4)

    network.stop("full0")
    undo(plan)
    assert {p.name for p in (network.home("full0") / "data").iterdir()} == {p.name for p in kept.iterdir()}
    network.start("full0")
    assert wait_caught_up(rpcs["full0"], [rpcs["val0"]], deadline_s=60, stall_s=30).done
