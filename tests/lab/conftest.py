"""One whole lab for the session, with a name, network and ports that follow from the process id.

`t<n>` on `10.<100+n>`, Prefect at port 14000+100n, n = pid modulo 100: two sessions on one machine rarely meet, and if
they do, the second is told that the network is in use.  As root the zones are network namespaces, otherwise relays.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import serving
from vedr.inventory import Site
from vedr.lab import lifecycle, site_file
from vedr.lab.plan import Plan
from vedr.lab.settings import load_plan, new_settings

NUMBER = os.getpid() % 100
FAILOVER_TTL_S = 2  # a failback waits for it
WATCH_BLOCKS = 5  # by the runbooks themselves; the tests look for evidence in every block of theirs


@pytest.fixture(scope="session")
def lab_folder() -> Iterator[Path]:
    """Short, because unix sockets are in it."""
    folder = Path(tempfile.mkdtemp(prefix="vedr-lab-"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VEDR_LABS", str(folder))
        yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def lab_plan(lab_folder: Path) -> Iterator[Plan]:
    """A lab on paper that is ended with the session, whatever was started; an error if anything is left."""
    assert lab_folder.exists()
    settings = new_settings(
        f"t{NUMBER}", network=f"10.{100 + NUMBER}", port_base=14000 + 100 * NUMBER, mode=None, programs=None
    )
    plan = load_plan(settings)
    with pytest.MonkeyPatch.context() as shorter:
        shorter.setattr(site_file, "FAILOVER_TTL_S", FAILOVER_TTL_S)
        shorter.setattr(serving, "WATCH_BLOCKS", WATCH_BLOCKS)
        yield plan
    lifecycle.down(plan, lambda *_: None, purge=True)


@pytest.fixture(scope="session")
def lab(lab_plan: Plan) -> Site:
    """The running lab's site."""
    return lifecycle.up(lab_plan, lambda *_: None, deploy=False).site
