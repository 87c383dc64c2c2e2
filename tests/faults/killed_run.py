"""A runbook of ten steps with effects in real files, performed by processes that kill themselves at a given point.

Reads one JSON command a line: {"state", "do": "run"|"abandon", "run", "resume", "kill_at"}.  Each is done by a fork of
this process, which is imported once; what it came to is written as one line of JSON.  A point is any moment before or
after a region takes an object, around every effect, and between steps; `kill_at` counts them, and is SIGKILL there.
"""

import contextlib
import datetime as dt
import itertools
import json
import os
import signal
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from folder_store import FolderStore

from vedr.errors import VedrError, VerificationFailedError
from vedr.ledger import RunId
from vedr.ports import ObjectKey, StoredObject
from vedr.runbook.abandoning import abandon
from vedr.runbook.journal import Journal
from vedr.runbook.opening import opened_run
from vedr.runbook.order import Order
from vedr.runbook.run import Run
from vedr.runbook.steps import Context, Runbook, step
from vedr.signature import Signer

REGIONS: Final = ("us-east", "eu-west", "ap-south")
NEVER: Final = 10**9


@dataclass
class Fate:
    """When this process is killed."""

    kill_at: int = NEVER
    points: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def point(self) -> None:
        """A moment at which a process may die."""
        with self.lock:
            self.points += 1
            if self.points > self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


FATE = Fate()
STATE = Path()


class MortalStore(FolderStore):
    """Its process may die before a region has an object, and when it has."""

    def create(self, key: ObjectKey, data: bytes) -> StoredObject:
        FATE.point()
        created = super().create(key, data)
        FATE.point()
        return created


def open_journal(state: Path) -> Journal:
    signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    stores = {region: MortalStore(state / "stores" / region) for region in REGIONS}
    return Journal(
        stores, site="lab", signer=signer, trusted=[signer.public_hex], clock=lambda: dt.datetime.now(dt.UTC)
    )


# --- the world that the steps act on


def effects(state: Path | None = None) -> list[str]:
    """Everything that was done to the world, in order."""
    log = (state or STATE) / "effects"
    return log.read_text().splitlines() if log.exists() else []


def do(what: str) -> None:
    """An action that must not be repeated: it happens whole, once more each time it is called."""
    FATE.point()
    handle = os.open(STATE / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, f"{what}\n".encode())
    os.close(handle)
    FATE.point()


def do_once(ctx: Context[Order], what: str) -> str:
    """Looks before acting, only when it is told that an earlier process may have acted."""
    if not (ctx.resuming and what in effects()):
        do(what)
    return what


def take_back(ctx: Context[Order], what: str) -> str:
    """The same for the way back; what never happened needs none."""
    if what not in effects():
        return "nothing had happened"
    return do_once(ctx, f"undo {what}")


def put(name: str, content: str) -> None:
    """An action that may be repeated: the same file, whole or not at all."""
    FATE.point()
    temporary = STATE / f".{name}"
    temporary.write_text(content)
    FATE.point()
    temporary.rename(STATE / name)
    FATE.point()


# --- the steps


@step(title="Look", budget_s=10, acts=False)
def look(ctx: Context[Order]) -> str:
    """Nothing changes."""
    return ctx.run_id


@step(title="Write the configuration", budget_s=10, cannot_undo="harmless: the next run writes it anew")
def configure(ctx: Context[Order]) -> None:
    """Safe to repeat."""
    put("configuration", ctx.run_id)


@step(title="Fence", budget_s=10, cannot_undo="a fence stays")
def fence(ctx: Context[Order]) -> str:
    """Not to be repeated."""
    return do_once(ctx, "fence")


@step(title="Send notice", budget_s=10, undo=lambda ctx, _: take_back(ctx, "notice"))
def notify(ctx: Context[Order]) -> str:
    """Not to be repeated, and called off when the run is given up."""
    return do_once(ctx, "notice")


