"""What is on a token, and what is wrong with it."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from vedr.adapters.pkcs11_token_provisioning import import_ed25519
from vedr.custody.hsm_examine import KeyName
from vedr.custody.hsm_inventory import Unanswered, take_inventory
from vedr.custody.hsm_keys import PublicKey
from vedr.custody.hsm_reference import Reference
from vedr.errors import (
    VerificationFailedError,
)
from vedr.signature import canonical_json

MakeKey = Callable[[int], tuple[bytes, PublicKey]]
Pair = Any


def faults(pair: Pair, region: str, *references: Reference) -> set[tuple[str, str]]:
    token = pair.tokens[region]
    taken = take_inventory(region, token.facts(), token.objects(), references)
    assert json.loads(json.dumps(taken.as_json())) == taken.as_json()
    return {(problem.fault, problem.label) for problem in taken.problems}


def test_an_inventory_in_order_has_no_problems(pair: Pair) -> None:
    token, reference = pair.tokens["us-east"], pair.reference()
    taken = take_inventory("us-east", token.facts(), token.objects(), [reference])
    taken.require_clean()
    assert [(key.label, key.object_class) for key in taken.objects] == [("val-0", "private"), ("val-0", "public")]


def test_an_inventory_names_every_problem(pair: Pair, make_key: MakeKey) -> None:
    reference, token = pair.reference(), pair.tokens["us-east"]
    gone = dataclasses.replace(reference, name=KeyName("gone", b"\x20"))
    elsewhere = dataclasses.replace(gone, tokens={"eu-west": reference.tokens["eu-west"]})
    put_private, put_public = pair.bench.put_private, pair.bench.put_public
    put_private(token, make_key(2)[0], "open", b"\x02", EXTRACTABLE=True, SENSITIVE=False)
    put_public(token, make_key(3)[1].raw_ed25519, "half", b"\x03")
    put_private(token, make_key(4)[0], "half", b"\x04")
    put_private(token, make_key(5)[0], "val-0", b"\x05")
    put_private(token, make_key(6)[0], "six", b"\x01")
    assert faults(pair, "us-east", reference, gone, elsewhere) == {
        ("extractable", "open"),
        ("private without public", "open"),
        ("not in a reference", "open"),
        ("public without private", "half"),
        ("private without public", "half"),
        ("not in a reference", "half"),
        ("duplicate label", "val-0"),
        ("private without public", "val-0"),
        ("not in a reference", "val-0"),
        ("duplicate id", "val-0"),
        ("duplicate id", "six"),
        ("private without public", "six"),
        ("not in a reference", "six"),
        ("missing", "gone"),
    }


def test_an_inventory_names_a_public_key_that_is_another(pair: Pair, make_key: MakeKey) -> None:
    reference = pair.reference()
    pair.spoil("us-east", lambda token: import_ed25519(token, make_key(2)[0], label="val-0", key_id=b"\x01"))
    assert faults(pair, "us-east", reference) == {("other public key", "val-0")}


def test_an_inventory_with_problems_fails(pair: Pair) -> None:
    token = pair.tokens["us-east"]
    with pytest.raises(VerificationFailedError, match=r"us-east: 'val-0' \(01\): not in a reference"):
        take_inventory("us-east", token.facts(), token.objects(), []).require_clean()


def test_a_token_without_an_answer_has_no_clean_inventory() -> None:
    unanswered = Unanswered("us-east", "the PIN is locked", "ask")
    with pytest.raises(VerificationFailedError, match="us-east: the PIN is locked"):
        unanswered.require_clean()
    assert canonical_json(unanswered.as_json())
