"""The audit's findings, the facts that it is fed with, and its picture."""

import datetime as dt
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from xml.etree import ElementTree as ET

import pytest
import typer
from beside import beside
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.adapters.memory_store import MemoryStore
from vedr.chain.quorum import OUTSIDE, PowerMap
from vedr.chain.register import NEVER_SIGNED, Validator
from vedr.chain.register_holding import SignStateRegister
from vedr.chain.rpc import ConsensusState, SeenVote
from vedr.cli import topology as command
from vedr.errors import InvalidInputError, UnavailableError, VedrError, VerificationFailedError
from vedr.failover.key_holders import KeyHolders
from vedr.failover.promotion_record import TEXT, facts_of
from vedr.inventory import Height, Node, Site
from vedr.ledger import RunId
from vedr.ports import Registers
from vedr.readiness.topology import Audit, audit, audit_json
from vedr.readiness.topology_facts import audit_live, observe
from vedr.reports.topology_picture import draw
from vedr.runbook.journal import Journal
from vedr.signature import Signer

HERE = Path(__file__).parent
chainmaker = beside("chainmaker", HERE.parent / "chain" / "chainmaker.py")
world = beside("topology_world", HERE / "topology_world.py")
make_site, power_of, addresses = world.make_site, world.power_of, world.addresses
REGIONS = world.REGIONS
KEY = Signer(Ed25519PrivateKey.generate())

FIVE = dict.fromkeys(range(1, 6), 10)
STANDBYS = {1: ["full-eu-west-1a", "full-us-east-1b"], 3: ["full-us-east-1a", "full-ap-south-1a"]}


def audited(site: Site, powers: Mapping[int, int] | None = None, *online: int, **more: object) -> Audit:
    powers = powers or FIVE
    return audit(site, power_of(site, powers), addresses(*(online or powers)), **more)


def said(found: Audit, rule: str) -> dict[str, str]:
    """Severity by subject of one rule's findings."""
    return {finding.subject: finding.severity for finding in found.findings if finding.rule == rule}


# --- findings


def test_a_region_that_halts_the_chain_is_critical_until_a_promotion_makes_it_good() -> None:
    halting = {"region us-east": "critical", "region eu-west": "critical"}
    assert said(audited(make_site()), "loss") == said(audited(make_site()), "power") == halting
    mended = audited(make_site(standbys=STANDBYS))
    restorable = dict.fromkeys(halting, "warning")
    assert said(mended, "loss") == said(mended, "power") == restorable
    mended.require_sound()


def test_a_standby_without_an_hsm_in_its_region_or_whose_node_is_silent_does_not_count() -> None:
    assert said(audited(make_site(standbys=STANDBYS, hsm=("us-east", "ap-south"))), "loss") == {
        "region us-east": "critical",
        "region eu-west": "warning",
    }
    site = make_site(standbys=STANDBYS)
    serving = [node.name for node in site.nodes if node.name != "full-eu-west-1a"]
    assert said(audited(site, serving=serving), "loss")["region us-east"] == "critical"


def test_an_unsound_topology_is_refused_with_what_and_what_next() -> None:
    with pytest.raises(VerificationFailedError) as caught:
        audited(make_site()).require_sound()
    assert "the loss of region us-east (20 power) halts the chain, 4 short" in caught.value.message
    assert "Give val2, val1" in caught.value.remedy or "Give val1, val2" in caught.value.remedy


def test_a_fourth_domain_outside_makes_every_loss_survivable() -> None:
    found = audited(make_site(("us-east-1a", "eu-west-1a", "ap-south-1a")), {1: 33, 2: 33, 3: 33, 9: 1})
    assert found.survives_any_region
    assert [row.name for row in found.regions][-1] == OUTSIDE
    assert (found.critical, said(found, "layout"), said(found, "power")) == ((), {}, {})


