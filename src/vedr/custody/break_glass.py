"""Opens an envelope when nothing else is left: this file, Python, `cryptography` and `argon2-cffi`.

    python break_glass.py FILE                  what the header claims; asks for nothing
    python break_glass.py FILE OUT              asks for the passphrase
    python break_glass.py FILE OUT --recovery   asks for the recovery private key, 64 hexadecimal digits

A copy lies beside every backup.  It shares no code with the program that writes envelopes, so each checks the other.

Guarantees: OUT appears only after every byte of FILE was verified, with mode 0600, and never replaces a file; limits
are checked before a key is derived; nothing that was typed is ever printed.  Exit status 0 done, 1 refused, 2 misused.
Leaves out: combining shares into the recovery key; any SLIP-39 program does that, with an empty passphrase.
"""

from __future__ import annotations

import argparse
import datetime as dt
import getpass
import hashlib
import hmac
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from argon2.exceptions import HashingError
from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PREAMBLE = 12  # "vedrenv", 1, then the header's length, big-endian
MAC = 32
TAG = 16
SLOT_FIELDS: dict[str, dict[str, Any]] = {  # name: pattern of its text, or range of its number
    "passphrase": {
        "id": "[0-9a-f]{16}",
        "m_kib": range(65_536, 2_097_153),
        "nonce": "[0-9a-f]{24}",
        "p": range(1, 17),
        "salt": "[0-9a-f]{32}",
        "sealed": "[0-9a-f]{96}",
        "t": range(3, 11),
    },
    "recovery": {"id": "[0-9a-f]{16}", "public_key": "[0-9a-f]{64}", "sealed": "[0-9a-f]{160}"},
}
CORE_FIELDS: dict[str, Any] = {
    "chunk_bytes": range(1024, 4_194_305),
    "cipher": "aes-256-gcm",
    "created": r"[1-9]\d{3}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z",
    "id": "[0-9a-f]{32}",
    "size": range(2**42 + 1),
}


class Refused(Exception):  # noqa: N818 (what it means, to whoever reads the traceback at night)
    """The text is constant and carries nothing that was read or typed."""


def refuse(why: str) -> NoReturn:
    raise Refused(why)


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


# -- the header ------------------------------------------------------------------------------------------------------


