"""The modules whose every branch is to be tested (tests/safety.coveragerc): none that safety rests on is left out."""

import ast
import configparser
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import vedr

REPOSITORY = Path(__file__).parents[2]
SOURCE = Path(vedr.__file__).parent
ROOMS = ("chain", "custody", "failover", "signer")
ROOTS = ("failover/promotion.py", "failover/relocation.py", "signer/service.py", "signer/standby.py", "chain/floor.py")


def listed() -> list[str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(REPOSITORY / "tests" / "safety.coveragerc")
    return parser["report"]["include"].split()


def imports(module: Path) -> Iterator[Path]:
    """Modules of the safety rooms that this one imports, and those of a package from which it imports names."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[:1] == ["vedr"]:
            parts = node.module.split(".")[1:]
            if parts and parts[0] in ROOMS:
                named = [SOURCE.joinpath(*parts, alias.name).with_suffix(".py") for alias in node.names]
                yield from (path for path in (SOURCE.joinpath(*parts).with_suffix(".py"), *named) if path.is_file())


def rests_on(roots: list[Path]) -> set[Path]:
    found, open_ones = set[Path](), list(roots)
    while open_ones:
        module = open_ones.pop()
        if module not in found:
            found.add(module)
            open_ones += imports(module)
    return found


def test_what_promotion_and_signer_rest_on_is_in_the_list() -> None:
    patterns = listed()
    needed = rests_on([SOURCE / root for root in ROOTS])
    assert len(needed) > len(ROOTS)
    assert [str(path) for path in sorted(needed) if not any(fnmatch(str(path), one) for one in patterns)] == []


def test_every_pattern_of_the_list_names_a_module() -> None:
    modules = [str(path) for path in SOURCE.rglob("*.py")]
    assert [one for one in listed() if not any(fnmatch(path, one) for path in modules)] == []
