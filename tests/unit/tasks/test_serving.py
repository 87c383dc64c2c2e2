"""Users sent elsewhere by a recorded plan: a killed run is gone on with, and taken back, as if it had not been killed.

Ledger, leases, planning and steering are the real ones; what serves users is in memory.
"""

import contextlib
import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tasks import returning, serving
from tasks.failover_orders import Failback, RegionFailover
from tasks.returning import plan_return, return_traffic
from tasks.serving import MAX_PLANS, Shifted, as_planned, plan_traffic, shift_traffic, verify_service
from vedr.adapters.memory_store import MemoryStore
from vedr.adapters.traffic_memory import MemoryTraffic, calm
from vedr.chain.quorum import Domain
from vedr.errors import ConflictError, RefusedError, UnavailableError, VedrError, VerificationFailedError
from vedr.failover.relocation import Relocation
from vedr.failover.traffic import Answer, Guard
from vedr.failover.traffic_steering import Proof, Steering
from vedr.inventory import Gateway, Site, parse_site
from vedr.ledger import RunId
from vedr.policies.traffic import DynamicDns, Traffic
from vedr.runbook.abandoning import abandon
from vedr.runbook.journal import Journal
from vedr.runbook.opening import opened_run
from vedr.runbook.run import Run
from vedr.runbook.steps import Runbook
from vedr.signature import Signer

EXAMPLE: Final = Path(__file__).parents[3] / "deployments" / "sites" / "production.example.toml"
PLACES: Final = {"us-0": "us-east-1a", "us-1": "us-east-1b", "eu-0": "eu-west-1a", "ap-0": "ap-south-1a"}
NOW: Final = dt.datetime(2026, 11, 2, 12, 0, 0, tzinfo=dt.UTC)
FOUND: Final = Relocation(
    "region us-east", "region eu-west", planned=False, moves=(), left=(), handovers=(), gateways=(),
    total_power=0, online_before=0, online_after=0, tip_height=0, tip_hash="",
)  # fmt: skip
REGIONS: Final = ("us-east", "eu-west", "ap-south")


class KilledError(BaseException):
    """The process ends here, as far as anybody who looks afterwards can tell."""


class Dying(MemoryTraffic):
    """Serves what was written; the process may be killed right after a write, before its answer was seen."""

    dies = False

    def shift(self, change: Any) -> bool:
        done = super().shift(change)
        if done and self.dies:
            raise KilledError
        return done


def site_of() -> Site:
    example = parse_site(EXAMPLE.read_text(encoding="utf-8"), source="example.toml")
    gateways = tuple(Gateway(name=n, region=z[:-3], zone=z, unit="g", url=f"http://{n}:80") for n, z in PLACES.items())
    return example.model_copy(update={"gateways": gateways, "traffic": Traffic(backends=(DynamicDns(kind="rfc2136"),))})


class World:
    """A site, its ledger, and what users are sent to."""

    def __init__(self) -> None:
        self.site = site_of()
        self.dns, self.mesh = Dying(self.site, name="dns"), Dying(self.site, name="mesh")
        self.ill: set[str] = set()
        signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
        self.journal = Journal(
            {region: MemoryStore(region) for region in REGIONS},
            site="made", signer=signer, trusted=[signer.public_hex], clock=lambda: dt.datetime.now(dt.UTC),
        )  # fmt: skip
        self.steering = Steering(self.site, (self.dns, self.mesh), self, lambda: NOW)

    def probe(self, gateways: Sequence[Gateway]) -> tuple[Proof, ...]:
        return tuple(Proof(one.name, NOW, "status 502" if one.name in self.ill else "") for one in gateways)

    @contextlib.contextmanager
    def open(self, _: object) -> Iterator[Any]:
        yield SimpleNamespace(site=self.site, traffic=self.steering, journal=self.journal)

    @contextlib.contextmanager
    def run(self, run_id: str, *, resume: bool = False) -> Iterator[Run[RegionFailover]]:
        order = RegionFailover(region="us-east", incident=run_id if resume else "")
        with opened_run(RUNBOOK, order, self.journal, run_id=RunId(run_id), wait_quiet=lambda *_, **__: None) as run:
            yield run

    def zone(self) -> list[Any]:
        """All that is served, with the guard record, as it would be in a zone file."""
        return [(one.served.names, one.served.guard) for one in (self.dns, self.mesh)]


