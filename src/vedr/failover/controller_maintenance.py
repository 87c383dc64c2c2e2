"""Maintenance windows: whether an outage of a place is expected now.

Guarantees: pure; a window that begins by cron lasts its duration, also over midnight.
Leaves out: announcing them.
"""

import datetime as dt
from collections.abc import Container

from cronsim import CronSim, CronSimError

from vedr.errors import InvalidInputError
from vedr.inventory import Site
from vedr.policies.controller import ControllerPolicy, Maintenance


def expected_until(
    policy: ControllerPolicy, places: Container[str], now: dt.datetime
) -> tuple[dt.datetime, str] | None:
    """When the window that any of these places is in ends, and its reason; None when there is none."""
    open_now = [
        (end, window.reason)
        for window in policy.maintenance
        if (not window.domains or any(name in places for name in window.domains)) and (end := _end(window, now))
    ]
    return max(open_now, default=None)


def _end(window: Maintenance, now: dt.datetime) -> dt.datetime | None:
    if window.start is not None and window.end is not None:
        return window.end if window.start <= now < window.end else None
    length = dt.timedelta(seconds=window.duration_s)
    began = next(CronSim(window.cron or "", now - length), None)
    return began + length if began is not None and began <= now else None


def check_policy(site: Site) -> None:
    """InvalidInputError when a window names what the site does not have, or begins by no cron expression."""
    known = {*site.regions, *(zone for region in site.regions.values() for zone in region.zones)}
    for window in site.controller.maintenance:
        if strange := sorted(set(window.domains) - known):
            raise InvalidInputError(
                f"[controller] maintenance names {', '.join(strange)}, which site {site.name} does not have",
                remedy=f"Choose from: {', '.join(sorted(known))}.",
            )
        try:
            if window.cron is not None:
                CronSim(window.cron, dt.datetime.now(dt.UTC))
        except CronSimError as error:
            raise InvalidInputError(
                f"[controller] maintenance: {window.cron!r} is no cron expression: {error}", remedy="Correct it."
            ) from error
