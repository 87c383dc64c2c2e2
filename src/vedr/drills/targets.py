"""What a drill may break: only what the chain, and the users, can do without.

1. A node: a full or archive node that serves, while another one of its region does.  Never a validator.
2. A zone: one whose loss does not halt the chain.
3. A region: one whose loss does not halt the chain; or, where the site allows a halt, one whose keys can sign elsewhere
   so that it ends.

Of several the one that was drilled the longest ago is taken; of those never drilled the one with most keys to move.

Guarantees: pure; whatever is chosen, or named, keeps these rules, and a refusal says which one.
Leaves out: whether the site is well (vedr.drills.steady).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vedr.chain.quorum import Domain, DomainKind
from vedr.drills.scenario import Act, Exercise
from vedr.errors import NotFoundError, RefusedError
from vedr.inventory import Node, Site
from vedr.readiness.topology_losses import Exposure, Loss


@dataclass(frozen=True, slots=True)
class Radius:
    """What losing a target means for consensus; powers in voting power, `margin` above what is needed."""

    target: str
    lost: int
    margin: int
    halts: bool
    finding: str


@dataclass(frozen=True, slots=True)
class Ground:
    """What targets are chosen on: the site, what each loss does now, who serves, and what was drilled, oldest first."""

    site: Site
    exposure: Exposure
    serving: frozenset[str]
    drilled: Mapping[str, Sequence[str]]


def choose(ground: Ground, exercises: Sequence[Exercise], wanted: str = "") -> tuple[Act, ...]:
    """A target for each exercise, no node twice.

    Args:
        ground: What is known.
        exercises: Of the drill.
        wanted: The target that was named; for a drill with one exercise.

    Raises:
        NotFoundError: the site has nothing of that name.
        RefusedError: nothing may be broken, or not that.
    """
    acts: list[Act] = []
    for exercise in exercises:
        taken = {act.target for act in acts if act.kind == "node"}
        target = _named(ground, exercise.kind, wanted) if wanted else _longest_ago(ground, exercise, taken)
        acts.append(Act(exercise.runbook, exercise.kind, target, exercise.fault, exercise.failback))
    return tuple(acts)


def radius(ground: Ground, act: Act) -> Radius:
    """What is lost by it, for the record."""
    loss = _loss(ground.exposure, act.domain)
    lost, margin = (loss.lost, loss.margin) if loss else (0, ground.exposure.margin)
    halts = margin < 0
    said = f"the chain halts, {-margin} power short, until {loss.restoration}" if halts and loss else f"margin {margin}"
    return Radius(str(act.domain), lost, margin, halts, f"{act.domain}: {lost} power lost, {said}")


def obstacle(ground: Ground, domain: Domain) -> str:
    """Why it must not be broken; empty when it may be."""
    if domain.kind == "node":
        return _of_node(ground, ground.site.node(domain.name))
    loss = _loss(ground.exposure, domain)
    if loss is None or not loss.halts:
        return ""
    if domain.kind == "zone" or not ground.site.drills.may_halt:
        return f"its loss halts the chain: {loss.lost} power, {-loss.margin} more than can be missed"
    return "" if loss.restorable else f"its loss halts the chain, and {loss.restoration}"


def _of_node(ground: Ground, node: Node) -> str:
    if node.is_validator:
        return "it is a validator: only full and archive nodes are drilled alone"
    if node.name not in ground.serving:
        return "it does not serve"
    beside = [one for one in ground.site.nodes_in(node.region, "full", "archive") if one.name in ground.serving]
    return "" if len(beside) > 1 else f"no other full node of {node.region} serves"


def _named(ground: Ground, kind: DomainKind, name: str) -> str:
    if name not in (known := _names(ground.site, kind)):
        raise NotFoundError(f"site {ground.site.name} has no {kind} {name!r}", remedy=f"Choose: {', '.join(known)}.")
    if why := obstacle(ground, Domain(kind, name)):
        raise RefusedError(f"{kind} {name} must not be broken: {why}", remedy="Leave the choice to the drill.")
    return name


def _longest_ago(ground: Ground, exercise: Exercise, taken: Collection[str]) -> str:
    obstacles = {
        name: "another exercise of this drill has it"
        if name in taken
        else obstacle(ground, Domain(exercise.kind, name))
        for name in _names(ground.site, exercise.kind)
    }
    able = [name for name, why in obstacles.items() if not why]
    if not able:
        reasons = "; ".join(f"{name}: {why}" for name, why in obstacles.items())
        raise RefusedError(
            f"no {exercise.kind} may be broken for {exercise.runbook}: {reasons}",
            remedy="Spread the voting power (vedr topology), or order the non-disruptive form.",
        )
    history = list(ground.drilled.get(exercise.kind, ()))
    last = {name: max((place for place, one in enumerate(history) if one == name), default=-1) for name in able}
    return min(able, key=lambda name: (last[name], -_worth(ground.site, Domain(exercise.kind, name))))


def _worth(site: Site, domain: Domain) -> int:
    """How many keys would have to move; a plain full node before the region's archive."""
    if domain.kind == "node":
        return int(site.node(domain.name).role == "full")
    inside = [node for node in site.nodes if domain.name in (node.zone, node.region)]
    return sum(bool(site.signers_of(node.name)) for node in inside)


def _names(site: Site, kind: DomainKind) -> list[str]:
    if kind == "node":
        return [node.name for node in site.nodes]
    if kind == "region":
        return list(site.regions_by_priority)
    return [zone for region in site.regions_by_priority for zone in site.regions[region].zones]


def _loss(exposure: Exposure, domain: Domain) -> Loss | None:
    return next((loss for loss in exposure.singles if loss.domains == (domain,)), None)
