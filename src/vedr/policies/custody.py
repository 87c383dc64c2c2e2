"""How key backups are kept: sealed to whom, escrowed where, rotated how often."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from vedr.policies.names import HexKey, RegionName, SecretRef
from vedr.targets import Frozen


class Escrow(Frozen):
    """AWS Secrets Manager, which keeps the backup passphrases: one secret an epoch, replicated to every region.

    The secret of a kind and epoch is `<prefix>-<kind>/<epoch, four digits>`.
    """

    prefix: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9/_-]{2,200}[a-z0-9]$")] = (
        "virtengine/dr/backup-passphrase"
    )
    endpoints: dict[RegionName, str] = Field(
        default_factory=dict, description="by region; a region that is not named has the cloud's own endpoint"
    )
    credentials: SecretRef | None = Field(
        default=None, description="JSON {access_key, secret_key}; None: the cloud's own chain"
    )


class Custody(Frozen):
    """Key backups: to whom they are sealed, where providers keep keys, which keys are rotated more often."""

    recovery_public_key: HexKey | None = Field(
        default=None, description="X25519, raw 32 bytes in hex: the key that the custodians' shares recover"
    )
    escrow: Escrow = Escrow()
    provider_key_files: tuple[str, ...] = Field(
        default=("keys/*.pem", "keys/*.json"), min_length=1, description="patterns in a provider's home"
    )
    provider_passphrase: SecretRef | None = Field(
        default=None, description="opens the backups that provider daemons make themselves"
    )
    high_security: tuple[Literal["validator", "node", "provider"], ...] = Field(
        default=(), description="kinds of keys under the stricter rotation policy"
    )
    unit_log: str = Field(default="", description="where a unit's log is, `{unit}` filled in; empty: nowhere known")
