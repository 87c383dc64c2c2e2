"""All backends of a site together: looked at, written, waited for."""

import contextlib
import datetime as dt
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from loopback_ports import free_port

from vedr.adapters.traffic_gateways import HttpProber
from vedr.adapters.traffic_memory import MemoryTraffic, Served, calm
from vedr.adapters.traffic_site import open_steering
from vedr.chain.quorum import Domain
from vedr.errors import ConflictError, DeadlineError, InvalidInputError, RefusedError, UnavailableError, VedrError
from vedr.failover.traffic import Answer, Backend, Change, Picture, Share
from vedr.failover.traffic_answers import differences, wait_until_answered
from vedr.failover.traffic_steering import Proof, Steering
from vedr.inventory import Gateway, Site, parse_site
from vedr.policies.traffic import Traffic

EXAMPLE = Path(__file__).parents[3] / "deployments" / "sites" / "production.example.toml"
US = Domain("region", "us-east")
NOW = dt.datetime(2026, 11, 2, 12, 0, 0, tzinfo=dt.UTC)
PLACES = {"us-0": "us-east-1a", "us-1": "us-east-1b", "eu-0": "eu-west-1a", "ap-0": "ap-south-1a"}


def site_of(**policy: object) -> Site:
    example = parse_site(EXAMPLE.read_text(encoding="utf-8"), source="example.toml")
    gateways = tuple(Gateway(name=n, region=z[:-3], zone=z, unit="g", url=f"http://{n}:80") for n, z in PLACES.items())
    return example.model_copy(update={"gateways": gateways, "traffic": Traffic.model_validate(policy)})


class Failing(MemoryTraffic):
    """Does all but what it is told not to."""

    def __init__(
        self, site: Site, name: str, error: VedrError, *, region: str | None = None, looks: bool = True
    ) -> None:
        super().__init__(site, name=name)
        self.error, self.looks = error, looks
        self._backend = Backend(name, self._backend.endpoints, is_weighted=True, region=region)

    def picture(self) -> Picture:
        if not self.looks:
            raise self.error
        return super().picture()

    def shift(self, change: Change) -> bool:  # noqa: ARG002 (as the port has it)
        raise self.error


class Healthy:
    def probe(self, gateways: Sequence[Gateway]) -> tuple[Proof, ...]:
        return tuple(Proof(gateway.name, NOW) for gateway in gateways)


def steering_of(site: Site, *backends: MemoryTraffic, now: dt.datetime = NOW) -> Steering:
    return Steering(site, backends, Healthy(), lambda: now)


def test_every_backend_is_planned_shifted_and_waited_for() -> None:
    site = site_of()
    steering = steering_of(site, MemoryTraffic(site, name="dns"), MemoryTraffic(site, name="mesh"))
    asked = []
    plan = steering.plan_away([US], steering.prove(), epoch=3, target="ap-south")
    written = steering.shift(plan, still_ours=lambda: asked.append(1))
    assert (written.written, written.unchanged, len(asked)) == (("dns", "mesh"), (), 2)
    assert steering.shift(plan).unchanged == ("dns", "mesh")
    answered = steering.wait_until_answered(plan)
    assert answered.servers == ("dns", "mesh")
    assert "resolvers may have older answers for 60 s more" in str(answered)
    for stage in site.traffic.stages_pct:
        plan = steering.plan_back(US, steering.prove(), epoch=4, stage_pct=stage)
        steering.shift(plan)
        steering.wait_until_answered(plan)
    assert [p.names for p in steering.pictures() if isinstance(p, Picture)] == [calm(site), calm(site)]


def test_undoing_a_plan_brings_back_what_was_there() -> None:
    site = site_of()
    steering = steering_of(site, MemoryTraffic(site))
    plan = steering.plan_away([US], steering.prove(), epoch=3)
    steering.shift(plan)
    steering.shift(steering.plan_undo(plan, epoch=4))
    assert steering.backends[0].picture().names == calm(site)


def test_a_run_that_lost_its_lease_writes_nothing() -> None:
    site = site_of()
    steering = steering_of(site, MemoryTraffic(site))
    plan = steering.plan_away([US], steering.prove(), epoch=3)

    def passed() -> None:
        raise ConflictError("the lease has passed")

    with pytest.raises(ConflictError):
        steering.shift(plan, still_ours=passed)
    assert steering.backends[0].picture().names == calm(site)


