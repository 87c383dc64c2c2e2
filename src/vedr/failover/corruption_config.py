"""A node's configuration: what is broken in it, and a good copy of it from the hourly backup.

Guarantees: what is given back was read from a snapshot that a trusted key signed, parses, and is one of the files that
configuration backups hold: keys and secrets never are.  A backup that is damaged, or holds the damage, is passed over
for an older one, and that is said.  The genesis is compared with the site's, by SHA-256.
Leaves out: whether values make sense, which only the node program knows (its log tells: `corruption_signs`).
"""

import hashlib
import json
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedr.backup.configuration import NODE_FILES
from vedr.backup.fetching import ObjectReader
from vedr.backup.manifest import VerifiedManifest
from vedr.backup.repository import Repository, list_snapshots, load_manifest
from vedr.errors import CorruptError, InvalidInputError, NotFoundError, VerificationFailedError
from vedr.failover.corruption import KEY_FILES, Finding
from vedr.inventory import Chain, Node

GENESIS: Final = "config/genesis.json"
REQUIRED: Final = ("config/config.toml", GENESIS)
MAX_BACKUPS: Final = 24  # a day of hourly ones


@dataclass(frozen=True, slots=True)
class GoodFile:
    """A configuration file that can be put in place; `origin` is a snapshot's id, or the site's own file."""

    name: str
    content: bytes
    origin: str
    passed_over: tuple[str, ...] = ()


def broken_files(home: Path, chain: Chain, node: Node, *, has_key_file: bool) -> tuple[Finding, ...]:
    """What is wrong with the configuration on the node's disk; `has_key_file`: its consensus key belongs there."""
    found = []
    for name in NODE_FILES:
        path = home / name
        if not path.exists():
            if name in REQUIRED:
                found.append(Finding("config", name, "is gone"))
            continue
        try:
            check(name, path.read_bytes(), chain)
        except (CorruptError, OSError) as error:
            found.append(Finding("config", name, str(error.args[0])))
    return (*found, *_broken_keys(home, node, KEY_FILES if has_key_file else KEY_FILES[:1]))


def check(name: str, content: bytes, chain: Chain) -> None:
    """CorruptError, saying what is wrong, unless the file is what a node of this chain can read."""
    if name == GENESIS:
        digest = hashlib.sha256(content).hexdigest()
        if digest != chain.genesis_sha256:
            raise CorruptError(f"has SHA-256 {digest}, the chain's genesis has {chain.genesis_sha256}")
        return
    try:
        tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CorruptError(f"is not TOML: {error}") from error


def _broken_keys(home: Path, node: Node, names: Iterable[str]) -> Iterator[Finding]:
    """A key that is gone or not JSON; what is in it is not looked at, and never told."""
    for name in names:
        try:
            json.loads((home / name).read_bytes())
        except FileNotFoundError:
            yield Finding("config", name, f"the key of {node.name} is gone")
        except (OSError, ValueError):
            yield Finding("config", name, f"the key of {node.name} can't be read")


def good_file(repository: Repository, chain: Chain, node: Node, name: str) -> GoodFile:
    """The newest good copy: the site's own file for the genesis, the configuration backup for the others.

    Raises:
        InvalidInputError: this is no file that a configuration backup holds.
        VerificationFailedError: none of the backups has a good one; every reason is named.
        UnavailableError: no store answers.
    """
    if name not in NODE_FILES:
        raise InvalidInputError(f"{name} is in no configuration backup", remedy="Restore keys by `vedr keys restore`.")
    if name == GENESIS:
        return _genesis(chain)
    refused: list[str] = []
    for listed in list_snapshots(repository, node.region, "config").snapshots[:MAX_BACKUPS]:
        try:
            verified = load_manifest(repository, listed, prefer=(node.region,))
            content = _read(repository, verified, f"{node.name}/{name}", prefer=node.region)
            check(name, content, chain)
        except (VerificationFailedError, NotFoundError) as error:
            refused.append(f"{listed.id}: {error.message}")
            continue
        return GoodFile(name, content, listed.id, tuple(refused))
    raise VerificationFailedError(
        f"no configuration backup of {node.region} has a good {name} of {node.name}: {'; '.join(refused) or 'none'}",
        remedy="Write the file by hand from another node's, then resume; see `vedr snapshot list --kind config`.",
    )


def _genesis(chain: Chain) -> GoodFile:
    try:
        content = chain.genesis.read_bytes()
    except OSError as error:
        raise NotFoundError(
            f"{chain.genesis}: {error.strerror}", remedy="Put the chain's genesis where [chain] genesis says."
        ) from error
    check(GENESIS, content, chain)
    return GoodFile(GENESIS, content, str(chain.genesis))


def _read(repository: Repository, verified: VerifiedManifest, path: str, *, prefer: str) -> bytes:
    entry = next((file for file in verified.manifest.files if file.path == path), None)
    if entry is None:
        raise NotFoundError(f"it has no {path}")
    reader = ObjectReader(repository, verified, prefer=(prefer,))
    pieces = [
        bytes(reader.read(extent.number)[extent.offset_bytes : extent.offset_bytes + extent.length_bytes])
        for extent in entry.extents
    ]
    return b"".join(pieces)


def drift(repository: Repository, chain: Chain, node: Node, home: Path) -> tuple[Finding, ...]:
    """Files that parse, but are not as the newest good backup has them: an edit, or damage; only people know.

    Raises:
        VerificationFailedError, UnavailableError: a file can't be compared.
    """
    found = []
    for name in NODE_FILES:
        if name != GENESIS and (home / name).is_file():
            good = good_file(repository, chain, node, name)
            if good.content != (home / name).read_bytes():
                found.append(Finding("config", name, f"differs from {good.origin}"))
    return tuple(found)
