"""Places of a running lab lost in one of several ways, runbooks started on it as an operator does, and what it cost.

Guarantees: what was broken is started again when its block ends, whatever happened in it; every command is a process of
its own (`vedr run …`), whose words are kept.
Leaves out: judging, which the benchmarks do.
"""

import contextlib
import datetime as dt
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import httpx

from tasks.failover_orders import Failover, RegionFailover, ZoneFailover
from tasks.observing import ask, in_sync, tip_of
from tasks.outages import holders_of, relocate
from vedr.adapters.site import OpenSite
from vedr.chain.quorum import online_addresses
from vedr.errors import VedrError
from vedr.failover.node_failure import MAX_HEALTHY_LAG_BLOCKS
from vedr.inventory import Height, Node
from vedr.lab import faults, network, units
from vedr.lab.credentials import LabSecrets
from vedr.lab.plan import Plan, Zone
from vedr.ledger import Entry, RunId

Way = Literal["killed", "cut", "store", "hsm", "orchestrator"]
WAYS: Final[dict[Way, str]] = {
    "killed": "every process killed",
    "cut": "cut off, back in the middle",
    "store": "killed, and another region's store",
    "hsm": "killed, and the token of whoever is chosen first",
    "orchestrator": "killed, and Prefect; run from another region",
}
BACK_AFTER_S: Final = 10.0  # a place that is cut off: in the middle of moving keys
STORE_BACK_AFTER_S: Final = 30.0  # a second store that leaves no majority; a run gives the ledger a minute
RETRY_S: Final = 2.0
MAX_TRIES: Final = 4  # to come home
PERSISTENCE_S: Final = 240.0  # with a failover that stops: it is gone on with until then
CATCH_UP_LIMIT_S: Final = 300.0
RUN_LIMIT_S: Final = 900.0
COMPARED_KEYS: Final = 200
REFUSED: Final = 4
_MOST_WORDS: Final = 1 << 20
_RUN_ID: Final = re.compile(r"\b(?:inc|run)-\d{8}-\d{6}-[a-z0-9]{4}\b")


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that ended; `run_id` is "" when it opened no run."""

    exit_code: int
    run_id: str
    said: str

    @property
    def last_words(self) -> str:
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        return " ".join(lines[-3:])[:300]


class Command:
    """`vedr` with these words, under way; from a zone's own network where one is named."""

    def __init__(self, plan: Plan, words: Sequence[str], zone: Zone | None = None) -> None:
        inside = ["ip", "netns", "exec", network.namespace(plan, zone)] if zone else []
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `ended`
        self.process = subprocess.Popen(
            [*inside, str(Path(sys.executable).with_name("vedr")), *words],
            stdin=subprocess.DEVNULL, stdout=self._words, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "VEDR_SITE": plan.settings.name, "VEDR_PLAIN": "1"},
        )  # fmt: skip

    def so_far(self) -> str:
        """What it has said."""
        return os.pread(self._words.fileno(), _MOST_WORDS, 0).decode(errors="replace")

    def ended(self) -> Ended:
        """Once it has; one that takes too long is killed."""
        try:
            code = self.process.wait(RUN_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._words.seek(0)
        said = self._words.read().decode(errors="replace")
        self._words.close()
        found = _RUN_ID.search(said)
        return Ended(code, found.group() if found else "", said)


@dataclass(frozen=True, slots=True)
class Lab:
    """A running lab."""

    plan: Plan
    opened: OpenSite

    def inside(self, place: str) -> tuple[Node, ...]:
        return tuple(node for node in self.opened.site.nodes if place in (node.zone, node.region))

    def region_of(self, place: str) -> str:
        return next((zone.region for zone in self.plan.zones if zone.name == place), place)

    def elsewhere(self, place: str) -> Zone:
        """A zone of another region."""
        home = self.region_of(place)
        return next(zone for zone in reversed(self.plan.zones) if zone.region != home)

    def order(self, place: str) -> Failover:
        return RegionFailover(region=place) if place in self.plan.regions else ZoneFailover(zone=place)

    def runbook(self, place: str) -> str:
        return "RB-DR-003" if place in self.plan.regions else "RB-DR-002"

    def words(self, place: str, detected: dt.datetime) -> list[str]:
        """Of a failover."""
        kind = "region" if place in self.plan.regions else "zone"
        lost = [f"--{kind}", place, "--detected-at", detected.isoformat(), "--reason", "bench"]
        return ["run", self.runbook(place), *lost]


# --- losing


@contextlib.contextmanager
def lost(lab: Lab, place: str, way: Way) -> Iterator[dt.datetime]:
    """The place is lost in here, since the time that is given."""
    target = faults.find(lab.plan, place)
    with contextlib.ExitStack() as back:
        back.callback(faults.start, lab.plan, target)
        if way == "cut":
            faults.cut(lab.plan, target)
            heal = threading.Timer(BACK_AFTER_S, faults.heal, (lab.plan, target))
            heal.start()
            back.callback(heal.join)
        else:
            faults.kill(lab.plan, target)
        detected = dt.datetime.now(dt.UTC)
        if way == "store":
            _lose_a_store(lab, place, back)
        elif way == "hsm":
            _lose_tokens(lab, place, back)
        elif way == "orchestrator":
            _take_down(lab, units.SERVER_UNIT, back)
        yield detected


def _take_down(lab: Lab, unit: str, back: contextlib.ExitStack) -> faults.Target:
    """Killed, and stopped so that its supervisor does not start it again."""
    target = faults.find(lab.plan, unit)
    back.callback(faults.start, lab.plan, target)
    faults.kill(lab.plan, target)
    faults.stop(lab.plan, target)
    return target


def _lose_a_store(lab: Lab, place: str, back: contextlib.ExitStack) -> None:
    """Another region's; where that leaves no majority it comes back while the run waits for one."""
    home = lab.region_of(place)
    other = next(region for region in reversed(lab.plan.regions) if region != home)
    store = _take_down(lab, lab.plan.stores[other].name, back)
    own = lab.plan.stores[home].zone
    if place in (own.name, own.region):
        again = threading.Timer(STORE_BACK_AFTER_S, faults.start, (lab.plan, store))
        again.start()
        back.callback(again.join)


def _lose_tokens(lab: Lab, place: str, back: contextlib.ExitStack) -> None:
    """No signer that starts finds the tokens of the regions that keys would move to; those that sign go on."""
    regions: set[str] = set()
    deadline = time.monotonic() + CATCH_UP_LIMIT_S
    while True:
        try:
            regions = {move.region for move in relocate(lab.opened, lab.order(place)).moves}
            break
        except VedrError:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)
    secrets = LabSecrets(lab.plan.folder)
    for region in regions:
        config = secrets.hsm_config(region)
        away = config.with_name(f"{config.name}.away")
        config.rename(away)
        back.callback(away.rename, config)


