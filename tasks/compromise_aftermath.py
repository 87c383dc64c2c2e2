"""Steps of RB-DR-005 once the key is contained: what it means, the new key, where the old one was used, the report.

Guarantees: as tasks.compromise.
"""

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tasks.compromise import NO_HOME, Contained, Ctx, Fenced, chain_without, evidence_folder, naming, owner_of
from tasks.compromise_containing import InToken, disable_in_tokens, keep_from_use, take_aside, unit_of
from tasks.keys import provider_passphrase
from tasks.observing import ask, others, references, tip_of
from tasks.signing import guard, start_guarded
from vedr.adapters.site import OpenSite, open_site
from vedr.backup.repository import put_once
from vedr.chain.rpc import ChainRpc
from vedr.custody import compromise, key_backup_store
from vedr.custody.compromise import Item, SigningAudit, Window
from vedr.custody.key_backup import make_bundle
from vedr.custody.key_backup_collect import Owner, back_up, collect, live_home
from vedr.custody.key_backup_restore import write_key
from vedr.custody.key_material import NODE_FILE, VALIDATOR_FILE, new_key_file, read_key_file
from vedr.custody.key_material_process import no_core_dumps
from vedr.errors import RefusedError, UnavailableError, VedrError
from vedr.inventory import Height, Node
from vedr.ports import ObjectKey
from vedr.runbook.steps import Retry, step
from vedr.signature import Json

ACT: Final = Retry(attempts=3, delay_s=1.0)
LOOK: Final = Retry(attempts=3, delay_s=2.0)
AUDIT_LIMIT_S: Final = 90.0
BLOCKS_AFTER: Final = 3  # above what was in flight: enough to see a second holder that signs every block
BLOCKS_AFTER_LIMIT_S: Final = 30.0
EVIDENCE_FORMAT: Final = "vedr-incident-evidence/1"
_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the loss of this key, and of its unit, means."""

    summary: str
    affected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rotated:
    """The new key.  `installed` is empty where people have to do that."""

    fingerprint: str
    known_as: str
    backup: str
    regions: tuple[str, ...]
    installed: str
    started: str
    peers_to_change: tuple[str, ...]
    in_tokens: tuple[InToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Audited:
    """Where the old key was used, as far as it can be told."""

    audited: bool
    alarm: bool
    finding: str
    signing: SigningAudit | None


@dataclass(frozen=True, slots=True)
class Report:
    """The end of the runbook: what is done, what is open, what is kept where."""

    headline: str
    checklist: tuple[str, ...]
    operator_steps: tuple[str, ...]
    evidence: tuple[Item, ...]
    folder: str
    regions: tuple[str, ...]
    due_by: dt.datetime


# --- (5) assess


@step(title="Assess", budget_s=30, retry=LOOK, acts=False)
def assess(ctx: Ctx, fenced: Fenced) -> Assessment:
    """Says what the stopped unit means for consensus, or which peers and services know the key."""
    with open_site(ctx.order.site) as opened:
        owner = owner_of(opened, ctx.order)
        try:
            if owner.kind == "validator":
                result = Assessment(chain_without(opened, opened.site.node(owner.name)), ())
            elif owner.kind == "node":
                peers = naming(opened, owner, fenced.addresses)
                result = Assessment(f"{len(peers)} nodes name its id in their configuration", peers)
            else:
                result = Assessment(f"{owner.name} serves nobody until its new key is registered", (owner.name,))
        except VedrError as error:
            result = Assessment(f"not known: {error.message}", ())
    ctx.say(result.summary)
    return result


# --- (6) rotate


@step(title="Make the new key", budget_s=180, retry=ACT)
def rotate_key(ctx: Ctx, contained: Contained, fenced: Fenced) -> Rotated:
    """Makes and backs up a new key; installs a node's and starts it; a consensus key is kept for the new validator."""
    no_core_dumps()
    with open_site(ctx.order.site) as opened:
        owner = owner_of(opened, ctx.order)
        in_tokens = _contained_by_now(ctx, opened, owner, contained)
        _require_stopped(opened, *unit_of(opened, owner))
        aside = take_aside(opened, owner, ctx.run_id)  # where the host was out of reach before
        if owner.kind == "validator":
            return replace(_new_validator_key(ctx, opened, owner, fenced), in_tokens=in_tokens)
        return _new_installed_key(ctx, opened, owner, fenced, aside)