def test_power_outside_above_a_third_is_a_note_since_nobody_here_can_move_it() -> None:
    found = audited(make_site(), {1: 10, 3: 10, 5: 10, 9: 20})
    assert said(found, "power") == {"region outside": "note"}
    assert said(found, "loss") == {"region outside": "warning"}


def test_a_halted_chain_is_critical_and_told_what_restores_it() -> None:
    found = audited(make_site(standbys={1: ["full-eu-west-1a"]}), FIVE, 3, 4, 5)
    [first] = [finding for finding in found.findings if finding.rule == "quorum"]
    assert first.severity == "critical"
    assert "30 power takes part, 34 is needed; to restore it promote 1: val1 at full-eu-west-1a" in first.message
    assert found.now.halting == ()
    assert said(found, "validators") == {"site test": "warning"}


def test_a_chain_that_stands_still_with_quorum_is_critical() -> None:
    site = make_site(standbys=STANDBYS)
    assert said(audited(site, moving=False), "quorum") == {"chain": "critical"}
    assert said(audited(site), "quorum") == {}


def test_a_region_in_one_zone_with_one_full_node_without_hsm_or_own_store_breaks_each_rule() -> None:
    site = make_site(hsm=("us-east",))
    nodes = [
        node.model_copy(update={"zone": "ap-south-1a"}) if node.region == "ap-south" else node for node in site.nodes
    ]
    nodes = [node for node in nodes if node.name != "full-ap-south-1b"]
    regions = {
        name: region.model_copy(update={"store": region.store.model_copy(update={"cloud_region": "us-east-1"})})
        for name, region in site.regions.items()
    }
    found = audited(site.model_copy(update={"nodes": tuple(nodes), "regions": regions}))
    for rule, subject in {
        "zones": "region ap-south",
        "full-nodes": "region ap-south",
        "hsm": "site test",
        "backups": "site test",
    }.items():
        assert said(found, rule) == {subject: "critical"}, rule


def test_full_nodes_that_do_not_answer_warn_and_none_left_is_critical() -> None:
    site = make_site()
    up = [node.name for node in site.nodes if not node.name.startswith(("full-ap-south", "full-eu-west-1a"))]
    assert said(audited(site, serving=up), "full-nodes") == {
        "region eu-west": "warning",
        "region ap-south": "critical",
    }


def test_a_validator_that_is_not_in_the_set_is_named() -> None:
    found = audited(make_site(), {1: 10, 2: 10, 3: 10, 4: 10})
    assert "not in the active set: val5" in [f.message for f in found.findings if f.rule == "validators"]


def test_a_promoted_validator_counts_where_it_signs_now_and_its_home_is_its_standby() -> None:
    site = make_site(standbys=STANDBYS)
    found = audited(site, hosts={"val1": "full-eu-west-1a", "val3": None})
    assert {row.name: row.power for row in found.regions} == {"us-east": 10, "eu-west": 30, "ap-south": 10}
    lost = {str(loss): loss for loss in found.now.singles}["region eu-west"]
    assert [one.node for one in lost.restoration.promote] == ["val1", "full-us-east-1a"]
    assert any("is not known" in finding.message and "val3" in finding.message for finding in found.findings)


def test_an_empty_validator_set_is_no_answer() -> None:
    with pytest.raises(InvalidInputError, match="empty"):
        audit(make_site(), PowerMap(()), [])


def test_the_json_holds_no_float_and_agrees_with_the_audit() -> None:
    found = audited(make_site(standbys=STANDBYS))
    document = json.loads(json.dumps(audit_json(found)), parse_float=pytest.fail)
    assert (document["sound"], document["margin"], document["survives_any_region"]) == (True, 16, False)
    assert document["now"]["halting"][0]["restoration"]["promote"] == [
        {"validator": "val1", "power": 10, "node": "full-eu-west-1a", "region": "eu-west"}
    ]
    assert document["layout"]["moved_power"] == 8


# --- the picture