# --- failing over and coming home


def fail_over(lab: Lab, place: str, detected: dt.datetime, *, zone: Zone | None = None) -> tuple[Ended, int]:
    """How it ended and in how many tries: one that was interrupted is gone on with, as an operator would."""
    words, run_id, tries = lab.words(place, detected), "", 1
    deadline = time.monotonic() + PERSISTENCE_S
    while True:
        done = Command(lab.plan, words, zone).ended()
        run_id = done.run_id or run_id
        if done.exit_code in (0, REFUSED) or time.monotonic() > deadline:
            return Ended(done.exit_code, run_id, done.said), tries
        if run_id:
            words = ["run", lab.runbook(place), "--incident", run_id]
        tries += 1
        time.sleep(RETRY_S)


def bring_home(lab: Lab, place: str) -> str:
    """Why it is not home; empty when it is."""
    if problem := await_level(lab):
        return problem
    words = ["run", "failback", "--place", place]
    for _ in range(MAX_TRIES):
        done = Command(lab.plan, words).ended()
        if not done.exit_code:
            strangers = [f"{one} is held by {name}" for one, name in away_from_home(lab).items()]
            return "; ".join(strangers)
        if done.run_id:
            words = ["run", "failback", "--incident", done.run_id]
        time.sleep(RETRY_S)
    return f"failback: {done.last_words}"


def away_from_home(lab: Lab) -> dict[str, str]:
    """The holder of each key that is not used at home."""
    site = lab.opened.site
    return {name: holder for name, holder in holders_of(lab.opened).items() if holder != site.signers_of(name)[0].name}


def await_level(lab: Lab) -> str:
    """Until every full node is level with the others; which ones are not."""
    deadline = time.monotonic() + CATCH_UP_LIMIT_S
    wanted = {node.name for node in lab.opened.site.nodes if not node.is_validator}
    while True:
        seen = in_sync(ask(lab.opened, lab.opened.site.nodes))
        tip = max((one.status.latest_height for one in seen), default=0)
        level = {one.node.name for one in seen if tip - one.status.latest_height <= MAX_HEALTHY_LAG_BLOCKS}
        if not (behind := wanted - level):
            return ""
        if time.monotonic() > deadline:
            return f"{', '.join(sorted(behind))} do not catch up"
        time.sleep(1)


# --- what it cost


@dataclass(frozen=True, slots=True)
class Cost:
    """`standstill_s`: the longest time between two blocks.  `missed`: the most blocks that one of the keys missed."""

    standstill_s: float
    missed: int
    evidence: int


def tip(lab: Lab) -> Height:
    return tip_of(ask(lab.opened, lab.opened.site.nodes)) or Height(0)


def look_back(lab: Lab, place: str, first: Height) -> Cost:
    """Over every block since then."""
    keys = {bytes.fromhex(node.address): 0 for node in lab.inside(place) if lab.opened.site.signers_of(node.name)}
    seen = in_sync(ask(lab.opened, lab.opened.site.nodes))
    witness = max(seen, key=lambda one: one.status.latest_height)
    times, evidence = [], 0
    for height in map(Height, range(first, witness.status.latest_height)):
        commit = witness.rpc.commit(height)
        times.append(commit.header.time_ns)
        evidence += len(witness.rpc.block(height).evidence)
        took_part = online_addresses(commit.commit)
        for address in keys:
            keys[address] += address not in took_part
    longest_ns = max((later - before for before, later in itertools.pairwise(times)), default=0)
    return Cost(longest_ns / 1e9, max(keys.values(), default=0), evidence)


def acknowledged(lab: Lab) -> list[str]:
    """Keys of the newest transactions that users were told are in a block."""
    lines = (lab.plan.folder / "load" / "acked.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["key"] for line in lines[-COMPARED_KEYS:] if line.endswith("}")]


def missing(lab: Lab, place: str, keys: Sequence[str]) -> int:
    """How many of them a node of another region does not have."""
    region = lab.elsewhere(place).region
    node = next(one.node for one in in_sync(ask(lab.opened, lab.opened.site.nodes)) if one.node.region == region)
    with httpx.Client(base_url=node.rpc, timeout=5, trust_env=False) as client:
        asked = ({"path": '"/key"', "data": f"0x{key.encode().hex()}"} for key in keys)
        answers = [client.get("/abci_query", params=params).json()["result"]["response"]["code"] for params in asked]
    return sum(code != 0 for code in answers)


def entries_of(lab: Lab, run_id: str) -> tuple[Entry, ...]:
    """A run's ledger."""
    return lab.opened.journal.read(RunId(run_id)).entries
