"""The page over all runs: results, achieved times over time, backups, what to review.

Guarantees: as `pages`; every run that was asked for is in the list, also one that cannot be read.
Leaves out: reading and writing (`binder`).
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vedr.reports.chart import Point, draw_series
from vedr.reports.evidence import Evidence
from vedr.reports.pages import TONES, Card, Imprint
from vedr.reports.templates import environment
from vedr.reports.trends import SKEW_MS, STALE_MS, Ended, Job, hints, jobs, series, verified_share
from vedr.reports.words import moment, span


@dataclass(frozen=True, slots=True)
class Overview:
    """What the index is made of.

    `evidence` are the incidents and drills, `unreadable` those of which not one entry could be read, with why;
    `scheduled` how the scheduled jobs' runs ended; `problems` what is wrong between runs.
    """

    site: str
    since: dt.datetime
    until: dt.datetime
    evidence: tuple[Evidence, ...]
    unreadable: tuple[tuple[str, str], ...]
    scheduled: tuple[Ended, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A run in the list; `link` is its page, beside the index."""

    run_id: str
    opened: str
    runbook: str
    title: str
    result: str
    tone: str
    total_ms: int
    target_ms: int
    proof: str
    proof_tone: str
    link: str


def index_page(overview: Overview, imprint: Imprint) -> str:
    """The index, without its signature."""
    backups = jobs(overview.scheduled, overview.until)
    said = hints(overview.evidence)
    broken = [run for run in overview.evidence if run.proof == "unverifiable"]
    alarms = [
        *overview.problems,
        *(problem for run in broken for problem in run.problems),
        *(f"{run_id}: {why}" for run_id, why in overview.unreadable),
    ]
    tone, words = _headline(overview, alarms=bool(alarms))
    return (
        environment()
        .get_template("index")
        .render(
            **imprint.values(),
            site=overview.site,
            since=moment(overview.since),
            until=moment(overview.until),
            problems=list(dict.fromkeys(alarms)),
            tone=tone,
            headline=words,
            story=_story(overview),
            cards=_cards(overview, backups),
            hints=said,
            rto=[(name, _picture(name, points)) for name, points in _rto(overview).items()],
            jobs=backups,
            ages=[
                (f"{job.name}: time between completed runs", _picture(job.name, _gaps(job)))
                for job in _with_gaps(backups)
            ],
            rows=[*map(_row, reversed(overview.evidence)), *map(_unreadable_row, overview.unreadable)],
        )
    )


def _headline(overview: Overview, *, alarms: bool) -> tuple[str, str]:
    if alarms:
        return "bad", "The ledger does not hold: what it says of these runs is not proven"
    if not overview.evidence:
        return "warn", "No incident and no drill in this time: recovery is not proven"
    counts = {verdict: sum(run.verdict == verdict for run in overview.evidence) for verdict in TONES}
    if counts["missed"] or counts["not completed"]:
        return "bad", f"{counts['missed']} missed their target, {counts['not completed']} were not completed"
    if counts["open"]:
        return "warn", f"{counts['open']} not finished; every completed run met its target"
    return "good", f"All {counts['met']} incidents, drills and exercises met their targets"


def _story(overview: Overview) -> str:
    drills = sum(run.subject == "drill" for run in overview.evidence)
    incidents = sum(run.subject == "incident" for run in overview.evidence)
    exercises = sum(run.subject == "exercise" for run in overview.evidence)
    told = f"{incidents} incidents, {drills} drills with {exercises} exercised runbooks"
    return f"{told}, from {moment(overview.since)} to {moment(overview.until)}."


def _cards(overview: Overview, backups: Sequence[Job]) -> Sequence[Card]:
    met = sum(run.verdict == "met" for run in overview.evidence)
    ended = sum(run.verdict != "open" for run in overview.evidence)
    last_drill = max((run.detected_at for run in overview.evidence if run.subject == "drill"), default=None)
    good, proofs = verified_share(overview.scheduled)
    snapshots = [job for job in backups if job.name.startswith("chain-snapshot")]
    ages = [job.age_ms for job in snapshots if job.age_ms is not None]
    stale = len(ages) < len(snapshots) or not all(-SKEW_MS <= age_ms <= STALE_MS for age_ms in ages)
    return (
        Card(
            "Targets met",
            f"{met} of {ended}" if ended else "none",
            "ended incidents and drills",
            "bad" if met < ended else "good" if ended else "warn",
        ),
        Card(
            "Last drill",
            "none" if last_drill is None else f"{span(_ms(overview.until - last_drill))} ago",
            "" if last_drill is None else moment(last_drill),
            "warn" if last_drill is None else "",
        ),
        Card(
            "Newest chain snapshot",
            "none" if len(ages) < len(snapshots) else f"{span(max(ages))} old",
            "the oldest of the regions' newest",
            "bad" if stale else "good",
        ),
        Card(
            "Snapshots proven by boot",
            f"{good} of {proofs}" if proofs else "none",
            "snapshot-verify runs that completed",
            "good" if proofs and good == proofs else "bad",
        ),
    )


def _rto(overview: Overview) -> dict[str, list[Point]]:
    return {
        name: [Point(p.at, p.total_ms, p.target_ms, f"{p.run_id}: {span(p.total_ms)}") for p in points]
        for name, points in series(overview.evidence).items()
    }


def _with_gaps(backups: Sequence[Job]) -> list[Job]:
    return [job for job in backups if len(job.gaps) > 1 and job.name.startswith("chain-snapshot")]


def _gaps(job: Job) -> list[Point]:
    return [Point(at, gap_ms, None, f"{moment(at)}: {span(gap_ms)} after the one before") for at, gap_ms in job.gaps]


def _picture(name: str, points: Sequence[Point]) -> Markup:
    return Markup(draw_series(name, points))  # noqa: S704 - ElementTree escaped it


def _row(run: Evidence) -> Row:
    result = run.verdict if run.outcome == "completed" else run.outcome
    return Row(
        run_id=run.run_id,
        opened=moment(run.opened_at),
        runbook=run.runbook,
        title=f"{run.title} (exercise)" if run.subject == "exercise" else run.title,
        result=result,
        tone="bad" if run.proof == "unverifiable" else TONES[run.verdict],
        total_ms=run.timing.total_ms,
        target_ms=run.timing.target_ms,
        proof=run.proof,
        proof_tone={"verified": "good", "incomplete": "warn"}.get(run.proof, "bad"),
        link=f"{run.run_id}.html",
    )


def _unreadable_row(unreadable: tuple[str, str]) -> Row:
    return Row(unreadable[0], "", "", unreadable[1], "cannot be read", "bad", 0, 0, "unverifiable", "bad", "")


def _ms(age: dt.timedelta) -> int:
    return round(age / dt.timedelta(milliseconds=1))
