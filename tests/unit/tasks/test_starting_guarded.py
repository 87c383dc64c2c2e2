"""A node that is started again signs by its signer, above its floor, or not at all."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks import signing
from tasks.signing import Guarded, start_guarded
from vedr.chain.node_config import signer_address
from vedr.errors import CorruptError, RefusedError

FLOOR = Guarded("7/0/3", "the regions' registers refuse whatever is not above them")
SIGNER = SimpleNamespace(name="val-signer", unit="val-signer", node="val", listen="unix:///run/privval.sock")


class World:
    """A stopped validator with its remote signer; what its configuration said when a unit was started."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "config").mkdir()
        self.node: Any = SimpleNamespace(name="val", unit="val", zone="z", is_validator=True)
        self.waited_at: dict[str, str] = {}
        site = SimpleNamespace(signers_of=lambda _: [SIGNER])
        self.opened: Any = SimpleNamespace(site=site, files=SimpleNamespace(home=lambda _: home), fleet=self)

    def configured(self, text: str) -> None:
        (self.home / "config" / "config.toml").write_text(text)

    def start(self, unit: str, _: str) -> Any:
        self.waited_at[unit] = signer_address(self.home)
        return SimpleNamespace(state="running", since=SimpleNamespace(isoformat=lambda: "now"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(signing, "ask", lambda *_: ["answers"])
    return World(tmp_path)


@pytest.mark.parametrize("address", ["", "tcp://10.0.0.7:26659"])
def test_a_configuration_of_before_it_had_its_signer_does_not_let_it_sign_from_a_key_file(
    world: World, address: str
) -> None:
    world.configured(f'priv_validator_laddr = "{address}"\n')
    start_guarded(world.opened, world.node, FLOOR)
    assert world.waited_at == {"val-signer": SIGNER.listen, "val": SIGNER.listen}


def test_nothing_is_started_whose_configuration_can_not_be_told_to_wait(world: World) -> None:
    world.configured("priv_validator_laddr = ")
    with pytest.raises(CorruptError):
        start_guarded(world.opened, world.node, FLOOR)
    assert world.waited_at == {}


def test_a_validator_that_nobody_found_a_floor_for_is_not_started(world: World) -> None:
    world.configured('priv_validator_laddr = ""\n')
    with pytest.raises(RefusedError, match="val has no floor"):
        start_guarded(world.opened, world.node, Guarded("", ""))
    assert world.waited_at == {}
