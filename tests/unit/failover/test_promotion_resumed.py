"""A promotion that is interrupted and resumed, and the watch that ends it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from promotion_world import ORDER, OURS, PUBLIC, Network, Rpc, World

from vedr.chain.block import Flag
from vedr.chain.fence import Closed
from vedr.chain.rpc import ChainRpc, Evidence
from vedr.chain.sign_state import SignState
from vedr.errors import (
    ConflictError,
    DeadlineError,
    RefusedError,
    VerificationFailedError,
)
from vedr.failover import promotion
from vedr.failover.promotion_stages import (
    Armed,
)
from vedr.failover.signer_disk import Ticket
from vedr.failover.watch import SecondSignerError, Watching, watch_blocks
from vedr.inventory import Height


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- interrupted and resumed


class Killed(BaseException):
    """kill -9."""


@pytest.mark.parametrize("stage", ORDER)
@pytest.mark.parametrize("moment", ["before ", ""])
def test_a_run_killed_at_any_step_ends_well_when_resumed(world: World, stage: str, moment: str) -> None:
    def die(what: str) -> None:
        if what == moment + stage:
            raise Killed

    world.fault = die
    with pytest.raises(Killed):
        world.promote()
    world.fault = lambda _what: None
    if stage in ("armed", "watched"):
        for _ in range(3):
            world.network.sleep(1)  # the standby signs meanwhile
    before = world.hosts["b"].state.hrs

    watched = world.promote(attempt=2)

    assert watched.signed >= 3
    assert watched.armed.floor.hrs <= world.hosts["b"].state.hrs
    assert world.hosts["b"].state.hrs >= before
    assert not (world.hosts["a"].home / "data").exists()
    assert not list(world.hosts["a"].home.glob("data.fenced-*-0001"))


def armed_once(world: World) -> None:
    def die(what: str) -> None:
        if what == "armed":
            raise Killed

    world.fault = die
    with pytest.raises(Killed):
        world.promote()
    world.fault = lambda _what: None


def test_an_armed_standby_is_taken_up_without_stopping_it(world: World) -> None:
    armed_once(world)
    world.calls.clear()
    world.promote(attempt=2)
    assert "stop b" not in world.calls
    assert world.stages[-2:] == ["locked", "watched"]


def test_an_armed_standby_is_not_trusted_when_anything_changed(world: World) -> None:
    armed_once(world)
    recorded = dict(world.ledger)["armed"]

    def taken_up(evidence: Mapping[str, Any] = recorded, attempt: int = 2) -> Armed | None:
        return promotion.take_up(world.means, promotion.lock(world.means, world.order(attempt)), evidence)

    assert taken_up() is not None
    assert taken_up({}) is None
    assert taken_up({**recorded, "double_sign_check_height": None}).check_height == 0  # type: ignore[union-attr]
    assert taken_up({**recorded, "host": "c"}) is None
    assert taken_up({**recorded, "floor": "999/0/0"}) is None
    world.hosts["b"].running = False
    assert taken_up() is None
    world.hosts["b"].running = True
    world.fault = lambda what: setattr(world.hosts["a"], "running", True) if what == "stop a" else None
    real, world.stop = world.stop, world.status  # type: ignore[method-assign]
    world.hosts["a"].running = True
    assert taken_up() is None
    world.stop, world.hosts["a"].running = real, False  # type: ignore[method-assign]
    world.fault = lambda _what: None
    world.fence_of("b", Ticket(1, 5)).disk.take_away(Ticket(1, 5))
    assert taken_up(attempt=6) is None
    world.epoch = 2
    assert taken_up(attempt=6) is None


# --- watch


def test_evidence_on_the_chain_stops_the_standby_at_once(world: World) -> None:
    def accuse(stage: str) -> None:
        if stage == "armed":
            accused = Evidence("DuplicateVoteEvidence", Height(60), (OURS.address,))
            world.network.evidence = {world.network.tip + 1: accused}

    world.fault = accuse
    with pytest.raises(SecondSignerError, match="holds DuplicateVoteEvidence of height 60 against it"):
        world.promote()
    assert not world.hosts["b"].running
    assert not (world.hosts["b"].home / "data").exists()


def test_a_signature_that_the_standby_did_not_make_stops_it(world: World) -> None:
    def sign(stage: str) -> None:
        if stage == "armed":
            world.network.vote(world.network.tip + 5, 0, 2)

    world.fault = sign
    with pytest.raises(SecondSignerError, match="the standby signed up to 62/0/0 only"):
        world.promote()
    assert not world.hosts["b"].running
    with pytest.raises(RefusedError, match="met a second signer"):
        world.promote(attempt=2)
    assert not world.hosts["b"].running


def test_a_run_that_lost_its_lease_stops_watching(world: World) -> None:
    armed_once(world)

    def pass_on(what: str) -> None:
        if what == "check":
            world.epoch = 2

    world.fault = pass_on
    with pytest.raises(ConflictError):
        world.promote(attempt=2)


def look(network: Network, own: SignState, **rpc: Any) -> Any:
    watching = Watching("val", OURS.address, (50, 0, 0), (45, 0, 3), lambda: own)
    rpcs = cast("list[ChainRpc]", [Rpc(network, "down", is_down=True), Rpc(network, "up", **rpc)])
    return watch_blocks(
        watching,
        rpcs,
        after=Height(network.tip),
        blocks=2,
        deadline_s=3.0,
        still_ours=lambda: None,
        sleep=network.sleep,
        monotonic=lambda: network.now_s,
    )


def test_only_what_the_standby_signed_counts_and_absent_blocks_are_watched_too() -> None:
    network = Network(tip=60, signed={62: (0, Flag.COMMIT), 63: (0, Flag.NIL), 65: (1, Flag.COMMIT)})
    network.evidence = {61: Evidence("DuplicateVoteEvidence", Height(3), (bytes(20),))}
    span = look(network, SignState(Height(70), 0, 0))
    assert (span.first, span.last, span.signed) == (61, 65, 2)


def test_an_old_vote_is_excused_and_one_between_it_and_the_floor_is_not() -> None:
    network = Network(tip=60, signed={61: (0, Flag.COMMIT), 62: (0, Flag.COMMIT)})
    network.vote(45, 0, 3)
    look(network, SignState(Height(70), 0, 0))
    network.vote(47, 0, 1)
    with pytest.raises(SecondSignerError, match=r"47/0/1, which is not above the floor"):
        look(network, SignState(Height(70), 0, 0))


def test_a_watch_that_sees_nothing_does_not_end_well() -> None:
    with pytest.raises(DeadlineError, match="signed 0 of 2 blocks in 3 s; watched to block 60"):
        look(Network(tip=60, moves=False), SignState(Height(70), 0, 0))
    with pytest.raises(DeadlineError):
        look(Network(tip=60), SignState(Height(70), 0, 0), is_down=True)


def test_too_few_observers_are_no_tip(world: World) -> None:
    world.rpcs[1].is_down = True
    with pytest.raises(VerificationFailedError, match="1 nodes tell it"):
        world.promote()


def test_addresses_are_the_keys() -> None:
    assert OURS.address == hashlib.sha256(PUBLIC).digest()[:20]
    assert Closed({}).final is None
