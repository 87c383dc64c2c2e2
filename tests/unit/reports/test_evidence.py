"""What reports say, made from ledgers that the real engine wrote."""

import datetime as dt
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from ledger_world import REGIONS, World
from report_world import (
    BACKUP,
    DRILL,
    STAGE,
    Failover,
    Stage,
    confirm_outage,
    fence_signers,
    go_on,
    make_run,
    promote_standbys,
    take,
    whole,
)

from vedr.errors import CorruptError, InvalidInputError, NotFoundError, VerificationFailedError
from vedr.ledger import RunId
from vedr.reports.binder import Binder
from vedr.reports.evidence import Evidence, gather
from vedr.reports.gantt import draw_gantt, draw_target
from vedr.reports.pages import headline
from vedr.reports.record import read_record
from vedr.reports.sealing import check_page
from vedr.reports.words import span
from vedr.runbook.run import Run

HOSTILE = "</script></title><img src=x onerror=alert(1)>{{7*7}}\u202e\x00]]>&\"'"
LONG_AGO = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def stage() -> Stage:
    STAGE.__init__()  # type: ignore[misc]
    return STAGE


@pytest.fixture
def binder(ledger: World, tmp_path: Path) -> Binder:
    return Binder(ledger.journal(), tmp_path / "reports", ledger.clock)


def evidence_of(world: World, run_id: RunId) -> Evidence:
    world.settle()
    return gather(read_record(world.journal(), run_id))


def change(world: World, run_id: RunId, *regions: str) -> int:
    """Somebody edits the entry that begins the fencing, where it is stored; its number."""
    entries = world.journal().read(run_id).entries
    [seq] = [e.seq for e in entries if e.kind == "step_started" and e.payload["step"] == "fence_signers"]
    for region in regions:
        key = f"ledger/{run_id}/{seq:08d}.json"
        held = world.held(region, key)
        assert held is not None
        world.put(region, key, held.replace(b"fence_signers", b"fense_signers"))
    return seq