def _contained_by_now(ctx: Ctx, opened: OpenSite, owner: Owner, contained: Contained) -> tuple[InToken, ...]:
    """What could not be contained at first is contained now; the tokens that may sign still, which hold up nothing.

    Raises:
        UnavailableError: the unit, the key file or the registers are open still.
    """
    if not contained.stopped:
        kept = keep_from_use(opened, owner, ctx.run_id, ctx.say, tries=1)
        if kept.why_not:
            raise UnavailableError(
                f"{owner.name}'s key is not contained: {kept.why_not}",
                remedy="Stop its unit on its host (vedr lab kill, systemctl mask --now), bring two regions' stores "
                "back, then resume this incident: it is contained again first.",
            )
        ctx.say(f"{owner.name}'s key is contained by now")
        return kept.in_tokens
    if any(token.again for token in contained.in_tokens):
        return disable_in_tokens(opened, owner)
    return contained.in_tokens


def _require_stopped(opened: OpenSite, unit: str, zone: str) -> None:
    status = opened.fleet.status(unit, zone)
    if status.state not in ("stopped", "failed") or status.desired != "stopped":
        raise UnavailableError(
            f"unit {unit} is {status.state}, meant to be {status.desired}: it is not contained",
            remedy="Stop it on its host (vedr lab kill, systemctl mask --now), then resume this incident.",
        )


def _new_validator_key(ctx: Ctx, opened: OpenSite, owner: Owner, fenced: Fenced) -> Rotated:
    """Only in memory and in its backup: it touches no disk before somebody restores it on a clean host."""
    previous = key_backup_store.newest(opened.keys, owner.region, "validator", owner.name)
    if previous is not None and not set(previous.fingerprints) & set(fenced.fingerprints):
        entry, regions = previous, tuple(opened.keys.stores)  # an earlier try made it
    else:
        file = new_key_file("validator", VALIDATOR_FILE)
        bundle = make_bundle("validator", owner.name, opened.keys.chain_id, [file])
        kept = key_backup_store.store_bundle(opened.keys, owner.region, bundle, previous=previous, since={})
        entry, regions = kept.backup, kept.regions
    [key] = entry.keys
    ctx.say(f"new consensus address {key.address}, backed up as {entry.id}; the chain does not know it yet")
    return Rotated(key.fingerprint, key.address, entry.id, regions, "", "", ())


def _new_installed_key(ctx: Ctx, opened: OpenSite, owner: Owner, fenced: Fenced, aside: list[Path]) -> Rotated:
    home, _, _ = live_home(opened.site, opened.files, owner)
    relative = NODE_FILE if owner.kind == "node" else _provider_path(home, aside, ctx.run_id)
    target = home / relative
    if target.exists():
        file = read_key_file(owner.kind, relative, target.read_bytes(), what=str(target))  # an earlier try's
    else:
        file = new_key_file(owner.kind, relative)
        write_key(target, file.content)
    if file.identity.fingerprint in fenced.fingerprints:
        raise RefusedError(f"{target} holds the old key again", remedy="Find out who put it there; take it away.")
    collected = collect(
        opened.site, opened.files, owner, now=opened.journal.clock(), passphrase=provider_passphrase(opened)
    )
    saved = back_up(opened.keys, owner, collected, even_if_fresh=False)
    known_as = file.identity.address or file.identity.fingerprint
    started = _start_node(ctx, opened, opened.site.node(owner.name)) if owner.kind == "node" else ""
    peers = naming(opened, owner, fenced.addresses) if owner.kind == "node" else ()
    changes = tuple(
        f"{peer}: replace {old} by {known_as} in persistent_peers" for peer in peers for old in fenced.addresses
    )
    return Rotated(file.identity.fingerprint, known_as, saved.backup, saved.regions, str(target), started, changes)


