"""`vedr snapshot buckets`: each region's bucket against what the site asks of it, and setting it up.

Guarantees: without --apply nothing is changed; exit 3 when a bucket is not as asked, or could not be looked at.
Leaves out: registers' buckets, which have neither versions nor locks (docs/formats/sign-state-register.md).
"""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from vedr.adapters.site import OpenSite, open_site
from vedr.cli.output import JsonFlag, SiteOption, print_json, stdout
from vedr.errors import VedrError, VerificationFailedError
from vedr.inventory import StoreConfig
from vedr.readiness.expirations import replaced_days
from vedr.signature import Json
from vedr.targets import Retention

if TYPE_CHECKING:
    from vedr.adapters.s3_control import BucketFacts  # boto3 is half of vedr's start-up


def buckets_command(
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Make the buckets, and set them up as the site asks.")] = False,
    region: Annotated[str | None, typer.Option("--region", help="One region; default: all.")] = None,
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare each region's bucket with what the site asks: versions, lock, lifecycle; exit 3 when one differs."""
    with open_site(site) as opened:
        names = list(opened.site.regions_by_priority) if region is None else [region]
        seen = {name: _look(opened, name, apply=apply) for name in names}
        stored = {name: opened.site.region(name).store for name in names}
    problems = {name: _problems(found, stored[name], opened.site.retention) for name, found in seen.items()}
    if as_json:
        print_json({name: _json(seen[name], stored[name], problems[name]) for name in names})
    else:
        for name in names:
            state = "; ".join(problems[name])
            line = f"[red]{escape(state)}[/]" if state else _in_words(seen[name], stored[name])
            stdout.print(f"{name}: {stored[name].bucket}: {line}", soft_wrap=True)
    if bad := [name for name in names if problems[name]]:
        raise VerificationFailedError(
            f"not as the site asks: {', '.join(f'{name} ({problems[name][0]})' for name in bad)}",
            remedy="Set them up with credentials that may: vedr snapshot buckets --apply.",
        )


def _look(opened: OpenSite, region: str, *, apply: bool) -> "BucketFacts | VedrError":
    opened.site.region(region)
    store = opened.stores[region]
    try:
        if apply:
            store.configure(expire_days=replaced_days(opened.site.retention))
        return store.facts()
    except VedrError as error:
        return error


def _problems(found: "BucketFacts | VedrError", asked: StoreConfig, retention: Retention) -> list[str]:
    if isinstance(found, VedrError):
        return [found.message]
    wanted_days = replaced_days(retention)
    return [
        *([] if found.versioned else ["not versioned"]),
        *(
            [f"locked for {found.lock_days} days, {asked.object_lock_days} are asked for"]
            if found.lock_days != asked.object_lock_days
            else []
        ),
        *(
            [f"replaced versions stay {found.expire_days or 'for ever'}, {wanted_days} days are asked for"]
            if found.expire_days not in (None, wanted_days)
            else []
        ),
    ]


def _in_words(found: "BucketFacts | VedrError", asked: StoreConfig) -> str:
    if isinstance(found, VedrError):
        return escape(found.message)
    lock = f"locked for {found.lock_days} days ({found.lock_mode})" if found.lock_days else "no lock"
    kept = (
        "no lifecycle rules here" if found.expire_days is None else f"replaced versions stay {found.expire_days} days"
    )
    return f"versioned, {lock}, {kept}, new objects in {asked.storage_class}"


def _json(found: "BucketFacts | VedrError", asked: StoreConfig, problems: list[str]) -> Json:
    told: dict[str, Json] = {"bucket": asked.bucket, "storage_class": asked.storage_class, "problems": list(problems)}
    if isinstance(found, VedrError):
        return told
    return {
        **told,
        "versioned": found.versioned,
        "lock_mode": found.lock_mode,
        "lock_days": found.lock_days,
        "expire_days": found.expire_days,
    }
