"""`vedr snapshot`: create, list, verify, restore, prune, heal, buckets."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from vedr.adapters import snapshots
from vedr.adapters.site import OpenSite, open_site
from vedr.backup import mending, replicate, restore, retention
from vedr.backup.layout import KINDS, Kind
from vedr.backup.repository import Listed, Listing, list_snapshots
from vedr.backup.snapshot import Created
from vedr.backup.snapshot import Progress as Report
from vedr.backup.verify import Proof, Verification, newest_proofs, verify
from vedr.cli.buckets import buckets_command
from vedr.cli.output import JsonFlag, SiteOption, print_json, stderr, stdout
from vedr.errors import InvalidInputError, NoSpaceError, NotFoundError, UnavailableError, VedrError
from vedr.signature import Json

app = typer.Typer()
app.command("buckets")(buckets_command)

GIGABYTE: Final = 1e9

KindOption = Annotated[str, typer.Option("--kind", help="state, provider or config.")]
RegionOption = Annotated[str | None, typer.Option("--region", help="Origin; default: all regions.")]


@app.command("create")
def create_command(
    *,
    node: Annotated[str | None, typer.Option(help="Node to take; default: a full node that is in sync.")] = None,
    region: Annotated[str | None, typer.Option(help="Region to choose the node in; default: the primary.")] = None,
    method: Annotated[str, typer.Option(help="pause (well under a second) or stop.")] = "pause",
    rehash: Annotated[bool, typer.Option("--rehash", help="Read every file again, whatever was known of it.")] = False,
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take a snapshot of a node's chain state and store it in every region."""
    if method not in ("pause", "stop"):
        raise InvalidInputError(f"--method {method}: unknown", remedy="Use pause or stop.")
    with open_site(site) as opened, _bar("snapshot", quiet=as_json) as report:
        created = snapshots.take(
            opened,
            node=node,
            region=region,
            method="stop" if method == "stop" else "pause",
            rehash=rehash,
            progress=report,
        )
    if as_json:
        print_json(created_json(created))
        return
    manifest, facts = created.verified.manifest, created.verified.manifest.facts
    stdout.print(f"[bold]{created.id}[/]: {len(manifest.files)} files, {manifest.total_bytes / GIGABYTE:.3f} GB")
    stdout.print(
        f"  node paused {facts.pause_ms} ms; {created.read_bytes / GIGABYTE:.3f} GB read; {created.took_s:.1f} s"
    )
    for outcome in created.regions:
        state = (
            f"checked, {outcome.new_objects} new objects"
            if outcome.checked
            else f"[red]{escape(str(outcome.error))}[/]"
        )
        stdout.print(f"  {outcome.region}: {state}")
    if created.under_replicated:
        command = mending.heal_command(created.verified.source)
        stderr.print(f"under-replicated; when the regions are back: {command}", markup=False, highlight=False)


@app.command("list")
def list_command(
    *, region: RegionOption = None, kind: KindOption = "state", site: SiteOption = None, as_json: JsonFlag = False
) -> None:
    """List snapshots, newest first, with the regions that hold them and what proves them."""
    chosen = _kind(kind)
    with open_site(site) as opened:
        origins = _origins(opened, region)
        listings = {origin: list_snapshots(opened.repository, origin, chosen) for origin in origins}
        proofs = {origin: newest_proofs(opened.repository, origin, chosen) for origin in origins}
    rows = [(listed, proofs[origin].get(listed.id)) for origin in origins for listed in listings[origin].snapshots]
    if as_json:
        print_json(_listing_json(listings, rows))
    else:
        stdout.print(_listing_table(rows, total=len(opened.site.regions)))
    for region_name, error in {k: v for listing in listings.values() for k, v in listing.unreachable.items()}.items():
        stderr.print(f"{region_name} did not answer: {error.message}", markup=False, highlight=False)


def _listing_json(listings: dict[str, Listing], rows: list[tuple[Listed, Proof | None]]) -> Json:
    return {
        "snapshots": [
            {
                "id": listed.id,
                "origin": listed.source.origin,
                "source": listed.source.name,
                "height": listed.height,
                "created_at": listed.created_at.isoformat(),
                "regions": list(listed.regions),
                "verified": None if proof is None else {"depth": proof.depth, "at": proof.at.isoformat()},
            }
            for listed, proof in rows
        ],
        "unreachable": [*sorted({region for listing in listings.values() for region in listing.unreachable})],
    }


def _listing_table(rows: list[tuple[Listed, Proof | None]], *, total: int) -> Table:
    table = Table("snapshot", "origin", "height", "regions", "verified")
    for listed, proof in rows:
        held = f"{len(listed.regions)}/{total}"
        proven = "-" if proof is None else f"depth {proof.depth}, {proof.at:%Y-%m-%d %H:%M} UTC"
        table.add_row(listed.id, listed.source.origin, str(listed.height), held, proven)
    return table


