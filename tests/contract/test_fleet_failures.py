"""How fleets fail: over a real sshd and systemd, and over the twin of Kubernetes' API."""

import base64
import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beside import beside

from vedr.adapters.fleet_kubernetes import KubernetesFleet
from vedr.adapters.fleet_scaling import KubernetesScaling, KubernetesZones
from vedr.adapters.fleet_ssh import known_hosts, private_key
from vedr.adapters.fleet_systemd import SystemdFleet
from vedr.adapters.kubernetes_api import Access, KubernetesApi, from_kubeconfig
from vedr.adapters.secrets import resolve
from vedr.errors import (
    ConflictError,
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VedrError,
    VerificationFailedError,
)
from vedr.policies.fleet import Cluster, Kubernetes, Ssh, SshHost, Workload
from vedr.ports import Replicas

pytestmark = pytest.mark.server


HERE = Path(__file__).parent
ports = sys.modules["loopback_ports"]
hosts = beside("failing_systemd_host", HERE / "systemd_host.py")
twins = beside("failing_kubernetes_twin", HERE / "kubernetes_twin.py")
machines = beside("failing_kubernetes_machinery", HERE / "kubernetes_machinery.py")
ZONE, OTHER_ZONE = "us-east-1a", "us-east-1b"
DEAF = """ExecStart=/bin/sh -c 'trap "" TERM; while :; do sleep 9; done'"""


# --- systemd over SSH


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    host = hosts.SystemdHost(tmp_path_factory.mktemp("systemd"), ports.free_port())
    host.start()
    host.define("sleeper.service", "ExecStart=/bin/sleep 600")
    host.define("killed.service", f"{DEAF}\nTimeoutStopSec=0.2")
    host.define("leaving.service", "ExecStart=/bin/sh -c 'sleep 600 & exec sleep 600'\nKillMode=process")
    host.define("broken.service", "ExecStart=/nowhere/to/be/found\nRestart=no")
    host.define("reviving.service", "ExecStart=/bin/sleep 600\nRestart=always\nRestartSec=0")
    (host.units / "masked.service").symlink_to("/dev/null")
    yield host
    host.stop()


def policy(host: Any, **changes: Any) -> Ssh:
    names = ("sleeper", "killed", "leaving", "broken", "reviving", "masked")
    units = {name: f"{name}.service" for name in names}
    there = SshHost(zone=ZONE, address="127.0.0.1", port=host.port, units=units)
    fields: dict[str, Any] = {"user": "root", "key": host.key, "known_hosts": host.known_hosts, "stop_grace_s": 5.0}
    return Ssh(**fields | {"become": "nothing", "manager": "user", "hosts": {"validator-0": there}} | changes)


def opened(policy: Ssh) -> SystemdFleet:
    return SystemdFleet(policy, resolve(policy.key), resolve(policy.known_hosts))


@pytest.fixture
def fleet(host: Any) -> Iterator[SystemdFleet]:
    fleet = opened(policy(host))
    yield fleet
    fleet.close()


def _kept(host: Any) -> Iterator[Any]:
    """The file of known hosts, put back afterwards."""
    kept = (host.folder / "known_hosts").read_text()
    yield host
    (host.folder / "known_hosts").write_text(kept)


distrusting = pytest.fixture(_kept, name="distrusting")


def test_a_host_whose_key_is_not_known_is_refused(distrusting: Any) -> None:
    distrusting.trust(distrusting.folder / "host_key.pub", name="another-host")
    with pytest.raises(RefusedError, match="not in known_hosts"):
        opened(policy(distrusting)).status("sleeper", ZONE)


def test_a_host_whose_key_changed_is_refused_and_both_are_shown(distrusting: Any, tmp_path: Path) -> None:
    hosts.make_key(tmp_path / "another")
    distrusting.trust(tmp_path / "another.pub")
    with pytest.raises(RefusedError, match=r"its key is SHA256:\S+, known_hosts has SHA256:"):
        opened(policy(distrusting)).status("sleeper", ZONE)


