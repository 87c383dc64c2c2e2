"""RB-DR-006 given up, wherever it stopped: the data from before is back, and the node serves with it under guard.

Folders, renames and sign-states are real; host and guard are stood in for.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks import restoring
from vedr.backup import restore
from vedr.backup.layout import SnapshotId
from vedr.backup.restore import Staged
from vedr.chain.sign_state import FILE_NAME, SignState, read_sign_state, write_sign_state
from vedr.inventory import Height

RUN = "inc-20261123-161500-aaaa"
ACTING = (restoring.start_restored, restoring.swap_in, restoring.stop_for_restore, restoring.fetch_and_prove)
"""Newest first, as giving up takes them back."""


class Host:
    """A node's home with its data, and a proven copy beside it."""

    def __init__(self, home: Path, *, validator: bool) -> None:
        self.home, self.did, self.state = home, list[str](), "running"
        self.node = SimpleNamespace(name="n", unit="n", zone="z", is_validator=validator)
        self.site = SimpleNamespace(node=lambda _name: self.node)
        self.files = SimpleNamespace(home=lambda _node: home)
        self.fleet = SimpleNamespace(status=lambda *_: SimpleNamespace(state=self.state))
        self.staged = Staged(home, RUN, SnapshotId("s"), restore.staged_path(home, RUN), 1, (), 0.0)
        for path, text in ((home / "data", "before"), (self.staged.path, "restored")):
            path.mkdir(parents=True)
            (path / "what").write_text(text)
        write_sign_state(home / "data" / FILE_NAME, SignState(Height(90), 0, 3))

    def stop(self, *_: object) -> str:
        self.did.append("stop")
        self.state = "stopped"
        return "stopped"

    def guard(self, *_: object) -> str:
        assert self.state == "stopped"
        self.did.append("guard")
        return "guarded"

    def start(self, _opened: object, _node: object, guarded: str) -> str:
        assert guarded == "guarded"
        self.did.append(f"start with {(self.home / 'data' / 'what').read_text()}")
        self.state = "running"
        return "running"

    def give_up(self) -> list[str]:
        ctx: Any = SimpleNamespace(order=SimpleNamespace(site="x", node="n"), run_id=RUN, say=lambda _: None)
        return [step.undo.fn(ctx, None) for step in ACTING if step.undo]


@pytest.fixture(params=[False, True], ids=["full node", "validator"])
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path / "home", validator=request.param)

    @contextlib.contextmanager
    def opening(_site: str) -> Iterator[Host]:
        yield made

    monkeypatch.setattr(restoring, "open_site", opening)
    monkeypatch.setattr(restoring, "ensure_stopped", made.stop)
    monkeypatch.setattr(restoring, "guard", made.guard)
    monkeypatch.setattr(restoring, "start_guarded", made.start)
    return made


def left_in(home: Path) -> list[str]:
    return sorted(path.name for path in home.iterdir())


def test_a_node_that_was_never_stopped_runs_on(host: Host) -> None:
    host.state = "running"
    restoring.serve_again(SimpleNamespace(order=SimpleNamespace(site="x", node="n")), None)  # type: ignore[arg-type]
    assert host.did == []


def test_a_stopped_node_serves_what_it_served(host: Host) -> None:
    host.state = "stopped"
    host.give_up()
    assert host.did[-2:] == ["guard", "start with before"]
    assert left_in(host.home) == ["data"]


def test_a_killed_exchange_is_taken_back(host: Host) -> None:
    host.state = "stopped"
    (host.home / "data").rename(restore.old_path(host.home, RUN))
    host.give_up()
    assert host.did[-1] == "start with before"
    assert left_in(host.home) == ["data"]


def test_what_was_signed_on_the_restored_data_stays_known(host: Host) -> None:
    restore.swap_in(host.staged, validator=host.node.is_validator)
    assert (host.home / "data" / "what").read_text() == "restored"
    write_sign_state(host.home / "data" / FILE_NAME, SignState(Height(120), 0, 3))
    said = host.give_up()
    assert host.did == ["stop", "stop", "guard", "start with before"]
    assert said[1] == "the old data is in place again"
    assert left_in(host.home) == ["data"]
    if host.node.is_validator:
        assert read_sign_state(host.home / "data" / FILE_NAME) == SignState(Height(120), 0, 3)


def test_repeated_it_changes_nothing_more(host: Host) -> None:
    restore.swap_in(host.staged, validator=host.node.is_validator)
    host.give_up()
    host.give_up()
    assert host.did[-1] == "start with before"
    assert left_in(host.home) == ["data"]


def test_where_the_old_data_is_gone_the_node_serves_what_was_restored(host: Host) -> None:
    swapped = restore.swap_in(host.staged, validator=host.node.is_validator)
    restore.discard_old(swapped)
    assert "stays" in host.give_up()[1]
    assert host.did[-1] == "start with restored"
