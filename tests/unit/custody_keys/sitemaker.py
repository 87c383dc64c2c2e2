"""A whole site on disk: three regions, homes with keys, and the file that describes it."""

import base64
import json
from pathlib import Path
from typing import Any

import tomli_w
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from vedr.custody.key_material import (
    NODE_FILE,
    VALIDATOR_FILE,
    KeyFile,
    KeyKind,
    address_of,
    new_key_file,
    read_key_file,
)
from vedr.signature import Signer

REGIONS = ("us-east", "eu-west", "ap-south")
CLOUD = {"us-east": "us-east-1", "eu-west": "eu-west-1", "ap-south": "ap-south-1"}
ROLES = ("primary", "secondary", "tertiary")


def put_key(home: Path, kind: KeyKind, relative: str, key: Ed25519PrivateKey | None = None) -> KeyFile:
    file = new_key_file(kind, relative) if key is None else validator_file(key)
    path = home / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(file.content)
    return file


def validator_file(key: Ed25519PrivateKey) -> KeyFile:
    public = key.public_key().public_bytes_raw()
    values = [base64.b64encode(part).decode() for part in (public, key.private_bytes_raw() + public)]
    document = {
        "address": address_of(public).upper(),
        "pub_key": {"type": "tendermint/PubKeyEd25519", "value": values[0]},
        "priv_key": {"type": "tendermint/PrivKeyEd25519", "value": values[1]},
    }
    return read_key_file("validator", VALIDATOR_FILE, json.dumps(document).encode(), what="made")


def secret(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)
    return f"file:{path}"


def make_site(
    folder: Path,
    *,
    stores: dict[str, dict[str, Any]] | None = None,
    custody: dict[str, Any] | None = None,
    chain_id: str = "virtengine-1",
    validators: dict[str, Ed25519PrivateKey] | None = None,
) -> Path:
    """Write homes, secrets and site.toml; its path.  A region has validator, full and archive node, provider."""
    signing = Ed25519PrivateKey.generate()
    pem = signing.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    recovery = X25519PrivateKey.generate()
    genesis = folder / "genesis.json"
    genesis.write_text("{}")
    nodes, providers, regions = [], [], {}
    for number, region in enumerate(REGIONS):
        zones = [f"{CLOUD[region]}a", f"{CLOUD[region]}b"]
        store = {"bucket": f"keys-{region}", "cloud_region": CLOUD[region], **(stores or {}).get(region, {})}
        regions[region] = {
            "cloud_region": CLOUD[region], "role": ROLES[number], "priority": number + 1, "workload_pct": 33,
            "work_pool": region, "zones": zones, "store": store,
        }  # fmt: skip
        for name, role in (
            (f"validator-{region}", "validator"),
            (f"full-{region}", "full"),
            (f"arch-{region}", "archive"),
        ):
            home = folder / "nodes" / name
            put_key(home, "node", NODE_FILE)
            node = {
                "name": name, "region": region, "zone": zones[0], "role": role,
                "rpc": "http://127.0.0.1:1", "p2p": "127.0.0.1:26656", "home": str(home), "unit": name,
            }  # fmt: skip
            (home / "config" / "config.toml").write_text('priv_validator_laddr = ""\n')
            if role == "validator":
                key = put_key(home, "validator", VALIDATOR_FILE, (validators or {}).get(region))
                (home / "data").mkdir()
                (home / "data" / "priv_validator_state.json").write_text('{"height":"7","round":0,"step":3}')
                node |= {"power": 10, "address": key.identity.address}
            nodes.append(node)
        home = folder / "providers" / region
        put_key(home, "provider", "keys/provider.pem")
        provider = {"name": f"provider-{region}", "region": region, "zone": zones[1], "home": str(home)}
        providers.append({**provider, "unit": f"provider-{region}", "url": "http://127.0.0.1:2"})
    document = {
        "version": 1,
        "name": "keys",
        "kind": "staging",
        "work_dir": str(folder / "work"),
        "chain": {
            "chain_id": chain_id, "block_time_s": 1.0, "start": ["true"], "start_isolated": ["true"],
            "inspect": ["true"], "genesis": str(genesis), "genesis_sha256": "0" * 64,
        },
        "signing": {"key": secret(folder / "secrets" / "sign.pem", pem), "trusted": [Signer(signing).public_hex]},
        "regions": regions,
        "nodes": nodes,
        "providers": providers,
        "fleet": {"agents": {}, "token": secret(folder / "secrets" / "token", b"token")},
        "orchestrator": {"api_url": "http://127.0.0.1:3/api", "ui_url": "http://127.0.0.1:3"},
        "config_repository": {"path": str(folder / "git")},
        "custody": {"recovery_public_key": recovery.public_key().public_bytes_raw().hex(), **(custody or {})},
    }  # fmt: skip
    secret(folder / "secrets" / "recovery.hex", recovery.private_bytes_raw().hex().encode())
    path = folder / "site.toml"
    path.write_text(tomli_w.dumps(document))
    return path


def private_values(folder: Path) -> list[bytes]:
    """Every private key of the site's homes: seeds, as raw bytes."""
    seeds = []
    for path in folder.rglob("*_key.json"):
        value = json.loads(path.read_bytes())["priv_key"]["value"]
        seeds.append(base64.b64decode(value)[:32])
    for path in folder.rglob("keys/*.pem"):
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        assert isinstance(key, Ed25519PrivateKey)
        seeds.append(key.private_bytes_raw())
    return seeds
