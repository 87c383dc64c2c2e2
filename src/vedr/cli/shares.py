"""`vedr shares`: the recovery key among its custodians.

Guarantees: a share is shown or written once, where asked, and kept nowhere; the recovery key is in this process's
memory only, unless `--write-key` asks for a file.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from vedr.adapters import secrets
from vedr.chain.durable import replace_file
from vedr.cli.desk import TerminalDesk, swap_is_on, terminal_desk
from vedr.custody import break_glass
from vedr.custody.ceremony import COPIES, gather, hold, identify
from vedr.custody.envelope_files import inspect_file, open_file, rewrap_file, verify_file
from vedr.custody.envelope_format import RecoverySlot
from vedr.custody.envelope_slots import RecoveryOpener, RecoverySeal, recovery_public_key
from vedr.custody.shares import DEFAULT_COUNT, DEFAULT_THRESHOLD, check_shape
from vedr.custody.shares_record import ShareRecord, check_names, is_signed, open_record, seal_record
from vedr.errors import ConflictError, InvalidInputError, NotFoundError, UnavailableError
from vedr.signature import Signer

app = typer.Typer()

RecordOption: TypeAlias = Annotated[Path, typer.Option("--record", help="The record of the shares.")]
CustodianOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--custodian", help="A custodian's name, once for each; asked for when left out.")
]
ThresholdOption: TypeAlias = Annotated[int, typer.Option("--threshold", "-k", help="How many shares open.")]
CountOption: TypeAlias = Annotated[int, typer.Option("--shares", "-n", help="How many shares there are.")]
PagesOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--pages", help="Write printable pages into this folder or printer's device, instead of showing."),
]
SignOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--sign-with", help="Reference of an Ed25519 key (file:, env:, aws-secret:): sign the record."),
]
TrustedOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--trusted", help="Public key that must have signed the record; repeatable.")
]
RewrapOption: TypeAlias = Annotated[
    list[Path] | None, typer.Option("--rewrap", help="Envelope to seal to the new key as well; repeatable.")
]
PUBLIC_KEY: Final = re.compile("[0-9a-f]{64}")
SWAP: Final = "THIS MACHINE HAS SWAP ON: end here (Ctrl-C), `swapoff -a`, and start again."
KEEP_RECORD: Final = "Keep it beside the backups and with every custodian: it has no secret in it."


@app.command()
def ceremony(
    *,
    record: Annotated[Path, typer.Option("--record", help="Where to write the record; must not exist.")],
    custodian: CustodianOption = None,
    threshold: ThresholdOption = DEFAULT_THRESHOLD,
    shares: CountOption = DEFAULT_COUNT,
    pages: PagesOption = None,
    sign_with: SignOption = None,
) -> None:
    """Make a recovery key, hand it out in shares, have each read back, prove every choice of them."""
    signer = _signer(sign_with)
    _absent(record)
    _check_people(custodian, threshold, shares)
    with terminal_desk(pages) as desk:
        names = _names(desk, custodian, shares)
        private_key = X25519PrivateKey.generate().private_bytes_raw()
        held = _hold(desk, names, threshold, private_key, replaces=None)
    _write_record(record, held, signer)
    _report(record, held)


@app.command()
def verify(
    record: RecordOption,
    note: Annotated[bool, typer.Option("--note", help="Write the time of this check into the record.")] = False,
    sign_with: SignOption = None,
    trusted: TrustedOption = None,
) -> None:
    """One custodian's share: still readable, and the one that the record says.  Once a year for each."""
    known = _open(record, trusted)
    signer = _signer(sign_with)
    if note and is_signed(_read(record)) and (signer is None or not trusted):
        raise InvalidInputError(
            "the record is signed: a new one is signed only from one that was verified",
            remedy="Give --trusted and --sign-with.",
        )
    with terminal_desk() as desk:
        _, custodian = identify(desk, known)
    if note:
        replace_file(record, seal_record(known.confirmed(custodian, _now()), signer), mode=0o644)
    typer.echo(f"share of {custodian.name}: right; {known.threshold} of {len(known.custodians)} open")


