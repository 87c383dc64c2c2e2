"""More replicas where users are sent, for as long as a region or zone is lost; and fewer again when they are home.

1. What there is and what is wanted is read, and recorded.
2. It is asked for: whoever repeats that asks for the same number.
3. Back: only what still has the number that was asked for; what a person has changed since stays theirs.

Guarantees: a cluster that is silent, or has no room, is told of and holds up nothing: users are only sent to gateways
that answer.  A site without clusters, and a workload that serves enough already, is left alone.
Leaves out: signers, which are never scaled.
"""

from dataclasses import dataclass
from typing import Final

from tasks.serving import region_of
from vedr.adapters.site import OpenSite, open_site
from vedr.errors import DeadlineError, VedrError
from vedr.failover.relocation import Relocation
from vedr.ledger import RunId
from vedr.runbook.order import Order
from vedr.runbook.steps import Context, Retry, step

PROBE: Final = Retry(attempts=2, delay_s=1.0)
ACT: Final = Retry(attempts=2, delay_s=2.0)
READY_LIMIT_S: Final = 10.0  # for each workload; what takes longer serves when it is ready
FAILOVERS: Final = ("RB-DR-002", "RB-DR-003")

Ctx = Context[Order]


@dataclass(frozen=True, slots=True)
class Scale:
    """A workload of a region, what it had, and what it is to have."""

    workload: str
    region: str
    before: int
    wanted: int

    def __str__(self) -> str:
        return f"{self.workload} in {self.region}"


@dataclass(frozen=True, slots=True)
class Scaling:
    """What is to be scaled, and what could not be looked at."""

    scales: tuple[Scale, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scaled:
    """A workload that was asked for more, and how many of them were ready by then."""

    workload: str
    region: str
    wanted: int
    ready: int
    problem: str


@step(title="Look at how much serves in the target", budget_s=20, retry=PROBE, acts=False)
def plan_scaling(ctx: Ctx, found: Relocation) -> Scaling:
    """Reads the replicas of what the target's cluster may scale; recorded, so that they can be put back."""
    with open_site(ctx.order.site) as opened:
        region = region_of(opened, found.target)
        policy = opened.site.fleet.kubernetes
        if policy is None or region not in policy.clusters:
            ctx.say(f"no cluster of {region} can be scaled")
            return Scaling((), ())
        cluster, scales, problems = policy.clusters[region], [], []
        for workload in cluster.scaled:
            wanted = cluster.failover_replicas.get(workload, 0)
            try:
                now = opened.scaling.replicas(workload, region).wanted
            except VedrError as error:
                problems.append(_told(ctx, f"{workload} in {region}", error))
                continue
            if wanted > now:
                scales.append(Scale(workload, region, now, wanted))
        return Scaling(tuple(scales), tuple(problems))


def scale_back(ctx: Ctx, scaled: tuple[Scaled, ...] | None) -> str:
    """Asks for what there was before, wherever nobody has changed it since."""
    del scaled  # what was recorded beforehand says more
    with open_site(ctx.order.site) as opened:
        for entry in opened.journal.read(ctx.run_id).entries:
            if entry.kind == "step_completed" and entry.payload.get("step") == plan_scaling.key:
                return lower(opened, plan_scaling.decode(entry.payload["result"]).scales)
    return "nothing was scaled"


@step(title="Scale what serves in the target", budget_s=45, retry=ACT, undo=scale_back)
def scale_target(ctx: Ctx, wanted: Scaling) -> tuple[Scaled, ...]:
    """Asks for the replicas that the site wants while a place is lost, and sees for a moment how many are ready."""
    if not wanted.scales:
        return ()
    with open_site(ctx.order.site) as opened:
        problems = {scale: _asked_for(ctx, opened, scale) for scale in wanted.scales}  # all, before one is waited for
        return tuple(_seen(ctx, opened, scale, problem) for scale, problem in problems.items())


def _asked_for(ctx: Ctx, opened: OpenSite, scale: Scale) -> str:
    """Why it could not be; empty when it was."""
    try:
        opened.scaling.scale(scale.workload, scale.region, scale.wanted)
    except VedrError as error:
        if error.transient and ctx.attempt < ACT.attempts:
            raise
        return _told(ctx, str(scale), error)
    ctx.say(f"{scale}: {scale.before} -> {scale.wanted}")
    return ""


def _seen(ctx: Ctx, opened: OpenSite, scale: Scale, problem: str) -> Scaled:
    ready = 0
    if not problem:
        try:
            ready = opened.scaling.wait_ready(scale.workload, scale.region, limit_s=READY_LIMIT_S).ready
        except DeadlineError as error:
            problem = _told(ctx, str(scale), error)
        except VedrError as error:
            if error.transient and ctx.attempt < ACT.attempts:
                raise
            problem = _told(ctx, str(scale), error)
    return Scaled(scale.workload, scale.region, scale.wanted, ready, problem)


def _told(ctx: Ctx, what: str, error: VedrError) -> str:
    ctx.say(f"{what}: {error.message}")
    return f"{what}: {error.message}"


@step(title="Scale down where users were sent", budget_s=60, retry=ACT, cannot_undo="more than is needed serves there")
def scale_home(ctx: Ctx) -> str:
    """Asks for what there was before the failovers since the last way home; a site without clusters has nothing."""
    with open_site(ctx.order.site) as opened:
        return "no cluster can be scaled" if opened.site.fleet.kubernetes is None else lower(opened, raised(opened))


def raised(opened: OpenSite) -> tuple[Scale, ...]:
    """What failovers since the last completed way home were to raise: from what there was before the first of them."""
    ids = [run_id for name in (*FAILOVERS, "failback") for run_id in _runs(opened, name)]
    runs = [entries for run_id in ids if (entries := opened.journal.read(run_id).entries)]  # none: just being opened
    found: dict[tuple[str, str], Scale] = {}
    for entries in sorted(runs, key=lambda entries: entries[0].time):
        last = entries[-1]
        if entries[0].payload.get("runbook") == "failback":
            if last.kind == "closed" and last.payload.get("outcome") == "completed":
                found.clear()
            continue
        for entry in entries:
            if entry.kind == "step_completed" and entry.payload.get("step") == plan_scaling.key:
                for scale in plan_scaling.decode(entry.payload["result"]).scales:
                    before = found.get((scale.workload, scale.region), scale).before
                    found[scale.workload, scale.region] = Scale(scale.workload, scale.region, before, scale.wanted)
    return tuple(found.values())


def _runs(opened: OpenSite, runbook: str) -> tuple[RunId, ...]:
    return tuple(opened.journal.runs_of(runbook))


def lower(opened: OpenSite, scales: tuple[Scale, ...]) -> str:
    """Each back to what it had, unless its number is somebody else's by now."""
    done = []
    for scale in scales:
        now = opened.scaling.replicas(scale.workload, scale.region).wanted
        if now == scale.wanted:
            opened.scaling.scale(scale.workload, scale.region, scale.before)
            done.append(f"{scale}: {scale.wanted} -> {scale.before}")
        elif now != scale.before:
            done.append(f"{scale}: has {now}, which somebody else wants")
    return "; ".join(done) or "nothing was scaled"
