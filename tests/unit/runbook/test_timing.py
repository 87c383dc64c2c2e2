import dataclasses
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedr.errors import InvalidInputError
from vedr.ledger import GENESIS, Entry, Kind, RunId
from vedr.runbook.order import Order, detection_time, new_run_id
from vedr.runbook.steps import Context, Retry, Runbook, Step, step, without_floats
from vedr.runbook.timing import forecast, measure, medians
from vedr.signature import Json

NOON = dt.datetime(2026, 2, 14, 12, tzinfo=dt.UTC)
RUN = RunId("inc-20260214-120000-aaaa")


def history(*told: tuple[float, Kind, dict[str, Json]]) -> list[Entry]:
    """Entries at seconds after detection."""
    return [
        Entry("lab", RUN, seq, kind, NOON + dt.timedelta(seconds=at_s), 1, payload, GENESIS)
        for seq, (at_s, kind, payload) in enumerate(told)
    ]


OPENED: dict[str, Json] = {
    "runbook": "RB-DR-001",
    "detected_at": NOON.isoformat(),
    "target_ms": 60_000,
    "steps": [{"key": "a", "title": "A", "budget_ms": 10_000}, {"key": "b", "title": "B", "budget_ms": 20_000}],
}


@pytest.mark.parametrize("told", ["yesterday", "2026-02-14T12:00:00", 7, None])
def test_a_run_that_tells_no_time_of_detection_is_refused(told: Json) -> None:
    with pytest.raises(InvalidInputError, match="no time of detection"):
        measure(history((0, "opened", {**OPENED, "detected_at": told})))


def test_the_end_of_a_step_that_never_began_is_a_row_of_its_own() -> None:
    measured = measure(
        history((0, "opened", OPENED), (9, "step_completed", {"step": "z", "took_ms": 9, "attempts": 1}))
    )
    assert [(row.key, row.state) for row in measured.rows][-1] == ("z", "completed")


def test_a_clock_that_is_set_back_makes_no_run_shorter_than_its_steps() -> None:
    measured = measure(
        history(
            (5, "opened", OPENED),
            (6, "step_started", {"step": "a", "title": "A"}),
            (1, "resumed", {}),
            (1, "step_started", {"step": "a", "title": "A"}),
            (2, "step_completed", {"step": "a", "took_ms": 70_000, "attempts": 1}),
            (3, "closed", {"outcome": "completed"}),
        )
    )
    assert (measured.total_ms, measured.interrupted_ms, measured.overhead_ms) == (75_000, 0, 0)
    assert not measured.met


def test_every_second_from_detection_is_accounted_for_once() -> None:
    measured = measure(
        history(
            (5, "opened", OPENED),
            (6, "step_started", {"step": "a", "title": "A"}),
            (8, "waiting", {"what": "approval"}),
            (12, "waited", {"what": "approval", "took_ms": 4000}),
            (18, "step_completed", {"step": "a", "took_ms": 12_000, "attempts": 2}),
            (18, "waiting", {"what": "a person"}),
            (19, "waited", {"took_ms": 1000}),
            (19, "step_started", {"step": "b:x", "title": "B: x"}),
            (20, "heartbeat", {}),
            (50, "resumed", {}),
            (51, "step_started", {"step": "b:x", "title": "B: x"}),
            (58, "step_completed", {"step": "b:x", "took_ms": 7000, "attempts": 1}),
            (61, "closed", {"outcome": "completed"}),
        )
    )
    assert (measured.total_ms, measured.before_ms, measured.waiting_ms) == (61_000, 5000, 5000)
    assert measured.interrupted_ms == 30_000
    assert [(row.key, row.took_ms, row.waited_ms, row.attempts) for row in measured.rows] == [
        ("a", 8000, 4000, 2),
        ("b:x", 7000, 0, 1),  # one of several things takes the place of the step that it is one of
    ]
    assert measured.overhead_ms == 61_000 - 5000 - 5000 - 30_000 - 8000 - 7000
    assert sum(ms for _, ms in measured.critical_path) == measured.total_ms
    assert measured.critical_path[0] == ("interrupted", 30_000)
    assert measured.overhead_share_pct == pytest.approx(10.0)
    assert dataclasses.replace(measured, target_ms=0).overhead_share_pct == 0
    assert measured.outcome == "completed"
    assert not measured.met
    assert not measured.rows[0].over_budget


def test_a_failed_step_shows_as_failed() -> None:
    failed = {"step": "a", "took_ms": 11_000, "attempts": 3}
    measured = measure(
        history((0, "opened", OPENED), (1, "step_started", {"step": "a"}), (12, "step_failed", {**failed}))
    )
    assert measured.rows[0].state == "failed"
    assert measured.rows[0].over_budget
    assert measured.outcome is None


def test_a_forecast_adds_what_is_left_and_says_on_which_basis() -> None:
    plan = [("b", 20_000), ("c", 5000)]
    by_budgets = forecast(elapsed_ms=30_000, target_ms=60_000, running=(10_000, 4000), to_do=plan, medians={})
    assert (by_budgets.predicted_ms, by_budgets.basis, by_budgets.overrun) == (61_000, "budgets", True)
    known = {"a": 6000, "b": 1000, "c": 1000}
    by_medians = forecast(
        elapsed_ms=30_000, target_ms=60_000, running=(10_000, 4000), running_key="a", to_do=plan, medians=known
    )
    assert (by_medians.predicted_ms, by_medians.basis, by_medians.overrun) == (34_000, "medians", False)
    mixed = forecast(elapsed_ms=0, target_ms=1, running=None, to_do=plan, medians={"b": 1})
    assert (mixed.predicted_ms, mixed.basis) == (5001, "both")


