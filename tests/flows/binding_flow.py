"""A runbook of three small steps over folders as regions, run in a process of its own by test_binding.

Usage: binding_flow.py STATE flow|plain [INCIDENT]; STATE/hold: the second step waits until it is gone.
       binding_flow.py STATE approve INCIDENT [OPTION …]: the command, over the same folders.
STATE/people holds how many have to agree between the first step and the second: one, two.
"""

import contextlib
import datetime as dt
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from folder_store import FolderStore

from tasks import binding
from vedr.cli import approve as approving
from vedr.errors import UnavailableError
from vedr.policies.approval import Approval
from vedr.policies.notifications import Notifications
from vedr.runbook.journal import Journal
from vedr.runbook.order import Order
from vedr.runbook.plan import Action, Plan
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Context, Retry, Runbook, step
from vedr.signature import Signer
from vedr.targets import TargetOverrides


def open_journal(state: Path) -> Journal:
    signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    stores = {region: FolderStore(state / region) for region in ("us-east", "eu-west", "ap-south")}
    return Journal(
        stores, site="lab", signer=signer, trusted=[signer.public_hex], clock=lambda: dt.datetime.now(dt.UTC)
    )


STATE = Path(sys.argv[1]) if len(sys.argv) > 2 else Path()


@contextlib.contextmanager
def _open_site(_name: str | None) -> Iterator[SimpleNamespace]:
    journal = open_journal(STATE)
    try:
        site = SimpleNamespace(targets=TargetOverrides(), approval=_policy(), notifications=Notifications())
        yield SimpleNamespace(site=site, journal=journal)
    finally:
        journal.close()


def _policy() -> Approval:
    people = STATE / "people"
    return Approval.model_validate({"runbooks": {"RB-DR-001": people.read_text()}} if people.exists() else {})


def deed(what: str) -> int:
    """Something done to the world, which must not be done twice; how often it was."""
    with (STATE / "deeds").open("a") as file:
        file.write(what + "\n")
    return (STATE / "deeds").read_text().splitlines().count(what)


@step(title="First: look", budget_s=5, acts=False)
def first(ctx: Context[Order]) -> int:
    """Looks."""
    ctx.say("looking")
    return deed("first")


@step(title="Second {wait}", budget_s=60, retry=Retry(attempts=3, delay_s=0.1))
def second(ctx: Context[Order], seen: int) -> str:
    """Fails once, then waits to be let go."""
    if deed("second") == 1 and (STATE / "fail-once").exists():
        raise UnavailableError("once")
    (STATE / "waiting").touch()
    while (STATE / "hold").exists():
        time.sleep(0.05)
    return f"{seen} {ctx.resuming}"


@step(title="Third", budget_s=5)
def third(ctx: Context[Order], text: str) -> str:
    """Ends."""
    del ctx
    deed("third")
    return text


PLAN = Plan("three steps", (Action("act", "here", 60, "deeds are done"),), warnings=("a test",))
RUNBOOK = Runbook("RB-DR-001", "binding test", Order, [first, second, third], plan=lambda _: PLAN)


@binding.runbook_flow(RUNBOOK)
def body(order: Order) -> Outcome:
    """Three steps."""
    with binding.open_run(RUNBOOK, order) as run:
        started_s = time.monotonic()
        seen = run.step(first)
        run.approve(PLAN)
        text = run.step(second, seen)
        ended_s = time.monotonic()
        run.step(third, text)
        (STATE / "timing.json").write_text(
            json.dumps({"to_second": ended_s - started_s, "third": time.monotonic() - ended_s})
        )
    return run.outcome


if __name__ == "__main__":
    binding.open_site = _open_site  # type: ignore[assignment]
    if sys.argv[2] == "approve":
        approving.open_site = _open_site  # type: ignore[assignment]
        app = typer.Typer()
        approving.attach(app)
        app(sys.argv[3:])
    order = Order(incident=sys.argv[3] if len(sys.argv) > 3 else "")
    outcome = body(order) if sys.argv[2] == "flow" else RUNBOOK.perform(order)
    assert isinstance(outcome, Outcome)
    sys.stdout.write(f"OUTCOME {outcome.run_id} {outcome.outcome}\n")
