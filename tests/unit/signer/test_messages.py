"""The privval protocol's messages and what is signed, against CometBFT's own vectors."""

from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from signer_world import BLOCK, CHAIN_ID, NIL, NOON_NS, precommit, prevote, proposal, vectors

from vedr.chain.block import BlockId, Commit, CommitSig, Flag
from vedr.chain.encoding import bytes_field, delimited, message_field, sfixed64_field, varint_field
from vedr.chain.register import MAX_SIGN_BYTES
from vedr.errors import CorruptError
from vedr.inventory import Height
from vedr.signer.canonical import extension_sign_bytes, read, sign_bytes, without_time
from vedr.signer.messages import (
    MAX_EXTENSION_BYTES,
    MAX_MESSAGE_BYTES,
    MessageType,
    PingRequest,
    Proposal,
    PublicKeyRequest,
    SignRequest,
    Vote,
    ping_response,
    public_key_error,
    public_key_response,
    read_request,
    signed_response,
    signing_error,
)
from vedr.signer.protobuf import GO_ZERO_TIME_NS

VECTORS = vectors("privval-messages.json")["messages"]
STAMP_NS = 1_570_983_284 * 10**9  # 2019-10-13 16:14:44 UTC
EXAMPLE_BLOCK = BlockId(sha256(b"blockID_hash").digest(), 1_000_000, sha256(b"blockID_part_set_header_hash").digest())
EXAMPLE_VOTE = Vote(
    MessageType.PRECOMMIT,
    3,
    2,
    EXAMPLE_BLOCK,
    STAMP_NS,
    sha256(b"validator_address").digest()[:20],
    56789,
    extension=b"extension",
)
EXAMPLE_PROPOSAL = Proposal(3, 2, 2, EXAMPLE_BLOCK, STAMP_NS, b"it's a signature")


def vector(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name])


def as_nodes_send_it(name: str) -> bytes:
    """The proposals of CometBFT's vectors bear type 1; nodes send 32."""
    return vector(name).replace(b"\x08\x01\x10\x03\x18\x02", b"\x08\x20\x10\x03\x18\x02")


def test_requests_of_cometbfts_vectors_are_read() -> None:
    assert read_request(vector("ping request")) == PingRequest()
    assert read_request(vector("pubKey request")) == PublicKeyRequest("")
    assert read_request(vector("Vote Request")) == SignRequest("", EXAMPLE_VOTE)
    assert read_request(as_nodes_send_it("Proposal Request")) == SignRequest(
        "", replace(EXAMPLE_PROPOSAL, signature=b"")
    )


def test_answers_are_byte_for_byte_cometbfts_vectors() -> None:
    key = Ed25519PrivateKey.from_private_bytes(sha256(b"it's a secret").digest()).public_key().public_bytes_raw()
    assert ping_response() == vector("ping response")
    assert public_key_response(key) == vector("pubKey response")
    assert public_key_error(1, "it's a error") == vector("pubKey response with error")
    assert signed_response(EXAMPLE_VOTE) == vector("Vote Response")
    assert signing_error(EXAMPLE_VOTE, 1, "it's a error") == vector("Vote Response with error")
    assert signed_response(EXAMPLE_PROPOSAL) == as_nodes_send_it("Proposal Response")
    assert signing_error(EXAMPLE_PROPOSAL, 1, "it's a error") == vector("Proposal Response with error")


@pytest.mark.parametrize(("kind", "head"), [(MessageType.PRECOMMIT, "210802"), (MessageType.PREVOTE, "210801")])
def test_sign_bytes_are_cometbfts_vectors(kind: MessageType, head: str) -> None:
    vote = Vote(kind, 1, 1, NIL, GO_ZERO_TIME_NS)
    fixed = "110100000000000000190100000000000000"
    assert sign_bytes(vote, "").hex() == head + fixed + "2a0b088092b8c398feffffff01"
    named = sign_bytes(vote, "test_chain_id")
    assert named[0] == 0x30
    assert named.hex()[2:] == head[2:] + fixed + "2a0b088092b8c398feffffff01" + "320d746573745f636861696e5f6964"


