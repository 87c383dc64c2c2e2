"""Checks of keys, shares, secrets and what runs out."""

import dataclasses
import datetime as dt
import hashlib
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from beside import beside
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vedr.adapters.check_probes import SiteNetwork
from vedr.custody import envelope_slots
from vedr.custody.envelope_format import PassphraseSlot
from vedr.custody.envelope_slots import recovery_public_key
from vedr.custody.escrow import Epoch
from vedr.custody.hsm_check import Replication, TokenResult
from vedr.custody.key_backup_store import store_bundle
from vedr.custody.key_material import KeyKind
from vedr.custody.shares import split
from vedr.custody.shares_record import ShareRecord, new_record, seal_record
from vedr.errors import NotFoundError, UnavailableError, VedrError
from vedr.inventory import Site
from vedr.policies.checks import Checks
from vedr.readiness import credentials, custody, rpo
from vedr.readiness.finding import Part, Verdict, verdict_of
from vedr.readiness.ports import Certificate
from vedr.reports import metrics_backups
from vedr.signature import Signer
from vedr.targets import Schedule, Subject

keysworld = beside("keysworld", Path(__file__).parents[1] / "custody_keys" / "keysworld.py")
REGIONS = keysworld.REGIONS
NOW = keysworld.NOW
POLICY = Checks(deadline_s=20, subject_deadline_s=5)
PRIVATE = bytes(range(1, 33))
RECOVERY = recovery_public_key(PRIVATE)
RECORD = new_record(split(PRIVATE), ["Ann", "Bob", "Cid", "Dan", "Eve"], public_key=RECOVERY, now=NOW)
SIGNER = Signer(Ed25519PrivateKey.generate())


