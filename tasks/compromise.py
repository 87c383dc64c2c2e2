"""Steps of RB-DR-005: a validator's, provider's or node's key is, or may be, in other hands.

Guarantees: the first step acts: the unit is stopped and its key file is taken out of its place, kept beside it; nothing
that could be evidence is destroyed; the old key is revoked in every region, so that no restore brings it back; a
consensus key is never said to be rotated.  Steps return public facts only.
Leaves out: what only the chain and people can do, which the report lists.
"""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, field_validator

from tasks.key_hosts import holders_in_ledger, key_on
from tasks.notifying import Announced, announce
from tasks.observing import ask, tip_of
from tasks.orders import OneLine
from tasks.signing import deny_signers
from vedr.adapters.site import OpenSite, open_site
from vedr.custody import compromise, key_backup_store
from vedr.custody.compromise import Item
from vedr.custody.key_backup_catalogue import Backup, Revocation
from vedr.custody.key_backup_collect import Owner, live_home
from vedr.custody.key_material import NODE_FILE, VALIDATOR_FILE, read_key_file
from vedr.custody.key_material_process import no_core_dumps
from vedr.errors import DeadlineError, InvalidInputError, NotFoundError, UnavailableError, VedrError
from vedr.inventory import Gateway
from vedr.policies.names import NodeName
from vedr.ports import UnitStatus
from vedr.runbook.order import Order
from vedr.runbook.steps import Context, Retry, step
from vedr.signature import canonical_json

ACT: Final = Retry(attempts=3, delay_s=1.0)


class KeyCompromise(Order):
    """RB-DR-005: a key is, or may be, in other hands."""

    kind: Literal["validator", "provider", "node"] = Field(
        title="Kind of key", description="validator: consensus key.  node: p2p identity.  provider: daemon's key."
    )
    owner: NodeName = Field(
        title="Whose",
        description="The node or provider whose key it is.",
        json_schema_extra={"vedr_choices": "key_owners"},
    )
    certainty: Literal["suspected", "confirmed"] = Field(
        default="suspected", title="How sure", description="For the record and the notice; containment is the same."
    )
    since: dt.datetime | None = Field(
        default=None,
        title="Since",
        description="When it may have begun, UTC: the audit goes back to then.  Empty: open.",
    )
    audit_blocks: int = Field(
        default=2000, ge=20, le=100_000, title="Blocks to audit", description="How many commits are scanned at most."
    )
    reason: OneLine = Field(default="", title="What was seen", description="One line for the record.")

    @field_validator("since")
    @classmethod
    def _is_aware(cls, value: dt.datetime | None) -> dt.datetime | None:
        return value.replace(tzinfo=dt.UTC) if value is not None and value.tzinfo is None else value


Ctx = Context[KeyCompromise]


@dataclass(frozen=True, slots=True)
class Contained:
    """What was done within the first seconds.  `stopped` is what the supervisor said, nothing less."""

    unit: str
    was: str
    pid: int
    stopped: bool
    why_not: str
    at: dt.datetime
    tip: int
    set_aside: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fenced:
    """The old key, by its public half, revoked in these regions."""

    fingerprints: tuple[str, ...]
    public_keys: tuple[str, ...]
    addresses: tuple[str, ...]
    regions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """What security on call is told, and what came of it."""

    to: tuple[str, ...]
    text: str
    announced: Announced


# --- (1) contain


@step(title="Contain: stop the unit, take the key out of its place", budget_s=60, retry=ACT)
def contain(ctx: Ctx) -> Contained:
    """Stops the unit on its host, by force if need be, and renames the key file so that no start can use it."""
    no_core_dumps()
    with open_site(ctx.order.site) as opened:
        owner = owner_of(opened, ctx.order)
        unit, zone = unit_of(opened, owner)
        before, why_not = _stopped(ctx, opened, unit, zone)
        why_signs = _deny_signers(ctx, opened, owner)
        why_given = _contain_given_hosts(ctx, opened, owner)
        why_not = why_not or why_signs or why_given
        aside: tuple[str, ...] = ()
        try:
            aside = tuple(str(path) for path in take_aside(opened, owner, ctx.run_id))
        except UnavailableError as error:
            why_not = why_not or error.message
        contained = Contained(
            unit=unit,
            was=before.state if before else "unknown",
            pid=(before.pid or 0) if before else 0,
            stopped=not why_not,
            why_not=why_not,
            at=opened.journal.clock(),
            tip=tip_of(ask(opened, opened.site.nodes)) or 0,
            set_aside=aside,
        )
    ctx.say(
        f"{unit}: " + ("stopped, its key is out of its place" if contained.stopped else f"NOT contained: {why_not}")
    )
    return contained


