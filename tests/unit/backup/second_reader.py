"""A second, independent reader of the stored formats: written from docs/formats, importing nothing of vedr.

    second_reader.py BUCKET MANIFEST_KEY REGION PUBLIC_KEY_HEX TARGET [SITE_KEY_HEX]

BUCKET is a folder that holds the bucket's objects under their keys.
"""

import hashlib
import hmac
import json
import struct
import sys
from pathlib import Path
from typing import Any

import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def signed(data: bytes, public: bytes) -> Any:
    document = json.loads(data)
    body = json.dumps(document["signed"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    (signature,) = document["signatures"]
    assert signature["keyid"] == hashlib.sha256(public).hexdigest()
    Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(signature["sig"]), body)
    return document["signed"]


def derive(key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"vedr object " + purpose + b" v1").derive(key)


def content(stored: bytes, name: str, key: bytes) -> bytes:
    magic, version, flags, reserved, length = struct.unpack(">4sBBHI", stored[:12])
    assert (magic, version, reserved) == (b"vedr", 1, 0)
    message = stored[12:]
    if flags & 2:
        message = AESGCM(derive(key, b"message")).decrypt(message[:12], message[12:], stored[:12] + bytes.fromhex(name))
    if flags & 1:
        message = zstandard.ZstdDecompressor().decompress(message, max_output_size=length)
    assert len(message) == length
    digest = hashlib.sha256(message).digest()
    assert name == (hmac.digest(derive(key, b"name"), digest, "sha256").hex() if key else digest.hex())
    return message


def main(*arguments: str) -> None:
    bucket, manifest_key, region, public, target, key = (*arguments, "")[:6]
    site_key = bytes.fromhex(key)
    stored = Path(bucket, manifest_key).read_bytes()
    manifest = signed(stored, bytes.fromhex(public))
    assert manifest["format"] == "vedr-manifest/1"
    prefix = f"{manifest['origin']}/{manifest['kind']}"
    placement = signed(Path(bucket, f"{prefix}/p/{manifest['id']}.json").read_bytes(), bytes.fromhex(public))
    assert placement["format"] == "vedr-placement/1"
    assert (placement["region"], placement["snapshot"]) == (region, manifest["id"])
    assert placement["manifest_sha256"] == hashlib.sha256(stored).hexdigest()
    objects = []
    for (name, size), (_version, stored_bytes) in zip(manifest["objects"], placement["objects"], strict=True):
        data = Path(bucket, f"{prefix}/e/{manifest['epoch']:05d}/o/{name[:2]}/{name}").read_bytes()
        assert len(data) == stored_bytes
        objects.append(content(data, name, site_key))
        assert len(objects[-1]) == size
    for path, mode in manifest["folders"]:
        Path(target, path).mkdir(mode=mode, parents=True, exist_ok=True)
    for path, mode, size, _mtime_ns, _inode, _device, extents, _digest in manifest["files"]:
        runs = zip(*[iter(extents)] * 3, strict=True)
        data = b"".join(objects[number][offset : offset + length] for number, offset, length in runs)
        assert len(data) == size
        file = Path(target, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.chmod(mode)


if __name__ == "__main__":
    main(*sys.argv[1:])