@pytest.fixture(autouse=True)
def cheap_derivation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id's cost is the envelope's promise (tests/unit/custody); here it would only be waited for."""

    def derived(passphrase: bytes, slot: PassphraseSlot) -> bytes:
        return hashlib.blake2b(passphrase, digest_size=32, salt=slot.salt).digest()

    monkeypatch.setattr(envelope_slots, "_derived", derived)


# --- key backups


def site_of(*, remote: tuple[str, ...] = (), **changed: Any) -> Site:
    """A region each: one validator (with its node key) and one provider."""
    nodes = [SimpleNamespace(name=f"validator-{r}", region=r, is_validator=True, address="A" * 40) for r in REGIONS]
    providers = [SimpleNamespace(name=f"provider-{r}", region=r, reserve=False) for r in REGIONS]
    return cast(
        "Site",
        SimpleNamespace(
            regions_by_priority=REGIONS,
            regions=dict.fromkeys(REGIONS),
            nodes=nodes,
            providers=providers,
            nodes_in=lambda region, *_: [node for node in nodes if node.region == region],
            signers_of=lambda name: (name,) if name in remote else (),
            checks=POLICY,
            custody=SimpleNamespace(high_security=(), recovery_public_key=RECOVERY.hex()),
            signing=SimpleNamespace(trusted=(SIGNER.public_hex,)),
            schedule=Schedule(),
            **changed,
        ),
    )


def back_up(world: Any, *regions: str) -> None:
    for region in regions or REGIONS:
        for kind in ("validator", "node", "provider"):
            owner = f"{'provider' if kind == 'provider' else 'validator'}-{region}"
            store_bundle(world.repository, region, world.bundle(kind, owner), previous=None, since={})


@pytest.fixture(name="keys")
def _keys() -> Any:
    world = keysworld.make_world()
    back_up(world)
    return world


def key_backups(world: Any, site: Site | None = None) -> Verdict:
    try:
        return custody.key_backups(site or site_of(), world.repository, POLICY, world.clock())
    except VedrError as error:
        return verdict_of(error, "")


def test_keys_backed_up_everywhere_and_opened_pass(keys: Any) -> None:
    verdict = key_backups(keys)
    assert verdict.status == "passed", verdict
    assert "9 owners" in verdict.observed
    assert "9 opened" in verdict.observed


def test_an_owner_who_was_never_backed_up_is_named() -> None:
    world = keysworld.make_world()
    back_up(world, "us-east", "eu-west")
    verdict = key_backups(world)
    assert verdict.status == "failed"
    assert "validator-ap-south (validator): never backed up" in verdict.observed
    assert "--region ap-south" in verdict.remedy


def test_a_key_in_hardware_needs_no_backup_of_a_file() -> None:
    world = keysworld.make_world()
    back_up(world)
    remote = site_of(remote=("validator-us-east",))
    assert {owner.kind for owner in custody.in_files(remote, "us-east")} == {"node", "provider"}
    assert key_backups(world, remote).status == "passed"


def test_old_key_backups_fail(keys: Any) -> None:
    keys.clock.advance(hours=27)
    assert key_backups(keys).status == "failed"


def test_a_site_without_keys_has_nothing_to_look_at(keys: Any) -> None:
    nobody = site_of()
    nobody.nodes.clear()
    nobody.providers.clear()  # type: ignore[attr-defined]  # a list here
    verdict = key_backups(keys, nobody)
    assert (verdict.status, verdict.observed) == ("failed", "nothing to look at")


@pytest.mark.parametrize("part", ["/b/", "/c/"])
def test_a_lost_part_of_a_key_backup_in_one_region_is_found(keys: Any, part: str) -> None:
    store = keys.stores["eu-west"]
    key = next(found.key for found in store.list("us-east/keys") if part in found.key and "validator" in found.key)
    store.delete(key)
    verdict = key_backups(keys)
    assert verdict.status == "failed", verdict
    assert "eu-west: " in verdict.observed


def test_a_key_backup_whose_envelope_is_lost_in_a_majority_keeps_no_rpo(keys: Any) -> None:
    """Its signed entry says that it was opened once; there is nothing left that could be."""

    def validators() -> Part:
        parts = rpo._of_keys(site_of(), keys.repository, POLICY, keys.clock())
        return next(part for part in parts if part.subject == "validator-keys us-east")

    for region, status in (("eu-west", "passed"), ("ap-south", "failed")):
        store = keys.stores[region]
        store.delete(next(one.key for one in store.list("us-east/keys/b") if "validator-us-east" in one.key))
        assert validators().status == status, validators()


def test_a_key_backup_of_the_future_is_not_hidden_by_an_older_one(keys: Any) -> None:
    now = keys.clock()
    keys.clock.advance(days=30)
    store_bundle(keys.repository, "us-east", keys.bundle("node", "validator-us-east"), previous=None, since={})
    parts = rpo._of_keys(site_of(), keys.repository, POLICY, now)
    part = next(part for part in parts if part.subject == "validator-keys us-east")
    assert (part.status, "in the future" in part.observed) == ("failed", True)


def test_the_metric_of_key_backups_counts_what_a_majority_holds_whole_and_not_of_the_future(keys: Any) -> None:
    def told() -> float:
        at = SimpleNamespace(
            site=site_of(), opened=SimpleNamespace(keys=keys.repository), policy=POLICY, clock=keys.clock
        )
        samples = metrics_backups.keys(cast("Any", at))
        return next(one.value for one in samples if one.labels[:2] == ("validator-keys", "us-east"))

    assert told() > 0
    keys.clock.advance(hours=-1)
    assert told() == 0
    keys.clock.advance(hours=1)
    for region in ("eu-west", "ap-south"):
        store = keys.stores[region]
        store.delete(next(one.key for one in store.list("us-east/keys/b") if "validator-us-east" in one.key))
    assert told() == 0


def test_a_passphrase_that_no_region_gives_fails(keys: Any) -> None:
    for values in keys.vault.values.values():
        values.clear()
    assert key_backups(keys).status == "failed"


def test_a_silent_region_of_stores_is_not_passed_over(keys: Any) -> None:
    keys.stores["ap-south"].faults.down = True
    verdict = key_backups(keys)
    assert (verdict.status, "ap-south: " in verdict.observed) == ("could not run", True)


def test_no_check_of_keys_passes_or_breaks_on_arbitrary_bytes(keys: Any) -> None:
    chance = random.Random(7)
    for _ in range(20):
        store = keys.stores[chance.choice(REGIONS)]
        key = chance.choice(
            [found.key for found in store.list("") if "/keys/" in found.key and "break_glass" not in found.key]
        )
        before = store.get(key)
        store.damage(key, chance.randbytes(chance.randrange(600)))
        assert key_backups(keys).status in ("failed", "could not run")
        store.damage(key, before)
    assert key_backups(keys).status == "passed"


def test_keys_have_an_rpo_of_their_own(keys: Any) -> None:
    def statuses() -> dict[str, str]:
        parts = rpo._of_keys(site_of(), keys.repository, POLICY, keys.clock())
        return {part.subject: part.status for part in parts}

    assert set(statuses().values()) == {"passed"}
    assert {f"{Subject.VALIDATOR_KEYS} us-east", f"{Subject.PROVIDER_KEYS} ap-south"} <= set(statuses())
    keys.clock.advance(hours=25)
    assert set(statuses().values()) == {"failed"}


# --- hardware


def replication(*problems: str, problem: str = "", address: str = "A" * 40) -> Replication:
    tokens = tuple(TokenResult(f"region-{n}", 0.1, words, "look") for n, words in enumerate(problems))
    reference = SimpleNamespace(name=SimpleNamespace(label="val-0"), consensus_address=address)
    return Replication(cast("Any", reference), NOW, tokens, (), problem)


def test_replicas_that_sign_pass_and_one_that_does_not_fails() -> None:
    assert custody.hsm_replication(site_of(), [replication("", "")]).status == "passed"
    verdict = custody.hsm_replication(site_of(), [replication("", ""), replication("", "another key answered")])
    assert (verdict.status, "another key answered" in verdict.observed) == ("failed", True)
    assert custody.hsm_replication(site_of(), [replication("", problem="no replica")]).status == "failed"
    assert custody.hsm_replication(site_of(), [replication()]).status == "failed"  # no token was asked at all


def test_no_reference_is_a_failure_and_so_is_a_remote_validator_without_one() -> None:
    assert custody.hsm_replication(site_of(), []).observed == "nothing to look at"
    remote = site_of(remote=("validator-us-east",))
    assert custody.hsm_replication(remote, [replication("", "")]).status == "passed"
    verdict = custody.hsm_replication(remote, [replication("", "", address="B" * 40)])
    assert (verdict.status, "no reference of its key" in verdict.observed) == ("failed", True)


# --- shares


def shares(path: Path | None, now: dt.datetime = NOW, **custody_of: Any) -> Verdict:
    site = site_of()
    site.custody.__dict__.update(custody_of)
    policy = POLICY.model_copy(update={"share_record": path})
    return custody.share_custody(site, policy, now)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "shares.json"
    path.write_bytes(seal_record(RECORD, SIGNER))
    return path


def test_a_signed_record_of_the_sites_key_passes_and_an_unsigned_one_warns(record: Path) -> None:
    assert shares(record).status == "passed"
    record.write_bytes(seal_record(RECORD))
    assert shares(record).status == "warning"


def test_a_site_that_names_no_record_has_nothing_to_look_at() -> None:
    assert shares(None).observed == "nothing to look at"


def _stranger(record: Path) -> None:
    record.write_bytes(seal_record(RECORD, Signer(Ed25519PrivateKey.generate())))


def _other_key(record: Path) -> None:
    record.write_bytes(seal_record(dataclasses.replace(RECORD, public_key=bytes(32)), SIGNER))


def _rot(record: Path) -> None:
    record.write_bytes(record.read_bytes()[:-1])


def _gone(record: Path) -> None:
    record.unlink()


@pytest.mark.parametrize("fault", [_stranger, _other_key, _rot, _gone])
def test_a_record_that_proves_nothing_fails(record: Path, fault: Any) -> None:
    fault(record)
    verdict = shares(record)
    assert verdict.status == "failed"
    assert verdict.remedy


def test_a_share_that_was_shown_in_the_future_is_no_sign_of_life(record: Path) -> None:
    """It would have kept its custodian from ever falling silent."""
    ahead: ShareRecord = RECORD.confirmed(RECORD.custodians[0], NOW + dt.timedelta(days=4000))
    record.write_bytes(seal_record(ahead, SIGNER))
    verdict = shares(record)
    assert (verdict.status, "in the future" in verdict.observed) == ("failed", True), verdict


def test_custodians_who_fall_silent_and_old_ceremonies_are_found(record: Path) -> None:
    verdict = shares(record, NOW + dt.timedelta(days=401))
    assert (verdict.status, "showed no share for 401.0 d" in verdict.observed) == ("failed", True)
    for custodian in RECORD.custodians[1:]:
        confirmed: ShareRecord = RECORD.confirmed(custodian, NOW + dt.timedelta(days=400))
        record.write_bytes(seal_record(confirmed, SIGNER))
    assert "Ann" in shares(record, NOW + dt.timedelta(days=401)).observed
    assert shares(record, NOW + dt.timedelta(days=4 * 365)).status == "failed"


def test_arbitrary_bytes_are_no_record(record: Path) -> None:
    chance, whole = random.Random(3), record.read_bytes()
    for _ in range(300):
        cut = bytearray(whole)
        cut[chance.randrange(len(cut))] ^= 1 << chance.randrange(8)
        record.write_bytes(bytes(cut) if chance.random() < 0.7 else chance.randbytes(chance.randrange(2000)))
        verdict = shares(record)
        assert verdict.status == "failed", record.read_bytes()
        assert "This is a fault of vedr" not in verdict.remedy


# --- secrets


class Custody:
    """Secrets that can be read, but for those that are gone."""

    def __init__(self, *gone: str, made: dt.datetime = NOW) -> None:
        self.gone, self.made = gone, made

    def read_secret(self, reference: str) -> None:
        if reference in self.gone:
            raise NotFoundError(f"{reference} is not there", remedy="Put it there.")

    def passphrase_made(self, _kind: KeyKind, _epoch: Epoch) -> dt.datetime:
        return self.made

    def replications(self) -> tuple[Replication, ...]:
        return ()


def secrets_access(world: Any, probe: Custody, *, key: str = SIGNER.public_hex) -> Verdict:
    site = site_of(model_dump=lambda **_: {"signing": {"key": "file:/k"}, "regions": [{"pin": "env:PIN"}], "x": "y"})
    return credentials.secrets_access(site, probe, world.repository.escrow, key, POLICY)


def test_every_reference_of_the_site_is_tried(keys: Any) -> None:
    verdict = secrets_access(keys, Custody())
    assert (verdict.status, verdict.observed.partition(",")[0]) == ("passed", "2 references readable")
    for gone, where in (("file:/k", "signing.key"), ("env:PIN", "regions[0].pin")):
        verdict = secrets_access(keys, Custody(gone))
        assert (verdict.status, verdict.observed.startswith(f"{where}: ")) == ("failed", True)


def test_a_signing_key_that_the_site_does_not_trust_fails(keys: Any) -> None:
    assert secrets_access(keys, Custody(), key="0" * 64).status == "failed"


def test_a_passphrase_missing_in_one_region_fails(keys: Any) -> None:
    keys.vault.down.add("ap-south")
    verdict = secrets_access(keys, Custody())
    assert (verdict.status, "ap-south" in verdict.observed) == ("failed", True)
    keys.vault.down.add("eu-west")
    assert secrets_access(keys, Custody()).status == "could not run"


def test_passphrases_that_differ_between_regions_fail(keys: Any) -> None:
    for name in keys.vault.values["eu-west"]:
        keys.vault.values["eu-west"][name] = b"another"
    verdict = secrets_access(keys, Custody())
    assert verdict.status == "failed"
    assert "another value" in verdict.observed


# --- expiry


class Tls(SiteNetwork):
    """Endpoints whose certificates end."""

    def __init__(self, left: dt.timedelta | None) -> None:
        super().__init__(zone=None)
        self.left = left

    def certificate(self, url: str, **_: object) -> Certificate:
        if self.left is None:
            raise UnavailableError(f"{url} does not answer", remedy="Look.")
        return Certificate(NOW - dt.timedelta(days=365), NOW + self.left)


def test_a_site_file_without_an_https_url_has_no_certificate_that_could_pass(keys: Any) -> None:
    site = site_of(model_dump=lambda **_: {"nodes": [{"rpc": "http://a:1"}]})
    verdict = credentials.expiry(site, Tls(None), Custody(made=NOW), keys.repository, NOW)
    assert (verdict.status, "no https URL" in verdict.observed) == ("warning", True)


def expiry(world: Any, *, days: float | None = 90, made_days: float = 1) -> Verdict:
    site = site_of(model_dump=lambda **_: {"nodes": [{"rpc": "https://a:1/x"}, {"rpc": "https://a:1/y"}]})
    assert list(credentials.https_hosts(site)) == ["a:1"]
    probe = Custody(made=NOW - dt.timedelta(days=made_days))
    tls = Tls(None if days is None else dt.timedelta(days=days))
    return credentials.expiry(site, tls, probe, world.repository, NOW)


@pytest.mark.parametrize(
    ("days", "status"), [(90, "passed"), (29, "warning"), (6, "failed"), (-1, "failed"), (None, "could not run")]
)
def test_certificates_warn_fail_and_expire(keys: Any, days: float | None, status: str) -> None:
    assert expiry(keys, days=days).status == status


@pytest.mark.parametrize(("made_days", "status"), [(1, "passed"), (340, "warning"), (366, "failed")])
def test_passphrases_grow_old(keys: Any, made_days: float, status: str) -> None:
    assert expiry(keys, made_days=made_days).status == status


@pytest.mark.parametrize(("days", "status"), [(300, "passed"), (340, "warning"), (400, "warning"), (731, "failed")])
def test_keys_grow_old_by_the_rotation_policy(keys: Any, days: float, status: str) -> None:
    keys.clock.advance(days=days)
    assert expiry(keys).status == status


def test_a_region_of_which_no_key_is_known_fails() -> None:
    world = keysworld.make_world()
    back_up(world, "us-east", "eu-west")
    verdict = expiry(world)
    assert (verdict.status, "keys of ap-south: no key is known" in verdict.observed) == ("failed", True)


def test_a_damaged_catalogue_is_no_young_key(keys: Any) -> None:
    for store in keys.stores.values():
        for found in list(store.list("")):
            if "/keys/c/" in found.key:
                store.damage(found.key, b"rot")
    assert expiry(keys).status in ("failed", "could not run")
