"""The supervisors (labzoned): one a zone, in the zone's namespace, and one outside all zones.

Guarantees: a supervisor survives the command that started it, carries the lab's mark, and is reached over a unix socket
even while its zone is cut.
"""

import itertools
import json
import os
import re
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from vedr.adapters.lab_fleet import ZoneAgent
from vedr.errors import DeadlineError, UnavailableError, VedrError
from vedr.lab import addresses as at
from vedr.lab import network, processes, readiness
from vedr.lab.credentials import LabSecrets, write_whole
from vedr.lab.plan import OPS, Member, Plan, Zone
from vedr.lab.units import Unit

START_LIMIT_S: Final = 15.0
READY_LIMIT_S: Final = 60.0
_AT_WORK: Final = re.compile(r"^vedr_signer_(epoch|waiting)(\{[^}]*\})? [1-9]", re.MULTILINE)
_POLL_S: Final = 0.05
_TAIL_LINES: Final = 5


def connect(plan: Plan, zone: Zone | None) -> ZoneAgent:
    """The supervisor's client over its unix socket; None is the one outside all zones."""
    token = LabSecrets(plan.folder).agent_token.read_text(encoding="utf-8")
    socket = plan.agent_folder(zone) / "agent.sock"
    return ZoneAgent(zone.name if zone else OPS, plan.agent_url(zone), token, socket=socket)


def answers(plan: Plan, zone: Zone | None) -> bool:
    """Whether the supervisor runs."""
    agent = connect(plan, zone)
    try:
        agent.info()
    except UnavailableError:
        return False
    finally:
        agent.close()
    return True


def start_missing(plan: Plan, zones: tuple[Zone | None, ...]) -> int:
    """Start those that don't run and wait until all answer; returns how many were started.

    Raises:
        DeadlineError: one does not answer; the end of its log is quoted.
    """
    missing = [zone for zone in zones if not answers(plan, zone)]
    for zone in missing:
        _spawn(plan, zone)
    deadline = time.monotonic() + START_LIMIT_S
    for zone in missing:
        while not answers(plan, zone):
            if time.monotonic() > deadline:
                raise DeadlineError(
                    f"the supervisor of {zone.name if zone else OPS} does not answer: {_log_tail(plan, zone)}",
                    remedy=f"See {plan.agent_folder(zone) / 'agent.log'}.",
                )
            time.sleep(_POLL_S)
        _remember_pid(plan, zone)
    return len(missing)


def start_units(plan: Plan, zone: Zone | None, wanted: Sequence[Unit]) -> int:
    """Define and start those that don't run, wave by wave; what runs, and what is in reserve, is left alone.

    Raises:
        DeadlineError: one that others need does not answer in time; what comes after it was not started.
    """
    if not wanted:
        return 0
    agent = connect(plan, zone)
    try:
        known = agent.units()
        for unit in wanted:
            if unit.reserve and (unit.name not in known or known[unit.name].state in ("stopped", "failed")):
                agent.define(unit.definition())
        missing = [
            unit
            for unit in sorted(wanted, key=lambda unit: unit.wave)
            if not unit.reserve and (unit.name not in known or known[unit.name].state in ("stopped", "failed"))
        ]
        for _, wave in itertools.groupby(missing, key=lambda unit: unit.wave):
            _start_wave(agent, list(wave))
    finally:
        agent.close()
    return len(missing)


def _start_wave(agent: ZoneAgent, wave: Sequence[Unit]) -> None:
    for unit in wave:
        start_unit(agent, unit)
    for unit in wave:
        if unit.ready:
            readiness.until(unit.name, partial(_is_ready, agent, unit), limit_s=READY_LIMIT_S, log=unit.log)


def _is_ready(agent: ZoneAgent, unit: Unit) -> bool:
    """Whether a signer holds its key or waits for its node; a superseded one has ended, and is not waited for."""
    if agent.unit(unit.name).state in ("failed", "stopped"):
        return True
    return bool(_AT_WORK.search(readiness.fetch(unit.ready).decode()))


def start_unit(agent: ZoneAgent, unit: Unit) -> None:
    agent.define(unit.definition())
    agent.act(unit.name, "start")


