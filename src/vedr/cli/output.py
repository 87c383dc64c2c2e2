"""What the commands print, and how: one place for JSON, tables, errors and progress."""

import errno
import json
from typing import Annotated, Final, TypeAlias

import typer
from rich.console import Console

from vedr.errors import InvalidInputError, NoSpaceError, VedrError
from vedr.signature import Json

stdout: Final = Console()
stderr: Final = Console(stderr=True)

JsonFlag: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
SiteOption: TypeAlias = Annotated[
    str | None, typer.Option("--site", envvar="VEDR_SITE", help="Site name or path of its file; default: lab.")
]


def not_blank(words: str) -> str:
    """For options that record a person's word: refuses nothing but blanks."""
    if not words.strip():
        raise typer.BadParameter("it is recorded and must say something")
    return words.strip()


def print_json(document: Json) -> None:
    """One document on standard output, never wrapped or coloured."""
    typer.echo(json.dumps(document, indent=2))


def report_error(error: VedrError) -> None:
    """What happened and what to do next, on standard error: a line each, however long, so that logs can be searched."""
    stderr.print(f"[bold red]error[/] ({type(error).__name__}): ", end="")
    stderr.print(error.message, markup=False, highlight=False, soft_wrap=True)
    if error.remedy:
        stderr.print(f"next: {error.remedy}", markup=False, highlight=False, soft_wrap=True)


def of_this_machine(error: OSError) -> VedrError:
    """A path that can't be read or written, or a full disk, as one of ours."""
    said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(said, remedy="Make room there, or name another place, and repeat the command.")
    return InvalidInputError(said, remedy="Name a path that this user may read or write, and repeat the command.")
