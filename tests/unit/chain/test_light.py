import base64
import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from chainmaker import CHAIN_ID, GENESIS_NS, FakeTime, MadeNode, make_chain, members, public, sign

from vedr.chain import light
from vedr.chain.block import Header
from vedr.chain.encoding import NS_PER_S
from vedr.chain.light import DivergenceError, LightClient, VerifiedHeader
from vedr.chain.trust import Anchor, TrustStore
from vedr.chain.verification import ExpiredError, LightBlock
from vedr.chain.wire import to_rfc3339
from vedr.errors import CorruptError, InvalidInputError, NotFoundError, RefusedError, VerificationFailedError
from vedr.inventory import Chain, Height

MakeClient = Callable[..., LightClient]
STEADY = {1: 10, 2: 10, 3: 10, 4: 10}


def steady(_: int) -> dict[int, int]:
    return STEADY


def rotating(height: int) -> dict[int, int]:
    """Every four blocks one of ten validators leaves and another joins: no set trusts one far from it."""
    first = 1 + height // 4
    return dict.fromkeys(range(first, first + 10), 10)


CHAIN = make_chain(60, steady)
ROTATING = make_chain(120, rotating)


def site_chain(tmp_path: Path, powers: dict[int, int], **changes: object) -> Chain:
    genesis = tmp_path / "genesis.json"
    listed = [
        {"pub_key": {"type": "tendermint/PubKeyEd25519", "value": _base64(public(number))}, "power": str(power)}
        for number, power in powers.items()
    ]
    document = {"chain_id": CHAIN_ID, "genesis_time": to_rfc3339(GENESIS_NS), "initial_height": "1"}
    genesis.write_text(json.dumps({**document, "validators": listed}))
    return Chain(
        chain_id=CHAIN_ID,
        block_time_s=1,
        start=("x",),
        start_isolated=("x",),
        inspect=("x",),
        genesis=genesis,
        genesis_sha256=hashlib.sha256(genesis.read_bytes()).hexdigest(),
    ).model_copy(update=changes)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def client(tmp_path: Path) -> MakeClient:
    def make(
        *nodes: MadeNode,
        powers: dict[int, int] = STEADY,
        at_s: float = 130,
        waits: Sequence[Callable[[], None]] = (),
        later: Sequence[Anchor] = (),
        **chain: object,
    ) -> LightClient:
        clock = FakeTime(GENESIS_NS + int(at_s * NS_PER_S), waits)
        return LightClient(
            site_chain(tmp_path, powers, **chain),
            nodes,
            tmp_path / "trust",
            later=later,
            now_ns=clock.wall,
            sleep=clock.sleep,
            monotonic=clock.monotonic,
        )

    return make


def anchor(block: LightBlock) -> dict[str, object]:
    return {"trust_height": block.header.height, "trust_hash": block.header.hash().hex().upper()}


def test_a_header_is_verified_from_genesis_with_one_agreeing_witness(client: MakeClient) -> None:
    verified = client(MadeNode("a", CHAIN), MadeNode("b", CHAIN)).verified_header(Height(50))

    assert verified.header == CHAIN[50].header
    assert verified.hash == CHAIN[50].header.hash().hex().upper()
    assert verified.app_hash == CHAIN[50].header.app_hash.hex().upper()
    assert verified.time == dt.datetime.fromtimestamp(1_800_000_050, tz=dt.UTC)


def test_the_first_header_and_the_anchor_itself_are_verified_too(client: MakeClient) -> None:
    assert client(MadeNode("a", CHAIN), MadeNode("b", CHAIN)).verified_header(Height(1)).height == 1


def test_the_tip_is_verified_and_the_app_hash_at_a_height_is_in_the_next_header(client: MakeClient) -> None:
    light_client = client(MadeNode("a", CHAIN), MadeNode("b", CHAIN))

    assert light_client.verified_tip().height == 60
    assert light_client.verified_header(Height(42)).app_hash == CHAIN[42].header.app_hash.hex().upper()


