"""The rotation status of a region's keys, from the catalogue and the list of revocations.

Guarantees: what cannot be looked up is an error, never "ok"; an owner without any backup is not judged here, which the
check of the backups' age finds.
Leaves out: the policy (rotation).
"""

from collections.abc import Iterable

from vedr.custody.key_backup_store import KeyRepository, newest_of_each, revocations
from vedr.custody.key_material import KeyKind
from vedr.custody.rotation import Judged, judge


def judge_region(repository: KeyRepository, region: str, high_security: Iterable[KeyKind] = ()) -> tuple[Judged, ...]:
    """Every key of the region that is in use, or was replaced and not yet revoked; the worst first.

    Raises:
        UnavailableError: too few regions answer to tell.
        CorruptError, VerificationFailedError: no region has a good copy of an entry.
    """
    newest = newest_of_each(repository, region)
    keys = [key for backup in newest for key in (*backup.keys, *(one.key for one in backup.replaced))]
    revoked = {one.fingerprint for one in revocations(repository, region, {key.fingerprint for key in keys})}
    return judge(newest, repository.clock(), high_security=high_security, revoked=revoked)
