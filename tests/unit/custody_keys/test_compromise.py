"""RB-DR-005: contained first, revoked everywhere, replaced, audited; over a made host and chain."""

import datetime as dt
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chainmaker import CHAIN_ID, MadeNode, address, key, make_chain, public
from compromise_world import LENGTH, POWERS, STOPPED_AT, FakeSite, chain, opened_site, results, run
from keysworld import REGIONS
from sitemaker import make_site

from vedr.chain import light
from vedr.chain.block import CommitSig, Flag
from vedr.custody import compromise, key_backup_store
from vedr.custody.compromise import Window, audit_signatures
from vedr.errors import CorruptError, InvalidInputError, NotFoundError, RefusedError, UnavailableError

WHOLE = Window(lowest=1, since=None, deadline_s=60)


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
    steps = compromise.operator_steps("validator", "v", new="ABC", backup="b", revoked=True)
    assert "cannot rotate a consensus key" in steps[0]
    assert "Never start the old key again" in steps[1]
    assert any("vedr keys restore b" in step for step in steps)
    assert any("peer" in step for step in compromise.operator_steps("node", "n", new="id", backup="b", revoked=True))
    assert any(
        "Register" in step for step in compromise.operator_steps("provider", "p", new="id", backup="b", revoked=True)
    )
    done = compromise.checklist("validator", contained=True, evidence=False, rotated=True, audited=False)
    assert done[0].startswith("[x] contained")
    assert done[1].startswith("[ ] evidence preserved")
    assert "[ ] use of the key audited" in done


# --- the runbook


@pytest.fixture
def site_path(tmp_path: Path) -> Path:
    return make_site(tmp_path, chain_id=CHAIN_ID, validators={r: key(n) for n, r in enumerate(REGIONS, start=1)})


@pytest.fixture
def opened(site_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSite]:
    monkeypatch.setenv("VEDR_PLAIN", "1")
    with opened_site(site_path, monkeypatch, until=STOPPED_AT) as site:
        yield site


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
    with pytest.raises(UnavailableError, match="not contained"):
        run(kind="node", owner="full-us-east", incident=incident)
    opened.host.down = False
    outcome = run(kind="node", owner="full-us-east", incident=incident)  # contains it first
    assert outcome.run_id == incident
    assert outcome.outcome == "completed"
    assert "[x] contained" in results(opened, incident)["report"]["checklist"][0]


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
