"""A plan as a value: what a run is going to do, where, within which budget, to what effect.

The same value is printed by `vedr run … --plan`, shown to those who are asked, and named by its digest in their
answers; so a plan that changed is another plan, and nobody has agreed to it.

Guarantees: equal plans have equal digests, on every machine.
Leaves out: making one (each runbook's own, `Runbook(plan=…)`).  What goes into it should not change by the second: a
height or a duration that was measured makes a new plan each time.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from vedr.errors import CorruptError, RefusedError
from vedr.signature import Json, canonical_json

FORMAT: Final = "vedr-plan/1"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that is going to be done.

    `what`: the deed (`promote the standby of us-east-validator-0`); `where`: on what (`eu-west-1a`); `effect`: what is
    different afterwards, in what a reader cares about (`power in eu-west 20 -> 30 of 60`).
    """

    what: str
    where: str
    budget_s: float
    effect: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is going to do, in order.

    `notes` explain it, `warnings` have to be weighed by whoever agrees to it, `refusals` say why it must not be done:
    a plan that has any is never carried out.
    """

    title: str
    actions: tuple[Action, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of its canonical encoding, 64 hexadecimal digits."""
        return hashlib.sha256(canonical_json(self.document())).hexdigest()

    @property
    def budget_s(self) -> float:
        return sum(action.budget_s for action in self.actions)

    def document(self) -> dict[str, Json]:
        """As the ledger and `--json` have it."""
        return {
            "format": FORMAT,
            "title": self.title,
            "actions": [
                {
                    "what": action.what,
                    "where": action.where,
                    "budget_ms": round(action.budget_s * 1000),
                    "effect": action.effect,
                }
                for action in self.actions
            ],
            "notes": [*self.notes],
            "warnings": [*self.warnings],
            "refusals": [*self.refusals],
        }

    def check(self) -> None:
        """RefusedError naming every reason why it must not be carried out."""
        if self.refusals:
            raise RefusedError(
                f"{self.title}: {'; '.join(self.refusals)}",
                remedy="Remove these reasons, or order something else; no flag bypasses them.",
            )


def parse_plan(document: Json) -> Plan:
    """The plan that `document()` gave; CorruptError for anything else."""
    match document:
        case {
            "format": "vedr-plan/1",
            "title": str(title),
            "actions": list(actions),
            "notes": list(notes),
            "warnings": list(warnings),
            "refusals": list(refusals),
        }:
            plan = Plan(title, tuple(map(_action, actions)), _texts(notes), _texts(warnings), _texts(refusals))
            if plan.document() == document:
                return plan
    raise CorruptError(f"not a plan of {FORMAT}", remedy="Use a newer vedr.")


def _action(document: Json) -> Action:
    match document:
        case {"what": str(what), "where": str(where), "budget_ms": int(budget_ms), "effect": str(effect)}:
            return Action(what, where, budget_ms / 1000, effect)
        case _:
            raise CorruptError(f"not an action of {FORMAT}", remedy="Use a newer vedr.")


def _texts(values: list[Json]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)
