"""Stored formats and answers that somebody changed: our own clear errors, or what was written; nothing else, no guess.

Every flipped bit and every cut of what is small; edits by grammar, signed anew, of what a signature protects.  Formats
with such tests of their own: envelope, share record, HSM reference, signed documents, manifest, objects, trust store,
key files, KeyBackupManager's JSON, CometBFT's RPC, privval.
"""

import contextlib
import copy
import dataclasses
import datetime as dt
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters import pkcs11_token_process
from vedr.adapters.pkcs11_token_process import TokenProcess
from vedr.adapters.pkcs11_token_wire import facts_message, key_message
from vedr.chain import appointment, register, shipping
from vedr.chain.inspection import parse_inspected
from vedr.chain.register import Content, Epoch, Position, Validator
from vedr.chain.sign_state import SignState, parse_sign_state
from vedr.chain.trust import parse_genesis
from vedr.chain.wire import Value, parse_json
from vedr.custody import key_backup_catalogue as catalogue
from vedr.custody.hsm import Attributes, KeyObject, TokenFacts
from vedr.custody.hsm_keys import from_spki
from vedr.custody.key_material import VALIDATOR_FILE, new_key_file
from vedr.custody.shares import ShareError, parse_share, split
from vedr.errors import CorruptError, UnavailableError, VedrError
from vedr.failover.promotion_key import KeySeen, read_key_file
from vedr.inventory import Height, Hsm
from vedr.ledger import GENESIS, Entry, RunId, open_entry, seal_entry
from vedr.signature import Signer

EDITS: Final = 300
SIGNER: Final = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
WHEN: Final = dt.datetime(2026, 11, 23, 2, tzinfo=dt.UTC)
RUN: Final = RunId("inc-20261123-020000-k3x9")
OURS: Final = Validator("chain-1", "AB" * 20)


def flips(data: bytes) -> list[bytes]:
    """Every single bit of it changed."""
    return [
        data[:index] + bytes([data[index] ^ 1 << bit]) + data[index + 1 :]
        for index in range(len(data))
        for bit in range(8)
    ]


def cuts(data: bytes) -> list[bytes]:
    return [data[:length] for length in range(len(data))]


def tried(read: Callable[[], object]) -> object:
    """What it gives, or the error of ours that it raises."""
    try:
        return read()
    except VedrError as error:
        return error


# --- small objects in every region


def of_register(sign_bytes: bytes = b"") -> tuple[bytes, Callable[[bytes], bytes]]:
    digest = hashlib.sha256(sign_bytes).hexdigest() if sign_bytes else "ab" * 32
    content = Content(Epoch(7), "us-east-1a/17#ab12", Position(Height(12), 1, 3, digest, sign_bytes))
    return (
        register.encode(OURS, content),
        lambda data: register.encode(OURS, register.decode(OURS, data, where="us-east")),
    )


def of_appointment() -> tuple[bytes, Callable[[bytes], bytes]]:
    made = appointment.Appointment(3, "us-east-1b", RUN, WHEN)
    return (
        appointment.encode(OURS, made),
        lambda data: appointment.encode(OURS, appointment.decode(OURS, data, where="us-east")),
    )


def of_shipped() -> tuple[bytes, Callable[[bytes], bytes]]:
    shipped = shipping.Shipped("validator-0", 1_760_000_000_000_000, SignState(Height(9), 0, 3, b"\1\2\3", b"\4\5"))
    return (
        shipping.encode(OURS, shipped),
        lambda data: shipping.encode(OURS, shipping.decode(OURS, data, where="us-east")),
    )


CANONICAL: Final = {
    "register": of_register(),
    "register with sign-bytes": of_register(bytes(range(120))),
    "appointment": of_appointment(),
    "shipped state": of_shipped(),
}


@pytest.mark.parametrize("name", CANONICAL)
def test_a_changed_object_is_damage(name: str) -> None:
    whole, again = CANONICAL[name]
    assert again(whole) == whole
    for data in (*flips(whole), *cuts(whole), *(whole + bytes([extra]) for extra in range(256))):
        found = tried(lambda data=data: again(data))
        assert isinstance(found, CorruptError)
        assert found.remedy


@pytest.mark.parametrize("name", CANONICAL)
def test_an_object_edited_by_grammar_is_damage(name: str) -> None:
    whole, again = CANONICAL[name]
    for seed in range(EDITS):
        document = edit(random.Random(seed), json.loads(whole))
        edited = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        found = tried(lambda edited=edited: again(edited))
        assert edited == whole or isinstance(found, CorruptError)


def test_a_changed_sign_state_file_is_refused_or_is_a_whole_state() -> None:
    whole = SignState(Height(668), 0, 3, b"\1\2\3\4", b"\5\6").to_json()
    for data in (*flips(whole), *cuts(whole)):
        found = tried(lambda data=data: parse_sign_state(data, what="state"))
        if isinstance(found, CorruptError):
            assert "stopped" in found.remedy
        else:
            assert isinstance(found, SignState)
            assert parse_sign_state(found.to_json(), what="again") == found