def leave(run: Run[RegionFailover]) -> Shifted:
    """As the flow does."""

    def plan_and_shift(number: int) -> Shifted:
        planned, shifted = plan_traffic, shift_traffic
        if number > 1:
            planned, shifted = planned.named(str(number)), shifted.named(str(number))
        return cast("Shifted", run.step(shifted, run.step(planned, FOUND)))

    return as_planned(plan_and_shift)


RUNBOOK: Final = Runbook("RB-DR-003", "users only", RegionFailover, [plan_traffic, shift_traffic])
RUN: Final = "inc-20260214-120000-aaaa"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World()
    monkeypatch.setattr(serving, "open_site", world.open)
    yield world
    world.journal.close()


def killed_within(world: World, backend: Dying) -> None:
    backend.dies = True
    with pytest.raises(KilledError), world.run(RUN) as run:
        leave(run)
    backend.dies = False


@pytest.mark.parametrize("backend", ["dns", "mesh"])
def test_a_run_that_is_killed_within_the_shift_ends_as_one_that_was_not(made: World, backend: str) -> None:
    killed_within(made, getattr(made, backend))
    with made.run(RUN, resume=True) as run:
        leave(run)
    uninterrupted = World()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "open_site", uninterrupted.open)
        with uninterrupted.run(RUN) as run:
            leave(run)
    assert made.zone() == uninterrupted.zone()


@pytest.mark.parametrize("backend", ["dns", "mesh"])
def test_users_come_back_when_a_run_that_was_killed_within_the_shift_and_resumed_is_abandoned(
    made: World, backend: str
) -> None:
    killed_within(made, getattr(made, backend))
    with contextlib.suppress(KilledError), made.run(RUN, resume=True) as run:
        leave(run)
        raise KilledError
    done = abandon(RUNBOOK, made.journal, RunId(RUN), "given up", wait_quiet=lambda *_, **__: None)
    assert [one.step for one in done.taken_back] == ["shift_traffic"]
    assert [names for names, _ in made.zone()] == [calm(made.site)] * 2


@pytest.mark.parametrize("backend", ["dns", "mesh"])
def test_users_come_back_when_a_run_that_was_killed_within_the_shift_is_abandoned_as_it_is(
    made: World, backend: str
) -> None:
    killed_within(made, getattr(made, backend))
    done = abandon(RUNBOOK, made.journal, RunId(RUN), "given up", wait_quiet=lambda *_, **__: None)
    assert [one.step for one in done.taken_back] == ["shift_traffic"]
    assert [names for names, _ in made.zone()] == [calm(made.site)] * 2


def changed_by_somebody(traffic: MemoryTraffic) -> None:
    api = traffic.served.names["api"]
    traffic.served.names["api"] = replace(api, ttl_s=7)
    traffic.served.guard = Guard(0, "a person's")


def test_what_somebody_else_changed_meanwhile_is_planned_anew_and_taken_back_to_what_they_made(made: World) -> None:
    killed_within(made, made.dns)
    changed_by_somebody(made.mesh)
    theirs = dict(made.mesh.served.names)
    with contextlib.suppress(KilledError), made.run(RUN, resume=True) as run:
        shifted = leave(run)
        assert not shifted.stale
        assert all(not served.names["api"].weights["us-0"] for served in (made.dns.served, made.mesh.served))
        raise KilledError
    done = abandon(RUNBOOK, made.journal, RunId(RUN), "given up", wait_quiet=lambda *_, **__: None)
    assert [one.step for one in done.taken_back] == ["shift_traffic:2", "shift_traffic"]
    assert (made.dns.served.names, made.mesh.served.names) == (calm(made.site), theirs)


def test_a_target_that_died_before_users_were_sent_there_is_passed_over_for_whoever_serves(made: World) -> None:
    with contextlib.suppress(KilledError), made.run(RUN) as run:
        assert run.step(plan_traffic, FOUND)
        raise KilledError
    made.ill = {"eu-0"}
    with made.run(RUN, resume=True) as run:
        assert set(leave(run).backends) == {"dns", "mesh"}
    assert made.dns.served.names["api"].serving == {"ap-0"}


