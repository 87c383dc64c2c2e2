"""Ways back for a node, chosen by predicted time, and waiting until it has caught up.

Guarantees: the prediction is pure and states what it assumed; waiting ends, by success, stall or deadline.
Leaves out: doing it (`state_sync`, backup's restore; block sync is what a started node does by itself).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from vedr.chain.rpc import ChainRpc, HeaderSource, Status
from vedr.errors import DeadlineError, UnavailableError, VerificationFailedError
from vedr.inventory import Height

Method = Literal["block-sync", "state-sync", "snapshot"]

STATE_SYNC_SERVERS: Final = 2  # config/config.go: statesync.rpc_servers needs two
DISCOVERY_S: Final = 15.0  # statesync.discovery_time, CometBFT's default
START_S: Final = 3.0  # a node's start and handshake; seen 0.5 to 2 s on the lab
NEAR_TIP_BLOCKS: Final = 2
_POLL_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Measured:
    """Measured rates.  The chain makes `chain_blocks_per_s` while a node applies `apply_blocks_per_s`."""

    apply_blocks_per_s: float
    chain_blocks_per_s: float
    state_sync_bytes_per_s: float
    restore_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Situation:
    """Where the node and its helpers stand; None where there is no such thing.

    `earliest_served` is the lowest block that peers still have; sizes are bytes as transferred.
    """

    local_height: Height
    tip: Height
    earliest_served: Height
    chain_moves: bool
    state_sync_servers: int
    state_sync_height: Height | None
    state_sync_bytes: int
    snapshot_height: Height | None
    snapshot_bytes: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """A way and its time; `took_s` is None when it can't be gone, and `reason` says why, or what was assumed."""

    method: Method
    took_s: float | None
    reason: str


def predict(situation: Situation, measured: Measured) -> tuple[Prediction, ...]:
    """All ways, the quickest first, those that can't be gone last."""
    ways = (_block_sync(situation, measured), _state_sync(situation, measured), _snapshot(situation, measured))
    return tuple(sorted(ways, key=lambda way: (way.took_s is None, way.took_s or 0.0)))


def choose(situation: Situation, measured: Measured) -> Prediction:
    """The quickest way.

    Raises:
        VerificationFailedError: there is none; every reason is given.
    """
    ways = predict(situation, measured)
    if ways[0].took_s is None:
        raise VerificationFailedError(
            "no way back for the node: " + "; ".join(f"{way.method}: {way.reason}" for way in ways),
            remedy="Take a snapshot from another region, or bring back a node that keeps all history.",
        )
    return ways[0]


def _block_sync(situation: Situation, measured: Measured) -> Prediction:
    if situation.local_height + 1 < situation.earliest_served:
        reason = f"blocks {situation.local_height + 1} to {situation.earliest_served - 1} are kept by no peer"
        return Prediction("block-sync", None, reason)
    return _with_tail(
        "block-sync", 0.0, situation.local_height, situation=situation, measured=measured, what="from its own data"
    )


def _state_sync(situation: Situation, measured: Measured) -> Prediction:
    if not situation.chain_moves:
        return Prediction("state-sync", None, "the chain is halted: it needs two headers above the snapshot")
    if situation.state_sync_servers < STATE_SYNC_SERVERS:
        reason = f"{situation.state_sync_servers} RPC servers, {STATE_SYNC_SERVERS} are needed"
        return Prediction("state-sync", None, reason)
    if situation.state_sync_height is None:
        return Prediction("state-sync", None, "no peer offers a snapshot")
    transfer_s = DISCOVERY_S + situation.state_sync_bytes / measured.state_sync_bytes_per_s
    what = f"{situation.state_sync_bytes} bytes at {measured.state_sync_bytes_per_s:.0f}/s"
    return _with_tail(
        "state-sync", transfer_s, situation.state_sync_height, situation=situation, measured=measured, what=what
    )


def _snapshot(situation: Situation, measured: Measured) -> Prediction:
    if situation.snapshot_height is None:
        return Prediction("snapshot", None, "the store has no verified snapshot")
    if situation.snapshot_height + 1 < situation.earliest_served:
        return Prediction("snapshot", None, f"no peer keeps the blocks after {situation.snapshot_height}")
    transfer_s = situation.snapshot_bytes / measured.restore_bytes_per_s
    what = f"{situation.snapshot_bytes} bytes at {measured.restore_bytes_per_s:.0f}/s"
    return _with_tail(
        "snapshot", transfer_s, situation.snapshot_height, situation=situation, measured=measured, what=what
    )


