"""Starting a runbook: what is asked for, what came of it, and the way that needs no orchestrator.

Guarantees: a start by the same key is made once, or it is said that this is not known; `not-sent` is only said when no
run can have come of it.
Leaves out: deciding; Prefect's way (vedr.adapters.prefect_starts).
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from vedr.targets import RunbookId

EARLY_END_S: Final = 3.0  # a refused order, a missing site: these end a run at once


@dataclass(frozen=True, slots=True)
class Request:
    """A runbook to be started for an outage; `key` makes repeating it harmless where the way can."""

    outage_id: str
    runbook: RunbookId
    order: Mapping[str, str]
    key: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """After `vedr`: what a person, or a process, runs."""
        fields = (f"--{name.replace('_', '-')}={value}" for name, value in self.order.items())
        return ("run", self.runbook, *fields)

    @property
    def command(self) -> str:
        """To be shown."""
        return " ".join(("vedr", *self.arguments))


@dataclass(frozen=True, slots=True)
class Result:
    """`unclear`: it may or may not have been taken; `ended`: it began, and ended with an error at once."""

    kind: Literal["started", "not-sent", "unclear", "ended"]
    reference: str = ""
    why: str = ""


class Starter(Protocol):
    """One way to start a runbook.  Neither method raises for a service that is away."""

    def answers(self) -> bool:
        """Whether a start is worth trying."""

    def start(self, request: Request) -> Result:
        """Start it, or find that the same key was started before."""


class PlainStart:
    """`vedr run …` as a process of its own, which outlives this one; its words go to a file in `folder`.

    Args:
        program: The words before `run`, such as `/usr/bin/vedr`.
        folder: Where the logs are.
        site: The site's name or file, which the process is set to.
        early_end_s: How long it is watched.
    """

    def __init__(self, program: Sequence[str], folder: Path, *, site: str, early_end_s: float = EARLY_END_S) -> None:
        self._program = tuple(program)
        self._folder = folder
        self._environment = {"VEDR_PLAIN": "1", "VEDR_SITE": site}
        self._early_end_s = early_end_s
        self._running: list[subprocess.Popen[bytes]] = []

    def answers(self) -> bool:
        return bool(self._program)

    def start(self, request: Request) -> Result:
        """Not safe to repeat: the caller records it first."""
        self._running = [process for process in self._running if process.poll() is None]
        log = self._folder / f"{request.outage_id}.log"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as words:
                process = subprocess.Popen(
                    [*self._program, *request.arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=words,
                    stderr=words,
                    start_new_session=True,
                    env={**os.environ, **self._environment},
                )
        except OSError as error:
            return Result("not-sent", why=f"{request.command}: {error.strerror}")
        self._running.append(process)
        reference = f"process {process.pid}, {log}"
        try:
            code = process.wait(timeout=self._early_end_s)
        except subprocess.TimeoutExpired:
            return Result("started", reference)
        if code == 0:
            return Result("started", reference)
        return Result("ended", reference, f"it ended with status {code} at once: see {log}")
