"""A region's keys, read from its hosts: all of them, or it is said which not and why."""

import os
from pathlib import Path

import pytest
from keysworld import DAEMON_PASSPHRASE, NOW, KeysWorld, daemon_backup, daemon_key, daemon_share
from sitemaker import make_site, put_key

from vedr.adapters.lab_fleet import LocalFiles
from vedr.custody import key_backup_store
from vedr.custody.key_backup_collect import Owner, RegionKeys, back_up_region, collect, live_home, owners
from vedr.custody.key_material import VALIDATOR_FILE
from vedr.errors import CorruptError, NotFoundError, RefusedError
from vedr.inventory import Site, load_site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return load_site(str(make_site(tmp_path)))


def run(keys: KeysWorld, site: Site, **more: object) -> RegionKeys:
    return back_up_region(keys.repository, site, LocalFiles(), "us-east", **more)  # type: ignore[arg-type]


def reasons(done: RegionKeys) -> str:
    return "; ".join(f"{one.owner} {one.kind}: {one.reason}" for one in done.troubles)


def test_every_key_of_a_region_is_backed_up(keys: KeysWorld, site: Site) -> None:
    done = run(keys, site)
    assert not done.troubles
    assert {(one.owner, one.kind) for one in done.saved} == {
        (owner.name, owner.kind) for owner in owners(site, "us-east")
    }
    assert len(done.saved) == 5
    assert all(one.regions == ("us-east", "eu-west", "ap-south") and not one.fresh for one in done.saved)
    entry = key_backup_store.newest(keys.repository, "us-east", "validator", "validator-us-east")
    assert entry is not None
    assert entry.sign_state == "7/0/3"


def test_a_second_run_of_the_day_finds_the_backups_fresh(keys: KeysWorld, site: Site) -> None:
    first = run(keys, site)
    keys.clock.advance(hours=1)
    again = run(keys, site)
    assert all(one.fresh for one in again.saved)
    assert [one.backup for one in again.saved] == [one.backup for one in first.saved]
    assert not any(one.fresh for one in run(keys, site, even_if_fresh=True).saved)
    keys.clock.advance(hours=12)
    assert not any(one.fresh for one in run(keys, site).saved)
    keys.clock.advance(hours=1)
    keys.repository.escrow.open_epoch("node")
    fresh = {one.kind: one.fresh for one in run(keys, site).saved}
    assert fresh == {"validator": True, "node": False, "provider": True}


def test_one_owners_trouble_is_not_the_others(keys: KeysWorld, site: Site) -> None:
    (site.node("full-us-east").home / "config" / "node_key.json").write_bytes(b"{}")
    keys.vault.values["us-east"].pop("virtengine/dr/backup-passphrase-provider/0001")
    keys.vault.down = {"eu-west", "ap-south"}
    said: list[str] = []
    done = run(keys, site, say=said.append)
    assert len(done.troubles) == 5
    assert any(one.transient for one in done.troubles)
    keys.vault.down = set()
    done = run(keys, site, say=said.append)
    assert reasons(done).startswith("full-us-east node:")
    assert len(done.saved) == 4
    assert said


def test_a_validator_whose_key_is_anothers_is_refused(site: Site) -> None:
    node = site.node("validator-us-east")
    (node.home / VALIDATOR_FILE).unlink()
    owner = Owner("validator", node.name, "us-east")
    with pytest.raises(NotFoundError, match="does not exist"):
        collect(site, LocalFiles(), owner, now=NOW)
    put_key(node.home, "validator", VALIDATOR_FILE)
    with pytest.raises(RefusedError, match="not the one of"):
        collect(site, LocalFiles(), owner, now=NOW)


def test_a_validator_of_a_remote_signer_has_no_key_to_back_up(keys: KeysWorld, site: Site) -> None:
    node = site.node("validator-us-east")
    (node.home / VALIDATOR_FILE).unlink()
    (node.home / "config" / "config.toml").write_text('priv_validator_laddr = "tcp://0.0.0.0:26659"\n')
    done = run(keys, site)
    assert done.in_hsm == ("validator-us-east",)
    assert not done.troubles
    (node.home / "config" / "config.toml").unlink()
    assert "does not exist" in reasons(run(keys, site))


