"""What it costs to verify a commit of many validators, as every restore and every boot proof does.

    python -m bench.light [--validators 100] [--rounds 50] [--write docs/measurements.md]

One thread, pure computation: header hash, validator-set hash, sign-bytes and Ed25519 signatures of a made commit that
every validator signed.
"""

import argparse
import hashlib
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.report import write_between_marks
from vedr.chain.block import BlockId, Commit, CommitSig, Flag, Header, SignedHeader, Validator, ValidatorSet
from vedr.chain.verification import LightBlock, Rules, check_commit, check_itself, verify_later
from vedr.inventory import Height

CHAIN_ID: Final = "bench-1"
GENESIS_NS: Final = 1_800_000_000 * 10**9
HOUR_NS: Final = 3600 * 10**9
BLOCK_PROTOCOL: Final = 11


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--validators", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--write", type=Path, help="a Markdown file whose part between the marks is replaced")
    order = parser.parse_args()
    text = measured(order.validators, order.rounds)
    print(text)
    if order.write:
        write_between_marks(order.write, "light", text)


def measured(count: int, rounds: int) -> str:
    """Make two blocks, verify them again and again; the report."""
    keys = [Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"%d" % number).digest()) for number in range(count)]
    trusted, later = make_block(keys, 1), make_block(keys, 1000)
    rules = Rules(CHAIN_ID, 24 * HOUR_NS, 10**10)
    ways: dict[str, Callable[[], None]] = {
        "the block's own consistency: header, commit and validator set": lambda: check_itself(later, CHAIN_ID),
        "a commit by more than 2/3 of its validators": lambda: check_commit(later, CHAIN_ID),
        "a header 999 blocks after a trusted one, all of it": lambda: verify_later(
            trusted, later, rules, later.header.time_ns
        ),
    }
    lines = [f"{count} validators, one thread, {rounds} times each, CPU milliseconds:", ""]
    lines += ["| Verified | Median | Smallest-largest |", "|---|---|---|"]
    for title, act in ways.items():
        values = [_cpu_ms(act) for _ in range(rounds)]
        lines.append(f"| {title} | {statistics.median(values):.1f} | {min(values):.1f}-{max(values):.1f} |")
    return "\n".join(lines)


def make_block(keys: list[Ed25519PrivateKey], height: int, *, genesis_ns: int = GENESIS_NS) -> LightBlock:
    """A block that all of them signed, with equal power, a second for each block after the genesis."""
    by_key = {key.public_key().public_bytes_raw(): key for key in keys}
    validators = ValidatorSet.ordered(tuple(Validator(public, 10) for public in by_key))
    filler = hashlib.sha256(b"filler").digest()
    header = Header(
        block_version=BLOCK_PROTOCOL,
        app_version=1,
        chain_id=CHAIN_ID,
        height=Height(height),
        time_ns=genesis_ns + height * 10**9,
        last_block_id=BlockId(filler, 1, filler),
        last_commit_hash=filler,
        data_hash=filler,
        validators_hash=validators.hash(),
        next_validators_hash=validators.hash(),
        consensus_hash=filler,
        app_hash=filler,
        last_results_hash=filler,
        evidence_hash=filler,
        proposer_address=validators.validators[0].address,
    )
    votes = tuple(
        CommitSig(Flag.COMMIT, validator.address, header.time_ns + 10**9, b"") for validator in validators.validators
    )
    commit = Commit(Height(height), 0, BlockId(header.hash(), 1, filler), votes)
    signatures = tuple(
        replace(vote, signature=by_key[validator.key].sign(commit.sign_bytes(CHAIN_ID, index)))
        for index, (vote, validator) in enumerate(zip(votes, validators.validators, strict=True))
    )
    return LightBlock(SignedHeader(header, replace(commit, signatures=signatures)), validators)


def _cpu_ms(act: Callable[[], None]) -> float:
    began = time.process_time()
    act()
    return (time.process_time() - began) * 1000


if __name__ == "__main__":
    main()
