"""Validators' keys taken over again and again on the running lab, from signers that were killed, frozen or cut off.

    python -m bench.takeovers --name lab --count 100 --seed 1 [--write docs/measurements.md]

1. Draw a validator that signs remotely, a way to lose its signer, and a standby.
2. Do it; then put the standby in charge as RB-DR-002 does (tasks.relocating), and await its signature in a block.
3. Bring the old one back alive, and see it refused: its process ends.  Its node is put right, as a runbook would.
4. In the end everything goes home, and the record is read: evidence in any block, contents signed for one height,
   round and step in the signers' logs, precommits on the chain that no log tells.

Exit status 1 when one of these was found.  Nobody else may use the lab meanwhile.
"""

import argparse
import contextlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from bench.report import write_between_marks
from bench.takeover_records import (
    Case,
    Seat,
    Signed,
    TakeOver,
    Way,
    draw,
    expected_nodes,
    hrs_of,
    read_log,
    report,
    signed_after,
    signed_twice,
    untold,
)
from tasks.observing import ask, in_sync
from tasks.outages import holders_of
from tasks.relocating import put_in_charge, release
from vedr.adapters.site import OpenSite, utc_now
from vedr.chain.block import Commit
from vedr.chain.quorum import online_addresses
from vedr.chain.rpc import ChainRpc
from vedr.errors import DeadlineError, UnavailableError, VedrError
from vedr.failover.node_failure import MAX_HEALTHY_LAG_BLOCKS
from vedr.failover.relocation import signer_named
from vedr.inventory import Height, load_site
from vedr.lab import agents, faults
from vedr.lab.plan import Plan
from vedr.lab.settings import exclusive, load_plan, read_settings
from vedr.runbook.order import Order, new_run_id
from vedr.runbook.steps import Context

PAUSE_LIMIT_S: Final = 120.0  # labzoned lets a frozen unit go on by itself after this
HOLD_LIMIT_S: Final = 120.0
SIGN_LIMIT_S: Final = 60.0
REFUSED_LIMIT_S: Final = 60.0
SETTLE_LIMIT_S: Final = 180.0
RPC_DEADLINE_S: Final = 5.0
_POLL_S: Final = 0.1
_KILLED: Final[tuple[Way, ...]] = ("signer killed", "node killed")
_FROZEN: Final[tuple[Way, ...]] = ("signer frozen", "node frozen")