def test_only_a_light_client_makes_a_verified_header() -> None:
    header = CHAIN[5].header
    with pytest.raises(RefusedError):
        VerifiedHeader(header.height, "", "", "", CHAIN_ID, dt.datetime.now(dt.UTC), header)


def test_a_changing_validator_set_is_followed_by_bisection(client: MakeClient) -> None:
    primary = MadeNode("a", ROTATING)
    verified = client(primary, MadeNode("b", ROTATING), powers=rotating(1)).verified_header(Height(118))

    assert verified.header == ROTATING[118].header
    fetched = [call for call in primary.calls if call.startswith("commit")]
    assert 3 < len(fetched) < 30, "skips most headers"


def test_a_chain_that_never_comes_nearer_is_given_up(client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light, "MAX_FORWARD_STEPS", 2)
    with pytest.raises(VerificationFailedError, match="not reached from 1 in 2 steps"):
        client(MadeNode("a", ROTATING), MadeNode("b", ROTATING), powers=rotating(1)).verified_header(Height(118))


def test_what_was_verified_is_remembered_and_asks_nobody(client: MakeClient) -> None:
    node = MadeNode("a", CHAIN)
    first = client(node, MadeNode("b", CHAIN)).verified_header(Height(50))
    again = client(MadeNode("c", CHAIN, down=True), MadeNode("d", CHAIN, down=True)).verified_header(Height(50))

    assert again == first


def test_a_remembered_tip_is_not_verified_again(client: MakeClient) -> None:
    primary = MadeNode("a", CHAIN)
    for _ in range(2):
        assert client(primary, MadeNode("b", CHAIN)).verified_tip().height == 60
    assert primary.calls.count("commit 60") == 1


def test_earlier_headers_are_reached_backwards_by_hashes(client: MakeClient) -> None:
    made = client(MadeNode("a", CHAIN), MadeNode("b", CHAIN), **anchor(CHAIN[58]))

    assert made.verified_header(Height(7)).header == CHAIN[7].header


def test_a_false_earlier_header_breaks_the_chain_of_hashes(client: MakeClient) -> None:
    forged = dict(CHAIN)
    signed = forged[30].signed
    forged[30] = dataclasses.replace(
        forged[30],
        signed=dataclasses.replace(signed, header=dataclasses.replace(signed.header, app_hash=b"x")),
    )
    with pytest.raises(VerificationFailedError, match="header 30: hash, against the one that header 31 names"):
        client(MadeNode("a", forged), MadeNode("b", CHAIN), **anchor(CHAIN[58])).verified_header(Height(7))


def test_a_node_that_shows_two_headers_for_one_height_is_refused(client: MakeClient) -> None:
    class TwoFaced(MadeNode):
        def headers(self, low: Height, high: Height) -> tuple[Header, ...]:
            return tuple(CHAIN[h].header for h in range(high, low - 1, -1))

    fork = {**CHAIN, 45: make_chain(45, steady, flavour=b"fork")[45]}
    with pytest.raises(VerificationFailedError, match="/commit and /blockchain"):
        client(TwoFaced("a", fork), MadeNode("b", CHAIN), **anchor(CHAIN[58])).verified_header(Height(45))


def test_walking_back_is_bounded(client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light, "MAX_BACKWARD_HEADERS", 5)
    with pytest.raises(VerificationFailedError, match="more than 5"):
        client(MadeNode("a", CHAIN), MadeNode("b", CHAIN), **anchor(CHAIN[58])).verified_header(Height(7))


