import datetime as dt
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest
from chainmaker import CHAIN_ID, FakeTime, MadeNode, address, make_chain
from hypothesis import given, settings
from hypothesis import strategies as st

from vedr.chain import fence
from vedr.chain.fence import (
    FencedTip,
    FenceProof,
    FinalState,
    Quiet,
    SeenVotes,
    observe_quiet,
    observe_tip,
    observe_votes,
    prove_stopped,
    read_final_state,
)
from vedr.chain.floor import (
    Floor,
    apply_floor,
    floor_from_final_state,
    floor_while_moving,
    holds,
    refuse_while_halted,
)
from vedr.chain.rpc import ChainRpc, ConsensusState, SeenVote, Status
from vedr.chain.sign_state import FILE_NAME, SignState, read_sign_state
from vedr.errors import (
    CorruptError,
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VerificationFailedError,
)
from vedr.inventory import Height, Node
from vedr.ports import Fleet, UnitStatus

NOW = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
VALIDATOR = 4
POWERS = {1: 10, 2: 10, 3: 10, VALIDATOR: 10}
FENCED_AT = 30
SILENT = make_chain(80, lambda _: POWERS, signers_at=lambda h: [1, 2, 3] if h > FENCED_AT else [1, 2, 3, 4])
ALIVE = make_chain(80, lambda _: POWERS)


def node(**changes: object) -> Node:
    return Node(
        name="val-us-0",
        region="us-east",
        zone="us-east-1a",
        role="validator",
        rpc="http://h:1",
        p2p="h:2",
        home=Path("/nowhere"),
        unit="val-us-0",
        power=10,
        address=address(VALIDATOR).hex().upper(),
    ).model_copy(update=changes)


@dataclass
class Supervisor:
    """The part of a fleet that a fence asks."""

    answer: UnitStatus | Exception

    def status(self, unit: str, zone: str) -> UnitStatus:
        assert (unit, zone) == ("val-us-0", "us-east-1a")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


STOPPED = UnitStatus("val-us-0", "stopped", None, NOW, 0, "stopped")


def proof(answer: UnitStatus | Exception = STOPPED, *, at: dt.datetime = NOW) -> FenceProof:
    return prove_stopped(cast("Fleet", Supervisor(answer)), node(), clock=lambda: at)


@dataclass
class Survivor(MadeNode):
    """A node that also shows its votes."""

    votes: tuple[SeenVote, ...] = ()
    catching_up: bool = False
    own_address: bytes = b""

    def status(self) -> Status:
        return replace(super().status(), catching_up=self.catching_up, validator_address=self.own_address)

    def consensus_state(self) -> ConsensusState:
        self._reach("consensus_state")
        return ConsensusState(Height(self.height + 1), 0, 1, self.blocks[1].validators, self.votes)


def survivor(name: str, blocks: object = SILENT, **more: object) -> ChainRpc:
    return cast("ChainRpc", Survivor(name, blocks, **more))  # type: ignore[arg-type]


def tip_of(fenced: FenceProof, height: int = FENCED_AT) -> FencedTip:
    return observe_tip(fenced, [survivor("a", tip=height), survivor("b", tip=height)], chain_id=CHAIN_ID)


def vote(height: int, round_: int, step: int, who: int = VALIDATOR) -> SeenVote:
    return SeenVote(address(who), Height(height), round_, step, for_nil=False)


# --- fence


@pytest.mark.parametrize(
    "status",
    [
        UnitStatus("val-us-0", "running", 7, NOW, None, "running"),
        UnitStatus("val-us-0", "running", 7, NOW, None, "stopped"),
        UnitStatus("val-us-0", "paused", 7, NOW, None, "stopped"),
        UnitStatus("val-us-0", "failed", None, NOW, 1, "running"),
        UnitStatus("val-us-0", "stopped", None, NOW, 0, "running"),
        UnitStatus("val-us-0", "stopped", 7, NOW, 0, "stopped"),
    ],
)
def test_a_unit_that_runs_or_may_run_again_is_no_fence(status: UnitStatus) -> None:
    with pytest.raises(RefusedError, match="not fenced"):
        proof(status)


