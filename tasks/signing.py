"""The sign-state rule, as runbooks follow it for a validator that comes back on its own host.

Guarantees: before the node may start, the key on its disk is the right one, its old process is proven stopped, and its
sign-state file says at least what the key may have signed; where that is not certain, it is refused.
Leaves out: a validator that moves to another host (the promotion protocol of RB-DR-002 and -003).
"""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from tasks.key_hosts import holders_in_ledger, key_on
from tasks.observing import ask, references
from vedr.adapters.privval_signer import register_of
from vedr.adapters.site import OpenSite, utc_now
from vedr.chain import fence, floor
from vedr.chain.appointment import APPOINT_DEADLINE_S, NOBODY, appoint, appointed
from vedr.chain.node_config import remove_stale_socket, set_signer_address
from vedr.chain.register import Validator
from vedr.chain.register_holding import SignStateRegister
from vedr.chain.shipping_watch import look_at_copies
from vedr.chain.sign_state import FILE_NAME, SignState, read_sign_state, write_sign_state
from vedr.errors import CorruptError, DeadlineError, NotFoundError, RefusedError, UnavailableError, VedrError
from vedr.failover.signer_disk import LocalSignerDisk
from vedr.inventory import Height, Node, RemoteSigner, load_site
from vedr.ledger import RunId
from vedr.ports import UnitState

Say = Callable[[str], None]
NODE_LIMIT_S: Final = 60.0  # from its start until it answers; its signer may need some seconds to be there
_POLL_S: Final = 0.25
SLOWEST_BLOCK_TIMES: Final = 3.0  # a chain this many times slower than usual still counts as moving


