"""Steps of a disruptive drill: look, choose, count, break, respond, come home, count again.

1. The site is in its steady state, or the drill is not run.
2. Targets are chosen within the blast radius that the chain can bear.
3. Everything is counted.
4. For each exercise the fault is injected, the runbook that is for it is performed as in an incident, and whatever was
   broken or moved comes home, also when the runbook failed.
5. Everything is counted again; what is not as it was fails the drill.

Guarantees: nothing is broken before (1) to (3); what was broken is in the ledger before it is broken; after any failure
the site is brought home as far as that goes, and what is left is named.
Leaves out: the runbooks themselves, which do not know that they are drilled.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final

from tasks.binding import part_of
from tasks.drills_looking import RUNNING, ground_of, look, take_census, unit_states, zones_of
from tasks.drills_orders import Drill
from tasks.observing import ask, in_sync, tip_of
from tasks.outages import holders_of
from tasks.signing import start_with_signer
from vedr.adapters.site import OpenSite, open_site
from vedr.backup.repository import list_snapshots
from vedr.drills import census, steady, targets
from vedr.drills.census import Census, Compared
from vedr.drills.scenario import Act, Scenario
from vedr.drills.targets import Radius
from vedr.errors import NotFoundError, RefusedError, UnavailableError, VedrError, VerificationFailedError
from vedr.ledger import RunId, parse_run_id
from vedr.ports import PlacedUnit
from vedr.runbook.order import Order
from vedr.runbook.plan import Action, Plan
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Context, Retry, Runbook, step
from vedr.targets import MINUTE_S, RUNBOOK_RTO_S

PROBE: Final = Retry(attempts=3, delay_s=2.0)
ACT: Final = Retry(attempts=3, delay_s=2.0)
STEADY_LOOKS: Final = 3  # a validator may miss one block, a peer one moment
STEADY_PAUSE_S: Final = 2.0
POLL_S: Final = 1.0
LEVEL_BLOCKS: Final = 2
NEEDS_SNAPSHOT: Final = ("RB-DR-004", "RB-DR-006")
FAILBACK: Final = "failback"

Ctx = Context[Drill]


@dataclass(frozen=True, slots=True)
class Aimed:
    """An exercise, the units that its fault ends, and what that loss means."""

    act: Act
    units: tuple[PlacedUnit, ...]
    radius: Radius


@dataclass(frozen=True, slots=True)
class Injected:
    """What was done, in words; with a `problem` the fault is not there as it should be."""

    done: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a runbook that the drill performed ended; `outcome` is open or failed where it did not complete."""

    run_id: str
    runbook: str
    outcome: str
    total_ms: int
    target_ms: int
    met: bool
    error: str

    @property
    def problem(self) -> str:
        """Empty when it was completed within its target."""
        if self.outcome != "completed":
            return f"{self.runbook} {self.outcome} ({self.run_id}): {self.error}"
        late = f"{self.runbook} took {self.total_ms} ms of {self.target_ms} ms ({self.run_id})"
        return "" if self.met else late


@dataclass(frozen=True, slots=True)
class Home:
    """The way back to the steady state; `problems` are what is not as it should be."""

    started: tuple[str, ...]
    failback: Answer | None
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exercised:
    """One exercise, from its fault to the way home."""

    aimed: Aimed
    answer: Answer
    home: Home


@dataclass(frozen=True, slots=True)
class Concluded:
    """A drill that passed."""

    runs: tuple[str, ...]
    counted: int
    expected: tuple[str, ...]


# --- before


@step(title="Check the steady state", budget_s=60, retry=PROBE, acts=False)
def check_steady(ctx: Ctx) -> str:
    """Asks every node, unit, service, store and register; refuses when anything is degraded or an incident is open."""
    with open_site(ctx.order.site) as opened:
        check_allowed(opened)
        for left in reversed(range(STEADY_LOOKS)):
            found = look(opened, besides=[ctx.run_id])
            if not steady.problems(found) or not left:
                break
            time.sleep(STEADY_PAUSE_S)
        steady.require(found)
        return f"{len(found.lag_blocks)} nodes in sync, every validator signs, nothing is open"