@app.command("verify")
def verify_command(
    *,
    snapshot: Annotated[str | None, typer.Argument(help="Id; default: the newest.")] = None,
    depth: Annotated[int, typer.Option(min=1, max=3, help="1 presence, 2 every byte, 3 boot.")] = 2,
    region: RegionOption = None,
    kind: KindOption = "state",
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Prove a snapshot in every region; exit 3 when any region's copy fails."""
    with open_site(site) as opened, _bar("verify", quiet=as_json) as report:
        origins = _origins(opened, region)
        listed = restore.candidates(opened.repository, origins=origins, kind=_kind(kind), snapshot=snapshot)[0]
        if depth == 3:  # noqa: PLR2004 (as the help says)
            outcome = snapshots.prove_by_boot(opened, listed, progress=report)
        else:
            outcome = verify(opened.repository, listed, depth=1 if depth == 1 else 2, progress=report)
    if as_json:
        print_json(verification_json(outcome))
    else:
        stdout.print(f"[bold]{outcome.snapshot}[/] depth {outcome.depth}, {outcome.took_s:.1f} s")
        for check in outcome.regions:
            stdout.print(
                f"  {check.region}: " + ("proven" if check.error is None else f"[red]{escape(str(check.error))}[/]")
            )
        for name, value in outcome.facts.items():
            stdout.print(f"  {name}: {value}", markup=False)
    outcome.require()


@app.command("restore")
def restore_command(
    *,
    home: Annotated[Path, typer.Option(help="Folder to restore into; its `data` must not exist.")],
    snapshot: Annotated[str | None, typer.Argument(help="Id; default: the newest that proves itself.")] = None,
    height: Annotated[int | None, typer.Option(help="The newest at or below this height.")] = None,
    source: Annotated[str | None, typer.Option(help="Whose: name of a node or provider; needed for providers.")] = None,
    survivor: Annotated[Path | None, typer.Option(help="Providers: what is left of the old home.")] = None,
    region: RegionOption = None,
    kind: KindOption = "state",
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Restore a snapshot into a folder, falling back to older snapshots; for a running fleet use RB-DR-006.

    A provider's whole home is in `data`; its checkpoints are moved to where the surviving disk proves that it went.
    """
    if kind == "provider" and source is None:
        raise InvalidInputError("--kind provider without --source", remedy="Name the provider: see vedr site show.")
    if (home / "data").exists():
        raise InvalidInputError(f"{home / 'data'} exists", remedy="Name an empty folder, or run RB-DR-006 on the node.")
    home.mkdir(parents=True, exist_ok=True)
    with open_site(site) as opened, _bar("restore", quiet=as_json) as report:
        origins = _origins(opened, region)
        chain_id = opened.site.chain.chain_id if kind == "state" else None
        found = restore.candidates(
            opened.repository, origins=origins, kind=_kind(kind), name=source, snapshot=snapshot, max_height=height
        )
        staged = _first_good(opened, found, chain_id, home, report)
        swapped = restore.swap_in(staged, validator=kind != "state")
        restore.discard_old(swapped)
        advances = snapshots.reconcile_provider(opened, swapped.data, survivor) if kind == "provider" else ()
    if as_json:
        print_json({"snapshot": staged.snapshot, "data": str(swapped.data), "bytes": staged.total_bytes})
        return
    stdout.print(f"[bold]{staged.snapshot}[/] is in {swapped.data}: {staged.total_bytes / GIGABYTE:.3f} GB")
    for advance in advances:
        stdout.print(
            f"  {advance.restored.file}: sequence {advance.last_sequence}, {advance.skips_replay_of} not replayed"
        )


def _first_good(
    opened: OpenSite, found: tuple[Listed, ...], chain_id: str | None, home: Path, report: Report
) -> restore.Staged:
    failures = []
    for listed in found:
        try:
            verified = restore.open_manifest(opened.repository, listed, chain_id=chain_id)
            return restore.fetch(opened.repository, verified, home, "restore", progress=report)
        except NoSpaceError:
            raise  # an older snapshot would hardly fit either
        except VedrError as error:
            failures.append(error)
            stderr.print(f"{listed.id}: {error.message}", markup=False, highlight=False)
    raise failures[0]


@app.command("prune")
def prune_command(
    *,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would go.")] = False,
    region: RegionOption = None,
    kind: KindOption = "state",
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Apply retention: expired snapshots go, then objects of closed epochs that nothing refers to."""
    chosen = _kind(kind)
    with open_site(site) as opened:
        origins = _origins(opened, region)
        results = {
            origin: retention.plan(opened.repository, origin, chosen)
            if plan
            else retention.prune(opened.repository, origin, chosen)
            for origin in origins
        }
    document: dict[str, Json] = {}
    for origin, result in results.items():
        decided = result if isinstance(result, retention.Plan) else result.plan
        document[origin] = {
            "kept": [str(listed.id) for listed in decided.kept],
            "expired": [str(listed.id) for listed in decided.expired],
            "removed_objects": 0 if isinstance(result, retention.Plan) else result.removed_objects,
            "removed_bytes": 0 if isinstance(result, retention.Plan) else result.removed_bytes,
            "locked": 0 if isinstance(result, retention.Plan) else result.locked,
        }
        if not as_json:
            verb = "would go" if plan else "gone"
            stdout.print(f"{origin}: {len(decided.kept)} kept, {len(decided.expired)} {verb}")
            for listed in decided.expired:
                stdout.print(f"  {listed.id}")
    if as_json:
        print_json(document)


@app.command("heal")
def heal_command(
    *,
    repair: Annotated[str | None, typer.Option(help="Region to mend damaged objects in, of one snapshot.")] = None,
    snapshot: Annotated[str | None, typer.Option(help="Id; default: all that are kept.")] = None,
    region: RegionOption = None,
    kind: KindOption = "state",
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Copy snapshots to the regions that lack them; exit 7 when a region could not be healed."""
    chosen = _kind(kind)
    if repair is not None and snapshot is None:
        raise InvalidInputError("--repair mends one snapshot", remedy="Name it with --snapshot: vedr snapshot list.")
    healed: list[replicate.Healed] = []
    is_there = snapshot is None
    with open_site(site) as opened, _bar("heal", quiet=as_json) as report:
        origins = _origins(opened, region)
        for origin in origins:
            listing = list_snapshots(opened.repository, origin, chosen)
            wanted = [listed for listed in listing.snapshots if snapshot in (None, listed.id)]
            is_there = is_there or bool(wanted)
            if repair is not None:
                healed.extend(replicate.repair(opened.repository, one, repair, progress=report) for one in wanted)
            else:
                healed.extend(replicate.heal(opened.repository, wanted, progress=report))
    if not is_there:
        raise NotFoundError(f"no snapshot {snapshot} in {', '.join(origins)}", remedy="See vedr snapshot list.")
    if as_json:
        print_json([_healed_json(one) for one in healed])
    else:
        for one in healed:
            state = f"{one.copied_objects} objects copied" if one.error is None else f"[red]{escape(str(one.error))}[/]"
            stdout.print(f"{one.snapshot} in {one.region}: {state}")
    if failed := [one.error for one in healed if one.error is not None]:
        raise UnavailableError(
            f"{len(failed)} of {len(healed)} copies could not be made",
            remedy=f"{' '.join(dict.fromkeys(error.remedy for error in failed if error.remedy))}  Then run it again.",
        )


def _healed_json(one: replicate.Healed) -> Json:
    return {
        "snapshot": one.snapshot,
        "region": one.region,
        "copied_objects": one.copied_objects,
        "copied_bytes": one.copied_bytes,
        "error": None if one.error is None else str(one.error),
    }


def created_json(created: Created) -> Json:
    """What a program may want to know of a new snapshot."""
    manifest, facts = created.verified.manifest, created.verified.manifest.facts
    return {
        "id": created.id,
        "height": manifest.height,
        "app_hash": facts.chain.app_hash if facts.chain else None,
        "header_verified": bool(facts.chain and facts.chain.header_hash),
        "files": len(manifest.files),
        "total_bytes": manifest.total_bytes,
        "read_bytes": created.read_bytes,
        "pause_ms": facts.pause_ms,
        "took_ms": int(created.took_s * 1000),
        "under_replicated": list(created.under_replicated),
        "regions": [
            {
                "region": outcome.region,
                "checked": outcome.checked,
                "new_objects": outcome.new_objects,
                "sent_bytes": outcome.sent_bytes,
                "error": None if outcome.error is None else str(outcome.error),
            }
            for outcome in created.regions
        ],
    }


def verification_json(outcome: Verification) -> Json:
    """Outcome by region, and the facts that a boot found."""
    return {
        "snapshot": outcome.snapshot,
        "depth": outcome.depth,
        "ok": outcome.ok,
        "at": outcome.at.isoformat(),
        "took_ms": int(outcome.took_s * 1000),
        "regions": {check.region: None if check.error is None else str(check.error) for check in outcome.regions},
        "facts": dict(outcome.facts),
    }


def _origins(opened: OpenSite, region: str | None) -> list[str]:
    if region is None:
        return list(opened.site.regions_by_priority)
    opened.site.region(region)
    return [region]


def _kind(text: str) -> Kind:
    for kind in KINDS:
        if kind == text:
            return kind
    raise InvalidInputError(f"--kind {text}: unknown", remedy=f"Use one of: {', '.join(KINDS)}.")


@contextlib.contextmanager
def _bar(title: str, *, quiet: bool) -> Iterator[Report]:
    """A progress bar on standard error; its callback may be called from any thread."""
    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=quiet or not stderr.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
