"""Beginning, handing over and being superseded, over the real register in three regions in memory."""

import datetime as dt
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from held_registers import all_agree
from signer_world import CHAIN_ID, NIL, OTHER_BLOCK, MemoryKey, World, precommit, prevote, proposal

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.chain.appointment import Appointment
from vedr.chain.register import MAX_SIGN_BYTES, NEVER_SIGNED, Content, Epoch, Position, Validator, encode
from vedr.chain.register_holding import SignStateRegister
from vedr.errors import ConflictError, CorruptError, InvalidInputError, NotFoundError, RefusedError, UnavailableError
from vedr.inventory import Height
from vedr.ledger import RunId
from vedr.signer.canonical import sign_bytes
from vedr.signer.rules import Mark, NotSignedError, Reason
from vedr.signer.tenure import Tenure, Terms, begin, holder_of, look, own_mark, terms_when_appointed

REGIONS = ("us-east", "eu-west", "ap-south")
VALIDATOR = Validator(CHAIN_ID, "AB" * 20)
OURS = Terms("us-east-1a", take_over=False, planned=False, watch_s=1)
THEIRS = Terms("eu-west-1a", take_over=True, planned=False, watch_s=1)


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Regions:
    """Three regions, and signers that begin on them, each with a disk of its own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.stores = {region: MemoryRegisters(region) for region in REGIONS}
        self.register = SignStateRegister(self.stores, VALIDATOR)
        self.folder = folder
        self._stack = stack
        self._pids = count(1)
        self._now_s = 0.0
        self.while_watched: list[Any] = []

    def found(self, position: Position = NEVER_SIGNED) -> None:
        self.register.found(position)

    def down(self, *regions: str) -> None:
        for region, store in self.stores.items():
            store.faults.down = region in regions

    def sleep(self, seconds: float) -> None:
        self._now_s += seconds
        for act in self.while_watched:
            act()

    def begin(self, terms: Terms, *, own: Mark | None = None, floor: Mark | None = None, **more: Any) -> Tenure:
        tenure = begin(
            self.register,
            terms,
            **{"holder": holder_of(terms.name, next(self._pids)), **more},
            own=own,
            floor=floor,
            sleep=self.sleep,
            monotonic=lambda: self._now_s,
        )
        self._stack.callback(tenure.holding.close)
        return tenure

    def signer(self, terms: Terms, **more: Any) -> World:
        tenure = self.begin(terms, **more)
        until(lambda: tenure.holding.has(tenure.holding.position))  # a take-over may have to be shown once more
        state_file = self.folder / f"{terms.name}-{tenure.epoch}.json"
        return World(state_file, last=tenure.last, register=tenure.holding, key=MemoryKey())  # type: ignore[arg-type]


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[Regions]:
    with ExitStack() as stack:
        yield Regions(tmp_path, stack)


def test_a_name_that_reads_as_another_ones_process_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'us/standby' is no signer's name"):
        holder_of("us/standby", 7)


def test_a_key_without_a_register_is_not_signed_with(regions: Regions) -> None:
    with pytest.raises(NotFoundError, match="no sign-state register") as caught:
        regions.begin(OURS)
    assert "vedr signer found" in caught.value.remedy


def test_each_process_takes_an_epoch_of_its_own_and_goes_on_where_the_last_one_stood(regions: Regions) -> None:
    regions.found()
    first = regions.signer(OURS)
    signature = first.signature(precommit(5))
    again = regions.begin(OURS, own=own_mark(first.state_file))
    assert (again.epoch, again.last.hrs, again.last.signature) == (2, (5, 0, 3), signature)
    assert look(regions.register).holder.startswith("us-east-1a/2#")


def test_a_signer_that_lost_its_disk_goes_on_from_the_registers(regions: Regions) -> None:
    regions.found()
    signature = regions.signer(OURS).signature(precommit(5))
    again = regions.signer(OURS)
    assert "conflicting data" in again.refusal(precommit(5, block=NIL))
    assert "height regression" in again.refusal(precommit(4))
    assert again.signature(precommit(5)) == signature


def test_a_successor_finishes_the_vote_that_its_predecessor_left_in_the_registers_and_signs_no_other(
    regions: Regions,
) -> None:
    regions.found()
    old = regions.signer(OURS)
    old.key.failure = UnavailableError("killed between the registers and the signature")
    assert old.refusal(prevote(5, block=NIL))
    assert all_agree(regions.register)
    for store in regions.stores.values():
        assert b"sign_bytes" in store.read(VALIDATOR.key).data  # type: ignore[union-attr]
    new = regions.signer(THEIRS)
    assert "conflicting data" in new.refusal(prevote(5))
    vote = new.signer.finish()
    assert vote is not None
    assert sign_bytes(vote, CHAIN_ID) == sign_bytes(prevote(5, block=NIL), CHAIN_ID)
    assert new.signature(prevote(5, block=NIL, time_ns=7)) == vote.signature, "its timestamp is the first one's"
    old.key.failure = None
    assert old.signer.finish() is not None, "the same bytes: no double sign"
    assert "taken over" in old.refusal(precommit(5))
    assert old.signer.finish() is None


def test_a_vote_in_one_region_only_is_finished_once_a_majority_has_it(regions: Regions) -> None:
    """What happened on the lab: cut off with its own region alone, then taken over from elsewhere."""
    regions.found()
    old = regions.signer(OURS)
    regions.down("eu-west", "ap-south")
    assert "not durable in a majority" in old.refusal(prevote(5, block=NIL))
    assert old.signer.finish() is None
    regions.down()
    new = regions.signer(replace(THEIRS, planned=True))
    vote = new.signer.finish()
    assert vote is None or vote.is_nil
    if vote is None:  # the look and the claim met the two regions that never had it
        assert new.signature(prevote(5))
    else:
        assert "conflicting data" in new.refusal(prevote(5))


def test_whoever_writes_to_one_bucket_does_not_choose_the_block_that_the_key_signs_for(regions: Regions) -> None:
    regions.found()
    assert regions.signer(OURS).signature(prevote(4))
    chosen = Mark.of(precommit(9).hrs, sign_bytes(precommit(9), CHAIN_ID))
    for name in ("one/1#a", "two/2#b"):  # also at the take-over after the one that had to heed the position
        forged = Content(Epoch(regions.register.look().next_epoch - 1), name, chosen.position)
        regions.stores["ap-south"].overwrite(VALIDATOR.key, encode(VALIDATOR, forged))
        regions.down("us-east")
        new = regions.signer(replace(THEIRS, planned=True))
        regions.down()
        assert new.last.hrs == chosen.hrs
        assert new.signer.finish() is None
        assert new.key.asked == 0


def test_sign_bytes_that_were_left_out_are_shown_and_signed_once_people_put_them_into_the_own_file(
    regions: Regions,
) -> None:
    """Cut off after the block had come, and back before the take-over: the one register that took the vote shows it."""
    regions.found()
    old = regions.signer(OURS)
    regions.down("eu-west", "ap-south")
    assert "not durable in a majority" in old.refusal(prevote(5))
    old.register.close(wait_s=10)  # type: ignore[attr-defined]  # no call of its is under way any more
    regions.down("ap-south")
    tenure = regions.begin(replace(THEIRS, planned=True))
    assert tenure.left_out == sign_bytes(prevote(5), CHAIN_ID)
    tenure.holding.close()

    state_file = regions.folder / "by-people.json"
    state_file.write_text(f'{{"height":"5","round":0,"step":2,"signbytes":"{tenure.left_out.hex().upper()}"}}')
    again = regions.signer(replace(THEIRS, planned=True), own=own_mark(state_file))
    vote = again.signer.finish()
    assert vote is not None
    assert sign_bytes(vote, CHAIN_ID) == tenure.left_out
    assert regions.begin(replace(THEIRS, planned=True)).left_out == b"", "a majority has them now"


def test_registers_of_before_sign_bytes_were_kept_and_bytes_of_nothing_bind_by_their_digest_alone(
    regions: Regions,
) -> None:
    mark = Mark.of(prevote(5).hrs, sign_bytes(prevote(5), CHAIN_ID))
    regions.found(replace(mark.position, sign_bytes=b""))
    signer = regions.signer(OURS)
    assert signer.signer.finish() is None
    assert "conflicting data" in signer.refusal(prevote(5, time_ns=1))
    assert signer.signature(prevote(5))


def test_bytes_that_are_no_message_of_this_chain_there_are_never_signed(regions: Regions) -> None:
    junk = Mark.of((5, 0, 2), b"junk of the right digest")
    regions.found(junk.position)
    signer = regions.signer(OURS)
    assert signer.signer.finish() is None
    assert "conflicting data" in signer.refusal(prevote(5))
    assert signer.key.asked == 0
    assert signer.signature(precommit(5))


def test_sign_bytes_of_an_own_file_that_are_too_long_for_a_register_are_left_out(regions: Regions) -> None:
    regions.found()
    long = Mark.of((5, 0, 2), bytes(MAX_SIGN_BYTES + 1), b"s" * 64)
    assert regions.begin(OURS, own=long).holding.position.sign_bytes == b""


def test_a_key_that_another_one_holds_is_left_to_it(regions: Regions) -> None:
    regions.found()
    regions.begin(OURS)
    with pytest.raises(ConflictError, match="us-east-1a") as caught:
        regions.begin(replace(THEIRS, take_over=False))
    assert "--take-over" in caught.value.remedy
    assert look(regions.register).epoch == 1


def test_a_silent_signer_is_taken_over_from_and_refused_when_it_wakes_up(regions: Regions) -> None:
    regions.found()
    old = regions.signer(OURS)
    old.signature(prevote(5))
    new = regions.signer(THEIRS)
    assert "conflicting data" in new.refusal(prevote(5, block=OTHER_BLOCK))
    new.signature(precommit(5))
    assert "taken over" in old.refusal(precommit(5, block=NIL))
    assert old.signer.superseded.is_set()
    new.signature(prevote(6))


def test_a_signer_that_is_alive_keeps_the_key(regions: Regions) -> None:
    regions.found()
    old = regions.signer(OURS)
    heights = count(5)
    regions.while_watched.append(lambda: old.signature(prevote(next(heights))))
    with pytest.raises(RefusedError, match="is alive: it went from 0/0/0 to 5/0/2") as caught:
        regions.begin(THEIRS)
    assert "--planned" in caught.value.remedy
    assert look(regions.register).epoch == 1


def test_a_restart_of_the_other_one_is_a_sign_of_life_too(regions: Regions) -> None:
    regions.found()
    regions.begin(OURS)
    regions.while_watched.append(lambda: regions.begin(OURS))
    with pytest.raises(RefusedError, match="is alive"):
        regions.begin(THEIRS)


def test_a_planned_hand_over_needs_no_silence(regions: Regions) -> None:
    regions.found()
    old = regions.signer(OURS)
    regions.while_watched.append(lambda: pytest.fail("it watched"))
    new = regions.signer(replace(THEIRS, planned=True))
    new.signature(prevote(1))
    assert "taken over" in old.refusal(prevote(2))


def test_an_attempt_that_seemed_to_fail_does_not_stand_in_the_way_of_the_next_by_the_same_process(
    regions: Regions,
) -> None:
    regions.found()
    regions.begin(OURS)
    taking_over, holder = replace(THEIRS, planned=True), holder_of("eu-west-1a", 7)
    for store in regions.stores.values():
        store.faults.maps["swap"] = "." * store.faults.seen["swap"] + "d" * 50
    with pytest.raises(UnavailableError):
        regions.begin(taking_over, holder=holder, deadline_s=0.1)
    for store in regions.stores.values():
        store.faults.maps.clear()
        store.deliver()
    assert regions.begin(taking_over, holder=holder).epoch == 3


def test_nothing_is_taken_over_when_a_look_at_the_registers_says_not_now(regions: Regions) -> None:
    regions.found(Position(Height(9), 0, 3))

    def check(shown: Content) -> None:
        assert shown.position == Position(Height(9), 0, 3)
        raise NotSignedError(Reason.NOT_HELD, "not now")

    with pytest.raises(NotSignedError, match="not now"):
        regions.begin(OURS, check=check)
    assert look(regions.register).epoch == 0


def test_the_appointed_one_takes_over_from_a_living_holder_and_another_one_begins_nowhere() -> None:
    appointment = Appointment(4, "eu-west-1a", RunId("inc-20261102-120000-aaaa"), dt.datetime.now(dt.UTC))
    assert terms_when_appointed(OURS, None) == OURS
    assert terms_when_appointed(replace(THEIRS, take_over=False), appointment) == replace(THEIRS, planned=True)
    with pytest.raises(
        ConflictError, match=r"held by eu-west-1a .*inc-20261102-120000-aaaa.* not by us-east-1a"
    ) as caught:
        terms_when_appointed(OURS, appointment)
    assert "appoint us-east-1a" in caught.value.remedy


def test_a_region_that_is_down_holds_up_nobody(regions: Regions) -> None:
    regions.found()
    regions.signer(OURS).signature(prevote(5))
    regions.down("us-east")
    new = regions.signer(replace(THEIRS, watch_s=0.2))
    assert "height regression" in new.refusal(prevote(4))
    assert new.signature(prevote(6))


def test_without_a_majority_nobody_begins(regions: Regions) -> None:
    regions.found()
    regions.down("us-east", "eu-west")
    with pytest.raises(UnavailableError, match=r"no majority.*eu-west.*us-east"):
        regions.begin(OURS)


def test_without_a_majority_nothing_is_signed_and_afterwards_it_goes_on(regions: Regions) -> None:
    regions.found()
    signer = regions.signer(OURS)
    regions.down("us-east", "eu-west")
    assert "not durable in a majority" in signer.refusal(prevote(5))
    regions.down()
    assert "conflicting data" in signer.refusal(prevote(5, block=NIL))
    assert signer.signature(prevote(5))


def test_a_floor_is_signed_above_and_never_at(regions: Regions) -> None:
    regions.found(Position(Height(3), 0, 3))
    signer = regions.signer(OURS, floor=Mark(9, 0, 0))
    assert "height regression" in signer.refusal(prevote(8))
    assert signer.signature(proposal(9))
    assert regions.signer(OURS, floor=Mark(2, 0, 0)).refusal(prevote(8))


def test_a_register_that_is_founded_at_a_floor_forbids_it(regions: Regions) -> None:
    regions.found(Position(Height(5), 0, 2))
    signer = regions.signer(OURS)
    assert "floor" in signer.refusal(prevote(5))
    assert signer.signature(precommit(5))


def test_an_own_file_above_the_registers_is_believed(regions: Regions) -> None:
    regions.found()
    signed = Mark.of((5, 0, 2), sign_bytes(prevote(5), CHAIN_ID), b"s" * 64)
    assert regions.begin(OURS, own=signed).last == signed


def test_an_own_file_that_contradicts_the_registers_stops_the_beginning_and_takes_nothing(regions: Regions) -> None:
    regions.found()
    regions.signer(OURS).signature(prevote(5))
    other = Mark.of((5, 0, 2), sign_bytes(prevote(5, block=NIL), CHAIN_ID), b"s" * 64)
    with pytest.raises(RefusedError, match="two sign states at 5/0/2 are of different content"):
        regions.begin(OURS, own=other)
    assert look(regions.register).epoch == 1


def test_an_own_file_that_contradicts_a_region_that_was_not_seen_in_time_signs_nothing_there(regions: Regions) -> None:
    """What was looked at shows nothing of it yet; the take-over meets it."""
    regions.found()
    other = Mark.of((5, 0, 2), sign_bytes(prevote(5, block=NIL), CHAIN_ID), b"s" * 64)
    old = regions.signer(OURS)
    signer = regions.signer(OURS, own=other, check=lambda _: old.signature(prevote(5)))
    assert signer.refusal(prevote(5))
    assert signer.refusal(prevote(5, block=NIL))
    assert signer.signature(precommit(5))


def test_an_own_file_and_a_floor_that_contradict_each_other_stop_the_beginning(regions: Regions) -> None:
    regions.found()
    one = Mark.of((5, 0, 2), b"one")
    with pytest.raises(RefusedError, match="may have signed twice"):
        regions.begin(OURS, own=one, floor=Mark.of((5, 0, 2), b"other"))


def test_an_own_file_that_cannot_be_read_stops_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert own_mark(path) is None
    path.write_text("{")
    with pytest.raises(CorruptError):
        own_mark(path)


@pytest.mark.parametrize("fault", ["e", "l", "d"])
@pytest.mark.parametrize("call", range(6))
def test_an_answer_lost_anywhere_never_gives_two_contents(regions: Regions, fault: str, call: int) -> None:
    """Two signers, each asked for another block at every place, with one region's calls going wrong."""
    regions.found()
    old = regions.signer(OURS)
    for region in REGIONS[:2]:
        regions.stores[region].faults.maps["swap"] = "." * (regions.stores[region].faults.seen["swap"] + call) + fault
    given: dict[tuple[int, int], set[bytes]] = {}

    def ask(signer: World, block: Any, heights: range) -> None:
        for height in heights:
            for step, vote in ((2, prevote(height, block=block)), (3, precommit(height, block=block))):
                body = signer.ask(vote)
                if not body.has(2):
                    given.setdefault((height, step), set()).add(body.message(1).octets(8))

    def finish(signer: World) -> None:
        if vote := signer.signer.finish():
            given.setdefault((vote.height, vote.hrs[2]), set()).add(vote.signature)

    ask(old, NIL, range(1, 4))
    new = regions.signer(THEIRS)
    finish(new)
    ask(new, OTHER_BLOCK, range(2, 5))
    for store in regions.stores.values():
        store.deliver()
    finish(old)
    ask(old, NIL, range(3, 6))
    finish(old)
    ask(new, OTHER_BLOCK, range(4, 6))
    assert given
    assert all(len(signatures) == 1 for signatures in given.values())
    assert old.signer.superseded.is_set()


def test_an_epoch_that_only_a_slow_region_has_seen_is_passed_by_the_next_try(regions: Regions) -> None:
    """A take-over that failed half-way is in one region, which is left out of the look and answers afterwards."""
    regions.found()
    slow = regions.stores["ap-south"]
    failed = Content(Epoch(1), "us-east-1a/9#dead", NEVER_SIGNED)
    slow.overwrite(VALIDATOR.key, encode(VALIDATOR, failed))
    slow.faults.maps["read"] = "e"  # the look's
    for name in ("us-east", "eu-west"):  # the claim's: the slow one answers first
        regions.stores[name].faults.maps["read"] = ".e"
    assert regions.begin(OURS).epoch == 2
