"""Runs a site's own program to read a node's databases at rest (`[chain] inspect` and `inspect_deep` of the site file).

Guarantees: the program is given paths and a time limit and nothing else; what it prints is parsed strictly, and what it
complains about becomes a CorruptError; databases of another engine than the site's are refused before they could be
taken for damaged ones, or captured.
Leaves out: that it only reads, which the program promises (docs/formats/inspect.md).
"""

import subprocess
from pathlib import Path
from typing import Final

from vedr.chain.inspection import Inspected, parse_inspected
from vedr.chain.wire import parse_json
from vedr.errors import CorruptError, DeadlineError, InvalidInputError, NotFoundError, RefusedError
from vedr.inventory import Chain

LIMIT_S: Final = 60.0  # opening a large goleveldb replays its journal, a few MiB
DEEP_LIMIT_S: Final = 3600.0  # reads the whole state
_OPTIONS: Final = "OPTIONS-*"
_TAIL_CHARACTERS: Final = 500


class CommandInspector:
    """vedr.chain.inspection.Inspector over a command."""

    def __init__(self, chain: Chain, *, limit_s: float = LIMIT_S, deep_limit_s: float = DEEP_LIMIT_S) -> None:
        self._chain = chain
        self._limit_s = limit_s
        self._deep_limit_s = deep_limit_s

    def inspect(self, home: Path, data: Path, *, deep: bool = False) -> Inspected:
        """See the port; also DeadlineError when the program does not end in time, RefusedError for another engine."""
        self._require_engine(data)
        fill = {"home": str(home), "data": str(data)}
        command = [argument.format_map(fill) for argument in self._arguments(deep)]
        limit_s = self._deep_limit_s if deep else self._limit_s
        try:
            done = subprocess.run(command, capture_output=True, check=True, timeout=limit_s)
        except FileNotFoundError as error:
            raise NotFoundError(f"{command[0]}: no such program", remedy="Correct [chain] inspect.") from error
        except subprocess.TimeoutExpired as error:
            raise DeadlineError(
                f"inspecting {data} took more than {limit_s:g} s", remedy="Look at its disk, then try again."
            ) from error
        except subprocess.CalledProcessError as error:
            complaint = error.stderr.decode(errors="replace").strip()[-_TAIL_CHARACTERS:]
            raise CorruptError(
                f"{data} can't be read: {complaint or f'exit status {error.returncode}'}",
                remedy="Keep it for the root cause, and restore a snapshot.",
            ) from error
        found = parse_inspected(parse_json(done.stdout, what=f"inspection of {data}"), deep=deep)
        if found.database_backend != self._chain.database_backend:
            raise _other_engine(data, found.database_backend, self._chain.database_backend)
        return found

    def _require_engine(self, data: Path) -> None:
        """Pebble and RocksDB write their options beside the tables, goleveldb never does."""
        for options in sorted(data.glob(f"*.db/{_OPTIONS}")):
            raise _other_engine(options.parent, "Pebble or RocksDB", self._chain.database_backend)

    def _arguments(self, deep: bool) -> tuple[str, ...]:
        if deep and not self._chain.inspect_deep:
            raise InvalidInputError(
                "this site names no program that reads the whole state", remedy="Set [chain] inspect_deep."
            )
        return self._chain.inspect_deep if deep else self._chain.inspect


def _other_engine(where: Path, found: str, expected: str) -> RefusedError:
    return RefusedError(
        f"{where} is of {found}, this site's databases are {expected}",
        remedy=f"vedr knows only {expected}: it neither captures nor judges this node's data, which is not said to be "
        "damaged.  Set the node's db_backend and sync it anew, or take another node.",
    )
