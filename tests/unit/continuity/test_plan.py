"""The plan's data and words: people, matrix, templates, what is seen; and the commands over them."""

import datetime as dt
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from continuity_world import START, LedgerSite, example
from loopback_ports import free_port
from pydantic import ValidationError
from typer.testing import CliRunner

from vedr.adapters.continuity_signals import look_around
from vedr.chain.quorum import Member, PowerMap
from vedr.continuity import communication, roles
from vedr.continuity.communication import MATRIX, TEMPLATES, TOLD, Setting, filled, template_for
from vedr.continuity.functions import FUNCTIONS, Function
from vedr.continuity.incident import duration, incident_of
from vedr.continuity.roles import DUTIES, RACI, fill
from vedr.continuity.severity import assess
from vedr.continuity.sighting import Seen, Tip, Way, breach_of, open_incidents, signals_of, unreached_pct
from vedr.continuity.signals import Answering
from vedr.errors import NotFoundError, UnavailableError, VedrError, VerificationFailedError
from vedr.failover.health import Answer, services_of
from vedr.failover.traffic import Backend, Endpoint, Picture, Share
from vedr.inventory import Site
from vedr.ledger import RunId
from vedr.policies.continuity import ROLES, Continuity
from vedr.policies.notifications import EVENTS
from vedr.runbook.order import new_run_id
from vedr.targets import RUNBOOK_RTO_S


def people(*names: str) -> dict[str, Any]:
    first, *others = ({"name": name, "reach": f"{name}@example.org"} for name in names)
    return {"primary": first, "backups": others}


def plan(**changes: Any) -> Continuity:
    filled_roles = {role: people(f"{role}-1", f"{role}-2", f"{role}-3") for role in ROLES}
    return Continuity.model_validate({"roles": filled_roles | changes})


# --- people


@pytest.mark.parametrize(
    ("role", "said"),
    [
        (people("zoe", "ann"), "at least 2 items"),
        (people("zoe"), "at least 2 items"),
        (people("zoe", "ann", "Zoe"), "named twice"),
        (people("zoe", "ann", ""), "at least 1 character"),
    ],
)
def test_a_role_with_fewer_than_two_real_backups_is_refused(role: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        plan(operations=role)


def test_a_role_that_nobody_fills_is_refused_when_others_are() -> None:
    with pytest.raises(ValidationError, match="nobody is named for bc-manager"):
        Continuity.model_validate({"roles": {"operations": people("a", "b", "c")}})
    assert Continuity().roles == {}


def test_succession_goes_through_the_backups_and_then_to_the_role_that_takes_over() -> None:
    policy = plan()
    assert fill(policy, "operations").contact.name == "operations-1"
    assert fill(policy, "operations", unavailable=["Operations-1"]).contact.name == "operations-2"
    all_away = [f"operations-{n}" for n in (1, 2, 3)]
    taken = fill(policy, "operations", unavailable=all_away)
    assert (taken.contact.name, taken.deputising) == ("technical-lead-1", "technical-lead")


def test_when_nobody_is_left_that_is_said() -> None:
    everybody = [f"{role}-{n}" for role in ROLES for n in (1, 2, 3)]
    for role in ROLES:
        with pytest.raises(NotFoundError, match="cannot be reached"):
            fill(plan(), role, unavailable=everybody)
        with pytest.raises(NotFoundError, match="nobody fills"):
            fill(Continuity(), role)


def test_every_activity_has_one_accountable_and_a_responsible() -> None:
    for activity in RACI:
        parts = list(activity.parts.values())
        assert sum("A" in part for part in parts) == 1, activity.name
        assert any("R" in part for part in parts), activity.name
        assert set(activity.parts) == set(ROLES)
    assert set(DUTIES) == set(ROLES)
    assert all(role != duty.successor for role, duty in DUTIES.items())


def test_a_function_comes_after_what_it_needs_and_its_rto_is_within_its_mtd() -> None:
    known: set[str] = set()
    for function, impact in FUNCTIONS.items():
        assert set(impact.needs) <= known
        assert impact.rto_s < impact.mtd_s
        known.add(function)


# --- words


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LedgerSite]:
    """Whose channels are files away from working: every failure to tell has to be survived."""
    channel = {"kind": "slack", "name": "lost", "url": f"file:{tmp_path}/nobody-wrote-this"}
    tables = {"continuity": plan().model_dump(), "notifications": {"channels": [channel], "deadline_s": 2}}
    with LedgerSite(example(**tables)) as opened:
        yield opened


