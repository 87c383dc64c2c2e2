"""Keeping a key from being used: what RB-DR-005 does in its first seconds, and again before it makes a new key.

All at once, each for itself, so that a host that is silent delays nothing else:
1. The owner's unit is killed and kept stopped, and its key file is taken out of its place, kept beside it.
2. A validator's remote signers: nobody is appointed any more, and the registers are taken from whoever held them.
3. Full nodes that were given its key file: as the owner's unit.
4. The HSMs of every region: the key is disabled in its token, and the token is seen to refuse it.

Guarantees: what is not said to be open is proven closed: by the supervisor, by a majority of the registers, by the
token's own refusal.  Safe to repeat.
Leaves out: copies of the key that the site does not know.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.key_hosts import holders_in_ledger, key_on
from tasks.signing import deny_signers
from vedr.adapters.fence_hsm import TokenKeys
from vedr.adapters.pkcs11_token_site import references as hsm_references
from vedr.adapters.secrets import resolve
from vedr.adapters.site import OpenSite
from vedr.chain.appointment import APPOINT_DEADLINE_S
from vedr.custody import compromise
from vedr.custody.key_backup_collect import Owner, live_home
from vedr.custody.key_material import NODE_FILE, VALIDATOR_FILE
from vedr.errors import DeadlineError, NotFoundError, VedrError
from vedr.failover.fencing import HsmKeyDisabled
from vedr.inventory import Gateway
from vedr.ledger import RunId
from vedr.ports import UnitStatus

TRIES: Final = 3
DENY_LIMIT_S: Final = APPOINT_DEADLINE_S
PAUSE_S: Final = 1.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class InToken:
    """A region's token that may sign with the key still.  `again`: asking it again may help."""

    region: str
    why: str
    again: bool

    def __str__(self) -> str:
        return f"the HSM of {self.region} may sign with it still: {self.why}"


@dataclass(frozen=True, slots=True)
class Kept:
    """What came of it.  `before`: the unit as it was found; `why_not`: empty when nothing of (1) to (3) is open."""

    before: UnitStatus | None
    why_not: str
    aside: tuple[str, ...]
    in_tokens: tuple[InToken, ...]


def keep_from_use(opened: OpenSite, owner: Owner, run_id: RunId, say: Say, *, tries: int = TRIES) -> Kept:
    """(1) to (4); registers and tokens, which wait long enough each, are tried once."""
    unit = _Unit(opened, *unit_of(opened, owner))
    parts: dict[str, Callable[[], str]] = {
        "unit": unit.stop,
        "file": lambda: _file_aside(opened, owner, run_id),
        "given hosts": lambda: _contain_given_hosts(opened, owner, run_id, say),
    }
    with ThreadPoolExecutor(len(parts) + 2, "containing") as pool:
        signers = pool.submit(_deny_signers, opened, owner, run_id, say)
        tokens = pool.submit(disable_in_tokens, opened, owner)
        reasons = _repeated(pool, parts, tries)
        if open_signers := signers.result():
            reasons["signers"] = open_signers
        in_tokens = tokens.result()
    aside = () if "file" in reasons else tuple(map(str, _key_paths(opened, owner, compromise.aside_suffix(run_id))))
    return Kept(unit.before, "; ".join(reasons.values()), aside, in_tokens)


def _repeated(pool: ThreadPoolExecutor, parts: Mapping[str, Callable[[], str]], tries: int) -> dict[str, str]:
    """Why each part is open still; those that are done are not done again."""
    reasons: dict[str, str] = {}
    for number in range(tries):
        if number:
            time.sleep(PAUSE_S)
        left = {name: part for name, part in parts.items() if not number or name in reasons}
        under_way = {name: pool.submit(_reason, part) for name, part in left.items()}
        reasons = {name: reason for name, one in under_way.items() if (reason := one.result())}
        if not reasons:
            break
    return reasons


def _reason(part: Callable[[], str]) -> str:
    try:
        return part()
    except VedrError as error:
        return error.message


# --- (1)


class _Unit:
    """A unit that is to stay stopped, and its state before the first try."""

    def __init__(self, opened: OpenSite, unit: str, zone: str) -> None:
        self._fleet, self._unit, self._zone = opened.fleet, unit, zone
        self.before: UnitStatus | None = None

    def stop(self) -> str:
        """Why it is not; empty: its supervisor says that it is, and is meant to be."""
        found = self._fleet.status(self._unit, self._zone)
        self.before = self.before or found
        if found.state in ("running", "paused"):
            self._fleet.kill(self._unit, self._zone)  # no grace: every second of it the key might be used
        try:
            ended = self._fleet.stop(self._unit, self._zone)  # also says that it is meant to stay so
        except DeadlineError:
            self._fleet.kill(self._unit, self._zone)
            ended = self._fleet.stop(self._unit, self._zone)
        if ended.state in ("stopped", "failed") and ended.desired == "stopped":
            return ""
        return f"unit {self._unit} is {ended.state}, meant to be {ended.desired}"


