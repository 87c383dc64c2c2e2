"""Collects a site's metrics in the background and serves the newest.

Guarantees: a scrape reads memory and never waits for a store, a node or the ledger; each collector has a thread and an
opened site of its own, so that what hangs or fails is its own subject's metrics and nobody else's.
Leaves out: stopping a collector that hangs; its thread does not keep the process alive.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

from vedr.adapters.check_probes import SiteCustody, SiteNetwork, SiteStores
from vedr.adapters.rpc import HttpChainRpc
from vedr.adapters.site import PROBE_DEADLINE_S, OpenSite, utc_now
from vedr.errors import InvalidInputError, VedrError
from vedr.inventory import Node, Site
from vedr.readiness.ports import Ports
from vedr.readiness.side_by_side import side_by_side
from vedr.reports import metrics_backups, metrics_chain
from vedr.reports.metrics import Sample, render
from vedr.reports.metrics_board import Board, Collector
from vedr.reports.metrics_ledger import LedgerMetrics
from vedr.targets import MINUTE_S

STOP_S: Final = 5.0  # that collectors are given to end before they are left behind
RETRY_S: Final = 30.0  # after a failure, when the collector's own interval is longer

OpenPorts = Callable[[], AbstractContextManager[Ports]]
Say = Callable[[str, Mapping[str, str]], None]


def collectors() -> tuple[Collector, ...]:
    """All of them, for one process."""
    return (
        Collector("nodes", 15, 10, metrics_chain.nodes),
        Collector("power", 30, 30, metrics_chain.power),
        Collector("sign-states", 30, 30, metrics_chain.sign_states),
        Collector("ledger", MINUTE_S, 2 * MINUTE_S, LedgerMetrics()),
        Collector("backups", 5 * MINUTE_S, 2 * MINUTE_S, metrics_backups.backups),
        Collector("keys", 5 * MINUTE_S, 2 * MINUTE_S, metrics_backups.keys),
        Collector("escrow", 10 * MINUTE_S, MINUTE_S, metrics_backups.escrow),
        Collector("proofs", 15 * MINUTE_S, 5 * MINUTE_S, metrics_backups.proofs),
    )


def choose(known: Sequence[Collector], names: Sequence[str]) -> tuple[Collector, ...]:
    """The named ones, in their own order; all when none is named.  InvalidInputError for a name that is none."""
    if unknown := sorted(set(names) - {one.name for one in known}):
        raise InvalidInputError(
            f"no collector {', '.join(unknown)}", remedy=f"Choose of: {', '.join(one.name for one in known)}."
        )
    return tuple(one for one in known if not names or one.name in names)


class _LastingSite(OpenSite):
    """A site that stays open for many collections: one client a node."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._clients: dict[tuple[str, float], HttpChainRpc] = {}
        self._turn = threading.Lock()

    def rpc(self, node: Node, *, deadline_s: float = PROBE_DEADLINE_S) -> HttpChainRpc:
        with self._turn:
            if (node.name, deadline_s) not in self._clients:
                self._clients[node.name, deadline_s] = super().rpc(node, deadline_s=deadline_s)
            return self._clients[node.name, deadline_s]


@contextlib.contextmanager
def open_lasting(site: Site) -> Iterator[Ports]:
    """A site's own parts and probes, for as long as one collector works."""
    with _LastingSite(site) as opened:
        yield Ports(opened, SiteNetwork(site.dns), SiteStores(opened), SiteCustody(opened), utc_now)


@contextlib.contextmanager
def collecting(
    wanted: Sequence[Collector], open_ports: OpenPorts, say: Say, *, monotonic: Callable[[], float] = time.monotonic
) -> Iterator[Board]:
    """Collect while the block runs.

    Args:
        wanted: The collectors.
        open_ports: Opens the site, once for each, and again after a failure.
        say: Told when a collector begins to fail, and when it works again.
        monotonic: Seconds, for deadlines and ages.
    """
    board, stopping = Board(wanted, monotonic=monotonic), threading.Event()
    workers = [_Worker(collector, board, open_ports, say, stopping) for collector in wanted]
    for worker in workers:
        worker.start()
    try:
        yield board
    finally:
        stopping.set()
        for worker in workers:
            worker.join(STOP_S)


class _Worker(threading.Thread):
    """One collector's rounds."""

    def __init__(
        self, collector: Collector, board: Board, open_ports: OpenPorts, say: Say, stopping: threading.Event
    ) -> None:
        super().__init__(name=f"collect-{collector.name}", daemon=True)
        self._collector, self._board, self._stopping = collector, board, stopping
        self._open_ports, self._say = open_ports, say
        self._trouble = ""

    def run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.ExitStack() as stack:
                self._collect_until_it_fails(partial(stack.enter_context, self._open_ports()))

    def _collect_until_it_fails(self, enter: Callable[[], Ports]) -> None:
        ports: Ports | None = None
        failed = False
        while not failed and not self._stopping.is_set():
            self._board.begins(self._collector.name)
            try:
                ports = ports or enter()
                samples = tuple(self._collector.collect(ports))
            except Exception as error:  # noqa: BLE001 - whatever it stumbles over is this collector's failure
                failed = True
                self._board.fails(self._collector.name)
                self._tell(_words(error))
            else:
                in_time = self._board.succeeds(self._collector.name, samples)
                self._tell("" if in_time else f"it took longer than {self._collector.deadline_s:g} s")
            pause_s = self._collector.interval_s
            self._stopping.wait(min(pause_s, RETRY_S) if failed else pause_s)

    def _tell(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._say("failing" if trouble else "works again", {"collector": self._collector.name, "why": trouble})
        self._trouble = trouble


def collect_once(wanted: Sequence[Collector], open_ports: OpenPorts) -> tuple[str, dict[str, str]]:
    """All of them now, side by side: the text, and by collector why it brought nothing."""

    def collect(collector: Collector) -> tuple[Sample, ...]:
        with open_ports() as ports:
            return tuple(collector.collect(ports))

    longest_s = max((collector.deadline_s for collector in wanted), default=0.0)
    calls = {collector.name: partial(collect, collector) for collector in wanted}
    answers = side_by_side(calls, deadline_s=longest_s)
    text = render(sample for answer in answers.values() for sample in answer.value or ())
    return text, {name: _words(answer.error) for name, answer in answers.items() if answer.error is not None}


def _words(error: BaseException) -> str:
    return error.message if isinstance(error, VedrError) else type(error).__name__
