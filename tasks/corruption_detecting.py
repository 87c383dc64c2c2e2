"""What a node's disk, its RPC, its log and verified headers say of its data.

Guarantees: databases are opened only while no process has them; who is wrong is decided by headers that other nodes'
signatures verify; what could not be looked at is named.
"""

from pathlib import Path

from tasks.observing import Seen, ask, in_sync, others, tip_of
from vedr.adapters.site import OpenSite
from vedr.chain import consensus_log
from vedr.chain.diagnosis import claims_of_data, claims_of_node, settle
from vedr.chain.inspection import InconsistentError
from vedr.chain.leveldb import missing_tables
from vedr.chain.light import LightClient
from vedr.chain.rpc import AbciInfo
from vedr.errors import (
    CorruptError,
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    VerificationFailedError,
)
from vedr.failover.corruption import CONSENSUS_LOG, Evidence, Finding, KindChoice, is_serving, shown
from vedr.failover.corruption_config import broken_files, drift
from vedr.failover.corruption_offsets import compare_with_store
from vedr.failover.corruption_signs import read_signs
from vedr.inventory import Node
from vedr.ports import UnitState

AT_REST: tuple[UnitState, ...] = ("stopped", "failed")


class Looking:
    """One look at a node; findings are gathered as they come."""

    def __init__(self, opened: OpenSite, node: Node, wanted: KindChoice) -> None:
        self._opened, self._node, self._wanted = opened, node, wanted
        self._findings: list[Finding] = []
        self._unchecked: list[str] = []
        self._whole: list[str] = []
        self._others = others(opened, node)
        self._tip = tip_of(self._others)

    def evidence(self) -> Evidence:
        """All of it.

        Raises:
            DivergenceError: the other nodes show different signed headers: nobody can say who is wrong.
        """
        unit, own = _unit_state(self._opened, self._node), next(iter(ask(self._opened, [self._node])), None)
        height = own.status.latest_height if own else None
        home = self._home()
        if home is not None:
            self._look_at_files(home)
        light = self._light()
        if light is not None and own is not None:
            self._look_at_answers(own, light)
        if home is not None and unit in AT_REST:
            self._look_at_data(home, light)
            self._look_at_manifests(home)
            self._look_at_tables(home)
        if not is_serving(unit, height, self._tip):
            self._look_at_log()
            if unit not in AT_REST:
                self._unchecked.append("its databases, which its process has open")
        return Evidence(
            node=self._node.name,
            unit=unit,
            height=height,
            tip=self._tip,
            findings=tuple(self._findings),
            unchecked=tuple(self._unchecked),
            whole=tuple(self._whole),
            others_wrong=self._others_that_differ(light),
        )

    def _home(self) -> Path | None:
        try:
            return self._opened.files.home(self._node)
        except UnavailableError as error:
            self._unchecked.append(error.message)
            return None

    def _light(self) -> LightClient | None:
        try:
            return self._opened.light_client(near=self._node.region, besides=self._node.name)
        except InvalidInputError as error:
            self._unchecked.append(error.message)
            return None

    def _look_at_files(self, home: Path) -> None:
        signs_from_file = self._node.is_validator and not self._opened.site.signers_of(self._node.name)
        broken = broken_files(home, self._opened.site.chain, self._node, has_key_file=signs_from_file)
        self._findings += broken
        if broken:
            return
        self._whole.append("its configuration and genesis can be read")
        if self._wanted == "config":
            self._look_at_drift(home)

    def _look_at_drift(self, home: Path) -> None:
        """Who names the configuration wants it as it was backed up, also where a file can be read."""
        try:
            self._findings += drift(self._opened.repository, self._opened.site.chain, self._node, home)
        except (UnavailableError, VerificationFailedError) as error:
            self._unchecked.append(error.message)

    def _look_at_answers(self, own: Seen, light: LightClient) -> None:
        app: AbciInfo | None = None
        try:
            app = own.rpc.abci_info()
        except (UnavailableError, CorruptError) as error:
            self._unchecked.append(f"its application does not answer: {error.message}")
        settled = settle(claims_of_node(own.status, app), light)
        self._findings += [Finding("state", "state", detail) for detail in settled.false]
        self._unchecked += settled.unsettled
        self._whole += settled.true

    def _look_at_data(self, home: Path, light: LightClient | None) -> None:
        deep = bool(self._opened.site.chain.inspect_deep)
        if damage := consensus_log.damage_in(home / CONSENSUS_LOG):
            self._findings.append(Finding("database", CONSENSUS_LOG, damage))
        try:
            inspected = self._opened.inspector.inspect(home, home / "data", deep=deep)
        except InconsistentError as error:
            self._findings.append(Finding("state", "data", error.message))
            return
        except CorruptError as error:
            self._findings.append(Finding("database", "data", error.message))
            return
        except (DeadlineError, NotFoundError) as error:
            self._unchecked.append(error.message)
            return
        if not deep:
            self._unchecked.append("every key and value: the site names no program for it ([chain] inspect_deep)")
        if inspected.chain_id != self._opened.site.chain.chain_id:
            self._findings.append(Finding("state", "data", f"it is of chain {inspected.chain_id}"))
        elif light is not None:
            settled = settle(claims_of_data(inspected), light)
            self._findings += [Finding("state", "state", detail) for detail in settled.false]
            self._unchecked += settled.unsettled
            self._whole += settled.true

    def _look_at_manifests(self, home: Path) -> None:
        """Tables that databases count on, all of them: also those that no inspection opens."""
        missing: list[str] = []
        for database in sorted((home / "data").glob("*.db")):
            try:
                missing += missing_tables(database)
            except CorruptError as error:
                missing.append(error.message)
        if missing:
            self._findings.append(Finding("database", "data/tables", shown(missing)))

    def _look_at_tables(self, home: Path) -> None:
        """Tables are never rewritten in place: one that differs from the store's proven copy is damaged."""
        if any(one.kind != "config" and one.subject != CONSENSUS_LOG for one in self._findings):
            return
        compared = compare_with_store(self._opened.repository, self._node, home / "data")
        if compared.damaged:
            self._findings.append(Finding("database", "data", shown(compared.damaged)))
        elif compared.reason:
            self._whole.append(f"not all tables were compared with the store: {compared.reason}")
        else:
            self._whole.append(f"{compared.files} tables are as in {compared.snapshot}")

    def _look_at_log(self) -> None:
        template = self._opened.site.custody.unit_log
        if not template:
            return
        try:
            self._findings += read_signs(Path(template.format(unit=self._node.unit)))
        except OSError as error:
            self._unchecked.append(f"its log: {error.strerror}")

    def _others_that_differ(self, light: LightClient | None) -> tuple[str, ...]:
        """Other nodes whose block at a verified height is another one."""
        if light is None:
            return ()
        try:
            header = light.verified_tip()
        except VerificationFailedError as error:
            self._unchecked.append(f"other nodes: {error.message}")
            return ()
        found = []
        for one in in_sync(self._others):
            try:
                shown = one.rpc.commit(header.height).header
            except (UnavailableError, NotFoundError, CorruptError):
                continue
            if shown.hash().hex().upper() != header.hash:
                found.append(one.node.name)
        return tuple(found)


def _unit_state(opened: OpenSite, node: Node) -> UnitState | None:
    try:
        return opened.fleet.status(node.unit, node.zone).state
    except UnavailableError:
        return None