def test_a_precommits_sign_bytes_are_those_that_the_light_client_verifies() -> None:
    commit = Commit(Height(9), 3, BLOCK, (CommitSig(Flag.COMMIT, bytes(20), NOON_NS, bytes(64)),))
    assert sign_bytes(precommit(9, 3), CHAIN_ID) == commit.sign_bytes(CHAIN_ID, 0)


def test_a_vote_extension_never_looks_like_a_vote_or_a_proposal() -> None:
    first = {sign_bytes(message, CHAIN_ID)[1] for message in (prevote(), precommit(), proposal(), prevote(block=NIL))}
    for extension in (b"", b"x", sign_bytes(prevote(), CHAIN_ID)):
        assert extension_sign_bytes(precommit(extension=extension), CHAIN_ID)[1] not in first
    assert extension_sign_bytes(precommit(5, 2, extension=b"ab"), "c").hex() == (
        "190a026162110500000000000000190200000000000000220163"
    )


def test_the_timestamp_is_taken_out_of_sign_bytes_and_nothing_else() -> None:
    for step, early, late, other in (
        (1, proposal(), proposal(time_ns=NOON_NS + 1), proposal(block=NIL)),
        (2, prevote(), prevote(time_ns=NOON_NS + 1), prevote(block=NIL)),
    ):
        rest, time_ns = without_time(sign_bytes(early, CHAIN_ID), step)
        assert time_ns == NOON_NS
        assert without_time(sign_bytes(late, CHAIN_ID), step) == (rest, NOON_NS + 1)
        assert without_time(sign_bytes(other, CHAIN_ID), step)[0] != rest
    with pytest.raises(CorruptError, match="announced"):
        without_time(sign_bytes(prevote(), CHAIN_ID)[:-1], 2)


def test_an_absent_timestamp_is_gos_zero_time_and_an_empty_one_is_1970() -> None:
    vote = varint_field(1, 1) + varint_field(2, 5)
    absent = read_request(message_field(3, message_field(1, vote)))
    empty = read_request(message_field(3, message_field(1, vote + message_field(5, b""))))
    assert isinstance(absent, SignRequest)
    assert isinstance(empty, SignRequest)
    assert (absent.message.time_ns, empty.message.time_ns) == (GO_ZERO_TIME_NS, 0)


def test_a_validator_index_and_a_proof_of_lock_round_may_be_minus_one() -> None:
    for message in (replace(prevote(), validator_index=-1), proposal()):
        number = 3 if isinstance(message, Vote) else 5
        body = message_field(1, message.encode()) + bytes_field(2, b"c")
        assert read_request(message_field(number, body)) == SignRequest("c", message)


def vote_request(vote: bytes) -> bytes:
    return message_field(3, message_field(1, vote) + bytes_field(2, b"c"))


PLAIN = varint_field(1, 1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "0 messages"),
        (vector("ping request") + vector("pubKey request"), "2 messages"),
        (vector("ping request") * 2, "comes twice"),
        (vector("ping response"), "8 is no request"),
        (vector("Vote Response"), "4 is no request"),
        (b"\x3a", "ends within a number"),
        (b"\x3a\x05", "5 bytes announced, 0 left"),
        (b"\xff" * 11, "more than 64 bits"),
        (b"\xff" * 9 + b"\x7f", "more than 64 bits"),
        (b"\x00\x01", "field number 0"),
        (b"\x3b", "wire type 3"),
        (b"\x39" + bytes(7), "8 bytes announced, 7 left"),
        (b"\x39" + bytes(8), "7: not bytes"),
        (message_field(1, bytes_field(1, b"\xff")), "not UTF-8"),
        (message_field(1, varint_field(1, 3)), "1.1: not bytes"),
        (vote_request(b""), "0 is no kind of vote"),
        (vote_request(varint_field(1, 32)), "32 is no kind of vote"),
        (vote_request(varint_field(1, 1 << 40)), "above"),
        (vote_request(bytes_field(1, b"x")), "1: not a number"),
        (vote_request(PLAIN + varint_field(2, -1)), "2: -1, not from 0"),
        (vote_request(PLAIN + varint_field(3, 1 << 31)), "3: 2147483648, not from 0"),
        (vote_request(PLAIN + message_field(4, bytes_field(1, bytes(31)))), "31 bytes, not 0 or 32"),
        (vote_request(PLAIN + message_field(5, varint_field(1, 1 << 40))), "5.1: 1099511627776"),
        (vote_request(PLAIN + message_field(5, varint_field(2, -1))), "5.2: -1"),
        (vote_request(PLAIN + bytes_field(6, bytes(19))), "19 bytes, not 0 or 20"),
        (vote_request(PLAIN + varint_field(7, -2)), "7: -2"),
        (vote_request(PLAIN + bytes_field(9, bytes(MAX_EXTENSION_BYTES + 1))), f"more than {MAX_EXTENSION_BYTES}"),
        (message_field(5, message_field(1, varint_field(1, 1))), "1 is no proposal"),
        (bytes(MAX_MESSAGE_BYTES + 1), f"more than {MAX_MESSAGE_BYTES}"),
    ],
)
def test_what_is_no_request_is_refused_with_its_place(data: bytes, said: str) -> None:
    with pytest.raises(CorruptError, match=said):
        read_request(data)


