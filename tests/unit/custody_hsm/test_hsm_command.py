"""`vedr hsm` on a site whose regions have real SoftHSM tokens and stores in memory."""

import contextlib
import json
import shutil
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
from vedr.adapters.pkcs11_token_process import TokenProcess
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
    pin: Callable[[], bytes]
    stores: dict[str, MemoryStore]
    tokens: Path

    def command(self, *words: str) -> str:
        result = CliRunner(env={"COLUMNS": "250"}).invoke(hsm.app, words)
        if isinstance(result.exception, VedrError):
            result.exception.output = result.output  # type: ignore[attr-defined]
            raise result.exception
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    def put(self, seed: bytes, *regions: str) -> None:
        for region in regions:
            with TokenProcess(self.hsms[region], self.pin, writable=True) as token:
                token.import_ed25519(seed, label="val-0", key_id=b"\x01")

    def without_tokens(self) -> Site:
        regions = {name: region.model_copy(update={"hsm": None}) for name, region in self.site.regions.items()}
        return self.site.model_copy(update={"regions": regions})


@pytest.fixture
def station(soft_hsm: Any, make_key: MakeKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Station:
    hsms = {region: soft_hsm.make(region) for region in ("us-east", "eu-west")}
    key = Ed25519PrivateKey.generate()
    pem = tmp_path / "signing.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    raw = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    raw["signing"] = {"key": f"file:{pem}", "trusted": [key.public_key().public_bytes_raw().hex()]}
    for region in raw["regions"]:
        raw["regions"][region].pop("hsm", None)
        if region in hsms:
            raw["regions"][region]["hsm"] = json.loads(hsms[region].model_dump_json())
    validator = next(node for node in raw["nodes"] if node["role"] == "validator")
    validator["address"] = make_key(1)[1].consensus_address
    made = Station(
        site=Site.model_validate(raw),
        hsms=hsms,
        pin=soft_hsm.pin,
        stores={region: MemoryStore(region) for region in raw["regions"]},
        tokens=tmp_path / "hsm",
    )

    @contextlib.contextmanager
    def open_site(_: str | None = None) -> Iterator[OpenSite]:
        with OpenSite(made.site) as opened:
            opened.__dict__["stores"] = made.stores
            yield opened

    monkeypatch.setattr(hsm, "open_site", open_site)
    return made


def test_the_command_is_registered() -> None:
    result = CliRunner().invoke(build(), ["hsm", "--help"])
    assert result.exit_code == 0
    assert all(name in result.stdout for name in ("reference", "check", "inventory"))


def test_a_replicated_key_is_recorded_checked_and_listed(station: Station, make_key: MakeKey) -> None:
    seed, public = make_key(1)
    station.put(seed, "us-east", "eu-west")
    made = json.loads(station.command("reference", "val-0", "--json"))
    assert made["consensus_address"] == public.consensus_address
    assert sorted(made["tokens"]) == ["eu-west", "us-east"]
    assert made["stored_in"] == sorted(station.site.regions)
    for words in (("check",), ("check", "val-0")):
        (checked,) = json.loads(station.command(*words, "--json"))
        assert checked["whole"]
        assert [token["passed"] for token in checked["tokens"]] == [True, True]
    listed = json.loads(station.command("inventory", "--json"))
    assert [(each["region"], each["problems"]) for each in listed] == [("us-east", []), ("eu-west", [])]
    (only,) = json.loads(station.command("inventory", "--region", "eu-west", "--json"))
    assert only["region"] == "eu-west"
    pin = station.pin().decode()
    assert all(
        pin.encode() not in store.get(found.key) for store in station.stores.values() for found in store.list("")
    )


def test_people_see_tables(station: Station, make_key: MakeKey) -> None:
    seed, public = make_key(1)
    station.put(seed, "us-east", "eu-west")
    shown = station.command("reference", "val-0")
    assert public.consensus_address in shown
    assert "eu-west: replica on token" in shown
    shown = station.command("check")
    assert shown.count("signed") == 2
    shown = station.command("inventory")
    assert shown.count(public.fingerprint) == 2


def test_a_key_that_is_no_validators_has_no_address(station: Station) -> None:
    with TokenProcess(station.hsms["us-east"], station.pin, writable=True) as token:
        token.generate("p-256", label="provider-0", key_id=b"\x05")
    shown = station.command("reference", "provider-0", "--role", "provider", "--region", "us-east")
    assert "consensus" not in shown
    with pytest.raises(VerificationFailedError, match="so there is no replica") as caught:
        station.command("check", "provider-0")
    assert "no replica by the reference" in caught.value.output  # type: ignore[attr-defined]


def test_a_failed_check_is_shown_whole_and_ends_with_its_status(station: Station, make_key: MakeKey) -> None:
    station.put(make_key(1)[0], "us-east", "eu-west")
    station.command("reference", "val-0")
    shutil.rmtree(station.tokens / "eu-west" / "tokens")
    (station.tokens / "eu-west" / "tokens").mkdir()
    with pytest.raises(VerificationFailedError, match=r"eu-west: token 'eu-west'.*no such token") as caught:
        station.command("check", "--json")
    assert caught.value.exit_code == 3
    (shown,) = json.loads(caught.value.output)  # type: ignore[attr-defined]
    assert [token["passed"] for token in shown["tokens"]] == [False, True]
    with pytest.raises(VerificationFailedError) as caught:
        station.command("check")
    assert "no such token" in caught.value.output  # type: ignore[attr-defined]
    with pytest.raises(VerificationFailedError, match="eu-west: token 'eu-west'") as caught:
        station.command("inventory")
    assert "us-east" in caught.value.output  # type: ignore[attr-defined]


def test_what_fits_no_token_is_shown_beside_the_tokens(station: Station, make_key: MakeKey) -> None:
    station.put(make_key(1)[0], "us-east", "eu-west")
    station.command("reference", "val-0")
    chain = station.site.chain.model_copy(update={"chain_id": "other-1"})
    station.site = station.site.model_copy(update={"chain": chain})
    with pytest.raises(VerificationFailedError, match="the site is other-1") as caught:
        station.command("check")
    assert "the site is other-1" in caught.value.output  # type: ignore[attr-defined]


def test_an_inventory_with_problems_is_shown_and_fails(station: Station, make_key: MakeKey) -> None:
    station.put(make_key(1)[0], "us-east", "eu-west")
    station.command("reference", "val-0")
    with TokenProcess(station.hsms["us-east"], station.pin, writable=True) as token:
        token.generate("rsa-2048", label="[/]left over", key_id=b"\x06")
    with pytest.raises(VerificationFailedError, match="not in a reference") as caught:
        station.command("inventory")
    assert "[/]left over" in caught.value.output  # type: ignore[attr-defined]


def test_a_key_that_is_gone_is_listed_as_missing(station: Station, make_key: MakeKey, soft_hsm: Any) -> None:
    station.put(make_key(1)[0], "us-east", "eu-west")
    station.command("reference", "val-0")
    shutil.rmtree(station.tokens / "us-east")
    soft_hsm.make("us-east")
    with pytest.raises(VerificationFailedError, match=r"us-east: 'val-0' .*missing") as caught:
        station.command("inventory")
    assert "missing" in caught.value.output  # type: ignore[attr-defined]


def test_nothing_to_check_is_a_failure(station: Station) -> None:
    with pytest.raises(NotFoundError, match="has no references"):
        station.command("check")
    with pytest.raises(NotFoundError, match="no reference of val-0"):
        station.command("check", "val-0")


def test_a_site_without_tokens_says_so(station: Station) -> None:
    station.site = station.without_tokens()
    for words in (("reference", "val-0"), ("inventory",)):
        with pytest.raises(InvalidInputError, match="has no HSM"):
            station.command(*words)
    with pytest.raises(NotFoundError, match="region us-east has no HSM"):
        station.command("inventory", "--region", "us-east")


def test_a_wrong_role_and_a_wrong_pin_are_refused(station: Station, make_key: MakeKey, tmp_path: Path) -> None:
    station.put(make_key(1)[0], "us-east", "eu-west")
    with pytest.raises(InvalidInputError, match="--role emperor"):
        station.command("reference", "val-0", "--role", "emperor")
    (tmp_path / "hsm" / "pin").write_text("0000")
    with pytest.raises(RefusedError, match="PIN is wrong"):
        station.command("reference", "val-0")


def test_openers_are_of_every_region_with_a_token(station: Station) -> None:
    with OpenSite(station.site) as opened:
        assert list(pkcs11_token_site.openers(opened)) == ["us-east", "eu-west"]
