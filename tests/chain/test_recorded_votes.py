"""A vote that the registers hold and that nobody received, on real networks: the chain halts for it, and goes on."""

import signal
from hashlib import sha256

import pytest
from chain_network import CHAIN_ID, eventually
from chain_signing import REGIONS, World, WorldMaker

from vedr.adapters.privval_signer import register_of
from vedr.adapters.site import open_site
from vedr.chain.block import BlockId
from vedr.chain.register import Position
from vedr.chain.register_holding import position_of
from vedr.chain.rpc import ConsensusState
from vedr.inventory import Height
from vedr.signer.canonical import sign_bytes
from vedr.signer.messages import NO_BLOCK, MessageType, Vote

pytestmark = pytest.mark.server
OURS_FIRST = (20, 15, 15)  # the greatest power proposes first; without val0 no two thirds
THEIRS_FIRST = (20, 25, 5)
PREVOTE_STEP = 4  # cstypes.RoundStepPrevote
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
        eventually(lambda: signer.events("refused"), "without a majority nothing is signed")
        assert not signer.events("published")
        for server in world.servers[: len(REGIONS) - 1]:
            server.start()
        signer.signs_above(world.network.height("full0") + 1)
        world.nothing_is_signed_twice()
