"""`vedr approve`, `vedr abandon` and `vedr run … --plan` over the fake regions."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import typer
from ledger_world import World
from typer.testing import CliRunner

from vedr.cli import abandon as abandon_command
from vedr.cli import approve as approve_command
from vedr.cli import run as run_command
from vedr.errors import ConflictError, InvalidInputError, NotFoundError, RefusedError, VedrError
from vedr.ledger import RunId
from vedr.policies.approval import Approval
from vedr.policies.notifications import Notifications
from vedr.runbook.asking import UnansweredError
from vedr.runbook.opening import opened_run
from vedr.runbook.order import Order
from vedr.runbook.plan import Action, Plan
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Context, Runbook, step
from vedr.targets import TargetOverrides

PLAN = Plan(
    "move out of us-east",
    (Action("promote the standby", "eu-west-1a", 12.5, "power 20 to 30 of 60"),),
    notes=("us-east is dark",),
    warnings=("one block may be missed",),
)
PLANS = [PLAN]
POLICY = Approval(runbooks={"RB-DR-003": "two"}, people=("zoe", "yan"), limit_s=1)
Command = Callable[..., str]


def stop(ctx: Context[Order], result: str | None) -> str:
    """The standby is stopped again."""
    return f"stopped {result} of {ctx.run_id[:3]}"


@step(title="Start a standby", budget_s=10, undo=stop)
def start(ctx: Context[Order]) -> str:
    """It runs."""
    del ctx
    return "standby-0"


@step(title="Fence", budget_s=10, cannot_undo="a fence stays: RB-DR-001 brings the old signer back")
def fence(ctx: Context[Order]) -> str:
    """The old one cannot sign."""
    return ctx.run_id


RUNBOOK = Runbook("RB-DR-003", "command test", Order, [start, fence], plan=lambda _: PLANS[0])


@pytest.fixture
def command(world: World, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `vedr …`; its standard output, or the error that it ended with."""

    @contextlib.contextmanager
    def open_site(_: str | None = None) -> Iterator[SimpleNamespace]:
        site = SimpleNamespace(approval=POLICY, notifications=Notifications())
        yield SimpleNamespace(site=site, journal=world.journal())

    def body(order: Order) -> Outcome:
        with opened_run(RUNBOOK, order, world.journal(), approval=POLICY) as run:
            run.approve(PLANS[0])
            run.step(start)
            run.step(fence)
        return run.outcome

    RUNBOOK.bind(body)
    app = typer.Typer()
    for module in (run_command, approve_command, abandon_command):
        module.attach(app)
        monkeypatch.setattr(module, "open_site", open_site)
    monkeypatch.setattr(run_command, "load_site", lambda _: SimpleNamespace(targets=TargetOverrides()))
    point = SimpleNamespace(name="RB-DR-003", value="here:RUNBOOK", load=lambda: RUNBOOK)
    monkeypatch.setattr(run_command, "entry_points", lambda group: [point] if group == "vedr.runbooks" else [])
    monkeypatch.setenv("VEDR_PLAIN", "1")
    monkeypatch.setitem(globals(), "PLANS", [PLAN])

    def invoke(*words: str, typed: str = "") -> str:
        result = CliRunner().invoke(app, words, input=typed)
        if isinstance(result.exception, VedrError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return invoke


@pytest.fixture
def asking(command: Command, world: World) -> RunId:
    """A run that asked and was not answered in time."""
    with pytest.raises(UnansweredError, match="0 of 2 people agreed"):
        command("run", "RB-DR-003")
    return world.journal().runs()[-1]


def test_the_plan_is_shown_before_anything_is_answered(command: Command, asking: RunId) -> None:
    shown = command("approve", asking)
    assert "asks 2 different people" in shown
    for what in ("promote the standby", "eu-west-1a", "us-east is dark", "one block may be missed", PLAN.digest):
        assert what in shown
    assert "2 more to agree" in shown
    document = json.loads(command("approve", asking, "--json"))
    assert (document["state"], document["plan"]["digest"], document["answers"]) == ("waiting", PLAN.digest, [])


def test_two_people_agree_and_the_run_goes_on_when_it_is_resumed(command: Command, asking: RunId) -> None:
    assert "1 more to agree" in command("approve", asking, "--as", "Zoe", typed="y\n")
    document = json.loads(command("approve", asking, "--as", "yan", "--yes", "--json"))
    assert (document["state"], {one["person"] for one in document["answers"]}) == ("approved", {"zoe", "yan"})
    assert f"{asking}: completed" in command("run", "RB-DR-003", "--incident", asking)
    with pytest.raises(RefusedError, match="asks nothing: its last entry is closed"):
        command("approve", asking)


def test_who_does_not_confirm_has_not_answered(command: Command, asking: RunId) -> None:
    with pytest.raises(AssertionError, match="Abort"):
        command("approve", asking, "--as", "zoe", typed="n\n")
    assert json.loads(command("approve", asking, "--json"))["answers"] == []


def test_a_refusal_needs_a_reason_and_ends_the_run(command: Command, asking: RunId) -> None:
    with pytest.raises(InvalidInputError, match="needs a reason"):
        command("approve", asking, "--as", "zoe", "--refuse", "--yes")
    with pytest.raises(InvalidInputError, match="more than a line"):
        command("approve", asking, "--as", "zoe", "--refuse", "--why", "two\nlines", "--yes")
    assert "zoe refused" in command("approve", asking, "--as", "zoe", "--refuse", "--why", "false alarm", "--yes")
    assert json.loads(command("approve", asking, "--json"))["state"] == "refused"
    with pytest.raises(ConflictError, match="not taken back"):
        command("approve", asking, "--as", "zoe", "--yes")
    with pytest.raises(RefusedError, match="zoe refused the plan"):
        command("run", "RB-DR-003", "--incident", asking)


@pytest.mark.parametrize(("name", "said"), [("mallory", "is not among"), ("a b", "not a person's name")])
def test_who_may_not_answer_is_told_so(command: Command, asking: RunId, name: str, said: str) -> None:
    with pytest.raises(VedrError, match=said):
        command("approve", asking, "--as", name, "--yes")


def test_a_plan_shows_what_would_be_done_and_the_digest_that_is_approved(command: Command, world: World) -> None:
    shown = command("run", "RB-DR-003", "--plan")
    assert "promote the standby" in shown
    assert PLAN.digest in shown
    assert "Nothing was changed" in shown
    assert json.loads(command("run", "RB-DR-003", "--plan", "--json"))["plan"]["digest"] == PLAN.digest
    assert world.journal().runs() == ()


def test_a_plan_that_would_be_refused_says_so_in_its_exit_status(command: Command) -> None:
    PLANS[0] = dataclasses.replace(PLAN, refusals=("power would fall to 2/3",))
    with pytest.raises(RefusedError, match="power would fall to 2/3"):
        command("run", "RB-DR-003", "--plan")


def acted(world: World) -> RunId:
    """A run that acted and failed."""
    with (
        contextlib.suppress(NotFoundError),
        opened_run(RUNBOOK, Order(), world.journal(), wait_quiet=lambda *_: None) as run,
    ):
        run.step(start)
        run.step(fence)
        raise NotFoundError("a node that the site does not have")
    return run.run_id


def test_abandoning_shows_first_and_then_says_what_was_taken_back_and_what_was_not(
    command: Command, world: World
) -> None:
    run_id = acted(world)
    shown = command("abandon", run_id, "--plan")
    assert "The standby is stopped again." in shown
    assert "Nothing was changed" in shown
    [first, second] = json.loads(command("abandon", run_id, "--plan", "--json"))["steps"]
    assert (first["step"], first["undo"]) == ("fence", None)
    assert (second["step"], second["by_hand"]) == ("start", "")
    with pytest.raises(InvalidInputError, match="no reason"):
        command("abandon", run_id)
    with pytest.raises(AssertionError, match="Abort"):
        command("abandon", run_id, "--reason", "false alarm", typed="n\n")
    done = json.loads(command("abandon", run_id, "--reason", "false alarm", "--yes", "--json"))
    assert done["taken_back"] == [{"step": "start", "title": "Start a standby", "done": "stopped standby-0 of inc"}]
    assert [one["step"] for one in done["by_hand"]] == ["fence"]
    with pytest.raises(RefusedError, match="is closed: abandoned"):
        command("abandon", run_id, "--reason", "again", "--yes")


def test_a_run_that_did_nothing_is_only_closed_and_an_unknown_runbook_is_not_guessed(
    command: Command, asking: RunId, world: World
) -> None:
    assert "closed as abandoned" in command("abandon", asking, "--reason", "nobody answered", typed="y\n")
    other = RunId("inc-20260214-031500-aaaa")
    world.journal().open(other, "RB-DR-999", {"detected_at": world.clock.now.isoformat()})
    with pytest.raises(NotFoundError, match="no runbook 'RB-DR-999'"):
        command("abandon", other, "--reason", "x")
