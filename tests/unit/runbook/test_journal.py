import datetime as dt

import pytest
from ledger_world import World

from vedr.errors import (
    ConflictError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VerificationFailedError,
)
from vedr.ledger import RunId, parse_run_id

RUN = RunId("inc-20260214-031500-aaaa")
SECOND = RunId("inc-20260214-031600-bbbb")


def key(seq: int, run: RunId = RUN) -> str:
    return f"ledger/{run}/{seq:08d}.json"


def settled(world: World, seq: int, run: RunId = RUN) -> list[bytes | None]:
    """What the regions hold when the slower ones' background writes are through."""
    world.settle()
    return [world.held(region, key(seq, run)) for region in world.stores]


def test_an_append_is_in_every_region_that_answers(world: World) -> None:
    writer = world.journal().open(RUN, "RB-DR-001", {"target_ms": 300_000})
    writer.append("note", {"text": "seen"})
    copies = settled(world, 1)
    assert copies[0] is not None
    assert len(set(copies)) == 1


def test_a_run_goes_on_when_any_one_region_is_lost_in_the_middle(world: World) -> None:
    for lost in world.stores:
        run = RunId(f"inc-20260214-0316{len(world.journals):02d}-cccc")
        writer = world.journal().open(run, "RB-DR-001", {})
        world.down(lost)
        writer.append("note", {"text": "while a region is down"})
        writer.append("closed", {"outcome": "completed"})
        read = world.journal().read(run)
        assert [e.kind for e in read.entries] == ["opened", "note", "closed"]
        world.down()


def test_a_region_that_was_down_is_caught_up_by_healing(world: World) -> None:
    journal = world.journal()
    writer = journal.open(RUN, "RB-DR-001", {})
    settled(world, 0)
    world.down("ap-south")
    for n in range(3):
        writer.append("note", {"n": n})
    writer.append("closed", {})
    world.down()
    fresh = world.journal()
    with pytest.raises(VerificationFailedError, match="entry 1 is missing in ap-south"):
        fresh.verify()
    assert fresh.heal(RUN).given == {"us-east": 0, "eu-west": 0, "ap-south": 4}
    verified = fresh.verify()
    assert verified.entries == 5
    assert fresh.heal(RUN).given == {"us-east": 0, "eu-west": 0, "ap-south": 0}


def test_without_a_majority_nothing_is_recorded_and_repeating_writes_once(world: World) -> None:
    writer = world.journal().open(RUN, "RB-DR-001", {})
    settled(world, 0)
    world.down("us-east", "eu-west")
    with pytest.raises(UnavailableError, match="1 of 3 regions answered, 2 are needed"):
        writer.append("note", {"text": "first"})
    world.down()
    writer.append("note", {"text": "second"})
    texts = [e.payload.get("text") for e in world.journal().read(RUN).entries]
    assert texts == [None, "first", "second"]


def test_an_append_that_is_repeated_after_an_outage_is_written_once_whoever_wrote_between(world: World) -> None:
    writer = world.journal().open(RUN, "RB-DR-001", {})
    settled(world, 0)
    world.down("us-east", "eu-west")
    for _ in range(2):
        with pytest.raises(UnavailableError):
            writer.append("step_started", {"step": "x"})
    world.down()
    writer.append("heartbeat", {})  # by the thread that ticks
    assert writer.append("step_started", {"step": "x"}).seq == 1
    world.down("us-east", "eu-west")
    with pytest.raises(UnavailableError):
        writer.append("closed", {"outcome": "completed"})
    world.down()
    assert writer.append("closed", {"outcome": "completed"}).kind == "closed"
    assert [e.kind for e in world.journal().read(RUN).entries] == ["opened", "step_started", "heartbeat", "closed"]


def test_nothing_follows_a_run_that_closed_during_an_outage(world: World) -> None:
    writer = world.journal().open(RUN, "RB-DR-001", {})
    settled(world, 0)
    world.down("us-east", "eu-west")
    with pytest.raises(UnavailableError):
        writer.append("closed", {"outcome": "completed"})
    world.down()
    with pytest.raises(ConflictError, match="is closed"):
        writer.append("heartbeat", {})
    assert writer.append("closed", {"outcome": "completed"}).seq == 1


