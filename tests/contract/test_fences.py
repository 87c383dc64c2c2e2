"""The fences' adapters against moto's EC2, Auto Scaling and CloudWatch, and against real SoftHSM tokens.

What moto can't show: how long a machine takes to stop, and what becomes of connections that are open.
"""

import datetime as dt
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from vedr.adapters.fence_aws import open_client
from vedr.adapters.fence_hsm import TokenKeys
from vedr.adapters.fence_instances import Ec2Instances
from vedr.adapters.fence_network import DENIED_TAG, FORMER_TAG, QUARANTINE, Ec2NetworkDeny
from vedr.adapters.pkcs11_token_process import TokenProcess
from vedr.adapters.s3_store import Credentials
from vedr.custody.hsm_keys import KeyKind
from vedr.errors import NotFoundError, RefusedError, UnavailableError, VedrError
from vedr.failover.fencing import HsmKeyDisabled, InstanceStopped

pytestmark = pytest.mark.server

KEYS = Credentials("testing", "testing")
NOW = dt.datetime(2026, 11, 2, 12, 0, tzinfo=dt.UTC)
IMAGE = "ami-12c6146b"  # one that moto knows
HOST = "validator-us-east-0"
ports = sys.modules["loopback_ports"]


@dataclass
class Cloud:
    """moto's clients, and a machine in a network."""

    endpoint: str

    def __post_init__(self) -> None:
        self.ec2, self.scaling, self.alarms = (self.client(name) for name in ("ec2", "autoscaling", "cloudwatch"))
        self.instances = Ec2Instances(self.ec2, self.scaling, self.alarms)
        self.subnet = self.ec2.describe_subnets()["Subnets"][0]
        self.settings = {"ImageId": IMAGE, "InstanceType": "t3.micro", "SubnetId": self.subnet["SubnetId"]}
        made = self.ec2.run_instances(**self.settings, MinCount=1, MaxCount=1)
        self.instance: str = made["Instances"][0]["InstanceId"]

    def client(self, service: str) -> Any:
        return open_client(service, "us-east-1", endpoint=self.endpoint, credentials=KEYS)

    def network(self, at: dt.datetime = NOW) -> Ec2NetworkDeny:
        return Ec2NetworkDeny(self.ec2, {HOST: self.instance, "gone": "i-0123456789abcdef0"}, lambda: at)

    def group(self, *, smallest: int) -> str:
        """An Auto Scaling group with one machine of its own."""
        template = {"LaunchTemplateName": "signer", "Version": "1"}
        data = {"ImageId": self.settings["ImageId"], "InstanceType": "t3.micro"}
        self.ec2.create_launch_template(LaunchTemplateName="signer", LaunchTemplateData=data)
        sizes = {"MinSize": smallest, "MaxSize": 2, "DesiredCapacity": 1}
        zone = self.subnet["AvailabilityZone"]
        name = {"AutoScalingGroupName": "signers"}
        self.scaling.create_auto_scaling_group(**name, **sizes, LaunchTemplate=template, AvailabilityZones=[zone])
        group = self.scaling.describe_auto_scaling_groups(AutoScalingGroupNames=["signers"])["AutoScalingGroups"][0]
        member: str = group["Instances"][0]["InstanceId"]
        return member

    def alarm(self, action: str, instance: str) -> None:
        self.alarms.put_metric_alarm(
            AlarmName="revive",
            AlarmActions=[action],
            Namespace="AWS/EC2",
            MetricName="StatusCheckFailed_System",
            Dimensions=[{"Name": "InstanceId", "Value": instance}],
            Statistic="Maximum",
            Period=60,
            EvaluationPeriods=2,
            Threshold=1.0,
            ComparisonOperator="GreaterThanOrEqualToThreshold",
        )

    def faces(self) -> list[Any]:
        wanted = [{"Name": "attachment.instance-id", "Values": [self.instance]}]
        faces: list[Any] = self.ec2.describe_network_interfaces(Filters=wanted)["NetworkInterfaces"]
        return faces


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    endpoint = f"http://127.0.0.1:{ports.free_port()}"
    server = str(Path(sys.executable).with_name("moto_server"))
    with (tmp_path_factory.mktemp("moto") / "log").open("wb") as log:
        process = subprocess.Popen([server, "-p", endpoint.rpartition(":")[2]], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5).close()  # noqa: S310 (our own server)
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                break
        slow = Config(read_timeout=120, retries={"total_max_attempts": 1})
        warm: Any = boto3.client  # the first call makes moto read its catalogues, which may take long
        keys = {"aws_access_key_id": KEYS.access_key, "aws_secret_access_key": KEYS.secret_key}
        warm("ec2", region_name="us-east-1", endpoint_url=endpoint, config=slow, **keys).describe_subnets()
        yield endpoint
        process.kill()
        process.wait()


