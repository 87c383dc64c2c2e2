"""AWS Secrets Manager in every region of the site: vedr.custody.escrow.SecretVault.

A secret is made in the first region, once every region has said that it has none of that name, and replicated from
there to all others; a replica is read like any secret, also when the region it came from is gone.

Guarantees: no name ever has two values, whatever answers are lost and whoever tries again or at the same time; errors
show a secret's name and the service's code, never a value; a dead region costs seconds; botocore's own log, which
prints values at DEBUG, is held at INFO.
Leaves out: promotion of a replica (`stop_replication_to_replica`), which reading does not need, and own KMS keys.
"""

import contextlib
import datetime as dt
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vedr.adapters.s3_store import Credentials
from vedr.errors import ConflictError, NotFoundError, RefusedError, UnavailableError, VedrError

CONNECT_TIMEOUT_S: Final = 2
READ_TIMEOUT_S: Final = 5
MAX_TRIES: Final = 2
RECOVERY_DAYS: Final = 30  # the longest that a retired secret can be brought back: the service's maximum
PAGE: Final = 100
_REFUSALS: Final = frozenset({"AccessDeniedException", "UnrecognizedClientException", "InvalidSignatureException"})
_EXISTS: Final = "ResourceExistsException"
_GONE: Final = frozenset({"ResourceNotFoundException"})
_DELETED: Final = "InvalidRequestException"  # also what reading a retired secret answers


@dataclass(frozen=True, slots=True)
class Place:
    """Where one region's secrets manager is; no endpoint means Amazon's own."""

    region: str
    cloud_region: str
    endpoint: str | None = None


