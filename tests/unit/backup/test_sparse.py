"""Files with holes: their content comes back whole, and room is asked for by what they will take once restored."""

import os
from typing import Any

import pytest

from vedr.backup import restore
from vedr.errors import NoSpaceError

HOLE_BYTES = 40 * 1024 * 1024


def test_a_file_with_holes_comes_back_byte_for_byte(world: Any) -> None:
    path = world.data / "application.db" / "000042.log"
    with path.open("wb") as file:
        file.write(b"begin")
        file.seek(HOLE_BYTES)
        file.write(b"middle")
        file.truncate(2 * HOLE_BYTES)  # and a hole at its end
    assert path.stat().st_blocks * 512 < HOLE_BYTES
    created = world.back_up()
    assert created.verified.manifest.total_bytes >= 2 * HOLE_BYTES
    assert world.restored() == world.content()


def test_the_room_asked_for_is_that_of_the_whole_file(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restoring reserves it all: a disk that has room for the written parts alone would fill up half-way."""
    with (world.data / "sparse").open("wb") as file:
        os.truncate(file.fileno(), HOLE_BYTES)
    world.back_up()
    home = world.folder / "home"
    home.mkdir()
    monkeypatch.setattr(restore, "SPARE_BYTES", 0)
    usage = type("Usage", (), {"free": HOLE_BYTES - 1})
    monkeypatch.setattr(restore.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(NoSpaceError, match="the snapshot needs"):
        world.restored(home)
    assert not list(home.iterdir())