def incident(site: LedgerSite, runbook: str = "RB-DR-003", *, close: str = "", **order: Any) -> RunId:
    run_id = new_run_id("inc", site.clock())
    opening = {
        "title": "region failover",
        "detected_at": site.clock().isoformat(),
        "target_ms": 1_800_000,
        "order": {"site": "", "region": "us-east", "reason": "", **order},
        "steps": [{"key": "fence", "title": "Fence", "budget_ms": 1000}],
    }
    writer = site.journal.open(run_id, runbook, opening)
    if close:
        site.clock.move(minutes=3)
        step = {"step": "fence", "title": "Fence", "budget_ms": 1000, "resuming": False}
        writer.append("step_started", step)
        writer.append("step_completed", {"step": "fence", "took_ms": 900, "attempts": 1, "result": None})
        writer.append("closed", {"outcome": close, "total_ms": 180_000, "target_ms": 1_800_000, "steps": {}})
    return run_id


@pytest.mark.parametrize("runbook", [*RUNBOOK_RTO_S, "RB-DR-999"])
@pytest.mark.parametrize("close", ["", "completed", "abandoned"])
def test_every_template_fills_for_every_incident_and_event(site: LedgerSite, runbook: str, close: str) -> None:
    found = incident_of(site.journal.read(incident(site, runbook, close=close)).entries)
    for name in TEMPLATES:
        for event in EVENTS:
            said = filled(name, found, event, at=site.clock())
            assert said.subject
            assert "$" not in said.subject + said.body
            assert "None" not in said.subject + said.body


@pytest.mark.parametrize("runbook", list(RUNBOOK_RTO_S))
def test_outsiders_read_no_host_no_person_and_no_detail_of_a_key(site: LedgerSite, runbook: str) -> None:
    order = {
        "node": "validator-us-east-0",
        "owner": "validator-us-east-0",
        "reason": "seen on pastebin",
        "zone": "us-east-1a",
    }
    found = incident_of(site.journal.read(incident(site, runbook, **order)).entries)
    for audience in ("public", "validators", "providers"):
        for event in EVENTS:
            if name := template_for(audience, event):  # type: ignore[arg-type]
                said = filled(name, found, event, Setting("Zoe (+1 555)"), at=site.clock())
                text = (said.subject + said.body).casefold()
                hidden = ("validator-us-east-0", "us-east", "pastebin", "zoe", "compromise", "rb-dr", "stolen")
                assert not [word for word in hidden if word in text], (audience, event, text)


def test_the_status_page_goes_from_investigating_to_resolved(site: LedgerSite) -> None:
    told = [template_for("public", event) for event in ("declared", "mitigated", "resolved")]
    assert told == ["status-investigating", "status-identified", "status-resolved"]
    assert {line.audience for line in MATRIX} == {"responders", *TOLD}
    found = incident_of(site.journal.read(incident(site, close="completed")).entries)
    said = filled("status-resolved", found, "resolved", Setting(status_page="https://status.example"), at=site.clock())
    assert "Duration: 3 min" in said.body
    assert "End: 2026-02-14 03:18 UTC" in said.body
    assert said.links[0].url == "https://status.example"


