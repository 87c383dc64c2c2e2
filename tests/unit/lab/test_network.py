"""Two labs of one network: the second is refused, and takes nothing away from the first."""

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from vedr.errors import ConflictError
from vedr.lab import network
from vedr.lab.plan import Plan

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root; without it labs use relays"),
]


@pytest.fixture
def first(plan: Plan) -> Iterator[Plan]:
    try:
        network.create_missing(plan)
        yield plan
    finally:
        network.remove(plan)
    assert network.leftovers(plan) == []


def test_a_lab_does_not_join_the_network_of_another_nor_take_it_down(first: Plan) -> None:
    folder = first.folder.with_name("second")
    second = Plan(replace(first.settings, name="second", folder=folder), first.template)
    with pytest.raises(ConflictError, match=f"that of the lab in {first.folder}"):
        network.create_missing(second)
    assert network.leftovers(second) == []  # nothing of it was made
    network.cut(first, first.zones[0])
    network.remove(second)
    assert network.is_cut(first, first.zones[0])
    assert network.create_missing(first) == 0  # all of it is still there
