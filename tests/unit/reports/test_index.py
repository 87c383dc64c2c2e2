"""The index over many runs, what it advises, and the command."""

import contextlib
import datetime as dt
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import pytest
from ledger_world import REGIONS, World
from report_world import BACKUP, DRILL, STAGE, Stage, make_run
from typer.testing import CliRunner

from vedr.cli import report as command
from vedr.errors import InvalidInputError, NotFoundError, VedrError, VerificationFailedError
from vedr.ledger import RunId
from vedr.reports.binder import Binder
from vedr.reports.chart import Point, draw_series
from vedr.reports.evidence import gather
from vedr.reports.index import Overview, _cards
from vedr.reports.record import read_record
from vedr.reports.requirements import REQUIREMENTS
from vedr.reports.sealing import check_page
from vedr.reports.trends import FRESH, Ended, hints, jobs, series, verified_share

NOON = dt.datetime(2026, 2, 14, 12, tzinfo=dt.UTC)
LONG_AGO = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DAY_S = 86_400


@pytest.fixture(autouse=True)
def stage() -> Stage:
    STAGE.__init__()  # type: ignore[misc]
    return STAGE


@pytest.fixture
def binder(ledger: World, tmp_path: Path) -> Binder:
    return Binder(ledger.journal(), tmp_path / "reports", ledger.clock)


def drilled(world: World, *promote_s: float) -> list[RunId]:
    """A drill a day."""
    runs = []
    for seconds in promote_s:
        world.clock.move(DAY_S)
        STAGE.promote_s = seconds
        runs.append(make_run(world, runbook=DRILL))
    world.settle()
    return runs


# --- trends


def test_a_job_s_record_has_its_age_its_gaps_and_what_did_not_complete() -> None:
    def run(hour: int, outcome: str = "completed", job: str = "chain-snapshot") -> Ended:
        return Ended(job, "us-east", NOON + dt.timedelta(hours=hour), outcome)

    runs = [run(8), run(0), run(12, "failed"), run(4), run(1, job="snapshot-verify"), run(2, "open", "snapshot-verify")]
    found = {job.name: job for job in jobs(runs, NOON + dt.timedelta(hours=13))}
    snapshots = found["chain-snapshot us-east"]
    assert (snapshots.completed, snapshots.others) == (3, 1)
    assert (snapshots.age_ms, snapshots.longest_gap_ms) == (5 * 3_600_000, 4 * 3_600_000)
    assert (found["key-backup"].completed, found["key-backup"].age_ms) == (0, None)
    assert verified_share(runs) == (1, 2)


def test_a_run_that_found_another_one_fresh_is_no_proof_and_no_backup() -> None:
    runs = [
        Ended("snapshot-verify", "us-east", NOON, "failed"),
        *(Ended("snapshot-verify", "us-east", NOON + dt.timedelta(hours=hour), FRESH) for hour in range(1, 4)),
    ]
    assert verified_share(runs) == (0, 1)
    job = next(one for one in jobs(runs, NOON) if one.name == "snapshot-verify us-east")
    assert (job.completed, job.others, job.age_ms) == (0, 1, None)


def test_a_snapshot_of_the_future_is_no_young_one_and_of_no_ended_run_none_met_its_target(ledger: World) -> None:
    STAGE.failures = 1
    run_id = make_run(ledger)
    ledger.settle()
    found = gather(read_record(ledger.journal(), run_id))
    ahead = Ended("chain-snapshot", "us-east", NOON + dt.timedelta(days=9), "completed")
    overview = Overview("lab", LONG_AGO, NOON, (found,), (), (ahead,), ())
    cards = {card.name: card for card in _cards(overview, jobs([ahead], NOON))}
    assert (cards["Targets met"].value, cards["Targets met"].tone) == ("none", "warn")
    assert cards["Newest chain snapshot"].tone == "bad"


def test_a_target_that_no_run_comes_near_or_that_one_missed_is_advised_on(ledger: World) -> None:
    runs = [gather(read_record(ledger.journal(), run_id)) for run_id in drilled(ledger, 70, 80, 90)]
    assert hints(runs) == (
        "drill-region never took more than 2 min 38 s of its 30 min: a lower target would say more.",
        "drill-region, Promote the standbys: usually 1 min 20 s, over its budget of 1 min.",
    )
    [late] = (gather(read_record(ledger.journal(), run_id)) for run_id in drilled(ledger, 2000))
    assert "missed its target of 30 min in 1 of 4 completed runs" in hints([*runs, late])[0]
    [near] = (gather(read_record(ledger.journal(), run_id)) for run_id in drilled(ledger, 1500))
    assert hints([near]) == ("drill-region came to 87 % of its target of 30 min: a bad day will miss it.",)


def test_a_runbook_that_was_never_completed_is_advised_on(ledger: World, stage: Stage) -> None:
    stage.failures = 1
    [run_id] = drilled(ledger, 41)
    told = gather(read_record(ledger.journal(), run_id))
    assert hints([told]) == ("drill-region was never completed in this time: its target is not proven.",)
    assert series([told]) == {}


def test_a_point_above_its_limit_is_red_and_one_point_alone_is_drawn() -> None:
    picture = ET.fromstring(draw_series("x", [Point(NOON, 10, 5, "late")]))  # noqa: S314 - our own
    [dot] = picture.iter("{http://www.w3.org/2000/svg}circle")
    assert dot.get("class") == "red"
    far = draw_series("x", [Point(NOON, 10, 9000, "early"), Point(NOON + dt.timedelta(days=9), 12, 9000, "early")])
    assert "far above" in far
    assert 'class="red"' not in far