class NodeOrder(Protocol):
    """An order that names one node of a site."""

    @property
    def site(self) -> str: ...

    @property
    def node(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Guarded:
    """Why this node may sign from here on; empty for a node that doesn't."""

    floor: str
    reason: str


def subjects_of_node(order: NodeOrder) -> list[str]:
    """What a runbook on a node leases: the node, and its signing key if any, which no promotion then moves meanwhile.

    Raises:
        NotFoundError: the site has no such node.
    """
    node = load_site(order.site or None).node(order.node)
    return [f"node/{node.name}", *([f"signer/{node.address.lower()}"] if node.is_validator else [])]


def guard(opened: OpenSite, node: Node, say: Say) -> Guarded:
    """Fence, observe, find the floor, write it; nothing to do for a node that does not sign.

    Raises:
        RefusedError: the key is missing or another one, the node is not stopped, or no floor is certain.
    """
    check_recoverable(opened, node)
    if not node.is_validator:
        return Guarded("", "this node does not sign")
    if opened.site.signers_of(node.name):
        return _guarded_by_registers(opened, node)
    _check_key(opened, node)
    found = _find_floor(opened, node, say)
    written = floor.apply_floor(found, opened.files.home(node) / "data" / FILE_NAME)
    say(f"may sign above {written}: {found.reason}")
    return Guarded(str(written), found.reason)


def start_guarded(opened: OpenSite, node: Node, guarded: Guarded) -> str:
    """Start the unit, its remote signer first; RefusedError for a validator that nobody found a floor for.

    One that signs remotely is made to wait for its signer: a configuration from before it had one, which RB-DR-004 may
    have restored, lets it sign by itself where a key file lies in its home, past the registers.
    """
    if node.is_validator and not guarded.floor:
        raise RefusedError(f"{node.name} has no floor", remedy="The runbook's order is broken: report this.")
    if signer := home_signer(opened, node):
        set_signer_address(opened.files.home(node), signer.listen)
        opened.fleet.start(signer.unit, node.zone)
        start_with_signer(opened, node, signer.listen)
    started = opened.fleet.start(node.unit, node.zone)
    return f"{started.state} since {started.since.isoformat()}"


def start_with_signer(
    opened: OpenSite, node: Node, address: str, *, check_signer: Callable[[], None] = lambda: None
) -> None:
    """Start a node that waits for a signer there, or for none, until it answers.

    A node gives its signer three seconds to be there, so that one that ended is started once more.

    Args:
        opened: The site.
        node: The node.
        address: Where it waits.
        check_signer: Asked before each look; what it raises ends the waiting.

    Raises:
        DeadlineError: it does not answer in time.
    """

    def is_up() -> bool:
        check_signer()
        if ask(opened, [node]):
            return True
        if opened.fleet.status(node.unit, node.zone).state in ("failed", "stopped"):
            remove_stale_socket(address)
            opened.fleet.start(node.unit, node.zone)
        return False

    wait_until(is_up, NODE_LIMIT_S, f"{node.name} does not answer", f"See its log on its host in {node.zone}; resume.")


def wait_until(is_true: Callable[[], bool], limit_s: float, what: str, remedy: str) -> None:
    """Ask until it is so; what does not answer is asked again."""
    deadline = time.monotonic() + limit_s
    last = ""
    while True:
        try:
            if is_true():
                return
        except UnavailableError as error:
            last = f": {error.message}"
        if time.monotonic() >= deadline:
            raise DeadlineError(f"{what} within {limit_s:g} s{last}", remedy=remedy)
        time.sleep(_POLL_S)


def home_signer(opened: OpenSite, node: Node) -> RemoteSigner | None:
    """The remote signer beside a validator; None for a node that signs by itself or not at all."""
    signers = opened.site.signers_of(node.name)
    return signers[0] if signers else None


def signer_state(opened: OpenSite, node: Node) -> UnitState | None:
    """The state of its remote signer's unit; None where there is none, or it can't be asked."""
    signer = home_signer(opened, node)
    if signer is None:
        return None
    try:
        return opened.fleet.status(signer.unit, node.zone).state
    except (UnavailableError, NotFoundError):
        return None


def deny_signers(opened: OpenSite, validator: Node, run_id: RunId, *, deadline_s: float = APPOINT_DEADLINE_S) -> None:
    """No remote signer of this key signs from here on: nobody is appointed, and the registers are taken from whoever
    held them.  Units that answer are stopped too.

    Raises:
        UnavailableError: no majority of the regions answers: a signer that still reaches one may sign on.
    """
    subject = Validator(opened.site.chain.chain_id, validator.address)
    appoint(opened.registers, subject, NOBODY, run_id=run_id, at=utc_now(), deadline_s=deadline_s)
    register = SignStateRegister(opened.registers, subject)
    # a look at every region, though a dead one costs its whole deadline: one try, with an epoch above all that is shown
    register.take_over(register.look().next_epoch, f"{NOBODY}/{run_id}").close()
    for signer in opened.site.signers_of(validator.name):
        with contextlib.suppress(VedrError):  # what does not answer is refused by the registers
            opened.fleet.stop(signer.unit, opened.site.node(signer.node).zone)


def _guarded_by_registers(opened: OpenSite, node: Node) -> Guarded:
    """Nothing to prove on its disk: the registers refuse whatever is not above them.

    Raises:
        RefusedError: another signer is to hold its key.
        UnavailableError: no majority of the regions answers.
    """
    validator = Validator(opened.site.chain.chain_id, node.address)
    seen = register_of(opened, node).glance()
    if not seen.is_majority or seen.newest is None:
        raise UnavailableError(
            f"no majority of the regions shows the register of {node.name}",
            remedy="Two regions' stores have to answer; restore one.",
        )
    home = opened.site.signers_of(node.name)[0]
    order = appointed(opened.registers, validator)
    if order is not None and order.name == NOBODY:
        raise RefusedError(
            f"{node.name}: its key was revoked by {order.run_id}", remedy="It never signs again: see that run's report."
        )
    if order is not None and order.name != home.name:
        raise RefusedError(
            f"{node.name}: {order} is to hold its key",
            remedy="Its key was moved by a failover; to take it home run the failback.",
        )
    return Guarded(str(seen.newest.position), "the regions' registers refuse whatever is not above them")


def set_aside_unreadable(opened: OpenSite, node: Node, say: Say) -> None:
    """Rename a validator's sign-state that can't be read, so that the floor is found without it; it is kept.

    Raises:
        RefusedError: the node is not proven stopped.
    """
    path = opened.files.home(node) / "data" / FILE_NAME
    try:
        read_sign_state(path)
    except NotFoundError:
        return
    except CorruptError as error:
        proof = fence.prove_stopped(opened.fleet, node, clock=utc_now)
        aside = path.with_name(f"{path.name}.unreadable-{proof.at:%Y%m%dT%H%M%S%f}")
        path.rename(aside)
        say(f"{error.message}: kept as {aside.name}, the chain has to prove the floor")


def give_sign_state(opened: OpenSite, node: Node) -> None:
    """A node that signs nothing does not start without the file either: it gets an empty one where it has none."""
    path = opened.files.home(node) / "data" / FILE_NAME
    if not node.is_validator and not path.exists():
        write_sign_state(path, SignState(Height(0), 0, 0))


def check_recoverable(opened: OpenSite, node: Node) -> None:
    """Whether its data may be replaced, and it be started, as a node's whose key is where the site's file says.

    Raises:
        RefusedError: a full node that was given a validator's key file, or a validator whose key file was taken away.
        UnavailableError: the ledger can't be read, so that nobody knows where the key signs.
    """
    _check_has_no_given_key(opened, node)
    _check_signs_at_home(opened, node)


def _check_has_no_given_key(opened: OpenSite, node: Node) -> None:
    """Its disk is that key's sign-state."""
    if validator := key_on(opened, node):
        raise RefusedError(
            f"{node.name} signs with the key file of {validator.name}: replacing its data, or starting it otherwise "
            "than it stopped, could sign twice",
            remedy="Take the key home first: the failback.  If its disk is as it left it, start its unit by hand.",
        )


def _check_signs_at_home(opened: OpenSite, node: Node) -> None:
    """A failover took its key file elsewhere, or fenced its disk on the way there."""
    if opened.site.key_file_of(node.name) is None:
        return
    holder = holders_in_ledger(opened)[node.name]
    fenced = LocalSignerDisk(opened.files, node).place().where == "fenced"
    if holder != node.name or fenced:
        raise RefusedError(
            f"{node.name}: its signer disk was fenced by a failover, its key file signs at {holder} or nowhere",
            remedy="To take it home run the failback of its zone; a failover that stopped half-way may be resumed.",
        )


def _check_key(opened: OpenSite, node: Node) -> None:
    """The consensus key on disk is this validator's: a node started without one makes its own, silently."""
    path = opened.files.home(node) / "config" / "priv_validator_key.json"
    try:
        address = json.loads(path.read_bytes()).get("address")
    except (OSError, ValueError, AttributeError):
        raise RefusedError(
            f"{node.name}: {path} can't be read", remedy="Restore the validator's key first (vedr keys restore)."
        ) from None
    if address != node.address:
        raise RefusedError(
            f"{node.name}: the key on its disk is not the one of {node.address}", remedy="Restore the right key first."
        )


def _find_floor(opened: OpenSite, node: Node, say: Say) -> floor.Floor:
    """Steps 2 to 5 of the promotion protocol, for a signer that comes back on its own host."""
    proof = fence.prove_stopped(opened.fleet, node, clock=utc_now)
    survivors = [one.rpc for one in references(opened, node)]
    tip = fence.observe_tip(proof, survivors, chain_id=opened.site.chain.chain_id)
    seen = fence.observe_votes(proof, tip, survivors)
    copies = known = shipped_copies(opened, node, say)
    try:
        final = fence.read_final_state(proof, opened.files)
        known = (*copies, final.state)
        return floor.floor_from_final_state(final, seen, copies)
    except (NotFoundError, CorruptError, RefusedError) as error:
        say(f"its disk does not prove what it signed last ({error.message}); the chain has to")
    surviving = max(known, key=lambda state: state.hrs, default=None)
    commits = fence.MIN_QUIET_COMMITS
    deadline_s = SLOWEST_BLOCK_TIMES * (commits + 2) * opened.site.chain.block_time_s
    try:
        quiet = fence.observe_quiet(proof, tip, survivors[0], commits=commits, deadline_s=deadline_s)
    except DeadlineError:
        raise floor.refuse_while_halted(tip, seen, surviving) from None
    return floor.floor_while_moving(tip, quiet, seen, surviving)


def shipped_copies(opened: OpenSite, node: Node, say: Say) -> tuple[SignState, ...]:
    """What the regions hold of the validator's file; they only ever raise a floor, so that silence is no obstacle."""
    try:
        copies = look_at_copies(Validator(opened.site.chain.chain_id, node.address), opened.registers)
    except VedrError as error:
        say(f"no shipped copy of its sign-state can be asked for: {error.message}")
        return ()
    return copies.states