def test_a_missing_sign_state_does_not_keep_a_key_from_its_backup(site: Site) -> None:
    node = site.node("validator-us-east")
    (node.home / "data" / "priv_validator_state.json").unlink()
    found = collect(site, LocalFiles(), Owner("validator", node.name, "us-east"), now=NOW)
    assert found.sign_state == ""
    assert "content" not in repr(found.files)


def test_a_key_file_that_others_may_read_is_reported(keys: KeysWorld, site: Site) -> None:
    (site.node("full-us-east").home / "config" / "node_key.json").chmod(0o644)
    done = run(keys, site)
    assert len(done.saved) == 5
    assert reasons(done) == "full-us-east node: node_key.json has mode 0644: others may read it"


def test_a_link_is_not_followed(site: Site) -> None:
    node, other = site.node("full-us-east"), site.node("arch-us-east")
    path = node.home / "config" / "node_key.json"
    path.unlink()
    path.symlink_to(other.home / "config" / "node_key.json")
    with pytest.raises(RefusedError):
        collect(site, LocalFiles(), Owner("node", node.name, "us-east"), now=NOW)


OWNER = Owner("provider", "provider-us-east", "us-east")


def daemon_file(site: Site, name: str, content: bytes) -> None:
    path = site.providers[0].home / "keys" / name
    path.touch(mode=0o600)
    path.write_bytes(content)


def test_a_daemons_backup_is_converted_and_its_defects_are_reported(keys: KeysWorld, site: Site) -> None:
    daemon_file(site, "a.json", daemon_backup([daemon_key("good"), daemon_key("bad", private_key=None)]))
    whole = daemon_backup([daemon_key()])
    daemon_file(site, "share.json", daemon_share(bytes([whole[0] ^ 1]) + whole[1:]))
    done = run(keys, site, passphrase=lambda: DAEMON_PASSPHRASE)
    assert reasons(done) == (
        "provider-us-east provider: keys/a.json: bad: no private key; "
        "provider-us-east provider: keys/share.json: share holds the whole backup"
    )
    entry = key_backup_store.newest(keys.repository, "us-east", "provider", "provider-us-east")
    assert entry is not None
    assert [key.path for key in entry.keys] == ["keys/good.pem", "keys/provider.pem"]
    assert entry.keys[0].since.year == 2026


def test_a_daemons_backup_that_nobody_can_open_is_said_to_be_so(keys: KeysWorld, site: Site) -> None:
    daemon_file(site, "share.json", daemon_share(b"x"))
    assert "not a share that opens" in reasons(run(keys, site))
    daemon_file(site, "a.json", daemon_backup([daemon_key()]))
    assert "nobody said what opens it" in reasons(run(keys, site))


def test_a_provider_without_a_key_is_an_error_that_tells_what_was_found(site: Site) -> None:
    (site.providers[0].home / "keys" / "provider.pem").unlink()
    with pytest.raises(NotFoundError, match="no key under"):
        collect(site, LocalFiles(), OWNER, now=NOW)
    daemon_file(site, "a.json", daemon_backup([daemon_key("x", private_key=None)]))
    with pytest.raises(NotFoundError, match="x: no private key"):
        collect(site, LocalFiles(), OWNER, now=NOW, passphrase=lambda: DAEMON_PASSPHRASE)
    daemon_file(site, "b.json", b"junk")
    with pytest.raises(CorruptError):
        collect(site, LocalFiles(), OWNER, now=NOW, passphrase=lambda: DAEMON_PASSPHRASE)


def test_an_owner_that_the_site_does_not_have_is_named(site: Site) -> None:
    nobody = Owner("provider", "nobody", "us-east")
    with pytest.raises(NotFoundError, match="nobody"):
        collect(site, LocalFiles(), nobody, now=NOW)
    with pytest.raises(NotFoundError, match="nobody"):
        live_home(site, LocalFiles(), nobody)
    home, unit, zone = live_home(site, LocalFiles(), OWNER)
    assert (home, unit, zone) == (site.providers[0].home, "provider-us-east", "us-east-1b")
    node = site.node("full-us-east")
    assert live_home(site, LocalFiles(), Owner("node", node.name, "us-east")) == (node.home, node.unit, node.zone)
    assert os.path.isabs(home)  # noqa: PTH117