def test_a_witness_that_shows_another_header_stops_everything_and_both_are_kept(
    client: MakeClient, tmp_path: Path
) -> None:
    fork = make_chain(60, steady, flavour=b"fork")
    with pytest.raises(DivergenceError) as caught:
        client(MadeNode("a", CHAIN), MadeNode("b", CHAIN), MadeNode("evil", fork)).verified_header(Height(50))

    assert caught.value.primary == "a"
    assert caught.value.witness == "evil"
    assert caught.value.primary_header.header == CHAIN[50].header
    assert caught.value.witness_header.header == fork[50].header
    assert not TrustStore(tmp_path / "trust", CHAIN_ID).load()


@pytest.mark.parametrize(
    ("witness", "reason"),
    [
        (MadeNode("b", CHAIN, down=True), "connection refused"),
        (MadeNode("b", CHAIN, node_id="a"), "b is the same node as a"),
        (MadeNode("b", CHAIN, tip=20), "b is at height 20"),
        (MadeNode("b", {h: CHAIN[h] for h in range(55, 61)}), "height 50 is not there"),
        (MadeNode("b", CHAIN, fault=CorruptError("b: not JSON")), "not JSON"),
    ],
)
def test_without_an_agreeing_witness_nothing_is_believed(client: MakeClient, witness: MadeNode, reason: str) -> None:
    with pytest.raises(VerificationFailedError, match=f"could not run the cross-check: .*{reason}"):
        client(MadeNode("a", CHAIN), witness).verified_header(Height(50))


def test_a_witness_that_lags_is_waited_for(client: MakeClient) -> None:
    witness = MadeNode("b", CHAIN, tip=49)

    def catches_up() -> None:
        witness.tip = 51

    assert client(MadeNode("a", CHAIN), witness, waits=[catches_up]).verified_header(Height(50)).height == 50


def test_the_next_source_leads_when_the_first_is_down(client: MakeClient) -> None:
    nodes = MadeNode("a", CHAIN, down=True), MadeNode("b", CHAIN), MadeNode("c", CHAIN)

    assert client(*nodes).verified_header(Height(50)).height == 50


def test_no_source_at_all_is_a_failure_that_names_each(client: MakeClient) -> None:
    with pytest.raises(VerificationFailedError, match=r"could not run: a: .*; b: "):
        client(MadeNode("a", CHAIN, down=True), MadeNode("b", CHAIN, down=True)).verified_tip()


@pytest.mark.parametrize("names", [("a",), ("a", "a"), ()])
def test_two_different_sources_are_needed(client: MakeClient, names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError, match="two different nodes"):
        client(*(MadeNode(name, CHAIN) for name in names))


def test_a_node_of_another_chain_is_refused(client: MakeClient) -> None:
    with pytest.raises(VerificationFailedError, match="chain id observed other-1, expected made-1"):
        client(MadeNode("a", CHAIN, chain_id="other-1"), MadeNode("b", CHAIN)).verified_tip()


def test_the_next_block_is_waited_for(client: MakeClient) -> None:
    a, b = MadeNode("a", CHAIN, tip=40), MadeNode("b", CHAIN, tip=40)

    def grows() -> None:
        a.tip = b.tip = 41

    assert client(a, b, waits=[grows]).verified_header(Height(41)).app_hash == CHAIN[41].header.app_hash.hex().upper()


def test_a_block_that_never_comes_or_is_far_ahead_is_not_waited_for_without_end(client: MakeClient) -> None:
    for height in (61, 5000):
        with pytest.raises(VerificationFailedError, match=f"height {height} is not there"):
            client(MadeNode("a", CHAIN), MadeNode("b", CHAIN)).verified_header(Height(height))


def test_an_expired_anchor_is_refused_with_the_way_to_renew_it(client: MakeClient) -> None:
    with pytest.raises(ExpiredError, match="trusted header 1 expired") as caught:
        client(MadeNode("a", CHAIN), MadeNode("b", CHAIN), at_s=500, trust_period_s=499).verified_tip()
    assert "trust_height" in caught.value.remedy


