"""Whether a node waits for a remote signer or signs by itself: its config.toml is changed in this one value only."""

import socket
import tomllib
from pathlib import Path

import pytest

from vedr.chain.node_config import edit_root, edit_section, remove_stale_socket, set_signer_address, signer_address
from vedr.errors import CorruptError, NotFoundError

ADDRESS = "unix:///run/node/privval.sock"
TEXT = '# of the operator\nmoniker = "a"\npriv_validator_laddr = ""\n\n[consensus]\npriv_validator_laddr = "x"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config" / "config.toml"
    path.parent.mkdir()
    path.write_text(TEXT)
    return path


def test_a_node_is_told_to_wait_for_a_signer_and_everything_else_stays(tmp_path: Path, config: Path) -> None:
    assert signer_address(tmp_path) == ""
    assert set_signer_address(tmp_path, ADDRESS)
    assert signer_address(tmp_path) == ADDRESS
    assert config.read_text() == TEXT.replace('""', f'"{ADDRESS}"')
    assert not set_signer_address(tmp_path, ADDRESS), "again is quiet"
    assert set_signer_address(tmp_path, "")
    assert signer_address(tmp_path) == ""


def test_a_setting_that_the_file_lacks_is_put_above_its_first_section(tmp_path: Path, config: Path) -> None:
    config.write_text('[consensus]\npriv_validator_laddr = "x"\n')
    assert signer_address(tmp_path) == ""
    assert set_signer_address(tmp_path, ADDRESS)
    assert tomllib.loads(config.read_text()) == {
        "priv_validator_laddr": ADDRESS,
        "consensus": {"priv_validator_laddr": "x"},
    }


def test_a_node_without_a_configuration_is_never_taken_for_one_without_a_signer(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="No such file"):
        signer_address(tmp_path)
    with pytest.raises(NotFoundError, match="No such file"):
        set_signer_address(tmp_path, ADDRESS)


@pytest.mark.parametrize("text", ["priv_validator_laddr", 'a = """\npriv_validator_laddr = ""\n"""\n'])
def test_a_file_that_cannot_be_edited_so_that_it_reads_back_is_left_as_it_was(
    tmp_path: Path, config: Path, text: str
) -> None:
    config.write_text(text)
    with pytest.raises(CorruptError, match=r"config\.toml"):
        set_signer_address(tmp_path, ADDRESS)
    assert config.read_text() == text


@pytest.mark.parametrize(
    ("line", "edited"),
    [
        ('priv_validator_laddr = ""  # who signs', 'priv_validator_laddr = "a # b"  # who signs'),
        ('priv_validator_laddr = "x#y" # who "signs"', 'priv_validator_laddr = "a # b" # who "signs"'),
        ("priv_validator_laddr = '#'#who", 'priv_validator_laddr = "a # b"#who'),
        ('priv_validator_laddr = "x#y"', 'priv_validator_laddr = "a # b"'),
    ],
)
def test_what_the_operator_says_behind_a_value_stays(line: str, edited: str) -> None:
    assert edit_root(f"# above\n{line}\n", {"priv_validator_laddr": "a # b"}) == f"# above\n{edited}\n"


def test_a_setting_of_a_section_keeps_what_is_said_behind_it() -> None:
    text = '[statesync]\nenable = false # until it is new\nrpc_servers = "a"\n'
    assert edit_section(text, "statesync", {"enable": True}) == text.replace("false", "true")


def test_values_above_the_first_section_are_numbers_and_truths_too() -> None:
    assert tomllib.loads(edit_root("a = 1\n", {"a": 2, "b": True})) == {"a": 2, "b": True}


def test_the_socket_of_a_killed_node_is_taken_away_and_no_other_address_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "privval.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
    remove_stale_socket(f"unix://{path}")
    assert not path.exists()
    remove_stale_socket(f"unix://{path}")
    path.touch()
    remove_stale_socket(f"tcp://{path}")
    assert path.exists()
