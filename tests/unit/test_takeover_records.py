"""What the bench of take-overs draws, and what it finds in logs and on the chain; the lab itself is not needed."""

import random
from collections import Counter

import pytest

from bench.takeover_records import (
    WAYS,
    Case,
    Seat,
    Signed,
    TakeOver,
    draw,
    expected_nodes,
    hrs_of,
    percentile,
    read_log,
    report,
    signed_after,
    signed_twice,
    untold,
)
from vedr.errors import NotFoundError

SEATS = (
    Seat("v0-signer", "v0", "v0", "us-1a"),
    Seat("v0-at-f1", "v0", "f1", "us-1b"),
    Seat("v0-at-f2", "v0", "f2", "eu-1a"),
    Seat("v1-signer", "v1", "v1", "us-1b"),
    Seat("v1-at-f1", "v1", "f1", "us-1b"),
    Seat("v1-at-f2", "v1", "f2", "eu-1a"),
)
AT_HOME = {"v0": "v0-signer", "v1": "v1-signer"}
LINE = b'{"event":"signed","kind":"precommit","hrs":"%s","digest":"%s","took_us":5}\n'


def played(seed: int, turns: int = 60) -> list[tuple[Case, dict[str, str]]]:
    """Cases drawn one after the other, each with who held the keys before."""
    chance, holders, cases = random.Random(seed), dict(AT_HOME), []
    zones = {seat.signer: seat.zone for seat in SEATS}
    for _ in range(turns):
        case = draw(chance, SEATS, holders, [*(zones[holder] for holder in holders.values()), "ap-1a"])
        cases.append((case, dict(holders)))
        holders[case.validator] = case.new.signer
    return cases


def test_every_way_is_drawn_and_every_validator_comes_home_again() -> None:
    cases = [case for seed in range(5) for case, _ in played(seed)]
    assert set(Counter(case.way for case in cases)) == set(WAYS)
    assert {case.validator for case in cases if case.new.is_home} == {"v0", "v1"}
    assert played(3) == played(3)


@pytest.mark.parametrize("seed", range(20))
def test_no_take_over_goes_to_where_it_is_to_a_busy_node_or_into_the_zone_that_is_cut(seed: int) -> None:
    for case, holders in played(seed):
        assert holders[case.validator] == case.old.signer != case.new.signer
        assert case.new.validator == case.old.validator == case.validator
        others = {seat.node for seat in SEATS if seat.signer in holders.values() and seat.validator != case.validator}
        assert case.new.node not in others
        if case.way == "zone cut":
            assert case.new.zone != case.old.zone
            signing_there = [s for s in SEATS if s.signer in holders.values() and s.zone == case.old.zone]
            assert signing_there == [case.old]
        assert case.way == "planned" or not case.new.is_home


def test_a_lab_without_a_free_standby_is_refused() -> None:
    with pytest.raises(NotFoundError, match="no standby"):
        draw(random.Random(1), [seat for seat in SEATS if seat.is_home], AT_HOME, ["us-1a", "us-1b"])


def test_a_log_tells_signatures_and_a_line_that_cannot_be_read_is_a_problem_unless_it_is_the_last() -> None:
    data = b"Traceback of nobody\n" + LINE % (b"5/0/3", b"aa") + b'{"event":"holds","epoch":2}\n'
    signed, problems = read_log(SEATS[0], data)
    assert signed == [Signed("v0", "v0-signer", (5, 0, 3), "aa")]
    assert not problems
    assert read_log(SEATS[0], data + b'{"event":"sig')[1] == []
    for line in (b"{torn\n", b'{"event":"signed","hrs":"5/0"}\n', b'{"event":"signed","digest":"aa"}\n', b"{}\n"):
        assert read_log(SEATS[0], line + data)[1] == ["v0-signer: line 1 of its log can't be read"]


def test_two_contents_of_one_validator_at_one_place_are_found_wherever_they_were_signed() -> None:
    first, second = Signed("v0", "v0-signer", (5, 0, 3), "aa"), Signed("v0", "v0-at-f1", (5, 0, 3), "bb")
    assert signed_twice([first, first, Signed("v0", "v0-at-f1", (5, 0, 3), "aa")]) == []
    assert signed_twice([first, Signed("v1", "v1-signer", (5, 0, 3), "bb"), Signed("v0", "x", (5, 1, 3), "bb")]) == []
    assert signed_twice([first, second]) == ["v0 signed 5/0/3 for 2 contents, by v0-at-f1, v0-signer"]


def test_what_a_passed_signer_signs_above_the_take_over_is_found() -> None:
    at, above = Signed("v0", "v0-signer", (5, 0, 3), "aa"), Signed("v0", "v0-signer", (6, 0, 1), "bb")
    assert signed_after([at], (5, 0, 3)) == []
    assert signed_after([at, above], (5, 0, 3)) == ["v0-signer signed 6/0/1 after the key had gone on at 5/0/3"]


def test_a_precommit_on_the_chain_that_no_log_tells_is_found() -> None:
    told = [Signed("v0", "v0-signer", (5, 1, 3), "aa"), Signed("v0", "v0-signer", (6, 0, 2), "bb")]
    assert untold([("v0", 5, 1)], told) == []
    assert len(untold([("v0", 5, 0), ("v1", 5, 1), ("v0", 6, 0)], told)) == 3


def test_a_position_is_height_round_and_step() -> None:
    assert hrs_of("12/1/3") == (12, 1, 3)
    for text in ("", "1/2", "1/2/3/4", "a/b/c"):
        with pytest.raises(ValueError, match=r"unpack|literal"):
            hrs_of(text)


@pytest.mark.parametrize(("share", "value"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.0, 1.0)])
def test_a_percentile_is_a_value_that_was_seen(share: float, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], share) == value
    assert percentile([7.0], share) == 7.0


def test_a_validator_whose_key_is_elsewhere_need_not_be_in_sync() -> None:
    nodes = [("v0", True), ("v1", True), ("v2", True), ("f1", False)]
    assert expected_nodes(nodes, SEATS, AT_HOME) == {"v0", "v1", "v2", "f1"}
    assert expected_nodes(nodes, SEATS, {**AT_HOME, "v1": "v1-at-f2"}) == {"v0", "v2", "f1"}


def test_the_report_has_a_row_for_each_way_and_names_every_problem() -> None:
    done = [
        TakeOver(Case("v0", "signer killed", SEATS[0], SEATS[1]), 1.5, 2.5, 2, True),
        TakeOver(Case("v0", "planned", SEATS[1], SEATS[0]), 0.5, 1.0, 0, False),
    ]
    good = report(done, [], seed=7, blocks=90, acknowledged=1000)
    assert "| signer killed | 1 | 1.5 / 1.5 | 2.5 / 2.5 | 2 / 2 | 1 |" in good
    assert "| all | 2 | 0.5 / 1.5 | 1.0 / 2.5 | 1 / 2 | 1 |" in good
    assert "zone cut" not in good
    assert "No evidence" in good
    bad = report(done, ["block 5 holds duplicate vote"], seed=7, blocks=90, acknowledged=1000)
    assert "- block 5 holds duplicate vote" in bad
    assert "No evidence" not in bad
