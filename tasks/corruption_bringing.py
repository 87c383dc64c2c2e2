"""Good data for a node whose own is damaged: each way brings it beside, proves it, and only then puts it in place.

Guarantees: nothing is put in place that was not compared with verified headers, key by key where the site can; what
does not prove itself is passed over for the next way, and that is said; the damaged data is only ever read.
Leaves out: state sync and block sync, which fetch while the node runs and are proven afterwards.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.corruption_orders import DataCorruption
from tasks.nodes import rates, situation
from tasks.recovery import bring, points_of
from vedr.adapters import rollback
from vedr.adapters.site import OpenSite
from vedr.backup import restore
from vedr.backup.capture import is_left_out
from vedr.chain import sync
from vedr.chain.diagnosis import claims_of_data, settle
from vedr.chain.inspection import Inspected
from vedr.errors import CorruptError, DeadlineError, NotFoundError, VerificationFailedError
from vedr.failover.corruption import Diagnosis
from vedr.failover.corruption_evidence import evidence_folder, require_room
from vedr.failover.corruption_ways import Choice, Choices, LocalCopy, LocalMeans, Way, choose
from vedr.inventory import Height, Node
from vedr.runbook.steps import Context

Ctx = Context[DataCorruption]


@dataclass(frozen=True, slots=True)
class Brought:
    """Data that is proven, or a way that proves it later; `folder` is where it waits beside the live data."""

    way: Way
    source: str
    height: int
    proof: str
    folder: str
    total_bytes: int
    passed_over: tuple[str, ...]


def choices(opened: OpenSite, node: Node, diagnosis: Diagnosis, run_id: str) -> Choices:
    """Every open way by predicted time."""
    home = opened.files.home(node)
    folder = damaged_data(home, run_id) if diagnosis.is_data_lost else home / "data"
    means = LocalMeans(
        data_bytes=size_of(folder),
        has_rollback=bool(opened.site.chain.rollback),
        copies=_local_copies(opened, node, run_id) if diagnosis.is_data_lost else (),
    )
    predictions = sync.predict(situation(opened, node, Height(0)), rates(opened)) if diagnosis.is_data_lost else ()
    return choose(diagnosis, means, predictions)


def damaged_data(home: Path, run_id: str) -> Path:
    """Where this run keeps the damaged data."""
    return evidence_folder(home, run_id) / "data"


def size_of(folder: Path) -> int:
    """Bytes of all files under it."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _local_copies(opened: OpenSite, node: Node, run_id: str) -> tuple[LocalCopy, ...]:
    """Other data folders of this home that open; whether they are true is proven when they are taken."""
    home = opened.files.home(node)
    found = []
    for folder in sorted(home.glob("data.*")):
        if run_id in folder.name or not (folder / "blockstore.db").is_dir():
            continue
        try:
            inspected = opened.inspector.inspect(home, folder)
        except (CorruptError, DeadlineError):
            continue
        if inspected.chain_id == opened.site.chain.chain_id:
            where = situation(opened, node, inspected.state_height)
            block = next(one for one in sync.predict(where, rates(opened)) if one.method == "block-sync")
            if block.took_s is not None:
                found.append(LocalCopy(folder.name, inspected.state_height, block.took_s))
    return tuple(found)


def bring_good_data(ctx: Ctx, opened: OpenSite, node: Node, open_ways: Choices) -> Brought:
    """By the quickest way that proves itself.

    Raises:
        VerificationFailedError: none does; every reason is named.
        NoSpaceError: the disk lacks room; nothing was changed.
    """
    home = opened.files.home(node)
    passed_over: list[str] = []
    for choice in open_ways.ways:
        try:
            return _bring(ctx, opened, node, choice, tuple(passed_over))
        except (VerificationFailedError, NotFoundError, DeadlineError) as error:
            ctx.say(f"{choice.way} is passed over: {error.message}")
            passed_over.append(f"{choice.way}: {error.message}")
            restore.discard_staged(home, ctx.run_id)
    raise VerificationFailedError(
        f"{node.name}: no way brought data that proves itself: {'; '.join(passed_over)}",
        remedy="Verify the stores (vedr snapshot verify) and the other nodes, then resume.",
    )