@pytest.mark.parametrize(
    "line", ["@revoked * ssh-ed25519 AAAA", "@cert-authority * ssh-rsa AAAA", "host", "h ssh-x !!"]
)
def test_a_line_of_known_hosts_that_is_not_understood_is_not_skipped(line: str) -> None:
    with pytest.raises(InvalidInputError, match="line 2"):
        known_hosts(f"# ours\n{line}\n".encode(), "file:/k")


def test_a_login_that_is_not_accepted_is_refused(host: Any, tmp_path: Path) -> None:
    hosts.make_key(tmp_path / "stranger")
    with pytest.raises(RefusedError, match="does not accept our key"):
        opened(policy(host, key=f"file:{tmp_path / 'stranger'}")).status("sleeper", ZONE)


def test_a_key_that_can_not_be_read_is_never_shown() -> None:
    with pytest.raises(InvalidInputError) as caught:
        private_key(b"hunter2 is no key", "aws-secret:x")
    assert "hunter2" not in str(caught.value)


def test_a_connection_is_used_again_and_replaced_when_it_is_gone(host: Any, fleet: SystemdFleet) -> None:
    def logins() -> int:
        return (host.folder / "sshd.log").read_text().count("Accepted publickey")

    before = logins()
    fleet.status("sleeper", ZONE)
    fleet.status("killed", ZONE)
    assert logins() == before + 1
    fleet.close()
    assert fleet.status("sleeper", ZONE).state == "stopped"
    assert logins() == before + 2


def test_a_unit_that_systemd_killed_at_its_own_limit_is_told(fleet: SystemdFleet) -> None:
    fleet.start("killed", ZONE)
    with pytest.raises(DeadlineError, match="systemd killed it"):
        fleet.stop("killed", ZONE)
    assert fleet.stop("killed", ZONE).pid is None


def test_a_unit_that_left_a_process_behind_is_not_stopped(host: Any, fleet: SystemdFleet) -> None:
    fleet.start("leaving", ZONE)
    with contextlib.closing(opened(policy(host, stop_grace_s=1.0))) as hasty, pytest.raises(DeadlineError):
        hasty.stop("leaving", ZONE)
    assert fleet.status("leaving", ZONE).state == "running"
    assert fleet.kill("leaving", ZONE).state != "running"


def test_a_unit_that_does_not_start_is_no_success(fleet: SystemdFleet) -> None:
    with pytest.raises(VerificationFailedError, match="did not start"):
        fleet.start("broken", ZONE)
    fleet.stop("broken", ZONE)


def test_a_masked_unit_is_not_started(fleet: SystemdFleet) -> None:
    with pytest.raises(RefusedError, match="masked"):
        fleet.start("masked", ZONE)


def test_a_unit_that_comes_back_after_a_kill_is_wanted_until_it_is_stopped(fleet: SystemdFleet) -> None:
    first = fleet.start("reviving", ZONE).pid
    killed = fleet.kill("reviving", ZONE)
    assert killed.desired == "running"
    assert killed.pid != first
    stopped = fleet.stop("reviving", ZONE)
    assert (stopped.desired, stopped.pid) == ("stopped", None)


def test_a_stopped_unit_is_not_started_at_boot_and_a_started_one_is(host: Any, fleet: SystemdFleet) -> None:
    wanted = host.units / "default.target.wants" / "sleeper.service"
    fleet.start("sleeper", ZONE)
    assert wanted.is_symlink()
    fleet.stop("sleeper", ZONE)
    assert not wanted.is_symlink()


def test_a_pause_outlives_the_process_that_began_it_and_another_may_end_it(host: Any, fleet: SystemdFleet) -> None:
    fleet.start("sleeper", ZONE)
    other = opened(policy(host))
    other.pause("sleeper", ZONE, limit_s=60)
    other.close()
    assert fleet.status("sleeper", ZONE).state == "paused"
    assert not fleet.resume("sleeper", ZONE).expired
    fleet.stop("sleeper", ZONE)


# --- Kubernetes