@pytest.mark.parametrize(
    ("powers", "online", "words"),
    [
        (FIVE, (), "The loss of us-east or eu-west halts the chain"),
        (FIVE, (3, 4, 5), "HALTED: 4 voting power is missing"),
        ({1: 33, 3: 33, 5: 33, 9: 1}, (), "The chain survives the loss of any one region"),
    ],
)
def test_the_picture_says_in_words_what_halts(powers: dict[int, int], online: tuple[int, ...], words: str) -> None:
    found = audited(make_site(standbys=STANDBYS), powers, *online)
    picture = ET.fromstring(draw(found, at=dt.datetime(2026, 2, 14, tzinfo=dt.UTC), height=7))  # noqa: S314 - our own
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert words in texts
    assert sum(text.startswith("✕ HALTS") for text in texts) == sum(row.loss.halts for row in found.regions)


# --- facts


@dataclass
class Chain:
    """The site's nodes over made blocks; tests change single nodes."""

    site: Site
    nodes: dict[str, object] = field(default_factory=dict)
    stores: dict[str, MemoryRegisters] = field(default_factory=dict)
    ledger: dict[str, MemoryStore] = field(default_factory=lambda: {name: MemoryStore(name) for name in REGIONS})
    journals: list[Journal] = field(default_factory=list)

    @property
    def registers(self) -> Mapping[str, Registers]:
        return self.stores

    @property
    def journal(self) -> Journal:
        if not self.journals:
            self.journals.append(
                Journal(self.ledger, site="test", signer=KEY, trusted=[KEY.public_hex], clock=self.clock)
            )
        return self.journals[0]

    @property
    def key_holders(self) -> KeyHolders:
        return KeyHolders(self.site.key_files, self.journal if self.site.key_files else cast("Journal", None))

    def rpc(self, node: Node) -> object:
        return self.nodes[node.name]

    def witnesses(self) -> tuple[Node, ...]:
        return tuple(node for node in self.site.nodes if not node.is_validator)

    def close(self) -> None:
        for journal in self.journals:
            journal.close()

    def clock(self) -> dt.datetime:
        newest = max(node.blocks[node.height].header.time_ns for node in self.nodes.values())
        return dt.datetime.fromtimestamp(newest / 1e9, tz=dt.UTC) + dt.timedelta(seconds=1)


class Peer(chainmaker.MadeNode):
    """A made node that also tells the round being decided."""

    votes: tuple[SeenVote, ...] = ()

    def consensus_state(self) -> ConsensusState:
        self._reach("consensus_state")
        validators = self.blocks[self.height].validators
        return ConsensusState(Height(self.height + 1), 0, 4, validators, self.votes)


def make_chain(site: Site, *, signers: tuple[int, ...] = (1, 2, 3, 4, 5), flavour: bytes = b"") -> Chain:
    blocks = chainmaker.make_chain(5, lambda _: FIVE, signers_at=lambda _: signers, flavour=flavour)
    chain = Chain(site, {node.name: Peer(node.name, blocks) for node in site.nodes})
    chain.stores = {name: MemoryRegisters(name) for name in site.regions}
    return chain


@pytest.fixture
def chain() -> Chain:
    return make_chain(make_site(), signers=(1, 2, 3, 4))


def test_facts_are_the_set_and_the_signers_that_two_regions_agree_on(chain: Chain) -> None:
    facts = observe(chain, clock=chain.clock)
    assert (facts.height, facts.moving) == (5, True)
    assert facts.online == frozenset(addresses(1, 2, 3, 4))
    assert [chain.site.node(name).region for name in facts.sources] == ["us-east", "eu-west"]
    assert facts.serving == {node.name for node in chain.site.nodes}


def test_a_late_vote_is_not_an_absence(chain: Chain) -> None:
    blocks = chainmaker.make_chain(5, lambda _: FIVE, signers_at=lambda h: (1, 2, 3, 4) if h == 5 else (1, 2, 3, 4, 5))
    for node in chain.nodes.values():
        node.blocks = blocks
    assert observe(chain, clock=chain.clock).online == frozenset(addresses(1, 2, 3, 4, 5))


