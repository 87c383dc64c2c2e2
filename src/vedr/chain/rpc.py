"""What a node's RPC tells, as typed values, and the Protocols by which the domain asks.

Guarantees: `parse_*` functions give frozen data or raise CorruptError.  Leaves out: transport (`adapters/rpc.py`) and
truth: a node may lie, and `light` finds out.

Source: cometbft v0.38 rpc/core and rpc/openapi.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from vedr.chain.block import ADDRESS_BYTES, HASH_BYTES, Header, SignedHeader, Validator, ValidatorSet
from vedr.chain.quorum import online_addresses
from vedr.chain.wire import Value
from vedr.errors import CorruptError, NotFoundError
from vedr.inventory import Height

ONLINE_COMMITS: Final = 3  # one late vote is not an absence
MAX_HEADERS_A_CALL: Final = 20  # rpc/core/blocks.go: /blockchain gives no more


@dataclass(frozen=True, slots=True)
class Status:
    """`/status`.  `latest_app_hash` is the application's state after height - 1."""

    node_id: str
    chain_id: str
    moniker: str
    version: str
    latest_height: Height
    latest_block_hash: bytes
    latest_app_hash: bytes
    latest_time_ns: int
    earliest_height: Height
    catching_up: bool
    validator_address: bytes
    validator_power: int


@dataclass(frozen=True, slots=True)
class AbciInfo:
    """`/abci_info`: the application's own height and hash."""

    height: Height
    app_hash: bytes
    version: str
    app_version: int


@dataclass(frozen=True, slots=True)
class Peer:
    node_id: str
    moniker: str
    outbound: bool


@dataclass(frozen=True, slots=True)
class NetInfo:
    """`/net_info`: who the node is connected to."""

    listening: bool
    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class SeenVote:
    """A vote or proposal that a node holds; `step` is FilePV's: 1 propose, 2 prevote, 3 precommit.

    `block_start` is how the hash of a vote's block begins, as far as nodes tell it; b"" where they don't.
    """

    address: bytes
    height: Height
    round: int
    step: int
    for_nil: bool
    block_start: bytes = b""


