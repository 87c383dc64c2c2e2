"""What goes wrong with name servers, each against a real knotd: said for what it is, and nothing half done."""

import base64
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dns.tsig
import pytest
from loopback_ports import free_port
from traffic_parts import ALL, ZONE, Knot, make_site, zone_text

from vedr.adapters import dns_answers, dns_update
from vedr.adapters.dns_answers import Records, Server, records
from vedr.adapters.dns_update import RecordSet, Updater, tsig_key
from vedr.adapters.traffic_rfc2136 import DnsTraffic
from vedr.chain.quorum import Domain
from vedr.errors import (
    ConflictError,
    CorruptError,
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from vedr.failover import traffic_answers
from vedr.failover.traffic import Change, Share
from vedr.failover.traffic_answers import wait_until_answered
from vedr.failover.traffic_division import Moves, View
from vedr.failover.traffic_plan import TrafficPlan, plan_away
from vedr.inventory import Dns

pytestmark = pytest.mark.server

US = Domain("region", "us-east")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that are silent on purpose need no long wait."""
    monkeypatch.setattr(dns_answers, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(dns_update, "TIMEOUT_S", 0.3)


def traffic_of(
    knot: Knot, *servers: Knot, key: bytes | None = None, zone: Dns | None = None, **config: Any
) -> DnsTraffic:
    named = [f"127.0.0.1:{server.port}" for server in servers]
    site = make_site(home="primary", backends=[{"kind": "rfc2136", "servers": named, **config}])
    return DnsTraffic(site, site.traffic.backends[0], zone or knot.dns, lambda: key or knot.key)


def leaving(traffic: DnsTraffic) -> TrafficPlan:
    site = make_site(home="primary")
    return plan_away(Moves(site, ALL, 1, (US,), "eu-west"), [View(traffic.backend, traffic.picture())])


@pytest.mark.usefixtures("quick")
def test_a_server_that_is_down_can_be_tried_again(make_knot: Callable[..., Knot]) -> None:
    knot = make_knot()
    traffic = traffic_of(knot)
    plan = leaving(traffic)
    knot.stop()
    for act in (traffic.picture, lambda: traffic.shift(plan.changes[0])):
        with pytest.raises(UnavailableError, match="does not answer"):
            act()
    assert [answer.problem != "" for answer in traffic.answers(["api", "rpc"])] == [True, True]
    with pytest.raises(UnavailableError, match="Not known whether"):
        Updater(Server("127.0.0.1", knot.port), ZONE, lambda: knot.key).swap([], [])
    knot.start()
    assert traffic.shift(plan.changes[0])


@pytest.mark.usefixtures("quick")
def test_a_server_that_is_silent_is_told_apart_from_a_name_that_is_gone(make_knot: Callable[..., Knot]) -> None:
    knot = make_knot()
    traffic = traffic_of(knot)
    assert records(Server("127.0.0.1", knot.port), f"nowhere.{ZONE}.", "A") == Records()
    with knot.frozen():
        (answer,) = traffic.answers(["api"])
        assert "does not answer" in answer.problem
        with pytest.raises(UnavailableError):
            traffic.picture()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (f"hmac-sha256:stranger:{base64.b64encode(bytes(32)).decode()}", "BadKey.*Check the key's name"),
        (f"hmac-sha256:vedr:{base64.b64encode(bytes(32)).decode()}", "BadSignature.*Check the key's name"),
        (f"hmac-sha512:vedr:{base64.b64encode(bytes(32)).decode()}", "BadKey"),
        ("hmac-sha256:reader:{secret}", "BadKey"),  # known, and not allowed to update
    ],
)
def test_a_key_that_the_server_does_not_take_is_no_reason_to_retry(
    make_knot: Callable[..., Knot], key: str, said: str
) -> None:
    knot = make_knot()
    good = traffic_of(knot)
    before = good.picture()
    text = key.replace("{secret}", knot.secret)
    with pytest.raises(RefusedError, match=said) as raised:
        traffic_of(knot, key=text.encode()).shift(leaving(good).changes[0])
    assert text.rsplit(":", 1)[1] not in str(raised.value)
    assert good.picture() == before


def test_a_clock_that_is_off_is_named(make_knot: Callable[..., Knot], monkeypatch: pytest.MonkeyPatch) -> None:
    knot = make_knot()
    traffic = traffic_of(knot)
    plan = leaving(traffic)
    sign = dns.tsig.sign

    def an_hour_ago(*arguments: Any, **named: Any) -> Any:
        wire, key, rdata, time, *rest = arguments
        return sign(wire, key, rdata, (time or 0) - 3600, *rest, **named)

    monkeypatch.setattr(dns.tsig, "sign", an_hour_ago)
    with pytest.raises(RefusedError, match=r"BadTime.*Compare both clocks"):
        traffic.shift(plan.changes[0])


@pytest.mark.parametrize("key", ["", "hmac-sha256:vedr", "hmac-md5:vedr:AAAA", "hmac-sha256:vedr:hunter2!", "a..b:c:d"])
def test_a_key_that_is_none_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        tsig_key(key.encode())
    assert "hunter2" not in str(raised.value)


def test_records_that_changed_between_look_and_update_are_not_overwritten(make_knot: Callable[..., Knot]) -> None:
    knot = make_knot()
    updater = Updater(Server("127.0.0.1", knot.port), ZONE, lambda: knot.key)
    there = RecordSet(f"api.{ZONE}.", "A", ("192.0.2.10", "192.0.2.11"))
    wanted = RecordSet(f"api.{ZONE}.", "A", ("192.0.2.20",), 60)
    for wrong in (
        RecordSet(there.name, "A", ("192.0.2.10",)),
        RecordSet(there.name, "A", ()),
        RecordSet(there.name, "AAAA", ("2001:db8::1",)),
        RecordSet(f"nowhere.{ZONE}.", "TXT", ("x",)),
    ):
        with pytest.raises(ConflictError, match="nothing was changed"):
            updater.swap([wrong], [wanted])
        assert records(updater.server, there.name, "A").values == there.values
    updater.swap([there], [wanted])
    assert records(updater.server, there.name, "A") == Records(("192.0.2.20",), 60)


def test_a_zone_that_the_server_lost_is_a_passing_failure(make_knot: Callable[..., Knot]) -> None:
    knot = make_knot()
    traffic = traffic_of(knot)
    change = leaving(traffic).changes[0]
    knot.stop()
    (knot.folder / "zone.db").unlink()
    knot.zone_text = None
    knot.start()
    with pytest.raises(UnavailableError, match="SERVFAIL"):
        traffic.picture()
    with pytest.raises(UnavailableError, match="SERVFAIL"):
        traffic._updater.swap([], [RecordSet(f"api.{ZONE}.", "A", ("192.0.2.20",), 60)])
    assert "SERVFAIL" in traffic.answers(["api"])[0].problem
    assert change.names


def test_a_zone_that_the_server_does_not_have_is_refused(make_knot: Callable[..., Knot]) -> None:
    knot = make_knot()
    elsewhere = Dns(server="127.0.0.1", port=knot.port, zone="elsewhere.test")
    traffic = traffic_of(knot, zone=elsewhere)
    with pytest.raises(RefusedError, match="REFUSED"):
        traffic.picture()
    with pytest.raises(RefusedError, match="NOTAUTH"):
        traffic._updater.swap([], [RecordSet("api.elsewhere.test.", "A", ("192.0.2.20",), 60)])
    with pytest.raises(RefusedError, match="NOTZONE"):
        traffic_of(knot)._updater.swap([], [RecordSet("api.elsewhere.test.", "A", ("192.0.2.20",), 60)])


@pytest.mark.usefixtures("quick")
def test_an_answer_that_got_lost_is_found_out_by_shifting_again(make_knot: Callable[..., Knot]) -> None:
    knot = make_knot()
    direct = traffic_of(knot)
    plan = leaving(direct)
    with losing_answers(knot.port) as port:
        through = Updater(Server("127.0.0.1", port), ZONE, lambda: knot.key)
        direct._updater, kept = through, direct._updater
        with pytest.raises(UnavailableError, match="Not known whether"):
            direct.shift(plan.changes[0])
        direct._updater = kept
    assert not direct.shift(plan.changes[0])
    assert direct.picture().guard == plan.guard


@contextlib.contextmanager
def losing_answers(port: int) -> Iterator[int]:
    """A way to the server that carries one request there and no answer back."""
    with socket.create_server(("127.0.0.1", free_port())) as listening:

        def carry() -> None:
            incoming, _ = listening.accept()
            with incoming, socket.create_connection(("127.0.0.1", port)) as outgoing:
                outgoing.sendall(incoming.recv(65535))
                outgoing.recv(65535)

        thread = threading.Thread(target=carry)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


@pytest.mark.usefixtures("quick")
def test_one_of_two_servers_that_is_behind_keeps_the_wait_going(make_knot: Callable[..., Knot]) -> None:
    primary = make_knot()
    secondary = make_knot(primary=primary)
    traffic = traffic_of(primary, primary, secondary)
    plan = leaving(traffic)
    assert traffic.shift(plan.changes[0])
    with pytest.raises(DeadlineError, match=f"{secondary.port}, api leads to gateway-us-east-0"):
        wait_until_answered([traffic], plan, deadline_s=0)
    secondary.notify()
    answered = wait_until_answered([traffic], plan, deadline_s=10)
    assert answered.servers == (f"127.0.0.1:{primary.port}", f"127.0.0.1:{secondary.port}")
    secondary.stop()
    with pytest.raises(DeadlineError, match=rf"{secondary.port}, api: .*does not answer"):
        wait_until_answered([traffic], plan, deadline_s=0)


@pytest.mark.usefixtures("quick")
def test_a_server_that_is_lost_is_named_and_the_wait_ends_with_those_that_answer(
    make_knot: Callable[..., Knot], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic_answers, "SILENT_S", 1.0)
    primary, behind = make_knot(), make_knot()
    lost = make_knot(primary=primary)
    lost.stop()
    traffic = traffic_of(primary, primary, lost)
    plan = leaving(traffic)
    assert traffic.shift(plan.changes[0])
    answered = wait_until_answered([traffic], plan, deadline_s=30)
    assert (answered.servers, answered.silent) == ((f"127.0.0.1:{primary.port}",), (f"127.0.0.1:{lost.port}",))
    assert f"not seen, since silent: 127.0.0.1:{lost.port}" in str(answered)
    with pytest.raises(DeadlineError, match=f"{behind.port}, api leads to gateway-us-east-0"):
        wait_until_answered([traffic_of(primary, primary, behind, lost)], plan, deadline_s=3)
    with pytest.raises(DeadlineError, match="nobody was asked for api"):
        wait_until_answered([traffic_of(primary, lost)], plan, deadline_s=3)


def test_an_address_of_nobody_is_shown_and_taken_out_by_a_plan(make_knot: Callable[..., Knot]) -> None:
    knot = make_knot()
    knot.update(("api", 60, "A", "198.51.100.1"))
    traffic = traffic_of(knot)
    assert traffic.picture().names["api"].strangers == ("198.51.100.1",)
    plan = leaving(traffic)
    assert any("198.51.100.1, which is no endpoint here: taken out" in note for note in plan.notes)
    with pytest.raises(DeadlineError, match=r"leads to 198.51.100.1"):
        wait_until_answered([traffic], plan, deadline_s=0)
    traffic.shift(plan.changes[0])
    assert traffic.picture().names["api"].strangers == ()


def test_gateways_of_both_address_families_are_served_and_taken_out_whole(make_knot: Callable[..., Knot]) -> None:
    knot = make_knot()
    both = {"gateway-eu-west-0": ["192.0.2.20", "2001:db8::20"]}
    traffic = traffic_of(knot, addresses=both)
    plan = leaving(traffic)
    assert traffic.shift(plan.changes[0])
    server = Server("127.0.0.1", knot.port)
    assert records(server, f"api.{ZONE}.", "AAAA") == Records(("2001:db8::20",), 60)
    assert traffic.picture().names["api"].serving == {"gateway-eu-west-0"}
    knot.update(("api", 60, "A", "192.0.2.10"))
    seen = traffic.picture().names["api"]
    assert (seen.serving, seen.strangers) == ({"gateway-us-east-0"}, ("2001:db8::20",))


def test_an_alias_cannot_carry_weights(make_knot: Callable[..., Knot]) -> None:
    knot = make_knot()
    with pytest.raises(RefusedError, match="alias"):
        records(Server("127.0.0.1", knot.port), f"www.{ZONE}.", "A")


def test_a_guard_that_vedr_did_not_write_stops_it(make_knot: Callable[..., Knot]) -> None:
    knot = make_knot()
    knot.update(("_vedr-traffic", 60, "TXT", '"hello"'))
    with pytest.raises(CorruptError, match="'hello'"):
        traffic_of(knot).picture()


def test_an_endpoint_set_that_is_empty_is_never_written(make_knot: Callable[..., Knot]) -> None:
    knot = make_knot()
    traffic = traffic_of(knot)
    plan = leaving(traffic)
    before = traffic.picture()
    change = plan.changes[0]
    nobody = Change(change.backend, change.expected, {"api": Share(dict.fromkeys(ALL, 0), 60)}, change.guard)
    with pytest.raises(RefusedError, match="nobody"):
        traffic.shift(nobody)
    assert traffic.picture() == before


def test_a_host_name_is_no_address_record() -> None:
    site = make_site()
    gateway = site.gateways[0].model_copy(update={"url": "https://rpc.example.com"})
    named = site.model_copy(update={"gateways": (gateway, *site.gateways[1:])})
    with pytest.raises(InvalidInputError, match=r"addresses\.gateway-us-east-0"):
        DnsTraffic(named, site.traffic.backends[0], Dns(server="127.0.0.1", zone=ZONE), lambda: b"")


def test_two_gateways_with_one_address_cannot_be_told_apart() -> None:
    site = make_site(backends=[{"kind": "rfc2136", "addresses": {"gateway-us-east-0": ["192.0.2.20"]}}])
    with pytest.raises(InvalidInputError, match=r"192\.0\.2\.20 is of both"):
        DnsTraffic(site, site.traffic.backends[0], Dns(server="127.0.0.1", zone=ZONE), lambda: b"")


def test_a_server_without_authority_does_not_count(make_knot: Callable[..., Knot]) -> None:
    knot = make_knot(zone_text=zone_text() + f"sub.{ZONE}. 60 NS ns.{ZONE}.\n")
    with pytest.raises(NotFoundError, match="no authority"):
        records(Server("127.0.0.1", knot.port), f"api.sub.{ZONE}.", "A")


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("ns1.example", Server("ns1.example", 53)),
        ("10.0.0.1:54", Server("10.0.0.1", 54)),
        ("[::1]:55", Server("::1", 55)),
    ],
)
def test_name_servers_are_written_with_or_without_a_port(text: str, server: Server) -> None:
    assert Server.parse(text) == server
    assert Server.parse(str(server)) == server


def test_a_name_server_without_address_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="no address"):
        Server("nowhere.invalid").address()
    with pytest.raises(InvalidInputError):
        Server.parse("a:b:c")