def test_one_source_alone_is_a_failure_not_a_pass(chain: Chain) -> None:
    for name, node in chain.nodes.items():
        node.down = name.startswith("full") and name != "full-us-east-1a"
    with pytest.raises(VerificationFailedError, match="could not ask the chain: 1 full nodes"):
        observe(chain, clock=chain.clock)
    for node in chain.nodes.values():
        node.down = True
    with pytest.raises(VerificationFailedError, match="could not ask the chain: 0 full nodes"):
        audit_live(chain, clock=chain.clock)


def test_sources_that_show_different_headers_are_both_distrusted(chain: Chain) -> None:
    fork = make_chain(chain.site, flavour=b"fork")
    chain.nodes["full-eu-west-1a"] = fork.nodes["full-eu-west-1a"]
    with pytest.raises(VerificationFailedError, match=r"full-us-east-1a shows .* full-eu-west-1a shows"):
        observe(chain, clock=chain.clock)


def test_a_source_that_fails_between_two_questions_is_a_failure(chain: Chain) -> None:
    def silent(_: object = None) -> object:
        raise UnavailableError("reset")

    chain.nodes["full-us-east-1a"].commit = silent
    with pytest.raises(VerificationFailedError, match="could not ask the chain: full-us-east-1a"):
        observe(chain, clock=chain.clock)


def test_by_a_clock_that_is_behind_nobody_can_tell_whether_the_chain_moves(chain: Chain) -> None:
    """A chain that had stood still for half an hour looked young, and everybody who had signed then took part."""
    early = chain.clock() - dt.timedelta(minutes=30)
    with pytest.raises(VerificationFailedError, match="in the future"):
        observe(chain, clock=lambda: early)


def test_on_a_chain_that_stands_still_who_votes_counts_unless_its_node_is_silent(chain: Chain) -> None:
    def vote(number: int, height: int = 6) -> SeenVote:
        return SeenVote(addresses(number)[0], Height(height), 0, 2, for_nil=False)

    for node in chain.nodes.values():
        node.votes = (vote(2), vote(3), vote(4), vote(5, height=5))
    chain.nodes["val2"].down = True
    late = chain.clock() + dt.timedelta(seconds=60)
    facts, found = audit_live(chain, clock=lambda: late)
    assert not facts.moving
    assert facts.online == frozenset(addresses(3, 4))
    assert found.now.halted
    assert said(found, "quorum") == {"chain": "critical"}


def test_the_holder_of_the_register_tells_where_a_validator_signs() -> None:
    chain = make_chain(make_site(standbys=STANDBYS))
    site = chain.site
    for name in ("val1", "val3"):
        register = SignStateRegister(chain.stores, Validator("made-1", site.node(name).address))
        register.found(NEVER_SIGNED)
        if name == "val1":
            register.take_over(register.look().next_epoch, "signer-val1-full-eu-west-1a/host#1")
    facts = observe(chain, clock=chain.clock)
    assert facts.hosts == {"val1": "full-eu-west-1a", "val3": "val3"}
    for store in list(chain.stores.values())[:2]:
        store.faults.down = True
    assert observe(chain, clock=chain.clock).hosts == {"val1": None, "val3": None}


def moved(chain: Chain, validator: str, host: str, *, epoch: int) -> None:
    """A run that let this key file sign at this host."""
    run_id = RunId(f"inc-20260214-0000{epoch:02d}-aaaa")
    writer = chain.journal.open(run_id, "RB-DR-002", {"order": {}})
    evidence = {"epoch": epoch, "host": host, "floor": "5/0/3"}
    writer.append("note", {"text": TEXT, **facts_of(validator, "armed", evidence)})
    writer.append("closed", {"outcome": "completed"})


AWAY = {"key_files": [{"validator": "val5", "hosts": ["full-eu-west-1b"]}]}