@dataclass(frozen=True, slots=True)
class ConsensusState:
    """`/dump_consensus_state`: the height being decided, and the votes held for it and for the one before.

    `valid_block` is the hash of the newest block that the node holds and saw more than 2/3 prevote; b"" for none.
    """

    height: Height
    round: int
    step: int
    validators: ValidatorSet
    votes: tuple[SeenVote, ...]
    valid_block: bytes = b""

    def votes_of(self, address: bytes) -> tuple[SeenVote, ...]:
        return tuple(vote for vote in self.votes if vote.address == address)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Proof of misbehaviour in a block, and whom it accuses."""

    kind: str
    height: Height
    addresses: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """`/block`, without its transactions."""

    hash: bytes
    header: Header
    evidence: tuple[Evidence, ...]


class HeaderSource(Protocol):
    """A node as the light client asks it.  Calls are bounded in time and answer size, and safe to repeat.

    Raises, all methods: UnavailableError (no answer, in time), NotFoundError (a height that the node lacks: not yet
    made, or pruned), CorruptError (an answer that is not CometBFT's).
    """

    @property
    def name(self) -> str:
        """For messages: which node this is."""

    def status(self) -> Status:
        """Who and how far it is."""

    def commit(self, height: Height | None = None) -> SignedHeader:
        """The header and commit at a height; the newest when none is given."""

    def validators(self, height: Height) -> ValidatorSet:
        """The whole set that signs at the height."""

    def headers(self, low: Height, high: Height) -> tuple[Header, ...]:
        """Headers from high down to low, both included; at most MAX_HEADERS_A_CALL, those nearest to high."""


class ChainRpc(HeaderSource, Protocol):
    """All that runbooks ask of a node."""

    def abci_info(self) -> AbciInfo:
        """The application's height and hash."""

    def net_info(self) -> NetInfo:
        """Its peers."""

    def consensus_state(self) -> ConsensusState:
        """The round being decided, with the votes."""

    def block(self, height: Height | None = None) -> Block:
        """A block's header, evidence and number of transactions."""

    def genesis(self) -> bytes:
        """The genesis document as JSON; the node writes it anew, so its bytes differ from the file's."""


def parse_status(value: Value) -> Status:
    node, sync, validator = value["node_info"], value["sync_info"], value["validator_info"]
    return Status(
        node_id=node["id"].text(),
        chain_id=node["network"].text(),
        moniker=node["moniker"].text(),
        version=node["version"].text(),
        latest_height=Height(sync["latest_block_height"].int64()),
        latest_block_hash=sync["latest_block_hash"].hexadecimal(0, HASH_BYTES),
        latest_app_hash=sync["latest_app_hash"].hexadecimal(),
        latest_time_ns=sync["latest_block_time"].time_ns(),
        earliest_height=Height(sync["earliest_block_height"].int64()),
        catching_up=sync["catching_up"].flag(),
        validator_address=validator["address"].hexadecimal(0, ADDRESS_BYTES),
        validator_power=validator["voting_power"].int64(),
    )


def parse_abci_info(value: Value) -> AbciInfo:
    """Go leaves out members that are zero: a fresh application has neither height nor hash."""
    response = value["response"]
    members = response.members()
    return AbciInfo(
        height=Height(response["last_block_height"].int64() if "last_block_height" in members else 0),
        app_hash=response["last_block_app_hash"].base64(),
        version=response["version"].text() if "version" in members else "",
        app_version=response["app_version"].int64() if "app_version" in members else 0,
    )


def parse_net_info(value: Value) -> NetInfo:
    return NetInfo(
        listening=value["listening"].flag(),
        peers=tuple(
            Peer(
                node_id=peer["node_info"]["id"].text(),
                moniker=peer["node_info"]["moniker"].text(),
                outbound=peer["is_outbound"].flag(),
            )
            for peer in value["peers"].items()
        ),
    )


def parse_validators(pages: Sequence[Value], height: Height) -> ValidatorSet:
    """All pages of `/validators`, in order; CorruptError when they are of another height or don't add up."""
    validators = tuple(Validator.parse(item) for page in pages for item in page["validators"].items())
    for page in pages:
        if page["block_height"].int64() != height:
            raise page["block_height"].wrong(f"height {height}")
        if page["total"].int64() != len(validators):
            raise page["total"].wrong(f"{len(validators)}, as many as were listed")
    return ValidatorSet(validators)


def parse_headers(value: Value, low: Height, high: Height) -> tuple[Header, ...]:
    """`/blockchain`; CorruptError unless the headers descend one by one from high."""
    headers = tuple(Header.parse(meta["header"]) for meta in value["block_metas"].items())
    expected = tuple(range(high, max(low, high - MAX_HEADERS_A_CALL + 1) - 1, -1))
    if tuple(header.height for header in headers) != expected:
        raise value["block_metas"].wrong(f"headers {expected[0]} down to {expected[-1]}")
    return headers


def parse_vote_extensions(value: Value) -> Height:
    """`/consensus_params`: the first height whose precommits carry extensions; 0 for never."""
    abci = value["consensus_params"]["abci"]
    if not abci.present() or not abci["vote_extensions_enable_height"].present():
        return Height(0)
    return Height(abci["vote_extensions_enable_height"].int64())


def parse_block(value: Value) -> Block:
    block = value["block"]
    return Block(
        hash=value["block_id"]["hash"].hexadecimal(HASH_BYTES),
        header=Header.parse(block["header"]),
        evidence=tuple(_evidence(item) for item in block["evidence"]["evidence"].items()),
    )


def _evidence(item: Value) -> Evidence:
    kind, value = item["type"].text().rpartition("/")[2], item["value"]
    match kind:
        case "DuplicateVoteEvidence":
            vote = value["vote_a"]
            return Evidence(
                kind,
                Height(vote["height"].int64(low=1)),
                (vote["validator_address"].hexadecimal(ADDRESS_BYTES),),
            )
        case "LightClientAttackEvidence":
            return Evidence(
                kind,
                Height(value["common_height"].int64(low=1)),
                tuple(
                    accused["address"].hexadecimal(ADDRESS_BYTES) for accused in value["byzantine_validators"].items()
                ),
            )
        case _:
            raise item["type"].wrong("DuplicateVoteEvidence or LightClientAttackEvidence")


# types.Vote.String: index, 6 bytes of the address, height/round/type, 6 bytes of the block hash (zeros for nil), …
_VOTE: Final = re.compile(
    r"Vote\{(\d{1,5}):([0-9A-F]{12}) (\d{1,19})/(\d{1,10})/SIGNED_MSG_TYPE_(PREVOTE|PRECOMMIT)\(\w+\) "
    r"([0-9A-F]{12}) .*\}"
)
_NO_VOTE: Final = "nil-Vote"
_NIL_BLOCK: Final = "0" * 12
_STEP: Final = {"PREVOTE": 2, "PRECOMMIT": 3}
_PROPOSE_STEP: Final = 1


def parse_consensus_state(value: Value) -> ConsensusState:
    """`/dump_consensus_state`.

    CorruptError when a vote is not of the set, or a list of votes is missing or not as long as the set: CometBFT tells
    every round and, for each validator, its vote or that there is none.  So none can be overlooked.
    """
    state = value["round_state"]
    height, current = Height(state["height"].int64(low=1)), state["round"].int32()
    validators = _validator_set(state["validators"])
    votes: list[SeenVote] = []
    rounds = tuple(state["votes"].items())
    if not rounds:
        raise state["votes"].wrong("the votes of one round at least")
    for round_votes in rounds:
        for kind in ("prevotes", "precommits"):
            votes += _votes(round_votes[kind], validators)
    if state["last_commit"].present():
        votes += _votes(state["last_commit"]["votes"], _validator_set(state["last_validators"]))
    if state["proposal"].present():
        proposer = state["validators"]["proposer"]["address"].hexadecimal(ADDRESS_BYTES)
        proposal = state["proposal"]
        votes.append(
            SeenVote(
                proposer,
                Height(proposal["height"].int64(low=1)),
                proposal["round"].int32(),
                _PROPOSE_STEP,
                for_nil=False,
            )
        )
    valid = state["valid_block"]
    valid_block = Header.parse(valid["header"]).hash() if valid.present() else b""
    return ConsensusState(height, current, state["step"].int32(), validators, tuple(votes), valid_block)


def _validator_set(value: Value) -> ValidatorSet:
    return ValidatorSet(tuple(Validator.parse(item) for item in value["validators"].items()))


def _votes(listed: Value, validators: ValidatorSet) -> list[SeenVote]:
    votes, items = [], tuple(listed.items())
    if len(items) != len(validators.validators):
        raise listed.wrong(f"{len(validators.validators)} votes, one a validator")
    for item in items:
        if item.text() == _NO_VOTE:
            continue
        match = _VOTE.fullmatch(item.text())
        if match is None or int(match.group(1)) >= len(validators.validators):
            raise item.wrong("a vote")
        address = validators.validators[int(match.group(1))].address
        if address.hex().upper()[:12] != match.group(2):
            raise item.wrong(f"a vote of {address.hex().upper()}")
        for_nil = match.group(6) == _NIL_BLOCK
        votes.append(
            SeenVote(
                address,
                Height(int(match.group(3))),
                int(match.group(4)),
                _STEP[match.group(5)],
                for_nil=for_nil,
                block_start=b"" if for_nil else bytes.fromhex(match.group(6)),
            )
        )
    return votes


def join_genesis(chunks: Sequence[Value]) -> bytes:
    """All chunks of `/genesis_chunked`, in order."""
    for index, chunk in enumerate(chunks):
        if chunk["chunk"].int64() != index or chunk["total"].int64() != len(chunks):
            raise CorruptError(f"{chunk.path}: not chunk {index} of {len(chunks)}", remedy="Ask another node.")
    return b"".join(chunk["data"].base64() for chunk in chunks)


def signing_lately(source: HeaderSource, height: Height) -> frozenset[bytes]:
    """Who took part in one of the newest commits, by address; heights that the node has pruned are passed over.

    A node keeps the commit of its newest block as it stood when two thirds were there: what came later is not in it.
    """
    online: set[bytes] = set()
    for back in range(min(ONLINE_COMMITS, height)):
        try:
            online |= online_addresses(source.commit(Height(height - back)).commit)
        except NotFoundError:
            break
    return frozenset(online)