def test_one_backends_failure_does_not_keep_the_others_from_moving_users() -> None:
    site = site_of()
    gone, good = Failing(site, "mesh", UnavailableError("mesh is silent")), MemoryTraffic(site, name="dns")
    steering = steering_of(site, gone, good)
    plan = steering.plan_away([US], steering.prove(), epoch=3)
    with pytest.raises(UnavailableError, match=r"\(dns: shifted\): mesh: mesh is silent"):
        steering.shift(plan)
    assert good.picture().guard == plan.guard
    refused = steering_of(site, gone, Failing(site, "dns", RefusedError("not our key", remedy="Check the key.")))
    with pytest.raises(RefusedError, match=r"mesh: mesh is silent; dns: not our key.*Check the key"):
        refused.shift(plan)


def test_a_single_backends_error_is_told_as_it_is() -> None:
    site = site_of()
    steering = steering_of(site, Failing(site, "dns", RefusedError("not our key")))
    with pytest.raises(RefusedError, match=r"^not our key$"):
        steering.shift(steering.plan_away([US], steering.prove(), epoch=3))


def test_a_backend_that_cannot_be_looked_at_stops_the_plan_unless_it_is_lost_or_left_out() -> None:
    site = site_of()
    mesh = Failing(site, "mesh us-east", UnavailableError("mesh is silent"), region="us-east", looks=False)
    steering = steering_of(site, MemoryTraffic(site, name="dns"), mesh)
    proofs = steering.prove()
    assert [c.backend for c in steering.plan_away([US], proofs, epoch=3).changes] == ["dns"]
    with pytest.raises(UnavailableError, match="mesh is silent"):
        steering.plan_away([Domain("region", "eu-west")], proofs, epoch=3)
    plan = steering.plan_away([Domain("region", "eu-west")], proofs, epoch=3, without=["mesh us-east"])
    assert [c.backend for c in plan.changes] == ["dns"]
    with pytest.raises(InvalidInputError, match="no backend mash"):
        steering.plan_away([US], proofs, epoch=3, without=["mash"])
    assert [isinstance(picture, VedrError) for picture in steering.pictures()] == [False, True]


def test_an_old_proof_is_none() -> None:
    site = site_of(proof_age_s=10)
    steering = steering_of(site, MemoryTraffic(site), now=NOW + dt.timedelta(seconds=11))
    with pytest.raises(RefusedError, match="served by nobody"):
        steering.plan_away([US], [Proof(name, NOW) for name in PLACES], epoch=3)
    fresh = steering_of(site, MemoryTraffic(site))
    with pytest.raises(RefusedError, match="served by nobody"):
        fresh.plan_away([US], [Proof(name, NOW, "status 502") for name in PLACES], epoch=3)


def test_a_site_without_backends_says_so() -> None:
    steering = steering_of(site_of())
    with pytest.raises(InvalidInputError, match=r"has no \[traffic\] backends"):
        steering.plan_away([US], steering.prove(), epoch=3)


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Late(MemoryTraffic):
    """Servers that follow after a while."""

    def __init__(self, site: Site, clock: Clock, after_s: float) -> None:
        super().__init__(site)
        self.clock, self.after_s, self.old = clock, after_s, MemoryTraffic(site, Served(calm(site)), name="memory")

    def answers(self, names: object) -> tuple[Answer, ...]:
        return (super() if self.clock() >= self.after_s else self.old).answers(names)  # type: ignore[arg-type]