def test_a_validator_counts_where_its_key_file_signs() -> None:
    chain = make_chain(make_site(extra=AWAY))
    at_home = {"us-east": 20, "eu-west": 20, "ap-south": 10}
    with closing(chain):
        assert {row.name: row.power for row in audit_live(chain, clock=chain.clock)[1].regions} == at_home
        moved(chain, "val5", "full-eu-west-1b", epoch=1)
        facts, found = audit_live(chain, clock=chain.clock)
        assert facts.hosts == {"val5": "full-eu-west-1b"}
        assert {row.name: row.power for row in found.regions} == {"us-east": 20, "eu-west": 30, "ap-south": 0}
        moved(chain, "val5", "val5", epoch=2)
        assert {row.name: row.power for row in audit_live(chain, clock=chain.clock)[1].regions} == at_home


def test_a_ledger_that_cannot_be_read_is_no_word_that_a_key_file_is_at_home() -> None:
    chain = make_chain(make_site(extra=AWAY))
    with closing(chain):
        moved(chain, "val5", "full-eu-west-1b", epoch=1)
        for store in list(chain.ledger.values())[:2]:
            store.faults.down = True
        facts, found = audit_live(chain, clock=chain.clock)
    assert facts.hosts == {"val5": None}
    assert any("where they sign now is not known" in one.message and "val5" in one.message for one in found.findings)


def test_on_a_chain_that_stands_still_a_moved_key_is_silent_with_its_host_and_not_with_its_home() -> None:
    chain = make_chain(make_site(extra=AWAY))
    for node in chain.nodes.values():
        node.votes = tuple(SeenVote(addresses(number)[0], Height(6), 0, 2, for_nil=False) for number in (3, 4, 5))
    late = chain.clock() + dt.timedelta(seconds=60)
    with closing(chain):
        moved(chain, "val5", "full-eu-west-1b", epoch=1)
        chain.nodes["val5"].down = True
        assert observe(chain, clock=lambda: late).online == frozenset(addresses(3, 4, 5))
        chain.nodes["val5"].down, chain.nodes["full-eu-west-1b"].down = False, True
        assert observe(chain, clock=lambda: late).online == frozenset(addresses(3, 4))


# --- the command


def invoke(chain: Chain, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[str, VedrError | None]:
    class Opened(SimpleNamespace):
        def __enter__(self) -> Chain:
            return chain

        def __exit__(self, *_: object) -> None:
            return None

    monkeypatch.setattr(command, "open_site", lambda _: Opened())
    monkeypatch.setattr(command, "utc_now", chain.clock)
    app = typer.Typer()
    command.attach(app)
    result = CliRunner().invoke(app, words)
    if result.exception is not None and not isinstance(result.exception, VedrError):
        raise result.exception
    return result.stdout, result.exception


def test_the_command_ends_with_3_when_a_finding_is_critical_and_still_shows_everything(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown, error = invoke(chain, monkeypatch, "--picture", str(tmp_path / "t.svg"))
    assert error is not None
    assert error.exit_code == 3
    assert "40 of 50 voting power takes part, 34 needed: margin 6" in shown
    assert "the loss of region us-east" in shown
    assert "next: " in shown
    assert ET.parse(tmp_path / "t.svg").getroot().tag.endswith("svg")  # noqa: S314 - our own


def test_the_command_ends_with_0_and_one_json_document_when_nothing_is_critical(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chain = make_chain(make_site(standbys=STANDBYS))
    for name in ("val1", "val3"):
        SignStateRegister(chain.stores, Validator("made-1", chain.site.node(name).address)).found(NEVER_SIGNED)
    shown, error = invoke(chain, monkeypatch, "--json")
    assert error is None
    document = json.loads(shown)
    assert (document["sound"], document["height"], document["moving"]) == (True, 5, True)
    assert "pairs of nodes halt it" in invoke(chain, monkeypatch)[0]
