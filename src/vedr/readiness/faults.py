"""What breaks the subject of each daily check, and what the check then says: data for a page and for a test.

docs/checks.md shows it as a table (vedr.readiness.pages); tests/lab/test_checks.py does each fault to the running lab,
looks, takes it back and looks again.

Guarantees: every check has a fault (a test compares with the registry).
Leaves out: doing it (tests/lab/breaking.py).
"""

from dataclasses import dataclass
from typing import Final, Literal

from vedr.readiness.finding import Status

Wave = Literal["together", "cut"]
"""Which faults are there at once: `together` those that spare each other's subjects, `cut` the loss of two regions."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What one check says of a fault.

    `names`: a part of what it observed; `remedy`: a part of what to do.
    """

    check: str
    result: Status
    names: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault on the lab, by name, and the checks that find it."""

    name: str
    done: str
    shown: tuple[Shown, ...]
    wave: Wave = "together"


FAULTS: Final[tuple[Fault, ...]] = (
    Fault(
        "flipped-bit",
        "one bit of a stored object of us-east's configuration flipped on the disk of another region's server",
        (Shown("backup-integrity", "failed", "us-east/config in", "vedr snapshot heal --repair"),),
    ),
    Fault(
        "old-chain-state",
        "every chain state of ap-south lost in all regions, but for one of two days ago",
        (
            Shown("backup-freshness", "failed", "ap-south: 2.0 d old", "vedr run chain-snapshot --region ap-south"),
            Shown("rpo", "failed", "chain-state ap-south: 2.0 d old", "vedr run chain-snapshot --region ap-south"),
        ),
    ),
    Fault(
        "lost-in-a-majority",
        "an object of provider-ap-south-0's newest state lost in two of three regions",
        (Shown("provider-state-backups", "failed", "provider-ap-south-0: no snapshot", "vedr snapshot heal --repair"),),
    ),
    Fault(
        "lost-object",
        "an object of the newest chain state lost in the region that the dry run restores from today",
        (Shown("restore-dry-run", "failed", "no region has a good copy", "vedr snapshot list"),),
    ),
    Fault(
        "no-proof",
        "the records of us-east's proofs by booting lost in all regions",
        (Shown("boot-verification", "failed", "us-east: no snapshot is proven", "vedr run snapshot-verify"),),
    ),
    Fault(
        "killed-node",
        "fullnode-us-east-2 killed",
        (Shown("node-health", "failed", "fullnode-us-east-2", "vedr run RB-DR-001 --node"),),
    ),
    Fault(
        "frozen-full-nodes",
        "all full nodes of eu-west and ap-south frozen: they are there, and answer nothing",
        (
            Shown("state-sync-endpoints", "could not run", "fullnode-eu-west-0", "RB-DR-001"),
            Shown("topology", "failed", "eu-west: 0 of 2 full nodes", "an HSM replica elsewhere"),
        ),
    ),
    Fault(
        "cut-regions",
        "eu-west and ap-south cut off the network",
        (Shown("cross-region-connectivity", "failed", "eu-west: no peer in", "Look at the network between"),),
        wave="cut",
    ),
    Fault(
        "stopped-gateway",
        "gateway-us-east-1 stopped",
        (Shown("service-health", "failed", "gateway-us-east-1", "Look at its unit and log"),),
    ),
    Fault(
        "strange-address",
        "the name api points to a stranger's address, by an update of the zone",
        (Shown("dns-health", "failed", "api: points to 192.0.2.1", "find out who changed the zone"),),
    ),
    Fault(
        "lost-envelope",
        "the sealed backup of provider-eu-west-0's key lost in one region",
        (Shown("key-backups", "failed", "provider-eu-west-0 (provider)", "vedr run key-backup --region eu-west"),),
    ),
    Fault(
        "emptied-token",
        "the keys gone from ap-south's token, which still answers",
        (Shown("hsm-replication", "failed", "in ap-south: no private key", "vedr hsm inventory"),),
    ),
    Fault(
        "strange-record",
        "a signed record of shares of another recovery key in the place of the site's",
        (Shown("share-custody", "failed", "stands for another key", "the record of the present ceremony"),),
    ),
    Fault(
        "lost-sign-state",
        "the shipper of validator-ap-south-0 stopped, and what it shipped lost in two of three regions",
        (
            Shown(
                "sign-states",
                "failed",
                "validator-ap-south-0: shipped copies in no majority of the regions",
                "Start the shipper on its host",
            ),
        ),
    ),
    Fault(
        "open-secret",
        "the key of the zone's updates readable by everybody",
        (Shown("secrets-access", "failed", "dns.key", "chmod 600"),),
    ),
    Fault(
        "expired-certificate",
        "the status page shows a certificate that ran out yesterday",
        (Shown("expiry", "failed", "expired 24.", "Renew the certificate of"),),
    ),
    Fault(
        "missed-validation",
        "the site is two days old by its ledger, and its daily validation never ran",
        (Shown("schedule-adherence", "failed", "daily-validation: missed", "vedr run daily-validation"),),
    ),
    Fault(
        "unwanted-lock",
        "ap-south's bucket holds everything for a day, which the site does not ask for",
        (Shown("bucket-read-write", "failed", "ap-south: an object could not be removed", "default retention"),),
    ),
    Fault(
        "suspended-versioning",
        "versioning of eu-west's bucket suspended",
        (Shown("retention", "failed", "bucket of eu-west: not versioned", "Set versioning"),),
    ),
)


def rows() -> list[tuple[str, str, Status, str, str]]:
    """The table, by check: check, fault, result, what it names, what to do."""
    return sorted((one.check, fault.done, one.result, one.names, one.remedy) for fault in FAULTS for one in fault.shown)