def unit_of(opened: OpenSite, owner: Owner) -> tuple[str, str]:
    """Unit and zone, without a look at any disk."""
    for thing in opened.site.placed:
        if thing.name == owner.name and not isinstance(thing, Gateway):
            return thing.unit, thing.zone
    raise NotFoundError(f"site {opened.site.name} has no {owner.name!r}", remedy="See vedr site show.")


def _file_aside(opened: OpenSite, owner: Owner, run_id: RunId) -> str:
    take_aside(opened, owner, run_id)
    return ""


def take_aside(opened: OpenSite, owner: Owner, incident: str) -> list[Path]:
    """Rename the owner's key files; where they are now.  The incident's own new keys are left alone."""
    suffix = compromise.aside_suffix(incident)
    for path in _key_paths(opened, owner):
        if incident not in path.name:
            compromise.set_aside(path, incident)
    return _key_paths(opened, owner, suffix)


def _key_paths(opened: OpenSite, owner: Owner, suffix: str = "") -> list[Path]:
    """The owner's key files, or with a suffix those that were renamed to it; only files that are there."""
    home, _, _ = live_home(opened.site, opened.files, owner)
    patterns: tuple[str, ...] = (VALIDATOR_FILE,) if owner.kind == "validator" else (NODE_FILE,)
    if owner.kind == "provider":
        patterns = opened.site.custody.provider_key_files
    return sorted({path for pattern in patterns for path in home.glob(f"{pattern}{suffix}")})


# --- (2) and (3)


def _deny_signers(opened: OpenSite, owner: Owner, run_id: RunId, say: Say) -> str:
    """Why a remote signer of a validator's key may sign on; empty: none can, or it has none."""
    if owner.kind != "validator" or not opened.site.signers_of(owner.name):
        return ""
    try:
        deny_signers(opened, opened.site.node(owner.name), run_id, deadline_s=DENY_LIMIT_S)
    except VedrError as error:
        return f"its remote signers may sign on: {error.message}"
    say(f"the registers refuse every signer of {owner.name}'s key")
    return ""


def _contain_given_hosts(opened: OpenSite, owner: Owner, run_id: RunId, say: Say) -> str:
    """Why a full node that was given a validator's key file may sign on; empty: none can, or there is none."""
    key_file = opened.site.key_file_of(owner.name) if owner.kind == "validator" else None
    if key_file is None:
        return ""
    reasons = []
    holder = holders_in_ledger(opened)[owner.name]
    for node in map(opened.site.node, key_file.hosts):
        try:
            if key_on(opened, node) is None:
                continue
            reasons.append(_Unit(opened, node.unit, node.zone).stop())
            compromise.set_aside(opened.files.home(node) / VALIDATOR_FILE, run_id)
            say(f"{node.name} had the key file of {owner.name}")
        except VedrError as error:
            reasons.append(f"{node.name}: {error.message}" if node.name == holder else "")
    return "; ".join(filter(None, reasons))


# --- (4)


def disable_in_tokens(opened: OpenSite, owner: Owner) -> tuple[InToken, ...]:
    """Disable a validator's key in every token that its references name; those that are not seen to refuse it.

    Each token is asked once: a PIN that is refused may be locked by being tried again.
    """
    tokens = [name for name, region in opened.site.regions.items() if region.hsm is not None]
    if owner.kind != "validator" or not opened.site.signers_of(owner.name) or not tokens:
        return ()
    address = opened.site.node(owner.name).address
    try:
        known = [one for one in hsm_references(opened).all_newest() if one.consensus_address == address]
    except VedrError as error:
        why = f"which of its keys it is can't be looked up: {error.message}"
        return tuple(InToken(region, why, error.transient) for region in tokens)
    named = [(region, reference.name.label) for reference in known for region in reference.tokens if region in tokens]
    with ThreadPoolExecutor(max(1, len(named)), "tokens") as pool:
        found = pool.map(lambda one: _disabled(opened, *one), named)
        return tuple(one for one in found if one is not None)


def _disabled(opened: OpenSite, region: str, label: str) -> InToken | None:
    hsm = opened.site.regions[region].hsm
    if hsm is None:  # it has been taken out of the site since
        return InToken(region, f"the site names no token there any more; its key was {label!r}", again=False)
    fence = HsmKeyDisabled(TokenKeys(hsm, lambda: resolve(hsm.pin)), region, label)
    try:
        fence.close()
        fence.prove()
    except VedrError as error:
        return InToken(region, error.message, error.transient)
    return None
