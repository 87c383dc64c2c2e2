"""A site, opened: its file turned into stores, fleet, ledger, light client.  The one place where adapters are chosen.

Guarantees: nothing is contacted and no secret is read before it is needed; what was opened is closed with the `with`
block, also after an error.
Leaves out: every decision; callers get ports.
"""

import contextlib
import datetime as dt
import json
from collections.abc import Iterator
from functools import cached_property
from itertools import chain as joined
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from vedr.adapters.inspector import CommandInspector
from vedr.adapters.isolated_node import IsolatedNode
from vedr.adapters.lab_fleet import LabFleet, LocalFiles
from vedr.adapters.rpc import HttpChainRpc
from vedr.adapters.s3_registers import S3Registers
from vedr.adapters.s3_store import Credentials, S3Store
from vedr.adapters.secrets import resolve, symmetric_key
from vedr.backup.repository import Repository
from vedr.backup.sealing import Codec
from vedr.chain.inspection import Inspector
from vedr.chain.light import LightClient
from vedr.errors import InvalidInputError
from vedr.inventory import Node, Site, StoreConfig, load_site
from vedr.ports import FaultInjector, Files, Fleet, Scaling, ZoneHosts
from vedr.runbook.journal import Journal
from vedr.signature import Signer

if TYPE_CHECKING:
    from vedr.adapters.secrets_manager import AwsVault
    from vedr.continuity.delivery import Channel
    from vedr.custody.key_backup_store import KeyRepository
    from vedr.failover.fencing import Instances, NetworkDeny
    from vedr.failover.key_holders import KeyHolders
    from vedr.failover.traffic_steering import Steering

PROBE_DEADLINE_S: Final = 2.0  # for RPC calls that only ask whether a node is there


