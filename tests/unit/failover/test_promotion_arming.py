"""The promotion arms the standby: the floor under what it may sign, its key, its disk."""

import base64
import json
from pathlib import Path
from typing import Any, cast

import pytest
from promotion_world import KEY, NOW, OURS, PUBLIC, TIP, World

from vedr.chain import floor as floors
from vedr.chain.attestation import Statement
from vedr.chain.block import Flag
from vedr.chain.sign_state import SignState
from vedr.errors import (
    ConflictError,
    CorruptError,
    DeadlineError,
    NotFoundError,
    RefusedError,
)
from vedr.failover.promotion import Patience
from vedr.failover.promotion_key import KeySeen, check_key, read_key_file
from vedr.failover.signer_disk import LocalSignerDisk, Ticket, set_double_sign_check
from vedr.inventory import Height


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- floor


def halted_without_state(world: World) -> None:
    world.network.moves = False
    world.hosts["a"].put(None)


def test_a_halted_chain_without_the_last_state_is_refused(world: World) -> None:
    halted_without_state(world)
    with pytest.raises(RefusedError, match=r"final state is not proven; the highest known is 40/0/3"):
        world.promote()
    assert "key_ready" not in world.stages


def test_a_copy_above_the_disks_state_shows_that_it_is_not_the_last(world: World) -> None:
    world.network.moves = False
    world.copies = [SignState(Height(TIP + 1), 0, 1)]
    with pytest.raises(RefusedError, match=r"the highest known is 41/0/1"):
        world.promote()


def test_two_people_can_take_the_risk_that_is_written_out_to_them(world: World) -> None:
    halted_without_state(world)
    world.network.vote(TIP + 1, 2, 2)
    with pytest.raises(RefusedError):
        world.promote()
    assert "slashed and the validator is removed for ever" in world.risk
    assert "with the floor 41/2/2" in world.risk

    world.statements = [Statement("Ada", world.risk, NOW)]
    with pytest.raises(RefusedError, match="1 of 2 people"):
        world.promote(attempt=2)

    world.statements.append(Statement("Grace", world.risk, NOW))
    world.patience = Patience(quiet_s=2.0, still_s=1.0, watch_s=0.1)
    with pytest.raises(DeadlineError):
        world.promote(attempt=3)
    assert world.hosts["b"].state.hrs == (41, 2, 2)
    assert "accepted by Ada and Grace" in dict(world.ledger)["floored"]["reason"]


def test_a_risk_that_grew_needs_a_new_word(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    halted_without_state(world)
    told = list[str]()
    risk_of = floors.risk_of

    def another_risk(*args: Any) -> str:
        told.append(risk_of(*args))
        return told[0] if len(told) == 1 else told[0] + "!"

    monkeypatch.setattr(floors, "risk_of", another_risk)
    world.say = lambda risk: [Statement("Ada", risk, NOW), Statement("Grace", risk, NOW)]  # type: ignore[method-assign]
    with pytest.raises(RefusedError, match="accepted is not this one"):
        world.promote()


def test_with_nothing_known_at_all_the_risk_says_so(world: World) -> None:
    halted_without_state(world)
    world.hosts["b"].put(None)
    world.network.signed = dict.fromkeys(range(1, TIP + 1), (0, Flag.ABSENT))
    with pytest.raises(RefusedError, match="0/0/0"):
        world.promote()


def test_a_floor_that_does_not_stay_on_the_disk_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalSignerDisk, "prepare", lambda *_args, **_more: SignState(Height(1), 0, 0))
    with pytest.raises(RefusedError, match="its sign-state says 1/0/0, the floor is 62/0/0"):
        world.promote()


# --- key


@pytest.mark.parametrize(
    ("key", "match"),
    [
        (KeySeen("file", b"\3" * 32, "here", 0o600), "has address"),
        (KeySeen("hsm", PUBLIC[:31], "token"), "has address"),
        (KeySeen("file", PUBLIC, "here", 0o644), "has mode 0644, not 0600"),
        (KeySeen("file", PUBLIC, "here"), "has mode unknown"),
    ],
)
def test_another_key_or_one_that_others_can_read_is_refused(world: World, key: KeySeen, match: str) -> None:
    world.key = key
    with pytest.raises(RefusedError, match=match):
        world.promote()
    assert not world.hosts["b"].running