def _provider_path(home: Path, aside: list[Path], incident: str) -> str:
    """Where the old key was, without what it was renamed to."""
    for path in aside:
        original = path.name.partition(".compromised-")[0]
        if original.endswith(".pem"):
            return path.with_name(original).relative_to(home).as_posix()
    return f"keys/provider-{incident}.pem"


def _start_node(ctx: Ctx, opened: OpenSite, node: Node) -> str:
    """A validator whose node key leaked starts only above its floor, as everywhere."""
    guarded = guard(opened, node, ctx.say)
    return start_guarded(opened, node, guarded)


# --- (7) audit


@step(title="Audit where the key was used", budget_s=180, retry=LOOK, acts=False)
def audit_use(ctx: Ctx, contained: Contained, fenced: Fenced) -> Audited:
    """Validators: scans light-verified commits; nodes: looks for the old id among peers; providers: left to people."""
    with open_site(ctx.order.site) as opened:
        owner = owner_of(opened, ctx.order)
        if owner.kind == "validator":
            result = _audit_signatures(ctx, opened, opened.site.node(owner.name), contained, fenced)
        elif owner.kind == "node":
            result = _audit_peers(opened, owner, fenced)
        else:
            result = Audited(False, False, "a provider key's transactions have to be told apart by people", None)
    ctx.say(("ALARM: " if result.alarm else "") + result.finding)
    return result


def _audit_signatures(ctx: Ctx, opened: OpenSite, node: Node, contained: Contained, fenced: Fenced) -> Audited:
    wanted = contained.tip + compromise.IN_FLIGHT + BLOCKS_AFTER
    moves = _await_height(opened, node, wanted) if contained.tip else False
    light = opened.light_client(near=node.region, besides=node.name)
    witness = references(opened, node)[0]
    tip = light.verified_header(Height(witness.status.latest_height - 1))  # one that every node in sync has
    source = witness.rpc
    public_key = _consensus_key(node, fenced) or _key_in_set(source, tip.height, node)
    if public_key is None:
        return Audited(False, False, f"{node.address} is not in the set, and no backup tells its key", None)
    window = Window(int(tip.height) - ctx.order.audit_blocks + 1, ctx.order.since, AUDIT_LIMIT_S)
    audit = compromise.audit_signatures(source, tip, public_key, window=window, contained_at=contained.tip)
    return Audited(audit.complete and moves, audit.alarm, _finding(audit, contained, moves=moves), audit)


def _consensus_key(node: Node, fenced: Fenced) -> bytes | None:
    pairs = zip(fenced.public_keys, fenced.addresses, strict=True)
    return next((bytes.fromhex(key) for key, address in pairs if address == node.address), None)


def _key_in_set(source: ChainRpc, height: Height, node: Node) -> bytes | None:
    member = source.validators(height).by_address().get(bytes.fromhex(node.address))
    return None if member is None else member.key


def _finding(audit: SigningAudit, contained: Contained, *, moves: bool) -> str:
    scanned = f"heights {audit.first_scanned} to {audit.last_scanned} scanned"
    signed = f"{audit.signed} signed, {audit.first_signed} to {audit.last_signed}"
    parts = [scanned, signed]
    if audit.forged:
        parts.append(f"{audit.forged} signatures under its address that are not its own")
    if audit.why_not:
        parts.append(f"not the whole window: {audit.why_not}")
    if audit.after_containment:
        heights = ", ".join(map(str, audit.after_containment))
        parts.append(f"signed after containment at {contained.tip}: {heights}: somebody else holds the key")
    elif moves:
        parts.append(f"nothing signed after containment at {contained.tip}")
    else:
        parts.append("too few blocks since containment to tell: run the audit again when the chain moves")
    return "; ".join(parts)


def _await_height(opened: OpenSite, node: Node, height: int) -> bool:
    """Whether the chain made that block within BLOCKS_AFTER_LIMIT_S."""
    return _poll(lambda: (tip_of(others(opened, node)) or 0) >= height, BLOCKS_AFTER_LIMIT_S)