def test_executives_read_severity_target_and_who_commands(site: LedgerSite) -> None:
    found = incident_of(site.journal.read(incident(site)).entries)
    site.clock.move(minutes=31)
    said = filled("exec-update", found, "overrun_predicted", Setting("Zoe (+1 555)"), at=site.clock())
    assert "Severity: SEV-1 (block production halted, or more than 50 % of users)" in said.body
    assert "Target: 30 min, exceeded" in said.body
    assert "Incident commander: Zoe (+1 555)" in said.body
    assert "Duration: 31 min so far" in said.body


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 s"),
        (999, "1 s"),
        (61_000, "1 min 1 s"),
        (3_600_000, "1 h"),
        (11_100_000, "3 h 5 min"),
        (187_200_000, "2 d 4 h"),
    ],
)
def test_durations_read_as_people_say_them(ms: int, text: str) -> None:
    assert duration(ms) == text


# --- what is seen


def answers(site: Site, *, gone: tuple[str, ...] = ()) -> list[Answer]:
    return [Answer(service, service.name not in gone, "", 100) for service in services_of(site)]


def tip(online: int = 3) -> Tip:
    members = tuple(Member(bytes([n]) * 20, 10, f"v{n}", f"z{n}", "us-east") for n in range(4))
    return Tip(START, PowerMap(members), frozenset(member.address for member in members[:online]))


def seen(site: Site, **changes: Any) -> Seen:
    facts: dict[str, Any] = {"answers": answers(site), "tip": tip(4), "ways": [], "runs": [], "monitoring": True}
    return Seen(**(facts | changes))


def test_what_could_not_be_seen_is_named_with_its_reason() -> None:
    silent = UnavailableError("nobody answers", remedy="")
    site = example()
    signals = signals_of(site, seen(site, tip=silent, ways=silent, runs=silent, monitoring=None), START)
    assert set(signals.unseen) == {"blocks", "gateways", "incidents", "monitoring"}
    assert signals.unseen["blocks"] == "nobody answers"
    assert (signals.last_block_at, signals.gateways, signals.incidents, signals.breach) == (None, None, None, None)


def test_power_is_fragile_when_one_validator_less_would_halt() -> None:
    site = example()
    assert not signals_of(site, seen(site), START).fragile
    signals = signals_of(site, seen(site, tip=tip(3)), START)
    assert signals.fragile
    assert (signals.power.up, signals.power.total) == (30, 40) if signals.power else False


def test_a_region_is_lost_when_nothing_in_it_answers() -> None:
    site = example()
    gone = tuple(thing.name for thing in site.placed if thing.region == "ap-south")
    assert signals_of(site, seen(site, answers=answers(site, gone=gone)), START).lost_regions == ("ap-south",)


def way(weights: dict[str, int]) -> Way:
    endpoints = (Endpoint("us", "us-east", ("gateway-us-east-0",)), Endpoint("eu", "eu-west", ("gateway-eu",)))
    share = Share(weights, 60)
    return Way(Backend("dns", endpoints, is_weighted=True), Picture("dns", {"api": share}, None, "t"))


def test_users_are_counted_by_where_they_are_sent() -> None:
    site = example()
    assert unreached_pct(site, [way({"us": 40, "eu": 60})], {"gateway-eu"}) == 40
    assert unreached_pct(site, [way({"us": 0, "eu": 100})], {"gateway-eu"}) == 0
    assert unreached_pct(site, [way({"us": 40, "eu": 60})], set()) == 100
    assert unreached_pct(site, [way({"us": 0, "eu": 0})], {"gateway-eu"}) == 100  # the name leads nowhere
    assert unreached_pct(site, [], set()) == 100
    assert unreached_pct(site, [], {"gateway-us-east-0"}) == 0


def test_a_gateway_that_traffic_has_left_is_missed_by_nobody() -> None:
    site = example()
    other = site.gateways[0].model_copy(update={"name": "gateway-eu", "region": "eu-west"})
    site = site.model_copy(update={"gateways": (*site.gateways, other)})
    gone = answers(site, gone=("gateway-us-east-0",))
    signals = signals_of(site, seen(site, answers=gone, ways=[way({"us": 0, "eu": 100})]), START)
    assert signals.gateways == Answering(1, 1)