CLUSTER = Cluster(
    server="https://cluster.invalid",
    token="env:TOKEN",
    authority="env:AUTHORITY",
    units={name: Workload(zone=ZONE, name=f"virtengine-{name}") for name in ("sleeper", "stuck", "other")},
    scaled={"api-gateway": "Deployment"},
)
POLICY = Kubernetes(clusters={"us-east": CLUSTER}, stop_grace_s=2.0, start_limit_s=5.0)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Any]:
    """The twin with its machinery, both of the test's own; `node-a` and `node-b`, a zone each."""
    twin = twins.Twin(tmp_path, ports.free_port())
    twin.start()
    api = KubernetesApi("us-east", Access(f"https://127.0.0.1:{twin.port}", twin.authority, token=twins.TOKEN))
    machinery = machines.Machinery(api, stuck={"virtengine-stuck"})
    machinery.start()
    machinery.twin = twin
    machinery.add_node("node-a", ZONE)
    machinery.add_node("node-b", OTHER_ZONE)
    for name in ("sleeper", "stuck", "other"):
        machinery.add_workload(f"virtengine-{name}", "node-a")
    machinery.add_workload("api-gateway", "node-a", kind="Deployment")
    yield machinery
    machinery.stop()
    api.close()
    twin.stop()


def kubernetes(cluster: Any) -> KubernetesFleet:
    return KubernetesFleet(POLICY, lambda _: cluster.api)


def impatient(cluster: Any) -> KubernetesFleet:
    """For what is awaited in vain."""
    policy = POLICY.model_copy(update={"stop_grace_s": 0.5, "start_limit_s": 1.0})
    return KubernetesFleet(policy, lambda _: cluster.api)


def test_a_pod_on_a_node_that_does_not_report_is_not_stopped(cluster: Any) -> None:
    fleet = kubernetes(cluster)
    fleet.start("sleeper", ZONE)
    cluster.lose_node("node-a")
    hasty = impatient(cluster)
    for call in (hasty.status, hasty.stop, hasty.kill):
        with pytest.raises(UnavailableError, match="pod virtengine-sleeper-0 on node node-a"):
            call("sleeper", ZONE)
    assert len(cluster.pods("virtengine-sleeper")) == 1  # it was not taken off the list by force
    cluster.find_node("node-a")
    assert fleet.stop("sleeper", ZONE).state == "stopped"


def test_a_pod_that_does_not_get_to_run_is_no_start(cluster: Any) -> None:
    with pytest.raises(DeadlineError, match=r"pod virtengine-stuck-0: (Pending|None)"):
        impatient(cluster).start("stuck", ZONE)


def test_who_scales_at_the_same_time_is_noticed(cluster: Any) -> None:
    path = f"{machines.APPS}/statefulsets/virtengine-other/scale"
    stale = cluster.api.get(path)
    cluster.api.merge(path.removesuffix("/scale"), {"spec": {"replicas": 3}})
    with pytest.raises(ConflictError):
        cluster.api.replace(path, {**stale, "spec": {"replicas": 1}})


def test_workloads_are_scaled_and_awaited(cluster: Any) -> None:
    scaling = KubernetesScaling(POLICY, lambda _: cluster.api)
    assert scaling.scale("api-gateway", "us-east", 3) == Replicas("api-gateway", 0, 0)
    assert scaling.wait_ready("api-gateway", "us-east", limit_s=20) == Replicas("api-gateway", 3, 3)
    cluster.stuck.add("api-gateway")
    scaling.scale("api-gateway", "us-east", 4)
    with pytest.raises(DeadlineError, match="3 of 4"):
        scaling.wait_ready("api-gateway", "us-east", limit_s=1)
    with pytest.raises(InvalidInputError):
        scaling.scale("api-gateway", "us-east", -1)
    for name, region in (("virtengine-sleeper", "us-east"), ("api-gateway", "eu-west")):
        with pytest.raises(NotFoundError):
            scaling.scale(name, region, 1)


