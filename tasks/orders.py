"""What is ordered: the parameters of every flow, which are also the run form in the UI and the options of `vedr run`.

Guarantees: the form refuses what can be refused without looking at the site; `vedr_choices` fields become lists of what
the site has (tasks/forms.py).  Leaves out: what only preflight can tell, such as whether the node is really down.
"""

from typing import Annotated

from pydantic import Field

from vedr.failover.node_failure import WayChoice
from vedr.policies.names import NodeName, RegionName
from vedr.runbook.order import Order

OneLine = Annotated[str, Field(max_length=200, pattern=r"^[^\r\n]*$")]


class RegionJob(Order):
    """A scheduled job of one region."""

    region: RegionName = Field(
        title="Region", description="The region whose worker does it.", json_schema_extra={"vedr_choices": "regions"}
    )
    even_if_fresh: bool = Field(
        default=False,
        title="Even if the last one is fresh",
        description="A run ends at once when the last one is younger than half the period.  Tick to run anyway.",
    )


class SnapshotProof(RegionJob):
    """The daily proof of a region's newest snapshot."""

    snapshot: str = Field(
        default="",
        title="Snapshot",
        description="Id of the snapshot to prove.  Empty: the newest of the region.",
        pattern=r"^[A-Za-z0-9._-]*$",
    )


class SingleNodeFailure(Order):
    """RB-DR-001: one node crashed, lost its disk, or does not answer."""

    node: NodeName = Field(
        title="Node", description="The node that failed.", json_schema_extra={"vedr_choices": "nodes"}
    )
    way: WayChoice = Field(
        default="choose for me",
        title="Way back",
        description="Leave the choice to vedr: a restart where the data opens, else the fastest by predicted time.",
    )
    reason: OneLine = Field(
        default="", title="What was seen", description="One line for the record: the alert, or what you saw."
    )


class BackupRestore(Order):
    """RB-DR-006: bring a node's chain state back from a snapshot."""

    node: NodeName = Field(
        title="Node", description="The node whose data is replaced.", json_schema_extra={"vedr_choices": "nodes"}
    )
    snapshot: str = Field(
        default="",
        title="Snapshot",
        description="Id of the snapshot (`vedr snapshot list`).  Empty: the newest that proves itself.",
        pattern=r"^[A-Za-z0-9._-]*$",
    )
    max_height: int = Field(
        default=0,
        ge=0,
        title="Not above height",
        description="Take the newest snapshot at or below this height.  0: no limit.",
    )
    reason: OneLine = Field(
        default="", title="Why", description="One line for the record: what was lost, and how it was noticed."
    )


class DailyValidation(Order):
    """The daily checks of the whole site."""

    checks: str = Field(
        default="",
        title="Only these checks",
        description="Names with spaces between them (`vedr check --list`).  Empty: all of them.",
        pattern=r"^[a-z -]*$",
    )
    boot: bool = Field(
        default=False,
        title="Boot snapshots now",
        description="Boot the newest snapshot of each region now, in place of asking when that was done last.",
    )
