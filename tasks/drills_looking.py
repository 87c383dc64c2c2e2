"""Looking at the whole site for a drill: is it steady, what is there, and what did earlier drills break?

Guarantees: nothing is changed here; what cannot be asked is told as such, never left out.
Leaves out: judging (vedr.drills).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from tasks.observing import ask, in_sync, tip_of
from tasks.outages import appointments_of, holders_of
from vedr.adapters.answering import answers_http
from vedr.adapters.site import OpenSite, utc_now
from vedr.adapters.snapshots import SCRATCH
from vedr.drills.census import UNSEEN, Census
from vedr.drills.steady import Look
from vedr.drills.targets import Ground
from vedr.errors import NotFoundError, UnavailableError, VedrError
from vedr.inventory import Node
from vedr.ledger import Entry, RunId
from vedr.ports import ObjectStore, PlacedUnit
from vedr.readiness.topology_facts import audit_live
from vedr.runbook.journal import Journal

LOOK_BACK_RUNS: Final = 30  # incidents are closed or abandoned long before; drills are that many in half a year
AT_ONCE: Final = 32
CHOSEN_STEP: Final = "choose_targets"
RUNNING: Final = "running"
NOT_RUNNING: Final = "not running"


def ground_of(opened: OpenSite, drill: str) -> Ground:
    """What targets are chosen on.  VerificationFailedError when the chain can't be asked."""
    facts, found = audit_live(opened, clock=utc_now)
    return Ground(opened.site, found.now, facts.serving, drilled(opened.journal, drill))


def drilled(journal: Journal, drill: str) -> dict[str, tuple[str, ...]]:
    """By kind, the targets of the drill's earlier runs, oldest first; of runs that can't be read none."""
    targets: dict[str, tuple[str, ...]] = {}
    for run_id in journal.runs_of(drill)[-LOOK_BACK_RUNS:]:
        for entry in _entries(journal, run_id):
            result = entry.payload.get("result") if entry.payload.get("step") == CHOSEN_STEP else None
            for aimed in result if isinstance(result, list) else ():
                match aimed:
                    case {"act": {"kind": str(kind), "target": str(target)}}:
                        targets[kind] = (*targets.get(kind, ()), target)
                    case _:
                        pass
    return targets


def _entries(journal: Journal, run_id: RunId) -> Sequence[Entry]:
    try:
        return journal.read(run_id).entries
    except VedrError:
        return ()


# --- the steady state


def look(opened: OpenSite, *, besides: Iterable[RunId] = (), runs: bool = True) -> Look:
    """The site as it is now.

    Args:
        opened: The site.
        besides: Runs that may be open.
        runs: Whether unfinished runs count.
    """
    unseen: list[str] = []

    def attempt(what: str, question: Callable[[], list[str]]) -> list[str]:
        try:
            return question()
        except VedrError as error:
            unseen.append(f"{what} could not be looked at: {error.message}")
            return []

    site = opened.site
    answering = ask(opened, site.nodes)
    tip = tip_of(answering) or 0
    lags = {one.node.name: tip - one.status.latest_height for one in in_sync(answering)}
    chain: list[bool] = []
    absent = attempt("the chain", partial(_absent, opened, chain))
    down = attempt("the units", partial(_down, opened)) + attempt("the services", partial(_silent, opened))
    away = attempt("the signers' registers", partial(_away, opened))
    for region, store in opened.stores.items():
        attempt(f"the store of {region}", partial(_listed, store))
    unfinished = attempt("the ledger", partial(_unfinished, opened.journal, frozenset(besides))) if runs else []
    return Look(
        moving=all(chain),  # when it could not be asked, `unseen` says so
        lag_blocks={node.name: lags.get(node.name) for node in site.nodes},
        absent=tuple(absent),
        down=tuple(down),
        away=tuple(away),
        unfinished=tuple(unfinished),
        unseen=tuple(unseen),
    )


def _listed(store: ObjectStore) -> list[str]:
    """Nothing is wrong with a store that lists the ledger."""
    next(iter(store.list("ledger/")), None)
    return []


def _absent(opened: OpenSite, moving: list[bool]) -> list[str]:
    """Validators of the site that do not take part; whether the chain moves is put into `moving`."""
    facts, _ = audit_live(opened, clock=utc_now)
    moving.append(facts.moving)
    return [node.name for node in opened.site.nodes if node.address and bytes.fromhex(node.address) not in facts.online]


def _down(opened: OpenSite) -> list[str]:
    states = unit_states(opened)
    return [f"unit {unit} is {states[unit]}" for unit in _wanted(opened) if states[unit] != RUNNING]


def _wanted(opened: OpenSite) -> list[str]:
    """Units that run when nothing is wrong: no reserve, and of a key's signers the one at home."""
    site = opened.site
    placed = [thing.unit for thing in site.placed if isinstance(thing, Node) or not thing.reserve]
    return placed + [signers[0].unit for node in site.nodes if (signers := site.signers_of(node.name))]