def _bring(ctx: Ctx, opened: OpenSite, node: Node, choice: Choice, passed_over: tuple[str, ...]) -> Brought:
    home = opened.files.home(node)
    match choice.way:
        case Way.KEEP | Way.NEW_LOG:
            proof = prove_at_rest(opened, node, home / "data")
            return Brought(choice.way, "its own databases", proof.state_height, _words(proof), "", 0, passed_over)
        case Way.STATE_SYNC | Way.BLOCK_SYNC:
            return Brought(choice.way, "its peers", 0, "compared once it has caught up", "", 0, passed_over)
        case Way.SNAPSHOT:
            proven = bring(ctx, opened, node, points_of(opened))
            again = prove_at_rest(opened, node, proven.path)
            older = (*passed_over, *proven.passed_over)
            return Brought(
                choice.way, proven.snapshot, proven.height, _words(again), str(proven.path), proven.total_bytes, older
            )
        case Way.LOCAL_COPY | Way.ROLLBACK:
            folder = _stage_local(ctx, opened, node, choice)
            proof = prove_at_rest(opened, node, folder)
            source = choice.source or "its own state, a block back"
            total = size_of(folder)
            return Brought(choice.way, source, proof.state_height, _words(proof), str(folder), total, passed_over)


def _words(proof: Inspected) -> str:
    depth = "every key and value" if proof.app_hash_recomputed else "the stored root"
    return f"{depth} compared with verified headers at height {proof.state_height}"


def prove_at_rest(opened: OpenSite, node: Node, data: Path) -> Inspected:
    """Read a data folder that no process uses, wholly where the site can, and compare it with verified headers.

    Raises:
        VerificationFailedError: it is not the chain's state, or that could not be told.
    """
    deep = bool(opened.site.chain.inspect_deep)
    inspected = opened.inspector.inspect(opened.files.home(node), data, deep=deep)
    if inspected.chain_id != opened.site.chain.chain_id:
        raise VerificationFailedError(
            f"{data} is of chain {inspected.chain_id}, not {opened.site.chain.chain_id}", remedy="Take another way."
        )
    light = opened.light_client(near=node.region, besides=node.name)
    settled = settle(claims_of_data(inspected), light)
    if settled.false or settled.unsettled or not settled.true:
        raise VerificationFailedError(
            f"{data}: {'; '.join((*settled.false, *settled.unsettled)) or 'it holds no state'}",
            remedy="Take another way; an older snapshot is tried by itself.",
        )
    return inspected


def _stage_local(ctx: Ctx, opened: OpenSite, node: Node, choice: Choice) -> Path:
    """Copy a local source to where restored data waits; a rollback is done on the copy."""
    home = opened.files.home(node)
    source = home / choice.source if choice.source else damaged_data(home, ctx.run_id)
    target = restore.staged_path(home, ctx.run_id)
    if target.exists():
        shutil.rmtree(target)
    require_room(home, size_of(source))
    ctx.say(f"copying {source.name}: the source stays as it is")
    shutil.copytree(source, target, ignore=_ignoring(source))
    if choice.way is Way.ROLLBACK:
        roll_back(opened, home, target)
    return target


def _ignoring(root: Path) -> Callable[[str, list[str]], list[str]]:
    """For copytree: what a snapshot leaves out, and the consensus log, which belongs to the damaged data."""

    def ignore(folder: str, names: list[str]) -> list[str]:
        inside = Path(folder).relative_to(root)
        return [name for name in names if is_left_out(str(inside / name)) or name == "cs.wal"]

    return ignore


def roll_back(opened: OpenSite, home: Path, data: Path) -> None:
    """Take the stopped copy in `data` one block back, in a home of its own that holds no keys.

    Raises:
        VerificationFailedError: the program said no, or did not end in time.
    """
    scratch = data.with_name(f"{data.name}-home")
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "config").mkdir(mode=0o700, parents=True)
    try:
        for path in (home / "config").glob("*"):
            if path.name in ("config.toml", "app.toml", "client.toml", "genesis.json"):
                shutil.copy2(path, scratch / "config")
        data.rename(scratch / "data")
        try:
            rollback.roll_back(opened.site.chain, scratch)
        finally:
            (scratch / "data").rename(data)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
