"""`vedr run` and `vedr ledger` over the fake regions."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from ledger_world import World
from pydantic import Field
from rich.console import Console
from typer.testing import CliRunner

from vedr.cli import ledger as ledger_command
from vedr.cli import run as run_command
from vedr.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VedrError,
    VerificationFailedError,
)
from vedr.ledger import RunId, digest_of, seal_entry
from vedr.runbook.opening import opened_run
from vedr.runbook.order import Order
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Context, Runbook, step
from vedr.runbook.timing import Forecast, measure
from vedr.targets import TargetOverrides

RUN = RunId("inc-20260214-031500-aaaa")


class Recovery(Order):
    node: str = Field(description="The node that failed.", pattern=r"^[a-z0-9-]+$")
    max_height: int = Field(default=0, ge=0)
    dry: bool = False


FAIL: list[VedrError] = []


@step(title="Recover", budget_s=200)
def recover(ctx: Context[Recovery]) -> str:
    """The node serves again."""
    ctx.say("recovering")
    if FAIL:
        raise FAIL.pop()
    return ctx.order.node


RUNBOOK = Runbook("RB-DR-001", "command test", Recovery, [recover])
Command = Callable[..., str]


@pytest.fixture
def command(world: World, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `vedr …`; its standard output, or the error that it ended with."""

    @contextlib.contextmanager
    def open_site(_: str | None = None) -> Iterator[SimpleNamespace]:
        signing = SimpleNamespace(trusted=(world.signer.public_hex,))
        yield SimpleNamespace(site=SimpleNamespace(signing=signing), journal=world.journal())

    def body(order: Recovery) -> Outcome:
        with opened_run(RUNBOOK, order, world.journal()) as run:
            run.step(recover)
        return run.outcome

    RUNBOOK.bind(body)
    app = typer.Typer()
    app.add_typer(ledger_command.app, name="ledger")
    run_command.attach(app)
    monkeypatch.setattr(ledger_command, "open_site", open_site)
    monkeypatch.setattr(run_command, "open_site", open_site)
    monkeypatch.setattr(run_command, "load_site", lambda _: SimpleNamespace(targets=TargetOverrides()))
    point = SimpleNamespace(name="RB-DR-001", value="here:RUNBOOK", load=lambda: RUNBOOK)
    monkeypatch.setattr(run_command, "entry_points", lambda group: [point] if group == "vedr.runbooks" else [])
    monkeypatch.setenv("VEDR_PLAIN", "1")
    FAIL.clear()

    def invoke(*words: str) -> str:
        result = CliRunner().invoke(app, words)
        if isinstance(result.exception, VedrError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return invoke


def test_a_run_ends_with_its_outcome_as_json(command: Command) -> None:
    document = json.loads(command("run", "RB-DR-001", "--node", "full-0", "--json"))
    assert document["outcome"] == "completed"
    assert document["steps"][0]["state"] == "completed"
    shown = json.loads(command("ledger", "show", document["run_id"], "--json"))
    assert [entry["kind"] for entry in shown["log"]] == ["opened", "step_started", "step_completed", "closed"]
    assert "Recover" in command("ledger", "show", document["run_id"])
    assert document["run_id"] in command("ledger", "list", "--runbook", "RB-DR-001", "--json")


def test_a_failed_run_is_resumed_by_its_id_alone(command: Command, world: World) -> None:
    FAIL.append(VerificationFailedError("no blocks"))
    with pytest.raises(VerificationFailedError):
        command("run", "RB-DR-001", "--node=full-0")
    [run_id] = world.journal().runs()
    assert "paused" in command("ledger", "list")
    assert f"{run_id}: completed" in command("run", "RB-DR-001", "--incident", run_id)


def test_a_plan_shows_steps_and_budgets_and_changes_nothing(command: Command, world: World) -> None:
    plan = json.loads(command("run", "RB-DR-001", "--node", "full-0", "--plan", "--json"))
    assert plan["steps"][0]["effect"] == "The node serves again."
    assert (plan["target_ms"], plan["order"]["node"]) == (300_000, "full-0")
    assert "Nothing was changed" in command("run", "RB-DR-001", "--node", "full-0", "--plan")
    assert world.journal().runs() == ()


def test_help_lists_the_runbooks_and_a_runbook_s_fields(command: Command) -> None:
    assert "RB-DR-001" in command("run")
    assert json.loads(command("run", "--json")) == ["RB-DR-001"]
    assert "--max-height" in command("run", "RB-DR-001", "--help")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--nodes", "x"), "is not a field"),
        (("--node", "x", "--node", "y"), "is given twice"),
        (("x",), "is not a field"),
        (("--node",), "needs a value"),
        ((), "--node: Field required"),
        (("--node", "NO"), "--node: String should match"),
        (("--node", "x", "--max-height", "-1"), "--max-height: Input should be greater"),
    ],
)
def test_a_wrong_order_is_refused_before_anything_is_written(
    command: Command, world: World, words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        command("run", "RB-DR-001", *words)
    assert world.journal().runs() == ()


def test_flags_and_unknown_runbooks(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_command.parse_fields(Recovery, ["--dry", "--node", "x"]) == {"dry": True, "node": "x"}
    with pytest.raises(NotFoundError, match="no runbook 'RB-X'"):
        command("run", "RB-X")
    broken = SimpleNamespace(name="RB-DR-001", value="nowhere:X", load=lambda: 1)
    monkeypatch.setattr(run_command, "entry_points", lambda **_: [broken])
    with pytest.raises(NotFoundError, match="is not a runbook"):
        command("run", "RB-DR-001")


def test_verify_fails_where_it_could_not_look_and_heal_brings_back_what_was_missed(
    command: Command, world: World
) -> None:
    world.down("ap-south")
    world.journal().open(RUN, "RB-DR-001", {"detected_at": world.clock.now.isoformat()}).append("closed", {})
    with pytest.raises(VerificationFailedError, match="not checked in ap-south"):
        command("ledger", "verify")
    with pytest.raises(UnavailableError, match="no answer from ap-south"):
        command("ledger", "heal", "--json")
    world.down()
    with pytest.raises(VerificationFailedError, match="is missing in ap-south"):
        command("ledger", "verify", RUN)
    assert "2 entries to ap-south" in command("ledger", "heal")
    assert json.loads(command("ledger", "heal", RUN, "--json")) == {"runs": 1, "given": [], "silent": []}
    assert "every signature, chain and pin holds" in command("ledger", "verify")
    assert json.loads(command("ledger", "verify", "--json"))["entries"] == 2


def test_an_empty_ledger_is_not_called_whole_where_a_region_did_not_answer(command: Command, world: World) -> None:
    assert "0 runs" in command("ledger", "verify")
    world.down("eu-west")
    with pytest.raises(VerificationFailedError, match="not checked in eu-west"):
        command("ledger", "verify")


def test_a_copy_that_lost_is_shown_as_harmless(command: Command, world: World) -> None:
    writer = world.journal().open(RUN, "RB-DR-001", {"detected_at": world.clock.now.isoformat()})
    world.settle()
    opened = world.held("ap-south", f"ledger/{RUN}/00000000.json")
    assert opened is not None
    lost = dataclasses.replace(writer.entries[0], seq=1, kind="note", payload={"text": "lost"}, prev=digest_of(opened))
    world.put("ap-south", f"ledger/{RUN}/00000001.json", seal_entry(lost, world.signer).data)
    writer.append("note", {"text": "won"})
    world.settle()
    command("ledger", "heal", RUN)
    assert "harmless" in command("ledger", "verify", RUN)
    assert json.loads(command("ledger", "verify", RUN, "--json"))["superseded"] != []


def test_a_run_s_id_is_never_cut_short_however_narrow_the_terminal(
    command: Command, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.journal().open(RUN, "provider-state-backup", {"detected_at": world.clock.now.isoformat()})
    monkeypatch.setattr(ledger_command, "stdout", Console(width=40))
    assert RUN in command("ledger", "list")


def test_an_export_holds_every_region_s_bytes_and_replaces_nothing(
    command: Command, world: World, tmp_path: Path
) -> None:
    world.journal().open(RUN, "RB-DR-001", {"detected_at": world.clock.now.isoformat()})
    world.settle()
    command("ledger", "export", RUN, "--out", str(tmp_path))
    for region in world.stores:
        stored = world.held(region, f"ledger/{RUN}/00000000.json")
        assert (tmp_path / RUN / region / "00000000.json").read_bytes() == stored
    with pytest.raises(ConflictError, match="exists"):
        command("ledger", "export", RUN, "--out", str(tmp_path))
    told = json.loads(command("ledger", "export", RUN, "--out", str(tmp_path / "again"), "--json"))
    assert told["objects"] == dict.fromkeys(world.stores, 1)
    with pytest.raises(NotFoundError, match="no run"):
        command("ledger", "export", "inc-20260101-000000-zzzz", "--out", str(tmp_path))


def test_a_run_is_abandoned_once_and_not_while_it_is_at_work(command: Command, world: World) -> None:
    writer = world.journal().open(RUN, "RB-DR-001", {"detected_at": world.clock.now.isoformat()})
    writer.append("paused", {"outcome": "failed"})
    assert "abandoned" in command("ledger", "abandon", RUN, "--reason", "false alarm")
    assert "abandoned" in command("ledger", "list")
    with pytest.raises(RefusedError, match="closed already"):
        command("ledger", "abandon", RUN, "--reason", "again")


def test_words_that_look_like_markup_are_shown_as_they_are(command: Command, world: World) -> None:
    writer = world.journal().open(RUN, "RB-DR-001", {"detected_at": world.clock.now.isoformat()})
    writer.append("paused", {"outcome": "failed", "reason": "disk [/dev/sda1] is gone, see [red]"})
    assert "disk [/dev/sda1] is gone, see [red]" in " ".join(command("ledger", "show", RUN).replace("│", " ").split())


def test_progress_that_looks_like_markup_does_not_end_the_run_s_table(world: World) -> None:
    writer = world.journal().open(RUN, "RB-DR-001", {"detected_at": world.clock.now.isoformat()})
    watcher = run_command.Watcher(live=True)
    watcher.entry(writer.entries[0], measure(writer.entries), Forecast(0, 300_000, "budgets"))
    watcher.say("unmounted [/dev/sda1]")
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(watcher)
    assert "unmounted [/dev/sda1]" in console.export_text()
