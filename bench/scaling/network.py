"""A thousand nodes in fifty regions, as far as RPC clients can tell: one process, an address of its own for each node.

Guarantees: headers and commits are signed by the validators that the genesis names, so that a light client verifies
them; every node answers over real HTTP on the loopback.
Leaves out: making blocks; the tip stands still.
"""

import asyncio
import base64
import hashlib
import json
import multiprocessing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.light import CHAIN_ID, make_block
from vedr.chain.block import BlockId, Commit, ValidatorSet
from vedr.chain.trust import header_json
from vedr.chain.verification import LightBlock
from vedr.chain.wire import to_rfc3339
from vedr.inventory import Signing, Site

HEIGHT: Final = 30
PEERS: Final = 40
VOTE_DIGITS: Final = 12  # of an address, as CometBFT prints votes
START_DEADLINE_S: Final = 60.0
PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the fleet is."""

    regions: int = 50
    nodes_per_region: int = 20

    @property
    def nodes(self) -> int:
        return self.regions * self.nodes_per_region


class Fleet:
    """The site, its chain, and what each node answers."""

    def __init__(self, shape: Shape, folder: Path, port: int, *, now_ns: int, signing: Signing) -> None:
        self.shape, self.port = shape, port
        self.genesis_ns = now_ns - HEIGHT * 10**9
        self.keys = [
            Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"%d" % number).digest())
            for number in range(shape.regions)
        ]
        self.genesis = folder / "genesis.json"
        self.genesis.write_bytes(self._genesis())
        self.names = [
            self._name(region, number) for region in range(shape.regions) for number in range(shape.nodes_per_region)
        ]
        self.site = self._site(folder, signing)

    def address(self, index: int) -> str:
        """A loopback address for each node."""
        return f"127.1.{index // 250}.{index % 250 + 1}"

    def region(self, number: int) -> str:
        return f"rg-sim-{number:02}"

    def _name(self, region: int, number: int) -> str:
        return f"n-{region:02}-{number:02}"

    def _genesis(self) -> bytes:
        validators = [
            {
                "address": _address(key).hex().upper(),
                "pub_key": {"type": "tendermint/PubKeyEd25519", "value": base64.b64encode(_public(key)).decode()},
                "power": "10",
                "name": "",
            }
            for key in self.keys
        ]
        document = {
            "genesis_time": to_rfc3339(self.genesis_ns),
            "chain_id": CHAIN_ID,
            "initial_height": "1",
            "validators": validators,
        }
        return json.dumps(document).encode()

    def _site(self, folder: Path, signing: Signing) -> Site:
        regions = {
            self.region(number): {
                "cloud_region": "us-east-1",
                "role": ("primary", "secondary", "tertiary")[min(number, 2)],
                "priority": number + 1,
                "workload_pct": 2,
                "work_pool": self.region(number),
                "zones": [f"{self.region(number)}a", f"{self.region(number)}b"],
                "store": {"bucket": self.region(number), "cloud_region": "us-east-1"},
            }
            for number in range(self.shape.regions)
        }
        return Site.model_validate(
            {
                "version": 1,
                "name": "scale",
                "kind": "staging",
                "work_dir": str(folder),
                "chain": {
                    "chain_id": CHAIN_ID, "block_time_s": 1.0, "start": ["node"], "start_isolated": ["node"],
                    "inspect": ["inspect"], "genesis": str(self.genesis), "state_sync_interval": 100,
                    "genesis_sha256": hashlib.sha256(self.genesis.read_bytes()).hexdigest(),
                },
                "signing": signing.model_dump(mode="json"),
                "regions": regions,
                "nodes": [self._node(index) for index in range(self.shape.nodes)],
                "fleet": {},
                "orchestrator": {"api_url": "http://127.0.0.1:9/api", "ui_url": "http://127.0.0.1:9"},
                "config_repository": {"path": str(folder / "config")},
                "checks": {"tip_max_age_s": 3600},
            }
        )  # fmt: skip

    def _node(self, index: int) -> dict[str, object]:
        region, number = divmod(index, self.shape.nodes_per_region)
        name = self.names[index]
        node: dict[str, object] = {
            "name": name,
            "region": self.region(region),
            "zone": f"{self.region(region)}{'ab'[number % 2]}",
            "role": "validator" if number == 0 else "archive" if number == 1 else "full",
            "rpc": f"http://{self.address(index)}:{self.port}",
            "p2p": f"{name}:26656",
            "home": f"/home/{name}",
            "unit": name,
        }
        if number == 0:
            node |= {"power": 10, "address": _address(self.keys[region]).hex().upper()}
        return node

    # --- answers

    def answers(self) -> "Answers":
        blocks = {height: make_block(self.keys, height, genesis_ns=self.genesis_ns) for height in range(1, HEIGHT + 1)}
        commits = {height: _whole(_signed_json(block)) for height, block in blocks.items()}
        validators = {height: _whole(_validators_json(block.validators, height)) for height, block in blocks.items()}
        places = {self.address(index): index for index in range(self.shape.nodes)}
        return Answers(self, places, blocks[HEIGHT], commits, validators)

    def peers_of(self, index: int) -> list[int]:
        """Nodes of other regions, evenly over all."""
        step = max(1, self.shape.nodes // PEERS)
        return [other for other in range(index % step, self.shape.nodes, step) if other != index]


@dataclass(frozen=True, slots=True)
class Answers:
    """What each address answers."""

    fleet: Fleet
    places: Mapping[str, int]
    tip: LightBlock
    commits: Mapping[int, bytes]
    validators: Mapping[int, bytes]

    def to(self, address: str, target: str) -> bytes:
        """The body for a request's target."""
        parts = urlsplit(target)
        query = {name: int(values[0]) for name, values in parse_qs(parts.query).items()}
        height = query.get("height", HEIGHT)
        index = self.places[address]
        match parts.path:
            case "/status":
                return _whole(self._status(index))
            case "/commit":
                return self.commits[height]
            case "/validators":
                return self.validators[height]
            case "/net_info":
                return _whole(self._net_info(index))
            case "/dump_consensus_state":
                return _whole({"round_state": self._next_round()})
            case _:
                return json.dumps({"error": {"code": -32601, "message": "Method not found"}}).encode()

    def _status(self, index: int) -> dict[str, object]:
        header = self.tip.header
        is_validator = index % self.fleet.shape.nodes_per_region == 0
        key = self.fleet.keys[index // self.fleet.shape.nodes_per_region]
        return {
            "node_info": {
                "id": _node_id(index),
                "network": CHAIN_ID,
                "moniker": self.fleet.names[index],
                "version": "0.38",
            },
            "sync_info": {
                "latest_block_height": str(header.height),
                "latest_block_hash": header.hash().hex().upper(),
                "latest_app_hash": header.app_hash.hex().upper(),
                "latest_block_time": to_rfc3339(header.time_ns),
                "earliest_block_height": "1",
                "catching_up": False,
            },
            "validator_info": {
                "address": (_address(key) if is_validator else bytes(20)).hex().upper(),
                "voting_power": "10" if is_validator else "0",
            },
        }

    def _next_round(self) -> dict[str, object]:
        """Of the height above the tip, for which everybody has given a first vote."""
        validators, height = self.tip.validators, HEIGHT + 1
        addresses = [one.address.hex().upper()[:VOTE_DIGITS] for one in validators.validators]
        none, nil = ["nil-Vote"] * len(addresses), "0" * VOTE_DIGITS
        votes = [
            f"Vote{{{place}:{address} {height}/00/SIGNED_MSG_TYPE_PREVOTE(Prevote) {nil} {nil} @ now}}"
            for place, address in enumerate(addresses)
        ]
        return {
            "height": str(height),
            "round": 0,
            "step": 1,
            "validators": _validators_json(validators, height),
            "votes": [{"round": 0, "prevotes": votes, "precommits": none}],
            "last_commit": None,
            "proposal": None,
        }

    def _net_info(self, index: int) -> dict[str, object]:
        return {
            "listening": True,
            "peers": [
                {
                    "node_info": {"id": _node_id(other), "moniker": self.fleet.names[other]},
                    "remote_ip": self.fleet.address(other),
                    "is_outbound": True,
                }
                for other in self.fleet.peers_of(index)
            ],
        }


@contextmanager
def serving(fleet: Fleet) -> Iterator[None]:
    """The nodes' answers, from another process."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_serve, args=(fleet, ready), daemon=True)
    process.start()
    try:
        if not ready.wait(START_DEADLINE_S):
            raise RuntimeError("the simulated nodes do not listen")
        yield
    finally:
        process.terminate()
        process.join()


def _serve(fleet: Fleet, ready: Any) -> None:
    asyncio.run(_listen(fleet, ready))


async def _listen(fleet: Fleet, ready: Any) -> None:
    answers = fleet.answers()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("sockname")[0]
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = answers.to(address, head.split(b" ", 2)[1].decode())
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(handle, list(answers.places), fleet.port, backlog=64)
    ready.set()
    await server.serve_forever()


def _whole(result: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": -1, "result": result}).encode()


def _signed_json(block: LightBlock) -> dict[str, object]:
    return {
        "signed_header": {"header": header_json(block.header), "commit": _commit_json(block.signed.commit)},
        "canonical": True,
    }


def _commit_json(commit: Commit) -> dict[str, object]:
    return {
        "height": str(commit.height),
        "round": commit.round,
        "block_id": _block_id(commit.block_id),
        "signatures": [
            {
                "block_id_flag": int(one.flag.value),
                "validator_address": one.address.hex().upper(),
                "timestamp": to_rfc3339(one.time_ns),
                "signature": base64.b64encode(one.signature).decode(),
            }
            for one in commit.signatures
        ],
    }


def _validators_json(validators: ValidatorSet, height: int) -> dict[str, object]:
    listed = [
        {
            "address": one.address.hex().upper(),
            "pub_key": {"type": "tendermint/PubKeyEd25519", "value": base64.b64encode(one.key).decode()},
            "voting_power": str(one.power),
            "proposer_priority": "0",
        }
        for one in validators.validators[:PAGE]
    ]
    return {
        "block_height": str(height), "validators": listed, "count": str(len(listed)),
        "total": str(len(validators.validators)),
    }  # fmt: skip


def _block_id(block_id: BlockId) -> dict[str, object]:
    return {
        "hash": block_id.hash.hex().upper(),
        "parts": {"total": block_id.parts_total, "hash": block_id.parts_hash.hex().upper()},
    }


def _public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _address(key: Ed25519PrivateKey) -> bytes:
    return hashlib.sha256(_public(key)).digest()[:20]


def _node_id(index: int) -> str:
    return hashlib.sha256(b"node %d" % index).hexdigest()[:40]
