"""What the chain says of a captured state.

Guarantees: a capture whose application hash differs from a verified header is refused, and so is one that a node would
still have to replay a block on.  Leaves out: reading the databases (vedr.chain.inspection).
"""

from collections.abc import Callable

from vedr.backup.manifest import ChainPoint
from vedr.chain.inspection import Inspected
from vedr.chain.light import DivergenceError, VerifiedHeader
from vedr.errors import UnavailableError, VedrError, VerificationFailedError
from vedr.inventory import Chain, Height

HeaderSource = Callable[[Height], VerifiedHeader]
"""chain.light.LightClient.verified_header."""


def chain_point(chain: Chain, inspected: Inspected, headers: HeaderSource | None) -> ChainPoint:
    """Compare with the chain where it answers; without an answer the manifest says that nobody compared.

    Raises:
        VerificationFailedError: another chain's data, or another application hash than the verified header has.
        DivergenceError: the nodes asked disagree with each other.
    """
    if inspected.chain_id != chain.chain_id:
        raise VerificationFailedError(
            f"the data is of chain {inspected.chain_id}, the site runs {chain.chain_id}",
            remedy="Check the node's home.",
        )
    height = inspected.state_height
    header = None if headers is None else _header(headers, Height(height + 1))
    if header is not None and header.app_hash != inspected.app_hash:
        raise VerificationFailedError(
            f"the application hash after height {height} is {inspected.app_hash}, "
            f"the verified header {height + 1} says {header.app_hash}",
            remedy="This node's state is not the chain's: recover the node, snapshot another one.",
        )
    return ChainPoint(
        chain_id=inspected.chain_id,
        height=height,
        app_hash=inspected.app_hash,
        header_height=header.height if header else None,
        header_hash=header.hash if header else None,
        store_height=inspected.store_height,
        state_height=inspected.state_height,
    )


def _header(headers: HeaderSource, height: Height) -> VerifiedHeader | None:
    """None when nobody can say: in a disaster a backup that is compared later is worth more than none."""
    try:
        return headers(height)
    except DivergenceError:
        raise
    except VedrError:
        return None


def require_settled(inspected: Inspected) -> None:
    """UnavailableError (try again) when the node was caught between a block and the state after it."""
    if not inspected.store_height == inspected.state_height == inspected.app_height:
        raise UnavailableError(
            f"captured between block {inspected.store_height}, state {inspected.state_height} "
            f"and application {inspected.app_height}",
            remedy="Capture again.",
        )
