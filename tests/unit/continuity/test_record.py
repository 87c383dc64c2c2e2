"""The standing across processes, deadlines across months: all from the ledger."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace

import pytest
from continuity_world import START, LedgerSite, example

from vedr.continuity.activation import Standing, look
from vedr.continuity.deadlines import RULES, all_deadlines, mark_done
from vedr.continuity.record import KEEP_S, QUIET_KEEP_S, Record
from vedr.continuity.severity import assess
from vedr.continuity.signals import Answering, Percent, Signals
from vedr.errors import ConflictError, InvalidInputError, NotFoundError, RefusedError, UnavailableError
from vedr.ledger import RunId, is_closed
from vedr.runbook.order import new_run_id

REGIONS = {"us-east": True, "eu-west": True, "ap-south": True}


@pytest.fixture
def site() -> Iterator[LedgerSite]:
    with LedgerSite(example()) as opened:
        yield opened


def glance(site: LedgerSite, *, block_age_s: float = 2.0, gateways_up: int = 3) -> Standing:
    """One process's look: it starts from the record alone."""
    now = site.clock()
    signals = Signals(
        at=now,
        last_block_at=now - dt.timedelta(seconds=block_age_s),
        power=Answering(5, 5),
        gateways=Answering(gateways_up, 3),
        unreached_pct=Percent(0),
        providers=Answering(1, 1),
        regions=REGIONS,
        monitoring=True,
        incidents=(),
        breach="none",
    )
    episode = Record(site.journal).episode()
    standing = look(episode.standing if episode else None, signals, assess(signals))
    Record(site.journal).keep(standing)
    return standing


def runs(site: LedgerSite) -> int:
    return len(site.journal.runs_of("continuity"))


def test_while_all_is_well_nothing_is_written(site: LedgerSite) -> None:
    glance(site)
    assert runs(site) == 0


def test_what_one_process_saw_the_next_one_goes_on_from(site: LedgerSite) -> None:
    glance(site, gateways_up=1)
    site.clock.move(minutes=31)
    standing = glance(site, gateways_up=2)
    [trouble] = [since for function, since in standing.troubled.items() if function == "api-gateway"]
    assert trouble.at == START
    assert runs(site) == 1


def test_a_standing_comes_back_from_the_ledger_as_it_was(site: LedgerSite) -> None:
    standing = glance(site, block_age_s=500)
    episode = Record(site.journal).episode()
    assert episode is not None
    assert episode.standing == standing
    assert standing.active


@pytest.mark.parametrize(("age_s", "keep_s"), [(2.0, QUIET_KEEP_S), (500.0, KEEP_S)], ids=["quiet", "active"])
def test_the_same_look_again_is_written_once_in_a_while(site: LedgerSite, age_s: float, keep_s: float) -> None:
    glance(site, gateways_up=1, block_age_s=age_s)
    [run_id] = site.journal.runs_of("continuity")
    before = len(site.journal.read(run_id).entries)
    site.clock.move(seconds=30)
    glance(site, gateways_up=1, block_age_s=age_s + 30 if age_s > KEEP_S else age_s)
    assert len(site.journal.read(run_id).entries) == before
    site.clock.move(seconds=keep_s)
    glance(site, gateways_up=1, block_age_s=age_s + 30 + keep_s if age_s > KEEP_S else age_s)
    assert len(site.journal.read(run_id).entries) > before


def test_a_trouble_that_stays_for_a_day_fills_no_ledger_however_seldom_it_is_looked_at(site: LedgerSite) -> None:
    for _ in range(96):
        glance(site, gateways_up=2)
        site.clock.move(minutes=15)
    [run_id] = site.journal.runs_of("continuity")
    assert len(site.journal.read(run_id).entries) <= 2 + 2 * 24


def test_a_severity_without_a_function_in_trouble_is_remembered_too(site: LedgerSite) -> None:
    kept = Record(site.journal).keep(replace(glance(site), severity="SEV-3"))
    assert kept.recorded
    episode = Record(site.journal).episode()
    assert episode is not None
    assert episode.standing.severity == "SEV-3"


def test_a_calm_look_ends_the_episode_and_the_next_trouble_is_another(site: LedgerSite) -> None:
    glance(site, gateways_up=1)
    site.clock.move(minutes=5)
    glance(site)
    [run_id] = site.journal.runs_of("continuity")
    assert is_closed(site.journal.read(run_id).entries)
    assert Record(site.journal).episode() is None
    site.clock.move(minutes=5)
    glance(site, gateways_up=1)
    assert runs(site) == 2


def test_an_active_plan_stays_active_until_a_person_ends_it_after_a_stable_hour(site: LedgerSite) -> None:
    glance(site, block_age_s=500)
    for _ in range(6):
        site.clock.move(minutes=5)
        standing = glance(site)
    assert standing.active
    with pytest.raises(RefusedError, match="up for an hour"):
        Record(site.journal).deactivate(standing, by="zoe", why="looks well")
    for _ in range(7):
        site.clock.move(minutes=5)
        standing = glance(site)
    Record(site.journal).deactivate(standing, by="zoe", why="an hour of blocks")
    assert Record(site.journal).episode() is None
    [run_id] = site.journal.runs_of("continuity")
    words = [entry.payload for entry in site.journal.read(run_id).entries if "by" in entry.payload]
    assert [(word["by"], word["why"], word["word"]) for word in words] == [("zoe", "an hour of blocks", "deactivated")]


