"""RB-DR-004's judgement: what counts as damage, what is refused, and which way back goes first."""

import pytest

from vedr.chain.sync import Prediction
from vedr.errors import RefusedError, VerificationFailedError
from vedr.failover.corruption import (
    CONSENSUS_LOG,
    MAX_SHOWN,
    Diagnosis,
    Evidence,
    Finding,
    KindChoice,
    is_serving,
    judge,
    merged,
    shown,
)
from vedr.failover.corruption_ways import LocalCopy, LocalMeans, Way, choose
from vedr.ports import UnitState

DATABASE = Finding("database", "data", "state.db does not open")
STATE = Finding("state", "state", "its block 7 is AA, verified header 7 says BB")
LOG = Finding("database", CONSENSUS_LOG, "wal: the record at 8 does not fit its checksum")
CONFIG = Finding("config", "config/config.toml", "is not TOML")
KEY = Finding("config", "config/node_key.json", "the key of full-0 is gone")


def evidence(
    *findings: Finding,
    unit: UnitState | None = "running",
    height: int | None = 100,
    tip: int | None = 100,
    unchecked: tuple[str, ...] = (),
) -> Evidence:
    return Evidence("full-0", unit, height, tip, findings, unchecked, ("its block 100 is the chain's",), ("full-9",))


def diagnosis(*findings: Finding) -> Diagnosis:
    return judge(evidence(*findings, unit="failed", height=None), "choose for me")


def test_a_healthy_node_is_refused_with_what_was_compared() -> None:
    with pytest.raises(RefusedError, match=r"is healthy .*its block 100 is the chain's"):
        judge(evidence(), "choose for me")


def test_a_crashed_node_with_whole_data_belongs_to_another_runbook() -> None:
    with pytest.raises(RefusedError, match="its data is whole") as refused:
        judge(evidence(unit="failed", height=None), "choose for me")
    assert "RB-DR-001" in refused.value.remedy


@pytest.mark.parametrize("unit", ["running", "failed"])
def test_what_could_not_be_looked_at_is_never_taken_as_whole(unit: UnitState) -> None:
    with pytest.raises(VerificationFailedError, match="not all could be looked at: its databases"):
        judge(evidence(unit=unit, unchecked=("its databases",)), "choose for me")


def test_damage_on_a_host_that_nobody_can_stop_is_not_acted_on() -> None:
    with pytest.raises(VerificationFailedError, match="supervisor"):
        judge(evidence(DATABASE, unit=None), "choose for me")


@pytest.mark.parametrize("found", [(KEY,), (KEY, DATABASE, CONFIG)])
def test_missing_keys_are_refused_since_no_configuration_backup_has_them(found: tuple[Finding, ...]) -> None:
    with pytest.raises(RefusedError, match="keys are never in a configuration backup"):
        judge(evidence(*found), "choose for me")


@pytest.mark.parametrize(
    ("found", "wanted", "kind"),
    [
        ((CONFIG, STATE, DATABASE), "choose for me", "database"),
        ((CONFIG, STATE), "choose for me", "state"),
        ((CONFIG,), "choose for me", "config"),
        ((CONFIG, STATE), "config", "config"),
    ],
)
def test_the_gravest_damage_names_the_kind_unless_one_was_named(
    found: tuple[Finding, ...], wanted: KindChoice, kind: str
) -> None:
    judged = judge(evidence(*found), wanted)
    assert (judged.kind, judged.findings, judged.others_wrong) == (kind, found, ("full-9",))


def test_a_kind_that_is_not_found_is_refused_with_what_is() -> None:
    with pytest.raises(RefusedError, match=r"nothing of kind state .*config.toml: is not TOML"):
        judge(evidence(CONFIG), "state")


def test_what_is_found_at_rest_is_added_once() -> None:
    first = judge(evidence(STATE), "state")
    later = merged(first, evidence(Finding("state", "state", "again"), DATABASE, CONFIG, unit="stopped"))
    assert later.findings == (STATE, DATABASE, CONFIG)
    assert later.config_files == ("config/config.toml",)
    assert later.kind == "state"


def test_keys_found_missing_at_rest_end_the_run_before_anything_is_moved() -> None:
    with pytest.raises(RefusedError, match="keys"):
        merged(diagnosis(DATABASE), evidence(KEY, unit="stopped"))


