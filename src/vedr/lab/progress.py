"""Telling of work as it is done, part by part."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, str, float], None]
"""Told of each finished part: its title, what was done, seconds."""


@contextmanager
def timed(report: Report, title: str) -> Iterator[Callable[[str], None]]:
    began = time.monotonic()
    detail = ""

    def note(text: str) -> None:
        nonlocal detail
        detail = text

    yield note
    report(title, detail, time.monotonic() - began)
