"""Each fault of vedr.readiness.faults, done to the running lab for real, and taken back.

A fault is a context: it is there inside, and gone afterwards.  Objects are damaged where the regions' servers keep them
on disk, behind everybody's back, as a failing disk or an intruder would.
"""

import contextlib
import datetime as dt
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import dns.query
import dns.rcode
import dns.tsigkeyring
import dns.update

from flows import daily_validation, failover_watch
from tasks.orders import DailyValidation
from vedr.adapters.s3_control import open_control
from vedr.adapters.s3_store import Credentials
from vedr.adapters.site import OpenSite
from vedr.backup import restore
from vedr.backup.layout import Kind, manifest_key, object_key
from vedr.backup.repository import Listed, list_snapshots, load_manifest
from vedr.backup.snapshot import create
from vedr.backup.tree import read_tree
from vedr.chain import shipping
from vedr.chain.register import Validator
from vedr.custody import key_backup_store
from vedr.custody.key_backup_catalogue import envelope_key
from vedr.custody.shares_record import open_record, seal_record
from vedr.errors import VerificationFailedError
from vedr.inventory import Site
from vedr.lab import agents, custodians, faults, status_page, units
from vedr.lab.credentials import LabSecrets
from vedr.lab.plan import Plan, PlannedNode
from vedr.readiness.drill_schedule import CADENCES
from vedr.readiness.rounds import ROUNDS, tell_round
from vedr.runbook.order import Order, new_run_id

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectLockRuleTypeDef

LONG_AGO: Final = dt.timedelta(days=2)
NOBODY: Final = "192.0.2.1"  # RFC 5737: no host has it


@dataclass(frozen=True)
class Bench:
    """The lab that is broken, opened once; what is moved away lies in `aside`."""

    plan: Plan
    opened: OpenSite
    aside: Path

    @property
    def site(self) -> Site:
        return self.opened.site

    @cached_property
    def secrets(self) -> LabSecrets:
        return LabSecrets(self.plan.folder)

    def newest(self, origin: str, kind: Kind, name: str | None = None) -> Listed:
        return list_snapshots(self.opened.repository, origin, kind, name=name).snapshots[0]

    def stored(self, region: str, key: str, *, registers: bool = False) -> Path:
        """Where that region's server keeps an object."""
        bucket = self.plan.register_bucket(region) if registers else self.plan.bucket(region)
        return self.plan.folder / "s3" / region / "data" / bucket / key

    def control(self, region: str) -> "S3Client":
        keys = Credentials(*self.secrets.read_store_credentials(region))
        return open_control(self.site.regions[region].store, keys)

    def an_object(self, listed: Listed, region: str) -> Path:
        """The largest object of a snapshot, in that region's store."""
        manifest = load_manifest(self.opened.repository, listed).manifest
        largest = max(manifest.objects, key=lambda entry: entry.size_bytes)
        return self.stored(region, object_key(listed.source, manifest.epoch, largest.name))

    @contextlib.contextmanager
    def without(self, *paths: Path) -> Iterator[None]:
        """Move files away, attributes and all; back in the end."""
        self.aside.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self.aside))
        kept = [folder / f"{number}-{path.name}" for number, path in enumerate(paths)]
        for path, aside in zip(paths, kept, strict=True):
            path.rename(aside)
        try:
            yield
        finally:
            for path, aside in zip(paths, kept, strict=True):
                if path.is_dir():
                    shutil.rmtree(path)
                path.parent.mkdir(parents=True, exist_ok=True)  # a server takes away folders that became empty
                aside.rename(path)

    @contextlib.contextmanager
    def stopped(self, unit: str, *, kill: bool = False) -> Iterator[None]:
        target = faults.find(self.plan, unit)
        (faults.kill if kill else faults.stop)(self.plan, target)
        try:
            yield
        finally:
            faults.start(self.plan, target)

    @contextlib.contextmanager
    def frozen(self, nodes: Sequence[PlannedNode]) -> Iterator[None]:
        """Hanging, as on a dead disk: for longer than a supervisor pauses anything."""
        with contextlib.ExitStack() as stack:
            for node in nodes:
                pid = agents.unit_pid(self.plan, node.zone, node.name)
                assert pid is not None
                os.kill(pid, signal.SIGSTOP)
                stack.callback(os.kill, pid, signal.SIGCONT)
            yield


