"""What a loss of power must not take back is on the disk before the next thing is done."""

import os
from pathlib import Path

import pytest

from vedr.chain.durable import replace_file
from vedr.chain.sign_state import FILE_NAME, SignState, write_sign_state
from vedr.chain.state_sync import StateSyncPlan, start_afresh, undo
from vedr.failover.corruption_evidence import evidence_folder, set_aside_data
from vedr.inventory import Height


class Disk:
    """What is put on the disk, in order: a folder with the names in it, a file with its content."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[tuple[Path, object]] = []
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        kept = {one.name for one in path.iterdir()} if path.is_dir() else path.read_bytes()
        self.synced.append((path, kept))

    def names(self, folder: Path) -> set[str]:
        """As a loss of power now would leave them."""
        shown = [names for path, names in self.synced if path == folder]
        assert shown, f"{folder} never was put on the disk"
        last = shown[-1]
        assert isinstance(last, set)
        return last


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    write_sign_state(tmp_path / "data" / FILE_NAME, SignState(Height(40), 0, 3))
    return tmp_path


@pytest.fixture
def disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:  # noqa: ARG001 (what was there before is on the disk)
    return Disk(monkeypatch)


def test_a_file_is_on_the_disk_before_it_takes_its_place_and_its_name_is_before_anything_else(
    home: Path, disk: Disk
) -> None:
    path = home / "state.json"
    replace_file(path, b"new")
    (draft, content), (folder, names) = disk.synced
    assert (draft.parent, content, folder) == (home, b"new", home)
    assert draft != path
    assert names == {"data", "state.json"}


def test_new_data_for_a_sync_is_in_place_before_anything_is_signed_in_it(home: Path, disk: Disk) -> None:
    """Else the old data comes back with the sign-state of before, and what was signed meanwhile is signed again."""
    plan = StateSyncPlan(home, "inc-1")
    start_afresh(plan)
    assert disk.names(home) == {"data", "data.vedr-old-inc-1"}
    assert disk.names(plan.data) == {FILE_NAME}
    undo(plan)
    assert disk.names(home) >= {"data"}
    assert "data.vedr-old-inc-1" not in disk.names(home)


def test_a_fresh_folder_beside_damaged_data_is_in_place_before_anything_is_signed_in_it(home: Path, disk: Disk) -> None:
    set_aside_data(home, "inc-1")
    kept = evidence_folder(home, "inc-1")
    assert disk.names(home) == {"data", kept.name}
    assert disk.names(kept) == {"data"}
    assert disk.names(home / "data") == {FILE_NAME}