def test_a_write_whose_answer_was_lost_counts_as_written(world: World) -> None:
    writer = world.journal().open(RUN, "RB-DR-001", {})
    settled(world, 0)
    for store in world.stores.values():
        store.faults.maps["create"] = "." * store.faults.seen["create"] + "l"
    writer.append("note", {})
    assert len(world.journal().read(RUN).entries) == 2


def test_a_stale_writer_is_fenced_by_the_one_that_resumed(world: World) -> None:
    stale = world.journal().open(RUN, "RB-DR-001", {})
    settled(world, 0)
    fresh = world.journal().resume(RUN, {})
    assert fresh.epoch == 2
    with pytest.raises(ConflictError, match="must not act any more"):
        stale.append("step_started", {"step": "x"})
    with pytest.raises(ConflictError):
        stale.append("note", {})
    fresh.append("note", {"text": "goes on"})
    assert [e.kind for e in world.journal().read(RUN).entries] == ["opened", "resumed", "note"]


def test_a_run_of_which_only_a_forgery_is_stored_cannot_be_gone_on_with(world: World) -> None:
    world.stores["eu-west"].create(key(0), b"{}")
    with pytest.raises(NotFoundError, match=r"no genuine entry of run inc-20260214-031500-aaaa"):
        world.journal().resume(RUN, {})


def test_a_run_that_died_between_two_puts_is_completed_by_the_next_reader(world: World) -> None:
    writer = world.journal().open(RUN, "RB-DR-001", {})
    settled(world, 0)
    writer.append("step_completed", {"step": "x"})
    settled(world, 1)
    for region in ("eu-west", "ap-south"):
        world.put(region, key(1), None)
    assert world.journal().read(RUN).unsettled == 1
    resumed = world.journal().resume(RUN, {})
    assert [e.kind for e in resumed.entries] == ["opened", "step_completed", "resumed"]


def test_an_orphan_that_lost_stays_and_its_region_gets_the_true_entry_beside_it(world: World) -> None:
    loser = world.journal().open(RUN, "RB-DR-001", {})
    settled(world, 0)
    world.down("eu-west", "ap-south")
    with pytest.raises(UnavailableError):
        loser.append("note", {"text": "orphan"})
    world.down("us-east")
    world.journal().resume(RUN, {})
    world.down()
    with pytest.raises(ConflictError):
        loser.append("note", {})
    journal = world.journal()
    orphan = world.held("us-east", key(1))
    assert journal.heal(RUN).given["us-east"] == 1
    assert world.held("us-east", key(1)) == orphan
    beside = [found.key for found in world.stores["us-east"].list(f"ledger/{RUN}/00000001.")]
    assert len(beside) == 2
    verified = journal.verify()
    assert verified.superseded == (f"run {RUN} entry 1: us-east holds an entry that lost against the majority's",)


def test_a_split_that_only_a_silent_region_can_decide_says_wait(world: World) -> None:
    journal = world.journal()
    writer = journal.open(RUN, "RB-DR-001", {})
    settled(world, 0)
    world.down("eu-west", "ap-south")
    with pytest.raises(UnavailableError):
        writer.append("note", {"text": "orphan"})
    other = world.journal()
    world.down("us-east")
    other_writer = other.resume(RUN, {})
    settled(world, 1)
    world.put("ap-south", key(1), None)
    world.down("ap-south")
    with pytest.raises(ConflictError, match="Wait until ap-south answers"):
        world.journal().resume(RUN, {})
    assert other_writer.epoch == 2


