"""The promotion on real disks and a chain in memory: its order, and its refusals up to the standby's quiet."""

from pathlib import Path
from typing import Any, cast

import pytest
from promotion_world import CHAIN_ID, ORDER, RUN, TIP, World

from vedr.chain.block import Flag
from vedr.chain.sign_state import SignState
from vedr.errors import (
    ConflictError,
    DeadlineError,
    InvalidInputError,
    RefusedError,
    UnavailableError,
)
from vedr.failover.promotion import CHECK_HEIGHT, Patience
from vedr.failover.promotion_stages import (
    Armed,
    Fenced,
    Floored,
    HaltedEvidence,
    KeyReady,
    Locked,
    Observed,
    Order,
    Quieted,
    Watched,
)
from vedr.failover.signer_disk import LocalSignerDisk
from vedr.inventory import Height


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- all goes well


def test_the_key_moves_in_the_order_of_the_protocol(world: World) -> None:
    watched = world.promote()

    assert world.stages == ORDER
    assert watched.signed == 3
    a, b = world.hosts["a"], world.hosts["b"]
    assert (a.running, b.running) == (False, True)
    assert not (a.home / "data").exists()
    floor = watched.armed.floor
    assert floor.hrs == (TIP + 22, 0, 0)
    assert b.state.hrs > floor.hrs
    assert f"double_sign_check_height = {CHECK_HEIGHT}\n" in (b.home / "config" / "config.toml").read_text()
    assert all(evidence["epoch"] == 1 for _, evidence in world.ledger)
    assert world.calls.index("key") > max(i for i, call in enumerate(world.calls) if call == "stop b")


def test_a_copy_of_the_state_raises_the_floor(world: World) -> None:
    world.copies = [SignState(Height(TIP + 30), 2, 1)]
    world.patience = Patience(quiet_s=60.0, still_s=5.0, watch_s=0.3)
    with pytest.raises(DeadlineError, match="signed 0 of 10"):
        world.promote()
    assert world.hosts["b"].state.hrs == (TIP + 31, 0, 0)


def test_a_halted_chain_goes_on_from_the_old_signers_last_state(world: World) -> None:
    world.network.moves = False
    world.network.vote(TIP + 1, 0, 2)
    world.hosts["a"].put(SignState(Height(TIP + 1), 0, 3, b"s", b"m"))

    def start(what: str) -> None:
        if what == "armed":
            world.network.moves = True

    world.fault = start
    world.promote()

    assert world.stages == [stage if stage != "quieted" else "halted" for stage in ORDER]
    evidence = dict(world.ledger)
    assert evidence["armed"]["floor"] == f"{TIP + 1}/0/3"
    assert evidence["armed"]["double_sign_check_height"] == 0


# --- no step without the one before


def test_no_stage_can_be_made_up() -> None:
    for stage, count in (
        (Locked, 2),
        (Fenced, 2),
        (Observed, 3),
        (Quieted, 2),
        (HaltedEvidence, 2),
        (Floored, 2),
        (KeyReady, 3),
        (Armed, 6),
        (Watched, 5),
    ):
        with pytest.raises(RefusedError, match="only made by doing it"):
            cast("Any", stage)(*[None] * count)


def test_nothing_happens_after_a_stage_that_could_not_be_recorded(world: World) -> None:
    for lost in ORDER[:-1]:
        world.ledger.clear()

        def fail(what: str, lost: str = lost) -> None:
            if what == f"before {lost}":
                raise UnavailableError("the ledger does not answer")

        world.fault = fail
        with pytest.raises(UnavailableError):
            world.promote(attempt=ORDER.index(lost) + 1)
        assert world.stages == ORDER[: ORDER.index(lost)]


def test_an_order_names_a_validator_and_counts_attempts(world: World) -> None:
    full = world.hosts["a"].node.model_copy(update={"role": "full"})
    for validator, attempt in ((full, 1), (world.hosts["a"].node, 0)):
        with pytest.raises(InvalidInputError):
            Order(CHAIN_ID, validator, world.hosts["b"].node, RUN, attempt)


# --- lease


@pytest.mark.parametrize("stage", ORDER[:-1])
def test_a_run_that_lost_its_lease_goes_no_step_further(world: World, stage: str) -> None:
    def pass_on(what: str) -> None:
        if what == stage:
            world.epoch = 2

    world.fault = pass_on
    with pytest.raises(ConflictError, match="passed on"):
        world.promote()
    assert world.stages[-1] == stage


