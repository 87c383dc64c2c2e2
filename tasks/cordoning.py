"""A zone's hosts on Kubernetes: nothing new is placed on them from RB-DR-002 until the way home.

1. The zone was lost: right after the approval, before anything is scaled, so that nothing lands where it fails again.
2. It is emptied: last, since nodes there are restarted while keys are moved.  Maintenance drains it.
3. The way home begins with their use: what has to serve there before users come back needs somewhere to run.

Guarantees: a cluster that is silent is told of and holds up nothing; only zones that a failover has cordoned since the
last way home are given back.
Leaves out: draining.  A lost zone has nothing that would leave, and a validator that stays would be stopped by it.
"""

from dataclasses import dataclass
from typing import Final

from tasks.failover_orders import Failback
from vedr.adapters.site import OpenSite, open_site
from vedr.errors import VedrError
from vedr.failover.relocation import Relocation, place_of, within
from vedr.ledger import Entry
from vedr.runbook.order import Order
from vedr.runbook.steps import Context, Retry, step

ACT: Final = Retry(attempts=2, delay_s=1.0)

Ctx = Context[Order]


@dataclass(frozen=True, slots=True)
class Cordoned:
    """A zone's hosts that take nothing new; `problem`: why they could not be told so."""

    zone: str
    hosts: tuple[str, ...]
    problem: str


def let_use(ctx: Ctx, cordoned: Cordoned | None) -> str:
    """Lets the zone's hosts be used again, where they were cordoned."""
    if cordoned is not None:
        with open_site(ctx.order.site) as opened:
            return f"{', '.join(opened.zones.uncordon(cordoned.zone)) or 'no host'} may be used again"
    return "whether its hosts were cordoned is not known: kubectl get nodes"


@step(title="Cordon the zone's hosts", budget_s=15, retry=ACT, undo=let_use)
def cordon(ctx: Ctx, found: Relocation) -> Cordoned:
    """Tells the zone's cluster to place nothing new on its hosts; what runs there runs on."""
    zone = found.domain.split(" ", 1)[1]
    with open_site(ctx.order.site) as opened:
        try:
            hosts = opened.zones.cordon(zone)
        except VedrError as error:
            if error.transient and ctx.attempt < ACT.attempts:
                raise
            ctx.say(f"{zone} is not cordoned: {error.message}")
            return Cordoned(zone, (), error.message)
    ctx.say(f"{zone}: nothing new is placed on {', '.join(hosts)}")
    return Cordoned(zone, hosts, "")


@step(title="Let the zone's hosts be used", budget_s=15, retry=ACT, cannot_undo="they may be used: cordon them by hand")
def uncordon(ctx: Context[Failback]) -> tuple[str, ...]:
    """Gives back what failovers since the last way home have cordoned there; other sites and zones have nothing."""
    with open_site(ctx.order.site) as opened:
        zones = cordoned_in(opened, ctx.order.place)
        hosts = tuple(host for zone in zones for host in opened.zones.uncordon(zone))
    ctx.say(f"{', '.join(hosts) or 'no host was cordoned, none'} may be used again")
    return hosts


def cordoned_in(opened: OpenSite, place: str) -> tuple[str, ...]:
    """The place's zones that a failover has cordoned since the last completed way home."""
    if opened.site.fleet.kubernetes is None:
        return ()
    domain = place_of(opened.site, place)
    ids = [run_id for name in ("RB-DR-002", "failback") for run_id in opened.journal.runs_of(name)]
    runs = [entries for run_id in ids if (entries := opened.journal.read(run_id).entries)]  # none: just being opened
    found: dict[str, None] = {}
    for entries in sorted(runs, key=lambda entries: entries[0].time):
        last = entries[-1]
        if entries[0].payload.get("runbook") == "failback":
            if last.kind == "closed" and last.payload.get("outcome") == "completed":
                found.clear()
        else:
            found.update(dict.fromkeys(_zones(entries)))
    regions = {zone: name for name, region in opened.site.regions.items() for zone in region.zones}
    return tuple(zone for zone in found if within(domain, zone, regions[zone]))


def _zones(entries: tuple[Entry, ...]) -> list[str]:
    """Also when a cluster was silent: it may have heard."""
    done = [entry for entry in entries if entry.kind == "step_completed" and entry.payload.get("step") == cordon.key]
    found = [cordon.decode(entry.payload["result"]) for entry in done]
    return [one.zone for one in found if one is not None]
