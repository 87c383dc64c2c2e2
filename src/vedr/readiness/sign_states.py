"""Check of the validators' sign states: where they would be read when a host and its disk are gone.

Guarantees: every validator is judged by the way it signs: by its register when signers hold its key in turn, else by
the shipped copies of its file; one that has neither is a failure.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from vedr.chain.register import Validator
from vedr.chain.register_holding import SignStateRegister
from vedr.chain.register_survey import Seen
from vedr.chain.rpc import ChainRpc
from vedr.chain.shipping_watch import Copies, look_at_copies
from vedr.errors import UnavailableError
from vedr.inventory import Node, Site
from vedr.policies.checks import Checks
from vedr.ports import Registers
from vedr.readiness.examining import MARGIN, examine
from vedr.readiness.finding import Part, Verdict, combine
from vedr.readiness.side_by_side import side_by_side

_SHIP: Final = "Start the shipper on its host (vedr sign-state ship), or restore the regions' stores."
_BEHIND: Final = "If that bucket was put back from a copy, delete the object there and restart the signer of {}."
_REGISTER: Final = "Restore the regions' stores; see vedr signer status --validator {}."


def sign_states(
    site: Site, rpc: Callable[[Node], ChainRpc], registers: Mapping[str, Registers], policy: Checks
) -> Verdict:
    """Each validator's sign state is in a majority of the regions, and near the tip."""
    tip = _tip(site, rpc, policy)

    def look(node: Node) -> Part:
        validator = Validator(site.chain.chain_id, node.address)
        seen = SignStateRegister(registers, validator).look()
        if site.signers_of(node.name) or seen.newest is not None:
            return judge_register(node.name, seen, tip, policy)
        return judge_copies(node.name, look_at_copies(validator, registers), tip, policy)

    looks = {node.name: partial(look, node) for node in site.nodes if node.is_validator}
    return combine(
        examine(looks, deadline_s=policy.deadline_of("sign-states") * MARGIN),
        expected=f"every validator's sign state in a majority of the regions, within {policy.sign_state_warn_blocks} "
        "blocks of the tip",
        nothing="Name the site's validators in its file.",
    )


def _tip(site: Site, rpc: Callable[[Node], ChainRpc], policy: Checks) -> int:
    """By nodes of the chain that are in sync: of one that is far behind everybody is level with the tip."""
    calls = {node.name: partial(lambda one: rpc(one).status(), node) for node in site.nodes}
    answers = side_by_side(calls, deadline_s=policy.subject_deadline_s)
    seen = [answer.value for answer in answers.values() if answer.value is not None]
    heights = [one.latest_height for one in seen if one.chain_id == site.chain.chain_id and not one.catching_up]
    if not heights:
        raise UnavailableError(
            "no node in sync tells the chain's height, so no lag can be told",
            remedy="Bring nodes back first: RB-DR-001.",
        )
    return max(heights)


def judge_register(name: str, seen: Seen, tip: int, policy: Checks) -> Part:
    """Pure: a majority shows it, somebody holds it, and what it shows is near the tip."""
    remedy = _REGISTER.format(name)
    problems = "; ".join(f"{region}: {problem}" for region, problem in seen.problems.items())
    if seen.newest is None or not seen.is_majority:
        return Part(name, "failed", f"its register is in no majority of the regions ({problems})", remedy)
    if not seen.newest.holder:
        return Part(
            name, "failed", "nobody holds its register", f"Start its signer; see vedr signer status --validator {name}."
        )
    part = _judge_lag(name, "register", tip - seen.newest.position.height, policy)
    if part.status == "passed" and problems:
        return Part(name, "warning", f"its register is not everywhere ({problems})", remedy)
    behind = _behind(seen, policy.sign_state_warn_blocks)
    if part.status == "passed" and behind:
        return Part(name, "warning", f"its register stays behind ({behind})", _BEHIND.format(name))
    return part


def _behind(seen: Seen, most_blocks: int) -> str:
    """Regions that answer and are not written: put back from a copy, or forbidden to write."""
    top = max(content.position.height for content in seen.contents.values())
    return "; ".join(
        f"{region}: at {content.position}"
        for region, content in sorted(seen.contents.items())
        if top - content.position.height > most_blocks
    )


def judge_copies(name: str, copies: Copies, tip: int, policy: Checks) -> Part:
    """Pure: a majority has a shipped copy, the highest is near the tip, and so is what most regions have."""
    problems = "; ".join(f"{region}: {problem}" for region, problem in copies.problems.items())
    if not copies.is_majority:
        return Part(name, "failed", f"shipped copies in no majority of the regions ({problems})", _SHIP)
    heights = sorted((state.height for state in copies.states), reverse=True)
    part = _judge_lag(name, "shipped copies", tip - heights[0], policy)
    if part.status == "passed":
        regions = len(copies.shipped) + len(copies.problems)
        part = _judge_lag(name, "a majority's shipped copies", tip - heights[regions // 2], policy)
    if part.status == "passed" and problems:
        return Part(name, "warning", f"its state is not shipped everywhere ({problems})", _SHIP)
    return part


def _judge_lag(name: str, what: str, behind: int, policy: Checks) -> Part:
    remedy = f"Does {name} sign?  If so, what keeps its state back: vedr sign-state show, vedr signer status."
    if behind > policy.sign_state_max_blocks:
        return Part(name, "failed", f"{what} {behind} blocks behind", remedy)
    if behind < -policy.sign_state_max_blocks:
        ask = "Which of the two is wrong?  Compare the nodes' /status and vedr sign-state show."
        return Part(name, "failed", f"{what} {-behind} blocks ahead of what the nodes show", ask)
    if behind > policy.sign_state_warn_blocks:
        return Part(name, "warning", f"{what} {behind} blocks behind", remedy)
    return Part(name, "passed", f"{what} {max(0, behind)} behind")
