"""What every Traffic backend must do; run against a server of each kind, and the fake in memory."""

import concurrent.futures
import contextlib
import dataclasses
import threading
from typing import Any

import pytest
from traffic_parts import ALL, Stage

from vedr.chain.quorum import Domain
from vedr.errors import ConflictError
from vedr.failover.traffic import Guard
from vedr.failover.traffic_answers import differences, wait_until_answered
from vedr.failover.traffic_division import Moves, View
from vedr.failover.traffic_plan import TrafficPlan, plan_away, plan_back, plan_undo

pytestmark = pytest.mark.server

US = Domain("region", "us-east")


@pytest.fixture(params=["memory", "rfc2136", "route53", "istio"])
def stage(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(f"traffic_by_{request.param}")


def leaving(stage: Stage, *, epoch: int = 1, target: str = "eu-west") -> TrafficPlan:
    moves = Moves(stage.site, ALL, epoch, (US,), target)
    return plan_away(moves, [View(stage.traffic.backend, stage.traffic.picture())])


def regions_of(stage: Stage, name: str) -> set[str]:
    region = {endpoint.name: endpoint.region for endpoint in stage.traffic.backend.endpoints}
    return {region[endpoint] for endpoint in stage.traffic.picture().names[name].serving}


def test_the_picture_tells_who_serves_and_repeats_itself(stage: Stage) -> None:
    first = stage.traffic.picture()
    assert "us-east" in regions_of(stage, stage.name)
    assert first.guard is None
    assert first == stage.beside.picture()
    assert {endpoint.name for endpoint in stage.traffic.backend.endpoints} == set(first.names[stage.name].weights)


def test_a_shift_is_seen_by_whoever_looks_and_by_users(stage: Stage) -> None:
    plan = leaving(stage)
    assert stage.traffic.shift(plan.changes[0])
    assert "us-east" not in regions_of(stage, stage.name)
    assert stage.beside.picture().guard == plan.guard
    answered = wait_until_answered([stage.beside], plan, deadline_s=20)
    assert answered.cached_s == plan.longest_ttl_s
    assert not differences("x", plan.changes[0].names, stage.beside.answers(list(plan.changes[0].names)))


def test_the_same_shift_again_is_quiet(stage: Stage) -> None:
    plan = leaving(stage)
    assert stage.traffic.shift(plan.changes[0])
    before = stage.traffic.picture()
    assert not stage.beside.shift(plan.changes[0])
    assert stage.traffic.picture() == before


def test_what_somebody_else_changed_meanwhile_is_not_overwritten(stage: Stage) -> None:
    plan = leaving(stage)
    stage.meddle()
    before = stage.traffic.picture()
    with pytest.raises(ConflictError):
        stage.traffic.shift(plan.changes[0])
    assert stage.traffic.picture() == before
    assert stage.traffic.shift(leaving(stage).changes[0])


def test_an_older_epoch_is_refused_and_changes_nothing(stage: Stage) -> None:
    old = leaving(stage, epoch=6)
    assert stage.traffic.shift(leaving(stage, epoch=7, target="ap-south").changes[0])
    served = stage.traffic.picture()
    for plan in (old, leaving(stage, epoch=6)):
        with pytest.raises(ConflictError, match="epoch 7"):
            stage.beside.shift(plan.changes[0])
    assert stage.traffic.picture() == served


def test_of_two_shifts_at_once_at_most_one_is_carried_out(stage: Stage) -> None:
    gate = threading.Barrier(2)

    def attempt(traffic: Any, plan: TrafficPlan) -> bool:
        gate.wait()
        with contextlib.suppress(ConflictError):
            return bool(traffic.shift(plan.changes[0]))
        return False

    plans = [leaving(stage, target=target) for target in ("eu-west", "ap-south")]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(attempt, *pair) for pair in zip((stage.traffic, stage.beside), plans, strict=True)]
        won = [future.result() for future in futures]
    assert won.count(True) == 1
    assert stage.traffic.picture().guard == plans[won.index(True)].guard


def test_away_and_back_in_stages_ends_as_it_began(stage: Stage) -> None:
    calm = stage.traffic.picture()
    assert stage.traffic.shift(leaving(stage).changes[0])
    for stage_pct in stage.site.traffic.stages_pct:
        view = View(stage.traffic.backend, stage.traffic.picture())
        plan = plan_back(Moves(stage.site, ALL, 2), [view], US, stage_pct)
        assert stage.traffic.shift(plan.changes[0])
        wait_until_answered([stage.traffic], plan, deadline_s=20)
    assert {name: share.serving for name, share in stage.traffic.picture().names.items()} == {
        name: share.serving for name, share in calm.names.items()
    }


def test_a_plan_can_be_undone(stage: Stage) -> None:
    calm = stage.traffic.picture()
    plan = leaving(stage)
    stage.traffic.shift(plan.changes[0])
    undo = plan_undo(plan, 2, [stage.traffic.picture()])
    assert stage.traffic.shift(undo.changes[0])
    assert stage.traffic.picture().names == calm.names
    assert stage.traffic.picture().guard == Guard(2, undo.guard.plan)


def test_names_that_a_change_leaves_out_stay_as_they_are(stage: Stage) -> None:
    plan = leaving(stage)
    change = plan.changes[0]
    kept = {name: stage.traffic.picture().names[name] for name in change.names if name != stage.name}
    assert stage.traffic.shift(dataclasses.replace(change, names={stage.name: change.names[stage.name]}))
    now = stage.traffic.picture().names
    assert {name: now[name] for name in kept} == kept
    assert "us-east" not in regions_of(stage, stage.name)
