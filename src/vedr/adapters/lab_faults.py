"""Faults in the lab, through its zones' supervisors: `vedr.ports.FaultInjector`.

A killed zone loses every unit that its supervisor runs, stores and workers too; the supervisor itself stays, so that
whoever drills can bring the zone back from anywhere.  (`vedr lab kill` takes the supervisor as well.)

Guarantees: nothing is touched unless the site file says `[drills] faults = "lab"`; what is killed stays down until it
is started, whatever its restart policy; only a node that does not run is damaged.
Leaves out: choosing what may be lost (vedr.drills.targets).
"""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Final

from vedr.adapters.lab_fleet import ZoneAgent
from vedr.adapters.secrets import resolve
from vedr.errors import InvalidInputError, NotFoundError, RefusedError
from vedr.inventory import Node, Site
from vedr.ports import FaultKind, Files, PlacedUnit, UnitStatus

AT_ONCE: Final = 32
SECTOR_BYTES: Final = 512
SECTORS: Final = 3
RUBBISH: Final = b"\xa5"
STOP_LIMIT_S: Final = 15.0
_ALIVE: Final = ("running", "paused")


class LabFaults:
    """The lab's faults.

    Args:
        site: A lab's site, whose agents and token are used.
        files: Reaches the nodes' homes.
    """

    def __init__(self, site: Site, files: Files) -> None:
        if site.drills.faults != "lab" or site.fleet.kind != "lab":
            raise RefusedError(
                f"site {site.name} does not allow faults",
                remedy='Order the non-disruptive form; only a lab has [drills] faults = "lab".',
            )
        if site.fleet.token is None:
            raise InvalidInputError("[fleet] has no token", remedy="Refer to the agents' bearer token.")
        self._site = site
        self._files = files
        self._token = resolve(site.fleet.token).decode()
        self._known = {thing.unit for thing in site.placed} | {signer.unit for signer in site.signers}

    def running(self, zone: str) -> tuple[PlacedUnit, ...]:
        with closing(self._agent(zone)) as agent:
            return tuple(PlacedUnit(name, zone) for name, unit in agent.units().items() if unit.state in _ALIVE)

    def kill(self, units: Sequence[PlacedUnit]) -> None:
        if units:
            with ThreadPoolExecutor(min(AT_ONCE, len(units)), "killing") as pool:
                list(pool.map(self._kill, units))

    def start(self, units: Sequence[PlacedUnit]) -> None:
        for one in sorted(units, key=lambda one: self._wave(one.unit)):
            with closing(self._agent(one.zone)) as agent:
                agent.act(one.unit, "start")

    def damage(self, node: Node, what: FaultKind) -> str:
        with closing(self._agent(node.zone)) as agent:
            if agent.unit(node.unit).state in _ALIVE:
                raise RefusedError(f"{node.name} runs", remedy="Kill it first: only what is down is damaged.")
        data = self._files.home(node) / "data"
        return _lose(data) if what == "disk lost" else _damage(data / "application.db")

    def _kill(self, one: PlacedUnit) -> UnitStatus:
        with closing(self._agent(one.zone)) as agent:
            ended = agent.act(one.unit, "kill")
            # stores and workers are restarted by their supervisor; a dead zone has nobody who would do that
            return ended if one.unit in self._known else agent.act(one.unit, "stop", limit_s=STOP_LIMIT_S)

    def _wave(self, unit: str) -> int:
        """Stores, workers and gateways; signers; nodes, which wait 3 s for theirs; providers."""
        if unit in {node.unit for node in self._site.nodes}:
            return 2
        if unit in {provider.unit for provider in self._site.providers}:
            return 3
        return 1 if unit in {signer.unit for signer in self._site.signers} else 0

    def _agent(self, zone: str) -> ZoneAgent:
        if zone not in self._site.fleet.agents:
            raise NotFoundError(f"no supervisor is known for zone {zone!r}", remedy="See [fleet] agents.")
        return ZoneAgent(zone, self._site.fleet.agents[zone], self._token)


def _lose(data: Path) -> str:
    """A new, empty disk."""
    names = sorted(entry.name for entry in data.iterdir())
    for entry in data.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return f"removed {', '.join(names) or 'nothing'} from {data.parent.name}/data"


def _damage(folder: Path) -> str:
    """Sectors of the largest table overwritten, as a dying disk does; twice is the same as once."""
    tables = [path for path in folder.glob("*") if path.suffix in (".ldb", ".log") and path.stat().st_size]
    if not tables:
        raise NotFoundError(f"{folder} holds no tables", remedy="Let the node make some blocks first.")
    victim = max(tables, key=lambda path: (path.suffix != ".log", path.stat().st_size, path.name))
    size = victim.stat().st_size
    offsets = sorted({size * part // (SECTORS + 1) for part in range(1, SECTORS + 1)})
    with victim.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            file.write(RUBBISH * min(SECTOR_BYTES, size - offset))
    return (
        f"inverted {SECTOR_BYTES} bytes at {', '.join(map(str, offsets))} of {folder.name}/{victim.name}, {size} bytes"
    )
