"""The rules that can be switched off in the simulator, and nowhere else: the program has no such flags.

A rule is switched off by replacing, for this process, the function or the port that keeps it.
"""

# ruff: noqa: ARG001, SLF001 - what stands in for a rule takes what the rule takes

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.signing import fakes
from vedr.chain import fence as fences
from vedr.chain import floor as floors
from vedr.chain import register_claim, shipping
from vedr.chain.fence import Closed, FencedTip, FenceProof, FinalState, Quiet, SeenVotes
from vedr.chain.register import Content, Epoch, Position, Validator
from vedr.chain.shipping import Shipped
from vedr.chain.sign_state import SignState, highest
from vedr.errors import CorruptError, DeadlineError, RefusedError, UnavailableError
from vedr.failover import fencing, promotion
from vedr.failover.promotion_history import History
from vedr.inventory import Height
from vedr.runbook import lease
from vedr.runbook.liveness import await_quiet
from vedr.signature import open_document

RULES: Final[Mapping[str, str]] = {
    "fence": "a host that does not answer is not fenced",
    "disk": "fencing renames the disk, beyond stopping the unit",
    "all-hosts": "every host that holds the key is fenced, not only the one that signed last",
    "quiet": "20 commits, and the votes, without the validator before another signs",
    "floor": "the standby's state is raised to a floor, whatever it was restored from",
    "tip": "on a moving chain the floor is above the tip after the fence and above the quiet",
    "halted": "on a halted chain only the signers' own last states make a floor",
    "copies": "on a halted chain a shipped copy is no proof of the last signature",
    "history": "what earlier runs recorded of disks tells one that was rebuilt from the one that signed last",
    "own-state": "the last states on the hosts' disks go into the floor of a moving chain",
    "never-lower": "a sign-state is never lowered",
    "recheck": "lease, fences and quiet are looked at again before arming",
    "lease": "one run at a time has the lease on the key",
    "epoch": "every step checks that the lease was not passed on",
    "ticket": "a disk refuses whoever does not have its present ticket",
    "register-majority": "a signature leaves only when a majority of registers has it",
    "register-epoch": "a register of a newer epoch is not written",
    "register-cas": "a register is written only over what was read",
    "register-put-back": "a region that shows less than it has shown counts for nothing",
    "register-together": "regions that confirmed a position one after the other have to show it again",
}
FILE_RULES: Final = tuple(name for name in RULES if not name.startswith("register"))
REGISTER_RULES: Final = tuple(name for name in RULES if name.startswith("register"))
EXCLUDED: Final[Mapping[str, str]] = {
    "put-back-unseen": "excluded: nobody goes by a region that lost what a majority lacks, and never saw more there",
}
"""What the simulator leaves out because the page says that it is not withstood; off: it is played."""
ALIEN: Final = b"another validator's"


@dataclass(frozen=True, slots=True)
class BlindFence(fencing.ProcessAndDisk):
    """Silence counts as fenced."""

    def close(self) -> None:
        with contextlib.suppress(UnavailableError):
            fencing.ProcessAndDisk.close(self)

    def prove(self) -> Closed:
        try:
            return fencing.ProcessAndDisk.prove(self)
        except UnavailableError:
            return Closed({"host": "silent"}, None)


@dataclass(frozen=True, slots=True)
class UnitFence(fencing.ProcessAndDisk):
    """The unit is stopped; its folder keeps its name."""

    def close(self) -> None:
        self._end()

    def prove(self) -> Closed:
        closed = fences.UnitStopped(self.fleet, self.node).prove()
        place = self.disk.place()
        try:
            return Closed(closed.facts, self.disk.state(None if place.where == "open" else place.ticket))
        except Exception:  # noqa: BLE001 - only the look at the disk is left out
            return closed


def fence_class(off: frozenset[str]) -> type[fencing.ProcessAndDisk]:
    """How the other hosts are fenced."""
    if "disk" in off:
        return UnitFence
    return BlindFence if "fence" in off else fencing.ProcessAndDisk