@pytest.fixture
def cloud(moto: str) -> Cloud:
    reset = urllib.request.Request(f"{moto}/moto-api/reset", method="POST")  # noqa: S310 (our own server)
    urllib.request.urlopen(reset, timeout=60).close()  # noqa: S310
    return Cloud(moto)


@pytest.fixture
def nobody() -> Cloud:
    """Clients of a cloud that does not answer."""
    silent = object.__new__(Cloud)
    silent.endpoint = f"http://127.0.0.1:{ports.free_port()}"
    silent.instance = "i-0123456789abcdef0"
    silent.ec2, silent.scaling, silent.alarms = (silent.client(name) for name in ("ec2", "autoscaling", "cloudwatch"))
    silent.instances = Ec2Instances(silent.ec2, silent.scaling, silent.alarms)
    return silent


# --- machines


def test_a_machine_is_fenced_when_the_cloud_says_that_it_is_stopped(cloud: Cloud) -> None:
    fence = InstanceStopped(cloud.instances, HOST, cloud.instance)
    with pytest.raises(RefusedError, match="is running"):
        fence.prove()
    fence.close()
    fence.close()
    assert cloud.instances.state(cloud.instance) == "stopped"
    assert fence.prove().facts == {"instance": f"instance {cloud.instance} stopped"}


def test_a_terminated_machine_is_fenced_and_not_stopped_again(cloud: Cloud) -> None:
    cloud.ec2.terminate_instances(InstanceIds=[cloud.instance])
    cloud.instances.stop(cloud.instance)
    assert cloud.instances.state(cloud.instance) == "terminated"


def test_a_machine_leaves_its_group_before_it_is_stopped(cloud: Cloud) -> None:
    member = cloud.group(smallest=0)
    assert cloud.instances.restarts_itself(member)
    cloud.instances.stop(member)
    assert not cloud.instances.restarts_itself(member)
    group = cloud.scaling.describe_auto_scaling_groups(AutoScalingGroupNames=["signers"])["AutoScalingGroups"][0]
    assert (group["DesiredCapacity"], group["Instances"]) == (0, [])
    assert cloud.instances.state(member) == "stopped"


@pytest.mark.parametrize(
    "action",
    [
        "arn:aws:automate:us-east-1:ec2:recover",
        "arn:aws:automate:us-east-1:ec2:reboot",
        "arn:aws:swf:us-east-1:123456789012:action/actions/AWS_EC2.InstanceId.Reboot/1.0",
    ],
)
def test_alarms_that_would_revive_the_machine_are_switched_off(cloud: Cloud, action: str) -> None:
    cloud.alarm(action, cloud.instance)
    assert cloud.instances.restarts_itself(cloud.instance)
    cloud.instances.stop(cloud.instance)
    assert not cloud.instances.restarts_itself(cloud.instance)


def test_alarms_of_others_and_such_that_only_tell_are_left_alone(cloud: Cloud) -> None:
    cloud.alarm("arn:aws:automate:us-east-1:ec2:recover", "i-0ffffffffffffffff")
    assert not cloud.instances.restarts_itself(cloud.instance)
    cloud.alarm("arn:aws:sns:us-east-1:123456789012:pager", cloud.instance)
    assert not cloud.instances.restarts_itself(cloud.instance)
    cloud.instances.stop(cloud.instance)
    assert cloud.alarms.describe_alarms()["MetricAlarms"][0]["ActionsEnabled"]


