"""Writes the running lab's site file: the template's policy plus addresses, homes and references to keys.

Guarantees: what is written was parsed back and keeps every rule of vedr.inventory; secrets are only referred to.
"""

import hashlib
from pathlib import Path
from typing import Any, Final

import tomli_w

from vedr.inventory import Site, parse_site
from vedr.lab.addresses import GATEWAY_PORT, P2P_PORT, PROVIDER_PORT, RPC_PORT, STORE_PORT
from vedr.lab.credentials import TOKEN_LABEL_PREFIX, LabSecrets, write_whole
from vedr.lab.custodians import record_path
from vedr.lab.plan import Plan, PlannedSigner

HSM_MODULES: Final = (Path("/usr/lib/softhsm/libsofthsm2.so"), Path("/usr/lib64/pkcs11/libsofthsm2.so"))
FAILOVER_TTL_S: Final = 10  # VirtEngine's is 60; a failback waits for it
CONTROLLER: Final = {
    "interval_s": 3.0,
    "probe_deadline_s": 2.0,
    "failures": 3,
    "fresh_s": 15.0,
    "lease_s": 15.0,
    "region": "start",
    "zone": "start",
}
"""Quicker than VirtEngine's 30 s, and it acts: `vedr lab start controller-<region>` in three regions tries it."""
_HEADER: Final = "# Written by `vedr lab up` from deployments/sites/lab.toml; written anew at each start.\n\n"


def write_site_file(plan: Plan, addresses_of_validators: dict[str, str]) -> Site:
    """Write `<lab>/site.toml`; returns it as parsed.

    Args:
        plan: The lab.
        addresses_of_validators: Consensus address of each validator, by node name.
    """
    path = plan.folder / "site.toml"
    text = _HEADER + tomli_w.dumps(_document(plan, addresses_of_validators))
    site = parse_site(text, source=str(path))
    write_whole(path, text, mode=0o644)
    return site


def _document(plan: Plan, validators: dict[str, str]) -> dict[str, Any]:
    secrets = LabSecrets(plan.folder)
    return {
        "version": 1,
        "name": plan.settings.name,
        "kind": "lab",
        "work_dir": str(plan.folder / "work"),
        "chain": _chain(plan),
        "signing": {"key": f"file:{secrets.signing_key}", "trusted": [secrets.public_key_hex()]},
        "encryption": {"mode": "aes-256-gcm", "key": f"file:{secrets.site_key}"},
        "regions": {region: _region(plan, secrets, region) for region in plan.regions},
        "nodes": [_node(plan, node.name, validators) for node in plan.nodes],
        "signers": [_signer(signer) for signer in plan.signers],
        "key_files": [{"validator": node.name, "hosts": list(node.key_hosts)} for node in plan.nodes if node.key_hosts],
        **_services(plan),
        "fleet": {
            "kind": "lab",
            "agents": {zone.name: plan.agent_url(zone) for zone in plan.zones},
            "token": f"file:{secrets.agent_token}",
        },
        "dns": {
            "server": plan.addresses.ops,
            "port": plan.dns_port,
            "zone": plan.dns_zone,
            "ttl_s": plan.template.dns.ttl_s,
            "key": f"file:{secrets.tsig}",
        },
        "traffic": {
            "home": "primary",  # as the zone's first content has it
            "ttl_s": plan.template.dns.ttl_s,
            "failover_ttl_s": FAILOVER_TTL_S,
            "backends": [{"kind": "rfc2136"}],
        },
        "controller": CONTROLLER,
        "drills": {"faults": "lab", "may_halt": True},
        "custody": {
            "recovery_public_key": secrets.recovery_public_hex(),
            "escrow": {
                "endpoints": dict.fromkeys(plan.regions, plan.vault_url),
                "credentials": f"file:{secrets.vault_credentials}",
            },
            "unit_log": str(plan.folder / "logs" / "{unit}.log"),
        },
        "checks": {"share_record": str(record_path(plan))},
        "continuity": {
            "status_page": plan.status_page_url,
            "monitoring_url": plan.metrics_url,
        },
        "orchestrator": {"api_url": f"{plan.orchestrator_url}/api", "ui_url": plan.orchestrator_url},
        "config_repository": {"path": str(plan.folder / "config-backups")},
        "targets": plan.template.targets.model_dump(),
        "retention": plan.template.retention.model_dump(),
        "schedule": plan.template.schedule.model_dump(),
    }