def test_users_stay_where_they_are_when_nobody_could_serve_them(made: World) -> None:
    made.ill = {"eu-0", "ap-0"}
    with pytest.raises(RefusedError, match="would be served by nobody"), made.run(RUN) as run:
        leave(run)
    assert [names for names, _ in made.zone()] == [calm(made.site)] * 2


def test_who_is_overtaken_over_and_over_says_so_and_ends(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def conflict(_: object) -> bool:
        raise ConflictError("dns is not what the plan was made from")

    monkeypatch.setattr(made.dns, "shift", conflict)
    with pytest.raises(ConflictError, match=f"{MAX_PLANS} plans became stale.*dns is not what"), made.run(RUN) as run:
        leave(run)


# --- the way home


class Returning(World):
    """Users were sent away from us-east, which is healthy again; this answers for its gateways."""

    def __init__(self) -> None:
        super().__init__()
        self.silent: set[str] = set()
        self.halts: list[VedrError] = []
        plan = self.steering.plan_away([Domain("region", "us-east")], self.steering.prove(), epoch=0)
        self.steering.shift(plan)
        self.away = self.names()

    @contextlib.contextmanager
    def open(self, _: object) -> Iterator[Any]:
        stores = {region: MemoryStore(region) for region in REGIONS}
        fleet = SimpleNamespace(status=lambda *_: None)
        yield SimpleNamespace(site=self.site, traffic=self.steering, journal=self.journal, fleet=fleet, stores=stores)

    def names(self) -> list[Any]:
        """What is served at this moment, by backend."""
        return [dict(names) for names, _ in self.zone()]

    def blocks(self, *_: object) -> None:
        if self.halts:
            raise self.halts.pop(0)

    def answers(self, url: str, **_: object) -> bool:
        return not any(f"/{name}:" in url for name in self.silent)

    def bring_home(self, *, resume: bool = False) -> list[Shifted]:
        """As the flow does."""
        order = Failback(place="us-east", incident=RUN if resume else "")
        with opened_run(HOME, order, self.journal, run_id=RunId(RUN), wait_quiet=lambda *_, **__: None) as run:

            def stage(stage_pct: int, number: int) -> Shifted:
                name = f"{stage_pct}" if number == 1 else f"{stage_pct}-{number}"
                plan = run.step(plan_return.named(name), stage_pct)
                return cast("Shifted", run.step(return_traffic.named(name), FOUND, plan))

            return [as_planned(partial(stage, pct)) for pct in self.site.traffic.stages_pct]


HOME: Final = Runbook("failback", "users only", Failback, [plan_return, return_traffic], target_s=7200)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Returning]:
    world = Returning()
    for module in (returning, serving):
        monkeypatch.setattr(module, "open_site", world.open)
    monkeypatch.setattr(returning, "ask", lambda *_: ())
    monkeypatch.setattr(returning, "await_blocks", world.blocks)
    monkeypatch.setattr(returning, "answers_http", world.answers)
    quick = replace(return_traffic, retry=replace(return_traffic.retry, delay_s=0.0))
    monkeypatch.setitem(globals(), "return_traffic", quick)
    yield world
    world.journal.close()


def test_users_leave_a_home_that_fails_while_its_stage_is_watched(home: Returning) -> None:
    home.silent = {"us-1"}
    with pytest.raises(RefusedError, match="us-1 does not serve at this stage"):
        home.bring_home()
    assert home.names() == home.away


def test_users_leave_a_home_while_which_the_chain_stands(home: Returning) -> None:
    home.halts = [VerificationFailedError("the chain makes no blocks")]
    with pytest.raises(VerificationFailedError, match=r"^the chain makes no blocks$"):
        home.bring_home()
    assert home.names() == home.away


def test_a_resumed_way_home_plans_the_stage_anew_and_ends_with_users_at_home(home: Returning) -> None:
    home.silent = {"us-1"}
    with pytest.raises(RefusedError):
        home.bring_home()
    home.silent = set()
    shifted = home.bring_home(resume=True)
    assert not any(one.stale for one in shifted)
    assert home.names() == [calm(home.site)] * 2


