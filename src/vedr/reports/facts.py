"""What a signed document tells of a run, in figures.

Guarantees: the same entries give the same figures, so that whoever has the ledger can make them again.
Leaves out: the signature, and the check of both (`sealing`).
"""

import datetime as dt
from typing import Final

from vedr.reports.evidence import Evidence
from vedr.signature import Json

FORMAT: Final = "vedr-evidence/1"


def facts_of(evidence: Evidence) -> dict[str, Json]:
    """What a page tells of a run, in figures."""
    measured = evidence.timing
    return {
        "run": evidence.run_id,
        "runbook": evidence.runbook,
        "outcome": evidence.outcome,
        "verdict": evidence.verdict,
        "detected_at": evidence.detected_at.astimezone(dt.UTC).isoformat(),
        "target_ms": measured.target_ms,
        "total_ms": measured.total_ms,
        "waiting_ms": measured.waiting_ms,
        "interrupted_ms": measured.interrupted_ms,
        "overhead_ms": measured.overhead_ms,
        "steps": [
            {"key": row.key, "state": row.state, "budget_ms": row.budget_ms, "took_ms": row.took_ms}
            for row in measured.rows
        ],
        "data_lost": [{"name": f.name, "value": f.value, "by": f.source} for f in evidence.data_lost],
        "approvals": [{"person": a.person, "approved": a.approved, "plan": a.plan} for a in evidence.approvals],
        "ledger": evidence.proof,
        "exercise": evidence.subject == "exercise",
    }
