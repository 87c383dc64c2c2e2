"""Killing, cutting and bringing back the lab's parts.

Guarantees: a killed zone loses every process at once, its supervisor too, as a host that lost power; a cut zone keeps
its processes and loses all traffic; what is brought back runs what it ran before.
Leaves out: damage to data, which vedr.lab.corruption does.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from vedr.adapters.lab_fleet import ZoneAgent
from vedr.errors import DeadlineError, InvalidInputError, NotFoundError
from vedr.lab import agents, network, processes, units
from vedr.lab.plan import Plan, PlannedNode, Zone
from vedr.lab.units import Unit

KILL_LIMIT_S: Final = 10.0

Action = Callable[[Plan], str]
"""A change to the lab that says what it did."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a command is aimed at: one unit of a zone, or whole zones."""

    zones: tuple[Zone | None, ...]
    unit: Unit | None = None

    def __str__(self) -> str:
        return self.unit.name if self.unit else ", ".join(zone.name for zone in self.zones if zone)


def find(plan: Plan, name: str) -> Target:
    """A unit, zone or region by name; NotFoundError lists what there is."""
    zones = tuple(zone for zone in plan.zones if name in (zone.name, zone.region))
    if zones:
        return Target(zones)
    for zone in (*plan.zones, None):
        for unit in units.of_zone(plan, zone):
            if unit.name == name:
                return Target((zone,), unit)
    known = [*plan.regions, *(zone.name for zone in plan.zones), *(node.name for node in plan.nodes)]
    raise NotFoundError(f"lab {plan.settings.name} has no {name!r}", remedy=f"Choose one of: {', '.join(known)}.")


def kill(plan: Plan, target: Target) -> str:
    """SIGKILL; returns what was done."""
    if target.unit:
        with _agent(plan, target.zones[0]) as agent:
            agent.act(target.unit.name, "kill")
        return f"{target} killed"
    ended = sum(_kill_zone(plan, zone) for zone in target.zones if zone)
    return f"{target}: {ended} processes killed, supervisor included"


def start(plan: Plan, target: Target) -> str:
    """Bring back; what runs is left alone."""
    agents.start_missing(plan, target.zones)
    for zone in target.zones:
        wanted = [replace(target.unit, reserve=False)] if target.unit else units.of_zone(plan, zone)
        agents.start_units(plan, zone, wanted)
    return f"{target} started"


def stop(plan: Plan, target: Target) -> str:
    """End one unit cleanly."""
    if not target.unit:
        raise InvalidInputError("only a unit can be stopped", remedy="Use kill or cut for a zone or region.")
    with _agent(plan, target.zones[0]) as agent:
        agent.act(target.unit.name, "stop", limit_s=target.unit.grace_s + 5)
    return f"{target} stopped"


def cut(plan: Plan, target: Target) -> str:
    """No traffic passes in or out of the zones; processes go on."""
    for zone in _whole_zones(target):
        if plan.settings.mode == "namespaces":
            network.cut(plan, zone)
        else:
            with _agent(plan, zone) as agent:
                agent.cut()
    return f"{target} cut off"


def heal(plan: Plan, target: Target) -> str:
    """Let traffic pass again; peers find each other within the nodes' redial period."""
    for zone in _whole_zones(target):
        if plan.settings.mode == "namespaces":
            network.heal(plan, zone)
        else:
            with _agent(plan, zone) as agent:
                agent.heal()
    return f"{target} reconnected"


def is_cut(plan: Plan, zone: Zone) -> bool:
    if plan.settings.mode == "namespaces":
        return network.is_cut(plan, zone)
    with _agent(plan, zone) as agent:
        return bool(agent.info()["cut"])


def is_running(plan: Plan, node: PlannedNode) -> bool:
    """Whether the node's process exists, paused or not."""
    if agents.pid(plan, node.zone) is None:
        return False
    with _agent(plan, node.zone) as agent:
        known = agent.units()
    return node.name in known and known[node.name].state in ("running", "paused")


def change_load(plan: Plan, *, transactions_per_s: float, value_bytes: int | None) -> str:
    """Restart the load generator at another rate; 0 ends it."""
    unit = units.load_unit(plan, transactions_per_s=transactions_per_s, value_bytes=value_bytes)
    with _agent(plan, None) as agent:
        agent.act(unit.name, "stop", limit_s=unit.grace_s + 5)
        if transactions_per_s:
            agents.start_unit(agent, unit)
            return f"{transactions_per_s:g} transactions a second"
    return "load generator stopped"


def _kill_zone(plan: Plan, zone: Zone) -> int:
    if plan.settings.mode == "namespaces":
        victims = processes.in_namespaces(network.namespace_inodes(plan, zone))
    else:
        supervisor = agents.pid(plan, zone)
        victims = [processes.Process(supervisor, "labzoned")] if supervisor else []
    if left := processes.end(victims, signal_number=signal.SIGKILL, limit_s=KILL_LIMIT_S):
        raise DeadlineError(
            f"{len(left)} processes of {zone.name} outlived SIGKILL: {left[0]}", remedy="Look at their state in ps."
        )
    return len(victims)


def _whole_zones(target: Target) -> Iterator[Zone]:
    if target.unit:
        raise InvalidInputError(
            f"{target} is a unit: only zones and regions can be cut off", remedy="Name its zone or region."
        )
    yield from (zone for zone in target.zones if zone)


@contextmanager
def _agent(plan: Plan, zone: Zone | None) -> Iterator[ZoneAgent]:
    agent = agents.connect(plan, zone)
    try:
        yield agent
    finally:
        agent.close()
