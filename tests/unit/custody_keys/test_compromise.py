"""RB-DR-005: contained first, revoked everywhere, replaced, audited; over a made host and chain."""

import contextlib
import datetime as dt
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from chainmaker import CHAIN_ID, MadeNode, address, key, make_chain, public
from keysworld import PREFIX, REGIONS
from sitemaker import make_site

from vedr.adapters.memory_store import MemoryStore
from vedr.adapters.secrets_memory import MemoryVault
from vedr.adapters.site import OpenSite
from vedr.chain import light
from vedr.chain.block import CommitSig, Flag
from vedr.chain.rpc import NetInfo, Peer
from vedr.custody import compromise, key_backup_store
from vedr.custody.compromise import Window, audit_signatures
from vedr.custody.escrow import Escrow
from vedr.custody.key_backup_collect import back_up_region
from vedr.custody.key_backup_store import KeyRepository
from vedr.errors import CorruptError, DeadlineError, InvalidInputError, NotFoundError, RefusedError, UnavailableError
from vedr.inventory import Node, Site, load_site
from vedr.ports import Pause, UnitState, UnitStatus
from vedr.runbook.run import Outcome

WHOLE = Window(lowest=1, since=None, deadline_s=60)
POWERS = {1: 10, 2: 10, 3: 10, 4: 10}
LENGTH, STOPPED_AT = 60, 30


def chain(*, until: int = STOPPED_AT) -> MadeNode:
    """Validator 1 signs up to `until`, the others always."""
    blocks = make_chain(
        LENGTH, lambda _: POWERS, signers_at=lambda height: [1, 2, 3, 4] if height <= until else [2, 3, 4]
    )
    return MadeNode("archive", blocks)


def audit(node: MadeNode, *, window: Window = WHOLE, contained_at: int = STOPPED_AT) -> compromise.SigningAudit:
    tip = light._sealed(node.blocks[LENGTH].header)
    return audit_signatures(node, tip, public(1), window=window, contained_at=contained_at)


def test_the_audit_finds_first_and_last_signature_and_nothing_after_containment() -> None:
    found = audit(chain())
    assert (found.signed, found.first_signed, found.last_signed) == (30, 1, 30)
    assert (found.first_scanned, found.last_scanned, found.complete) == (1, LENGTH, True)
    assert not found.alarm


def test_what_was_in_flight_at_containment_is_no_alarm_and_what_came_later_is() -> None:
    assert not audit(chain(until=STOPPED_AT + 1)).alarm
    found = audit(chain(until=STOPPED_AT + 2))
    assert found.after_containment == (STOPPED_AT + 2,)
    assert found.alarm
    assert not audit(chain(until=LENGTH), contained_at=0).alarm
    assert len(audit(chain(until=LENGTH), contained_at=1).after_containment) == compromise.MAX_LISTED


def test_the_window_ends_where_it_is_said_to() -> None:
    low = audit(chain(), window=Window(lowest=21, since=None, deadline_s=60))
    assert (low.first_scanned, low.first_signed, low.signed, low.complete) == (21, 21, 10, True)
    node = chain()
    since = dt.datetime.fromtimestamp(node.blocks[25].header.time_ns / 1e9, dt.UTC)
    aged = audit(node, window=Window(lowest=1, since=since, deadline_s=60))
    assert (aged.first_scanned, aged.complete) == (24, True)


def test_a_window_that_was_not_scanned_whole_says_so() -> None:
    late = audit(chain(), window=Window(lowest=1, since=None, deadline_s=0))
    assert (late.complete, late.signed, late.why_not) == (False, 0, "stopped after 0 s")
    pruned = chain()
    del pruned.blocks[20]
    found = audit(pruned)
    assert (found.first_scanned, found.complete) == (21, False)
    assert "has no block 20" in found.why_not


def test_a_block_that_is_not_of_the_verified_chain_is_refused() -> None:
    node = chain()
    node.blocks[40] = make_chain(41, lambda _: POWERS, flavour=b"fork")[40]
    with pytest.raises(CorruptError, match="block 40 that is not of the verified chain"):
        audit(node)


def test_a_signature_that_is_not_the_keys_is_not_counted() -> None:
    node = chain()
    block = node.blocks[10]

    def with_mine(change: Callable[[CommitSig], CommitSig]) -> None:
        sigs = tuple(change(sig) if sig.address == address(1) else sig for sig in block.signed.commit.signatures)
        commit = replace(block.signed.commit, signatures=sigs)
        node.blocks[10] = replace(block, signed=replace(block.signed, commit=commit))

    with_mine(lambda sig: replace(sig, signature=bytes(64)))
    found = audit(node)
    assert (found.forged, found.signed) == (1, 29)
    with_mine(lambda sig: replace(sig, flag=Flag.NIL))
    assert audit(node).signed == 30


# --- evidence


def test_evidence_is_written_once_and_hashed(tmp_path: Path) -> None:
    folder = tmp_path / "evidence" / "inc"
    first = compromise.preserve(folder, {"a": (b"first", "what")})
    again = compromise.preserve(folder, {"a": (b"second", "what")})
    assert first == again
    assert (folder / "a").read_bytes() == b"first"
    assert (folder / "a").stat().st_mode & 0o777 == 0o600


