"""Manifests and placements: what a snapshot is made of, and where a bucket keeps it (docs/formats/manifest.md).

Guarantees: bytes in, checked values out; whatever the bytes, only `vedr.errors` leave this module.  `VerifiedManifest`
exists only where a trusted key signed it under the id that it was looked for, so functions that take one cannot be
called on an unproven snapshot.  Paths stay inside the folder that they are restored to; extents stay inside objects.
Leaves out: whether the objects exist and are whole (verify.py).
"""

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from vedr.backup.documents import Reader, broken, rfc3339
from vedr.backup.layout import KINDS, Epoch, ObjectName, SnapshotId, Source, parse_id
from vedr.backup.sealing import PART_BYTES, EncryptionMode
from vedr.errors import InvalidInputError
from vedr.inventory import Height
from vedr.signature import Json, Signer, open_document

MANIFEST_FORMAT: Final = "vedr-manifest/1"
PLACEMENT_FORMAT: Final = "vedr-placement/1"
PERMISSION_BITS: Final = 0o7777

CaptureMethod = Literal["pause", "stop", "none"]
_METHODS: Final[tuple[CaptureMethod, ...]] = ("pause", "stop", "none")


class ObjectEntry(NamedTuple):
    name: ObjectName
    size_bytes: int
    """Of its content, not of what is stored."""


class Extent(NamedTuple):
    """A run of a file's bytes: `length_bytes` from `offset_bytes` of the content of the manifest's object `number`."""

    number: int
    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A regular file; inode, device and mtime tell the next snapshot whether it is unchanged."""

    path: str
    mode: int
    size_bytes: int
    mtime_ns: int
    inode: int
    device: int
    extents: tuple[Extent, ...]
    digest: str
    """The name that its content would have as an object; empty where its extents are whole objects."""


class FolderEntry(NamedTuple):
    path: str
    mode: int


@dataclass(frozen=True, slots=True)
class ChainPoint:
    """Which state this is: the state after block `height`, whose app hash header `height + 1` carries."""

    chain_id: str
    height: Height
    app_hash: str
    header_height: Height | None
    """Of the light-verified header that the app hash was compared with; None when none was at hand."""
    header_hash: str | None
    store_height: Height
    state_height: Height


@dataclass(frozen=True, slots=True)
class Facts:
    """What the snapshot is of, as found when it was captured."""

    chain: ChainPoint | None = None
    software: tuple[tuple[str, str], ...] = ()
    database_backend: str | None = None
    method: CaptureMethod = "none"
    pause_ms: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    id: SnapshotId
    source: Source
    epoch: Epoch
    created_at: dt.datetime
    facts: Facts
    encryption: EncryptionMode
    objects: tuple[ObjectEntry, ...]
    files: tuple[FileEntry, ...]
    folders: tuple[FolderEntry, ...]
    key_id: str | None = None
    """Of the key that it is encrypted under; None without encryption, and in manifests from before keys were named."""

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def height(self) -> Height:
        return self.facts.chain.height if self.facts.chain else Height(0)


class PlacedObject(NamedTuple):
    """One object in one bucket.  Reading by version is what keeps an intruder's newer version out."""

    version: str | None
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Placement:
    """A bucket holds every object of a snapshot; `objects` run in the manifest's order."""

    snapshot: SnapshotId
    region: str
    epoch: Epoch
    manifest_sha256: str
    objects: tuple[PlacedObject, ...]


_PROOF: Final = object()


class VerifiedManifest:
    """A manifest that a trusted key signed; made by `open_manifest` and `seal_manifest` only."""

    __slots__ = ("manifest", "sha256", "stored")

    def __init__(self, proof: object, manifest: Manifest, stored: bytes) -> None:
        if proof is not _PROOF:
            raise TypeError("a VerifiedManifest comes from open_manifest")
        self.manifest: Final = manifest
        self.stored: Final = stored
        """The signed document, byte for byte: regions get copies of this."""
        self.sha256: Final = hashlib.sha256(stored).hexdigest()

    @property
    def id(self) -> SnapshotId:
        return self.manifest.id

    @property
    def source(self) -> Source:
        return self.manifest.source


