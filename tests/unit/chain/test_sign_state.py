import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vedr.chain.durable import replace_file
from vedr.chain.sign_state import (
    MAX_BYTES,
    SignState,
    highest,
    merge_upward,
    parse_sign_state,
    read_sign_state,
    write_sign_state,
)
from vedr.errors import CorruptError, NotFoundError, RefusedError
from vedr.inventory import Height

# As CometBFT v0.38.25 wrote it on a running validator.
REAL = b"""{
  "height": "668",
  "round": 0,
  "step": 3,
  "signature": "AQIDBA==",
  "signbytes": "6A080211"
}"""


def state(height: int, round_: int = 0, step: int = 0, message: bytes = b"") -> SignState:
    return SignState(Height(height), round_, step, b"s" if message else b"", message)


STATES = st.builds(state, st.integers(0, 2**63 - 1), st.integers(0, 2**31 - 1), st.integers(0, 3))


def test_cometbfts_own_file_is_read_and_written_back_unchanged() -> None:
    parsed = parse_sign_state(REAL, what="real")
    assert parsed == SignState(Height(668), 0, 3, b"\x01\x02\x03\x04", bytes.fromhex("6A080211"))
    assert json.loads(parsed.to_json()) == json.loads(REAL)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "not json",
        '{"height": 5, "round": 0, "step": 0}',
        '{"height": "-1", "round": 0, "step": 0}',
        '{"height": "05", "round": 0, "step": 0}',
        '{"height": " 5", "round": 0, "step": 0}',
        '{"height": "5", "round": -1, "step": 0}',
        '{"height": "5", "round": 0, "step": 4}',
        '{"height": "5", "round": 0, "step": -1}',
        '{"height": "5", "round": 0, "step": true}',
        '{"height": "5", "round": "0", "step": 0}',
        '{"height": "5", "round": 0.0, "step": 0}',
        '{"height": "5", "round": 0}',
        '{"height": "5", "round": 0, "step": 0, "extra": 1}',
        '{"height": "5", "round": 0, "step": 0, "height": "9"}',
        '{"height": "9223372036854775808", "round": 0, "step": 0}',
        '{"height": "5", "round": 2147483648, "step": 0}',
        '{"height": "5", "round": 0, "step": 0, "signature": "%%"}',
        '{"height": "5", "round": 0, "step": 0, "signbytes": "xyz"}',
        "[" * 100_000,
    ],
)
def test_anything_but_a_whole_state_in_range_fails_closed(text: str) -> None:
    with pytest.raises(CorruptError) as caught:
        parse_sign_state(text.encode(), what="state")
    assert "stopped" in caught.value.remedy


def test_an_enormous_file_is_not_even_parsed() -> None:
    with pytest.raises(CorruptError, match="more than"):
        parse_sign_state(b" " * (MAX_BYTES + 1), what="state")


@settings(deadline=None, max_examples=25)
@given(data=st.binary(max_size=200))
def test_no_bytes_make_it_raise_anything_else(data: bytes) -> None:
    try:
        parse_sign_state(data, what="fuzz")
    except CorruptError:
        return


@settings(deadline=None, max_examples=25)
@given(before=STATES, after=STATES)
def test_writing_never_lowers(tmp_path_factory: pytest.TempPathFactory, before: SignState, after: SignState) -> None:
    path = tmp_path_factory.mktemp("s") / "state.json"
    write_sign_state(path, before)
    written = write_sign_state(path, after)

    assert read_sign_state(path) == written
    assert written.hrs == max(before.hrs, after.hrs)
    path.unlink()


@settings(deadline=None, max_examples=25)
@given(states=st.lists(STATES, min_size=1, max_size=5))
def test_the_highest_is_the_maximum_of_height_round_step(states: list[SignState]) -> None:
    assert highest(*states).hrs == max(s.hrs for s in states)


def test_a_file_that_cannot_be_read_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text("{")
    with pytest.raises(CorruptError):
        write_sign_state(path, state(9))
    assert path.read_text() == "{"


def test_a_state_out_of_range_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(CorruptError):
        write_sign_state(tmp_path / "state.json", state(1, 0, 9))
    assert not list(tmp_path.iterdir())


def test_the_file_is_private(tmp_path: Path) -> None:
    write_sign_state(tmp_path / "state.json", state(9))
    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600


def test_a_failed_replacement_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    replace_file(path, b"old")

    def fail(_: int) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="fire"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_merging_takes_the_higher_and_reads_only(tmp_path: Path) -> None:
    live, other = tmp_path / "live", tmp_path / "other"
    live.write_bytes(state(7, 1, 2).to_json())
    other.write_bytes(state(7, 0, 3).to_json())

    assert merge_upward(live, other).hrs == (7, 1, 2)
    assert merge_upward(other, live).hrs == (7, 1, 2)
    assert merge_upward(None, other).hrs == (7, 0, 3)
    assert merge_upward(live, None).hrs == (7, 1, 2)
    assert read_sign_state(other).hrs == (7, 0, 3)


def test_merging_nothing_or_the_unreadable_is_refused(tmp_path: Path) -> None:
    (tmp_path / "live").write_bytes(state(7).to_json())
    (tmp_path / "torn").write_bytes(state(9).to_json()[:-9])
    (tmp_path / "folder").mkdir()
    with pytest.raises(RefusedError):
        merge_upward(None, None)
    with pytest.raises(NotFoundError):
        merge_upward(tmp_path / "live", tmp_path / "gone")
    with pytest.raises(CorruptError):
        merge_upward(tmp_path / "live", tmp_path / "torn")
    with pytest.raises(CorruptError):
        merge_upward(tmp_path / "folder", None)


def test_equal_states_keep_the_signature_and_different_messages_are_refused() -> None:
    assert highest(state(7, 0, 3), state(7, 0, 3, b"m")).sign_bytes == b"m"
    assert highest(state(7, 0, 3, b"m"), state(7, 0, 3, b"m")).sign_bytes == b"m"
    with pytest.raises(RefusedError, match="signed twice"):
        highest(state(7, 0, 3, b"m"), state(7, 0, 3, b"n"))
