"""Traffic by weighted record sets of Route 53: `vedr.failover.traffic.Traffic` over ChangeResourceRecordSets.

Each gateway has a record set of its own under a name, told by its SetIdentifier.  Only weights and TTLs are changed:
health checks, targets and alias settings stay as they are, and no record set is made or removed.

Guarantees: all names change in one batch, which Route 53 carries out whole or not at all.  A changed record set is
deleted as it was read and created anew in that batch, so that Route 53 itself refuses the batch when anything about it
has changed since; the last plan's epoch and digest are a TXT record, swapped in the same batch.
Leaves out: a record set that somebody adds in the moment between the look and the batch, which the next look shows.

Weights of 0: Route 53 sends users there all the same when every record set above 0 is unhealthy by its health check.
"""

import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from vedr.adapters.dns_answers import Server, SilentError, ask_all, targets
from vedr.adapters.s3_store import Credentials
from vedr.errors import ConflictError, CorruptError, NotFoundError, RefusedError, UnavailableError, VedrError
from vedr.failover.traffic import (
    GUARD_NAME,
    Answer,
    Backend,
    Change,
    Endpoint,
    Guard,
    Picture,
    Share,
    already_serves,
    check_basis,
    check_guard,
    check_serves,
    digest,
    parse_guard,
)
from vedr.failover.traffic_division import regional_names
from vedr.inventory import Site
from vedr.policies.traffic import Route53

NAME: Final = "route53"
CONNECT_TIMEOUT_S: Final = 2
READ_TIMEOUT_S: Final = 10
MAX_TRIES: Final = 5  # Route 53 takes five requests a second of an account; botocore waits in between
POLL_S: Final = 2.0
SAMPLES: Final = 4  # answers asked of each server and name: each shows one record set
GUARD_TTL_S: Final = 60
_TYPES: Final = ("A", "AAAA", "CNAME")
_STALE: Final = ("but it was not found", "do not match the current values", "already exists")
_BUSY: Final = frozenset({"PriorRequestNotComplete", "Throttling", "ThrottlingException", "ServiceUnavailable"})
_REFUSALS: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)

RecordSet = dict[str, Any]
"""A ResourceRecordSet as the API has it, so that it can be given back to it unchanged."""


@dataclass(frozen=True, slots=True)
class Look:
    """The picture, and the record sets that it was made from, by name."""

    picture: Picture
    sets: Mapping[str, tuple[RecordSet, ...]]
    guard: RecordSet | None


