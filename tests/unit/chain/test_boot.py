from pathlib import Path

import pytest
from chainmaker import CHAIN_ID, make_chain

from vedr.chain import light
from vedr.chain.boot import BootedState, BootProof, prove
from vedr.chain.light import VerifiedHeader
from vedr.errors import RefusedError, VerificationFailedError
from vedr.inventory import Height

CHAIN = make_chain(10, lambda _: {1: 10})


class Light:
    def verified_header(self, height: Height) -> VerifiedHeader:
        return light._sealed(CHAIN[height].header)


def booted(**changes: object) -> BootedState:
    right = {
        "chain_id": CHAIN_ID,
        "height": Height(7),
        "app_hash": CHAIN[8].header.app_hash.hex().upper(),
        "block_hash": CHAIN[7].header.hash().hex().upper(),
        "took_s": 0.5,
        "stopped_cleanly": True,
    }
    return BootedState(**{**right, **changes})  # type: ignore[arg-type]


def test_matching_state_gives_a_proof_with_its_facts() -> None:
    proof = prove(Path("data"), Light(), lambda _: booted())
    assert proof.facts["height"] == "7"
    assert proof.facts["app_hash"] == CHAIN[8].header.app_hash.hex().upper()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"app_hash": CHAIN[7].header.app_hash.hex().upper()}, "application hash after height 7"),
        ({"block_hash": "00" * 32}, "block hash at height 7"),
        ({"chain_id": "other-1"}, "chain id"),
    ],
)
def test_any_difference_is_a_failure_that_names_both(changes: dict[str, object], what: str) -> None:
    with pytest.raises(VerificationFailedError, match=f"{what}: the booted node has .*, the verified chain has"):
        prove(Path("data"), Light(), lambda _: booted(**changes))


def test_only_a_boot_makes_a_proof() -> None:
    with pytest.raises(RefusedError):
        BootProof(CHAIN_ID, Height(7), "", "", 0.0)