def test_a_sign_state_in_the_evidence_is_not_one_that_a_node_could_read(tmp_path: Path) -> None:
    state = tmp_path / "data" / "priv_validator_state.json"
    state.parent.mkdir()
    state.write_text('{"height":"7","round":0,"step":3}')
    document = json.loads(compromise.sign_state_evidence(tmp_path))
    assert set(document) == {"note", "file", "text"}
    assert document["note"] == "evidence only: never to be put back"
    state.unlink()
    assert "not read" in json.loads(compromise.sign_state_evidence(tmp_path))["text"]
    assert "error" in compromise.describe_file(state)
    assert compromise.describe_file(tmp_path)["sha256"] == ""


def test_a_log_is_kept_from_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"0123456789")
    monkeypatch.setattr(compromise, "LOG_TAIL_BYTES", 4)
    assert compromise.log_tail(log) == b"6789"
    assert compromise.log_tail(tmp_path / "none").startswith(b"not read")


def test_a_key_is_taken_out_of_its_place_once(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert compromise.set_aside(path, "inc") is None
    path.write_bytes(b"old")
    aside = compromise.set_aside(path, "inc")
    assert aside is not None
    path.write_bytes(b"new")
    assert compromise.set_aside(path, "inc") == aside
    assert (path.read_bytes(), aside.read_bytes()) == (b"new", b"old")


def test_a_consensus_key_is_said_not_to_be_rotatable() -> None:
    steps = compromise.operator_steps("validator", "v", new="ABC", backup="b")
    assert "cannot rotate a consensus key" in steps[0]
    assert "Never start the old key again" in steps[1]
    assert any("vedr keys restore b" in step for step in steps)
    assert any("peer" in step for step in compromise.operator_steps("node", "n", new="id", backup="b"))
    assert any("Register" in step for step in compromise.operator_steps("provider", "p", new="id", backup="b"))
    done = compromise.checklist("validator", contained=True, rotated=True, audited=False)
    assert done[0].startswith("[x] contained")
    assert "[ ] use of the key audited" in done


# --- the runbook


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
        peers = tuple(Peer(node_id, "x", "127.0.0.1", True) for node_id in self.shared.peers)
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


@pytest.fixture
def site_path(tmp_path: Path) -> Path:
    return make_site(tmp_path, chain_id=CHAIN_ID, validators={r: key(n) for n, r in enumerate(REGIONS, start=1)})


@pytest.fixture
def opened(site_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSite]:
    monkeypatch.setenv("VEDR_PLAIN", "1")
    with opened_site(site_path, monkeypatch, until=STOPPED_AT) as site:
        yield site


@contextlib.contextmanager
def opened_site(path: Path, patch: pytest.MonkeyPatch, *, until: int) -> Iterator[FakeSite]:
    from tasks import binding, compromise_aftermath  # noqa: PLC0415 (VEDR_PLAIN has to be set first)
    from tasks import compromise as steps  # noqa: PLC0415

    site = FakeSite(load_site(str(path)), until)
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


def test_a_validators_key_is_contained_revoked_and_replaced_by_one_that_is_not_installed(opened: FakeSite) -> None:
    node = opened.site.node("validator-us-east")
    old = (node.home / "config" / "priv_validator_key.json").read_bytes()
    outcome = run(kind="validator", owner=node.name, reason="seen elsewhere")
    assert outcome.outcome == "completed"
    assert outcome.met
    assert opened.host.calls[:2] == [f"kill {node.name}", f"stop {node.name}"]
    assert opened.host.states[node.name] == "stopped"
    assert not (node.home / "config" / "priv_validator_key.json").exists()
    [aside] = (node.home / "config").glob("priv_validator_key.json.compromised-*")
    assert aside.read_bytes() == old
    done = results(opened, outcome.run_id)
    assert done["contain"]["stopped"]
    [fingerprint] = done["fence_key"]["fingerprints"]
    [revoked] = key_backup_store.revocations(opened.keys, "us-east", [fingerprint])
    assert (revoked.incident, revoked.reason) == (outcome.run_id, "seen elsewhere")
    rotated = done["rotate_key"]
    assert rotated["installed"] == rotated["started"] == ""
    assert rotated["fingerprint"] != fingerprint
    newest = key_backup_store.newest(opened.keys, "us-east", "validator", node.name)
    assert newest is not None
    assert newest.id == rotated["backup"]
    assert [one.key.fingerprint for one in newest.replaced] == [fingerprint]
    audited = done["audit_use"]
    assert (audited["audited"], audited["alarm"]) == (True, False)
    assert audited["signing"]["last_signed"] == STOPPED_AT
    report = done["report"]
    assert "cannot rotate a consensus key" in report["operator_steps"][0]
    assert report["regions"] == list(REGIONS)
    folder = Path(report["folder"])
    assert {path.name for path in folder.iterdir()} == {item["name"] for item in report["evidence"]}
    assert "sign-state.txt" in {item["name"] for item in report["evidence"]}
    assert old not in b"".join(path.read_bytes() for path in folder.iterdir())


def test_a_signature_after_the_containment_is_an_alarm(site_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEDR_PLAIN", "1")
    with opened_site(site_path, monkeypatch, until=LENGTH) as site:
        done = results(site, run(kind="validator", owner="validator-us-east").run_id)
    assert done["audit_use"]["alarm"]
    assert "somebody else holds the key" in done["audit_use"]["finding"]
    assert done["report"]["headline"].startswith("ALARM")


def test_a_nodes_key_is_replaced_and_the_node_serves_again(opened: FakeSite) -> None:
    node, peer = opened.site.node("full-us-east"), opened.site.node("arch-eu-west")
    path = node.home / "config" / "node_key.json"
    old = json.loads(path.read_bytes())
    entry = key_backup_store.newest(opened.keys, "us-east", "node", node.name)
    assert entry is not None
    old_id = entry.keys[0].address
    (peer.home / "config" / "config.toml").write_text(f'persistent_peers = "{old_id}@127.0.0.1:26656"\n')
    done = results(opened, run(kind="node", owner=node.name).run_id)
    assert json.loads(path.read_bytes()) != old
    assert opened.host.states[node.name] == "running"
    assert done["assess"]["affected"] == [peer.name]
    new_id = done["rotate_key"]["known_as"]
    assert done["rotate_key"]["peers_to_change"] == [f"{peer.name}: replace {old_id} by {new_id} in persistent_peers"]
    assert done["audit_use"] == {
        "audited": True, "alarm": False, "finding": "the old id is connected to none of 8 nodes", "signing": None,
    }  # fmt: skip


def test_an_old_node_id_among_the_peers_is_an_alarm(opened: FakeSite) -> None:
    entry = key_backup_store.newest(opened.keys, "us-east", "node", "full-us-east")
    assert entry is not None
    opened.peers = [entry.keys[0].address]
    done = results(opened, run(kind="node", owner="full-us-east").run_id)
    assert done["audit_use"]["alarm"]
    assert "validator-us-east" in done["audit_use"]["finding"]


def test_a_providers_key_is_replaced_and_the_daemon_left_stopped(opened: FakeSite) -> None:
    provider = opened.site.providers[0]
    old = (provider.home / "keys" / "provider.pem").read_bytes()
    done = results(opened, run(kind="provider", owner=provider.name).run_id)
    assert (provider.home / "keys" / "provider.pem").read_bytes() != old
    assert opened.host.states[provider.unit] == "stopped"
    assert not done["audit_use"]["audited"]
    assert "told apart by people" in done["audit_use"]["finding"]


def test_a_host_that_does_not_answer_is_not_contained_and_gets_no_new_key_before_it_is(opened: FakeSite) -> None:
    opened.host.down = True
    with pytest.raises(UnavailableError, match="does not answer"):
        run(kind="node", owner="full-us-east")
    [incident] = opened.journal.runs_of("RB-DR-005")
    done = results(opened, incident)
    assert not done["contain"]["stopped"]
    assert "NOT CONTAINED" in done["notify_security"]["text"]
    assert "rotate_key" not in done
    assert done["fence_key"]["regions"] == list(REGIONS)
    opened.host.down = False
    with pytest.raises(UnavailableError, match="not contained"):
        run(kind="node", owner="full-us-east", incident=incident)
    opened.host.stop("full-us-east", "us-east-1a")
    outcome = run(kind="node", owner="full-us-east", incident=incident)
    assert outcome.run_id == incident
    assert outcome.outcome == "completed"


def test_a_unit_that_does_not_end_is_killed_again(opened: FakeSite) -> None:
    opened.host.stubborn = 1
    done = results(opened, run(kind="node", owner="full-us-east").run_id)
    assert done["contain"]["stopped"]
    assert opened.host.calls[:4] == [
        "kill full-us-east", "stop full-us-east", "kill full-us-east", "stop full-us-east",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("order", "error"),
    [
        ({"kind": "validator", "owner": "full-us-east"}, InvalidInputError),
        ({"kind": "node", "owner": "nobody"}, NotFoundError),
        ({"kind": "provider", "owner": "full-us-east"}, NotFoundError),
    ],
)
def test_a_name_that_has_no_such_key_is_refused_before_anything_is_done(
    opened: FakeSite, order: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        run(**order)
    assert not opened.host.calls


def test_the_old_key_put_back_is_refused(opened: FakeSite) -> None:
    from tasks import compromise_aftermath  # noqa: PLC0415

    node = opened.site.node("full-us-east")
    path = node.home / "config" / "node_key.json"
    old = path.read_bytes()
    real = compromise_aftermath.take_aside

    def and_put_back(*args: Any) -> list[Path]:
        moved = real(*args)
        path.write_bytes(old)
        return moved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compromise_aftermath, "take_aside", and_put_back)
        with pytest.raises(RefusedError, match="holds the old key again"):
            run(kind="node", owner=node.name)
