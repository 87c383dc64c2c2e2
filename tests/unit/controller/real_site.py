"""A whole site on this machine for controllers that are processes: stores, nodes' RPC, gateways and a Prefect."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import tomli_w
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

REGIONS = ("us-east", "eu-west", "ap-south")
ZONES = tuple(f"{region}-1{letter}" for region in REGIONS for letter in "ab")
CHAIN = "chain-1"
RECORDED = json.loads((Path(__file__).parents[1] / "chain" / "kvstore_chain.json").read_text())
LAST = max(int(height) for height in RECORDED["commit"])


@dataclass
class Service:
    """An HTTP server of one service, with what it answers; stopped, its port refuses connections."""

    handler: type[BaseHTTPRequestHandler]
    port: int = 0
    server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), self.handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class NodeState:
    """What a node says of itself."""

    height: int = 100
    catching_up: bool = False
    chain: str = CHAIN
    hangs: threading.Event | None = None


def _reply(handler: BaseHTTPRequestHandler, status: int, document: object) -> None:
    body = json.dumps(document).encode()
    with contextlib.suppress(OSError):  # the asker may have gone
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


def node_service(state: NodeState, port: int = 0) -> Service:
    """CometBFT's /status, and what a real chain once answered to /commit and /validators: it stands still since."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if state.hangs is not None:
                state.hangs.wait(10)
            asked = urlsplit(self.path)
            height = parse_qs(asked.query).get("height", [str(LAST)])[0]
            match asked.path.strip("/"):
                case "status":
                    result = status_of(state)
                case "commit" | "validators" as name if height in RECORDED[name]:
                    result = RECORDED[name][height]
                case _:
                    _reply(self, 500, {"jsonrpc": "2.0", "error": {"code": -1, "message": "no", "data": "not here"}})
                    return
            _reply(self, 200, {"jsonrpc": "2.0", "id": -1, "result": result})

        def log_message(self, *_: object) -> None:
            pass

    return Service(Handler, port)


def status_of(state: NodeState) -> dict[str, Any]:
    digest = "AB" * 32
    return {
        "node_info": {"id": "cd" * 20, "network": state.chain, "moniker": "m", "version": "0.38.21"},
        "sync_info": {
            "latest_block_hash": digest,
            "latest_app_hash": digest,
            "latest_block_height": str(state.height),
            "latest_block_time": "2026-11-02T12:00:00.5Z",
            "earliest_block_height": "1",
            "catching_up": state.catching_up,
        },
        "validator_info": {"address": "EF" * 20, "voting_power": "0"},
    }


def answering_service(status: int = 200, port: int = 0) -> Service:
    """Says one status to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _reply(self, status, {})

        def log_message(self, *_: object) -> None:
            pass

    return Service(Handler, port)


@dataclass
class FakePrefect:
    """Prefect's API as far as a start needs it, idempotency keys included."""

    deployments: dict[str, str] = field(default_factory=lambda: {"RB-DR-002": "dep-2", "RB-DR-003": "dep-3"})
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    creating: int = 201
    lose_answers: bool = False

    def service(self, port: int = 0) -> Service:
        prefect = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _reply(self, 200 if self.path == "/api/health" else 404, True)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/api/deployments/filter":
                    names = body["deployments"]["name"]["any_"]
                    _reply(
                        self,
                        200,
                        [{"id": prefect.deployments[n], "name": n} for n in names if n in prefect.deployments],
                    )
                    return
                self._create(body)

            def _create(self, body: dict[str, Any]) -> None:
                if prefect.creating >= 400:
                    _reply(self, prefect.creating, {"detail": "Error creating flow run"})
                    return
                known = body["idempotency_key"] in prefect.runs
                run = prefect.runs.setdefault(
                    body["idempotency_key"],
                    {"id": f"run-{len(prefect.runs) + 1}", "deployment": self.path.split("/")[3], **body},
                )
                if prefect.lose_answers:
                    self.close_connection = True
                    return
                _reply(self, 200 if known else 201, run)

            def log_message(self, *_: object) -> None:
                pass

        return Service(Handler, port)


def write_site(
    folder: Path, stores: Any, *, nodes: dict[str, str], gateways: dict[str, str], api: str, **policy: Any
) -> Path:
    """A site file over these servers; `stores` by region, `nodes` by name, `gateways` by zone."""
    key = Ed25519PrivateKey.generate()
    pem = folder / "signing.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    regions = {}
    for number, region in enumerate(REGIONS, start=1):
        store = stores[region]
        secret = folder / f"{region}.json"
        secret.touch(mode=0o600)
        secret.write_text(
            json.dumps({"access_key": store.credentials.access_key, "secret_key": store.credentials.secret_key})
        )
        config = store.store(region).config
        regions[region] = {
            "cloud_region": f"{region}-1",
            "role": ("primary", "secondary", "tertiary")[number - 1],
            "priority": number,
            "workload_pct": 30,
            "work_pool": region,
            "zones": [zone for zone in ZONES if zone.startswith(region)],
            "store": {
                "endpoint": config.endpoint,
                "bucket": config.bucket,
                "cloud_region": "us-east-1",
                "credentials": f"file:{secret}",
            },
        }
    site = {
        "version": 1,
        "name": "watched",
        "kind": "lab",
        "work_dir": str(folder / "work"),
        "chain": {
            "chain_id": CHAIN,
            "block_time_s": 1.0,
            "start": ["true"],
            "start_isolated": ["true"],
            "inspect": ["true"],
            "genesis": str(folder / "genesis.json"),
            "genesis_sha256": "0" * 64,
        },
        "signing": {"key": f"file:{pem}", "trusted": [key.public_key().public_bytes_raw().hex()]},
        "regions": regions,
        "nodes": [
            {
                "name": name,
                "region": name[:-3],
                "zone": name,
                "role": "archive" if name.endswith("a") else "full",
                "rpc": url,
                "p2p": "127.0.0.1:1",
                "home": str(folder / name),
                "unit": name,
            }
            for name, url in nodes.items()
        ],
        "gateways": [
            {"name": f"gateway-{zone}", "region": zone[:-3], "zone": zone, "unit": f"gateway-{zone}", "url": url}
            for zone, url in gateways.items()
        ],
        "fleet": {"kind": "lab", "agents": {}},
        "orchestrator": {"api_url": f"{api}/api", "ui_url": api},
        "config_repository": {"path": str(folder / "config")},
        "controller": policy,
    }
    path = folder / "watched.toml"
    path.write_text(tomli_w.dumps(site))
    return path


@contextlib.contextmanager
def running(*services: Service) -> Iterator[None]:
    for service in services:
        service.start()
    try:
        yield
    finally:
        for service in services:
            service.stop()