@pytest.mark.parametrize(
    ("found", "lost", "log", "wrong"),
    [
        ((CONFIG,), False, False, False),
        ((LOG,), False, True, False),
        ((STATE,), True, False, True),
        ((STATE, LOG), True, True, True),
        ((STATE, DATABASE), True, False, False),
        ((DATABASE, LOG), True, True, False),
    ],
)
def test_what_has_to_be_replaced_follows_from_the_findings(
    found: tuple[Finding, ...], lost: bool, log: bool, wrong: bool
) -> None:
    judged = diagnosis(*found)
    assert (judged.is_data_lost, judged.is_log_lost, judged.is_state_wrong) == (lost, log, wrong)


@pytest.mark.parametrize(
    ("unit", "height", "tip", "serves"),
    [("running", 90, 100, True), ("running", 89, 100, False), ("running", None, 100, False),
     ("running", 100, None, False), ("stopped", 100, 100, False)],
)  # fmt: skip
def test_a_node_serves_when_it_runs_answers_and_keeps_up(
    unit: UnitState, height: int | None, tip: int | None, serves: bool
) -> None:
    assert is_serving(unit, height, tip) is serves


def test_long_lists_are_cut_and_say_so() -> None:
    assert shown(range(MAX_SHOWN + 3)).endswith("; 3 more")


NOTHING_LOCAL = LocalMeans(data_bytes=1_000_000_000, has_rollback=False, copies=())
PREDICTIONS = (
    Prediction("snapshot", 60.0, "2 GB"),
    Prediction("block-sync", 900.0, "from genesis"),
    Prediction("state-sync", None, "the chain is halted"),
)


def test_broken_files_alone_leave_the_databases_where_they_are() -> None:
    found = choose(diagnosis(CONFIG), NOTHING_LOCAL, ())
    assert [one.way for one in found.ways] == [Way.KEEP]


def test_a_torn_log_alone_costs_only_the_log() -> None:
    found = choose(diagnosis(LOG), NOTHING_LOCAL, ())
    assert [one.way for one in found.ways] == [Way.NEW_LOG]


def test_lost_data_takes_every_open_way_by_predicted_time_and_says_why_others_are_closed() -> None:
    found = choose(diagnosis(DATABASE, LOG), NOTHING_LOCAL, PREDICTIONS)
    assert [one.way for one in found.ways] == [Way.SNAPSHOT, Way.BLOCK_SYNC]
    assert any("halted" in reason for reason in found.closed)
    assert any(reason.startswith("new-log") for reason in found.closed)


def test_a_wrong_state_is_rolled_back_where_the_program_can() -> None:
    means = LocalMeans(1_000_000, has_rollback=True, copies=())
    assert choose(diagnosis(STATE), means, PREDICTIONS).ways[0].way is Way.ROLLBACK
    closed = choose(diagnosis(STATE), NOTHING_LOCAL, PREDICTIONS).closed
    assert any("[chain] rollback" in reason for reason in closed)


def test_databases_that_do_not_open_are_never_rolled_back() -> None:
    means = LocalMeans(1_000_000, has_rollback=True, copies=())
    assert Way.ROLLBACK not in [one.way for one in choose(diagnosis(STATE, DATABASE), means, PREDICTIONS).ways]


def test_a_local_copy_is_named_and_timed_with_the_blocks_that_it_lacks() -> None:
    means = LocalMeans(
        1_000_000, has_rollback=False, copies=(LocalCopy("data.old", 40, 5.0), LocalCopy("data.b", 9, 500.0))
    )
    ways = choose(diagnosis(DATABASE), means, PREDICTIONS).ways
    assert [(one.way, one.source) for one in ways] == [
        (Way.LOCAL_COPY, "data.old"), (Way.SNAPSHOT, ""), (Way.LOCAL_COPY, "data.b"), (Way.BLOCK_SYNC, ""),
    ]  # fmt: skip


def test_without_any_way_every_reason_is_named() -> None:
    closed = [Prediction("snapshot", None, "no snapshot")]
    with pytest.raises(RefusedError, match=r"no snapshot.*no other copy.*rollback"):
        choose(diagnosis(DATABASE), NOTHING_LOCAL, closed)