def test_the_wait_lasts_until_the_slowest_server_and_not_beyond_its_limit() -> None:
    site, clock = site_of(), Clock()
    late = Late(site, clock, 42)
    steering = steering_of(site, late)
    plan = steering.plan_away([US], steering.prove(), epoch=3)
    steering.shift(plan)
    answered = wait_until_answered([late], plan, deadline_s=75, sleep=clock.sleep, monotonic=clock)
    assert answered.took_s == 42
    clock.now, late.after_s = 0, 100
    with pytest.raises(
        DeadlineError, match=r"after 75 s users are not yet sent.*memory, api leads to ap-0, eu-0, us-0"
    ):
        wait_until_answered([late], plan, deadline_s=75, sleep=clock.sleep, monotonic=clock)
    assert clock.now == 75


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer("ns", "api", ("eu-0",), ttl_s=60), ""),
        (Answer("ns", "api", ("eu-0",), ttl_s=30), ""),
        (Answer("ns", "api", ("eu-0",), ttl_s=300), "TTL of 300 s, not 60 s"),
        (Answer("ns", "api", (), ttl_s=60), "leads to nobody"),
        (Answer("ns", "api", ("eu-0", "us-0"), ttl_s=60), "leads to eu-0, us-0, not to eu-0"),
        (Answer("ns", "api", ("eu-0",), strangers=("192.0.2.9",)), "192.0.2.9, which is no endpoint"),
        (Answer("ns", "api", problem="silent"), "ns, api: silent"),
        (Answer("ns", "rpc", ("eu-0",)), "nobody was asked for api"),
    ],
)
def test_each_way_to_differ_is_said(answer: Answer, said: str) -> None:
    found = differences("dns", {"api": Share({"us-0": 0, "eu-0": 100}, 60)}, [answer])
    assert (said in found[0]) if said else not found


def test_a_sample_need_not_show_everybody_and_must_show_somebody() -> None:
    wanted = {"api": Share({"us-0": 0, "eu-0": 50, "ap-0": 50}, 60)}
    assert not differences("dns", wanted, [Answer("ns", "api", ("ap-0",), complete=False)])
    assert differences("dns", wanted, [Answer("ns", "api", (), complete=False)])
    assert differences("dns", wanted, [Answer("ns", "api", ("ap-0", "us-0"), complete=False)])


@pytest.fixture
def gateway() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 502)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_proof_is_an_answer_of_the_gateway_itself(gateway: str) -> None:
    urls = [gateway, f"http://127.0.0.1:{free_port()}"]
    gateways = [
        Gateway(name=f"g-{n}", region="us-east", zone="us-east-1a", unit="g", url=u) for n, u in enumerate(urls)
    ]
    good, silent = HttpProber("/healthz", lambda: NOW).probe(gateways)
    assert good == Proof("g-0", NOW)
    assert "ConnectError" in silent.problem
    assert HttpProber("/other", lambda: NOW).probe(gateways[:1])[0].problem == "status 502"
    assert HttpProber("/healthz", lambda: NOW).probe([]) == ()


MESH = {
    "kind": "istio",
    "region": "eu-west",
    "kubeconfig": "env:X",
    "context": "c",
    "virtual_service": "v",
    "host": "h",
}


def test_backends_are_opened_without_asking_anybody() -> None:
    site = site_of(
        backends=[
            {"kind": "rfc2136", "addresses": {name: [f"192.0.2.{n}"] for n, name in enumerate(PLACES)}},
            {"kind": "route53", "hosted_zone": "Z123", "credentials": "env:NOWHERE"},
            {**MESH, "subset": "{region}"},
        ]
    )
    with contextlib.ExitStack() as closing:
        steering = open_steering(site, lambda: NOW, closing)
    assert [traffic.backend.name for traffic in steering.backends] == ["rfc2136", "route53", "istio eu-west"]
    twice = site_of(backends=[{**MESH, "subset": "{region}"}, {**MESH, "subset": "{zone}", "by": "zone"}])
    with contextlib.ExitStack() as closing, pytest.raises(InvalidInputError, match="two backends of one name"):
        open_steering(twice, lambda: NOW, closing)


def test_dynamic_dns_needs_a_key() -> None:
    site = site_of(backends=[{"kind": "rfc2136"}]).model_copy(update={"dns": None})
    with contextlib.ExitStack() as closing, pytest.raises(InvalidInputError, match=r"\[dns\] with a key"):
        open_steering(site, lambda: NOW, closing)


@pytest.mark.parametrize(
    "policy",
    [
        {"stages_pct": [50, 10, 100]},
        {"stages_pct": [0, 100]},
        {"stages_pct": [10, 50]},
        {"backends": [{"kind": "rfc2136"}, {"kind": "rfc2136"}]},
        {"backends": [{**MESH, "subset": "all"}]},
        {"backends": [{"kind": "carrier-pigeon"}]},
        {"global_names": []},
    ],
)
def test_a_policy_that_leads_nowhere_is_refused(policy: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Traffic.model_validate(policy)
