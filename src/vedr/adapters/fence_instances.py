"""Stops machines of EC2 so that they stay stopped: vedr.failover.fencing.Instances.

Guarantees: before a machine is stopped it leaves its Auto Scaling group, whose wanted size goes down with it, and its
alarms' recover, reboot and start actions are switched off; `state` is what EC2's control plane says of just this id.
Leaves out: schedules and rules that start machines from outside (EventBridge, Instance Scheduler), which no call lists
by machine: keep signers out of them.
"""

from typing import Any, Final, get_args

from botocore.exceptions import ClientError

from vedr.adapters.fence_aws import asking, code_of
from vedr.errors import UnavailableError
from vedr.failover.fencing import InstanceState

GONE_FROM_GROUP: Final = ("Detached", "Terminated")
REVIVING: Final = ("recover", "reboot", "start")
"""Actions `arn:…:ec2:recover` and the like."""


class Ec2Instances:
    """The machines of one region.

    Args:
        ec2, scaling, alarms: boto3's clients of `ec2`, `autoscaling` and `cloudwatch`.
    """

    def __init__(self, ec2: Any, scaling: Any, alarms: Any) -> None:
        self._ec2 = ec2
        self._scaling = scaling
        self._alarms = alarms

    def stop(self, instance: str) -> None:
        """As the port says.

        Raises:
            RefusedError: its group can't get smaller, or it is protected from stopping.
            NotFoundError: EC2 knows no such machine: that is no proof of anything.
        """
        if self.state(instance) == "terminated":
            return
        for group in self._groups(instance):
            with asking(f"instance {instance}: leave group {group}"):
                self._scaling.detach_instances(
                    InstanceIds=[instance], AutoScalingGroupName=group, ShouldDecrementDesiredCapacity=True
                )
        if alarms := self._reviving(instance):
            with asking(f"instance {instance}: switch off alarms {', '.join(alarms)}"):
                self._alarms.disable_alarm_actions(AlarmNames=alarms)
        with asking(f"instance {instance}: stop"):
            try:
                self._ec2.stop_instances(InstanceIds=[instance], Force=True)
            except ClientError as error:
                if code_of(error) != "IncorrectInstanceState" or self.state(instance) != "terminated":
                    raise

    def state(self, instance: str) -> InstanceState:
        with asking(f"instance {instance}: describe"):
            answer = self._ec2.describe_instances(InstanceIds=[instance])
        found = [one for group in answer["Reservations"] for one in group["Instances"] if one["InstanceId"] == instance]
        if len(found) != 1:
            raise UnavailableError(f"instance {instance}: EC2 told of {len(found)}", remedy="Ask again.")
        state = found[0]["State"]["Name"]
        if state == "shutting-down":
            return "stopping"
        for known in get_args(InstanceState):
            if state == known:
                told: InstanceState = known
                return told
        raise UnavailableError(f"instance {instance} is {state!r}, which is not known here", remedy="Look at it.")

    def restarts_itself(self, instance: str) -> bool:
        return bool(self._groups(instance) or self._reviving(instance))

    def _groups(self, instance: str) -> list[str]:
        with asking(f"instance {instance}: its Auto Scaling group"):
            answer = self._scaling.describe_auto_scaling_instances(InstanceIds=[instance])
        members = answer["AutoScalingInstances"]
        return [one["AutoScalingGroupName"] for one in members if one["LifecycleState"] not in GONE_FROM_GROUP]

    def _reviving(self, instance: str) -> list[str]:
        """Alarms on the machine that would bring it back."""
        names = []
        with asking(f"instance {instance}: its alarms"):
            for page in self._alarms.get_paginator("describe_alarms").paginate(AlarmTypes=["MetricAlarm"]):
                names += [alarm["AlarmName"] for alarm in page["MetricAlarms"] if _revives(alarm, instance)]
        return names


def _revives(alarm: dict[str, Any], instance: str) -> bool:
    actions = [*alarm.get("AlarmActions", ()), *alarm.get("OKActions", ()), *alarm.get("InsufficientDataActions", ())]
    reviving = any(
        f":ec2:{verb}" in action or f"InstanceId.{verb.capitalize()}" in action
        for action in actions
        for verb in REVIVING
    )
    metrics = [alarm, *(query.get("MetricStat", {}).get("Metric", {}) for query in alarm.get("Metrics", ()))]
    dimensions = [dimension for metric in metrics for dimension in metric.get("Dimensions", ())]
    is_its = any(one["Name"] == "InstanceId" and one["Value"] == instance for one in dimensions)
    return bool(alarm.get("ActionsEnabled")) and reviving and is_its
