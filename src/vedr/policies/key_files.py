"""Validators that sign from a key file: who may be given that file, and how each of these hosts is fenced.

Guarantees: every host that ever holds the key is named here, or vedr does not move it; the host that is to sign next is
always fenced by its supervisor and its disk, whatever else is named for it.
Leaves out: keys in HSMs, whose standbys are `[[signers]]`; whether hosts and clouds answer, which the plan finds out.
"""

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from vedr.policies.names import NodeName
from vedr.targets import Frozen

FenceWay = Literal["process-and-disk", "instance", "network"]
"""Of `docs/signing-safety.md`: process ended and disk renamed, instance stopped, network denied and attested."""
DEFAULT_WAYS: Final[tuple[FenceWay, ...]] = ("process-and-disk",)
CLOUD_WAYS: Final = frozenset[FenceWay]({"instance", "network"})


class KeyFile(Frozen):
    """One validator's key file and all hosts that it may ever be on: the validator's own, and these."""

    validator: NodeName
    hosts: tuple[NodeName, ...] = Field(min_length=1, description="full nodes that may be given the key, by preference")
    fences: dict[NodeName, tuple[FenceWay, ...]] = Field(
        default_factory=dict,
        description="by host, the validator's own too: ways to fence it, the first that answers counts",
    )

    @property
    def every_host(self) -> tuple[NodeName, ...]:
        """Where the key is or may have been: the validator's own host first."""
        return (self.validator, *self.hosts)

    def ways(self, host: str) -> tuple[FenceWay, ...]:
        """How this host is fenced, in the order in which the ways are tried."""
        return self.fences.get(host, DEFAULT_WAYS)

    @model_validator(mode="after")
    def _hosts_are_named_once(self) -> Self:
        if len(set(self.every_host)) < len(self.every_host):
            raise ValueError(f"key file of {self.validator}: hosts name each full node once, and not the validator")
        if strays := sorted(set(self.fences) - set(self.every_host)):
            raise ValueError(
                f"key file of {self.validator}: fences of {', '.join(strays)}, which are none of its hosts"
            )
        if empty := sorted(host for host, ways in self.fences.items() if not ways or len(set(ways)) < len(ways)):
            raise ValueError(f"key file of {self.validator}: name one way or more, each once, for {', '.join(empty)}")
        return self

    def problems(self, roles: dict[str, str], instances: set[str], remote: set[str]) -> list[str]:
        """What does not fit the site's nodes (role by name), the hosts with an instance, the remote validators."""
        found = []
        if roles.get(self.validator) != "validator":
            found.append(f"key file of {self.validator!r}: no validator of this site")
        if self.validator in remote:
            found.append(f"key file of {self.validator}: it signs remotely, its standbys are [[signers]]: keep one")
        found += [
            f"key file of {self.validator} names the host {host!r}: no full node of this site"
            for host in self.hosts
            if roles.get(host) not in ("full", "archive")
        ]
        found += [
            f"{host} is fenced by its {way}, but [fleet.instances] names none for it"
            for host, ways in self.fences.items()
            for way in ways
            if way in CLOUD_WAYS and host not in instances
        ]
        return found
