import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ledger_world import World

from vedr.errors import ConflictError, CorruptError, InvalidInputError, UnavailableError
from vedr.ledger import RunId
from vedr.runbook import liveness
from vedr.runbook.lease import Lease, Leases
from vedr.runbook.liveness import BEAT_S, LONG_AGO_S, SILENCE_S, Process, await_quiet, is_gone, this_process, writer_of

MINE = RunId("inc-20260214-031500-aaaa")
THEIRS = RunId("inc-20260214-031501-bbbb")
NODE = "node/validator-0"
FIRST_ENTRY = f"ledger/{MINE}/00000000.json"
ELSEWHERE = Process("far-away", "another-boot", "pid:[1]", 1, 1)


def opened(world: World, run_id: RunId, process: Process = ELSEWHERE) -> None:
    world.journal().open(run_id, "RB-DR-001", {"process": process.payload()})


def test_a_subject_has_one_holder_and_its_epochs_grow(world: World) -> None:
    opened(world, MINE, this_process())
    leases = Leases(world.journal())
    held = leases.acquire(NODE, MINE)
    assert held == Lease(NODE, 1, MINE)
    assert Leases(world.journal()).acquire(NODE, MINE) == held
    with pytest.raises(ConflictError, match=f"held by run {MINE}"):
        Leases(world.journal()).acquire(NODE, THEIRS)
    leases.release(held)
    leases.release(held)
    assert Leases(world.journal()).acquire(NODE, THEIRS).epoch == 2
    with pytest.raises(ConflictError, match=f"has passed to run {THEIRS}"):
        leases.check(held)


def test_a_lease_copied_over_its_release_by_somebody_with_a_bucket_stays_held(world: World) -> None:
    opened(world, MINE, this_process())
    Leases(world.journal()).acquire(NODE, MINE)
    world.settle()
    for region in world.stores:
        world.put(region, f"lease/{NODE}/00000001-released.json", world.held(region, f"lease/{NODE}/00000001.json"))
    with pytest.raises(ConflictError, match=f"held by run {MINE}"):
        Leases(world.journal()).acquire(NODE, THEIRS)


def test_subjects_that_share_a_beginning_are_different(world: World) -> None:
    leases = Leases(world.journal())
    assert leases.acquire("node/a", MINE).epoch == 1
    assert leases.acquire("node/a/disk", THEIRS).epoch == 1
    leases.check(Lease("node/a", 1, MINE))
    with pytest.raises(InvalidInputError):
        leases.acquire("../up", MINE)


def test_a_silent_holder_is_taken_over_and_one_that_writes_is_not(world: World) -> None:
    opened(world, MINE)
    Leases(world.journal()).acquire(NODE, MINE)
    world.clock.move(LONG_AGO_S + 1)
    assert Leases(world.journal()).acquire(NODE, THEIRS).epoch == 2


@pytest.mark.parametrize("last", ["closed", "paused"])
def test_a_holder_that_ended_is_taken_over_at_once(world: World, last: liveness.Entry) -> None:
    writer = world.journal().open(MINE, "RB-DR-001", {"process": this_process().payload()})
    Leases(world.journal()).acquire(NODE, MINE)
    writer.append(last, {})  # type: ignore[arg-type]
    assert Leases(world.journal()).acquire(NODE, THEIRS).epoch == 2


def test_a_holder_that_died_before_its_first_entry_is_taken_over(world: World) -> None:
    Leases(world.journal()).acquire(NODE, MINE)
    assert Leases(world.journal()).acquire(NODE, THEIRS).epoch == 2


def test_a_living_holder_whose_first_entry_shows_in_one_region_only_is_not_taken_over(world: World) -> None:
    """It was decided by us-east and eu-west; ap-south was late, and eu-west is silent now."""
    opened(world, MINE, this_process())
    held = Leases(world.journal()).acquire(NODE, MINE)
    world.settle()
    world.put("ap-south", FIRST_ENTRY, None)
    world.down("eu-west")
    with pytest.raises(ConflictError, match=f"held by run {MINE}"):
        Leases(world.journal()).acquire(NODE, THEIRS)
    assert Leases(world.journal()).holder(NODE) == held


def test_a_holder_that_died_while_it_wrote_its_first_entry_is_taken_over(world: World) -> None:
    opened(world, MINE)
    Leases(world.journal()).acquire(NODE, MINE)
    world.settle()
    for region in ("us-east", "eu-west"):
        world.put(region, FIRST_ENTRY, None)
    world.clock.move(LONG_AGO_S + 1)
    assert Leases(world.journal()).acquire(NODE, THEIRS).epoch == 2


def test_a_first_entry_that_somebody_with_a_bucket_made_up_keeps_no_node_from_being_recovered(world: World) -> None:
    Leases(world.journal()).acquire(NODE, MINE)
    world.put("ap-south", FIRST_ENTRY, b"forged")
    assert Leases(world.journal()).acquire(NODE, THEIRS).epoch == 2


def test_a_lease_cut_off_between_two_puts_is_completed_for_its_holder(world: World) -> None:
    Leases(world.journal()).acquire(NODE, MINE)
    world.settle()
    for region in ("us-east", "eu-west"):
        world.put(region, f"lease/{NODE}/00000001.json", None)
    opened(world, MINE, this_process())
    with pytest.raises(ConflictError):
        Leases(world.journal()).acquire(NODE, THEIRS)
    assert world.held("us-east", f"lease/{NODE}/00000001.json")


