"""`vedr ledger`: what every run did, and whether the record holds."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from vedr.adapters.site import open_site
from vedr.cli.output import JsonFlag, SiteOption, not_blank, print_json, stdout
from vedr.errors import ConflictError, NotFoundError, RefusedError, UnavailableError, VerificationFailedError
from vedr.ledger import Entry, RunId, is_closed, parse_run_id
from vedr.runbook import timing
from vedr.runbook.journal import Journal, Recorded
from vedr.runbook.liveness import await_quiet, this_process
from vedr.signature import Json

app = typer.Typer()

RunArgument = Annotated[str, typer.Argument(help="Id of a run, as `vedr ledger list` shows it.")]


@app.command(name="list")
def list_runs(
    site: SiteOption = None,
    runbook: Annotated[str, typer.Option("--runbook", help="Only runs of this runbook or scheduled flow.")] = "",
    newest: Annotated[int, typer.Option("--newest", min=1, help="How many.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """The newest runs: when, what, and how they ended."""
    with open_site(site) as opened:
        journal = opened.journal
        ids = (journal.runs_of(runbook) if runbook else journal.runs())[-newest:]
        runs = [journal.read(run_id) for run_id in ids]
    rows = [_summary(run) for run in runs if run.entries]
    if as_json:
        document: list[Json] = [*rows]
        print_json(document)
        return
    # An id says when; it must never be cut, since every other command takes it.
    table = Table(Column("run", no_wrap=True), "runbook", "state", "total", "target", box=None, pad_edge=False)
    for row in rows:
        values = (row["run"], row["runbook"], row["state"], _s(row["total_ms"]), _s(row["target_ms"]))
        table.add_row(*map(str, values))
    stdout.print(table)


@app.command()
def show(run: RunArgument, site: SiteOption = None, as_json: JsonFlag = False) -> None:
    """One run: its entries, and where its time went."""
    with open_site(site) as opened:
        recorded = opened.journal.read(parse_run_id(run))
    if as_json:
        entries: list[Json] = [_entry(entry) for entry in recorded.entries]
        print_json({**_summary(recorded), "log": entries})
        return
    log = Table("#", "time (UTC)", "epoch", "what", "detail")
    for entry in recorded.entries:
        log.add_row(
            str(entry.seq), f"{entry.time:%H:%M:%S.%f}"[:-3], str(entry.epoch), entry.kind, escape(_detail(entry))
        )
    stdout.print(log)
    measured = timing.measure(recorded.entries)
    steps = Table("step", "state", "budget", "took", "waited", "tries")
    for row in measured.rows:
        took = "" if row.took_ms is None else _s(row.took_ms)
        over = "[red]" if row.over_budget else ""
        steps.add_row(row.title, row.state, _s(row.budget_ms), over + took, _s(row.waited_ms), str(row.attempts))
    stdout.print(steps)
    path = ", ".join(f"{name} {_s(ms)}" for name, ms in measured.critical_path)
    verdict = "within" if measured.met else "[red]over[/]"
    stdout.print(f"{_s(measured.total_ms)} since detection, {verdict} the target of {_s(measured.target_ms)}: {path}")
    stdout.print(f"vedr itself took {measured.overhead_share_pct:.1f} % of the target", highlight=False)


@app.command()
def verify(
    run: Annotated[str, typer.Argument(help="A run; default: all, and how they hold one another.")] = "",
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Check signatures, order and completeness in every region; exit 3 when anything is wrong or was not checked."""
    with open_site(site) as opened:
        verified = opened.journal.verify(parse_run_id(run) if run else None)
    heads: list[Json] = [{"run": pin.run_id, "seq": pin.seq, "digest": pin.digest} for pin in verified.heads]
    if as_json:
        print_json(
            {
                "entries": verified.entries,
                "silent": list(verified.silent),
                "superseded": list(verified.superseded),
                "heads": heads,
            }
        )
    else:
        for finding in verified.superseded:
            stdout.print(f"harmless: {finding}", markup=False)
        where = " in the regions that answered" if verified.silent else ""
        what = f"{len(verified.heads)} runs, {verified.entries} entries"
        stdout.print(f"{what}: every signature, chain and pin holds{where}", soft_wrap=True)
    if verified.silent:
        raise VerificationFailedError(
            f"not checked in {', '.join(verified.silent)}: no answer", remedy="Verify again when it is back."
        )


