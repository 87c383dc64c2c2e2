"""`vedr controller`: run a region's failover controller, show what all of them see and would do."""

import contextlib
import datetime as dt
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer

from vedr.adapters.metrics_http import serve_metrics
from vedr.adapters.prefect_starts import PrefectStart
from vedr.adapters.probing import SiteProber
from vedr.adapters.site import OpenSite, open_site, utc_now
from vedr.cli.controller_notices import ChannelAnnouncer, LogAnnouncer
from vedr.cli.controller_status import chain_probe, document, look, show
from vedr.cli.output import JsonFlag, SiteOption, print_json
from vedr.cli.signer import log_line
from vedr.errors import NotFoundError, UnavailableError, VedrError
from vedr.failover.controller import places_of
from vedr.failover.controller_lease import AtOnce, Tenure
from vedr.failover.controller_ledger import JournalLedger
from vedr.failover.controller_loop import Controller, Ways
from vedr.failover.controller_maintenance import check_policy
from vedr.failover.controller_metrics import Tally
from vedr.failover.controller_reports import Exchange
from vedr.failover.controller_starting import PlainStart
from vedr.failover.health import Vantage, services_of
from vedr.inventory import SITE_ENV
from vedr.ports import Fleet

app = typer.Typer()

_LEAST_PAUSE_S: Final = 0.05  # a round that took longer than its interval still lets others run


@app.command("run")
def run_command(
    *,
    region: Annotated[str, typer.Option("--region", help="The region that this process is in: its vantage point.")],
    metrics: Annotated[str | None, typer.Option(help="Serve metrics at host:port.")] = None,
    site: SiteOption = None,
) -> None:
    """Watch every zone and region until stopped; propose or start their failover while holding the lease.

    Exit 7 when the lease could not be given back.
    """
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with open_site(site) as opened, contextlib.ExitStack() as stack:
        opened.site.region(region)
        check_policy(opened.site)
        controller = _controller(opened, region, site or os.environ.get(SITE_ENV, ""), stack)
        tally = Tally(region)
        if metrics is not None:
            stack.enter_context(serve_metrics(metrics, tally.text))
        policy = opened.site.controller
        log_line("watching", {"region": region, "holder": controller.tenure.holder, "every_ms": _ms(policy.interval_s)})
        _watch(controller, tally, policy.interval_s, stopping)
        if not controller.tenure.release():
            raise UnavailableError(
                "the lease could not be given back",
                remedy=f"Nothing needs doing: another controller takes it after {policy.lease_s:g} s.",
            )
    log_line("ended", {"region": region})


@app.command("status")
def status_command(*, site: SiteOption = None, as_json: JsonFlag = False) -> None:
    """Show each vantage point's verdicts, who holds the lease, and what would be done; exit 7 without a majority."""
    with open_site(site) as opened:
        status = look(opened, utc_now())
    if as_json:
        print_json(document(status))
    else:
        show(status)
    if status.book.is_new:
        raise NotFoundError("no controller has ever run here", remedy="Start one a region: vedr controller run.")
    if not status.book.is_majority:
        raise UnavailableError(
            f"{len(status.book.problems)} regions show no book: {'; '.join(status.book.problems.values())}",
            remedy="Restore the connection to their stores; without a majority no controller acts.",
        )


def _watch(controller: Controller, tally: Tally, interval_s: float, stopping: threading.Event) -> None:
    """A round every interval, until told to stop."""
    while not stopping.is_set():
        began_s = time.monotonic()
        cycle = controller.cycle()
        took_s = time.monotonic() - began_s
        tally.add(cycle, took_s=took_s)
        if took_s > interval_s:
            log_line("slow", {"took_ms": _ms(took_s), "problems": dict(cycle.problems)})
        stopping.wait(max(_LEAST_PAUSE_S, interval_s - took_s))


def _controller(opened: OpenSite, region: str, site_name: str, stack: contextlib.ExitStack) -> Controller:
    """The parts, put together."""
    site, policy = opened.site, opened.site.controller
    process = f"{region}/{socket.gethostname()}/{os.getpid()}#{secrets.token_hex(4)}"
    spread = AtOnce(len(site.regions))
    stack.callback(spread.close)
    prober = SiteProber(site, _fleet(opened), deadline_s=policy.probe_deadline_s)
    stack.callback(prober.close)
    prefect = PrefectStart(site.orchestrator.api_url, site.orchestrator.ui_url)
    stack.callback(prefect.close)
    signer, trusted = opened.signer, site.signing.trusted
    return Controller(
        policy=policy,
        places=places_of(site),
        vantage=Vantage(policy, services_of(site)),
        prober=prober,
        exchange=Exchange(
            site.name, region, process, opened.registers, signer=signer, trusted=trusted, clock=utc_now, spread=spread
        ),
        tenure=Tenure(
            site.name, opened.registers, signer, trusted, holder=process, lease_s=policy.lease_s, spread=spread
        ),
        ledger=JournalLedger(opened.journal),
        ask_chain=chain_probe(opened),
        ways=Ways(prefect, PlainStart(_program(), site.work_dir / "controller", site=site_name)),
        clock=utc_now,
        announcers=(LogAnnouncer(), ChannelAnnouncer(opened)),
    )


def _fleet(opened: OpenSite) -> Fleet | None:
    """Supervisors only explain what the services' silence shows: without them that is said, and the watch goes on."""
    try:
        return opened.fleet
    except VedrError as error:
        log_line("unexplained", {"problem": f"no supervisor is asked: {error.message}", "remedy": error.remedy})
        return None


def _program() -> tuple[str, ...]:
    """This very `vedr`, for runbooks without Prefect."""
    beside = Path(sys.executable).with_name("vedr")
    found = str(beside) if beside.exists() else shutil.which("vedr")
    return (found,) if found else ()


def _ms(seconds: float) -> int:
    return round(dt.timedelta(seconds=seconds) / dt.timedelta(milliseconds=1))
