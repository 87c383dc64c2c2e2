"""A provider's state through one loss after another: the newest that is known goes on, and one daemon has it at a time.

Ledger, engine, snapshots, captures, the plan and the steps are the real ones; a daemon is an HTTP server over its own
folder, and the chain's tip is far ahead of all.
"""

import contextlib
import datetime as dt
import itertools
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from loopback_ports import free_ports

from tasks import relocating, returning
from tasks.provider_states import states_away
from tasks.providers import take_state
from tasks.relocating import HandedOver, hand_over
from tasks.returning import give_back
from vedr.adapters.memory_store import MemoryStore
from vedr.adapters.site import OpenSite
from vedr.backup.provider_state import read_checkpoints
from vedr.backup.repository import Repository
from vedr.backup.sealing import Codec
from vedr.chain.quorum import Domain
from vedr.errors import DeadlineError, NotFoundError, UnavailableError
from vedr.failover.relocation import Handover, Relocation, Situation, choose_target, plan, within
from vedr.inventory import Provider, Site, parse_site
from vedr.lab.credentials import LabSecrets
from vedr.lab.plan import Plan, Settings
from vedr.lab.site_file import _document
from vedr.lab.template import load_template
from vedr.ports import Pause
from vedr.runbook.journal import Journal
from vedr.runbook.opening import opened_run
from vedr.runbook.order import Order
from vedr.runbook.steps import Runbook
from vedr.signature import Signer

pytestmark = pytest.mark.server

TEMPLATE = Path(__file__).parents[3] / "deployments" / "sites" / "lab.toml"
REGIONS = ("us-east", "eu-west", "ap-south")
US, EU, AP = (Domain("region", name) for name in REGIONS)
HOME, FIRST, SECOND = "provider-us-east-0", "provider-eu-west-1", "provider-ap-south-1"
LOST: Runbook[Order] = Runbook("RB-DR-003", "region failover", Order, [hand_over], target_s=1800)
RETURN: Runbook[Order] = Runbook("failback", "failback", Order, [give_back], target_s=7200)
BEGAN = dt.datetime(2026, 11, 2, 3, 0, 0, tzinfo=dt.UTC)


class Daemon(ThreadingHTTPServer):
    """Answers while it runs."""

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), self.Healthy)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def end(self) -> None:
        self.shutdown()
        self.server_close()


