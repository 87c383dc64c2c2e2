"""RB-DR-005: a key is, or may be, in other hands."""

from typing import Final

from tasks.binding import open_run, runbook_flow
from tasks.compromise import KeyCompromise, contain, fence_key, notify_security, preserve_evidence
from tasks.compromise_aftermath import assess, audit_use, report, rotate_key
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Runbook

RUNBOOK: Final = Runbook(
    "RB-DR-005",
    "key compromise",
    KeyCompromise,
    [contain, notify_security, preserve_evidence, fence_key, assess, rotate_key, audit_use, report],
    # not node/…: another runbook that works on the node must never delay the containment
    subjects=lambda order: [f"key/{order.kind}/{order.owner}"],
)


@runbook_flow(RUNBOOK)
def key_compromise(order: KeyCompromise) -> Outcome:
    """Contain a compromised key, replace it, find out where it was used.  Target: 15 min from detection.

    Args:
        order: Whose key, of which kind, and how sure it is.
    """
    with open_run(RUNBOOK, order) as run:
        contained = run.step(contain)  # first of all: every second the key may be used
        run.step(notify_security, contained)  # before whatever may fail
        evidence = run.step(preserve_evidence, contained)
        fenced = run.step(fence_key, contained)
        assessed = run.step(assess, fenced)
        rotated = run.step(rotate_key, contained, fenced)
        audited = run.step(audit_use, contained, fenced)  # late, so that there are blocks after the containment
        run.step(report, contained, items=evidence, fenced=fenced, rotated=rotated, audited=audited, assessed=assessed)
    return run.outcome