@dataclass
class Bench:
    """The lab, and what was done to it so far."""

    plan: Plan
    opened: OpenSite
    chance: random.Random
    done: list[TakeOver] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @cached_property
    def seats(self) -> tuple[Seat, ...]:
        site = self.opened.site
        return tuple(Seat(s.name, s.validator, s.node, site.node(s.node).zone) for s in site.signers)

    # --- one take-over

    def take_over(self, case: Case) -> TakeOver:
        """(2), (3)."""
        ctx = Context(Order(), self.opened.site.name, new_run_id("run", utc_now()), 0, 1, False, _say)
        witness = self.witness(case)
        before, began = witness.status().latest_height, time.monotonic()
        with self.broken(case):
            promoted = put_in_charge(
                ctx, self.opened, signer_named(self.opened.site, case.new.signer), hold_limit_s=HOLD_LIMIT_S
            )
            named_s = time.monotonic() - began
            position, told = hrs_of(promoted.position), self.log_size(case.old)
            first = self.await_signature(witness, case.validator, position[0])
            signing_s = time.monotonic() - began
        refused = self.await_refused(case.old)
        late, unread = read_log(case.old, self.log(case.old)[told:])
        self.problems += [*signed_after(late, position), *unread]
        release(ctx, self.opened, signer_named(self.opened.site, case.old.signer))
        missed = sum(not self.signs(witness, case.validator, height) for height in range(before + 1, first))
        return TakeOver(case, named_s, signing_s, missed, refused)

    @contextlib.contextmanager
    def broken(self, case: Case) -> Iterator[None]:
        """The old signer lost in this way; alive again afterwards, whatever happened."""
        name = case.old.node if case.way.startswith("node") else signer_named(self.opened.site, case.old.signer).unit
        target = faults.find(self.plan, case.old.zone if case.way == "zone cut" else name)
        if case.way in _KILLED:
            faults.kill(self.plan, target)
        elif case.way in _FROZEN:
            self._frozen(case, name)
        elif case.way == "zone cut":
            faults.cut(self.plan, target)
        try:
            yield
        finally:
            if case.way in _KILLED:
                faults.start(self.plan, target)
            elif case.way in _FROZEN:
                self._frozen(case, name, ends=True)
            elif case.way == "zone cut":
                faults.heal(self.plan, target)

    def _frozen(self, case: Case, unit: str, *, ends: bool = False) -> None:
        with contextlib.closing(agents.connect(self.plan, self.plan.zone(case.old.zone))) as agent:
            if ends:
                agent.resume(unit)
            else:
                agent.pause(unit, limit_s=PAUSE_LIMIT_S)

    def await_refused(self, old: Seat) -> bool:
        """Whether it ends by itself; one that nobody asks for a signature does not find out, and is asked to end."""
        unit, zone = signer_named(self.opened.site, old.signer).unit, self.plan.zone(old.zone)
        until = time.monotonic() + REFUSED_LIMIT_S
        while time.monotonic() < until:
            if agents.unit_state(self.plan, zone, unit) in ("stopped", "failed"):
                return True
            time.sleep(_POLL_S)
        self.opened.fleet.stop(unit, old.zone)
        return False

    # --- the chain

    def witness(self, case: Case | None = None) -> ChainRpc:
        """A node in sync that the take-over does not touch."""
        touched = (case.old.node, case.new.node) if case else ()
        zone = case.old.zone if case else ""
        for seen in in_sync(ask(self.opened, self.opened.site.nodes)):
            if not seen.node.is_validator and seen.node.name not in touched and seen.node.zone != zone:
                return self.opened.rpc(seen.node, deadline_s=RPC_DEADLINE_S)
        raise UnavailableError("no full node is in sync", remedy="See vedr lab status.")

    def signs(self, witness: ChainRpc, validator: str, height: int) -> bool:
        return self._address(validator) in online_addresses(self._commit(witness, height))

    def await_signature(self, witness: ChainRpc, validator: str, above: int) -> int:
        """The first block above this height that the validator signed.  DeadlineError after SIGN_LIMIT_S."""
        height, until = above + 1, time.monotonic() + SIGN_LIMIT_S
        while time.monotonic() < until:
            if witness.status().latest_height <= height:  # only a commit that the next block fixed is the last word
                time.sleep(_POLL_S)
            elif self.signs(witness, validator, height):
                return height
            else:
                height += 1
        raise DeadlineError(f"{validator} is in no block up to {height}", remedy="See its new signer's log.")

    def settle(self) -> dict[str, str]:
        """Wait until every node that ought to serve is level with the others; who holds the keys."""
        until = time.monotonic() + SETTLE_LIMIT_S
        nodes = [(node.name, node.is_validator) for node in self.opened.site.nodes]
        missing: set[str] = set()
        while time.monotonic() < until:
            with contextlib.suppress(UnavailableError):
                holders = holders_of(self.opened)
                seen = in_sync(ask(self.opened, self.opened.site.nodes))
                tip = max((one.status.latest_height for one in seen), default=0)
                level = {s.node.name for s in seen if tip - s.status.latest_height <= MAX_HEALTHY_LAG_BLOCKS}
                missing = set(expected_nodes(nodes, self.seats, holders)) - level
                if not missing and all(holders.values()):
                    return holders
            time.sleep(5 * _POLL_S)
        raise DeadlineError(f"not in sync: {', '.join(sorted(missing))}", remedy="See vedr lab status.")

    def signing_zones(self, holders: dict[str, str]) -> list[str]:
        """Of every validator, where its key is used."""
        by_name = {seat.signer: seat for seat in self.seats}
        return [
            by_name[holders[node.name]].zone if node.name in holders else node.zone
            for node in self.opened.site.nodes
            if node.is_validator
        ]

    # --- the record

    def log(self, seat: Seat) -> bytes:
        """Of its signer, all of it; empty for one that never ran."""
        path = self._log_path(seat)
        return path.read_bytes() if path.exists() else b""

    def log_size(self, seat: Seat) -> int:
        return self._log_path(seat).stat().st_size

    def look_back(self, first: int) -> int:
        """(4) Adds to the problems; how many blocks were looked at."""
        signed: list[Signed] = []
        for seat in self.seats:
            told, unread = read_log(seat, self.log(seat))
            signed += told
            self.problems += unread
        self.problems += signed_twice(signed)
        witness = self.witness()
        last = witness.status().latest_height - 1
        validators = {self._address(name): name for name in {seat.validator for seat in self.seats}}
        on_chain = []
        for height in range(first, last + 1):
            for evidence in witness.block(Height(height)).evidence:
                self.problems.append(f"block {height} holds {evidence.kind} of height {evidence.height}")
            commit = self._commit(witness, height)
            on_chain += [(validators[a], height, commit.round) for a in online_addresses(commit) if a in validators]
        self.problems += untold(on_chain, signed)
        if not on_chain:
            self.problems.append("no block holds a signature of these validators: nothing was seen")
        return last + 1 - first

    def acknowledged(self) -> int:
        path = self.plan.folder / "load" / "acked.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    # --- leaves

    def _commit(self, witness: ChainRpc, height: int) -> Commit:
        return witness.commit(Height(height)).commit

    def _address(self, validator: str) -> bytes:
        return bytes.fromhex(self.opened.site.node(validator).address)

    def _log_path(self, seat: Seat) -> Path:
        return self.plan.folder / "logs" / f"{signer_named(self.opened.site, seat.signer).unit}.log"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="lab", help="the lab's name")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help="a Markdown file whose part between the marks is replaced")
    asked = parser.parse_args()
    plan = load_plan(read_settings(asked.name))
    with exclusive(plan.settings), OpenSite(load_site(asked.name)) as opened:
        bench = Bench(plan, opened, random.Random(asked.seed))
        first, acknowledged = bench.witness().status().latest_height, bench.acknowledged()
        _all(bench, asked.count)
        blocks = bench.look_back(first)
        text = report(
            bench.done,
            bench.problems,
            seed=asked.seed,
            blocks=blocks,
            acknowledged=bench.acknowledged() - acknowledged,
        )
    print(text)
    if asked.write:
        write_between_marks(asked.write, "takeovers", text)
    return 1 if bench.problems else 0


