"""Where the key of a validator that signs from a file goes when the place of its host is lost or emptied.

Guarantees: pure.  A key is only planned to be moved when every host that holds or may hold it can be proven fenced, by
what answers now, and when the chain goes on without it while it is silent; else the reason is said, with what would
make it possible.
Leaves out: looking (tasks.key_files), and doing (`promotion`).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from vedr.inventory import Node, Site
from vedr.policies.key_files import KeyFile

NOT_NAMED: Final = (
    "it signs from a key file, and no [[key_files]] of the site names hosts that may be given it: bring it back on its "
    "own host (RB-DR-001)"
)


@dataclass(frozen=True, slots=True)
class KeyMove:
    """A validator's key file, from the host where it signs to the one that is to.

    `by_word`: hosts that only their network's deny can fence, so that two people have to look at them.
    """

    validator: str
    power: int
    origin: str
    host: str
    zone: str
    region: str
    by_word: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyHosts:
    """What is known of the hosts of all key files.

    Args:
        holders: The host where each key signs, or did last, by validator; its own when nobody ever moved it.
        unproven: Hosts that nothing can prove fenced now, each with the reasons.
        unfit: Hosts whose supervisor or disk does not answer, so that they can't be given a key, each with the reason.
        by_word: Hosts of which only the network's deny answers: two people's word is needed besides.
    """

    holders: Mapping[str, str] = field(default_factory=dict)
    unproven: Mapping[str, str] = field(default_factory=dict)
    unfit: Mapping[str, str] = field(default_factory=dict)
    by_word: frozenset[str] = frozenset()

    def holder(self, validator: str) -> str:
        """The host where it signs."""
        return self.holders.get(validator, validator)


@dataclass(frozen=True, slots=True)
class Room:
    """What a key file may be given.

    Args:
        site: The site.
        is_lost: Whether a node stands in what is lost or emptied.
        is_in_target: Whether it stands in what takes over.
        serves: Whether it is in sync, or would be when it is started.
        taken: Nodes that sign with another key, now or by this plan.
    """

    site: Site
    is_lost: Callable[[Node], bool]
    is_in_target: Callable[[Node], bool]
    serves: Callable[[Node], bool]
    taken: Collection[str]


def choose_host(room: Room, validator: Node, hosts: KeyHosts, power: int) -> KeyMove | str:
    """Where its key goes, or why it stays."""
    key_file = room.site.key_file_of(validator.name)
    if key_file is None:
        return NOT_NAMED
    origin = hosts.holder(validator.name)
    if unproven := [host for host in key_file.every_host if host in hosts.unproven]:
        return _not_fenced(unproven, hosts)
    able = [
        node for node in map(room.site.node, key_file.every_host)
        if node.name not in {origin, *room.taken, *hosts.unfit} and not room.is_lost(node) and room.serves(node)
    ]  # fmt: skip
    if not able:
        return _nowhere(key_file, hosts)
    node = min(able, key=lambda one: not room.is_in_target(one))
    by_word = _by_word(key_file, hosts, besides=node.name)
    return KeyMove(validator.name, power, origin, node.name, node.zone, node.region, by_word)


def go_home(key_file: KeyFile, home: Node, hosts: KeyHosts, power: int) -> KeyMove | str:
    """Back to the validator's own host, or why not."""
    if unproven := [host for host in key_file.hosts if host in hosts.unproven]:
        return _not_fenced(unproven, hosts)
    if home.name in hosts.unfit:
        return f"the supervisor or the disk of its own host does not answer ({hosts.unfit[home.name]}): bring it back"
    by_word = _by_word(key_file, hosts, besides=home.name)
    return KeyMove(home.name, power, hosts.holder(home.name), home.name, home.zone, home.region, by_word)


def _by_word(key_file: KeyFile, hosts: KeyHosts, *, besides: str) -> tuple[str, ...]:
    return tuple(host for host in key_file.every_host if host in hosts.by_word and host != besides)


def would_halt(move: KeyMove, *, online: int, needed: int) -> str:
    """Why it must not become silent for a while; empty: the chain goes on without it, or stands anyway."""
    if online - move.power < needed <= online:
        return (
            f"while its key file is moved it is silent, and {online - move.power} of {needed} power would be online: "
            "the chain would halt.  Bring back another validator first"
        )
    return ""


def _not_fenced(unproven: list[str], hosts: KeyHosts) -> str:
    said = "; ".join(f"{host}: {hosts.unproven[host]}" for host in unproven)
    return (
        f"it signs from a key file, and nothing can prove its hosts fenced ({said}): a key that may still sign there "
        f"is moved nowhere.  Possible when the supervisor and the disk of {' and '.join(unproven)} answer, or a way of "
        "[[key_files]] fences does (instance, network)"
    )


def _nowhere(key_file: KeyFile, hosts: KeyHosts) -> str:
    unfit = "; ".join(f"{host}: {hosts.unfit[host]}" for host in key_file.every_host if host in hosts.unfit)
    return (
        "it signs from a key file, and no other host that may be given it is in sync, free and outside"
        f"{f' ({unfit})' if unfit else ''}: bring one of {', '.join(key_file.every_host)} back"
    )
