"""What an operator decides about traffic: which names users resolve, what serves them, how it comes back.

Guarantees: stages only grow and end at 100; no backend is listed twice.
Leaves out: addresses and credentials of DNS updates, which are in `[dns]`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from vedr.policies.names import NodeName, RegionName, SecretRef
from vedr.targets import Frozen

Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""A name in the zone, without the zone."""
Authority = Annotated[str, StringConstraints(pattern=r"^(\[[0-9a-f:]+\]|[^\[\]:]+)(:\d{1,5})?$")]
"""A name server: `host`, `host:port` or `[IPv6]:port`."""
FULL_PCT = 100


class DynamicDns(Frozen):
    """Address records of the zone in `[dns]`, changed by dynamic updates (RFC 2136).

    Plain DNS has no weights: an endpoint above 0 has its addresses in the answer, one at 0 has not.
    """

    kind: Literal["rfc2136"]
    servers: tuple[Authority, ...] = Field(
        default=(), description="authoritative servers that are asked what users get; none: the one in [dns]"
    )
    addresses: dict[NodeName, tuple[str, ...]] = Field(
        default_factory=dict, description="of gateways whose url has a host name; the others' are in their url"
    )


class Route53(Frozen):
    """Weighted record sets of a hosted zone.  They exist already: only weights and TTLs are changed here."""

    kind: Literal["route53"]
    hosted_zone: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{2,32}$")]
    set_identifier: str = Field(default="{gateway}", description="`{gateway}` and `{name}` are filled in")
    servers: tuple[Authority, ...] = Field(
        default=(), description="authoritative servers that are asked; none: those that the hosted zone names"
    )
    endpoint: str | None = Field(default=None, description="None: Amazon's own")
    credentials: SecretRef | None = Field(
        default=None, description="JSON {access_key, secret_key}; None: the cloud's own chain"
    )
    insync_limit_s: float = Field(default=120, gt=0, description="Amazon says 60 s is usual")


class Istio(Frozen):
    """Route weights of a VirtualService, and the locality setting of its DestinationRule, in one cluster's mesh."""

    kind: Literal["istio"]
    region: RegionName = Field(description="in whose cluster; it is not asked while this region is lost")
    kubeconfig: SecretRef
    context: str
    namespace: Label = "virtengine"
    virtual_service: Label
    route: str = Field(default="", description="name of the http route; empty: the only one")
    by: Literal["gateway", "zone", "region"] = Field(default="region", description="what a destination stands for")
    host: str = Field(description="of a destination; `{gateway}`, `{zone}` or `{region}`, as `by` says, is filled in")
    subset: str = Field(default="", description="the same of its subset; empty: destinations have none")
    destination_rule: str = Field(default="", description="empty: no locality setting is kept")
    locality: Literal["failover", "distribute"] = "failover"

    @model_validator(mode="after")
    def _destinations_differ(self) -> Self:
        if "{" + self.by + "}" not in self.host + self.subset:
            raise ValueError(f"host or subset needs {{{self.by}}}, or all destinations by {self.by} would be one")
        return self


Backend = Annotated[DynamicDns | Route53 | Istio, Field(discriminator="kind")]


class Traffic(Frozen):
    """`[traffic]`: no backends means that vedr moves no users."""

    backends: tuple[Backend, ...] = ()
    global_names: tuple[Label, ...] = Field(default=("api", "rpc"), min_length=1)
    regional_name: str = Field(default="rpc-{region}", description="`{region}` is filled in; empty: there are none")
    home: Literal["workload", "primary"] = Field(
        default="workload",
        description="who serves global names in calm times: all regions by workload_pct, or the first by priority",
    )
    lost_share: Literal["target", "workload"] = Field(
        default="target", description="who gets what a lost region served: the target, or all by workload_pct"
    )
    ttl_s: int = Field(default=60, ge=1, le=86400, description="in calm times")
    failover_ttl_s: int = Field(default=60, ge=1, le=3600, description="from a failover until all is back")
    stages_pct: tuple[int, ...] = Field(default=(10, 50, FULL_PCT), min_length=1, description="of a failback")
    margin_s: float = Field(default=15, gt=0, le=600, description="beyond the TTL, for servers to agree")
    proof_age_s: float = Field(default=60, gt=0, le=3600, description="an older proof of a gateway's health is none")
    health_path: str = Field(default="/healthz", pattern=r"^/")

    @model_validator(mode="after")
    def _stages_lead_home(self) -> Self:
        if list(self.stages_pct) != sorted(set(self.stages_pct)) or self.stages_pct[0] < 1:
            raise ValueError("stages_pct: each stage has to be above the one before")
        if self.stages_pct[-1] != FULL_PCT:
            raise ValueError("stages_pct: the last stage has to be 100")
        return self

    @model_validator(mode="after")
    def _backends_differ(self) -> Self:
        if len(set(map(repr, self.backends))) != len(self.backends):
            raise ValueError("backends: the same one is listed twice")
        return self