class Seen(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._silent = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent = tag if tag in ("script", "style") else ""

    def handle_endtag(self, _: str) -> None:
        self._silent = ""

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


# --- what is told


def test_a_run_is_told_by_its_times_steps_losses_and_who_agreed(ledger: World) -> None:
    told = evidence_of(ledger, make_run(ledger, approving=True))
    assert (told.subject, told.outcome, told.verdict, told.proof) == ("incident", "completed", "met", "verified")
    assert (told.timing.before_ms, told.timing.waiting_ms, told.timing.total_ms) == (25_000, 34_000, 143_000)
    assert headline(told) == "Target met: service restored in 2 min 23 s, 30 min allowed"
    assert {(fact.name, fact.value) for fact in told.data_lost} == {("lost blocks", "0"), ("RPO (s)", "0")}
    assert {(one.person, one.approved, one.why) for one in told.approvals} == {
        ("zoe", True, "us-east is dark"),
        ("max", True, ""),
    }
    [asked] = told.asked
    assert (asked.people, asked.warnings) == (2, ("eu-west then has 60 % of the power",))
    assert sum(ms for _, ms in told.critical_path) == told.timing.total_ms


def test_a_loss_that_no_step_recorded_is_told_as_not_recorded(ledger: World, binder: Binder, stage: Stage) -> None:
    stage.failures = 1
    told = evidence_of(ledger, make_run(ledger))
    assert told.data_lost == ()
    assert "That is not a statement that none was." in Seen(binder.write_run(told).read_text()).text


def test_a_run_that_is_open_is_never_told_as_met(ledger: World, stage: Stage) -> None:
    stage.failures = 1
    told = evidence_of(ledger, make_run(ledger))
    assert (told.outcome, told.verdict) == ("paused", "open")
    assert headline(told).startswith("Not finished: 1 min 26 s after detection at its last record")
    assert "standby signer does not answer" in told.error
    assert told.remedy == "Look at its log."
    ledger.clock.move(1)
    stage.failures, stage.promote_s = 1, 3000
    assert "the target has passed" in headline(evidence_of(ledger, make_run(ledger)))


def test_a_missed_target_and_a_refused_run_are_told_as_such(ledger: World, stage: Stage) -> None:
    stage.promote_s = 2000
    missed = evidence_of(ledger, make_run(ledger))
    assert (missed.verdict, missed.steps[2].row.over_budget) == ("missed", True)
    assert headline(missed).startswith("Target missed: service restored in 34 min 28 s")
    ledger.clock.move(1)

    def refuse(_: Run[Failover]) -> None:
        raise InvalidInputError("no such region")

    with pytest.raises(InvalidInputError):
        make_run(ledger, body=refuse)
    refused = evidence_of(ledger, ledger.journal().runs()[-1])
    assert (refused.outcome, refused.verdict) == ("refused", "not completed")


def test_attempts_that_failed_and_interruptions_are_not_vedr_s_own_time(ledger: World, stage: Stage) -> None:
    stage.failures = 1
    run_id = make_run(ledger)
    ledger.clock.move(95)
    go_on(ledger, run_id)
    told = evidence_of(ledger, run_id)
    assert (told.timing.interrupted_ms, told.retried_ms, told.overhead_ms) == (95_000, 41_000, 0)
    assert dict(told.critical_path)["earlier attempts"] == 41_000
    assert [(one.kind, one.step, one.length_ms) for one in told.spans if one.kind in ("failed", "interrupted")] == [
        ("failed", "promote_standbys", 41_000),
        ("interrupted", "", 95_000),
    ]
    assert told.steps[2].resumed


def test_a_step_in_which_its_process_died_and_a_wait_show_where_they_were(ledger: World) -> None:
    class Died(BaseException):
        """The process is gone: nothing is recorded any more."""

    def body(run: Run[Failover]) -> None:
        with run.waiting("a person"):
            take(5)
        run._writer.append("step_started", {"step": "fence_signers", "title": "Fence", "resuming": False})
        take(7)
        run._writer.append("heartbeat", {})
        raise Died

    with pytest.raises(Died):
        make_run(ledger, body=body)
    run_id = ledger.journal().runs()[-1]
    ledger.clock.move(60)
    go_on(ledger, run_id)
    told = evidence_of(ledger, run_id)
    spans = {(one.kind, one.step): one.length_ms for one in told.spans}
    assert spans["waiting", ""] == 5000
    assert spans["interrupted step", "fence_signers"] == 7000
    assert spans["interrupted", ""] == 60_000


def test_a_drill_is_told_as_a_drill_and_a_scheduled_run_as_neither(ledger: World) -> None:
    assert evidence_of(ledger, make_run(ledger, runbook=DRILL)).subject == "drill"
    ledger.clock.move(1)
    assert evidence_of(ledger, make_run(ledger, runbook=BACKUP)).subject == "run"


def test_a_runbook_that_a_drill_performed_is_never_taken_for_an_incident(ledger: World, binder: Binder) -> None:
    run_id = make_run(ledger, origin={"exercise": True, "drill": "run-20260214-031500-abcd"})
    ledger.settle()
    told = evidence_of(ledger, run_id)
    assert (told.subject, told.drill) == ("exercise", "run-20260214-031500-abcd")
    path = binder.write_run(told, pdf=True)
    page = Seen(path.read_text())
    assert "Exercise report" in page.text
    assert "EXERCISE: RB-DR-003 Region failover" in page.text
    assert "An exercise: drill run-20260214-031500-abcd broke this on purpose." in page.text
    assert "Incident" not in page.text
    assert b"EXERCISE: RB-DR-003" in path.with_suffix(".pdf").read_bytes()  # the document's title
    facts = json.loads(path.with_suffix(".json").read_text())["signed"]["facts"]
    assert [fact["exercise"] for fact in facts] == [True]
    index = Seen(binder.write_all(binder.overview(LONG_AGO)).read_text()).text
    assert "0 incidents, 0 drills with 1 exercised runbooks" in index
    assert "Region failover (exercise)" in index


# --- ledgers that do not hold


def test_a_broken_chain_is_told_in_red_before_anything_else_and_what_is_read_ends_there(
    ledger: World, binder: Binder
) -> None:
    run_id = make_run(ledger)
    ledger.settle()
    seq = change(ledger, run_id, *REGIONS)
    told = evidence_of(ledger, run_id)
    assert (told.proof, told.head_seq) == ("unverifiable", seq - 1)
    assert headline(told).startswith("Not proven")
    page = binder.write_run(told, pdf=True).read_text()
    text = Seen(page).text
    assert "nothing below is proven" in text
    assert text.index("nothing below is proven") < text.index("Not proven")
    assert 'class="alarm"' in page


def test_one_region_s_changed_copy_makes_the_run_unverifiable_although_the_majority_holds(ledger: World) -> None:
    run_id = make_run(ledger)
    ledger.settle()
    change(ledger, run_id, "ap-south")
    told = evidence_of(ledger, run_id)
    assert (told.proof, told.outcome) == ("unverifiable", "completed")
    assert any("ap-south holds bytes that nobody trusted signed" in problem for problem in told.problems)


def test_a_region_that_lacks_entries_or_is_silent_is_told_as_incomplete(ledger: World, binder: Binder) -> None:
    run_id = make_run(ledger)
    ledger.settle()
    ledger.put("eu-west", f"ledger/{run_id}/00000004.json", None)
    told = evidence_of(ledger, run_id)
    (problem,) = told.problems
    assert (told.proof, problem.partition(":")[0]) == (
        "incomplete",
        "eu-west's copy lacks 1 of 12 entries, from 4 to 4",
    )
    assert problem.endswith(f"vedr ledger heal {run_id}")
    assert "eu-west's copy lacks 1 of 12 entries" in Seen(binder.write_run(told).read_text()).text
    ledger.down("ap-south")
    silent = gather(read_record(ledger.journal(), run_id))
    assert "ap-south did not answer and was not checked" in silent.problems


def test_a_region_that_was_down_is_told_with_where_its_copy_ends_until_it_is_caught_up(ledger: World) -> None:
    def cut(run: Run[Failover]) -> None:
        run.step(confirm_outage)
        ledger.settle()
        ledger.down("us-east")
        proof = run.step(fence_signers)
        run.step(promote_standbys, proof)

    run_id = make_run(ledger, body=cut)
    ledger.down()
    told = evidence_of(ledger, run_id)
    (problem,) = told.problems
    assert problem.startswith("us-east's copy ends at entry 2 of 7: what was written from 03:15:"), problem
    make_run(ledger, runbook=BACKUP)  # whatever run ends next catches it up
    ledger.settle()
    assert evidence_of(ledger, run_id).proof == "verified"


def test_a_run_of_which_nothing_can_be_read_or_known_is_an_error(ledger: World) -> None:
    run_id = make_run(ledger)
    ledger.settle()
    for region in REGIONS:
        ledger.put(region, f"ledger/{run_id}/00000000.json", b"{}")
    with pytest.raises(InvalidInputError, match="no entry of it can be read"):
        gather(read_record(ledger.journal(), run_id))
    with pytest.raises(NotFoundError):
        read_record(ledger.journal(), RunId("inc-20260101-000000-none"))


# --- pages


def test_hostile_text_stays_text_in_page_and_pictures(ledger: World, binder: Binder, stage: Stage) -> None:
    stage.finding = HOSTILE

    def body(run: Run[Failover]) -> None:
        run.note(HOSTILE, detail=HOSTILE)
        whole(run)

    told = evidence_of(ledger, make_run(ledger, order=Failover(why=HOSTILE), body=body))
    told = replace(told, title=HOSTILE, runbook=HOSTILE, site="<b>lab</b>")
    page = binder.write_run(told, pdf=True).read_text()
    seen = Seen(page)
    tags = {tag for tag, _ in seen.tags}
    assert "img" not in tags
    assert "b" not in {tag for tag, attrs in seen.tags if "lab" in str(attrs)}
    assert not any(name.startswith("on") for _, attrs in seen.tags for name in attrs)
    assert "49" not in re.findall(r"alert\(1\)>(\d+)", page)
    assert "\u202e" not in seen.text
    assert "\x00" not in page
    assert "<img src=x onerror=alert(1)>" in seen.text
    for picture in (draw_gantt(told), draw_target(told)):
        ET.fromstring(picture)  # noqa: S314 - our own


def test_a_page_fetches_nothing_and_runs_nothing(ledger: World, binder: Binder) -> None:
    page = binder.write_run(evidence_of(ledger, make_run(ledger))).read_text()
    for tag, attrs in Seen(page).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert tag != "script" or attrs == {"type": "application/json", "id": "vedr-evidence"}
        assert "src" not in attrs
        assert "href" not in attrs
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'; style-src 'unsafe-inline'" in page


def test_the_time_line_has_a_row_for_every_step_and_says_what_went_over(ledger: World, stage: Stage) -> None:
    stage.promote_s = 75
    picture = ET.fromstring(draw_gantt(evidence_of(ledger, make_run(ledger, approving=True))))  # noqa: S314 - our own
    texts = [element.text for element in picture.iter(f"{SVG}text")]
    for title in ("Confirm the outage", "Promote the standbys", "Waiting for people", "Before the run"):
        assert title in texts
    assert "1 min 15 s of 1 min" in texts
    assert [element.get("class") for element in picture.iter(f"{SVG}rect")].count("red") == 2  # the bar and its legend


def test_the_same_evidence_gives_the_same_page_and_pdf(ledger: World, tmp_path: Path) -> None:
    told = evidence_of(ledger, make_run(ledger, approving=True))
    made = []
    for name in ("one", "two"):
        path = Binder(ledger.journal(), tmp_path / name, ledger.clock).write_run(told, pdf=True)
        made.append((path.read_bytes(), path.with_suffix(".json").read_bytes(), path.with_suffix(".pdf").read_bytes()))
    assert made[0] == made[1]
    assert made[0][2].startswith(b"%PDF-")


# --- signatures


@pytest.fixture
def page(ledger: World, binder: Binder) -> Iterator[Path]:
    return binder.write_run(evidence_of(ledger, make_run(ledger, approving=True)))


def test_a_page_and_its_document_are_checked_against_signature_and_ledger(ledger: World, page: Path) -> None:
    for path in (page, page.with_suffix(".json")):
        checked = check_page(path.read_text(), ledger.journal(), what=path.name)
        assert (checked.site, len(checked.runs), checked.grown) == ("lab", 1, ())
        assert checked.keyid == ledger.signer.keyid


def test_a_document_that_a_text_tool_wrote_ends_in_a_newline_and_still_holds(ledger: World, page: Path) -> None:
    """As `jq -r` and `vedr drill evidence` print it; a page's bytes are hashed as they are."""
    document = page.with_suffix(".json").read_text()
    assert check_page(f"{document}\n", ledger.journal(), what="document").site == "lab"
    for text in (f"{document}\n\n", f"\n{document}", f"{page.read_text()}\n"):
        with pytest.raises(VerificationFailedError):
            check_page(text, ledger.journal(), what="other")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Target met", "Target Met"),
        ("2 min 23 s", "1 min 23 s"),
        ("</body>", " </body>"),
        ('"verdict":"met"', '"verdict":"missed"'),
        ('{"signatures"', ' {"signatures"'),
        ('id="vedr-evidence">{', 'id="vedr-evidence">{{'),
    ],
)
def test_a_page_with_any_byte_changed_is_refused(ledger: World, page: Path, old: str, new: str) -> None:
    text = page.read_text()
    assert old in text
    with pytest.raises(VerificationFailedError):
        check_page(text.replace(old, new, 1), ledger.journal(), what="page")