@given(so_far_ms=st.integers(0, 10**7))
def test_a_step_beyond_its_budget_never_counts_backwards(so_far_ms: int) -> None:
    said = forecast(elapsed_ms=so_far_ms, target_ms=1, running=(10, so_far_ms), to_do=[], medians={})
    assert said.predicted_ms >= so_far_ms


def test_medians_need_three_completed_runs() -> None:
    def closing(took_ms: Json, outcome: str = "completed") -> dict[str, Json]:
        return {"outcome": outcome, "steps": {"a": took_ms}}

    assert medians([closing(1), closing(9)]) == {}
    assert medians([closing(1), closing(9), closing(3), closing(100, "refused"), closing("?"), {}]) == {"a": 3}


def test_an_order_s_time_without_a_zone_is_utc_and_ids_follow_it() -> None:
    order = Order.model_validate({"detected_at": "2026-02-14T11:59:00"})
    assert detection_time(order, NOON) == NOON - dt.timedelta(minutes=1)
    assert detection_time(Order(detected_at=NOON + dt.timedelta(seconds=30)), NOON) == NOON
    assert new_run_id("run", NOON, seed="x") == new_run_id("run", NOON, seed="x") != new_run_id("run", NOON, seed="y")
    assert new_run_id("inc", NOON).startswith("inc-20260214-120000-")


def _fine(ctx: Context[Order]) -> int:
    """Does it."""
    return len(ctx.site)


def _unannotated(ctx: Context[Order]):  # type: ignore[no-untyped-def]  # noqa: ANN202 - that is the point
    return ctx


def test_several_things_of_one_step_stand_where_it_stood_each_with_its_budget() -> None:
    def begun(key: str) -> dict[str, Json]:
        return {"step": key, "title": key, "budget_ms": 10_000}

    measured = measure(
        history((0, "opened", OPENED), (1, "step_started", begun("a:x")), (2, "step_started", begun("a:y")))
    )
    assert [(row.key, row.budget_ms) for row in measured.rows] == [("a:x", 10_000), ("a:y", 10_000), ("b", 20_000)]


def named(key: str, **more: object) -> Step[Order, [], int]:
    def fn(ctx: Context[Order]) -> int:
        return len(ctx.site)

    fn.__name__ = key
    return step(title=key, budget_s=1, **more)(fn)  # type: ignore[arg-type]


def test_a_retry_policy_backs_off_and_refuses_nonsense() -> None:
    assert Retry(attempts=4, delay_s=1, backoff=3).delays_s == (1, 3, 9)
    for wrong in ({"attempts": 0}, {"delay_s": -1}, {"backoff": 0.5}):
        with pytest.raises(InvalidInputError):
            Retry(**wrong)  # type: ignore[arg-type]


def test_a_wait_that_nobody_lived_to_end_is_waiting_and_not_our_overhead() -> None:
    killed = history(
        (0, "opened", OPENED),
        (1, "waiting", {"what": "approval"}),
        (21, "heartbeat", {}),
        (51, "resumed", {}),
        (52, "closed", {"outcome": "completed"}),
    )
    measured = measure(killed)
    assert (measured.waiting_ms, measured.interrupted_ms, measured.overhead_ms) == (20_000, 30_000, 2_000)
    still = measure(killed[:3])
    assert (still.waiting_ms, still.overhead_ms) == (20_000, 1_000)


def test_a_step_needs_a_plain_name_and_an_annotated_result() -> None:
    for wrong in ("_hidden", "<lambda>"):
        with pytest.raises(InvalidInputError, match="bad name"):
            named(wrong)
    with pytest.raises(InvalidInputError, match="no return annotation"):
        dataclasses.replace(named("fine"), fn=_unannotated).encode(1)


def test_a_runbook_needs_a_target_a_proper_id_and_different_steps() -> None:
    one = named("one")
    assert one.named("a").title == "one: a"
    with pytest.raises(InvalidInputError, match="Give target_s"):
        Runbook("chain-snapshot", "x", Order, [one])
    with pytest.raises(InvalidInputError):
        Runbook("../x", "x", Order, [one], target_s=10)
    with pytest.raises(InvalidInputError, match="share a key"):
        Runbook("x-y", "x", Order, [one, one], target_s=10)
    made = Runbook("x-y", "x", Order, [one], target_s=10)
    assert not made.is_incident
    with pytest.raises(InvalidInputError, match="has no body"):
        made.perform(Order())
    made.bind(lambda order: order.site + "done")
    assert made.perform(Order()) == "done"


def test_floats_are_recorded_as_their_exact_text() -> None:
    assert without_floats({"a": [0.1, 1, "x", None], "b": {"c": 1e300}}) == {
        "a": ["0.1", 1, "x", None],
        "b": {"c": "1e+300"},
    }
