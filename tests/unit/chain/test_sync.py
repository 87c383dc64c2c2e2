import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest
from chainmaker import FakeTime, MadeNode, make_chain
from hypothesis import given, settings
from hypothesis import strategies as st

from vedr.chain import light
from vedr.chain.light import VerifiedHeader
from vedr.chain.node_config import edit_section
from vedr.chain.rpc import ChainRpc, Status
from vedr.chain.sign_state import FILE_NAME, SignState, read_sign_state, write_sign_state
from vedr.chain.state_sync import StateSyncPlan, finish, prepare, undo
from vedr.chain.sync import CatchUp, Measured, Situation, choose, predict, wait_caught_up, wait_for_height
from vedr.errors import CorruptError, DeadlineError, InvalidInputError, NotFoundError, VerificationFailedError
from vedr.inventory import Height

CHAIN = make_chain(60, lambda _: {1: 10})
RATES = Measured(apply_blocks_per_s=101, chain_blocks_per_s=1, state_sync_bytes_per_s=10e6, restore_bytes_per_s=100e6)
HERE = Situation(
    local_height=Height(9_000),
    tip=Height(10_000),
    earliest_served=Height(1),
    chain_moves=True,
    state_sync_servers=2,
    state_sync_height=Height(9_950),
    state_sync_bytes=100_000_000,
    snapshot_height=Height(5_000),
    snapshot_bytes=1_000_000_000,
)


def test_a_small_gap_is_closed_by_block_sync() -> None:
    best = choose(HERE, RATES)
    assert (best.method, best.took_s) == ("block-sync", 13.0)


def test_a_wiped_node_with_small_state_uses_state_sync_and_with_large_state_a_snapshot() -> None:
    wiped = replace(HERE, local_height=Height(0))
    assert choose(wiped, RATES).method == "state-sync"
    assert choose(replace(wiped, state_sync_bytes=10**11), RATES).method == "snapshot"


@pytest.mark.parametrize(
    ("changes", "method", "reason"),
    [
        ({"local_height": Height(0), "earliest_served": Height(500)}, "block-sync", "blocks 1 to 499"),
        ({"chain_moves": False}, "state-sync", "halted"),
        ({"state_sync_servers": 1}, "state-sync", "1 RPC servers"),
        ({"state_sync_height": None}, "state-sync", "no peer offers"),
        ({"snapshot_height": None}, "snapshot", "no verified snapshot"),
        ({"earliest_served": Height(7000)}, "snapshot", "no peer keeps the blocks after 5000"),
    ],
)
def test_a_way_that_cannot_be_gone_says_why_and_comes_last(
    changes: dict[str, object], method: str, reason: str
) -> None:
    ways = predict(replace(HERE, **changes), RATES)  # type: ignore[arg-type]
    [blocked] = [way for way in ways if way.method == method]
    assert blocked.took_s is None
    assert reason in blocked.reason
    assert ways[-1].took_s is None


def test_a_node_slower_than_the_chain_never_arrives_except_at_a_halted_tip() -> None:
    slow = replace(RATES, apply_blocks_per_s=0.5)
    with pytest.raises(VerificationFailedError, match="no way back"):
        choose(HERE, slow)
    assert choose(replace(HERE, chain_moves=False), slow).took_s is not None
    assert choose(replace(HERE, local_height=Height(10_000)), slow).took_s == 3.0


@settings(deadline=None, max_examples=50)
@given(gap=st.integers(0, 10**6), more=st.integers(0, 10**6), rate=st.floats(2, 1000), size=st.integers(0, 10**12))
def test_a_longer_gap_never_takes_less_time(gap: int, more: int, rate: float, size: int) -> None:
    def times(extra: int) -> dict[str, float | None]:
        tip = Height(10**7 + gap + extra)
        situation = replace(HERE, local_height=Height(10**7), tip=tip, snapshot_bytes=size)
        return {way.method: way.took_s for way in predict(situation, replace(RATES, apply_blocks_per_s=rate))}

    near, far = times(0), times(more)
    assert all((near[way] or 0) <= (far[way] or 0) for way in near)


# --- waiting


@dataclass
class Syncing(MadeNode):
    catching_up: bool = False

    def status(self) -> Status:
        return replace(super().status(), catching_up=self.catching_up)


def node(name: str, **state: object) -> Syncing:
    return Syncing(name, CHAIN, **state)  # type: ignore[arg-type]


