"""Nodes asked for several checks at once: one client a node, and one answer for all who ask the same at the same time.

Five checks want every node's status.  Whoever asks while another waits for the answer gets that answer, and whoever
asks right after it gets it too, an error as well as a status: a node that is gone costs its deadline once.

Guarantees: a status came after it was asked for, or is of the last FRESH_S, as a slow node's own may be; a commit is
shared only for a height that was named, whose header never changes; nothing outlives the `SharedNodes` of one run.
Leaves out: every other question, which is asked each time.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from vedr.adapters.rpc import HttpChainRpc
from vedr.adapters.site import PROBE_DEADLINE_S, OpenSite
from vedr.chain import rpc
from vedr.chain.block import SignedHeader
from vedr.errors import VedrError
from vedr.inventory import Height, Node, Site

FRESH_S: Final = PROBE_DEADLINE_S


class SharedRpc(HttpChainRpc):
    """A node's RPC for all the checks of a run.  Thread-safe."""

    def __init__(
        self, url: str, *, name: str, deadline_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(url, name=name, deadline_s=deadline_s)
        self._monotonic = monotonic
        self._asking = threading.Lock()
        self._said: _Said | None = None
        self._commits: dict[Height, SignedHeader] = {}

    def status(self) -> rpc.Status:
        began_s = self._monotonic()
        with self._asking:
            said = self._said
            if said is None or (said.came_s < began_s and self._monotonic() - said.of_s > FRESH_S):
                said = self._said = self._ask()
        if isinstance(said.what, VedrError):
            raise said.what
        return said.what

    def _ask(self) -> "_Said":
        asked_s = self._monotonic()
        try:
            return _Said(super().status(), asked_s, self._monotonic())
        except VedrError as error:
            now_s = self._monotonic()
            return _Said(error, now_s, now_s)

    def commit(self, height: Height | None = None) -> SignedHeader:
        if height is None:
            return super().commit()
        if (known := self._commits.get(height)) is None:
            known = self._commits[height] = super().commit(height)
        return known


@dataclass(frozen=True, slots=True)
class _Said:
    """An answer, the moment that it may be of at the earliest, and when it came."""

    what: rpc.Status | VedrError
    of_s: float
    came_s: float


class SharedNodes:
    """The clients of one run; close it, or use it with `with`."""

    def __init__(self) -> None:
        self._closing = contextlib.ExitStack()
        self._clients: dict[tuple[str, float], SharedRpc] = {}
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._turn:
            self._closing.close()

    def rpc(self, node: Node, deadline_s: float) -> SharedRpc:
        """The node's client with that deadline, the same for everybody."""
        with self._turn:
            known = self._clients.get((node.name, deadline_s))
            if known is None:
                known = self._closing.enter_context(SharedRpc(node.rpc, name=node.name, deadline_s=deadline_s))
                self._clients[node.name, deadline_s] = known
            return known


class SharingSite(OpenSite):
    """A site whose nodes are asked together with others who opened it."""

    def __init__(self, site: Site, nodes: SharedNodes) -> None:
        super().__init__(site)
        self._nodes = nodes

    def rpc(self, node: Node, *, deadline_s: float = PROBE_DEADLINE_S) -> SharedRpc:
        return self._nodes.rpc(node, deadline_s)