def _all(bench: Bench, count: int) -> None:
    """(1) to (3), and everything home; an error ends it, what was done is reported all the same."""
    try:
        for number in range(1, count + 1):
            holders = bench.settle()
            case = draw(bench.chance, bench.seats, holders, bench.signing_zones(holders))
            _told(bench, f"{number}/{count}", case)
        _go_home(bench)
    except VedrError as error:
        bench.problems.append(f"ended after {len(bench.done)} take-overs: {error.message} {error.remedy}")


def _go_home(bench: Bench) -> None:
    for home in (seat for seat in bench.seats if seat.is_home):
        holder = bench.settle()[home.validator]
        if holder != home.signer:
            old = next(seat for seat in bench.seats if seat.signer == holder)
            _told(bench, "home", Case(home.validator, "planned", old, home))


def _told(bench: Bench, number: str, case: Case) -> None:
    print(f"{number}: {case.validator}, {case.way}: {case.old.signer} -> {case.new.signer}", flush=True)
    one = bench.take_over(case)
    bench.done.append(one)
    refused = "ended by itself" if one.refused_by_itself else "ended when asked"
    print(
        f"  named after {one.named_s:.1f} s, signing after {one.signing_s:.1f} s, {one.missed} blocks missed, "
        f"the old one {refused}",
        flush=True,
    )
    for problem in bench.problems:
        print(f"  PROBLEM {problem}", flush=True)


_say: Final[Callable[[str], None]] = lambda text: print(f"    {text}", flush=True)  # noqa: E731 (one line)


if __name__ == "__main__":
    sys.exit(main())
