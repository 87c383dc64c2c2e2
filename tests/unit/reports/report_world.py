"""Runs of a failover-like runbook by the real engine, on a clock that steps move."""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ledger_world import World

from vedr.errors import UnavailableError, VerificationFailedError
from vedr.ledger import RunId
from vedr.policies.approval import Approval
from vedr.runbook.approval import Answer, Answers
from vedr.runbook.opening import opened_run
from vedr.runbook.order import Order
from vedr.runbook.plan import Action, Plan
from vedr.runbook.run import Run
from vedr.runbook.steps import Context, Retry, Runbook, step
from vedr.signature import Json


class Failover(Order):
    region: str = "us-east"
    why: str = ""


@dataclass(frozen=True, slots=True)
class Served:
    height: int
    lost_blocks: int
    rpo_s: int


@dataclass
class Stage:
    """The world's clock, and what the steps are to do."""

    world: World | None = None
    confirm_s: float = 8
    promote_s: float = 41
    failures: int = 0
    finding: str = "two sources agree: us-east is gone"


STAGE = Stage()


def take(seconds: float) -> None:
    assert STAGE.world is not None
    STAGE.world.clock.move(seconds)


@step(title="Confirm the outage", budget_s=30, acts=False)
def confirm_outage(_: Context[Failover]) -> str:
    """Asks two sources."""
    take(STAGE.confirm_s)
    return STAGE.finding


@step(title="Fence the signers", budget_s=60)
def fence_signers(_: Context[Failover]) -> str:
    """The old signers can't sign."""
    take(12)
    return "2 signers fenced, epoch 4"


@step(title="Promote the standbys", budget_s=60, retry=Retry(attempts=3, delay_s=0))
def promote_standbys(_: Context[Failover], proof: str) -> str:
    """The validators sign elsewhere."""
    take(STAGE.promote_s)
    if STAGE.failures:
        STAGE.failures -= 1
        raise VerificationFailedError("standby signer does not answer", remedy="Look at its log.")
    return f"{proof}; val1 at full-eu-west-1a"


@step(title="Move the traffic", budget_s=60)
def move_traffic(_: Context[Failover]) -> str:
    """DNS answers with the target's addresses."""
    take(9)
    return "eu-west 100, TTL 60"


@step(title="Verify what a user sees", budget_s=120, acts=False)
def verify_service(_: Context[Failover]) -> Served:
    """Blocks advance, the API answers."""
    take(14)
    return Served(120_034, 0, 0)


STEPS = [confirm_outage, fence_signers, promote_standbys, move_traffic, verify_service]
REGION = Runbook("RB-DR-003", "Region failover", Failover, STEPS)
DRILL = Runbook("drill-region", "Region drill", Failover, STEPS, target_s=1800)
BACKUP = Runbook("chain-snapshot", "Chain snapshot", Failover, STEPS, target_s=3600)

PLAN = Plan(
    "Region failover us-east to eu-west",
    (
        Action("promote validator-us-east-0", "full-eu-west-1a", 60, "power in eu-west 20 -> 30 of 50"),
        Action("DNS weight 100", "eu-west", 60, "users reach eu-west"),
    ),
    warnings=("eu-west then has 60 % of the power",),
)
APPROVAL = Approval(runbooks={"RB-DR-003": "two"}, people=("zoe", "max"))


def whole(run: Run[Failover]) -> None:
    run.step(confirm_outage)
    proof = run.step(fence_signers)
    run.step(promote_standbys, proof)
    run.step(move_traffic)
    run.step(verify_service)


def make_run(
    world: World,
    *,
    runbook: Runbook[Failover] = REGION,
    order: Failover | None = None,
    body: Callable[[Run[Failover]], None] = whole,
    detected_s_ago: float = 25,
    approving: bool = False,
    origin: Mapping[str, Json] | None = None,
) -> RunId:
    """A run from its opening to its end, or to where its body fails; its id."""
    STAGE.world = world
    detected = world.clock() - dt.timedelta(seconds=detected_s_ago)
    asked = (order or Failover()).model_copy(update={"detected_at": detected})
    entered: list[Run[Failover]] = []
    with_approval = APPROVAL if approving else None
    try:
        with opened_run(
            runbook, asked, world.journal(), wait_quiet=lambda *_, **__: None, approval=with_approval, origin=origin
        ) as run:
            entered.append(run)
            on_the_clock(world, run)
            if approving:
                agree(world, run)
            body(run)
    except (VerificationFailedError, UnavailableError):
        pass
    return entered[0].run_id


def go_on(world: World, run_id: RunId, *, runbook: Runbook[Failover] = REGION) -> None:
    """Resume a run and bring it to its end."""
    STAGE.world = world
    order = Failover(incident=run_id)
    with opened_run(runbook, order, world.journal(), wait_quiet=lambda *_, **__: None) as run:
        on_the_clock(world, run)
        whole(run)


def on_the_clock(world: World, run: Run[Failover]) -> None:
    """Let the run measure its steps by the world's clock."""
    run._monotonic = lambda: world.clock().timestamp()
    run._began_s = run._monotonic()


def agree(world: World, run: Run[Failover]) -> None:
    """Two people answer before they are asked, the run counts them, and 34 s of waiting are recorded."""
    answers = Answers(world.journal())
    for person, why in (("zoe", "us-east is dark"), ("max", "")):
        answers.give(Answer(run.run_id, PLAN.digest, person, True, why, world.clock(), "cli"))
    with run.waiting("approval", people=2, digest=PLAN.digest, plan=PLAN.document(), until="2026-02-14T03:45:00+00:00"):
        take(34)
    run.approve(PLAN)
