"""Check of the topology: the audit's findings as a check's."""

import datetime as dt
from collections.abc import Callable
from typing import Final

from vedr.readiness.finding import Part, Status, Verdict, combine
from vedr.readiness.topology import Audit
from vedr.readiness.topology_facts import Opened, audit_live
from vedr.readiness.topology_findings import Severity

_STATUS: Final[dict[Severity, Status]] = {"critical": "failed", "warning": "warning", "note": "passed"}


def topology(opened: Opened, clock: Callable[[], dt.datetime]) -> Verdict:
    """The site as it stands, audited on the live validator set."""
    _, audited = audit_live(opened, clock=clock)
    return judge_audit(audited)


def judge_audit(audited: Audit) -> Verdict:
    """Pure: what is critical fails, a warning warns; with nothing to say the regions are the subjects."""
    parts = [Part(one.subject, _STATUS[one.severity], one.message, one.remedy) for one in audited.findings]
    parts += [Part(row.name, "passed", "sound") for row in audited.regions]
    return combine(
        parts,
        expected="every rule of redundancy kept, and no single loss that halts the chain for good",
        nothing="Name the site's regions in its file.",
        summary=f"{len(audited.regions)} regions, {audited.now.online} of {audited.total} power online",
    )
