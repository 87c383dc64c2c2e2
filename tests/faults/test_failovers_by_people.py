"""Failovers with people in them: asked too long, two at once, too late; the flows act on a site in files."""

import contextlib
import datetime as dt
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, Self

import failover_world
import key_file_site
import killed_run
import pytest

from flows import failback, failovers
from tasks.failover_orders import PLAN_HOLDS_S, Failback, RegionFailover
from vedr.adapters.site import OpenSite
from vedr.errors import RefusedError
from vedr.policies.approval import Approval
from vedr.runbook.abandoning import abandon
from vedr.runbook.approval import Answer, Answers, Question, asked
from vedr.runbook.journal import Journal
from vedr.runbook.run import Outcome

PATIENCE_S = 60.0


class Site:
    """A site in files with a clock that can be moved, and people who are asked."""

    def __init__(self, folder: Path, paper: Any) -> None:
        folder.mkdir()
        self.world = failover_world.World(folder, paper)
        self.world.make()
        self.ahead = dt.timedelta()
        made = killed_run.open_journal(folder)
        self.stores = {region: killed_run.MortalStore(folder / "stores" / region) for region in killed_run.REGIONS}
        self.journal = Journal(self.stores, site="lab", signer=made.signer, trusted=made.trusted, clock=self.now)
        made.close()

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + self.ahead

    @contextlib.contextmanager
    def open(self, _: object = None) -> Iterator[OpenSite]:
        yield self.world.opened(self.stores, self.journal)

    def fail_over(self, **more: Any) -> Outcome:
        done = failovers.REGION.perform(RegionFailover(region=failover_world.LOST, **more))
        assert isinstance(done, Outcome)
        return done

    def fail_back(self, **more: Any) -> Outcome:
        done = failback.RUNBOOK.perform(Failback(place=failover_world.LOST, **more))
        assert isinstance(done, Outcome)
        return done

    def entries(self, runbook: str = "RB-DR-003") -> tuple[Any, ...]:
        """Of the newest run."""
        entries: tuple[Any, ...] = self.journal.read(self.journal.runs_of(runbook)[-1]).entries
        return entries

    def effects(self) -> list[str]:
        path = self.world.state / "effects"
        return path.read_text().splitlines() if path.exists() else []

    def questions(self, runbook: str = "RB-DR-003") -> list[str]:
        """The digests of the plans that people were asked about."""
        return [str(e.payload["digest"]) for e in self.entries(runbook) if e.kind == "waiting"]


class Person(threading.Thread):
    """Agrees to whatever is asked, after the world has changed in a way."""

    def __init__(self, site: Site, runbook: str, *happens: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.site, self.runbook, self.happens = site, runbook, list(happens)
        self.ended = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()

    def run(self) -> None:
        answered: set[str] = set()
        while not self.ended.wait(0.05):
            question = self._question()
            if question is None or question.plan.digest in answered:
                continue
            if self.happens:
                self.happens.pop(0)()
            answered.add(question.plan.digest)
            given = Answer(
                question.run_id, question.plan.digest, "zoe", approved=True, why="", time=self.site.now(), via="cli"
            )
            Answers(self.site.journal).give(given)

    def _question(self) -> Question | None:
        runs = self.site.journal.runs_of(self.runbook)
        return asked(self.site.journal.read(runs[-1]).entries) if runs else None


@pytest.fixture(scope="module")
def remote_paper() -> Any:
    """A site whose validators sign remotely."""
    return failover_world.paper_site()


@pytest.fixture
def desk(remote_paper: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Site]]:
    """Makes the site, asking one person where it is told so."""
    made: list[Site] = []

    def make(**asks: Any) -> Site:
        paper = remote_paper.model_copy(update={"approval": Approval.model_validate({"runbooks": asks})})
        site = Site(tmp_path / "world", paper)
        key_file_site.put_in_place(site, monkeypatch)  # type: ignore[arg-type]  # as that site has them
        made.append(site)
        return site

    yield make
    for site in made:
        site.journal.close()


