"""Checks of nodes, peers, state sync, services, names and sign states, on a made chain that breaks at will."""

import dataclasses
import datetime as dt
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from beside import beside

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.adapters.memory_store import MemoryStore
from vedr.chain.light import LightClient
from vedr.chain.register import NEVER_SIGNED, Position, Validator
from vedr.chain.register_holding import SignStateRegister
from vedr.chain.rpc import ChainRpc, NetInfo, Peer
from vedr.chain.shipping import Shipped, encode, key_of
from vedr.chain.sign_state import SignState
from vedr.errors import UnavailableError, VerificationFailedError
from vedr.inventory import Dns, Height, Node, Site
from vedr.policies.checks import Checks
from vedr.ports import ObjectKey, ObjectStore
from vedr.readiness import network, stores
from vedr.readiness.finding import Verdict
from vedr.readiness.ports import NameAnswer
from vedr.readiness.sign_states import sign_states
from vedr.readiness.soundness import topology

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
            found = tuple(Peer(f"id-{name}", name, "10.0.0.1", outbound=True) for name in self.peers)
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

    def certificate_ends(self, url: str) -> dt.datetime:
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


@pytest.fixture
def net(tmp_path: Path) -> Net:
    chain = {
        "chain_id": "made-1",
        "block_time_s": 1.0,
        "start": ["node"],
        "start_isolated": ["node"],
        "inspect": ["inspect"],
        "genesis": str(tmp_path / "none"),
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


# --- node health


def test_a_healthy_chain_passes(net: Net) -> None:
    verdict = net.health_of_nodes()
    assert verdict.status == "passed", verdict
    assert "100% of the power signed" in verdict.observed


def _kill(node: Any) -> None:
    node.down = True


def _sync(node: Any) -> None:
    node.behind = True


def _far_behind(node: Any) -> None:
    node.tip = LENGTH - 11


def _stranger(node: Any) -> None:
    node.chain_id = "other-1"


def _broken(node: Any) -> None:
    node.fault = ZeroDivisionError("a parser's fault")


@pytest.mark.parametrize("fault", [_kill, _sync, _far_behind, _stranger, _broken])
def test_one_sick_node_fails_and_is_named(net: Net, fault: Callable[[Any], None]) -> None:
    fault(net.nodes["full-eu-west-1a"])
    verdict = net.health_of_nodes()
    assert verdict.status == "failed", verdict
    assert verdict.observed.startswith("full-eu-west-1a: ")
    assert "full-eu-west-1a" in verdict.remedy or "address" in verdict.remedy


def test_a_node_somewhat_behind_is_a_warning(net: Net) -> None:
    net.nodes["full-eu-west-1a"].tip = LENGTH - 6
    assert net.health_of_nodes().status == "warning"


def test_a_halted_chain_fails_although_every_node_answers(net: Net) -> None:
    verdict = network.node_health(net.site, net.rpc, POLICY, NOW + dt.timedelta(seconds=60))
    assert verdict.status == "failed"
    assert "newest block is" in verdict.observed


@pytest.mark.parametrize(("silent", "status"), [(1, "warning"), (2, "failed")])
def test_validators_that_do_not_sign_warn_until_too_much_power_is_gone(net: Net, silent: int, status: str) -> None:
    signers = range(1, 6 - silent)
    chain = chainmaker.make_chain(LENGTH, lambda _height: FIVE, signers_at=lambda _height: signers)
    for node in net.nodes.values():
        node.blocks = chain
    verdict = net.health_of_nodes()
    assert (verdict.status, "of the power signed" in verdict.observed) == (status, True), verdict


def test_with_no_node_answering_nothing_passes(net: Net) -> None:
    for node in net.nodes.values():
        node.down = True
    assert net.health_of_nodes().status == "failed"
    assert net.connectivity().status == "failed"


# --- connectivity


def test_peers_everywhere_pass(net: Net) -> None:
    assert net.connectivity().status == "passed"


def test_one_region_cut_off_is_a_warning_and_named_two_are_a_failure(net: Net) -> None:
    def cut(*regions: str) -> None:
        for node in net.site.nodes:
            inside = [one.name for one in net.site.nodes if one.region == node.region]
            near = [one.name for one in net.site.nodes if one.region not in regions]
            net.nodes[node.name].peers = tuple(inside if node.region in regions else near)

    cut("ap-south")
    verdict = net.connectivity()
    assert verdict.status == "warning"
    assert "ap-south: no peer in us-east, eu-west" in verdict.observed
    assert verdict.remedy
    cut("ap-south", "eu-west")
    assert net.connectivity().status == "failed"


def test_a_strangers_peers_are_no_regions(net: Net) -> None:
    for node in net.nodes.values():
        node.peers = ("somebody", "else")
    assert net.connectivity().status == "failed"


# --- state sync


@pytest.fixture
def look_at_state_sync(net: Net, tmp_path: Path) -> Callable[[], Verdict]:
    def headers() -> LightClient:
        sources = [net.nodes[node.name] for node in net.site.nodes if not node.is_validator]
        return LightClient(net.site.chain, sources, tmp_path / "trust", now_ns=lambda: NOW_NS, wait_s=0.0)

    return lambda: network.state_sync_endpoints(net.site, net.rpc, headers, POLICY)


def test_full_nodes_in_every_region_serve_state_sync(look_at_state_sync: Callable[[], Verdict]) -> None:
    assert look_at_state_sync().status == "passed"


def test_state_sync_in_two_of_three_regions_is_a_warning_in_one_a_failure(
    net: Net, look_at_state_sync: Callable[[], Verdict]
) -> None:
    for node in net.region("ap-south"):
        node.behind = True
    verdict = look_at_state_sync()
    assert verdict.status == "warning", verdict
    assert "ap-south" in verdict.observed
    for node in net.region("eu-west"):
        node.behind = True
    assert look_at_state_sync().status == "failed"


def test_a_forked_endpoint_never_counts(net: Net, look_at_state_sync: Callable[[], Verdict]) -> None:
    for region in ("eu-west", "ap-south"):
        for node in net.region(region):
            node.blocks = FORK
    with pytest.raises(VerificationFailedError):  # the runner makes a failed finding of it
        look_at_state_sync()


def test_nodes_without_snapshots_are_a_warning(net: Net, look_at_state_sync: Callable[[], Verdict]) -> None:
    chain = net.site.chain.model_copy(update={"state_sync_interval": 0})
    net.site = net.site.model_copy(update={"chain": chain})
    assert look_at_state_sync().status == "warning"


# --- services and names


def test_every_service_must_be_well(net: Net) -> None:
    assert network.service_health(net.site, net, POLICY).status == "passed"
    net.sick.add("provider-eu-west")
    verdict = network.service_health(net.site, net, POLICY)
    assert verdict.status == "failed"
    assert "provider-eu-west: HTTP 503" in verdict.observed


def test_reserves_may_be_stopped_but_not_all_services_may_be_reserves(net: Net) -> None:
    net.sick.add("provider-eu-west")

    def reserved(names: tuple[str, ...]) -> Site:
        providers = tuple(p.model_copy(update={"reserve": p.name in names}) for p in net.site.providers)
        return net.site.model_copy(update={"providers": providers})

    assert network.service_health(reserved(("provider-eu-west",)), net, POLICY).status == "passed"
    nobody = reserved(tuple(p.name for p in net.site.providers)).model_copy(update={"gateways": ()})
    assert network.service_health(nobody, net, POLICY).status == "failed"


def test_names_that_resolve_to_our_gateways_pass(net: Net) -> None:
    assert network.dns_health(net.site, net, POLICY).status == "passed"


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (NameAnswer((), 0), "failed", "no address"),
        (NameAnswer(("6.6.6.6",), 60), "failed", "points to 6.6.6.6"),
        (NameAnswer(("10.0.1.1", "6.6.6.6"), 60), "failed", "points to 6.6.6.6"),
        (NameAnswer(("10.0.1.1",), 3600), "warning", "TTL 3600 s"),
    ],
)
def test_a_wrong_answer_for_one_name_is_found(net: Net, answer: NameAnswer, status: str, words: str) -> None:
    net.names["rpc-eu-west.test"] = answer
    verdict = network.dns_health(net.site, net, POLICY)
    assert (verdict.status, words in verdict.observed) == (status, True), verdict


