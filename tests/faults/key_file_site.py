"""A key_file_world that the flows act on in this process, the orders that move its key, and people who answer."""

import contextlib
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import key_file_world
import killed_run
import pytest

from flows import failback, failovers
from tasks import (
    aftercare,
    binding,
    cordoning,
    failover_orders,
    key_files,
    outages,
    relocating,
    returning,
    scaling,
    serving,
)
from tasks.failover_orders import Failback, ZoneFailover
from vedr.adapters.site import OpenSite, utc_now
from vedr.runbook.approval import Answer, Answers, asked
from vedr.runbook.run import Outcome


class Site:
    """A world that the flows act on in this process."""

    def __init__(self, folder: Path, paper: Any) -> None:
        folder.mkdir()
        self.world = key_file_world.KeyWorld(folder, paper)
        self.world.make()
        self.journal = killed_run.open_journal(folder)
        self.stores = {region: killed_run.MortalStore(folder / "stores" / region) for region in killed_run.REGIONS}
        self.world.back_up(self.stores, self.journal)
        self.cloud: Any = None
        self.firewall: Any = None
        self.home, self.standby = map(self.world.site.node, (key_file_world.VALIDATOR, key_file_world.STANDBY))

    @contextlib.contextmanager
    def open(self, _: object = None) -> Iterator[OpenSite]:
        opened = self.world.opened(self.stores, self.journal)
        if self.cloud is not None:
            opened.instances = lambda _: self.cloud  # type: ignore[method-assign]
        if self.firewall is not None:
            opened.network = lambda _: self.firewall  # type: ignore[method-assign]
        yield opened

    def entries(self, runbook: str) -> tuple[Any, ...]:
        (run_id,) = self.journal.runs_of(runbook)[-1:]
        entries: tuple[Any, ...] = self.journal.read(run_id).entries
        return entries

    def stages(self, runbook: str) -> list[str]:
        return [str(e.payload["stage"]) for e in self.entries(runbook) if e.payload.get("text") == "promotion"]

    def evidence(self, stage: str) -> Any:
        """What the zone's failover recorded of that stage."""
        return next(e.payload["evidence"] for e in self.entries("RB-DR-002") if e.payload.get("stage") == stage)

    def signs_at(self) -> list[str]:
        return [node.name for node in self.world.able()]

    def check_signed_once(self) -> None:
        """Each height by one host at most, and the hosts one after the other."""
        spans = sorted(self.world.signed())
        for (_, last, _), (first, _, _) in itertools.pairwise(spans):
            assert first > last

    def silent_blocks(self) -> int:
        """The longest stretch of blocks that the validator did not sign."""
        spans = sorted(self.world.signed())
        return max(first - last - 1 for (_, last, _), (first, _, _) in itertools.pairwise(spans))

    def questions(self, runbook: str) -> int:
        """How often people were asked."""
        return sum(e.kind == "waiting" for e in self.entries(runbook))


def put_in_place(site: Site, patch: pytest.MonkeyPatch) -> None:
    """What the steps open."""
    patch.setenv("VEDR_PLAIN", "1")
    for module in (
        aftercare,
        binding,
        cordoning,
        outages,
        relocating,
        returning,
        scaling,
        serving,
        failback,
        key_files,
    ):
        patch.setattr(module, "open_site", site.open)
    for module in (outages, relocating, returning, serving):
        patch.setattr(module, "answers_http", site.world.answers_http)
    patch.setattr(failover_orders, "load_site", lambda _: site.world.site)
    patch.setattr(key_files, "STILL_S", 0.3)


def machine_of(ec2: Any) -> str:
    """A machine in the cloud for the validator, running."""
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    machine: str = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    return machine


def fenced_by(paper: Any, way: str, machine: str) -> dict[str, Any]:
    """The settings that let the validator be fenced this way too, at that machine, when its host does not answer."""
    (key_file,) = paper.key_files
    ways = {key_file_world.VALIDATOR: ("process-and-disk", way)}
    return {
        "key_files": (key_file.model_copy(update={"fences": ways}),),
        "fleet": paper.fleet.model_copy(update={"instances": {key_file_world.VALIDATOR: machine}}),
    }


def empty_zone(**more: Any) -> Outcome:
    return perform(failovers.ZONE, ZoneFailover(zone=key_file_world.ZONE, mode="planned", **more))


def lose_zone(**more: Any) -> Outcome:
    return perform(failovers.ZONE, ZoneFailover(zone=key_file_world.ZONE, **more))


def go_home(**more: Any) -> Outcome:
    return perform(failback.RUNBOOK, Failback(place=key_file_world.ZONE, **more))


def perform(runbook: Any, order: Any) -> Outcome:
    outcome = runbook.perform(order)
    assert isinstance(outcome, Outcome)
    assert outcome.outcome == "completed"
    return outcome


def answer_when_asked(site: Site, people: dict[str, bool], seen: list[str]) -> threading.Thread:
    """Answers what the run asks next, as `vedr approve` does, from another machine."""
    journal = killed_run.open_journal(site.world.state)
    before = {entry.seq for run_id in journal.runs_of("RB-DR-002") for entry in journal.read(run_id).entries}

    def work() -> None:
        question = None
        while question is None:
            threading.Event().wait(0.5)  # each look reads the whole ledger
            runs = journal.runs_of("RB-DR-002")
            entries = [entry for entry in journal.read(runs[-1]).entries if entry.seq not in before] if runs else []
            question = asked(entries)
        seen.extend(question.plan.warnings)
        for person, agrees in people.items():
            Answers(journal).give(
                Answer(question.run_id, question.plan.digest, person, agrees, "seen", utc_now(), "cli")
            )
        journal.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
