"""Is this node's data damaged, and which part of it?  The judgement behind RB-DR-004.

Guarantees: a node is called corrupt only on a finding that can be shown (a contradiction of a verified header, a
database that does not open, a file that does not parse, the node's own last words); a healthy node, and one that merely
crashed, are refused; what could not be looked at is never taken as whole.
Leaves out: gathering the evidence, which is the caller's, so that this is a function of values.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from vedr.errors import RefusedError, VerificationFailedError
from vedr.failover.node_failure import MAX_HEALTHY_LAG_BLOCKS
from vedr.ports import UnitState

Kind = Literal["state", "database", "config"]
KindChoice = Literal["choose for me", "state", "database", "config"]
CONSENSUS_LOG: Final = "data/cs.wal"
"""The one part of the data that a node can do without."""

KEY_FILES: Final = ("config/node_key.json", "config/priv_validator_key.json")
MAX_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, and how it shows; `subject` is a path in the node's home, or `state`."""

    kind: Kind
    subject: str
    detail: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was observed of a node.

    `unit` is None when its supervisor could not be asked, `height` None when its RPC did not answer, `tip` None when
    no other node did.  `unchecked` names what ought to have been looked at and could not; `whole` what was and is well.
    """

    node: str
    unit: UnitState | None
    height: int | None
    tip: int | None
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...]
    whole: tuple[str, ...]
    others_wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Confirmed damage.  `unit` is the state that the node's unit was found in."""

    node: str
    kind: Kind
    findings: tuple[Finding, ...]
    unit: UnitState
    lag_blocks: int | None
    unchecked: tuple[str, ...]
    others_wrong: tuple[str, ...]

    @property
    def config_files(self) -> tuple[str, ...]:
        """Files to be replaced, as paths in the home."""
        return tuple(sorted({one.subject for one in self.findings if one.kind == "config"}))

    @property
    def is_data_lost(self) -> bool:
        """Whether more than the consensus log is damaged."""
        return any(one.kind != "config" and one.subject != CONSENSUS_LOG for one in self.findings)

    @property
    def is_log_lost(self) -> bool:
        """Whether the consensus log is damaged."""
        return any(one.subject == CONSENSUS_LOG for one in self.findings)

    @property
    def is_state_wrong(self) -> bool:
        """Whether the databases can be read and hold another state than the chain's."""
        kinds = {one.kind for one in self.findings if one.subject != CONSENSUS_LOG}
        return "state" in kinds and "database" not in kinds


def judge(evidence: Evidence, wanted: KindChoice) -> Diagnosis:
    """Confirm the damage, or refuse.

    Raises:
        RefusedError: nothing is damaged, or not what was named, or keys are missing, which no configuration backup has.
        VerificationFailedError: its supervisor can't be asked, or nothing was found where not all could be looked at.
    """
    if evidence.unit is None:
        raise VerificationFailedError(
            f"the supervisor of {evidence.node} can't be reached: it could not be stopped before it is repaired",
            remedy="Bring its zone's supervisor back, then run it again; if the zone is lost, RB-DR-002 applies.",
        )
    if not evidence.findings:
        raise _nothing_found(evidence)
    if keys := [one for one in evidence.findings if one.subject in KEY_FILES]:
        raise _keys_missing(evidence.node, keys)
    kinds = {one.kind for one in evidence.findings}
    if wanted not in ("choose for me", *kinds):
        raise RefusedError(
            f"{evidence.node}: nothing of kind {wanted} is damaged; found: {shown(evidence.findings)}",
            remedy="Leave the kind to vedr.",
        )
    first: Kind = next(kind for kind in ("database", "state", "config") if kind in kinds)
    return Diagnosis(
        node=evidence.node,
        kind=first if wanted == "choose for me" else wanted,
        findings=evidence.findings,
        unit=evidence.unit,
        lag_blocks=_lag(evidence),
        unchecked=evidence.unchecked,
        others_wrong=evidence.others_wrong,
    )


def merged(diagnosis: Diagnosis, later: Evidence) -> Diagnosis:
    """The diagnosis with what was found afterwards, when the node stood still and all could be read.

    Raises:
        RefusedError: keys are missing.
    """
    known = {(one.kind, one.subject) for one in diagnosis.findings}
    added = tuple(one for one in later.findings if (one.kind, one.subject) not in known)
    if keys := [one for one in added if one.subject in KEY_FILES]:
        raise _keys_missing(diagnosis.node, keys)
    return replace(diagnosis, findings=(*diagnosis.findings, *added), unchecked=later.unchecked)


def _keys_missing(node: str, keys: Iterable[Finding]) -> RefusedError:
    return RefusedError(
        f"{node}: {shown(keys)}: keys are never in a configuration backup",
        remedy="Restore them first: `vedr keys restore`; if they may be in other hands, run RB-DR-005.",
    )


def shown(findings: Iterable[object]) -> str:
    """In one line, the first few of them."""
    texts = [str(one) for one in findings]
    more = f"; {len(texts) - MAX_SHOWN} more" if len(texts) > MAX_SHOWN else ""
    return "; ".join(texts[:MAX_SHOWN]) + more


def is_serving(unit: UnitState | None, height: int | None, tip: int | None) -> bool:
    """Whether a node runs, answers and keeps up."""
    if unit != "running" or height is None or tip is None:
        return False
    return tip - height <= MAX_HEALTHY_LAG_BLOCKS


def _lag(evidence: Evidence) -> int | None:
    if evidence.height is None or evidence.tip is None:
        return None
    return max(0, evidence.tip - evidence.height)


def _nothing_found(evidence: Evidence) -> RefusedError | VerificationFailedError:
    where = f"unit {evidence.unit}, height {evidence.height}, tip {evidence.tip}"
    if evidence.unchecked:
        return VerificationFailedError(
            f"{evidence.node} ({where}): nothing damaged was found, but not all could be looked at: "
            + shown(evidence.unchecked),
            remedy="Remove what kept it from being looked at; stop the node, so that its databases can be read.",
        )
    whole = shown(evidence.whole) or "nothing was read"
    if is_serving(evidence.unit, evidence.height, evidence.tip):
        return RefusedError(
            f"{evidence.node} is healthy ({where}): {whole}",
            remedy="Check the node's name.  If you know of damage that does not show, stop the node: then all is read.",
        )
    return RefusedError(
        f"{evidence.node} is down or behind ({where}), but its data is whole: {whole}",
        remedy="Run RB-DR-001: it restarts a node whose data is whole.",
    )
