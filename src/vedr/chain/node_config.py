"""Edits a node's config.toml: single values, everything else, comments too, as it was.

Guarantees: what was edited was parsed back and differs in just these values; a file that can't be edited so is left.
Leaves out: stopping and starting the node, which reads its configuration only at its start.
"""

import contextlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vedr.chain.durable import replace_file
from vedr.errors import CorruptError, NotFoundError

TomlValue = bool | int | str
SIGNER_ADDRESS: Final = "priv_validator_laddr"
_UNIX: Final = "unix://"


def signer_address(home: Path) -> str:
    """Where the node waits for a remote signer, as its configuration says; "" where for none.  Errors as below."""
    return str(_read_toml(_read(_config(home))).get(SIGNER_ADDRESS, ""))


def set_signer_address(home: Path, address: str) -> bool:
    """Let the node wait for a remote signer at this address; empty: it signs by itself, or not at all.

    Returns:
        Whether the file had to be changed.

    Raises:
        NotFoundError, CorruptError: no configuration, or none that can be edited; nothing was changed.
    """
    path = _config(home)
    text = _read(path)
    edited = edit_root(text, {SIGNER_ADDRESS: address})
    if edited == text:
        return False
    replace_file(path, edited.encode(), mode=0o644)
    return True


def remove_stale_socket(address: str) -> None:
    """Take away the unix socket that a killed node left: CometBFT does not start where one lies.

    Only for a node that is stopped.
    """
    if address.startswith(_UNIX):
        Path(address.removeprefix(_UNIX)).unlink(missing_ok=True)


def edit_root(text: str, values: Mapping[str, TomlValue]) -> str:
    """The TOML text with these values above its first section.  CorruptError as `edit_section`."""
    expected = _read_toml(text)
    lines = text.splitlines()
    for key, value in values.items():
        _put(lines, 0, key, value)
    return _checked(lines, {**expected, **values}, "values above the first section")


def edit_section(text: str, section: str, values: Mapping[str, TomlValue]) -> str:
    """The TOML text with these values in a section and everything else, comments too, as it was.

    Raises:
        CorruptError: the text is not TOML, has no such section, or a key could not be set so that it reads back.
    """
    expected = _read_toml(text)
    if not isinstance(expected.get(section), dict):
        raise CorruptError(f"config.toml has no [{section}]", remedy="Restore the configuration from its backup.")
    lines = text.splitlines()
    for key, value in values.items():
        _put(lines, _section_start(lines, section) + 1, key, value)
    return _checked(lines, {**expected, section: {**expected[section], **values}}, f"[{section}]")


def _config(home: Path) -> Path:
    return home / "config" / "config.toml"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}", remedy="Restore the node's configuration first.") from error


def _put(lines: list[str], start: int, key: str, value: TomlValue) -> None:
    line = f"{key} = {_toml(value)}"
    found = _key_line(lines, start, key)
    if found is None:
        lines.insert(start, line)
    else:
        lines[found] = line + _comment(lines[found])


def _comment(assignment: str) -> str:
    """What stands behind the value, with the space before it; "" for none, or when the value goes on in other lines."""
    for mark in re.finditer(r"\s*#", assignment):
        with contextlib.suppress(tomllib.TOMLDecodeError):  # within a string: what is before the mark is no TOML yet
            tomllib.loads(assignment[: mark.start()])
            return assignment[mark.start() :]
    return ""


def _checked(lines: Sequence[str], expected: Mapping[str, Any], what: str) -> str:
    edited = "\n".join(lines) + "\n"
    if _read_toml(edited) != expected:
        raise CorruptError(f"config.toml: {what} could not be edited", remedy="Edit it by hand; report this file.")
    return edited


def _read_toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CorruptError(f"config.toml: {error}", remedy="Restore the configuration from its backup.") from error


def _section_start(lines: Sequence[str], section: str) -> int:
    header = re.compile(rf"\s*\[{re.escape(section)}\]\s*(#.*)?")
    return next((index for index, line in enumerate(lines) if header.fullmatch(line)), 0)


def _key_line(lines: Sequence[str], start: int, key: str) -> int | None:
    assignment = re.compile(rf"\s*{re.escape(key)}\s*=.*")
    for index in range(start, len(lines)):
        if lines[index].lstrip().startswith("["):
            return None
        if assignment.fullmatch(lines[index]):
            return index
    return None


def _toml(value: TomlValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