def test_a_key_in_a_token_has_no_mode(world: World) -> None:
    check_key(KeySeen("hsm", PUBLIC, "token"), world.hosts["a"].node)


def key_file(**changes: Any) -> bytes:
    document = {
        "address": OURS.address.hex().upper(),
        "pub_key": {"type": "tendermint/PubKeyEd25519", "value": base64.b64encode(PUBLIC).decode()},
        "priv_key": {
            "type": "tendermint/PrivKeyEd25519",
            "value": base64.b64encode(KEY.private_bytes_raw() + PUBLIC).decode(),
        },
    }
    return json.dumps({**document, **changes}).encode()


def test_a_key_file_is_read_when_its_parts_belong_together(tmp_path: Path) -> None:
    file = tmp_path / "priv_validator_key.json"
    with pytest.raises(NotFoundError):
        read_key_file(file)
    file.write_bytes(key_file())
    file.chmod(0o640)
    assert read_key_file(file) == KeySeen("file", PUBLIC, str(file), 0o640)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        key_file(address="00" * 20),
        key_file(pub_key={"type": "tendermint/PubKeyEd25519", "value": base64.b64encode(b"\4" * 32).decode()}),
        key_file(priv_key={"type": "tendermint/PrivKeyEd25519", "value": base64.b64encode(b"\5" * 64).decode()}),
        key_file(priv_key={"type": "tendermint/PrivKeyEd25519", "value": "AAAA"}),
        key_file(priv_key={"type": "tendermint/PrivKeyEd25519", "value": "*"}),
        b"[" * 100_000,
    ],
)
def test_a_key_file_that_does_not_hold_together_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "priv_validator_key.json"
    file.write_bytes(content)
    with pytest.raises(CorruptError) as caught:
        read_key_file(file)
    assert caught.value.__cause__ is None
    assert caught.value.message == f"{file}: not a whole Ed25519 validator key"


# --- arm


def test_the_check_height_is_set_and_nothing_else(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    with pytest.raises(NotFoundError):
        set_double_sign_check(config, 20)
    config.write_text("a = 1\n[consensus]\n  x = 2\ndouble_sign_check_height=0 # c\nz = 3\n")
    config.chmod(0o644)
    set_double_sign_check(config, 20)
    assert config.read_text() == "a = 1\n[consensus]\n  x = 2\ndouble_sign_check_height = 20\nz = 3\n"
    assert config.stat().st_mode & 0o777 == 0o644
    set_double_sign_check(config, 20)
    config.write_text("# nothing\n")
    with pytest.raises(RefusedError, match="is there 0 times"):
        set_double_sign_check(config, 20)


def test_a_process_whose_folder_was_taken_can_neither_write_nor_open(world: World) -> None:
    def take(stage: str) -> None:
        if stage == "key_ready":
            world.fence_of("b", Ticket(1, 2)).disk.take_away(Ticket(1, 2))

    world.fault = take
    with pytest.raises(ConflictError, match=r"carries ticket 1\.2, ours is 1\.1"):
        world.promote()
    assert not world.hosts["b"].running


def test_a_folder_taken_while_the_floor_is_written_stays_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fence = world.fence_of("b", Ticket(1, 1))
    apply_floor = floors.apply_floor
    fence.close()

    def taken(floor: Any, path: Path) -> SignState:
        fence.disk.take_away(Ticket(1, 2))
        path.parent.rename(path.parent)  # FileNotFoundError, as the write would get it
        return apply_floor(floor, path)

    monkeypatch.setattr("vedr.failover.signer_disk.apply_floor", taken)
    with pytest.raises(ConflictError, match=r"carries ticket 1\.2"):
        fence.disk.prepare(Ticket(1, 1), cast("Any", None), check_height=0)
