"""A site of one validator, opened over registers in memory, and what its signer is started with."""

import hashlib
import json
from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from signer_world import CHAIN_ID

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.adapters.privval_signer import Settings
from vedr.adapters.site import OpenSite
from vedr.inventory import Node
from vedr.signer.tenure import Terms

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
ADDRESS = hashlib.sha256(PUBLIC).hexdigest()[:40].upper()
REGIONS = ("us-east", "eu-west", "ap-south")
OURS = Terms("us-east-1a", take_over=False, planned=False, watch_s=0)


def node(name: str = "val0", address: str = ADDRESS) -> Node:
    return Node(
        name=name,
        region="us-east",
        zone="us-east-1a",
        role="validator",
        rpc="http://127.0.0.1:1",
        p2p="127.0.0.1:1",
        home=Path("/nowhere"),
        unit=name,
        power=1,
        address=address,
    )


FULL = node().model_copy(update={"name": "full0", "role": "full", "power": 0, "address": ""})


def kept_in(**buckets: str) -> dict[str, SimpleNamespace]:
    """The site's regions, each register in `registers` unless another bucket is named (`us_east="other"`)."""
    return {
        region: SimpleNamespace(
            store=SimpleNamespace(bucket=buckets.get(region.replace("-", "_"), "registers"), register_bucket=None)
        )
        for region in REGIONS
    }


def open_made_site() -> OpenSite:
    """What the signer needs of an open site."""
    nodes = {"val0": node(), "full0": FULL}
    site = SimpleNamespace(
        chain=SimpleNamespace(chain_id=CHAIN_ID, block_time_s=0.1),
        node=nodes.__getitem__,
        nodes=tuple(nodes.values()),
        signers=(),
        region=lambda _: SimpleNamespace(hsm=None),
        regions=kept_in(),
        regions_by_priority=REGIONS,
    )
    return cast(
        "OpenSite", SimpleNamespace(site=site, registers={region: MemoryRegisters(region) for region in REGIONS})
    )


def write_key(folder: Path) -> Path:
    path = folder / "key.json"
    path.touch(mode=0o600)
    secret = KEY.private_bytes_raw() + PUBLIC
    document = {
        "address": ADDRESS,
        "pub_key": {"type": "tendermint/PubKeyEd25519", "value": b64encode(PUBLIC).decode()},
        "priv_key": {"type": "tendermint/PrivKeyEd25519", "value": b64encode(secret).decode()},
    }
    path.write_text(json.dumps(document))
    return path


def make_settings(folder: Path) -> Settings:
    return Settings(
        validator=node(),
        region="us-east",
        key=f"file:{write_key(folder)}",
        connect=(f"unix://{folder}/node.sock",),
        connection_key=None,
        state_file=folder / "state" / "priv_validator_state.json",
        terms=OURS,
    )
