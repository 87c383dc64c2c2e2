"""The Grafana dashboard as a picture, from a real Prometheus.

    python -m bench.dashboard --prometheus URL [--minutes 30] [--until TIME] [--site NAME] [--write dashboard.svg]
    python -m bench.dashboard --start FOLDER --exporter http://10.77.0.1:4255/metrics --site lab [--minutes 30]

With --start a Prometheus of its own scrapes the exporter for so long, with the configuration and the rules that we
ship, its data in FOLDER.  Every panel's queries are asked as Grafana asks them.  A query that Prometheus refuses, or
that names a metric which the exporter does not have, fails with the panel's name, and nothing is written.

For a PNG of the SVG, whose size is printed:

    chromium --headless --no-sandbox --hide-scrollbars --window-size=WIDTH,HEIGHT --screenshot=NAME.png NAME.svg
"""

import argparse
import contextlib
import datetime as dt
import re
import signal
import sys
import time
from pathlib import Path
from typing import Final

from bench.dashboards.asking import Prometheus, Window, ask_all, check_names
from bench.dashboards.drawing import draw_dashboard
from bench.dashboards.layout import Dashboard, read_dashboard
from bench.dashboards.scraping import Scraped, scraping
from vedr.errors import VedrError
from vedr.reports.metrics import FAMILIES
from vedr.targets import MINUTE_S

DEPLOYMENTS: Final = Path(__file__).parents[1] / "deployments"
DASHBOARD: Final = DEPLOYMENTS / "grafana" / "vedr.json"
SHIPPED: Final = DEPLOYMENTS / "prometheus"
POINTS: Final = 240  # of a graph, about as many as its pixels tell apart
LEAST_STEP_S: Final = 5.0
_SIZE: Final = re.compile(r'width="(\d+)" height="(\d+)')


def readable(path: Path) -> Dashboard:
    """The dashboard, every metric of which the exporter has; InvalidInputError names the panel that can't be drawn."""
    dashboard = read_dashboard(path)
    check_names(dashboard.panels, {family.name for family in FAMILIES})
    return dashboard


def picture(url: str, dashboard: Dashboard, *, minutes: float, until: dt.datetime, site: str = "") -> str:
    """The SVG of so many minutes; all sites when `site` is ""."""
    end_s, length_s = until.timestamp(), minutes * MINUTE_S
    window = Window(end_s - length_s, end_s, max(LEAST_STEP_S, length_s / POINTS))
    with Prometheus(url) as prometheus:
        return draw_dashboard(dashboard, ask_all(prometheus, dashboard, window, {"site": site} if site else {}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prometheus", metavar="URL", help="one that runs")
    source.add_argument("--start", metavar="FOLDER", type=Path, help="start one, its data there")
    parser.add_argument("--exporter", metavar="URL", help="with --start: what it scrapes")
    parser.add_argument("--site", default="", help="this site alone; with --start, how its metrics are labelled")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--until", type=dt.datetime.fromisoformat, help="with --prometheus: such as 2026-02-14T03:15Z")
    parser.add_argument("--dashboard", type=Path, default=DASHBOARD)
    parser.add_argument("--write", type=Path, default=Path("dashboard.svg"))
    asked = parser.parse_args()
    if asked.start and not (asked.exporter and asked.site):
        parser.error("--start needs --exporter and --site")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as an interrupt does: what was started is ended
    try:
        dashboard = readable(asked.dashboard)
        with contextlib.ExitStack() as stack:
            url = asked.prometheus
            if asked.start:
                url = stack.enter_context(scraping(asked.start, SHIPPED, Scraped(asked.exporter, asked.site)))
                print(f"{url} scrapes {asked.exporter} for {asked.minutes:g} min", flush=True)
                time.sleep(asked.minutes * MINUTE_S)
            until = asked.until or dt.datetime.now(dt.UTC)
            told = picture(url, dashboard, minutes=asked.minutes, until=until, site=asked.site)
    except VedrError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    asked.write.write_text(told)
    size = _SIZE.search(told)
    print(f"{asked.write}: {size[1]} x {size[2]}" if size else asked.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
