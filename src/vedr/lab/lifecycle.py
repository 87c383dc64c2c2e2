"""Starting and ending a lab.

Guarantees: `up` starts what is missing and nothing twice, so it may be run again after an interruption or a reboot;
when it returns, every part answered.  `down` ends everything and looks: what it could not end is an error.
Leaves out: installing programs (programs.py says what is missing), and faults.
"""

import shutil
import signal
import time
from dataclasses import dataclass
from typing import Final

from vedr.errors import UnavailableError
from vedr.inventory import Site
from vedr.lab import agents, network, processes, programs
from vedr.lab.plan import Plan
from vedr.lab.progress import Report, timed
from vedr.lab.settings import exclusive
from vedr.lab.startup import Startup

END_LIMIT_S: Final = 45.0
KILL_LIMIT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Started:
    """What `up` leaves behind."""

    site: Site
    took_s: float


def up(plan: Plan, report: Report, *, deploy: bool = True) -> Started:
    """Start what is missing; with `deploy`, also register prefect.yaml's deployments.

    Raises:
        InvalidInputError: the machine lacks programs; all are named.
        DeadlineError: something does not serve; what does is left running.
    """
    began = time.monotonic()
    programs.require(plan)
    with exclusive(plan.settings):
        return Started(site=Startup(plan, report, deploy=deploy).run(), took_s=time.monotonic() - began)


def down(plan: Plan, report: Report, *, purge: bool = False) -> None:
    """End everything.

    Raises:
        UnavailableError: something is left; it is listed.
    """
    with exclusive(plan.settings), timed(report, "stop") as note:
        ended = _end_all(plan)
        note(f"{ended} processes ended")
        if left := leftovers(plan):
            raise UnavailableError(
                f"lab {plan.settings.name} is not wholly down, left: {'; '.join(left)}",
                remedy="Look at these; `vedr lab down` may be run again.",
            )
        if purge:
            shutil.rmtree(plan.folder)
            note(f"{ended} processes ended, {plan.folder} removed")


def leftovers(plan: Plan) -> list[str]:
    """Every process, namespace and network device of the lab, in words."""
    running = processes.of_lab(plan.folder, _namespaces(plan))
    found = [f"process {p.pid} ({p.command[:80]})" for p in running]
    if plan.settings.mode == "namespaces":
        found += network.leftovers(plan)
    return found


def _end_all(plan: Plan) -> int:
    """Supervisors end their units gracefully; what outlives them is killed, namespaces last."""
    everything = processes.of_lab(plan.folder, _namespaces(plan))
    heads = [p for zone in (*plan.zones, None) if (p := _process(agents.pid(plan, zone)))]
    processes.end(heads, signal_number=signal.SIGTERM, limit_s=END_LIMIT_S)
    rest = processes.of_lab(plan.folder, _namespaces(plan))
    processes.end(rest, signal_number=signal.SIGKILL, limit_s=KILL_LIMIT_S)
    if plan.settings.mode == "namespaces":
        network.remove(plan)
    for zone in (*plan.zones, None):
        for name in ("agent.pid", "agent.sock"):
            (plan.agent_folder(zone) / name).unlink(missing_ok=True)
    return len(everything)


def _process(pid: int | None) -> processes.Process | None:
    return processes.Process(pid, "labzoned") if pid else None


def _namespaces(plan: Plan) -> frozenset[int]:
    return network.namespace_inodes(plan) if plan.settings.mode == "namespaces" else frozenset()
