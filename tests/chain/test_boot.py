import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from chain_network import Network, eventually

from vedr.adapters import isolated_node
from vedr.adapters.inspector import CommandInspector
from vedr.adapters.isolated_node import IsolatedNode, Isolation, best_isolation, boot_isolated
from vedr.chain.light import LightClient
from vedr.errors import DeadlineError, InvalidInputError, NotFoundError, VerificationFailedError
from vedr.inventory import Height

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
    assert proof.app_hash == light.verified_header(Height(proof.height + 1)).app_hash


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


def test_a_node_that_ignores_the_request_to_end_is_killed(
    network: Network, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated_node, "STOP_GRACE_S", 0.2)
    deaf = ("sh", "-c", "trap '' TERM; while :; do sleep 0.05; done", "deaf-to-vedr", str(data))

    with pytest.raises(DeadlineError):
        boot_isolated(network.chain(start_isolated=deaf), None, data, deadline_s=0.5)
    assert not [command for command in _processes() if "deaf-to-vedr" in command and str(data) in command]


def test_an_isolated_node_does_not_outlive_a_killed_caller(network: Network, data: Path, tmp_path: Path) -> None:
    chain = network.chain(start_isolated=("sh", "-c", "while :; do sleep 0.05; done", "orphan-of-vedr", str(data)))
    (tmp_path / "chain.json").write_text(chain.model_dump_json())
    script = (
        "import sys; from pathlib import Path; from vedr.inventory import Chain\n"
        "from vedr.adapters.isolated_node import boot_isolated\n"
        "chain, data = map(Path, sys.argv[1:])\n"
        "boot_isolated(Chain.model_validate_json(chain.read_text()), None, data)"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "chain.json", data], env={**os.environ, "TMPDIR": str(tmp_path)}
    )

    def runs() -> bool:
        """The node itself, not what wraps it."""
        nodes = [command for command in _processes() if command.startswith("sh\0-c\0while")]
        return any("orphan-of-vedr" in command and str(data) in command for command in nodes)

    try:
        eventually(runs, "the isolated node runs")
    finally:
        caller.kill()
        caller.wait()
    eventually(lambda: not runs(), "the isolated node is gone")


def test_a_namespace_that_cannot_be_had_is_refused(
    network: Network, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated_node.os, "geteuid", lambda: 1000)
    with pytest.raises(InvalidInputError, match="needs root"):
        boot_isolated(network.chain(), None, data, isolation="namespace")


def test_a_proof_says_whether_the_whole_state_was_read(network: Network, data: Path, light: LightClient) -> None:
    inspector = CommandInspector(network.chain())
    proof = IsolatedNode(network.chain()).prove(
        data, light, read_state=lambda data: inspector.inspect(data.parent, data, deep=True)
    )
    assert proof.facts["app_hash"] == light.verified_header(Height(proof.height + 1)).app_hash
    assert proof.facts["state_read"] == "every key and value"


def test_an_application_configuration_is_used_when_given(network: Network, data: Path, tmp_path: Path) -> None:
    (tmp_path / "app.toml").write_text('pruning = "no such thing"\n')
    with pytest.raises(VerificationFailedError, match="no such thing"):
        boot_isolated(network.chain(), tmp_path / "app.toml", data)


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


def test_a_node_that_ends_at_once_is_a_failure_whenever_it_is_noticed(network: Network, data: Path) -> None:
    """Its namespace goes away with it, at any moment of being looked at."""
    chain = network.chain(start_isolated=("false",))
    for _ in range(20):
        with pytest.raises(VerificationFailedError, match="ended with status 1"):
            boot_isolated(chain, None, data)
