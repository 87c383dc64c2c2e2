"""Sites for the audit: any regions, zones, validators and standbys, by a few words."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from chainmaker import address, members

from vedr.chain.quorum import PowerMap, map_power
from vedr.inventory import Site

PLACES = ("us-east-1a", "us-east-1b", "eu-west-1a", "eu-west-1b", "ap-south-1a")
"""Where validators 1 to 5 stand: VirtEngine's 2/2/1."""
REGIONS = ("us-east", "eu-west", "ap-south")


def make_site(
    places: Sequence[str] = PLACES,
    *,
    standbys: Mapping[int, Sequence[str]] | None = None,
    hsm: Sequence[str] = REGIONS,
    extra: Mapping[str, object] | None = None,
) -> Site:
    """Validators 1, 2, … at these zones; in every zone a full node, the second zone's an archive.

    Args:
        places: The zone of each validator.
        standbys: By validator's number, the full nodes where it can be promoted (`full-eu-west-1a`).
        hsm: Regions with a token.
        extra: Replaces members of the document.
    """
    document = {
        "version": 1,
        "name": "test",
        "kind": "staging",
        "work_dir": "/nowhere",
        "chain": {
            "chain_id": "made-1",
            "block_time_s": 1.0,
            "start": ["node"],
            "start_isolated": ["node"],
            "inspect": ["inspect"],
            "genesis": "/nowhere/genesis.json",
            "genesis_sha256": "0" * 64,
        },
        "signing": {"key": "file:/nowhere/key", "trusted": ["0" * 64]},
        "regions": {name: _region(name, number, name in hsm) for number, name in enumerate(REGIONS, 1)},
        "nodes": [*_validators(places), *_full_nodes()],
        "signers": _signers(standbys or {}),
        "fleet": {},
        "orchestrator": {"api_url": "http://prefect/api", "ui_url": "http://prefect"},
        "config_repository": {"path": "/nowhere/config"},
        **(extra or {}),
    }
    return Site.model_validate(document)


def power_of(site: Site, powers: Mapping[int, int]) -> PowerMap:
    """The active set from numbers and powers; numbers that the site has no validator for are outside."""
    return map_power(site, members(dict(powers)))


def addresses(*numbers: int) -> list[bytes]:
    return [address(number) for number in numbers]


def _region(name: str, number: int, hsm: bool) -> dict[str, object]:
    token = {"module": "/lib/p11.so", "token_label": "t", "pin": "env:PIN"}
    return {
        "cloud_region": f"{name}-1",
        "role": ("primary", "secondary", "tertiary")[number - 1],
        "priority": number,
        "workload_pct": 33,
        "work_pool": name,
        "zones": [f"{name}-1a", f"{name}-1b"],
        "store": {"bucket": f"backups-{name}", "cloud_region": f"{name}-1"},
        **({"hsm": token} if hsm else {}),
    }


def _validators(places: Sequence[str]) -> list[dict[str, object]]:
    return [
        _node(f"val{number}", zone, "validator", power=10, address=address(number).hex().upper())
        for number, zone in enumerate(places, 1)
    ]


def _full_nodes() -> list[dict[str, object]]:
    return [
        _node(f"full-{region}-1{zone}", f"{region}-1{zone}", role)
        for region in REGIONS
        for zone, role in (("a", "full"), ("b", "archive"))
    ]


def _node(name: str, zone: str, role: str, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "region": zone.rsplit("-", 1)[0],
        "zone": zone,
        "role": role,
        "rpc": f"http://{name}:26657",
        "p2p": f"{name}:26656",
        "home": str(Path("/home") / name),
        "unit": name,
        **more,
    }


def _signers(standbys: Mapping[int, Sequence[str]]) -> list[dict[str, str]]:
    return [
        {
            "name": f"signer-val{number}-{node}",
            "validator": f"val{number}",
            "node": node,
            "unit": f"signer-{number}-{node}",
            "listen": "tcp://127.0.0.1:1",
        }
        for number, nodes in standbys.items()
        for node in (f"val{number}", *nodes)
    ]
