import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from chain_network import Network

from vedr.adapters.isolated_node import IsolatedNode, Isolation, best_isolation, boot_isolated
from vedr.chain.light import LightClient
from vedr.errors import DeadlineError, InvalidInputError, NotFoundError, VerificationFailedError

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def stopped_copy(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the full node, copied while it stood still."""
    network.reach(network.height("full0") + 2, "full0")
    network.stop("full0")
    copy = tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(network.home("full0") / "data", copy)
    network.start("full0")
    network.reach(3, "full0")
    return copy


@pytest.fixture
def data(stopped_copy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped_copy, tmp_path / "data"))


@pytest.fixture
def light(network: Network, tmp_path: Path) -> Iterator[LightClient]:
    with network.rpc("val3") as primary, network.rpc("val2") as witness:
        yield LightClient(network.chain(), [primary, witness], tmp_path / "trust")


def isolations() -> list[Isolation]:
    return ["loopback", "namespace"] if best_isolation() == "namespace" else ["loopback"]


@pytest.mark.parametrize("isolation", isolations())
def test_a_booted_copy_is_proven_by_verified_headers(
    network: Network, data: Path, light: LightClient, isolation: Isolation
) -> None:
    proof = IsolatedNode(network.chain(), isolation=isolation).prove(data, light)

    assert proof.height > 3
    assert proof.app_hash == light.app_hash_at(proof.height)


def test_a_boot_stops_cleanly_and_leaves_no_process_and_no_folder(
    network: Network, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    state = boot_isolated(network.chain(), None, data)

    assert state.stopped_cleanly
    assert not list(tmp_path.glob("vedr-boot-*"))
    assert not [command for command in _processes() if "vedr-boot-" in command and str(tmp_path) in command]


def test_data_that_does_not_start_fails_with_the_nodes_own_words(network: Network, data: Path) -> None:
    for manifest in (data / "blockstore.db").glob("MANIFEST-*"):
        manifest.write_bytes(b"not a manifest")

    with pytest.raises(VerificationFailedError, match=r"ended with status 1: .*\S"):
        boot_isolated(network.chain(), None, data)


def test_a_node_that_never_serves_is_ended_at_the_deadline(network: Network, data: Path) -> None:
    chain = network.chain(start_isolated=("sleep", "60"))

    with pytest.raises(DeadlineError, match="wrote nothing"):
        boot_isolated(chain, None, data, deadline_s=0.5)


def test_data_with_a_validator_key_is_never_booted(network: Network, data: Path) -> None:
    (data / "priv_validator_key.json").write_text("{}")

    with pytest.raises(InvalidInputError, match="priv_validator_key"):
        boot_isolated(network.chain(), None, data)


def test_missing_data_genesis_or_program_is_named(network: Network, data: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        boot_isolated(network.chain(), None, tmp_path / "nowhere")
    with pytest.raises(NotFoundError, match="no-genesis"):
        boot_isolated(network.chain(genesis=tmp_path / "no-genesis"), None, data)
    with pytest.raises(NotFoundError, match="no-such-node"):
        boot_isolated(network.chain(start_isolated=("no-such-node",)), None, data)


def test_another_genesis_than_the_pinned_one_is_refused(network: Network, data: Path) -> None:
    with pytest.raises(VerificationFailedError, match="SHA-256"):
        boot_isolated(network.chain(genesis_sha256="0" * 64), None, data)


def _processes() -> list[str]:
    commands = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            commands.append((folder / "cmdline").read_bytes().decode(errors="replace"))
    return commands
