"""Plans, and the people who agree to them, over the fake regions."""

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_world import World
from pydantic import ValidationError

from vedr.errors import ConflictError, CorruptError, InvalidInputError, RefusedError, UnavailableError
from vedr.ledger import RunId
from vedr.policies.approval import Approval, parse_person
from vedr.runbook.approval import Answer, Answers, Question, asked
from vedr.runbook.asking import UnansweredError
from vedr.runbook.opening import opened_run
from vedr.runbook.order import Order
from vedr.runbook.plan import Action, Plan, parse_plan
from vedr.runbook.run import Run
from vedr.runbook.steps import Context, Runbook, step
from vedr.signature import Json, Signer

PLAN = Plan("move out of us-east", (Action("promote", "eu-west-1a", 12.5, "power 20 -> 30 of 60"),), warnings=("slow",))
OTHER = dataclasses.replace(PLAN, title="move out of ap-south")
ACTED: list[str] = []


@step(title="Plan", budget_s=5, acts=False)
def make_plan(ctx: Context[Order]) -> Plan:
    """Says what would be done."""
    del ctx
    return PLAN


@step(title="Act", budget_s=20)
def act(ctx: Context[Order]) -> str:
    """Changes the world."""
    ACTED.append(ctx.run_id)
    return "done"


RB = Runbook("RB-DR-003", "approval test", Order, [make_plan, act], plan=lambda _: PLAN)
ONE = Approval(runbooks={"RB-DR-003": "one"})
TWO = Approval(runbooks={"RB-DR-003": "two"})


@pytest.fixture(autouse=True)
def acted() -> list[str]:
    ACTED.clear()
    return ACTED


def perform(
    world: World,
    policy: Approval,
    meanwhile: Sequence[Callable[[Run[Order]], object]] = (),
    incident: str = "",
    **more: object,
) -> Run[Order]:
    """A whole run; at each look for answers the next of `meanwhile` happens."""
    entered: list[Run[Order]] = []
    with opened_run(
        RB,
        Order(incident=incident),
        world.journal(),
        approval=policy,
        wait_quiet=lambda *_: None,
        **more,  # type: ignore[arg-type]
    ) as run:
        entered.append(run)
        events = list(meanwhile)
        waited_s = [0.0]

        def sleep(seconds: float) -> None:
            waited_s[0] += seconds if events else 10**6
            if events:
                events.pop(0)(run)

        run._sleep, run._monotonic = sleep, lambda: waited_s[0]
        run.approve(run.step(make_plan))
        run.step(act)
    return run


def says(
    world: World, person: str, *, approved: bool = True, plan: Plan = PLAN, why: str = ""
) -> Callable[[Run[Order]], None]:
    """What a person at another machine does."""

    def give(run: Run[Order]) -> None:
        Answers(world.journal()).give(Answer(run.run_id, plan.digest, person, approved, why, world.clock.now, "cli"))

    return give


def kinds(world: World, run_id: RunId) -> list[str]:
    return [entry.kind for entry in world.journal().read(run_id).entries]


def only_run(world: World) -> RunId:
    runs = world.journal().runs()
    assert len(runs) == 1
    return RunId(runs[0])


def test_nobody_is_asked_unless_the_site_s_policy_says_so(world: World, acted: list[str]) -> None:
    run = perform(world, Approval(runbooks={"RB-DR-002": "two"}))
    assert run.outcome.outcome == "completed"
    assert "waiting" not in kinds(world, run.run_id)
    [note] = [entry.payload for entry in world.journal().read(run.run_id).entries if entry.kind == "note"]
    assert note["digest"] == PLAN.digest
    assert acted == [run.run_id]


def test_a_run_acts_when_one_person_agreed_and_the_ledger_says_who_and_when(world: World, acted: list[str]) -> None:
    run = perform(world, ONE, [says(world, "zoe", why="seen")])
    assert acted == [run.run_id]
    entries = world.journal().read(run.run_id).entries
    assert [entry.kind for entry in entries][3:6] == ["waiting", "answered", "waited"]
    assert entries[3].payload["plan"] == PLAN.document()
    answered = entries[4].payload
    assert (answered["person"], answered["approved"], answered["via"]) == ("zoe", True, "cli")
    assert (answered["digest"], answered["at"]) == (PLAN.digest, world.clock.now.isoformat())


