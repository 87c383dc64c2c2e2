"""The scheduled snapshot of a node's chain state: capture, inspect, compare, store.

Guarantees: what is committed is one settled state of the chain (no block is left to replay), read from the captured
databases themselves.  Leaves out: choosing the node, and verification afterwards.
"""

from pathlib import Path
from typing import Final, Literal

from vedr.backup.capture import NodeCondition, capture, require_capturable
from vedr.backup.inspection import HeaderSource, chain_point, require_settled
from vedr.backup.layout import Source
from vedr.backup.manifest import Facts
from vedr.backup.repository import Repository
from vedr.backup.snapshot import NO_PROGRESS, Created, Progress, create
from vedr.chain.inspection import Inspector
from vedr.errors import UnavailableError
from vedr.inventory import Chain, Node
from vedr.ports import Fleet

SETTLE_ATTEMPTS: Final = 6  # between a block and its state lie some 5 % of the time: six in a row are 1 in 60 million


def snapshot_node(
    repository: Repository,
    chain: Chain,
    node: Node,
    home: Path,
    *,
    fleet: Fleet,
    condition: NodeCondition,
    inspector: Inspector,
    headers: HeaderSource | None,
    method: Literal["pause", "stop"] = "pause",
    rehash: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Created:
    """Take and commit a snapshot of a full node.

    Raises:
        RefusedError: the node validates, is not in sync, or does not run.
        VerificationFailedError: its state is not the chain's, or the height can't be read.
        UnavailableError: its host does not answer, too few regions took the snapshot, or it was never caught settled.
    """
    require_capturable(node, condition)
    unsettled: UnavailableError | None = None
    for _ in range(SETTLE_ATTEMPTS):
        with capture(node, home, fleet, method=method) as captured:
            inspected = inspector.inspect(home, captured.data)
            try:
                require_settled(inspected)
            except UnavailableError as error:
                unsettled = error
                continue
            facts = Facts(
                chain=chain_point(chain, inspected, headers),
                software=tuple(sorted(chain.software.items())),
                database_backend=inspected.database_backend,
                method=captured.method,
                pause_ms=captured.pause_ms,
            )
            source = Source(node.region, "state", node.name)
            return create(repository, source, captured.tree, facts, rehash=rehash, progress=progress)
    raise UnavailableError(
        f"{node.name}: {SETTLE_ATTEMPTS} captures all fell between a block and its state", remedy="Take another node."
    ) from unsettled
