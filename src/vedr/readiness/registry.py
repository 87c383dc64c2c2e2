"""The daily checks: which there are, and what each of them is given."""

import dataclasses
import random
from collections.abc import Sequence
from typing import Final

from vedr.readiness import backups, network
from vedr.readiness.finding import Verdict
from vedr.readiness.ports import Ports
from vedr.readiness.validation import Check

CHECKS: Final[tuple[Check, ...]] = (
    Check(
        "backup-integrity",
        "the newest snapshot of each region is signed, whole and readable in every region",
        lambda at: backups.backup_integrity(
            at.opened.repository, at.site.regions_by_priority, at.policy, random.SystemRandom()
        ),
    ),
    Check(
        "backup-freshness",
        "the newest chain-state snapshot of each region is young",
        lambda at: backups.backup_freshness(at.opened.repository, at.site.regions_by_priority, at.policy, at.clock()),
    ),
    Check(
        "provider-state-backups",
        "every provider daemon's state is backed up, whole and young",
        lambda at: backups.provider_state_backups(
            at.opened.repository,
            tuple(one for one in at.site.providers if not one.reserve),
            at.policy,
            at.clock(),
        ),
    ),
    Check(
        "restore-dry-run",
        "a snapshot restores from one region alone, in time, and reads as its manifest says",
        lambda at: backups.restore_dry_run(at.site, at.opened.repository, at.store, at.policy, at.clock()),
    ),
    Check(
        "boot-verification",
        "a node was booted from a recent snapshot of each region, within a day",
        lambda at: backups.boot_verification(at.opened.repository, at.site.regions_by_priority, at.policy, at.clock()),
    ),
    Check(
        "node-health",
        "every node is in sync near the tip, the chain moves, enough power signs",
        lambda at: network.node_health(at.site, at.opened.rpc, at.policy, at.clock()),
    ),
    Check(
        "cross-region-connectivity",
        "nodes have peers in the other regions",
        lambda at: network.cross_region_connectivity(at.site, at.opened.rpc, at.policy),
    ),
    Check(
        "state-sync-endpoints",
        "a full node in sync serves verified headers, in 2 of 3 regions or more",
        lambda at: network.state_sync_endpoints(at.site, at.opened.rpc, at.opened.light_client, at.policy),
    ),
    Check(
        "service-health",
        "every API gateway and provider daemon says that it is well",
        lambda at: network.service_health(at.site, at.network, at.policy),
    ),
    Check(
        "dns-health",
        "the names that users resolve point to gateways of the site",
        lambda at: network.dns_health(at.site, at.network, at.policy),
    ),
)


def with_boot(checks: Sequence[Check]) -> tuple[Check, ...]:
    """The same, with snapshots booted now in place of asking when they were."""

    def boot(at: Ports) -> Verdict:
        return backups.boot_now(at.opened.repository, at.site.regions_by_priority, at.store, at.policy)

    return tuple(
        dataclasses.replace(check, look=boot) if check.name == "boot-verification" else check for check in checks
    )