def test_a_page_without_its_signature_and_other_files_are_refused(ledger: World, page: Path) -> None:
    stripped = re.sub(r'(id="vedr-evidence">).*?(</script>)', r"\1\2", page.read_text())
    for text in (stripped, "", "hello", '{"signed":{}}'):
        with pytest.raises(CorruptError):
            check_page(text, ledger.journal(), what="page")


def test_a_page_of_another_site_or_of_a_stranger_is_refused(ledger: World, page: Path) -> None:
    journal = ledger.journal()
    journal.site = "production"  # type: ignore[misc]
    with pytest.raises(VerificationFailedError, match="expected vedr-evidence/1 of production"):
        check_page(page.read_text(), journal, what="page")
    stranger = ledger.journal()
    stranger.trusted = ("00" * 32,)  # type: ignore[misc]
    with pytest.raises(VerificationFailedError, match="no trusted key signed it"):
        check_page(page.read_text(), stranger, what="page")


def test_a_page_whose_ledger_was_replaced_is_refused(ledger: World, page: Path) -> None:
    run_id = page.stem
    ledger.settle()
    last = max(seq for seq in range(99) if ledger.held("us-east", f"ledger/{run_id}/{seq:08d}.json"))
    for region in REGIONS:
        ledger.put(region, f"ledger/{run_id}/{last:08d}.json", None)
    with pytest.raises(VerificationFailedError, match="in the page, only"):
        check_page(page.read_text(), ledger.journal(), what="page")


def test_a_run_that_went_on_since_its_page_was_made_is_named(ledger: World, binder: Binder, stage: Stage) -> None:
    stage.failures = 1
    run_id = make_run(ledger)
    path = binder.write_run(evidence_of(ledger, run_id))
    go_on(ledger, run_id)
    ledger.settle()
    assert check_page(path.read_text(), ledger.journal(), what="page").grown == (run_id,)


# --- words


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (0, "0 s"),
        (840, "840 ms"),
        (4250, "4.2 s"),
        (59_999, "59 s"),
        (60_000, "1 min"),
        (161_000, "2 min 41 s"),
        (3_600_000, "1 h"),
        (3_780_000, "1 h 03 min"),
        (273_600_000, "3 d 4 h"),
        (-1500, "-1.5 s"),
    ],
)
def test_durations_read_as_people_say_them(ms: int, said: str) -> None:
    assert span(ms) == said


def test_detection_and_end_are_in_utc(ledger: World) -> None:
    told = evidence_of(ledger, make_run(ledger))
    assert told.detected_at.utcoffset() == dt.timedelta(0)
    assert told.ended_at - told.detected_at == dt.timedelta(milliseconds=told.timing.total_ms)
