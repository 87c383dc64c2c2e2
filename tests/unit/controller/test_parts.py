"""The parts around the judgement: policy, windows, reports, the ledger, plain starts, notices."""

import datetime as dt
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from tasks.failover_orders import RegionFailover, ZoneFailover
from vedr.adapters.memory_registers import MemoryRegisters
from vedr.adapters.memory_store import MemoryStore
from vedr.adapters.site import OpenSite
from vedr.chain.quorum import Domain
from vedr.cli import controller_notices
from vedr.cli.controller_notices import ChannelAnnouncer
from vedr.cli.run import make_order, parse_fields
from vedr.errors import CorruptError, InvalidInputError, UnavailableError
from vedr.failover.controller_ledger import JournalLedger, open_ones
from vedr.failover.controller_loop import Notice
from vedr.failover.controller_maintenance import check_policy, expected_until
from vedr.failover.controller_metrics import Tally
from vedr.failover.controller_reports import Exchange, Report, decode, encode, key_of
from vedr.failover.controller_starting import PlainStart, Request
from vedr.failover.health import Verdict
from vedr.inventory import Site, load_site
from vedr.ledger import RunId
from vedr.policies.controller import ControllerPolicy, Maintenance
from vedr.policies.notifications import Notifications
from vedr.runbook.journal import Journal
from vedr.signature import Signer

NOW = dt.datetime(2026, 11, 2, 12, 0, tzinfo=dt.UTC)
REGIONS = ("us-east", "eu-west", "ap-south")
KEY = Signer(Ed25519PrivateKey.generate())
ZONE = Domain("zone", "us-east-1a")
EXAMPLE = Path(__file__).parents[3] / "deployments" / "sites" / "production.example.toml"

# --- policy and windows


