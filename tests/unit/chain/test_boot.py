from pathlib import Path

import pytest
from chainmaker import CHAIN_ID, make_chain

from vedr.chain import light
from vedr.chain.boot import BootedState, BootProof, prove
from vedr.chain.inspection import Inspected
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
    with pytest.raises(VerificationFailedError, match=f"{what}: the data has .*, the verified chain has"):
        prove(Path("data"), Light(), lambda _: booted(**changes))


def read(root: bytes) -> Inspected:
    """A data folder whose stored hashes are right and whose keys amount to `root`."""
    return Inspected(
        chain_id=CHAIN_ID,
        store_base=Height(1),
        store_height=Height(7),
        state_height=Height(7),
        app_height=Height(7),
        app_hash=CHAIN[8].header.app_hash.hex().upper(),
        database_backend="goleveldb",
        app_hash_recomputed=root.hex().upper(),
    )


def test_a_proof_says_that_every_key_was_read() -> None:
    assert prove(Path("data"), Light(), lambda _: booted()).facts["state_read"] == "the stored root"
    whole = prove(Path("data"), Light(), lambda _: booted(), read_state=lambda _: read(CHAIN[8].header.app_hash))
    assert whole.facts["state_read"] == "every key and value"


def test_a_leaf_damaged_under_an_intact_root_is_no_proof() -> None:
    with pytest.raises(VerificationFailedError, match="hash of all keys after height 7: the data has DEAD"):
        prove(Path("data"), Light(), lambda _: booted(), read_state=lambda _: read(b"\xde\xad"))


def test_only_a_boot_makes_a_proof() -> None:
    with pytest.raises(RefusedError):
        BootProof(CHAIN_ID, Height(7), "", "", 0.0, False)
