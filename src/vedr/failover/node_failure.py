"""Is this node really down, and how does it come back?  The judgement behind RB-DR-001.

Guarantees: a healthy node is never called failed (two independent sources have to agree: its host's supervisor and its
RPC as seen against the other nodes); a node whose data can't be opened is never merely restarted.
Leaves out: doing it; gathering the evidence is the caller's, so that this is a function of values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from vedr.chain.sync import Prediction
from vedr.errors import RefusedError, VerificationFailedError
from vedr.ports import UnitState

MAX_HEALTHY_LAG_BLOCKS: Final = 10
"""A node this far behind still counts as serving: VirtEngine alerts at 100, a restarted one closes 10 in seconds."""


class Symptom(StrEnum):
    """What is wrong, most to least severe."""

    DATA_LOST = "data lost"
    CRASHED = "crashed"
    UNRESPONSIVE = "unresponsive"
    SIGNER_LOST = "signer lost"
    LAGGING = "lagging"


class Way(StrEnum):
    """How the node comes back."""

    RESTART = "restart"
    SNAPSHOT = "snapshot"
    STATE_SYNC = "state-sync"
    BLOCK_SYNC = "block-sync"


WayChoice = Literal["choose for me", "restart", "snapshot", "state-sync", "block-sync"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was observed of a node, and of its peers for comparison.

    `unit` is None when the supervisor could not be asked; `height` None when the RPC did not answer; `data_opens` None
    when nobody looked (the process runs, so its databases are in use); `signer` is the unit of the remote signer that
    holds the node's key, None where the node has none.
    """

    node: str
    unit: UnitState | None
    height: int | None
    catching_up: bool | None
    tip: int | None
    data_opens: bool | None
    data_finding: str = ""
    signer: UnitState | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A confirmed failure."""

    node: str
    symptom: Symptom
    finding: str
    lag_blocks: int | None


def judge(evidence: Evidence) -> Judgement:
    """Confirm the failure, or refuse.

    Raises:
        RefusedError: the node is healthy: there is nothing to recover.
        VerificationFailedError: the sources can't be asked or contradict each other, so nothing is confirmed.
    """
    if evidence.tip is None:
        raise VerificationFailedError(
            f"no other node tells the chain's tip, so {evidence.node} can't be compared with anything",
            remedy="Check the RPC of the other nodes: if none answers, the chain is down and RB-DR-003 applies.",
        )
    lag = None if evidence.height is None else max(0, evidence.tip - evidence.height)
    if evidence.unit is None:
        raise _unconfirmed(evidence, lag)
    if evidence.unit in {"stopped", "failed"}:
        if lag is not None:
            raise VerificationFailedError(
                f"the supervisor calls {evidence.node} {evidence.unit}, its RPC answers at height {evidence.height}",
                remedy="Something else runs on the node's address: find out what before acting on either.",
            )
        if evidence.data_opens is False:
            return Judgement(evidence.node, Symptom.DATA_LOST, evidence.data_finding, None)
        return Judgement(evidence.node, Symptom.CRASHED, f"its unit is {evidence.unit}", None)
    if lag is None:
        return Judgement(evidence.node, Symptom.UNRESPONSIVE, f"its unit is {evidence.unit}, its RPC is silent", None)
    if lag > MAX_HEALTHY_LAG_BLOCKS:
        return Judgement(evidence.node, Symptom.LAGGING, f"{lag} blocks behind the tip {evidence.tip}", lag)
    if evidence.signer in {"stopped", "failed"}:
        return Judgement(evidence.node, Symptom.SIGNER_LOST, f"its remote signer's unit is {evidence.signer}", lag)
    raise RefusedError(
        f"{evidence.node} is healthy: unit {evidence.unit}, height {evidence.height}, {lag} blocks behind the tip",
        remedy="Check the node's name.  A healthy node is not recovered.",
    )


def _unconfirmed(evidence: Evidence, lag: int | None) -> VerificationFailedError:
    seen = "silent" if lag is None else f"answering at height {evidence.height}"
    return VerificationFailedError(
        f"the supervisor of {evidence.node} can't be reached, its RPC is {seen}: unreachable is not proven down",
        remedy="If its zone is cut off, wait or run RB-DR-002; if only the supervisor is gone, restart that first.",
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """The way that is taken, and how long it should take; `reason` says what the time rests on."""

    way: Way
    predicted_s: float
    reason: str


RESTART_S: Final = 3.0
"""Start and handshake of a node whose data is whole; 0.5 to 2 s were seen in the lab."""


def choose_way(judgement: Judgement, wanted: WayChoice, predictions: Sequence[Prediction]) -> Choice:
    """The fastest way that is open, or the one that was asked for.

    A node whose data opens is restarted, since that keeps everything; one whose data is lost takes the quickest of the
    others by predicted time.

    Raises:
        RefusedError: the wanted way can't be taken, or no way is open; every reason is named.
    """
    blocked: dict[str, str] = {one.method: one.reason for one in predictions if one.took_s is None}
    ways = [
        Choice(Way(prediction.method), prediction.took_s, prediction.reason)
        for prediction in sorted(predictions, key=lambda prediction: prediction.took_s or 0.0)
        if prediction.took_s is not None
    ]
    if judgement.symptom is Symptom.DATA_LOST:
        blocked["restart"] = f"its data does not open: {judgement.finding}"
    else:
        ways.insert(0, Choice(Way.RESTART, RESTART_S, "its data is kept"))
    if wanted != "choose for me":
        for choice in ways:
            if choice.way == wanted:
                return choice
        raise RefusedError(
            f"{judgement.node} can't come back by {wanted}: {blocked.get(wanted, 'nobody predicted it')}",
            remedy="Leave the choice to vedr, or take another way.",
        )
    if not ways:
        reasons = "; ".join(f"{way}: {reason}" for way, reason in blocked.items())
        raise RefusedError(
            f"{judgement.node} has no way back: {reasons}",
            remedy="Remove one of these causes, then resume the incident.",
        )
    return ways[0]