@contextlib.contextmanager
def flipped(path: Path) -> Iterator[None]:
    """One bit of a file, in its middle."""
    at = path.stat().st_size // 2

    def flip() -> None:
        with path.open("r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ 1]))

    flip()
    try:
        yield
    finally:
        flip()


# --- backups


@contextlib.contextmanager
def flipped_bit(bench: Bench) -> Iterator[None]:
    other = next(region for region in ("eu-west", "us-east") if region != dry_run_region(bench))
    with flipped(bench.an_object(bench.newest("us-east", "config"), other)):
        yield


@contextlib.contextmanager
def old_chain_state(bench: Bench) -> Iterator[None]:
    """All of ap-south's are gone, and one of two days ago is there."""
    store = bench.opened.repository
    listed = list_snapshots(store, "ap-south", "state").snapshots
    manifests = [bench.stored(r, manifest_key(one.source, one.id)) for one in listed for r in store.regions]
    past = replace(store, clock=lambda: dt.datetime.now(dt.UTC) - LONG_AGO)
    before = {r: {one.key for one in store.stores[r].list("ap-south/state/")} for r in store.regions}
    content = bench.aside / "content"
    content.mkdir(parents=True, exist_ok=True)
    (content / "CURRENT").write_text("MANIFEST-000001\n")
    facts = load_manifest(store, listed[0]).manifest.facts
    with bench.without(*manifests):
        create(past, listed[0].source, read_tree(content), facts)
        try:
            yield
        finally:
            for region, known in before.items():
                for one in list(store.stores[region].list("ap-south/state/")):
                    if one.key not in known:
                        store.stores[region].delete(one.key)


@contextlib.contextmanager
def lost_in_a_majority(bench: Bench) -> Iterator[None]:
    listed = bench.newest("ap-south", "provider", "provider-ap-south-0")
    with bench.without(bench.an_object(listed, "us-east"), bench.an_object(listed, "eu-west")):
        yield


def dry_run_region(bench: Bench) -> str:
    """Whose turn it is today."""
    regions = bench.opened.repository.regions
    return regions[dt.datetime.now(dt.UTC).toordinal() % len(regions)]


@contextlib.contextmanager
def lost_object(bench: Bench) -> Iterator[None]:
    newest = restore.candidates(bench.opened.repository, origins=bench.site.regions_by_priority)[0]
    with bench.without(bench.an_object(newest, dry_run_region(bench))):
        yield


@contextlib.contextmanager
def no_proof(bench: Bench) -> Iterator[None]:
    folders = [bench.stored(region, "us-east/state/v") for region in bench.site.regions]
    with bench.without(*folders):
        yield


# --- the network


@contextlib.contextmanager
def killed_node(bench: Bench) -> Iterator[None]:
    with bench.stopped("fullnode-us-east-2", kill=True):
        yield


@contextlib.contextmanager
def frozen_full_nodes(bench: Bench) -> Iterator[None]:
    with bench.frozen(
        [node for one in ("eu-west", "ap-south") for node in bench.plan.nodes_in(one, "full", "archive")]
    ):
        yield


@contextlib.contextmanager
def cut_regions(bench: Bench) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for region in ("eu-west", "ap-south"):
            target = faults.find(bench.plan, region)
            stack.callback(faults.heal, bench.plan, target)
            faults.cut(bench.plan, target)
        yield


@contextlib.contextmanager
def stopped_gateway(bench: Bench) -> Iterator[None]:
    with bench.stopped("gateway-us-east-1"):
        yield


@contextlib.contextmanager
def strange_address(bench: Bench) -> Iterator[None]:
    zone = bench.site.dns
    assert zone is not None
    algorithm, name, secret = bench.secrets.tsig.read_text().strip().split(":")
    question = dns.message.make_query(f"api.{zone.zone}", "A")
    answer = dns.query.udp(question, zone.server, port=zone.port, timeout=5).answer[0]

    def point(*addresses: str) -> None:
        update = dns.update.UpdateMessage(
            zone.zone, keyring=dns.tsigkeyring.from_text({name: secret}), keyalgorithm=algorithm
        )
        update.replace("api", answer.ttl, "A", *addresses)
        assert dns.query.tcp(update, zone.server, port=zone.port, timeout=5).rcode() == dns.rcode.NOERROR

    point(NOBODY)
    try:
        yield
    finally:
        point(*(record.to_text() for record in answer))


# --- custody


@contextlib.contextmanager
def lost_envelope(bench: Bench) -> Iterator[None]:
    backup = key_backup_store.newest(bench.opened.keys, "eu-west", "provider", "provider-eu-west-0")
    assert backup is not None
    with bench.without(bench.stored("eu-west", envelope_key(backup))):
        yield


@contextlib.contextmanager
def emptied_token(bench: Bench) -> Iterator[None]:
    """The keys are gone, the token itself answers."""
    tokens = bench.secrets.hsm_config("ap-south").parent / "tokens"
    keys = [path for path in tokens.rglob("*.object") if path.name != "token.object"]
    assert keys
    with bench.without(*keys):
        yield


@contextlib.contextmanager
def strange_record(bench: Bench) -> Iterator[None]:
    """A record that we signed, of another key than the site's."""
    path = custodians.record_path(bench.plan)
    kept = path.read_bytes()
    other = replace(open_record(kept), public_key=bytes(range(32)))
    path.write_bytes(seal_record(other, bench.opened.signer))
    try:
        yield
    finally:
        path.write_bytes(kept)


@contextlib.contextmanager
def lost_sign_state(bench: Bench) -> Iterator[None]:
    validator = bench.site.node("validator-ap-south-0")
    key = shipping.key_of(Validator(bench.site.chain.chain_id, validator.address))
    copies = [bench.stored(region, key, registers=True) for region in ("us-east", "eu-west")]
    with bench.stopped(units.shipper_name(validator.name)), bench.without(*copies):
        yield


@contextlib.contextmanager
def open_secret(bench: Bench) -> Iterator[None]:
    bench.secrets.tsig.chmod(0o644)
    try:
        yield
    finally:
        bench.secrets.tsig.chmod(0o600)


@contextlib.contextmanager
def expired_certificate(bench: Bench) -> Iterator[None]:
    now = dt.datetime.now(dt.UTC)
    status_page.put_certificate(bench.plan, now - dt.timedelta(days=1))
    try:
        yield
    finally:
        status_page.put_certificate(bench.plan, now + status_page.LIFETIME)


# --- stores and schedules


@contextlib.contextmanager
def unwanted_lock(bench: Bench) -> Iterator[None]:
    """Everything that is put into ap-south's bucket is held for a day."""
    control, bucket = bench.control("ap-south"), bench.plan.bucket("ap-south")
    rule: ObjectLockRuleTypeDef = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
    control.put_object_lock_configuration(
        Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    try:
        yield
    finally:
        control.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"})


@contextlib.contextmanager
def suspended_versioning(bench: Bench) -> Iterator[None]:
    """On the server's disk: it refuses to do so itself where a bucket has object lock, as Amazon does."""
    bucket, attribute = bench.stored("eu-west", ""), "user.versioning"
    kept = os.getxattr(bucket, attribute)
    os.setxattr(bucket, attribute, b"\0")
    try:
        yield
    finally:
        os.setxattr(bucket, attribute, kept)


@contextlib.contextmanager
def missed_validation(bench: Bench) -> Iterator[None]:
    """The site is two days old by its ledger, and no validation ever ran; then one does."""
    journal = bench.opened.journal
    past = dt.datetime.now(dt.UTC) - LONG_AGO
    run_id = new_run_id("run", past)
    writer = journal.open(run_id, "config-backup", {"title": "config-backup", "detected_at": past.isoformat(),
                                                    "target_ms": 0, "steps": []})  # fmt: skip
    writer.append("closed", {"outcome": "completed", "total_ms": 0, "target_ms": 0, "steps": {}})
    yield
    with contextlib.suppress(VerificationFailedError):  # that it happened is what counts, whatever it found
        daily_validation.RUNBOOK.perform(DailyValidation())
    failover_watch.RUNBOOK.perform(Order())
    for job in ROUNDS:
        tell_round(journal, job)
    for cadence in CADENCES:  # which of them were due in these days the calendar says
        held = journal.open(new_run_id("run", dt.datetime.now(dt.UTC)), f"drill-{cadence}", {"order": {}})
        held.append("closed", {"outcome": "completed", "steps": {}})


INJECTORS: Final[Mapping[str, Callable[[Bench], contextlib.AbstractContextManager[None]]]] = {
    "flipped-bit": flipped_bit,
    "old-chain-state": old_chain_state,
    "lost-in-a-majority": lost_in_a_majority,
    "lost-object": lost_object,
    "no-proof": no_proof,
    "killed-node": killed_node,
    "frozen-full-nodes": frozen_full_nodes,
    "cut-regions": cut_regions,
    "stopped-gateway": stopped_gateway,
    "strange-address": strange_address,
    "lost-envelope": lost_envelope,
    "emptied-token": emptied_token,
    "strange-record": strange_record,
    "lost-sign-state": lost_sign_state,
    "open-secret": open_secret,
    "expired-certificate": expired_certificate,
    "missed-validation": missed_validation,
    "unwanted-lock": unwanted_lock,
    "suspended-versioning": suspended_versioning,
}
