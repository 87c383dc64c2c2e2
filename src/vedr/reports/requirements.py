"""What standards ask for, and which part of a report or of the site's records is the evidence.

A reading aid for auditors, not legal advice; the standards' own texts decide.  docs/evidence.md has the same table.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement of one standard, in short, and where its evidence is."""

    standard: str
    clause: str
    asks: str
    evidence: str


REQUIREMENTS: Final = (
    Requirement(
        "NIST SP 800-34 r1",
        "3.2",
        "recovery objectives from an impact analysis",
        "target and budgets of the run; vedr bcp for functions and their tolerable downtime",
    ),
    Requirement(
        "NIST SP 800-34 r1",
        "3.5",
        "testing, training and exercises with a report and lessons learned",
        "one report a drill: steps, achieved times, errors, remarks; the index's review hints",
    ),
    Requirement(
        "NIST SP 800-34 r1",
        "4.2-4.4",
        "activation, recovery and reconstitution, recorded",
        "detection, steps with times, approvals, data lost, every ledger entry",
    ),
    Requirement(
        "NIST SP 800-34 r1", "3.4.1", "backups, and proof that they restore", "index: backup age, verified share"
    ),
    Requirement(
        "ISO 22301:2019",
        "8.2.2",
        "recovery time objectives are set",
        "target of each runbook, achieved times beside it",
    ),
    Requirement(
        "ISO 22301:2019", "8.4", "plans and procedures that are followed", "the plan asked about, steps in order"
    ),
    Requirement(
        "ISO 22301:2019", "8.5", "exercises at planned intervals with reports", "drill reports; the index by date"
    ),
    Requirement(
        "ISO 22301:2019",
        "9.1",
        "performance is measured and evaluated",
        "index: achieved against target over time, hints",
    ),
    Requirement(
        "ISO 22301:2019",
        "10.1",
        "nonconformities lead to corrective action",
        "steps over budget, errors with remedy, hints",
    ),
    Requirement(
        "SOC 2 (TSC 2017)",
        "A1.2",
        "backup and recovery infrastructure is operated and monitored",
        "index: backup age and verified share",
    ),
    Requirement(
        "SOC 2 (TSC 2017)",
        "A1.3",
        "recovery plan procedures are tested",
        "drill reports: dates, outcome, achieved times",
    ),
    Requirement(
        "SOC 2 (TSC 2017)",
        "CC7.4-CC7.5",
        "incidents are responded to and recovered from",
        "incident reports: who approved what, what was done when",
    ),
    Requirement(
        "DORA (EU) 2022/2554",
        "11(2)-(4)",
        "response and recovery plans, activated without delay",
        "detection to first step, steps, restored service",
    ),
    Requirement(
        "DORA (EU) 2022/2554",
        "11(6)",
        "plans are tested at least yearly, with switch-overs",
        "drill reports of zone and region failover",
    ),
    Requirement(
        "DORA (EU) 2022/2554",
        "11(8)",
        "readily accessible records before and during disruptions",
        "the ledger: signed, in three regions, every entry in the report's appendix",
    ),
    Requirement(
        "DORA (EU) 2022/2554",
        "12(1)-(2)",
        "backup policies; restoration does not harm integrity",
        "index: verified share; results of restore steps",
    ),
    Requirement(
        "DORA (EU) 2022/2554",
        "12(6)-(7)",
        "recovery time and point objectives; checks after recovery",
        "target, achieved, data lost, results of the verifying steps",
    ),
)
