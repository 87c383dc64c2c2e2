"""Registers in a region's bucket: conditional writes of Amazon S3 (`If-None-Match: *`, then `If-Match: <ETag>`).

Guarantees: what `vedr.ports.Registers` promises, where no content of a key is ever written twice: S3's ETag is the
MD5 of the content, so two equal contents have one tag.  Contents that only go up, as vedr.chain's, never repeat.
Nothing is retried here: a repeated conditional write cannot tell its own first try from another writer, so an answer
that was lost is UnavailableError and the caller reads.  A dead server costs a second, a hung one two.
Of an object that somebody made huge no more than MAX_READ_BYTES is taken in: more than any register's format allows, so
that it is damage of one region to whoever decodes it, and not the end of a signer's memory.

Leaves out: atomicity of the comparison, which is the server's (tests/contract shows it for the lab's); old versions in
a versioned bucket, which its lifecycle removes (docs/formats/sign-state-register.md).
"""

import datetime as dt
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from vedr.adapters.s3_answers import REFUSALS, Place, answer_of
from vedr.adapters.s3_store import Credentials, open_obstore
from vedr.errors import ConflictError, NotFoundError, RefusedError, UnavailableError, VedrError
from vedr.inventory import StoreConfig
from vedr.ports import ObjectKey, Tagged

if TYPE_CHECKING:
    from obstore import GetResult, PutMode

CONNECT_TIMEOUT_S: Final = 1.0
REQUEST_TIMEOUT_S: Final = 2.0  # a few hundred bytes; a region that takes longer is caught up later
MAX_READ_BYTES: Final = 512 * 1024  # the longest register, the controller's, has at most half of it
_CHUNK_BYTES: Final = 64 * 1024
_AGAIN: Final = "Read it again before anything else is written."


class S3Registers:
    """`vedr.ports.Registers` over S3.  Safe to use from many threads."""

    def __init__(self, region: str, config: StoreConfig, credentials: Credentials | None = None) -> None:
        self._region, self._config = region, config
        self._place = Place(region, config)
        self._store = open_obstore(
            config,
            credentials,
            client_options={
                "connect_timeout": dt.timedelta(seconds=CONNECT_TIMEOUT_S),
                "timeout": dt.timedelta(seconds=REQUEST_TIMEOUT_S),
            },
            retry_config={"max_retries": 0},
        )

    @property
    def region(self) -> str:
        return self._region

    def read(self, key: ObjectKey) -> Tagged | None:
        try:
            result = obstore.get(self._store, key)
            data = _beginning(result)
        except (BaseError, OSError) as error:
            ours = self._place.error(error, key, again=_AGAIN)
            if isinstance(ours, NotFoundError):
                return None
            raise ours from error
        return Tagged(data, self._tag(result.meta["e_tag"], key))

    def swap(self, key: ObjectKey, data: bytes, *, expected: str | None) -> str:
        mode: PutMode = "create" if expected is None else {"e_tag": expected}
        try:
            result = obstore.put(self._store, key, data, mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError) as error:  # 412, 409, and 404 of an object that went away
            if answer_of(error).code in REFUSALS:
                raise self._place.error(error, key) from error
            raise ConflictError(
                f"{self._place.name(key)} is not what it was when it was read", remedy="Read it again, and decide anew."
            ) from error
        except (BaseError, OSError) as error:
            raise self._unwritten(error, key) from error
        return self._tag(result["e_tag"], key)

    def _unwritten(self, error: Exception, key: ObjectKey) -> VedrError:
        """A swap answered with 404 says nothing of the register: a server that is not as it should be."""
        ours = self._place.error(error, key, again=_AGAIN)
        return UnavailableError(ours.message, remedy=_AGAIN) if isinstance(ours, NotFoundError) else ours

    def _tag(self, e_tag: str | None, key: ObjectKey) -> str:
        if not e_tag:
            raise RefusedError(
                f"{self._place.name(key)}: the server gives no ETag, so nothing can be replaced safely",
                remedy="Use a store with conditional writes.",
            )
        return e_tag


def _beginning(result: "GetResult") -> bytes:
    data = bytearray()
    for chunk in result.stream(min_chunk_size=_CHUNK_BYTES):
        data += memoryview(chunk)[: MAX_READ_BYTES - len(data)]
        if len(data) == MAX_READ_BYTES:
            break
    return bytes(data)
