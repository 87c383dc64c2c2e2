"""`vedr traffic`: what users are sent to, whether every name server says so, and moving them by hand."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from vedr.adapters.site import open_site
from vedr.chain.quorum import Domain, DomainKind
from vedr.cli.output import JsonFlag, SiteOption, print_json, stdout
from vedr.errors import InvalidInputError, UnavailableError, VedrError, VerificationFailedError
from vedr.failover.traffic import Picture, share_document
from vedr.failover.traffic_answers import differences
from vedr.failover.traffic_plan import TrafficPlan
from vedr.failover.traffic_steering import Proof, Steering
from vedr.inventory import Site
from vedr.signature import Json

app = typer.Typer()


@app.command("show")
def show_command(*, site: SiteOption = None, as_json: JsonFlag = False) -> None:
    """Show what every backend serves; exit 7 when one can't be looked at."""
    with open_site(site) as opened:
        steering = opened.traffic
        found = list(zip([t.backend.name for t in steering.backends], steering.pictures(), strict=True))
    if not found:
        raise InvalidInputError("the site has no [traffic] backends", remedy="Name them: docs/traffic.md.")
    if as_json:
        print_json({name: _picture_json(picture) for name, picture in found})
    else:
        for name, picture in found:
            _print_picture(name, picture)
    if silent := [name for name, picture in found if isinstance(picture, VedrError)]:
        raise UnavailableError(f"not known: {', '.join(silent)}", remedy="Look at their servers.")


@app.command("check")
def check_command(*, site: SiteOption = None, as_json: JsonFlag = False) -> None:
    """Ask gateways and authoritative servers: exit 3 unless all servers lead where the backends say, to the healthy."""
    with open_site(site) as opened:
        steering = opened.traffic
        proofs = {proof.gateway: proof for proof in steering.prove()}
        problems: list[str] = []
        asked = 0
        for view in steering.views():
            traffic = next(t for t in steering.backends if t.backend == view.backend)
            answers = traffic.answers(tuple(view.picture.names))
            asked += len(answers)
            problems += differences(view.backend.name, view.picture.names, answers)
            gateways = {endpoint.name: endpoint.gateways for endpoint in view.backend.endpoints}
            for name, share in view.picture.names.items():
                for endpoint in sorted(share.serving):
                    if all(proofs[gateway].problem for gateway in gateways[endpoint]):
                        why = "; ".join(proofs[gateway].problem for gateway in gateways[endpoint])
                        problems.append(
                            f"{view.backend.name}: {name} leads to {endpoint}, which is not healthy ({why})"
                        )
    if as_json:
        print_json({"asked": asked, "problems": list(problems)})
    else:
        stdout.print(f"{asked} answers asked for, {len(problems)} problems")
        for problem in problems:
            stdout.print(f"  {problem}", markup=False, highlight=False)
    if problems:
        raise VerificationFailedError(
            f"traffic is not where it should be: {problems[0]}", remedy="vedr traffic show; then vedr traffic set."
        )