def test_a_machine_that_the_cloud_does_not_know_is_not_fenced(cloud: Cloud) -> None:
    for call in (cloud.instances.state, cloud.instances.stop):
        with pytest.raises(NotFoundError, match="i-0123456789abcdef0"):
            call("i-0123456789abcdef0")


def test_a_cloud_that_does_not_answer_proves_nothing(nobody: Cloud) -> None:
    calls: list[Callable[[], object]] = [
        lambda: nobody.instances.state(nobody.instance),
        lambda: nobody.instances.stop(nobody.instance),
        lambda: nobody.instances.restarts_itself(nobody.instance),
        lambda: nobody.network().deny(HOST),
        lambda: nobody.network().denied_since(HOST),
    ]
    for call in calls:
        with pytest.raises(UnavailableError):
            call()


class Answering:
    """A client whose one call is answered with an error of AWS's, which moto does not make."""

    def __init__(self, client: Any, call: str, code: str) -> None:
        self._client = client
        self._call = call
        self._code = code

    def __getattr__(self, name: str) -> Any:
        if name != self._call:
            return getattr(self._client, name)

        def answer(**_: object) -> None:
            raise ClientError({"Error": {"Code": self._code, "Message": "as documented"}}, name)

        return answer


@pytest.mark.parametrize(
    ("call", "code", "error"),
    [
        ("stop_instances", "OperationNotPermitted", RefusedError),
        ("stop_instances", "UnauthorizedOperation", RefusedError),
        ("stop_instances", "RequestLimitExceeded", UnavailableError),
        ("stop_instances", "InternalError", UnavailableError),
        ("describe_instances", "InvalidInstanceID.Malformed", NotFoundError),
    ],
)
def test_each_of_the_cloud_s_errors_means_one_thing(cloud: Cloud, call: str, code: str, error: type[VedrError]) -> None:
    instances = Ec2Instances(Answering(cloud.ec2, call, code), cloud.scaling, cloud.alarms)
    with pytest.raises(error, match=code):
        instances.stop(cloud.instance)


def test_a_group_that_can_not_get_smaller_keeps_the_machine_running_and_says_so(cloud: Cloud) -> None:
    member = cloud.group(smallest=1)
    scaling = Answering(cloud.scaling, "detach_instances", "ValidationError")
    with pytest.raises(RefusedError, match="leave group signers"):
        Ec2Instances(cloud.ec2, scaling, cloud.alarms).stop(member)
    assert cloud.instances.state(member) == "running"


# --- networks


def test_a_denied_machine_has_an_empty_group_and_no_other_on_every_interface(cloud: Cloud) -> None:
    network = cloud.network()
    assert network.denied_since(HOST) is None
    before = [group["GroupId"] for group in cloud.faces()[0]["Groups"]]
    network.deny(HOST)
    assert network.denied_since(HOST) == NOW
    (face,) = cloud.faces()
    assert [group["GroupName"] for group in face["Groups"]] == [QUARANTINE]
    assert {tag["Key"]: tag["Value"] for tag in face["TagSet"]}[FORMER_TAG] == " ".join(before)
    (group,) = cloud.ec2.describe_security_groups(GroupIds=[face["Groups"][0]["GroupId"]])["SecurityGroups"]
    assert (group["IpPermissions"], group["IpPermissionsEgress"]) == ([], [])


def test_a_deny_that_is_repeated_keeps_its_moment(cloud: Cloud) -> None:
    cloud.network().deny(HOST)
    later = cloud.network(NOW + dt.timedelta(hours=1))
    later.deny(HOST)
    assert later.denied_since(HOST) == NOW


def test_a_deny_that_was_lifted_is_none_and_a_new_one_has_a_new_moment(cloud: Cloud) -> None:
    cloud.network().deny(HOST)
    (face,) = cloud.faces()
    other = cloud.ec2.create_security_group(GroupName="open", Description="open", VpcId=cloud.subnet["VpcId"])[
        "GroupId"
    ]
    cloud.ec2.modify_network_interface_attribute(NetworkInterfaceId=face["NetworkInterfaceId"], Groups=[other])
    assert cloud.network().denied_since(HOST) is None
    later = cloud.network(NOW + dt.timedelta(hours=1))
    later.deny(HOST)
    assert later.denied_since(HOST) == NOW + dt.timedelta(hours=1)


