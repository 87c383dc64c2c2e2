"""Bringing a vote to the network: which node takes it, and whether it arrived.

One try asks the signer's own node, or that and the site's others in turn, until one settles it:
    1. The node is of this chain, caught up, and decides the vote's height; its validator set has this key.
    2. It does not hold the vote yet.  A precommit for a block only where the node saw more than 2/3 prevote that block,
       as CometBFT asks of whoever precommits: what the registers say is one bucket's word, which must not commit.
    3. As an ordinary peer (`peer`) send it, and look until the node shows it among its votes.  It passes it on.

Guarantees: `PUBLISHED` and `KNOWN` only after a node showed the vote; a vote that is not of this key, or that would
need an extension, is never sent.  A try has an end.  Leaves out: signing, and when to try again (`finishing`).

Why a node that shows the vote is enough: nodes gossip every vote that they hold to each peer that lacks it.

Why the own node comes first, and gets a prevote only once it has come to that step: CometBFT counts prevotes when one
is added.  A node that has all of them before it prevotes itself, and whose signer then refuses it another content,
counts no more and stays in that step (seen).  A prevote that comes later is counted; precommits are in any step.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.chain.block import Validator
from vedr.chain.rpc import ConsensusState, Status
from vedr.errors import ConflictError, RefusedError, UnavailableError, VedrError
from vedr.inventory import Height
from vedr.signer.messages import MessageType, Vote
from vedr.signer.peer import NodeInfo, Peer
from vedr.signer.secret_connection import node_id as id_of
from vedr.signer.stream import Stream

ARRIVAL_DEADLINE_S: Final = 5.0  # from the vote's sending until the node shows it
LONGEST_VISIT_S: Final = 2 * ARRIVAL_DEADLINE_S  # of a connection, from the first byte: what `dial` has to keep to
LOOK_EVERY_S: Final = 0.1
_PREVOTE_STEP: Final = 4  # consensus/types/round_state.go


class VoteRpc(Protocol):
    """What is asked of a node.  Errors as of vedr.chain.rpc.HeaderSource."""

    def status(self) -> Status:
        """Who and how far it is."""

    def consensus_state(self) -> ConsensusState:
        """The height being decided, its validators, and the votes."""

    def vote_extensions_from(self) -> Height:
        """The first height whose precommits carry extensions; 0 for never."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """A node by which a vote may enter the network.

    Attributes:
        name: The node's.
        ask: Opens its RPC.
        dial: Opens a SecretConnection to its p2p port, proven to be the node of this id, for a peer with this key;
            over after LONGEST_VISIT_S, whatever the node does.
    """

    name: str
    ask: Callable[[], AbstractContextManager[VoteRpc]]
    dial: Callable[[str, Ed25519PrivateKey], AbstractContextManager[Stream]]


class Outcome(StrEnum):
    """What came of a try, as metrics and logs name it."""

    PUBLISHED = "published"
    KNOWN = "known"
    PASSED = "passed"
    CONFLICTING = "conflicting"
    NOT_PUBLISHED = "not_published"

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do."""
        return self is not Outcome.NOT_PUBLISHED


