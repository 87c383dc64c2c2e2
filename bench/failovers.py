"""Every zone and region of a running lab lost in turn: what comes back, when, and what it cost.

    make up
    python -m bench.failovers [--places us-east us-east-1a …] [--ways killed cut …] [--write docs/measurements.md]

Each row: the place is lost, RB-DR-002 or -003 is run by `vedr run`, and resumed by its id when it stops; a place that
is cut off comes back, alive, while that is still at work; everything is brought home by the failback.  Evidence is
looked for in every block of the row, and what users were told is in a block before the loss is asked for elsewhere.
With `--write` a row takes the place of an earlier one of the same loss, and the others stay.
The lab is left as it was found; a row that could not do so says so.
"""

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

os.environ["VEDR_PLAIN"] = "1"  # before flows are imported: their steps run here

from bench import lab_losses
from bench.lab_losses import WAYS, Cost, Lab, Way
from bench.report import between_marks, write_between_marks
from flows import provider_state_backup
from tasks.orders import RegionJob
from vedr.adapters.site import open_site
from vedr.errors import VedrError
from vedr.lab.settings import load_plan, read_settings
from vedr.runbook.timing import Timing, measure

WAYS_OF_A_ZONE: Final[tuple[Way, ...]] = ("killed", "cut")  # the others ask what a region takes with it


@dataclass(frozen=True, slots=True)
class Row:
    """One loss."""

    place: str
    way: Way
    outcome: str
    timing: Timing | None
    home_s: float
    cost: Cost
    lost_transactions: int


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="lab", help="the running lab")
    parser.add_argument("--places", nargs="*", default=[], help="zones and regions; default: all")
    parser.add_argument("--ways", nargs="*", choices=get_args(Way), default=get_args(Way))
    parser.add_argument("--write", type=Path, help="a Markdown file whose part between the marks is replaced")
    asked = parser.parse_args()
    os.environ["VEDR_SITE"] = asked.name
    plan = load_plan(read_settings(asked.name))
    places = asked.places or [*plan.regions, *(zone.name for zone in plan.zones)]
    table = between_marks(asked.write, "failovers").splitlines()[len(HEAD) :] if asked.write else []
    with open_site(asked.name) as opened:
        lab = Lab(plan, opened)
        for region in plan.regions:
            provider_state_backup.RUNBOOK.perform(RegionJob(region=region, even_if_fresh=True))
        print("\n".join(HEAD), flush=True)
        for place in places:
            for way in (one for one in asked.ways if place in plan.regions or one in WAYS_OF_A_ZONE):
                row = line(lose(lab, place, way))
                print(row, flush=True)
                table = replaced(table, row)
                if asked.write:
                    write_between_marks(asked.write, "failovers", "\n".join([*HEAD, *table]))


def replaced(table: list[str], row: str) -> list[str]:
    """The table's rows with this one in the place of an earlier one of the same loss, or at the end."""
    lost = row.split("|")[1:3]
    at = next((i for i, one in enumerate(table) if one.split("|")[1:3] == lost), len(table))
    return [*table[:at], row, *table[at + 1 :]]


def lose(lab: Lab, place: str, way: Way) -> Row:
    """One row; whatever happens, the place is brought back and home."""
    first = lab_losses.tip(lab)
    said, timing, gone = "", None, 0
    try:
        with lab_losses.lost(lab, place, way) as detected:
            acked = lab_losses.acknowledged(lab)
            zone = lab.elsewhere(place) if way == "orchestrator" and lab.plan.settings.mode == "namespaces" else None
            done, tries = lab_losses.fail_over(lab, place, detected, zone=zone)
            said = "completed" if not done.exit_code else f"exit {done.exit_code}: {done.last_words}"
            said += f", {tries} tries" if tries > 1 else ""
            if done.run_id:
                timing = measure(lab_losses.entries_of(lab, done.run_id))
            gone = lab_losses.missing(lab, place, acked)
    except VedrError as error:
        said = f"{said}; {type(error).__name__}: {error.message}"
    began = time.monotonic()
    home = lab_losses.bring_home(lab, place)
    home_s = time.monotonic() - began
    outcome = f"{said}; not home: {home}" if home else said
    return Row(place, way, outcome, timing, home_s, lab_losses.look_back(lab, place, first), gone)


COLUMNS: Final = (
    *("Lost", "How", "Outcome", "Verified after, s", "Its steps, s", "Home, s"),
    *("Longest without a block, s", "Blocks missed", "Transactions lost", "Evidence"),
)
HEAD: Final = (f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|")


def line(row: Row) -> str:
    """A row of the table."""
    steps = [f"{one.key} {one.took_ms / 1000:.1f}" for one in row.timing.rows if one.took_ms] if row.timing else []
    cells = (
        row.place,
        WAYS[row.way],
        row.outcome.replace("|", "/"),
        f"{row.timing.total_ms / 1000:.0f}" if row.timing else "",
        ", ".join(steps),
        f"{row.home_s:.0f}",
        f"{row.cost.standstill_s:.0f}",
        row.cost.missed,
        row.lost_transactions,
        row.cost.evidence or "none",
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