def test_fields_that_a_later_version_may_add_are_skipped() -> None:
    later = message_field(9, b"x") + varint_field(2000, 5) + b"\xfd\x01" + bytes(4)
    assert read_request(vector("ping request") + later) == PingRequest()


def test_the_longest_extension_leaves_room_for_the_answer() -> None:
    vote = precommit(extension=bytes(MAX_EXTENSION_BYTES))
    signed = replace(vote, signature=bytes(64), extension_signature=bytes(64))
    assert len(message_field(3, message_field(1, vote.encode()) + bytes_field(2, b"c" * 50))) <= MAX_MESSAGE_BYTES
    assert len(signed_response(signed)) <= MAX_MESSAGE_BYTES


LONGEST = "c" * 50
FARTHEST = (2**63 - 1, 2**31 - 1)


@pytest.mark.parametrize(
    "message",
    [
        prevote(),
        prevote(block=NIL),
        precommit(),
        precommit(block=NIL),
        proposal(),
        replace(proposal(*FARTHEST), block_id=EXAMPLE_BLOCK, time_ns=253_402_300_799_999_999_999),
        replace(precommit(*FARTHEST), time_ns=GO_ZERO_TIME_NS),
    ],
    ids=lambda message: f"{message.kind}-{message.height}",
)
def test_sign_bytes_are_read_back_as_their_message_and_changed_ones_never_are(message: Vote | Proposal) -> None:
    signed = sign_bytes(message, LONGEST)
    found = read(signed, LONGEST)
    assert sign_bytes(found, LONGEST) == signed
    assert (found.hrs, found.block_id, found.time_ns) == (message.hrs, message.block_id, message.time_ns)
    assert len(signed) <= MAX_SIGN_BYTES, "it fits in a register"
    for at in range(len(signed)):
        for bit in range(8):
            changed = signed[:at] + bytes([signed[at] ^ 1 << bit]) + signed[at + 1 :]
            try:
                assert read(changed, LONGEST) != found
            except CorruptError:
                continue
    for data in (*(signed[:at] for at in range(len(signed))), signed + b"\0"):
        with pytest.raises(CorruptError):
            read(data, LONGEST)
    with pytest.raises(CorruptError, match="not as chain other-1 writes them"):
        read(signed, "other-1")


@pytest.mark.parametrize(
    "body",
    [
        varint_field(1, 3),
        varint_field(1, 1) + varint_field(2, 5),
        varint_field(1, 1) + sfixed64_field(2, -5),
        varint_field(1, 1) + sfixed64_field(3, 2**31),
        b"\x08\x81\x00" + sfixed64_field(2, 5) + message_field(5, b"") + bytes_field(6, CHAIN_ID.encode()),
    ],
    ids=["kind", "height's type", "below zero", "round", "a number written long"],
)
def test_what_no_message_has_is_no_sign_bytes(body: bytes) -> None:
    with pytest.raises(CorruptError):
        read(delimited(body), CHAIN_ID)