@dataclass(frozen=True, slots=True)
class Try:
    """How one try ended, by which node, and why no other did."""

    outcome: Outcome
    node: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Publisher:
    """Brings votes of one key to one chain.

    Attributes:
        chain_id: The chain's.
        key: The consensus key that signed.
        entrances: The nodes, in the order in which they are tried; the signer's own is the first.
    """

    chain_id: str
    key: bytes
    entrances: Sequence[Entrance]
    sleep: Callable[[float], None] = field(default=time.sleep)
    monotonic: Callable[[], float] = field(default=time.monotonic)

    def publish(self, vote: Vote, *, by_all: bool = True, is_over: Callable[[], bool] = lambda: False) -> Try:
        """Try the first entrance, or all, once each, until one settles it or `is_over`; raises nothing of ours."""
        problems: list[str] = []
        for entrance in self.entrances if by_all else self.entrances[:1]:
            if is_over():
                break
            try:
                with entrance.ask() as rpc:
                    return Try(self._by(entrance, rpc, vote), entrance.name, tuple(problems))
            except ConflictError as error:
                return Try(Outcome.CONFLICTING, entrance.name, (*problems, error.message))
            except VedrError as error:
                problems.append(f"{entrance.name}: {error.message[:200]}")
        return Try(Outcome.NOT_PUBLISHED, problems=tuple(problems) or ("no node is known",))

    def _by(self, entrance: Entrance, rpc: VoteRpc, vote: Vote) -> Outcome:
        status = rpc.status()
        if status.chain_id != self.chain_id:
            raise _not_here(f"the node is of chain {status.chain_id[:50]}")
        if status.catching_up:
            raise _not_here(f"the node is catching up, at {status.latest_height}")
        state = rpc.consensus_state()  # (1)
        if state.height < vote.height:
            raise _not_here(f"the node is behind: it decides {state.height}")
        if state.height > vote.height:
            return Outcome.PASSED
        own = Validator(self.key, 1).address
        if _is_shown(state, vote, own):  # (2)
            return Outcome.KNOWN
        is_early = vote.type is MessageType.PREVOTE and (state.round, state.step) < (vote.round, _PREVOTE_STEP)
        if is_early and entrance is self.entrances[0]:
            raise _not_here(f"the node has not come to this prevote: it is in round {state.round}, step {state.step}")
        if vote.takes_extension and 0 < (first := rpc.vote_extensions_from()) <= vote.height:
            raise _not_here(f"precommits carry extensions from {first} on, which are not known to this signer")
        if vote.takes_extension and state.valid_block != vote.block_id.hash:
            raise _not_here("the node did not see 2/3 prevote the block that the precommit is for")
        keys = [validator.key for validator in state.validators.validators]
        if self.key not in keys:
            raise _not_here(f"the key is no validator's at {state.height}")
        addressed = replace(vote, validator_address=own, validator_index=keys.index(self.key))
        return self._send(entrance, rpc, addressed, status.node_id)  # (3)

    def _send(self, entrance: Entrance, rpc: VoteRpc, vote: Vote, node_id: str) -> Outcome:
        until = self.monotonic() + ARRIVAL_DEADLINE_S
        key = Ed25519PrivateKey.generate()  # a peer that comes again under an old id may be refused
        ours = NodeInfo(id_of(key.public_key().public_bytes_raw()), self.chain_id)
        with entrance.dial(node_id, key) as stream:
            peer = Peer.meet(stream, ours, expected_node_id=node_id)
            peer.send(vote)
            while self.monotonic() < until:
                state = rpc.consensus_state()
                if state.height > vote.height or _is_shown(state, vote, vote.validator_address):
                    return Outcome.PUBLISHED
                peer.check()
                self.sleep(LOOK_EVERY_S)
        raise UnavailableError(
            f"the vote was sent, and the node does not show it after {ARRIVAL_DEADLINE_S:g} s",
            remedy="See the node's log; another node is tried.",
        )


def _is_shown(state: ConsensusState, vote: Vote, address: bytes) -> bool:
    """Whether it is among the node's votes; ConflictError where another one is in its place."""
    shown = [seen for seen in state.votes_of(address) if (seen.height, seen.round, seen.step) == vote.hrs]
    if any(seen.for_nil != vote.is_nil or not vote.block_id.hash.startswith(seen.block_start) for seen in shown):
        raise ConflictError(
            f"the node holds another {vote.kind} of this key at {vote.height}/{vote.round}",
            remedy="Stop every signer of this key and raise a key-compromise incident.",
        )
    return bool(shown)


def _not_here(problem: str) -> RefusedError:
    return RefusedError(problem, remedy="Another node is tried.")
