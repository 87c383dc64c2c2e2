"""Memory stays flat, however large the files and however many the threads."""

import filecmp
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vedr.backup.rooms import WORKING_BYTES, Workspace
from vedr.backup.sealing import PART_BYTES

ROOT = Path(__file__).parents[3]
LIMIT_BYTES = 300_000_000


def test_what_is_under_way_never_takes_more_than_the_working_memory() -> None:
    workspace = Workspace()
    lock = threading.Lock()
    out = peak = 0

    def work(size: int) -> None:
        nonlocal out, peak
        with workspace.loan(size) as loan:
            room = loan(size)
            assert len(room) == size
            assert loan.lent(room[1:])
            with lock:
                out += size
                peak = max(peak, out)
            with lock:
                out -= size

    sizes = random.Random(1)
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(work, [sizes.randrange(1, WORKING_BYTES) for _ in range(500)]))
    assert out == 0
    assert 0 < peak <= WORKING_BYTES


def test_a_room_of_another_loan_is_told_apart() -> None:
    workspace = Workspace()
    with workspace.loan(1) as one, workspace.loan(1) as other:
        assert not one.lent(other(100))


def test_large_files_are_backed_up_verified_healed_repaired_and_restored_within_300_mb(tmp_path: Path) -> None:
    data, home, store = tmp_path / "data", tmp_path / "home", tmp_path / "stores"
    data.mkdir()
    home.mkdir()
    half = random.Random(1).randbytes(PART_BYTES // 2)
    with (data / "000001.sst").open("wb") as file:
        for number in range(14):
            file.write(half + number.to_bytes(8, "big") * (PART_BYTES // 16))
    for action in ("backup", "verify", "heal"):
        assert 0 < peak_bytes(action, store, data) < LIMIT_BYTES, action
    for stored in (store / "eu-west").glob("*%o%*"):
        with stored.open("r+b") as file:
            file.write(b"not vedr's")
    for action in ("repair", "restore"):
        assert 0 < peak_bytes(action, store, home) < LIMIT_BYTES, action
    restored = next(home.glob("data.vedr-staged-*"))
    assert filecmp.cmp(restored / "000001.sst", data / "000001.sst", shallow=False)


def peak_bytes(action: str, store: Path, folder: Path) -> int:
    """Of a process that does that."""
    argv = [sys.executable, Path(__file__).with_name("large_files.py"), action, store, folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    answer = subprocess.run([str(word) for word in argv], check=True, stdout=subprocess.PIPE, env=environment)
    return int(answer.stdout)
