"""What earlier runs recorded tells the disk that signed last from one that was rebuilt since."""

from pathlib import Path
from typing import Any

import pytest
from promotion_world import TIP, World

from vedr.chain.fence import FenceProof, HostFence
from vedr.chain.sign_state import SignState
from vedr.errors import CorruptError, NotFoundError, RefusedError
from vedr.failover.promotion_history import read_history
from vedr.failover.promotion_stages import Evidence, StageName
from vedr.inventory import Height

Recorded = tuple[StageName, Evidence]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def fenced(epoch: int, **finals: str | None) -> Recorded:
    return "fenced", {"epoch": epoch, "hosts": [{"host": host, "final": final} for host, final in finals.items()]}


def arming(epoch: int, host: str, floor: str) -> Recorded:
    return "arming", {"epoch": epoch, "host": host, "floor": floor}


def armed(epoch: int, host: str, floor: str) -> Recorded:
    return "armed", {"epoch": epoch, "host": host, "floor": floor}


def state(text: str) -> SignState:
    height, round_, step = map(int, text.split("/"))
    return SignState(Height(height), round_, step)


def proof(**finals: str) -> FenceProof:
    closed = tuple(HostFence(host, "unit stopped", None, {}, state(final)) for host, final in finals.items())  # type: ignore[arg-type]
    made = object.__new__(FenceProof)
    object.__setattr__(made, "fences", closed)
    return made


def check(recorded: list[Recorded], **finals: str) -> None:
    shown = [state(final) for final in finals.values()]
    read_history("a", recorded).check_final(proof(**finals), max(shown, key=lambda one: one.hrs))


def test_a_key_that_never_moved_is_signed_last_by_its_own_host() -> None:
    check([], a="101/0/3", b="99/0/0")
    with pytest.raises(RefusedError, match="a signed last, and shows less than 99/0/0"):
        check([], a="50/0/0", b="99/0/0")


def test_after_a_promotion_the_standby_signed_last() -> None:
    moved = [fenced(1, a="101/0/2", b="0/0/0"), arming(1, "b", "101/0/2"), armed(1, "b", "101/0/2")]
    check(moved, a="101/0/2", b="101/2/3")
    check(moved, a="50/0/0", b="101/2/3")
    with pytest.raises(RefusedError, match="b may have signed last, and its disk says 50/0/0"):
        check(moved, a="101/0/2", b="50/0/0")


def test_a_host_that_was_only_about_to_be_started_leaves_the_one_before_in_question() -> None:
    stopped = [fenced(1, a="101/0/1", b="99/0/0"), arming(1, "b", "101/0/1")]
    check(stopped, a="101/0/1", b="101/0/3")
    check(stopped, a="101/0/3", b="101/0/1")
    with pytest.raises(RefusedError, match="a may have signed last, and its disk says 50/0/0"):
        check(stopped, a="50/0/0", b="101/0/1")


def test_a_disk_below_what_it_showed_to_an_earlier_fence_is_another() -> None:
    with pytest.raises(RefusedError, match="not what it has shown before"):
        check([fenced(1, a="101/0/3", b="0/0/0")], a="100/0/3", b="0/0/0")


def test_a_disk_that_was_missing_at_an_earlier_fence_never_proves_again_what_it_signed() -> None:
    with pytest.raises(NotFoundError, match="fenced without its disk"):
        check([fenced(1, a=None, b="0/0/0")], a="100/0/3", b="0/0/0")
    with pytest.raises(NotFoundError, match="fenced without its disk"):
        check([fenced(1, a=None, b="0/0/0"), arming(1, "b", "130/0/0")], a="100/0/3", b="130/0/0")


def test_a_promotion_puts_an_end_to_an_earlier_loss() -> None:
    check([fenced(1, a=None, b="0/0/0"), armed(1, "b", "130/0/0")], a="50/0/0", b="131/0/3")
    check([fenced(1, a=None, b="0/0/0"), arming(1, "a", "130/0/0")], a="131/0/3", b="0/0/0")


def test_a_last_signer_that_nobody_fenced_proves_nothing() -> None:
    with pytest.raises(RefusedError, match="c may have signed last, and its disk says None"):
        check([arming(1, "c", "100/0/0")], a="120/0/0", b="0/0/0")


def test_runs_are_read_in_the_order_of_their_epochs() -> None:
    history = read_history("a", [armed(2, "c", "130/0/0"), armed(1, "b", "120/0/0")])
    assert history.signers == {"c"}


@pytest.mark.parametrize(
    "recorded",
    [
        ("fenced", {"epoch": 1}),
        ("fenced", {"epoch": 1, "hosts": ["a"]}),
        ("fenced", {"epoch": 1, "hosts": [{"host": "a", "final": "101"}]}),
        ("arming", {"epoch": 1, "host": "b"}),
        ("arming", {"epoch": 1, "host": "b", "floor": "x/y/z"}),
        ("locked", {"epoch": "1"}),
    ],
)
def test_a_record_that_cannot_be_understood_is_never_skipped(recorded: Any) -> None:
    with pytest.raises(CorruptError, match="recorded"):
        read_history("a", [recorded])


def test_on_a_halted_chain_a_rebuilt_disk_needs_two_people(world: World) -> None:
    """The disk of the signer was lost and rebuilt from an old backup after an earlier run had seen it missing."""
    world.network.moves = False
    world.hosts["a"].put(SignState(Height(TIP - 50), 0, 0))
    world.ledger.append(fenced(1, a=None, b="0/0/0"))
    with pytest.raises(RefusedError, match="final state is not proven"):
        world.promote()
    assert not world.hosts["b"].running