def test_a_site_without_a_zone_has_nothing_to_look_at(net: Net) -> None:
    verdict = network.dns_health(net.site.model_copy(update={"dns": None}), net, POLICY)
    assert (verdict.status, verdict.observed) == ("failed", "nothing to look at")


def test_a_zones_names_may_be_the_sites_own(net: Net) -> None:
    policy = POLICY.model_copy(update={"dns_names": ("www",)})
    assert network.dns_health(net.site, net, policy).status == "failed"
    net.names["www.test"] = NameAnswer(("10.0.0.1",), 60)
    assert network.dns_health(net.site, net, policy).status == "passed"
    assert isinstance(net.site.dns, Dns)


# --- sign states


@dataclass
class Signing:
    """Registers and shipped copies of the five validators."""

    net: Net
    registers: dict[str, MemoryRegisters] = field(default_factory=lambda: {r: MemoryRegisters(r) for r in REGIONS})

    def ship(self, height: int, *, to: tuple[str, ...] = REGIONS, besides: tuple[str, ...] = ()) -> None:
        for node in self.net.site.nodes:
            if node.is_validator and node.name not in besides:
                who = Validator(self.net.site.chain.chain_id, node.address)
                state = SignState(Height(height), 0, 3, b"sig", b"msg")
                for region in to:
                    key, one = key_of(who), self.registers[region]
                    before = one.read(key)
                    one.swap(key, encode(who, Shipped(node.name, 1, state)), expected=before.tag if before else None)

    def hold(self, name: str, height: int) -> None:
        address = next(node.address for node in self.net.site.nodes if node.name == name)
        register = SignStateRegister(self.registers, Validator(self.net.site.chain.chain_id, address))
        register.found(NEVER_SIGNED)
        holding = register.take_over(1, f"{name}/1", at_least=Position(Height(height), 0, 3))
        holding.close(wait_s=5)

    def look(self) -> Verdict:
        return sign_states(self.net.site, self.net.rpc, self.registers, POLICY)


