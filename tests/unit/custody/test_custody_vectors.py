"""Published vectors: the primitives that custody stands on are those that the formats name."""

import json
from pathlib import Path
from typing import Any

import pytest
from argon2.low_level import ARGON2_VERSION, Type, core, ffi
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from shamir_mnemonic import MnemonicError, combine_mnemonics

from vedr.custody import break_glass

VECTORS = Path(__file__).parents[2] / "vectors"


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def test_argon2id_is_that_of_rfc_9106() -> None:
    vector = load("argon2id-rfc9106.json")
    fields = {name: bytes.fromhex(vector[name]) for name in ("password", "salt", "secret", "associated_data")}
    password, salt, secret, data = (ffi.new("uint8_t[]", value) for value in fields.values())
    out = ffi.new("uint8_t[32]")
    context = ffi.new(
        "argon2_context *",
        {
            "out": out,
            "outlen": 32,
            "version": ARGON2_VERSION,
            "pwd": password,
            "pwdlen": len(fields["password"]),
            "salt": salt,
            "saltlen": len(fields["salt"]),
            "secret": secret,
            "secretlen": len(fields["secret"]),
            "ad": data,
            "adlen": len(fields["associated_data"]),
            "t_cost": vector["t"],
            "m_cost": vector["m_kib"],
            "lanes": vector["p"],
            "threads": vector["p"],
            "allocate_cbk": ffi.NULL,
            "free_cbk": ffi.NULL,
            "flags": 0,
        },
    )
    assert core(context, Type.ID.value) == 0
    assert bytes(ffi.buffer(out)).hex() == vector["tag"]


def test_aes_256_gcm_is_nists_and_refuses_what_it_refuses() -> None:
    for case in load("aes-256-gcm.json")["cases"]:
        cipher = AESGCM(bytes.fromhex(case["key"]))
        nonce, aad = bytes.fromhex(case["nonce"]), bytes.fromhex(case["aad"])
        message = bytes.fromhex(case["ciphertext"] + case["tag"])
        if case["plaintext"] is None:
            with pytest.raises(InvalidTag):
                cipher.decrypt(nonce, message, aad)
        else:
            assert cipher.decrypt(nonce, message, aad).hex() == case["plaintext"]
            assert cipher.encrypt(nonce, bytes.fromhex(case["plaintext"]), aad) == message


def test_the_break_glass_hpke_is_that_of_rfc_9180() -> None:
    vector = load("hpke-rfc9180.json")
    first = vector["first"]
    opened = break_glass.hpke_open(
        bytes.fromhex(vector["skRm"]),
        bytes.fromhex(vector["enc"]),
        bytes.fromhex(first["ct"]),
        info=bytes.fromhex(vector["info"]),
        aad=bytes.fromhex(first["aad"]),
    )
    assert opened.hex() == first["pt"]


def test_the_librarys_hpke_is_the_one_that_the_vector_proves() -> None:
    """Its interface takes no associated data, so the vector cannot drive it; the proven reader opens what it seals."""
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    key = X25519PrivateKey.generate()
    sealed = suite.encrypt(b"secret", key.public_key(), info=b"bound to")
    private = key.private_bytes_raw()
    assert break_glass.hpke_open(private, sealed[:32], sealed[32:], info=b"bound to", aad=b"") == b"secret"
    with pytest.raises(InvalidTag):
        break_glass.hpke_open(private, sealed[:32], sealed[32:], info=b"another", aad=b"")
    with pytest.raises(InvalidTag):
        break_glass.hpke_open(private, bytes(32), sealed[32:], info=b"bound to", aad=b"")


@pytest.mark.parametrize("vector", load("slip39.json")["vectors"], ids=lambda vector: vector["name"])
def test_slip_39_is_the_standards(vector: dict[str, Any]) -> None:
    if vector["secret"]:
        assert combine_mnemonics(vector["mnemonics"], b"TREZOR").hex() == vector["secret"]
    else:
        with pytest.raises(MnemonicError):
            combine_mnemonics(vector["mnemonics"], b"TREZOR")