def _stopped(ctx: Ctx, opened: OpenSite, unit: str, zone: str) -> tuple[UnitStatus | None, str]:
    """The unit's status before, and why it is not stopped; a host that stays silent does not end the runbook here."""
    before: UnitStatus | None = None
    try:
        before = opened.fleet.status(unit, zone)
        if before.state in ("running", "paused"):
            opened.fleet.kill(unit, zone)  # no grace: every second of it the key might be used
        try:
            ended = opened.fleet.stop(unit, zone)  # also says that it is meant to stay so
        except DeadlineError:
            opened.fleet.kill(unit, zone)
            ended = opened.fleet.stop(unit, zone)
    except UnavailableError as error:
        if ctx.attempt < ACT.attempts:
            raise
        return before, error.message
    still = ended.state not in ("stopped", "failed") or ended.desired != "stopped"
    return before, f"unit {unit} is {ended.state}, meant to be {ended.desired}" if still else ""


def _deny_signers(ctx: Ctx, opened: OpenSite, owner: Owner) -> str:
    """Why a remote signer of a validator's key may sign on; empty: none can, or it has none."""
    if owner.kind != "validator" or not opened.site.signers_of(owner.name):
        return ""
    try:
        deny_signers(opened, opened.site.node(owner.name), ctx.run_id)
    except UnavailableError as error:
        if ctx.attempt < ACT.attempts:
            raise
        return f"its remote signers may sign on: {error.message}"
    ctx.say(f"the registers refuse every signer of {owner.name}'s key")
    return ""


def _contain_given_hosts(ctx: Ctx, opened: OpenSite, owner: Owner) -> str:
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
            reasons.append(_stopped(ctx, opened, node.unit, node.zone)[1])
            compromise.set_aside(opened.files.home(node) / VALIDATOR_FILE, ctx.run_id)
            ctx.say(f"{node.name} had the key file of {owner.name}")
        except UnavailableError as error:
            reasons.append(f"{node.name}: {error.message}" if node.name == holder else "")
    return "; ".join(filter(None, reasons))


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


# --- (2) preserve


@step(title="Preserve the evidence", budget_s=60, retry=ACT)
def preserve_evidence(ctx: Ctx, contained: Contained) -> tuple[Item, ...]:
    """Copies log, unit status, sign-state and the key file's metadata into the incident's folder, and hashes them."""
    with open_site(ctx.order.site) as opened:
        owner = owner_of(opened, ctx.order)
        status = canonical_json(
            {"unit": contained.unit, "was": contained.was, "pid": contained.pid, "at": str(contained.at)}
        )
        items = {"unit.json": (status, "the unit's status before it was stopped")}
        if opened.site.custody.unit_log:
            log = Path(opened.site.custody.unit_log.format(unit=contained.unit))
            items["unit.log"] = (compromise.log_tail(log), "the end of the unit's log")
        try:
            home, _, _ = live_home(opened.site, opened.files, owner)
        except UnavailableError as error:
            items["home.txt"] = (error.message.encode(), "why nothing of the home was kept")
        else:
            paths = [Path(path) for path in contained.set_aside]
            folder = sorted((home / ("keys" if owner.kind == "provider" else "config")).glob("*"))
            items["key-files.json"] = (compromise.metadata_evidence(paths), "metadata and hash of the key files")
            items["folder.json"] = (compromise.metadata_evidence(folder), "metadata of what lies beside them")
            if owner.kind != "provider":
                items["sign-state.txt"] = (compromise.sign_state_evidence(home), "what the sign-state said")
        kept = compromise.preserve(evidence_folder(opened, ctx.run_id), items)
    ctx.say(f"{len(kept)} pieces of evidence kept")
    return kept


# --- (3) fence the key


@step(title="Revoke the key in every region", budget_s=30, retry=ACT)
def fence_key(ctx: Ctx, contained: Contained) -> Fenced:
    """Records in every region that this key may never be used again: vedr refuses to restore it from then on."""
    with open_site(ctx.order.site) as opened:
        owner = owner_of(opened, ctx.order)
        known = _known_keys(opened, owner, contained)
        regions: tuple[str, ...] = ()
        for fingerprint, _, _ in known:
            reason = ctx.order.reason or f"{ctx.order.certainty} compromise"
            revocation = Revocation(fingerprint, owner.kind, owner.name, opened.journal.clock(), ctx.run_id, reason)
            regions = key_backup_store.revoke(opened.keys, owner.region, revocation)
    if not known:
        ctx.say(f"nobody knows {owner.name}'s key: it has no file and no backup; it could not be revoked by name")
    return Fenced(
        tuple(one[0] for one in known), tuple(one[1] for one in known), tuple(one[2] for one in known), regions
    )