class OpenSite:
    """Everything that a site offers, opened when first used.  Use it with `with`."""

    def __init__(self, site: Site) -> None:
        self.site: Final = site
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    @cached_property
    def stores(self) -> dict[str, S3Store]:
        """The regions' buckets, by priority."""
        return {name: _open_store(name, self.site.regions[name].store) for name in self.site.regions_by_priority}

    @cached_property
    def registers(self) -> dict[str, S3Registers]:
        """The regions' registers, by priority."""
        return {name: _open_registers(name, self.site.regions[name].store) for name in self.site.regions_by_priority}

    @cached_property
    def signer(self) -> Signer:
        return Signer.from_pem(resolve(self.site.signing.key))

    @cached_property
    def repository(self) -> Repository:
        """The snapshots."""
        reference = self.site.encryption.key
        return Repository(
            stores=self.stores,
            signer=self.signer,
            trusted=self.site.signing.trusted,
            codec=Codec(None if reference is None else symmetric_key(reference)),
            retention=self.site.retention,
        )

    @cached_property
    def vault(self) -> "AwsVault":
        """The regions' secrets managers, where the escrow is."""
        from vedr.adapters.secrets_manager import AwsVault, Place  # noqa: PLC0415 (only keys pay)

        custody, regions = self.site.custody, self.site.regions
        places = tuple(
            Place(name, regions[name].cloud_region, custody.escrow.endpoints.get(name))
            for name in self.site.regions_by_priority
        )
        keys = (
            None
            if custody.escrow.credentials is None
            else _credentials(custody.escrow.credentials, "escrow credentials")
        )
        return AwsVault(places, keys)

    @cached_property
    def keys(self) -> "KeyRepository":
        """The key backups, with the escrow that opens them."""
        from vedr.custody.escrow import Escrow  # noqa: PLC0415 (Argon2 and HPKE: only keys pay)
        from vedr.custody.key_backup_store import KeyRepository  # noqa: PLC0415

        custody = self.site.custody
        recovery = custody.recovery_public_key
        return KeyRepository(
            stores=self.stores,
            signer=self.signer,
            trusted=self.site.signing.trusted,
            escrow=Escrow(self.vault, custody.escrow.prefix),
            recovery_public_key=None if recovery is None else bytes.fromhex(recovery),
            chain_id=self.site.chain.chain_id,
            retention=self.site.retention,
            clock=utc_now,
        )

    @cached_property
    def journal(self) -> Journal:
        """The ledger."""
        journal = Journal(
            self.stores, site=self.site.name, signer=self.signer, trusted=self.site.signing.trusted, clock=utc_now
        )
        self._closing.callback(journal.close)
        return journal

    @cached_property
    def key_holders(self) -> "KeyHolders":
        """Where key files sign, as the ledger tells."""
        from vedr.failover.key_holders import KeyHolders  # noqa: PLC0415 (promotions: only key files pay)

        return KeyHolders(self.site.key_files, self.journal)

    @cached_property
    def fleet(self) -> Fleet:
        """Stops and starts the site's units."""
        if self.site.fleet.kind != "lab":
            from vedr.adapters.fleet_site import open_fleet  # noqa: PLC0415 (SSH and YAML: the lab has neither)

            return open_fleet(self.site, self._closing)
        if self.site.fleet.token is None:
            raise InvalidInputError(
                "[fleet] has no token", remedy='Refer to the agents\' bearer token: token = "file:…".'
            )
        fleet = LabFleet(self.site.fleet.agents, resolve(self.site.fleet.token).decode())
        self._closing.callback(fleet.close)
        return fleet

    @cached_property
    def scaling(self) -> Scaling:
        """Workloads of a region that can be made more; RefusedError where there is no cluster."""
        from vedr.adapters.fleet_site import open_scaling  # noqa: PLC0415 (the same)

        return open_scaling(self.site, self._closing)

    @cached_property
    def zones(self) -> ZoneHosts:
        """A zone's hosts, on which nothing new may be placed; RefusedError where there is no cluster."""
        from vedr.adapters.fleet_site import open_zones  # noqa: PLC0415 (the same)

        return open_zones(self.site, self._closing)

    def instances(self, region: str) -> "Instances":
        """The region's machines, which a fence stops."""
        from vedr.adapters.fleet_site import open_instances  # noqa: PLC0415 (the same)

        return open_instances(self.site, region)

    def network(self, region: str) -> "NetworkDeny":
        """The firewall around the region's machines, which a fence closes."""
        from vedr.adapters.fleet_site import open_network  # noqa: PLC0415 (the same)

        return open_network(self.site, region, utc_now)

    @cached_property
    def channels(self) -> "tuple[Channel, ...]":
        """Whom incidents are told to, in the policy's order."""
        from vedr.adapters.notify_channels import open_channel  # noqa: PLC0415 (mail and TLS: only incidents pay)

        return tuple(open_channel(policy) for policy in self.site.notifications.channels)

    @cached_property
    def traffic(self) -> "Steering":
        """What users are sent to."""
        from vedr.adapters.traffic_site import open_steering  # noqa: PLC0415 (DNS and mesh: only failovers pay)

        return open_steering(self.site, utc_now, self._closing)

    @cached_property
    def files(self) -> Files:
        return LocalFiles()

    @cached_property
    def faults(self) -> FaultInjector:
        """Breaks the site on purpose; RefusedError where its file does not allow that."""
        from vedr.adapters.lab_faults import LabFaults  # noqa: PLC0415 (only drills)

        return LabFaults(self.site, self.files)

    @cached_property
    def isolated_node(self) -> IsolatedNode:
        """Boots restored data apart from everything."""
        return IsolatedNode(self.site.chain)

    @cached_property
    def inspector(self) -> Inspector:
        """Reads a node's databases at rest."""
        return CommandInspector(self.site.chain)

    def rpc(self, node: Node, *, deadline_s: float = PROBE_DEADLINE_S) -> HttpChainRpc:
        """A node's RPC."""
        rpc = HttpChainRpc(node.rpc, name=node.name, deadline_s=deadline_s)
        self._closing.callback(rpc.close)
        return rpc

    def light_client(self, *, near: str | None = None, besides: str | None = None) -> LightClient:
        """A light client over the site's full nodes.

        Args:
            near: The region whose nodes are asked first.
            besides: A node that is not asked, because it is the one in doubt.
        """
        sources = [self.rpc(node) for node in self.witnesses(near=near) if node.name != besides]
        return LightClient(self.site.chain, sources, self.trust_folder)

    def witnesses(self, *, near: str | None = None) -> tuple[Node, ...]:
        """Full and archive nodes, one region after the other in turn, so that the first two are independent."""
        order = sorted(self.site.regions_by_priority, key=lambda name: name != near)
        by_region = [self.site.nodes_in(name, "full", "archive") for name in order]
        return tuple(node for node in joined.from_iterable(zip_longest(*by_region)) if node is not None)

    @property
    def trust_folder(self) -> Path:
        """Where verified headers are remembered."""
        return self.site.work_dir / "trust"


@contextlib.contextmanager
def open_site(name_or_path: str | None = None) -> Iterator[OpenSite]:
    """The site of that name; see vedr.inventory.load_site for what it raises."""
    with OpenSite(load_site(name_or_path or None)) as opened:
        yield opened


def _open_store(region: str, config: StoreConfig) -> S3Store:
    if config.credentials is None:
        return S3Store(region, config)
    return S3Store(region, config, _credentials(config.credentials, f"store credentials of {region}"))


def _open_registers(region: str, config: StoreConfig) -> S3Registers:
    config = config.model_copy(update={"bucket": config.register_bucket or config.bucket})
    if config.credentials is None:
        return S3Registers(region, config)
    return S3Registers(region, config, _credentials(config.credentials, f"store credentials of {region}"))


def _credentials(reference: str, what: str) -> Credentials:
    try:
        stored = json.loads(resolve(reference))
        return Credentials(access_key=str(stored["access_key"]), secret_key=str(stored["secret_key"]))
    except (ValueError, KeyError, TypeError):
        raise InvalidInputError(
            f"{what} are not JSON {{access_key, secret_key}}", remedy=f"Correct {reference}."
        ) from None


def utc_now() -> dt.datetime:
    """The clock."""
    return dt.datetime.now(dt.UTC)
