"""Damaged data is kept whole, listed, and never in the way of what replaces it, whenever the run was killed."""

import hashlib
import json
from collections import namedtuple
from pathlib import Path

import pytest

from vedr.chain.sign_state import SignState, read_sign_state, write_sign_state
from vedr.errors import InvalidInputError, NoSpaceError, NotFoundError
from vedr.failover import corruption_evidence as evidence
from vedr.failover.corruption import Finding
from vedr.inventory import Height

RUN = "inc-20261102-120000-abcd"
SIGNED = SignState(Height(900), 1, 3)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / "data" / "state.db").mkdir(parents=True)
    (home / "data" / "state.db" / "000005.ldb").write_bytes(b"damaged" * 1000)
    (home / "data" / "cs.wal").mkdir()
    (home / "data" / "cs.wal" / "wal").write_bytes(b"torn")
    write_sign_state(home / "data" / "priv_validator_state.json", SIGNED)
    (home / "config").mkdir()
    (home / "config" / "config.toml").write_text("[broken")
    (home / "config" / "node_key.json").write_text("{}")
    return home


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_data_is_kept_as_it_was_and_a_fresh_folder_has_only_the_sign_state(home: Path) -> None:
    before = content(home / "data")
    kept = evidence.set_aside_data(home, RUN)
    assert content(kept) == before
    assert [path.name for path in (home / "data").iterdir()] == ["priv_validator_state.json"]
    assert read_sign_state(home / "data" / "priv_validator_state.json") == SIGNED


def test_setting_aside_again_after_any_kill_changes_nothing_that_is_kept(home: Path) -> None:
    before = content(home / "data")
    kept = evidence.set_aside_data(home, RUN)
    for left_by_a_kill in ((home / "data" / "priv_validator_state.json"), None):
        if left_by_a_kill:
            left_by_a_kill.unlink()
        else:
            (home / "data" / "priv_validator_state.json").unlink()
            (home / "data").rmdir()
        assert evidence.set_aside_data(home, RUN) == kept
        assert content(kept) == before
        assert read_sign_state(home / "data" / "priv_validator_state.json") == SIGNED


def test_a_sign_state_that_rose_meanwhile_is_never_lowered(home: Path) -> None:
    evidence.set_aside_data(home, RUN)
    write_sign_state(home / "data" / "priv_validator_state.json", SignState(Height(950), 0, 3))
    evidence.set_aside_data(home, RUN)
    assert read_sign_state(home / "data" / "priv_validator_state.json").height == 950


def test_a_sign_state_that_cannot_be_read_is_kept_and_not_carried_over(home: Path) -> None:
    (home / "data" / "priv_validator_state.json").write_bytes(b"\0" * 40)
    kept = evidence.set_aside_data(home, RUN)
    assert (kept / "priv_validator_state.json").read_bytes() == b"\0" * 40
    assert not list((home / "data").iterdir())


def test_data_that_is_gone_can_not_be_kept(home: Path) -> None:
    (home / "data").rename(home / "elsewhere")
    with pytest.raises(NotFoundError):
        evidence.set_aside_data(home, RUN)


def test_a_torn_log_is_set_aside_alone_and_once(home: Path) -> None:
    for _ in range(2):
        assert evidence.set_aside_log(home, RUN).joinpath("wal").read_bytes() == b"torn"
    assert (home / "data" / "state.db").is_dir()
    assert not (home / "data" / "cs.wal").exists()


def test_configuration_is_copied_before_it_is_replaced_and_the_first_copy_stays(home: Path) -> None:
    names = ("config/config.toml", "config/app.toml")
    folder = evidence.copy_files(home, RUN, names)
    (home / "config" / "config.toml").write_text("good = true")
    evidence.copy_files(home, RUN, names)
    assert content(folder) == {"config/config.toml": b"[broken"}
    assert (home / "config" / "config.toml").read_text() == "good = true"


def test_keys_are_never_copied(home: Path) -> None:
    with pytest.raises(InvalidInputError, match="key"):
        evidence.copy_files(home, RUN, ("config/node_key.json",))


def test_the_record_lists_every_file_with_its_hash(home: Path) -> None:
    evidence.copy_files(home, RUN, ("config/config.toml",))
    evidence.set_aside_data(home, RUN)
    kept = evidence.write_record(home, RUN, "full-0", [Finding("database", "data", "does not open")])
    record = json.loads(kept.record.read_bytes())
    files = content(kept.folder)
    assert {one["path"]: one["sha256"] for one in record["files"]} == {
        path: hashlib.sha256(data).hexdigest() for path, data in files.items()
    }
    assert (kept.files, kept.total_bytes) == (len(files), sum(map(len, files.values())))
    assert kept.record_sha256 == hashlib.sha256(kept.record.read_bytes()).hexdigest()
    assert record["findings"] == [{"kind": "database", "subject": "data", "detail": "does not open"}]


def test_a_file_that_the_disk_does_not_give_is_listed_as_unreadable(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", broken)
    assert evidence.sha256_of(home / "data" / "cs.wal" / "wal") == "unreadable: Input/output error"


def test_a_full_disk_is_met_before_anything_is_moved(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 - what shutil gives
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10, 10, evidence.SPARE_BYTES + 99))
    assert evidence.require_room(home, 99) == evidence.SPARE_BYTES + 99
    with pytest.raises(NoSpaceError, match="to spare"):
        evidence.require_room(home, 100)


@pytest.mark.parametrize("incident", ["", "../x", "a b"])
def test_a_run_id_that_is_no_file_name_is_refused(home: Path, incident: str) -> None:
    with pytest.raises(InvalidInputError):
        evidence.evidence_folder(home, incident)
