"""Looks at every service of a site from where this process is: nodes by RPC, gateways and providers by HTTP, and what
does not answer through its zone's supervisor.

Guarantees: everything is asked at once, and a look ends within its deadline whatever hangs; a service that is gone is
an answer, never an error; supervisors that hang take nothing from the looks at services; an answer says what was seen,
in words that hold no secret.
Leaves out: what the answers mean (vedr.failover.health).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Final, Generic, TypeVar

import httpx

from vedr.adapters.rpc import HttpChainRpc
from vedr.chain.quorum import map_power
from vedr.chain.rpc import ChainRpc, signing_lately
from vedr.errors import NotFoundError, UnavailableError, VedrError
from vedr.failover.controller import Chain
from vedr.failover.health import Answer, Service, services_of
from vedr.failover.key_places import known_hosts, placed
from vedr.inventory import Gateway, Node, Provider, Site
from vedr.ports import Clock, Fleet

STILL_BLOCKS: Final = 6  # block times without a block: the chain stands still
LEAST_STILL_S: Final = 6.0
_NS_PER_S: Final = 1_000_000_000
_WITNESSES: Final = 6  # nodes asked for the newest commit, at once
_HTTP_SERVER_ERROR: Final = 500
_Said = TypeVar("_Said")


class _AtOnce(Generic[_Said]):
    """Asks many at once and waits for a while; who has not answered the last question yet is not asked another."""

    def __init__(self, workers: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._hanging: dict[str, Future[_Said]] = {}

    def ask(self, questions: Mapping[str, Callable[[], _Said]], *, limit_s: float) -> dict[str, _Said]:
        """The answers that came within the limit."""
        hanging = {name: future for name, future in self._hanging.items() if not future.done()}
        futures = {name: hanging.get(name) or self._pool.submit(ask) for name, ask in questions.items()}
        done, _ = wait(futures.values(), timeout=limit_s)
        self._hanging = hanging | futures
        return {name: future.result() for name, future in futures.items() if future in done}

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class SiteProber:
    """`vedr.failover.health.Prober` of a site.  Close it when done.

    Args:
        site: Whose services.
        fleet: The zones' supervisors; None: what does not answer stays unexplained.
        deadline_s: For each service, and for each supervisor; a look takes three times that at the most.
    """

    def __init__(self, site: Site, fleet: Fleet | None, *, deadline_s: float) -> None:
        self._things = {thing.name: thing for thing in site.placed}
        self._services = services_of(site)
        self._chain_id = site.chain.chain_id
        self._health_path = site.checks.health_path
        self._fleet = fleet
        self._deadline_s = deadline_s
        self._rpcs = {node.name: HttpChainRpc(node.rpc, name=node.name, deadline_s=deadline_s) for node in site.nodes}
        self._http = httpx.Client(
            timeout=deadline_s, trust_env=False, follow_redirects=False, limits=httpx.Limits(max_connections=None)
        )
        workers = len(self._services) or 1  # those of a lost region hang: nobody else may wait for them
        self._asked = _AtOnce[Answer](workers, "probe")
        self._explained = _AtOnce[str](workers, "supervisors")

    def close(self) -> None:
        """Ask nothing more."""
        self._asked.close()
        self._explained.close()
        self._http.close()
        for rpc in self._rpcs.values():
            rpc.close()

    def look(self) -> Sequence[Answer]:
        """As Prober says; a service whose last look has not ended yet is not asked on top of it."""
        limit_s = 2 * self._deadline_s
        questions = {service.name: functools.partial(self._ask, service) for service in self._services}
        said = self._asked.ask(questions, limit_s=limit_s)
        answers = [
            said.get(service.name) or Answer(service, answers=False, said=f"no answer within {limit_s:g} s")
            for service in self._services
        ]
        return answers if self._fleet is None else self._explain(answers, self._fleet)

    def _explain(self, answers: Sequence[Answer], fleet: Fleet) -> Sequence[Answer]:
        """What does not answer, with what its supervisor says of it."""
        silent = [answer.service.name for answer in answers if not answer.answers]
        questions = {name: functools.partial(_unit, fleet, self._things[name]) for name in silent}
        units = self._explained.ask(questions, limit_s=self._deadline_s)
        late = f"no word from its supervisor within {self._deadline_s:g} s"
        return [
            answer
            if answer.answers
            else replace(answer, said=f"{answer.said} ({units.get(answer.service.name, late)})")
            for answer in answers
        ]

    def _ask(self, service: Service) -> Answer:
        thing = self._things[service.name]
        return self._ask_node(service) if isinstance(thing, Node) else self._ask_http(service, thing)

    def _ask_node(self, service: Service) -> Answer:
        try:
            status = self._rpcs[service.name].status()
        except VedrError as error:
            return Answer(service, answers=False, said=_brief(error))
        height = int(status.latest_height)
        if status.chain_id != self._chain_id:
            return Answer(service, answers=False, said=f"is of chain {status.chain_id!r}")
        if status.catching_up:
            return Answer(service, answers=False, said=f"catches up, at height {height}", height=height)
        return Answer(service, answers=True, said=f"height {height}", height=height)

    def _ask_http(self, service: Service, thing: Gateway | Provider) -> Answer:
        """A gateway that answers 5xx serves nobody; a provider daemon that says it is not well is there."""
        try:
            status = self._http.get(thing.url.rstrip("/") + self._health_path).status_code
        except httpx.HTTPError as error:
            return Answer(service, answers=False, said=type(error).__name__)
        serves = status < _HTTP_SERVER_ERROR or isinstance(thing, Provider)
        return Answer(service, answers=serves, said=f"HTTP {status}")


class ChainProbe:
    """Asks the chain how much of its power takes part, from several nodes at once; each key counts where it signs now.

    Args:
        site: Its nodes and block time.
        rpc: A node's RPC; asked for once, when the node is asked first.
        hosts: Where keys sign that may be elsewhere (`vedr.failover.key_places.signing_hosts`).
        clock: Compared with the newest block's time.
    """

    def __init__(
        self,
        site: Site,
        rpc: Callable[[Node], ChainRpc],
        hosts: Callable[[], Mapping[str, str | None]],
        clock: Clock,
    ) -> None:
        self._site, self._hosts, self._clock = site, hosts, clock
        self._rpc = functools.cache(rpc)  # a controller asks for months: no connection is opened twice

    def __call__(self) -> Chain:
        """UnavailableError when no node answers, or nobody can tell where a key is."""
        hosts = known_hosts(self._hosts())
        nodes = sorted(self._site.nodes, key=lambda node: node.is_validator)  # full nodes first: no load on signers
        with ThreadPoolExecutor(_WITNESSES, thread_name_prefix="chain-probe") as pool:
            heights = [found for found in pool.map(self._height, nodes) if found is not None]
        for _, node in sorted(heights, key=lambda found: -found[0]):
            try:
                return self._read(self._rpc(node), hosts)
            except (UnavailableError, NotFoundError):
                continue
        raise UnavailableError("no node answers", remedy="Look at the nodes' RPC from this host.")

    def _height(self, node: Node) -> tuple[int, Node] | None:
        try:
            status = self._rpc(node).status()
        except VedrError:
            return None
        return (int(status.latest_height), node) if status.chain_id == self._site.chain.chain_id else None

    def _read(self, rpc: ChainRpc, hosts: Mapping[str, str]) -> Chain:
        signed = rpc.commit()
        height = signed.header.height
        age_s = self._clock().timestamp() - signed.header.time_ns / _NS_PER_S
        return Chain(
            powers=placed(self._site, map_power(self._site, rpc.validators(height)), hosts),
            online=signing_lately(rpc, height),
            height=int(height),
            moves=age_s <= max(STILL_BLOCKS * self._site.chain.block_time_s, LEAST_STILL_S),
        )


def _unit(fleet: Fleet, thing: Node | Gateway | Provider) -> str:
    """What its supervisor says; it may be gone as well, which proves nothing about the unit."""
    try:
        return f"unit {fleet.status(thing.unit, thing.zone).state}"
    except UnavailableError:
        return "supervisor does not answer"
    except VedrError as error:
        return _brief(error)


def _brief(error: VedrError) -> str:
    return error.message.partition(": ")[2] or error.message