def test_a_host_that_does_not_answer_is_no_fence() -> None:
    with pytest.raises(UnavailableError):
        proof(UnavailableError("no route"))


def test_a_stopped_unit_or_one_that_failed_and_stays_so_is_a_fence() -> None:
    assert proof().address == address(VALIDATOR)
    assert "failed" in proof(replace(STOPPED, state="failed")).evidence


def test_only_validators_are_fenced() -> None:
    full = node(role="full", power=0, address="")
    with pytest.raises(InvalidInputError, match="no signer"):
        prove_stopped(cast("Fleet", Supervisor(STOPPED)), full, clock=lambda: NOW)


def test_no_observation_can_be_made_up() -> None:
    fenced, zero = proof(), Height(0)
    for make in (
        lambda: FenceProof(node(), NOW, ()),
        lambda: FinalState(fenced, SignState(zero, 0, 0)),
        lambda: FencedTip(fenced, zero, ()),
        lambda: Quiet(fenced, zero, zero),
        lambda: SeenVotes(fenced, None, ()),
        lambda: Floor(fenced, SignState(zero, 0, 0), "", replaces_corrupt=True),
    ):
        with pytest.raises(RefusedError):
            make()


# --- tip


def test_the_tip_is_the_highest_that_two_independent_nodes_show() -> None:
    assert observe_tip(proof(), [survivor("a", tip=40), survivor("b", tip=42)], chain_id=CHAIN_ID).height == 42


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"down": True}, "connection refused"),
        ({"chain_id": "other-1"}, "is on chain other-1"),
        ({"catching_up": True}, "is catching up"),
        ({"own_address": address(VALIDATOR)}, "is the fenced validator itself"),
        ({"node_id": "a"}, "1 nodes tell it"),
        ({"tip": 36}, "36 to 40"),
    ],
)
def test_one_witness_of_the_tip_is_none(second: dict[str, object], reason: str) -> None:
    with pytest.raises(VerificationFailedError, match=reason):
        observe_tip(proof(), [survivor("a", tip=40), survivor("b", **{"tip": 40, **second})], chain_id=CHAIN_ID)


# --- quiet


def watch(blocks: object = SILENT, **options: object) -> Quiet:
    clock, fenced = FakeTime(0), proof()
    arguments = {"deadline_s": 60.0, "sleep": clock.sleep, "monotonic": clock.monotonic, **options}
    return observe_quiet(fenced, tip_of(fenced), survivor("a", blocks), **arguments)  # type: ignore[arg-type]


def test_twenty_commits_without_the_validator_are_quiet() -> None:
    seen: list[tuple[int, int]] = []
    quiet = watch(progress=lambda done, of: seen.append((done, of)))

    assert (quiet.first, quiet.last) == (32, 51)
    assert seen[-1] == (20, 20)


def test_a_single_signature_ends_it() -> None:
    awake = {**SILENT, 45: ALIVE[45]}
    with pytest.raises(RefusedError, match="signed height 45"):
        watch(awake)


def test_a_validator_outside_the_set_cannot_be_seen_to_be_quiet() -> None:
    without = make_chain(80, lambda h: POWERS if h < 40 else {1: 10, 2: 10, 3: 10}, signers_at=lambda _: [1, 2, 3])
    with pytest.raises(RefusedError, match="not in the validator set of height 40"):
        watch(without)


def test_a_chain_that_stands_still_gives_no_quiet() -> None:
    short = {height: SILENT[height] for height in range(1, 41)}
    with pytest.raises(DeadlineError, match="8 of 20"):
        watch(short)


def test_fewer_than_twenty_commits_or_an_older_tip_are_refused() -> None:
    with pytest.raises(InvalidInputError):
        watch(commits=19)
    with pytest.raises(InvalidInputError):
        observe_quiet(proof(at=NOW + dt.timedelta(1)), tip_of(proof()), survivor("a"), deadline_s=1)


# --- votes