def wait(
    waiting: Syncing, *references: Syncing, waits: list[Callable[[], None]] | None = None, **more: object
) -> CatchUp:
    clock = FakeTime(0, waits or [])
    arguments = {"deadline_s": 60.0, "stall_s": 10.0, "sleep": clock.sleep, "monotonic": clock.monotonic, **more}
    return wait_caught_up(cast("ChainRpc", waiting), references, **arguments)  # type: ignore[arg-type]


def test_a_node_near_the_tip_and_in_sync_has_caught_up() -> None:
    assert wait(node("n", tip=58), node("a", tip=60), node("b", tip=40)).tip == 60


def test_it_is_waited_for_while_it_grows_and_progress_is_told() -> None:
    waiting, seen = node("n", tip=1, catching_up=True, down=True), list[int]()

    def up() -> None:
        waiting.down = False

    def grow() -> None:
        waiting.tip = 59

    def done() -> None:
        waiting.catching_up = False

    caught = wait(waiting, node("a"), waits=[up, grow, done], progress=lambda at: seen.append(at.height))
    assert caught.height == 59
    assert seen == [1, 59, 59]


@pytest.mark.parametrize(
    ("waiting", "reference", "said"),
    [
        (node("n", tip=7, catching_up=True), node("a"), "no progress, for 10 s at height 7, the tip is 60"),
        (node("n", tip=7), node("a"), "no progress"),
        (node("n", down=True), node("a"), "no answer"),
        (node("n"), node("a", down=True), "no answer"),
    ],
)
def test_a_stall_is_noticed_so_that_the_caller_can_fall_back(waiting: Syncing, reference: Syncing, said: str) -> None:
    with pytest.raises(DeadlineError, match=said):
        wait(waiting, reference)


def test_bytes_that_arrive_are_progress_but_the_deadline_stands() -> None:
    grown = iter(range(10**6))
    with pytest.raises(DeadlineError, match="not in sync after 60 s"):
        wait(node("n", tip=7, catching_up=True), node("a"), activity=lambda: next(grown))


def test_by_default_real_time_is_used() -> None:
    assert wait_caught_up(cast("ChainRpc", node("n")), [node("a")], deadline_s=1, stall_s=1).done


def test_a_height_is_waited_for_and_a_chain_that_stands_still_is_named() -> None:
    waiting = node("n", tip=7)

    def grow() -> None:
        waiting.tip = 9

    clock = FakeTime(0, [grow])
    shown = wait_for_height(waiting, Height(8), deadline_s=5, sleep=clock.sleep, monotonic=clock.monotonic)
    assert shown == 9
    for silent, said in ((waiting, "n stands at 9"), (node("m", down=True), "m does not answer")):
        with pytest.raises(DeadlineError, match=said):
            wait_for_height(silent, Height(10), deadline_s=5, sleep=clock.sleep, monotonic=clock.monotonic)


# --- state sync


CONFIG = """\
# CometBFT's own comment
moniker = "full-0"

[statesync] # how to join
# an explanation
enable = false
rpc_servers = ""
trust_height = 0
trust_hash = ""
trust_period = "168h0m0s"
temp_dir = ""

[storage]
enable = "of another section"
"""
SERVERS = ("http://a:26657", "http://b:26657")


@pytest.fixture
def plan(tmp_path: Path) -> StateSyncPlan:
    made = StateSyncPlan(tmp_path, "inc-1")
    made.config.parent.mkdir()
    made.config.write_text(CONFIG)
    made.data.mkdir()
    (made.data / "blockstore.db").write_text("old blocks")
    write_sign_state(made.data / FILE_NAME, SignState(Height(40), 0, 3))
    return made


def trusted() -> VerifiedHeader:
    return light._sealed(CHAIN[50].header)


def test_preparing_edits_only_its_section_and_keeps_the_data_aside(plan: StateSyncPlan) -> None:
    for _ in range(2):  # again, as after a crash
        prepare(plan, SERVERS, trusted(), trust_period_s=3600)

    text = plan.config.read_text()
    assert tomllib.loads(text)["statesync"] == {
        "enable": True,
        "rpc_servers": "http://a:26657,http://b:26657",
        "trust_height": 50,
        "trust_hash": CHAIN[50].header.hash().hex().upper(),
        "trust_period": "3600s",
        "temp_dir": "",
    }
    assert "# CometBFT's own comment" in text
    assert tomllib.loads(text)["storage"] == {"enable": "of another section"}
    assert (plan.kept_data / "blockstore.db").read_text() == "old blocks"
    assert [path.name for path in plan.data.iterdir()] == [FILE_NAME]
    assert read_sign_state(plan.data / FILE_NAME).hrs == (40, 0, 3)


