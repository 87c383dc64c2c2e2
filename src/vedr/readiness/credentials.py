"""Checks of what the site refers to and what runs out: secrets, passphrases, certificates, keys.

Guarantees: no secret value is kept or shown; every reference in the site file is tried, whatever table it is in.
"""

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, get_args
from urllib.parse import urlsplit

from vedr.custody.escrow import Copies, Escrow
from vedr.custody.key_backup_store import KeyRepository
from vedr.custody.key_material import KeyKind
from vedr.custody.rotation import Judged, Status
from vedr.custody.rotation_status import judge_region
from vedr.inventory import Site
from vedr.policies.checks import DAY_S, Checks
from vedr.readiness.ages import duration, judge_age
from vedr.readiness.examining import MARGIN, examine
from vedr.readiness.finding import Part, Verdict, combine
from vedr.readiness.finding import Status as Result
from vedr.readiness.ports import Certificate, CustodyProbes, NetworkProbes

KINDS: Final[tuple[KeyKind, ...]] = get_args(KeyKind)
_REFERENCE: Final = re.compile(r"^(file:/|env:[A-Z]|aws-secret:[a-z])")
ONE: Final = 1  # thread: a vault is asked from one
_ROTATE: Final = "Make the next: vedr keys rotate-passphrase --kind {}."


_NO_CERTIFICATE: Final = Part(
    "certificates",
    "warning",
    "the site file names no https URL, so none was looked at",
    "Name the URLs that users and nodes really use.",
)


# --- access


def secrets_access(site: Site, custody: CustodyProbes, escrow: Escrow, signer_key: str, policy: Checks) -> Verdict:
    """Every secret that the site file refers to can be read; every kind of key has a passphrase in every region."""
    references = dict(_texts(site.model_dump(mode="json"), _REFERENCE))
    looks = {where: partial(_readable, custody, where, reference) for where, reference in references.items()}
    parts = examine(looks, deadline_s=policy.subject_deadline_s)
    held = {f"passphrase of {kind} keys": partial(_held, escrow, kind) for kind in KINDS}
    parts += examine(held, deadline_s=policy.deadline_of("secrets-access") * MARGIN, threads=ONE)
    parts.append(_trusted(signer_key, site.signing.trusted))
    return combine(
        parts,
        expected="every reference of the site file readable, every passphrase in every region, our signatures trusted",
        nothing="Refer to the site's secrets in its file.",
        summary=f"{len(references)} references readable, {len(KINDS)} passphrases in every region",
    )


def _readable(custody: CustodyProbes, where: str, reference: str) -> Part:
    custody.read_secret(reference)
    return Part(where, "passed", "readable")


def _held(escrow: Escrow, kind: KeyKind) -> Part:
    return judge_copies(kind, escrow.current(kind))


def judge_copies(kind: KeyKind, copies: Copies) -> Part:
    """Pure: where the newest usable epoch can be read."""
    subject = f"passphrase of {kind} keys"
    if not copies.everywhere:
        lacking = ", ".join(copies.refusals)
        remedy = "Bring these regions' secrets managers back; a key backup run asks for missing copies again."
        return Part(subject, "failed", f"epoch {copies.epoch} can't be read in {lacking}", remedy)
    return Part(subject, "passed", f"epoch {copies.epoch} in {len(copies.regions)} regions")


def _trusted(signer_key: str, trusted: Sequence[str]) -> Part:
    if signer_key in trusted:
        return Part("signing key", "passed", "trusted")
    remedy = "Put its public key into [signing] trusted, or name the key that is trusted."
    return Part("signing key", "failed", "the site does not trust its own signatures", remedy)


# --- expiry


