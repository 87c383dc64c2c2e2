"""What the checks need of the world: the opened site, and probes of what is no part of it.

A check takes the few of these that it needs; `registry` hands them over.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vedr.backup.repository import Listed, Repository
from vedr.backup.verify import Verification
from vedr.chain.inspection import Inspected
from vedr.chain.light import VerifiedHeader
from vedr.chain.rpc import ChainRpc
from vedr.custody.escrow import Epoch
from vedr.custody.hsm_check import Replication
from vedr.custody.key_backup_store import KeyRepository
from vedr.custody.key_material import KeyKind
from vedr.failover.key_holders import KeyHolders
from vedr.inventory import Node, Site
from vedr.policies.checks import Checks
from vedr.ports import Clock, ObjectStore, Registers
from vedr.readiness.expirations import Expiration
from vedr.runbook.journal import Journal


class OpenedSite(Protocol):
    """A site's own parts, each opened when it is asked for; every one raises errors of `vedr.errors`."""

    @property
    def site(self) -> Site:
        """The site's file."""

    @property
    def stores(self) -> Mapping[str, ObjectStore]:
        """The regions' buckets."""

    @property
    def registers(self) -> Mapping[str, Registers]:
        """The regions' registers."""

    @property
    def repository(self) -> Repository:
        """The snapshots."""

    @property
    def keys(self) -> KeyRepository:
        """The key backups."""

    @property
    def journal(self) -> Journal:
        """The ledger."""

    @property
    def key_holders(self) -> KeyHolders:
        """Where key files sign, as the ledger tells."""

    def rpc(self, node: Node) -> ChainRpc:
        """A node's RPC."""

    def witnesses(self) -> tuple[Node, ...]:
        """Full and archive nodes, one region after the other in turn."""

    def light_client(self) -> "Headers":
        """Verified headers."""


class Headers(Protocol):
    """A light client."""

    def verified_tip(self) -> VerifiedHeader:
        """The newest header; VerificationFailedError when it did not verify or could not be checked."""


@dataclass(frozen=True, slots=True)
class NameAnswer:
    """A name's addresses, and for how long resolvers keep them."""

    addresses: tuple[str, ...]
    ttl_s: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a service shows; `refusal`: why a client would not take it from that host, dates apart, or empty."""

    starts: dt.datetime
    ends: dt.datetime
    refusal: str = ""


class NetworkProbes(Protocol):
    """Raises, all methods: UnavailableError (no answer in time)."""

    def resolve_name(self, name: str) -> NameAnswer:
        """Asked of the zone's own server; no addresses when there is no such name."""

    def certificate(self, url: str, *, roots: Sequence[str], named: bool) -> Certificate:
        """What an https URL shows: for its own host where `named`, signed by one of the roots where there are any."""

    def health(self, url: str) -> None:
        """VerificationFailedError unless the URL answers with a success."""


@dataclass(frozen=True, slots=True)
class BucketState:
    """How a bucket is set up; `lock_days` 0: no default retention.

    `expirations`: what its enabled lifecycle rules take away; None where the server knows no such rules.
    """

    versioned: bool
    lock_mode: str
    lock_days: int
    expirations: tuple[Expiration, ...] | None


class StoreProbes(Protocol):
    """What data paths can't tell, or is no call of a store."""

    def bucket_state(self, region: str) -> BucketState:
        """The region's bucket as its server says that it is set up."""

    def register_expirations(self, region: str) -> tuple[Expiration, ...] | None:
        """What lifecycle rules take from the region's bucket of registers, where that is another one; as in a state."""

    def boot(self, listed: Listed) -> Verification:
        """Restore a snapshot to scratch, boot it apart, compare with verified headers, store the record."""

    def inspect(self, data: Path) -> Inspected:
        """A restored data folder's databases, read at rest."""

    def scratch(self) -> AbstractContextManager[Path]:
        """A folder with room for a node's data, gone afterwards."""


class CustodyProbes(Protocol):
    """Secrets and tokens; no value ever leaves a probe."""

    def read_secret(self, reference: str) -> None:
        """Resolve it, and drop it."""

    def passphrase_made(self, kind: KeyKind, epoch: Epoch) -> dt.datetime:
        """When the escrow's secret of that epoch was made."""

    def replications(self) -> Iterable[Replication]:
        """Fresh challenge signatures of every key that has a reference."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything that checks are given."""

    opened: OpenedSite
    network: NetworkProbes
    store: StoreProbes
    custody: CustodyProbes
    clock: Clock

    @property
    def site(self) -> Site:
        return self.opened.site

    @property
    def policy(self) -> Checks:
        return self.site.checks
