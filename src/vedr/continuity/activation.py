"""When the plan is activated and when it may be left: criteria, each with the time since it holds, over many looks.

1. Automatic: block production halted for more than 5 min, more than 50 % of users cannot transact, several regions out,
   a confirmed breach.
2. Suggested to the BC manager: a critical function degraded, or not seen to be well, for more than 30 min.
3. Deactivation is suggested: every critical function has been up for 1 h, seen without a gap longer than MAX_GAP_S, and
   no automatic criterion holds.  A person deactivates: only they know whether it may recur.

Guarantees: pure; what nobody could see neither activates by itself nor counts as restored; durations are between what
was seen, whichever process saw it (vedr.continuity.record keeps them).
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from vedr.continuity.functions import FUNCTIONS, SEV1_USERS_PCT, Function
from vedr.continuity.incident import duration
from vedr.continuity.severity import Assessment, FunctionState
from vedr.continuity.signals import Signals
from vedr.policies.notifications import Severity
from vedr.targets import HOUR_S, MINUTE_S

HALTED_LIMIT_S: Final = 5 * MINUTE_S
DEGRADED_LIMIT_S: Final = 30 * MINUTE_S
STABLE_S: Final = HOUR_S
SEVERAL_REGIONS: Final = 2
CALM_SEVERITY: Final[Severity] = "SEV-4"
MAX_GAP_S: Final = 10 * MINUTE_S  # between looks: over a longer one nobody knows that it was stable

Criterion = Literal["halted", "users", "regions", "breach"]
CRITERIA: Final[tuple[Criterion, ...]] = get_args(Criterion)
CRITERION_TEXT: Final[Mapping[Criterion, str]] = {
    "halted": f"block production halted for more than {duration(HALTED_LIMIT_S * 1000)}",
    "users": f"more than {SEV1_USERS_PCT} % of users cannot transact",
    "regions": "several regions are out",
    "breach": "a confirmed breach",
}


@dataclass(frozen=True, slots=True)
class Since:
    """A function that is not up, and since when."""

    state: FunctionState
    at: dt.datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """What the looks so far came to.

    `holding`: automatic criteria that hold, each since when; `troubled`: functions that are not up.  `restored_at`:
    since when every critical function is seen to be up.  `activated_at`: None while the plan is not active.
    """

    seen_at: dt.datetime
    severity: Severity
    holding: Mapping[Criterion, dt.datetime]
    troubled: Mapping[Function, Since]
    restored_at: dt.datetime | None
    activated_at: dt.datetime | None = None
    why_active: str = ""

    @property
    def active(self) -> bool:
        return self.activated_at is not None

    @property
    def calm(self) -> bool:
        """Nothing to remember: no process needs to know of it later."""
        return not (self.active or self.holding or self.troubled) and self.severity == CALM_SEVERITY


def look(earlier: Standing | None, signals: Signals, assessment: Assessment) -> Standing:
    """The standing after one more look; the plan becomes active when an automatic criterion is met."""
    before = earlier if earlier is not None and earlier.seen_at <= signals.at else None
    holding = _holding(before, signals, assessment)
    troubled = {
        function: _since(before.troubled.get(function) if before else None, health.state, signals.at)
        for function, health in assessment.functions.items()
        if health.state != "up"
    }
    standing = Standing(
        seen_at=signals.at,
        severity=assessment.severity,
        holding=holding,
        troubled=troubled,
        restored_at=_restored(before, troubled, signals.at),
        activated_at=before.activated_at if before else None,
        why_active=before.why_active if before else "",
    )
    met = tuple(CRITERION_TEXT[criterion] for criterion in met_criteria(standing))
    if standing.active or not met:
        return standing
    return activated(standing, "; ".join(met))


def activated(standing: Standing, why: str) -> Standing:
    """Active from now on."""
    return replace(standing, activated_at=standing.seen_at, why_active=why)


def deactivated(standing: Standing) -> Standing:
    """No longer active, by a person's word."""
    return replace(standing, activated_at=None, why_active="")


def met_criteria(standing: Standing) -> tuple[Criterion, ...]:
    """The automatic criteria that are met now: all but a halt at once."""
    limits_s: dict[Criterion, float] = {"halted": HALTED_LIMIT_S}
    return tuple(
        criterion
        for criterion in CRITERIA
        if criterion in standing.holding
        and (standing.seen_at - standing.holding[criterion]).total_seconds() > limits_s.get(criterion, -1)
    )


def suggestions(standing: Standing) -> tuple[str, ...]:
    """What a person should decide: activation while the plan is not active, deactivation while it is."""
    if standing.active:
        return (f"deactivate: {_stable(standing)}",) if may_deactivate(standing) else ()
    return tuple(
        f"activate: {FUNCTIONS[function].title} is {since.state} for "
        f"{duration(round((standing.seen_at - since.at).total_seconds() * 1000))}"
        for function, since in standing.troubled.items()
        if FUNCTIONS[function].is_critical and (standing.seen_at - since.at).total_seconds() > DEGRADED_LIMIT_S
    )


def may_deactivate(standing: Standing) -> bool:
    """Whether the criteria for it are met."""
    if standing.restored_at is None or standing.holding:
        return False
    return (standing.seen_at - standing.restored_at).total_seconds() >= STABLE_S


def _stable(standing: Standing) -> str:
    restored = standing.restored_at or standing.seen_at
    held = duration(round((standing.seen_at - restored).total_seconds() * 1000))
    return f"every critical function is up for {held}"


def _holding(before: Standing | None, signals: Signals, assessment: Assessment) -> dict[Criterion, dt.datetime]:
    seen: dict[Criterion, bool | None] = {
        "halted": _is_down(assessment, Function.BLOCKS),
        # not the share by a halt, which has its own criterion and its five minutes
        "users": None if signals.unreached_pct is None else signals.unreached_pct > SEV1_USERS_PCT,
        "regions": None if signals.lost_regions is None else len(signals.lost_regions) >= SEVERAL_REGIONS,
        "breach": None if signals.breach is None else signals.breach == "confirmed",
    }
    earlier = before.holding if before else {}
    found: dict[Criterion, dt.datetime] = {}
    for criterion, holds in seen.items():
        if holds or (holds is None and criterion in earlier):  # not seen: it holds until it is seen to be over
            found[criterion] = earlier.get(criterion, signals.at)
    if "halted" in found and signals.last_block_at is not None:
        found["halted"] = min(found["halted"], signals.last_block_at)  # the chain itself knows since when
    return found


def _is_down(assessment: Assessment, function: Function) -> bool | None:
    state = assessment.functions[function].state
    return None if state == "unknown" else state == "down"


def _since(before: Since | None, state: FunctionState, at: dt.datetime) -> Since:
    return Since(state, before.at if before else at)


def _restored(before: Standing | None, troubled: Mapping[Function, Since], at: dt.datetime) -> dt.datetime | None:
    """Since when every critical function is seen up, without a gap in the looking."""
    if any(FUNCTIONS[function].is_critical for function in troubled):
        return None
    gap_s = (at - before.seen_at).total_seconds() if before else 0.0
    if before is None or before.restored_at is None or gap_s > MAX_GAP_S:
        return at
    return before.restored_at