def check_allowed(opened: OpenSite) -> None:
    """RefusedError where no faults may be injected."""
    try:
        _ = opened.faults
    except RefusedError as error:
        raise RefusedError(f"not run: {error.message}", remedy=error.remedy) from error


@step(title="Choose what is broken", budget_s=60, retry=PROBE, acts=False)
def choose_targets(ctx: Ctx, scenario: Scenario) -> tuple[Aimed, ...]:
    """Takes what was drilled the longest ago, of what the chain and the users can do without; counts the power."""
    with open_site(ctx.order.site) as opened:
        ground = ground_of(opened, scenario.runbook)
        try:
            acts = targets.choose(ground, scenario.exercises, getattr(ctx.order, "target", ""))
        except RefusedError as error:
            raise RefusedError(f"not run: {error.message}", remedy=error.remedy) from error
        _require_copies(opened, acts)
        aimed = tuple(Aimed(act, _units(opened, act), targets.radius(ground, act)) for act in acts)
    for one in aimed:
        ctx.say(f"{one.act}; {one.radius.finding}")
    return aimed


def plan_of_drill(scenario: Scenario, order: Drill) -> Plan:
    """What would be broken, as everything is now; changes nothing."""
    with open_site(order.site) as opened:
        refusals = steady.problems(look(opened))
        ground = ground_of(opened, scenario.runbook)
        acts = targets.choose(ground, scenario.exercises, getattr(order, "target", ""))
        radii = [targets.radius(ground, act) for act in acts]
    actions = tuple(
        Action(f"{act.kind} {act.target}: {act.fault}", act.runbook, RUNBOOK_RTO_S[act.runbook], radius.finding)
        for act, radius in zip(acts, radii, strict=True)
    )
    halting = tuple(radius.finding for radius in radii if radius.halts)
    return Plan(title=scenario.title, actions=actions, warnings=halting, refusals=tuple(refusals))


def _units(opened: OpenSite, act: Act) -> tuple[PlacedUnit, ...]:
    if act.kind == "node":
        node = opened.site.node(act.target)
        return (PlacedUnit(node.unit, node.zone),)
    return tuple(unit for zone in zones_of(opened, act.target) for unit in opened.faults.running(zone))


def _require_copies(opened: OpenSite, acts: Sequence[Act]) -> None:
    """Data is only destroyed, and a provider's state only handed over, where it can be brought back."""
    site, lacking = opened.site, []
    if any(act.runbook in NEEDS_SNAPSHOT for act in acts):
        held = any(list_snapshots(opened.repository, name, "state").snapshots for name in site.regions_by_priority)
        lacking += [] if held else ["no region has a snapshot of the chain: vedr run chain-snapshot --region …"]
    lost = {place for act in acts if act.failback for place in (act.target, *zones_of(opened, act.target))}
    for provider in (one for one in site.providers if not one.reserve and one.zone in lost):
        stored = list_snapshots(opened.repository, provider.region, "provider").snapshots
        if not any(one.source.name == provider.name for one in stored):
            lacking.append(f"no state of {provider.name}: vedr run provider-state-backup --region {provider.region}")
    if lacking:
        raise RefusedError(
            f"not run: what the runbooks restore from is not there: {'; '.join(lacking)}",
            remedy="Make these backups, then order the drill again.",
        )


@step(title="Count everything", budget_s=60, retry=PROBE, acts=False)
def count_before(ctx: Ctx) -> Census:
    """Lists units, keys' holders, names' answers, identities and files, as they have to be again afterwards."""
    with open_site(ctx.order.site) as opened:
        counted = take_census(opened, deep=True)
    if blind := [name for name, what in counted.things.items() if what.startswith(census.UNSEEN)]:
        raise RefusedError(
            f"not run: {', '.join(blind)} can't be counted, so that no clean-up could be proven",
            remedy="Bring back what does not answer, then order the drill again.",
        )
    ctx.say(f"{len(counted.things)} things counted")
    return counted


# --- the exercise