# --- the index


def test_the_index_lists_every_incident_and_drill_and_is_signed(ledger: World, binder: Binder) -> None:
    drills = drilled(ledger, 40, 41)
    incident = make_run(ledger)
    for _ in range(3):
        ledger.clock.move(4 * 3600)
        make_run(ledger, runbook=BACKUP)
    ledger.settle()
    path = binder.write_all(binder.overview(LONG_AGO))
    page = path.read_text()
    for run_id in (*drills, incident):
        assert f'<a href="{run_id}.html">' in page
        assert (path.parent / f"{run_id}.html").is_file()
    assert "All 3 incidents, drills and exercises met their targets" in page
    assert "chain-snapshot us-east: time between completed runs" in page
    assert len(check_page(page, ledger.journal(), what="index").runs) == 3
    with pytest.raises(VerificationFailedError):
        check_page(page.replace("All 3", "All 9"), ledger.journal(), what="index")


def test_runs_before_the_time_asked_for_are_left_out(ledger: World, binder: Binder) -> None:
    drilled(ledger, 40, 41)
    overview = binder.overview(ledger.clock() - dt.timedelta(hours=1))
    assert len(overview.evidence) == 1
    assert binder.overview(ledger.clock()).evidence == ()
    assert "recovery is not proven" in binder.write_all(binder.overview(ledger.clock())).read_text()


def test_a_removed_run_and_one_that_cannot_be_read_are_told_in_red(ledger: World, binder: Binder) -> None:
    gone, damaged, _ = drilled(ledger, 40, 41, 42)
    for region in REGIONS:
        for seq in range(99):
            ledger.put(region, f"ledger/{gone}/{seq:08d}.json", None)
        ledger.put(region, f"ledger/{damaged}/00000000.json", b"{}")
    overview = binder.overview(LONG_AGO)
    assert [run_id for run_id, _ in overview.unreadable] == [damaged]
    assert any(f"run {gone} was removed" in problem for problem in overview.problems)
    assert any(f"run {damaged} was cut or replaced" in problem for problem in overview.problems)
    page = binder.write_all(overview).read_text()
    assert "The ledger does not hold." in page
    assert "cannot be read" in page


def test_a_run_whose_index_pointer_was_lost_is_still_reported(ledger: World, binder: Binder) -> None:
    [run_id] = drilled(ledger, 40)
    for region in REGIONS:
        ledger.put(region, f"ledger-index/drill-region/{run_id}.json", None)
    assert [one.run_id for one in binder.overview(LONG_AGO).evidence] == [run_id]


# --- standards


def test_the_page_of_evidence_has_the_same_table_as_the_code() -> None:
    page = (Path(__file__).parents[3] / "docs" / "evidence.md").read_text(encoding="utf-8")
    for one in REQUIREMENTS:
        assert f"| {one.standard} | {one.clause} | {one.asks} | {one.evidence} |" in page


# --- the command

Command = Callable[..., str]


@pytest.fixture
def report(ledger: World, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `vedr report …`; its standard output, or the error that it ended with."""

    @contextlib.contextmanager
    def open_site(_: str | None = None) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(journal=ledger.journal())

    monkeypatch.setattr(command, "open_site", open_site)
    monkeypatch.setattr(command, "utc_now", ledger.clock)

    def invoke(*words: str) -> str:
        result = CliRunner().invoke(command.app, words)
        if isinstance(result.exception, VedrError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return invoke


def test_a_report_of_one_run_is_written_and_verified(ledger: World, report: Command, tmp_path: Path) -> None:
    [run_id] = drilled(ledger, 40)
    out = tmp_path / "out"
    document = json.loads(report(run_id, "--out", str(out), "--pdf", "--label", "Example", "--json"))
    page = out / f"{run_id}.html"
    assert document == {"page": str(page), "problems": []}
    assert "Example. Drill report" in page.read_text()
    assert page.with_suffix(".pdf").read_bytes().startswith(b"%PDF-")
    assert "stand in the ledger of lab" in report("verify", str(page))
    assert json.loads(report("verify", str(page.with_suffix(".json")), "--json"))["runs"][0]["run"] == run_id
    with pytest.raises(InvalidInputError, match="no text"):
        report("verify", str(page.with_suffix(".pdf")))
    page.write_text(page.read_text().replace("Target met", "Target beaten"))
    with pytest.raises(VerificationFailedError, match="not the one that was signed"):
        report("verify", str(page))


def test_a_report_of_everything_says_by_its_exit_that_a_ledger_does_not_hold(
    ledger: World, report: Command, tmp_path: Path
) -> None:
    run_id, _ = drilled(ledger, 40, 41)
    assert str(tmp_path / "index.html") in report("--all", "--out", str(tmp_path))
    for region in REGIONS:
        ledger.put(region, f"ledger/{run_id}/00000003.json", b"{}")
    with pytest.raises(VerificationFailedError, match="the ledger does not hold") as caught:
        report("--all", "--out", str(tmp_path))
    assert caught.value.exit_code == 3
    with pytest.raises(VerificationFailedError):
        report(run_id, "--out", str(tmp_path))
    assert "nothing below is proven" in (tmp_path / f"{run_id}.html").read_text()


def test_wrong_requests_are_refused(report: Command, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="which runs"):
        report("--out", str(tmp_path))
    with pytest.raises(InvalidInputError, match="not a run id"):
        report("yesterday", "--out", str(tmp_path))
    with pytest.raises(NotFoundError):
        report("verify", str(tmp_path / "none.html"))