def test_undoing_puts_everything_back_and_keeps_the_higher_sign_state(plan: StateSyncPlan) -> None:
    prepare(plan, SERVERS, trusted(), trust_period_s=3600)
    write_sign_state(plan.data / FILE_NAME, SignState(Height(51), 0, 1))
    for _ in range(2):
        undo(plan)

    assert plan.config.read_text() == CONFIG
    assert (plan.data / "blockstore.db").read_text() == "old blocks"
    assert read_sign_state(plan.data / FILE_NAME).hrs == (51, 0, 1)
    assert sorted(path.name for path in plan.home.iterdir()) == ["config", "data"]


@pytest.mark.parametrize("killed_after", ["config kept", "config edited", "data set aside", "data made"])
def test_a_preparation_killed_half_way_can_be_undone_or_repeated(plan: StateSyncPlan, killed_after: str) -> None:
    steps = ["config kept", "config edited", "data set aside", "data made"]
    done = steps[: steps.index(killed_after) + 1]
    plan.kept_config.write_text(CONFIG)
    if "config edited" in done:
        plan.config.write_text(edit_section(CONFIG, "statesync", {"enable": True}))
    if "data set aside" in done:
        plan.data.rename(plan.kept_data)
    if "data made" in done:
        plan.data.mkdir()

    prepare(plan, SERVERS, trusted(), trust_period_s=3600)
    assert read_sign_state(plan.data / FILE_NAME).hrs == (40, 0, 3)
    undo(plan)
    assert (plan.data / "blockstore.db").read_text() == "old blocks"
    assert plan.config.read_text() == CONFIG


def test_undoing_after_only_the_data_was_set_aside_brings_it_back(plan: StateSyncPlan) -> None:
    plan.data.rename(plan.kept_data)
    undo(plan)
    assert (plan.data / "blockstore.db").read_text() == "old blocks"


def test_finishing_drops_the_old_data_and_switches_state_sync_off(plan: StateSyncPlan) -> None:
    prepare(plan, SERVERS, trusted(), trust_period_s=3600)
    for _ in range(2):
        finish(plan)
    assert plan.config.read_text() == CONFIG
    assert not plan.kept_data.exists()
    assert plan.data.exists()


def test_a_node_that_never_signed_has_no_state_to_carry(plan: StateSyncPlan) -> None:
    (plan.data / FILE_NAME).unlink()
    prepare(plan, SERVERS, trusted(), trust_period_s=3600)
    assert not list(plan.data.iterdir())


def test_what_cannot_be_prepared_changes_nothing(plan: StateSyncPlan) -> None:
    with pytest.raises(InvalidInputError, match="2 different"):
        prepare(plan, SERVERS[:1] * 2, trusted(), trust_period_s=1)
    for text in (
        "x = [",
        "[other]\n",
        "[statesync]\n'enable' = false\n",
        "statesync = {enable = false}\n[x]\nenable = 1\n",
    ):
        plan.config.write_text(text)
        with pytest.raises(CorruptError, match=r"config\.toml"):
            prepare(plan, SERVERS, trusted(), trust_period_s=1)
    plan.config.unlink()
    with pytest.raises(NotFoundError, match=r"config\.toml"):
        prepare(plan, SERVERS, trusted(), trust_period_s=1)
    assert (plan.data / "blockstore.db").exists()
    assert not plan.kept_config.exists()


def test_an_incident_that_is_no_name_is_refused(tmp_path: Path) -> None:
    for incident in ("", "../x", "a/b"):
        with pytest.raises(InvalidInputError):
            StateSyncPlan(tmp_path, incident)


@settings(deadline=None, max_examples=50)
@given(value=st.text(alphabet=st.characters(blacklist_categories=["Cs", "Cc"]), max_size=30))
def test_any_printable_value_reads_back(value: str) -> None:
    edited = edit_section(CONFIG, "statesync", {"rpc_servers": value, "new_key": 5})
    assert tomllib.loads(edited)["statesync"]["rpc_servers"] == value