@pytest.fixture
def signing(net: Net) -> Signing:
    return Signing(net)


def test_shipped_states_near_the_tip_pass(signing: Signing) -> None:
    signing.ship(LENGTH)
    verdict = signing.look()
    assert verdict.status == "passed", verdict


@pytest.mark.parametrize(("behind", "status"), [(9, "passed"), (12, "warning"), (29, "warning")])
def test_lag_is_told(signing: Signing, behind: int, status: str) -> None:
    signing.ship(LENGTH - behind)
    assert signing.look().status == status


def test_a_lag_beyond_the_limit_fails(signing: Signing) -> None:
    signing.ship(1)
    policy = POLICY.model_copy(update={"sign_state_max_blocks": 20})
    assert sign_states(signing.net.site, signing.net.rpc, signing.registers, policy).status == "failed"


def test_a_state_in_a_minority_of_the_regions_fails(signing: Signing) -> None:
    signing.ship(LENGTH, to=("us-east",))
    verdict = signing.look()
    assert verdict.status == "failed"
    assert "no majority" in verdict.observed
    signing.ship(LENGTH, to=("eu-west",))
    assert signing.look().status == "warning"


def test_a_validator_with_neither_copy_nor_register_fails(signing: Signing) -> None:
    signing.ship(LENGTH, besides=("val3",))
    verdict = signing.look()
    assert verdict.status == "failed"
    assert verdict.observed.startswith("val3: ")


def test_a_register_counts_in_place_of_copies_while_somebody_holds_it(signing: Signing) -> None:
    signing.ship(LENGTH, besides=("val3",))
    signing.hold("val3", LENGTH)
    assert signing.look().status == "passed"


def test_a_register_that_nobody_holds_fails(signing: Signing) -> None:
    signing.ship(LENGTH, besides=("val3",))
    address = next(node.address for node in signing.net.site.nodes if node.name == "val3")
    SignStateRegister(signing.registers, Validator("made-1", address)).found(NEVER_SIGNED)
    verdict = signing.look()
    assert (verdict.status, "nobody holds" in verdict.observed) == ("failed", True)


