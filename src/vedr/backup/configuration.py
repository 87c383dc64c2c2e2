"""Configuration of the fleet: collected by allow-list, searched for secrets, committed to git.

Guarantees: only files that are known to be configuration are read; keys are never among them; a file in which something
looks like a secret stops the whole backup and is named, its content never is.  A commit holds exactly the collected
files: what has vanished from the fleet vanishes from the newest commit.
Leaves out: storing in the regions, which the snapshot engine does with the same files.

Git keeps a branch a month, each starting without parents, so that old configuration can be dropped as a whole when its
branch has been quiet for the retention time: nothing is ever rewritten.
"""

import datetime as dt
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from vedr.errors import InvalidInputError, NotFoundError, RefusedError, UnavailableError

NODE_FILES: Final = ("config/config.toml", "config/app.toml", "config/client.toml", "config/genesis.json")
PROVIDER_FILES: Final = ("config/provider.toml", "config/provider.yaml", "provider.yaml")
MAX_FILE_BYTES: Final = 64 * 1024 * 1024  # the largest is genesis.json; more than this is not configuration
GIT_TIMEOUT_S: Final = 60

SECRET_SIGNS: Final[Mapping[str, re.Pattern[bytes]]] = {
    "a PEM private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a CometBFT private key": re.compile(rb"tendermint/PrivKey|cometbft/PrivKey|\"priv_key\"\s*:"),
    "an AWS access key": re.compile(rb"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a password or token": re.compile(
        rb"(?im)^\s*[\"']?[a-z0-9_.-]*(password|passphrase|secret|secret[_-]?key|api[_-]?key|auth[_-]?token|mnemonic)[\"']?"
        rb"\s*[:=]\s*[\"']?(?!file:|env:|aws-secret:|true\b|false\b)[^\s\"',]{4,}"
    ),
    "credentials in a URL": re.compile(rb"[a-z]+://[^\s/:@\"'<>{}]+:[^\s/@\"'<>{}]+@"),  # not `<user>:<password>`
}


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One collected file; `name` is its path in the backup, `<owner>/config/…`."""

    name: PurePosixPath
    content: bytes


def collect(owner: str, home: Path, allowed: Iterable[str]) -> tuple[ConfigFile, ...]:
    """The configuration files of one node or provider.

    Raises:
        NotFoundError: none of them exists, so this is no home.
        RefusedError: something in a file looks like a secret, or a file is a link that leads out of the home.
    """
    files = []
    for relative in allowed:
        path = home / relative
        if not path.is_file():
            continue
        if not path.resolve().is_relative_to(home.resolve()):
            raise RefusedError(f"{owner}: {relative} leads out of its home", remedy="Put the file itself there.")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InvalidInputError(
                f"{owner}: {relative} has {size} bytes, more than {MAX_FILE_BYTES}",
                remedy="This is no configuration file.",
            )
        file = ConfigFile(PurePosixPath(owner, relative), path.read_bytes())
        refuse_secrets(file)
        files.append(file)
    if not files:
        raise NotFoundError(f"{owner}: no configuration under {home}", remedy="Check the home in the site file.")
    return tuple(files)


def refuse_secrets(file: ConfigFile) -> None:
    """RefusedError, naming the file, the line and what it looks like, never the content."""
    for sign, pattern in SECRET_SIGNS.items():
        if match := pattern.search(file.content):
            line = file.content.count(b"\n", 0, match.end()) + 1
            raise RefusedError(
                f"{file.name}:{line}: looks like {sign}; nothing of this configuration was stored",
                remedy="Replace it by a reference (file:, env:, aws-secret:) in the service's configuration.",
            )


@dataclass(frozen=True, slots=True)
class Commit:
    """What the repository holds now; `changed` is false when the newest commit already held exactly this."""

    branch: str
    revision: str
    changed: bool


class ConfigHistory:
    """The git repository with the fleet's configuration, a branch a month."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def commit(self, area: str, files: Iterable[ConfigFile], now: dt.datetime, message: str) -> Commit:
        """Record `files` as everything that area (a region) has, on this month's branch.

        Safe to repeat; other areas' files stay as the branch has them.
        """
        self._ensure_repository()
        branch = f"config/{now:%Y-%m}"
        parent = self._revision(branch)
        index = self.folder / f"index-{area}-{os.getpid()}"
        environment = {"GIT_INDEX_FILE": str(index)}
        try:
            if parent:
                self._git("read-tree", parent, environment=environment)
                self._git("rm", "-r", "-q", "--cached", "--ignore-unmatch", "--", area, environment=environment)
            for file in files:
                blob = self._git("hash-object", "-w", "--stdin", stdin=file.content)
                entry = f"100644,{blob},{area}/{file.name}"
                self._git("update-index", "--add", "--cacheinfo", entry, environment=environment)
            tree = self._git("write-tree", environment=environment)
        finally:
            index.unlink(missing_ok=True)
        if parent and tree == self._git("rev-parse", f"{parent}^{{tree}}"):
            return Commit(branch, parent, changed=False)
        when = {"GIT_AUTHOR_DATE": now.isoformat(), "GIT_COMMITTER_DATE": now.isoformat()}
        parents = ("-p", parent) if parent else ()
        revision = self._git("commit-tree", tree, *parents, "-m", message, environment=when)
        # The old value makes this a compare-and-swap: a region that committed meanwhile is never overwritten.
        self._git("update-ref", f"refs/heads/{branch}", revision, parent or "0" * 40)
        return Commit(branch, revision, changed=True)

    def drop_older_than(self, limit: dt.datetime) -> tuple[str, ...]:
        """Delete the branches whose newest commit is older than `limit`; the names of those that went."""
        self._ensure_repository()
        listing = self._git("for-each-ref", "--format=%(refname:short) %(committerdate:unix)", "refs/heads/config/")
        old = tuple(
            branch
            for branch, _, committed in (line.partition(" ") for line in listing.splitlines())
            if int(committed) < limit.timestamp()
        )
        for branch in old:
            self._git("update-ref", "-d", f"refs/heads/{branch}")
        if old:
            self._git("gc", "--quiet", "--prune=now")
        return old

    def _ensure_repository(self) -> None:
        if not (self.folder / "HEAD").is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._git("init", "--quiet", "--bare", "--initial-branch=config/none", ".")

    def _revision(self, branch: str) -> str:
        return self._git("for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}")

    def _git(self, *arguments: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None) -> str:
        identity = {
            "PATH": os.environ.get("PATH", os.defpath),
            "GIT_DIR": str(self.folder),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_AUTHOR_NAME": "vedr",
            "GIT_AUTHOR_EMAIL": "vedr@localhost",
            "GIT_COMMITTER_NAME": "vedr",
            "GIT_COMMITTER_EMAIL": "vedr@localhost",
        }
        try:
            done = subprocess.run(
                ["git", *arguments],
                input=stdin,
                capture_output=True,
                check=True,
                timeout=GIT_TIMEOUT_S,
                cwd=self.folder,
                env=identity | dict(environment or {}),
            )
        except FileNotFoundError as error:
            raise UnavailableError("git is not installed", remedy="Install it: apt-get install git.") from error
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"git {arguments[0]} took more than {GIT_TIMEOUT_S} s") from error
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip()
            raise UnavailableError(
                f"git {arguments[0]} failed in {self.folder}: {reason}",
                remedy="Try again; look at the repository if it stays.",
            ) from error
        return done.stdout.decode().strip()