def test_a_changed_key_file_is_refused_or_holds_the_same_key(tmp_path: Path) -> None:
    key = new_key_file("validator", VALIDATOR_FILE)
    path = tmp_path / "priv_validator_key.json"
    path.write_bytes(key.content)
    public = read_key_file(path).public_key
    for data in (*flips(key.content), *cuts(key.content)):
        path.write_bytes(data)
        found = tried(lambda: read_key_file(path))
        assert isinstance(found, CorruptError | KeySeen)
        assert isinstance(found, CorruptError) or found.public_key == public


def test_a_share_with_a_wrong_a_swapped_or_a_missing_word_is_refused_wherever_it_is() -> None:
    words = list(split(bytes(range(1, 33)))[0].words)
    wrong = [[*words[:at], "academic" if words[at] != "academic" else "acid", *words[at + 1 :]] for at in range(33)]
    swapped = [[*words[:at], words[at + 1], words[at], *words[at + 2 :]] for at in range(32)]
    missing = [[*words[:at], *words[at + 1 :]] for at in range(33)]
    for text in (*wrong, *swapped, *missing, [*words, words[0]]):
        if text != words:
            with pytest.raises(ShareError):
                parse_share(" ".join(text))


# --- what a signature protects, edited by somebody who may sign

SCALARS: Final = (
    *(None, True, False, -1, 0, 1, 2**31, 2**63, 2**70, 0.5, float("nan"), "", "x", "9" * 30, "-1", "\udc00", [], {}),
    *("2026-02-30T00:00:00Z", "../x", "/x", "a\0b", "00" * 32, "ed25519", "validator", [None], {"": 0}),
)


def edit(chance: random.Random, document: Any) -> Any:
    """One to three members somewhere in the tree replaced, added or removed."""
    for _ in range(chance.randint(1, 3)):
        place = document
        while inner := [one for one in (place.values() if isinstance(place, dict) else place) if one and is_tree(one)]:
            if chance.random() < 1 / 3:
                break
            place = chance.choice(inner)
        keys: list[Any] = [*place, "extra"] if isinstance(place, dict) else list(range(len(place)))
        key = chance.choice(keys) if keys else 0
        if chance.random() < 1 / 4 or not keys:
            with contextlib.suppress(KeyError, IndexError):
                del place[key]
        else:
            place[key] = copy.deepcopy(chance.choice(SCALARS))
    return document


def is_tree(value: object) -> bool:
    return isinstance(value, dict | list)


def of_entry() -> tuple[bytes, Callable[[bytes], object]]:
    since = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    key = catalogue.KeyRecord("config/priv_validator_key.json", "ed25519", "ab" * 32, "AB" * 20, since)
    backup = catalogue.Backup(
        id=catalogue.BackupId("20261123T020000Z-validator-validator-0"),
        generation=1,
        origin="us-east",
        kind="validator",
        owner="validator-0",
        chain_id="chain-1",
        created_at=WHEN,
        keys=(key,),
        replaced=(catalogue.Replaced(key, since),),
        sha256="cd" * 32,
        size_bytes=900,
        reference="aws-secret:x",
        recovery_public_key="ef" * 32,
        decrypter="break_glass.py",
        sign_state="",
    )
    trusted = (SIGNER.public_hex,)
    return (
        catalogue.seal_entry(backup, SIGNER),
        lambda data: catalogue.open_entry(data, trusted, origin="us-east", backup=backup.id, generation=1),
    )


def of_revocation() -> tuple[bytes, Callable[[bytes], object]]:
    revoked = catalogue.Revocation("ab" * 32, "validator", "validator-0", WHEN, RUN, "stolen")
    return (
        catalogue.seal_revocation(revoked, SIGNER),
        lambda data: catalogue.open_revocation(data, (SIGNER.public_hex,), fingerprint=revoked.fingerprint),
    )


def of_ledger() -> tuple[bytes, Callable[[bytes], object]]:
    entry = Entry("lab", RUN, 3, "heartbeat", WHEN, 1, {"took_ms": 12, "nodes": ["a"]}, GENESIS)
    return (
        seal_entry(entry, SIGNER).data,
        lambda data: open_entry(data, (SIGNER.public_hex,), site="lab", run_id=RUN, seq=3),
    )


SIGNED: Final = {"key backup": of_entry(), "revocation": of_revocation(), "ledger entry": of_ledger()}


@pytest.mark.parametrize("name", SIGNED)
def test_every_flipped_bit_and_every_cut_of_a_signed_format_is_refused(name: str) -> None:
    whole, read = SIGNED[name]
    read(whole)
    for data in (*flips(whole), *cuts(whole)):
        with pytest.raises(VedrError):
            read(data)


