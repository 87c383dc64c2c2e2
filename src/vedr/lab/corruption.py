"""Damage to a node's data, as disks, crashes and people do it.

Guarantees: what was done is said to the byte and written to the lab's `faults.jsonl`; damage is the same each time.
Leaves out: seeing that the node is stopped, which the caller does, and its recovery, which is what the damage is for.
"""

import datetime as dt
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedr.errors import NotFoundError
from vedr.lab.corruption_journal import diverge

DAMAGED_STRETCHES: Final = 3
STRETCH_BYTES: Final = 512  # a disk sector
RUBBISH_BYTES: Final = 2 * 1024 * 1024
"""More than the largest record of a consensus log, so that the torn one is not taken for one that was only begun."""

_WAL_KEPT_PART: Final = 2  # half of the log is torn off, as a crash in mid-write would


@dataclass(frozen=True, slots=True)
class Damage:
    """A kind of damage and its meaning."""

    summary: str
    apply: Callable[[Path], str]


def corrupt(home: Path, what: str, *, record: Path) -> str:
    """Damage the stopped node in `home`; returns what was done.

    Raises:
        NotFoundError: no such kind of damage, or nothing there to damage.
    """
    if what not in KINDS:
        raise NotFoundError(f"no damage {what!r}", remedy=f"Choose one of: {', '.join(KINDS)}.")
    done = KINDS[what].apply(home)
    entry = {"time": dt.datetime.now(dt.UTC).isoformat(), "node": home.name, "what": what, "done": done}
    with record.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    return done


def _flip_database(name: str) -> Callable[[Path], str]:
    def apply(home: Path) -> str:
        folder = home / "data" / name
        files = [f for f in folder.glob("*") if f.suffix in (".ldb", ".sst", ".log") and f.stat().st_size]
        if not files:
            raise NotFoundError(f"{folder} holds no tables", remedy="Let the node make some blocks first.")
        victim = max(files, key=lambda file: (file.suffix != ".log", file.stat().st_size, file.name))
        return _flip(victim)

    return apply


def _flip(victim: Path) -> str:
    """Invert stretches at a quarter, half and three quarters of the file."""
    size = victim.stat().st_size
    offsets = sorted({size * part // (DAMAGED_STRETCHES + 1) for part in range(1, DAMAGED_STRETCHES + 1)})
    with victim.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            stretch = file.read(min(STRETCH_BYTES, size - offset))
            file.seek(offset)
            file.write(bytes(byte ^ 0xFF for byte in stretch))
    return f"inverted {STRETCH_BYTES} bytes at {', '.join(map(str, offsets))} of {_short(victim)} ({size} bytes)"


def _tear_wal(home: Path) -> str:
    wal = home / "data" / "cs.wal" / "wal"
    if not wal.exists():
        raise NotFoundError(f"{wal} does not exist", remedy="Let the node run first.")
    size = wal.stat().st_size
    with wal.open("r+b") as file:
        file.truncate(size // _WAL_KEPT_PART)
        file.seek(0, 2)
        file.write(b"\xff" * RUBBISH_BYTES)
    return f"tore {_short(wal)} at {size // _WAL_KEPT_PART} of {size} bytes and appended {RUBBISH_BYTES} of rubbish"


def _wipe(home: Path) -> str:
    """A new disk: everything under data is gone, the signer's state with it."""
    data = home / "data"
    names = sorted(entry.name for entry in data.iterdir())
    for entry in data.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return f"removed {', '.join(names) or 'nothing'} from {_short(data)}"


def _drop_database(name: str) -> Callable[[Path], str]:
    def apply(home: Path) -> str:
        folder = home / "data" / name
        if not folder.exists():
            raise NotFoundError(f"{folder} does not exist", remedy="Choose another damage.")
        shutil.rmtree(folder)
        return f"removed {_short(folder)}"

    return apply


def _drop_table(name: str) -> Callable[[Path], str]:
    def apply(home: Path) -> str:
        files = sorted((home / "data" / name).glob("*.ldb"), key=lambda file: (file.stat().st_size, file.name))
        if not files:
            raise NotFoundError(f"{name} holds no tables", remedy="Let the node make some blocks first.")
        files[-1].unlink()
        return f"removed {_short(files[-1])}"

    return apply


def _rewrite(relative: str, change: Callable[[bytes], bytes], words: str) -> Callable[[Path], str]:
    def apply(home: Path) -> str:
        path = home / relative
        if not path.exists():
            raise NotFoundError(f"{path} does not exist", remedy="Choose another damage.")
        path.write_bytes(change(path.read_bytes()))
        return f"{words} {_short(path)}"

    return apply


def _remove(relative: str) -> Callable[[Path], str]:
    def apply(home: Path) -> str:
        path = home / relative
        if not path.exists():
            raise NotFoundError(f"{path} does not exist", remedy="Choose another damage.")
        path.unlink()
        return f"removed {_short(path)}"

    return apply


def _set_back(state: bytes) -> bytes:
    """An older sign-state, as a careless restore would leave it."""
    return json.dumps({**json.loads(state), "height": "1", "round": 0, "step": 0}).encode()


def _short(path: Path) -> str:
    """The path from the node's folder on."""
    return "/".join(path.parts[-3:])


KINDS: Final = {
    "app-db": Damage("sectors of the application's database inverted", _flip_database("application.db")),
    "block-db": Damage("sectors of the block store inverted", _flip_database("blockstore.db")),
    "state-db": Damage("sectors of the state store inverted", _flip_database("state.db")),
    "lost-app-db": Damage("the application's database is gone", _drop_database("application.db")),
    "lost-block-table": Damage("a table of the block store is gone", _drop_table("blockstore.db")),
    "app-state": Damage(
        "a value of the application's state is another one, with every checksum right",
        lambda home: diverge(home / "data" / "application.db"),
    ),
    "wal": Damage("the consensus log torn in the middle", _tear_wal),
    "wipe-data": Damage("a new, empty disk: all of data/ is gone", _wipe),
    "genesis": Damage(
        "the genesis names another chain",
        _rewrite("config/genesis.json", lambda b: b.replace(b'"chain_id"', b'"chain_idx"'), "broke chain_id in"),
    ),
    "config": Damage(
        "config.toml cut in half",
        _rewrite("config/config.toml", lambda b: b[: len(b) // 2] + b"\n[broken", "cut in half"),
    ),
    "node-key": Damage("the node's p2p key is gone", _remove("config/node_key.json")),
    "consensus-key": Damage("the validator's key is gone", _remove("config/priv_validator_key.json")),
    "sign-state": Damage(
        "the signer's state is empty", _rewrite("data/priv_validator_state.json", lambda _: b"", "emptied")
    ),
    "sign-state-old": Damage(
        "the signer's state is set back to height 1: signing with it would sign twice",
        _rewrite("data/priv_validator_state.json", _set_back, "set back to height 1:"),
    ),
}