def test_when_names_lead_nowhere_no_gateway_is_up() -> None:
    site = example()
    signals = signals_of(site, seen(site, ways=[way({"us": 0, "eu": 0})]), START)
    assessment = assess(signals)
    assert (assessment.severity, assessment.functions[Function.GATEWAY].state) == ("SEV-1", "unknown")


def test_incidents_and_breaches_come_from_the_ledger(site: LedgerSite) -> None:
    def entries(run_id: RunId) -> Any:
        return site.journal.read(run_id).entries

    open_one = entries(incident(site, "RB-DR-005", certainty="suspected"))
    site.clock.move(seconds=1)
    closed = entries(incident(site, "RB-DR-005", close="completed", certainty="confirmed"))
    site.clock.move(seconds=1)
    confirmed = entries(incident(site, "RB-DR-005", certainty="confirmed"))
    assert breach_of([closed]) == "none"
    assert breach_of([open_one, closed]) == "suspected"
    assert breach_of([open_one, confirmed]) == "confirmed"
    assert [one.run_id for one in open_incidents([open_one, closed])] == [open_one[0].run_id]


@pytest.mark.server
def test_a_site_of_which_nothing_answers_is_seen_in_time_as_lost(site: LedgerSite) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    nodes = tuple(node.model_copy(update={"rpc": dead}) for node in site.site.nodes)
    gateways = tuple(one.model_copy(update={"url": dead}) for one in site.site.gateways)
    providers = tuple(one.model_copy(update={"url": dead}) for one in site.site.providers)
    changes = {"nodes": nodes, "gateways": gateways, "providers": providers}
    site.__dict__["site"] = site.site.model_copy(update=changes)
    signals = look_around(site, deadline_s=1.0)
    assert signals.lost_regions == ("us-east", "eu-west", "ap-south")
    assert signals.unreached_pct == 100
    assert signals.unseen["blocks"] == "no node answers"


# --- the commands


Command = Callable[..., str]