@pytest.mark.parametrize("name", SIGNED)
def test_a_format_that_was_edited_and_signed_anew_gives_our_errors_only(name: str) -> None:
    whole, read = SIGNED[name]
    for seed in range(EDITS):
        with contextlib.suppress(VedrError):
            try:
                forged = SIGNER.seal_document(edit(random.Random(seed), json.loads(whole)["signed"]))
            except (ValueError, TypeError):  # half a character or no number: not even we can write that
                continue
            read(forged)


# --- what programs answer

GENESIS_FILE: Final = json.loads((Path(__file__).parent / "chain" / "kvstore_chain.json").read_text())["genesis"]
INSPECTED: Final = {
    "chain_id": "chain-1", "store_base": 1, "store_height": 9, "state_height": 9, "app_height": 9, "consistent": True,
    "app_hash": "AB" * 32, "db_backend": "goleveldb", "app_hash_recomputed": "AB" * 32,
}  # fmt: skip


def test_an_inspection_or_a_genesis_edited_by_grammar_gives_our_errors_only() -> None:
    for seed in range(EDITS):
        with contextlib.suppress(VedrError):
            parse_inspected(Value(edit(random.Random(seed), copy.deepcopy(INSPECTED)), "x"), deep=True)
        with contextlib.suppress(VedrError):
            parse_genesis(Value(edit(random.Random(seed), copy.deepcopy(GENESIS_FILE)), "x"))


def test_a_changed_inspection_gives_our_errors_only() -> None:
    whole = json.dumps(INSPECTED).encode()
    for data in (*flips(whole), *cuts(whole)):
        with contextlib.suppress(VedrError):
            parse_inspected(parse_json(data, what="x"), deep=True)


ED25519_SPKI: Final = bytes.fromhex("302a300506032b6570032100")  # RFC 8410, before the 32 bytes of the key
PUBLIC: Final = from_spki(ED25519_SPKI + bytes.fromhex(SIGNER.public_hex), what="key")
FACTS: Final = TokenFacts("softhsm", "ab" * 32, "2.6", "SoftHSM", "v2", "2.6", "us-east", "0123", ("EDDSA",))
KEY: Final = KeyObject("public", "val-0", b"\1", "EC_EDWARDS", b"\6\3", Attributes(), PUBLIC, 7)


class Silent:
    """A token's process that never ends and never speaks; what it is supposed to say is put in the test's way."""

    returncode = None

    def wait(self, _timeout: float | None = None) -> int:
        return 0

    kill = wait


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], TokenProcess]:
    """A token whose process gives this answer to everything."""
    monkeypatch.setattr(pkcs11_token_process, "_spawn", lambda *_: Silent())
    monkeypatch.setattr(pkcs11_token_process, "send", lambda *_: None)
    hsm = Hsm(module=Path("/x.so"), token_label="us-east", pin="file:/x")

    def make(answer: object) -> TokenProcess:
        monkeypatch.setattr(pkcs11_token_process, "receive", lambda *_, **__: {"ok": None})
        process = TokenProcess(hsm, lambda: b"1234")
        monkeypatch.setattr(pkcs11_token_process, "receive", lambda *_, **__: answer)
        return process

    return make


ASKED: Final[tuple[tuple[object, Callable[[TokenProcess], object]], ...]] = (
    (facts_message(FACTS), TokenProcess.facts),
    ([key_message(KEY)], TokenProcess.objects),
    ("ab" * 64, lambda token: token.sign(KEY, b"x")),
    (PUBLIC.spki.hex(), lambda token: token.generate("ed25519", label="x", key_id=b"1")),
    (PUBLIC.spki.hex(), lambda token: token.import_ed25519(bytes(32), label="x", key_id=b"1")),
    (None, lambda token: token.disable("x")),
    (False, lambda token: token.still_signs("x")),
)


@pytest.mark.parametrize("number", range(len(ASKED)))
def test_an_answer_of_a_tokens_process_edited_by_grammar_gives_our_errors_only(
    answering: Callable[[object], TokenProcess], number: int
) -> None:
    good, ask = ASKED[number]

    for seed in range(EDITS):
        answer = edit(random.Random(seed), {"ok": json.loads(json.dumps(good, default=bytes.hex)), "more": [1]})
        with answering(answer) as token, contextlib.suppress(VedrError):
            ask(token)


@pytest.mark.parametrize("number", range(len(ASKED)))
def test_no_answer_of_a_tokens_process_is_guessed_when_nothing_is_in_it(
    answering: Callable[[object], TokenProcess], number: int
) -> None:
    with answering({}) as token, pytest.raises(UnavailableError, match="not understood"):
        ASKED[number][1](token)


def test_what_a_token_says_comes_over_the_wire_unchanged(answering: Callable[[object], TokenProcess]) -> None:
    with answering({"ok": json.loads(json.dumps(facts_message(FACTS)))}) as token:
        assert token.facts() == FACTS
    with answering({"ok": json.loads(json.dumps([key_message(KEY)], default=bytes.hex))}) as token:
        (key,) = token.objects()
    assert dataclasses.replace(key, public=None) == dataclasses.replace(KEY, public=None)
