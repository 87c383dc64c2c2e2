"""Envelopes from file to file: all of it or nothing, and nothing replaced."""

import os
import resource
import secrets
import signal
import stat
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vedr.custody.envelope import CHUNK_BYTES, seal, seal_stream
from vedr.custody.envelope_files import inspect_file, open_file, rewrap_file, verify_file
from vedr.custody.envelope_format import EnvelopeError, Header
from vedr.custody.envelope_slots import (
    PassphraseSeal,
    RecoveryOpener,
    RecoverySeal,
    WrongSecretError,
    recovery_public_key,
)
from vedr.errors import ConflictError, NoSpaceError, NotFoundError

WHEN = datetime(2026, 1, 2, tzinfo=UTC)
PRIVATE = bytes(range(1, 33))
SLOTS = [RecoverySeal(recovery_public_key(PRIVATE))]
OPENER = RecoveryOpener(PRIVATE)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "payload"
    path.write_bytes(os.urandom(100_000))
    return path


def sealed(source: Path, target: Path, *, chunk_bytes: int = CHUNK_BYTES) -> Header:
    """Into a file that anybody reads: it is an envelope."""
    data = seal(source.read_bytes(), slots=SLOTS, meta={"kind": "test"}, created=WHEN, chunk_bytes=chunk_bytes)
    target.write_bytes(data)
    return inspect_file(target)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_comes_back_as_it_was_and_only_its_owner_reads_it(source: Path, tmp_path: Path) -> None:
    target, back = tmp_path / "sealed", tmp_path / "back"
    header = sealed(source, target, chunk_bytes=4096)
    assert header.core.meta == {"kind": "test"}
    assert open_file(target, back, OPENER) == header
    assert back.read_bytes() == source.read_bytes()
    assert stat.S_IMODE(back.stat().st_mode) == 0o600
    assert names(tmp_path) == {"payload", "sealed", "back"}


def test_an_envelope_that_is_not_there_is_an_error_of_ours_and_leaves_nothing(tmp_path: Path) -> None:
    for act in (
        lambda: open_file(tmp_path / "gone", tmp_path / "back", OPENER),
        lambda: verify_file(tmp_path / "gone", OPENER),
        lambda: inspect_file(tmp_path / "gone"),
    ):
        with pytest.raises(NotFoundError, match="gone: No such file"):
            act()
    assert names(tmp_path) == set()


def test_a_large_file_passes_through_little_memory(tmp_path: Path) -> None:
    source, target, back = tmp_path / "payload", tmp_path / "sealed", tmp_path / "back"
    with source.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    tracemalloc.start()
    try:
        with source.open("rb") as reading, target.open("wb") as writing:
            size = source.stat().st_size
            how = {"slots": SLOTS, "meta": {}, "created": WHEN, "entropy": secrets.token_bytes}
            seal_stream(reading, writing, size=size, chunk_bytes=CHUNK_BYTES, **how)  # type: ignore[arg-type]
        open_file(target, back, OPENER)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert back.stat().st_size == 64 * 1024 * 1024
    assert peak_bytes < 8 * 1024 * 1024


def test_no_plaintext_is_left_when_the_last_chunk_is_altered(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "sealed"
    sealed(source, target, chunk_bytes=1024)
    data = bytearray(target.read_bytes())
    data[-1] ^= 1
    target.write_bytes(data)
    with pytest.raises(EnvelopeError):
        open_file(target, tmp_path / "back", OPENER)
    with pytest.raises(WrongSecretError):
        open_file(target, tmp_path / "back", RecoveryOpener(bytes(32)))
    assert names(tmp_path) == {"payload", "sealed"}


def test_a_backup_is_verified_whole_and_nothing_of_it_kept(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "sealed"
    header = sealed(source, target, chunk_bytes=1024)
    assert verify_file(target, OPENER) == header
    data = bytearray(target.read_bytes())
    data[-1] ^= 1
    target.write_bytes(data)
    with pytest.raises(EnvelopeError):
        verify_file(target, OPENER)
    assert names(tmp_path) == {"payload", "sealed"}


def test_a_file_that_exists_is_never_replaced(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "sealed"
    sealed(source, target)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    for taken in (source, dangling):
        with pytest.raises(ConflictError):
            open_file(target, taken, OPENER)
    assert names(tmp_path) == {"payload", "sealed", "dangling"}


def test_a_file_that_appears_meanwhile_is_not_replaced(source: Path, tmp_path: Path) -> None:
    target, again = tmp_path / "sealed", tmp_path / "again"
    sealed(source, target)

    def entropy(size: int) -> bytes:
        again.write_bytes(b"somebody else's")
        return os.urandom(size)

    another = PassphraseSeal(b"a passphrase", "aws-secret:one")
    with pytest.raises(ConflictError):
        rewrap_file(target, again, OPENER, add=[another], entropy=entropy)
    assert again.read_bytes() == b"somebody else's"
    assert names(tmp_path) == {"payload", "sealed", "again"}


def test_rewrapping_a_file_makes_another_and_keeps_the_first(source: Path, tmp_path: Path) -> None:
    target, again = tmp_path / "sealed", tmp_path / "again"
    sealed(source, target)
    before = target.read_bytes()
    private = bytes(range(2, 34))
    rewrap_file(target, again, OPENER, add=[RecoverySeal(recovery_public_key(private))])
    open_file(again, tmp_path / "back", RecoveryOpener(private))
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert target.read_bytes() == before


def test_a_full_disk_is_said_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "sealed"
    sealed(source, target, chunk_bytes=4096)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(NoSpaceError, match="too large"):
            open_file(target, tmp_path / "back", OPENER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert names(tmp_path) == {"payload", "sealed"}
