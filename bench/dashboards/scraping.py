"""A Prometheus of our own that scrapes one exporter, with the configuration and the rules that we ship.

Guarantees: it listens on loopback alone and ends when its block ends; an exporter that can't be scraped at the
beginning is an error with Prometheus' own reason.
Leaves out: the shipped configuration's other jobs, whose targets are examples.
"""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import yaml

from bench.dashboards.asking import Prometheus
from vedr.errors import InvalidInputError, NotFoundError, UnavailableError

JOB: Final = "vedr"
START_S: Final = 60.0  # a busy machine's Prometheus is ready in 1 to 5 s
END_S: Final = 20.0
FIRST_SCRAPE_S: Final = 60.0  # beyond the interval
_LOOK_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Scraped:
    """What is scraped: the exporter's address, the site that its metrics are labelled with, and how often."""

    exporter: str
    site: str
    interval_s: float | None = None  # the shipped configuration's


def adapted(example: str, scraped: Scraped) -> str:
    """The shipped configuration for that exporter alone; InvalidInputError when its address is none."""
    address = urlsplit(scraped.exporter)
    if address.scheme not in ("http", "https") or not address.netloc:
        raise InvalidInputError(
            f"{scraped.exporter} is no address of an exporter", remedy="Give http://host:port/metrics."
        )
    told: dict[str, Any] = yaml.safe_load(example)
    job = next(one for one in told["scrape_configs"] if one["job_name"] == JOB)
    job |= {
        "scheme": address.scheme,
        "metrics_path": address.path or "/metrics",
        "static_configs": [{"targets": [address.netloc], "labels": {"site": scraped.site}}],
    }
    if scraped.interval_s is not None:
        told["global"] |= dict.fromkeys(
            ("scrape_interval", "evaluation_interval"), f"{round(scraped.interval_s * 1000)}ms"
        )
        told["global"]["scrape_timeout"] = told["global"]["scrape_interval"]
    return yaml.safe_dump({**told, "scrape_configs": [job]})


@contextlib.contextmanager
def scraping(folder: Path, shipped: Path, scraped: Scraped) -> Iterator[str]:
    """The URL of a Prometheus that has scraped the exporter once, for as long as the block runs.

    Args:
        folder: Its data, configuration and log; they stay.
        shipped: Where the configuration and the rules are that we ship.
        scraped: What it scrapes.

    Raises:
        NotFoundError: Prometheus is not installed.
        UnavailableError: it does not start, or can't scrape the exporter.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise NotFoundError(
            "Prometheus is not installed", remedy="Debian: apt-get install --no-install-recommends prometheus."
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(adapted((shipped / "prometheus.example.yml").read_text(), scraped))
    for rules in shipped.glob("*.rules.yml"):
        shutil.copyfile(rules, folder / rules.name)
    port = _free_port()
    command = [
        program,
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, url, folder / "prometheus.log")
            _wait_until_scraped(process, url, (scraped.interval_s or 0.0) + FIRST_SCRAPE_S)
            yield url
        finally:
            _end(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    def ready() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{url}/-/ready", trust_env=False).is_success
        return False

    if not _comes(process, ready, START_S):
        said = " ".join(log.read_text(errors="replace").split())[-400:]
        raise UnavailableError(f"Prometheus did not start: {said}", remedy=f"Read {log.name} in the folder.")


def _wait_until_scraped(process: subprocess.Popen[bytes], url: str, deadline_s: float) -> None:
    """Return when the exporter was scraped; raise when its first scrape failed."""
    with Prometheus(url) as prometheus:
        target: dict[str, Any] = {}

        def looked() -> bool:
            active = prometheus.get("targets")["activeTargets"]
            target.update(active[0] if active else {})
            return target.get("health") in ("up", "down")

        if not _comes(process, looked, deadline_s) or target["health"] == "down":
            where, why = target.get("scrapeUrl", ""), target.get("lastError", "no try was made")
            raise UnavailableError(
                f"the exporter {where} can't be scraped: {why}", remedy="Start it: vedr metrics serve."
            )


def _comes(process: subprocess.Popen[bytes], holds: Callable[[], bool], deadline_s: float) -> bool:
    end = time.monotonic() + deadline_s
    while process.poll() is None and time.monotonic() < end:
        if holds():
            return True
        time.sleep(_LOOK_S)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
