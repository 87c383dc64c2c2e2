"""What must never happen, and who notices: one key, one height, round and type, two messages.

Everything that leaves a signer is told here at that moment, whether or not anybody receives it: a vote that is signed
behind a partition comes out when the partition heals.
"""

from dataclasses import dataclass, field

from vedr.chain.sign_state import Hrs


@dataclass(frozen=True, slots=True)
class Release:
    """One signature that left a signer."""

    host: str
    hrs: Hrs
    block: int
    at_s: int


@dataclass(slots=True)
class Oracle:
    """All releases of a schedule; `broken` is the first that should not have been."""

    released: dict[Hrs, Release] = field(default_factory=dict)
    broken: str = ""
    hosts: set[str] = field(default_factory=set)

    def release(self, host: str, hrs: Hrs, block: int, at_s: int, *, promised: Hrs = (0, 0, 0)) -> None:
        """A signature leaves `host`, which had promised to sign nothing up to `promised`."""
        self.hosts.add(host)
        before = self.released.setdefault(hrs, Release(host, hrs, block, at_s))
        if self.broken:
            return
        name = "/".join(map(str, hrs))
        if before.block != block:
            self.broken = (
                f"{name} signed twice: block {before.block} by {before.host} at {before.at_s} s, "
                f"block {block} by {host} at {at_s} s"
            )
        elif hrs < promised:
            self.broken = f"{name} signed by {host} at {at_s} s, which had promised to sign nothing below {promised}"