def unit_state(plan: Plan, zone: Zone | None, unit: str) -> str:
    """The unit's state, or "unknown"."""
    agent = connect(plan, zone)
    try:
        return agent.unit(unit).state
    except VedrError:
        return "unknown"
    finally:
        agent.close()


def unit_pid(plan: Plan, zone: Zone | None, unit: str) -> int | None:
    """The unit's process, if it runs."""
    agent = connect(plan, zone)
    try:
        return agent.unit(unit).pid
    finally:
        agent.close()


def pid(plan: Plan, zone: Zone | None) -> int | None:
    """The supervisor's process, if it runs."""
    try:
        number = int((plan.agent_folder(zone) / "agent.pid").read_text(encoding="utf-8"))
        command = (processes.PROC / str(number) / "cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    alive = processes.is_alive(number) and str(plan.agent_folder(zone)).encode() in command
    return number if alive else None


def _remember_pid(plan: Plan, zone: Zone | None) -> None:
    agent = connect(plan, zone)
    try:
        write_whole(plan.agent_folder(zone) / "agent.pid", str(agent.info()["pid"]))
    finally:
        agent.close()


def _spawn(plan: Plan, zone: Zone | None) -> None:
    folder = plan.agent_folder(zone)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "agent.sock").unlink(missing_ok=True)
    argv = [
        str(plan.settings.programs / "labzoned"),
        "--zone", zone.name if zone else OPS,
        "--listen", plan.agent_address(zone),
        "--control", str(folder / "agent.sock"),
        "--units", str(folder / "units.json"),
        "--token-file", str(LabSecrets(plan.folder).agent_token),
    ]  # fmt: skip
    if plan.settings.mode == "relays" and zone:
        write_whole(folder / "relay.json", json.dumps(relays(plan, zone), indent=2))
        argv += ["--relay", str(folder / "relay.json")]
    if plan.settings.mode == "namespaces" and zone:
        argv = ["ip", "netns", "exec", network.namespace(plan, zone), *argv]
    with (folder / "agent.log").open("ab") as log:
        # A grandchild: it outlives this command, and a long-lived caller gets no zombie when it ends.
        subprocess.run(
            ["setsid", "--fork", *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
            env=_environment(plan), check=True, timeout=START_LIMIT_S,
        )  # fmt: skip


def _environment(plan: Plan) -> dict[str, str]:
    """Only what programs need: nothing of the caller's shell leaks into units."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    return {**kept, "TZ": "UTC", processes.MARK_ENV: str(plan.folder)}


def relays(plan: Plan, zone: Zone) -> list[dict[str, str]]:
    """Every door of a zone without namespaces: inward to its own parts, outward to the peers of its nodes."""
    doors = [
        _door(f"in-{member.name}-{port}", plan.published(member, port), plan.listen(member, port))
        for member, ports in _parts(plan, zone)
        for port in ports
    ]
    doors += [
        _door(
            f"out-{peer.name}",
            plan.dialled(peer, at.P2P_PORT, from_zone=zone),
            plan.published(peer, at.P2P_PORT),
        )
        for peer in plan.nodes
        if peer.zone != zone
    ]
    return doors


def _parts(plan: Plan, zone: Zone) -> list[tuple[Member, tuple[int, ...]]]:
    kinds: list[tuple[tuple[Member, ...], tuple[int, ...]]] = [
        (plan.nodes, (at.P2P_PORT, at.RPC_PORT, at.METRICS_PORT)),
        (plan.providers, (at.PROVIDER_PORT,)),
        (plan.gateways, (at.GATEWAY_PORT,)),
        (tuple(plan.stores.values()), (at.STORE_PORT,)),
    ]
    return [(member, ports) for members, ports in kinds for member in members if member.zone == zone]


def _door(name: str, listen: str, target: str) -> dict[str, str]:
    return {"name": name, "listen": listen, "target": target}


def _log_tail(plan: Plan, zone: Zone | None) -> str:
    try:
        lines = (plan.agent_folder(zone) / "agent.log").read_text(errors="replace").splitlines()
    except OSError:
        return "it has written no log"
    return " / ".join(lines[-_TAIL_LINES:]) or "it has written no log"