def seal_manifest(manifest: Manifest, signer: Signer) -> VerifiedManifest:
    return VerifiedManifest(_PROOF, manifest, signer.seal_document(_manifest_json(manifest)))


def open_manifest(
    stored: bytes, trusted: Iterable[str], *, source_prefix: str, snapshot: SnapshotId
) -> VerifiedManifest:
    """Parse and prove.

    Raises:
        CorruptError: not a manifest, or another one than was asked for.
        VerificationFailedError: no trusted key signed it.
    """
    what = f"manifest {snapshot}"
    manifest = _parse_manifest(Reader(open_document(stored, trusted, what=what), what))
    if manifest.id != snapshot or manifest.source.prefix != source_prefix:
        raise broken(what, f"it is the manifest of {manifest.source.prefix} {manifest.id}")
    return VerifiedManifest(_PROOF, manifest, stored)


def seal_placement(placement: Placement, signer: Signer) -> bytes:
    return signer.seal_document(
        {
            "format": PLACEMENT_FORMAT,
            "snapshot": placement.snapshot,
            "region": placement.region,
            "epoch": placement.epoch,
            "manifest_sha256": placement.manifest_sha256,
            "objects": [[placed.version, placed.stored_bytes] for placed in placement.objects],
        }
    )


def open_placement(stored: bytes, trusted: Iterable[str], *, verified: VerifiedManifest, region: str) -> Placement:
    """The placement of exactly this manifest in exactly this region; errors as `open_manifest`."""
    what = f"placement {verified.id} in {region}"
    reader = Reader(open_document(stored, trusted, what=what), what)
    reader.expect("format", PLACEMENT_FORMAT)
    reader.expect("snapshot", verified.id)
    reader.expect("region", region)
    reader.expect("manifest_sha256", verified.sha256)
    reader.expect("epoch", verified.manifest.epoch)
    rows = [row.row(2) for row in reader.rows("objects")]
    placed = tuple(PlacedObject(row.optional_text(0), row.count(1)) for row in rows)
    if len(placed) != len(verified.manifest.objects):
        raise broken(what, f"{len(placed)} objects against {len(verified.manifest.objects)} in the manifest")
    return Placement(verified.id, region, verified.manifest.epoch, verified.sha256, placed)


def _manifest_json(manifest: Manifest) -> Mapping[str, Json]:
    facts, chain = manifest.facts, manifest.facts.chain
    return {
        "format": MANIFEST_FORMAT,
        "id": manifest.id,
        "origin": manifest.source.origin,
        "kind": manifest.source.kind,
        "source": manifest.source.name,
        "epoch": manifest.epoch,
        "created_at": rfc3339(manifest.created_at),
        "chain": None
        if chain is None
        else {
            "chain_id": chain.chain_id,
            "height": chain.height,
            "app_hash": chain.app_hash,
            "header": None
            if chain.header_height is None
            else {"height": chain.header_height, "hash": chain.header_hash},
            "store_height": chain.store_height,
            "state_height": chain.state_height,
        },
        "software": dict(facts.software),
        "database_backend": facts.database_backend,
        "capture": {"method": facts.method, "pause_ms": facts.pause_ms},
        "encoding": {
            "compression": "zstd",
            "encryption": manifest.encryption,
            **({} if manifest.key_id is None else {"key_id": manifest.key_id}),
            "part_bytes": PART_BYTES,
        },
        "total_bytes": manifest.total_bytes,
        "objects": [[entry.name, entry.size_bytes] for entry in manifest.objects],
        "files": [
            [
                file.path, file.mode, file.size_bytes, file.mtime_ns, file.inode, file.device,
                [number for extent in file.extents for number in extent], file.digest,
            ]
            for file in manifest.files
        ],
        "folders": [[folder.path, folder.mode] for folder in manifest.folders],
    }  # fmt: skip


