"""From what is seen to functions, severity and activation: nobody is calmed by what could not be seen."""

import datetime as dt
from typing import Any

import pytest
from continuity_world import START, example
from hypothesis import given, settings
from hypothesis import strategies as st

from vedr.continuity import activation
from vedr.continuity.activation import Standing, look
from vedr.continuity.functions import FUNCTIONS, Function
from vedr.continuity.severity import assess
from vedr.continuity.sighting import absent_of
from vedr.continuity.signals import Answering, OpenIncident, Percent, Signals
from vedr.policies.notifications import SEVERITIES

REGIONS = {"us-east": True, "eu-west": True, "ap-south": True}


def signals(at: dt.datetime = START, **changes: Any) -> Signals:
    """All is well, but for the changes."""
    facts: dict[str, Any] = {
        "at": at,
        "last_block_at": at - dt.timedelta(seconds=3),
        "power": Answering(50, 50),
        "gateways": Answering(3, 3),
        "unreached_pct": Percent(0),
        "providers": Answering(4, 4),
        "regions": REGIONS,
        "monitoring": True,
        "incidents": (),
        "breach": "none",
    }
    return Signals(**(facts | changes))


def halted(at: dt.datetime, for_s: float) -> Signals:
    return signals(at, last_block_at=at - dt.timedelta(seconds=for_s))


@pytest.mark.parametrize(
    ("changes", "severity", "reason"),
    [
        ({}, "SEV-4", ""),
        ({"last_block_at": START - dt.timedelta(seconds=31)}, "SEV-1", "no block for 31 s"),
        ({"last_block_at": START - dt.timedelta(seconds=30)}, "SEV-4", ""),
        ({"gateways": Answering(1, 3), "unreached_pct": Percent(51)}, "SEV-1", "51 % of users cannot be served"),
        ({"gateways": Answering(1, 2), "unreached_pct": Percent(50)}, "SEV-2", "50 % of users cannot be served"),
        ({"gateways": Answering(2, 3), "unreached_pct": Percent(10)}, "SEV-2", "10 % of users cannot be served"),
        ({"unreached_pct": Percent(9)}, "SEV-3", "9 % of users cannot be served"),
        ({"providers": Answering(3, 4)}, "SEV-2", "Provider daemon: 3 of 4 answer"),
        ({"power": Answering(40, 50), "fragile": True}, "SEV-2", "one validator less halts the chain"),
        ({"power": Answering(40, 50)}, "SEV-4", ""),
        ({"monitoring": False}, "SEV-3", "Monitoring: it does not answer"),
        ({"breach": "confirmed"}, "SEV-1", "a breach is confirmed"),
        ({"breach": "suspected"}, "SEV-4", ""),
        ({"regions": REGIONS | {"us-east": False}}, "SEV-2", "nothing answers in us-east"),
        ({"incidents": (OpenIncident("inc-1", "RB-DR-001", START),)}, "SEV-3", "incident inc-1 (RB-DR-001) is open"),
    ],
)
def test_severity_follows_the_plans_criteria_and_says_why(changes: Any, severity: str, reason: str) -> None:
    assessment = assess(signals(**changes))
    assert assessment.severity == severity
    assert reason in "; ".join(assessment.reasons)
    assert assessment.certain


@pytest.mark.parametrize(
    ("changes", "unknown"),
    [
        ({"last_block_at": START + dt.timedelta(minutes=10)}, Function.BLOCKS),  # our clock is behind: it may be halted
        ({"gateways": Answering(0, 0)}, Function.GATEWAY),
        ({"providers": Answering(0, 0)}, Function.PROVIDER),
    ],
)
def test_of_nothing_and_of_the_future_nothing_is_up(changes: Any, unknown: Function) -> None:
    """All of no gateways answered, and a block of the future was as young as can be."""
    assessment = assess(signals(**changes))
    assert (assessment.functions[unknown].state, assessment.certain) == ("unknown", False)