def test_the_lease_is_checked_after_the_floor_was_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = LocalSignerDisk.prepare

    def prepare_and_lose(self: LocalSignerDisk, *args: Any, **more: Any) -> SignState:
        world.epoch = 2
        return prepare(self, *args, **more)

    monkeypatch.setattr(LocalSignerDisk, "prepare", prepare_and_lose)
    with pytest.raises(ConflictError, match="passed on"):
        world.promote()
    assert not world.hosts["b"].running
    assert not (world.hosts["b"].home / "data").exists()


# --- fence


def test_a_host_that_does_not_answer_stops_the_promotion_before_the_standby_is_touched(world: World) -> None:
    world.hosts["a"].is_silent = True
    with pytest.raises(UnavailableError, match="a does not answer"):
        world.promote()
    assert world.hosts["b"].running


@pytest.mark.parametrize(
    ("what", "error", "match"),
    [
        ("starts", RefusedError, "unit a is running"),
        ("opens", RefusedError, "signer disk is open"),
        ("signs", RefusedError, "its sign-state was 40/0/3 when it was fenced and is 41/0/1 now"),
        ("hides", UnavailableError, "does not answer"),
    ],
)
def test_a_fence_that_opens_before_arming_is_seen(world: World, what: str, error: type[Exception], match: str) -> None:
    host = world.hosts["a"]

    def change(stage: str) -> None:
        if stage != "key_ready":
            return
        fenced = next(host.home.glob("data.fenced*"))
        match what:
            case "starts":
                host.running = True
            case "opens":
                fenced.rename(host.home / "data")
            case "signs":
                (fenced / "priv_validator_state.json").write_bytes(SignState(Height(41), 0, 1).to_json())
            case _:
                host.is_silent = True

    world.fault = change
    with pytest.raises(error, match=match):
        world.promote()
    assert not world.hosts["b"].running


# --- observe, quiet


def test_a_signature_between_quiet_and_arming_is_seen(world: World) -> None:
    def sign(stage: str) -> None:
        if stage == "quieted":
            world.network.signed[world.network.tip] = (0, Flag.NIL)
            world.network.tip += 1

    world.fault = sign
    with pytest.raises(RefusedError, match="signed height 62 after it was fenced"):
        world.promote()


def test_a_vote_after_the_fence_is_seen_before_a_block_holds_it(world: World) -> None:
    def sign(stage: str) -> None:
        if stage == "quieted":
            world.network.vote(world.network.tip + 1, 0, 1)

    world.fault = sign
    with pytest.raises(RefusedError, match="signed 63/0/1 after it was fenced"):
        world.promote()


def test_a_node_that_fell_behind_cannot_tell_quiet_again(world: World) -> None:
    def fall_behind(stage: str) -> None:
        if stage == "quieted":
            for rpc in world.rpcs:
                rpc.lag = 5

    world.fault = fall_behind
    with pytest.raises(RefusedError, match="quiet was seen to 61"):
        world.promote()


def test_a_slow_chain_is_neither_quiet_nor_halted(world: World) -> None:
    world.patience = Patience(quiet_s=1.0, still_s=5.0, watch_s=5.0)
    with pytest.raises(DeadlineError, match="it is slow, not halted"):
        world.promote()


def test_a_halted_chain_in_which_the_validator_votes_on_has_another_signer(world: World) -> None:
    world.network.moves = False
    slept = list[float]()

    def sleep(seconds: float) -> None:
        world.network.now_s += seconds
        slept.append(seconds)
        if seconds == world.patience.still_s:
            world.network.vote(TIP + 1, 1, 2)

    world.network.sleep = sleep  # type: ignore[method-assign]
    with pytest.raises(RefusedError, match=r"voted .* after it was fenced"):
        world.promote()


@pytest.mark.parametrize(
    ("change", "match"), [("block", "is at 41 now"), ("vote", "signed 41/0/2 after it was fenced")]
)
def test_what_happens_on_a_halted_chain_before_arming_is_seen(world: World, change: str, match: str) -> None:
    world.network.moves = False

    def happen(stage: str) -> None:
        if stage == "key_ready" and change == "block":
            world.network.tip += 1
        elif stage == "key_ready":
            world.network.vote(TIP + 1, 0, 2)

    world.fault = happen
    with pytest.raises(RefusedError, match=match):
        world.promote()
