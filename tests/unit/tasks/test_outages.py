"""What the nodes elsewhere say about their peers, when a place is looked at."""

from types import SimpleNamespace
from typing import Any

import pytest

from tasks import outages
from vedr.errors import UnavailableError


def silent() -> Any:
    raise UnavailableError("no answer", remedy="Wait.")


def peers(*names: str) -> Any:
    return SimpleNamespace(net_info=lambda: SimpleNamespace(peers=[SimpleNamespace(moniker=name) for name in names]))


@pytest.mark.parametrize(
    ("rpcs", "counted"),
    [
        ([peers("a", "b"), peers("a")], {"a": 2, "b": 1}),
        ([SimpleNamespace(net_info=silent), peers("a")], {"a": 1}),
        ([SimpleNamespace(net_info=silent)], None),
        ([], None),
    ],
)
def test_nodes_that_tell_nothing_of_their_peers_prove_no_absence(
    monkeypatch: pytest.MonkeyPatch, rpcs: list[Any], counted: dict[str, int] | None
) -> None:
    monkeypatch.setattr(outages, "ask", lambda _opened, _nodes: [SimpleNamespace(rpc=rpc) for rpc in rpcs])
    opened: Any = None
    assert outages.peers_of(opened, []) == counted
