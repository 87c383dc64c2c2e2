"""A made chain's site for the daily checks: nodes that are peers of each other, and what stands around them."""

import dataclasses
import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from beside import beside

from vedr.chain.rpc import ChainRpc, NetInfo, Peer
from vedr.errors import UnavailableError, VerificationFailedError
from vedr.inventory import Node, Site
from vedr.policies.checks import Checks
from vedr.readiness import network
from vedr.readiness.finding import Verdict
from vedr.readiness.ports import Certificate, NameAnswer

HERE = Path(__file__).parent
chainmaker = beside("chainmaker", HERE.parent / "chain" / "chainmaker.py")
world = beside("topology_world", HERE / "topology_world.py")
REGIONS = world.REGIONS
FIVE = dict.fromkeys(range(1, 6), 10)
LENGTH = 30
CHAIN = chainmaker.make_chain(LENGTH, lambda _height: FIVE)
FORK = chainmaker.make_chain(LENGTH, lambda _height: FIVE, flavour=b"fork")
NOW_NS = CHAIN[LENGTH].header.time_ns + 2 * 10**9
NOW = dt.datetime.fromtimestamp(NOW_NS / 10**9, dt.UTC)
POLICY = Checks(deadline_s=20, subject_deadline_s=5, warn_behind_blocks=5, max_behind_blocks=10)


def node_class() -> type:
    @dataclass
    class Peered(chainmaker.MadeNode):  # type: ignore[misc, name-defined]
        """A made node with peers."""

        peers: tuple[str, ...] = ()
        behind: bool = False

        def status(self) -> Any:
            return dataclasses.replace(super().status(), catching_up=self.behind)

        def net_info(self) -> NetInfo:
            self._reach("net_info")
            found = tuple(Peer(f"id-{name}", name, outbound=True) for name in self.peers)
            return NetInfo(listening=True, peers=found)

    return Peered


MadeNode = node_class()


@dataclass
class Net:
    """The made site's nodes, all peers of each other, and probes of what stands around them."""

    site: Site
    nodes: dict[str, Any]
    names: dict[str, NameAnswer] = field(default_factory=dict)
    sick: set[str] = field(default_factory=set)

    def rpc(self, node: Node) -> ChainRpc:
        return cast("ChainRpc", self.nodes[node.name])

    # --- probes

    def resolve_name(self, name: str) -> NameAnswer:
        return self.names.get(name, NameAnswer((), 0))

    def certificate(self, url: str, **_: object) -> Certificate:
        raise UnavailableError(f"{url}: no TLS", remedy="Look.")

    def health(self, url: str) -> None:
        host = url.partition("://")[2].partition("/")[0]
        assert url.endswith("/healthz")
        if host in self.sick:
            raise VerificationFailedError("HTTP 503", remedy="Look at its log.")

    # --- the checks

    def health_of_nodes(self) -> Verdict:
        return network.node_health(self.site, self.rpc, POLICY, NOW)

    def connectivity(self) -> Verdict:
        return network.cross_region_connectivity(self.site, self.rpc, POLICY)

    def region(self, name: str) -> list[Any]:
        return [self.nodes[node.name] for node in self.site.nodes if node.region == name]


def make_net(folder: Path) -> Net:
    chain = {
        "chain_id": "made-1",
        "block_time_s": 1.0,
        "start": ["node"],
        "start_isolated": ["node"],
        "inspect": ["inspect"],
        "genesis": str(folder / "none"),
        "genesis_sha256": "0" * 64,
        "trust_height": 1,
        "trust_hash": CHAIN[1].header.hash().hex().upper(),
        "state_sync_interval": 50,
    }
    things = [
        {"name": f"{what}-{region}", "region": region, "zone": f"{region}-1a", "unit": f"{what}-{region}"}
        for region in REGIONS
        for what in ("gateway", "provider")
    ]
    hosts = {f"gateway-{region}": f"10.0.{number}.1" for number, region in enumerate(REGIONS)}
    gateways = [{**one, "url": f"http://{hosts[one['name']]}"} for one in things if "gateway" in one["name"]]
    providers = [{**one, "url": f"http://{one['name']}", "home": "/p"} for one in things if "provider" in one["name"]]
    dns = {"server": "127.0.0.1", "port": 53, "zone": "test", "ttl_s": 60}
    extra = {"chain": chain, "gateways": gateways, "providers": providers, "dns": dns}
    site = world.make_site(extra=extra)
    everybody = tuple(node.name for node in site.nodes)
    nodes = {name: MadeNode(name, CHAIN, node_id=f"id-{name}", peers=everybody) for name in everybody}
    names = {f"rpc-{region}.test": NameAnswer((hosts[f"gateway-{region}"],), 60) for region in REGIONS}
    names |= {name: NameAnswer(("10.0.0.1",), 60) for name in ("api.test", "rpc.test")}
    return Net(site, nodes, names)
