"""Checks side by side: what hangs, raises or has nothing to look at is a failure, and of nobody else."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from vedr.cli import build, check
from vedr.errors import (
    CorruptError,
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VedrError,
    VerificationFailedError,
)
from vedr.policies.checks import Checks
from vedr.readiness.ages import duration
from vedr.readiness.examining import examine
from vedr.readiness.finding import (
    STATUSES,
    Finding,
    Part,
    Status,
    Verdict,
    combine,
    combine_at_least,
    look_at,
    part_of,
    worst,
)
from vedr.readiness.ports import Ports
from vedr.readiness.registry import CHECKS, with_boot
from vedr.readiness.side_by_side import side_by_side
from vedr.readiness.validation import Check, choose, validate

REFERENCE = {
    *("backup-integrity", "backup-freshness", "key-backups", "provider-state-backups", "state-sync-endpoints"),
    *("cross-region-connectivity", "dns-health", "bucket-read-write", "secrets-access", "node-health"),
    "restore-dry-run",
}
SHORT = Checks(deadline_s=0.3, subject_deadline_s=0.2)


@contextlib.contextmanager
def nothing() -> Iterator[Ports]:
    yield cast("Ports", None)


def passes(_ports: Ports) -> Verdict:
    return Verdict("passed", "well", "well")


@pytest.fixture
def blocked() -> Iterator[Any]:
    """A look that hangs until the test is over."""
    over = threading.Event()
    yield lambda *_: over.wait()
    over.set()


# --- many at once


def test_a_hanging_check_could_not_run_and_the_others_are_heard(blocked: Any) -> None:
    checks = [Check("hangs", "x", blocked), Check("passes", "x", passes)]
    began = time.monotonic()
    hanging, passing = validate(checks, nothing, SHORT)
    assert time.monotonic() - began < 5
    assert (hanging.status, passing.status) == ("could not run", "passed")
    assert "no answer in 0.3 s" in hanging.observed
    assert hanging.remedy


def test_a_check_may_have_a_deadline_of_its_own(blocked: Any) -> None:
    policy = Checks(deadline_s=60, deadlines_s={"hangs": 0.1})
    began = time.monotonic()
    (finding,) = validate([Check("hangs", "x", blocked)], nothing, policy)
    assert time.monotonic() - began < 10
    assert finding.status == "could not run"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnavailableError("away", remedy="wait"), "could not run"),
        (DeadlineError("late", remedy="wait"), "could not run"),
        (InvalidInputError("no token", remedy="write it"), "could not run"),
        (CorruptError("flipped", remedy="heal"), "failed"),
        (VerificationFailedError("no", remedy="heal"), "failed"),
        (NotFoundError("gone", remedy="take"), "failed"),
        (RefusedError("locked", remedy="wait"), "failed"),
        (KeyError("secret-value"), "could not run"),
        (SystemExit(1), "could not run"),
    ],
)
def test_whatever_a_check_raises_is_its_finding_with_a_remedy(error: BaseException, status: Status) -> None:
    def raises(_ports: Ports) -> Verdict:
        raise error

    (finding,) = validate([Check("one", "x", raises)], nothing, SHORT)
    assert finding.status == status
    assert finding.remedy
    assert "secret-value" not in finding.observed


def test_a_site_that_does_not_open_is_every_checks_failure() -> None:
    @contextlib.contextmanager
    def broken() -> Iterator[Ports]:
        raise NotFoundError("no signing key", remedy="Put it there.")
        yield

    findings = validate([Check("one", "x", passes), Check("two", "x", passes)], broken, SHORT)
    assert [finding.status for finding in findings] == ["failed", "failed"]


def test_findings_come_in_the_checks_order_whoever_ends_first() -> None:
    def slow(_ports: Ports) -> Verdict:
        threading.Event().wait(0.05)
        return passes(_ports)

    checks = [Check("slow", "x", slow), Check("fast", "x", passes)]
    assert [finding.check for finding in validate(checks, nothing, SHORT)] == ["slow", "fast"]


def test_one_hanging_subject_costs_its_own_deadline_only(blocked: Any) -> None:
    looks = {"hangs": blocked, "well": lambda: Part("well", "passed", "well")}
    assert [part.status for part in examine(looks, deadline_s=0.2)] == ["could not run", "passed"]


def test_with_one_thread_calls_are_made_one_after_the_other() -> None:
    seen: list[int] = []
    side_by_side({n: lambda n=n: seen.append(n) for n in range(20)}, deadline_s=5, threads=1)
    assert seen == list(range(20))


def test_more_calls_than_threads_are_all_answered() -> None:
    answers = side_by_side({n: lambda n=n: n * n for n in range(300)}, deadline_s=30, threads=8)
    assert [answer.get() for answer in answers.values()] == [n * n for n in range(300)]


# --- one verdict of many parts


def test_a_check_without_subjects_has_failed() -> None:
    verdict = combine([], expected="x", nothing="Name some.")
    assert verdict == Verdict("failed", "nothing to look at", "x", "Name some.")
    assert combine_at_least([], 0, expected="x", nothing="Name some.").status == "failed"


STATUS = st.sampled_from(STATUSES)


@given(st.lists(STATUS, min_size=1, max_size=12))
def test_the_worst_subject_decides_and_nothing_else_passes(statuses: list[Status]) -> None:
    parts = [Part(f"s{n}", status, "seen", "do it") for n, status in enumerate(statuses)]
    verdict = combine(parts, expected="x", nothing="y")
    assert verdict.status == worst(statuses)
    assert (verdict.status == "passed") == (set(statuses) == {"passed"})
    assert bool(verdict.remedy) == (verdict.status != "passed")


@given(st.lists(STATUS, min_size=1, max_size=6), st.integers(1, 6))
def test_enough_good_subjects_make_a_warning_of_the_rest(statuses: list[Status], least: int) -> None:
    parts = [Part(f"s{n}", status, "seen", "do it") for n, status in enumerate(statuses)]
    good = sum(status in ("passed", "warning") for status in statuses)
    verdict = combine_at_least(parts, least, expected="x", nothing="y")
    assert (verdict.status in ("passed", "warning")) == (good >= least or good == len(statuses))


def test_a_long_list_of_bad_subjects_is_counted_not_poured_out() -> None:
    parts = [Part(f"node-{n}", "failed", "x" * 50, "do it") for n in range(1000)]
    verdict = combine(parts, expected="x", nothing="y")
    assert len(verdict.observed) < 1000
    assert "and 992 more" in verdict.observed


def test_a_vendors_endless_message_is_cut() -> None:
    assert len(part_of("s", CorruptError("x" * 10_000)).observed) < 300
    assert look_at("s", lambda: Part("s", "passed", "well")).status == "passed"


@given(st.floats(0, 1e9))
def test_a_duration_is_short_whatever_it_is(seconds: float) -> None:
    assert 4 <= len(duration(seconds)) <= 12


# --- which there are, and the command


def test_all_eleven_checks_of_the_reference_are_there_and_names_are_unique() -> None:
    names = [one.name for one in CHECKS]
    assert set(names) >= REFERENCE
    assert len(set(names)) == len(names)
    assert all(one.makes_sure for one in CHECKS)


def test_boot_replaces_the_question_by_the_deed_and_nothing_else() -> None:
    changed = [one.name for one, other in zip(CHECKS, with_boot(CHECKS), strict=True) if one != other]
    assert changed == ["boot-verification"]


def test_a_name_that_is_no_checks_is_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidInputError, match="backup-integritty") as refusal:
        choose(CHECKS, ["backup-integritty"])
    assert "backup-integrity" in refusal.value.remedy
    assert [one.name for one in choose(CHECKS, ["rpo", "dns-health"])] == ["dns-health", "rpo"]


def finding(status: Status) -> Finding:
    return Finding("one", status, "seen [not markup]", "expected", "do it", 0.1)


@pytest.mark.parametrize(
    ("statuses", "exit_status"),
    [
        ([], 3),
        (["passed"], 0),
        (["passed", "warning"], 1),
        (["passed", "failed"], 3),
        (["could not run", "warning"], 3),
    ],
)
def test_the_exit_status_is_true_to_the_findings(statuses: list[Status], exit_status: int) -> None:
    found = [finding(status) for status in statuses]
    assert check.exit_status(found) == exit_status
    document = check.document(found)
    assert isinstance(document, dict)
    assert document["passed"] == (exit_status == 0)


def test_the_list_names_every_check() -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(build(), ["check", "--list"])
    assert result.exit_code == 0, result.output
    assert all(one.name in result.output for one in CHECKS)


def test_errors_of_every_kind_have_a_status() -> None:
    for kind in [VedrError, *VedrError.__subclasses__()]:
        assert part_of("s", kind("x", remedy="y")).status in ("failed", "could not run")
