"""Control calls to a bucket: setting it up, and removing objects with all their versions.

Through boto3, which costs four times the CPU that obstore does for each byte moved, and half of vedr's start-up: so
nothing imports this module before it is needed.

Guarantees: as s3_store; setting up is safe to repeat and says what the server can't do.
Leaves out: object content.
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from vedr.adapters.s3_answers import Place, answer_of
from vedr.adapters.s3_store import CONNECT_TIMEOUT_S, MAX_RETRIES, REQUEST_TIMEOUT_S, Credentials
from vedr.errors import RefusedError, VerificationFailedError
from vedr.inventory import StoreConfig
from vedr.ports import ObjectKey
from vedr.readiness.expirations import Expiration

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LOCKED_CODES: Final = frozenset({"AccessDenied", "ObjectLocked", "InvalidRequest"})
MISSING_CODES: Final = frozenset({"NoSuchKey", "NoSuchVersion"})
UNLOCKED_CODES: Final = frozenset({"ObjectLockConfigurationNotFoundError"})
UNRULED_CODES: Final = frozenset({"NoSuchLifecycleConfiguration"})
EXPIRY_RULE: Final = "vedr-expiry"
REGISTER_PREFIX: Final = "sign-state/"
LACKING_CODES: Final = frozenset({"NotImplemented", "MethodNotAllowed"})
_FORBIDDEN: Final = 403
ARCHIVES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})  # classes whose objects have to be asked back for hours


@dataclass(frozen=True, slots=True)
class BucketSettings:
    """What `configure` brought about; without `lifecycle`, which the lab's server lacks, only pruning frees room."""

    versioned: bool
    lock_days: int
    lifecycle: bool


@dataclass(frozen=True, slots=True)
class BucketFacts:
    """How the server says that a bucket is set up; `lock_days` 0 and `lock_mode` "" when nothing is locked by rule.

    `expire_days`: how long replaced versions stay by our rule; 0 without it.  `expirations`: what any rule in force
    takes away.  Both are None where the server knows no such rules.
    """

    versioned: bool
    lock_mode: str
    lock_days: int
    expire_days: int | None
    expirations: tuple[Expiration, ...] | None


class Bucket:
    """One bucket.  Safe to use from many threads."""

    def __init__(self, region: str, config: StoreConfig, credentials: Credentials | None) -> None:
        self._place, self._config = Place(region, config), config
        self._client = open_control(config, credentials)

    def delete(self, key: ObjectKey) -> None:
        """Every version, oldest first, so that no older one comes to light if this is cut short.

        Raises:
            RefusedError: an object lock holds it.
        """
        try:
            for version in _versions(self._client, self._config.bucket, key):
                self._client.delete_object(Bucket=self._config.bucket, Key=key, VersionId=version)
        except (ClientError, BotoCoreError) as error:
            if _code(error) in LOCKED_CODES:
                raise RefusedError(
                    f"{self._place.name(key)} is held by an object lock",
                    remedy="Wait until its retention has passed.",
                ) from error
            if _code(error) not in MISSING_CODES:  # else somebody beside us was faster
                raise self._place.error(error, key) from error

    def configure(self, *, expire_days: int | None = None) -> BucketSettings:
        """Bring the bucket to what the site asks for: there, versioned, locked; safe to repeat.

        Args:
            expire_days: Let the bucket drop replaced and deleted versions of that age by itself, where it can.

        Raises:
            RefusedError: the credentials may not.
            VerificationFailedError: the bucket is another account's than the site asks for.
        """
        name, days = self._config.bucket, self._config.object_lock_days
        try:
            _create_bucket(self._client, self._config)
            self._require_owner()
            self._client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
            if days:
                self._client.put_object_lock_configuration(
                    Bucket=name,
                    ObjectLockConfiguration={
                        "ObjectLockEnabled": "Enabled",
                        "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": days}},
                    },
                )
            lifecycle = expire_days is not None and _set_lifecycle(self._client, name, expire_days)
        except (ClientError, BotoCoreError) as error:
            raise self._place.error(error) from error
        return BucketSettings(versioned=True, lock_days=days, lifecycle=lifecycle)

    def facts(self) -> BucketFacts:
        """What is in force now, whatever was configured once.

        Raises:
            VerificationFailedError: the bucket is another account's than the site asks for.
        """
        try:
            self._require_owner()
            versioning = self._client.get_bucket_versioning(Bucket=self._config.bucket).get("Status")
            rule = _lock_rule(self._client, self._config.bucket)
            rules = _lifecycle_rules(self._client, self._config.bucket)
        except (ClientError, BotoCoreError) as error:
            raise self._place.error(error) from error
        return BucketFacts(
            versioned=versioning == "Enabled",
            lock_mode=str(rule.get("Mode", "")),
            lock_days=int(rule.get("Days", 0)),
            expire_days=None if rules is None else _expire_days(rules),
            expirations=None if rules is None else tuple(one for found in rules for one in _expirations(found)),
        )

    def _require_owner(self) -> None:
        """A name that was given up is anybody's: whoever makes a bucket of it may take what is written there."""
        name, account = self._config.bucket, self._config.account
        if account is None:
            return
        try:
            self._client.head_bucket(Bucket=name, ExpectedBucketOwner=account)
        except ClientError as error:
            if answer_of(error).status != _FORBIDDEN:
                raise
            self._client.head_bucket(Bucket=name)  # raises where it is our credentials that are refused
            raise VerificationFailedError(
                f"{self._place.name()} is not account {account}'s",
                remedy=f"Take our credentials away from it and find out whose it is; or correct bucket or account of "
                f"[regions.{self._place.region}.store].",
            ) from error


