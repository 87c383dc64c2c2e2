import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import vedr.cli as command_line
from vedr.cli import COMMANDS, GROUPS, build, listing, main
from vedr.cli.output import of_this_machine

PRODUCTION = Path(__file__).parents[2] / "deployments" / "sites" / "production.example.toml"


class Ended(NamedTuple):
    code: int
    out: str
    err: str


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


# --- what goes wrong at three in the morning: one line, what to do next, a true exit status, never a bare trace


@pytest.fixture
def vedr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs the console script on the documented production site, which nothing here may reach."""
    monkeypatch.setenv("VEDR_SITE", str(PRODUCTION))
    monkeypatch.setenv("VEDR_PLAIN", "1")

    def invoke(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["vedr", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(str(ended.value.code)), *capsys.readouterr())

    return invoke


def test_a_path_that_cannot_be_written_is_one_line_and_exit_2(vedr: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = vedr("snapshot", "restore", "--home", str(tmp_path / "file" / "home"))
    assert ended.code == 2
    assert ended.err.splitlines()[0] == f"error (InvalidInputError): {tmp_path}/file/home: Not a directory"
    assert "Traceback" not in ended.err


def test_a_full_disk_is_named_as_such() -> None:
    full = of_this_machine(OSError(errno.ENOSPC, "No space left on device", "/scratch/x"))
    assert (full.exit_code, full.message) == (9, "/scratch/x: No space left on device")


def test_a_defect_shows_its_trace_and_what_to_do(vedr: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "listing", lambda: {}["nowhere"])
    ended = vedr("--help")
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert ended.err.splitlines()[-2:] == [
        "error (VedrError): KeyError: 'nowhere'",
        "next: This is a defect of vedr: report the lines above.  The ledger has what a run did: vedr ledger list.",
    ]


def test_an_error_stays_on_one_line_where_nobody_looks_at_a_terminal(vedr: Callable[..., Ended]) -> None:
    ended = vedr("run", "RB-DR-999")
    assert ended.code == 6
    assert [line.partition(" ")[0] for line in ended.err.splitlines()] == ["error", "next:"]


@pytest.mark.parametrize(
    "words",
    [
        ("run", "RB-DR-001", "--node", "validator-us-west-0"),
        ("run", "RB-DR-001", "--node", "validator-us-west-0", "--plan"),
        ("run", "RB-DR-002", "--zone", "us-west-1a"),
        ("run", "RB-DR-003", "--region", "us-west", "--plan"),
        ("run", "RB-DR-005", "--owner", "nobody", "--kind", "validator"),
        ("run", "failback", "--place", "us-west"),
        ("run", "chain-snapshot", "--region", "us-west"),
        ("drill", "run", "monthly", "--target", "us-west-1a"),
        ("snapshot", "list", "--region", "us-west"),
        ("snapshot", "heal", "--region", "us-west"),
    ],
)
def test_what_the_site_does_not_have_is_refused_before_anything_is_opened(
    vedr: Callable[..., Ended], words: tuple[str, ...]
) -> None:
    ended = vedr(*words)  # it would end in 7 if it had gone as far as the ledger
    assert ended.code == 6, ended.err
    assert "next: Choose one of: " in ended.err


def test_a_plan_has_a_detection_time_that_can_be_true(vedr: Callable[..., Ended]) -> None:
    ended = vedr("run", "RB-DR-001", "--node", "fullnode-us-east-0", "--detected-at", "2126-01-01", "--plan")
    assert ended.code == 2
    assert "in the future" in ended.err


def test_a_drill_that_was_not_run_is_json_too(vedr: Callable[..., Ended]) -> None:
    ended = vedr("drill", "run", "monthly", "--target", "nothing", "--json")
    assert ended.code == 6
    assert json.loads(ended.out) | {"reason": ""} == {
        "drill": "monthly", "verdict": "not run", "run": None, "reason": ""
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("keys", "backup", "--kind", "node"), "--owner and --kind go together"),
        (("keys", "backup", "--owner", "validator-us-east-0"), "--owner and --kind go together"),
        (("snapshot", "heal", "--repair", "eu-west"), "--repair mends one snapshot"),
    ],
)
def test_half_an_order_is_not_taken_for_a_whole_one(
    vedr: Callable[..., Ended], words: tuple[str, ...], said: str
) -> None:
    ended = vedr(*words)
    assert ended.code == 2
    assert said in ended.err


def test_a_site_file_is_checked_whatever_its_name(vedr: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_bytes(PRODUCTION.read_bytes())
    (tmp_path / "site.conf").write_text("version = 1\n")
    (tmp_path / "picture").write_bytes(b"\xff\xd8")
    assert vedr("site", "check", str(tmp_path)).code == 0
    assert f"{tmp_path}/site.conf:1:" in vedr("site", "check", str(tmp_path / "site.conf")).err
    assert "is no text" in vedr("site", "check", str(tmp_path / "picture")).err
    assert vedr("site", "check", str(tmp_path / "missing.toml")).code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("bcp", "activate", "--reason", " ", "--by", "zoe"),
        ("bcp", "activate", "--reason", "halted", "--by", ""),
        ("ledger", "abandon", "inc-20260214-031500-k3x9", "--reason", ""),
        ("abandon", "inc-20260214-031500-k3x9", "--reason", " "),
    ],
)
def test_a_word_for_the_record_is_not_empty(vedr: Callable[..., Ended], words: tuple[str, ...]) -> None:
    ended = vedr(*words)
    assert ended.code == 2, ended.err
    assert "must say something" in ended.err or "no reason is given" in ended.err
