"""RB-DR-001's judgement: what counts as down, and which way back is taken."""

import pytest

from vedr.chain.sync import Prediction
from vedr.errors import RefusedError, VerificationFailedError
from vedr.failover.node_failure import Evidence, Judgement, Symptom, Way, WayChoice, choose_way, judge
from vedr.ports import UnitState


def evidence(
    unit: UnitState | None = "running",
    height: int | None = 100,
    tip: int | None = 100,
    *,
    data_opens: bool | None = None,
) -> Evidence:
    return Evidence(
        "full-0", unit, height, catching_up=False, tip=tip, data_opens=data_opens, data_finding="no state.db"
    )


@pytest.mark.parametrize("lag", [0, 10])
def test_a_healthy_node_is_never_recovered(lag: int) -> None:
    with pytest.raises(RefusedError, match="is healthy"):
        judge(evidence(tip=100 + lag))


def test_eleven_blocks_behind_is_a_failure() -> None:
    judgement = judge(evidence(tip=111))
    assert (judgement.symptom, judgement.lag_blocks) == (Symptom.LAGGING, 11)


@pytest.mark.parametrize("height", [None, 100])
def test_an_unreachable_supervisor_confirms_nothing(height: int | None) -> None:
    with pytest.raises(VerificationFailedError, match="unreachable is not proven down"):
        judge(evidence(unit=None, height=height))


def test_nothing_is_confirmed_without_a_tip_to_compare_with() -> None:
    with pytest.raises(VerificationFailedError, match="tip"):
        judge(evidence(tip=None))


def test_a_stopped_unit_whose_rpc_answers_is_a_contradiction() -> None:
    with pytest.raises(VerificationFailedError, match="its RPC answers"):
        judge(evidence(unit="stopped"))


@pytest.mark.parametrize(
    ("unit", "data_opens", "symptom"),
    [
        ("failed", True, Symptom.CRASHED),
        ("stopped", None, Symptom.CRASHED),
        ("failed", False, Symptom.DATA_LOST),
        ("running", None, Symptom.UNRESPONSIVE),
        ("paused", None, Symptom.UNRESPONSIVE),
    ],
)
def test_a_silent_node_is_named_by_what_its_host_says(
    unit: UnitState, data_opens: bool | None, symptom: Symptom
) -> None:
    assert judge(evidence(unit=unit, height=None, data_opens=data_opens)).symptom is symptom


CRASHED = Judgement("full-0", Symptom.CRASHED, "its unit is failed", None)
LOST = Judgement("full-0", Symptom.DATA_LOST, "no state.db", None)
WAYS = (
    Prediction("snapshot", 20.0, "2 GB at 100 MB/s"),
    Prediction("block-sync", 12.0, "from its own data"),
    Prediction("state-sync", None, "only one node offers snapshots"),
)


def test_a_crashed_node_keeps_its_data_and_restarts() -> None:
    assert choose_way(CRASHED, "choose for me", WAYS).way is Way.RESTART


def test_lost_data_takes_the_fastest_open_way() -> None:
    assert choose_way(LOST, "choose for me", WAYS).way is Way.BLOCK_SYNC


def test_the_wanted_way_is_taken() -> None:
    assert choose_way(CRASHED, "snapshot", WAYS).way is Way.SNAPSHOT


@pytest.mark.parametrize(("wanted", "reason"), [("restart", "does not open"), ("state-sync", "only one node")])
def test_a_blocked_way_is_refused_with_its_reason(wanted: WayChoice, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        choose_way(LOST, wanted, WAYS)


def test_a_way_that_nobody_predicted_is_refused() -> None:
    with pytest.raises(RefusedError, match="nobody predicted it"):
        choose_way(CRASHED, "snapshot", ())


def test_no_way_back_names_every_reason() -> None:
    blocked = [Prediction(prediction.method, None, f"{prediction.method} is broken") for prediction in WAYS]
    with pytest.raises(RefusedError, match=r"snapshot is broken.*block-sync is broken.*does not open"):
        choose_way(LOST, "choose for me", blocked)
