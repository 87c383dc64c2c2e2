"""The watch after failovers: every block is looked at once, also when its schedule stood still for hours."""

import contextlib
import datetime as dt
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tasks import aftercare
from tasks.aftercare import MAX_BLOCKS, look_after
from tasks.outages import decide
from tasks.relocating import Promoted, promote
from vedr.adapters.memory_store import MemoryStore
from vedr.chain.block import Flag
from vedr.errors import VerificationFailedError
from vedr.failover.relocation import Move, Relocation
from vedr.ledger import RunId
from vedr.runbook.journal import Journal
from vedr.runbook.opening import opened_run
from vedr.runbook.order import Order
from vedr.runbook.steps import Runbook
from vedr.signature import Signer

MOVE = Move("validator-0", 10, "home", "standby", "full-0", "eu-west-1a", "eu-west")
TIP = 1000
HOUR = dt.timedelta(hours=1)
WATCH = Runbook("failover-watch", "watch after failovers", Order, [look_after], target_s=300)


class World:
    """A ledger with one failover, and a chain that one node serves."""

    def __init__(self) -> None:
        self.now = dt.datetime(2026, 2, 14, 3, 0, tzinfo=dt.UTC)
        self.height, self.earliest = TIP + 10, 1
        self.evidence_at = 0
        self.looked: list[int] = []
        self.node = SimpleNamespace(name="full-0", address="AA" * 20)
        signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
        self.journal = Journal(
            {region: MemoryStore(region) for region in ("us-east", "eu-west", "ap-south")},
            site="made", signer=signer, trusted=[signer.public_hex], clock=lambda: self.now,
        )  # fmt: skip

    def failed_over(self, outcome: str, *, promoted: bool = True) -> None:
        found = Relocation(
            "region us-east", "region eu-west", planned=False, moves=(MOVE,), left=(), handovers=(), gateways=(),
            total_power=50, online_before=30, online_after=50, tip_height=TIP, tip_hash="",
        )  # fmt: skip
        writer = self.journal.open(RunId("inc-20260214-030000-aaaa"), "RB-DR-003", {})
        writer.append("step_completed", {"step": decide.key, "result": decide.encode(found)})
        if promoted:
            signs = (Promoted("validator-0", "standby", "full-0", "1001/0/0", 2),)
            writer.append("step_completed", {"step": promote.key, "result": promote.encode(signs)})
        writer.append("closed", {"outcome": outcome})

    def pass_by(self, time: dt.timedelta, blocks: int) -> None:
        self.now, self.height = self.now + time, self.height + blocks

    def block(self, height: int) -> Any:
        self.looked.append(height)
        return SimpleNamespace(evidence=("a vote",) if height == self.evidence_at else ())

    def seen(self) -> Any:
        signature = SimpleNamespace(flag=Flag.COMMIT, address=bytes.fromhex(self.node.address))
        commit = SimpleNamespace(commit=SimpleNamespace(signatures=[signature]))
        rpc = SimpleNamespace(block=self.block, commit=lambda _: commit)
        status = SimpleNamespace(latest_height=self.height, earliest_height=self.earliest)
        return SimpleNamespace(node=self.node, rpc=rpc, status=status)

    @contextlib.contextmanager
    def open(self, _: object) -> Iterator[Any]:
        site = SimpleNamespace(nodes=(self.node,), node=lambda _: self.node)
        yield SimpleNamespace(site=site, journal=self.journal)

    def look(self) -> aftercare.Looked:
        self.looked.clear()
        with opened_run(WATCH, Order(), self.journal) as run:
            return run.step(look_after)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World()
    monkeypatch.setattr(aftercare, "open_site", world.open)
    monkeypatch.setattr(aftercare, "ask", lambda *_: (world.seen(),))
    monkeypatch.setattr(aftercare, "in_sync", lambda seen: seen)
    monkeypatch.setattr(aftercare, "await_blocks", lambda *_: world.height)
    monkeypatch.setattr(aftercare, "holders_of", lambda _: {"validator-0": "standby"})
    yield world
    world.journal.close()


def test_every_block_since_the_failover_is_looked_at_once_after_hours_without_a_look(made: World) -> None:
    made.failed_over("completed")
    made.pass_by(HOUR, 100)
    first = made.look()
    made.pass_by(2 * HOUR, MAX_BLOCKS + 500)
    second = made.look()
    made.pass_by(dt.timedelta(minutes=15), 10)
    third = made.look()
    assert (first.first, first.last) == (TIP, TIP + 109)
    assert (second.first, second.last) == (TIP + 110, TIP + 109 + MAX_BLOCKS)
    assert (third.first, third.last) == (second.last + 1, made.height - 1)


def test_evidence_of_the_hours_without_a_look_is_found(made: World) -> None:
    made.failed_over("completed")
    made.evidence_at = TIP + 50
    made.pass_by(3 * HOUR, 1800)
    with pytest.raises(VerificationFailedError, match=f"block {TIP + 50} holds 1 pieces of evidence"):
        made.look()


def test_a_watch_that_ended_while_nobody_looked_is_ended_by_one_look(made: World) -> None:
    made.failed_over("completed")
    made.pass_by(30 * HOUR, 900)
    assert len(made.look().runs) == 1
    made.pass_by(HOUR, 100)
    assert made.look().runs == ()


def test_blocks_that_no_node_has_any_more_have_not_been_looked_at(made: World) -> None:
    made.failed_over("completed")
    made.earliest = TIP + 5
    with pytest.raises(VerificationFailedError, match=f"blocks from {TIP} are to be looked at"):
        made.look()


@pytest.mark.parametrize(("promoted", "watched"), [(True, ("validator-0",)), (False, ())])
def test_keys_that_a_failover_moved_before_it_was_given_up_are_watched(
    made: World, *, promoted: bool, watched: tuple[str, ...]
) -> None:
    made.failed_over("abandoned", promoted=promoted)
    made.pass_by(HOUR, 100)
    assert made.look().validators == watched
