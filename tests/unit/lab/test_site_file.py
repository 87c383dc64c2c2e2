"""The running lab's site file."""

import json
import stat
from pathlib import Path

import pytest

from vedr.errors import ConflictError, InvalidInputError, NotFoundError
from vedr.inventory import load_site
from vedr.lab import site_file
from vedr.lab.credentials import LabSecrets
from vedr.lab.plan import Plan
from vedr.lab.settings import exclusive, lab_folder, load_plan, new_settings, read_settings, save_settings


@pytest.fixture
def rendered(plan: Plan) -> Plan:
    LabSecrets(plan.folder).create_missing(plan)
    (plan.folder / "genesis.json").write_text("{}")
    validators = [node.name for node in plan.nodes if node.role == "validator"]
    site_file.write_site_file(plan, {name: f"{number:040X}" for number, name in enumerate(validators)})
    return plan


def test_the_written_site_keeps_every_rule_and_is_found_by_name(
    rendered: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VEDR_LABS", str(rendered.folder.parent))
    site = load_site("paper")
    assert site.name == "paper"
    assert len(site.nodes) == 12
    assert site.total_power == 50
    assert set(site.fleet.agents) == {zone.name for zone in rendered.zones}
    assert site.encryption.mode == "aes-256-gcm"


def test_the_site_file_refers_to_secrets_and_holds_none(rendered: Plan) -> None:
    secrets = LabSecrets(rendered.folder)
    text = (rendered.folder / "site.toml").read_text(encoding="utf-8")
    for path in secrets.folder.iterdir():
        assert path.read_text(encoding="utf-8").strip() not in text
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_secrets_are_made_once(rendered: Plan) -> None:
    secrets = LabSecrets(rendered.folder)
    before = {path: path.read_bytes() for path in secrets.folder.iterdir()}
    secrets.create_missing(rendered)
    assert {path: path.read_bytes() for path in secrets.folder.iterdir()} == before


def test_the_template_itself_is_refused_as_a_site_with_the_way_on() -> None:
    template = Path(__file__).parents[3] / "deployments" / "sites" / "lab.toml"
    with pytest.raises(NotFoundError, match="make up"):
        load_site(str(template))


@pytest.fixture
def labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "labs"
    monkeypatch.setenv("VEDR_LABS", str(folder))
    return folder


def test_a_lab_keeps_its_network_for_life(labs: Path) -> None:
    asked = new_settings("one", network="10.81", port_base=4600, mode="relays", programs=None)
    save_settings(asked)
    assert new_settings("one", network=None, port_base=None, mode=None, programs=None) == asked
    assert read_settings("one") == asked
    with pytest.raises(ConflictError, match=r"10\.81"):
        new_settings("one", network="10.82", port_base=None, mode=None, programs=None)
    assert json.loads((labs / "one" / "lab.json").read_text())["network"] == "10.81"


@pytest.mark.parametrize("name", ["", "One", "../x", "a" * 17, "1a"])
def test_a_name_that_could_leave_the_folder_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="lab's name"):
        lab_folder(name)


@pytest.mark.usefixtures("labs")
def test_an_unknown_lab_says_how_to_start_it() -> None:
    with pytest.raises(NotFoundError, match="vedr lab up --name none"):
        read_settings("none")


def test_a_folder_too_deep_for_sockets_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VEDR_LABS", str(tmp_path / ("d" * 100)))
    settings = new_settings("deep", network="10.81", port_base=None, mode="relays", programs=None)
    with pytest.raises(InvalidInputError, match="shorter path"):
        load_plan(settings)


@pytest.mark.usefixtures("labs")
def test_two_commands_do_not_change_one_lab_at_once() -> None:
    settings = new_settings("one", network="10.81", port_base=None, mode="relays", programs=None)
    with exclusive(settings), pytest.raises(ConflictError, match="another command"), exclusive(settings):
        pass
