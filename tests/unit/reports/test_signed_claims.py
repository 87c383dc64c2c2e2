"""A signature vouches for who wrote a document; what it says is made again from the ledger, whoever signed it."""

import contextlib
import dataclasses
import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ledger_world import World
from report_world import make_run

from vedr.errors import RefusedError, VerificationFailedError
from vedr.ledger import RunId
from vedr.ports import ObjectKey
from vedr.reports.binder import Binder
from vedr.reports.drill_bundle import make_bundle
from vedr.reports.evidence import Evidence, gather
from vedr.reports.pages import Imprint, run_page
from vedr.reports.record import read_record
from vedr.reports.sealing import Checked, Made, check_page, seal_page
from vedr.runbook.opening import opened_run
from vedr.runbook.order import Order
from vedr.runbook.run import Run
from vedr.runbook.steps import Context, Runbook, step


class DrillOrder(Order):
    steady: bool = True
    works: bool = True
    part: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    run_id: str
    rpo_s: int = 7


@step(title="Check the steady state", budget_s=10, acts=False)
def check_steady(ctx: Context[DrillOrder]) -> str:
    if not ctx.order.steady:
        raise RefusedError("not run: full-0 does not answer in sync", remedy="Repair it.")
    return "steady"


@step(title="Respond", budget_s=10)
def respond(ctx: Context[DrillOrder]) -> Answer:
    return Answer(ctx.order.part)


@step(title="Conclude", budget_s=10, acts=False)
def conclude(ctx: Context[DrillOrder]) -> str:
    if not ctx.order.works:
        raise VerificationFailedError("the drill failed; unit a is not running", remedy="Start it.")
    return "clean"


STEPS: Any = [check_steady, respond, conclude]
DRILL: Runbook[DrillOrder] = Runbook("drill-monthly", "zone failover drill", DrillOrder, STEPS, target_s=60)
PART: Runbook[DrillOrder] = Runbook("RB-DR-002", "zone failover", DrillOrder, STEPS)
GONE = "inc-20260214-031500-k3x9"


def run_of(world: World, runbook: Runbook[DrillOrder], **order: Any) -> RunId:
    entered: list[Run[DrillOrder]] = []
    with (
        contextlib.suppress(RefusedError, VerificationFailedError),
        opened_run(runbook, DrillOrder(**order), world.journal(), wait_quiet=lambda *_, **__: None) as run,
    ):
        entered.append(run)
        run.step(check_steady)
        run.step(respond)
        run.step(conclude)
    world.settle()
    return entered[0].run_id


def answer_of(world: World, run_id: RunId) -> bytes:
    return make_bundle(world.journal(), run_id, made_at=world.clock()).document


def checked(world: World, document: bytes) -> Checked:
    return check_page(document.decode(), world.journal(), what="the answer")


def signed_with(world: World, document: bytes, change: Callable[[Any], object]) -> bytes:
    """What a holder of the site's key, or a fault of ours, could have signed."""
    signed = json.loads(document)["signed"]
    change(signed)
    return world.signer.seal_document(signed)


def drill_that(world: World, kind: str) -> RunId:
    if kind == "performed a run that does not verify":
        part = run_of(world, PART)
        drill = run_of(world, DRILL, part=part)
        for store in world.stores.values():
            store.damage(ObjectKey(f"ledger/{part}/00000002.json"), b"{}")
        return drill
    order: dict[str, Any] = {
        "passed": lambda: {"part": run_of(world, PART)},
        "failed": lambda: {"part": run_of(world, PART), "works": False},
        "is not run": lambda: {"steady": False},
        "performed a run that failed": lambda: {"part": run_of(world, PART, works=False)},
        "performed a run that is gone": lambda: {"part": GONE},
        "performed nothing": dict,
    }[kind]()
    return run_of(world, DRILL, **order)


KINDS = {
    "passed": "passed",
    "failed": "failed",
    "is not run": "not run",
    "performed a run that failed": "failed",
    "performed a run that is gone": "failed",
    "performed a run that does not verify": "failed",
    "performed nothing": "failed",
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_holds_with_the_verdict_of_the_ledger_and_with_no_other(ledger: World, kind: str) -> None:
    document = answer_of(ledger, drill_that(ledger, kind))
    assert checked(ledger, document).drill == KINDS[kind]
    for verdict in {"passed", "failed", "not run", "", None} - {KINDS[kind]}:
        changed = signed_with(ledger, document, lambda signed, new=verdict: signed["drill"].update(verdict=new))
        with pytest.raises(VerificationFailedError, match=f"another verdict.*; its verdict is {KINDS[kind]}"):
            checked(ledger, changed)


@pytest.mark.parametrize("kind", ["passed", "failed", "performed a run that failed", "performed a run that is gone"])
@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("reason", "all is well"),
        ("remedy", "Nothing to do."),
        ("run", GONE),
        ("runbook", "drill-annual"),
        ("broken", {"zone": "us-east-1a"}),
        ("compared", {"counted": 12}),
    ],
)
def test_no_other_claim_of_an_answer_holds_either(ledger: World, kind: str, member: str, value: Any) -> None:
    document = answer_of(ledger, drill_that(ledger, kind))
    changed = signed_with(ledger, document, lambda signed: signed["drill"].update({member: value}))
    with pytest.raises(VerificationFailedError, match=f"another {member}"):
        checked(ledger, changed)


