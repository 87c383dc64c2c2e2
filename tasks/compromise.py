"""Steps of RB-DR-005: a validator's, provider's or node's key is, or may be, in other hands.

Guarantees: the first step acts (tasks.compromise_containing), and the second tells people; nothing that could be
evidence is destroyed; the old key is revoked in every region, so that no restore brings it back; a consensus key is
never said to be rotated.  Steps return public facts only.
Leaves out: what only the chain and people can do, which the report lists.
"""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, field_validator

from tasks.compromise_containing import InToken, keep_from_use, unit_of
from tasks.notifying import Announced, announce
from tasks.observing import ask, references, tip_of
from tasks.orders import OneLine
from vedr.adapters.pkcs11_token_site import references as hsm_references
from vedr.adapters.site import OpenSite, open_site
from vedr.chain import quorum
from vedr.chain.rpc import signing_lately
from vedr.custody import compromise, key_backup_store
from vedr.custody.compromise import Item
from vedr.custody.key_backup_catalogue import Backup, Revocation
from vedr.custody.key_backup_collect import Owner, live_home
from vedr.custody.key_material import Identity, read_key_file
from vedr.custody.key_material_process import no_core_dumps
from vedr.errors import InvalidInputError, NotFoundError, UnavailableError, VedrError
from vedr.inventory import Node
from vedr.policies.names import NodeName
from vedr.runbook.order import Order
from vedr.runbook.steps import Context, Retry, step
from vedr.signature import canonical_json

ACT: Final = Retry(attempts=3, delay_s=1.0)
NO_HOME: Final = "home.txt"  # evidence that says why there is none of the home


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
    """What was done within the first seconds.

    `stopped`: the supervisor says so, the key file is out of its place, and the registers refuse its signers; nothing
    less.  `in_tokens`: where its own HSM may sign with it still.
    """

    unit: str
    was: str
    pid: int
    stopped: bool
    why_not: str
    at: dt.datetime
    tip: int
    set_aside: tuple[str, ...]
    in_tokens: tuple[InToken, ...] = ()


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
    """Stops the unit, renames the key file, denies remote signers and tokens the key: all at once, by force."""
    no_core_dumps()
    with open_site(ctx.order.site) as opened:
        owner = owner_of(opened, ctx.order)
        kept = keep_from_use(opened, owner, ctx.run_id, ctx.say)
        contained = Contained(
            unit=unit_of(opened, owner)[0],
            was=kept.before.state if kept.before else "unknown",
            pid=(kept.before.pid or 0) if kept.before else 0,
            stopped=not kept.why_not,
            why_not=kept.why_not,
            at=opened.journal.clock(),
            tip=tip_of(ask(opened, opened.site.nodes)) or 0,
            set_aside=kept.aside,
            in_tokens=kept.in_tokens,
        )
    ctx.say(f"{contained.unit}: {state_of(contained)}")
    return contained


def state_of(contained: Contained) -> str:
    """In words, for people: nothing that is open is left out."""
    found = "contained" if contained.stopped else f"NOT CONTAINED ({contained.why_not})"
    return "; ".join((found, *map(str, contained.in_tokens)))


# --- (2) notify


@step(title="Notify security", budget_s=15, acts=False)
def notify_security(ctx: Ctx, contained: Contained) -> Notice:
    """Tells the site's channels what is known and what it means for the chain; shown too, should it reach nobody."""
    order = ctx.order
    with open_site(order.site) as opened:
        owner = owner_of(opened, order)
        key = opened.site.node(owner.name).address if owner.kind == "validator" else ""
        node = None if owner.kind == "provider" else opened.site.node(owner.name)
        means = chain_without(opened, node) if node is not None and node.is_validator else ""
        state = state_of(contained)
        text = (
            f"{ctx.run_id}: {order.certainty} compromise of {order.owner}'s {order.kind} key{f' ({key})' * bool(key)}: "
            f"{state} at {contained.at:%H:%M:%S} UTC.  {means}{'.  ' * bool(means)}{order.reason}"
        )
        ctx.say(text)
        facts = {"state": state, "key": key, "certainty": order.certainty, "seen": order.reason, "chain": means}
        announced = announce(opened, ctx, "declared", {name: fact for name, fact in facts.items() if fact})
    return Notice(("security on call", "incident commander"), text.strip(), announced)


def chain_without(opened: OpenSite, validator: Node) -> str:
    """What the chain is without this validator, as the nodes that answer show it; also that it can't be told."""
    try:
        witness = references(opened, validator)[0]
        height = witness.status.latest_height
        powers = quorum.map_power(opened.site, witness.rpc.validators(height))
        online = signing_lately(witness.rpc, height)
        impact = quorum.assess(powers, online, losing=[quorum.Domain("node", validator.name)])
    except VedrError as error:
        return f"what the chain is without it is not known: {error.message}"
    if not impact.halted:
        return f"without it: {impact}"
    return (
        f"without it the CHAIN HALTS: {impact}.  It stands until {-impact.margin} power is back: bring other nodes "
        "back (RB-DR-001, RB-DR-003); never start this key again, a double sign costs more than the halt"
    )


# --- (3) preserve


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
            items[NO_HOME] = (error.message.encode(), "why nothing of the home was kept")
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


# --- (4) fence the key


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
        ctx.say(f"nobody knows {owner.name}'s key: no file, backup or HSM reference; it could not be revoked by name")
    return Fenced(
        tuple(one[0] for one in known), tuple(one[1] for one in known), tuple(one[2] for one in known), regions
    )


def _known_keys(opened: OpenSite, owner: Owner, contained: Contained) -> list[tuple[str, str, str]]:
    """Fingerprint, public key and address: of the files set aside, the newest backup before this run, and HSMs."""
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
    for identity in _referenced(opened, owner):
        found.setdefault(identity.fingerprint, (identity.fingerprint, identity.public_key, identity.address))
    return list(found.values())


def _referenced(opened: OpenSite, owner: Owner) -> list[Identity]:
    """A validator's key that tokens hold: the only place that tells its public half where it has no file."""
    if owner.kind != "validator" or not opened.site.signers_of(owner.name):
        return []
    address = opened.site.node(owner.name).address
    return [
        Identity("ed25519", one.public.raw_ed25519.hex(), address)
        for one in hsm_references(opened).all_newest()
        if one.consensus_address == address
    ]


def _backup_before(opened: OpenSite, owner: Owner, contained: Contained) -> Backup | None:
    """The newest backup that is older than the containment: a repeated step does not see the new key's."""
    found, _ = key_backup_store.list_backups(opened.keys, (owner.region,), kind=owner.kind, owner=owner.name)
    entries = (key_backup_store.load(opened.keys, one) for one in found)
    return next((entry for entry in entries if entry.created_at <= contained.at), None)


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