def test_the_highest_vote_that_any_survivor_holds_counts() -> None:
    fenced = proof()
    seen = observe_votes(
        fenced,
        tip_of(fenced, 40),
        [
            survivor("a", tip=40, votes=(vote(41, 0, 2), vote(41, 1, 2), vote(41, 5, 3, who=1))),
            survivor("b", tip=40, down=True),
        ],
    )
    assert seen.highest == (41, 1, 2)
    assert seen.observers == ("a",)


def test_without_votes_the_last_commit_with_a_signature_counts() -> None:
    fenced = proof()
    assert observe_votes(fenced, tip_of(fenced, 40), [survivor("a", tip=40)]).highest == (FENCED_AT, 0, 3)
    assert observe_votes(fenced, tip_of(fenced, 80), [survivor("a")], lookback=5).highest is None
    pruned = {height: SILENT[height] for height in range(38, 81)} | {1: SILENT[1]}
    assert observe_votes(fenced, tip_of(fenced, 80), [survivor("a", pruned)]).highest is None


def test_the_commits_of_a_survivor_some_blocks_behind_the_tip_count_too() -> None:
    fenced = proof()
    assert observe_votes(fenced, tip_of(fenced, 33), [survivor("a", tip=31)]).highest == (FENCED_AT, 0, 3)


def test_no_survivor_is_a_failure() -> None:
    fenced = proof()
    for survivors in ([], [survivor("a", down=True)]):
        with pytest.raises(VerificationFailedError, match="no survivor"):
            observe_votes(fenced, tip_of(fenced), survivors)


# --- floor


def final_state(state: SignState, tmp_path: Path, fenced: FenceProof) -> FinalState:
    (tmp_path / "data").mkdir(parents=True, exist_ok=True)
    (tmp_path / "data" / FILE_NAME).write_bytes(state.to_json())

    class Local:
        def home(self, _: Node) -> Path:
            return tmp_path

    return read_final_state(fenced, Local())


def made(fenced: FenceProof, tip: int, highest: tuple[int, int, int] | None) -> tuple[FencedTip, Quiet, SeenVotes]:
    """Observations with these values, as the functions above would have made them."""
    return (
        FencedTip(fenced, Height(tip), ("a", "b"), seal=fence._SEAL),
        Quiet(fenced, Height(tip + 2), Height(tip + 21), seal=fence._SEAL),
        SeenVotes(fenced, highest, ("a",), seal=fence._SEAL),
    )


HRS = st.tuples(st.integers(1, 10**9), st.integers(0, 50), st.integers(1, 3))


@settings(deadline=None, max_examples=25)
@given(tip=st.integers(1, 10**9), seen=st.none() | HRS, surviving=st.none() | HRS)
def test_a_floor_on_a_moving_chain_is_above_all_that_the_key_may_have_signed(
    tip: int, seen: tuple[int, int, int] | None, surviving: tuple[int, int, int] | None
) -> None:
    old = SignState(Height(surviving[0]), *surviving[1:]) if surviving else None
    floor = floor_while_moving(*made(proof(), tip, seen), surviving=old)

    possible = [(tip + 1, 2**31 - 1, 3), *([seen] if seen else []), *([surviving] if surviving else [])]
    assert all(floor.state.hrs > hrs for hrs in possible)
    quiet_to = tip + 21
    assert floor.state.hrs == (max(quiet_to, *(hrs[0] for hrs in possible)) + 1, 0, 0)


def test_the_signers_own_final_state_is_the_floor(tmp_path: Path) -> None:
    fenced = proof()
    own = SignState(Height(41), 0, 3, b"sig", b"msg")
    floor = floor_from_final_state(final_state(own, tmp_path, fenced), made(fenced, 40, (41, 0, 2))[2])

    assert apply_floor(floor, tmp_path / "data" / FILE_NAME) == own
    assert floor_from_final_state(final_state(own, tmp_path, fenced), made(fenced, 40, None)[2]).state == own


def test_a_final_state_below_what_survivors_hold_was_not_final(tmp_path: Path) -> None:
    fenced = proof()
    final = final_state(SignState(Height(41), 0, 2), tmp_path, fenced)
    with pytest.raises(RefusedError, match="survivors hold its vote 41/0/3"):
        floor_from_final_state(final, made(fenced, 40, (41, 0, 3))[2])


