"""Where the site's validators sign now, and the voting power by those places.

A remotely signed key is where the holder of its register stands, a key file where the ledger's newest promotion put it;
every other validator signs at its own node.

Guarantees: nothing is changed; where that can't be told the host is None, never "at home".
Leaves out: what a place's loss then means (`chain.quorum`).
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from vedr.chain.quorum import Member, PowerMap
from vedr.chain.register import Validator
from vedr.chain.register_holding import SignStateRegister
from vedr.errors import UnavailableError, VerificationFailedError
from vedr.failover.key_holders import KeyHolders
from vedr.inventory import Node, Site
from vedr.ports import Registers

REGISTER_DEADLINE_S: Final = 2.0  # as long as a node has to answer
_ASKED_AT_ONCE: Final = 32


def signing_hosts(site: Site, registers: Mapping[str, Registers], key_holders: KeyHolders) -> dict[str, str | None]:
    """By validator whose key may be elsewhere, the node that it signs at; None where no majority of regions tells."""
    return {**_remote(site, registers), **_key_files(site, key_holders)}


def placed(site: Site, powers: PowerMap, hosts: Mapping[str, str]) -> PowerMap:
    """The map with those validators where they sign."""
    nodes = {node.name: node for node in site.nodes}

    def where(member: Member) -> Member:
        host = nodes.get(hosts.get(member.node, member.node))
        return member if host is None else replace(member, zone=host.zone, region=host.region)

    return PowerMap(tuple(map(where, powers.members)))


def known_hosts(hosts: Mapping[str, str | None]) -> dict[str, str]:
    """All of them; UnavailableError names the validators whose place is not known."""
    if unknown := sorted(validator for validator, host in hosts.items() if host is None):
        raise UnavailableError(
            f"where {', '.join(unknown)} sign now is not known: no majority of the regions tells",
            remedy="Two regions' stores have to answer; restore one.",
        )
    return {validator: host for validator, host in hosts.items() if host is not None}


def _remote(site: Site, registers: Mapping[str, Registers]) -> dict[str, str | None]:
    """Of keys that remote signers hold in turn."""
    remote = [node for node in site.nodes if site.signers_of(node.name)]

    def ask(validator: Node) -> str | None:
        register = SignStateRegister(registers, Validator(site.chain.chain_id, validator.address))
        seen = register.glance(deadline_s=REGISTER_DEADLINE_S)
        if not seen.is_majority or seen.newest is None:
            return None
        held = (signer.node for signer in site.signers_of(validator.name) if seen.newest.is_held_by(signer.name))
        return next(held, validator.name)

    with ThreadPoolExecutor(_ASKED_AT_ONCE, "registers") as pool:
        return dict(zip([node.name for node in remote], pool.map(ask, remote), strict=True))


def _key_files(site: Site, key_holders: KeyHolders) -> dict[str, str | None]:
    """Of key files that may be moved."""
    try:
        return {**key_holders.look()}
    except (UnavailableError, VerificationFailedError):
        return dict.fromkeys(one.validator for one in site.key_files)
