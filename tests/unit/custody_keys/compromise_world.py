"""A site on disk whose stores, host and chain are made up, which RB-DR-005 acts on in this process."""

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from chainmaker import CHAIN_ID, MadeNode, make_chain
from keysworld import PREFIX, REGIONS

from vedr.adapters.memory_store import MemoryStore
from vedr.adapters.secrets_memory import MemoryVault
from vedr.adapters.site import OpenSite
from vedr.chain import light
from vedr.chain.rpc import NetInfo, Peer
from vedr.custody.escrow import Escrow
from vedr.custody.key_backup_collect import back_up_region
from vedr.custody.key_backup_store import KeyRepository
from vedr.errors import DeadlineError, UnavailableError
from vedr.inventory import Node, Site, load_site
from vedr.ports import Pause, UnitState, UnitStatus
from vedr.runbook.execution import Plainly
from vedr.runbook.run import Outcome

POWERS = {1: 10, 2: 10, 3: 10, 4: 10}
LENGTH, STOPPED_AT = 60, 30


def chain(*, until: int = STOPPED_AT, others: Sequence[int] = (2, 3, 4)) -> MadeNode:
    """Validator 1 signs up to `until`, the others always."""
    blocks = make_chain(
        LENGTH, lambda _: POWERS, signers_at=lambda height: [1, *others] if height <= until else [*others]
    )
    return MadeNode("archive", blocks)


@dataclass
class FakeHost:
    """A fleet whose units do what they are told, unless they are unreachable."""

    states: dict[str, UnitState] = field(default_factory=dict)
    desired: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    down: bool = False
    stubborn: int = 0

    def status(self, unit: str, zone: str) -> UnitStatus:
        del zone
        if self.down:
            raise UnavailableError("the supervisor does not answer")
        state = self.states.get(unit, "running")
        pid = 7 if state in ("running", "paused") else None
        desired: Any = self.desired.get(unit, "running")
        return UnitStatus(unit, state, pid, dt.datetime.now(dt.UTC), None, desired)

    def start(self, unit: str, zone: str) -> UnitStatus:
        self.calls.append(f"start {unit}")
        self.states[unit], self.desired[unit] = "running", "running"
        return self.status(unit, zone)

    def stop(self, unit: str, zone: str) -> UnitStatus:
        self.calls.append(f"stop {unit}")
        self.status(unit, zone)
        if self.stubborn:
            self.stubborn -= 1
            raise DeadlineError("it is still there")
        self.states[unit], self.desired[unit] = "stopped", "stopped"
        return self.status(unit, zone)

    def kill(self, unit: str, zone: str) -> UnitStatus:
        self.calls.append(f"kill {unit}")
        self.states[unit] = "failed"
        return self.status(unit, zone)

    def pause(self, unit: str, zone: str, *, limit_s: float) -> None:
        self.calls.append(f"pause {unit} {limit_s}")
        self.status(unit, zone)
        self.states[unit] = "paused"

    def resume(self, unit: str, zone: str) -> Pause:
        self.calls.append(f"resume {unit}")
        self.status(unit, zone)
        self.states[unit] = "running"
        return Pause(paused_s=0.1, expired=False)

    def close(self) -> None:
        return


class FakeRpc(MadeNode):
    """A node of the made chain; every look at it after the containment shows a block more."""

    shared: "FakeSite"

    def status(self) -> Any:
        if self.shared.fleet.calls:
            self.shared.tip = min(self.shared.tip + 1, LENGTH)
        self.tip = self.shared.tip
        return super().status()

    def net_info(self) -> NetInfo:
        peers = tuple(Peer(node_id, "x", True) for node_id in self.shared.peers)
        return NetInfo(True, peers)


class FakeSite(OpenSite):
    """A site on this disk, its stores and escrow in memory, its host and chain made up."""

    def __init__(self, site: Site, until: int) -> None:
        super().__init__(site)
        self.memory = {region: MemoryStore(region) for region in REGIONS}
        self.vault = MemoryVault(*REGIONS)
        self.host = FakeHost()
        self.made = chain(until=until)
        self.tip = STOPPED_AT
        self.peers: list[str] = []

    @cached_property
    def stores(self) -> Any:
        return self.memory

    @cached_property
    def fleet(self) -> Any:
        return self.host

    @cached_property
    def keys(self) -> KeyRepository:
        recovery = self.site.custody.recovery_public_key
        assert recovery
        escrow = Escrow(self.vault, PREFIX)
        return KeyRepository(
            self.memory, self.signer, self.site.signing.trusted, escrow, bytes.fromhex(recovery),
            self.site.chain.chain_id, self.site.retention, lambda: dt.datetime.now(dt.UTC),
        )  # fmt: skip

    def rpc(self, node: Node, *, deadline_s: float = 2.0) -> Any:
        del deadline_s
        made = FakeRpc(node.name, self.made.blocks, chain_id=CHAIN_ID)
        made.shared = self
        return made

    def light_client(self, *, near: str | None = None, besides: str | None = None) -> Any:
        del near, besides
        outer = self

        class Light:
            def verified_header(self, height: int) -> light.VerifiedHeader:
                return light._sealed(outer.made.blocks[height].header)

        return Light()


@contextlib.contextmanager
def opened_site(
    path: Path, patch: pytest.MonkeyPatch, *, until: int, changed: Callable[[Site], Site] = lambda site: site
) -> Iterator[FakeSite]:
    from tasks import binding, compromise_aftermath  # noqa: PLC0415 (VEDR_PLAIN has to be set first)
    from tasks import compromise as steps  # noqa: PLC0415

    site = FakeSite(changed(load_site(str(path))), until)
    for kind in ("validator", "node", "provider"):
        site.keys.escrow.open_epoch(kind)  # type: ignore[arg-type]
    assert not back_up_region(site.keys, site.site, site.files, "us-east").troubles

    @contextlib.contextmanager
    def open_site(_: str | None = None) -> Iterator[FakeSite]:
        yield site

    for module in (binding, steps, compromise_aftermath):
        patch.setattr(module, "open_site", open_site)
    patch.setattr(compromise_aftermath, "BLOCKS_AFTER_LIMIT_S", 2.0)
    patch.setattr("time.sleep", lambda _: None)
    patch.setattr(binding, "Plainly", lambda: Plainly(lambda _: None))  # the pauses between attempts
    with site:
        yield site


def run(**order: Any) -> Outcome:
    from flows.key_compromise import RUNBOOK  # noqa: PLC0415
    from tasks.compromise import KeyCompromise  # noqa: PLC0415

    outcome = RUNBOOK.perform(KeyCompromise(**order))
    assert isinstance(outcome, Outcome)
    return outcome


def results(site: FakeSite, outcome_id: str) -> dict[str, Any]:
    entries = site.journal.read(outcome_id).entries  # type: ignore[arg-type]
    return {str(e.payload["step"]): e.payload["result"] for e in entries if e.kind == "step_completed"}
