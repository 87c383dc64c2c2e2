"""A vote that the registers hold and that nobody received, on real networks: the chain halts for it, and goes on."""

import signal
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from chain_network import CHAIN_ID, Network, eventually
from chain_signing import REGIONS, SignerProcess, World, WorldMaker
from held_registers import position_of

from vedr.adapters.file_key import parse_key_file
from vedr.adapters.privval_signer import register_of
from vedr.adapters.privval_socket import TcpAddress, dial
from vedr.adapters.site import open_site
from vedr.chain.block import BlockId
from vedr.chain.register import Position
from vedr.chain.rpc import ConsensusState
from vedr.inventory import Height
from vedr.signer.canonical import sign_bytes
from vedr.signer.messages import NO_BLOCK, MessageType, Vote
from vedr.signer.publishing import Entrance, Outcome, Publisher, Try

pytestmark = pytest.mark.server
OURS_FIRST = (20, 15, 15)  # the greatest power proposes first; without val0 no two thirds
THEIRS_FIRST = (20, 25, 5)
PREVOTE_STEP = 4  # cstypes.RoundStepPrevote
PRECOMMIT_STEP = 6
A_DAY_AGO_NS = 1_700_000_000 * 10**9
LOST_BLOCK = BlockId(sha256(b"lost").digest(), 1, sha256(b"with its proposer").digest())


def recorded(kind: MessageType, block: BlockId) -> Position:
    """What a signer left in the registers for the first round of height 1."""
    vote = Vote(kind, 1, 0, block, A_DAY_AGO_NS)
    return position_of(vote.hrs, sign_bytes(vote, CHAIN_ID))


def found(world: World, position: Position) -> None:
    with open_site(str(world.site_file)) as opened:
        register_of(opened, opened.site.node("val0")).found(position)


def state_of(world: World, name: str) -> ConsensusState:
    with world.network.rpc(name) as rpc:
        return rpc.consensus_state()


def is_halted(world: World) -> bool:
    """Whether the others have all prevoted in round 0 of height 1, and wait for val0."""
    state = state_of(world, "full0")
    prevoted = {vote.address for vote in state.votes if vote.step == 2}
    return (state.height, state.round, state.step, len(prevoted)) == (1, 0, PREVOTE_STEP, 2)


def unanswered_votes(signer: SignerProcess) -> list[str]:
    return [one["hrs"] for one in signer.events("refused") if one["kind"] != "proposal"]


def test_a_recorded_nil_prevote_that_nobody_received_halts_the_chain_until_its_bytes_are_known(
    make_signing_world: WorldMaker,
) -> None:
    with make_signing_world(tcp=True, powers=THEIRS_FIRST) as world:
        position = recorded(MessageType.PREVOTE, NO_BLOCK)
        found(world, Position(*position.hrs, position.digest))  # as registers were before they kept the bytes
        first = world.sign("us-east-1a")
        first.holds()
        world.network.start()
        eventually(lambda: first.events("refused"), "val0's node wants to prevote for the block")
        assert first.events("refused")[0]["reason"] == "conflicting_data"
        eventually(lambda: is_halted(world), "everybody else has prevoted")

        with open_site(str(world.site_file)) as opened:
            register_of(opened, opened.site.node("val0")).take_over(2, "test/1", at_least=position).close()
        assert is_halted(world), "nobody leaves this round by himself"
        assert not first.events("published")
        first.signal(signal.SIGKILL)
        first.wait()
        standby = world.sign("eu-west-1a", "--take-over", "--planned")
        eventually(lambda: standby.events("published"), "the recorded vote reaches the network")
        standby.signs_above(2)
        (finished,) = (one for one in standby.events("signed") if one.get("recorded"))
        assert (finished["hrs"], finished["digest"]) == ("1/0/2", position.digest)
        world.nothing_is_signed_twice()


def test_a_recorded_prevote_for_a_block_that_was_lost_with_its_proposer_is_sent_and_the_next_round_decides(
    make_signing_world: WorldMaker,
) -> None:
    with make_signing_world(tcp=False, powers=OURS_FIRST) as world:
        position = recorded(MessageType.PREVOTE, LOST_BLOCK)
        found(world, position)
        signer = world.sign("us-east-1a")
        signer.holds()
        world.network.start()
        signer.signs_above(2)
        assert signer.events("published")[-1]["node"] == "val0"
        assert ("1/0/2", position.digest) in {(one["hrs"], one["digest"]) for one in signer.events("signed")}
        with world.network.rpc("full0") as rpc:
            assert rpc.commit(Height(1)).commit.round > 0
        world.nothing_is_signed_twice()