class Route53Traffic:
    """`vedr.failover.traffic.Traffic`."""

    def __init__(
        self,
        site: Site,
        config: Route53,
        read_credentials: Callable[[], Credentials | None],
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._config, self._read_credentials, self._sleep = config, read_credentials, sleep
        self._names = dict.fromkeys(site.traffic.global_names, True) | dict.fromkeys(regional_names(site), False)
        self._gateways = tuple(gateway.name for gateway in site.gateways)
        endpoints = tuple(Endpoint(g.name, g.region, (g.name,)) for g in site.gateways)
        self._backend = Backend(NAME, endpoints, is_weighted=True)

    @property
    def backend(self) -> Backend:
        return self._backend

    def picture(self) -> Picture:
        return self._look().picture

    def shift(self, change: Change) -> bool:
        """As the port says; returns when Route 53 says INSYNC: all its servers have it."""
        check_serves(change)
        now = self._look()
        check_guard(now.picture, change)
        if already_serves(now.picture, change, is_weighted=True):
            return False
        check_basis(now.picture, change, f"hosted zone {self._config.hosted_zone}")
        pairs = [(now.guard, self._guard_set(change.guard))]
        for name, share in change.names.items():
            pairs += [(old, self._wanted(name, old, share)) for old in now.sets[name]]
        batch = [
            {"Action": action, "ResourceRecordSet": record}
            for old, new in pairs
            if old != new
            for action, record in (("DELETE", old), ("CREATE", new))
            if record is not None
        ]
        with self._translated():
            answer = self._client.change_resource_record_sets(
                HostedZoneId=self._config.hosted_zone,
                ChangeBatch={"Comment": str(change.guard), "Changes": batch},
            )
        self._wait_insync(answer["ChangeInfo"])
        return True

    def answers(self, names: Collection[str]) -> tuple[Answer, ...]:
        try:
            look = self._look()
            servers = self._servers
        except VedrError as error:
            return tuple(Answer(NAME, name, problem=error.message) for name in names)
        books = {name: self._book(name, look.sets[name]) for name in names}
        return ask_all(servers, names, lambda server, name: self._answer(server, name, books[name]))

    def _answer(self, server: Server, name: str, book: Mapping[str, str]) -> Answer:
        try:
            samples = [targets(server, self._full(name)) for _ in range(SAMPLES)]
        except VedrError as error:
            silent = isinstance(error, SilentError)
            return Answer(str(server), name, complete=False, problem=error.message, silent=silent)
        values = {value.rstrip(".") for sample in samples for value in sample.values}
        endpoints = tuple(sorted({book[value] for value in values if value in book}))
        ttl_s = max((sample.ttl_s for sample in samples if sample.ttl_s is not None), default=None)
        return Answer(str(server), name, endpoints, tuple(sorted(values - book.keys())), ttl_s, complete=False)

    def _look(self) -> Look:
        listed = self._listed()
        sets = {name: self._sets_of(name, listed) for name in self._names}
        for name, is_global in self._names.items():
            if is_global and not sets[name]:
                raise NotFoundError(
                    f"hosted zone {self._config.hosted_zone} has no record sets of {self._full(name)}",
                    remedy="Make one for each gateway, weighted: docs/traffic.md.",
                )
        guards = [found for found in listed if found["Name"] == self._full(GUARD_NAME) and found["Type"] == "TXT"]
        texts = [record["Value"].strip('"') for guard in guards for record in guard["ResourceRecords"]]
        if len(texts) > 1:
            raise CorruptError(
                f"{self._full(GUARD_NAME)} has {len(texts)} records, one is vedr's",
                remedy="Remove those that vedr did not write.",
            )
        guard = parse_guard(texts[0]) if texts else None
        shares = {name: self._share(name, found) for name, found in sets.items() if found}
        tag = digest({**{name: list(found) for name, found in sets.items()}, GUARD_NAME: str(guard)})
        return Look(Picture(NAME, shares, guard, tag), sets, guards[0] if guards else None)

    def _sets_of(self, name: str, listed: Sequence[RecordSet]) -> tuple[RecordSet, ...]:
        found = [record for record in listed if record["Name"] == self._full(name) and record["Type"] in _TYPES]
        for record in found:
            if "Weight" not in record:
                raise RefusedError(
                    f"{self._full(name)} {record['Type']} in hosted zone {self._config.hosted_zone} is not weighted",
                    remedy="Make it a weighted record set for each gateway: docs/traffic.md.",
                )
        return tuple(sorted(found, key=lambda record: (record["SetIdentifier"], record["Type"])))

    def _share(self, name: str, sets: Sequence[RecordSet]) -> Share:
        owners = {self._identifier(name, gateway): gateway for gateway in self._gateways}
        weights: dict[str, int] = {}
        for record in sets:
            if owner := owners.get(record["SetIdentifier"]):
                weights[owner] = max(record["Weight"], weights.get(owner, 0))
        strangers = {
            str(record["SetIdentifier"])
            for record in sets
            if record["SetIdentifier"] not in owners and record["Weight"]
        }
        ttl_s = max((record["TTL"] for record in sets if "TTL" in record), default=None)
        return Share(weights, ttl_s, tuple(sorted(strangers)))

    def _wanted(self, name: str, old: RecordSet, share: Share) -> RecordSet:
        """The same record set with the weight of its gateway, or 0 when it is nobody's."""
        owners = {self._identifier(name, gateway): gateway for gateway in self._gateways}
        weight = share.weights.get(owners.get(old["SetIdentifier"], ""), 0)
        ttl = {"TTL": share.ttl_s} if "TTL" in old and share.ttl_s is not None else {}
        return {**old, "Weight": weight, **ttl}

    def _guard_set(self, guard: Guard) -> RecordSet:
        return {
            "Name": self._full(GUARD_NAME),
            "Type": "TXT",
            "TTL": GUARD_TTL_S,
            "ResourceRecords": [{"Value": f'"{guard}"'}],
        }

    def _book(self, name: str, sets: Sequence[RecordSet]) -> dict[str, str]:
        """Which endpoint each value of an answer stands for; an alias' addresses are looked up now."""
        owners = {self._identifier(name, gateway): gateway for gateway in self._gateways}
        return {
            value.rstrip("."): owners[record["SetIdentifier"]]
            for record in sets
            if record["SetIdentifier"] in owners
            for value in _values(record)
        }

    def _listed(self) -> list[RecordSet]:
        """The whole zone: a page holds 300, and Route 53 takes few requests a second."""
        found: list[RecordSet] = []
        with self._translated():
            for page in self._client.get_paginator("list_resource_record_sets").paginate(
                HostedZoneId=self._config.hosted_zone
            ):
                found += page["ResourceRecordSets"]
        return found

    def _wait_insync(self, info: Mapping[str, Any]) -> None:
        waited_s = 0.0
        while info["Status"] != "INSYNC":
            if waited_s >= self._config.insync_limit_s:
                raise UnavailableError(
                    f"Route 53 took the change {info['Id']}, and has not carried it to all its servers in "
                    f"{waited_s:.0f} s",
                    remedy="Shift again, then ask the servers: vedr traffic check.",
                )
            self._sleep(POLL_S)
            waited_s += POLL_S
            with self._translated():
                info = self._client.get_change(Id=info["Id"])["ChangeInfo"]

    @property
    def _zone(self) -> str:
        return str(self._hosted["HostedZone"]["Name"])

    @property
    def _servers(self) -> tuple[Server, ...]:
        named = self._config.servers or tuple(self._hosted.get("DelegationSet", {}).get("NameServers", ()))
        return tuple(Server.parse(text) for text in named)

    @cached_property
    def _hosted(self) -> Mapping[str, Any]:
        with self._translated():
            found: Mapping[str, Any] = self._client.get_hosted_zone(Id=self._config.hosted_zone)
        return found

    @cached_property
    def _client(self) -> Any:
        keys = self._read_credentials()
        return boto3.client(
            "route53",
            region_name="us-east-1",  # where Route 53's API is, for the whole world
            endpoint_url=self._config.endpoint,
            aws_access_key_id=keys.access_key if keys else None,
            aws_secret_access_key=keys.secret_key if keys else None,
            config=Config(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                retries={"mode": "standard", "total_max_attempts": MAX_TRIES},
            ),
        )

    def _identifier(self, name: str, gateway: str) -> str:
        return self._config.set_identifier.format(gateway=gateway, name=name)

    def _full(self, name: str) -> str:
        return f"{name}.{self._zone}"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._meaning(error) from error
        except BotoCoreError as error:
            raise UnavailableError(
                f"Route 53 does not answer: {type(error).__name__}",
                remedy="Not known what was done: look, then repeat it.",
            ) from error

    def _meaning(self, error: ClientError) -> VedrError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        said = str(error.response.get("Error", {}).get("Message", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        zone = f"hosted zone {self._config.hosted_zone}"
        if code == "InvalidChangeBatch" and any(phrase in said for phrase in _STALE):
            return ConflictError(
                f"{zone} is not what it was when it was read: nothing was changed ({said})",
                remedy="Look at it again, and plan anew.",
            )
        if code in _BUSY or status >= 500:  # noqa: PLR2004 (HTTP: the server's own trouble)
            return UnavailableError(f"{zone}: {code}: {said}", remedy="Route 53 is busy with this zone: try again.")
        if code == "NoSuchHostedZone":
            return NotFoundError(f"{zone} does not exist", remedy="Correct hosted_zone in [traffic].")
        if code in _REFUSALS:
            return RefusedError(f"{zone}: {code}", remedy="Check the credentials and their policy.")
        return RefusedError(f"{zone}: {code}: {said}", remedy="Check the record sets against docs/traffic.md.")


def _values(record: RecordSet) -> list[str]:
    if "AliasTarget" not in record:
        return [str(entry["Value"]) for entry in record["ResourceRecords"]]
    try:
        found = socket.getaddrinfo(record["AliasTarget"]["DNSName"].rstrip("."), None, type=socket.SOCK_STREAM)
    except OSError:
        return []  # then its answers are strangers', and the wait says so
    return [str(entry[4][0]) for entry in found]
