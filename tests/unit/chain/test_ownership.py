"""What vedr, run as root, writes for a node that runs as another user belongs to that user."""

import os
from pathlib import Path

import pytest

from vedr.chain.durable import replace_file
from vedr.chain.state_sync import StateSyncPlan, start_afresh

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

NODE_USER, NODE_GROUP = 4711, 4712


def owner_of(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_gid


def test_a_replaced_file_stays_its_owners_and_a_new_one_is_its_folders(tmp_path: Path) -> None:
    os.chown(tmp_path, NODE_USER, NODE_GROUP)
    state = tmp_path / "priv_validator_state.json"
    replace_file(state, b"new")
    assert owner_of(state) == (NODE_USER, NODE_GROUP)
    os.chown(state, NODE_USER + 1, NODE_GROUP)
    replace_file(state, b"newer")
    assert owner_of(state) == (NODE_USER + 1, NODE_GROUP)


@pytest.mark.parametrize("lost", [False, True], ids=["data set aside", "data lost"])
def test_a_fresh_data_folder_is_the_nodes(tmp_path: Path, lost: bool) -> None:
    os.chown(tmp_path, NODE_USER, NODE_GROUP)
    if not lost:
        (tmp_path / "data").mkdir()
        os.chown(tmp_path / "data", NODE_USER, NODE_GROUP)
    start_afresh(StateSyncPlan(tmp_path, "inc-1"))
    assert owner_of(tmp_path / "data") == (NODE_USER, NODE_GROUP)