def test_when_blocks_stand_everything_that_needs_them_is_down_and_nobody_can_transact() -> None:
    assessment = assess(halted(START, 60))
    states = {function: health.state for function, health in assessment.functions.items()}
    needing = (Function.TRANSACTIONS, Function.IDENTITY, Function.MARKETPLACE, Function.ESCROW, Function.PROVIDER)
    assert {states[function] for function in (Function.BLOCKS, *needing)} == {"down"}
    assert assessment.functions[Function.ESCROW].inferred
    assert states[Function.GATEWAY] == "up"
    assert assessment.affected_pct == 100


@pytest.mark.parametrize(
    ("missing", "unknown"),
    [
        ({"last_block_at": None}, {Function.BLOCKS, Function.TRANSACTIONS, Function.MARKETPLACE}),
        ({"gateways": None}, {Function.GATEWAY}),
        ({"providers": None}, {Function.PROVIDER, Function.MARKETPLACE}),
        ({"monitoring": None}, {Function.MONITORING}),
    ],
)
def test_what_could_not_be_seen_is_unknown_and_never_up(missing: Any, unknown: set[Function]) -> None:
    assessment = assess(signals(unseen={"something": "why"}, **missing))
    found = {function for function, health in assessment.functions.items() if health.state == "unknown"}
    assert unknown <= found
    assert not assessment.certain


def test_a_site_is_judged_by_what_it_has_and_what_it_lacks_is_neither_up_nor_unknown() -> None:
    bare = assess(signals(providers=Answering(0, 0), absent=(Function.PROVIDER,)))
    assert {Function.PROVIDER, Function.MARKETPLACE}.isdisjoint(bare.functions)
    assert (bare.severity, bare.certain, bare.functions[Function.ESCROW].state) == ("SEV-4", True, "up")
    halted_too = assess(signals(absent=(Function.PROVIDER,), last_block_at=START - dt.timedelta(minutes=9)))
    assert (halted_too.severity, halted_too.functions[Function.TRANSACTIONS].state) == ("SEV-1", "down")
    nothing = look(None, signals(absent=(Function.PROVIDER,), providers=Answering(0, 0)), bare)
    assert (nothing.calm, nothing.restored_at) == (True, START)


def test_only_what_the_file_has_nothing_of_is_absent() -> None:
    site = example()
    assert absent_of(site) == ()
    assert absent_of(site.model_copy(update={"providers": ()})) == (Function.PROVIDER,)
    assert absent_of(site.model_copy(update={"gateways": ()})) == (Function.GATEWAY,)
    reserve = [one.model_copy(update={"reserve": True}) for one in site.providers]
    assert absent_of(site.model_copy(update={"providers": tuple(reserve)})) == ()


_SEEN: dict[str, Any] = {
    "last_block_at": st.sampled_from([START, START - dt.timedelta(minutes=10)]),
    "gateways": st.builds(Answering, st.integers(0, 3), st.just(3)),
    "unreached_pct": st.integers(0, 100),
    "providers": st.builds(Answering, st.integers(0, 3), st.just(3)),
    "monitoring": st.booleans(),
    "breach": st.sampled_from(["none", "confirmed"]),
}


@settings(deadline=None, max_examples=150)
@given(seen=st.fixed_dictionaries(_SEEN), hidden=st.sampled_from(sorted(_SEEN)))
def test_losing_sight_of_something_never_shows_a_function_as_better(seen: Any, hidden: str) -> None:
    whole = assess(signals(**seen)).functions
    blind = assess(signals(**(seen | {hidden: None}))).functions
    assert not [f for f in FUNCTIONS if blind[f].state == "up" and whole[f].state != "up"]


# --- activation


def run(*looks: Signals) -> Standing:
    standing: Standing | None = None
    for one in looks:
        standing = look(standing, one, assess(one))
    assert standing is not None
    return standing


def after(**amount: float) -> dt.datetime:
    return START + dt.timedelta(**amount)