def test_a_final_state_below_what_was_shipped_of_it_was_not_final(tmp_path: Path) -> None:
    fenced = proof()
    final = final_state(SignState(Height(41), 0, 2), tmp_path, fenced)
    nothing_seen = made(fenced, 40, None)[2]
    shipped = [SignState(Height(39), 0, 3), SignState(Height(41), 0, 3)]
    with pytest.raises(RefusedError, match="41/0/3 was shipped from it"):
        floor_from_final_state(final, nothing_seen, shipped)
    assert floor_from_final_state(final, nothing_seen, shipped[:1]).state == final.state


def test_a_lost_or_torn_state_is_no_final_state(tmp_path: Path) -> None:
    class Local:
        def home(self, _: Node) -> Path:
            return tmp_path

    with pytest.raises(NotFoundError):
        read_final_state(proof(), Local())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / FILE_NAME).write_bytes(b"")
    with pytest.raises(CorruptError):
        read_final_state(proof(), Local())


def test_a_halted_chain_without_the_final_state_is_refused_and_the_known_named() -> None:
    tip, _, seen = made(proof(), 40, (41, 1, 2))
    assert "41/1/2" in refuse_while_halted(tip, seen).message
    assert "50/0/1" in refuse_while_halted(tip, seen, SignState(Height(50), 0, 1)).message
    assert "0/0/0" in refuse_while_halted(*made(proof(), 40, None)[::2]).message


def test_observations_of_different_fences_are_never_mixed(tmp_path: Path) -> None:
    older, newer = proof(), proof(at=NOW + dt.timedelta(seconds=1))
    tip, quiet, seen = made(older, 40, None)
    _, quiet_2, seen_2 = made(newer, 40, None)
    with pytest.raises(RefusedError, match="two fences"):
        floor_while_moving(tip, quiet_2, seen)
    with pytest.raises(RefusedError, match="two fences"):
        floor_while_moving(tip, quiet, seen_2)
    with pytest.raises(RefusedError, match="two fences"):
        floor_from_final_state(final_state(SignState(Height(1), 0, 0), tmp_path, older), seen_2)


@settings(deadline=None, max_examples=25)
@given(tip=st.integers(1, 100), live=st.none() | st.tuples(st.integers(0, 200), st.integers(0, 2), st.integers(0, 3)))
def test_applying_a_floor_never_lowers_and_may_be_repeated(
    tmp_path_factory: pytest.TempPathFactory, tip: int, live: tuple[int, int, int] | None
) -> None:
    path = tmp_path_factory.mktemp("floor") / "data" / FILE_NAME
    if live:
        path.parent.mkdir()
        path.write_bytes(SignState(Height(live[0]), *live[1:]).to_json())
    floor = floor_while_moving(*made(proof(), tip, None))

    first = apply_floor(floor, path)
    assert apply_floor(floor, path) == first == read_sign_state(path)
    assert first.hrs == max(floor.state.hrs, live or (0, 0, 0))
    assert holds(floor, first)
    assert not holds(floor, SignState(Height(0), 0, 0))


def test_a_standby_that_has_no_state_yet_begins_at_the_floor(tmp_path: Path) -> None:
    path = tmp_path / "data" / FILE_NAME
    floor = floor_while_moving(*made(proof(), 40, (41, 0, 3)))
    assert apply_floor(floor, path) == read_sign_state(path) == floor.state == SignState(Height(62), 0, 0)


def test_an_unreadable_file_is_set_aside_only_by_a_floor_that_stands_without_it(tmp_path: Path) -> None:
    fenced = proof()
    own = floor_from_final_state(final_state(SignState(Height(9), 0, 1), tmp_path, fenced), made(fenced, 8, None)[2])
    path = tmp_path / "data" / FILE_NAME
    path.write_bytes(b"torn")

    with pytest.raises(CorruptError):
        apply_floor(own, path)
    assert path.read_bytes() == b"torn"

    assert apply_floor(floor_while_moving(*made(fenced, 40, None)), path).hrs == (62, 0, 0)
    assert [kept.read_bytes() for kept in path.parent.glob("*.unreadable-*")] == [b"torn"]
