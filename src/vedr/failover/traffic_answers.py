"""Waiting until every authoritative server sends users where a plan says.

Guarantees: only what servers answer counts, never what was written; every server of every backend that answers has to
answer as desired, and for every name one has to.  One that gives no answer at all, lost with its place as it may be, is
waited for `SILENT_S` and then named as not seen.  What resolvers may still have cached is said, not waited for.
Leaves out: resolvers that keep answers longer than their TTL allows.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vedr.errors import DeadlineError
from vedr.failover.traffic import Answer, Share, Traffic
from vedr.failover.traffic_plan import TrafficPlan

POLL_S: Final = 0.5
SILENT_S: Final = 10.0  # a name server that is only restarted answers by then


@dataclass(frozen=True, slots=True)
class Answered:
    """Every one of `servers` answers as desired since `took_s` after the wait began; of the `silent` nothing is known.

    `cached_s`: how long from now a resolver may go on giving an answer from before: the old TTL.
    """

    servers: tuple[str, ...]
    names: tuple[str, ...]
    took_s: float
    cached_s: int
    silent: tuple[str, ...] = ()

    def __str__(self) -> str:
        unseen = f"; not seen, since silent: {', '.join(self.silent)}" if self.silent else ""
        return (
            f"{', '.join(self.servers)} answer as desired for {', '.join(self.names)} after {self.took_s:.1f} s; "
            f"resolvers may have older answers for {self.cached_s} s more{unseen}"
        )


def differences(backend: str, wanted: Mapping[str, Share], answers: Sequence[Answer]) -> list[str]:
    """What is not as desired, one line a server and name; a name that no server was asked for is one too."""
    found = [_difference(answer, wanted[answer.name]) for answer in answers if answer.name in wanted]
    silent = sorted(wanted.keys() - {answer.name for answer in answers})
    return [f"{backend}: {text}" for text in (*found, *(f"nobody was asked for {name}" for name in silent)) if text]


def _difference(answer: Answer, wanted: Share) -> str:
    who = f"{answer.server}, {answer.name}"
    if answer.problem:
        return _said(answer)
    if answer.strangers:
        return f"{who} leads to {', '.join(answer.strangers)}, which is no endpoint here"
    seen = frozenset(answer.endpoints)
    as_wanted = seen == wanted.serving if answer.complete else bool(seen) and seen <= wanted.serving
    if not as_wanted:
        return f"{who} leads to {', '.join(sorted(seen)) or 'nobody'}, not to {', '.join(sorted(wanted.serving))}"
    if answer.ttl_s is not None and wanted.ttl_s is not None and answer.ttl_s > wanted.ttl_s:
        return f"{who} has a TTL of {answer.ttl_s} s, not {wanted.ttl_s} s"
    return ""


def _said(answer: Answer) -> str:
    return f"{answer.server}, {answer.name}: {answer.problem}"


def wait_until_answered(
    backends: Sequence[Traffic],
    plan: TrafficPlan,
    *,
    deadline_s: float,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Answered:
    """Ask until all that answer do so as the plan says, and the others were silent for SILENT_S on end.

    Raises:
        DeadlineError: it is not so in time; each server that differs, and how.
    """
    by_name = {backend.backend.name: backend for backend in backends}
    began = monotonic()
    silent_since: dict[str, float] = {}
    while True:
        asked_at = monotonic()
        problems: list[str] = []
        servers: dict[str, None] = {}
        silent: dict[str, str] = {}
        for change in plan.changes:
            answers = by_name[change.backend].answers(tuple(change.names))
            for answer in answers:
                if answer.silent:
                    silent.setdefault(answer.server, f"{change.backend}: {_said(answer)}")
            heard = [answer for answer in answers if not answer.silent]
            problems += differences(change.backend, change.names, heard)
            servers |= dict.fromkeys(answer.server for answer in heard)
        silent_since = {server: silent_since.get(server, asked_at) for server in silent}
        took_s = monotonic() - began
        if not problems and all(monotonic() - since >= SILENT_S for since in silent_since.values()):
            names = dict.fromkeys(name for change in plan.changes for name in change.names)
            seen = tuple(server for server in servers if server not in silent)
            return Answered(seen, tuple(names), took_s, plan.longest_ttl_s, tuple(silent))
        problems += silent.values()
        if took_s >= deadline_s:
            raise DeadlineError(
                f"after {took_s:.0f} s users are not yet sent where the plan says: {'; '.join(problems)}",
                remedy="Look at those servers: vedr traffic check.",
            )
        sleep(min(POLL_S, deadline_s - took_s))
