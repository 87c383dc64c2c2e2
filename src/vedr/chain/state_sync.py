"""Makes a stopped node start by state sync, and undoes that.

Guarantees: the old data is kept beside the new until `finish`; the sign state is carried over; each step may be
repeated after a crash, and `undo` puts the node back as it was.  The trusted header comes from the light client.
Leaves out: stopping and starting the node, and watching it (`sync.wait_caught_up`).
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedr.chain.durable import keep_owner, replace_file, sync_folder
from vedr.chain.light import VerifiedHeader
from vedr.chain.node_config import edit_section
from vedr.chain.sign_state import FILE_NAME, read_sign_state, write_sign_state
from vedr.chain.sync import STATE_SYNC_SERVERS
from vedr.errors import InvalidInputError, NotFoundError

_SECTION: Final = "statesync"
_INCIDENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class StateSyncPlan:
    """Where a node's files are during a state sync."""

    home: Path
    incident: str

    def __post_init__(self) -> None:
        if not _INCIDENT.fullmatch(self.incident):
            raise InvalidInputError(f"incident {self.incident!r}", remedy="Use letters, digits, '.', '_' and '-'.")

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def kept_data(self) -> Path:
        return self.home / f"data.vedr-old-{self.incident}"

    @property
    def failed_data(self) -> Path:
        return self.home / f"data.vedr-failed-{self.incident}"

    @property
    def config(self) -> Path:
        return self.home / "config" / "config.toml"

    @property
    def kept_config(self) -> Path:
        return self.home / "config" / f"config.toml.vedr-old-{self.incident}"


def prepare(plan: StateSyncPlan, servers: Sequence[str], trusted: VerifiedHeader, *, trust_period_s: int) -> None:
    """Set data aside, carry the sign state over, switch state sync on.  The node must be stopped.

    (1) The configuration's old text is kept.  (2) It is edited.  (3) The data is set aside.  (4) A new data folder with
    the old sign state takes its place.

    Raises:
        InvalidInputError: fewer than two different servers.
        NotFoundError, CorruptError: no configuration, or none that can be edited; nothing was changed.
    """
    if len(set(servers)) < STATE_SYNC_SERVERS:
        raise InvalidInputError(
            f"state sync needs {STATE_SYNC_SERVERS} different RPC servers, got {', '.join(servers) or 'none'}",
            remedy="Name nodes of two regions.",
        )
    edited = edit_section(
        _kept_or_live(plan),
        _SECTION,
        {
            "enable": True,
            "rpc_servers": ",".join(servers),
            "trust_height": trusted.height,
            "trust_hash": trusted.hash,
            "trust_period": f"{trust_period_s}s",
        },
    )
    if not plan.kept_config.exists():  # (1)
        replace_file(plan.kept_config, plan.config.read_bytes())
    replace_file(plan.config, edited.encode(), mode=0o644)  # (2)
    start_afresh(plan)  # (3) and (4)


def start_afresh(plan: StateSyncPlan) -> None:
    """Set the data aside and put an empty folder in its place, with the old sign state: for block or state sync.

    The node must be stopped.  Safe to repeat; a node that has lost its data folder gets one.  The exchange lasts before
    anything is signed in the new folder: taken back by a loss of power, it would leave the sign state of before.
    """
    if plan.data.exists() and not plan.kept_data.exists():
        plan.data.rename(plan.kept_data)
    plan.data.mkdir(mode=0o700, exist_ok=True)
    keep_owner(plan.data, like=plan.kept_data if plan.kept_data.exists() else plan.home)
    sync_folder(plan.home)
    _carry_sign_state(plan.kept_data, plan.data)


def undo(plan: StateSyncPlan) -> None:
    """Put the old data and configuration back; the sign state only ever rises.  The node must be stopped."""
    if plan.kept_data.exists():
        if plan.data.exists():
            _carry_sign_state(plan.data, plan.kept_data)
            shutil.rmtree(plan.failed_data, ignore_errors=True)
            plan.data.rename(plan.failed_data)
        plan.kept_data.rename(plan.data)
        sync_folder(plan.home)  # as in `start_afresh`
    shutil.rmtree(plan.failed_data, ignore_errors=True)
    _restore_config(plan)


def finish(plan: StateSyncPlan) -> None:
    """The new data is proven: drop the old, put the configuration back.  The node may run."""
    shutil.rmtree(plan.kept_data, ignore_errors=True)
    _restore_config(plan)


def _restore_config(plan: StateSyncPlan) -> None:
    if plan.kept_config.exists():
        replace_file(plan.config, plan.kept_config.read_bytes(), mode=0o644)
        plan.kept_config.unlink()


def _kept_or_live(plan: StateSyncPlan) -> str:
    path = plan.kept_config if plan.kept_config.exists() else plan.config
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}", remedy="Restore the node's configuration first.") from error


def _carry_sign_state(source: Path, target: Path) -> None:
    if (source / FILE_NAME).exists():
        write_sign_state(target / FILE_NAME, read_sign_state(source / FILE_NAME))