def test_a_register_in_a_minority_fails(signing: Signing) -> None:
    signing.ship(LENGTH, besides=("val3",))
    signing.hold("val3", LENGTH)
    for region in REGIONS[:2]:
        contents = signing.registers[region]._contents
        for key in [key for key in contents if not key.endswith("-shipped.json")]:
            del contents[key]
    verdict = signing.look()
    assert (verdict.status, "its register is in no majority" in verdict.observed) == ("failed", True)


def test_damaged_copies_in_a_majority_fail(signing: Signing) -> None:
    signing.ship(LENGTH)
    for region in REGIONS[:2]:
        for key in list(signing.registers[region]._contents):
            signing.registers[region]._contents[key] = b"rot"
    assert signing.look().status in ("failed", "could not run")


def test_without_the_chains_height_no_lag_is_told(signing: Signing) -> None:
    signing.ship(LENGTH)
    for node in signing.net.nodes.values():
        node.down = True
    with pytest.raises(UnavailableError):
        signing.look()


# --- buckets


@dataclass
class Buckets:
    stores: dict[str, Any] = field(default_factory=lambda: {r: MemoryStore(r) for r in REGIONS})
    registers: dict[str, Any] = field(default_factory=lambda: {r: MemoryRegisters(r) for r in REGIONS})

    def look(self, site: Site) -> Verdict:
        return stores.bucket_read_write(site, self.stores, self.registers, secrets.token_bytes(16), NOW)


class Careless(MemoryStore):
    """Overwrites what exists."""

    def create(self, key: ObjectKey, data: bytes) -> Any:
        return self.overwrite(key, data)


class Garbling(MemoryStore):
    """Gives other bytes than it took."""

    def get(self, key: ObjectKey, *, version: str | None = None) -> bytes:
        return super().get(key, version=version) + b"!"


class Clinging(MemoryStore):
    """Removes nothing: a lock that the site does not know of."""

    def __init__(self, region: str) -> None:
        super().__init__(region, clock=lambda: NOW, locked_for=dt.timedelta(days=1))


def _down(region: str) -> ObjectStore:
    store = MemoryStore(region)
    store.faults.down = True
    return store


def test_buckets_that_take_and_give_pass_and_are_left_empty(net: Net) -> None:
    buckets = Buckets()
    assert buckets.look(net.site).status == "passed"
    assert not [found for store in buckets.stores.values() for found in store.list("")]


@pytest.mark.parametrize(
    ("make", "status"), [(Careless, "failed"), (Garbling, "failed"), (Clinging, "failed"), (_down, "could not run")]
)
def test_one_bucket_that_does_not_keep_its_word_is_found(net: Net, make: Callable[[str], Any], status: str) -> None:
    buckets = Buckets()
    buckets.stores["eu-west"] = make("eu-west")
    verdict = buckets.look(net.site)
    assert verdict.status == status
    assert verdict.observed.startswith("eu-west: ")


class Careless2(MemoryRegisters):
    """Swaps whatever is there."""

    def swap(self, key: ObjectKey, data: bytes, *, expected: str | None) -> str:  # noqa: ARG002
        found = self.read(key)
        return super().swap(key, data, expected=found.tag if found else None)


def test_registers_that_take_a_stale_writer_are_found(net: Net) -> None:
    buckets = Buckets()
    assert buckets.look(net.site).status == "passed"
    buckets.registers["eu-west"] = Careless2("eu-west")
    verdict = buckets.look(net.site)
    assert (verdict.status, "a stale writer could swap" in verdict.observed) == ("failed", True)
    buckets.registers["eu-west"].faults.down = True
    assert buckets.look(net.site).status == "could not run"


# --- topology


def test_the_audits_critical_findings_fail_the_check(net: Net) -> None:
    class Opened:
        site = net.site
        registers: dict[str, Any] = {}  # noqa: RUF012

        @staticmethod
        def rpc(node: Node) -> ChainRpc:
            return net.rpc(node)

        @staticmethod
        def witnesses() -> tuple[Node, ...]:
            return tuple(node for node in net.site.nodes if not node.is_validator)

    verdict = topology(Opened(), lambda: NOW)
    assert verdict.status == "failed"  # 2/2/1 without standbys: the loss of us-east halts the chain
    assert "us-east" in verdict.observed
    assert verdict.remedy
