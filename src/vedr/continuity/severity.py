"""From signals to the state of each function and a severity.

A function's own signal decides; one without a signal is as bad as what it needs, and says that it was inferred.  What
could not be seen is `unknown`: it never counts as up, and the severity is then the least that is certain.

A function of which the site's file has nothing (no provider daemon, no gateway), and what needs it, is none of this
site's: it is neither up nor unknown.

Guarantees: pure; no unknown makes a severity better; a severity comes with its reasons.
Leaves out: since when (vedr.continuity.activation).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from vedr.continuity.functions import FUNCTIONS, SEV1_USERS_PCT, SEV2_USERS_PCT, Function
from vedr.continuity.signals import Answering, Signals
from vedr.policies.notifications import SEVERITIES, Severity

FunctionState = Literal["up", "degraded", "down", "unknown"]
HALTED_S: Final = 30.0  # VirtEngine's alert: no block for 30 s
_NO_IMPACT: Final[Severity] = "SEV-4"
_ORDER: Final[tuple[FunctionState, ...]] = ("up", "unknown", "degraded", "down")


@dataclass(frozen=True, slots=True)
class Health:
    """How a function is, and how that is known."""

    state: FunctionState
    why: str
    inferred: bool = False


@dataclass(frozen=True, slots=True)
class Assessment:
    """`certain` is false when something could not be seen: the severity may then be worse."""

    severity: Severity
    reasons: tuple[str, ...]
    functions: Mapping[Function, Health]
    affected_pct: int | None
    certain: bool


def assess(signals: Signals, *, halted_s: float = HALTED_S) -> Assessment:
    """Severity by VirtEngine's criteria."""
    functions = health_of(signals, halted_s=halted_s)
    affected = affected_pct(signals, functions)
    found: list[tuple[Severity, str]] = []
    if functions[Function.BLOCKS].state == "down":
        found.append(("SEV-1", functions[Function.BLOCKS].why))
    elif affected is not None and affected > 0:
        found.append((_by_users(affected), f"{affected} % of users cannot be served"))
    if signals.breach == "confirmed":
        found.append(("SEV-1", "a breach is confirmed"))
    for function, health in functions.items():
        if health.state in ("degraded", "down") and not health.inferred:
            grave: Severity = "SEV-2" if FUNCTIONS[function].is_critical else "SEV-3"
            found.append((grave, f"{FUNCTIONS[function].title}: {health.why}"))
    if signals.lost_regions:
        found.append(("SEV-2", f"nothing answers in {', '.join(signals.lost_regions)}"))
    found += [("SEV-3", f"incident {open_.run_id} ({open_.runbook}) is open") for open_ in signals.incidents or ()]
    worst = next((severity for severity in SEVERITIES if any(severity == one for one, _ in found)), _NO_IMPACT)
    reasons = tuple(dict.fromkeys(why for _, why in sorted(found, key=lambda one: SEVERITIES.index(one[0]))))
    certain = not signals.unseen and all(health.state != "unknown" for health in functions.values())
    return Assessment(worst, reasons, functions, affected, certain)


def health_of(signals: Signals, *, halted_s: float = HALTED_S) -> dict[Function, Health]:
    """Every function's state, in the plan's order, dependencies first; but for what the site has no part of."""
    own: dict[Function, Health | None] = {
        Function.BLOCKS: _blocks(signals, halted_s),
        Function.GATEWAY: _answering(signals.gateways, signals, "gateways"),
        Function.PROVIDER: _answering(signals.providers, signals, "providers"),
        Function.MONITORING: _monitoring(signals),
    }
    found: dict[Function, Health] = {}
    for function, impact in FUNCTIONS.items():
        if function in signals.absent or any(need not in found for need in impact.needs):
            continue
        below = [(need, found[need]) for need in impact.needs]
        found[function] = _worst(own.get(function), below)
    return found


def affected_pct(signals: Signals, functions: Mapping[Function, Health]) -> int | None:
    """The share of users who cannot transact: everybody when blocks stand, else those whose gateways are silent."""
    if functions[Function.BLOCKS].state == "down":
        return 100
    return signals.unreached_pct


def _by_users(pct: int) -> Severity:
    if pct > SEV1_USERS_PCT:
        return "SEV-1"
    return "SEV-2" if pct >= SEV2_USERS_PCT else "SEV-3"


def _blocks(signals: Signals, halted_s: float) -> Health:
    age_s = signals.block_age_s
    if age_s is None:
        return Health("unknown", signals.unseen.get("blocks", "no node could be asked"))
    if age_s < -halted_s:  # by such clocks a chain that stands still looks as if it moved
        return Health("unknown", f"the newest block is dated {-age_s:.0f} s in the future: this host's clock is wrong")
    if age_s > halted_s:
        return Health("down", f"no block for {age_s:.0f} s")
    power = signals.power
    signing = f", {power.up} of {power.total} voting power signs" if power else ""
    if power is not None and not power.all_up and signals.fragile:
        return Health("degraded", f"blocks are made{signing}: one validator less halts the chain")
    return Health("up", f"a block {max(0.0, age_s):.0f} s ago{signing}")


def _answering(seen: Answering | None, signals: Signals, what: str) -> Health:
    if seen is None:
        return Health("unknown", signals.unseen.get(what, "not looked at"))
    if not seen.total:
        return Health("unknown", f"no {what} are in service by what the site file and the names say")
    if seen.all_up:
        return Health("up", f"all {seen.total} answer")
    return Health("down" if seen.up == 0 else "degraded", f"{seen.up} of {seen.total} answer")


def _monitoring(signals: Signals) -> Health:
    match signals.monitoring:
        case None:
            return Health("unknown", signals.unseen.get("monitoring", "no address is known"))
        case True:
            return Health("up", "it answers")
        case False:
            return Health("down", "it does not answer")


def _worst(own: Health | None, below: list[tuple[Function, Health]]) -> Health:
    """Its own state, or that of the worst it needs when that is worse; degraded at most by what is degraded."""
    states = {health.state for _, health in below}
    worst = next((state for state in reversed(_ORDER) if state in states), _ORDER[0])
    if own is not None and _ORDER.index(own.state) >= _ORDER.index(worst):
        return own
    if worst == "up":
        return Health("up", "what it needs is up", inferred=True)
    needed = ", ".join(FUNCTIONS[need].title for need, health in below if health.state == worst)
    return Health(worst, f"needs {needed}", inferred=True)
