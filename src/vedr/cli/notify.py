"""`vedr notify`: do the site's channels work, before they are needed."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from vedr.adapters.site import OpenSite, open_site
from vedr.cli.output import JsonFlag, SiteOption, print_json, stdout
from vedr.continuity.delivery import Channel, Delivery, notify
from vedr.continuity.message import Message, message
from vedr.errors import NotFoundError, VerificationFailedError
from vedr.policies.notifications import Event
from vedr.runbook.order import new_run_id
from vedr.signature import Json

app = typer.Typer()


@app.callback()
def group() -> None:
    """Whom the site tells of incidents."""


@app.command(name="test")
def send_test(
    channels: Annotated[list[str] | None, typer.Argument(help="Channels by name; default: all.")] = None,
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Send a test to channels; exit 3 unless every one was delivered.  On PagerDuty it is opened and resolved again."""
    with open_site(site) as opened:
        chosen = _chosen(opened, channels or [])
        deadline_s = opened.site.notifications.deadline_s
        deliveries = notify([(one, _test_message(opened, "declared")) for one in chosen], deadline_s=deadline_s)
        # the same alert again, now resolved: nobody has to tidy up after a test
        alerts = [(one, _test_message(opened, "resolved")) for one in chosen if one.kind == "pagerduty"]
        deliveries += notify(alerts, deadline_s=deadline_s)
    if as_json:
        rows: list[Json] = [_row(delivery) for delivery in deliveries]
        print_json({"site": opened.site.name, "deliveries": rows})
    else:
        table = Table("channel", "kind", "state", "took", "reason", box=None, pad_edge=False)
        for one in deliveries:
            table.add_row(one.channel, one.kind, one.state, f"{one.took_ms / 1000:.2f} s", escape(one.reason))
        stdout.print(table)
    if failed := sorted({one.channel for one in deliveries if one.state != "delivered"}):
        raise VerificationFailedError(
            f"{len(failed)} of {len(chosen)} channels were not reached: {', '.join(failed)}",
            remedy="See docs/notifications.md for what each reason asks for.",
        )


def _chosen(opened: OpenSite, names: list[str]) -> list[Channel]:
    by_name = {channel.name: channel for channel in opened.channels}
    if not by_name:
        raise NotFoundError(
            f"site {opened.site.name} has no channels: nobody would be told of an incident",
            remedy="Add [[notifications.channels]] to its file: docs/notifications.md.",
        )
    if unknown := [name for name in names if name not in by_name]:
        raise NotFoundError(f"no channel {', '.join(unknown)}", remedy=f"Choose from: {', '.join(by_name)}.")
    return [by_name[name] for name in names] if names else list(by_name.values())


def _test_message(opened: OpenSite, event: Event) -> Message:
    now = opened.journal.clock()
    return message(
        site=opened.site.name,
        incident=new_run_id("run", now.replace(second=0, microsecond=0), seed=opened.site.name),
        event=event,
        severity="SEV-4",
        subject=f"test of the notifications of site {opened.site.name}",
        body=f"Sent by `vedr notify test` at {now:%Y-%m-%d %H:%M:%S} UTC.  Nobody has to do anything.",
        at=now,
        exercise=True,
    )


def _row(delivery: Delivery) -> dict[str, Json]:
    return {
        "channel": delivery.channel,
        "kind": delivery.kind,
        "state": delivery.state,
        "reason": delivery.reason,
        "attempts": delivery.attempts,
        "took_ms": delivery.took_ms,
    }