class AwsVault:
    """Secrets by name in several regions.  Use it from one thread."""

    def __init__(self, places: tuple[Place, ...], keys: Credentials | None = None) -> None:
        self._places = {place.region: place for place in places}
        self._keys = keys
        self._clients: dict[str, Any] = {}

    @property
    def regions(self) -> tuple[str, ...]:
        return tuple(self._places)

    def create(self, name: str, value: bytes) -> None:
        """As the port says: in the first region, which alone decides when two try at once."""
        for region in self.regions:
            self._require_unused(name, region)
        first, *others = self._places.values()
        copies = [{"Region": place.cloud_region} for place in others]
        try:
            with _translated(name, first.region):
                self._client(first.region).create_secret(
                    Name=name, SecretString=value.decode("ascii"), AddReplicaRegions=copies
                )
        except UnavailableError as error:
            raise UnavailableError(
                f"whether secret {name} was made is not known: {error.message}",
                remedy="Run it again when every region answers: what was made is gone on with.",
            ) from None

    def _require_unused(self, name: str, region: str) -> None:
        """Not by a retired one either.  Asked for itself: a list may show a new secret only later."""
        try:
            with _translated(name, region):
                self._client(region).describe_secret(SecretId=name)
        except NotFoundError:
            return
        except UnavailableError as error:
            raise UnavailableError(
                f"secret {name} was not made: {error.message}, and may have one of that name",
                remedy="Try again when every region answers.",
            ) from None
        raise ConflictError(f"secret {name} exists already in {region}", remedy="It is never changed: read it.")

    def replicate(self, name: str) -> None:
        """From the region where it was made, to those that have no copy in sync; failed copies are asked for again."""
        origin, copies = self._origin(name)
        wanted = [
            {"Region": place.cloud_region}
            for place in self._places.values()
            if place.region != origin and copies.get(place.cloud_region, "Failed") == "Failed"
        ]
        if wanted:
            with _translated(name, origin):
                self._client(origin).replicate_secret_to_regions(SecretId=name, AddReplicaRegions=wanted)

    def read(self, name: str, region: str) -> bytes:
        with _translated(name, region):
            answer: Mapping[str, Any] = self._client(region).get_secret_value(SecretId=name)
        text: str | None = answer.get("SecretString")
        if text is None:
            raise NotFoundError(f"secret {name} in {region} is not text", remedy="It is not one that vedr made.")
        return text.encode()

    def names(self, prefix: str, region: str) -> tuple[str, ...]:
        found: list[str] = []
        with _translated(prefix, region):
            pages = self._client(region).get_paginator("list_secrets")
            filters = [{"Key": "name", "Values": [prefix]}]
            for page in pages.paginate(Filters=filters, PaginationConfig={"PageSize": PAGE}):
                found += [entry["Name"] for entry in page["SecretList"]]
        return tuple(name for name in found if name.startswith(prefix))

    def made(self, name: str) -> dt.datetime:
        """When it was made, from the first region that tells.

        Raises:
            UnavailableError: no region tells.
        """
        refusals: list[VedrError] = []
        for region in self.regions:
            try:
                with _translated(name, region):
                    made: dt.datetime = self._client(region).describe_secret(SecretId=name)["CreatedDate"]
            except VedrError as error:
                refusals.append(error)
                continue
            return made
        reasons = "; ".join(error.message for error in refusals)
        raise UnavailableError(f"nobody tells when secret {name} was made: {reasons}", remedy="Try again later.")

    def retire(self, name: str) -> None:
        """The copies first, then the secret, which can be brought back for RECOVERY_DAYS."""
        try:
            origin, copies = self._origin(name)
        except NotFoundError:
            return
        with _translated(name, origin):
            if copies:
                self._client(origin).remove_regions_from_replication(SecretId=name, RemoveReplicaRegions=list(copies))
            self._client(origin).delete_secret(SecretId=name, RecoveryWindowInDays=RECOVERY_DAYS)

    def _origin(self, name: str) -> tuple[str, dict[str, str]]:
        """The region where it was made, and the state of its copies by cloud region.

        Raises:
            NotFoundError: every region answers that it does not know it, or has retired it.
            UnavailableError: the region where it was made does not answer.
        """
        refusals: list[VedrError] = []
        for region in self.regions:
            try:
                with _translated(name, region):
                    seen = self._client(region).describe_secret(SecretId=name)
                if "DeletedDate" in seen:
                    continue
                made_in = seen.get("PrimaryRegion", self._places[region].cloud_region)
                origin = next((p.region for p in self._places.values() if p.cloud_region == made_in), region)
                with _translated(name, origin):
                    copies = self._client(origin).describe_secret(SecretId=name).get("ReplicationStatus", [])
            except (NotFoundError, UnavailableError) as error:
                refusals.append(error)
                continue
            return origin, {copy["Region"]: copy["Status"] for copy in copies}
        if any(error.transient for error in refusals):
            raise UnavailableError(
                f"secret {name}: {'; '.join(error.message for error in refusals)}", remedy="Try again later."
            )
        raise NotFoundError(f"secret {name} is in no region", remedy="Check its name with vedr keys inspect.")

    def _client(self, region: str) -> Any:
        if region not in self._clients:
            import boto3  # noqa: PLC0415 (half a second that only escrow pays)
            from botocore.config import Config  # noqa: PLC0415

            logging.getLogger("botocore").setLevel(max(logging.INFO, logging.getLogger("botocore").level))
            place = self._places[region]
            credentials = (
                {}
                if self._keys is None
                else {"aws_access_key_id": self._keys.access_key, "aws_secret_access_key": self._keys.secret_key}
            )
            self._clients[region] = boto3.session.Session().client(  # type: ignore[call-overload]
                "secretsmanager",
                region_name=place.cloud_region,
                endpoint_url=place.endpoint,
                config=Config(
                    connect_timeout=CONNECT_TIMEOUT_S,
                    read_timeout=READ_TIMEOUT_S,
                    retries={"mode": "standard", "total_max_attempts": MAX_TRIES},
                ),
                **credentials,
            )
        return self._clients[region]


@contextlib.contextmanager
def _translated(name: str, region: str) -> Iterator[None]:
    """The vendor's errors as ours, without their text: it may quote a request."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise _ours(code, name, region) from None
    except BotoCoreError as error:
        raise UnavailableError(
            f"secret {name} in {region}: {type(error).__name__}", remedy="Try again when the region answers."
        ) from None


def _ours(code: str, name: str, region: str) -> VedrError:
    if code in _GONE or code == _DELETED:
        return NotFoundError(f"secret {name} is not in {region} ({code})", remedy="Read it in another region.")
    if code == _EXISTS:
        return ConflictError(f"secret {name} exists already in {region}", remedy="It is never changed: read it.")
    if code in _REFUSALS:
        return RefusedError(f"secret {name} in {region}: {code}", remedy="Check this role's policy.")
    return UnavailableError(f"secret {name} in {region}: {code}", remedy="Try again.")
