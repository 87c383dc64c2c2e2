"""The steady state, the census, the rehearsal's judgement, and the sheets."""

from pathlib import Path

import pytest

from vedr.drills import rehearsal, steady, tabletop
from vedr.drills.census import UNSEEN, Census, compare
from vedr.drills.rehearsal import MUST_FILE, MUST_HSM, Tried
from vedr.drills.steady import Look
from vedr.errors import RefusedError, VerificationFailedError

WELL = {"full-0": 0, "full-1": 1}


def test_a_site_that_is_well_may_be_drilled() -> None:
    steady.require(Look(moving=True, lag_blocks=WELL))


@pytest.mark.parametrize(
    ("look", "said"),
    [
        (Look(moving=False, lag_blocks=WELL), "makes no blocks"),
        (Look(moving=True, lag_blocks={"full-0": None}), "full-0 does not answer in sync"),
        (Look(moving=True, lag_blocks={"full-0": 11}), "11 blocks behind"),
        (Look(moving=True, lag_blocks=WELL, absent=["val-0"]), "val-0 does not sign"),
        (Look(moving=True, lag_blocks=WELL, down=["unit gateway-0 is not running"]), "gateway-0"),
        (Look(moving=True, lag_blocks=WELL, away=["the key of val-0 is at standby-0"]), "standby-0"),
        (Look(moving=True, lag_blocks=WELL, unfinished=["inc-20260214-031500-k3x9"]), "not finished"),
        (Look(moving=True, lag_blocks=WELL, unseen=["the ledger could not be looked at"]), "could not be looked at"),
    ],
)
def test_a_drill_is_not_run_while_anything_is_degraded_open_or_unseen(look: Look, said: str) -> None:
    with pytest.raises(RefusedError, match=f"not run: .*{said}"):
        steady.require(look)


def test_a_refusal_stays_readable_when_everything_is_down() -> None:
    with pytest.raises(RefusedError, match="and 92 more"):
        steady.require(Look(moving=True, lag_blocks={f"full-{n}": None for n in range(100)}))


def test_what_is_as_it_was_is_clean() -> None:
    counted = Census({"unit a": "running"})
    assert compare(counted, counted).clean


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"unit a": "running"}, {"unit a": "not running"}),
        ({"unit a": "running"}, {}),
        ({"unit a": "running"}, {"unit a": "running", "files of b": "old"}),
        ({"unit a": f"{UNSEEN}: silent"}, {"unit a": f"{UNSEEN}: silent"}),
        ({}, {}),
    ],
)
def test_what_changed_appeared_went_or_could_not_be_counted_is_not_clean(
    before: dict[str, str], after: dict[str, str]
) -> None:
    assert not compare(Census(before), Census(after)).clean


def test_what_the_drill_is_about_is_told_apart_and_only_that() -> None:
    found = compare(
        Census({"identity of a": "1", "identity of b": "1"}),
        Census({"identity of a": "2", "identity of b": "2"}),
        expecting=["identity of a"],
    )
    assert [one.name for one in found.expected] == ["identity of a"]
    assert [str(one) for one in found.differences] == ["identity of b: was 1, is 2"]


@pytest.mark.parametrize("after", [{}, {"identity of a": f"{UNSEEN}: it does not answer"}])
def test_what_the_drill_is_about_has_to_be_seen_all_the_same(after: dict[str, str]) -> None:
    """A node whose key was replaced and that never answered again was counted as changed as expected."""
    found = compare(Census({"identity of a": "1"}), Census(after), expecting=["identity of a"])
    assert ([one.name for one in found.differences], found.expected, found.clean) == (["identity of a"], (), False)


def tried(validator: str, parts: tuple[str, ...]) -> list[Tried]:
    return [Tried(validator, part, "seen") for part in parts]


def test_a_rehearsal_needs_every_part_for_every_validator() -> None:
    wanted = [("val-0", True), ("val-1", False)]
    whole = [*tried("val-0", MUST_HSM), *tried("val-1", MUST_FILE)]
    rehearsal.require(whole, wanted)
    with pytest.raises(VerificationFailedError, match="val-1, fence: was not tried"):
        rehearsal.require(whole[:-1], wanted)
    with pytest.raises(VerificationFailedError, match="val-0, tokens: eu-west: timed out"):
        rehearsal.require([Tried("val-0", "tokens", "", "eu-west: timed out"), *whole[1:]], wanted)
    with pytest.raises(VerificationFailedError, match="no validator"):
        rehearsal.require([], [])


def test_the_sheets_on_paper_are_the_data_s() -> None:
    assert not tabletop.stale(tabletop.FOLDER, write=False), "run: python -m vedr.drills.tabletop --write"


def test_a_sheet_that_differs_is_found_and_written(tmp_path: Path) -> None:
    assert len(tabletop.stale(tmp_path, write=True)) == len(tabletop.SHEETS)
    (tmp_path / "tabletop-Q2.md").write_text("another sheet")
    assert tabletop.stale(tmp_path, write=False) == [tmp_path / "tabletop-Q2.md"]
