"""Cuts machines of EC2 off with security groups: vedr.failover.fencing.NetworkDeny.

Guarantees: `denied_since` is a moment only when every network interface of the machine has the quarantine group and no
other, and that group has no rule, asked of EC2 now; the moment was written after all that had become so.
Leaves out: connections that are open already.  EC2 keeps letting packets of a tracked connection through after its rule
is gone, so the deny alone is no fence: it is one together with two people who, later, saw the process stopped.
Link-local services (DNS, time, metadata) are no matter of security groups.  Lifting is done by hand; each interface
keeps its former groups in a tag.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

from botocore.exceptions import ClientError

from vedr.adapters.fence_aws import asking, code_of
from vedr.errors import ConflictError, NotFoundError, RefusedError
from vedr.ports import Clock

QUARANTINE: Final = "vedr-quarantine"
DENIED_TAG: Final = "vedr:denied-since"
FORMER_TAG: Final = "vedr:groups-before-deny"


class Ec2NetworkDeny:
    """The firewall around the machines of one region.

    Args:
        ec2: boto3's client of `ec2`.
        instances: The machine of each host.
        clock: For the moment from which nothing passes.
    """

    def __init__(self, ec2: Any, instances: Mapping[str, str], clock: Clock) -> None:
        self._ec2 = ec2
        self._instances = instances
        self._clock = clock

    def deny(self, host: str) -> None:
        """As the port says.

        Raises:
            NotFoundError: no machine is known for the host, or EC2 does not know it.
            RefusedError: the quarantine group has rules: somebody opened it.
        """
        if self.denied_since(host) is not None:
            return
        instance = self._instance(host)
        groups = {vpc: self._quarantine(vpc) for vpc in {face["VpcId"] for face in self._interfaces(host)}}
        for face in self._interfaces(host):
            self._isolate(host, face, groups[face["VpcId"]])
        if not self._is_denied(host):
            raise ConflictError(
                f"host {host}: its interfaces changed while they were denied",
                remedy="See who else acts on it; deny again.",
            )
        stamp = self._clock().astimezone(dt.UTC).isoformat()
        with asking(f"host {host}: tag instance {instance}"):
            self._ec2.create_tags(Resources=[instance], Tags=[{"Key": DENIED_TAG, "Value": stamp}])

    def denied_since(self, host: str) -> dt.datetime | None:
        if not self._is_denied(host):
            return None
        stamp = _tags(self._described(host)).get(DENIED_TAG)
        try:
            return None if stamp is None else dt.datetime.fromisoformat(stamp).astimezone(dt.UTC)
        except ValueError:
            return None

    def _is_denied(self, host: str) -> bool:
        faces = self._interfaces(host)
        closed = {vpc: self._empty_group(vpc) for vpc in {face["VpcId"] for face in faces}}
        return bool(faces) and all([g["GroupId"] for g in face["Groups"]] == [closed[face["VpcId"]]] for face in faces)

    def _isolate(self, host: str, face: Mapping[str, Any], quarantine: str) -> None:
        former = [group["GroupId"] for group in face["Groups"]]
        if former == [quarantine]:
            return
        name = face["NetworkInterfaceId"]
        with asking(f"host {host}: deny interface {name}"):
            if former_tag := " ".join(group for group in former if group != quarantine):
                self._ec2.create_tags(Resources=[name], Tags=[{"Key": FORMER_TAG, "Value": former_tag}])
            self._ec2.modify_network_interface_attribute(NetworkInterfaceId=name, Groups=[quarantine])

    def _quarantine(self, vpc: str) -> str:
        """The network's group without rules; made when there is none."""
        if self._group(vpc) is None:
            with asking(f"network {vpc}: make group {QUARANTINE}"):
                try:
                    made = self._ec2.create_security_group(
                        GroupName=QUARANTINE, Description="vedr: lets nothing in or out", VpcId=vpc
                    )["GroupId"]
                except ClientError as error:
                    if code_of(error) != "InvalidGroup.Duplicate":
                        raise
                else:  # EC2 gives every new group a rule that lets all out
                    rules = self._rules(made)
                    if rules["IpPermissionsEgress"]:
                        self._ec2.revoke_security_group_egress(GroupId=made, IpPermissions=rules["IpPermissionsEgress"])
        group = self._empty_group(vpc)
        if group is None:
            raise RefusedError(
                f"network {vpc}: group {QUARANTINE} has rules, so it lets something through",
                remedy="Remove all its rules, and find out who added them.",
            )
        return group

    def _empty_group(self, vpc: str) -> str | None:
        group = self._group(vpc)
        if group is None or group["IpPermissions"] or group["IpPermissionsEgress"]:
            return None
        return str(group["GroupId"])

    def _group(self, vpc: str) -> Mapping[str, Any] | None:
        wanted = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "group-name", "Values": [QUARANTINE]}]
        with asking(f"network {vpc}: look for group {QUARANTINE}"):
            found: Sequence[Mapping[str, Any]] = self._ec2.describe_security_groups(Filters=wanted)["SecurityGroups"]
        return found[0] if found else None

    def _rules(self, group: str) -> Mapping[str, Any]:
        described: Mapping[str, Any] = self._ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
        return described

    def _interfaces(self, host: str) -> Sequence[Mapping[str, Any]]:
        instance = self._described(host)["InstanceId"]
        with asking(f"host {host}: its interfaces"):
            pages = self._ec2.get_paginator("describe_network_interfaces").paginate(
                Filters=[{"Name": "attachment.instance-id", "Values": [instance]}]
            )
            return [face for page in pages for face in page["NetworkInterfaces"]]

    def _described(self, host: str) -> Mapping[str, Any]:
        instance = self._instance(host)
        with asking(f"host {host}: describe instance {instance}"):
            answer = self._ec2.describe_instances(InstanceIds=[instance])
        found: list[Mapping[str, Any]] = [one for group in answer["Reservations"] for one in group["Instances"]]
        if len(found) != 1:
            raise NotFoundError(f"host {host}: EC2 knows {len(found)} instances {instance}", remedy="Check the region.")
        return found[0]

    def _instance(self, host: str) -> str:
        if host not in self._instances:
            raise NotFoundError(f"no instance is known for host {host}", remedy="Add it to [fleet.instances].")
        return self._instances[host]


def _tags(thing: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in thing.get("Tags", ())}
