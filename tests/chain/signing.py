"""A real network whose first validator signs through `vedr signer`: real stores, tokens, wires that can be cut."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import tomli_w
from chain_network import CHAIN_ID, Network, eventually
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from loopback_ports import free_ports

from vedr.adapters.file_key import parse_key_file
from vedr.adapters.pkcs11_token_process import TokenProcess
from vedr.chain.block import Flag
from vedr.inventory import Height, Hsm, Site, load_site

REGIONS = ("us-east", "eu-west", "ap-south")
ZONES = {region: [f"{region}-1a", f"{region}-1b"] for region in REGIONS}
BLOCK_TIME_S = 0.5
TOKEN_KEY = "validator"
PIN = b"8642"
MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")


class SignerProcess:
    """`vedr signer run`, as a supervisor would start it."""

    def __init__(self, world: "World", name: str, arguments: Sequence[str], *, site_file: Path) -> None:
        self.name = name
        self.log = world.root / f"{name}.{len(world.signers)}.log"
        command = [
            sys.executable,
            "-c",
            "from vedr.cli import main; main()",
            "signer",
            "run",
            "--site",
            site_file,
        ]
        command += ["--name", name, "--state", world.root / name / "priv_validator_state.json", *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)

    def events(self, event: str) -> list[dict[str, Any]]:
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [facts for facts in map(json.loads, lines) if facts["event"] == event]

    @property
    def precommits(self) -> list[int]:
        """Heights that it signed for."""
        return [int(one["hrs"].split("/")[0]) for one in self.events("signed") if one["kind"] == "precommit"]

    def signs_above(self, height: int, *, within_s: float = 60) -> None:
        def there() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            signed = self.events("signed")
            return bool(signed) and int(signed[-1]["hrs"].split("/")[0]) > height

        eventually(there, f"{self.name} signs above {height}", within_s=within_s)

    def holds(self) -> None:
        """Wait until it has the register: a node that starts waits three seconds for its signer, and then ends."""
        eventually(lambda: self.events("holds") or self.process.poll() is not None, "begins", within_s=60)
        assert self.process.poll() is None, self.log.read_text()

    @property
    def epoch(self) -> int:
        (holds,) = self.events("holds")
        return int(holds["epoch"])

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, *, within_s: float = 30) -> int:
        return self.process.wait(within_s)


class World:
    """Validators, four equal ones if not said otherwise, of which val0 signs by remote; three regions' stores, tokens
    with one key.
    """

    def __init__(
        self,
        root: Path,
        servers: Sequence[Any],
        *,
        tcp: bool,
        full: int = 1,
        powers: tuple[int, ...] = (10, 10, 10, 10),
    ) -> None:
        self.root = root
        self.network = Network(root, powers=powers, full=full)
        self.address = f"tcp://127.0.0.1:{free_ports(1)[0]}" if tcp else f"unix://{root}/privval.sock"
        self.signs_remotely("val0", self.address)
        self.key_file = root / "key.json"
        shutil.move(self.network.home("val0") / "config" / "priv_validator_key.json", self.key_file)
        (self.network.home("val0") / "data" / "priv_validator_state.json").unlink()
        self.servers = servers
        self.site_file = root / "site.toml"
        self.site_file.write_text(tomli_w.dumps(self._site()))
        self.signers: list[SignerProcess] = []

    def signs_remotely(self, node: str, address: str) -> None:
        """Let the node listen there for a signer, from its next start."""
        config = self.network.home(node) / "config" / "config.toml"
        setting = f'priv_validator_laddr = "{address}"'
        config.write_text(re.sub(r'priv_validator_laddr = ".*"', setting, config.read_text()))

    @property
    def site(self) -> Site:
        return load_site(str(self.site_file))

    def vedr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from vedr.cli import main; main()", "signer", *arguments]
        command += ["--validator", "val0", "--site", str(self.site_file)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def status(self) -> dict[str, Any]:
        answer = self.vedr("status", "--json")
        assert answer.returncode == 0, answer.stderr
        return dict(json.loads(answer.stdout))

    def sign(
        self,
        name: str,
        *arguments: str,
        key: str | None = None,
        wires: "Wires | None" = None,
        address: str | None = None,
    ) -> SignerProcess:
        wired, site_file = (wires.address, wires.site_file) if wires else (self.address, self.site_file)
        fixed = ["--validator", "val0", "--connect", address or wired, "--key", key or f"file:{self.key_file}"]
        signer = SignerProcess(self, name, [*fixed, *arguments], site_file=site_file)
        self.signers.append(signer)
        return signer

    def provision_tokens(self) -> None:
        """One key on a token in each region: replicas."""
        seed = parse_key_file(self.key_file.read_bytes(), what="key").private_bytes_raw()
        for region in REGIONS:
            hsm = self.site.regions[region].hsm
            assert hsm is not None
            with TokenProcess(hsm, lambda: PIN, writable=True) as token:
                token.import_ed25519(seed, label=TOKEN_KEY, key_id=b"\x01")

    def close(self) -> None:
        for signer in self.signers:
            if signer.process.poll() is None:
                signer.signal(signal.SIGCONT)
                signer.process.kill()
                signer.process.wait()
        self.network.stop(kill=True)  # a node that waits for its signer does not hear SIGTERM

    def nothing_is_signed_twice(self) -> None:
        """No place has two contents in the signers' logs, and the chain holds no evidence."""
        contents: defaultdict[str, set[str]] = defaultdict(set)
        for signer in self.signers:
            for signed in signer.events("signed"):
                contents[signed["hrs"]].add(signed["digest"])
        assert contents
        assert {hrs: found for hrs, found in contents.items() if len(found) > 1} == {}
        with self.network.rpc("full0") as rpc:
            tip = rpc.status().latest_height
            assert not any(rpc.block(Height(height)).evidence for height in range(1, tip + 1))

    def missed(self, first: int, last: int) -> list[int]:
        """Heights whose commit lacks val0."""
        address = bytes.fromhex(self.network.made["val0"]["validator_address"])
        with self.network.rpc("full0") as rpc:
            commits = [rpc.commit(Height(height)).commit for height in range(first, last + 1)]
        return [
            commit.height
            for commit in commits
            if not any(sig.address == address and sig.flag is Flag.COMMIT for sig in commit.signatures)
        ]

    def _site(self) -> dict[str, Any]:
        genesis = self.network.home("val0") / "config" / "genesis.json"
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "version": 1,
            "name": "signers",
            "kind": "lab",
            "work_dir": str(self.root / "work"),
            "chain": {
                "chain_id": CHAIN_ID,
                "block_time_s": BLOCK_TIME_S,
                "start": ["true"],
                "start_isolated": ["true"],
                "inspect": ["true"],
                "genesis": str(genesis),
                "genesis_sha256": sha256(genesis.read_bytes()).hexdigest(),
            },
            "signing": {
                "key": f"file:{self._secret('site.pem', pem)}",
                "trusted": [key.public_key().public_bytes_raw().hex()],
            },
            "regions": {region: self._region(number, region) for number, region in enumerate(REGIONS)},
            "nodes": [self._node("val0", "us-east", "validator"), *self._keepers()],
            "fleet": {},
            "orchestrator": {"api_url": "http://127.0.0.1:1/api", "ui_url": "http://127.0.0.1:1"},
            "config_repository": {"path": str(self.root / "config-repository")},
        }

    def _region(self, number: int, region: str) -> dict[str, Any]:
        store = self.servers[number].store(region).config
        credentials = self.servers[number].credentials
        secret = json.dumps({"access_key": credentials.access_key, "secret_key": credentials.secret_key})
        tokens = self.root / f"tokens-{region}"
        tokens.mkdir()
        configuration = self.root / f"softhsm-{region}.conf"
        configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", region, "--so-pin", "1357", "--pin", PIN.decode()],
            env=os.environ | {"SOFTHSM2_CONF": str(configuration)},
            check=True,
            capture_output=True,
        )
        hsm = Hsm(
            module=MODULE, token_label=region, pin=f"file:{self._secret(f'pin-{region}', PIN)}", config=configuration
        )
        return {
            "cloud_region": f"{region}-1",
            "role": ("primary", "secondary", "tertiary")[number],
            "priority": number + 1,
            "workload_pct": (40, 30, 30)[number],
            "work_pool": region,
            "zones": ZONES[region],
            "store": {
                "endpoint": store.endpoint,
                "bucket": store.bucket,
                "cloud_region": store.cloud_region,
                "credentials": f"file:{self._secret(f'store-{region}', secret.encode())}",
            },
            "hsm": hsm.model_dump(mode="json"),
        }

    def _keepers(self) -> list[dict[str, Any]]:
        return [self._node(f"{role}-{region}", region, role) for region in REGIONS for role in ("full", "archive")]

    def _node(self, name: str, region: str, role: str) -> dict[str, Any]:
        is_real = name in self.network.ports
        described = {
            "name": name,
            "region": region,
            "zone": ZONES[region][0],
            "role": role,
            "rpc": self.network.url(name) if is_real else "http://127.0.0.1:1",
            "p2p": f"127.0.0.1:{self.network.ports[name][0] if is_real else 1}",
            "home": str(self.root / f"home-{name}"),
            "unit": name,
        }
        if role == "validator":
            described |= {"power": self.network.powers[0], "address": self.network.made[name]["validator_address"]}
        return described

    def _secret(self, name: str, content: bytes) -> Path:
        path = self.root / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path


class Wires:
    """One signer's cables to its node and to the regions' stores.  Cut, nothing passes and nothing is closed."""

    def __init__(self, world: World, name: str) -> None:
        ports = [int(world.address.rpartition(":")[2]), *(server.port for server in world.servers)]
        command = [sys.executable, Path(__file__).with_name("relay.py"), *map(str, ports)]
        self._relay = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._relay.stdout is not None
        laid = dict(zip(ports, json.loads(self._relay.stdout.readline()), strict=True))
        self.address = f"tcp://127.0.0.1:{laid[ports[0]]}"
        text = world.site_file.read_text()
        for port in ports[1:]:
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{laid[port]}")
        self.site_file = world.root / f"site-{name}.toml"
        self.site_file.write_text(text)

    def cut(self) -> None:
        self._relay.send_signal(signal.SIGSTOP)

    def heal(self) -> None:
        """What was sent meanwhile arrives now, late."""
        self._relay.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._relay.kill()
        self._relay.communicate()


WorldMaker = Callable[..., contextlib.AbstractContextManager[World]]