def take_back(ctx: Ctx, _: Any) -> str:
    """Starts what the fault ended; keys that a failover moved stay where they are."""
    with open_site(ctx.order.site) as opened:
        aimed = next(one for one in _recorded(opened, ctx.run_id) if one.act.runbook == ctx.named)
        started: list[str] = []
        _start(opened, aimed, started, providers=True)
    left = f"; if keys were moved: vedr run failback --place {aimed.act.target}" if aimed.act.failback else ""
    return f"started {', '.join(started) or 'nothing: all of it runs'}{left}"


def _recorded(opened: OpenSite, run_id: RunId) -> tuple[Aimed, ...]:
    """What the drill chose, by its ledger: also a step that nobody knows the result of can be taken back."""
    for entry in opened.journal.read(run_id).entries:
        if entry.kind == "step_completed" and entry.payload.get("step") == choose_targets.key:
            return choose_targets.decode(entry.payload["result"])
    raise NotFoundError(f"run {run_id} chose nothing", remedy="Nothing was broken then.")


@step(title="Inject the fault", budget_s=30, retry=ACT, undo=take_back)
def inject(ctx: Ctx, aimed: Aimed) -> Injected:
    """Ends the target's units at once, and damages its data where the exercise says so."""
    done: list[str] = []
    try:
        with open_site(ctx.order.site) as opened:
            _break(opened, aimed, done)
    except VedrError as error:  # told, not raised: what was broken by then has to come home
        return Injected(tuple(done), error.message)
    for line in done:
        ctx.say(line)
    return Injected(tuple(done))


def _break(opened: OpenSite, aimed: Aimed, done: list[str]) -> None:
    act = aimed.act
    if act.fault != "its p2p key suspected":
        opened.faults.kill(aimed.units)
        done.append(f"{len(aimed.units)} units of {act.domain} killed")
    if act.fault == "killed, its database damaged":
        done.append(opened.faults.damage(opened.site.node(act.target), "database damaged"))
    if act.fault == "killed, its disk lost":
        done.append(opened.faults.damage(opened.site.node(act.target), "disk lost"))


@step(title="Respond as in an incident", budget_s=5 * MINUTE_S, cannot_undo="abandon the runbook's own run")
def respond(ctx: Ctx, aimed: Aimed, injected: Injected) -> Answer:
    """Performs the runbook that is for it; its run is of its own, marked as an exercise."""
    act = aimed.act
    if injected.problem:
        return Answer("", act.runbook, "not run", 0, 0, met=False, error=f"no fault: {injected.problem}")
    fields: dict[str, str] = {"site": ctx.order.site, "reason": f"exercise {ctx.run_id}"}
    match act.runbook:
        case "RB-DR-002":
            fields["zone"] = act.target
        case "RB-DR-003":
            fields["region"] = act.target
        case "RB-DR-005":
            fields |= {"kind": "node", "owner": act.target}
        case _:
            fields["node"] = act.target
    return perform(ctx, act.runbook, fields, f"{act.runbook}/{act.target}")


@step(title="Bring everything home", budget_s=10 * MINUTE_S, cannot_undo="it is the way back")
def bring_home(ctx: Ctx, aimed: Aimed, answer: Answer) -> Home:
    """Starts what the fault ended, takes home what the failover moved, and waits for the steady state."""
    started: list[str] = []
    left: list[str] = []
    errors: list[str] = []

    def attempt(what: Callable[[], object]) -> None:
        """Whatever goes wrong, the rest of the way is gone as well; what the last look finds is what counts."""
        try:
            what()
        except VedrError as error:
            ctx.say(error.message)
            errors.append(error.message)

    back: Answer | None = None
    with open_site(ctx.order.site) as opened:
        attempt(lambda: _start(opened, aimed, started, providers=not aimed.act.failback))
        attempt(lambda: _await(ctx, opened, aimed, _not_level))
        attempt(lambda: _wake_validators(ctx, opened, aimed))
        if aimed.act.failback and answer.outcome not in ("refused", "not run"):
            place = {"site": ctx.order.site, "place": aimed.act.target}
            back = perform(ctx, FAILBACK, place, f"home/{aimed.act.target}")
        attempt(lambda: _start(opened, aimed, started, providers=True))
        attempt(lambda: _catch_up(ctx, opened, answer))
        errors_before = len(errors)
        attempt(lambda: left.extend(_await(ctx, opened, aimed, _not_steady)))
    if left or len(errors) > errors_before:
        left += errors
    problems = tuple(dict.fromkeys([*([back.problem] if back and back.problem else []), *left]))
    for problem in problems:
        ctx.say(f"left: {problem}")
    return Home(tuple(started), back, problems)