def _silent(opened: OpenSite) -> list[str]:
    site, path = opened.site, opened.site.traffic.health_path
    services = [thing for thing in site.placed if not isinstance(thing, Node) and not thing.reserve]
    with ThreadPoolExecutor(AT_ONCE, "services") as pool:
        healthy = list(pool.map(lambda one: answers_http(f"{one.url}{path}", healthy=True), services))
    return [f"{one.name} does not serve" for one, is_up in zip(services, healthy, strict=True) if not is_up]


def _away(opened: OpenSite) -> list[str]:
    home = {node.name: signers[0].name for node in opened.site.nodes if (signers := opened.site.signers_of(node.name))}
    holders, appointed = holders_of(opened), appointments_of(opened)
    return [
        f"the key of {validator} is at {holders[validator] or 'nobody'}, {appointed[validator] or name} is appointed"
        for validator, name in home.items()
        if holders[validator] != name or appointed[validator] not in ("", name)
    ]


def _unfinished(journal: Journal, besides: frozenset[RunId]) -> list[str]:
    """Incidents, failbacks and drills that nobody closed."""
    runs = [*journal.runs("inc-")[-LOOK_BACK_RUNS:], *journal.runs_of("failback")[-LOOK_BACK_RUNS:]]
    found = []
    for run_id in runs:
        last = journal.last(run_id) if run_id not in besides else None
        if last is not None and last.kind != "closed":
            found.append(str(run_id))
    return found


# --- counting


def take_census(opened: OpenSite, *, deep: bool) -> Census:
    """Everything that a drill has to leave as it was.

    Args:
        opened: The site.
        deep: With all that runs in the zones, and the files of the nodes: where the site allows faults.
    """
    things: dict[str, str] = {f"unit {unit}": state for unit, state in unit_states(opened).items()}
    for node, answer in zip(opened.site.nodes, _identities(opened), strict=True):
        things[f"identity of {node.name}"] = answer
    things |= dict(_keys(opened))
    things |= dict(_names(opened))
    scratch = opened.site.work_dir / SCRATCH
    things["restores beside the site"] = ", ".join(sorted(p.name for p in scratch.glob("*"))) or "none"
    if deep:
        for zone in zones_of(opened):
            others = {one.unit for one in opened.faults.running(zone)} - {name.split(" ", 1)[1] for name in things}
            things |= {f"unit {unit} of {zone}": RUNNING for unit in sorted(others)}
        things |= {f"files of {node.name}": _files(opened, node) for node in opened.site.nodes}
    return Census(things)


def zones_of(opened: OpenSite, *names: str) -> tuple[str, ...]:
    """The zones of these places, or all."""
    return tuple(
        zone
        for region in opened.site.regions_by_priority
        for zone in opened.site.regions[region].zones
        if not names or region in names or zone in names
    )


def unit_states(opened: OpenSite) -> dict[str, str]:
    """Of every unit of the site: running, not running, or why it can't be told."""
    site = opened.site
    units = [PlacedUnit(thing.unit, thing.zone) for thing in site.placed]
    units += [PlacedUnit(signer.unit, site.node(signer.node).zone) for signer in site.signers]

    def state(one: PlacedUnit) -> str:
        try:
            return RUNNING if opened.fleet.status(one.unit, one.zone).state == "running" else NOT_RUNNING
        except (UnavailableError, NotFoundError) as error:
            return f"{UNSEEN}: {error.message}"

    with ThreadPoolExecutor(AT_ONCE, "units") as pool:
        return dict(zip([one.unit for one in units], pool.map(state, units), strict=True))


def _identities(opened: OpenSite) -> list[str]:
    seen = {one.node.name: one.status for one in ask(opened, opened.site.nodes)}
    return [
        f"{status.node_id} {status.validator_address.hex().upper() if node.is_validator else ''}".strip()
        if (status := seen.get(node.name))
        else f"{UNSEEN}: it does not answer"
        for node in opened.site.nodes
    ]


def _keys(opened: OpenSite) -> Iterator[tuple[str, str]]:
    home = {node.name: signers[0].name for node in opened.site.nodes if (signers := opened.site.signers_of(node.name))}
    try:
        holders, appointed = holders_of(opened), appointments_of(opened)
    except VedrError as error:
        yield "signers' registers", f"{UNSEEN}: {error.message}"
        return
    for validator, name in home.items():
        yield f"key of {validator}", f"used by {holders[validator] or 'nobody'}"
        yield f"signer appointed for {validator}", appointed[validator] or name


def _names(opened: OpenSite) -> Iterator[tuple[str, str]]:
    if not opened.site.traffic.backends:
        return
    try:
        views = opened.traffic.views()
    except VedrError as error:
        yield "names of the API", f"{UNSEEN}: {error.message}"
        return
    for view in views:
        for name, share in view.picture.names.items():
            yield f"{view.backend.name} {name}", ", ".join(sorted(share.serving)) or "nobody"


def _files(opened: OpenSite, node: Node) -> str:
    """What stands beside a node's data: whatever a run set aside, or staged, is more than before; sockets hold none."""
    try:
        return ", ".join(sorted(entry.name for entry in opened.files.home(node).iterdir() if not entry.is_socket()))
    except (VedrError, OSError) as error:
        return f"{UNSEEN}: {error}"