@step(title="Count up", budget_s=10, cannot_undo="a number is never used again")
def count_up(ctx: Context[Order]) -> int:
    """Reads a number and writes the next: each repetition would be seen."""
    path = STATE / "number"
    number, by = path.read_text().split() if path.exists() else ("0", "")
    if ctx.resuming and by == ctx.run_id:
        return int(number)
    put("number", f"{int(number) + 1} {ctx.run_id}")
    return int(number) + 1


@step(title="Start", budget_s=20, undo=lambda ctx, _: take_back(ctx, f"start {ctx.named}"))
def start(ctx: Context[Order]) -> str:
    """Not to be repeated, for each unit."""
    return do_once(ctx, f"start {ctx.named}")


@step(title="Move the file", budget_s=10, cannot_undo="it stays where it is")
def move(ctx: Context[Order]) -> None:
    """A rename fails when it is repeated blindly."""
    del ctx
    if not (STATE / "moved").exists():
        FATE.point()
        (STATE / "number").rename(STATE / "moved")
        FATE.point()


@step(title="Point traffic", budget_s=10, undo=lambda ctx, _: take_back(ctx, "traffic"))
def point_traffic(ctx: Context[Order], number: int) -> str:
    """Not to be repeated."""
    return do_once(ctx, "traffic") + f" {number}"


@step(title="Verify", budget_s=10, acts=False)
def verify(ctx: Context[Order], said: str) -> str:
    """Sees everything as it has to be."""
    if (STATE / "moved").read_text() != f"1 {ctx.run_id}" or said != "traffic 1":
        raise VerificationFailedError(f"moved {(STATE / 'moved').read_text()!r}, {said!r}")
    return "as it has to be"


RUNBOOK: Final = Runbook(
    "RB-DR-003",
    "killed over and over",
    Order,
    [look, configure, fence, notify, count_up, start, move, point_traffic, verify],
    subjects=lambda _: ["region/us-east"],
)


def body(run: Run[Order]) -> None:
    run.step(look)
    for one in (configure, fence, notify):
        FATE.point()
        run.step(one)
    FATE.point()
    number = run.step(count_up)
    for unit in ("a", "b"):
        FATE.point()
        run.step(start.named(unit))
    run.step(move)
    FATE.point()
    said = run.step(point_traffic, number)
    FATE.point()
    run.step(verify, said)


# --- processes


def perform(command: dict[str, Any]) -> dict[str, object]:
    """In a fork: do it, and say what it came to."""
    journal = open_journal(STATE)
    run_id = RunId(command["run"])
    try:
        if command["do"] == "abandon":
            done = abandon(RUNBOOK, journal, run_id, "killed too often")
            return {
                "outcome": done.outcome.outcome,
                "taken_back": [one.step for one in done.taken_back],
                "by_hand": [one.step for one in done.by_hand],
            }
        order = Order(incident=run_id if command["resume"] else "")
        with opened_run(RUNBOOK, order, journal, run_id=run_id) as run:
            body(run)
    except VedrError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    else:
        return {"outcome": run.outcome.outcome}
    finally:
        journal.close()


def serve() -> None:
    """Until standard input ends."""
    global STATE  # noqa: PLW0603 - the steps' world is this process's
    for line in sys.stdin:
        command = json.loads(line)
        STATE = Path(command["state"])
        result = STATE / f"result-{next(_SERIAL)}"
        child = os.fork()
        if not child:
            FATE.kill_at = NEVER if command["kill_at"] is None else command["kill_at"]
            with contextlib.suppress(BaseException):
                said = perform(command)
                result.write_text(json.dumps({**said, "points": FATE.points}))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        told = json.loads(result.read_text()) if result.exists() else {"error": "it ended without a word"}
        sys.stdout.write(json.dumps({"killed": True} if killed else {"killed": False, **told}) + "\n")
        sys.stdout.flush()


_SERIAL: Final = itertools.count()

if __name__ == "__main__":
    serve()
