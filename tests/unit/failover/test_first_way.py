"""A host with several ways to fence it: the first that closes and is proven, and the reasons of all when none is."""

from dataclasses import dataclass, field

import pytest

from vedr.chain.fence import Closed, FenceMethod
from vedr.errors import ConflictError, RefusedError, UnavailableError, VedrError
from vedr.failover.fencing import FirstWay, UnattestedError


@dataclass
class Way:
    """Closes after so many looks, or fails."""

    method: FenceMethod
    error: VedrError | None = None
    looks_until_off: int = 0
    closed: int = 0
    host: str = "a"
    people: VedrError | None = None

    def close(self) -> None:
        self.closed += 1
        if self.error:
            raise self.error

    def prove(self) -> Closed:
        if self.looks_until_off > 0:
            self.looks_until_off -= 1
            raise RefusedError("it is stopping")
        if self.people:
            raise self.people
        return Closed({"way": self.method})


@dataclass
class Clock:
    now_s: float = 0.0
    waited: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def first(clock: Clock, chosen: dict[str, int], *ways: Way) -> FirstWay:
    return FirstWay("a", ways, chosen, sleep=clock.sleep, monotonic=lambda: clock.now_s)


def test_a_host_that_does_not_answer_is_fenced_by_its_cloud_which_is_waited_for_and_remembered() -> None:
    disk = Way("process ended and disk renamed", UnavailableError("silent"))
    cloud, clock, chosen = Way("instance stopped", looks_until_off=30), Clock(), dict[str, int]()
    fence = first(clock, chosen, disk, cloud)
    fence.close()
    assert (fence.method, fence.prove().facts) == ("instance stopped", {"way": "instance stopped"})
    again = first(clock, chosen, disk, cloud)  # another look of the same process
    again.close()
    assert (disk.closed, cloud.closed) == (1, 2)


def test_a_host_that_answers_is_fenced_by_its_own_disk_and_its_machine_runs_on() -> None:
    disk, cloud = Way("process ended and disk renamed"), Way("instance stopped")
    fence = first(Clock(), {}, disk, cloud)
    fence.close()
    assert fence.method == "process ended and disk renamed"
    assert not cloud.closed


def test_when_no_way_is_proven_every_reason_is_said() -> None:
    disk = Way("process ended and disk renamed", UnavailableError("the agent is silent"))
    cloud = Way("instance stopped", looks_until_off=10_000)
    with pytest.raises(UnavailableError, match="the agent is silent; instance stopped: it is stopping"):
        first(Clock(), {}, disk, cloud).close()


def test_another_run_that_acts_on_the_host_is_never_passed_by() -> None:
    disk, cloud = Way("process ended and disk renamed", ConflictError("a newer ticket")), Way("instance stopped")
    with pytest.raises(ConflictError):
        first(Clock(), {}, disk, cloud).close()
    assert not cloud.closed


def test_a_host_whose_peers_have_not_given_it_up_yet_is_waited_for() -> None:
    network = Way("network denied and attested", looks_until_off=105)
    fence = first(Clock(), {}, network)
    fence.close()
    assert fence.prove().facts == {"way": "network denied and attested"}


def test_people_who_do_not_give_their_word_are_not_asked_again_and_the_next_way_is_tried() -> None:
    network = Way("network denied and attested", people=UnattestedError("yan refused"))
    clock = Clock()
    with pytest.raises(UnattestedError, match="yan refused") as caught:
        first(clock, {}, Way("process ended and disk renamed", UnavailableError("silent")), network).close()
    assert not caught.value.transient
    assert clock.now_s == 0
    fence = first(clock, {}, network, Way("instance stopped", looks_until_off=3))
    fence.close()
    assert fence.method == "instance stopped"
