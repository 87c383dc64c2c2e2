"""The daily checks: which there are, and what each of them is given."""

import dataclasses
import random
from collections.abc import Sequence
from secrets import token_bytes
from typing import Final

from vedr.readiness import backups, credentials, custody, network, rpo, schedule, sign_states, soundness, stores
from vedr.readiness.finding import Verdict
from vedr.readiness.ports import Ports
from vedr.readiness.validation import Check

TOKEN_BYTES: Final = 16

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
    Check(
        "rpo",
        "the newest verified copy of every component is younger than its RPO",
        lambda at: rpo.recovery_points(at.site, at.opened.repository, at.opened.keys, at.policy, at.clock()),
    ),
    Check(
        "key-backups",
        "every key that is in a file is backed up, whole everywhere, and opens",
        lambda at: custody.key_backups(at.site, at.opened.keys, at.policy, at.clock()),
    ),
    Check(
        "hsm-replication",
        "every key in hardware signs a fresh challenge on all its tokens",
        lambda at: custody.hsm_replication(at.site, at.custody.replications()),
    ),
    Check(
        "share-custody",
        "the recovery key's shares are of the present key, and every custodian was heard of",
        lambda at: custody.share_custody(at.site, at.policy, at.clock()),
    ),
    Check(
        "sign-states",
        "every validator's sign state is in a majority of the regions, near the tip",
        lambda at: sign_states.sign_states(at.site, at.opened.rpc, at.opened.registers, at.policy),
    ),
    Check(
        "secrets-access",
        "every secret that the site file refers to can be read, every passphrase in every region",
        lambda at: credentials.secrets_access(
            at.site, at.custody, at.opened.keys.escrow, at.opened.repository.signer.public_hex, at.policy
        ),
    ),
    Check(
        "expiry",
        "no certificate, passphrase or key runs out soon",
        lambda at: credentials.expiry(at.site, at.network, at.custody, at.opened.keys, at.clock()),
    ),
    Check(
        "bucket-read-write",
        "every region's bucket takes, keeps, gives and removes; its registers swap",
        lambda at: stores.bucket_read_write(
            at.site, at.opened.stores, at.opened.registers, token_bytes(TOKEN_BYTES), at.clock()
        ),
    ),
    Check(
        "retention",
        "buckets are versioned and locked as the site asks; no rule takes what is needed, nothing stays long past it",
        lambda at: stores.retention(at.site, at.opened.repository, at.store, at.policy),
    ),
    Check(
        "schedule-adherence",
        "every scheduled job ran when it was last due, in every region",
        lambda at: schedule.schedule_adherence(at.site, at.opened.journal, at.policy, at.clock()),
    ),
    Check(
        "topology",
        "the fleet stands where it must, and no single loss halts the chain for good",
        lambda at: soundness.topology(at.opened, at.clock),
    ),
)


def with_boot(checks: Sequence[Check]) -> tuple[Check, ...]:
    """The same, with snapshots booted now in place of asking when they were."""

    def boot(at: Ports) -> Verdict:
        return backups.boot_now(at.opened.repository, at.site.regions_by_priority, at.store, at.policy)

    return tuple(
        dataclasses.replace(check, look=boot) if check.name == "boot-verification" else check for check in checks
    )