def expiry(
    site: Site, network: NetworkProbes, custody: CustodyProbes, repository: KeyRepository, now: dt.datetime
) -> Verdict:
    """Nothing runs out soon: certificates of https endpoints, the escrow's passphrases, the keys themselves."""
    policy = site.checks
    limit_s = policy.deadline_of("expiry") * MARGIN
    hosts = https_hosts(site)
    certificates = {host: partial(_certificate, network, host, url, policy, now) for host, url in hosts.items()}
    parts = examine(certificates, deadline_s=policy.subject_deadline_s) or [_NO_CERTIFICATE]
    made = {
        f"passphrase of {kind} keys": partial(_passphrase, custody, repository, kind, policy, now) for kind in KINDS
    }
    parts += examine(made, deadline_s=limit_s, threads=ONE)
    strict = site.custody.high_security
    keys = {f"keys of {region}": partial(_keys, repository, region, strict) for region in site.regions_by_priority}
    parts += examine(keys, deadline_s=limit_s)
    return combine(
        parts,
        expected=f"certificates that clients take, for {policy.certificate_warn_days} days or more, passphrases under "
        f"{policy.passphrase_max_days} days old, no key due to be replaced",
        nothing="Name the site's regions in its file.",
        summary=f"{len(hosts)} certificates, {len(KINDS)} passphrases, keys of {len(keys)} regions",
    )


def https_hosts(site: Site) -> dict[str, str]:
    """A URL for each host and port of the site file that speaks TLS."""
    urls = (url for _, url in _texts(site.model_dump(mode="json"), re.compile("^https://")))
    return {urlsplit(url).netloc: url for url in urls}


def _certificate(network: NetworkProbes, host: str, url: str, policy: Checks, now: dt.datetime) -> Part:
    shown = network.certificate(url, roots=policy.certificate_roots, named=policy.certificate_names)
    return judge_certificate(host, shown, now, policy)


def judge_certificate(host: str, shown: Certificate, now: dt.datetime, policy: Checks) -> Part:
    """Pure: whether clients take it, today and for a while."""
    if shown.starts > now:
        remedy = f"Give {host} a certificate that is valid now, or set the clock of this host or of who signed it."
        return Part(host, "failed", f"not valid yet, only in {duration((shown.starts - now).total_seconds())}", remedy)
    if shown.refusal and shown.ends > now:
        remedy = (
            f"Give {host} a certificate for its name, by an authority of [checks] certificate_roots, with the chain "
            "to it; or correct the URL, or the roots."
        )
        return Part(host, "failed", shown.refusal, remedy)
    return judge_remaining(host, (shown.ends - now).total_seconds(), policy)


def judge_remaining(host: str, left_s: float, policy: Checks) -> Part:
    """Pure: how long a certificate still serves."""
    remedy = f"Renew the certificate of {host}."
    if left_s <= 0:
        return Part(host, "failed", f"expired {duration(-left_s)} ago", remedy)
    if left_s < policy.certificate_min_days * DAY_S:
        return Part(host, "failed", f"expires in {duration(left_s)}", remedy)
    if left_s < policy.certificate_warn_days * DAY_S:
        return Part(host, "warning", f"expires in {duration(left_s)}", remedy)
    return Part(host, "passed", f"for {duration(left_s)}")


def _passphrase(
    custody: CustodyProbes, repository: KeyRepository, kind: KeyKind, policy: Checks, now: dt.datetime
) -> Part:
    epoch = repository.escrow.current(kind).epoch
    return judge_age(
        f"passphrase of {kind} keys",
        custody.passphrase_made(kind, epoch),
        now,
        warn_s=policy.passphrase_warn_days * DAY_S,
        limit_s=policy.passphrase_max_days * DAY_S,
        remedy=_ROTATE.format(kind),
    )


def _keys(repository: KeyRepository, region: str, strict: Sequence[KeyKind]) -> Part:
    return judge_keys(region, judge_region(repository, region, strict))


def judge_keys(region: str, judged: Sequence[Judged]) -> Part:
    """Pure: the worst key of a region by the rotation policy; the list has the worst first."""
    subject = f"keys of {region}"
    if not judged:
        return Part(subject, "failed", "no key is known", f"Back them up: vedr run key-backup --region {region}.")
    bad = [one for one in judged if one.status is not Status.OK]
    if not bad:
        return Part(subject, "passed", f"{len(judged)} keys, none due")
    words = "; ".join(f"{one.owner} ({one.kind}): {one.reason}" for one in bad[:3])
    result: Result = "failed" if bad[0].status is Status.EXPIRED else "warning"
    return Part(subject, result, words, "Replace it: vedr keys status shows the policy; RB-DR-005 replaces keys.")


def _texts(value: object, pattern: re.Pattern[str], where: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a document that the pattern matches, with its path."""
    if isinstance(value, str):
        if pattern.search(value):
            yield where, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, pattern, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, pattern, f"{where}[{number}]")
