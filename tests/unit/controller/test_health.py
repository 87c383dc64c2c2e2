"""One vantage point's verdicts: what counts as gone, and when a verdict changes."""

import datetime as dt

import pytest

from vedr.chain.quorum import Domain
from vedr.failover.health import MAX_REASONS, Answer, Service, Vantage
from vedr.policies.controller import ControllerPolicy

NOW = dt.datetime(2026, 11, 2, 12, 0, tzinfo=dt.UTC)
# us-east-1a holds five of the region's nine services, as VirtEngine's does
SERVICES = tuple(
    Service(f"s{number}", "gateway", zone, "us-east")
    for number, zone in enumerate(["us-east-1a"] * 5 + ["us-east-1b"] * 4)
)
A, B, REGION = Domain("zone", "us-east-1a"), Domain("zone", "us-east-1b"), Domain("region", "us-east")


def look(vantage: Vantage, gone: str = "", *, seconds: int = 0) -> dict[Domain, str]:
    """One look at which these services (`"0 1"`) are gone."""
    lost = {f"s{number}" for number in gone.split()}
    answers = [Answer(service, answers=service.name not in lost, said="refused") for service in SERVICES]
    return {d: v.confirmed for d, v in vantage.observe(answers, NOW + dt.timedelta(seconds=seconds)).items()}


@pytest.fixture
def vantage() -> Vantage:
    made = Vantage(ControllerPolicy(), SERVICES)
    for _ in range(3):
        look(made)
    return made


def test_until_the_first_looks_in_a_row_a_verdict_is_neither_up_nor_down() -> None:
    vantage = Vantage(ControllerPolicy(), SERVICES)
    assert [look(vantage)[A], look(vantage, "0 1 2 3 4")[A], look(vantage)[A], look(vantage)[A]] == ["unknown"] * 4
    assert look(vantage)[A] == "up"


def test_three_failures_in_a_row_make_it_down_and_three_good_looks_up_again(vantage: Vantage) -> None:
    gone = "0 1 2 3 4"
    seen = [look(vantage, one)[A] for one in (gone, gone, "", gone, gone, gone, "", "", gone, "", "", "")]
    assert seen == ["up"] * 5 + ["down"] * 6 + ["up"]


def test_the_first_failure_is_remembered_over_short_recoveries(vantage: Vantage) -> None:
    for second, gone in enumerate(["0 1 2 3 4"] * 3 + ["", "0 1 2 3 4"]):
        look(vantage, gone, seconds=second)
    verdict = vantage.verdicts[A]
    assert (verdict.first_failed_at, verdict.since) == (NOW, NOW + dt.timedelta(seconds=2))


@pytest.mark.parametrize(
    ("gone", "down"),
    [
        ("0 1 2 3", []),  # a zone fails when all of it is gone
        ("0 1 2 3 4", [A]),  # over half of the region, and all in one zone: the zone's
        ("0 1 2 3 5", [REGION]),  # over half, in both zones
        ("0 1 5 6", []),  # 4 of 9
        ("0 1 2 3 4 5 6 7 8", [REGION, A, B]),
    ],
)
def test_a_region_is_down_with_all_its_zones_or_over_half_of_what_all_of_them_have(
    vantage: Vantage, gone: str, down: list[Domain]
) -> None:
    for _ in range(3):
        seen = look(vantage, gone)
    assert {domain for domain, confirmed in seen.items() if confirmed == "down"} == set(down)


def test_what_was_not_asked_is_gone(vantage: Vantage) -> None:
    for _ in range(3):
        verdicts = vantage.observe([], NOW)
    assert {verdict.confirmed for verdict in verdicts.values()} == {"down"}
    assert "was not asked" in verdicts[B].reasons[0]


def test_reasons_fit_a_terminal(vantage: Vantage) -> None:
    look(vantage, "0 1 2 3 4 5 6 7 8")
    reasons = vantage.verdicts[REGION].reasons
    assert len(reasons) == MAX_REASONS
    assert (reasons[0], reasons[-1]) == ("s0: refused", "and 4 more")


# --- heights

NODES = tuple(Service(f"n{n}", "node", f"us-east-1{zone}", "us-east") for n, zone in enumerate("abc"))


def heights(vantage: Vantage, *at: int) -> str:
    """Which zones fail after a look at these heights."""
    answers = [Answer(node, answers=True, said="", height=height) for node, height in zip(NODES, at, strict=True)]
    vantage.observe(answers, NOW)
    return "".join(d.name[-1] for d, v in vantage.verdicts.items() if d.kind == "zone" and v.bad)


def test_a_node_that_stands_still_while_others_go_on_does_not_serve() -> None:
    vantage = Vantage(ControllerPolicy(), NODES)
    assert [heights(vantage, *at) for at in [(10, 10, 10), (12, 12, 10), (13, 13, 10), (20, 20, 10), (26, 26, 26)]] == [
        "",
        "",
        "c",
        "c",
        "",
    ]


def test_a_halted_chain_is_nobodys_fault() -> None:
    vantage = Vantage(ControllerPolicy(), NODES)
    assert {heights(vantage, 10, 11, 10) for _ in range(20)} == {""}


def test_a_node_far_behind_does_not_serve_even_while_it_goes_on() -> None:
    vantage = Vantage(ControllerPolicy(max_behind_blocks=100), NODES)
    assert [heights(vantage, 500 + n, 500 + n, 300 + 5 * n) for n in (0, 10, 30)] == ["c", "c", ""]


def test_one_node_that_lies_about_its_height_makes_nobody_look_behind() -> None:
    vantage = Vantage(ControllerPolicy(), NODES)
    assert [heights(vantage, 10 + n, 10 + n, 10**12 + n) for n in range(10)] == [""] * 10
