"""A register goes with its site's file when regions are changed there: the one take-over that may cross from the old to
the new.

Why it is safe, and may be repeated.  Let W be the smallest majority of the new regions and M that of the old ones.
    - Regions that come in are empty, so that the take-over's majority, of W regions, is one of regions that are kept.
    - W + M is more than the old regions are, so that it shares a region with every majority of them: it begins from all
      that the last holder could release, passes that one, and whoever has the old file yet finds it and is refused.

Guarantees: the above, or nothing is written.  Leaves out: giving every host the new file.
"""

from collections.abc import Callable, Mapping
from typing import Final

from vedr.chain.register import NOBODY, name_of_places
from vedr.chain.register_claim import ABSENT, Change
from vedr.chain.register_holding import LOOK_DEADLINE_S, SignStateRegister
from vedr.chain.register_survey import Seen
from vedr.errors import RefusedError, UnavailableError

EVERYWHERE_S: Final = 5.0


def move(
    register: SignStateRegister,
    *,
    was: Mapping[str, str],
    now: Mapping[str, str],
    unique: str,
    is_harmless: Callable[[bytes], bool] = lambda _: False,
    deadline_s: float = LOOK_DEADLINE_S,
) -> Seen:
    """Take the register over for the signer that holds it, which has to be started anew with the new file.

    Args:
        register: The key's, in the regions of now.
        was: The register's bucket by region, as the old file has it.
        now: The same by the new file.
        unique: Makes the holder's name one that no process ever had.
        is_harmless: As of `SignStateRegister.take_over`.
        deadline_s: For the look at all regions, before and after.

    Returns:
        What they show then.  One that answers late takes it by the next take-over.

    Raises:
        RefusedError: it is too much at once, a region that comes in is not empty, or the registers are in yet others.
        UnavailableError: no majority of the new regions answers, or takes it: repeat it.
        CorruptError: they have lost it.
    """
    seen = register.look(deadline_s=deadline_s)
    if seen.newest is None or not seen.is_majority:
        shown = "; ".join(f"{region}: {problem}" for region, problem in sorted(seen.problems.items()))
        raise UnavailableError(
            f"no majority of the regions shows the register: {shown}", remedy="Restore the connection to their stores."
        )
    if seen.newest.holder == NOBODY or _has_moved(seen, name_of_places(now)):
        return seen
    incoming = _incoming(register, seen, was, now)
    name = seen.newest.holder.partition("/")[0]
    with register.take_over(
        seen.next_epoch,
        f"{name}/regions#{unique}@{name_of_places(now)}",
        is_harmless=is_harmless,
        change=Change(name_of_places(was), incoming),
    ) as holding:
        holding.wait_until_everywhere(deadline_s=EVERYWHERE_S)
    return register.look(deadline_s=deadline_s)


def _has_moved(seen: Seen, places: str) -> bool:
    """Whether a majority of the new regions shows the newest holder, and that one names them."""
    newest = [one for one in seen.contents.values() if seen.newest and one.holder == seen.newest.holder]
    return newest[0].places == places and 2 * len(newest) > len(seen.contents) + len(seen.problems)


def _incoming(
    register: SignStateRegister, seen: Seen, was: Mapping[str, str], now: Mapping[str, str]
) -> frozenset[str]:
    """The regions that come in, seen to be empty; RefusedError or UnavailableError where it is not safe."""
    kept = {region for region, bucket in was.items() if now.get(region) == bucket}
    least, old_majority = len(now) // 2 + 1, len(was) // 2 + 1
    if len(kept) < least or least + old_majority <= len(was):
        raise RefusedError(
            f"of {len(was)} regions only {', '.join(sorted(kept)) or 'none'} are kept among {len(now)}: two majorities "
            "could share none",
            remedy="Change one region at a time, and move the registers after each.",
        )
    incoming = frozenset(set(now) - kept)
    for region in sorted(incoming):
        if region in seen.contents:
            raise RefusedError(
                f"{region} comes in and is not empty: {seen.contents[region]}",
                remedy=f"It tells of another time.  Delete {register.validator.key} there, then repeat this.",
            )
        if seen.problems[region] != ABSENT:
            raise UnavailableError(
                f"{region} comes in, and is not known to be empty: {seen.problems[region]}",
                remedy="Restore the connection to its store, then repeat this.",
            )
    return incoming
