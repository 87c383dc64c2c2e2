"""A region's bucket on Amazon S3 or a server that speaks its protocol.

Guarantees: what `vedr.ports.ObjectStore` promises.  Object bytes travel through obstore, with the SHA-256 that the
server checks on arrival; a dead server costs seconds, not minutes.  Control calls (bucket set-up, removal of versions)
are s3_control's.

Leaves out: atomicity of creates, which is the server's (Amazon's is; tests/contract shows it for the lab's).
"""

import datetime as dt
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store as _ObstoreS3

from vedr.adapters.s3_answers import TRY_LATER, Place, answer_of
from vedr.errors import ConflictError, CorruptError, InvalidInputError, UnavailableError
from vedr.inventory import StoreConfig
from vedr.ports import DOCUMENT_BYTES, ObjectKey, StoredObject

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

    from vedr.adapters.s3_control import Bucket, BucketFacts, BucketSettings

CONNECT_TIMEOUT_S: Final = 2
REQUEST_TIMEOUT_S: Final = 20  # a 16 MiB part needs 0.8 MiB/s; less is as good as down
MAX_RETRIES: Final = 2
RETRY_TIMEOUT_S: Final = 6  # after this no retry is begun: a dead region costs seconds
LIST_CHUNK: Final = 1000  # one page of the protocol
UNDECIDED_CODES: Final = frozenset({"ConditionalRequestConflict", "OperationAborted"})
"""Amazon's 409 to a conditional put beside another put or delete of the key: the key need not exist."""
UNDECIDED_PAUSES_S: Final = (0.1, 0.4)


class UndecidedError(UnavailableError):
    """The server could not decide whether the key exists, since somebody beside us was at it."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Static keys; `repr` never shows the secret."""

    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"Credentials({self.access_key[:4]}…)"


class S3Store:
    """`vedr.ports.ObjectStore` over S3.  Safe to use from many threads."""

    def __init__(self, region: str, config: StoreConfig, credentials: Credentials | None = None) -> None:
        self._region = region
        self.config: Final = config
        self._place: Final = Place(region, config)
        self._credentials = credentials
        self._data = _open_patient(config, credentials)
        self._control_lock = threading.Lock()
        self._bucket: Bucket | None = None
        self._attributes: dict[str, str] | None = (
            {"Storage-Class": config.storage_class} if config.storage_class != "STANDARD" else None
        )

    @property
    def region(self) -> str:
        return self._region

    def beside(self, bucket: str) -> "S3Store":
        """Another bucket of the same server, with the same credentials."""
        return S3Store(self._region, self.config.model_copy(update={"bucket": bucket}), self._credentials)

    def create(self, key: ObjectKey, data: bytes | memoryview) -> StoredObject:
        for pause_s in UNDECIDED_PAUSES_S:
            try:
                return self._create(key, data)
            except UndecidedError:
                time.sleep(pause_s)
        return self._create(key, data)

    def _create(self, key: ObjectKey, data: bytes | memoryview) -> StoredObject:
        try:
            result = obstore.put(self._data, key, data, mode="create", use_multipart=False, attributes=self._attributes)
        except (AlreadyExistsError, PreconditionError) as error:
            if answer_of(error).code in UNDECIDED_CODES:
                raise UndecidedError(
                    f"{self._place.name(key)}: others write or remove it just now", remedy=TRY_LATER
                ) from error
            raise ConflictError(f"{self._place.name(key)} exists already", remedy="Read it, and compare.") from error
        except (BaseError, OSError) as error:
            raise self._place.error(error, key) from error
        return StoredObject(key, len(data), result["version"], dt.datetime.now(dt.UTC))

    def get(self, key: ObjectKey, *, version: str | None = None, limit_bytes: int = DOCUMENT_BYTES) -> bytes:
        return self._whole(key, version, limit_bytes).to_bytes()

    def view(self, key: ObjectKey, *, version: str | None = None, limit_bytes: int) -> memoryview:
        return memoryview(self._whole(key, version, limit_bytes))

    def head(self, key: ObjectKey, *, version: str | None = None) -> StoredObject:
        try:
            meta = obstore.get(
                self._data, key, options={"head": True, **({"version": version} if version else {})}
            ).meta
        except (BaseError, OSError) as error:
            raise self._place.error(error, key) from error
        return StoredObject(key, meta["size"], meta["version"], meta["last_modified"])

    def list(self, prefix: str) -> Iterator[StoredObject]:
        folder, _, rest = prefix.rpartition("/")
        try:
            for page in obstore.list(self._data, prefix=folder or None, chunk_size=LIST_CHUNK):
                for meta in page:
                    if meta["path"].startswith(prefix) or not rest:
                        yield StoredObject(ObjectKey(meta["path"]), meta["size"], None, meta["last_modified"])
        except (BaseError, OSError) as error:
            raise self._place.error(error, prefix) from error

    def delete(self, key: ObjectKey) -> None:
        self._control.delete(key)

    def configure(self, *, expire_days: int | None = None) -> "BucketSettings":
        """See s3_control.Bucket.configure."""
        return self._control.configure(expire_days=expire_days)

    def facts(self) -> "BucketFacts":
        """See s3_control.Bucket.facts."""
        return self._control.facts()

    def _whole(self, key: ObjectKey, version: str | None, limit_bytes: int) -> obstore.Bytes:
        try:
            found = obstore.get(self._data, key, options={"version": version} if version else None)
            if found.meta["size"] <= limit_bytes:
                return found.bytes()
        except (BaseError, OSError) as error:
            raise self._place.error(error, key) from error
        raise CorruptError(
            f"{self._place.name(key)} has {found.meta['size']} bytes, it can have {limit_bytes} at most",
            remedy="Use another region's copy.",
        )

    @property
    def _control(self) -> "Bucket":
        from vedr.adapters.s3_control import Bucket  # noqa: PLC0415 (boto3 is half of vedr's start-up)

        with self._control_lock:
            if self._bucket is None:
                self._bucket = Bucket(self._region, self.config, self._credentials)
            return self._bucket


