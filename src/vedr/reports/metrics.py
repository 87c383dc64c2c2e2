"""The metrics of a site: every family that there is, and Prometheus' text format.

Guarantees: a sample belongs to a family of FAMILIES and has its labels; what was not measured has no line at all, and
what is known to be missing is 0, or infinitely old, so that an alert on it fires.
Leaves out: measuring (`metrics_chain`, `metrics_backups`, `metrics_ledger`), and what is too old to be shown
(`metrics_board`).

Format: prometheus.io/docs/instrumenting/exposition_formats, text 0.0.4.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from vedr.errors import InvalidInputError

NEVER: Final = 0.0  # a timestamp before every other: what never happened is as old as can be
_ESCAPED: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Sample(NamedTuple):
    """One line: `labels` are the values of the family's labels, in their order."""

    family: str
    labels: tuple[str, ...]
    value: float


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name, what it says, and by what it is told apart."""

    name: str
    says: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"

    def __call__(self, value: float, *labels: str) -> Sample:
        """A sample; InvalidInputError when the labels are not as many as the family has."""
        if len(labels) != len(self.labels):
            raise InvalidInputError(
                f"{self.name} has the labels {self.labels}, not {labels}", remedy="This is a fault of vedr: report it."
            )
        return Sample(self.name, labels, float(value))


# --- the collectors themselves

COLLECT_SUCCESS: Final = Family(
    "vedr_collect_success", "1 while the collector's metrics are fresh; at 0 they are absent.", ("collector",)
)
COLLECT_AGE: Final = Family(
    "vedr_collect_age_seconds", "Since the newest collection that succeeded began.", ("collector",)
)
COLLECT_MAX_AGE: Final = Family(
    "vedr_collect_max_age_seconds", "Older collections are not shown any more.", ("collector",)
)
COLLECT_TOOK: Final = Family(
    "vedr_collect_duration_seconds", "How long the newest collection that succeeded took.", ("collector",)
)
COLLECT_FAILURES: Final = Family(
    "vedr_collect_failures_total", "Collections that failed, since the exporter began.", ("collector",), "counter"
)

# --- nodes and heights

NODE_UP: Final = Family("vedr_node_up", "1 when the node's RPC answers for this chain.", ("node", "region", "role"))
NODE_HEIGHT: Final = Family("vedr_node_height", "The node's newest block.", ("node", "region"))
NODE_CATCHING_UP: Final = Family("vedr_node_catching_up", "1 while the node is behind and syncs.", ("node", "region"))
REGION_HEIGHT: Final = Family(
    "vedr_region_height", "The highest block of the region's nodes; absent when none answers.", ("region",)
)
HEIGHT_DIFFERENCE: Final = Family(
    "vedr_region_height_difference", "Blocks between the highest and the lowest region that answers."
)
CHAIN_HEIGHT: Final = Family("vedr_chain_height", "The highest block that any node shows.")
CHAIN_BLOCK_TIME: Final = Family(
    "vedr_chain_block_timestamp_seconds", "The newest block's own time; absent when no node answers."
)

# --- voting power

CHAIN_MOVING: Final = Family("vedr_chain_moving", "1 while the chain makes blocks, as two sources show it.")
POWER_TOTAL: Final = Family("vedr_voting_power", "Voting power of the active set.")
POWER_NEEDED: Final = Family("vedr_voting_power_needed", "The least voting power that makes blocks.")
POWER_ONLINE: Final = Family("vedr_voting_power_online", "Voting power that takes part.")
POWER_ONLINE_RATIO: Final = Family("vedr_voting_power_online_ratio", "Share of the voting power that takes part.")
QUORUM_MARGIN: Final = Family(
    "vedr_quorum_margin", "Voting power that may still be lost before the chain halts; below 0: what is missing."
)
REGION_POWER: Final = Family("vedr_region_voting_power", "Voting power that stands there.", ("region",))
REGION_POWER_ONLINE: Final = Family(
    "vedr_region_voting_power_online", "Voting power there that takes part.", ("region",)
)
REGION_POWER_RATIO: Final = Family("vedr_region_voting_power_ratio", "Its share of the whole set's.", ("region",))
REGION_HALTS: Final = Family("vedr_region_loss_halts", "1 when the chain would halt without the region.", ("region",))
REGION_NO_WAY_BACK: Final = Family(
    "vedr_region_loss_unrecoverable", "1 when no promotion could restore quorum without the region.", ("region",)
)
REGION_FULL_NODES: Final = Family("vedr_region_full_nodes", "Full and archive nodes of the region.", ("region",))
REGION_SERVING: Final = Family(
    "vedr_region_full_nodes_serving", "Of them, those that answer and are in sync.", ("region",)
)
TOPOLOGY_FINDINGS: Final = Family("vedr_topology_findings", "What vedr topology finds, by severity.", ("severity",))

# --- sign states

SIGN_STATE_REGIONS: Final = Family(
    "vedr_sign_state_regions", "Regions that show the validator's sign state.", ("validator",)
)
SIGN_STATE_MAJORITY: Final = Family(
    "vedr_sign_state_majority", "1 when a majority of the regions shows it.", ("validator",)
)
SIGN_STATE_HELD: Final = Family(
    "vedr_sign_state_held", "1 when a signer holds the validator's register.", ("validator",)
)
SIGN_STATE_EPOCH: Final = Family("vedr_sign_state_epoch", "The register's epoch.", ("validator",))
SIGN_STATE_LAG: Final = Family(
    "vedr_sign_state_lag_blocks", "How far the highest sign state in the regions is behind the tip.", ("validator",)
)

# --- backups, by the names that VirtEngine's alerts expect

DR_BACKUP_AGE: Final = Family(
    "dr_backup_age_hours", "Age of the region's newest whole chain state; +Inf: there is none.", ("region",)
)
DR_BACKUP_SIZE: Final = Family(
    "dr_backup_size_bytes", "What that chain state holds, before compression; 0: there is none.", ("region",)
)
DR_LAST_BACKUP: Final = Family(
    "dr_last_backup_timestamp", "When that chain state was taken; 0: there is none.", ("region",)
)
DR_PROVIDER_AGE: Final = Family(
    "dr_provider_backup_age_hours",
    "Age of the provider daemon's newest whole state; +Inf: there is none.",
    ("provider", "region"),
)

# --- backups

STORE_ANSWERS: Final = Family("vedr_store_answers", "1 when the region's store lists its snapshots.", ("region",))
COPY_TIME: Final = Family(
    "vedr_verified_copy_timestamp_seconds",
    "When the newest copy that proves itself was taken; 0: there is none.",
    ("component", "of", "region"),
)
COPY_MAX_AGE: Final = Family(
    "vedr_verified_copy_max_age_seconds", "The RPO and the time that the job may take.", ("component",)
)
SNAPSHOTS: Final = Family("vedr_snapshots", "Snapshots that the answering regions list.", ("region", "kind"))
UNDER_REPLICATED: Final = Family(
    "vedr_snapshots_under_replicated",
    "Snapshots that an answering region lacks, of those older than the grace period.",
    ("region", "kind"),
)
PROOF_TIME: Final = Family(
    "vedr_boot_proof_timestamp_seconds",
    "When a node was last booted from a snapshot of the region; 0: never.",
    ("region",),
)
ESCROW_EPOCH: Final = Family("vedr_escrow_epoch", "The newest epoch of the escrow's passphrase.", ("kind",))
ESCROW_EPOCH_TIME: Final = Family("vedr_escrow_epoch_timestamp_seconds", "When that passphrase was made.", ("kind",))

# --- the ledger

DR_TEST_FAILURES: Final = Family(
    "dr_test_failures",
    "Drills, proofs by booting and daily validations, by name and region, whose newest run did not complete.",
)
DR_RESTORE_DURATION: Final = Family(
    "dr_restore_duration_seconds",
    "From detection to verified service, of the newest RB-DR-006 that completed; absent when none has.",
)
INCIDENTS_OPEN: Final = Family("vedr_incidents_open", "Runs that nobody closed, exercises left out.", ("runbook",))
INCIDENT_DETECTED: Final = Family(
    "vedr_incident_detected_timestamp_seconds", "When an open incident was detected.", ("incident", "runbook")
)
RTO_TARGET: Final = Family("vedr_rto_target_seconds", "The runbook's target.", ("runbook",))
RTO_ACHIEVED: Final = Family(
    "vedr_rto_achieved_seconds", "What the newest completed run took, from detection.", ("runbook", "in")
)
RTO_AT: Final = Family("vedr_rto_achieved_timestamp_seconds", "When that run ended.", ("runbook", "in"))
JOB_TIME: Final = Family(
    "vedr_job_last_success_timestamp_seconds",
    "When the scheduled job last completed; 0: never in the runs that were read.",
    ("runbook", "region"),
)
CHECK_STATUS: Final = Family(
    "vedr_check_status", "1 at the status that the check had when a daily validation last made it.", ("check", "status")
)
CHECK_TIME: Final = Family("vedr_check_timestamp_seconds", "When that was found.", ("check",))
DEADLINES: Final = Family(
    "vedr_deadlines", "What is due after incidents and not done, by whether it is overdue.", ("state",)
)
LEDGER_UNVERIFIABLE: Final = Family(
    "vedr_ledger_unverifiable_runs", "Runs, of those that were read, whose chain does not hold."
)

FAMILIES: Final = tuple(value for value in list(globals().values()) if isinstance(value, Family))


def render(samples: Iterable[Sample]) -> str:
    """The text format; families in the order of FAMILIES, samples in the order in which they came."""
    by_family: dict[str, list[Sample]] = {}
    for sample in samples:
        by_family.setdefault(sample.family, []).append(sample)
    lines = []
    for family in FAMILIES:
        if family.name in by_family:
            lines += [f"# HELP {family.name} {family.says}", f"# TYPE {family.name} {family.kind}"]
            lines += [_line(family, sample) for sample in by_family[family.name]]
    return "".join(f"{line}\n" for line in lines)


def _line(family: Family, sample: Sample) -> str:
    pairs = zip(family.labels, sample.labels, strict=True)
    labels = ",".join(f'{name}="{value.translate(_ESCAPED)}"' for name, value in pairs)
    return f"{sample.family}{f'{{{labels}}}' if labels else ''} {_number(sample.value)}"


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value.is_integer() else repr(value)
