"""Who is wrong: what a node claims of the chain, compared with headers that are verified.

Guarantees: a node is contradicted only by a header that the light client verified over other nodes, never by what
others say; a claim that no verified header can settle is neither true nor false, and comes out as unsettled.
Leaves out: where the claims come from (RPC, `inspection`), and what follows from them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from vedr.chain.boot import HeaderVerifier
from vedr.chain.inspection import Inspected
from vedr.chain.light import DivergenceError
from vedr.chain.rpc import AbciInfo, Status
from vedr.errors import VerificationFailedError
from vedr.inventory import Height


@dataclass(frozen=True, slots=True)
class Claim:
    """`what` is said to be `value` (upper-case hexadecimal); header `settled_by` tells, as its hash or its app hash."""

    what: str
    value: str
    settled_by: Height
    is_block: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """The claims, sorted by truth; each in words."""

    true: tuple[str, ...]
    false: tuple[str, ...]
    unsettled: tuple[str, ...]


def claims_of_node(status: Status, app: AbciInfo | None) -> tuple[Claim, ...]:
    """What a running node says: its newest block, and its application's state."""
    found = [
        Claim(
            f"its block {status.latest_height}",
            status.latest_block_hash.hex().upper(),
            status.latest_height,
            is_block=True,
        )
    ]
    if app is not None and app.height:
        height = app.height
        found.append(_state("its application's state", height, app.app_hash.hex().upper()))
    return tuple(found) if status.latest_height else ()


def claims_of_data(inspected: Inspected) -> tuple[Claim, ...]:
    """What databases at rest say: the state that they name, and the one that their keys and values amount to."""
    found = []
    if inspected.state_height:
        found.append(_state("the state that state.db names", inspected.state_height, inspected.app_hash))
    if inspected.app_hash_recomputed is not None and inspected.app_height:
        what = "the state that the application's keys and values amount to"
        found.append(_state(what, inspected.app_height, inspected.app_hash_recomputed))
    return tuple(found)


def _state(what: str, height: Height, app_hash: str) -> Claim:
    """The state after block `height` is in the header after it."""
    return Claim(f"{what} after block {height}", app_hash, Height(height + 1))


def settle(claims: Iterable[Claim], light: HeaderVerifier) -> Settled:
    """Compare each with the verified header.

    Raises:
        DivergenceError: other nodes show different signed headers, so that nobody can say which chain this is.
    """
    true, false, unsettled = [], [], []
    for claim in claims:
        try:
            header = light.verified_header(claim.settled_by)
        except DivergenceError:
            raise
        except VerificationFailedError as error:
            unsettled.append(f"{claim.what}: {error.message}")
            continue
        verified = header.hash if claim.is_block else header.app_hash
        if claim.value == verified:
            true.append(f"{claim.what} is the chain's")
        else:
            false.append(f"{claim.what} is {claim.value}, verified header {header.height} says {verified}")
    return Settled(tuple(true), tuple(false), tuple(unsettled))
