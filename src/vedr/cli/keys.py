"""`vedr keys`: key backups, their passphrases, and when keys are due.

Guarantees: no command prints, takes as an option, or logs a secret; they are read from where references say, or from
a file with mode 0600.  The exit status is true: 3 when a backup does not verify or a key is due or expired.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.table import Column, Table

from vedr.adapters.secrets import resolve
from vedr.adapters.site import OpenSite, open_site
from vedr.cli.output import JsonFlag, SiteOption, print_json, stderr, stdout
from vedr.custody import escrow_rotation, key_backup_store
from vedr.custody.envelope_slots import Opener, RecoveryOpener
from vedr.custody.key_backup_catalogue import Backup, parse_id
from vedr.custody.key_backup_collect import (
    Owner,
    RegionKeys,
    Saved,
    Trouble,
    back_up,
    back_up_region,
    collect,
    live_home,
)
from vedr.custody.key_backup_restore import restore_keys
from vedr.custody.key_backup_store import Found
from vedr.custody.key_material import KINDS, KeyKind
from vedr.custody.key_material_process import no_core_dumps
from vedr.custody.rotation import Judged, Status
from vedr.custody.rotation_status import judge_region
from vedr.errors import InvalidInputError, NotFoundError, UnavailableError, VerificationFailedError
from vedr.ports import UnitStatus
from vedr.readiness.custody import in_files
from vedr.signature import Json

app = typer.Typer()

SHOWN_DIGITS: Final = 16
RegionOption = Annotated[str | None, typer.Option("--region", help="Only this region; default: all.")]
KindOption = Annotated[str | None, typer.Option("--kind", help="validator, node or provider; default: all.")]
OwnerOption = Annotated[str | None, typer.Option("--owner", help="Name of a node or provider; default: all.")]
IdArgument = Annotated[str, typer.Argument(help="Id of a backup, as `vedr keys list` shows it.")]


@app.command()
def backup(
    *, region: RegionOption = None, kind: KindOption = None, owner: OwnerOption = None, site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Back up keys now; with --owner and --kind one owner's, else whole regions.  Exit 3 when any were not, or a region
    lacks them.
    """
    if (owner is None) != (kind is None):
        raise InvalidInputError(
            "--owner and --kind go together",
            remedy=f"Give both, or neither for whole regions; kinds: {', '.join(KINDS)}.",
        )
    no_core_dumps()
    saved: list[Saved] = []
    troubles: list[Trouble] = []
    with open_site(site) as opened:
        passphrase = _provider_passphrase(opened)
        if owner is not None:
            one = Owner(_kind(kind), owner, _region_of(opened, owner))
            collected = collect(opened.site, opened.files, one, now=opened.keys.clock(), passphrase=passphrase)
            troubles += [Trouble(one.name, one.kind, finding) for finding in collected.findings]
            saved.append(back_up(opened.keys, one, collected, even_if_fresh=True))
        else:
            for name in _regions(opened, region):
                done = back_up_region(
                    opened.keys, opened.site, opened.files, name, passphrase=passphrase, even_if_fresh=True
                )
                saved += done.saved
                troubles += done.troubles
    _show_saved(RegionKeys(tuple(saved), tuple(troubles), ()), as_json=as_json)
    partly = sum(bool(one.missing) for one in saved)
    if troubles or partly:
        raise VerificationFailedError(
            f"{len(saved)} backups count, {partly} of them not in every region; {len(troubles)} things not in order",
            remedy="Each is named above.  Regions that come back are caught up by the next key-backup.",
        )


def _show_saved(done: RegionKeys, *, as_json: bool) -> None:
    if as_json:
        saved: list[Json] = [
            {
                "backup": one.backup,
                "fingerprints": [*one.fingerprints],
                "regions": [*one.regions],
                "missing": [*one.missing],
            }
            for one in done.saved
        ]
        troubles: list[Json] = [{"owner": one.owner, "kind": one.kind, "reason": one.reason} for one in done.troubles]
        print_json({"saved": saved, "troubles": troubles})
        return
    for one in done.saved:
        lacking = f"; not in {', '.join(one.missing)}" if one.missing else ""
        stdout.print(f"{one.backup}: in {', '.join(one.regions)}{lacking}", highlight=False, soft_wrap=True)
    for trouble in done.troubles:
        stderr.print(f"{trouble.owner}, {trouble.kind}: {trouble.reason}", highlight=False, markup=False)


