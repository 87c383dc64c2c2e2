"""The lab's name servers: knot's configuration and the zone as it is when the lab starts.

Guarantees: updates (RFC 2136) and transfers need the lab's TSIG key; queries are open; nothing is written outside the
lab's folder.  The records follow VirtEngine: `rpc-<region>`, `rpc` and `api`.
Leaves out: changing records, which failover does through dynamic updates.
"""

from pathlib import Path
from typing import Final

from vedr.lab.credentials import TSIG_ALGORITHM, TSIG_KEY_NAME
from vedr.lab.plan import Plan

_NEGATIVE_TTL_S: Final = 10


def knot_config(plan: Plan, folder: Path, tsig_secret: str) -> str:
    """knot.conf; `folder` holds the zone, the journal and run-time files."""
    return f"""server:
    rundir: "{folder}/run"
    listen: {plan.addresses.ops}@{plan.dns_port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: info
database:
    storage: "{folder}/db"
key:
  - id: {TSIG_KEY_NAME}
    algorithm: {TSIG_ALGORITHM}
    secret: {tsig_secret}
acl:
  - id: keyed
    key: {TSIG_KEY_NAME}
    action: [update, transfer]
zone:
  - domain: {plan.dns_zone}
    storage: "{folder}"
    file: zone.db
    acl: keyed
    zonefile-sync: 0
    zonefile-load: difference
    journal-content: changes
"""


def zone_file(plan: Plan) -> str:
    """The zone's first content; knot keeps it up to date afterwards.  Gateways in reserve are in no answer."""
    zone, ttl = plan.dns_zone, plan.template.dns.ttl_s
    gateways = {
        region: [
            plan.addresses.published(g.zone.number, g.host)
            for g in plan.gateways
            if g.zone.region == region and not g.reserve
        ]
        for region in plan.regions
    }
    primary = min(plan.regions, key=lambda region: plan.template.regions[region].priority)
    records = [
        f"{zone}. {ttl} SOA ns.{zone}. hostmaster.{zone}. 1 300 60 86400 {_NEGATIVE_TTL_S}",
        f"{zone}. {ttl} NS ns.{zone}.",
        f"ns.{zone}. {ttl} A {plan.addresses.ops}",
    ]
    for region in plan.regions:
        records += [f"rpc-{region}.{zone}. {ttl} A {address}" for address in gateways[region]]
    records += [f"{name}.{zone}. {ttl} A {address}" for name in ("rpc", "api") for address in gateways[primary]]
    return "\n".join(records) + "\n"