def test_whoever_loses_the_race_for_an_epoch_is_told_who_won(world: World) -> None:
    leases = Leases(world.journal())
    leases._propose(Lease(NODE, 1, MINE))
    with pytest.raises(ConflictError, match=f"just taken by run {MINE}"):
        leases._propose(Lease(NODE, 1, THEIRS))


def test_without_a_majority_no_lease_is_given_or_believed(world: World) -> None:
    leases = Leases(world.journal())
    assert leases.holder(NODE) is None
    held = leases.acquire(NODE, MINE)
    world.down("us-east", "eu-west")
    with pytest.raises(UnavailableError):
        leases.holder(NODE)
    with pytest.raises(UnavailableError):
        leases.check(held)
    with pytest.raises(UnavailableError):
        Leases(world.journal()).acquire("node/other", MINE)


class Time:
    """A monotonic clock moved by sleeping, with something that happens meanwhile."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.now = 0.0
        self._meanwhile = meanwhile

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._meanwhile()


def test_a_writer_elsewhere_is_watched_until_it_was_silent_long_enough(world: World) -> None:
    opened(world, MINE)
    journal = world.journal()
    entries = journal.read(MINE).entries
    watched = Time()
    await_quiet(journal, MINE, entries, monotonic=watched, sleep=watched.sleep)
    assert watched.now >= SILENCE_S


@pytest.mark.parametrize(("kind", "free"), [("heartbeat", False), ("paused", True)])
def test_a_writer_elsewhere_that_writes_is_at_work_unless_it_pauses(world: World, kind: str, *, free: bool) -> None:
    writer = world.journal().open(MINE, "RB-DR-001", {"process": ELSEWHERE.payload()})
    journal = world.journal()
    entries = journal.read(MINE).entries
    watched = Time(lambda: writer.append(kind, {}))  # type: ignore[arg-type]
    if free:
        await_quiet(journal, MINE, entries, monotonic=watched, sleep=watched.sleep)
    else:
        with pytest.raises(ConflictError, match="by process 1 on far-away: it wrote heartbeat"):
            await_quiet(journal, MINE, entries, monotonic=watched, sleep=watched.sleep)
    assert watched.now < SILENCE_S


def test_a_writer_whose_clock_is_behind_ours_is_not_taken_for_silent(world: World) -> None:
    writer = world.journal().open(MINE, "RB-DR-001", {"process": ELSEWHERE.payload()})
    journal = world.journal()
    entries = journal.read(MINE).entries
    world.clock.move(SILENCE_S + 11)  # what our clock is ahead of the writer's
    watched = Time(lambda: watched.now > 9 and writer.append("heartbeat", {}))
    with pytest.raises(ConflictError, match="it wrote heartbeat"):
        await_quiet(journal, MINE, entries, monotonic=watched, sleep=watched.sleep)


def test_a_writer_silent_by_the_clock_is_given_the_time_of_a_beat(world: World) -> None:
    opened(world, MINE)
    journal = world.journal()
    entries = journal.read(MINE).entries
    world.clock.move(SILENCE_S + 11)
    watched = Time()
    await_quiet(journal, MINE, entries, monotonic=watched, sleep=watched.sleep)
    assert BEAT_S <= watched.now < SILENCE_S


def test_a_process_is_gone_only_when_this_machine_can_tell() -> None:
    here = this_process()
    assert not is_gone(here)
    assert is_gone(dataclasses.replace(here, started=here.started + 1))
    assert not is_gone(ELSEWHERE)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert is_gone(dataclasses.replace(here, pid=child))  # dead and not reaped is gone as well
    os.waitpid(child, 0)
    assert is_gone(dataclasses.replace(here, pid=child))


def test_a_run_that_does_not_say_who_writes_it_has_no_known_writer(world: World) -> None:
    world.journal().open(MINE, "RB-DR-001", {})
    entries = world.journal().read(MINE).entries
    assert writer_of(entries) is None
    assert writer_of(()) is None


def test_a_damaged_region_neither_gives_nor_takes_a_lease(world: World) -> None:
    for epoch in (1, 2, 99):
        world.put("ap-south", f"lease/{NODE}/{epoch:08d}.json", b"forged")
    leases = Leases(world.journal())
    opened(world, MINE, this_process())
    held = leases.acquire(NODE, MINE)
    assert held == Lease(NODE, 1, MINE)
    leases.check(held)
    with pytest.raises(ConflictError, match=f"held by run {MINE}"):
        Leases(world.journal()).acquire(NODE, THEIRS)


def test_a_majority_of_damaged_regions_stops_everybody(world: World) -> None:
    for region in ("us-east", "ap-south"):
        world.put(region, f"lease/{NODE}/00000001.json", b"forged")
    with pytest.raises(CorruptError, match="ap-south, us-east hold bytes"):
        Leases(world.journal()).acquire(NODE, MINE)


def test_where_processes_cannot_be_seen_none_is_called_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = this_process()
    monkeypatch.setattr(liveness, "Path", lambda name: tmp_path / name.lstrip("/"))
    assert not is_gone(here)
    assert not is_gone(this_process())