@pytest.mark.parametrize(("region", "seq"), [("us-east", 0), ("eu-west", 1), ("ap-south", 2)])
def test_any_one_byte_edit_in_any_region_is_found(world: World, region: str, seq: int) -> None:
    writer = world.journal().open(RUN, "RB-DR-001", {"text": "x"})
    writer.append("note", {"text": "y"})
    writer.append("closed", {})
    settled(world, 2)
    journal = world.journal()
    journal.verify()
    good = world.held(region, key(seq))
    assert good
    for place in range(len(good)):
        world.put(region, key(seq), good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(VerificationFailedError, match=f"entry {seq}"):
            journal.verify(RUN)
    world.put(region, key(seq), good)
    journal.verify()


def test_a_tail_that_a_majority_lost_is_found_though_one_region_still_holds_it(world: World) -> None:
    """Whoever wrote the last entry had seen the one before it in a majority: that is not a writer that died."""
    writer = world.journal().open(RUN, "RB-DR-001", {})
    for n in range(3):
        writer.append("note", {"n": n})
    settled(world, 3)
    for region in ("us-east", "ap-south"):
        for seq in (2, 3):
            world.put(region, key(seq), None)
    with pytest.raises(VerificationFailedError, match=r"entry 2: .* lost it, which had to be in a majority"):
        world.journal().verify(RUN)


def test_an_edit_in_a_majority_of_regions_is_found(world: World) -> None:
    writer = world.journal().open(RUN, "RB-DR-001", {})
    writer.append("closed", {})
    settled(world, 1)
    for region in ("us-east", "eu-west"):
        world.put(region, key(0), (world.held(region, key(0)) or b"").replace(b"opened", b"closed"))
    with pytest.raises(VerificationFailedError):
        world.journal().verify()


def test_a_removed_entry_a_removed_tail_and_a_removed_run_are_found(world: World) -> None:
    journal = world.journal()
    writer = journal.open(RUN, "RB-DR-001", {})
    writer.append("note", {})
    writer.append("closed", {})
    world.clock.move(60)
    journal.open(SECOND, "RB-DR-001", {}).append("closed", {})
    settled(world, 2)
    settled(world, 1, SECOND)

    def without(*seqs: int) -> str:
        saved = {(region, key(seq)): world.held(region, key(seq)) for region in world.stores for seq in seqs}
        for region, name in saved:
            world.put(region, name, None)
        with pytest.raises(VerificationFailedError) as caught:
            world.journal().verify()
        for (region, name), data in saved.items():
            world.put(region, name, data)
        return caught.value.message

    assert "entry 1 is missing or damaged" in without(1)
    assert "tail was removed" in without(2)
    assert f"run {RUN} was removed" in without(0, 1, 2)


def test_two_entries_that_changed_places_are_found(world: World) -> None:
    writer = world.journal().open(RUN, "RB-DR-001", {})
    writer.append("note", {"n": 1})
    writer.append("note", {"n": 2})
    settled(world, 2)
    for region in world.stores:
        first, second = world.held(region, key(1)), world.held(region, key(2))
        world.put(region, key(1), second)
        world.put(region, key(2), first)
    with pytest.raises(VerificationFailedError):
        world.journal().verify()


def test_opening_an_existing_run_and_resuming_a_closed_or_unknown_one_are_refused(world: World) -> None:
    journal = world.journal()
    writer = journal.open(RUN, "RB-DR-001", {})
    with pytest.raises(ConflictError):
        journal.open(RUN, "RB-DR-001", {"other": True})
    with pytest.raises(NotFoundError):
        journal.resume(SECOND, {})
    writer.append("closed", {"outcome": "completed"})
    with pytest.raises(RefusedError, match="is closed: completed"):
        journal.resume(RUN, {})
    with pytest.raises(ConflictError, match="is closed: no note can follow"):
        writer.append("note", {})


def test_runs_are_found_by_day_and_by_runbook(world: World) -> None:
    journal = world.journal()
    journal.open(RUN, "RB-DR-001", {})
    journal.open(SECOND, "RB-DR-006", {})
    assert journal.runs() == (RUN, SECOND)
    assert journal.runs("inc-20260214") == (RUN, SECOND)
    assert journal.runs("inc-20260215") == ()
    assert journal.runs_of("RB-DR-006") == (SECOND,)
    last = journal.last(RUN)
    assert last
    assert last.kind == "opened"
    assert journal.last(parse_run_id("inc-20260101-000000-zzzz")) is None


def test_time_is_recorded_in_utc(world: World) -> None:
    world.clock.now = dt.datetime(2026, 2, 14, 5, 15, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    journal = world.journal()
    journal.open(RUN, "RB-DR-001", {})
    assert journal.read(RUN).entries[0].time == dt.datetime(2026, 2, 14, 3, 15, tzinfo=dt.UTC)
