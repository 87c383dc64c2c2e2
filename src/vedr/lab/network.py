"""Zones as network namespaces on one bridge (Linux, root).

Guarantees: creating is idempotent and complete after an interruption; removing takes away exactly what this lab made; a
cut stops traffic in both directions at once, without telling either side.
Leaves out: zones without root, which the supervisors' relays make.

Names: namespace `<lab>-<zone>`, bridge `vl<a>-<b>` and its ports `vl<a>-<b>z<n>` for network `<a>.<b>` (at most 15
characters, the kernel's limit).
"""

import subprocess
from pathlib import Path
from typing import Final

from vedr.errors import ConflictError, UnavailableError
from vedr.lab.addresses import AGENT_HOST, GATEWAY_HOSTS, NODE_HOSTS, PROVIDER_HOSTS, STORE_HOST
from vedr.lab.plan import Plan, Zone
from vedr.lab.template import MAX_UNITS_PER_KIND_AND_ZONE

_NAMESPACES: Final = Path("/run/netns")
_LIMIT_S: Final = 15


def namespace(plan: Plan, zone: Zone) -> str:
    """Name of the zone's namespace, as `ip netns exec` takes it."""
    return f"{plan.settings.name}-{zone.name}"


def namespace_inodes(plan: Plan, *zones: Zone) -> frozenset[int]:
    """The kernel's identity of each of these zones' namespaces that exists; of all when none is named."""
    paths = [_NAMESPACES / namespace(plan, zone) for zone in zones or plan.zones]
    return frozenset(path.stat().st_ino for path in paths if path.exists())


def create_missing(plan: Plan) -> int:
    """Bridge, namespaces and cables; returns how many namespaces were made.

    Raises:
        ConflictError: another lab, or something else, uses this network.
    """
    _claim_mount(plan)
    if not _exists(bridge(plan)):
        _refuse_foreign_network(plan)
        _ip("link", "add", bridge(plan), "type", "bridge")
        _ip("link", "set", bridge(plan), "alias", str(plan.folder))
    elif not _is_ours(plan):
        raise ConflictError(
            f"network {plan.addresses.cidr} is that of the lab in {_owner(plan)}",
            remedy='Choose another with --network, such as "10.91", or end that lab.',
        )
    if f"{plan.addresses.ops}/16" not in _output("-o", "addr", "show", "dev", bridge(plan)):
        _ip("addr", "add", f"{plan.addresses.ops}/16", "dev", bridge(plan))
    _ip("link", "set", bridge(plan), "up")
    return sum(_create_zone(plan, zone) for zone in plan.zones)


def remove(plan: Plan) -> None:
    """Take everything away; quiet where nothing is."""
    ours = _is_ours(plan)
    for zone in plan.zones:
        if ours and _exists(port(plan, zone)):  # before its namespace, which would take it away in its own time
            _ip("link", "del", port(plan, zone))
        if (_NAMESPACES / namespace(plan, zone)).exists():
            _ip("netns", "del", namespace(plan, zone))
    if ours and _exists(bridge(plan)):
        _ip("link", "del", bridge(plan))
    _release_mount(plan)


def leftovers(plan: Plan) -> list[str]:
    """What of this lab's network still exists, in words."""
    found = [f"namespace {namespace(plan, z)}" for z in plan.zones if (_NAMESPACES / namespace(plan, z)).exists()]
    devices = [bridge(plan), *(port(plan, zone) for zone in plan.zones)]
    return [*found, *(f"network device {device}" for device in devices if _exists(device) and _is_ours(plan))]


def cut(plan: Plan, zone: Zone) -> None:
    """Nothing passes between the zone and the rest, in both directions."""
    _ip("link", "set", port(plan, zone), "down")


def heal(plan: Plan, zone: Zone) -> None:
    _ip("link", "set", port(plan, zone), "up")


def is_cut(plan: Plan, zone: Zone) -> bool:
    """Whether the zone's cable is out."""
    flags = Path(f"/sys/class/net/{port(plan, zone)}/flags")
    return not flags.exists() or not int(flags.read_text(), 16) & 1  # IFF_UP


