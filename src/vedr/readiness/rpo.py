"""Check of the recovery points: how much would be lost if everything but the backups were gone now.

Guarantees: only a copy counts that proves itself: a snapshot whole in a majority of the regions, looked at now; a key
backup whose signed entry says that it was opened, and whose envelope is what was opened in a majority of the regions.
Leaves out: what runs besides backups to lose less (nodes in three regions, replicas in hardware), and metrics, which
the monitoring system exports by itself.
"""

import datetime as dt
from collections.abc import Sequence
from functools import partial
from typing import Final

from vedr.backup.layout import Kind
from vedr.backup.repository import Repository
from vedr.custody import key_backup_store
from vedr.custody.key_backup_store import Found, KeyRepository
from vedr.custody.key_material import KeyKind
from vedr.inventory import Site
from vedr.policies.checks import Checks
from vedr.readiness.ages import judge_age
from vedr.readiness.copies import JOBS, TAKE, newest, newest_good
from vedr.readiness.custody import BACK_UP, as_error, copies_wrong, in_files, newest_of_owners
from vedr.readiness.examining import MARGIN, examine
from vedr.readiness.finding import Part, Verdict, combine, part_of
from vedr.readiness.side_by_side import side_by_side
from vedr.targets import Subject

CHECK: Final = "rpo"
_SUBJECTS: Final[dict[Kind, Subject]] = {
    "state": Subject.CHAIN_STATE,
    "config": Subject.CONFIGURATION,
    "provider": Subject.PROVIDER_STATE,
}


def recovery_points(
    site: Site, repository: Repository, keys: KeyRepository, policy: Checks, now: dt.datetime
) -> Verdict:
    """Every component's newest verified copy against its RPO."""
    calls = {
        "snapshots": partial(_of_snapshots, site, repository, policy, now),
        "keys": partial(_of_keys, site, keys, policy, now),
    }
    answers = side_by_side(calls, deadline_s=policy.deadline_of(CHECK) * MARGIN)
    parts = [
        part
        for what, answer in answers.items()
        for part in answer.value or [part_of(what, answer.error or TimeoutError())]
    ]
    return combine(
        parts,
        expected="a verified copy of every component, younger than its RPO and the time that its job takes",
        nothing="Name regions, nodes and providers in the site file.",
    )


def _of_snapshots(site: Site, repository: Repository, policy: Checks, now: dt.datetime) -> list[Part]:
    """Time since the newest copy that is whole in a majority of the regions, of each region and provider."""

    def look(origin: str, kind: Kind, name: str | None) -> Part:
        listed = newest(repository, origin, kind, deadline_s=policy.subject_deadline_s)
        ids = listed.ids if name is None else listed.of(name)
        copy = newest_good(repository, listed, ids, deadline_s=policy.subject_deadline_s)
        limit_s = policy.rpo(_SUBJECTS[kind])
        remedy = TAKE.format(JOBS[kind], origin)
        taken = copy.verified.manifest.created_at
        return judge_age(_subject(origin, kind, name), taken, now, warn_s=limit_s, limit_s=limit_s, remedy=remedy)

    wanted: list[tuple[str, Kind, str | None]] = [
        *((region, "state", None) for region in site.regions_by_priority),
        *((region, "config", None) for region in site.regions_by_priority),
        *((provider.region, "provider", provider.name) for provider in site.providers if not provider.reserve),
    ]
    looks = {_subject(*one): partial(look, *one) for one in wanted}
    return examine(looks, deadline_s=policy.deadline_of(CHECK) * MARGIN)


def _subject(origin: str, kind: Kind, name: str | None) -> str:
    return f"{_SUBJECTS[kind]} {name or origin}"


def whole_since(repository: KeyRepository, found: Found, policy: Checks) -> dt.datetime:
    """When a backup was made; VerificationFailedError or UnavailableError unless a majority of regions has it whole."""
    backup = key_backup_store.load(repository, found)
    wrong = copies_wrong(repository, backup, policy)
    if len(repository.stores) - len(wrong) < repository.majority:
        raise as_error(wrong, backup)
    return backup.created_at


def _of_keys(site: Site, repository: KeyRepository, policy: Checks, now: dt.datetime) -> list[Part]:
    """Time since the oldest of the newest backups, each of which was opened before it counted."""
    newest = newest_of_owners(repository, site.regions_by_priority)

    def look(subject: Subject, kinds: Sequence[KeyKind], region: str) -> Part:
        name = f"{subject} {region}"
        wanted = [owner for owner in in_files(site, region) if owner.kind in kinds]
        missing = [owner.name for owner in wanted if (owner.kind, owner.name) not in newest]
        if missing:
            return Part(name, "failed", f"{', '.join(missing)} never backed up", BACK_UP.format(region))
        taken = [whole_since(repository, newest[owner.kind, owner.name], policy) for owner in wanted]
        limit_s = policy.rpo(subject)
        judged = [
            judge_age(name, one, now, warn_s=limit_s, limit_s=limit_s, remedy=BACK_UP.format(region))
            for one in (max(taken), min(taken))  # the newest may be of the future, the oldest too old
        ]
        return next((part for part in judged if part.status != "passed"), judged[-1])

    groups: tuple[tuple[Subject, tuple[KeyKind, ...]], ...] = (
        (Subject.VALIDATOR_KEYS, ("validator", "node")),
        (Subject.PROVIDER_KEYS, ("provider",)),
    )
    looks = {
        f"{subject} {region}": partial(look, subject, kinds, region)
        for subject, kinds in groups
        for region in site.regions_by_priority
        if any(owner.kind in kinds for owner in in_files(site, region))
    }
    return examine(looks, deadline_s=policy.deadline_of(CHECK) * MARGIN)
