"""The table of docs/checks.md, generated from the faults that the lab's tests do, so that page and tests cannot part.

`python -m vedr.readiness.pages` says whether the page is out of date (exit 1); with `--write` it brings it up to date.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

from vedr.errors import InvalidInputError
from vedr.readiness.faults import rows

PAGE: Final = Path("docs/checks.md")
BEGIN: Final = "<!-- generated table: python -m vedr.readiness.pages -->"
END: Final = "<!-- end of table -->"


def table() -> str:
    """Markdown."""
    head = ("Check", "Fault", "Result", "Names", "Says what to do")
    lines = [head, tuple("---" for _ in head)]
    lines += [(check, done, result, f"`{names}`", f"`{remedy}`") for check, done, result, names, remedy in rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_table(page: str) -> str:
    """The page with its table brought up to date; InvalidInputError when its marks are not there once each."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise InvalidInputError(f"{PAGE} lacks the marks of its table", remedy=f"Put {BEGIN} and {END}, once each.")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="bring the page up to date")
    write = parser.parse_args().write
    page = PAGE.read_text(encoding="utf-8")
    current = with_table(page)
    if current != page:
        sys.stdout.write(f"{PAGE}: {'rewritten' if write else 'out of date: python -m vedr.readiness.pages --write'}\n")
        if write:
            PAGE.write_text(current, encoding="utf-8")
    sys.exit(0 if write or current == page else 1)


if __name__ == "__main__":
    main()