def _lock_rule(client: "S3Client", bucket: str) -> dict[str, Any]:
    """The default retention; empty where there is none."""
    try:
        found = client.get_object_lock_configuration(Bucket=bucket)
    except ClientError as error:
        if _code(error) in UNLOCKED_CODES | LACKING_CODES:
            return {}
        raise
    return dict(found.get("ObjectLockConfiguration", {}).get("Rule", {}).get("DefaultRetention", {}))


def _lifecycle_rules(client: "S3Client", bucket: str) -> list[dict[str, Any]] | None:
    """Those in force; None where the server knows none."""
    try:
        found = client.get_bucket_lifecycle_configuration(Bucket=bucket).get("Rules", [])
    except ClientError as error:
        if _code(error) in LACKING_CODES:
            return None
        if _code(error) not in UNRULED_CODES:
            raise
        found = []
    return [dict(rule) for rule in found if rule.get("Status") == "Enabled"]


def _expire_days(rules: list[dict[str, Any]]) -> int:
    ours = [rule for rule in rules if rule.get("ID") == EXPIRY_RULE]
    return int(ours[0].get("NoncurrentVersionExpiration", {}).get("NoncurrentDays", 0)) if ours else 0


def _expirations(rule: dict[str, Any]) -> Iterator[Expiration]:
    """What a rule takes away; a date is as bad as no time at all."""
    filtered = rule.get("Filter", {})
    prefix = str(rule.get("Prefix") or filtered.get("Prefix") or filtered.get("And", {}).get("Prefix") or "")
    name = str(rule.get("ID", ""))
    gone, replaced = rule.get("Expiration", {}), rule.get("NoncurrentVersionExpiration", {})
    if "Days" in gone or "Date" in gone:
        yield Expiration(name, prefix, "removes", current=True, days=int(gone.get("Days", 0)))
    if replaced:
        yield Expiration(name, prefix, "removes", current=False, days=int(replaced.get("NoncurrentDays", 0)))
    for moved in rule.get("Transitions", []):
        if moved.get("StorageClass") in ARCHIVES:
            yield Expiration(name, prefix, "archives", current=True, days=int(moved.get("Days", 0)))
    for moved in rule.get("NoncurrentVersionTransitions", []):
        if moved.get("StorageClass") in ARCHIVES:
            yield Expiration(name, prefix, "archives", current=False, days=int(moved.get("NoncurrentDays", 0)))


def _code(error: Exception) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _create_bucket(client: "S3Client", config: StoreConfig) -> None:
    arguments: dict[str, Any] = {"ObjectLockEnabledForBucket": True} if config.object_lock_days else {}
    if config.endpoint is None and config.cloud_region != "us-east-1":  # which Amazon does not want named
        arguments["CreateBucketConfiguration"] = {"LocationConstraint": config.cloud_region}
    try:
        client.create_bucket(Bucket=config.bucket, **arguments)
    except ClientError as error:
        if _code(error) != "BucketAlreadyOwnedByYou":
            raise


def _set_lifecycle(client: "S3Client", bucket: str, expire_days: int) -> bool:
    """False where the server knows no lifecycle."""
    try:
        client.put_bucket_lifecycle_configuration(
            Bucket=bucket,
            LifecycleConfiguration={
                "Rules": [
                    {
                        "ID": EXPIRY_RULE,
                        "Status": "Enabled",
                        "Filter": {"Prefix": ""},
                        "NoncurrentVersionExpiration": {"NoncurrentDays": expire_days},
                        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
                    },
                    {  # registers are replaced several times a second, and no older version is ever read
                        "ID": "vedr-registers",
                        "Status": "Enabled",
                        "Filter": {"Prefix": REGISTER_PREFIX},
                        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
                    },
                ]
            },
        )
    except ClientError as error:
        if _code(error) in LACKING_CODES:
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