def test_a_halt_activates_the_plan_after_five_minutes_not_before() -> None:
    assert not run(halted(START, 300)).active
    standing = run(halted(START, 301))
    assert standing.active
    assert "halted" in standing.why_active


def test_the_chain_itself_says_since_when_it_is_halted_however_late_anybody_looked() -> None:
    standing = run(halted(START, 3600))
    assert standing.holding["halted"] == START - dt.timedelta(hours=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"unreached_pct": Percent(51)},
        {"regions": REGIONS | {"us-east": False, "eu-west": False}},
        {"breach": "confirmed"},
    ],
)
def test_users_regions_and_a_breach_activate_the_plan_at_once(changes: Any) -> None:
    assert run(signals(**changes)).active


@pytest.mark.parametrize(
    "changes",
    [
        {"unreached_pct": Percent(50)},
        {"regions": REGIONS | {"us-east": False}},
        {"breach": "suspected"},
        {"last_block_at": None, "power": None, "unreached_pct": None, "regions": None, "breach": None},
    ],
)
def test_less_than_that_and_not_knowing_activate_nothing(changes: Any) -> None:
    assert not run(signals(**changes)).active


def test_a_halt_that_is_lost_sight_of_goes_on_until_it_is_seen_to_be_over() -> None:
    unseen = signals(after(minutes=4), last_block_at=None)
    assert run(halted(START, 120), unseen).holding["halted"] == START - dt.timedelta(seconds=120)
    assert not run(halted(START, 120), unseen, signals(after(minutes=5))).holding


@pytest.mark.parametrize("state", [Answering(1, 4), None])
def test_a_critical_function_degraded_or_unseen_for_half_an_hour_is_a_persons_decision(state: Any) -> None:
    degraded = [signals(after(minutes=minutes), providers=state) for minutes in (0, 15, 30)]
    assert activation.suggestions(run(*degraded)) == ()
    standing = run(*degraded, signals(after(minutes=31), providers=state))
    assert any("Provider daemon" in text for text in activation.suggestions(standing))
    assert not standing.active


def test_half_an_hour_begins_again_when_it_was_up_between() -> None:
    looks = [signals(after(minutes=m), providers=Answering(3 if m != 20 else 4, 4)) for m in (0, 20, 25, 45)]
    assert activation.suggestions(run(*looks)) == ()


def test_what_is_not_critical_suggests_nothing() -> None:
    assert activation.suggestions(run(signals(monitoring=False), signals(after(hours=5), monitoring=False))) == ()


def watched(minutes: range) -> list[Signals]:
    return [signals(after(minutes=minute)) for minute in minutes]


def test_it_may_be_left_after_an_hour_that_was_watched() -> None:
    begun = halted(START, 400)
    assert not activation.may_deactivate(run(begun, *watched(range(5, 65, 5))))
    standing = run(begun, *watched(range(5, 66, 5)))
    assert activation.may_deactivate(standing)
    assert standing.active
    assert activation.suggestions(standing) == ("deactivate: every critical function is up for 1 h",)


def test_an_hour_with_a_gap_in_the_watch_is_not_an_hour() -> None:
    looks = [halted(START, 400), *watched(range(5, 31, 5)), *watched(range(45, 76, 5))]
    assert not activation.may_deactivate(run(*looks))


def test_an_hour_in_which_a_critical_function_was_unseen_is_not_an_hour() -> None:
    looks = [halted(START, 400), *watched(range(5, 31, 5)), signals(after(minutes=35), gateways=None)]
    assert not activation.may_deactivate(run(*looks, *watched(range(40, 76, 5))))


def test_a_look_from_the_past_does_not_rewrite_what_is_known() -> None:
    late = look(run(signals(after(minutes=10))), halted(START, 400), assess(halted(START, 400)))
    assert late.seen_at == START
    assert late.active


def test_every_severity_of_the_scale_has_criteria() -> None:
    from vedr.continuity.functions import SCALES  # noqa: PLC0415

    assert tuple(scale.severity for scale in SCALES) == SEVERITIES
