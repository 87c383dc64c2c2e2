"""`vedr hsm` on a site whose regions have real SoftHSM tokens and stores in memory."""

import contextlib
import json
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from vedr.adapters import pkcs11_token_site
from vedr.adapters.memory_store import MemoryStore
from vedr.adapters.pkcs11_token import Pkcs11Token, open_here
from vedr.adapters.pkcs11_token_process import TokenProcess
from vedr.adapters.pkcs11_token_provisioning import generate, import_ed25519
from vedr.adapters.secrets import resolve
from vedr.adapters.site import OpenSite
from vedr.cli import build, hsm
from vedr.custody.hsm_keys import PublicKey
from vedr.errors import InvalidInputError, NotFoundError, RefusedError, VedrError, VerificationFailedError
from vedr.inventory import Hsm, Site

EXAMPLE = Path(__file__).parents[3] / "deployments" / "sites" / "production.example.toml"
MakeKey = Callable[[int], tuple[bytes, PublicKey]]


@dataclass
class Station:
    """A site with tokens in us-east and eu-west, and the command line on it."""

    site: Site
    hsms: dict[str, Hsm]
    stores: dict[str, MemoryStore]
    write: Callable[[str, Callable[[Any], object]], None]

    def command(self, *words: str) -> str:
        result = CliRunner(env={"COLUMNS": "250"}).invoke(hsm.app, words)
        if isinstance(result.exception, VedrError):
            result.exception.output = result.output  # type: ignore[attr-defined]
            raise result.exception
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    def replace(self, region: str, **changed: Any) -> None:
        """Describe a region differently from now on."""
        regions = self.site.regions | {region: self.site.regions[region].model_copy(update=changed)}
        self.site = self.site.model_copy(update={"regions": regions})


def make_station(folder: Path, hsms: dict[str, Hsm], address: str, write: Any, patch: pytest.MonkeyPatch) -> Station:
    key = Ed25519PrivateKey.generate()
    pem = folder / "signing.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    raw = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    raw["signing"] = {"key": f"file:{pem}", "trusted": [key.public_key().public_bytes_raw().hex()]}
    for region in raw["regions"]:
        raw["regions"][region].pop("hsm", None)
        if region in hsms:
            raw["regions"][region]["hsm"] = json.loads(hsms[region].model_dump_json())
    next(node for node in raw["nodes"] if node["role"] == "validator")["address"] = address
    stores = {region: MemoryStore(region) for region in raw["regions"]}
    made = Station(Site.model_validate(raw), hsms, stores, write)

    @contextlib.contextmanager
    def open_site(_: str | None = None) -> Iterator[OpenSite]:
        with OpenSite(made.site) as opened:
            opened.__dict__["stores"] = made.stores
            yield opened

    patch.setattr(hsm, "open_site", open_site)
    return made


@pytest.fixture
def station(bench: Any, make_key: MakeKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Station]:
    """With the key `val-0` on both tokens, which are opened in this process to be quick."""

    def write(region: str, work: Callable[[Pkcs11Token], object]) -> None:
        with bench.open(region) as token:
            work(token)

    def open_token(place: Hsm) -> Pkcs11Token:
        return open_here(place.module, place.token_label, resolve(place.pin))

    monkeypatch.setattr(pkcs11_token_site, "open_token", open_token)
    hsms = {region: bench.hsms[region] for region in ("us-east", "eu-west")}
    seed, public = make_key(1)
    for region in hsms:
        write(region, lambda token: import_ed25519(token, seed, label="val-0", key_id=b"\x01"))
    yield make_station(tmp_path, hsms, public.consensus_address, write, monkeypatch)
    for region in hsms:
        write(region, bench.empty)