def test_a_region_that_serves_again_before_its_loss_is_confirmed_is_left_alone_and_can_be_lost_anew(
    desk: Callable[..., Site],
) -> None:
    site = desk()
    with pytest.raises(RefusedError, match="region us-east serves") as caught:
        site.fail_over()
    assert "Nothing was changed, and this incident is closed" in caught.value.remedy
    assert "order it anew, without --incident" in caught.value.remedy
    first = site.entries()
    assert (first[-1].kind, first[-1].payload["outcome"]) == ("closed", "refused")
    with pytest.raises(RefusedError, match="is closed: refused  Next: Order it anew, without --incident"):
        site.fail_over(incident=first[0].run_id)
    assert site.effects() == []
    site.world.lose()
    assert site.fail_over().outcome == "completed"


def test_a_region_that_came_back_while_people_were_asked_is_left_alone(desk: Callable[..., Site]) -> None:
    site = desk(**{"RB-DR-003": "one"})
    site.world.lose()

    def it_comes_back() -> None:
        (site.world.state / "lost").unlink()
        site.ahead += dt.timedelta(seconds=PLAN_HOLDS_S + 1)

    with Person(site, "RB-DR-003", it_comes_back), pytest.raises(RefusedError, match="region us-east serves"):
        site.fail_over()
    assert site.entries()[-1].payload["outcome"] == "refused"
    assert site.effects() == []


def test_another_plan_is_asked_about_when_the_situation_changed_while_people_were_asked(
    desk: Callable[..., Site],
) -> None:
    site = desk(**{"RB-DR-003": "one"})
    site.world.lose()

    def a_standby_dies() -> None:
        site.world.set_unit(site.world.site.node("fullnode-eu-west-0").unit, "stopped")
        site.ahead += dt.timedelta(seconds=PLAN_HOLDS_S + 1)

    with Person(site, "RB-DR-003", a_standby_dies):
        assert site.fail_over().outcome == "completed"
    assert len(set(site.questions())) == 2
    assert not any("fullnode-eu-west-0 takes over" in effect for effect in site.effects())


def test_nobody_is_asked_again_about_what_stayed_the_same_for_hours(desk: Callable[..., Site]) -> None:
    site = desk(**{"RB-DR-003": "one"})
    site.world.lose()

    def hours_go_by() -> None:
        site.ahead += dt.timedelta(hours=2)

    with Person(site, "RB-DR-003", hours_go_by):
        assert site.fail_over().outcome == "completed"
    assert len(site.questions()) == 1
    steps = [entry.payload["step"] for entry in site.entries() if entry.kind == "step_completed"]
    assert steps[:5] == ["confirm_outage", "declare", "decide", "confirm_outage:2", "decide:2"]


def test_people_are_asked_once_about_the_way_home_and_about_the_plan_itself(desk: Callable[..., Site]) -> None:
    site = desk(failback="one")
    site.world.lose()
    site.fail_over()
    site.world.find_again()
    with Person(site, "failback"):
        assert site.fail_back().outcome == "completed"
    (question,) = [entry for entry in site.entries("failback") if entry.kind == "waiting"]
    assert question.payload["plan"]["title"] == "failback to region us-east"


def test_a_way_home_that_is_ordered_too_early_ends_cleanly_and_nobody_is_asked(desk: Callable[..., Site]) -> None:
    site = desk(failback="one")
    site.world.lose()
    site.fail_over()
    with pytest.raises(RefusedError, match="region us-east is not healthy"):
        site.fail_back()
    last = site.entries("failback")[-1]
    assert (last.kind, last.payload["outcome"]) == ("closed", "refused")
    assert site.questions("failback") == []


def refuses(*_: object) -> NoReturn:
    raise RefusedError("the zone does not take our credentials")


def test_a_failover_that_is_given_up_leaves_a_reserve_alone_that_served_before(
    desk: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It serves the users of another place that is away."""
    site = desk()
    reserve = next(one for one in site.world.site.gateways if one.reserve and one.region == "eu-west")
    site.world.set_unit(reserve.unit, "running")
    site.world.lose()
    with monkeypatch.context() as refusing:
        refusing.setattr(failover_world.FileTraffic, "shift", refuses)
        with pytest.raises(RefusedError, match="credentials"):
            site.fail_over()
    (run_id,) = site.journal.runs_of("RB-DR-003")
    done = abandon(failovers.REGION, site.journal, run_id, "it came back", wait_quiet=lambda *_, **__: None)
    assert [(one.step, one.done) for one in done.taken_back if one.step == "start_reserves"] == [
        ("start_reserves", "stopped nothing")
    ]  # and not the reserve, which it had not started
    assert site.world.unit(reserve.unit) == "running"
