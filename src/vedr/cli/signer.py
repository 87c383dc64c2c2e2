"""`vedr signer`: run the remote signer of a validator, found its register and move it, show who holds the key."""

import functools
import json
import re
import secrets
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer

from vedr.adapters.privval_signer import Settings, register_buckets, register_of, run, subject_of
from vedr.adapters.site import OpenSite, open_site, utc_now
from vedr.chain.appointment import Appointment, appoint, appointed
from vedr.chain.register import NEVER_SIGNED
from vedr.chain.register_move import move
from vedr.chain.register_survey import Seen
from vedr.cli.output import JsonFlag, SiteOption, print_json, stdout
from vedr.custody.key_material_process import no_core_dumps
from vedr.errors import ConflictError, InvalidInputError, UnavailableError
from vedr.inventory import Node, load_site
from vedr.ledger import parse_run_id
from vedr.runbook.order import new_run_id
from vedr.signature import Json
from vedr.signer.canonical import is_nil_vote
from vedr.signer.rules import Mark
from vedr.signer.tenure import Terms, own_mark

app = typer.Typer()

DEFAULT_WATCH_BLOCKS: Final = 2
_FLOOR: Final = re.compile(r"(\d{1,18})/(\d{1,9})/([0-3])")

ValidatorOption = Annotated[str, typer.Option("--validator", help="The validator's name in the site file.")]


@app.command("run")
def run_command(
    *,
    validator: ValidatorOption,
    connect: Annotated[
        list[str],
        typer.Option(help="The node's priv_validator_laddr: unix:///path, tcp://host:port, tcp://<node id>@host:port."),
    ],
    key: Annotated[str, typer.Option(help="token:<label>, or file:/path/priv_validator_key.json.")],
    name: Annotated[str, typer.Option(help="This signer's name, another than its standby's.")],
    state: Annotated[Path, typer.Option(help="This host's sign-state file.")],
    region: Annotated[str | None, typer.Option(help="Whose HSM; default: the validator's region.")] = None,
    take_over: Annotated[bool, typer.Option("--take-over", help="Take the key from the signer that holds it.")] = False,
    planned: Annotated[bool, typer.Option("--planned", help="Also while that one is alive: a hand-over.")] = False,
    watch_s: Annotated[
        float | None, typer.Option(min=0, help="How long to watch the other for life; default: two blocks' time.")
    ] = None,
    when_appointed: Annotated[
        bool, typer.Option("--when-appointed", help="Take over if appointed, stop if another is; for unit files.")
    ] = False,
    when_asked: Annotated[
        bool, typer.Option("--when-asked", help="Take over when the node asks for the first signature.")
    ] = False,
    floor: Annotated[str | None, typer.Option(help="Height/round/step to stay above.")] = None,
    connection_key: Annotated[str | None, typer.Option(help="Reference of an Ed25519 PEM, for TCP.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Serve metrics at host:port.")] = None,
    site: SiteOption = None,
) -> None:
    """Sign for a validator's node until stopped; exit 5 when another signer has taken over."""
    _check_flags(take_over=take_over, planned=planned, when_appointed=when_appointed, when_asked=when_asked)
    no_core_dumps()
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with open_site(site) as opened:
        node = _validator(opened.site.node(validator))
        watch = DEFAULT_WATCH_BLOCKS * opened.site.chain.block_time_s if watch_s is None else watch_s
        settings = Settings(
            validator=node,
            region=region or node.region,
            key=key,
            connect=tuple(connect),
            connection_key=connection_key,
            state_file=state.absolute(),
            terms=Terms(name, take_over=take_over, planned=planned, watch_s=watch),
            metrics=metrics,
            floor=None if floor is None else _floor(floor),
            when_appointed=when_appointed,
            when_asked=when_asked,
        )
        run(opened, settings, log=log_line, stopping=stopping)


def _check_flags(*, take_over: bool, planned: bool, when_appointed: bool, when_asked: bool) -> None:
    if planned and not take_over:
        raise InvalidInputError("--planned without --take-over", remedy="Give both for a hand-over.")
    if when_appointed and take_over:
        raise InvalidInputError("--when-appointed with --take-over", remedy="Give one: the appointment decides.")
    if when_asked and take_over and not planned:
        raise InvalidInputError(
            "--when-asked with --take-over, but not --planned",
            remedy="Add --planned: the other one can't be watched for life while the node waits for its signature.",
        )


