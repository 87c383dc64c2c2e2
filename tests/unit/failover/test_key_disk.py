"""A validator's key on the disk of a full node, and off it again, also when a process was killed in between."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from vedr.adapters.lab_fleet import LocalFiles
from vedr.custody.key_material import VALIDATOR_FILE, new_key_file
from vedr.errors import UnavailableError
from vedr.failover.key_disk import OWN_FOLDER, SignsHere, address_on, put_key, take_key_off
from vedr.failover.promotion_key import read_key_file
from vedr.failover.signer_disk import Ticket
from vedr.inventory import Node

GIVEN = new_key_file("validator", VALIDATOR_FILE).content
OWN = new_key_file("validator", VALIDATOR_FILE).content


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir()
    (tmp_path / VALIDATOR_FILE).write_bytes(OWN)
    (tmp_path / VALIDATOR_FILE).chmod(0o600)
    return tmp_path


def address_of(content: bytes, folder: Path) -> str:
    (folder / "config").mkdir(parents=True, exist_ok=True)
    (folder / VALIDATOR_FILE).write_bytes(content)
    return address_on(folder)


def test_the_key_is_put_there_and_taken_off_and_the_node_has_its_own_again(home: Path, tmp_path: Path) -> None:
    given = address_of(GIVEN, tmp_path / "other")
    seen = put_key(home, GIVEN)
    assert (seen.kind, seen.mode) == ("file", 0o600)
    assert address_on(home) == given
    assert put_key(home, GIVEN) == seen  # once more, by a process that does not know
    assert take_key_off(home, given)
    assert (home / VALIDATOR_FILE).read_bytes() == OWN
    assert not (home / "config" / OWN_FOLDER).exists()
    assert not take_key_off(home, given)


def test_a_process_killed_after_it_set_the_own_key_aside_lost_nothing(home: Path) -> None:
    own = home / "config" / OWN_FOLDER
    own.mkdir()
    os.link(home / VALIDATOR_FILE, own / "priv_validator_key.json")
    assert take_key_off(home, "0" * 40)
    assert (home / VALIDATOR_FILE).read_bytes() == OWN
    assert read_key_file(home / VALIDATOR_FILE).kind == "file"


def test_a_process_killed_while_it_overwrote_the_key_is_gone_on_with(home: Path, tmp_path: Path) -> None:
    given = address_of(GIVEN, tmp_path / "other")
    put_key(home, GIVEN)
    (home / VALIDATOR_FILE).write_bytes(b"\x00" * 300)
    assert address_on(home) == ""
    assert take_key_off(home, given)
    assert (home / VALIDATOR_FILE).read_bytes() == OWN


def test_a_host_without_a_key_of_its_own_has_none_afterwards(home: Path, tmp_path: Path) -> None:
    given = address_of(GIVEN, tmp_path / "other")
    (home / VALIDATOR_FILE).unlink()
    put_key(home, GIVEN)
    assert take_key_off(home, given)
    assert address_on(home) == ""


def test_a_disk_that_can_t_be_read_is_not_taken_for_one_without_a_key(home: Path) -> None:
    (home / VALIDATOR_FILE).unlink()
    (home / VALIDATOR_FILE).mkdir()
    with pytest.raises(UnavailableError):
        address_on(home)
    (home / VALIDATOR_FILE).rmdir()
    (home / VALIDATOR_FILE).write_text("[1]")
    assert address_on(home) == ""


def test_a_node_signs_here_while_it_has_the_key_in_a_home_that_is_not_fenced(home: Path, tmp_path: Path) -> None:
    host = cast("Node", SimpleNamespace(name="full", home=home))
    given = address_of(GIVEN, tmp_path / "other")
    data = home / "data"
    data.mkdir()
    signs_here = SignsHere(LocalFiles(), host, given)
    assert not signs_here()
    data.rename(home / Ticket(3, 1).folder)  # as a promotion does it: fenced, the key, opened
    put_key(home, GIVEN)
    assert not signs_here()
    (home / Ticket(3, 1).folder).rename(data)
    assert signs_here()
    data.rename(home / Ticket(4, 1).folder)  # and on the way home
    assert not signs_here()
    take_key_off(home, given)
    (home / Ticket(4, 1).folder).rename(data)
    assert not signs_here()


def test_a_home_without_a_folder_that_nobody_fenced_is_for_its_reader_to_say(home: Path, tmp_path: Path) -> None:
    given = address_of(GIVEN, tmp_path / "other")
    put_key(home, GIVEN)
    signs_here = SignsHere(LocalFiles(), cast("Node", SimpleNamespace(name="full", home=home)), given)
    assert signs_here()
    (home / VALIDATOR_FILE).unlink()
    assert not signs_here()


def test_a_key_file_that_cannot_be_looked_at_is_no_answer(home: Path) -> None:
    (home / VALIDATOR_FILE).unlink()
    (home / "config").rmdir()
    (home / "config").write_bytes(b"no folder")
    signs_here = SignsHere(LocalFiles(), cast("Node", SimpleNamespace(name="full", home=home)), "AB" * 20)
    with pytest.raises(UnavailableError):
        signs_here()
