"""Damaged data never passes: hundreds of seeded corruptions here, ten thousand in `python -m bench.corruptions`."""

import random
from pathlib import Path

import pytest

from bench.corrupting.damage import KINDS, Around, damage, fitting
from bench.corrupting.subjects import SUBJECTS, opened, shared_out
from bench.corrupting.trial import FAILED, FalsePass, Verdict, judged, run
from bench.corruptions import report
from vedr.errors import CorruptError

COUNT = 320
SEED = 5


@pytest.mark.parametrize("name", list(SUBJECTS))
def test_no_injected_corruption_passes_or_ends_in_a_bare_error(name: str, tmp_path: Path) -> None:
    with opened(name, tmp_path) as subject:
        results = [run(subject, SEED, number) for number in range(shared_out(COUNT)[name])]
    failures = [f"{one.subject}/{one.number}: {one.kind}: {one.what}: {one.why}" for one in results if one.is_failure]
    assert not failures, "\n".join(failures)


def test_the_trials_are_shared_out_to_the_last_one() -> None:
    assert sum(shared_out(10_000).values()) == 10_000
    assert min(shared_out(10_000).values()) >= 200


def passes() -> Verdict:
    raise FalsePass("another result")


def has_no_remedy() -> Verdict:
    raise CorruptError("damaged")


def crashes() -> Verdict:
    raise KeyError("height")


@pytest.mark.parametrize("look", [passes, has_no_remedy, crashes])
def test_the_judge_fails_what_passes_crashes_or_gives_no_remedy(look: object) -> None:
    verdict, why = judged(look)  # type: ignore[arg-type]
    assert verdict == FAILED
    assert why


def test_every_kind_of_damage_changes_what_it_is_done_to() -> None:
    chance = random.Random(1)
    document = b'{"a":1,"b":["x"],"c":{"d":null}}'
    around = Around(siblings=[b"other"], older=[b"older"], foreign=[b"foreign"])
    assert set(fitting(document, around)) == set(KINDS)
    assert {damage(document, chance, around).data for _ in range(500)}.isdisjoint({document})
    with pytest.raises(ValueError, match="no damage changes"):
        damage(b"", chance, Around(), without=["missing"])


def test_a_trial_is_the_same_each_time(tmp_path: Path) -> None:
    with opened("trust anchors", tmp_path) as subject:
        first, second = run(subject, SEED, 7), run(subject, SEED, 7)
    assert first == second
    assert "trust anchors | 1 |" in report([first], SEED, 1.0)
