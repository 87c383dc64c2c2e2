"""A real run over a ledger in memory, a real webhook: who is told what, and what the record says of it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from continuity_services import Receiver, Service, serving
from continuity_world import LedgerSite, example
from loopback_ports import free_port
from pydantic import Field

from tasks.notifying import Announced, Announcer, announce, exercising
from vedr.errors import RefusedError, UnavailableError, VedrError
from vedr.ledger import RunId
from vedr.runbook.opening import opened_run
from vedr.runbook.order import Order
from vedr.runbook.steps import Context, Runbook, step

pytestmark = pytest.mark.server


class RegionLost(Order):
    region: str = Field(default="us-east", description="Which.")


SITES: list[LedgerSite] = []
FAILING: list[VedrError] = []


@step(title="Declare", budget_s=10, acts=False)
def declare(ctx: Context[RegionLost]) -> Announced:
    """People know."""
    return announce(SITES[-1], ctx, "declared", {"lost": ctx.order.region})


@step(title="Move", budget_s=60)
def move(ctx: Context[RegionLost]) -> str:
    """Something is done."""
    ctx.say("moving")
    if FAILING:
        raise FAILING.pop()
    return "moved"


RUNBOOK = Runbook("RB-DR-003", "region failover", RegionLost, [declare, move])


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def service(receiver: Receiver) -> Iterator[Service]:
    with serving(Service(receiver.judge)) as service:
        yield service


@pytest.fixture
def open_channels(tmp_path: Path, service: Service, receiver: Receiver) -> Iterator[Any]:
    """A site that tells the webhook; `port` moves it to where nobody listens."""

    def secret(name: str, value: str) -> str:
        path = tmp_path / name
        path.touch(mode=0o600)
        path.write_text(value)
        return f"file:{path}"

    def make(port: int | None = None, *, deadline_s: float = 5.0, **policy: Any) -> LedgerSite:
        url = f"http://127.0.0.1:{port or service.port}{receiver.path}"
        channel = {
            "kind": "webhook",
            "name": "hook",
            "url": secret("url", url),
            "key": secret("key", receiver.key.decode()),
            **policy,
        }
        SITES.append(LedgerSite(example(notifications={"channels": [channel], "deadline_s": deadline_s})))
        return SITES[-1]

    yield make
    while SITES:
        with SITES.pop():
            pass


def perform(site: LedgerSite, incident: str = "") -> RunId:
    order = RegionLost(incident=incident)
    with Announcer(site) as announcer, opened_run(RUNBOOK, order, site.journal, listeners=[announcer]) as run:
        run.step(declare)
        with run.waiting("approval"):
            site.clock.move(seconds=30)
        run.step(move)
    return run.run_id


def declared(site: LedgerSite, run_id: RunId) -> Announced:
    results = {
        str(entry.payload["step"]): entry.payload["result"]
        for entry in site.journal.read(run_id).entries
        if entry.kind == "step_completed"
    }
    return declare.decode(results["declare"])


def events(receiver: Receiver) -> list[str]:
    return [str(document["event"]) for document in receiver.accepted.values()]


def test_a_step_tells_and_the_ledger_says_whom_it_reached(open_channels: Any, receiver: Receiver) -> None:
    site = open_channels()
    announced = declared(site, perform(site))
    assert [(one.channel, one.state, one.reason) for one in announced.deliveries] == [("hook", "delivered", "")]
    told = next(iter(receiver.accepted.values()))
    assert told["subject"] == "SEV-1 RB-DR-003 region failover (us-east): declared"
    assert told["body"].splitlines()[:2] == ["lost: us-east", "region: us-east"]
    assert "target 30 min" in told["body"]


def test_waiting_and_the_end_are_told_by_the_run_itself(open_channels: Any, receiver: Receiver) -> None:
    perform(open_channels())
    assert events(receiver) == ["declared", "waiting_for_approval", "resolved"]
    assert "ended after 30 s, within the target of 30 min" in list(receiver.accepted.values())[-1]["body"]


def test_a_dead_webhook_stops_no_runbook_and_is_in_the_ledger(
    open_channels: Any, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    site = open_channels(free_port(), deadline_s=1.0)
    run_id = perform(site)
    assert site.journal.read(run_id).entries[-1].payload["outcome"] == "completed"
    [delivery] = declared(site, run_id).deliveries
    assert (delivery.state, delivery.reason) == ("failed", "no connection: Connection refused")
    assert "not told by hook (webhook): failed" in caplog.text
    shown = caplog.text + repr(site.journal.read(run_id))
    assert receiver.path not in shown
    assert receiver.key.decode() not in shown


def test_a_hanging_webhook_costs_the_run_its_deadline_and_no_more(open_channels: Any, service: Service) -> None:
    service.faults.plan[:] = ["hang"] * 10
    site = open_channels(deadline_s=0.4)
    began = time.monotonic()
    run_id = perform(site)
    assert time.monotonic() - began < 4
    assert declared(site, run_id).deliveries[0].reason.startswith("no answer")


def test_a_step_that_fails_is_told_with_what_to_do_next_and_its_resume_is_told_once(
    open_channels: Any, receiver: Receiver
) -> None:
    site = open_channels()
    FAILING.append(UnavailableError("eu-west does not answer", remedy="Wait."))
    with pytest.raises(UnavailableError):
        perform(site)
    [run_id] = site.journal.runs_of("RB-DR-003")
    failed = list(receiver.accepted.values())[-1]
    assert failed["event"] == "failed"
    assert "Error: eu-west does not answer" in failed["body"]
    assert f"vedr run RB-DR-003 --incident {run_id}" in failed["body"]
    perform(site, run_id)
    assert events(receiver).count("declared") == 1
    assert events(receiver)[-1] == "resolved"


def test_a_run_that_is_refused_is_told_as_failed(open_channels: Any, receiver: Receiver) -> None:
    site = open_channels()
    FAILING.append(RefusedError("the region is healthy", remedy="Nothing needs doing."))
    with pytest.raises(RefusedError):
        perform(site)
    assert events(receiver)[-1] == "failed"


def test_an_overrun_that_is_predicted_is_told(open_channels: Any, receiver: Receiver) -> None:
    site = open_channels()
    order = RegionLost()
    with Announcer(site) as announcer, opened_run(RUNBOOK, order, site.journal, listeners=[announcer]) as run:
        site.clock.move(minutes=29)
        run.tick()
        run.step(declare)
        run.step(move)
    assert "overrun_predicted" in events(receiver)
    told = next(one for one in receiver.accepted.values() if one["event"] == "overrun_predicted")
    assert "Predicted to take 30 min 10 s." in told["body"]


def test_a_channel_is_told_only_of_what_it_wants(open_channels: Any, receiver: Receiver) -> None:
    perform(open_channels(events=["resolved"]))
    assert events(receiver) == ["resolved"]
    receiver.accepted.clear()
    perform(open_channels(severities=["SEV-4"]))
    assert events(receiver) == []


def test_that_nobody_was_told_is_said(open_channels: Any) -> None:
    site = open_channels(severities=["SEV-4"])
    announced = declared(site, perform(site))
    assert announced.deliveries == ()
    assert "nobody was told" in str(announced)


def test_an_exercise_reaches_only_who_takes_exercises_and_says_so(open_channels: Any, receiver: Receiver) -> None:
    with exercising():
        perform(open_channels())
        assert events(receiver) == []
        perform(open_channels(exercises=True))
    assert events(receiver) == ["declared", "waiting_for_approval", "resolved"]
    assert all(one["subject"].startswith("EXERCISE: ") for one in receiver.accepted.values())