def _catch_up(ctx: Ctx, opened: OpenSite, answer: Answer) -> None:
    """Give regions that were killed what the runbook recorded meanwhile; what can't be given now the watchdog gives."""
    if answer.run_id:
        given = opened.journal.heal(parse_run_id(answer.run_id)).given
        for region in (one for one, entries in given.items() if entries):
            ctx.say(f"{answer.run_id}: {given[region]} entries copied to {region}, which was away")


def _start(opened: OpenSite, aimed: Aimed, started: list[str], *, providers: bool) -> None:
    """What ran before and does not: a provider only when nobody serves with its state any more."""
    kept = set() if providers else {provider.unit for provider in opened.site.providers}
    known = unit_states(opened)
    running = {one.unit for zone in {unit.zone for unit in aimed.units} for one in opened.faults.running(zone)}
    down = [one for one in aimed.units if known.get(one.unit) != RUNNING and one.unit not in running | kept]
    opened.faults.start(down)
    started += [one.unit for one in down]


def _wake_validators(ctx: Ctx, opened: OpenSite, aimed: Aimed) -> None:
    """A node that came before its signer ended; one whose key is away waits for the failback."""
    site, units = opened.site, {one.unit for one in aimed.units}
    holders = holders_of(opened)
    for node in site.nodes:
        signers = site.signers_of(node.name)
        if node.unit not in units or not signers or holders[node.name] != signers[0].name or ask(opened, [node]):
            continue
        try:
            opened.fleet.start(signers[0].unit, node.zone)
            start_with_signer(opened, node, signers[0].listen)
        except VedrError as error:  # told by the look at the end
            ctx.say(f"{node.name}: {error.message}")


def _not_level(opened: OpenSite, aimed: Aimed, _: RunId) -> tuple[str, ...]:
    """Full nodes that were killed and are not level with the others."""
    units = {one.unit for one in aimed.units}
    full = [node.name for node in opened.site.nodes if node.unit in units and not node.is_validator]
    answering = ask(opened, opened.site.nodes)
    tip = tip_of(answering) or 0
    level = {one.node.name for one in in_sync(answering) if tip - one.status.latest_height <= LEVEL_BLOCKS}
    return tuple(name for name in full if name not in level)


def _not_steady(opened: OpenSite, _: Aimed, run_id: RunId) -> tuple[str, ...]:
    return steady.problems(look(opened, runs=False, besides=[run_id]))


def _await(
    ctx: Ctx, opened: OpenSite, aimed: Aimed, question: Callable[[OpenSite, Aimed, RunId], tuple[str, ...]]
) -> tuple[str, ...]:
    """Ask until nothing is wrong, or the site's patience ends; what is wrong then."""
    until = time.monotonic() + opened.site.drills.settle_s
    while (problems := question(opened, aimed, ctx.run_id)) and time.monotonic() < until:
        time.sleep(POLL_S)
    return tuple(problems)


# --- after


@step(title="Count everything again", budget_s=60, retry=PROBE, acts=False)
def compare_census(ctx: Ctx, before: Census, aimed: tuple[Aimed, ...]) -> Compared:
    """Compares with the count from before; what the drill itself is about, such as a replaced key, is told apart."""
    with open_site(ctx.order.site) as opened:
        return _compared(opened, before, aimed)


def _compared(opened: OpenSite, before: Census, aimed: Sequence[Aimed]) -> Compared:
    expecting = {f"identity of {one.act.target}" for one in aimed if one.act.runbook == "RB-DR-005"}
    kept = ("RB-DR-004", "RB-DR-005")  # what they keep is evidence, which nobody deletes by the way
    expecting |= {f"files of {one.act.target}" for one in aimed if one.act.runbook in kept}
    return census.compare(before, take_census(opened, deep=True), expecting=expecting)