@pytest.mark.parametrize(
    "wrong",
    [
        {"fresh_s": 40},
        {"lease_s": 59},
        {"interval_s": 2},
        {"zone": "guess"},
        {"maintenance": [{"reason": "x"}]},
        {"maintenance": [{"reason": "x", "start": NOW, "end": NOW}]},
        {"maintenance": [{"reason": "x", "cron": "0 3 * * *"}]},
        {"maintenance": [{"reason": "x", "cron": "0 3 * * *", "duration_s": 60, "start": NOW, "end": NOW}]},
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ControllerPolicy.model_validate(wrong)


@pytest.mark.parametrize(
    ("window", "said"),
    [
        (Maintenance(domains=("us-west",), reason="x", cron="0 3 * * *", duration_s=60), "us-west"),
        (Maintenance(reason="x", cron="99 3 * * *", duration_s=60), "no cron expression"),
    ],
)
def test_a_window_that_means_nothing_here_is_refused_at_the_start(window: Maintenance, said: str) -> None:
    site = load_site(str(EXAMPLE))
    check_policy(site)
    with pytest.raises(InvalidInputError, match=said):
        check_policy(site.model_copy(update={"controller": ControllerPolicy(maintenance=(window,))}))


@pytest.mark.parametrize(
    ("hour", "minute", "is_open"), [(22, 59, False), (23, 0, True), (0, 59, True), (1, 0, False), (12, 0, False)]
)
def test_a_window_that_begins_by_cron_goes_over_midnight(hour: int, minute: int, is_open: bool) -> None:
    policy = ControllerPolicy(maintenance=(Maintenance(reason="x", cron="0 23 * * *", duration_s=7200),))
    assert (expected_until(policy, {"us-east"}, NOW.replace(hour=hour, minute=minute)) is not None) == is_open


# --- reports


def exchange(registers: dict[str, MemoryRegisters], clock: Any, process: str = "p1") -> Exchange:
    return Exchange("lab", "us-east", process, registers, signer=KEY, trusted=[KEY.public_hex], clock=clock)


def verdict() -> Verdict:
    return Verdict(ZONE, "down", 0, 3, NOW, NOW, ("n: refused",))


def test_a_report_comes_back_as_it_was_published_with_the_time_at_which_it_was_heard() -> None:
    registers = {region: MemoryRegisters(region) for region in REGIONS}
    times = iter([NOW + dt.timedelta(seconds=s) for s in range(100)])
    ours = exchange(registers, lambda: next(times))
    assert ours.publish({ZONE: verdict()}, 7) == REGIONS
    report = ours.gather()["us-east"]
    assert (report.number, report.height, report.verdicts) == (1, 7, {ZONE: verdict()})
    later = exchange(registers, lambda: NOW + dt.timedelta(hours=1), "p2")
    assert later.gather()["us-east"].heard_at == report.at  # the first one that is seen is as old as it says
    ours.publish({ZONE: verdict()}, 8)
    assert later.gather()["us-east"].heard_at == NOW + dt.timedelta(hours=1)


def test_a_new_process_goes_on_with_the_numbers_of_the_one_before() -> None:
    registers = {region: MemoryRegisters(region) for region in REGIONS}
    first = exchange(registers, lambda: NOW)
    for _ in range(3):
        first.publish({}, 1)
    second = exchange(registers, lambda: NOW, "p2")
    assert second.publish({}, 1) == REGIONS
    assert second.gather()["us-east"].number == 4
    assert first.publish({}, 1) == ()  # another process of this vantage point is ahead
    first.gather()
    assert first.publish({}, 1) == REGIONS


def test_a_region_that_is_away_keeps_no_report_from_the_others() -> None:
    registers = {region: MemoryRegisters(region) for region in REGIONS}
    registers["eu-west"].faults.down = True
    ours = exchange(registers, lambda: NOW)
    assert ours.publish({}, 1) == ("us-east", "ap-south")
    assert ours.gather()["us-east"].number == 1
    assert list(ours.problems) == ["eu-west"]


def test_a_forged_report_counts_for_nothing_and_is_named() -> None:
    registers = {region: MemoryRegisters(region) for region in REGIONS}
    ours = exchange(registers, lambda: NOW)
    ours.publish({}, 1)
    forged = Report("us-east", "mallory", 99, NOW, NOW, 1, {})
    registers["eu-west"].overwrite(
        key_of("lab", "us-east"), encode("lab", forged, Signer(Ed25519PrivateKey.generate()))
    )
    fresh = exchange(registers, lambda: NOW, "p2")
    assert fresh.gather()["us-east"].number == 1
    assert "no trusted key signed it" in fresh.problems["eu-west"]
    assert fresh.publish({}, 1) == REGIONS


@pytest.mark.parametrize("data", [b"", b"x" * 600_000])
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptError):
        decode("lab", "us-east", data, [KEY.public_hex])


def test_a_report_of_another_vantage_point_is_refused() -> None:
    data = encode("lab", Report("eu-west", "p", 1, NOW, NOW, 1, {}), KEY)
    with pytest.raises(CorruptError, match="not that report"):
        decode("lab", "us-east", data, [KEY.public_hex])


# --- the ledger


@pytest.fixture
def journal() -> Iterator[Journal]:
    stores = {region: MemoryStore(region) for region in REGIONS}
    made = Journal(stores, site="lab", signer=KEY, trusted=[KEY.public_hex], clock=lambda: NOW)
    yield made
    made.close()


def test_open_runs_of_the_failover_runbooks_are_incidents_of_their_place(journal: Journal) -> None:
    zone = journal.open(RunId("inc-20261102-120000-aaaa"), "RB-DR-002", {"order": {"zone": "us-east-1a"}})
    journal.open(RunId("inc-20261102-120001-aaaa"), "RB-DR-003", {"order": {"region": "eu-west"}})
    journal.open(RunId("inc-20261102-120002-aaaa"), "RB-DR-001", {"order": {"node": "n"}})
    ledger = JournalLedger(journal)
    open_before = {ZONE: "inc-20261102-120000-aaaa", Domain("region", "eu-west"): "inc-20261102-120001-aaaa"}
    assert open_ones(ledger.incidents()) == open_before
    zone.append("closed", {"outcome": "completed"})
    for _ in range(2):
        assert open_ones(ledger.incidents()) == {Domain("region", "eu-west"): "inc-20261102-120001-aaaa"}


def test_of_two_records_of_one_outage_the_first_stays(journal: Journal) -> None:
    ledger = JournalLedger(journal)
    documents = [{"outage": "out-1", "epoch": epoch, "why": f"by {epoch}"} for epoch in (3, 4)]
    assert [ledger.once("out-1", "start", document) for document in documents] == [3, 3]
    assert ledger.once("out-1", "start", {**documents[0], "why": "again"}) == 3
    assert ledger.once("out-1", "proposal", documents[1]) == 4


# --- plain starts


def test_a_plain_start_runs_vedr_with_the_order_and_the_site(tmp_path: Path) -> None:
    program = tmp_path / "fake.py"
    program.write_text("import os, sys; print(sys.argv[1:], os.environ['VEDR_SITE'], flush=True)")
    start = PlainStart([sys.executable, str(program)], tmp_path / "logs", site="lab", early_end_s=60)
    request = Request("out-1", "RB-DR-002", {"zone": "us-east-1a", "detected_at": "T"}, "k")
    result = start.start(request)
    assert result.kind == "started"
    log = tmp_path / "logs" / "out-1.log"
    assert log.read_text() == "['run', 'RB-DR-002', '--zone=us-east-1a', '--detected-at=T'] lab\n"
    assert request.command == "vedr run RB-DR-002 --zone=us-east-1a --detected-at=T"


def test_a_plain_start_that_fails_at_once_says_so(tmp_path: Path) -> None:
    start = PlainStart([sys.executable, "-c", "raise SystemExit(4)"], tmp_path, site="", early_end_s=60)
    result = start.start(Request("out-1", "RB-DR-003", {}, "k"))
    assert (result.kind, "status 4" in result.why) == ("ended", True)
    missing = PlainStart([str(tmp_path / "nothing")], tmp_path, site="")
    assert missing.start(Request("out-1", "RB-DR-003", {}, "k")).kind == "not-sent"
    assert not PlainStart([], tmp_path, site="").answers()


def test_a_run_that_goes_on_is_started_and_is_not_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    start = PlainStart([sys.executable, "-c", "import time; time.sleep(30)"], tmp_path, site="", early_end_s=0.1)
    result = start.start(Request("out-1", "RB-DR-003", {}, "k"))
    assert result.kind == "started"
    assert time.monotonic() - began < 20
    for process in start._running:
        process.kill()
        process.wait()


# --- what is ordered, and who is told


@pytest.mark.parametrize(
    ("zones", "model", "name"),
    [(["us-east-1a"], ZoneFailover, "us-east-1a"), (["us-east-1a", "us-east-1b"], RegionFailover, "us-east")],
)
def test_the_order_is_one_that_the_runbook_takes(
    sim: ModuleType, zones: list[str], model: type[Any], name: str
) -> None:
    world = sim.World()
    world.rounds(3)
    world.fail(*zones)
    world.truth.halted = len(zones) == 2
    world.rounds(8)
    (request,) = world.truth.runs
    order = make_order(model, parse_fields(model, request.arguments[2:]))
    assert name in (getattr(order, "zone", ""), getattr(order, "region", ""))
    assert order == make_order(model, dict(request.order))
    assert order.detected_at is not None


def test_every_place_has_its_numbers_in_the_metrics(sim: ModuleType) -> None:
    world = sim.World()
    tally = Tally("us-east")
    assert "vedr_controller_cycles_total 0" in tally.text()
    world.rounds(3)
    world.fail("eu-west-1a")
    for _ in range(5):
        tally.add(world.run("us-east"), took_s=0.5)
        world.pass_time(10)
        world.rounds(1, "eu-west", "ap-south")
    lines = tally.text().splitlines()
    assert 'vedr_controller_verdict{vantage="us-east",kind="zone",name="eu-west-1a",state="down"} 1' in lines
    assert 'vedr_controller_lease_held{vantage="us-east"} 1' in lines
    assert any(line.startswith('vedr_controller_outage_open{vantage="us-east",kind="region"') for line in lines)
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(families) == len(set(families)) == 12


class Told:
    """A channel that keeps what it is given."""

    name, kind = "pager", "webhook"

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.is_dead = False

    def send(self, message: Any, *, timeout_s: float) -> None:
        if self.is_dead:
            raise UnavailableError(f"no answer in {timeout_s:g} s")
        self.messages.append(message)


def test_channels_are_told_what_a_person_has_to_do_and_a_dead_one_is_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(controller_notices, "log_line", lambda event, _facts: logged.append(event))
    policy = {"kind": "webhook", "name": "pager", "url": "env:HOOK", "key": "env:HOOK_KEY"}
    site = load_site(str(EXAMPLE)).model_copy(
        update={"notifications": Notifications.model_validate({"channels": [policy], "deadline_s": 2})}
    )
    channel = Told()
    opened = SimpleNamespace(site=cast("Site", site), channels=(channel,))
    announcer = ChannelAnnouncer(cast("OpenSite", opened))
    notice = Notice("proposed", NOW, "RB-DR-002 is proposed", ZONE, "out-1", "vedr run RB-DR-002 --zone=us-east-1a")
    announcer.announce(notice)
    announcer.announce(replace(notice, kind="opened"))
    (told,) = channel.messages
    assert (told.event, told.severity, told.incident) == ("waiting_for_approval", "SEV-2", "out-1")
    assert "vedr run RB-DR-002 --zone=us-east-1a" in told.body
    channel.is_dead = True
    announcer.announce(notice)
    assert logged == ["not-told"]
