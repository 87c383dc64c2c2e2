"""Is the site well enough to be broken on purpose?  The steady state that a drill starts from, and has to come back to.

Guarantees: pure; what could not be looked at is a problem, never a pass.
Leaves out: looking (tasks.drills_looking).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vedr.errors import RefusedError
from vedr.failover.node_failure import MAX_HEALTHY_LAG_BLOCKS

MAX_NAMED: Final = 8  # a refusal is read in a terminal


@dataclass(frozen=True, slots=True)
class Look:
    """The site as it was found.

    `lag_blocks`: by node, None for one that is silent or catches up.  `down`: units and gateways that should serve and
    do not.  `away`: keys that are not used, or not appointed, at home.  `unfinished`: runs that nobody closed.
    `unseen`: what could not be asked, with why.
    """

    moving: bool
    lag_blocks: Mapping[str, int | None]
    absent: Sequence[str] = ()
    down: Sequence[str] = ()
    away: Sequence[str] = ()
    unfinished: Sequence[str] = ()
    unseen: Sequence[str] = field(default=())


def problems(look: Look) -> tuple[str, ...]:
    """What keeps a drill from starting, one sentence each."""
    return tuple(_problems(look))


def require(look: Look) -> None:
    """RefusedError naming what is not as it has to be."""
    found = problems(look)
    if found:
        named = "; ".join(found[:MAX_NAMED]) + (f"; and {len(found) - MAX_NAMED} more" if found[MAX_NAMED:] else "")
        raise RefusedError(
            f"not run: the site is not in its steady state: {named}",
            remedy="End what is open (vedr ledger list), repair what is named, then order the drill again.",
        )


def _problems(look: Look) -> Iterator[str]:
    yield from look.unseen
    yield from (f"run {run} is not finished" for run in look.unfinished)
    if not look.moving:
        yield "the chain makes no blocks"
    for node, lag in look.lag_blocks.items():
        if lag is None:
            yield f"{node} does not answer in sync"
        elif lag > MAX_HEALTHY_LAG_BLOCKS:
            yield f"{node} is {lag} blocks behind"
    yield from (f"{validator} does not sign" for validator in look.absent)
    yield from look.down
    yield from look.away