def _with_tail(
    method: Method, before_s: float, height: Height, *, situation: Situation, measured: Measured, what: str
) -> Prediction:
    """Add the blocks from `height` on: the tip moves away while they are applied, and while the transfer ran."""
    chain_rate = measured.chain_blocks_per_s if situation.chain_moves else 0.0
    gain = measured.apply_blocks_per_s - chain_rate
    blocks = situation.tip - height + before_s * chain_rate
    if blocks > 0 and gain <= 0:
        return Prediction(
            method, None, f"it applies {measured.apply_blocks_per_s:g} blocks/s, no faster than the chain"
        )
    tail_s = blocks / gain if blocks > 0 else 0.0
    reason = f"{what}, then {max(blocks, 0):.0f} blocks at {measured.apply_blocks_per_s:g}/s"
    return Prediction(method, START_S + before_s + tail_s, reason)


@dataclass(frozen=True, slots=True)
class CatchUp:
    """How far a node is."""

    height: Height
    tip: Height
    catching_up: bool

    @property
    def done(self) -> bool:
        return not self.catching_up and self.height >= self.tip - NEAR_TIP_BLOCKS and self.height > 0


def wait_caught_up(
    node: ChainRpc,
    references: Sequence[HeaderSource],
    *,
    deadline_s: float,
    stall_s: float,
    progress: Callable[[CatchUp], None] = lambda _: None,
    activity: Callable[[], object] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> CatchUp:
    """Wait until the node is in sync and within NEAR_TIP_BLOCKS of the highest reference.

    Args:
        node: The node that comes back; it may not answer yet.
        references: Other nodes; at least one must answer for success.
        deadline_s: For the whole.
        stall_s: How long nothing may change: neither the height nor `activity`.
        progress: Called at each look.
        activity: Anything that changes while the node works without growing in height (bytes on its disk).
        sleep: Waits that many seconds.
        monotonic: Gives seconds that never go back.

    Raises:
        DeadlineError: it stalled, or time is over; the caller takes the next way back.
    """
    started = changed = monotonic()
    before: object = None
    while True:
        seen = _look(node, references)
        if seen is not None:
            progress(seen)
            if seen.done:
                return seen
        now, signs = monotonic(), (seen.height if seen else None, activity())
        if signs != before:
            before, changed = signs, now
        if now - started >= deadline_s or now - changed >= stall_s:
            what = f"not in sync after {now - started:.0f} s" if now - started >= deadline_s else "no progress"
            raise DeadlineError(
                f"{node.name}: {what}, for {now - changed:.0f} s at "
                + (f"height {seen.height}, the tip is {seen.tip}" if seen else "no answer, of it or of the references"),
                remedy="Look into the node's log; take the next way back (snapshot, state sync or block sync).",
            )
        sleep(_POLL_S)


def wait_for_height(
    source: HeaderSource,
    height: Height,
    *,
    deadline_s: float,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Height:
    """Wait until the node shows that height or more; the height that it shows.

    Raises:
        DeadlineError: it does not within the deadline: the chain stands still, or the node does.
    """
    started = monotonic()
    while True:
        seen = _status(source)
        if seen is not None and seen.latest_height >= height:
            return seen.latest_height
        if monotonic() - started >= deadline_s:
            at = f"stands at {seen.latest_height}" if seen else "does not answer"
            raise DeadlineError(
                f"{source.name} {at}, height {height} did not come within {deadline_s:g} s",
                remedy="See whether the chain makes blocks: vedr lab status, or the RPC's /status.",
            )
        sleep(_POLL_S)


def _look(node: ChainRpc, references: Sequence[HeaderSource]) -> CatchUp | None:
    """None while the node or all references don't answer."""
    own = _status(node)
    tips = [status.latest_height for status in map(_status, references) if status is not None]
    if own is None or not tips:
        return None
    return CatchUp(own.latest_height, max(tips), own.catching_up)


def _status(source: HeaderSource) -> Status | None:
    try:
        return source.status()
    except UnavailableError:
        return None
