"""What the lab looks like now: every node as its supervisor and its own RPC see it.

Guarantees: one dead or cut part delays the answer by its own time limit only, and shows as what it is.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

from vedr.adapters.rpc import HttpChainRpc
from vedr.errors import UnavailableError, VedrError
from vedr.lab import agents, faults, readiness, units
from vedr.lab.addresses import GATEWAY_PORT, PROVIDER_PORT, RPC_PORT, STORE_PORT
from vedr.lab.plan import OPS, Member, Plan, PlannedNode, Zone
from vedr.ports import UnitStatus
from vedr.signature import Json

_ASK_LIMIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A chain node; height and peers are None when its RPC does not answer."""

    name: str
    region: str
    zone: str
    role: str
    state: str
    height: int | None
    peers: int | None
    power: int
    catching_up: bool | None


@dataclass(frozen=True, slots=True)
class PartRow:
    """Any other part."""

    name: str
    region: str
    zone: str
    kind: str
    state: str
    answers: bool | None
    reserve: bool


@dataclass(frozen=True, slots=True)
class ZoneRow:
    name: str
    region: str
    supervisor: bool
    cut: bool


@dataclass(frozen=True, slots=True)
class LabStatus:
    zones: tuple[ZoneRow, ...]
    nodes: tuple[NodeRow, ...]
    parts: tuple[PartRow, ...]

    @property
    def total_power(self) -> int:
        return sum(node.power for node in self.nodes)

    @property
    def online_power(self) -> int:
        """Of validators whose RPC answers and that are not catching up."""
        return sum(node.power for node in self.nodes if node.catching_up is False)

    @property
    def can_commit(self) -> bool:
        """CometBFT's rule: strictly more than two thirds."""
        return self.online_power * 3 > self.total_power * 2

    @property
    def height(self) -> int | None:
        return max((node.height for node in self.nodes if node.height is not None), default=None)

    def document(self) -> dict[str, Json]:
        """As JSON."""
        return {
            "height": self.height,
            "online_power": self.online_power,
            "total_power": self.total_power,
            "can_commit": self.can_commit,
            "zones": [asdict(zone) for zone in self.zones],
            "nodes": [asdict(node) for node in self.nodes],
            "parts": [asdict(part) for part in self.parts],
        }


def observe(plan: Plan) -> LabStatus:
    """Ask everything at once."""
    states: dict[str, UnitStatus] = {}
    with ThreadPoolExecutor(max_workers=16) as pool:
        for known in pool.map(partial(_unit_states, plan), (*plan.zones, None)):
            states |= known
        zones = pool.map(partial(_zone, plan), plan.zones)
        nodes = pool.map(partial(_node, plan, states), plan.nodes)
        parts = pool.map(lambda ask: ask(), _parts(plan, states))
        return LabStatus(tuple(zones), tuple(nodes), tuple(parts))


def _unit_states(plan: Plan, zone: Zone | None) -> dict[str, UnitStatus]:
    agent = agents.connect(plan, zone)
    try:
        return agent.units()
    except UnavailableError:
        return {}
    finally:
        agent.close()


def _zone(plan: Plan, zone: Zone) -> ZoneRow:
    alive = agents.answers(plan, zone)
    try:
        is_cut = faults.is_cut(plan, zone)
    except UnavailableError:
        is_cut = False
    return ZoneRow(zone.name, zone.region, alive, is_cut)


def _node(plan: Plan, states: dict[str, UnitStatus], node: PlannedNode) -> NodeRow:
    height = peers = catching_up = None
    state = _state(states, node.name)
    if state == "running":
        try:
            with HttpChainRpc(f"http://{plan.published(node, RPC_PORT)}", deadline_s=_ASK_LIMIT_S) as rpc:
                status = rpc.status()
                height, catching_up = int(status.latest_height), status.catching_up
                peers = len(rpc.net_info().peers)
        except VedrError:
            pass
    return NodeRow(
        node.name, node.zone.region, node.zone.name, node.role, state, height, peers, node.power, catching_up
    )  # fmt: skip


def _parts(plan: Plan, states: dict[str, UnitStatus]) -> list[Callable[[], PartRow]]:
    asked: list[tuple[str, Member, Callable[[], bool]]] = [
        *(("gateway", g, _get(plan, g, GATEWAY_PORT)) for g in plan.gateways),
        *(("provider", p, _get(plan, p, PROVIDER_PORT)) for p in plan.providers),
        *(
            ("store", s, partial(readiness.responds, f"http://{plan.published(s, STORE_PORT)}/"))
            for s in plan.stores.values()
        ),
    ]
    rows: list[Callable[[], PartRow]] = [
        partial(_part, kind, m.name, m.zone, states, ask, reserve=m.reserve) for kind, m, ask in asked
    ]  # fmt: skip
    server = partial(readiness.answers, f"http://{plan.orchestrator_server}/api/health")
    front = partial(readiness.answers, f"{plan.orchestrator_url}/api/health")
    dns = partial(readiness.listens, f"{plan.addresses.ops}:{plan.dns_port}")
    rows.append(partial(_part, "Prefect", units.SERVER_UNIT, None, states, server))
    rows.append(partial(_part, "Prefect's front", units.FRONT_UNIT, None, states, front))
    rows.append(partial(_part, "name server", units.DNS_UNIT, None, states, dns))
    vault = partial(readiness.responds, f"{plan.vault_url}/")
    rows.append(partial(_part, "secrets", units.VAULT_UNIT, None, states, vault))
    metrics = partial(readiness.answers, plan.metrics_url)
    rows.append(partial(_part, "metrics", units.METRICS_UNIT, None, states, metrics))
    page = partial(readiness.listens, f"{plan.addresses.ops}:{plan.status_page_port}")
    rows.append(partial(_part, "status page", units.STATUS_PAGE_UNIT, None, states, page))
    rows.append(partial(_part, "load", units.LOAD_UNIT, None, states, None))
    rows += [
        partial(_part, "sign-state", units.shipper_name(node.name), node.zone, states, None)
        for node in plan.nodes
        if units.shipped_from(plan, node)
    ]
    rows += [
        partial(_part, "signer", signer.name, signer.node.zone, states, None, reserve=signer.is_standby)
        for signer in plan.signers
    ]
    for pool in (*plan.regions, None):
        zone = plan.first_zone(pool) if pool else None
        rows.append(partial(_part, "worker", units.worker_name(pool), zone, states, None))
        if pool:
            name = units.controller_name(pool)
            rows.append(partial(_part, "controller", name, zone, states, None, reserve=True))
    return rows


def _part(
    kind: str,
    name: str,
    zone: Zone | None,
    states: dict[str, UnitStatus],
    ask: Callable[[], bool] | None,
    *,
    reserve: bool = False,
) -> PartRow:
    """Whatever is in reserve is only asked while it runs."""
    answers = None
    state = _state(states, name)
    if ask and (state == "running" or not reserve):
        try:
            answers = ask()
        except VedrError:
            answers = False
    place = (zone.region, zone.name) if zone else ("", OPS)
    return PartRow(name, *place, kind, state, answers, reserve)


def _get(plan: Plan, member: Member, port: int) -> Callable[[], bool]:
    return partial(readiness.answers, f"http://{plan.published(member, port)}/healthz")


def _state(states: dict[str, UnitStatus], name: str) -> str:
    return states[name].state if name in states else "no supervisor"