def test_a_runbook_without_a_plan_of_its_own_asks_before_its_first_step_that_acts(
    world: World, acted: list[str]
) -> None:
    with opened_run(RB, Order(site="lab"), world.journal(), approval=ONE) as run:
        run._sleep = lambda _: says(world, "zoe", plan=RB.plan_of_steps(Order(site="lab")))(run)
        run.step(make_plan)
        assert "waiting" not in kinds(world, run.run_id)
        run.step(act)
    [waiting] = [entry.payload for entry in run.entries if entry.kind == "waiting"]
    asked_about = parse_plan(waiting["plan"])
    assert [action.what for action in asked_about.actions] == ["Act"]
    assert asked_about.notes == ("site: lab",)
    assert acted == [run.run_id]


def test_two_people_means_two_different_people(world: World, acted: list[str]) -> None:
    run = perform(world, TWO, [says(world, "zoe"), says(world, "zoe@virtengine.com"), says(world, "yan")])
    people = [entry.payload["person"] for entry in run.entries if entry.kind == "answered"]
    assert people == ["zoe", "yan"]
    assert acted


def test_a_refusal_counts_by_whatever_name_it_was_given(world: World, acted: list[str]) -> None:
    refusal = says(world, "zoe@virtengine.com", approved=False, why="I see it run")
    with pytest.raises(RefusedError, match="refused the plan"):
        perform(world, TWO, [says(world, "zoe"), refusal])
    assert acted == []


def test_an_answer_to_another_plan_does_not_count(world: World, acted: list[str]) -> None:
    with pytest.raises(UnansweredError, match="0 of 1 people"):
        perform(world, ONE, [says(world, "zoe", plan=OTHER)])
    assert acted == []


def test_a_refused_run_ends_as_refused_and_nothing_acted(world: World, acted: list[str]) -> None:
    with pytest.raises(RefusedError, match=r"yan refused the plan .*: too early"):
        perform(world, TWO, [says(world, "zoe"), says(world, "yan", approved=False, why="too early")])
    assert acted == []
    last = world.journal().read(only_run(world)).entries[-1]
    assert (last.kind, last.payload["outcome"]) == ("closed", "refused")


def test_a_run_that_nobody_answered_stays_open_and_later_answers_count_when_it_is_resumed(
    world: World, acted: list[str]
) -> None:
    with pytest.raises(UnansweredError, match=r"Next: Answer .* vedr run RB-DR-003 --incident inc-"):
        perform(world, TWO, [says(world, "zoe")])
    run_id = only_run(world)
    assert kinds(world, run_id)[-2:] == ["waited", "paused"]
    question = asked(world.journal().read(run_id).entries)
    assert question is not None
    assert (question.plan, question.people) == (PLAN, 2)
    Answers(world.journal()).give(Answer(run_id, PLAN.digest, "yan", True, "", world.clock.now, "cli"))
    perform(world, TWO, incident=run_id)
    assert kinds(world, run_id).count("waiting") == 1
    assert acted == [run_id]


def test_a_resumed_run_does_not_ask_again_for_the_same_plan(world: World, acted: list[str]) -> None:
    def die(run: Run[Order]) -> None:
        says(world, "zoe")(run)
        raise UnavailableError("killed")

    with pytest.raises(UnavailableError):
        perform(world, ONE, [die])
    perform(world, ONE, incident=only_run(world))
    assert kinds(world, only_run(world)).count("waiting") == 1
    assert acted


def test_a_plan_that_refuses_itself_is_not_asked_about_and_not_carried_out(
    world: World, acted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "PLAN", dataclasses.replace(PLAN, refusals=("power would fall to 2/3",)))
    for policy in (ONE, Approval()):
        with pytest.raises(RefusedError, match="power would fall to 2/3"):
            perform(world, policy)
    assert acted == []


