"""Where in a TOML text something stands, for messages about it: tomllib gives no positions.

Guarantees: a line of the text, that of the key itself for the plain tables that site files are made of, else of what
encloses it.  Leaves out: inline tables and strings of several lines, whose keys it does not see.
"""

import re
from collections import Counter
from typing import Final

_HEADER: Final = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")
_ASSIGNMENT: Final = re.compile(r"^\s*([A-Za-z0-9_\"'.-]+?)\s*=")


def line_of(text: str, location: tuple[str, ...]) -> int:
    """The 1-based line where the key at `location` stands, or the nearest table that encloses it."""
    best_line, best_depth = 1, 0
    table: tuple[str, ...] = ()
    arrays: Counter[str] = Counter()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            name = header.group(2)
            table = tuple(part.strip("\"'") for part in name.split("."))
            if header.group(1) == "[[":
                table = (*table, str(arrays[name]))
                arrays[name] += 1
            here = table
        elif assignment := _ASSIGNMENT.match(line):
            here = (*table, *(part.strip("\"'") for part in assignment.group(1).split(".")))
        else:
            continue
        if len(here) > best_depth and location[: len(here)] == here:
            best_line, best_depth = number, len(here)
    return best_line
