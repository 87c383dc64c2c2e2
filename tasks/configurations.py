"""Steps of the hourly configuration backup.

Guarantees: keys and secrets are never in it: files are taken by an allow-list, and one that looks like it holds a
secret stops the backup and is named.
Leaves out: what is collected and how it is stored (vedr.backup.configuration).
"""

import datetime as dt
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.orders import RegionJob
from tasks.snapshots import Kept, house_keeping
from vedr.adapters.site import OpenSite, open_site
from vedr.backup.configuration import NODE_FILES, PROVIDER_FILES, ConfigFile, ConfigHistory, collect
from vedr.backup.layout import Source
from vedr.backup.manifest import Facts
from vedr.backup.snapshot import create
from vedr.backup.tree import read_tree
from vedr.runbook.steps import Context, Retry, step

STORE_RETRY: Final = Retry(attempts=4, delay_s=5.0)

Ctx = Context[RegionJob]


@dataclass(frozen=True, slots=True)
class Stored:
    """The stored configuration of a region."""

    snapshot: str
    files: int
    regions: tuple[str, ...]
    under_replicated: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Committed:
    """Where git has it; `changed` is false when the newest commit already held exactly this."""

    branch: str
    revision: str
    changed: bool
    dropped: tuple[str, ...]


@step(title="Collect and store", budget_s=300, retry=STORE_RETRY)
def store_configuration(ctx: Ctx) -> Stored:
    """Reads the allowed files of the region's nodes and providers, refuses secrets, stores them in three regions."""
    with open_site(ctx.order.site) as opened, tempfile.TemporaryDirectory(prefix="vedr-config-") as folder:
        for file in collected(opened, ctx.order.region):
            path = Path(folder, file.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.content)
        source = Source(ctx.order.region, "config", ctx.order.region)
        software = tuple(sorted(opened.site.chain.software.items()))
        created = create(opened.repository, source, read_tree(Path(folder)), Facts(software=software))
    return Stored(
        snapshot=created.id,
        files=len(created.verified.manifest.files),
        regions=tuple(outcome.region for outcome in created.regions if outcome.checked),
        under_replicated=created.under_replicated,
    )


def collected(opened: OpenSite, region: str) -> tuple[ConfigFile, ...]:
    """The configuration of everything in the region, in the site file's order."""
    files: list[ConfigFile] = []
    for node in opened.site.nodes_in(region):
        files += collect(node.name, opened.files.home(node), NODE_FILES)
    for provider in opened.site.providers:
        if provider.region == region:
            files += collect(provider.name, provider.home, PROVIDER_FILES)
    return tuple(files)


@step(title="Commit to git", budget_s=120, retry=STORE_RETRY)
def commit_configuration(ctx: Ctx) -> Committed:
    """Commits the same files to the configuration's git repository and drops branches past their retention."""
    with open_site(ctx.order.site) as opened:
        now = opened.journal.clock()
        history = ConfigHistory(opened.site.config_repository.path)
        files = collected(opened, ctx.order.region)
        done = history.commit(ctx.order.region, files, now, f"{ctx.order.region}: configuration, {ctx.run_id}")
        limit = now - dt.timedelta(days=opened.site.retention.configuration_days)
        dropped = history.drop_older_than(limit)
    return Committed(done.branch, done.revision, done.changed, dropped)


@step(title="Heal and apply retention", budget_s=300, retry=STORE_RETRY)
def keep_house(ctx: Ctx) -> Kept:
    """Copies older configurations to regions that missed them; removes those past their retention."""
    with open_site(ctx.order.site) as opened:
        return house_keeping(opened, ctx.order.region, "config")
