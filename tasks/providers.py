"""Steps of the provider state backup: taken, reconciled against the chain, and proven to be restorable.

Guarantees: a backup is only reported when its checkpoints, read back from the store, parse and lie on this chain.
Leaves out: what the daemon does with its events.
"""

import shutil
from dataclasses import dataclass
from typing import Final, Literal

from tasks.orders import RegionJob
from tasks.snapshots import Kept, find_listed, house_keeping
from vedr.adapters.site import OpenSite, open_site
from vedr.adapters.snapshots import place_checkpoints
from vedr.backup import restore
from vedr.backup.capture import capture
from vedr.backup.layout import Source
from vedr.backup.manifest import Facts
from vedr.backup.provider_state import read_checkpoints
from vedr.backup.snapshot import create
from vedr.errors import (
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    VedrError,
    VerificationFailedError,
)
from vedr.inventory import Provider
from vedr.runbook.steps import Context, Retry, step

STORE_RETRY: Final = Retry(attempts=4, delay_s=5.0)

Ctx = Context[RegionJob]


@dataclass(frozen=True, slots=True)
class ProviderSnapshot:
    """One daemon's committed state; `behind_blocks` is how far its slowest checkpoint was behind the tip."""

    provider: str
    snapshot: str
    total_bytes: int
    pause_ms: int
    behind_blocks: int
    regions: tuple[str, ...]
    under_replicated: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProvidersTaken:
    """All daemons of the region."""

    snapshots: tuple[ProviderSnapshot, ...]


@dataclass(frozen=True, slots=True)
class ProvidersProven:
    """What was read back: each provider's lowest sequence."""

    sequences: dict[str, int]


@step(title="Capture and store", budget_s=600, retry=STORE_RETRY)
def take_provider_state(ctx: Ctx) -> ProvidersTaken:
    """Pauses each daemon well under a second, stores its state in three regions, reconciled against the chain's tip."""
    with open_site(ctx.order.site) as opened:
        daemons = providers_in(opened, ctx.order.region)
        done, failed = [], []
        for provider in daemons:
            try:
                done.append(take_state(opened, provider))
            except VedrError as error:
                failed.append((provider.name, error))
                ctx.say(f"{provider.name}: {error.message}")
    if failed:
        reasons = "; ".join(f"{name}: {error.message}" for name, error in failed)
        kind = UnavailableError if all(error.transient for _, error in failed) else VerificationFailedError
        raise kind(
            f"{len(failed)} of {len(daemons)} providers were not backed up: {reasons}", remedy=failed[0][1].remedy
        )
    return ProvidersTaken(tuple(done))


def providers_in(opened: OpenSite, region: str) -> tuple[Provider, ...]:
    """The region's daemons, those in reserve only while they serve.

    Raises:
        InvalidInputError: it has none, and an empty backup is no backup.
    """
    found = tuple(
        provider
        for provider in opened.site.providers
        if provider.region == region and (not provider.reserve or _is_at_work(opened, provider))
    )
    if not found:
        raise InvalidInputError(f"region {region} has no provider daemon", remedy="Remove its deployment, or add one.")
    return found


def _is_at_work(opened: OpenSite, provider: Provider) -> bool:
    """Not that it is stopped: a reserve that can't be asked about is backed up, or fails to be."""
    try:
        return opened.fleet.status(provider.unit, provider.zone).state != "stopped"
    except NotFoundError:
        return False
    except UnavailableError:
        return True


def take_state(opened: OpenSite, provider: Provider) -> ProviderSnapshot:
    try:
        return _take_by(opened, provider, "pause")
    except DeadlineError:  # more mutable files than a pause allows: a daemon may be stopped, it catches up by itself
        return _take_by(opened, provider, "stop")


def _take_by(opened: OpenSite, provider: Provider, method: Literal["pause", "stop"]) -> ProviderSnapshot:
    keys = opened.site.custody.provider_key_files
    with capture(provider, provider.home, opened.fleet, method=method, secret=keys) as captured:
        checkpoints = read_checkpoints(captured.data / "data")
        places = place_checkpoints(
            opened, checkpoints, near=provider.region, sequences_per_block=provider.sequences_per_block
        )
        source = Source(provider.region, "provider", provider.name)
        facts = Facts(method=captured.method, pause_ms=captured.pause_ms)
        created = create(opened.repository, source, captured.tree, facts)
    return ProviderSnapshot(
        provider=provider.name,
        snapshot=created.id,
        total_bytes=created.verified.manifest.total_bytes,
        pause_ms=captured.pause_ms,
        behind_blocks=max(place.behind_blocks for place in places),
        regions=tuple(outcome.region for outcome in created.regions if outcome.checked),
        under_replicated=created.under_replicated,
    )


@step(title="Restore to scratch and check", budget_s=600, retry=STORE_RETRY)
def prove_provider_state(ctx: Ctx, taken: ProvidersTaken) -> ProvidersProven:
    """Restores each daemon's state to scratch and reads its checkpoints back: what can't be restored is no backup."""
    sequences: dict[str, int] = {}
    with open_site(ctx.order.site) as opened:
        scratch = opened.site.work_dir / "provider-proof"
        for one in taken.snapshots:
            listed = find_listed(opened, ctx.order.region, "provider", one.snapshot)
            verified = restore.open_manifest(opened.repository, listed, chain_id=None)
            home = scratch / one.provider
            home.mkdir(parents=True, exist_ok=True)
            try:
                staged = restore.fetch(opened.repository, verified, home, ctx.run_id)
                sequences[one.provider] = min(point.last_sequence for point in read_checkpoints(staged.path / "data"))
            finally:
                shutil.rmtree(home)
    return ProvidersProven(sequences)


@step(title="Heal and apply retention", budget_s=300, retry=STORE_RETRY)
def keep_house(ctx: Ctx) -> Kept:
    """Copies older states to regions that missed them; removes those past their retention."""
    with open_site(ctx.order.site) as opened:
        return house_keeping(opened, ctx.order.region, "provider")
