"""What a drill may do to a site: the `[drills]` table of a site file.

A site that says nothing is never broken on purpose: its drills are the non-disruptive ones, which restore beside it and
rehearse a promotion without signing.
"""

from typing import Literal

from pydantic import Field

from vedr.targets import MINUTE_S, Frozen

Faults = Literal["none", "lab"]


class Drills(Frozen):
    """Whether faults may be injected, and how far a drill may go."""

    faults: Faults = Field(default="none", description="lab: units are killed through the lab's supervisors")
    may_halt: bool = Field(
        default=False,
        description="a region may be lost although the chain then stands still until its keys sign elsewhere",
    )
    settle_s: int = Field(
        default=10 * MINUTE_S, gt=0, description="how long a drill waits until what it broke is in sync again"
    )
