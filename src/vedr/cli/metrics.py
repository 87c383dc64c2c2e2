"""`vedr metrics`: serve a site's metrics to Prometheus, or print them once."""

import signal
import threading
from functools import partial
from types import FrameType
from typing import Annotated

import typer

from vedr.adapters.metrics_http import serve_metrics
from vedr.cli.output import SiteOption
from vedr.cli.signer import log_line
from vedr.errors import UnavailableError
from vedr.inventory import load_site

app = typer.Typer()

OnlyOption = Annotated[
    list[str] | None, typer.Option("--only", help="This collector, and no other; may be given more than once.")
]


@app.command()
def serve(
    *,
    address: Annotated[str, typer.Option("--listen", help="host:port of GET /metrics; a private one.")] = (
        "127.0.0.1:9465"
    ),
    only: OnlyOption = None,
    site: SiteOption = None,
) -> None:
    """Collect in the background and serve the newest until stopped."""
    from vedr.adapters.exporter import choose, collecting, collectors, open_lasting  # noqa: PLC0415 (every adapter)

    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    loaded = load_site(site)
    wanted = choose(collectors(), only or [])
    with (
        collecting(wanted, partial(open_lasting, loaded), log_line) as board,
        serve_metrics(address, board.text) as port,
    ):
        log_line("serving", {"site": loaded.name, "port": port, "collectors": [one.name for one in wanted]})
        stopping.wait()
    log_line("ended", {"site": loaded.name})


@app.command("print")
def print_command(*, only: OnlyOption = None, site: SiteOption = None) -> None:
    """Collect once, now, and print the metrics; exit 7 when a collector brought nothing."""
    from vedr.adapters.exporter import choose, collect_once, collectors, open_lasting  # noqa: PLC0415 (the same)

    text, failures = collect_once(choose(collectors(), only or []), partial(open_lasting, load_site(site)))
    typer.echo(text, nl=False)
    if failures:
        raise UnavailableError(
            "; ".join(f"{name}: {why}" for name, why in failures.items()),
            remedy="Their metrics are absent.  See what each asks: docs/metrics.md.",
        )