def test_a_vote_that_no_majority_confirmed_in_time_is_brought_to_the_network_when_the_regions_answer_again(
    make_signing_world: WorldMaker,
) -> None:
    with make_signing_world(tcp=False, powers=OURS_FIRST) as world:
        assert world.vedr("found", "--new-key").returncode == 0
        signer = world.sign("us-east-1a")
        signer.holds()
        world.network.start()
        signer.signs_above(2)
        for server in world.servers[: len(REGIONS) - 1]:
            server.stop()
        eventually(lambda: unanswered_votes(signer), "without a majority no vote is signed, and the chain halts")
        assert not signer.events("published")
        for server in world.servers[: len(REGIONS) - 1]:
            server.start()
        eventually(lambda: signer.events("published"), "it is sent although its node never asks again")
        assert signer.events("published")[0]["hrs"] in unanswered_votes(signer)
        signer.signs_above(world.network.height("full0") + 1)
        world.nothing_is_signed_twice()


def test_a_validator_without_a_node_votes_through_any_other_node_and_what_is_no_vote_of_now_is_not_sent(
    tmp_path: Path,
) -> None:
    """The publisher alone: all kinds of votes that a signer may have to finish, and each reason to leave one."""
    network = Network(tmp_path, powers=OURS_FIRST)
    key = parse_key_file((network.home("val0") / "config" / "priv_validator_key.json").read_bytes(), what="key")
    site_nodes = [Door(network, name) for name in ("val0", "val1", "full0")]
    publisher = Publisher(CHAIN_ID, key.public_key().public_bytes_raw(), [door.entrance for door in site_nodes])

    def cast(kind: MessageType, round_: int, block: BlockId = NO_BLOCK, height: int = 1) -> Try:
        vote = Vote(kind, height, round_, block, time.time_ns())
        return publisher.publish(vote.signed(key.sign(sign_bytes(vote, CHAIN_ID)), vote.time_ns))

    try:
        network.start("val1", "val2", "full0")
        eventually(lambda: at(network, (1, 0, PREVOTE_STEP)), "val1 and val2 have prevoted in round 0")
        sent = cast(MessageType.PREVOTE, 0)
        assert (sent.outcome, sent.node) == (Outcome.PUBLISHED, "val1")
        assert "val0: " in sent.problems[0], "the signer's own node is tried first"
        assert cast(MessageType.PREVOTE, 0).outcome is Outcome.KNOWN
        assert cast(MessageType.PREVOTE, 0, LOST_BLOCK).outcome is Outcome.CONFLICTING
        eventually(lambda: at(network, (1, 0, PRECOMMIT_STEP)), "the round went on for this vote")
        unfounded = cast(MessageType.PRECOMMIT, 0, LOST_BLOCK)
        assert unfounded.outcome is Outcome.NOT_PUBLISHED
        assert "did not see 2/3 prevote" in unfounded.problems[-1]
        assert cast(MessageType.PRECOMMIT, 0).outcome is Outcome.PUBLISHED
        eventually(lambda: at(network, (1, 1, PREVOTE_STEP)), "and the round ended for this one")
        behind = cast(MessageType.PREVOTE, 0, height=2)
        assert behind.outcome is Outcome.NOT_PUBLISHED
        assert "is behind: it decides 1" in behind.problems[-1]
        assert cast(MessageType.PREVOTE, 0, height=0).outcome is Outcome.PASSED
        stranger = replace(publisher, key=bytes(32)).publish(Vote(MessageType.PREVOTE, 1, 1, NO_BLOCK, 0))
        assert "no validator's at 1" in stranger.problems[-1]
        elsewhere = replace(publisher, chain_id="other-1").publish(Vote(MessageType.PREVOTE, 1, 1, NO_BLOCK, 0))
        assert f"of chain {CHAIN_ID}" in elsewhere.problems[-1]
        unsigned = publisher.publish(Vote(MessageType.PREVOTE, 1, 1, NO_BLOCK, 0, signature=bytes(64)))
        assert "does not show it" in unsigned.problems[-1], "the nodes refuse a wrong signature"
    finally:
        network.stop(kill=True)


def at(network: Network, place: tuple[int, int, int]) -> bool:
    with network.rpc("val1") as rpc:
        state = rpc.consensus_state()
    return (state.height, state.round, state.step) == place


class Door:
    """A node of the network as the publisher reaches it."""

    def __init__(self, network: Network, name: str) -> None:
        address = ("127.0.0.1", network.ports[name][0])
        self.entrance = Entrance(
            name, lambda: network.rpc(name), lambda node_id, key: dial(TcpAddress(*address, node_id), key)
        )