def _open_patient(config: StoreConfig, credentials: Credentials | None) -> _ObstoreS3:
    """For objects of any size, where a repeated call does no harm.

    A request's signature covers the checksum header and the checksum covers the body, so the body is not hashed a
    second time for the signature: that was a third of what a put cost the lab's server.
    """
    return open_obstore(
        config,
        credentials,
        client_options={
            "connect_timeout": dt.timedelta(seconds=CONNECT_TIMEOUT_S),
            "timeout": dt.timedelta(seconds=REQUEST_TIMEOUT_S),
        },
        retry_config={
            "max_retries": MAX_RETRIES,
            "retry_timeout": dt.timedelta(seconds=RETRY_TIMEOUT_S),
            "backoff": {"init_backoff": dt.timedelta(milliseconds=100), "max_backoff": dt.timedelta(seconds=1)},
        },
        sign_payload=False,
    )


def open_obstore(
    config: StoreConfig,
    credentials: Credentials | None,
    *,
    client_options: "ClientConfig",
    retry_config: "RetryConfig",
    sign_payload: bool = True,
) -> _ObstoreS3:
    """The bucket, with the caller's patience.  The server checks every body by its SHA-256 either way."""
    endpoint = config.endpoint
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise InvalidInputError(f"store endpoint {endpoint!r} is not an http(s) URL", remedy="Correct the site file.")
    keys: dict[str, Any] = (
        {"access_key_id": credentials.access_key, "secret_access_key": credentials.secret_key} if credentials else {}
    )
    if endpoint:
        keys["endpoint"] = endpoint
    return _ObstoreS3(
        config.bucket,
        region=config.cloud_region,
        checksum_algorithm="SHA256",
        unsigned_payload=not sign_payload,
        client_options={"allow_http": bool(endpoint and endpoint.startswith("http://")), **client_options},
        retry_config=retry_config,
        **keys,
    )
