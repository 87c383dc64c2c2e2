"""The probes of the daily checks over a real site: names, certificates, health pages, bucket settings, tokens.

Guarantees: each probe ends in bounded time and raises only errors of `vedr.errors`; secrets are read and dropped.
Leaves out: every judgement (vedr.readiness).
"""

import contextlib
import datetime as dt
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import httpx

from vedr.adapters import certificates, pkcs11_token_site, snapshots
from vedr.adapters.dns_answers import ADDRESS_TYPES, Server, records
from vedr.adapters.secrets import resolve
from vedr.adapters.shared_rpc import SharedNodes, SharingSite
from vedr.adapters.site import OpenSite, utc_now
from vedr.backup.repository import Listed
from vedr.backup.verify import Verification
from vedr.chain.inspection import Inspected
from vedr.custody.escrow import SCHEME, Epoch
from vedr.custody.hsm_check import Replication
from vedr.custody.key_material import KeyKind
from vedr.errors import CorruptError, NotFoundError, UnavailableError, VerificationFailedError
from vedr.inventory import Dns, Site
from vedr.readiness.expirations import Expiration
from vedr.readiness.ports import BucketState, Certificate, NameAnswer, Ports
from vedr.readiness.validation import OpenPorts

HEALTH_DEADLINE_S: Final = 5.0
_FOLDER: Final = "checks"


@contextlib.contextmanager
def shared_ports(site: Site) -> Iterator[OpenPorts]:
    """Opens the site for each check of one run; what several of them ask the nodes at the same time is asked once."""
    with SharedNodes() as nodes:
        yield partial(open_ports, site, nodes)


@contextlib.contextmanager
def open_ports(site: Site, nodes: SharedNodes | None = None) -> Iterator[Ports]:
    """A site's own parts and probes, for one check; closed after it."""
    with OpenSite(site) if nodes is None else SharingSite(site, nodes) as opened:
        yield Ports(
            opened=opened,
            network=SiteNetwork(site.dns),
            store=SiteStores(opened),
            custody=SiteCustody(opened),
            clock=utc_now,
        )


class SiteNetwork:
    """vedr.readiness.ports.NetworkProbes."""

    def __init__(self, zone: Dns | None) -> None:
        self._dns = zone

    def resolve_name(self, name: str) -> NameAnswer:
        if self._dns is None:
            raise NotFoundError("the site has no [dns]", remedy="Describe the zone in the site file.")
        server = Server(self._dns.server, self._dns.port)
        found = [records(server, name, kind) for kind in ADDRESS_TYPES]
        return NameAnswer(
            tuple(address for one in found for address in one.values), max(one.ttl_s or 0 for one in found)
        )

    def certificate(self, url: str, *, roots: Sequence[str], named: bool) -> Certificate:
        return certificates.shown_by(url, roots=roots, named=named)

    def health(self, url: str) -> None:
        try:
            tls = url.startswith("https:")
            with httpx.stream("GET", url, timeout=HEALTH_DEADLINE_S, trust_env=False, verify=tls) as answer:
                status = answer.status_code
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"{type(error).__name__}: {error}", remedy="Look at its unit and log, and at the way to it."
            ) from error
        if not httpx.codes.is_success(status):
            raise VerificationFailedError(f"HTTP {status}", remedy="Look at its log.")


class SiteStores:
    """vedr.readiness.ports.StoreProbes."""

    def __init__(self, opened: OpenSite) -> None:
        self._opened = opened

    def bucket_state(self, region: str) -> BucketState:
        facts = self._opened.stores[region].facts()
        return BucketState(facts.versioned, facts.lock_mode, facts.lock_days, facts.expirations)

    def register_expirations(self, region: str) -> tuple[Expiration, ...] | None:
        store = self._opened.stores[region]
        own = store.config.register_bucket
        return store.beside(own).facts().expirations if own else ()

    def boot(self, listed: Listed) -> Verification:
        return snapshots.prove_by_boot(self._opened, listed)

    def inspect(self, data: Path) -> Inspected:
        return self._opened.inspector.inspect(data.parent, data)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Under the site's work_dir, whose disk has room for restores."""
        base = self._opened.site.work_dir / _FOLDER
        base.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="restore-", dir=base))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class SiteCustody:
    """vedr.readiness.ports.CustodyProbes."""

    def __init__(self, opened: OpenSite) -> None:
        self._opened = opened

    def read_secret(self, reference: str) -> None:
        if not resolve(reference):
            raise CorruptError(f"{reference} is empty", remedy="Put the secret there again.")

    def passphrase_made(self, kind: KeyKind, epoch: Epoch) -> dt.datetime:
        return self._opened.vault.made(self._opened.keys.escrow.reference(kind, epoch).removeprefix(SCHEME))

    def replications(self) -> Iterable[Replication]:
        return tuple(pkcs11_token_site.check(self._opened))