def _chain(plan: Plan) -> dict[str, Any]:
    program = str(plan.settings.programs / "labnode")
    genesis = plan.folder / "genesis.json"
    return {
        "chain_id": plan.chain_id,
        "block_time_s": plan.template.chain.block_time_s,
        "start": [program, "start", "--home", "{home}"],
        "start_isolated": [program, "start", "--home", "{home}", "--isolated", "--rpc-listen", "{rpc}"],
        "inspect": [program, "inspect", "--home", "{home}", "--data", "{data}"],
        "inspect_deep": [program, "inspect", "--home", "{home}", "--data", "{data}", "--deep"],
        "rollback": [program, "rollback", "--home", "{home}"],
        "genesis": str(genesis),
        "genesis_sha256": hashlib.sha256(genesis.read_bytes()).hexdigest(),
        "state_sync_interval": plan.template.chain.snapshot_interval,
        "software": {"node": "labnode", "consensus": "CometBFT v0.38"},
    }


def _region(plan: Plan, secrets: LabSecrets, region: str) -> dict[str, Any]:
    policy = plan.template.regions[region]
    return {
        **policy.model_dump(exclude={"zones"}),
        "work_pool": region,
        "zones": list(policy.zones),
        "store": {
            "endpoint": f"http://{plan.published(plan.stores[region], STORE_PORT)}",
            "bucket": plan.bucket(region),
            "register_bucket": plan.register_bucket(region),
            "cloud_region": policy.cloud_region,
            "credentials": f"file:{secrets.store_credentials(region)}",
            "object_lock_days": plan.template.store.object_lock_days,
        },
        "hsm": {
            "module": str(pkcs11_module()),
            "token_label": f"{TOKEN_LABEL_PREFIX}{region}",
            "pin": f"file:{secrets.hsm_pin(region)}",
            "config": str(secrets.hsm_config(region)),
        },
    }


def pkcs11_module() -> Path:
    """SoftHSM's, where this machine has it."""
    return next((module for module in HSM_MODULES if module.exists()), HSM_MODULES[0])


def _node(plan: Plan, name: str, validators: dict[str, str]) -> dict[str, Any]:
    node = next(n for n in plan.nodes if n.name == name)
    described: dict[str, Any] = {
        "name": name,
        "region": node.zone.region,
        "zone": node.zone.name,
        "role": node.role,
        "rpc": f"http://{plan.published(node, RPC_PORT)}",
        "p2p": plan.published(node, P2P_PORT),
        "home": str(node.home),
        "unit": name,
    }
    if node.role == "validator":
        described |= {"power": node.power, "address": validators[name]}
    return described


def _signer(signer: PlannedSigner) -> dict[str, str]:
    return {
        "name": signer.name,
        "validator": signer.validator.name,
        "node": signer.node.name,
        "unit": signer.name,
        "listen": signer.listen,
    }


def _services(plan: Plan) -> dict[str, Any]:
    return {
        "providers": [
            {
                "name": p.name,
                "region": p.zone.region,
                "zone": p.zone.name,
                "home": str(plan.provider_home(p)),
                "unit": p.name,
                "url": f"http://{plan.published(p, PROVIDER_PORT)}",
                "reserve": p.reserve,
            }
            for p in plan.providers
        ],
        "gateways": [
            {
                "name": g.name,
                "region": g.zone.region,
                "zone": g.zone.name,
                "unit": g.name,
                "url": f"http://{plan.published(g, GATEWAY_PORT)}",
                "reserve": g.reserve,
            }
            for g in plan.gateways
        ],
    }