class World:
    """The lab's providers, on one machine; `lost` regions' hosts are silent, whatever runs on them."""

    def __init__(self, folder: Path, paper: Site) -> None:
        ports = free_ports(len(paper.providers))
        providers = tuple(
            one.model_copy(update={"home": folder / one.name, "url": f"http://127.0.0.1:{port}"})
            for one, port in zip(paper.providers, ports, strict=True)
        )
        self.site = paper.model_copy(update={"providers": providers})
        self.daemons: dict[str, Daemon] = {}
        self.lost: set[str] = set()
        self.stubborn: set[str] = set()
        seconds = itertools.count()
        signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
        stores = {region: MemoryStore(region) for region in REGIONS}
        trusted = (signer.public_hex,)

        def clock() -> dt.datetime:
            return BEGAN + dt.timedelta(seconds=next(seconds))

        self.journal = Journal(stores, site="made", signer=signer, trusted=trusted, clock=clock)
        self.opened = OpenSite(self.site)
        repository = Repository(
            stores=stores, signer=signer, trusted=trusted, codec=Codec(None), retention=paper.retention, clock=clock
        )
        vars(self.opened).update(stores=stores, journal=self.journal, repository=repository, fleet=self)
        header = SimpleNamespace(height=10**9)
        self.opened.light_client = lambda **_: SimpleNamespace(  # type: ignore[method-assign,assignment]
            verified_tip=lambda: header, verified_header=lambda _: header
        )
        for provider in providers:
            (provider.home / "data").mkdir(parents=True)
            if not provider.reserve:
                self.handle(provider.name, 1000, subscriber=provider.name)
                self.start(provider.unit, provider.zone)

    def close(self) -> None:
        for daemon in self.daemons.values():
            daemon.end()
        self.journal.close()

    # --- daemons

    def provider(self, name: str) -> Provider:
        return next(one for one in self.site.providers if one.name == name)

    def handle(self, name: str, sequence: int, *, subscriber: str = HOME) -> None:
        """The daemon came so far."""
        document = {"subscriber_id": subscriber, "last_sequence": sequence, "updated_at": BEGAN.isoformat()}
        (self.provider(name).home / "data" / "market_checkpoint.json").write_text(json.dumps(document))

    def reached(self, name: str) -> tuple[str, int]:
        (point,) = read_checkpoints(self.provider(name).home / "data")
        return point.subscriber_id, point.last_sequence

    def back_up(self, name: str) -> str:
        return take_state(self.opened, self.provider(name)).snapshot

    def with_state_of(self, owner: str) -> list[str]:
        """Who runs with it."""
        return [
            one.name for one in self.site.providers if one.unit in self.daemons and self.reached(one.name)[0] == owner
        ]

    # --- hosts

    def status(self, unit: str, zone: str) -> Any:
        self._check(zone)
        return SimpleNamespace(state="running" if unit in self.daemons else "stopped", pid=os.getpid())

    def start(self, unit: str, zone: str) -> Any:
        self._check(zone)
        if unit not in self.daemons:
            provider = next(one for one in self.site.providers if one.unit == unit)
            self.daemons[unit] = Daemon(int(provider.url.rsplit(":", 1)[1]))
        return self.status(unit, zone)

    def stop(self, unit: str, zone: str) -> Any:
        self._check(zone)
        if unit in self.stubborn:
            raise DeadlineError(f"{unit} does not end", remedy="Kill it.")
        return self.kill(unit, zone)

    def kill(self, unit: str, zone: str) -> Any:
        self._check(zone)
        self.stubborn.discard(unit)
        if daemon := self.daemons.pop(unit, None):
            daemon.end()
        return self.status(unit, zone)

    def pause(self, unit: str, zone: str, *, limit_s: float) -> None:
        del unit, limit_s
        self._check(zone)

    def resume(self, unit: str, zone: str) -> Pause:
        del unit
        self._check(zone)
        return Pause(0.01, expired=False)

    def _check(self, zone: str) -> None:
        if any(zone.startswith(region) for region in self.lost):
            raise UnavailableError(f"the agent of {zone} is silent", remedy="Wait.")

    def die(self, region: str) -> None:
        """The region, with what runs there."""
        self.lost.add(region)
        for one in self.site.providers:
            if one.region == region and (daemon := self.daemons.pop(one.unit, None)):
                daemon.end()

    def cut_off(self, region: str) -> None:
        """The region works on, and nobody can ask it."""
        self.lost.add(region)

    def find_again(self, region: str) -> None:
        self.lost.discard(region)

    # --- what runs do

    def plan_for(self, domain: Domain) -> Relocation:
        serving = frozenset(
            one.name
            for one in self.site.nodes
            if one.region not in self.lost and not within(domain, one.zone, one.region)
        )
        seen = Situation(serving, frozenset(), {}, 0, {}, provider_states=states_away(self.opened))
        target = choose_target(self.site, domain, "", seen.serving)
        return plan(self.site, domain, target, seen, planned=False)

    def fail_over(self, domain: Domain) -> dict[str, HandedOver]:
        """What is handed on when the region is lost, by whose it is."""
        with opened_run(LOST, Order(), self.journal) as run:
            return {
                one.provider: run.step(hand_over.named(one.provider), one) for one in self.plan_for(domain).handovers
            }

    def bring_home(self) -> HandedOver:
        (taker,) = [taker for taker, owner in states_away(self.opened).items() if owner == HOME]
        with opened_run(RETURN, Order(), self.journal) as run:
            return run.step(give_back.named(HOME), Handover(taker, HOME, self.provider(HOME).zone))


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The lab's, with one provider at home in us-east."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "genesis.json").write_text("{}")
    made = Plan(Settings("lab", "10.77", 4200, "namespaces", folder, folder, folder), load_template(TEMPLATE))
    LabSecrets(folder).create_missing(made)
    addresses = {node.name: f"{number:040X}" for number, node in enumerate(made.nodes) if node.role == "validator"}
    site = parse_site(tomli_w.dumps(_document(made, addresses)), source="lab.toml")
    providers = tuple(one for one in site.providers if one.name in (HOME, FIRST, SECOND))
    return site.model_copy(update={"providers": providers})


@pytest.fixture
def world(tmp_path: Path, paper: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, paper)

    @contextlib.contextmanager
    def open_site(_: object) -> Iterator[OpenSite]:
        yield made.opened

    for module in (relocating, returning):
        monkeypatch.setattr(module, "open_site", open_site)
    yield made
    made.close()