@app.command()
def combine(
    *,
    record: RecordOption,
    envelope: Annotated[Path | None, typer.Option("--open", help="Envelope to open.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="New file for what was in it; folder for --rewrap.")] = None,
    rewrap: RewrapOption = None,
    to_record: Annotated[Path | None, typer.Option("--to", help="Record of the shares to re-wrap to.")] = None,
    write_key: Annotated[Path | None, typer.Option("--write-key", help="New file for the key itself, in hex.")] = None,
    trusted: TrustedOption = None,
) -> None:
    """Bring enough shares together, and open or re-wrap with the key; with no option, prove only that they combine."""
    known = _open(record, trusted)
    if envelope is not None and out is None:
        raise InvalidInputError("--open needs a file to write", remedy="Give --out.")
    if envelope is not None and rewrap:
        raise InvalidInputError("--open and --rewrap are two errands", remedy="Give one of them.")
    moves = _moves(rewrap or [], out)
    _require_slots([path for path, _ in moves] + ([] if envelope is None else [envelope]), known.public_key)
    successor = _successor(to_record, trusted) if moves else None
    for target in (write_key, None if moves else out):
        if target is not None:
            _absent(target)
    with terminal_desk() as desk:
        if successor is not None:  # a forged record would hand every backup to its forger
            desk.say(
                f"The backups are going to open with the recovery key\n\n    {successor.hex()}\n\n"
                "Go on only if that is the one on the custodians' new sheets and in the site file."
            )
        private_key = gather(desk, known)
    typer.echo(f"{known.threshold} shares combine to the recorded key {known.public_key.hex()}")
    if envelope is not None and out is not None:
        open_file(envelope, out, RecoveryOpener(private_key))
        typer.echo(f"verified and written: {out}")
    if successor is not None:
        for source, target in moves:
            _move(source, target, private_key, successor)
    if write_key is not None:
        replace_file(write_key, private_key.hex().encode() + b"\n")
        typer.echo(f"the recovery key is in {write_key}: it opens every backup. Destroy the file.")


@app.command()
def rotate(
    *,
    record: RecordOption,
    new_record: Annotated[Path, typer.Option("--new-record", help="Where to write the new record.")],
    custodian: CustodianOption = None,
    threshold: ThresholdOption = DEFAULT_THRESHOLD,
    shares: CountOption = DEFAULT_COUNT,
    pages: PagesOption = None,
    rewrap: RewrapOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for re-wrapped envelopes.")] = None,
    sign_with: SignOption = None,
    trusted: TrustedOption = None,
) -> None:
    """A new recovery key and shares.  Old backups open with the old shares only, unless they are re-wrapped here."""
    known = _open(record, trusted)
    signer = _signer(sign_with)
    _absent(new_record)
    _check_people(custodian, threshold, shares)
    moves = _moves(rewrap or [], out)
    _require_slots([path for path, _ in moves], known.public_key)
    with terminal_desk(pages) as desk:
        old_key = gather(desk, known) if moves else None
        names = _names(desk, custodian, shares)
        private_key = X25519PrivateKey.generate().private_bytes_raw()
        held = _hold(desk, names, threshold, private_key, replaces=known.public_key)
    _write_record(new_record, held, signer)
    if old_key is not None:
        for source, target in moves:
            _move(source, target, old_key, held.public_key)
            verify_file(target, RecoveryOpener(private_key))
    _report(new_record, held)
    typer.echo(
        "Backups made until now open with the old shares, but for those re-wrapped here: keep the old shares until"
        " the last such backup has expired. Rotation does not revoke: the old key still reads every old copy."
    )


def _hold(
    desk: TerminalDesk, names: Sequence[str], threshold: int, private_key: bytes, *, replaces: bytes | None
) -> ShareRecord:
    desk.say("\n".join((*COPIES, SWAP) if swap_is_on() else COPIES))
    return hold(desk, names, threshold=threshold, private_key=private_key, now=_now, replaces=replaces)


def _check_people(names: list[str] | None, threshold: int, count: int) -> None:
    check_shape(threshold, count)
    if names:
        check_names(names, count)


def _names(desk: TerminalDesk, given: list[str] | None, count: int) -> list[str]:
    names = given or [desk.ask_name(seat, count) for seat in range(1, count + 1)]
    check_names(names, count)
    return names


def _report(path: Path, record: ShareRecord) -> None:
    typer.echo(f"record: {path}. {KEEP_RECORD}")
    for custodian in record.custodians:
        typer.echo(f"  {custodian.name}: {custodian.fingerprint[:16]}")
    typer.echo(f"recovery public key, for the site file: {record.public_key.hex()}")
    decrypter = sha256(Path(break_glass.__file__).read_bytes()).hexdigest()
    typer.echo(f"SHA-256 of break_glass.py, for the sheet: {decrypter}")
    typer.echo("Destroy every copy that was made on the way: photographs, spools, files.")


def _moves(envelopes: list[Path], out: Path | None) -> list[tuple[Path, Path]]:
    """Each envelope and where its re-wrapped copy goes."""
    if not envelopes:
        return []
    if out is None or not out.is_dir():
        raise InvalidInputError("--rewrap needs a folder to write to", remedy="Give --out, an empty folder.")
    moves = [(path, out / path.name) for path in envelopes]
    if len({target for _, target in moves}) < len(moves):
        raise InvalidInputError("two envelopes have one name", remedy="Re-wrap them into two folders.")
    for _, target in moves:
        _absent(target)
    return moves


def _require_slots(envelopes: Sequence[Path], public_key: bytes) -> None:
    """Before any custodian is asked: each has a slot of this key."""
    for path in envelopes:
        try:
            slots = inspect_file(path).slots
        except OSError as error:
            raise NotFoundError(f"{path}: {error.strerror}", remedy="Name an envelope.") from None
        if not any(isinstance(slot, RecoverySlot) and slot.public_key == public_key for slot in slots):
            raise InvalidInputError(
                f"{path} has no slot of the key of this record", remedy="Take the record of the key in its slots."
            )


def _move(source: Path, target: Path, old_key: bytes, successor: bytes) -> None:
    """The same envelope under the successor instead of the old recovery key; passphrases stay."""
    opener, old = RecoveryOpener(old_key), recovery_public_key(old_key)
    header = verify_file(source, opener)
    keep = [slot.slot_id for slot in header.slots if not (isinstance(slot, RecoverySlot) and slot.public_key == old)]
    rewrap_file(source, target, opener, keep=keep, add=[RecoverySeal(successor)])
    typer.echo(f"re-wrapped: {target}")


def _successor(to_record: Path | None, trusted: list[str] | None) -> bytes:
    if to_record is None:
        raise InvalidInputError("--rewrap needs the record of the new shares", remedy="Give --to.")
    return _open(to_record, trusted).public_key


def _write_record(path: Path, record: ShareRecord, signer: Signer | None) -> None:
    data = seal_record(record, signer)
    try:
        replace_file(path, data, mode=0o644)
    except OSError as error:
        typer.echo(data.decode())  # a ceremony is not held again for want of a disk
        raise UnavailableError(
            f"{path}: {error.strerror}", remedy="Save the record printed above as that file."
        ) from None


def _signer(reference: str | None) -> Signer | None:
    return None if reference is None else Signer.from_pem(secrets.resolve(reference))


def _open(path: Path, trusted: list[str] | None) -> ShareRecord:
    for key in trusted or ():
        if not PUBLIC_KEY.fullmatch(key):
            raise InvalidInputError("--trusted is not a public key", remedy="Give 64 hexadecimal digits, lower case.")
    return open_record(_read(path), trusted=trusted or ())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes().removesuffix(b"\n")  # as editors leave it
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}", remedy="Name the record of the shares.") from None


def _absent(path: Path) -> None:
    if path.exists():
        raise ConflictError(f"{path} exists", remedy="Name a new file; nothing is replaced.")
    if not path.parent.is_dir():
        raise NotFoundError(f"{path.parent} is no folder", remedy="Make it first.")


def _now() -> datetime:
    return datetime.now(UTC)
