# ruff: noqa: ARG002 (a fake takes what the port gives it)
"""Which state a snapshot is of, and when a capture is taken again or refused."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vedr.backup import chain_snapshot
from vedr.backup.capture import Capture, NodeCondition
from vedr.backup.chain_snapshot import snapshot_node
from vedr.backup.inspection import chain_point
from vedr.backup.tree import read_tree
from vedr.chain.inspection import Inspected
from vedr.chain.light import DivergenceError
from vedr.errors import UnavailableError, VerificationFailedError
from vedr.inventory import Chain, Height, Node

APP_HASH = "AB" * 32


@pytest.fixture
def chain() -> Chain:
    return Chain(
        chain_id="chain-1", block_time_s=1, start=("x",), start_isolated=("x",), inspect=("x",),
        genesis=Path("/g"), genesis_sha256="0" * 64, software={"app": "2"},
    )  # fmt: skip


def inspected(*, block: int = 100, state: int = 100, app: int = 100, chain_id: str = "chain-1") -> Inspected:
    return Inspected(chain_id, Height(1), Height(block), Height(state), Height(app), APP_HASH, "goleveldb")


class Header:
    """Shaped like a VerifiedHeader, which only a light client makes."""

    def __init__(self, height: int, app_hash: str) -> None:
        self.height, self.app_hash, self.hash = height, app_hash, "CD" * 32


def test_the_app_hash_is_compared_with_the_header_after_the_state(chain: Chain) -> None:
    point = chain_point(chain, inspected(), lambda height: Header(height, APP_HASH))  # type: ignore[arg-type,return-value]
    assert (point.height, point.header_height, point.header_hash) == (100, 101, "CD" * 32)
    with pytest.raises(VerificationFailedError, match="the verified header 101 says"):
        chain_point(chain, inspected(), lambda height: Header(height, "00"))  # type: ignore[arg-type,return-value]


def test_another_chains_data_is_refused(chain: Chain) -> None:
    with pytest.raises(VerificationFailedError, match="other-1"):
        chain_point(chain, inspected(chain_id="other-1"), None)


def test_without_an_answer_the_manifest_says_that_nobody_compared(chain: Chain) -> None:
    def silent(_: Height) -> Any:
        raise UnavailableError("no witness answers")

    assert chain_point(chain, inspected(), silent).header_hash is None


def test_nodes_that_disagree_stop_the_snapshot(chain: Chain) -> None:
    def split(_: Height) -> Any:
        raise DivergenceError.__new__(DivergenceError)

    with pytest.raises(DivergenceError):
        chain_point(chain, inspected(), split)


class Inspections:
    """Gives one after the other."""

    def __init__(self, *results: Inspected) -> None:
        self.results = list(results)

    def inspect(self, home: Path, data: Path) -> Inspected:
        return self.results.pop(0) if len(self.results) > 1 else self.results[0]


@pytest.fixture
def take(world: Any, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> Any:
    @contextlib.contextmanager
    def still(*_: Any, **__: Any) -> Iterator[Capture]:
        yield Capture(world.data, read_tree(world.data), "pause", 9)

    monkeypatch.setattr(chain_snapshot, "capture", still)
    node = Node(
        name="full-0", region="us-east", zone="us-east-1a", role="full", rpc="http://x", p2p="h:1",
        home=world.folder, unit="full-0",
    )  # fmt: skip

    def act(*results: Inspected) -> Any:
        return snapshot_node(
            world.repository, chain, node, world.folder,
            fleet=None, condition=NodeCondition(catching_up=False, validator_power=0),  # type: ignore[arg-type]
            inspector=Inspections(*results), headers=None,
        )  # fmt: skip

    return act


def test_a_capture_between_block_and_state_is_taken_again(take: Any) -> None:
    created = take(inspected(block=101), inspected(app=99), inspected())
    assert created.verified.manifest.height == 100
    assert created.verified.manifest.facts.pause_ms == 9
    assert created.verified.manifest.facts.software == (("app", "2"),)


def test_a_node_that_is_never_caught_settled_is_given_up(take: Any) -> None:
    with pytest.raises(UnavailableError, match="6 captures"):
        take(inspected(block=101))
