"""The provider daemon's own backups: good keys are converted, every known defect is a finding, nothing is passed."""

import base64
import datetime as dt
import json
from typing import Any

import pytest
from argon2.exceptions import HashingError
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keysworld import DAEMON_PASSPHRASE, NOW, daemon_backup, daemon_key, daemon_share

from vedr.custody import key_manager_import
from vedr.custody.key_manager_import import Defect, Finding, Imported, check_share, is_share, open_backup, read_backup
from vedr.custody.key_material import identity_of
from vedr.errors import CorruptError, NoSpaceError, VerificationFailedError

KEY = Ed25519PrivateKey.generate()


def opened(data: bytes, *, now: dt.datetime = NOW) -> Imported:
    return open_backup(read_backup(data, what="file"), DAEMON_PASSPHRASE, now=now)


def defects(imported: Imported) -> set[Defect]:
    return {finding.defect for finding in imported.findings}


def test_a_good_backup_is_converted_key_by_key() -> None:
    imported = opened(daemon_backup([daemon_key("a", key=KEY), daemon_key("b")]))
    assert imported.good
    assert [file.path for file in imported.keys] == ["keys/a.pem", "keys/b.pem"]
    assert imported.keys[0].identity == identity_of(KEY)
    assert imported.made_at[0] == dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def test_the_daemons_own_backups_lack_the_private_keys_and_that_is_reported() -> None:
    imported = opened(daemon_backup([daemon_key("a", private_key=None), daemon_key("b")]))
    assert imported.findings == (Finding(Defect.NO_PRIVATE_KEY, "a"),)
    assert not imported.good
    assert [file.path for file in imported.keys] == ["keys/b.pem"]
    assert str(imported.findings[0]) == "a: no private key"


@pytest.mark.parametrize(
    ("backup", "defect"),
    [
        (daemon_backup([daemon_key()], expires_at="2026-11-22T00:00:00Z"), Defect.EXPIRED),
        (daemon_backup([daemon_key()], checksum="00" * 32), Defect.WRONG_CHECKSUM),
        (daemon_backup([]), Defect.NO_KEYS),
        (daemon_backup(None), Defect.NO_KEYS),
        (daemon_backup([daemon_key()], metadata={"key_count": 2}), Defect.WRONG_COUNT),
        (daemon_backup([daemon_key(), daemon_key()]), Defect.DUPLICATE),
        (daemon_backup([daemon_key(public_key=base64.b64encode(bytes(32)).decode())]), Defect.MISMATCH),
        (daemon_backup([daemon_key(algorithm="dsa")]), Defect.UNKNOWN_KEY),
        (daemon_backup([daemon_key(private_key="AAAA")]), Defect.UNKNOWN_KEY),
    ],
)
def test_every_known_defect_is_found(backup: bytes, defect: Defect) -> None:
    imported = opened(backup)
    assert defect in defects(imported)
    assert not imported.good


def test_metadata_may_be_left_out() -> None:
    assert opened(daemon_backup([daemon_key()], metadata=None)).good


def test_a_share_that_holds_the_whole_backup_is_found() -> None:
    whole = daemon_backup([daemon_key()])
    split = bytes([whole[0] ^ 2]) + whole[1:]
    share = daemon_share(split, index=2)
    assert is_share(share)
    assert not is_share(whole)
    assert not is_share(b"no JSON")
    found = check_share(share, DAEMON_PASSPHRASE, now=NOW, what="share")
    assert found == (Finding(Defect.WHOLE_IN_SHARE),)
    assert str(found[0]) == "share holds the whole backup"


def test_a_share_that_cannot_be_opened_proves_nothing_and_is_a_finding() -> None:
    share = daemon_share(b"something else", expires_at="2026-11-22T00:00:00Z")
    for passphrase in (None, b"wrong", DAEMON_PASSPHRASE):
        found = check_share(share, passphrase, now=NOW, what="share")
        assert [finding.defect for finding in found] == [Defect.EXPIRED, Defect.BAD_SHARE]
    short = daemon_share(b"", share=base64.b64encode(b"x" * 60).decode())
    assert check_share(short, DAEMON_PASSPHRASE, now=NOW, what="share")[0].defect is Defect.BAD_SHARE


@pytest.mark.parametrize("changes", [{"index": 0}, {"index": True}, {"index": "1"}, {"more": 1}, {"expires_at": 7}])
def test_what_is_no_share_is_corrupt(changes: dict[str, Any]) -> None:
    with pytest.raises(CorruptError):
        check_share(daemon_share(b"x", **changes), None, now=NOW, what="share")


def test_a_wrong_passphrase_is_said_to_be_one_or_a_change() -> None:
    backup = read_backup(daemon_backup([daemon_key()]), what="file")
    with pytest.raises(VerificationFailedError, match="wrong, or the file was changed") as caught:
        open_backup(backup, b"not it, not it", now=NOW)
    assert "not it" not in str(caught.value)


