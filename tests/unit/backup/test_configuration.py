"""Configuration backups: what is taken, what is refused, and what git holds afterwards."""

import datetime as dt
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from vedr.backup.configuration import NODE_FILES, ConfigFile, ConfigHistory, collect, refuse_secrets
from vedr.errors import InvalidInputError, NotFoundError, RefusedError, UnavailableError

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    config = tmp_path / "home" / "config"
    config.mkdir(parents=True)
    (config / "config.toml").write_text('moniker = "full-0"\n')
    (config / "genesis.json").write_text("{}")
    (config / "priv_validator_key.json").write_text('{"priv_key": {"value": "c2VjcmV0"}}')
    (config / "node_key.json").write_text('{"priv_key": {"value": "c2VjcmV0"}}')
    return tmp_path / "home"


def test_keys_are_never_collected(home: Path) -> None:
    names = {file.name.name for file in collect("full-0", home, NODE_FILES)}
    assert names == {"config.toml", "genesis.json"}


def test_a_folder_without_configuration_is_an_error_not_an_empty_backup(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no configuration"):
        collect("full-0", tmp_path, NODE_FILES)


def test_a_link_out_of_the_home_is_refused(home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "app.toml"
    outside.write_text("x = 1")
    (home / "config" / "app.toml").symlink_to(outside)
    with pytest.raises(RefusedError, match="leads out"):
        collect("full-0", home, NODE_FILES)


def test_a_file_too_large_to_be_configuration_is_refused(home: Path) -> None:
    with (home / "config" / "app.toml").open("wb") as file:
        file.truncate(64 * 1024 * 1024 + 1)
    with pytest.raises(InvalidInputError, match="no configuration file"):
        collect("full-0", home, NODE_FILES)


@pytest.mark.parametrize(
    "content",
    [
        "x = 1\n-----BEGIN " + "PRIVATE KEY-----\n",
        '{"type": "tendermint/PrivKey' + 'Ed25519"}',
        "key = AKIA" + "ABCDEFGHIJKLMNOP",
        "a = 1\ndb_password = 'hunter22'\n",
        "mnemonic: abandon abandon",
        'url = "postgres://user:pass@db/x"',
    ],
)
def test_what_looks_like_a_secret_is_refused_and_never_shown(content: str) -> None:
    with pytest.raises(RefusedError, match=r"full-0/config/app\.toml:\d+: looks like") as refused:
        refuse_secrets(ConfigFile(PurePosixPath("full-0/config/app.toml"), content.encode()))
    for secret in ("hunter22", "abandon", "ABCDEFGH", "user:pass"):
        assert secret not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        'password = "file:/run/pin"',
        "secret = true",
        "priv_validator_key_file = 'x.json'",
        '# "postgresql://<user>:<password>@<host>/<db>"',
    ],
)
def test_references_to_secrets_and_placeholders_are_configuration(content: str) -> None:
    refuse_secrets(ConfigFile(PurePosixPath("full-0/config/app.toml"), content.encode()))


def config_file(name: str, content: str) -> ConfigFile:
    return ConfigFile(PurePosixPath(name), content.encode())


def tree(folder: Path, revision: str) -> list[str]:
    command = ["git", "--git-dir", str(folder), "ls-tree", "-r", "--name-only", revision]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()


def test_a_commit_holds_exactly_what_the_region_has_and_keeps_the_others(tmp_path: Path) -> None:
    history = ConfigHistory(tmp_path / "repository")
    history.commit("us-east", [config_file("a/x", "1"), config_file("a/y", "1")], NOW, "us-east")
    history.commit("eu-west", [config_file("b/x", "1")], NOW, "eu-west")
    third = history.commit("us-east", [config_file("a/x", "2")], NOW, "us-east")
    assert tree(history.folder, third.revision) == ["eu-west/b/x", "us-east/a/x"]


def test_unchanged_configuration_makes_no_commit(tmp_path: Path) -> None:
    history = ConfigHistory(tmp_path / "repository")
    first = history.commit("us-east", [config_file("a/x", "1")], NOW, "first")
    again = history.commit("us-east", [config_file("a/x", "1")], NOW, "again")
    assert (again.changed, again.revision) == (False, first.revision)


def test_old_months_go_as_a_whole_and_the_current_one_stays(tmp_path: Path) -> None:
    history = ConfigHistory(tmp_path / "repository")
    old = history.commit("us-east", [config_file("a/x", "1")], NOW - dt.timedelta(days=62), "old")
    new = history.commit("us-east", [config_file("a/x", "2")], NOW, "new")
    assert history.drop_older_than(NOW - dt.timedelta(days=30)) == (old.branch,)
    assert tree(history.folder, new.branch) == ["us-east/a/x"]
    with pytest.raises(subprocess.CalledProcessError):
        tree(history.folder, old.revision)


def test_a_broken_repository_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "HEAD").write_text("nonsense")
    with pytest.raises(UnavailableError, match="repository"):
        ConfigHistory(folder).commit("us-east", [config_file("a/x", "1")], NOW, "x")


def test_a_machine_without_git_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="git is not installed"):
        ConfigHistory(tmp_path / "repository").commit("us-east", [], NOW, "x")
