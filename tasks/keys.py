"""Steps of the daily key backup: every key of a region sealed, stored, opened again and compared.

Guarantees: no step returns, says or raises anything but public facts (fingerprints, names, reasons of our own); keys
and passphrases live inside single functions of vedr.custody; the process leaves no core dump.
Leaves out: how keys are found, sealed and kept (vedr.custody).
"""

import functools
from dataclasses import dataclass
from typing import Final

from tasks.orders import RegionJob
from vedr.adapters.secrets import resolve
from vedr.adapters.site import OpenSite, open_site
from vedr.custody import key_backup_retention, key_backup_store
from vedr.custody.key_backup_collect import Passphrase, RegionKeys, back_up_region
from vedr.custody.key_material_process import no_core_dumps
from vedr.custody.rotation import Status
from vedr.custody.rotation_status import judge_region
from vedr.errors import UnavailableError, VerificationFailedError
from vedr.runbook.steps import Context, Retry, step

STORE_RETRY: Final = Retry(attempts=4, delay_s=5.0)

Ctx = Context[RegionJob]


@dataclass(frozen=True, slots=True)
class Due:
    """A key that is to be replaced, or soon."""

    owner: str
    kind: str
    fingerprint: str
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What was healed, and what retention let go."""

    healed: tuple[str, ...]
    removed: tuple[str, ...]
    locked: tuple[str, ...]


@step(title="Back up, open again, compare", budget_s=900, retry=STORE_RETRY)
def back_up_keys(ctx: Ctx) -> RegionKeys:
    """Seals each owner's keys, stores them in every region, opens one copy, compares it with the live public keys."""
    no_core_dumps()
    with open_site(ctx.order.site) as opened:
        done = back_up_region(
            opened.keys,
            opened.site,
            opened.files,
            ctx.order.region,
            passphrase=provider_passphrase(opened),
            even_if_fresh=ctx.order.even_if_fresh,
            say=ctx.say,
        )
    passing = [trouble for trouble in done.troubles if trouble.transient]
    if passing:
        reasons = "; ".join(f"{trouble.owner}, {trouble.kind}: {trouble.reason}" for trouble in passing)
        raise UnavailableError(
            f"{len(passing)} backups of {ctx.order.region} were not made: {reasons}",
            remedy="Run it again: what was backed up today is not made twice.",
        )
    return done


def provider_passphrase(opened: OpenSite) -> Passphrase | None:
    """What fetches the passphrase of the daemons' own backups, where the site has one."""
    reference = opened.site.custody.provider_passphrase
    return None if reference is None else functools.partial(resolve, reference)


@step(title="See which keys are due", budget_s=120, retry=STORE_RETRY, acts=False)
def see_rotation(ctx: Ctx) -> tuple[Due, ...]:
    """Judges each key's age by the rotation policy: 365 days, warned 30 days before."""
    with open_site(ctx.order.site) as opened:
        judged = judge_region(opened.keys, ctx.order.region, opened.site.custody.high_security)
    due = tuple(
        Due(one.owner, one.kind, one.key.fingerprint, one.status, one.reason)
        for one in judged
        if one.status is not Status.OK
    )
    for one in due:
        ctx.say(f"{one.owner}, {one.kind} key {one.fingerprint[:16]}: {one.status}, {one.reason}")
    return due


@step(title="Heal and apply retention", budget_s=300, retry=STORE_RETRY)
def keep_house(ctx: Ctx) -> Kept:
    """Copies backups to regions that missed them; removes those past their retention, validators' keys never."""
    with open_site(ctx.order.site) as opened:
        found, _ = key_backup_store.list_backups(opened.keys, (ctx.order.region,))
        lacking = [one for one in found if len(one.regions) < len(opened.keys.stores)]
        failed = {one.id: key_backup_store.heal(opened.keys, one) for one in lacking}
        removed, locked = key_backup_retention.apply_retention(opened.keys, ctx.order.region)
    wrong = [
        f"{backup} in {region}: {error.message}" for backup, each in failed.items() for region, error in each.items()
    ]
    if wrong:
        raise UnavailableError(f"not healed: {'; '.join(wrong)}", remedy="Run it again when the region is back.")
    return Kept(tuple(one.id for one in lacking), removed, locked)


@step(title="Refuse what is not in order", budget_s=5, acts=False)
def refuse_troubles(ctx: Ctx, done: RegionKeys) -> int:
    """Fails when an owner's keys were not backed up, or a file of the daemons' own backups has a known defect."""
    if done.troubles:
        reasons = "; ".join(f"{trouble.owner}, {trouble.kind}: {trouble.reason}" for trouble in done.troubles)
        raise VerificationFailedError(
            f"{len(done.saved)} backups count; {len(done.troubles)} things are not in order: {reasons}",
            remedy="Put them in order one by one, then run key-backup again (docs/formats/key-backup.md).",
        )
    ctx.say(f"{len(done.saved)} backups count")
    return len(done.saved)
