import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from vedr.cli import COMMANDS, GROUPS, build, listing

LOADED = """
import sys
from vedr.cli import main
sys.argv = ["vedr", *sys.argv[1:]]
try:
    main()
finally:
    print(*sorted(name for name in sys.modules if name.split(".")[0] == "vedr"), file=sys.stderr)
"""


def test_help_waits_for_none_of_the_groups() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, "--help"], capture_output=True, text=True, check=True)
    assert "snapshot" in done.stdout
    assert done.stderr.split() == ["vedr", "vedr.cli", "vedr.cli.output", "vedr.errors", "vedr.signature"]


def test_help_names_what_there_is() -> None:
    asked = [CliRunner(env={"COLUMNS": "120"}).invoke(vedr, ["--help"]) for vedr in (listing(), build())]
    assert asked[0].exit_code == 0
    assert asked[0].output == asked[1].output


def test_a_name_that_there_is_not_is_refused() -> None:
    refused = CliRunner(env={"COLUMNS": "120"}).invoke(listing(), ["keyz"])
    assert refused.exit_code == 2
    assert "No such command 'keyz'" in refused.output


@pytest.mark.parametrize("name", [*GROUPS, *COMMANDS])
def test_one_that_is_used_alone_keeps_its_name(name: str) -> None:
    assert set(get_command(build(name)).commands) == {name}  # type: ignore[attr-defined]
