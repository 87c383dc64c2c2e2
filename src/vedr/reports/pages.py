"""A run's evidence as one self-contained HTML page, for reading in a minute and for the file.

Guarantees: everything from the ledger is escaped; nothing is fetched; the same evidence, time and key give the same
bytes; an unverifiable ledger is told in red before anything else.
Leaves out: the signature (`sealing`).
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

import vedr
from vedr.reports.evidence import Evidence, Verdict
from vedr.reports.gantt import draw_gantt, draw_target
from vedr.reports.requirements import REQUIREMENTS
from vedr.reports.templates import SEAL_PLACE, environment
from vedr.reports.words import moment, span

TONES: Final[dict[Verdict, str]] = {"met": "good", "missed": "bad", "not completed": "bad", "open": "warn"}


@dataclass(frozen=True, slots=True)
class Card:
    """One figure of the summary."""

    name: str
    value: str
    more: str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Imprint:
    """What every page says of its own making; `label` is put before everything, such as `Example: `."""

    made_at: dt.datetime
    keyid: str
    label: str = ""

    def values(self) -> dict[str, object]:
        return {
            "made_at": self.made_at,
            "keyid": self.keyid,
            "label": self.label,
            "version": vedr.__version__,
            "requirements": REQUIREMENTS,
            "seal_place": Markup(SEAL_PLACE),  # noqa: S704 - our own constant
        }


def run_page(evidence: Evidence, imprint: Imprint) -> str:
    """The page of one run, without its signature."""
    return (
        environment()
        .get_template("run")
        .render(
            **imprint.values(),
            e=evidence,
            title=title(evidence),
            tone="bad" if evidence.proof == "unverifiable" else TONES[evidence.verdict],
            headline=headline(evidence),
            story=story(evidence),
            cards=cards(evidence),
            besides=besides(evidence),
            target=Markup(draw_target(evidence)),  # noqa: S704 - ElementTree escaped it
            gantt=Markup(draw_gantt(evidence)),  # noqa: S704 - the same
        )
    )


def title(evidence: Evidence) -> str:
    """Runbook and name; an exercise is never to be taken for an incident."""
    mark = "EXERCISE: " if evidence.subject == "exercise" else ""
    return f"{mark}{evidence.runbook} {evidence.title}"


def headline(evidence: Evidence) -> str:
    """The result in one line."""
    total, target = span(evidence.timing.total_ms), span(evidence.timing.target_ms)
    if evidence.proof == "unverifiable":
        return f"Not proven: its ledger does not hold; what can be read ends {total} after detection"
    match evidence.verdict:
        case "met":
            return f"Target met: service restored in {total}, {target} allowed"
        case "missed":
            return f"Target missed: service restored in {total}, {target} allowed"
        case "open" if evidence.timing.met:
            return f"Not finished: {total} after detection at its last record, {target} allowed"
        case "open":
            return f"Not finished, and the target has passed: {total} after detection, {target} allowed"
        case _:
            return f"Not completed: {evidence.outcome} after {total}"


def story(evidence: Evidence) -> str:
    """What happened, in a few sentences."""
    done = sum(step.row.state == "completed" for step in evidence.steps)
    said = []
    if evidence.subject == "exercise":
        said.append(f"An exercise: {f'drill {evidence.drill}' if evidence.drill else 'a drill'} broke this on purpose.")
    said += [
        f"Detected {moment(evidence.detected_at)}.",
        f"{done} of {len(evidence.steps)} steps completed.",
    ]
    if waiting := evidence.timing.waiting_ms:
        said.append(f"{span(waiting)} of the time was waiting for people.")
    if interrupted := evidence.timing.interrupted_ms:
        said.append(f"For {span(interrupted)} nobody worked on it.")
    over = [step.row.title for step in evidence.steps if step.row.over_budget]
    if over:
        said.append(f"Over budget: {', '.join(over)}.")
    return " ".join(said)


def besides(evidence: Evidence) -> Sequence[tuple[str, int]]:
    """Where the time went that no step's last attempt took."""
    measured = evidence.timing
    parts = (
        ("Before the run", measured.before_ms),
        ("Waiting for people", measured.waiting_ms),
        ("Interrupted", measured.interrupted_ms),
        ("Earlier attempts at steps", evidence.retried_ms),
        ("Taking steps back", measured.undoing_ms),
    )
    return (*(part for part in parts if part[1]), ("vedr itself", evidence.overhead_ms))


def cards(evidence: Evidence) -> Sequence[Card]:
    """The figures that an executive looks for."""
    measured = evidence.timing
    proof_tone = {"verified": "good", "incomplete": "warn", "unverifiable": "bad"}[evidence.proof]
    lost = ", ".join(f"{fact.name} {fact.value}" for fact in evidence.data_lost)
    return (
        Card("When", moment(evidence.detected_at), f"ended {moment(evidence.ended_at)}"),
        Card("Outcome", evidence.outcome, evidence.subject, "good" if evidence.outcome == "completed" else "bad"),
        Card(
            "Achieved",
            span(measured.total_ms),
            f"{evidence.share_of_target_pct} % of the target of {span(measured.target_ms)}",
            TONES[evidence.verdict],
        ),
        Card("Data lost", lost or "not recorded", "as steps recorded it" if lost else "no step recorded it"),
        Card("Approved by", *_approvers(evidence)),
        Card("Ledger", evidence.proof, f"head {evidence.head[:16]}…", proof_tone),
    )


def _approvers(evidence: Evidence) -> tuple[str, str]:
    said_yes = [one.person for one in evidence.approvals if one.approved]
    said_no = [one.person for one in evidence.approvals if not one.approved]
    if said_no:
        return f"refused by {', '.join(said_no)}", f"approved by {', '.join(said_yes) or 'nobody'}"
    if said_yes:
        return ", ".join(dict.fromkeys(said_yes)), f"waited {span(evidence.timing.waiting_ms)}"
    return ("nobody yet", "people were asked") if evidence.asked else ("nobody was asked", "by the site's policy")
