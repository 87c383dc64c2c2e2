"""RB-DR-005's containment: seconds, all at once, said to people before anything can fail, and made up for later.

Real: the runbook, the registers' protocol and SoftHSM's tokens.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chainmaker import CHAIN_ID, key
from compromise_world import STOPPED_AT, FakeSite, chain, opened_site, results, run
from keysworld import REGIONS
from sitemaker import make_site

from tasks import compromise_containing
from vedr.adapters import pkcs11_token_site
from vedr.adapters.fence_hsm import TokenKeys
from vedr.adapters.memory_registers import MemoryRegisters
from vedr.adapters.pkcs11_token_process import TokenProcess
from vedr.chain.appointment import NOBODY, appointed
from vedr.chain.register import NEVER_SIGNED, Validator
from vedr.chain.register_holding import SignStateRegister
from vedr.custody.key_material import VALIDATOR_FILE
from vedr.errors import UnavailableError, VedrError
from vedr.inventory import RemoteSigner, Site

OWNER = "validator-us-east"
SIGNER = RemoteSigner(
    name="home", validator=OWNER, node=OWNER, unit="vedr-signer", listen="unix:///opt/virtengine/signer.sock"
)


class Remote:
    """A validator that signs remotely, with a signer that holds the registers and is at work."""

    def __init__(self, site: FakeSite) -> None:
        self.site = site
        self.validator = Validator(CHAIN_ID, site.site.node(OWNER).address)
        self.registers = {region: MemoryRegisters(region) for region in REGIONS}
        vars(site)["registers"] = self.registers
        register = SignStateRegister(self.registers, self.validator)
        register.found(NEVER_SIGNED)
        self.holding = register.take_over(1, "home/1", at_least=NEVER_SIGNED)

    def cut(self, *regions: str, down: bool = True) -> None:
        for region in regions:
            self.registers[region].faults.down = down

    @property
    def is_denied(self) -> bool:
        order = appointed(self.registers, self.validator)
        return order is not None and order.name == NOBODY


def remote_signing(site: Site) -> Site:
    return site.model_copy(update={"signers": (SIGNER,)})


@pytest.fixture
def site_path(tmp_path: Path) -> Path:
    return make_site(tmp_path, chain_id=CHAIN_ID, validators={r: key(n) for n, r in enumerate(REGIONS, start=1)})


@contextlib.contextmanager
def remote(path: Path, patch: pytest.MonkeyPatch, change: Callable[[Site], Site] = remote_signing) -> Iterator[Remote]:
    patch.setenv("VEDR_PLAIN", "1")
    with opened_site(path, patch, until=STOPPED_AT, changed=change) as site:
        made = Remote(site)
        yield made
        made.holding.close()


def compromised(site: FakeSite, **more: Any) -> dict[str, Any]:
    return results(site, run(kind="validator", owner=OWNER, **more).run_id)


def test_the_key_is_out_of_use_within_seconds_of_the_start(site_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with remote(site_path, monkeypatch) as made:
        began = time.process_time()
        done = compromised(made.site)
        entries = made.site.journal.read(made.site.journal.runs_of("RB-DR-005")[0]).entries
    steps = [entry.payload["step"] for entry in entries if entry.kind == "step_started"]
    assert steps[:2] == ["contain", "notify_security"]
    contained = next(e for e in entries if e.kind == "step_completed" and e.payload["step"] == "contain")
    assert (contained.time - entries[0].time).total_seconds() < 10 or time.process_time() - began < 10
    assert done["contain"]["stopped"]
    assert made.is_denied
    with pytest.raises(VedrError):  # whoever signed until now
        made.holding.advance(NEVER_SIGNED)


def test_a_host_that_is_silent_delays_the_registers_by_nothing(
    site_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remote(site_path, monkeypatch) as made:
        made.site.host.down = True
        with pytest.raises(UnavailableError, match="does not answer"):
            compromised(made.site)
        assert made.is_denied
        assert set(made.site.host.calls) == {"stop vedr-signer"}  # tried, which the registers do not wait for
        (order,) = [appointed(made.registers, made.validator)]
        assert order is not None
        assert order.seq == 1  # once, though its host was asked three times


def test_registers_that_no_majority_shows_are_said_to_be_open_and_denied_before_there_is_a_new_key(
    site_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remote(site_path, monkeypatch) as made:
        monkeypatch.setattr(compromise_containing, "DENY_LIMIT_S", 0.5)
        made.cut("us-east", "eu-west")
        with pytest.raises(UnavailableError, match="its remote signers may sign on"):
            compromised(made.site)
        (incident,) = made.site.journal.runs_of("RB-DR-005")
        done = results(made.site, incident)
        assert "NOT CONTAINED (its remote signers may sign on" in done["notify_security"]["text"]
        assert made.site.host.states[OWNER] == "stopped"  # all else is done
        assert done["contain"]["set_aside"]
        assert "rotate_key" not in done
        made.cut("us-east", "eu-west", down=False)
        done = compromised(made.site, incident=incident)
        assert made.is_denied
        assert done["report"]["headline"].startswith(f"{OWNER}'s validator key: contained, replaced by ")


def test_security_is_told_that_stopping_the_key_halts_the_chain_and_what_not_to_do(
    site_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remote(site_path, monkeypatch) as made:
        made.site.made = chain(others=(2, 3))  # of 40 power 10 is gone already: 27 are needed
        done = compromised(made.site)
    assert "the CHAIN HALTS" in done["notify_security"]["text"]
    assert "never start this key again" in done["notify_security"]["text"]
    assert "CHAIN HALTS" in done["assess"]["summary"]


# --- tokens


class Tokens:
    """A token with the validator's key in two regions, and its reference."""

    def __init__(self, maker: Any) -> None:
        self.maker = maker
        self.hsms = {region: maker.make(region) for region in ("us-east", "eu-west")}
        seed = key(1).private_bytes_raw()
        for hsm in self.hsms.values():
            with TokenProcess(hsm, maker.pin, writable=True) as token:
                token.import_ed25519(seed, label="val-0", key_id=b"\x01")

    def on(self, site: Site) -> Site:
        regions = {
            name: region.model_copy(update={"hsm": self.hsms.get(name)}) for name, region in site.regions.items()
        }
        return remote_signing(site).model_copy(update={"regions": regions})

    def sign(self) -> list[str]:
        return [region for region, hsm in self.hsms.items() if TokenKeys(hsm, self.maker.pin).signs("val-0")]