@contextlib.contextmanager
def without(off: frozenset[str]) -> Iterator[None]:
    """Run with these rules off.

    Always: sleeping is virtual, a lease's signature is checked once, and tokens stand for the registers' bytes.
    """
    replaced: list[tuple[Any, str, object]] = []

    def replace(owner: Any, name: str, value: object) -> None:
        replaced.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    replace(lease, "await_quiet", _await_quiet)
    replace(lease, "open_document", functools.lru_cache(maxsize=4096)(open_document))
    replace(register_claim, "encode", write_token)
    replace(register_claim, "decode", read_token)
    replace(shipping, "encode", write_copy)
    replace(shipping, "decode", read_copy)
    for name in off:
        for owner, attribute, value in _REPLACEMENTS.get(name, ()):
            replace(owner, attribute, value)
    try:
        yield
    finally:
        for owner, attribute, value in reversed(replaced):
            setattr(owner, attribute, value)


def write_token(_validator: Validator, content: Content) -> bytes:
    """What stands for a register's object: all that it says.  JSON and its checks have their own tests."""
    at = content.position
    return f"{content.epoch} {content.holder} {at.height} {at.round} {at.step} {at.digest}".encode()


def read_token(_validator: Validator, data: bytes, *, where: str) -> Content:
    """The content that was written; CorruptError where it is another validator's."""
    if data == ALIEN:
        raise CorruptError(f"{where}: not the sign-state register of this validator")
    return _content_of(data)


def write_copy(_validator: Validator, shipped: Shipped) -> bytes:
    """What stands for a shipped copy's object: all that it says."""
    state = shipped.state
    says = f"{shipped.source} {shipped.changed_us} {state.height} {state.round} {state.step} {state.sign_bytes.hex()}"
    return says.encode()


def read_copy(_validator: Validator, data: bytes, *, where: str) -> Shipped:
    """The copy that was written; CorruptError where it is another validator's."""
    if data == ALIEN:
        raise CorruptError(f"{where}: not the shipped sign state of this validator")
    source, changed_us, height, round_, step, sign_bytes = data.decode().split(" ")
    state = SignState(Height(int(height)), int(round_), int(step), b"", bytes.fromhex(sign_bytes))
    return Shipped(source, int(changed_us), state)


@functools.lru_cache(maxsize=65536)
def _content_of(data: bytes) -> Content:
    epoch, holder, height, round_, step, digest = data.decode().split(" ")
    return Content(Epoch(int(epoch)), holder, Position(Height(int(height)), int(round_), int(step), digest))


def _await_quiet(journal: Any, run_id: Any, entries: Any) -> None:
    await_quiet(journal, run_id, entries, monotonic=journal.process.monotonic, sleep=journal.process.sleep)


# --- what stands in for a rule


def _any_quiet(proof: FenceProof, tip: FencedTip, observer: Any, *, sleep: Any, **_: Any) -> Quiet:
    """One more block is enough, whoever signed it."""
    for _try in range(3):
        if observer.status().latest_height > tip.height:
            return Quiet(proof, Height(tip.height), Height(tip.height), seal=fences._SEAL)
        sleep(0.2)
    raise DeadlineError("no block")


def _only_the_tip(means: Any, calm: Any) -> Height:
    proof, chain_id = calm.observed.fenced.proof, calm.observed.fenced.locked.order.chain_id
    return fences.observe_tip(proof, means.observers, chain_id=chain_id).height


def _no_recheck(means: Any, ready: Any, _written: SignState) -> Height:
    return Height(ready.floored.calm.observed.tip.height)


def _floor_at_the_tip(
    tip: FencedTip, quiet: Quiet, seen: SeenVotes, surviving: SignState | None = None
) -> floors.Floor:
    state = SignState(tip.height, 0, 3)
    if surviving is not None and surviving.hrs > state.hrs:
        state = SignState(surviving.height, surviving.round, surviving.step)
    return floors.Floor(tip.proof, state, "the tip", replaces_corrupt=True, seal=floors._SEAL)