def _known_keys(opened: OpenSite, owner: Owner, contained: Contained) -> list[tuple[str, str, str]]:
    """Fingerprint, public key and address, from the files set aside and from the newest backup before this run."""
    found: dict[str, tuple[str, str, str]] = {}
    for path in map(Path, contained.set_aside):
        try:
            identity = read_key_file(owner.kind, path.name, path.read_bytes(), what=str(path)).identity
        except (VedrError, OSError):
            continue  # damaged, or the daemon's own backup: the catalogue knows
        found[identity.fingerprint] = (identity.fingerprint, identity.public_key, identity.address)
    backup = _backup_before(opened, owner, contained)
    for key in backup.keys if backup else ():
        found.setdefault(key.fingerprint, (key.fingerprint, key.public_key, key.address))
    return list(found.values())


def _backup_before(opened: OpenSite, owner: Owner, contained: Contained) -> Backup | None:
    """The newest backup that is older than the containment: a repeated step does not see the new key's."""
    found, _ = key_backup_store.list_backups(opened.keys, (owner.region,), kind=owner.kind, owner=owner.name)
    entries = (key_backup_store.load(opened.keys, one) for one in found)
    return next((entry for entry in entries if entry.created_at <= contained.at), None)


# --- (4) notify


@step(title="Notify security", budget_s=10, acts=False)
def notify_security(ctx: Ctx, contained: Contained, fenced: Fenced) -> Notice:
    """Tells the site's channels what is known, and records whom it reached; also shown, should it reach nobody."""
    order = ctx.order
    state = "contained" if contained.stopped else f"NOT CONTAINED ({contained.why_not})"
    keys = ", ".join(print_[:16] for print_ in fenced.fingerprints) or "unknown"
    text = (
        f"{ctx.run_id}: {order.certainty} compromise of {order.owner}'s {order.kind} key ({keys}): {state} at "
        f"{contained.at:%H:%M:%S} UTC.  {order.reason}"
    )
    ctx.say(text)
    facts = {"state": state, "key": keys, "certainty": order.certainty, "seen": order.reason}
    with open_site(order.site) as opened:
        announced = announce(opened, ctx, "declared", facts)
    return Notice(("security on call", "incident commander"), text.strip(), announced)


# --- shared with tasks.compromise_aftermath


def owner_of(opened: OpenSite, order: KeyCompromise) -> Owner:
    """Whose key; InvalidInputError or NotFoundError when the site has nobody of that name and kind."""
    if order.kind == "provider":
        provider = next((one for one in opened.site.providers if one.name == order.owner), None)
        if provider is None:
            raise NotFoundError(
                f"site {opened.site.name} has no provider {order.owner!r}", remedy="See vedr site show."
            )
        return Owner("provider", provider.name, provider.region)
    node = opened.site.node(order.owner)
    if order.kind == "validator" and not node.is_validator:
        raise InvalidInputError(
            f"{node.name} is a {node.role} node: it has no consensus key", remedy="Choose kind node, or a validator."
        )
    return Owner(order.kind, node.name, node.region)


def unit_of(opened: OpenSite, owner: Owner) -> tuple[str, str]:
    """Unit and zone, without a look at any disk."""
    for thing in opened.site.placed:
        if thing.name == owner.name and not isinstance(thing, Gateway):
            return thing.unit, thing.zone
    raise NotFoundError(f"site {opened.site.name} has no {owner.name!r}", remedy="See vedr site show.")


def evidence_folder(opened: OpenSite, run_id: str) -> Path:
    """The incident's own folder on this machine."""
    return opened.site.work_dir / "evidence" / run_id


def naming(opened: OpenSite, owner: Owner, ids: tuple[str, ...]) -> tuple[str, ...]:
    """Nodes whose configuration names one of the node ids."""
    found = []
    for node in opened.site.nodes:
        try:
            text = (opened.files.home(node) / "config" / "config.toml").read_text(encoding="utf-8")
        except (OSError, ValueError, VedrError):
            found.append(f"{node.name}: its configuration could not be read here")
            continue
        if node.name != owner.name and any(one in text for one in ids):
            found.append(node.name)
    return tuple(found)
