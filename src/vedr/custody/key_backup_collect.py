"""The keys that a region has, read from its hosts and backed up one owner at a time.

Guarantees: what was not backed up is named with the reason; a validator's key is only taken when it is the one of its
site's address; daemon backups with findings are reported and never stand in for a backup.  But for `collect`, only
public facts leave this module.
Leaves out: keys inside an HSM, whose reference record is another backup (hsm_reference).
"""

import datetime as dt
import os
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vedr.chain.sign_state import FILE_NAME, read_sign_state
from vedr.custody import key_backup_store
from vedr.custody.key_backup import make_bundle
from vedr.custody.key_backup_catalogue import Backup
from vedr.custody.key_backup_store import KeyRepository
from vedr.custody.key_manager_import import Finding, check_share, is_share, open_backup, read_backup
from vedr.custody.key_material import NODE_FILE, VALIDATOR_FILE, KeyFile, KeyKind, read_key_file
from vedr.errors import InvalidInputError, NotFoundError, RefusedError, VedrError
from vedr.inventory import Node, Provider, Site
from vedr.ports import Files

MAX_READ_BYTES: Final = 4 * 1024 * 1024  # a daemon's backup; key files are checked to be smaller
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
FRESH: Final = dt.timedelta(hours=12)  # half the period of the daily job