def _parse_manifest(reader: Reader) -> Manifest:
    reader.expect("format", MANIFEST_FORMAT)
    source = Source(reader.text("origin"), reader.choice("kind", KINDS), reader.text("source"))
    encoding = reader.inner("encoding")
    encoding.expect("compression", "zstd")
    objects = tuple(_object(row.row(2)) for row in reader.rows("objects"))
    manifest = Manifest(
        id=SnapshotId(reader.text("id")),
        source=source,
        epoch=Epoch(reader.count("epoch")),
        created_at=reader.moment("created_at"),
        facts=_facts(reader),
        encryption=encoding.choice("encryption", ("none", "aes-256-gcm")),
        objects=objects,
        files=tuple(_file(row.row(8), objects) for row in reader.rows("files")),
        folders=tuple(
            FolderEntry(row.path(0), row.count(1) & PERMISSION_BITS)
            for row in (r.row(2) for r in reader.rows("folders"))
        ),
        key_id=encoding.text("key_id") if "key_id" in encoding.names else None,
    )
    _check_whole(manifest, reader)
    return manifest


def _facts(reader: Reader) -> Facts:
    capture = reader.inner("capture")
    software = reader.inner("software")
    return Facts(
        chain=_chain(reader.inner("chain")) if reader.has("chain") else None,
        software=tuple((name, software.text(name)) for name in software.names),
        database_backend=reader.optional_text("database_backend"),
        method=capture.choice("method", _METHODS),
        pause_ms=capture.count("pause_ms"),
    )


def _chain(reader: Reader) -> ChainPoint:
    header = reader.inner("header") if reader.has("header") else None
    return ChainPoint(
        chain_id=reader.text("chain_id"),
        height=Height(reader.count("height")),
        app_hash=reader.text("app_hash"),
        header_height=Height(header.count("height")) if header else None,
        header_hash=header.text("hash") if header else None,
        store_height=Height(reader.count("store_height")),
        state_height=Height(reader.count("state_height")),
    )


def _object(row: Reader) -> ObjectEntry:
    return ObjectEntry(ObjectName(row.hex256(0)), row.count(1))


def _file(row: Reader, objects: tuple[ObjectEntry, ...]) -> FileEntry:
    numbers = row.counts(6)
    if len(numbers) % 3:
        raise broken(row.what, "a file's extents are not triples")
    extents = tuple(Extent(*numbers[i : i + 3]) for i in range(0, len(numbers), 3))
    entry = FileEntry(
        path=row.path(0), mode=row.count(1) & PERMISSION_BITS, size_bytes=row.count(2), mtime_ns=row.integer(3),
        inode=row.count(4), device=row.count(5), extents=extents, digest=row.text(7),
    )  # fmt: skip
    for extent in extents:
        if (
            extent.number >= len(objects)
            or extent.offset_bytes + extent.length_bytes > objects[extent.number].size_bytes
        ):
            raise broken(row.what, f"file {entry.path!r} reaches outside its objects")
    if entry.digest and len(extents) > 1:
        raise broken(row.what, f"packed file {entry.path!r} is in several pieces")
    if sum(extent.length_bytes for extent in extents) != entry.size_bytes:
        raise broken(row.what, f"file {entry.path!r} has another size than its extents")
    return entry


def _check_whole(manifest: Manifest, reader: Reader) -> None:
    paths = [file.path for file in manifest.files]
    if len(set(paths)) != len(paths):
        raise broken(reader.what, "two files have one path")
    try:
        parsed = parse_id(manifest.id)
    except InvalidInputError as error:
        raise broken(reader.what, "its id is none") from error
    if parsed.name != manifest.source.name or parsed.height != manifest.height:
        raise broken(reader.what, "its id does not fit its source and height")
    if parsed.created_at != manifest.created_at.replace(microsecond=0):
        raise broken(reader.what, "its id does not fit its time")
    reader.expect("total_bytes", manifest.total_bytes)
