"""`vedr sign-state`: ship validators' sign-state files to the regions, and show what the regions hold."""

import contextlib
import datetime as dt
import signal
import threading
from types import FrameType
from typing import Annotated

import typer

from vedr.adapters.metrics_http import serve_metrics
from vedr.adapters.site import OpenSite, open_site, utc_now
from vedr.chain.register import Validator
from vedr.chain.shipping import US_PER_S, Shipped
from vedr.chain.shipping_watch import Copies, Shipper, look_at_copies, metrics_text, now_us, ship
from vedr.chain.sign_state import FILE_NAME
from vedr.cli.output import JsonFlag, SiteOption, print_json, stdout
from vedr.errors import InvalidInputError, UnavailableError
from vedr.failover.key_disk import SignsHere
from vedr.inventory import Node, Site
from vedr.signature import Json

app = typer.Typer()


@app.command("ship")
def ship_command(
    *,
    validator: Annotated[list[str], typer.Option("--validator", help="A validator; may be repeated.")],
    host: Annotated[
        str | None, typer.Option("--host", help="The node whose disk is here; default: each validator's own.")
    ] = None,
    metrics: Annotated[str | None, typer.Option(help="Serve metrics at host:port.")] = None,
    site: SiteOption = None,
) -> None:
    """Ship each change of the validators' sign-state files until stopped; exit 7 when the last one was not shipped.

    On every host that may be given a validator's key file ([[key_files]]): it ships while the key signs there.
    """
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with open_site(site) as opened, contextlib.ExitStack() as serving:
        pairs = [_placed(opened.site, name, host) for name in dict.fromkeys(validator)]
        shippers = [_shipper(opened, node, at) for node, at in pairs]
        if metrics is not None:
            serving.enter_context(serve_metrics(metrics, lambda: metrics_text(shippers)))
        what = ", ".join(node.name if node == at else f"{node.name} at {at.name}" for node, at in pairs)
        _say(f"shipping {what} to {', '.join(opened.registers)}")
        if not ship(shippers, stopping, _say):
            raise UnavailableError(
                "the last state did not reach a majority of the regions",
                remedy="Keep this host's disk: its sign-state file is newer than the shipped copies.",
            )
    _say("ended; the last state is in a majority of the regions")


def _placed(site: Site, name: str, host: str | None) -> tuple[Node, Node]:
    """The validator, and the node whose disk is looked at."""
    node = _validator(site.node(name))
    key_file = site.key_file_of(name)
    hosts = key_file.every_host if key_file else (name,)
    if host not in {None, *hosts}:
        raise InvalidInputError(
            f"the key of {name} is never on {host}, but on {', '.join(hosts)}",
            remedy="Name one of these, or add the host to the validator's [[key_files]].",
        )
    return node, site.node(host or name)


def _shipper(opened: OpenSite, node: Node, at: Node) -> Shipper:
    """Of one that may be moved: reading only while it signs here."""
    moves = opened.site.key_file_of(node.name) is not None
    return Shipper(
        Validator(opened.site.chain.chain_id, node.address),
        at.home / "data" / FILE_NAME,
        opened.registers,
        name=node.name,
        source=at.name,
        signs_here=SignsHere(opened.files, at, node.address) if moves else lambda: True,
    )


@app.command("show")
def show_command(
    *,
    validator: Annotated[str, typer.Option("--validator", help="The validator's name in the site file.")],
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show each region's shipped copy, its height and age; exit 7 without a majority."""
    with open_site(site) as opened:
        node = _validator(opened.site.node(validator))
        copies = look_at_copies(Validator(opened.site.chain.chain_id, node.address), opened.registers)
    if as_json:
        print_json(_json(copies))
    else:
        for region, shipped in copies.shipped.items():
            stdout.print(f"  {region}: {_words(shipped)}", highlight=False)
        for region, problem in copies.problems.items():
            stdout.print(f"  {region}: {problem}", highlight=False, markup=False)
    if not copies.is_majority:
        raise UnavailableError(
            f"{len(copies.shipped)} of {len(copies.shipped) + len(copies.problems)} regions show a shipped state",
            remedy="Start the shipper where it signs: vedr sign-state ship; or restore the regions' stores.",
        )


def _validator(node: Node) -> Node:
    if not node.is_validator:
        raise InvalidInputError(f"{node.name} is no validator", remedy="Name one: vedr site show.")
    return node


def _json(copies: Copies) -> Json:
    return {
        "is_majority": copies.is_majority,
        "regions": {
            region: {
                "height": shipped.state.height,
                "round": shipped.state.round,
                "step": shipped.state.step,
                "source": shipped.source,
                "changed_us": shipped.changed_us,
            }
            for region, shipped in copies.shipped.items()
        },
        "problems": dict(copies.problems),
    }


def _words(shipped: Shipped) -> str:
    age_s = max(0, now_us() - shipped.changed_us) / US_PER_S
    at = dt.datetime.fromtimestamp(shipped.changed_us / US_PER_S, dt.UTC)
    return f"{shipped.state} from {shipped.source}, written {at:%Y-%m-%d %H:%M:%S} UTC, {age_s:.1f} s ago"


def _say(text: str) -> None:
    typer.echo(f"{utc_now().isoformat(timespec='milliseconds')} {text}", err=True)
