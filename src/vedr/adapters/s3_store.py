"""A region's bucket on Amazon S3 or a server that speaks its protocol.

Guarantees: what `vedr.ports.ObjectStore` promises.  Object bytes travel through obstore, with the SHA-256 that the
server checks on arrival; a dead server costs seconds, not minutes.  Control calls (bucket set-up, removal of versions)
go through boto3, which costs four times the CPU for each byte moved.

Leaves out: atomicity of creates, which is the server's (Amazon's is; tests/contract shows it for the lab's).
"""

import datetime as dt
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import boto3
import obstore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store as _ObstoreS3

from vedr.errors import ConflictError, InvalidInputError, NotFoundError, RefusedError, UnavailableError, VedrError
from vedr.inventory import StoreConfig
from vedr.ports import ObjectKey, StoredObject

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT_S: Final = 2
REQUEST_TIMEOUT_S: Final = 20  # a 16 MiB part needs 0.8 MiB/s; less is as good as down
MAX_RETRIES: Final = 2
RETRY_TIMEOUT_S: Final = 6  # after this no retry is begun: a dead region costs seconds
LIST_CHUNK: Final = 1000  # one page of the protocol
LOCKED_CODES: Final = frozenset({"AccessDenied", "ObjectLocked", "InvalidRequest"})
REFUSAL_CODES: Final = frozenset({"AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "XAdminUserNotFound"})
UNKNOWN_KEY_CODES: Final = ("XAdminUserNotFound", "InvalidAccessKeyId")  # Versity's gateway answers 404 with the first
MISSING_CODES: Final = frozenset({"NoSuchKey", "NoSuchVersion", "404", "NotFound"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """Static keys; `repr` never shows the secret."""

    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"Credentials({self.access_key[:4]}…)"


@dataclass(frozen=True, slots=True)
class BucketSettings:
    """What `configure` brought about; without `lifecycle`, which the lab's server lacks, only pruning frees room."""

    versioned: bool
    lock_days: int
    lifecycle: bool


class S3Store:
    """`vedr.ports.ObjectStore` over S3.  Safe to use from many threads."""

    def __init__(self, region: str, config: StoreConfig, credentials: Credentials | None = None) -> None:
        self._region = region
        self.config: Final = config
        self._credentials = credentials
        self._data = _open_obstore(config, credentials)
        self._control_lock = threading.Lock()
        self._control_client: S3Client | None = None
        self._attributes: dict[str, str] | None = (
            {"Storage-Class": config.storage_class} if config.storage_class != "STANDARD" else None
        )

    @property
    def region(self) -> str:
        return self._region

    def create(self, key: ObjectKey, data: bytes) -> StoredObject:
        try:
            result = obstore.put(self._data, key, data, mode="create", use_multipart=False, attributes=self._attributes)
        except (AlreadyExistsError, PreconditionError) as error:
            raise ConflictError(f"{self._name(key)} exists already", remedy="Read it, and compare.") from error
        except (BaseError, OSError) as error:
            raise self._translated(error, key) from error
        return StoredObject(key, len(data), result["version"], dt.datetime.now(dt.UTC))

    def get(self, key: ObjectKey, *, version: str | None = None) -> bytes:
        try:
            result = obstore.get(self._data, key, options={"version": version} if version else None)
            return result.bytes().to_bytes()
        except (BaseError, OSError) as error:
            raise self._translated(error, key) from error

    def head(self, key: ObjectKey, *, version: str | None = None) -> StoredObject:
        try:
            meta = obstore.get(
                self._data, key, options={"head": True, **({"version": version} if version else {})}
            ).meta
        except (BaseError, OSError) as error:
            raise self._translated(error, key) from error
        return StoredObject(key, meta["size"], meta["version"], meta["last_modified"])

    def list(self, prefix: str) -> Iterator[StoredObject]:
        folder, _, rest = prefix.rpartition("/")
        try:
            for page in obstore.list(self._data, prefix=folder or None, chunk_size=LIST_CHUNK):
                for meta in page:
                    if meta["path"].startswith(prefix) or not rest:
                        yield StoredObject(ObjectKey(meta["path"]), meta["size"], None, meta["last_modified"])
        except (BaseError, OSError) as error:
            raise self._translated(error, ObjectKey(prefix)) from error

    def delete(self, key: ObjectKey) -> None:
        """Every version, oldest first, so that no older one comes to light if this is cut short."""
        try:
            for version in _versions(self._control, self.config.bucket, key):
                self._control.delete_object(Bucket=self.config.bucket, Key=key, VersionId=version)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in MISSING_CODES:
                return
            if code in LOCKED_CODES:
                raise RefusedError(
                    f"{self._name(key)} is held by an object lock ({code})",
                    remedy="Wait until its retention has passed.",
                ) from error
            raise self._control_error(error) from error
        except BotoCoreError as error:
            raise self._control_error(error) from error

    def configure(self, *, expire_days: int | None = None) -> BucketSettings:
        """Bring the bucket to what the site asks for: there, versioned, locked; safe to repeat.

        Args:
            expire_days: Let the bucket drop objects of that age by itself, where it can.

        Raises:
            RefusedError: the credentials may not.
        """
        name, days = self.config.bucket, self.config.object_lock_days
        try:
            _create_bucket(self._control, self.config)
            self._control.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
            if days:
                self._control.put_object_lock_configuration(
                    Bucket=name,
                    ObjectLockConfiguration={
                        "ObjectLockEnabled": "Enabled",
                        "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": days}},
                    },
                )
            lifecycle = expire_days is not None and _set_lifecycle(self._control, name, expire_days)
        except (ClientError, BotoCoreError) as error:
            raise self._control_error(error) from error
        return BucketSettings(versioned=True, lock_days=days, lifecycle=lifecycle)

    @property
    def _control(self) -> "S3Client":
        with self._control_lock:
            if self._control_client is None:
                self._control_client = open_control(self.config, self._credentials)
            return self._control_client

    def _name(self, key: str) -> str:
        return f"s3://{self.config.bucket}/{key} ({self._region})"

    def _translated(self, error: Exception, key: ObjectKey) -> VedrError:
        if isinstance(error, FileNotFoundError) and not any(code in str(error) for code in UNKNOWN_KEY_CODES):
            return NotFoundError(f"{self._name(key)} does not exist", remedy="Use another region's copy.")
        if isinstance(error, (FileNotFoundError, PermissionDeniedError, UnauthenticatedError)):
            return RefusedError(
                f"{self._name(key)}: the server refuses our credentials",
                remedy="Check the bucket's policy and the store's credentials.",
            )
        return UnavailableError(
            f"{self._name(key)}: {_first_line(error)}", remedy="The region's store does not answer; try again later."
        )

    def _control_error(self, error: Exception) -> VedrError:
        if isinstance(error, ClientError) and error.response.get("Error", {}).get("Code") in REFUSAL_CODES:
            return RefusedError(
                f"bucket {self.config.bucket} ({self._region}): {_first_line(error)}",
                remedy="Check the bucket's policy and the store's credentials.",
            )
        return UnavailableError(
            f"bucket {self.config.bucket} ({self._region}): {_first_line(error)}",
            remedy="The region's store does not answer; try again later.",
        )


def _create_bucket(client: "S3Client", config: StoreConfig) -> None:
    arguments: dict[str, Any] = {"ObjectLockEnabledForBucket": True} if config.object_lock_days else {}
    if config.endpoint is None and config.cloud_region != "us-east-1":  # which Amazon does not want named
        arguments["CreateBucketConfiguration"] = {"LocationConstraint": config.cloud_region}
    try:
        client.create_bucket(Bucket=config.bucket, **arguments)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "BucketAlreadyOwnedByYou":
            raise


def _set_lifecycle(client: "S3Client", bucket: str, expire_days: int) -> bool:
    """False where the server knows no lifecycle."""
    try:
        client.put_bucket_lifecycle_configuration(
            Bucket=bucket,
            LifecycleConfiguration={
                "Rules": [
                    {
                        "ID": "vedr-expiry",
                        "Status": "Enabled",
                        "Filter": {"Prefix": ""},
                        "NoncurrentVersionExpiration": {"NoncurrentDays": expire_days},
                        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
                    }
                ]
            },
        )
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in {"NotImplemented", "MethodNotAllowed"}:
            return False
        raise
    return True


def _versions(client: "S3Client", bucket: str, key: ObjectKey) -> list[str]:
    """Of that very key, delete markers too, oldest first."""
    versions: list[tuple[dt.datetime, str]] = []
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=key):
        for entries in (page.get("Versions", []), page.get("DeleteMarkers", [])):
            versions.extend(
                (entry["LastModified"], entry.get("VersionId") or "null") for entry in entries if entry["Key"] == key
            )
    return [version for _, version in sorted(versions)]


def open_control(config: StoreConfig, credentials: Credentials | None) -> "S3Client":
    """A boto3 client with the same patience as the data path."""
    keys: dict[str, Any] = (
        {"aws_access_key_id": credentials.access_key, "aws_secret_access_key": credentials.secret_key}
        if credentials
        else {}
    )
    client: S3Client = boto3.client(
        "s3",
        endpoint_url=config.endpoint,
        region_name=config.cloud_region,
        config=Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=REQUEST_TIMEOUT_S,
            retries={"max_attempts": MAX_RETRIES, "mode": "standard"},
            s3={"addressing_style": "path"} if config.endpoint else {},
        ),
        **keys,
    )
    return client


def _open_obstore(config: StoreConfig, credentials: Credentials | None) -> _ObstoreS3:
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
        client_options={
            "allow_http": bool(endpoint and endpoint.startswith("http://")),
            "connect_timeout": dt.timedelta(seconds=CONNECT_TIMEOUT_S),
            "timeout": dt.timedelta(seconds=REQUEST_TIMEOUT_S),
        },
        retry_config={
            "max_retries": MAX_RETRIES,
            "retry_timeout": dt.timedelta(seconds=RETRY_TIMEOUT_S),
            "backoff": {"init_backoff": dt.timedelta(milliseconds=100), "max_backoff": dt.timedelta(seconds=1)},
        },
        **keys,
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
