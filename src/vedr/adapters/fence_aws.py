"""Clients of AWS for the fences, and their errors as ours.

Guarantees: a call ends within seconds; an answer that is not understood is UnavailableError, never a fence.
Leaves out: retries beyond botocore's one, which it makes only where nothing can have happened twice.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from vedr.adapters.s3_store import Credentials
from vedr.errors import ConflictError, NotFoundError, RefusedError, UnavailableError, VedrError

CONNECT_LIMIT_S: Final = 3
ANSWER_LIMIT_S: Final = 10
TRIES: Final = 2
_REFUSALS: Final = (
    "UnauthorizedOperation",
    "AccessDenied",
    "AuthFailure",
    "OperationNotPermitted",
    "InvalidClientTokenId",
)


def open_client(service: str, cloud_region: str, *, endpoint: str | None, credentials: Credentials | None) -> Any:
    """A boto3 client; no endpoint: Amazon's own; no credentials: the cloud's own chain."""
    keys = credentials and {
        "aws_access_key_id": credentials.access_key,
        "aws_secret_access_key": credentials.secret_key,
    }
    make: Any = boto3.client  # its stubs want each service by name
    return make(
        service,
        region_name=cloud_region,
        endpoint_url=endpoint,
        config=Config(
            connect_timeout=CONNECT_LIMIT_S,
            read_timeout=ANSWER_LIMIT_S,
            retries={"mode": "standard", "total_max_attempts": TRIES},
        ),
        **(keys or {}),
    )


@contextlib.contextmanager
def asking(what: str) -> Iterator[None]:
    """Raise ours where the block raises botocore's; `what` names the thing and what was asked of it."""
    try:
        yield
    except ClientError as error:
        raise _translated(error, what) from error
    except BotoCoreError as error:
        raise UnavailableError(f"{what}: {type(error).__name__}", remedy=_NOTHING_PROVEN) from error


_NOTHING_PROVEN: Final = "This proves nothing about the machine; try again, or fence it in another way."


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _translated(error: ClientError, what: str) -> VedrError:
    code, said = code_of(error), str(error.response.get("Error", {}).get("Message", ""))[:200]
    message = f"{what}: {code}: {said}"
    if code.endswith((".NotFound", ".Malformed")):
        return NotFoundError(message, remedy="Check the id in [fleet.instances], and the region.")
    if code.startswith(_REFUSALS):
        return RefusedError(message, remedy="Check the role's policy, and the machine's stop protection.")
    if code in ("IncorrectInstanceState", "IncorrectState", "ScalingActivityInProgress"):
        return ConflictError(message, remedy="Something else acts on it: look at its group, then try again.")
    if code == "ValidationError":
        return RefusedError(message, remedy="Lower the group's minimum size, or detach the machine by hand.")
    return UnavailableError(message, remedy=_NOTHING_PROVEN)
