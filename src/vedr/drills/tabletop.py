"""The tabletop exercises of the four quarters: sheets that people go through at a table, nothing being touched.

`python -m vedr.drills.tabletop` says which pages under docs/drills are out of date (exit 1 if any is); with `--write`
it brings them up to date.

Guarantees: every sheet names the runbook, the times that are promised, what is told when, and what has to be decided by
whom; its digest changes with every word, so that a record says which sheet was gone through.
Leaves out: holding it, which people do; that it was held is recorded by `vedr run drill-tabletop`.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from vedr.policies.continuity import ROLE_TITLES
from vedr.targets import RUNBOOK_RTO_S, RunbookId

Quarter = Literal["Q1", "Q2", "Q3", "Q4"]
FOLDER: Final = Path("docs/drills")
MIN_PARTICIPANTS: Final = 3  # who decides, who acts, who tells others
LENGTH_MIN: Final = 90


@dataclass(frozen=True, slots=True)
class Inject:
    """What the moderator tells at that minute, and what the table should come to."""

    minute: int
    told: str
    expected: str


@dataclass(frozen=True, slots=True)
class Sheet:
    """One exercise."""

    quarter: Quarter
    title: str
    runbooks: tuple[RunbookId, ...]
    situation: str
    injects: tuple[Inject, ...]
    decisions: tuple[str, ...]
    traps: tuple[str, ...]


SHEETS: Final[Mapping[Quarter, Sheet]] = MappingProxyType(
    {
        "Q1": Sheet(
            "Q1",
            "Database corruption",
            ("RB-DR-004", "RB-DR-006"),
            "Tuesday, 03:10 UTC.  A full node of us-east stops with a database error.  Ten minutes later a second one "
            "reports an app hash that others do not have.  Both were restored from the same snapshot last week.",
            (
                Inject(
                    0,
                    "The pager shows: fullnode-us-east-0 down, log ends in `leveldb: checksum mismatch`.",
                    "RB-DR-004 for that node; nobody deletes anything.",
                ),
                Inject(
                    10,
                    "fullnode-us-east-2 halts: its app hash differs from its peers' at the same height.",
                    "Who is wrong is decided by light-client-verified headers, not by majority or by seniority.",
                ),
                Inject(
                    25,
                    "The newest snapshot of us-east fails its boot verification.",
                    "Another region's snapshot, or an older one that proves itself; predicted times are compared.",
                ),
                Inject(
                    45,
                    "Support asks whether customers' balances are wrong.",
                    "The API is answered by proven nodes only; the communications role answers from a template.",
                ),
                Inject(
                    60,
                    "Both nodes are level again.",
                    "Root cause within 72 h: kept tables compared with the store's copies, the disk's age looked up.",
                ),
            ),
            (
                "Does block production go on, and with which margin?  (vedr topology)",
                "Which way back is chosen for each node, by which predicted time?",
                "May the validator of the same host go on signing?",
                "Is there reason to distrust every snapshot of that week, and who decides that?",
            ),
            (
                "Restarting the node over and over, which destroys what shows the cause",
                "Copying another node's data folder, sign-state included",
                "Trusting the newest snapshot because it is the newest",
            ),
        ),
        "Q2": Sheet(
            "Q2",
            "Multi-region partition",
            ("RB-DR-003", "RB-DR-002"),
            "Thursday, 14:00 UTC.  eu-west can reach nobody, and nobody reaches eu-west; its own monitoring shows all "
            "green.  With two of five equal validators unreachable the chain stands still.",
            (
                Inject(
                    0,
                    "Blocks stop.  Controllers of us-east and ap-south report eu-west down; eu-west's own is silent.",
                    "SEV-1; the plan is activated after five minutes; incident commander named.",
                ),
                Inject(
                    8,
                    "Somebody in eu-west phones: their nodes run, they see only each other.",
                    "A partition, not an outage: signers there are alive, so that nothing is promoted unfenced.",
                ),
                Inject(
                    15,
                    "eu-west proposes to promote its own standbys of us-east's keys.",
                    "Refused: no majority of the registers there; one failover at a time, by the lease.",
                ),
                Inject(
                    30,
                    "RB-DR-003 moves what signs remotely; one key of eu-west is in a file out of reach.",
                    "It stays: unreachable is not proven down.  The power that is back is counted against two thirds.",
                ),
                Inject(
                    50,
                    "The network comes back in the middle of it.",
                    "Old signers are refused by the registers; nobody starts anything by hand; failback in stages.",
                ),
            ),
            (
                "Which side holds a majority of regions, and who is told to stand still?",
                "What proof of fencing does each key need before it moves?",
                "When are users sent elsewhere, and what do cached answers still do?",
                "When is it over, and what is watched for the next 24 h?",
            ),
            (
                "Taking silence for death",
                "Two failovers at once, ordered from both sides",
                "Going home before the region caught up",
            ),
        ),
        "Q3": Sheet(
            "Q3",
            "Key compromise",
            ("RB-DR-005",),
            "Saturday, 22:30 UTC.  A researcher mails a signature that was made with the consensus key of "
            "validator-eu-west-1 over a text of today.",
            (
                Inject(
                    0,
                    "The mail arrives at security; the signature verifies.",
                    "Contained at once, before it is understood: the unit stops, the key leaves its place.",
                ),
                Inject(
                    5,
                    "The chain's margin without this validator is read.",
                    "The chain goes on with the four others; who else may fail is known.",
                ),
                Inject(
                    20,
                    "A colleague wants to restore the key's backup on a new host `so that we do not miss blocks`.",
                    "Refused: the old key is revoked in every region; a consensus key is replaced, never reused.",
                ),
                Inject(
                    40,
                    "The audit finds one block signed while the unit was stopped.",
                    "Double-sign risk: evidence is kept, the chain's governance and legal are told.",
                ),
                Inject(
                    70,
                    "A journalist asks.",
                    "Only the communications role speaks, from the template; report within 24 h.",
                ),
            ),
            (
                "Who may contain without asking anybody, at any hour?",
                "Which other keys were on that host, in that vault, with that person?",
                "What do delegators and partners have to be told, and when?",
                "How does the validator come back: new key, new unbonding, which transactions?",
            ),
            (
                "Waiting for certainty before containing",
                "Deleting the host, and the evidence with it",
                "Rotating the passphrase and calling the key safe",
            ),
        ),
        "Q4": Sheet(
            "Q4",
            "Complete regional outage",
            ("RB-DR-003", "RB-DR-006"),
            "Monday, 09:00 UTC.  The provider of us-east reports a fire.  Two validators, three full nodes, two "
            "provider daemons, 40 % of the workload are gone, for weeks.",
            (
                Inject(
                    0,
                    "Everything of us-east is silent; the chain stands still.",
                    "SEV-1, RB-DR-003 at once; RTO counts from the first alert.",
                ),
                Inject(
                    10,
                    "Approval is asked of two people; one of them lives in us-east and is not reachable.",
                    "Succession: the role's named backups; waiting is part of the RTO.",
                ),
                Inject(
                    30,
                    "Consensus is back, the API answers from eu-west; latency there doubles.",
                    "Capacity: reserves in service, full nodes scaled; what else may fail now is read.",
                ),
                Inject(
                    50,
                    "Finance asks which data is lost.",
                    "RPO by component from the ledger: chain state none, provider state since its last snapshot.",
                ),
                Inject(
                    75,
                    "us-east will not come back this quarter.",
                    "Where a third region's replacement is built, and how long two regions carry backups and HSMs.",
                ),
            ),
            (
                "Can the two regions left lose anything more?  What is the first thing that restores a margin?",
                "Who holds shares and tokens, and are enough of them outside us-east?",
                "Which contracts and regulators have to be told within which hours?",
                "When is the plan deactivated: which functions, stable for how long?",
            ),
            (
                "Believing the provider's estimate and waiting for it",
                "Forgetting that us-east held a third of the ledger's, the backups' and the tokens' copies",
                "Failing back to a region that is only half there",
            ),
        ),
    }
)


def digest(quarter: Quarter) -> str:
    """Names just these words."""
    return hashlib.sha256(page(quarter).encode()).hexdigest()


def page(quarter: Quarter) -> str:
    """The sheet as people read it."""
    sheet = SHEETS[quarter]
    targets = ", ".join(f"{name} {RUNBOOK_RTO_S[name] // 60} min" for name in sheet.runbooks)
    links = ", ".join(f"[{name}](../runbooks/{name}.md)" for name in sheet.runbooks)
    lines = [
        f"# Tabletop {quarter}: {sheet.title}",
        "",
        f"{LENGTH_MIN} minutes, {MIN_PARTICIPANTS} people or more, nothing is touched.",
        f"Runbooks: {links}.  Promised: {targets}.",
        f"Roles at the table: {', '.join(ROLE_TITLES.values())}.  One person moderates and does not answer.",
        "",
        "## Situation",
        sheet.situation,
        "",
        "## What is told, and what the table should come to",
        "| Minute | Told | Expected (the moderator's) |",
        "|---:|---|---|",
        *(f"| {one.minute} | {one.told} | {one.expected} |" for one in sheet.injects),
        "",
        "## To be decided, by name",
        *(f"1. {decision}" for decision in sheet.decisions),
        "",
        "## Traps that the moderator watches for",
        *(f"- {trap}" for trap in sheet.traps),
        "",
        "## Afterwards",
        "What was decided, what nobody knew, what the runbook lacked; each finding gets an owner and a date.",
        "Record it:",
        "",
        f"    vedr run drill-tabletop --quarter {quarter} --moderator NAME \\",
        '        --participants "NAME, NAME, NAME" --findings "…"',
        "",
        "A tabletop that is not recorded was not held.",
        "",
    ]
    return "\n".join(lines)


def stale(folder: Path, *, write: bool) -> list[Path]:
    """The pages that differ from the data; they are written when asked to."""
    found = []
    for quarter in SHEETS:
        path = folder / f"tabletop-{quarter}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != page(quarter):
            found.append(path)
            if write:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_text(page(quarter), encoding="utf-8")
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="bring the pages up to date")
    write = parser.parse_args().write
    pages = stale(FOLDER, write=write)
    for path in pages:
        sys.stdout.write(f"{path}: {'written' if write else 'out of date: python -m vedr.drills.tabletop --write'}\n")
    sys.exit(0 if write or not pages else 1)


if __name__ == "__main__":
    main()
