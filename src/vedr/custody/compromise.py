"""A key in other hands: what it signed, what is kept as evidence, what people have to do.  The judgement of RB-DR-005.

Guarantees: every commit that is counted belongs to the chain of headers that ends in a light-verified one, and every
signature that is counted verifies under the key; a window that was not scanned whole says so; evidence is written once,
hashed, and never in a form that could be put back as a sign-state.
Leaves out: stopping units, making keys and telling people (tasks.compromise).
"""

import datetime as dt
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vedr.chain.block import CommitSig, Flag, SignedHeader
from vedr.chain.light import VerifiedHeader
from vedr.chain.rpc import HeaderSource
from vedr.chain.sign_state import FILE_NAME
from vedr.custody.key_material import KeyKind
from vedr.errors import CorruptError, NotFoundError
from vedr.inventory import Height

IN_FLIGHT: Final = 1
"""Heights above the tip at containment for which the stopped signer may have voted before it stopped."""
MAX_LISTED: Final = 50  # heights signed after containment that are named; one is enough for the alarm
LOG_TAIL_BYTES: Final = 4 * 1024 * 1024
NOT_FOR_USE: Final = "evidence only: never to be put back"


@dataclass(frozen=True, slots=True)
class SigningAudit:
    """Where a consensus key signed.  `complete`: the whole window that was asked for was scanned."""

    first_scanned: int
    last_scanned: int
    complete: bool
    why_not: str
    signed: int
    first_signed: int
    last_signed: int
    forged: int
    after_containment: tuple[int, ...]

    @property
    def alarm(self) -> bool:
        return bool(self.after_containment)


@dataclass(frozen=True, slots=True)
class Window:
    """What to scan: from the verified tip down to `lowest`, or to the first block before `since`."""

    lowest: int
    since: dt.datetime | None
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Item:
    """One piece of evidence."""

    name: str
    sha256: str
    size_bytes: int
    what: str


def audit_signatures(
    source: HeaderSource,
    tip: VerifiedHeader,
    public_key: bytes,
    *,
    window: Window,
    contained_at: int,
    monotonic: Callable[[], float] = time.monotonic,
) -> SigningAudit:
    """Scan commits downwards from a verified header, each bound to the one above by its hash.

    Args:
        source: A node; it need not be honest, only to have the blocks.
        tip: Where the scan begins.
        public_key: The consensus key, 32 raw bytes.
        window: How far down, how long.
        contained_at: The tip when the signer had stopped; 0 when it was never seen to stop.
        monotonic: The clock of the deadline.

    Raises:
        CorruptError: the node shows a header or commit that does not belong to the verified chain.
    """
    address = hashlib.sha256(public_key).digest()[:20]
    key = Ed25519PublicKey.from_public_bytes(public_key)
    until_s = monotonic() + window.deadline_s
    expected, height = bytes.fromhex(tip.hash), int(tip.height)
    scanned: list[int] = []
    signed: list[int] = []
    forged, why_not = 0, ""
    while height >= max(1, window.lowest):
        if monotonic() >= until_s:
            why_not = f"stopped after {window.deadline_s:g} s"
            break
        try:
            found = source.commit(Height(height))
        except NotFoundError:
            why_not = f"{source.name} has no block {height} any more"
            break
        _check_link(found, expected, height, source.name)
        genuine = _genuine_ones(found, address, key, tip.chain_id)
        signed += [height] * genuine.count(True)
        forged += genuine.count(False)
        scanned.append(height)
        if window.since is not None and found.header.time_ns < window.since.timestamp() * 1e9:
            break
        expected, height = found.header.last_block_id.hash, height - 1
    limit = contained_at + IN_FLIGHT
    return SigningAudit(
        first_scanned=min(scanned, default=0),
        last_scanned=max(scanned, default=0),
        complete=not why_not,
        why_not=why_not,
        signed=len(signed),
        first_signed=min(signed, default=0),
        last_signed=max(signed, default=0),
        forged=forged,
        after_containment=tuple(sorted(h for h in signed if contained_at and h > limit))[:MAX_LISTED],
    )


def _genuine_ones(found: SignedHeader, address: bytes, key: Ed25519PublicKey, chain_id: str) -> list[bool]:
    """Of each signature in the commit that says it is this key's, whether it is."""
    return [
        _is_genuine(found, index, sig, key, chain_id)
        for index, sig in enumerate(found.commit.signatures)
        if sig.flag is not Flag.ABSENT and sig.address == address
    ]


def _check_link(found: SignedHeader, expected: bytes, height: int, source: str) -> None:
    if not (found.header.height == height and found.header.hash() == expected == found.commit.block_id.hash):
        raise CorruptError(
            f"{source} shows a block {height} that is not of the verified chain", remedy="Ask another node."
        )


def _is_genuine(found: SignedHeader, index: int, sig: CommitSig, key: Ed25519PublicKey, chain_id: str) -> bool:
    """A vote for nil has other sign-bytes than a commit holds: it is counted as it stands, since +2/3 accepted it."""
    if sig.flag is Flag.NIL:
        return True
    try:
        key.verify(sig.signature, found.commit.sign_bytes(chain_id, index))
    except InvalidSignature:
        return False
    return True


# --- evidence


