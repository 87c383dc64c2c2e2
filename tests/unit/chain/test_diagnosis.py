"""Who is wrong is said by verified headers alone."""

import pytest
from chainmaker import CHAIN_ID, make_chain

from vedr.chain import light
from vedr.chain.block import SignedHeader
from vedr.chain.diagnosis import claims_of_data, claims_of_node, settle
from vedr.chain.inspection import Inspected
from vedr.chain.light import DivergenceError, VerifiedHeader
from vedr.chain.rpc import AbciInfo, Status
from vedr.errors import VerificationFailedError
from vedr.inventory import Height

CHAIN = make_chain(10, lambda _: {1: 10})


class Light:
    """Verifies up to height 9; what is above could not be checked."""

    def verified_header(self, height: Height) -> VerifiedHeader:
        if height > 9:
            raise VerificationFailedError(f"header {height} can't be had")
        return light._sealed(CHAIN[height].header)


class Divided:
    def verified_header(self, height: Height) -> VerifiedHeader:
        one: SignedHeader = CHAIN[height].signed
        raise DivergenceError(("a", one), ("b", one))


def status(height: int, block_hash: bytes | None = None) -> Status:
    own = CHAIN[height].header.hash() if block_hash is None else block_hash
    return Status(
        node_id="n", chain_id=CHAIN_ID, moniker="m", version="0", latest_height=Height(height), latest_block_hash=own,
        latest_app_hash=b"", latest_time_ns=0, earliest_height=Height(1), catching_up=False, validator_address=b"",
        validator_power=0,
    )  # fmt: skip


def app(height: int, app_hash: bytes | None = None) -> AbciInfo:
    return AbciInfo(Height(height), CHAIN[height + 1].header.app_hash if app_hash is None else app_hash, "", 1)


def inspected(**changes: object) -> Inspected:
    right = {
        "chain_id": CHAIN_ID, "store_base": 1, "store_height": 7, "state_height": 7, "app_height": 7,
        "app_hash": CHAIN[8].header.app_hash.hex().upper(), "database_backend": "goleveldb",
        "app_hash_recomputed": CHAIN[8].header.app_hash.hex().upper(),
    }  # fmt: skip
    return Inspected(**{**right, **changes})  # type: ignore[arg-type]


def test_a_node_on_the_chain_is_right_in_all_that_it_says() -> None:
    settled = settle(claims_of_node(status(7), app(7)), Light())
    assert len(settled.true) == 2
    assert not settled.false
    assert not settled.unsettled


def test_another_block_or_another_state_is_named_with_both_hashes() -> None:
    settled = settle(claims_of_node(status(7, b"\x11" * 32), app(6, b"\x22" * 32)), Light())
    assert not settled.true
    block, state = settled.false
    assert "11" * 32 in block
    assert "22" * 32 in state
    assert all("verified header 7 says" in said for said in settled.false)


def test_what_no_verified_header_can_settle_is_neither_true_nor_false() -> None:
    settled = settle(claims_of_node(status(9), app(9)), Light())
    assert len(settled.true) == 1
    assert "after block 9: header 10 can't be had" in settled.unsettled[0]


def test_where_the_others_are_divided_nobody_is_called_wrong() -> None:
    with pytest.raises(DivergenceError):
        settle(claims_of_node(status(7), None), Divided())


def test_a_node_without_blocks_claims_nothing() -> None:
    fresh = AbciInfo(Height(0), b"", "", 0)
    assert not claims_of_node(status(1, b""), fresh)[1:]


def test_data_at_rest_is_judged_by_what_it_names_and_by_what_it_amounts_to() -> None:
    assert len(settle(claims_of_data(inspected()), Light()).true) == 2
    flipped = settle(claims_of_data(inspected(app_hash_recomputed="AB" * 32)), Light())
    assert len(flipped.true) == 1
    assert "keys and values amount to" in flipped.false[0]
    assert len(claims_of_data(inspected(app_hash_recomputed=None))) == 1
    assert not claims_of_data(inspected(state_height=0, app_height=0))