def _audit_peers(opened: OpenSite, owner: Owner, fenced: Fenced) -> Audited:
    seen: list[str] = []
    asked = 0
    for one in ask(opened, opened.site.nodes):
        if one.node.name == owner.name:
            continue
        asked += 1
        seen += [one.node.name for peer in one.rpc.net_info().peers if peer.node_id in fenced.addresses]
    if not asked or not fenced.addresses:
        return Audited(False, False, "no peer could be asked, or nobody knows the old id", None)
    if seen:
        return Audited(True, True, f"the old id is connected to {', '.join(seen)}: somebody else holds the key", None)
    return Audited(True, False, f"the old id is connected to none of {asked} nodes", None)


# --- (8) report


@step(title="Report", budget_s=30, retry=ACT)
def report(
    ctx: Ctx,
    contained: Contained,
    *,
    items: tuple[Item, ...],
    fenced: Fenced,
    rotated: Rotated,
    audited: Audited,
    assessed: Assessment,
) -> Report:
    """Writes checklist, what people have to do, and the evidence's hashes; signed, into every region."""
    order = ctx.order
    with open_site(order.site) as opened:
        steps = (
            *(f"{token}: disable it by hand, in that token" for token in rotated.in_tokens),
            *compromise.operator_steps(
                order.kind, order.owner, new=rotated.known_as, backup=rotated.backup, revoked=bool(fenced.fingerprints)
            ),
        )
        is_contained = not rotated.in_tokens  # all else was, before there was a new key
        has_home = all(item.name != NO_HOME for item in items)
        done = compromise.checklist(
            order.kind, contained=is_contained, evidence=has_home, rotated=True, audited=audited.audited
        )
        alarm = "ALARM: the key is used by somebody else. " if audited.alarm else ""
        state = "contained" if is_contained else "contained but for its HSMs"
        headline = f"{alarm}{order.owner}'s {order.kind} key: {state}, replaced by {rotated.known_as}"
        folder = evidence_folder(opened, ctx.run_id)
        text = _markdown(ctx, headline, done, (*rotated.peers_to_change, *steps), (assessed.summary, audited.finding))
        kept = (*items, *compromise.preserve(folder, {"report.md": (text.encode(), "the report")}))
        regions = _publish(opened, ctx.run_id, kept)
        due = contained.at + dt.timedelta(hours=24)
    ctx.say(headline)
    for line in steps:
        ctx.say(f"to do: {line}")
    return Report(headline, done, (*rotated.peers_to_change, *steps), kept, str(folder), regions, due)


def _markdown(ctx: Ctx, headline: str, done: tuple[str, ...], steps: tuple[str, ...], findings: tuple[str, ...]) -> str:
    lines = [f"# {ctx.run_id}", "", headline, "", *(f"- {line}" for line in done), "", "## Findings", ""]
    lines += [*(f"- {line}" for line in findings), "", "## To do", ""]
    lines += [f"{number}. {line}" for number, line in enumerate(steps, start=1)]
    return "\n".join(lines) + "\n"


def _publish(opened: OpenSite, run_id: str, items: tuple[Item, ...]) -> tuple[str, ...]:
    """The evidence's hashes, signed, in every region that answers."""
    rows: list[Json] = [[item.name, item.sha256, item.size_bytes, item.what] for item in items]
    document = opened.signer.seal_document({"format": EVIDENCE_FORMAT, "incident": run_id, "items": rows})
    regions = []
    for region, store in opened.stores.items():
        try:
            put_once(store, ObjectKey(f"incidents/{run_id}/evidence.json"), document)
        except VedrError:
            continue
        regions.append(region)
    if len(regions) < opened.keys.majority:
        raise UnavailableError(
            f"the evidence's hashes are in {len(regions)} regions", remedy="Resume when more regions answer."
        )
    return tuple(regions)


def _poll(true: Callable[[], bool], limit_s: float) -> bool:
    until_s = time.monotonic() + limit_s
    while not true():
        if time.monotonic() >= until_s:
            return False
        time.sleep(_POLL_S)
    return True