def preserve(folder: Path, items: Mapping[str, tuple[bytes, str]]) -> tuple[Item, ...]:
    """Write evidence, 0600 in a folder 0700, and give its hashes; what an earlier try wrote is kept as it is.

    Args:
        folder: The incident's own.
        items: Content and description by file name.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = []
    for name, (content, what) in items.items():
        path = folder / name
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            content = path.read_bytes()  # noqa: PLW2901 (what counts is what is there)
        else:
            with open(descriptor, "wb") as file:  # noqa: PTH123 (created exclusively, with its mode)
                file.write(content)
                file.flush()
                os.fsync(descriptor)
        kept.append(Item(name, hashlib.sha256(content).hexdigest(), len(content), what))
    return tuple(kept)


def describe_file(path: Path) -> dict[str, str | int]:
    """A file's metadata and hash, never its content."""
    try:
        seen = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(seen.st_mode) else ""
    except OSError as error:
        return {"path": str(path), "error": error.strerror or type(error).__name__}
    return {
        "path": str(path),
        "mode": f"{stat.S_IMODE(seen.st_mode):04o}",
        "uid": seen.st_uid,
        "gid": seen.st_gid,
        "size_bytes": seen.st_size,
        "modified_ns": seen.st_mtime_ns,
        "changed_ns": seen.st_ctime_ns,
        "inode": seen.st_ino,
        "sha256": digest,
    }


def sign_state_evidence(home: Path) -> bytes:
    """What the sign-state said, as text inside a document that no node would read as one."""
    path = home / "data" / FILE_NAME
    try:
        content = path.read_text(encoding="utf-8")[:64_000]
    except (OSError, ValueError) as error:
        content = f"not read: {type(error).__name__}"
    return _document({"note": NOT_FOR_USE, "file": describe_file(path), "text": content})


def metadata_evidence(paths: Sequence[Path]) -> bytes:
    """Metadata of files."""
    return _document({"note": NOT_FOR_USE, "files": [describe_file(path) for path in paths]})


def log_tail(path: Path) -> bytes:
    """The end of a unit's log."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
            return file.read()
    except OSError as error:
        return f"not read: {error.strerror}\n".encode()


def _document(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"


# --- what people do


def aside_suffix(incident: str) -> str:
    """What a key file's name ends with once it was taken out of its place."""
    return f".compromised-{incident}"


def set_aside(path: Path, incident: str) -> Path | None:
    """Take a key file out of its place, kept beside it under another name; None when there is none to take.

    A second call finds the first one's work and leaves what is in its place by now alone.
    """
    aside = path.with_name(f"{path.name}{aside_suffix(incident)}")
    if aside.exists():
        return aside
    try:
        path.rename(aside)
    except FileNotFoundError:
        return None
    return aside


UNBONDING_DAYS: Final = 14  # VirtEngine's 1,209,600 s


def operator_steps(kind: KeyKind, owner: str, *, new: str, backup: str, revoked: bool) -> tuple[str, ...]:
    """What only people and the chain can do, in its order.

    Args:
        kind: Of the key.
        owner: Whose it is.
        new: What the new key is known by: consensus address, node id, or fingerprint.
        backup: The new key's backup.
        revoked: Whether the old key is recorded as such.
    """
    known = "it is recorded as revoked, and vedr refuses to restore it"
    unknown = "it could not be recorded as revoked, for nobody knew its public half, and vedr would restore a copy"
    if kind == "validator":
        return (
            f"The chain cannot rotate a consensus key: {owner}'s validator is retired and replaced by a new one.",
            f"Never start the old key again, anywhere: {known if revoked else unknown}.",
            "Unbond the operator's self-delegation: that jails the validator now, not only after the signing window.",
            f"It can still be slashed for what the old key signs until it is unbonded, {UNBONDING_DAYS} days.",
            f"On a clean host: vedr keys restore {backup} (its consensus address is {new}).",
            "create-validator with the new key from another operator account: one account holds one validator.",
            "Tell the delegators to redelegate; put the new address into the site file; then vedr run RB-DR-001.",
        )
    if kind == "node":
        return (
            f"Every peer that names the old node id has to name {new} instead: the list is in the report.",
            "Take the old id out of seeds, address books and allow-lists; ban it where peers can.",
        )
    return (
        f"Register {owner}'s new public key on the chain (fingerprint {new[:16]}), and revoke the old one there.",
        f"Point the daemon's configuration to the new key (backup {backup}), then start it: it was left stopped.",
        "Look through the provider account's transactions since the suspicion began: vedr cannot tell them apart.",
        "Rotate what the daemon's key gave access to: portal, marketplace and Waldur credentials.",
    )


def checklist(kind: KeyKind, *, contained: bool, evidence: bool, rotated: bool, audited: bool) -> tuple[str, ...]:
    """The runbook's points, each said to be done or open."""

    def mark(done: bool, text: str) -> str:
        return f"[{'x' if done else ' '}] {text}"

    return (
        mark(
            contained,
            "contained: unit stopped, key file out of its place, refused by registers and HSMs where it has any",
        ),
        mark(evidence, "evidence preserved and hashed, also of its home"),
        mark(False, "security on call confirmed that they were reached"),
        mark(rotated, "a new key was made and backed up"),
        mark(audited, "use of the key audited" if kind != "provider" else "use of the key audited (by people)"),
        mark(False, "the affected were told"),
        mark(False, "report within 24 h"),
    )
