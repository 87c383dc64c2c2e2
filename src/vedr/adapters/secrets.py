"""Secrets by reference: `file:/path`, `env:NAME`, `aws-secret:name`.

Guarantees: the value is returned to the caller and put nowhere else; no error shows any of it; a file that others can
read is refused.  Leaves out: rotation, and caching, which would keep a secret longer than it is needed.
"""

import os
import stat
from pathlib import Path
from typing import Final

from vedr.errors import InvalidInputError, NotFoundError, RefusedError, UnavailableError

MAX_SECRET_BYTES: Final = 64 * 1024
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
SYMMETRIC_KEY_BYTES: Final = 32
REFUSALS: Final = ("AccessDeniedException", "UnrecognizedClientException", "ExpiredTokenException", "ExpiredToken")
"""Answers of AWS that trying again does not change."""


def resolve(reference: str) -> bytes:
    """The secret's bytes, without a trailing newline.

    Raises:
        NotFoundError: nothing is kept there.
        RefusedError: the file is open to group or others, or the service says no.
        InvalidInputError: a reference of no known kind, or a host that has no region or credentials.
        UnavailableError: the service does not answer.
    """
    scheme, _, where = reference.partition(":")
    if scheme == "file":
        return _from_file(Path(where))
    if scheme == "env":
        return _from_environment(where)
    if scheme == "aws-secret":
        return _from_aws(where)
    raise InvalidInputError(f"secret reference of unknown kind {scheme!r}", remedy="Use file:, env: or aws-secret:.")


def symmetric_key(reference: str) -> bytes:
    """A 32-byte key kept as 64 hexadecimal digits or as raw bytes."""
    secret = resolve(reference)
    try:
        key = bytes.fromhex(secret.decode("ascii")) if len(secret) != SYMMETRIC_KEY_BYTES else secret
    except ValueError:
        key = b""
    if len(key) != SYMMETRIC_KEY_BYTES:
        raise InvalidInputError(
            f"the key at {reference} is not {SYMMETRIC_KEY_BYTES} bytes", remedy="Make one: openssl rand -hex 32."
        )
    return key


def _from_file(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFoundError(
            f"secret file {path}: {error.strerror}", remedy="Check the reference in the site file."
        ) from error
    with open(descriptor, "rb") as file:  # noqa: PTH123 (the descriptor is what was checked)
        mode = os.fstat(descriptor).st_mode
        if mode & OTHERS:
            raise RefusedError(
                f"secret file {path} has mode {stat.S_IMODE(mode):04o}: others may read it",
                remedy=f"chmod 600 {path}, and replace the secret if somebody may have.",
            )
        return file.read(MAX_SECRET_BYTES).rstrip(b"\r\n")


def _from_environment(name: str) -> bytes:
    value = os.environ.get(name)
    if not value:
        raise NotFoundError(f"environment variable {name} is not set", remedy="Set it where vedr is started.")
    return value.encode()


def _from_aws(name: str) -> bytes:
    import boto3  # noqa: PLC0415 (half a second that only sites with AWS secrets pay)
    from botocore.exceptions import (  # noqa: PLC0415
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        NoRegionError,
        PartialCredentialsError,
        ProfileNotFound,
    )

    try:
        answer = boto3.client("secretsmanager").get_secret_value(SecretId=name)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code == "ResourceNotFoundException":
            raise NotFoundError(
                f"secret {name} does not exist", remedy="Check the reference in the site file."
            ) from None
        if code in REFUSALS:
            raise RefusedError(f"secret {name}: {code}", remedy="Check this role's policy.") from None
        raise UnavailableError(f"secret {name}: {code}", remedy="Try again.") from None
    except (NoCredentialsError, NoRegionError, PartialCredentialsError, ProfileNotFound) as error:
        raise InvalidInputError(
            f"secret {name}: {type(error).__name__}: this host does not say where AWS is, or as whom it asks",
            remedy="Set AWS_REGION, and give it a role or credentials.",
        ) from None
    except BotoCoreError as error:
        raise UnavailableError(f"secret {name}: {type(error).__name__}", remedy="Try again.") from None
    text: str | None = answer.get("SecretString")
    binary: bytes = answer.get("SecretBinary", b"")
    return binary if text is None else text.encode().rstrip(b"\r\n")
