"""Which state a capture holds: what the site's own program reads out of its databases, and what the chain says of it.

Guarantees: the height of a capture comes from its databases, never from a running node; a capture whose application
hash differs from a verified header is refused.  Leaves out: reading the databases, which is the program's part
(`chain.inspect` in the site file: read-only, JSON on standard output).
"""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedr.backup.documents import Reader
from vedr.backup.manifest import ChainPoint
from vedr.chain.light import DivergenceError, VerifiedHeader
from vedr.errors import CorruptError, UnavailableError, VedrError, VerificationFailedError
from vedr.inventory import Chain, Height

INSPECT_LIMIT_S: Final = 120
MAX_OUTPUT_BYTES: Final = 1024 * 1024

HeaderSource = Callable[[Height], VerifiedHeader]
"""chain.light.LightClient.verified_header."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """As `labnode inspect` prints it; hashes are upper-case hexadecimal."""

    chain_id: str
    store_height: Height
    state_height: Height
    app_hash: str
    database_backend: str

    @property
    def settled(self) -> bool:
        """Block store and state agree: nothing would be replayed on start."""
        return self.store_height == self.state_height


def inspect_data(chain: Chain, home: Path, data: Path) -> Inspection:
    """Run the site's program on `data`, which it must not change.

    Raises:
        VerificationFailedError: it could not run, or can't read the height.
        CorruptError: its output is not what the format says.
    """
    command = [argument.format(home=home, data=data, rpc="") for argument in chain.inspect]
    try:
        done = subprocess.run(command, capture_output=True, timeout=INSPECT_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VerificationFailedError(
            f"{command[0]} could not inspect {data}: {type(error).__name__}", remedy="Check chain.inspect in the site."
        ) from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
        raise VerificationFailedError(
            f"the height of {data} can't be read: {command[0]} ended with {done.returncode} and said {said[0][:300]}",
            remedy="The databases are damaged or of another backend: take the snapshot from another node.",
        )
    return parse_inspection(done.stdout, what=f"inspection of {data}")


def parse_inspection(output: bytes, *, what: str) -> Inspection:
    """CorruptError when the output is not what the format says."""
    try:
        document = json.loads(output[:MAX_OUTPUT_BYTES])
    except ValueError as error:
        raise CorruptError(f"{what}: not JSON", remedy="Check chain.inspect in the site file.") from error
    if not isinstance(document, dict):
        raise CorruptError(f"{what}: not a JSON object", remedy="Check chain.inspect in the site file.")
    reader = Reader(document, what)
    return Inspection(
        chain_id=reader.text("chain_id"),
        store_height=Height(reader.count("store_height")),
        state_height=Height(reader.count("state_height")),
        app_hash=reader.text("app_hash"),
        database_backend=reader.text("db_backend"),
    )


def chain_point(chain: Chain, inspection: Inspection, headers: HeaderSource | None) -> ChainPoint:
    """Compare with the chain where it answers; without an answer the manifest says that nobody compared.

    Raises:
        VerificationFailedError: another chain's data, or another application hash than the verified header has.
        DivergenceError: the nodes asked disagree with each other.
    """
    if inspection.chain_id != chain.chain_id:
        raise VerificationFailedError(
            f"the data is of chain {inspection.chain_id}, the site runs {chain.chain_id}",
            remedy="Check the node's home.",
        )
    height = inspection.state_height
    header = None if headers is None else _header(headers, Height(height + 1))
    if header is not None and header.app_hash != inspection.app_hash:
        raise VerificationFailedError(
            f"the application hash after height {height} is {inspection.app_hash}, "
            f"the verified header {height + 1} says {header.app_hash}",
            remedy="This node's state is not the chain's: recover the node, snapshot another one.",
        )
    return ChainPoint(
        chain_id=inspection.chain_id,
        height=height,
        app_hash=inspection.app_hash,
        header_height=header.height if header else None,
        header_hash=header.hash if header else None,
        store_height=inspection.store_height,
        state_height=inspection.state_height,
    )


def _header(headers: HeaderSource, height: Height) -> VerifiedHeader | None:
    """None when nobody can say: in a disaster a backup that is compared later is worth more than none."""
    try:
        return headers(height)
    except DivergenceError:
        raise
    except VedrError:
        return None


def require_settled(inspection: Inspection) -> None:
    """UnavailableError (try again) when the node was caught between a block and the state after it."""
    if not inspection.settled:
        raise UnavailableError(
            f"captured between block {inspection.store_height} and state {inspection.state_height}",
            remedy="Capture again.",
        )
