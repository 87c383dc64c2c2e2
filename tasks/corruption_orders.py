"""What is ordered of RB-DR-004: its form and options."""

from pydantic import Field

from tasks.orders import OneLine
from vedr.failover.corruption import KindChoice
from vedr.policies.names import NodeName
from vedr.runbook.order import Order


class DataCorruption(Order):
    """RB-DR-004: a node's state, databases or configuration are damaged."""

    node: NodeName = Field(
        title="Node", description="The node whose data is damaged.", json_schema_extra={"vedr_choices": "nodes"}
    )
    kind: KindChoice = Field(
        default="choose for me",
        title="What is damaged",
        description="Leave the finding to vedr.  Named, it has to be among what is found; "
        "config also takes files that can be read but differ from their newest backup.",
    )
    reason: OneLine = Field(
        default="", title="What was seen", description="One line for the record: the alert, or what you saw."
    )