def _whatever_is_known(proof: FenceProof) -> FinalState:
    known = (SignState(Height(0), 0, 0), *(one.final for one in proof.fences if one.final))
    return FinalState(proof, highest(*known), seal=fences._SEAL)


_FLOOR_WHILE_HALTED: Final = promotion._floor_while_halted


def _copies_prove(means: Any, calm: Any, copies: tuple[SignState, ...], history: History) -> floors.Floor:
    """Where the disks don't, the highest shipped copy is taken for the last signature."""
    try:
        return _FLOOR_WHILE_HALTED(means, calm, copies, history)
    except RefusedError:
        if not copies:
            raise
        final = FinalState(calm.observed.fenced.proof, highest(*copies), seal=fences._SEAL)
        return floors.floor_from_final_state(final, calm.halted.seen, copies)


def _unraised(self: Any, ticket: Any, floor: Any, *, check_height: int) -> SignState:
    """The standby keeps what it was restored with."""
    self._reach()
    folder = self._mine(ticket)
    folder.state = folder.state or SignState(Height(0), 0, 0)
    return floor.state  # type: ignore[no-any-return]


def _take_away_from_anybody(self: Any, ticket: Any) -> None:
    self._reach()
    if self.host.folder is not None:
        self.host.folder.name, self.host.folder.ticket = ticket.folder, ticket


def _anybodys_folder(self: Any, _ticket: Any) -> Any:
    if self.host.folder is None:
        raise fakes.ConflictError("no folder")
    return self.host.folder


def _everybody(self: Any, subject: str, run_id: Any) -> lease.Lease:
    return lease.Lease(subject, 1, run_id)


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    return None


def _always_writable(_self: Any, view: Any, target: Any) -> bool:
    return view.content != target


def _shown_as_it_is(view: Any, content: Content) -> None:
    view.content = content


def _one_is_enough(claim: Any) -> int:
    shown = sum(view.content is not None and view.content == claim._target for view in claim._views.values())
    return claim._majority if shown else 0  # type: ignore[no-any-return]


def _whenever_shown(claim: Any) -> bool:
    return claim._confirmed() >= claim._majority  # type: ignore[no-any-return]


_REPLACEMENTS: Final[Mapping[str, tuple[tuple[Any, str, object], ...]]] = {
    "quiet": (
        (fences, "observe_quiet", _any_quiet),
        (promotion, "_check_calm", _only_the_tip),
    ),
    "floor": ((fakes.SimulatedDisk, "prepare", _unraised),),
    "tip": ((floors, "floor_while_moving", _floor_at_the_tip),),
    "halted": ((fences, "final_state_of", _whatever_is_known), (History, "check_final", _nothing)),
    "copies": ((promotion, "_floor_while_halted", _copies_prove),),
    "history": ((History, "check_final", _nothing),),
    "own-state": ((promotion, "_highest_known", lambda *_: None),),
    "never-lower": ((fakes.SimulatedDisk, "merged", lambda _self, _before, floor: floor),),
    "recheck": ((promotion, "recheck", _no_recheck),),
    "lease": ((lease.Leases, "acquire", _everybody), (lease.Leases, "check", _nothing)),
    "epoch": ((lease.Leases, "check", _nothing),),
    "ticket": (
        (fakes.SimulatedDisk, "take_away", _take_away_from_anybody),
        (fakes.SimulatedDisk, "_mine", _anybodys_folder),
    ),
    "register-majority": (
        (register_claim.Claim, "_confirmed", _one_is_enough),
        (register_claim.Claim, "_is_shown_together", _whenever_shown),
    ),
    "register-epoch": (
        (register_claim.Claim, "_pass", _nothing),
        (register_claim.Claim, "_may_write", _always_writable),
    ),
    "register-put-back": ((register_claim._View, "show", _shown_as_it_is),),
    "register-together": ((register_claim.Claim, "_is_shown_together", _whenever_shown),),
}