@app.command("set")
def set_command(
    *,
    away_from: Annotated[
        list[str] | None, typer.Option("--away-from", help="A zone, region or gateway to leave; repeat it for more.")
    ] = None,
    back_to: Annotated[str | None, typer.Option("--back-to", help="A zone or region that returns.")] = None,
    stage: Annotated[int | None, typer.Option(help="Per cent of its calm share, one of the site's stages.")] = None,
    target: Annotated[str | None, typer.Option(help="The region that takes over.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="A backend to leave as it is.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Carry it out; without this only the plan is shown.")] = False,
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Move users by hand, outside of a runbook; refused when a run moves them meanwhile."""
    if bool(away_from) == bool(back_to) or (back_to is None) != (stage is None) or (back_to and target):
        raise InvalidInputError("where to?", remedy="Give --away-from (and --target), or --back-to with --stage.")
    with open_site(site) as opened:
        steering = opened.traffic
        proofs = steering.prove()
        plan = _planned(
            steering, proofs, away_from or [], back_to=back_to, stage=stage, target=target, without=without or []
        )
        if not as_json:
            _print_plan(plan)
        result: dict[str, Json] = {"purpose": plan.purpose, "plan": plan.guard.plan, "epoch": plan.guard.epoch}
        if apply:
            written = steering.shift(plan)
            answered = steering.wait_until_answered(plan)
            result |= {"written": list(written.written), "unchanged": list(written.unchanged), "seen": str(answered)}
            if not as_json:
                stdout.print(str(answered), markup=False, highlight=False)
    if as_json:
        desired: dict[str, Json] = {change.backend: share_document(change.names) for change in plan.changes}
        print_json({**result, "desired": desired, "notes": list(plan.notes)})
    elif not apply:
        stdout.print("Nothing was changed: repeat it with --apply.")


def _planned(
    steering: Steering,
    proofs: tuple[Proof, ...],
    away_from: list[str],
    *,
    back_to: str | None,
    stage: int | None,
    target: str | None,
    without: list[str],
) -> TrafficPlan:
    """Under the epoch that is there: a run that was begun later is refused nothing by this, and this by none before."""
    lost = [_domain(steering.site, name) for name in away_from]
    views = steering.views(lost=lost, without=without)
    epoch = max((view.picture.guard.epoch for view in views if view.picture.guard), default=0)
    if back_to is not None and stage is not None:
        place = _domain(steering.site, back_to)
        return steering.plan_back(place, proofs, epoch=epoch, stage_pct=stage, without=without)
    return steering.plan_away(lost, proofs, epoch=epoch, target=target, without=without)


def _domain(site: Site, name: str) -> Domain:
    kinds: dict[str, DomainKind] = {gateway.name: "node" for gateway in site.gateways}
    kinds |= {zone: "zone" for region in site.regions.values() for zone in region.zones}
    kinds |= dict.fromkeys(site.regions, "region")
    if name not in kinds:
        raise InvalidInputError(f"site {site.name} has no {name!r}", remedy=f"Choose one of: {', '.join(kinds)}.")
    return Domain(kinds[name], name)


def _picture_json(picture: Picture | VedrError) -> Json:
    if isinstance(picture, VedrError):
        return {"problem": picture.message}
    guard: Json = {"epoch": picture.guard.epoch, "plan": picture.guard.plan} if picture.guard else None
    return {"names": share_document(picture.names), "last": guard}


def _print_picture(name: str, picture: Picture | VedrError) -> None:
    if isinstance(picture, VedrError):
        stdout.print(f"[bold]{name}[/]: not known: {escape(picture.message)}", highlight=False)
        return
    last = f"epoch {picture.guard.epoch}, plan {picture.guard.plan}" if picture.guard else "as it was set up"
    table = Table("name", "serves", "TTL", "others", title=f"{name} ({last})", title_justify="left")
    for label, share in picture.names.items():
        serving = ", ".join(f"{who} {weight}" for who, weight in share.weights.items() if weight)
        table.add_row(
            label, serving or "nobody", f"{share.ttl_s or '-'}", ", ".join(map(escape, share.strangers)) or "-"
        )
    stdout.print(table)


def _print_plan(plan: TrafficPlan) -> None:
    before = {picture.backend: picture for picture in plan.before}
    table = Table("backend", "name", "now", "then", title=plan.purpose, title_justify="left")
    for change in plan.changes:
        for name, share in change.names.items():
            now = before[change.backend].names[name]
            table.add_row(change.backend, name, _weights(now.weights), _weights(share.weights))
    stdout.print(table)
    for note in plan.notes:
        stdout.print(f"  {note}", markup=False, highlight=False)


def _weights(weights: dict[str, int]) -> str:
    return ", ".join(f"{name} {weight}" for name, weight in weights.items() if weight) or "nobody"
