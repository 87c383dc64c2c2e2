"""What a lab was started with, kept in its folder, so that every later command needs only the lab's name.

Guarantees: a lab keeps its network, ports and mode for life; a request that contradicts them is refused.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from vedr.errors import ConflictError, InvalidInputError, NotFoundError
from vedr.inventory import labs_directory
from vedr.lab.addresses import Addresses, Mode
from vedr.lab.credentials import write_whole
from vedr.lab.plan import Plan, Settings
from vedr.lab.template import load_template

DEFAULT_NETWORK: Final = "10.77"
DEFAULT_PORT_BASE: Final = 4200
TEMPLATE: Final = Path("deployments/sites/lab.toml")
BIN_ENV: Final = "VEDR_BIN"
_FILE: Final = "lab.json"
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,15}")
_MAX_SOCKET_PATH: Final = 107  # sockaddr_un


def lab_folder(name: str) -> Path:
    """Where the lab of that name keeps everything."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name!r} cannot be a lab's name", remedy="Use up to 16 lower-case letters, digits and dashes."
        )
    return labs_directory().absolute() / name


def project_folder() -> Path:
    """The checkout: where deployments/sites/lab.toml is, around this file or around the current folder."""
    for start in (Path(__file__).resolve(), Path.cwd().resolve() / "x"):
        for folder in start.parents:
            if (folder / TEMPLATE).is_file():
                return folder
    raise NotFoundError(
        f"no {TEMPLATE} here or above", remedy="The lab is started from a checkout: change to its folder."
    )


def new_settings(
    name: str, *, network: str | None, port_base: int | None, mode: Mode | None, programs: Path | None
) -> Settings:
    """Settings of a lab: as it was started before, or as asked for, or the defaults.

    Raises:
        ConflictError: the lab exists and has other settings.
    """
    folder, project = lab_folder(name), project_folder()
    wanted = programs or Path(os.environ.get(BIN_ENV) or project / "build" / "bin")
    if (folder / _FILE).exists():
        known = replace(read_settings(name), programs=wanted.absolute(), project=project)
        _refuse_change(known, network=network, port_base=port_base, mode=mode)
        return known
    chosen_mode: Mode = mode or ("namespaces" if os.geteuid() == 0 else "relays")
    if chosen_mode == "namespaces" and os.geteuid() != 0:
        raise InvalidInputError("mode namespaces needs root", remedy="Run as root, or use --mode relays.")
    settings = Settings(
        name=name,
        network=network or DEFAULT_NETWORK,
        port_base=port_base or DEFAULT_PORT_BASE,
        mode=chosen_mode,
        folder=folder,
        programs=wanted.absolute(),
        project=project,
    )
    Addresses(settings.network, settings.mode)  # refuses a public network before anything is made
    return settings


def save_settings(settings: Settings) -> None:
    document = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()}
    write_whole(settings.folder / _FILE, json.dumps(document, indent=2) + "\n", mode=0o644)


def read_settings(name: str) -> Settings:
    """Raises NotFoundError when there is no such lab."""
    path = lab_folder(name) / _FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(
            f"no lab {name!r}: {path} does not exist", remedy=f"Start it with `vedr lab up --name {name}`."
        ) from error
    paths = {key: Path(found[key]) for key in ("folder", "programs", "project")}
    return Settings(**{**found, **paths})


def load_plan(settings: Settings) -> Plan:
    """The plan; a lab that exists keeps the template that it was made from."""
    kept = settings.folder / "template.toml"
    plan = Plan(settings, load_template(kept if kept.exists() else settings.project / TEMPLATE))
    socket = plan.agent_folder(plan.zones[0]) / "agent.sock"
    if len(str(socket)) > _MAX_SOCKET_PATH:
        raise InvalidInputError(
            f"{socket}: too long for a unix socket ({len(str(socket))} > {_MAX_SOCKET_PATH} characters)",
            remedy="Point VEDR_LABS at a folder with a shorter path.",
        )
    return plan


@contextmanager
def exclusive(settings: Settings) -> Iterator[None]:
    """One `up`, `down` or fault at a time; ended by the kernel when the holder dies."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    with (settings.folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                f"another command is changing lab {settings.name}", remedy="Wait until it has ended, then try again."
            ) from error
        yield


def _refuse_change(known: Settings, *, network: str | None, port_base: int | None, mode: Mode | None) -> None:
    asked = {"network": network, "port_base": port_base, "mode": mode}
    for key, value in asked.items():
        if value is not None and value != getattr(known, key):
            raise ConflictError(
                f"lab {known.name} exists with {key} {getattr(known, key)!r}, not {value!r}",
                remedy=f"Choose another --name, or remove it: `vedr lab down --name {known.name} --purge`.",
            )