def test_a_zone_s_nodes_take_nothing_new_until_they_may_again(cluster: Any) -> None:
    zones = KubernetesZones({ZONE: "us-east", OTHER_ZONE: "us-east"}, lambda _: cluster.api)
    assert zones.cordon(ZONE) == zones.cordon(ZONE) == ("node-a",)
    assert cluster.api.get("/api/v1/nodes/node-a")["spec"]["unschedulable"]
    assert "unschedulable" not in cluster.api.get("/api/v1/nodes/node-b")["spec"]
    assert zones.uncordon(ZONE) == zones.uncordon(ZONE) == ("node-a",)
    assert "unschedulable" not in cluster.api.get("/api/v1/nodes/node-a")["spec"]
    with pytest.raises(NotFoundError):
        zones.cordon("us-east-1z")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (400, InvalidInputError),
        (401, RefusedError),
        (403, RefusedError),
        (404, NotFoundError),
        (409, ConflictError),
        (429, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
        (504, UnavailableError),
        (200, UnavailableError),  # a proxy's page, not JSON
    ],
)
def test_each_of_the_api_s_answers_means_one_thing(cluster: Any, code: int, error: type[VedrError]) -> None:
    cluster.twin.answers["/scale"] = (code, b"<html>")
    with pytest.raises(error):
        kubernetes(cluster).status("sleeper", ZONE)


def test_a_cluster_with_another_authority_is_not_talked_to(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    certificate, _ = twins._certificate(tmp_path / "other")
    access = Access(f"https://127.0.0.1:{cluster.twin.port}", certificate.read_text(), token=twins.TOKEN)
    api = KubernetesApi("us-east", access)
    with pytest.raises(UnavailableError):
        api.get("/api/v1/nodes")
    api.close()


def kubeconfig(cluster: Any, user: Any) -> bytes:
    """JSON is YAML."""
    authority = base64.b64encode(cluster.twin.authority.encode()).decode()
    server = {"server": f"https://127.0.0.1:{cluster.twin.port}", "certificate-authority-data": authority}
    config = {
        "current-context": "virtengine-us-east",
        "contexts": [{"name": "virtengine-us-east", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": server}],
        "users": [{"name": "u", "user": user}],
    }
    return json.dumps(config).encode()


@pytest.mark.parametrize("way", ["token", "exec"])
def test_a_kubeconfig_says_how_to_log_in(cluster: Any, way: str, tmp_path: Path) -> None:
    credential = json.dumps({"status": {"token": twins.TOKEN, "expirationTimestamp": "2126-01-01T00:00:00Z"}})
    (tmp_path / "credential").write_text(credential)
    plugin = {"command": "cat", "args": [str(tmp_path / "credential")]}
    user = {"token": twins.TOKEN} if way == "token" else {"exec": plugin}
    access = from_kubeconfig(kubeconfig(cluster, user), "virtengine-us-east", "env:K")
    assert twins.TOKEN not in repr(access)
    api = KubernetesApi("us-east", access)
    assert len(api.list("/api/v1/nodes")) == 2
    api.close()


def test_a_kubeconfig_that_can_not_be_used_is_never_shown(cluster: Any) -> None:
    with pytest.raises(NotFoundError, match="virtengine-us-east"):
        from_kubeconfig(kubeconfig(cluster, {"token": "hunter2"}), "virtengine-eu-west", "env:K")
    for text in (b"hunter2", b"{contexts: [hunter2]}", b": :", kubeconfig(cluster, [])):
        with pytest.raises(InvalidInputError) as caught:
            from_kubeconfig(text, "virtengine-us-east", "env:K")
        assert "hunter2" not in str(caught.value)
    failing = Access("https://127.0.0.1:1", cluster.twin.authority, command=(shutil.which("false") or "false",))
    api = KubernetesApi("us-east", failing)
    with pytest.raises(UnavailableError, match="gave no token"):
        api.get("/version")
    api.close()


def test_what_the_port_can_not_do_is_refused_with_its_reason(cluster: Any) -> None:
    fleet = kubernetes(cluster)
    calls: list[Callable[[], object]] = [
        lambda: fleet.pause("sleeper", ZONE, limit_s=1),
        lambda: fleet.resume("sleeper", ZONE),
    ]
    for call in calls:
        with pytest.raises(RefusedError, match="can't pause"):
            call()