def read_header(file: BinaryIO, size: int) -> tuple[dict[str, Any], bytes, bytes]:
    """The header, the bytes that its MAC covers, and the MAC."""
    start = file.read(PREAMBLE)
    if not start:
        refuse("the file is empty")
    if not start.startswith(b"vedrenv"):
        refuse("the file is no envelope")
    if len(start) < PREAMBLE:
        refuse("the file is cut off")
    if start[7] != 1:
        refuse("the envelope is of another version than 1")
    length = int.from_bytes(start[8:], "big")
    if length > 64 * 1024:
        refuse("the header is longer than 64 KiB")
    text, mac = file.read(length), file.read(MAC)
    if len(text) + len(mac) < length + MAC:
        refuse("the file is cut off")
    header = parse(text)
    core = header["core"]
    chunks = -(-core["size"] // core["chunk_bytes"]) or 1
    if chunks > 2**20:
        refuse("more than 1,048,576 chunks")
    expected = PREAMBLE + length + MAC + core["size"] + chunks * TAG
    if size < expected:
        refuse("the file is cut off")
    if size > expected:
        refuse("bytes follow the last chunk")
    return header, start + text, mac


def parse(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text, object_pairs_hook=once, parse_float=no_float, parse_constant=no_float)
        same = canonical(header) == text
    except (ValueError, RecursionError):
        raise Refused("the header is not JSON") from None
    if not same:
        refuse("the header is not in canonical form")
    if not isinstance(header, dict) or set(header) != {"core", "slots"}:
        refuse("the header does not have the fields of version 1")
    core, slots = header["core"], header["slots"]
    check(core, CORE_FIELDS, extra={"meta"})
    check_time(core["created"])
    if not isinstance(core["meta"], dict):
        refuse("the metadata are no object")
    if not isinstance(slots, list) or len(slots) not in range(1, 9):
        refuse("not 1 to 8 slots")
    for slot in slots:
        check_slot(slot)
    if len({slot["id"] for slot in slots}) < len(slots):
        refuse("two slots of one id")
    return header


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        refuse("a member occurs twice in the header")
    return dict(pairs)


def no_float(_text: str) -> NoReturn:
    refuse("the header has a number that is not whole")


def check_slot(slot: Any) -> None:
    kind = slot.get("kind") if isinstance(slot, dict) else None
    if kind == "passphrase":
        check(slot, SLOT_FIELDS[kind], extra={"kind", "reference"})
        check_reference(slot["reference"])
    elif kind == "recovery":
        check(slot, SLOT_FIELDS[kind], extra={"kind"})
    else:
        refuse("a slot of unknown kind")


def check(value: Any, fields: dict[str, Any], *, extra: set[str]) -> None:
    if not isinstance(value, dict) or set(value) != set(fields) | extra:
        refuse("the header does not have the fields of version 1")
    for name, allowed in fields.items():
        got = value[name]
        if isinstance(allowed, str):
            if not isinstance(got, str) or not re.fullmatch(allowed, got, re.ASCII):
                refuse("a field of the header is not as version 1 has it")
        elif type(got) is not int or got not in allowed:
            refuse("a number in the header is out of its range")


def check_time(value: str) -> None:
    try:
        dt.datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ")  # noqa: DTZ007 (only whether there is such a time)
    except ValueError:
        raise Refused("a field of the header is not as version 1 has it") from None


def check_reference(value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not 1 <= len(value) <= 512 or not value.isprintable():  # noqa: PLR2004
        refuse("a slot's reference is not as version 1 has it")


# -- keys ------------------------------------------------------------------------------------------------------------


def binding(core: dict[str, Any], slot: dict[str, Any]) -> bytes:
    rest = {name: value for name, value in slot.items() if name != "sealed"}
    return b"vedr envelope v1 slot" + hashlib.sha256(canonical({"core": core, "slot": rest})).digest()


def by_passphrase(core: dict[str, Any], slot: dict[str, Any], passphrase: bytes) -> bytes:
    try:
        key = hash_secret_raw(
            passphrase, bytes.fromhex(slot["salt"]), slot["t"], slot["m_kib"], slot["p"], 32, Type.ID, 0x13
        )
    except HashingError:
        raise Refused("this machine lacks the memory that a slot's Argon2id asks for") from None
    nonce, sealed = bytes.fromhex(slot["nonce"]), bytes.fromhex(slot["sealed"])
    return AESGCM(key).decrypt(nonce, sealed, binding(core, slot))


def by_recovery_key(core: dict[str, Any], slot: dict[str, Any], private_key: bytes) -> bytes:
    sealed = bytes.fromhex(slot["sealed"])
    return hpke_open(private_key, sealed[:32], sealed[32:], info=binding(core, slot), aad=b"")


def hpke_open(private_key: bytes, encapsulated: bytes, ciphertext: bytes, *, info: bytes, aad: bytes) -> bytes:
    """RFC 9180, base mode, first message: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM."""

    def extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
        return hmac.digest(salt, b"HPKE-v1" + suite + label + secret, "sha256")

    def expand(suite: bytes, key: bytes, label: bytes, context: bytes, size: int) -> bytes:
        return hkdf_expand(key, size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + context, size)

    kem = b"KEM\x00\x20"
    suite = b"HPKE\x00\x20\x00\x01\x00\x02"
    own = X25519PrivateKey.from_private_bytes(private_key)
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    except ValueError:  # a point of low order
        raise InvalidTag from None
    public_key = own.public_key().public_bytes_raw()
    shared = expand(kem, extract(kem, b"", b"eae_prk", shared), b"shared_secret", encapsulated + public_key, 32)
    context = b"\x00" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    secret = extract(suite, shared, b"secret", b"")
    key, nonce = expand(suite, secret, b"key", context, 32), expand(suite, secret, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, ciphertext, aad)


def hkdf_expand(key: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 section 2.3 with SHA-256."""
    out = block = b""
    for counter in range(1, -(-size // 32) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        out += block
    return out[:size]


def data_key(header: dict[str, Any], secret: bytes, kind: str) -> bytes:
    opens = by_passphrase if kind == "passphrase" else by_recovery_key
    for slot in header["slots"]:
        if slot["kind"] == kind:
            try:
                return opens(header["core"], slot, secret)
            except InvalidTag:
                continue
    refuse("no slot opens with that: it is another secret, or the metadata or the slot was edited")


# -- the payload -----------------------------------------------------------------------------------------------------


def decrypt(file: BinaryIO, size: int, secret: bytes, kind: str, out: BinaryIO) -> None:
    header, covered, mac = read_header(file, size)
    core = header["core"]
    pseudorandom = hmac.digest(bytes.fromhex(core["id"]), data_key(header, secret, kind), "sha256")
    keys = hkdf_expand(pseudorandom, b"vedr envelope v1 keys", 71)
    if not hmac.compare_digest(hmac.digest(keys[32:64], covered, "sha256"), mac):
        refuse("the header was changed after it was sealed")
    cipher, bound = AESGCM(keys[:32]), hashlib.sha256(canonical(core)).digest()
    left, counter, last = core["size"], 0, False
    while not last:
        length = min(left, core["chunk_bytes"])
        left -= length
        last = left == 0
        nonce = keys[64:] + counter.to_bytes(4, "big") + (b"\x01" if last else b"\x00")
        try:
            out.write(cipher.decrypt(nonce, file.read(length + TAG), bound))
        except InvalidTag:
            raise Refused("a chunk was changed, removed or moved") from None
        counter += 1


def decrypt_file(source: Path, target: Path, secret: bytes, kind: str) -> None:
    """Into a hidden file of mode 0600 beside the target, which takes the target's name when all of it is verified."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    hidden = Path(name)
    try:
        with os.fdopen(handle, "wb") as out, source.open("rb") as file:
            decrypt(file, os.fstat(file.fileno()).st_size, secret, kind, out)
            out.flush()
            os.fsync(out.fileno())
        if os.path.lexists(target):
            refuse("the file to write exists")
        hidden.rename(target)
    finally:
        hidden.unlink(missing_ok=True)


# -- the command -----------------------------------------------------------------------------------------------------


def ask(kind: str) -> bytes:
    prompt = "Passphrase: " if kind == "passphrase" else "Recovery private key (64 hexadecimal digits): "
    try:
        typed = getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
        secret = typed.encode()
    except UnicodeError:
        raise Refused("what was typed is not UTF-8") from None
    except (EOFError, KeyboardInterrupt):
        raise Refused("broken off") from None
    if kind == "passphrase":
        return secret
    if not re.fullmatch("[0-9a-fA-F]{64}", typed.strip()):
        refuse("a recovery private key is 64 hexadecimal digits")
    return bytes.fromhex(typed)


def claims(source: Path) -> str:
    with source.open("rb") as file:
        header, _, _ = read_header(file, os.fstat(file.fileno()).st_size)
    return json.dumps(header, indent=2)


def run(arguments: argparse.Namespace) -> str:
    source: Path = arguments.file
    target: Path | None = arguments.out
    if target is None:
        return f"Unverified until it is opened:\n{claims(source)}"
    if os.path.lexists(target):
        refuse("the file to write exists")
    claims(source)  # what can be refused without the secret is, before anybody types it
    kind = "recovery" if arguments.recovery else "passphrase"
    decrypt_file(source, target, ask(kind), kind)
    return f"verified and written: {target}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Opens an envelope (docs/formats/envelope.md).")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("out", type=Path, metavar="OUT", nargs="?")
    parser.add_argument("--recovery", action="store_true", help="open with the recovery private key")
    try:
        said = run(parser.parse_args())
    except Refused as error:
        sys.stderr.write(f"refused: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"refused: {error.filename}: {error.strerror}\n")
        return 1
    sys.stdout.write(f"{said}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
