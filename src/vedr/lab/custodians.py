"""The lab's custodians: the recovery key in shares, each in a file of its custodian's own, and the signed record.

Guarantees: it is the same ceremony as people hold (vedr.custody.ceremony): every share is read back from where its
custodian keeps it, and every choice of them is tried, before there is a record; held once, and again only when there is
no record.
Leaves out: people, and a machine without network: the lab's shares lie in its folder and protect nothing else.
"""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedr.custody.ceremony import Page, hold
from vedr.custody.shares import DEFAULT_THRESHOLD
from vedr.custody.shares_record import seal_record
from vedr.lab.credentials import LabSecrets, write_whole
from vedr.lab.plan import Plan
from vedr.signature import Signer

CUSTODIANS: Final = ("Ada", "Emmy", "Grace", "Hedy", "Mary")


def record_path(plan: Plan) -> Path:
    """Where [checks] share_record of the site file finds it."""
    return plan.folder / "custodians" / "shares.json"


def share_path(plan: Plan, name: str) -> Path:
    """Where a custodian keeps the words of a share."""
    return plan.folder / "custodians" / f"{name}.txt"


def hold_ceremony(plan: Plan) -> bool:
    """Hand the recovery key out, where that was not done yet; whether it was done now."""
    if record_path(plan).exists():
        return False
    secrets = LabSecrets(plan.folder)
    share_path(plan, CUSTODIANS[0]).parent.mkdir(mode=0o700, exist_ok=True)
    record = hold(
        _Drawers(plan),
        CUSTODIANS,
        threshold=DEFAULT_THRESHOLD,
        private_key=secrets.read_recovery_key(),
        now=lambda: dt.datetime.now(dt.UTC),
    )
    signer = Signer.from_pem(secrets.signing_key.read_bytes())
    write_whole(record_path(plan), seal_record(record, signer).decode("ascii"), mode=0o644)
    return True


@dataclass(frozen=True, slots=True)
class _Drawers:
    """vedr.custody.ceremony.Desk: a file for each custodian."""

    plan: Plan

    def summon(self, name: str, seat: int, seats: int) -> None:
        """Files are always there."""

    def hand_out(self, page: Page) -> None:
        write_whole(share_path(self.plan, page.name), " ".join(page.share.words) + "\n")

    def ask(self, name: str) -> str:
        return share_path(self.plan, name).read_text(encoding="ascii")

    def say(self, text: str) -> None:
        """Nobody listens; a share that is read back wrongly is shown again."""
