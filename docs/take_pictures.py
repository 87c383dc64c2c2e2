"""Drives Prefect's UI as an on-call engineer would, in headless Chromium, and keeps what was seen in docs/pictures/.

    vedr lab kill fullnode-eu-west-0 && python docs/take_pictures.py --node fullnode-eu-west-0

Opens RB-DR-001's form, submits it empty (it must be refused), chooses the failed node, starts the run, and watches
until Prefect calls it Completed.  Exits 1 when anything of that is not seen.
Needs `pip install playwright` and Debian's chromium; nothing is downloaded.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

import httpx
from playwright.sync_api import Page, sync_playwright

from vedr.inventory import load_site

FOLDER: Final = Path(__file__).parent / "pictures"
FLAGS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LOADED_MS: Final = 180_000
COMPLETED_MS: Final = 300_000  # RB-DR-001's target


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", default=None)
    parser.add_argument("--node", required=True, help="the node that was killed")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    orchestrator = load_site(arguments.site).orchestrator
    deployment = _deployment(orchestrator.api_url, "RB-DR-001")
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(LOADED_MS)
        page.goto(f"{orchestrator.ui_url}/deployments")
        page.get_by_text("RB-DR-006", exact=True).first.wait_for()
        page.screenshot(path=FOLDER / "deployments.png")
        page.goto(f"{orchestrator.ui_url}/deployments/deployment/{deployment}/run")
        _fill(page, arguments.node)
        page.get_by_role("button", name="Submit").click()
        _watch(page)
        browser.close()
    sys.stdout.write(f"pictures in {FOLDER}\n")


def _deployment(api_url: str, name: str) -> str:
    found = httpx.post(f"{api_url}/deployments/filter", json={"deployments": {"name": {"any_": [name]}}}, timeout=60)
    return str(found.raise_for_status().json()[0]["id"])


def _fill(page: Page, node: str) -> None:
    """Submit without a node, which must be refused; then choose it from the list."""
    field = page.locator(".schema-form-property", has_text="The node that failed.").last
    field.wait_for()
    page.get_by_role("button", name="Submit").click()
    field.get_by_text("is a required property").wait_for()
    page.screenshot(path=FOLDER / "rb-dr-001-refused.png")
    field.locator(".p-select-button__control").click()
    page.get_by_text(node, exact=True).last.click()
    page.screenshot(path=FOLDER / "rb-dr-001-form.png")


def _watch(page: Page) -> None:
    """From the deployment's page to the run's, until it is Completed."""
    page.wait_for_url("**/runs/flow-run/**", timeout=LOADED_MS)
    page.get_by_text("Running", exact=True).first.wait_for()
    page.screenshot(path=FOLDER / "rb-dr-001-running.png")
    page.get_by_text("Completed", exact=True).first.wait_for(timeout=COMPLETED_MS)
    page.screenshot(path=FOLDER / "rb-dr-001-completed.png", full_page=True)
    page.get_by_text("Artifacts", exact=True).first.click()
    page.screenshot(path=FOLDER / "rb-dr-001-artifacts.png", full_page=True)


if __name__ == "__main__":
    main()