def test_a_person_activates_once_and_leaves_only_what_is_active(site: LedgerSite) -> None:
    standing = glance(site)
    record = Record(site.journal)
    with pytest.raises(NotFoundError, match="not active"):
        record.deactivate(standing, by="zoe", why="")
    run_id = record.activate(standing, by="zoe", why="a storm is coming")
    assert site.journal.runs_of("continuity") == (run_id,)
    with pytest.raises(RefusedError, match="a storm is coming"):
        record.activate(standing, by="ann", why="again")
    site.clock.move(minutes=5)
    assert glance(site).active


def test_two_processes_that_look_at_once_leave_one_whole_record(site: LedgerSite) -> None:
    glance(site, gateways_up=1)
    site.clock.move(minutes=5)
    first, second = Record(site.journal), Record(site.journal)
    episode = first.episode()
    assert episode is not None
    standing = glance(site, gateways_up=0)
    assert not second.keep(standing).recorded  # what the first look said is no news
    assert site.journal.verify().entries > 0
    newest = second.episode()
    assert newest is not None
    assert newest.standing == standing


def test_a_ledger_that_cannot_be_read_is_said_not_taken_for_calm(site: LedgerSite) -> None:
    glance(site, gateways_up=1)
    for region in ("us-east", "eu-west"):
        site.memory[region].faults.down = True
    with pytest.raises(UnavailableError):
        Record(site.journal).episode()


# --- deadlines


def incident(
    site: LedgerSite, runbook: str = "RB-DR-003", *, close: str | None = "completed", exercise: bool = False
) -> RunId:
    run_id = new_run_id("inc", site.clock())
    opening = {
        "title": "t", "detected_at": site.clock().isoformat(), "target_ms": 1_800_000, "steps": [], "order": {},
    } | ({"exercise": True} if exercise else {})  # fmt: skip
    writer = site.journal.open(run_id, runbook, opening)  # type: ignore[arg-type]
    site.clock.move(minutes=10)
    if close:
        writer.append("closed", {"outcome": close, "total_ms": 600_000, "target_ms": 1_800_000, "steps": {}})
    return run_id


def due(site: LedgerSite) -> dict[str, tuple[str, float]]:
    """State and hours from the beginning, by name."""
    return {one.name: (one.state, (one.due_at - START).total_seconds() / 3600) for one in all_deadlines(site.journal)}


def test_a_closed_incident_has_the_plans_deadlines_counted_from_its_end(site: LedgerSite) -> None:
    incident(site)
    after = 10 / 60
    expected = {"review": ("due", 48 + after), "report": ("due", 168 + after), "actions": ("due", 720 + after)}
    assert due(site) == expected


def test_corruption_and_compromise_have_their_own_counted_from_detection_and_also_while_open(site: LedgerSite) -> None:
    incident(site, "RB-DR-005", close=None)
    assert due(site) == {"security-report": ("due", 24)}
    site.clock.now = START + dt.timedelta(hours=24, seconds=1)
    assert due(site)["security-report"] == ("overdue", 24)


def test_corruptions_root_cause_is_due_after_72_hours(site: LedgerSite) -> None:
    incident(site, "RB-DR-004")
    assert due(site)["root-cause"] == ("due", 72)


def test_what_changed_nothing_and_what_was_an_exercise_have_none(site: LedgerSite) -> None:
    incident(site, close="refused")
    site.clock.move(minutes=1)
    incident(site, exercise=True)
    site.clock.move(minutes=1)
    incident(site, close=None)
    assert due(site) == {}


def test_an_abandoned_incident_is_reviewed_too(site: LedgerSite) -> None:
    incident(site, close="abandoned")
    assert "review" in due(site)


def test_done_is_somebodys_word_with_something_to_read(site: LedgerSite) -> None:
    run_id = incident(site)
    mark_done(site.journal, run_id, "review", by="zoe", reference="https://wiki.example/pm-1")
    [done] = [one.done for one in all_deadlines(site.journal) if one.done]
    assert (done.by, done.reference) == ("zoe", "https://wiki.example/pm-1")
    assert due(site)["review"][0] == "done"
    assert due(site)["report"][0] == "due"


def test_what_is_done_late_stays_seen_as_late(site: LedgerSite) -> None:
    run_id = incident(site)
    site.clock.move(days=3)
    assert due(site)["review"][0] == "overdue"
    mark_done(site.journal, run_id, "review", by="zoe", reference="x")
    assert due(site)["review"][0] == "done late"


def test_a_word_is_refused_without_a_name_without_a_text_twice_or_for_nothing(site: LedgerSite) -> None:
    run_id = incident(site)
    with pytest.raises(InvalidInputError):
        mark_done(site.journal, run_id, "review", by=" ", reference="x")
    with pytest.raises(InvalidInputError):
        mark_done(site.journal, run_id, "review", by="zoe", reference="")
    with pytest.raises(NotFoundError, match="Due after it: review, report, actions"):
        mark_done(site.journal, run_id, "root-cause", by="zoe", reference="x")
    mark_done(site.journal, run_id, "review", by="zoe", reference="x")
    with pytest.raises(ConflictError, match="by zoe"):
        mark_done(site.journal, run_id, "review", by="ann", reference="y")


def test_the_rules_are_virtengines() -> None:
    hours = {rule.name: rule.within_s / 3600 for rule in RULES}
    assert hours == {"security-report": 24, "root-cause": 72, "review": 48, "report": 168, "actions": 720}
