"""The replication check, on two real tokens."""

import dataclasses
import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from vedr.adapters.pkcs11_token_provisioning import generate, import_ed25519
from vedr.chain.encoding import bytes_field, delimited, sfixed64_field, varint_field
from vedr.custody.hsm import CHALLENGE_TAG, challenge
from vedr.custody.hsm_check import Replication
from vedr.custody.hsm_keys import KeyKind, PublicKey
from vedr.custody.hsm_reference import Holder, open_reference, seal
from vedr.errors import (
    RefusedError,
    VerificationFailedError,
)
from vedr.signature import Signer

MakeKey = Callable[[int], tuple[bytes, PublicKey]]
Pair = Any
NOW = dt.datetime(2026, 11, 23, 2, 0, 0, 123456, tzinfo=dt.UTC)
SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
TRUSTED = (SIGNER.public_hex,)


def problems(result: Replication) -> dict[str, str]:
    return {token.region: token.problem for token in result.tokens if not token.passed}


def test_equal_replicas_pass_and_say_what_they_are(pair: Pair) -> None:
    result = pair.check(pair.reference())
    result.require_whole()
    assert [token.region for token in result.tokens] == ["eu-west", "us-east"]
    serials = set()
    for token in result.tokens:
        assert token.examined is not None
        assert token.examined.challenge.startswith(CHALLENGE_TAG)
        pair.public.verify(token.examined.signature, token.examined.challenge, what="key")
        assert token.examined.attributes.local is False  # recorded, not required
        assert token.changes == ()
        serials.add(token.examined.facts.serial)
    assert len(serials) == 2
    shown: Any = result.as_json()
    assert shown["whole"] is True
    assert shown["consensus_address"] == pair.public.consensus_address
    assert json.loads(json.dumps(shown)) == shown


@pytest.mark.parametrize("kind", ["ed25519", "secp256k1", "p-256", "rsa-2048"])
def test_a_key_of_each_kind_is_recorded_and_examined(pair: Pair, kind: KeyKind) -> None:
    """One token: what was made on one can't be moved to the other."""
    generate(pair.tokens["us-east"], kind, label="own", key_id=b"\x07")
    holders = {"us-east": Holder(pair.tokens["us-east"], "file:/secrets/pin", attestation=b"vendor's")}
    reference = pair.reference(label="own", role="node", holders=holders)
    assert reference.public.kind == kind
    assert (reference.consensus_address is None) == (kind != "ed25519")
    result = pair.check(reference, openers={"eu-west": None})
    assert problems(result) == {}
    assert result.problem == "the reference names 1 token, so there is no replica"
    assert not result.whole
    assert open_reference(seal(reference, SIGNER), TRUSTED, what="record") == reference


def test_a_4096_bit_replica_is_recorded_and_examined(pair: Pair) -> None:
    for token in pair.tokens.values():
        pair.bench.put_rsa_4096(token, "big", b"\x09")
    pair.check(pair.reference(label="big", role="provider")).require_whole()


def test_a_missing_key_fails_its_region_only(pair: Pair) -> None:
    reference = pair.reference()
    pair.spoil("eu-west")
    result = pair.check(reference)
    assert list(problems(result)) == ["eu-west"]
    assert "no private key 'val-0'" in problems(result)["eu-west"]
    with pytest.raises(VerificationFailedError, match="eu-west: no private key"):
        result.require_whole()


def test_another_key_under_the_name_fails(pair: Pair, make_key: MakeKey) -> None:
    reference = pair.reference()
    pair.spoil("eu-west", lambda token: import_ed25519(token, make_key(2)[0], label="val-0", key_id=b"\x01"))
    assert "by the reference" in problems(pair.check(reference))["eu-west"]


def test_the_right_public_object_over_a_wrong_private_key_fails(pair: Pair, make_key: MakeKey) -> None:
    reference = pair.reference()
    pair.spoil(
        "eu-west",
        lambda token: pair.bench.put_public(token, pair.public.raw_ed25519, "val-0", b"\x01"),
        lambda token: pair.bench.put_private(token, make_key(2)[0], "val-0", b"\x01"),
    )
    assert "does not verify" in problems(pair.check(reference))["eu-west"]


@pytest.mark.parametrize(
    "changed", [{"EXTRACTABLE": True}, {"SENSITIVE": False}, {"EXTRACTABLE": True, "SENSITIVE": False}]
)
def test_an_extractable_key_fails(pair: Pair, make_key: MakeKey, changed: dict[str, bool]) -> None:
    reference = pair.reference()
    pair.spoil(
        "eu-west",
        lambda token: pair.bench.put_public(token, pair.public.raw_ed25519, "val-0", b"\x01"),
        lambda token: pair.bench.put_private(token, make_key(1)[0], "val-0", b"\x01", **changed),
    )
    assert "is not kept in" in problems(pair.check(reference))["eu-west"]
    with pytest.raises(VerificationFailedError, match=r"eu-west: .* is not kept in"):
        pair.reference()


