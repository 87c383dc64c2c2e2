"""Secrets by reference: found, kept, or refused; never shown."""

import os
from pathlib import Path

import pytest

from vedr.adapters.secrets import resolve, symmetric_key
from vedr.errors import InvalidInputError, NotFoundError, RefusedError


def test_a_file_gives_its_bytes_without_the_newline(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"s3cret\n")
    path.chmod(0o600)
    assert resolve(f"file:{path}") == b"s3cret"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_file_that_others_may_read_is_refused_without_showing_it(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"s3cret")
    path.chmod(mode)
    with pytest.raises(RefusedError, match=f"mode {mode:04o}") as caught:
        resolve(f"file:{path}")
    assert "s3cret" not in str(caught.value)


def test_the_environment_gives_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEDR_TEST_SECRET", "value")
    assert resolve("env:VEDR_TEST_SECRET") == b"value"


@pytest.mark.parametrize("reference", ["file:/no/such/file", "env:VEDR_NO_SUCH_VARIABLE"])
def test_what_is_not_there_is_named(reference: str) -> None:
    with pytest.raises(NotFoundError):
        resolve(reference)


def test_an_unknown_kind_of_reference_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="vault"):
        resolve("vault:x")


@pytest.mark.parametrize("stored", [bytes(range(32)), bytes(range(32)).hex().encode() + b"\n"])
def test_a_symmetric_key_is_raw_or_hexadecimal(tmp_path: Path, stored: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(stored)
    path.chmod(0o600)
    assert symmetric_key(f"file:{path}") == bytes(range(32))


@pytest.mark.parametrize("stored", [b"", b"short", b"zz" * 32, b"ab" * 31])
def test_a_key_of_another_size_is_refused(tmp_path: Path, stored: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(stored)
    path.chmod(0o600)
    with pytest.raises(InvalidInputError, match="not 32 bytes"):
        symmetric_key(f"file:{path}")


@pytest.mark.parametrize(
    ("told", "lacks"), [({}, "NoRegionError"), ({"AWS_DEFAULT_REGION": "us-east-1"}, "NoCredentialsError")]
)
def test_a_host_that_was_not_told_where_aws_is_is_not_asked_to_try_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: dict[str, str], lacks: str
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for name, value in ({"AWS_EC2_METADATA_DISABLED": "true"} | told).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInputError, match=lacks) as caught:
        resolve("aws-secret:virtengine/dr/site-key")
    assert not caught.value.transient
