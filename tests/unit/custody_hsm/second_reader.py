"""Reads a reference with nothing but docs/formats/hsm-reference.md, the standard library and `cryptography`."""

import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def read(data: bytes, trusted_hex: str) -> dict[str, Any]:
    """The `signed` part of a record of an Ed25519 key, every signature in it checked."""
    document = json.loads(data)
    body = json.dumps(document["signed"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    (signature,) = document["signatures"]
    trusted = bytes.fromhex(trusted_hex)
    assert signature["keyid"] == hashlib.sha256(trusted).hexdigest()
    Ed25519PublicKey.from_public_bytes(trusted).verify(bytes.fromhex(signature["sig"]), body)
    signed: dict[str, Any] = document["signed"]
    assert signed["format"] == "vedr-hsm-reference/1"
    key = serialization.load_der_public_key(bytes.fromhex(signed["key"]["public_key"]))
    assert isinstance(key, Ed25519PublicKey)
    assert hashlib.sha256(key.public_bytes_raw()).hexdigest()[:40].upper() == signed["key"]["consensus_address"]
    for token in signed["tokens"].values():
        challenge = bytes.fromhex(token["challenge"])
        tag, serial, time, nonce, end = challenge.decode("ascii").split("\n")
        assert (tag, serial, end) == ("vedr-hsm-challenge/1", f"serial={token['facts']['serial']}", "")
        assert time.startswith("time=")
        assert len(nonce) == len("nonce=") + 64
        key.verify(bytes.fromhex(token["signature"]), challenge)
        assert token["attributes"]["sensitive"] is True
        assert token["attributes"]["extractable"] is False
    return signed