@pytest.mark.server
def test_the_key_is_disabled_in_every_region_s_token_and_one_that_is_silent_is_left_to_people(
    site_path: Path, monkeypatch: pytest.MonkeyPatch, soft_hsm: Any
) -> None:
    tokens = Tokens(soft_hsm)
    with remote(site_path, monkeypatch, tokens.on) as made:
        pkcs11_token_site.make(made.site, "val-0", role="validator")
        silent = tokens.hsms["eu-west"]
        assert silent.config is not None
        text = silent.config.read_text()
        silent.config.write_text("directories.tokendir = /nowhere\n")
        done = compromised(made.site)
        silent.config.write_text(text)
    assert tokens.sign() == ["eu-west"]
    (left,) = done["contain"]["in_tokens"]
    assert left["region"] == "eu-west"
    assert "the HSM of eu-west may sign with it still" in done["notify_security"]["text"]
    report = done["report"]
    assert "contained but for its HSMs" in report["headline"]
    assert report["checklist"][0].startswith("[ ] contained")
    assert "disable it by hand" in report["operator_steps"][0]
    assert made.is_denied


def only_in_its_token(made: Remote) -> None:
    """No file, and no backup of one."""
    (made.site.files.home(made.site.site.node(OWNER)) / VALIDATOR_FILE).unlink()
    for store in made.site.keys.stores.values():
        for stored in store.list(""):
            store.delete(stored.key)


@pytest.mark.server
def test_a_key_that_only_tokens_hold_is_revoked_by_their_reference(
    site_path: Path, monkeypatch: pytest.MonkeyPatch, soft_hsm: Any
) -> None:
    tokens = Tokens(soft_hsm)
    with remote(site_path, monkeypatch, tokens.on) as made:
        only_in_its_token(made)
        pkcs11_token_site.make(made.site, "val-0", role="validator")
        done = compromised(made.site)
    public_key = key(1).public_key().public_bytes_raw().hex()
    assert done["fence_key"]["public_keys"] == [public_key]
    assert any("it is recorded as revoked" in step for step in done["report"]["operator_steps"])


def test_a_key_that_nobody_knows_is_not_said_to_be_revoked(site_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with remote(site_path, monkeypatch) as made:
        only_in_its_token(made)
        done = compromised(made.site)
    assert done["fence_key"]["fingerprints"] == []
    assert not any("it is recorded as revoked" in step for step in done["report"]["operator_steps"])
    assert any("could not be recorded" in step for step in done["report"]["operator_steps"])
