"""What the light client starts from, and what it remembers.

Guarantees: an anchor is either a height and hash that people chose, or the pinned genesis file; the store only gains
headers that `light` verified, is written atomically and safe for many processes, and belongs to one chain.
Leaves out: whether a remembered header is still fresh enough to build on (`verification.check_fresh`).

Format: docs/formats/trust-anchor.md.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedr.chain.block import BlockId, Header, Validator, ValidatorSet
from vedr.chain.durable import replace_file
from vedr.chain.wire import Value, parse_json, to_rfc3339
from vedr.errors import CorruptError, InvalidInputError, NotFoundError, VerificationFailedError
from vedr.inventory import Chain, Height

FORMAT_VERSION: Final = 1
MAX_REMEMBERED: Final = 1024  # about 1 MB; 50 days of snapshots every 4 h from three regions
_ANCHOR_REMEDY: Final = "Correct [chain] of the site file: genesis, genesis_sha256, or trust_height and trust_hash."


@dataclass(frozen=True, slots=True)
class Anchor:
    """A header that is trusted by choice: from the site file, or from a signed manifest."""

    height: Height
    hash: bytes


@dataclass(frozen=True, slots=True)
class Genesis:
    """The chain's birth: who signs its first block."""

    chain_id: str
    initial_height: Height
    time_ns: int
    validators: ValidatorSet


def read_genesis(chain: Chain) -> Genesis:
    """The site's genesis file, its hash compared with the pinned one.

    Raises:
        NotFoundError: no file.
        VerificationFailedError: it is not the pinned one, or of another chain.
        InvalidInputError: it names no validators (a Cosmos SDK genesis with gentxs): then an anchor must be given.
    """
    try:
        data = chain.genesis.read_bytes()
    except OSError as error:
        raise NotFoundError(f"genesis {chain.genesis}: {error.strerror}", remedy=_ANCHOR_REMEDY) from error
    observed = hashlib.sha256(data).hexdigest()
    if observed != chain.genesis_sha256:
        raise VerificationFailedError(
            f"genesis {chain.genesis}: SHA-256 observed {observed}, expected {chain.genesis_sha256}",
            remedy="Get the genesis file again from its source; change the pin only when the chain truly has another.",
        )
    genesis = parse_genesis(parse_json(data, what=str(chain.genesis)))
    if genesis.chain_id != chain.chain_id:
        raise VerificationFailedError(
            f"genesis {chain.genesis}: chain id observed {genesis.chain_id}, expected {chain.chain_id}",
            remedy=_ANCHOR_REMEDY,
        )
    return genesis


def parse_genesis(value: Value) -> Genesis:
    """CometBFT's genesis.json; also that of Cosmos SDK 0.50 and later, which has the set under `consensus`."""
    members = value.members()
    holder = value if "validators" in members or "consensus" not in members else value["consensus"]
    initial = value["initial_height"]
    listed = tuple(Validator.parse(item, power="power") for item in holder["validators"].items())
    if not listed:
        raise InvalidInputError(
            f"{value.path} names no validators, so nothing can be verified from it",
            remedy="Give trust_height and trust_hash in [chain] of the site file, from two sources that you trust.",
        )
    return Genesis(
        chain_id=value["chain_id"].text(),
        # CometBFT writes a string, the Cosmos SDK a number; left out or 0 means 1.
        initial_height=Height(_initial_height(initial)),
        time_ns=value["genesis_time"].time_ns(),
        validators=ValidatorSet.ordered(listed),
    )


def _initial_height(value: Value) -> int:
    if not value.present():
        return 1
    return (value.int64() if isinstance(value.raw, str) else value.int32()) or 1


class TrustStore:
    """Verified headers of one chain, in one file; the newest MAX_REMEMBERED of those that were asked for."""

    def __init__(self, folder: Path, chain_id: str) -> None:
        self.chain_id: Final = chain_id
        self.path: Final = folder / f"trust-{chain_id}.json"

    def load(self) -> Mapping[Height, Header]:
        """All remembered headers by height; empty when there is no file yet.

        Raises:
            CorruptError: the file is damaged; it is never silently begun anew, since an attacker might want that.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            return self._parse(data)
        except CorruptError as error:
            raise CorruptError(
                f"trust store: {error.message}",
                remedy=f"Move {self.path} aside; verification starts again from the site's anchor.",
            ) from error

    def _parse(self, data: bytes) -> dict[Height, Header]:
        document = parse_json(data, what=str(self.path))
        if document["version"].int32() != FORMAT_VERSION:
            raise document["version"].wrong(str(FORMAT_VERSION))
        if document["chain_id"].text() != self.chain_id:
            raise document["chain_id"].wrong(self.chain_id)
        headers = {}
        for item in document["headers"].items():
            header = Header.parse(item["header"])
            if header.hash() != item["hash"].hexadecimal():
                raise item["hash"].wrong(f"{header.hash().hex()}, the header's own hash")
            headers[header.height] = header
        return headers

    def remember(self, *headers: Header) -> None:
        """Add them, keeping what other processes added meanwhile.

        Raises:
            VerificationFailedError: another header is remembered for one of the heights.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            known = dict(self.load())
            for header in headers:
                if known.setdefault(header.height, header) != header:
                    raise VerificationFailedError(
                        f"header {header.height}: verified as {header.hash().hex().upper()}, remembered as "
                        f"{known[header.height].hash().hex().upper()}",
                        remedy="Two valid histories exist: stop trusting this chain's sources and raise an incident.",
                    )
            kept = sorted(known)[-MAX_REMEMBERED:]
            replace_file(self.path, self._document([known[height] for height in kept]))

    def _document(self, headers: list[Header]) -> bytes:
        return json.dumps(
            {
                "version": FORMAT_VERSION,
                "chain_id": self.chain_id,
                "headers": [{"hash": header.hash().hex().upper(), "header": header_json(header)} for header in headers],
            },
            indent=1,
        ).encode()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def header_json(header: Header) -> dict[str, object]:
    """The header as CometBFT's RPC writes it."""
    return {
        "version": {"block": str(header.block_version), "app": str(header.app_version)},
        "chain_id": header.chain_id,
        "height": str(header.height),
        "time": to_rfc3339(header.time_ns),
        "last_block_id": _block_id_json(header.last_block_id),
        "last_commit_hash": header.last_commit_hash.hex().upper(),
        "data_hash": header.data_hash.hex().upper(),
        "validators_hash": header.validators_hash.hex().upper(),
        "next_validators_hash": header.next_validators_hash.hex().upper(),
        "consensus_hash": header.consensus_hash.hex().upper(),
        "app_hash": header.app_hash.hex().upper(),
        "last_results_hash": header.last_results_hash.hex().upper(),
        "evidence_hash": header.evidence_hash.hex().upper(),
        "proposer_address": header.proposer_address.hex().upper(),
    }


def _block_id_json(block_id: BlockId) -> dict[str, object]:
    return {
        "hash": block_id.hash.hex().upper(),
        "parts": {"total": block_id.parts_total, "hash": block_id.parts_hash.hex().upper()},
    }