def test_a_key_without_its_public_object_fails(pair: Pair, make_key: MakeKey) -> None:
    reference = pair.reference()
    pair.spoil("eu-west", lambda token: pair.bench.put_private(token, make_key(1)[0], "val-0", b"\x01"))
    assert "no public key 'val-0'" in problems(pair.check(reference))["eu-west"]


def test_a_public_object_of_no_known_kind_fails(pair: Pair, make_key: MakeKey) -> None:
    reference = pair.reference()
    ed448 = b"\x06\x03\x2b\x65\x71"
    pair.spoil(
        "eu-west",
        lambda token: pair.bench.put_public(token, pair.public.raw_ed25519, "val-0", b"\x01", EC_PARAMS=ed448),
        lambda token: pair.bench.put_private(token, make_key(1)[0], "val-0", b"\x01"),
    )
    assert "of no known kind" in problems(pair.check(reference))["eu-west"]


@pytest.mark.parametrize(("label", "key_id"), [("val-0", b"\x02"), ("other", b"\x01"), ("val-0", b"\x01")])
def test_a_second_private_key_under_the_label_or_the_id_fails(
    pair: Pair, make_key: MakeKey, label: str, key_id: bytes
) -> None:
    reference = pair.reference()
    pair.bench.put_private(pair.tokens["eu-west"], make_key(2)[0], label, key_id)
    assert "2 objects on the token answer" in problems(pair.check(reference))["eu-west"]


def test_a_token_that_could_not_be_asked_has_failed(pair: Pair) -> None:
    def locked() -> Any:
        raise RefusedError("the PIN is locked", remedy="ask the security officer")

    result = pair.check(pair.reference(), openers={"eu-west": locked})
    assert problems(result) == {"eu-west": "the PIN is locked"}
    assert result.tokens[0].remedy == "ask the security officer"
    assert result.tokens[0].as_json()["serial"] is None  # type: ignore[index,call-overload]
    assert not result.whole


def test_a_region_of_the_reference_that_the_site_lacks_has_failed(pair: Pair) -> None:
    assert "the site has no token here" in problems(pair.check(pair.reference(), openers={"eu-west": None}))["eu-west"]


def test_a_region_that_the_reference_does_not_name_is_shown_and_not_asked(pair: Pair) -> None:
    def never() -> Any:
        pytest.fail("asked")

    result = pair.check(pair.reference(), openers={"ap-south": never})
    result.require_whole()
    assert result.unnamed == ("ap-south",)


def test_the_same_token_asked_twice_is_no_replica(pair: Pair) -> None:
    result = pair.check(pair.reference(), openers={"eu-west": lambda: pair.borrowed("us-east")})
    assert "answered, the reference names" in problems(result)["eu-west"]


def test_an_updated_module_is_news_and_no_failure(pair: Pair) -> None:
    reference = pair.reference()
    old = reference.tokens["eu-west"]
    facts = dataclasses.replace(old.facts, module_sha256="0" * 64, firmware="1.0")
    attributes = dataclasses.replace(old.attributes, local=True)
    tokens = {**reference.tokens, "eu-west": dataclasses.replace(old, facts=facts, attributes=attributes)}
    result = pair.check(dataclasses.replace(reference, tokens=tokens))
    result.require_whole()
    assert result.tokens[0].changes == ("module_sha256", "firmware", "attributes")


def test_a_reference_of_another_chain_or_validator_fails(pair: Pair) -> None:
    result = pair.check(pair.reference(), chain_id="main-1", addresses=[])
    assert problems(result) == {}
    assert "is for chain lab-1, the site is main-1" in result.problem
    assert "is no validator's of the site, which has none" in result.problem
    with pytest.raises(VerificationFailedError, match="main-1"):
        result.require_whole()
    pair.check(pair.reference(role="node"), addresses=[]).require_whole()


def test_no_two_challenges_are_equal_and_each_names_its_token(pair: Pair) -> None:
    reference = pair.reference()
    seen = [token.examined for _ in range(3) for token in pair.check(reference).tokens]
    assert len({each.challenge for each in seen if each}) == len(seen)
    for each in seen:
        assert each is not None
        assert f"serial={each.facts.serial}\ntime=2026-11-23T02:00:00.123456+00:00\n".encode() in each.challenge


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from([1, 2, 32]),
    place=st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1)),
    block=st.binary(max_size=80),
    extension=st.binary(max_size=200),
    chain_id=st.text(max_size=50),
)
def test_what_a_validator_signs_never_begins_like_a_challenge(
    kind: int, place: tuple[int, int], block: bytes, extension: bytes, chain_id: str
) -> None:
    where = sfixed64_field(2, place[0]) + sfixed64_field(3, place[1])
    vote = varint_field(1, kind) + where + bytes_field(4, block) + bytes_field(6, chain_id.encode())
    vote_extension = bytes_field(1, extension) + where + bytes_field(4, chain_id.encode())
    for message in (delimited(vote), delimited(vote_extension), bytes_field(1, extension) + bytes_field(2, block)):
        assert message[:2] != CHALLENGE_TAG[:2]


def test_a_challenge_is_longer_than_a_secret_connections() -> None:
    assert len(challenge("", NOW, bytes)) > 32
    assert CHALLENGE_TAG[0] & 7 == 6  # a protobuf wire type that does not exist
