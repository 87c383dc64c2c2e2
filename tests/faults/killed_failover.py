"""RB-DR-002, RB-DR-003 and the failback, performed on a site in files by processes that kill themselves.

As killed_run: one JSON command a line, each done by a fork; `do` is `zone`, `region` or `home`; `key` and `key-home`
for a zone whose validator signs from a key file.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

os.environ["VEDR_PLAIN"] = "1"  # before flows are imported

import key_file_world
import killed_run
from failover_world import LOST, World, paper_site

from flows import failback, failovers
from tasks import binding, cordoning, failover_orders, key_files, outages, relocating, returning, scaling, serving
from tasks.failover_orders import Failback, RegionFailover, ZoneFailover
from vedr.adapters.site import OpenSite
from vedr.errors import VedrError
from vedr.runbook.run import Outcome
from vedr.signature import Json

PAPER: Final = paper_site()
KEY_PAPER: Final = key_file_world.paper_site()
ZONE: Final = f"{LOST}-1b"


def perform(command: dict[str, Any]) -> dict[str, object]:
    """In a fork: do it, and say what it came to."""
    folder, point = Path(command["state"]), killed_run.FATE.point
    is_key = command["do"].startswith("key")
    world = key_file_world.KeyWorld(folder, KEY_PAPER, point) if is_key else World(folder, PAPER, point)
    with contextlib.closing(killed_run.open_journal(world.state)) as journal:
        stores = {region: killed_run.MortalStore(world.state / "stores" / region) for region in killed_run.REGIONS}
        opened = world.opened(stores, journal)
        put_in_place(world, opened)
        incident: dict[str, Json] = {"incident": command["run"] if command["resume"] else ""}
        try:
            outcome = _of(command["do"], incident)
        except VedrError as error:
            return {"error": f"{type(error).__name__}: {error}"}
    return {"outcome": outcome.outcome, "run": outcome.run_id}


def _of(what: str, incident: dict[str, Any]) -> Outcome:
    done: Any
    if what == "home":
        done = failback.RUNBOOK.perform(Failback(place=LOST, **incident))
    elif what == "key-home":
        done = failback.RUNBOOK.perform(Failback(place=key_file_world.ZONE, **incident))
    elif what == "key":
        done = failovers.ZONE.perform(ZoneFailover(zone=key_file_world.ZONE, mode="planned", **incident))
    elif what == "zone":
        done = failovers.ZONE.perform(ZoneFailover(zone=ZONE, mode="planned", **incident))
    else:
        done = failovers.REGION.perform(RegionFailover(region=LOST, **incident))
    assert isinstance(done, Outcome)
    return done


def put_in_place(world: World, opened: OpenSite) -> None:
    """What the steps open, in this fork."""

    @contextlib.contextmanager
    def open_site(_: object) -> Iterator[OpenSite]:
        yield opened

    for module in (binding, cordoning, outages, relocating, returning, scaling, serving, failback, key_files):
        vars(module)["open_site"] = open_site
    for module in (outages, relocating, returning, serving):
        vars(module)["answers_http"] = world.answers_http
    vars(failover_orders)["load_site"] = lambda _: world.site


if __name__ == "__main__":
    sys.modules["killed_run"] = killed_run
    key_file_world.quick_derivation()
    vars(killed_run)["perform"] = perform
    killed_run.serve()
