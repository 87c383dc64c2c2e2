"""What a bucket's lifecycle rules take away, and whether that is sooner than the site still needs it.

A lifecycle rule works silently, on every object that it names, and on none that vedr was asked about: a rule of seven
days on the whole bucket is the loss of every backup but the last week's, with every check of the newest ones passing.

Guarantees: pure; a rule that reaches what is kept for ever (the ledger, keys, registers, leases), or snapshots before
their retention ends, is named; a filter by tag or size makes a rule no safer, since anybody may set tags.
Leaves out: asking the server (vedr.adapters.s3_control); rules of our own, which `vedr snapshot buckets` sets.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from vedr.targets import Retention

Taking = Literal["removes", "archives"]
"""`archives`: into a class that gives nothing back for hours, with which no restore meets its target."""

SLACK_DAYS: Final = 2  # an epoch closes a day after its end, and clocks differ (docs/formats/store.md, on locks)
PASSING: Final = ("checks/",)  # probe objects
REPLACED_OFTEN: Final = ("sign-state/",)  # no older version of a register is ever read


@dataclass(frozen=True, slots=True)
class Expiration:
    """One thing that one enabled rule does: to current or replaced versions under a prefix, at that age in days.

    A rule with a date in place of an age has 0 days: everything is older on that date.
    """

    rule: str
    prefix: str
    taking: Taking
    current: bool
    days: int

    def __str__(self) -> str:
        what = "objects" if self.current else "replaced versions"
        return f"rule {self.rule!r} {self.taking} {what} under {self.prefix or 'everything'!r} after {self.days} days"


def replaced_days(retention: Retention) -> int:
    """How long replaced versions stay: longer than the last snapshot that reads them by their id."""
    return retention.chain_state_days + retention.epoch_days + SLACK_DAYS


def too_soon(rules: Sequence[Expiration], retention: Retention, origins: Sequence[str]) -> tuple[str, ...]:
    """The rules that take what is still needed, one phrase each.

    Args:
        rules: Of one bucket.
        retention: The site's.
        origins: Its regions, by which snapshots stand apart in every bucket.
    """
    return tuple(_said(rule, needed) for rule in rules if rule.days < (needed := _needed(rule, retention, origins)))


def registers_taken(rules: Sequence[Expiration]) -> tuple[str, ...]:
    """The rules of a bucket of registers that take one from its place; older versions are nobody's."""
    taking = [rule for rule in rules if rule.current and not rule.prefix.startswith(PASSING)]
    return tuple(_said(rule, math.inf) for rule in taking)


def _needed(rule: Expiration, retention: Retention, origins: Sequence[str]) -> float:
    """For how many days what the rule reaches is needed."""
    if rule.prefix.startswith(PASSING):
        return 0
    if not rule.current:
        return 0 if rule.prefix.startswith(REPLACED_OFTEN) else replaced_days(retention)
    within = [days for root, days in _snapshots(retention, origins) if rule.prefix.startswith(root)]
    return max(within, default=math.inf)


def _snapshots(retention: Retention, origins: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Where snapshots stand, and how long their objects are read."""
    kinds = {
        "state": retention.chain_state_days,
        "provider": retention.provider_state_days,
        "config": retention.configuration_days,
    }
    for origin in origins:
        for kind, days in kinds.items():
            yield f"{origin}/{kind}/", days + retention.epoch_days + SLACK_DAYS


def _said(rule: Expiration, needed: float) -> str:
    return f"{rule}, which are needed {'for ever' if math.isinf(needed) else f'for {needed:.0f} days'}"