def _create_zone(plan: Plan, zone: Zone) -> bool:
    """The cable's far end is made inside the namespace, so that an interruption leaves no half of it outside."""
    name, near_end = namespace(plan, zone), port(plan, zone)
    made = not (_NAMESPACES / name).exists()
    if made:
        _ip("netns", "add", name)
    if not _exists(near_end):
        _ip("link", "add", near_end, "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("link", "set", near_end, "master", bridge(plan), "up")
    _ip("-n", name, "link", "set", "lo", "up")
    have = _output("-n", name, "-o", "addr", "show", "dev", "eth0")
    wanted = [f"{plan.addresses.published(zone.number, host)}/16" for host in _hosts()]
    _ip_batch(name, [f"addr add {address} dev eth0" for address in wanted if f" {address} " not in have])
    _ip("-n", name, "link", "set", "eth0", "up")
    return made


def _hosts() -> list[int]:
    kinds = (NODE_HOSTS, PROVIDER_HOSTS, GATEWAY_HOSTS)
    return [AGENT_HOST, STORE_HOST, *(first + n for first in kinds for n in range(MAX_UNITS_PER_KIND_AND_ZONE))]


def _refuse_foreign_network(plan: Plan) -> None:
    taken = [
        line.split()[1] for line in _output("-o", "-4", "addr").splitlines() if f" {plan.settings.network}." in line
    ]
    if taken:
        raise ConflictError(
            f"network {plan.addresses.cidr} is in use on {', '.join(taken)}",
            remedy='Choose another with --network, such as "10.91".',
        )


def bridge(plan: Plan) -> str:
    """The device that joins the zones."""
    return "vl" + plan.settings.network.replace(".", "-")


def port(plan: Plan, zone: Zone) -> str:
    """The zone's end of its cable on the bridge."""
    return f"{bridge(plan)}z{zone.number}"


def _owner(plan: Plan) -> str:
    """The folder of the lab that made the bridge; its ports have no other owner."""
    alias = Path(f"/sys/class/net/{bridge(plan)}/ifalias")
    return alias.read_text().strip() if alias.exists() else ""


def _is_ours(plan: Plan) -> bool:
    return _owner(plan) in ("", str(plan.folder))  # "": there is none, or one that was interrupted before it was named


def _mark(plan: Plan) -> Path:
    return plan.folder.parent / ".netns-mount"


def _claim_mount(plan: Plan) -> None:
    """`ip netns add` mounts /run/netns when it is not there yet; remember that it was for us."""
    if not _is_mounted(_NAMESPACES):
        _mark(plan).touch()


def _release_mount(plan: Plan) -> None:
    if _mark(plan).exists() and _is_mounted(_NAMESPACES) and not any(_NAMESPACES.iterdir()):
        subprocess.run(["umount", str(_NAMESPACES)], check=False, capture_output=True, timeout=_LIMIT_S)
        _mark(plan).unlink()


def _is_mounted(folder: Path) -> bool:
    """os.path.ismount does not see a bind mount of a folder on the same file system, which this one is."""
    with Path("/proc/self/mountinfo").open(encoding="utf-8") as mounts:
        return any(line.split()[4] == str(folder) for line in mounts)


def _exists(device: str) -> bool:
    return Path(f"/sys/class/net/{device}").exists()


def _ip(*arguments: str) -> None:
    _output(*arguments)


def _ip_batch(name: str, lines: list[str]) -> None:
    """Many addresses with one process: one for each would take seconds."""
    _output("-n", name, "-batch", "-", standard_input="\n".join(lines))


def _output(*arguments: str, standard_input: str = "") -> str:
    done = subprocess.run(
        ["ip", *arguments], input=standard_input, capture_output=True, text=True, check=False, timeout=_LIMIT_S
    )
    if done.returncode:
        raise UnavailableError(
            f"`ip {' '.join(arguments)}`: {done.stderr.strip()}",
            remedy="Run as root on a kernel with network namespaces, or use --mode relays.",
        )
    return done.stdout