def test_an_anchor_from_a_signed_manifest_helps_when_the_sites_own_has_expired(client: MakeClient) -> None:
    later = [Anchor(Height(59), CHAIN[59].header.hash())]
    made = client(MadeNode("a", CHAIN), MadeNode("b", CHAIN), at_s=500, trust_period_s=445, later=later)

    assert made.verified_tip().height == 60


def test_trust_that_advanced_outlives_the_anchor_but_not_the_period(client: MakeClient) -> None:
    nodes = MadeNode("a", CHAIN), MadeNode("b", CHAIN)
    client(*nodes, trust_period_s=445).verified_header(Height(55))

    assert client(*nodes, at_s=480, trust_period_s=445).verified_tip().height == 60
    with pytest.raises(ExpiredError):
        client(*nodes, at_s=600, trust_period_s=445).verified_header(Height(59))


def test_an_anchor_of_another_hash_is_refused(client: MakeClient) -> None:
    with pytest.raises(VerificationFailedError, match="trusted is"):
        client(MadeNode("a", CHAIN), MadeNode("b", CHAIN), trust_height=5, trust_hash="AB" * 32).verified_tip()


def test_an_anchor_that_contradicts_what_is_remembered_stops_everything(client: MakeClient) -> None:
    nodes = MadeNode("a", CHAIN), MadeNode("b", CHAIN)
    client(*nodes).verified_header(Height(50))
    corrected = {"trust_height": 50, "trust_hash": "AB" * 32}  # people found that what was believed is a fork
    for light_client in (client(*nodes, **corrected), client(*nodes, later=[Anchor(Height(50), b"\xab" * 32)])):
        for verify in (lambda one: one.verified_header(Height(50)), LightClient.verified_tip):
            with pytest.raises(VerificationFailedError, match=r"header 50 is remembered as .* the anchor says ABAB"):
                verify(light_client)


def test_there_is_no_header_zero_and_the_tip_is_not_given_in_its_place(client: MakeClient) -> None:
    with pytest.raises(InvalidInputError, match="no header 0"):
        client(MadeNode("a", CHAIN), MadeNode("b", CHAIN)).verified_header(Height(0))


def test_genesis_of_other_validators_is_refused(client: MakeClient) -> None:
    with pytest.raises(VerificationFailedError, match="genesis names"):
        client(MadeNode("a", CHAIN), MadeNode("b", CHAIN), powers={1: 10, 2: 11, 3: 10, 4: 10}).verified_tip()


def test_a_pruned_primary_leaves_the_lead_to_one_that_has_the_anchor(client: MakeClient) -> None:
    pruned = {height: block for height, block in CHAIN.items() if height > 30}

    assert client(MadeNode("a", pruned), MadeNode("b", CHAIN)).verified_header(Height(50)).height == 50


def test_a_header_ahead_of_the_clock_is_refused(client: MakeClient) -> None:
    with pytest.raises(VerificationFailedError, match="ahead"):
        client(MadeNode("a", CHAIN), MadeNode("b", CHAIN), at_s=45).verified_header(Height(60))
    assert client(MadeNode("a", CHAIN), MadeNode("b", CHAIN), at_s=51).verified_header(Height(60)).height == 60


def test_a_forged_header_by_a_third_of_the_power_is_refused(client: MakeClient) -> None:
    forged = dict(CHAIN)
    evil = make_chain(50, steady, flavour=b"evil")[50]
    commit = sign(evil.signed.commit.block_id, 50, members(STEADY), [1, 2], chain_id=CHAIN_ID)
    forged[50] = LightBlock(dataclasses.replace(evil.signed, commit=commit), evil.validators)

    with pytest.raises(VerificationFailedError, match="20 of 40 voting power signed it, more than 26 is needed"):
        client(MadeNode("a", forged), MadeNode("b", forged)).verified_header(Height(50))


def test_missing_heights_are_not_found_in_the_fake_as_in_the_node() -> None:
    with pytest.raises(NotFoundError):
        MadeNode("a", CHAIN).commit(Height(61))
