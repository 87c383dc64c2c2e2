"""`vedr report`: evidence of incidents and drills as pages and PDFs, and the check of such a page."""

import datetime as dt
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from vedr.adapters.site import open_site, utc_now
from vedr.cli.output import JsonFlag, SiteOption, print_json, stdout
from vedr.errors import InvalidInputError, NotFoundError, VerificationFailedError
from vedr.ledger import parse_run_id
from vedr.reports.binder import Binder
from vedr.reports.evidence import gather
from vedr.reports.record import read_record
from vedr.reports.sealing import check_page

DEFAULT_DAYS: Final = 90
MAX_PAGE_BYTES: Final = 64 * 1024 * 1024  # a page of 10,000 ledger entries has 10 MB


class _WriteByDefault(TyperGroup):
    """`vedr report INCIDENT` and `vedr report --all` are `vedr report write …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["write", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_WriteByDefault)


@app.command("write")
def write_command(
    *,
    run: Annotated[str, typer.Argument(help="Id of an incident, drill or other run.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every incident and drill, and an index.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder; made when missing.")],
    days: Annotated[int, typer.Option("--days", min=1, help="With --all: how far back.")] = DEFAULT_DAYS,
    pdf: Annotated[bool, typer.Option("--pdf", help="PDFs as well.")] = False,
    label: Annotated[str, typer.Option("--label", help="Put before every title, such as Example.")] = "",
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write reports from the ledger; exit 3 when a run's ledger does not hold (its page is written and says so)."""
    if bool(run) == everything:
        raise InvalidInputError("which runs?", remedy="Give the id of one, or --all.")
    with open_site(site) as opened:
        binder = Binder(opened.journal, out, utc_now, f"{label}. " if label else "")
        if everything:
            overview = binder.overview(utc_now() - dt.timedelta(days=days))
            page = binder.write_all(overview, pdf=pdf)
            broken = [*overview.problems, *(why for _, why in overview.unreadable)]
            broken += [problem for one in overview.evidence if one.proof == "unverifiable" for problem in one.problems]
        else:
            evidence = gather(read_record(opened.journal, parse_run_id(run)))
            page = binder.write_run(evidence, pdf=pdf)
            broken = [*evidence.problems] if evidence.proof == "unverifiable" else []
    if as_json:
        print_json({"page": str(page), "problems": [*broken]})
    else:
        stdout.print(f"{page}", highlight=False, soft_wrap=True)
    if broken:
        raise VerificationFailedError(
            f"the ledger does not hold: {'; '.join(broken)}",
            remedy="The pages say so.  Compare the regions: vedr ledger verify; tell security.",
        )


@app.command("verify")
def verify_command(
    file: Annotated[Path, typer.Argument(help="A page that vedr report wrote, or its signed .json.")],
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a page byte for byte against its signature, and its facts against the ledger; exit 3 when they differ."""
    text = read_page(file)
    with open_site(site) as opened:
        checked = check_page(text, opened.journal, what=str(file))
    if as_json:
        print_json(
            {
                "file": str(file),
                "site": checked.site,
                "made_at": checked.made_at,
                "key": checked.keyid,
                "runs": [{"run": head.run_id, "seq": head.seq, "digest": head.digest} for head in checked.runs],
                "grown": [*checked.grown],
                "drill": checked.drill,
                "unproven": checked.unproven,
            }
        )
        return
    stdout.print(
        f"{file}: signed by {checked.keyid[:16]}, made {checked.made_at}; {len(checked.runs)} runs stand in the ledger "
        f"of {checked.site} as it tells",
        highlight=False,
        soft_wrap=True,
    )
    if checked.drill:
        stdout.print(f"the drill's verdict follows from them: {checked.drill}", highlight=False, soft_wrap=True)
    if checked.unproven:
        stdout.print(f"not made again from the ledger: {checked.unproven}", highlight=False, soft_wrap=True)
    for run_id in checked.grown:
        stdout.print(f"{run_id} went on since: make the page again for all of it", highlight=False, soft_wrap=True)


def read_page(file: Path) -> str:
    """A page's text; InvalidInputError when it is none."""
    try:
        if file.stat().st_size > MAX_PAGE_BYTES:
            raise InvalidInputError(
                f"{file} has more than {MAX_PAGE_BYTES} bytes", remedy="Name a page of vedr report."
            )
        return file.read_bytes().decode("utf-8")
    except OSError as error:
        raise NotFoundError(f"{file}: {error.strerror}", remedy="Name a page that vedr report wrote.") from error
    except UnicodeDecodeError:
        raise InvalidInputError(f"{file} is no text", remedy="Name the .html or .json, not the PDF.") from None
