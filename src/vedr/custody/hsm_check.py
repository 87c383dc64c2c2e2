"""Whether the tokens that a reference names still hold its key, all of them, right now.

Guarantees: every region that the reference names gets a result; a token that could not be asked, or that the site does
not have, has failed.  `whole` holds only when every token passed and there are two or more.
Leaves out: repair: a key that failed is somebody's decision, RB-DR-005.  Regions that the reference does not name are
shown, not asked; a copy of the key that nobody recorded is found by the inventory.
"""

import datetime as dt
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Final

from vedr.backup.documents import rfc3339
from vedr.custody.hsm import Token
from vedr.custody.hsm_examine import Examined, Random, examine
from vedr.custody.hsm_reference import Reference
from vedr.errors import UnavailableError, VedrError, VerificationFailedError
from vedr.ports import Clock
from vedr.signature import Json

MIN_TOKENS: Final = 2  # a replica is what survives the loss of the other

OpenToken = Callable[[], Token]
"""Logs in; raises only errors of `vedr.errors`."""


@dataclass(frozen=True, slots=True)
class TokenResult:
    """One token's.  `problem` is empty when it passed; `changes` are differences that need no action but are news."""

    region: str
    took_s: float
    problem: str
    remedy: str = ""
    changes: tuple[str, ...] = ()
    examined: Examined | None = None

    @property
    def passed(self) -> bool:
        return not self.problem

    def as_json(self) -> Json:
        seen = self.examined
        return {
            "region": self.region,
            "passed": self.passed,
            "problem": self.problem,
            "remedy": self.remedy,
            "changes": list(self.changes),
            "took_ms": round(self.took_s * 1000),
            "serial": None if seen is None else seen.facts.serial,
            "attributes": None if seen is None else asdict(seen.attributes),
            "challenge": None if seen is None else seen.challenge.hex(),
            "signature": None if seen is None else seen.signature.hex(),
        }


@dataclass(frozen=True, slots=True)
class Replication:
    """All tokens' of one key; `problem` is of the whole, not of a token; `unnamed` have a token and no replica."""

    reference: Reference
    at: dt.datetime
    tokens: tuple[TokenResult, ...]
    unnamed: tuple[str, ...] = ()
    problem: str = ""

    @property
    def whole(self) -> bool:
        return not self.problem and all(token.passed for token in self.tokens)

    def require_whole(self) -> None:
        """VerificationFailedError naming each region that failed and why."""
        if not self.whole:
            failed = [f"{token.region}: {token.problem}" for token in self.tokens if not token.passed]
            raise VerificationFailedError(
                f"key {self.reference.name}: {'; '.join([*filter(None, [self.problem]), *failed])}",
                remedy="Do not promote onto a token that failed; see each region's remedy: vedr hsm check.",
            )

    def as_json(self) -> Json:
        return {
            "label": self.reference.name.label,
            "public_key": self.reference.public.spki.hex(),
            "consensus_address": self.reference.consensus_address,
            "reference_at": rfc3339(self.reference.created_at),
            "checked_at": rfc3339(self.at),
            "whole": self.whole,
            "problem": self.problem,
            "tokens": [token.as_json() for token in self.tokens],
            "without_replica": list(self.unnamed),
        }


def check_replication(
    reference: Reference,
    tokens: Mapping[str, OpenToken],
    *,
    chain_id: str,
    addresses: Iterable[str],
    clock: Clock,
    random: Random,
) -> Replication:
    """Ask every token, all at once.

    Args:
        reference: What they must agree with.
        tokens: How to open each region's token, of every region of the site that has one.
        chain_id: The site's.
        addresses: Consensus addresses of the site's validators, 40 capital hexadecimal digits.
        clock: Gives each challenge its time.
        random: Gives each challenge its nonce.
    """
    at = clock()
    regions = sorted(reference.tokens)
    with ThreadPoolExecutor(len(regions), "hsm-check") as pool:
        results = pool.map(lambda region: _result(region, reference, tokens.get(region), clock, random), regions)
    problem = "; ".join(_misfits(reference, chain_id, sorted(addresses)))
    return Replication(reference, at, tuple(results), tuple(sorted(set(tokens) - set(regions))), problem)


def _misfits(reference: Reference, chain_id: str, addresses: Sequence[str]) -> Iterator[str]:
    if len(reference.tokens) < MIN_TOKENS:
        yield f"the reference names {len(reference.tokens)} token, so there is no replica"
    if reference.chain_id != chain_id:
        yield f"the reference is for chain {reference.chain_id}, the site is {chain_id}"
    if reference.role == "validator" and reference.consensus_address not in addresses:
        yield (
            f"consensus address {reference.consensus_address} is no validator's of the site, which has "
            f"{', '.join(addresses) or 'none'}"
        )


def _result(
    region: str, reference: Reference, open_token: OpenToken | None, clock: Clock, random: Random
) -> TokenResult:
    started = time.perf_counter()
    try:
        seen = _asked(region, reference, open_token, clock(), random)
    except VedrError as error:
        return TokenResult(region, time.perf_counter() - started, error.message, error.remedy)
    changes = _changes(region, reference, seen)
    return TokenResult(region, time.perf_counter() - started, "", changes=changes, examined=seen)


def _asked(
    region: str, reference: Reference, open_token: OpenToken | None, at: dt.datetime, random: Random
) -> Examined:
    if open_token is None:
        raise UnavailableError("the site has no token here", remedy="Describe it in the site, or make a new reference.")
    token = open_token()
    try:
        seen = examine(token, reference.name, reference.public, at=at, random=random)
    finally:
        token.close()
    recorded = reference.tokens[region].facts.serial
    if seen.facts.serial != recorded:
        raise VerificationFailedError(
            f"token {seen.facts.serial} answered, the reference names {recorded}",
            remedy="If the token was replaced on purpose, make a new reference; otherwise find out who did.",
        )
    return seen


def _changes(region: str, reference: Reference, seen: Examined) -> tuple[str, ...]:
    """What is different and no fault: modules and firmware are updated."""
    before, now = asdict(reference.tokens[region].facts), asdict(seen.facts)
    named = ("module_sha256", "module_version", "firmware", "manufacturer", "model", "mechanisms")
    attributes = () if reference.tokens[region].attributes == seen.attributes else ("attributes",)
    return (*(name for name in named if before[name] != now[name]), *attributes)