@pytest.fixture
def command(site: LedgerSite, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `vedr bcp …`; its standard output, or the error that it ended with."""
    import contextlib  # noqa: PLC0415

    from vedr.cli import bcp  # noqa: PLC0415

    @contextlib.contextmanager
    def open_site(_: str | None = None) -> Iterator[LedgerSite]:
        yield site

    from vedr.adapters import continuity_standing  # noqa: PLC0415

    monkeypatch.setattr(bcp, "open_site", open_site)
    monkeypatch.setattr(continuity_standing, "look_around", lambda _: LOOK.now(site.clock()))

    def invoke(*words: str) -> str:
        app = typer.Typer()
        app.add_typer(bcp.app, name="bcp")
        result = CliRunner().invoke(app, ["bcp", *words])
        if isinstance(result.exception, VedrError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return invoke


def well(at: dt.datetime) -> Any:
    site = example()
    return signals_of(site, seen(site, tip=Tip(at, tip().powers, tip(4).online)), at)


def standing_still(at: dt.datetime) -> Any:
    site = example()
    return signals_of(site, seen(site), at)


LOOK = SimpleNamespace(now=well)


def test_status_is_quiet_and_ends_well_while_all_is_well(command: Command) -> None:
    document = json.loads(command("status", "--json"))
    assert (document["severity"], document["active"], document["roles_not_filled"]) == ("SEV-4", False, [])


def test_status_ends_with_an_error_while_the_chain_stands_and_remembers_since_when(
    command: Command, site: LedgerSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOOK, "now", standing_still)
    site.clock.move(minutes=4)
    with pytest.raises(VerificationFailedError, match="SEV-1"):
        command("status")
    site.clock.move(minutes=2)
    with pytest.raises(VerificationFailedError, match="the plan is active: block production halted"):
        command("status")
    monkeypatch.setattr(LOOK, "now", well)
    with pytest.raises(VerificationFailedError, match="the plan is active"):
        command("status")


def test_that_the_plan_became_active_is_told_once_and_whom_it_did_not_reach_is_said(
    site: LedgerSite, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vedr.cli import bcp  # noqa: PLC0415

    said: list[str] = []
    monkeypatch.setattr(bcp.stderr, "print", lambda text, **_: said.append(text))
    monkeypatch.setattr(LOOK, "now", standing_still)
    site.clock.move(minutes=6)
    for _ in range(2):
        with pytest.raises(VerificationFailedError, match="the plan is active"):
            command("status")
        site.clock.move(minutes=1)
    assert len(said) == 1
    assert said[0].startswith("not told: lost (slack): failed: secret file")


def test_status_that_may_not_record_leaves_no_trace(
    command: Command, site: LedgerSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOOK, "now", standing_still)
    site.clock.move(minutes=4)
    with pytest.raises(VerificationFailedError):
        command("status", "--no-record")
    assert site.journal.runs_of("continuity") == ()


def test_status_without_a_majority_of_the_regions_tells_what_is_seen_now_and_that_it_stands_alone(
    command: Command, site: LedgerSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When most of the world is unreachable the plan is asked for; then the ledger can't be read."""
    for region in ("us-east", "eu-west"):
        site.memory[region].faults.down = True
    with pytest.raises(UnavailableError, match="what was seen before is not known"):
        command("status")
    monkeypatch.setattr(LOOK, "now", standing_still)
    site.clock.move(minutes=6)
    said: list[str] = []
    from vedr.cli import bcp  # noqa: PLC0415

    monkeypatch.setattr(bcp.stdout, "print", lambda text, **_: said.append(str(text)))
    with pytest.raises(VerificationFailedError, match="criteria for activating the plan are met"):
        command("status")
    assert said[-1].startswith("All this by one look alone, which was not recorded: cannot list")
    assert any(one.startswith("Severity SEV-1") for one in said)
    site.memory["us-east"].faults.down = False
    site.memory["eu-west"].faults.down = False
    assert site.journal.runs_of("continuity") == ()


def test_messages_are_printed_ready_to_paste(command: Command, site: LedgerSite) -> None:
    run_id = incident(site)
    printed = command("messages", run_id)
    assert "[INVESTIGATING] Service disturbance" in printed
    assert "Dear validator operator," in printed
    document = json.loads(command("messages", run_id, "--audience", "public", "--json"))
    assert [one["template"] for one in document["messages"]] == ["status-investigating"]
    with pytest.raises(NotFoundError, match="no audience"):
        command("messages", run_id, "--audience", "everybody")


def test_deadlines_end_with_an_error_while_one_is_overdue_until_somebody_says_it_is_done(
    command: Command, site: LedgerSite
) -> None:
    run_id = incident(site, close="completed")
    assert "review" in command("deadlines")
    site.clock.move(days=3)
    with pytest.raises(VerificationFailedError, match="1 deadlines"):
        command("deadlines")
    command("done", run_id, "review", "--by", "zoe", "--reference", "https://wiki.example/1")
    assert "review" not in command("deadlines")
    rows = json.loads(command("deadlines", "--all", "--json"))["deadlines"]
    assert {row["deadline"]: row["state"] for row in rows} == {
        "review": "done late", "report": "due", "actions": "due",
    }  # fmt: skip


def test_a_persons_word_activates_and_a_stable_hour_deactivates(command: Command, site: LedgerSite) -> None:
    command("activate", "--reason", "key people away", "--by", "zoe")
    with pytest.raises(VedrError, match="up for an hour"):
        command("deactivate", "--reason", "back", "--by", "zoe")
    for _ in range(13):
        site.clock.move(minutes=5)
        with pytest.raises(VerificationFailedError, match="key people away"):
            command("status")
    command("deactivate", "--reason", "back", "--by", "zoe")
    assert json.loads(command("status", "--json"))["active"] is False


def test_the_audience_of_a_role_is_in_the_matrix_once() -> None:
    audiences = [line.audience for line in communication.MATRIX]
    assert len(audiences) == len(set(audiences))
    assert roles.ROLE_TITLES.keys() == set(ROLES)
