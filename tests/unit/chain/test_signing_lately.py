"""Who signs on this chain now, and whether its precommits carry extensions: told by a node, or an error."""

import pytest
from chainmaker import MadeNode, address, make_chain

from vedr.chain.rpc import parse_vote_extensions, signing_lately
from vedr.chain.wire import RawJson, Value
from vedr.errors import CorruptError, UnavailableError
from vedr.inventory import Height

POWERS = {1: 10, 2: 10, 3: 10, 4: 10}
SIGNERS = {5: (1, 2), 6: (1, 3), 7: (1, 2), 8: (1, 2, 3)}
"""Who signed which of the last blocks; everybody signed those before."""


def node(*, earliest: int = 1, down: bool = False) -> MadeNode:
    chain = make_chain(8, lambda _: POWERS, signers_at=lambda height: SIGNERS.get(height, POWERS))
    return MadeNode("a", {height: block for height, block in chain.items() if height >= earliest}, down=down)


def test_one_late_vote_is_not_an_absence_and_three_are() -> None:
    assert signing_lately(node(), Height(7)) == {address(1), address(2), address(3)}
    assert signing_lately(node(), Height(8)) == {address(1), address(2), address(3)}


def test_the_chain_s_first_blocks_are_enough_at_its_beginning() -> None:
    assert signing_lately(node(), Height(1)) == {address(number) for number in POWERS}


def test_heights_that_the_node_has_pruned_are_passed_over() -> None:
    assert signing_lately(node(earliest=7), Height(7)) == {address(1), address(2)}


def test_a_node_that_does_not_answer_is_not_one_that_saw_nobody_sign() -> None:
    with pytest.raises(UnavailableError):
        signing_lately(node(down=True), Height(8))


@pytest.mark.parametrize(
    ("abci", "first"),
    [
        ({}, 0),
        ({"abci": {}}, 0),
        ({"abci": {"vote_extensions_enable_height": "0"}}, 0),
        ({"abci": {"vote_extensions_enable_height": "280"}}, 280),
    ],
)
def test_the_height_from_which_precommits_carry_extensions_is_read(abci: RawJson, first: int) -> None:
    answer = Value({"block_height": "300", "consensus_params": abci}, "consensus_params")
    assert parse_vote_extensions(answer) == first


@pytest.mark.parametrize("told", [{}, {"consensus_params": {"abci": {"vote_extensions_enable_height": "soon"}}}])
def test_parameters_that_cannot_be_read_are_never_taken_for_no_extensions(told: RawJson) -> None:
    with pytest.raises(CorruptError):
        parse_vote_extensions(Value(told, "consensus_params"))