def test_a_stage_that_is_tried_again_by_itself_is_taken_back_once_and_planned_anew(
    home: Returning, monkeypatch: pytest.MonkeyPatch
) -> None:
    undone: list[str] = []
    undo = Steering.plan_undo

    def counted(steering: Steering, plan: Any, *, epoch: int) -> Any:
        undone.append(plan.purpose)
        return undo(steering, plan, epoch=epoch)

    monkeypatch.setattr(Steering, "plan_undo", counted)
    home.halts = [UnavailableError("no node answers")]
    home.bring_home()
    assert undone == ["back to region us-east, 10 %"]
    assert home.names() == [calm(home.site)] * 2


def test_a_later_stage_that_fails_is_taken_back_to_the_one_before(
    home: Returning, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def blocks(*_: object) -> None:
        seen.append(home.names())
        if len(seen) == 2:
            raise VerificationFailedError("the chain makes no blocks")

    monkeypatch.setattr(returning, "await_blocks", blocks)
    with pytest.raises(VerificationFailedError):
        home.bring_home()
    assert seen[0] != seen[1]
    assert home.names() == seen[0]


def test_both_are_named_when_a_stage_that_failed_cannot_be_taken_back_and_a_resume_takes_it_back(
    home: Returning, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.silent = {"us-1"}
    with monkeypatch.context() as patch:

        def refuse(*_: object, **__: object) -> None:
            raise UnavailableError("mesh is silent")

        patch.setattr(Steering, "plan_undo", refuse)
        both = "us-1 does not serve at this stage; and users may still be sent there.*mesh is silent"
        with pytest.raises(VerificationFailedError, match=both):
            home.bring_home()
    assert home.names() != home.away
    with pytest.raises(RefusedError, match="us-1 does not serve"):
        home.bring_home(resume=True)
    assert home.names() == home.away


def test_what_somebody_else_serves_since_is_not_taken_back_with_the_stage(
    home: Returning, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocks(*_: object) -> None:
        changed_by_somebody(home.mesh)
        raise VerificationFailedError("the chain makes no blocks")

    monkeypatch.setattr(returning, "await_blocks", blocks)
    with pytest.raises(VerificationFailedError):
        home.bring_home()
    assert home.dns.served.names == home.away[0]
    assert home.mesh.served.guard == Guard(0, "a person's")


# --- what is seen afterwards


def serves(world: World, monkeypatch: pytest.MonkeyPatch, *silent: str) -> tuple[str, ...]:
    """What verifying says of the names, when these name servers of one backend are silent."""

    def answers(names: Sequence[str]) -> tuple[Answer, ...]:
        return tuple(
            Answer(server, name, problem="it does not answer", silent=True)
            if server in silent
            else Answer(server, name, ("eu-0",))
            for server in ("ns-us", "ns-eu")
            for name in names
        )

    monkeypatch.setattr(world.dns, "answers", answers)
    monkeypatch.setattr(serving, "ask", lambda *_: ())
    monkeypatch.setattr(serving, "await_blocks", lambda *_: 7)
    monkeypatch.setattr(serving, "compare", lambda *_: ("AB", 2))
    monkeypatch.setattr(serving, "check_kept", lambda *_: None)

    @contextlib.contextmanager
    def open_site(_: object) -> Iterator[Any]:
        with world.open(None) as opened:
            opened.light_client = lambda **_: None
            yield opened

    monkeypatch.setattr(serving, "open_site", open_site)
    context: Any = SimpleNamespace(order=RegionFailover(region="us-east"), say=lambda _: None)
    return verify_service.fn(context, FOUND).api


def test_a_name_server_that_is_lost_is_told_as_not_seen_where_another_answers(
    made: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = serves(made, monkeypatch, "ns-us")
    for name in made.site.traffic.global_names:
        assert f"{name} at ns-us: not seen, it does not answer" in seen
        assert f"{name} at ns-eu: eu-0" in seen


def test_a_name_that_no_server_answers_for_fails_the_verification(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VerificationFailedError, match="api at ns-us: it does not answer"):
        serves(made, monkeypatch, "ns-us", "ns-eu")