def test_only_the_site_s_approvers_count(world: World) -> None:
    listed = Approval(runbooks={"RB-DR-003": "one"}, people=("zoe", "yan"))
    with pytest.raises(UnansweredError):
        perform(world, listed, [says(world, "mallory")])
    with pytest.raises(RefusedError, match="mallory is not among"):
        listed.check_person("mallory")


def test_regions_that_do_not_answer_are_no_agreement_and_only_prolong_the_wait(world: World, acted: list[str]) -> None:
    told: list[str] = []

    class Hears:
        def entry(self, *_: object) -> None: ...

        def say(self, message: str) -> None:
            told.append(message)

    def come_back(run: Run[Order]) -> None:
        world.down()
        assert acted == []
        says(world, "zoe")(run)

    perform(world, ONE, [lambda _: world.down("us-east", "eu-west"), come_back], listeners=[Hears()])
    assert any("cannot read the answers" in message for message in told)
    assert acted


def test_one_region_may_be_gone_when_people_answer(world: World, acted: list[str]) -> None:
    def cut_and_answer(run: Run[Order]) -> None:
        world.down("us-east")
        says(world, "zoe")(run)

    perform(world, ONE, [cut_and_answer])
    assert acted


def test_an_answer_is_not_taken_back_and_giving_it_twice_changes_nothing(world: World) -> None:
    answers, run_id = Answers(world.journal()), RunId("inc-20260214-031500-aaaa")
    first = Answer(run_id, PLAN.digest, "zoe", True, "", world.clock.now, "cli")
    assert answers.give(first) == first
    later = dataclasses.replace(first, time=first.time + dt.timedelta(seconds=9), via="prefect")
    assert answers.give(later) == first
    with pytest.raises(ConflictError, match=r"zoe answered this plan .* before: approved"):
        answers.give(dataclasses.replace(first, approved=False))
    assert answers.of(run_id, PLAN.digest) == (first,)


def test_what_no_trusted_key_signed_for_this_run_plan_and_person_is_not_an_answer(world: World) -> None:
    run_id = RunId("inc-20260214-031500-aaaa")
    honest = Answer(run_id, PLAN.digest, "zoe", True, "", world.clock.now, "cli")
    Answers(world.journal()).give(honest)
    world.settle()
    [key] = [key for key in world.stores["us-east"]._versions if key.startswith("approval/")]
    data = world.held("us-east", key)
    stranger = Signer(Ed25519PrivateKey.generate())
    place: dict[str, Json] = {"format": "vedr-approval/1", "site": "lab", "run": run_id}
    moved = {
        f"approval/{run_id}/{OTHER.digest}/{key.rsplit('/', 1)[1]}": data,
        f"approval/inc-20260214-031500-bbbb/{PLAN.digest}/{key.rsplit('/', 1)[1]}": data,
        f"approval/{run_id}/{PLAN.digest}/{'0' * 16}.json": data,
        f"approval/{run_id}/{PLAN.digest}/{'1' * 16}.json": stranger.seal_document({**place, **honest.payload()}),
        f"approval/{run_id}/{PLAN.digest}/{'2' * 16}.json": world.signer.seal_document({**place, "person": "zoe"}),
        f"approval/{run_id}/{PLAN.digest}/notes.txt": b"x",
    }
    for name, copy in moved.items():
        for region in world.stores:
            world.put(region, name, copy)
    answers = Answers(world.journal())
    assert answers.of(run_id, PLAN.digest) == (honest,)
    assert answers.of(run_id, OTHER.digest) == ()
    assert answers.of(RunId("inc-20260214-031500-bbbb"), PLAN.digest) == ()


def test_a_key_that_the_site_does_not_trust_cannot_answer(world: World) -> None:
    journal = world.journal()
    journal.signer = Signer(Ed25519PrivateKey.generate())
    with pytest.raises(RefusedError, match="does not trust the key"):
        Answers(journal).give(
            Answer(RunId("inc-20260214-031500-aaaa"), PLAN.digest, "zoe", True, "", world.clock.now, "cli")
        )


