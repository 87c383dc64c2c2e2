"""Keys put back: never over others, never beside a running unit, never a revoked one, never with a sign-state."""

import datetime as dt
import resource
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from keysworld import NOW, KeysWorld

from vedr.custody.key_backup_catalogue import Revocation
from vedr.custody.key_backup_restore import restore_keys, write_key
from vedr.custody.key_material_process import no_core_dumps
from vedr.errors import ConflictError, NoSpaceError, RefusedError, UnavailableError
from vedr.ports import UnitState, UnitStatus


def status(state: UnitState, pid: int | None = None) -> UnitStatus:
    return UnitStatus("unit", state, pid, dt.datetime.now(dt.UTC), None, "stopped")


def test_a_key_comes_back_private_and_nothing_else_does(keys: KeysWorld, tmp_path: Path) -> None:
    bundle = keys.bundle()
    restored = restore_keys(bundle, tmp_path, revoked=(), status=lambda: status("stopped"))
    [path] = restored.paths
    assert path.read_bytes() == bundle.files[0].content
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]
    assert "Nothing was started" in restored.next_step
    assert "RB-DR-001 --node validator-0" in restored.next_step


def test_an_existing_file_is_never_replaced(keys: KeysWorld, tmp_path: Path) -> None:
    bundle = keys.bundle()
    for make in (lambda p: p.write_bytes(b"old"), lambda p: p.symlink_to("/nowhere")):
        target = tmp_path / bundle.files[0].path
        target.parent.mkdir(exist_ok=True)
        target.unlink(missing_ok=True)
        make(target)
        with pytest.raises(ConflictError, match="exists; nothing was written"):
            restore_keys(bundle, tmp_path, revoked=(), status=None)
    target.unlink()
    target.write_bytes(b"appeared meanwhile")
    with pytest.raises(ConflictError):
        write_key(target, b"new")
    assert target.read_bytes() == b"appeared meanwhile"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("state", get_args(UnitState))
def test_a_unit_that_may_run_keeps_its_keys_untouched(keys: KeysWorld, tmp_path: Path, state: UnitState) -> None:
    pid = 7 if state in ("running", "paused") else None
    if pid:
        with pytest.raises(RefusedError, match=f"is {state}"):
            restore_keys(keys.bundle(), tmp_path, revoked=(), status=lambda: status(state, pid))
        assert not list(tmp_path.iterdir())
    else:
        assert restore_keys(keys.bundle(), tmp_path, revoked=(), status=lambda: status(state)).paths


def test_a_host_that_does_not_answer_is_not_stopped(keys: KeysWorld, tmp_path: Path) -> None:
    def silent() -> UnitStatus:
        raise UnavailableError("no answer")

    with pytest.raises(UnavailableError):
        restore_keys(keys.bundle(), tmp_path, revoked=(), status=silent)
    assert not list(tmp_path.iterdir())


def test_a_revoked_key_is_not_restored(keys: KeysWorld, tmp_path: Path) -> None:
    bundle = keys.bundle()
    gone = Revocation(bundle.fingerprints[0], "validator", "validator-0", NOW, "inc-1", "leaked")
    with pytest.raises(RefusedError, match="was revoked on 2026-11-23"):
        restore_keys(bundle, tmp_path, revoked=(gone,), status=None)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_is_said_so_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((NoSpaceError, ConflictError)):
        write_key(tmp_path / "file" / "key", b"x")
    with pytest.raises(NoSpaceError):
        write_key(tmp_path / ("x" * 300), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_process_that_handles_keys_leaves_no_core() -> None:
    program = (
        "from vedr.custody.key_material_process import no_core_dumps\n"
        "import resource, ctypes\n"
        "no_core_dumps()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE)[0], ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0"]


def test_where_there_is_no_prctl_the_limit_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    before = resource.getrlimit(resource.RLIMIT_CORE)
    no_core_dumps()
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    resource.setrlimit(resource.RLIMIT_CORE, before)
