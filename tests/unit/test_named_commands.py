"""Every command that a page or a remedy tells people to type exists, with the options that are told."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from vedr.cli import COMMANDS, GROUPS, build
from vedr.cli.run import find_runbook

ROOT = Path(__file__).parents[2]
FILES = [
    *ROOT.glob("README.md"),
    *ROOT.glob("docs/**/*.md"),
    *(path for folder in ("src", "tasks", "flows", "deployments") for path in (ROOT / folder).glob("**/*.py")),
    *ROOT.glob("deployments/sites/*.toml"),
    *ROOT.glob("deployments/prometheus/*.yml"),
]
TOLD = re.compile(r"\bvedr (?P<first>[a-z][a-z-]*)(?P<rest>[^`\n|;,{#\"()]*)")
# At a prompt or in backquotes, where it is no sentence.
TYPED = re.compile(r"(?:`|^(?:\$ )?|\$\()vedr ([a-z][^\s`|]*)", re.MULTILINE)
PROSE = {"and", "for", "in", "is", "of", "on", "or", "to"}  # "vedr bcp for functions": a group, in a sentence
RUNBOOK = re.compile(r"^(RB-DR-\d{3}|[a-z][a-z-]+)$")


@pytest.fixture(scope="module")
def commands() -> dict[str, Any]:
    found: dict[str, Any] = get_command(build()).commands  # type: ignore[attr-defined]
    return found


def options_of(command: Any) -> set[str]:
    return {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}


def wrong(commands: dict[str, Any], first: str, words: list[str]) -> str:
    """What does not exist of it; empty when all does."""
    command = commands[first]
    if hasattr(command, "commands") and words:
        subs = words[0].strip(".,:").split("|")
        if all(sub in command.commands for sub in subs):
            command = command.commands[subs[0]]
        elif first == "report":
            command = command.commands["write"]
        elif re.fullmatch(r"[a-z][a-z-]+", subs[0]) and subs[0] not in PROSE:
            return words[0]
        else:
            return ""
    known = options_of(command)
    if first == "run" and words and RUNBOOK.match(words[0].rstrip(".,:")):
        known |= {f"--{name.replace('_', '-')}" for name in find_runbook(words[0].rstrip(".,:")).order.model_fields}
    elif first == "run":
        return ""  # RUNBOOK, or {one of several}
    told = {match[0] for word in words if (match := re.match(r"--[a-z][a-z-]*", word))}
    return ", ".join(sorted(told - known))


def test_every_command_that_is_told_exists(commands: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEDR_PLAIN", "1")
    problems = [
        f"{path.relative_to(ROOT)}: {match[0].strip()}: {problem}"
        for path in FILES
        for match in TOLD.finditer(path.read_text(encoding="utf-8"))
        if match["first"] in (*GROUPS, *COMMANDS)
        if (problem := wrong(commands, match["first"], match["rest"].split()))
    ]
    assert not problems, "\n".join(problems)


def test_every_command_that_a_page_shows_is_one_of_vedr_s() -> None:
    problems = [
        f"{page.relative_to(ROOT)}: vedr {match[1]}"
        for page in FILES
        if page.suffix == ".md" and page.parent.name != "formats"  # which name what is signed, `vedr share v1`
        for match in TYPED.finditer(page.read_text(encoding="utf-8"))
        if match[1] not in (*GROUPS, *COMMANDS)
    ]
    assert not problems, "\n".join(problems)
