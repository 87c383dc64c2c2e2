"""Broken configuration is found, and replaced only by what a signed backup, or the site's own genesis, has."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from vedr.backup.layout import Source, placement_key
from vedr.backup.manifest import Facts
from vedr.backup.repository import list_snapshots
from vedr.backup.snapshot import create
from vedr.backup.tree import read_tree
from vedr.errors import InvalidInputError, NotFoundError, UnavailableError, VerificationFailedError
from vedr.failover.corruption_config import broken_files, check, drift, good_file
from vedr.inventory import Chain, Node

GENESIS = b'{"chain_id": "chain-1"}'
CONFIG = b'moniker = "full-0"\n'


@pytest.fixture
def node(tmp_path: Path) -> Node:
    home = tmp_path / "home"
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.toml").write_bytes(CONFIG)
    (home / "config" / "genesis.json").write_bytes(GENESIS)
    (home / "config" / "node_key.json").write_text("{}")
    return Node(
        name="full-0",
        region="us-east",
        zone="us-east-1a",
        role="full",
        rpc="http://h:1",
        p2p="h:1",
        home=home,
        unit="u",
    )


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    (tmp_path / "genesis.json").write_bytes(GENESIS)
    return Chain(
        chain_id="chain-1", block_time_s=1, start=("x",), start_isolated=("x",), inspect=("x",),
        genesis=tmp_path / "genesis.json", genesis_sha256=hashlib.sha256(GENESIS).hexdigest(),
    )  # fmt: skip


def back_up(world: Any, files: dict[str, bytes]) -> str:
    """A configuration snapshot of us-east, an hour after the last one."""
    world.clock.advance(hours=1)
    folder = world.folder / f"config-{world.clock.now:%d%H}"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(create(world.repository, Source("us-east", "config", "us-east"), read_tree(folder), Facts()).id)


def found_in(node: Node, chain: Chain, *, has_key_file: bool = False) -> list[tuple[str, str]]:
    return [(one.subject, one.detail) for one in broken_files(node.home, chain, node, has_key_file=has_key_file)]


def test_a_whole_configuration_has_no_findings_and_may_lack_what_nodes_can_do_without(node: Node, chain: Chain) -> None:
    assert not found_in(node, chain)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config/config.toml", b"[broken", "is not TOML"),
        ("config/config.toml", b"\xff\xfe", "is not TOML"),
        ("config/config.toml", None, "is gone"),
        ("config/app.toml", b"= 1", "is not TOML"),
        ("config/genesis.json", GENESIS + b" ", "has SHA-256"),
        ("config/genesis.json", None, "is gone"),
        ("config/node_key.json", b"", "can't be read"),
        ("config/node_key.json", None, "is gone"),
    ],
)
def test_every_broken_file_is_named(node: Node, chain: Chain, name: str, content: bytes | None, said: str) -> None:
    path = node.home / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    ((subject, detail),) = found_in(node, chain)
    assert subject == name
    assert said in detail


def test_a_validators_key_file_is_missed_only_where_it_belongs(node: Node, chain: Chain) -> None:
    assert [name for name, _ in found_in(node, chain, has_key_file=True)] == ["config/priv_validator_key.json"]


def test_a_broken_key_is_named_and_nothing_of_it_is_told(node: Node, chain: Chain) -> None:
    (node.home / "config" / "node_key.json").write_text('{"priv_key": "c2VjcmV0"')
    assert "c2VjcmV0" not in str(found_in(node, chain))


def test_the_newest_good_copy_is_given_back(make_world: Any, node: Node, chain: Chain) -> None:
    world = make_world(key=bytes(32))
    back_up(world, {"full-0/config/config.toml": b"old = 1\n", "full-1/config/config.toml": b"other = 1\n"})
    newest = back_up(world, {"full-0/config/config.toml": CONFIG, "full-1/config/config.toml": b"other = 1\n"})
    good = good_file(world.repository, chain, node, "config/config.toml")
    assert (good.content, good.origin, good.passed_over) == (CONFIG, newest, ())


def test_backups_that_hold_the_damage_or_lack_the_file_or_are_damaged_are_passed_over(
    make_world: Any, node: Node, chain: Chain
) -> None:
    world = make_world()
    good = back_up(world, {"full-0/config/config.toml": CONFIG})
    back_up(world, {"full-0/config/config.toml": b"[broken"})
    back_up(world, {"full-1/config/config.toml": b"a = 1"})
    lost = back_up(world, {"full-0/config/config.toml": b"newest = 1"})
    listed = list_snapshots(world.repository, "us-east", "config").snapshots[0]
    assert listed.id == lost
    for store in world.stores.values():
        store.delete(placement_key(listed.source, listed.id))
    found = good_file(world.repository, chain, node, "config/config.toml")
    assert (found.content, found.origin) == (CONFIG, good)
    assert ["TOML" in one for one in found.passed_over] == [False, False, True]


def test_without_any_good_copy_every_reason_is_named(make_world: Any, node: Node, chain: Chain) -> None:
    world = make_world()
    with pytest.raises(VerificationFailedError, match="none"):
        good_file(world.repository, chain, node, "config/config.toml")
    back_up(world, {"full-0/config/config.toml": b"[broken"})
    with pytest.raises(VerificationFailedError, match="is not TOML"):
        good_file(world.repository, chain, node, "config/config.toml")


def test_silent_stores_are_worth_another_try(make_world: Any, node: Node, chain: Chain) -> None:
    world = make_world()
    back_up(world, {"full-0/config/config.toml": CONFIG})
    for store in world.stores.values():
        store.faults.down = True
    with pytest.raises(UnavailableError):
        good_file(world.repository, chain, node, "config/config.toml")


def test_the_genesis_comes_from_the_site_and_only_when_it_is_the_pinned_one(
    make_world: Any, node: Node, chain: Chain
) -> None:
    repository = make_world().repository
    assert good_file(repository, chain, node, "config/genesis.json").content == GENESIS
    chain.genesis.write_bytes(b"{}")
    with pytest.raises(VerificationFailedError, match="SHA-256"):
        good_file(repository, chain, node, "config/genesis.json")
    chain.genesis.unlink()
    with pytest.raises(NotFoundError):
        good_file(repository, chain, node, "config/genesis.json")


@pytest.mark.parametrize("name", ["config/node_key.json", "config/priv_validator_key.json", "data/x"])
def test_keys_are_never_looked_for_in_a_configuration_backup(
    make_world: Any, node: Node, chain: Chain, name: str
) -> None:
    with pytest.raises(InvalidInputError, match="no configuration backup"):
        good_file(make_world().repository, chain, node, name)


def test_files_that_differ_from_the_newest_backup_are_named(make_world: Any, node: Node, chain: Chain) -> None:
    world = make_world()
    newest = back_up(world, {"full-0/config/config.toml": CONFIG})
    assert not drift(world.repository, chain, node, node.home)
    (node.home / "config" / "config.toml").write_bytes(b'moniker = "changed"')
    (found,) = drift(world.repository, chain, node, node.home)
    assert (found.kind, found.subject, found.detail) == ("config", "config/config.toml", f"differs from {newest}")


def test_files_that_no_backup_has_can_not_be_compared(make_world: Any, node: Node, chain: Chain) -> None:
    with pytest.raises(VerificationFailedError):
        drift(make_world().repository, chain, node, node.home)


def test_a_file_that_parses_is_good(chain: Chain) -> None:
    check("config/app.toml", b"a = 1", chain)