KDF = {"algorithm": "argon2id", "time": 3, "memory": 65536, "threads": 4, "key_length": 32}


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"version": True},
        {"algorithm": "AES-128-GCM"},
        {"salt": "AAAA"},
        {"nonce": None},
        {"ciphertext": 7},
        {"checksum": 7},
        {"created_at": "yesterday"},
        {"created_at": "2026-13-40T00:00:00Z"},
        {"expires_at": "0001-01-01T00:00:00+23:59"},
        {"metadata": {}},
        {"metadata": 7},
        {"unknown": 7},
        {"key_derivation": None},
        {"key_derivation": KDF | {"algorithm": "scrypt"}},
        {"key_derivation": KDF | {"time": 2}},
        {"key_derivation": KDF | {"time": 11}},
        {"key_derivation": KDF | {"time": True}},
        {"key_derivation": KDF | {"memory": 65535}},
        {"key_derivation": KDF | {"memory": 2**32}},
        {"key_derivation": KDF | {"threads": 0}},
        {"key_derivation": KDF | {"threads": 255}},
        {"key_derivation": KDF | {"key_length": 16}},
    ],
)
def test_what_is_outside_of_the_format_is_refused_before_any_key_is_derived(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = daemon_backup([daemon_key()], **changes)
    monkeypatch.setattr(key_manager_import, "hash_secret_raw", pytest.fail)
    with pytest.raises(CorruptError):
        read_backup(data, what="file")


def test_an_oversized_file_is_refused() -> None:
    with pytest.raises(CorruptError, match="more than"):
        read_backup(b" " * (key_manager_import.MAX_FILE_BYTES + 1), what="file")


@pytest.mark.parametrize(
    "plain",
    [
        b"not JSON",
        b"[]",
        b'{"keys":{},"timestamp":"x","source_fingerprint":"x"}',
        b'{"keys":[1],"timestamp":"x","source_fingerprint":"x"}',
        b'{"keys":[{}],"timestamp":"x","source_fingerprint":"x"}',
        json.dumps({"keys": [daemon_key(label="../../etc")], "timestamp": "x", "source_fingerprint": "x"}).encode(),
        json.dumps({"keys": [daemon_key(label=7)], "timestamp": "x", "source_fingerprint": "x"}).encode(),
        json.dumps({"keys": [daemon_key()], "timestamp": "x"}).encode(),
    ],
)
def test_what_decrypts_to_no_list_of_keys_is_corrupt(plain: bytes) -> None:
    with pytest.raises(CorruptError):
        opened(daemon_backup([daemon_key()], plain=plain, metadata=None))


def test_too_many_keys_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_manager_import, "MAX_KEYS", 1)
    with pytest.raises(CorruptError, match="more than 1 keys"):
        opened(daemon_backup([daemon_key("a"), daemon_key("b")]))


def test_a_machine_without_the_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: object) -> bytes:
        raise HashingError("Memory allocation error")

    backup = read_backup(daemon_backup([daemon_key()]), what="file")
    monkeypatch.setattr(key_manager_import, "hash_secret_raw", fails)
    with pytest.raises(NoSpaceError, match="65536 KiB"):
        open_backup(backup, DAEMON_PASSPHRASE, now=NOW)


GOOD = daemon_backup([daemon_key("needle", key=KEY)])


FUZZ = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@settings(FUZZ, max_examples=80)
@given(st.data())
def test_a_flipped_bit_or_a_cut_gives_our_error_or_is_outside_of_what_the_format_protects(data: st.DataObject) -> None:
    """The daemon's format authenticates the keys and nothing else: a flip in a date cannot be seen."""
    content = bytearray(GOOD)
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(content) * 8 - 1))
        content[place // 8] ^= 1 << place % 8
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    try:
        backup = read_backup(bytes(content), what="x")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(key_manager_import, "_derive", _derived)
            found = open_backup(backup, DAEMON_PASSPHRASE, now=NOW)
    except (CorruptError, VerificationFailedError):
        return
    assert backup.derivation.memory_kib <= key_manager_import.MAX_MEMORY_KIB
    assert backup.ciphertext == _GOOD.ciphertext
    assert found.keys[0].identity == identity_of(KEY)


def _derived(passphrase: bytes, salt: bytes, cost: key_manager_import.Derivation) -> bytes:
    """The right key for the right parameters, another for any other, without Argon2's cost."""
    given_ = (passphrase, salt, cost)
    return _KEY_OF_GOOD if given_ == (DAEMON_PASSPHRASE, _GOOD.salt, _GOOD.derivation) else bytes(32)


_GOOD = read_backup(GOOD, what="x")
_KEY_OF_GOOD = key_manager_import._derive(DAEMON_PASSPHRASE, _GOOD.salt, _GOOD.derivation)