class Inbox:
    """An inbox of which the test decides what comes in."""

    def __init__(self, *coming: Answer | Exception) -> None:
        self.coming = list(coming)
        self.shown: list[tuple[Question, int]] = []
        self.closed = 0

    def collect(self, question: Question, given: Sequence[Answer]) -> Sequence[Answer]:
        self.shown.append((question, len(given)))
        if not self.coming:
            return ()
        head = self.coming.pop(0)
        if isinstance(head, Exception):
            raise head
        return [dataclasses.replace(head, run_id=question.run_id)]

    def close(self) -> None:
        self.closed += 1
        raise OSError("showing failed")


def answer(person: str, *, approved: bool = True) -> Answer:
    return Answer(RunId(""), PLAN.digest, person, approved, "", dt.datetime(2026, 2, 14, tzinfo=dt.UTC), "prefect")


def test_an_answer_from_an_inbox_is_as_durable_as_any_and_both_ways_are_open_at_once(world: World) -> None:
    inbox = Inbox(OSError("not there"), answer("zoe"), answer("mallory"))
    policy = Approval(runbooks={"RB-DR-003": "two"}, people=("zoe", "yan"))
    run = perform(world, policy, [lambda _: None, lambda _: None, says(world, "yan")], inboxes=[inbox])
    by = {entry.payload["person"]: entry.payload["via"] for entry in run.entries if entry.kind == "answered"}
    assert by == {"zoe": "prefect", "yan": "cli"}
    assert {given.person for given in Answers(world.journal()).of(run.run_id, PLAN.digest)} == {"zoe", "yan"}
    assert [count for _, count in inbox.shown] == [0, 0, 1, 1]
    assert inbox.closed == 1


def test_an_inbox_s_answer_waits_for_the_regions_and_is_not_lost(world: World, acted: list[str]) -> None:
    inbox = Inbox(answer("zoe"))

    class CutsOff(Inbox):
        def collect(self, question: Question, given: Sequence[Answer]) -> Sequence[Answer]:
            found = super().collect(question, given)
            if found:
                for store in world.stores.values():
                    store.faults.maps["create"] = "." * store.faults.seen["create"] + "ee"
            return found

    inbox = CutsOff(answer("zoe"))
    perform(world, ONE, [lambda _: None], inboxes=[inbox])
    assert acted


def test_a_waiting_run_that_was_taken_over_stops_waiting(world: World, acted: list[str]) -> None:
    def taken_over(run: Run[Order]) -> None:
        world.journal().resume(run.run_id, {})
        with suppress(ConflictError):
            run.note("as the next heartbeat would")

    with pytest.raises(ConflictError, match="must not act any more"):
        perform(world, ONE, [taken_over])
    assert acted == []


def test_a_plan_survives_being_recorded_and_its_digest_tells_it_apart() -> None:
    assert parse_plan(PLAN.document()) == PLAN
    assert make_plan.decode(make_plan.encode(PLAN)) == PLAN
    assert PLAN.digest != OTHER.digest
    assert PLAN.budget_s == 12.5
    damaged: tuple[Json, ...] = ({}, {**PLAN.document(), "more": 1}, {**PLAN.document(), "actions": [{}]})
    for wrong in damaged:
        with pytest.raises(CorruptError):
            parse_plan(wrong)


def test_a_question_is_gone_when_its_run_went_on_or_was_closed(world: World) -> None:
    run = perform(world, ONE, [says(world, "zoe")])
    assert asked(run.entries) is None
    assert asked(run.entries[:-1]) is None
    assert asked(run.entries[:3]) is None
    assert asked(()) is None


def test_a_policy_that_nobody_could_fulfil_is_refused() -> None:
    with pytest.raises(ValidationError, match="runbooks"):
        Approval.model_validate({"runbooks": {"RB-DR-03": "two"}})
    assert Approval.model_validate({"runbooks": {"failback": "one"}}).needed("failback") == 1
    with pytest.raises(ValidationError, match="2 people have to agree, but only 1 may"):
        Approval(runbooks={"RB-DR-003": "two"}, people=("zoe", "zoe@virtengine.com"))
    assert parse_person(" Zoe@VirtEngine.com") == "zoe@virtengine.com"
    with pytest.raises(InvalidInputError, match="not a person's name"):
        parse_person("zoe; rm")