Say = Callable[[str], None]
Passphrase = Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose keys: one node or provider, and one kind."""

    kind: KeyKind
    name: str
    region: str


@dataclass(frozen=True, slots=True)
class Collected:
    """An owner's checked key files, and what is to be told about them."""

    files: tuple[KeyFile, ...] = field(repr=False)
    findings: tuple[str, ...] = ()
    sign_state: str = ""
    since: Mapping[str, dt.datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Saved:
    """One owner's backup that counts: made now, or found fresh with the same keys."""

    owner: str
    kind: KeyKind
    backup: str
    fingerprints: tuple[str, ...]
    regions: tuple[str, ...]
    missing: tuple[str, ...]
    fresh: bool


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an owner's keys are not, or not well, backed up."""

    owner: str
    kind: KeyKind
    reason: str
    transient: bool = False


@dataclass(frozen=True, slots=True)
class RegionKeys:
    """What became of a region's keys."""

    saved: tuple[Saved, ...]
    troubles: tuple[Trouble, ...]
    in_hsm: tuple[str, ...]


def owners(site: Site, region: str) -> tuple[Owner, ...]:
    """Everybody in the region who has keys: validators twice, for each has a node key as well."""
    nodes = site.nodes_in(region)
    return (
        *(Owner("validator", node.name, region) for node in nodes if node.is_validator),
        *(Owner("node", node.name, region) for node in nodes),
        *(Owner("provider", provider.name, region) for provider in site.providers if provider.region == region),
    )


def back_up_region(
    repository: KeyRepository,
    site: Site,
    files: Files,
    region: str,
    *,
    passphrase: Passphrase | None = None,
    even_if_fresh: bool = False,
    say: Say = lambda _: None,
) -> RegionKeys:
    """Every owner of the region, one after the other; one's trouble is not the others'."""
    saved: list[Saved] = []
    troubles: list[Trouble] = []
    in_hsm: list[str] = []
    for owner in owners(site, region):
        try:
            if owner.kind == "validator" and _signs_remotely(files.home(site.node(owner.name))):
                in_hsm.append(owner.name)
                continue
            collected = collect(site, files, owner, now=repository.clock(), passphrase=passphrase)
            troubles += [Trouble(owner.name, owner.kind, finding) for finding in collected.findings]
            saved.append(back_up(repository, owner, collected, even_if_fresh=even_if_fresh))
        except VedrError as error:
            troubles.append(Trouble(owner.name, owner.kind, error.message, error.transient))
            say(f"{owner.name}, {owner.kind} keys: {error.message}")
    return RegionKeys(tuple(saved), tuple(troubles), tuple(in_hsm))


def back_up(repository: KeyRepository, owner: Owner, collected: Collected, *, even_if_fresh: bool) -> Saved:
    """One owner: a new backup, or the one of today when it holds the same keys under the newest passphrase."""
    bundle = make_bundle(owner.kind, owner.name, repository.chain_id, collected.files)
    previous = key_backup_store.newest(repository, owner.region, owner.kind, owner.name)
    if previous is not None and not even_if_fresh and _is_fresh(repository, previous, bundle.fingerprints):
        wrong = key_backup_store.verify(repository, previous)
        regions = tuple(region for region in repository.stores if region not in wrong)
        return Saved(owner.name, owner.kind, previous.id, bundle.fingerprints, regions, tuple(wrong), fresh=True)
    kept = key_backup_store.store_bundle(
        repository,
        owner.region,
        bundle,
        previous=previous,
        since=collected.since,
        sign_state=collected.sign_state,
    )
    return Saved(
        owner.name, owner.kind, kept.backup.id, bundle.fingerprints, kept.regions, tuple(kept.missing), fresh=False
    )


def collect(
    site: Site, files: Files, owner: Owner, *, now: dt.datetime, passphrase: Passphrase | None = None
) -> Collected:
    """Read and check an owner's key files.

    Raises:
        NotFoundError: it has none.
        CorruptError, RefusedError: a file that is none, is another's, or is a link; nothing of it is shown.
        UnavailableError: its host's disk is not reached from here.
    """
    if owner.kind == "provider":
        provider = next((one for one in site.providers if one.name == owner.name), None)
        if provider is None:
            raise NotFoundError(f"site {site.name} has no provider {owner.name!r}", remedy="See vedr site show.")
        return _of_provider(provider, site.custody.provider_key_files, passphrase, now)
    node = site.node(owner.name)
    return _of_validator(node, files) if owner.kind == "validator" else _of_node(node, files)


def live_home(site: Site, files: Files, owner: Owner) -> tuple[Path, str, str]:
    """Home, unit and zone of an owner."""
    if owner.kind == "provider":
        provider = next((one for one in site.providers if one.name == owner.name), None)
        if provider is None:
            raise NotFoundError(f"site {site.name} has no provider {owner.name!r}", remedy="See vedr site show.")
        return provider.home, provider.unit, provider.zone
    node = site.node(owner.name)
    return files.home(node), node.unit, node.zone


def _of_validator(node: Node, files: Files) -> Collected:
    home = files.home(node)
    path = home / VALIDATOR_FILE
    file = read_key_file("validator", VALIDATOR_FILE, _read(path), what=str(path))
    if file.identity.address != node.address:
        raise RefusedError(
            f"{node.name}: the key on its disk is not the one of {node.address}",
            remedy="Find out whose it is; restore the right one: vedr keys restore.",
        )
    try:
        seen = str(read_sign_state(home / "data" / FILE_NAME))
    except VedrError:
        seen = ""  # the key is what is backed up; what it signed is shipped by another way
    return Collected((file,), _modes(path), seen, _since(path, [file]))


def _of_node(node: Node, files: Files) -> Collected:
    path = files.home(node) / NODE_FILE
    file = read_key_file("node", NODE_FILE, _read(path), what=str(path))
    return Collected((file,), _modes(path), since=_since(path, [file]))


def _of_provider(
    provider: Provider, patterns: Sequence[str], passphrase: Passphrase | None, now: dt.datetime
) -> Collected:
    paths = sorted({path for pattern in patterns for path in provider.home.glob(pattern) if path.is_file()})
    keys: dict[str, KeyFile] = {}
    findings: list[str] = []
    since: dict[str, dt.datetime] = {}
    for path in paths:
        findings += _modes(path)
        name = path.relative_to(provider.home).as_posix()
        if path.suffix == ".json":
            imported, wrong, made = _from_daemon(path, passphrase, now)
            findings += [f"{name}: {finding}" for finding in wrong]
            since |= made
        else:
            imported = (read_key_file("provider", name, _read(path), what=str(path)),)
            since |= _since(path, imported)
        keys |= {file.path: file for file in imported if file.path not in keys}
    if not keys:
        raise NotFoundError(
            f"{provider.name}: no key under {provider.home} ({', '.join(patterns)})"
            + (f"; {'; '.join(findings)}" if findings else ""),
            remedy="Correct [custody] provider_key_files, or export the daemon's keys.",
        )
    return Collected(tuple(keys.values()), tuple(findings), since=since)


def _from_daemon(
    path: Path, passphrase: Passphrase | None, now: dt.datetime
) -> tuple[tuple[KeyFile, ...], tuple[Finding, ...], dict[str, dt.datetime]]:
    """A backup or share that the daemon made; the passphrase is fetched, used and dropped here."""
    content, what = _read(path), str(path)
    if is_share(content):
        return (), check_share(content, passphrase() if passphrase else None, now=now, what=what), {}
    backup = read_backup(content, what=what)
    if passphrase is None:
        raise InvalidInputError(
            f"{what} is a backup that the provider daemon made, and nobody said what opens it",
            remedy="Set [custody] provider_passphrase, or leave the file out of provider_key_files.",
        )
    imported = open_backup(backup, passphrase(), now=now)
    made = {file.identity.fingerprint: at for file, at in zip(imported.keys, imported.made_at, strict=True)}
    return imported.keys, imported.findings, made


def _read(path: Path) -> bytes:
    """A regular file's bytes; no link is followed, so that a home cannot point to another's key."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist", remedy="Restore it: vedr keys restore.") from None
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}", remedy="Put the file itself there, readable to vedr.") from None
    with open(descriptor, "rb") as file:  # noqa: PTH123 (the descriptor is what was checked)
        return file.read(MAX_READ_BYTES + 1)


def _modes(path: Path) -> tuple[str, ...]:
    mode = stat.S_IMODE(path.stat().st_mode)
    return (f"{path.name} has mode {mode:04o}: others may read it",) if mode & OTHERS else ()


def _since(path: Path, files: Sequence[KeyFile]) -> dict[str, dt.datetime]:
    """The file's own time: the first guess at a key's age, which later backups carry on."""
    modified = dt.datetime.fromtimestamp(int(path.stat().st_mtime), dt.UTC)
    return {file.identity.fingerprint: modified for file in files}


def _signs_remotely(home: Path) -> bool:
    """Whether the node waits for a remote signer, and so has no key of its own."""
    try:
        config = tomllib.loads((home / "config" / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(config.get("priv_validator_laddr"))


def _is_fresh(repository: KeyRepository, previous: Backup, fingerprints: tuple[str, ...]) -> bool:
    if repository.clock() - previous.created_at >= FRESH or previous.fingerprints != fingerprints:
        return False
    epoch = repository.escrow.current(previous.kind).epoch
    return previous.reference == repository.escrow.reference(previous.kind, epoch)
