"""Every file, folder, module and heading that a page, a comment or a docstring sends its reader to is there."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deployments/**/*.md")]
SOURCES = [
    *(path for folder in ("src", "tasks", "flows", "bench", "tests") for path in (ROOT / folder).glob("**/*.py")),
    *(path for kind in ("go", "toml", "yml", "yaml", "py") for path in ROOT.glob(f"deployments/**/*.{kind}")),
    ROOT / "Makefile",
    ROOT / "prefect.yaml",
]
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)")
PATH = re.compile(r"(?<![\w./{:-])((?:src|docs|deployments|tests|tasks|flows|bench)/[A-Za-z0-9_./-]*[A-Za-z0-9_/])")
ROOMS = "|".join(sorted(module.parent.name for module in (ROOT / "src" / "vedr").glob("*/__init__.py")))
MODULE = re.compile(rf"(?<![\w./-])((?:vedr\.(?:{ROOMS})|tasks|flows)(?:\.[a-z]\w*)+)(?![\w/*-])")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
OTHERS = {"docs/node/node.md", "deployments/scale"}  # CometBFT's, and a resource of Kubernetes


@cache
def tracked() -> frozenset[str]:
    """Files of the repository, and its folders; what a build leaves is none of it."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    files = listed.stdout.decode().splitlines()
    return frozenset({*files, *(str(folder) for file in files for folder in Path(file).parents)})


def is_there(place: str) -> bool:
    return place.rstrip("/.") in tracked()


@cache
def anchors(page: Path) -> frozenset[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


@cache
def is_module(dotted: str) -> bool:
    """Whether it is a package or a module, or a name in one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        base = "/".join((["src"] if parts[0] == "vedr" else []) + parts[:length])
        for file in (f"{base}.py", f"{base}/__init__.py"):
            if is_there(file):
                text = (ROOT / file).read_text(encoding="utf-8")
                return length == len(parts) or re.search(rf"\b{parts[length]}\b", text) is not None
    return False


def broken_links(page: Path) -> Iterator[str]:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        found = (page.parent / target).resolve() if target else page
        if not is_there(str(found.relative_to(ROOT))):
            yield f"{page.relative_to(ROOT)}: link to {target}"
        elif anchor and anchor not in anchors(found):
            yield f"{page.relative_to(ROOT)}: no heading {target}#{anchor}"


def lost(file: Path) -> Iterator[str]:
    text = file.read_text(encoding="utf-8")
    for path in PATH.findall(text):
        if path not in OTHERS and not is_there(path):
            yield f"{file.relative_to(ROOT)}: {path}"
    for module in MODULE.findall(text):
        if not is_module(module):
            yield f"{file.relative_to(ROOT)}: {module}"


def test_every_link_leads_to_a_page_and_a_heading_that_are_there() -> None:
    problems = [problem for page in PAGES for problem in broken_links(page)]
    assert not problems, "\n".join(problems)


def test_every_place_in_the_repository_that_is_named_is_there() -> None:
    problems = [problem for file in (*PAGES, *SOURCES) for problem in lost(file)]
    assert not problems, "\n".join(problems)
