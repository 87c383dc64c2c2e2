"""What a node's databases say of themselves, read without starting the node.

Guarantees: an `Inspected` comes only from an inspection that could read every database; anything else is an error that
says which part could not be read.  Leaves out: running the program (adapters/inspector.py), and whether what the
databases say is true, which only a boot compared with verified headers tells (chain/boot.py).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vedr.chain.wire import INT64_MAX, Value
from vedr.errors import CorruptError
from vedr.inventory import Height


@dataclass(frozen=True, slots=True)
class Inspected:
    """A node's data at rest; hashes are upper-case hexadecimal.

    `app_hash` is the application's hash after `state_height`.  CometBFT saves the block first, then the state, so
    `state_height` is `store_height` or one less, and `app_height` at most `store_height`.  `app_hash_recomputed`, after
    `app_height`, is what all keys and values amount to; None when they were not read.
    """

    chain_id: str
    store_base: Height
    store_height: Height
    state_height: Height
    app_height: Height
    app_hash: str
    database_backend: str
    app_hash_recomputed: str | None = None


class InconsistentError(CorruptError):
    """Every database can be read, but they hold different states, from which no node starts."""


class Inspector(Protocol):
    """Reads a data folder that no process writes to; changes nothing in it."""

    def inspect(self, home: Path, data: Path, *, deep: bool = False) -> Inspected:
        """Raises: CorruptError (a database is missing or does not open), NotFoundError (no such program).

        A deep inspection reads the application's whole state: CorruptError when that can't be read or recomputed.
        """


def parse_inspected(value: Value, *, deep: bool = False) -> Inspected:
    """CorruptError when a member is missing or of the wrong kind; InconsistentError when no node starts from it."""

    def height(name: str) -> Height:
        return Height(value[name].int32(high=INT64_MAX))

    if not value["consistent"].flag():
        raise InconsistentError(
            f"{value.path}: blocks {value['store_height'].raw}, state {value['state_height'].raw} and application "
            f"{value['app_height'].raw} do not belong together",
            remedy="Don't start a node on it: restore a snapshot.",
        )
    return Inspected(
        chain_id=value["chain_id"].text(),
        store_base=height("store_base"),
        store_height=height("store_height"),
        state_height=height("state_height"),
        app_height=height("app_height"),
        app_hash=value["app_hash"].text().upper(),
        database_backend=value["db_backend"].text(),
        app_hash_recomputed=value["app_hash_recomputed"].text().upper() if deep else None,
    )