@app.command("appoint")
def appoint_command(
    *,
    validator: ValidatorOption,
    name: Annotated[str, typer.Option(help="The --name of the signer that is to hold the key.")],
    run_id: Annotated[str | None, typer.Option(help="The run that it is for; default: a new run id.")] = None,
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say which signer is to hold the key; signers with --when-appointed heed it when they start."""
    now = utc_now()
    with open_site(site) as opened:
        subject = subject_of(opened, _validator(opened.site.node(validator)))
        run = new_run_id("run", now) if run_id is None else parse_run_id(run_id)
        made = appoint(opened.registers, subject, name, run_id=run, at=now)
    if as_json:
        print_json({"validator": validator, "appointed": made.name, "run": run})
    else:
        stdout.print(f"{validator}: to be signed for by {made}", highlight=False)


@app.command("found")
def found_command(
    *,
    validator: ValidatorOption,
    new_key: Annotated[bool, typer.Option("--new-key", help="The key has never signed anything.")] = False,
    state: Annotated[Path | None, typer.Option(help="The stopped node's priv_validator_state.json.")] = None,
    floor: Annotated[str | None, typer.Option(help="Height/round/step, from the promotion protocol.")] = None,
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the key's register in every region, once in its life, at what it has signed so far."""
    if [new_key, state is not None, floor is not None].count(True) != 1:
        raise InvalidInputError("how far has the key signed?", remedy="Give one of --new-key, --state, --floor.")
    position = NEVER_SIGNED
    if state is not None:
        mark = own_mark(state)
        if mark is None:
            raise InvalidInputError(f"{state} does not exist", remedy="Name the stopped node's sign-state file.")
        position = mark.position
    elif floor is not None:
        position = _floor(floor).position
    with open_site(site) as opened:
        node = _validator(opened.site.node(validator))
        register_of(opened, node).found(position)
    if as_json:
        regions: list[Json] = [*opened.site.regions_by_priority]
        print_json({"validator": validator, "position": str(position), "regions": regions})
        return
    stdout.print(f"{validator}: register founded at {position} in {', '.join(opened.site.regions_by_priority)}")


@app.command("regions")
def regions_command(
    *,
    validator: ValidatorOption,
    was: Annotated[Path, typer.Option(help="The site's file as it was before its regions were changed.")],
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Let the key's register go with the site's file after its regions or buckets were changed, one at a time."""
    before = load_site(str(was))
    with open_site(site) as opened:
        node = _validator(opened.site.node(validator))
        chain_id = opened.site.chain.chain_id
        if (before.node(validator).address, before.chain.chain_id) != (node.address, chain_id):
            raise InvalidInputError(f"{was} is of another key or chain", remedy="Give this site's file of before.")
        seen = move(
            register_of(opened, node),
            was=register_buckets(before),
            now=register_buckets(opened.site),
            unique=secrets.token_hex(4),
            is_harmless=functools.partial(is_nil_vote, chain_id=chain_id),
        )
    _show(validator, seen, as_json=as_json)


@app.command("status")
def status_command(*, validator: ValidatorOption, site: SiteOption = None, as_json: JsonFlag = False) -> None:
    """Show what every region holds: epoch, holder, last height, round and step; exit 7 without a majority."""
    with open_site(site) as opened:
        node = _validator(opened.site.node(validator))
        seen = register_of(opened, node).look()
        order = _appointed(opened, node)
    _show(validator, seen, {"appointed": order.name if isinstance(order, Appointment) else None}, as_json=as_json)
    if not as_json:
        stdout.print(f"  appointed: {order or 'nobody'}", highlight=False, markup=False)
    if not seen.is_majority:
        raise UnavailableError(
            f"{len(seen.problems)} of {len(seen.problems) + len(seen.contents)} regions show no register",
            remedy="Restore the connection to their stores, or found the register if the key is new.",
        )


def _show(validator: str, seen: Seen, more: Mapping[str, Json] | None = None, *, as_json: bool) -> None:
    if as_json:
        print_json(_seen_json(seen) | dict(more or {}))
        return
    newest = seen.newest if seen.is_majority else None
    stdout.print(f"[bold]{validator}[/]: {newest or 'not known: no majority of the regions answers'}")
    for region, content in seen.contents.items():
        stdout.print(f"  {region}: {content}", highlight=False)
    for region, problem in seen.problems.items():
        stdout.print(f"  {region}: {problem}", highlight=False, markup=False)


def _appointed(opened: OpenSite, node: Node) -> Appointment | str | None:
    """Who is to hold the key, or why that can't be told."""
    try:
        return appointed(opened.registers, subject_of(opened, node))
    except (UnavailableError, ConflictError) as error:
        return error.message


def _seen_json(seen: Seen) -> dict[str, Json]:
    newest = seen.newest
    return {
        "is_majority": seen.is_majority,
        "epoch": newest.epoch if newest else None,
        "holder": newest.holder if newest else None,
        "position": str(newest.position) if newest else None,
        "regions": {
            region: {"epoch": content.epoch, "holder": content.holder, "position": str(content.position)}
            for region, content in seen.contents.items()
        },
        "problems": dict(seen.problems),
    }


def _validator(node: Node) -> Node:
    if not node.is_validator:
        raise InvalidInputError(f"{node.name} is no validator", remedy="Name one: vedr site show.")
    return node


def _floor(text: str) -> Mark:
    match = _FLOOR.fullmatch(text)
    if match is None:
        raise InvalidInputError(f"{text!r} is no height/round/step", remedy="Write it like 120034/0/3.")
    height, round_, step = map(int, match.groups())
    return Mark(height, round_, step)


def log_line(event: str, facts: Mapping[str, Json]) -> None:
    """One JSON object a line, on standard error."""
    document = {"at": utc_now().isoformat(timespec="milliseconds"), "event": event, **facts}
    sys.stderr.write(json.dumps(document) + "\n")
    sys.stderr.flush()