@app.command()
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder; made when missing, files in it are never replaced.")],
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Every region's copies of one run, byte for byte, for an auditor, with the keys that the site trusts."""
    run_id = parse_run_id(run)
    with open_site(site) as opened:
        copies = opened.journal.copies_by_region(run_id)
        trusted = json.dumps(list(opened.site.signing.trusted), indent=2) + "\n"
    if not any(copies.values()):
        raise NotFoundError(f"no run {run_id} in {', '.join(copies)}", remedy="List runs: vedr ledger list.")
    folder = out / run_id
    for region, objects in copies.items():
        (folder / region).mkdir(parents=True, exist_ok=True)
        for name, data in objects.items():
            _write_new(folder / region / name, data)
    _write_new(folder / "trusted-keys.json", trusted.encode())
    counts: dict[str, Json] = {region: len(objects) for region, objects in copies.items()}
    if as_json:
        print_json({"run": run_id, "folder": str(folder), "objects": counts})
        return
    for region, count in counts.items():
        stdout.print(f"{folder / region}: {count} entries")


def _write_new(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise ConflictError(f"{path} exists", remedy="Export to an empty folder.") from None


@app.command()
def heal(
    run: Annotated[str, typer.Argument(help="A run; default: all.")] = "",
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Give regions that were away the entries that they missed; exit 7 while one still does not answer."""
    with open_site(site) as opened:
        journal = opened.journal
        healed = [journal.heal(run_id) for run_id in ((parse_run_id(run),) if run else journal.runs())]
    silent = sorted({region for one in healed for region in one.silent})
    given = [(one.run_id, region, count) for one in healed for region, count in one.given.items() if count]
    if as_json:
        copied: list[Json] = [{"run": run_id, "region": region, "entries": count} for run_id, region, count in given]
        print_json({"runs": len(healed), "given": copied, "silent": [*silent]})
    else:
        for run_id, region, count in given:
            stdout.print(f"{run_id}: {count} entries to {region}")
        stdout.print(f"{sum(count for *_, count in given)} entries copied, {len(healed)} runs looked at")
    if silent:
        raise UnavailableError(f"not healed: no answer from {', '.join(silent)}", remedy="Heal again when it is back.")


@app.command()
def abandon(
    run: RunArgument,
    reason: Annotated[
        str, typer.Option("--reason", help="Why nobody is going to resume it; recorded.", callback=not_blank)
    ],
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Close a run that nobody is going to resume; refused while somebody works on it."""
    run_id = parse_run_id(run)
    with open_site(site) as opened:
        close_abandoned(opened.journal, run_id, reason)
    if as_json:
        print_json({"run": run_id, "outcome": "abandoned", "reason": reason})
    else:
        stdout.print(f"{run_id}: closed as abandoned")


def close_abandoned(journal: Journal, run_id: RunId, reason: str) -> None:
    """RefusedError when it is closed, ConflictError while somebody works on it."""
    recorded = journal.read(run_id)
    if is_closed(recorded.entries):
        raise RefusedError(f"run {run_id} is closed already", remedy="Nothing needs doing.")
    await_quiet(journal, recorded.run_id, recorded.entries)
    writer = journal.resume(recorded.run_id, {"process": this_process().payload()})
    writer.append("closed", {"outcome": "abandoned", "reason": reason})


def _summary(run: Recorded) -> dict[str, Json]:
    measured = timing.measure(run.entries)
    last = run.entries[-1]
    return {
        "run": run.run_id,
        "runbook": measured.runbook,
        "opened": f"{run.entries[0].time:%Y-%m-%d %H:%M:%S}",
        "state": measured.outcome or ("paused" if last.kind == "paused" else "open"),
        "total_ms": measured.total_ms,
        "target_ms": measured.target_ms,
        "waiting_ms": measured.waiting_ms,
        "overhead_ms": measured.overhead_ms,
        "overhead_share_permille": round(10 * measured.overhead_share_pct),
        "met": measured.met,
        "entries": len(run.entries),
    }


def _entry(entry: Entry) -> dict[str, Json]:
    return {
        "seq": entry.seq,
        "kind": entry.kind,
        "time": entry.time.isoformat(),
        "epoch": entry.epoch,
        "payload": dict(entry.payload),
    }


def _detail(entry: Entry) -> str:
    payload = entry.payload
    error = payload.get("error")
    parts = [
        str(payload[key])
        for key in ("runbook", "step", "text", "what", "person", "outcome", "reason", "done")
        if key in payload
    ]
    if isinstance(approved := payload.get("approved"), bool):
        parts.append("agreed" if approved else f"refused: {payload.get('why')}")
    parts += [
        f"{key[:-3]} {_s(value)}" for key, value in payload.items() if key.endswith("_ms") and isinstance(value, int)
    ]
    if isinstance(error, dict):
        parts.append(f"{error.get('type')}: {error.get('message', '')}")
    return ", ".join(parts)


def _s(ms: Json) -> str:
    return f"{ms / 1000:.1f} s" if isinstance(ms, int) else ""