@pytest.fixture
def real_station(soft_hsm: Any, make_key: MakeKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Station:
    """With the key `val-0` on both tokens, each with its own configuration, opened as people's commands open them."""

    def write(region: str, work: Callable[[TokenProcess], object]) -> None:
        with TokenProcess(hsms[region], soft_hsm.pin, writable=True) as token:
            work(token)

    hsms = {region: soft_hsm.make(region) for region in ("us-east", "eu-west")}
    seed, public = make_key(1)
    for region in hsms:
        write(region, lambda token: token.import_ed25519(seed, label="val-0", key_id=b"\x01"))
    return make_station(tmp_path, hsms, public.consensus_address, write, monkeypatch)


def test_the_command_is_registered() -> None:
    result = CliRunner().invoke(build(), ["hsm", "--help"])
    assert result.exit_code == 0
    assert all(name in result.stdout for name in ("reference", "check", "inventory"))


def test_a_replicated_key_is_recorded_checked_and_listed(
    real_station: Station, soft_hsm: Any, make_key: MakeKey
) -> None:
    station, (_, public) = real_station, make_key(1)
    made = json.loads(station.command("reference", "val-0", "--json"))
    assert made["consensus_address"] == public.consensus_address
    assert sorted(made["tokens"]) == ["eu-west", "us-east"]
    assert made["stored_in"] == sorted(station.site.regions)
    (checked,) = json.loads(station.command("check", "--json"))
    assert checked["whole"]
    assert [token["passed"] for token in checked["tokens"]] == [True, True]
    listed = json.loads(station.command("inventory", "--json"))
    assert [(each["region"], each["problems"]) for each in listed] == [("us-east", []), ("eu-west", [])]
    (only,) = json.loads(station.command("inventory", "--region", "eu-west", "--json"))
    assert only["region"] == "eu-west"
    stored = [store.get(found.key) for store in station.stores.values() for found in store.list("")]
    assert stored
    assert all(soft_hsm.pin() not in data for data in stored)


def test_people_see_tables(station: Station, make_key: MakeKey) -> None:
    _, public = make_key(1)
    shown = station.command("reference", "val-0")
    assert public.consensus_address in shown
    assert "eu-west: replica on token" in shown
    assert station.command("check", "val-0").count("signed") == 2
    shown = station.command("inventory")
    assert shown.count(public.fingerprint) == 2


def test_a_key_that_is_no_validators_has_no_address(station: Station) -> None:
    station.write("us-east", lambda token: generate(token, "p-256", label="provider-0", key_id=b"\x05"))
    shown = station.command("reference", "provider-0", "--role", "provider", "--region", "us-east")
    assert "consensus" not in shown
    with pytest.raises(VerificationFailedError, match="so there is no replica") as caught:
        station.command("check", "provider-0")
    assert "no replica by the reference" in caught.value.output  # type: ignore[attr-defined]


def test_a_failed_check_is_shown_whole_and_ends_with_its_status(station: Station) -> None:
    station.command("reference", "val-0")
    station.replace("eu-west", hsm=station.hsms["eu-west"].model_copy(update={"token_label": "[/]gone"}))
    with pytest.raises(VerificationFailedError, match=r"eu-west: token '\[/\]gone'.*no such token") as caught:
        station.command("check", "--json")
    assert caught.value.exit_code == 3
    (shown,) = json.loads(caught.value.output)  # type: ignore[attr-defined]
    assert [token["passed"] for token in shown["tokens"]] == [False, True]
    for command in ("check", "inventory"):
        with pytest.raises(VerificationFailedError) as caught:
            station.command(command)
        assert "'[/]gone'" in caught.value.output  # type: ignore[attr-defined]
        assert "us-east" in caught.value.output  # type: ignore[attr-defined]


def test_what_fits_no_token_is_shown_beside_the_tokens(station: Station) -> None:
    station.command("reference", "val-0")
    chain = station.site.chain.model_copy(update={"chain_id": "other-1"})
    station.site = station.site.model_copy(update={"chain": chain})
    with pytest.raises(VerificationFailedError, match="the site is other-1") as caught:
        station.command("check")
    assert "the site is other-1" in caught.value.output  # type: ignore[attr-defined]


def test_an_inventory_with_problems_is_shown_and_fails(station: Station, bench: Any) -> None:
    station.command("reference", "val-0")
    station.write("us-east", lambda token: generate(token, "p-256", label="[/]left over", key_id=b"\x06"))
    station.write("eu-west", bench.empty)
    with pytest.raises(VerificationFailedError, match=r"us-east: .*not in a reference") as caught:
        station.command("inventory")
    assert "[/]left over" in caught.value.output  # type: ignore[attr-defined]
    assert "missing" in caught.value.output  # type: ignore[attr-defined]
    with pytest.raises(VerificationFailedError, match=r"eu-west: 'val-0' \(01\): missing") as caught:
        station.command("inventory", "--region", "eu-west", "--json")
    (shown,) = json.loads(caught.value.output)  # type: ignore[attr-defined]
    assert shown["problems"] == [{"fault": "missing", "label": "val-0", "id": "01"}]


def test_nothing_to_check_is_a_failure(station: Station) -> None:
    with pytest.raises(NotFoundError, match="has no references"):
        station.command("check")
    with pytest.raises(NotFoundError, match="no reference of val-0"):
        station.command("check", "val-0")


def test_a_site_without_tokens_says_so(station: Station) -> None:
    for region in station.site.regions:
        station.replace(region, hsm=None)
    for words in (("reference", "val-0"), ("inventory",)):
        with pytest.raises(InvalidInputError, match="has no HSM"):
            station.command(*words)
    with pytest.raises(NotFoundError, match="region us-east has no HSM"):
        station.command("inventory", "--region", "us-east")


def test_a_wrong_role_and_a_wrong_pin_are_refused(station: Station, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="--role emperor"):
        station.command("reference", "val-0", "--role", "emperor")
    wrong = tmp_path / "wrong.pin"
    wrong.touch(mode=0o600)
    wrong.write_text("0000")
    station.replace("eu-west", hsm=station.hsms["eu-west"].model_copy(update={"pin": f"file:{wrong}"}))
    with pytest.raises(RefusedError, match="PIN is wrong"):
        station.command("reference", "val-0")
