"""The scheduled look: told once when the level changes, by whoever recorded it, and never while it stays."""

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from continuity_world import LedgerSite, example

from tasks import continuity
from vedr.adapters import continuity_standing
from vedr.continuity.activation import CALM_SEVERITY, Standing
from vedr.continuity.level import change_of
from vedr.continuity.signals import Answering, Percent, Signals
from vedr.errors import UnavailableError
from vedr.policies.notifications import SEVERITIES, Severity

NOW = dt.datetime(2026, 11, 2, 12, 0, 0, tzinfo=dt.UTC)
REGIONS = {"us-east": True, "eu-west": True, "ap-south": True}


def standing(severity: Severity, *, active: bool = False) -> Standing:
    return Standing(NOW, severity, {}, {}, None, NOW if active else None, "why" if active else "")


def test_a_level_that_stays_is_no_change() -> None:
    for severity in SEVERITIES:
        for active in (False, True):
            assert change_of(standing(severity, active=active), standing(severity, active=active)) is None
    assert change_of(None, standing(CALM_SEVERITY)) is None


@pytest.mark.parametrize(
    ("was", "now", "event", "severity"),
    [
        (None, "SEV-2", "declared", "SEV-2"),
        ("SEV-3", "SEV-1", "declared", "SEV-1"),
        ("SEV-1", "SEV-3", "mitigated", "SEV-1"),
        ("SEV-2", "SEV-4", "resolved", "SEV-2"),
    ],
)
def test_a_change_is_told_to_all_who_were_told_of_the_graver_of_the_two(
    was: Severity | None, now: Severity, event: str, severity: str
) -> None:
    change = change_of(standing(was) if was else None, standing(now))
    assert change is not None
    assert (change.event, change.severity) == (event, severity)


def test_that_the_plan_is_active_is_told_above_all() -> None:
    change = change_of(standing("SEV-2"), standing("SEV-3", active=True))
    assert change is not None
    assert (change.severity, change.subject) == ("SEV-1", "The business continuity plan is active")


# --- the look


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LedgerSite]:
    """With one channel, whose address nobody has."""
    lost = {"kind": "slack", "name": "lost", "url": f"file:{tmp_path}/nothing"}
    with LedgerSite(example(notifications={"channels": [lost]})) as opened:
        yield opened


Look = Callable[..., continuity.Looked]


@pytest.fixture
def look(site: LedgerSite, monkeypatch: pytest.MonkeyPatch) -> Look:
    """A round of the schedule, which sees what it is told; Prefect's own parts only count."""

    @contextlib.contextmanager
    def open_site(_: str | None = None) -> Iterator[LedgerSite]:
        yield site

    seen: dict[str, int] = {}

    def look_around(_: LedgerSite) -> Signals:
        now = site.clock()
        return Signals(
            at=now,
            last_block_at=now - dt.timedelta(seconds=seen["block_age_s"]),
            power=Answering(5, 5),
            gateways=Answering(seen["gateways_up"], 3),
            unreached_pct=Percent(0),
            providers=Answering(1, 1),
            regions=REGIONS,
            monitoring=True,
            incidents=(),
            breach="none",
        )

    monkeypatch.setattr(continuity, "open_site", open_site)
    monkeypatch.setattr(continuity_standing, "look_around", look_around)

    def now(*, gateways_up: int = 3, block_age_s: int = 2) -> continuity.Looked:
        seen.update(gateways_up=gateways_up, block_age_s=block_age_s)
        site.clock.move(minutes=5)
        return continuity.look_at_plan()

    return now


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(continuity, "create_table_artifact", lambda **said: found.append(said["description"]))
    monkeypatch.setattr(continuity, "emit_event", lambda **said: found.append(said["payload"]["change"]))
    return found


def test_a_calm_round_tells_nobody_and_leaves_no_trace(site: LedgerSite, look: Look, shown: list[str]) -> None:
    assert (look().severity, look().change) == ("SEV-4", "")
    assert site.journal.runs_of("continuity") == ()
    assert shown == []


def test_each_change_of_level_is_told_once_and_a_channel_that_failed_is_named(look: Look, shown: list[str]) -> None:
    rounds = [
        look(gateways_up=1),
        look(gateways_up=1),
        look(gateways_up=2),
        look(block_age_s=400),
        look(block_age_s=700),
    ]
    assert [one.change for one in rounds] == [
        "Severity is now SEV-2, it was SEV-4",
        "",
        "",
        "The business continuity plan is active",
        "",
    ]
    assert any(one.startswith("lost (slack): failed") for one in rounds[0].not_told)
    assert rounds[1].not_told == ()
    assert [said for said in shown if "the plan is" not in said.partition(":")[2]] == [
        one.change for one in rounds if one.change
    ]


def test_the_end_of_trouble_is_told_too(look: Look, shown: list[str]) -> None:
    look(gateways_up=1)
    assert look().change == "All functions are well again: severity SEV-4, it was SEV-2"
    assert shown


def test_a_round_counts_also_when_prefect_cannot_show_it(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(continuity, "create_table_artifact", broken)
    assert look(gateways_up=1).recorded_as is not None


def test_a_round_that_cannot_read_the_ledger_fails(site: LedgerSite, look: Look) -> None:
    for region in ("us-east", "eu-west"):
        site.memory[region].faults.down = True
    with pytest.raises(UnavailableError):
        look()
