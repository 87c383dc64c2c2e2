"""Failovers on a running lab whose process is killed over and over, and gone on with by their incident's id.

    make up
    python -m bench.killed_failovers --name lab --kills 20 --seed 1 [--places us-east us-east-1b] [--write PAGE]

Each round loses a place, runs RB-DR-002 or -003 as `vedr run`, and then the failback; each of these processes is
killed with SIGKILL, up to three times a run, at a random moment, or within a step that is chosen by chance.  What was
killed is gone on with.  Checked afterwards: both runs are completed; no step was completed twice or begun after its
completion; each key was appointed once by each run; what users are sent to is the plan in the ledger; no block holds
evidence.
"""

import argparse
import contextlib
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

os.environ["VEDR_PLAIN"] = "1"  # before flows are imported: their steps run here

from bench import lab_losses
from bench.lab_losses import Command, Ended, Lab
from bench.report import write_between_marks
from flows import failback, failovers, provider_state_backup
from tasks.orders import RegionJob
from tasks.outages import decide
from tasks.returning import decide_return, plan_return
from tasks.serving import plan_traffic
from vedr.adapters.site import open_site
from vedr.chain.appointment import appointed
from vedr.chain.register import Validator
from vedr.errors import VedrError
from vedr.failover.relocation import Move
from vedr.failover.traffic import Picture
from vedr.lab.settings import load_plan, read_settings
from vedr.ledger import Entry
from vedr.runbook.steps import Runbook

MOST_KILLS_A_RUN: Final = 3
LONGEST_S: Final = 40.0  # of a failover on a quiet machine; a failback's wait for old answers adds a minute
INTO_A_STEP_S: Final = 3.0
POLL_S: Final = 0.02
RUN_LIMIT_S: Final = 1800.0


@dataclass(slots=True)
class Killed:
    """A run that was killed: where each time, and how it ended."""

    runbook: Runbook[Any]
    run_id: str = ""
    at: list[str] = field(default_factory=list)
    tries: int = 0
    ended: Ended | None = None
    repeated: list[str] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return self.ended is not None and not self.ended.exit_code


@dataclass(frozen=True, slots=True)
class Round:
    """A place lost, and brought home."""

    place: str
    away: Killed
    home: Killed
    cost: lab_losses.Cost
    problem: str

    @property
    def kills(self) -> int:
        return len(self.away.at) + len(self.home.at)


def main() -> int:
    """The command; 1 when anything was repeated, not completed, or evidence was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="lab", help="the running lab")
    parser.add_argument("--kills", type=int, default=20, help="how many, over all rounds")
    parser.add_argument("--seed", type=int, default=1, help="another choice of moments")
    parser.add_argument("--places", nargs="*", default=["us-east", "us-east-1b"], help="zones and regions, in turn")
    parser.add_argument("--write", type=Path, help="a Markdown file whose part between the marks is replaced")
    asked = parser.parse_args()
    os.environ["VEDR_SITE"] = asked.name
    plan, chance = load_plan(read_settings(asked.name)), random.Random(asked.seed)
    rounds: list[Round] = []
    with open_site(asked.name) as opened:
        lab = Lab(plan, opened)
        for region in plan.regions:
            provider_state_backup.RUNBOOK.perform(RegionJob(region=region, even_if_fresh=True))
        print("\n".join(HEAD), flush=True)
        for place in itertools.cycle(asked.places):
            left = asked.kills - sum(one.kills for one in rounds)
            if left <= 0:
                break
            rounds.append(play(lab, place, chance, left))
            print("\n".join(lines(rounds[-1])), flush=True)
    if asked.write:
        rows = [line for one in rounds for line in lines(one)]
        write_between_marks(asked.write, "killed-failovers", "\n".join([*HEAD, *rows, "", summary(rounds, asked.seed)]))
    print(summary(rounds, asked.seed))
    return any(one.problem for one in rounds)


def play(lab: Lab, place: str, chance: random.Random, kills: int) -> Round:
    """One round with at most so many kills."""
    runbook = failovers.REGION if place in lab.plan.regions else failovers.ZONE
    away, home = Killed(runbook), Killed(failback.RUNBOOK)
    first = lab_losses.tip(lab)
    problems: list[str] = []
    try:
        with lab_losses.lost(lab, place, "killed") as detected:
            before = appointments(lab)
            run_killed(lab, away, lab.words(place, detected), chance, kills)
            check(lab, away, before, problems)
        if behind := lab_losses.await_level(lab):
            problems.append(behind)
        before = appointments(lab)
        run_killed(lab, home, ["run", "failback", "--place", place], chance, kills - len(away.at))
        check(lab, home, before, problems)
    except VedrError as error:
        problems.append(f"{type(error).__name__}: {error.message}")
    if not home.is_done and (still_away := lab_losses.bring_home(lab, place)):
        problems.append(f"not home: {still_away}")
    problems += [f"{one} is held by {name}" for one, name in lab_losses.away_from_home(lab).items()]
    cost = lab_losses.look_back(lab, place, first)
    if cost.evidence:
        problems.append(f"{cost.evidence} pieces of evidence")
    return Round(place, away, home, cost, "; ".join(problems))


# --- running and killing


def run_killed(lab: Lab, killed: Killed, words: Sequence[str], chance: random.Random, kills: int) -> None:
    """Until it ends by itself; killed at most `kills` times, and MOST_KILLS_A_RUN."""
    known = set(lab.opened.journal.runs_of(killed.runbook.id))
    deadline = time.monotonic() + RUN_LIMIT_S
    limit = chance.randint(1, max(1, min(kills, MOST_KILLS_A_RUN)))
    while time.monotonic() < deadline:
        killed.tries += 1
        command = Command(lab.plan, words)
        was_killed = len(killed.at) < limit and kill_somewhere(command, killed.runbook, chance)
        killed.ended = command.ended()
        if not killed.run_id:
            opened = set(lab.opened.journal.runs_of(killed.runbook.id)) - known
            killed.run_id = killed.ended.run_id or (max(opened) if opened else "")
        if was_killed:
            killed.at.append(where(lab, killed.run_id))
        elif not killed.ended.exit_code or killed.ended.exit_code == lab_losses.REFUSED:
            return
        else:
            time.sleep(lab_losses.RETRY_S)
        if killed.run_id:
            words = ["run", killed.runbook.id, "--incident", killed.run_id]


def kill_somewhere(command: Command, runbook: Runbook[Any], chance: random.Random) -> bool:
    """After a time, or some time into a step; False when it ended before."""
    if chance.random() < 1 / 2:
        until, marks = time.monotonic() + chance.uniform(0, LONGEST_S), None
    else:
        until, marks = time.monotonic() + LONGEST_S, f"step_started {chance.choice(runbook.steps).title}"
    while command.process.poll() is None:
        if marks and marks in " ".join(command.so_far().split()):  # a terminal's width breaks lines
            until, marks = time.monotonic() + chance.uniform(0, INTO_A_STEP_S), None
        if time.monotonic() >= until:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(command.process.pid, signal.SIGKILL)
                return True
        time.sleep(POLL_S)
    return False


def where(lab: Lab, run_id: str) -> str:
    """What the ledger says of the moment."""
    if not run_id:
        return "before it was opened"
    last = [one for one in lab_losses.entries_of(lab, run_id) if one.kind not in ("heartbeat", "overrun_predicted")][-1]
    step = str(last.payload.get("step", ""))
    return f"within {step}" if last.kind == "step_started" else f"after {last.kind} {step}".rstrip()


# --- checking


def appointments(lab: Lab) -> dict[str, int]:
    """The number of each key's newest appointment."""
    site = lab.opened.site
    found = {}
    for node in site.nodes:
        if site.signers_of(node.name):
            order = appointed(lab.opened.registers, Validator(site.chain.chain_id, node.address))
            found[node.name] = order.seq if order else 0
    return found


