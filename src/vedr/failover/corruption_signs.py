"""A node's own last words: lines of its log that mean damage, as CometBFT, goleveldb and the cosmos-sdk write them.

Guarantees: only what the node wrote since its last start counts; every sign is quoted as it was written, cut short.
Leaves out: deciding by them alone: a log can be old, and a sign counts only for a node that does not serve.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vedr.failover.corruption import Finding, Kind

TAIL_BYTES: Final = 256 * 1024
MAX_QUOTED: Final = 300
_START: Final = re.compile(r"Version info|starting ABCI with|starting node with ABCI")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")

SIGNS: Final[Mapping[Kind, re.Pattern[str]]] = {
    "config": re.compile(
        r"(?i)(read|parse|parsing|load)\w* .{0,60}(config|app)\.toml|(config|app)\.toml: |error in config"
    ),
    "state": re.compile(
        r"wrong Block\.Header\.AppHash|wrong Block\.Header\.LastResultsHash|AppHash does not match|"
        r"[Aa]pp hash mismatch|app block height \(\d+\) is higher|state\.AppHash"
    ),
    "database": re.compile(
        r"leveldb(/\w+)?: (\w+ )?corrupt|leveldb: manifest corrupted|corruption on|checksum mismatch|"
        r"corrupt(ed)? (database|block|record|manifest|table)|unable to decode"
    ),
}
SUBJECTS: Final[Mapping[Kind, str]] = {"config": "config/config.toml", "state": "state", "database": "data"}


def read_signs(log: Path) -> tuple[Finding, ...]:
    """The last sign of each kind since the node's last start.  Raises OSError when the log can't be read."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = _COLOUR.sub("", file.read().decode(errors="replace"))
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if _START.search(line)]
    return signs_in(lines[starts[-1] :] if starts else lines)


def signs_in(lines: list[str]) -> tuple[Finding, ...]:
    """The last line of each kind that means damage."""
    found = []
    for kind, pattern in SIGNS.items():
        last = next((line for line in reversed(lines) if pattern.search(line)), None)
        if last is not None:
            found.append(Finding(kind, SUBJECTS[kind], f"its log says: {last.strip()[:MAX_QUOTED]}"))
    return tuple(found)