def test_a_second_loss_hands_the_newest_state_on_and_one_daemon_has_it(world: World) -> None:
    world.back_up(HOME)
    world.die("us-east")
    world.fail_over(US)
    world.handle(FIRST, 5000)
    newest = world.back_up(FIRST)
    world.die("eu-west")
    done = world.fail_over(EU)
    assert [(one.reserve, one.snapshot) for one in done.values()] == [(SECOND, newest)]
    assert world.with_state_of(HOME) == [SECOND]
    assert world.reached(SECOND) == (HOME, 5000)
    assert states_away(world.opened) == {SECOND: HOME}


def test_a_reserve_that_was_lost_before_its_first_backup_hands_on_what_it_was_given(world: World) -> None:
    given = world.back_up(HOME)
    world.die("us-east")
    world.fail_over(US)
    world.die("eu-west")
    (done,) = world.fail_over(EU).values()
    assert done.snapshot == given
    assert world.reached(SECOND) == (HOME, 1000)


def test_what_a_reserve_stored_when_it_served_another_is_never_handed_on(world: World) -> None:
    """Its backups of then are another provider's state."""
    world.handle(FIRST, 9000, subscriber="provider-of-another-time")
    world.start(world.provider(FIRST).unit, world.provider(FIRST).zone)
    world.back_up(FIRST)
    world.kill(world.provider(FIRST).unit, world.provider(FIRST).zone)
    given = world.back_up(HOME)
    world.die("us-east")
    world.fail_over(US)
    world.die("eu-west")
    (done,) = world.fail_over(EU).values()
    assert done.snapshot == given
    assert world.with_state_of(HOME) == [SECOND]


def test_a_provider_that_is_lost_right_after_it_came_home_leaves_what_it_was_given_there(world: World) -> None:
    """Its own newest backup is from before it was away."""
    world.back_up(HOME)
    world.die("us-east")
    world.fail_over(US)
    world.handle(FIRST, 5000)
    world.find_again("us-east")
    brought = world.bring_home()
    assert world.with_state_of(HOME) == [HOME]
    world.die("us-east")
    (done,) = world.fail_over(US).values()
    assert done.snapshot == brought.snapshot
    assert world.reached(done.reserve) == (HOME, 5000)


def test_who_had_the_state_first_is_stopped_when_it_answers_again(world: World) -> None:
    """Its region was only cut off, and it works on there."""
    world.back_up(HOME)
    world.cut_off("us-east")
    world.fail_over(US)
    world.find_again("us-east")
    assert world.with_state_of(HOME) == [HOME, FIRST]
    world.stubborn.add(world.provider(HOME).unit)
    world.die("eu-west")
    world.fail_over(EU)
    assert world.with_state_of(HOME) == [SECOND]


def test_a_reserve_that_is_emptied_hands_on_what_it_has_at_that_moment(world: World) -> None:
    world.back_up(HOME)
    world.die("us-east")
    world.fail_over(US)
    world.handle(FIRST, 7000)
    world.fail_over(EU)
    assert world.with_state_of(HOME) == [SECOND]
    assert world.reached(SECOND) == (HOME, 7000)


def test_the_way_home_leads_from_where_the_state_went_last(world: World) -> None:
    world.back_up(HOME)
    world.die("us-east")
    world.fail_over(US)
    world.die("eu-west")
    world.fail_over(EU)
    world.handle(SECOND, 8000)
    world.find_again("us-east")
    assert world.bring_home().provider == SECOND
    assert world.with_state_of(HOME) == [HOME]
    assert world.reached(HOME) == (HOME, 8000)
    assert states_away(world.opened) == {}


def test_a_repeated_step_hands_the_same_state_on_again(world: World) -> None:
    world.back_up(HOME)
    world.die("us-east")
    world.fail_over(US)
    world.handle(FIRST, 5000)
    newest = world.back_up(FIRST)
    world.die("eu-west")
    (handover,) = world.plan_for(EU).handovers
    for _ in range(2):
        with opened_run(LOST, Order(), world.journal) as run:
            context: Any = SimpleNamespace(order=Order(), run_id=run.run_id, say=lambda _: None)
            assert hand_over.fn(context, handover).snapshot == newest
    assert world.with_state_of(HOME) == [SECOND]


def test_a_state_that_was_never_stored_is_said_to_be_so(world: World) -> None:
    world.die("us-east")
    with pytest.raises(NotFoundError, match=f"no state of {HOME} is in any store"):
        world.fail_over(US)