def check(lab: Lab, killed: Killed, before: Mapping[str, int], problems: list[str]) -> None:
    """What it did twice, or not at all."""
    if not killed.is_done:
        words = killed.ended.last_words if killed.ended else "it never ran"
        problems.append(f"{killed.runbook.id} was not completed: {words}")
        return
    entries = lab_losses.entries_of(lab, killed.run_id)
    killed.repeated += repeated_steps(entries)
    now = appointments(lab)
    moved = {move.validator for move in moves_of(entries)}
    for name, seq in now.items():
        if seq - before[name] != (name in moved):
            killed.repeated.append(f"{name} was appointed {seq - before[name]} times")
    if stray := _unplanned(lab, entries):
        killed.repeated.append(stray)
    problems += killed.repeated


def repeated_steps(entries: Sequence[Entry]) -> list[str]:
    """Steps that were completed more than once, or begun again afterwards."""
    completed: Counter[str] = Counter()
    found = []
    for entry in entries:
        step = str(entry.payload.get("step", ""))
        if entry.kind == "step_started" and completed[step]:
            found.append(f"{step} was begun after it was completed")
        completed[step] += entry.kind == "step_completed"
    return [*found, *(f"{step} was completed {count} times" for step, count in completed.items() if count > 1)]


def moves_of(entries: Sequence[Entry]) -> tuple[Move, ...]:
    for entry in entries:
        for one in (decide, decide_return):
            if entry.kind == "step_completed" and entry.payload.get("step") == one.key:
                return one.decode(entry.payload["result"]).moves
    return ()


def _unplanned(lab: Lab, entries: Sequence[Entry]) -> str:
    """Why what is served is not the last plan in the ledger; empty when it is."""
    plans = [
        one.decode(entry.payload["result"])
        for entry in entries
        for one in (plan_traffic, plan_return)
        if entry.kind == "step_completed" and str(entry.payload.get("step", "")).split(":")[0] == one.key
    ]
    wanted = plans[-1].guard if plans and plans[-1] else None
    served = [one for one in lab.opened.traffic.pictures() if isinstance(one, Picture)] if wanted else []
    stray = [f"{one.backend} serves {one.guard}" for one in served if one.guard != wanted]
    return f"{', '.join(stray)}, the ledger's plan is {wanted}" if stray else ""


# --- telling

COLUMNS: Final = ("Lost", "Runbook", "Killed", "Processes", "Repeated", "Blocks missed", "Evidence", "Problem")
HEAD: Final = (f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|")


def lines(one: Round) -> list[str]:
    """Two rows: away and home."""
    found = []
    for killed in (one.away, one.home):
        cells = (
            one.place,
            killed.runbook.id,
            ", ".join(killed.at) or "not",
            killed.tries,
            ", ".join(killed.repeated) or "nothing",
            one.cost.missed,
            one.cost.evidence or "none",
            (one.problem or "none").replace("|", "/"),
        )
        found.append(f"| {' | '.join(map(str, cells))} |")
    return found


def summary(rounds: Sequence[Round], seed: int) -> str:
    """One line."""
    repeated = sum(len(killed.repeated) for one in rounds for killed in (one.away, one.home))
    faulty = sum(bool(one.problem) for one in rounds)
    kills = sum(one.kills for one in rounds)
    found = f"{kills} kills, {repeated} repeated actions, {faulty} rounds with a problem"
    return f"Seed {seed}: {len(rounds)} rounds, {found}."


if __name__ == "__main__":
    raise SystemExit(main())
