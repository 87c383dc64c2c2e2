"""What the daily checks take for healthy: the `[checks]` table of a site file.

Ages and durations are seconds; heights are blocks.  The defaults are VirtEngine's where it sets a value, else about
twice the period of the job that is checked.
"""

from pathlib import Path
from typing import Final

from pydantic import Field, field_validator

from vedr.targets import HOUR_S, MINUTE_S, RPO_S, Frozen, Subject

DAY_S: Final = 24 * HOUR_S
SYSTEM_ROOTS: Final = "system"  # among certificate_roots: those of the machine that checks
_JOB_S: Final = 30 * MINUTE_S  # from due to done: a backup is younger than its period and this
LONG_S: Final = {"restore-dry-run": 30 * MINUTE_S, "boot-verification": 30 * MINUTE_S}
RPO_DEFAULTS_S: Final = {
    Subject.CHAIN_STATE: 4 * HOUR_S,  # VirtEngine's 0 is held by the running nodes; this is the stored copy's period
    Subject.VALIDATOR_KEYS: DAY_S,  # likewise: 0 is held by the replicas in hardware
    Subject.PROVIDER_KEYS: DAY_S,
    Subject.PROVIDER_STATE: 4 * HOUR_S,
    Subject.CONFIGURATION: RPO_S[Subject.CONFIGURATION] or HOUR_S,
}


class Checks(Frozen):
    """Thresholds and deadlines of the daily checks."""

    deadline_s: float = Field(default=120.0, gt=0, description="a check that takes longer could not run")
    deadlines_s: dict[str, float] = Field(
        default_factory=dict, description="by check; restore-dry-run and boot-verification have half an hour"
    )
    subject_deadline_s: float = Field(default=30.0, gt=0, description="for one node, region or key within a check")

    snapshot_warn_age_s: int = Field(default=8 * HOUR_S, gt=0)
    snapshot_max_age_s: int = Field(default=DAY_S, gt=0, description="of the newest chain state of each region")
    provider_max_age_s: int = Field(default=DAY_S, gt=0, description="of the newest state of each provider daemon")
    keys_max_age_s: int = Field(default=DAY_S + 2 * HOUR_S, gt=0, description="of the newest backup of each owner")
    read_sample_mib: int = Field(default=64, ge=1, description="read, opened and hashed of each region's copy")

    boot_max_age_s: int = Field(
        default=DAY_S + _JOB_S, gt=0, description="of the newest proof by booting, of each region's snapshots"
    )
    boot_max_snapshot_age_s: int = Field(default=DAY_S + 8 * HOUR_S, gt=0, description="of the snapshot proven")
    dry_run_max_s: int = Field(default=2 * HOUR_S, gt=0, description="of the restore dry run: RB-DR-006's target")

    tip_max_age_s: int = Field(default=30, gt=0, description="of a node's newest block: longer is a halted chain")
    warn_behind_blocks: int = Field(default=100, ge=1)
    max_behind_blocks: int = Field(default=1000, ge=1)
    min_power_online: float = Field(default=0.67, gt=0, le=1, description="of the voting power, in the newest commit")
    state_sync_min_regions: int = Field(default=2, ge=1)
    peers_min_regions: int = Field(default=2, ge=2)
    health_path: str = Field(default="/healthz", pattern=r"^/", description="of gateways and provider daemons")
    dns_names: tuple[str, ...] = Field(
        default=(), description="names in the zone that have to resolve; empty: api, rpc and rpc-<region>"
    )

    share_record: Path | None = Field(default=None, description="the record of the recovery key's shares")
    shares_max_age_s: int = Field(default=3 * 365 * DAY_S, gt=0, description="since the ceremony")
    shares_max_silence_s: int = Field(
        default=400 * DAY_S, gt=0, description="since each custodian last showed a share, once a year"
    )
    sign_state_warn_blocks: int = Field(default=10, ge=1, description="that shipped copies are behind the chain")
    sign_state_max_blocks: int = Field(default=100, ge=1)

    certificate_warn_days: int = Field(default=30, ge=1)
    certificate_min_days: int = Field(default=7, ge=0)
    certificate_names: bool = Field(default=True, description="a certificate has to be for the host that its URL names")
    certificate_roots: tuple[str, ...] = Field(
        default=(), description="authorities to be trusted: PEM files, or system; empty: whoever signed it"
    )
    passphrase_warn_days: int = Field(default=335, ge=1, description="age of the escrow's newest epoch")
    passphrase_max_days: int = Field(default=365, ge=1)

    rpo_s: dict[Subject, int] = Field(
        default_factory=dict, description="time since the newest verified copy, by component; default: its period"
    )
    grace_s: int = Field(default=_JOB_S, ge=0, description="from due to missed: a job needs time to start and end")
    retention_slack_days: int = Field(default=2, ge=0, description="that retention may be behind")

    @field_validator("certificate_roots")
    @classmethod
    def _roots_are_absolute(cls, roots: tuple[str, ...]) -> tuple[str, ...]:
        for root in roots:
            if root != SYSTEM_ROOTS and not Path(root).is_absolute():
                raise ValueError(f"{root!r} is neither an absolute path nor {SYSTEM_ROOTS!r}")
        return roots

    def rpo(self, subject: Subject) -> int:
        """How old the newest verified copy may be, its job's own time included."""
        return self.rpo_s.get(subject, RPO_DEFAULTS_S[subject]) + self.grace_s

    def deadline_of(self, check: str) -> float:
        """The site's own for this check, else what moves a node's whole data has longer."""
        return self.deadlines_s.get(check, LONG_S.get(check, self.deadline_s))