def test_an_interface_that_came_later_is_not_denied(cloud: Cloud) -> None:
    cloud.network().deny(HOST)
    face = cloud.ec2.create_network_interface(SubnetId=cloud.subnet["SubnetId"])["NetworkInterface"]
    where = {"NetworkInterfaceId": face["NetworkInterfaceId"], "InstanceId": cloud.instance}
    cloud.ec2.attach_network_interface(**where, DeviceIndex=1)
    assert cloud.network().denied_since(HOST) is None


def test_a_quarantine_group_with_a_rule_is_no_deny_and_is_not_used(cloud: Cloud) -> None:
    cloud.network().deny(HOST)
    group = cloud.faces()[0]["Groups"][0]["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 26656, "ToPort": 26656, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    cloud.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    assert cloud.network().denied_since(HOST) is None
    with pytest.raises(RefusedError, match="has rules"):
        cloud.network().deny(HOST)


def test_a_denied_machine_without_the_moment_is_not_denied_since_any(cloud: Cloud) -> None:
    cloud.network().deny(HOST)
    for stamp in ("yesterday", None):
        cloud.ec2.delete_tags(Resources=[cloud.instance], Tags=[{"Key": DENIED_TAG}])
        if stamp:
            cloud.ec2.create_tags(Resources=[cloud.instance], Tags=[{"Key": DENIED_TAG, "Value": stamp}])
        assert cloud.network().denied_since(HOST) is None


def test_hosts_that_nobody_knows_are_not_denied(cloud: Cloud) -> None:
    for host in ("unheard-of", "gone"):
        with pytest.raises(NotFoundError):
            cloud.network().deny(host)
        with pytest.raises(NotFoundError):
            cloud.network().denied_since(host)


# --- tokens


@pytest.fixture
def token(soft_hsm: Any) -> tuple[Any, Any]:
    return soft_hsm.make("us-east"), soft_hsm


@pytest.mark.parametrize("kind", ["ed25519", "p-256", "rsa-2048"])
def test_a_disabled_key_is_refused_by_its_token(token: tuple[Any, Any], kind: KeyKind) -> None:
    hsm, maker = token
    with TokenProcess(hsm, maker.pin, writable=True) as opened:
        opened.generate(kind, label="val-0", key_id=b"\x01")
        opened.generate(kind, label="val-1", key_id=b"\x02")
    keys = TokenKeys(hsm, maker.pin)
    fence = HsmKeyDisabled(keys, HOST, "val-0")
    with pytest.raises(RefusedError, match="signs with val-0"):
        fence.prove()
    fence.close()
    fence.close()
    assert fence.prove().facts == {"key": "key val-0 refused by its token"}
    assert keys.signs("val-1")


def test_a_session_that_was_open_before_is_refused_too(token: tuple[Any, Any]) -> None:
    hsm, maker = token
    with TokenProcess(hsm, maker.pin, writable=True) as opened:
        opened.generate("ed25519", label="val-0", key_id=b"\x01")
        (private,) = [key for key in opened.objects() if key.object_class == "private"]
        assert opened.sign(private, b"vote")
        TokenKeys(hsm, maker.pin).disable("val-0")
        with pytest.raises(VedrError):
            opened.sign(private, b"vote")


def test_a_key_that_is_not_found_or_not_single_is_no_fence(token: tuple[Any, Any]) -> None:
    hsm, maker = token
    keys = TokenKeys(hsm, maker.pin)
    for call in (keys.disable, keys.signs):
        with pytest.raises(NotFoundError, match="val-0"):
            call("val-0")


def test_a_token_that_can_not_be_asked_is_no_fence(token: tuple[Any, Any]) -> None:
    hsm, _ = token
    for call in (TokenKeys(hsm, lambda: b"0000").disable, TokenKeys(hsm, lambda: b"0000").signs):
        with pytest.raises(RefusedError, match="PIN is wrong"):
            call("val-0")
    gone = hsm.model_copy(update={"token_label": "elsewhere"})
    with pytest.raises(NotFoundError):
        TokenKeys(gone, lambda: b"0000").signs("val-0")