@step(title="Conclude", budget_s=60, acts=False)
def conclude(
    ctx: Ctx, before: Census, aimed: tuple[Aimed, ...], done: tuple[Exercised, ...], seen: Compared
) -> Concluded:
    """Passed only when every runbook was completed within its target and everything is as it was."""
    left = [problem for one in done for problem in one.home.problems]
    if ctx.resuming:  # somebody may have repaired what was left; a runbook that failed is no better for it
        with open_site(ctx.order.site) as opened:
            seen = _compared(opened, before, aimed)
            left = [*steady.problems(look(opened, runs=False, besides=[ctx.run_id]))]
    problems = [one.answer.problem for one in done if one.answer.problem]
    problems += [one.home.failback.problem for one in done if one.home.failback and one.home.failback.problem]
    if not_run := [one.act.runbook for one in aimed[len(done) :]]:
        problems.append(f"{', '.join(not_run)} not run")
    problems += [*left, *map(str, seen.differences)]
    if problems or not seen.counted:
        raise VerificationFailedError(
            f"the drill failed: {'; '.join(dict.fromkeys(problems)) or 'nothing was counted'}",
            remedy=f"See vedr ledger show {ctx.run_id}; repair what is left, then vedr abandon {ctx.run_id}.",
        )
    backs = [one.home.failback.run_id for one in done if one.home.failback]
    return Concluded((*(one.answer.run_id for one in done), *backs), seen.counted, tuple(map(str, seen.expected)))


# --- performing


def perform(ctx: Context[Any], runbook_id: str, fields: dict[str, str], what: str) -> Answer:
    """A runbook, as a part of this drill; one that was begun before goes on.  Its failure is told, not raised."""
    runbook = find_runbook(runbook_id)
    with open_site(ctx.order.site) as opened, part_of(ctx.run_id, runbook, what) as run_id:
        if (ended := _ended(opened, runbook, run_id)) is not None:
            return ended
        ctx.say(f"{runbook_id} {what}: run {run_id}")
        try:
            outcome = runbook.perform(_order(runbook, fields))
        except VedrError as error:
            return _ended(opened, runbook, run_id) or _failed(runbook, run_id, error)
    if not isinstance(outcome, Outcome):
        raise VerificationFailedError(f"{runbook_id} told no outcome", remedy="Its body has to return run.outcome.")
    return Answer(
        str(outcome.run_id), runbook_id, outcome.outcome, outcome.total_ms, outcome.target_ms, outcome.met, ""
    )


def find_runbook(runbook_id: str) -> Runbook[Any]:
    """By entry point, as `vedr run` finds it: what is drilled is what is run in an incident."""
    for point in entry_points(group="vedr.runbooks", name=runbook_id):
        loaded = point.load()
        if isinstance(loaded, Runbook):
            return loaded
    raise NotFoundError(f"no runbook {runbook_id!r} is installed", remedy="Install the whole wheel.")


def _order(runbook: Runbook[Any], fields: dict[str, str]) -> Order:
    known = {name: value for name, value in fields.items() if name in runbook.order.model_fields}
    order: Order = runbook.order.model_validate(known)
    return order


def _ended(opened: OpenSite, runbook: Runbook[Any], run_id: RunId) -> Answer | None:
    """What the ledger says of a run that is closed; None for one that is open, or was never opened."""
    try:
        last = opened.journal.last(run_id)
    except (NotFoundError, UnavailableError):
        return None
    if last is None or last.kind != "closed":
        return None
    told = last.payload
    error = told.get("error")
    message = str(error.get("message", "")) if isinstance(error, dict) else ""
    total, target = told.get("total_ms"), told.get("target_ms")
    return Answer(
        run_id,
        runbook.id,
        str(told.get("outcome")),
        total if isinstance(total, int) else 0,
        target if isinstance(target, int) else 0,
        told.get("met") is True,
        message,
    )


def _failed(runbook: Runbook[Any], run_id: RunId, error: VedrError) -> Answer:
    return Answer(run_id, runbook.id, "failed", 0, round(runbook.target_s * 1000), met=False, error=str(error))