@pytest.mark.parametrize(
    ("member", "value"),
    [("outcome", "completed"), ("verdict", "met"), ("total_ms", 1), ("target_ms", 10**9), ("data_lost", [])],
)
def test_outcome_achieved_time_and_lost_data_are_those_of_the_ledger(ledger: World, member: str, value: Any) -> None:
    document = answer_of(ledger, drill_that(ledger, "failed"))
    changed = signed_with(ledger, document, lambda signed: signed["facts"][0].update({member: value}))
    with pytest.raises(VerificationFailedError, match=f"the ledger tells other {member}"):
        checked(ledger, changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda signed: signed.update(facts=[]),
        lambda signed: signed["facts"].pop(),
        lambda signed: signed["heads"].pop(),
        lambda signed: signed.update(heads=[], facts=[]),
    ],
    ids=["no figures", "a run's figures left out", "a run left out", "nothing named"],
)
def test_figures_left_out_are_no_way_round_the_check(ledger: World, change: Callable[[Any], object]) -> None:
    document = answer_of(ledger, drill_that(ledger, "passed"))
    with pytest.raises(VerificationFailedError):
        checked(ledger, signed_with(ledger, document, change))


def test_a_passed_drill_does_not_hold_without_the_run_that_it_rests_on(ledger: World) -> None:
    document = answer_of(ledger, drill_that(ledger, "performed a run that failed"))

    def hide(signed: Any) -> None:
        signed["heads"].pop()
        signed["facts"].pop()
        signed["drill"].update(verdict="passed", reason="")

    with pytest.raises(VerificationFailedError, match="its verdict is failed"):
        checked(ledger, signed_with(ledger, document, hide))


def test_a_run_of_which_the_drill_knows_nothing_is_no_part_of_its_answer(ledger: World) -> None:
    document = answer_of(ledger, drill_that(ledger, "passed"))
    other = json.loads(answer_of(ledger, drill_that(ledger, "is not run")))["signed"]

    def add(signed: Any) -> None:
        signed["heads"] += other["heads"]
        signed["facts"] += other["facts"]

    with pytest.raises(VerificationFailedError, match="another runs"):
        checked(ledger, signed_with(ledger, document, add))


def test_an_answer_holds_when_its_part_went_on_since(ledger: World) -> None:
    part = run_of(ledger, PART, works=False)
    document = answer_of(ledger, run_of(ledger, DRILL, part=part))
    run_of(ledger, PART, incident=part)
    seen = checked(ledger, document)
    assert (seen.drill, seen.grown) == ("failed", (part,))


# --- pages


@pytest.fixture
def told(ledger: World) -> Evidence:
    made = make_run(ledger, approving=True)
    ledger.settle()
    return gather(read_record(ledger.journal(), made))


def sealed(world: World, shown: Evidence, told: Evidence, made: Made | None = None) -> str:
    """A page that shows the one, signed with the figures of the other."""
    now = world.clock()
    page = run_page(shown, Imprint(now, world.signer.keyid))
    made = made or Made("", told)
    return seal_page(page, world.signer, site="lab", evidence=[told], made_at=now, made=made)[0]


def test_a_signed_page_whose_words_are_not_those_of_the_ledger_is_refused(ledger: World, told: Evidence) -> None:
    assert check_page(sealed(ledger, told, told), ledger.journal(), what="page").unproven == ""
    quick = dataclasses.replace(told, timing=dataclasses.replace(told.timing, total_ms=1000))
    with pytest.raises(VerificationFailedError, match="another page than the one that was signed"):
        check_page(sealed(ledger, quick, told), ledger.journal(), what="page")


def test_a_page_that_does_not_say_what_it_is_made_of_is_refused(ledger: World, told: Evidence) -> None:
    """Or a run's page with other words would hold as anything else."""
    page = run_page(told, Imprint(ledger.clock(), ledger.signer.keyid, "other"))
    for made in (Made("", told), Made("another", told)):
        text, _ = seal_page(page, ledger.signer, site="lab", evidence=[told], made_at=ledger.clock(), made=made)
        with pytest.raises(VerificationFailedError, match="another page"):
            check_page(text, ledger.journal(), what="page")


def test_a_page_of_when_a_region_lagged_still_holds_when_it_caught_up(
    ledger: World, told: Evidence, tmp_path: Path
) -> None:
    last = ObjectKey(f"ledger/{told.run_id}/{told.head_seq:08d}.json")
    ledger.put("eu-west", last, None)
    lagging = gather(read_record(ledger.journal(), told.run_id))
    assert lagging.proof == "incomplete"
    page = Binder(ledger.journal(), tmp_path, ledger.clock).write_run(lagging)
    ledger.put("eu-west", last, ledger.held("us-east", last))
    assert gather(read_record(ledger.journal(), told.run_id)).proof == "verified"
    assert check_page(page.read_text(), ledger.journal(), what="page").unproven == ""


def test_what_of_a_page_was_not_made_again_is_told(
    ledger: World, told: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binder = Binder(ledger.journal(), tmp_path, ledger.clock, label="Example. ")
    index = binder.write_all(binder.overview(dt.datetime(2000, 1, 1, tzinfo=dt.UTC)))
    assert "an index's tables" in check_page(index.read_text(), ledger.journal(), what="index").unproven
    page = index.with_name(f"{told.run_id}.html")
    assert check_page(page.read_text(), ledger.journal(), what="page").unproven == ""
    monkeypatch.setattr("vedr.__version__", "9.9.9")
    assert "this is 9.9.9" in check_page(page.read_text(), ledger.journal(), what="page").unproven
