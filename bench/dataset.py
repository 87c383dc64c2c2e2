"""Two states of a node's data folder, a before and b after growth, kept so that any method can be shown them in turn.

Both live under one path when they are shown, and share the inodes of unchanged tables, as the node's own folder would:
a method's recognition of unchanged files (path, inode, times) works as in life, however often a and b take turns.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from bench.measuring import sync_file_system
from bench.servers import find_program

State = Literal["a", "b"]
GROWTH: Final = "5%"
TABLE_SUFFIX: Final = ".ldb"


@dataclass(frozen=True, slots=True)
class DataSet:
    """`live` is the path where a state is shown."""

    folder: Path

    @property
    def live(self) -> Path:
        return self.folder / "live" / "data"

    def at_rest(self, state: State) -> Path:
        return self.folder / state

    @contextlib.contextmanager
    def shown(self, state: State) -> Iterator[Path]:
        """The state under the live path; renaming a folder changes nothing about the files in it."""
        self.at_rest(state).rename(self.live)
        try:
            yield self.live
        finally:
            self.live.rename(self.at_rest(state))

    def files(self, state: State) -> dict[Path, os.stat_result]:
        root = self.at_rest(state)
        return {path.relative_to(root): path.stat() for path in root.rglob("*") if path.is_file()}

    def new_share(self) -> float:
        """The share of b's bytes that stand in files that a does not have."""
        old = {status.st_ino for status in self.files("a").values()}
        new = self.files("b").values()
        return sum(s.st_size for s in new if s.st_ino not in old) / sum(s.st_size for s in new)


def generate(folder: Path, size: str, seed: int) -> DataSet:
    """Make both states in an empty folder."""
    program = find_program("lsm")
    found = DataSet(folder)
    found.live.parent.mkdir(parents=True)
    before, after = found.at_rest("a"), found.at_rest("b")
    subprocess.run([program, "--folder", str(before), "--bytes", size, "--seed", str(seed)], check=True)
    for path in sorted(before.rglob("*")):
        copy = after / path.relative_to(before)
        if path.is_dir():
            copy.mkdir(parents=True)
        elif path.suffix == TABLE_SUFFIX:
            copy.hardlink_to(path)  # tables never change; everything else does, and opening a link would change both
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
    shutil.copy2(folder / "a.lsm-plan.json", folder / "b.lsm-plan.json")
    subprocess.run([program, "--folder", str(after), "--grow", GROWTH], check=True)
    sync_file_system(folder)
    return found