@app.command("list")
def list_command(
    *, region: RegionOption = None, kind: KindOption = None, owner: OwnerOption = None, site: SiteOption = None,
    newest: Annotated[int, typer.Option("--newest", min=1, help="How many.")] = 50, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Backups, newest first, from the signed catalogue: no passphrase is needed."""
    with open_site(site) as opened:
        found, silent = key_backup_store.list_backups(
            opened.keys, _regions(opened, region), kind=_kind(kind) if kind else None, owner=owner
        )
        entries = [(one, key_backup_store.load(opened.keys, one)) for one in found[:newest]]
        total = len(opened.site.regions)
    if as_json:
        rows: list[Json] = [_entry_json(one, entry) for one, entry in entries]
        print_json({"backups": rows, "unreachable": [*silent]})
    else:
        table = Table(Column("backup", no_wrap=True), "keys", "passphrase", "regions")
        for one, entry in entries:
            keys = ", ".join(fingerprint[:SHOWN_DIGITS] for fingerprint in entry.fingerprints)
            table.add_row(one.id, keys, entry.reference.rpartition("/")[2], f"{len(one.regions)}/{total}")
        stdout.print(table)
    for name, error in silent.items():
        stderr.print(f"{name} did not answer: {error.message}", highlight=False, markup=False)


@app.command()
def inspect(backup_id: IdArgument, site: SiteOption = None, as_json: JsonFlag = False) -> None:
    """All that is known of a backup without opening it."""
    with open_site(site) as opened:
        found = _find(opened, backup_id)
        entry = key_backup_store.load(opened.keys, found)
    if as_json:
        print_json(_entry_json(found, entry))
        return
    stdout.print(f"[bold]{entry.id}[/], generation {entry.generation}, in {', '.join(found.regions)}", highlight=False)
    stdout.print(f"  opens with {entry.reference}, or the shares of recovery key {entry.recovery_public_key}")
    stdout.print(f"  without vedr: {entry.decrypter}", highlight=False)
    for key in entry.keys:
        stdout.print(f"  {key.path}: {key.algorithm} {key.public_key}", highlight=False, soft_wrap=True)
        stdout.print(f"    known since {key.since:%Y-%m-%d}, fingerprint {key.fingerprint}", highlight=False)
    if entry.sign_state:
        stdout.print(f"  had signed {entry.sign_state} by then (evidence only)", highlight=False)


@app.command()
def verify(
    backup_id: Annotated[str, typer.Argument(help="Id; default: the newest of every owner.")] = "",
    *, region: RegionOption = None, site: SiteOption = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Hash every region's copy and open one; exit 3 when anything is wrong or was not checked."""
    no_core_dumps()
    wrong: dict[str, dict[str, str]] = {}
    with open_site(site) as opened:
        repository = opened.keys
        if backup_id:
            entries = [key_backup_store.load(repository, _find(opened, backup_id))]
        else:
            entries = [
                entry
                for name in _regions(opened, region)
                for entry in key_backup_store.newest_of_each(repository, name)
            ]
        for entry in entries:
            failures = key_backup_store.verify(repository, entry)
            if failures:
                wrong[entry.id] = {name: error.message for name, error in failures.items()}
    if as_json:
        print_json(
            {"checked": [entry.id for entry in entries], "wrong": {one: {**each} for one, each in wrong.items()}}
        )
    else:
        stdout.print(f"{len(entries)} backups opened and compared, {len(wrong)} with a region that fails")
        for one, reasons in wrong.items():
            for name, reason in reasons.items():
                stderr.print(f"{one} in {name}: {reason}", highlight=False, markup=False, soft_wrap=True)
    if wrong or not entries:
        raise VerificationFailedError(
            f"of {len(entries)} backups, not whole in every region: {', '.join(wrong) or 'there is none at all'}",
            remedy="Run key-backup, which heals; see vedr keys inspect.",
        )


@app.command()
def restore(
    backup_id: IdArgument,
    *,
    out: Annotated[Path | None, typer.Option("--out", help="A folder instead of the owner's home.")] = None,
    recovery_key: Annotated[
        str, typer.Option("--recovery-key", help="file:/… with the combined recovery key, when escrow is lost.")
    ] = "",
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Put keys back: refused over existing files and while the unit runs.  Never starts or arms anything."""
    no_core_dumps()
    with open_site(site) as opened:
        entry = key_backup_store.load(opened.keys, _find(opened, backup_id))
        home, status = _target(opened, entry, out)
        opener: Opener | None = RecoveryOpener(_recovery_secret(recovery_key)) if recovery_key else None
        bundle = key_backup_store.open_from(opened.keys, entry, opener=opener)
        revoked = key_backup_store.revocations(opened.keys, entry.origin, entry.fingerprints)
        restored = restore_keys(bundle, home, revoked=revoked, status=status)
    if as_json:
        print_json({"backup": entry.id, "paths": [str(path) for path in restored.paths], "next": restored.next_step})
        return
    for path in restored.paths:
        stdout.print(f"{path}", highlight=False, soft_wrap=True)
    stdout.print(restored.next_step, highlight=False)


def _target(opened: OpenSite, entry: Backup, out: Path | None) -> tuple[Path, Callable[[], UnitStatus] | None]:
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InvalidInputError(f"{out} is not an empty folder", remedy="Name one that is.")
        return out, None
    home, unit, zone = live_home(opened.site, opened.files, Owner(entry.kind, entry.owner, entry.origin))
    return home, functools.partial(opened.fleet.status, unit, zone)


def _recovery_secret(reference: str) -> bytes:
    secret = resolve(reference)
    try:
        return bytes.fromhex(secret.decode("ascii"))
    except ValueError:
        raise InvalidInputError(
            "the recovery key is not hexadecimal", remedy="Write the file: vedr shares combine --write-key FILE."
        ) from None


@app.command("rotate-passphrase")
def rotate_passphrase(*, kind: KindOption = None, site: SiteOption = None, as_json: JsonFlag = False) -> None:
    """Next escrow epoch: created, readable everywhere, all backups wrapped anew and opened, the old one retired."""
    no_core_dumps()
    rows: list[Json] = []
    with open_site(site) as opened:
        for one in (_kind(kind),) if kind else KINDS:
            done = escrow_rotation.rotate(opened.keys, one, opened.site.regions_by_priority, _say)
            rows.append(
                {
                    "kind": one,
                    "epoch": done.epoch,
                    "created": done.created,
                    "rewrapped": done.rewrapped,
                    "verified": done.verified,
                    "retired": [*done.retired],
                    "kept": {f"{epoch:04d}": reason for epoch, reason in done.kept},
                }
            )
            if not as_json:
                stdout.print(_in_words(done), highlight=False, soft_wrap=True)
    if as_json:
        print_json(rows)


def _in_words(done: escrow_rotation.Rotated) -> str:
    """Where a rotation ended, for people."""
    retired = f"; retired: {', '.join(f'{epoch:04d}' for epoch in done.retired)}" if done.retired else ""
    kept = "".join(f"; {epoch:04d} stays in use: {reason}" for epoch, reason in done.kept)
    return (
        f"{done.kind} keys: passphrase epoch {done.epoch:04d}, {done.rewrapped} backups wrapped anew, "
        f"{done.verified} opened under it{retired}{kept}"
    )


@app.command()
def status(*, region: RegionOption = None, site: SiteOption = None, as_json: JsonFlag = False) -> None:
    """Every key's age against the rotation policy; exit 3 when one is due or expired, or was never backed up."""
    with open_site(site) as opened:
        judged = [
            one
            for name in _regions(opened, region)
            for one in judge_region(opened.keys, name, opened.site.custody.high_security)
        ]
        seen = {(one.owner, one.kind) for one in judged}
        never = [
            f"{owner.name} ({owner.kind})"
            for name in _regions(opened, region)
            for owner in in_files(opened.site, name)
            if (owner.name, owner.kind) not in seen
        ]
    if as_json:
        print_json([_judged_json(one) for one in judged])
    else:
        table = Table("status", "owner", "kind", "key", "age", "backed up", "why")
        for one in judged:
            print_ = one.key.fingerprint[:SHOWN_DIGITS]
            backed_up = f"{one.backed_up_at:%Y-%m-%d %H:%M}"
            table.add_row(one.status, one.owner, one.kind, print_, f"{one.age_days} d", backed_up, escape(one.reason))
        stdout.print(table)
    if not judged:
        raise NotFoundError("no key was ever backed up", remedy="Run vedr keys backup.")
    late = sum(one.status in (Status.DUE, Status.EXPIRED) for one in judged)
    if late or never:
        unseen = f"; never backed up, so of unknown age: {', '.join(never)}" if never else ""
        raise VerificationFailedError(
            f"{late} keys are due or expired{unseen}",
            remedy="Replace the late ones: docs/custody/escrow.md, and RB-DR-005.  Others: vedr keys backup.",
        )


def _entry_json(found: Found, entry: Backup) -> Json:
    keys: list[Json] = [
        {
            "path": key.path,
            "algorithm": key.algorithm,
            "public_key": key.public_key,
            "address": key.address,
            "fingerprint": key.fingerprint,
            "since": key.since.isoformat(),
        }
        for key in entry.keys
    ]
    return {
        "id": entry.id,
        "generation": entry.generation,
        "origin": entry.origin,
        "kind": entry.kind,
        "owner": entry.owner,
        "created_at": entry.created_at.isoformat(),
        "reference": entry.reference,
        "recovery_public_key": entry.recovery_public_key,
        "decrypter": entry.decrypter,
        "sign_state": entry.sign_state,
        "regions": [*found.regions],
        "keys": keys,
    }


def _judged_json(one: Judged) -> Json:
    return {
        "owner": one.owner,
        "kind": one.kind,
        "origin": one.origin,
        "fingerprint": one.key.fingerprint,
        "status": one.status,
        "age_days": one.age_days,
        "reason": one.reason,
        "backed_up_at": one.backed_up_at.isoformat(),
    }


def _find(opened: OpenSite, backup_id: str) -> Found:
    parsed = parse_id(backup_id)
    found, silent = key_backup_store.list_backups(
        opened.keys, opened.site.regions_by_priority, kind=parsed.kind, owner=parsed.owner
    )
    for one in found:
        if one.id == backup_id:
            return one
    if silent:
        raise UnavailableError(
            f"{backup_id} is in no region that answers; silent: {', '.join(silent)}", remedy="Try again when they do."
        )
    raise NotFoundError(f"no key backup {backup_id}", remedy="See vedr keys list.")


def _provider_passphrase(opened: OpenSite) -> Callable[[], bytes] | None:
    reference = opened.site.custody.provider_passphrase
    return None if reference is None else functools.partial(resolve, reference)


def _regions(opened: OpenSite, region: str | None) -> tuple[str, ...]:
    if region is None:
        return opened.site.regions_by_priority
    opened.site.region(region)
    return (region,)


def _region_of(opened: OpenSite, owner: str) -> str:
    for thing in opened.site.placed:
        if thing.name == owner:
            return thing.region
    raise NotFoundError(f"no node or provider {owner!r}", remedy="See vedr site show.")


def _kind(text: str | None) -> KeyKind:
    for kind in KINDS:
        if kind == text:
            return kind
    raise InvalidInputError(f"--kind {text}: unknown", remedy=f"Use one of: {', '.join(KINDS)}.")


def _say(message: str) -> None:
    stderr.print(message, highlight=False, markup=False)
