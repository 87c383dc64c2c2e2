"""A site's fleet, scaling, zones and cloud fences, opened as its file says.

Guarantees: a cluster is contacted, and a secret read, when it is first needed; what was opened is closed with the site.
Leaves out: the lab's fleet, which adapters/site.py opens itself.
"""

import contextlib
import functools
import json
from collections.abc import Callable
from typing import Any

from vedr.adapters.fence_aws import open_client
from vedr.adapters.fence_instances import Ec2Instances
from vedr.adapters.fence_network import Ec2NetworkDeny
from vedr.adapters.fleet_kubernetes import KubernetesFleet
from vedr.adapters.fleet_scaling import KubernetesScaling, KubernetesZones
from vedr.adapters.fleet_systemd import SystemdFleet
from vedr.adapters.kubernetes_api import Access, KubernetesApi, from_kubeconfig
from vedr.adapters.s3_store import Credentials
from vedr.adapters.secrets import resolve
from vedr.errors import InvalidInputError, RefusedError
from vedr.inventory import Site
from vedr.policies.fleet import Cluster, Kubernetes
from vedr.ports import Clock, Fleet, Scaling, ZoneHosts

OpenApi = Callable[[str], KubernetesApi]


def open_fleet(site: Site, closing: contextlib.ExitStack) -> Fleet:
    """Over SSH or Kubernetes, as the kind says; `closing` ends its connections."""
    ssh = site.fleet.ssh
    if ssh is not None:
        fleet = SystemdFleet(ssh, resolve(ssh.key), resolve(ssh.known_hosts))
        closing.callback(fleet.close)
        return fleet
    return KubernetesFleet(_policy(site), _clusters(site, closing))


def open_scaling(site: Site, closing: contextlib.ExitStack) -> Scaling:
    """RefusedError when the site's units are not workloads of a cluster, which alone can be scaled."""
    return KubernetesScaling(_policy(site), _clusters(site, closing))


def open_zones(site: Site, closing: contextlib.ExitStack) -> ZoneHosts:
    """RefusedError when the site's zones are not nodes of a cluster, which alone can be cordoned."""
    _policy(site)
    regions = {zone: name for name, region in site.regions.items() for zone in region.zones}
    return KubernetesZones(regions, _clusters(site, closing))


def open_instances(site: Site, region: str) -> Ec2Instances:
    """The region's machines; which one a node is on, `[fleet.instances]` tells."""
    ec2, scaling, alarms = (_client(site, region, service) for service in ("ec2", "autoscaling", "cloudwatch"))
    return Ec2Instances(ec2, scaling, alarms)


def open_network(site: Site, region: str, clock: Clock) -> Ec2NetworkDeny:
    """The firewall around the region's nodes."""
    here = {node.name for node in site.nodes_in(region)}
    instances = {name: instance for name, instance in site.fleet.instances.items() if name in here}
    return Ec2NetworkDeny(_client(site, region, "ec2"), instances, clock)


def _policy(site: Site) -> Kubernetes:
    if site.fleet.kubernetes is None:
        raise RefusedError(
            f"site {site.name}: units of kind {site.fleet.kind!r} are not scaled, and their zones not cordoned",
            remedy="Scaling needs [fleet.kubernetes]; without it the hosts that are there do the work.",
        )
    return site.fleet.kubernetes


def _clusters(site: Site, closing: contextlib.ExitStack) -> OpenApi:
    policy = _policy(site)

    @functools.cache
    def open_api(region: str) -> KubernetesApi:
        if region not in policy.clusters:
            raise RefusedError(
                f"site {site.name} has no cluster in region {region}", remedy="Add [fleet.kubernetes.clusters.REGION]."
            )
        api = KubernetesApi(region, access_of(policy.clusters[region]))
        closing.callback(api.close)
        return api

    return open_api


def access_of(cluster: Cluster) -> Access:
    """What the site file refers to, read."""
    if cluster.kubeconfig is not None:
        return from_kubeconfig(resolve(cluster.kubeconfig), cluster.context, cluster.kubeconfig)
    token, authority = (resolve(reference).decode() for reference in (cluster.token, cluster.authority) if reference)
    return Access(server=cluster.server, authority=authority, token=token)


def _client(site: Site, region: str, service: str) -> Any:
    reference = site.fleet.cloud_credentials
    return open_client(
        service,
        site.region(region).cloud_region,
        endpoint=None,
        credentials=None if reference is None else _credentials(reference),
    )


def _credentials(reference: str) -> Credentials:
    try:
        stored = json.loads(resolve(reference))
        return Credentials(access_key=str(stored["access_key"]), secret_key=str(stored["secret_key"]))
    except (ValueError, KeyError, TypeError):
        raise InvalidInputError(
            "[fleet] cloud_credentials are not JSON {access_key, secret_key}", remedy=f"Correct {reference}."
        ) from None
