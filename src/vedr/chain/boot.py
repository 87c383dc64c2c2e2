"""The proof that restored data is the chain's state: a node started from it says so, and the validators confirm it.

Guarantees: a `BootProof` exists only when a node, started apart from everything on exactly this data, reports the block
hash and application hash that light-verified headers name for its height.  A boot that could not run is a failure.
Leaves out: how the node is run (`adapters/isolated_node.py`).

The rule: state at height H is right when header(H).hash is the block's hash and header(H + 1).app_hash is the
application's hash after H, both headers being verified.  A node that starts believes the root that its database stores;
where the site can recompute it from every key and value, that has to agree too, and the proof says whether it was done.
"""

from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Final, Protocol

from vedr.chain.inspection import Inspected
from vedr.chain.light import VerifiedHeader
from vedr.errors import RefusedError, VerificationFailedError
from vedr.inventory import Height

_SEAL: Final = object()


@dataclass(frozen=True, slots=True)
class BootedState:
    """What a node started on the data said of itself; hashes are upper-case hexadecimal.

    `took_s` is from its start to its answer; `stopped_cleanly` is false when it had to be killed.
    """

    chain_id: str
    height: Height
    app_hash: str
    block_hash: str
    took_s: float
    stopped_cleanly: bool


class HeaderVerifier(Protocol):
    """`light.LightClient`, as far as a proof needs it."""

    def verified_header(self, height: Height) -> VerifiedHeader:
        """The header, or VerificationFailedError."""


@dataclass(frozen=True, slots=True)
class BootProof:
    """The data is the chain's state at `height`; only `prove` can make one."""

    chain_id: str
    height: Height
    app_hash: str
    block_hash: str
    took_s: float
    state_read: bool
    seal: InitVar[object] = None

    @property
    def facts(self) -> Mapping[str, str]:
        """What a verification record keeps."""
        return {
            "chain_id": self.chain_id,
            "height": str(self.height),
            "app_hash": self.app_hash,
            "block_hash": self.block_hash,
            "boot_took_s": f"{self.took_s:.3f}",
            "state_read": "every key and value" if self.state_read else "the stored root",
        }

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise RefusedError("only a boot proves restored data", remedy="Call vedr.chain.boot.prove.")


def prove(
    data_dir: Path,
    light: HeaderVerifier,
    boot: Callable[[Path], BootedState],
    *,
    read_state: Callable[[Path], Inspected] | None = None,
) -> BootProof:
    """Boot the data in place and compare it with verified headers.

    Args:
        data_dir: A node's data folder that no process uses; the boot writes into it as a node does.
        light: Verifies headers H and H + 1; it waits for H + 1 when H is the chain's tip.
        boot: Starts an isolated node on the folder and stops it again.
        read_state: A deep inspection, done before the boot; None where the site has no program for it.

    Raises:
        VerificationFailedError: the node did not come up, or says something else than the chain.
    """
    read = read_state(data_dir) if read_state else None
    booted = boot(data_dir)
    at, after = light.verified_header(booted.height), light.verified_header(Height(booted.height + 1))
    claims: list[tuple[str, str | None, str]] = [
        ("chain id", booted.chain_id, at.chain_id),
        (f"block hash at height {booted.height}", booted.block_hash, at.hash),
        (f"application hash after height {booted.height}", booted.app_hash, after.app_hash),
    ]
    if read is not None:
        expected_root = light.verified_header(Height(read.app_height + 1)).app_hash
        claims.append((f"hash of all keys after height {read.app_height}", read.app_hash_recomputed, expected_root))
    for what, observed, expected in claims:
        if observed != expected:
            raise VerificationFailedError(
                f"{data_dir}: {what}: the data has {observed}, the verified chain has {expected}",
                remedy="Do not use this data; restore the next older verified snapshot.",
            )
    return BootProof(
        booted.chain_id, booted.height, booted.app_hash, booted.block_hash, booted.took_s, read is not None, seal=_SEAL
    )
