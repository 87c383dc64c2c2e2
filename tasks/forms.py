"""The run forms' choices: after `prefect deploy`, fill in what only the site knows.

A field of an order that carries `json_schema_extra={"vedr_choices": "nodes"}` becomes a list of the site's nodes in the
form, and Prefect refuses anything else at submission, from the form and from the API alike.  Deployments whose orders
ask for nothing are left as they are.

`python -m tasks.forms --site lab` exits 0 when every form that asks for choices has them.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import httpx

from vedr.errors import UnavailableError, VedrError, VerificationFailedError
from vedr.inventory import Site, load_site
from vedr.runbook.choices import MARK, offered

PAGE: Final = 200  # the most deployments that Prefect's API lists at once
TIMEOUT_S: Final = 30.0
BUSY_TRIES: Final = 20
BUSY_DELAY_S: Final = 1.0


def fill(schema: dict[str, Any], lists: Mapping[str, list[str]]) -> int:
    """Give every marked property of a parameter schema its `enum`, in place; how many there were."""
    filled = 0
    for definition in schema.get("definitions", {}).values():
        for field in definition.get("properties", {}).values():
            if MARK in field:
                optional = [""] if field.get("default") == "" else []
                field["enum"] = optional + lists[field[MARK]]
                field.pop("pattern", None)
                filled += 1
    return filled


def fill_deployments(site: Site, api: httpx.Client) -> dict[str, int]:
    """Fill the forms of all deployments; the number of filled fields by deployment.

    Raises:
        UnavailableError: Prefect's API does not answer.
        VerificationFailedError: it did not keep what it was given.
    """
    lists = offered(site)
    done = {}
    try:
        for deployment in _deployments(api):
            schema = deployment["parameter_openapi_schema"]
            if filled := fill(schema, lists):
                path = f"/deployments/{deployment['id']}"
                _patiently(api, "PATCH", path, {"parameter_openapi_schema": schema})
                if _patiently(api, "GET", path).json()["parameter_openapi_schema"] != schema:
                    raise VerificationFailedError(f"Prefect did not keep the form of {deployment['name']}")
                done[deployment["name"]] = filled
    except httpx.HTTPError as error:
        raise UnavailableError(f"Prefect's API: {error}", remedy="Check that the server runs, then repeat.") from error
    return done


def _deployments(api: httpx.Client) -> Iterator[dict[str, Any]]:
    offset = 0
    while page := _patiently(api, "POST", "/deployments/filter", {"limit": PAGE, "offset": offset}).json():
        yield from page
        offset += len(page)


def _patiently(api: httpx.Client, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
    """Again after a 503: a server on SQLite says so while somebody else writes."""
    response = api.request(method, path, json=body)
    for _ in range(BUSY_TRIES - 1):
        if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            break
        time.sleep(BUSY_DELAY_S)
        response = api.request(method, path, json=body)
    return response.raise_for_status()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", default=None, help="site name or path of its file")
    try:
        site = load_site(parser.parse_args().site)
        with httpx.Client(base_url=site.orchestrator.api_url, timeout=TIMEOUT_S) as api:
            done = fill_deployments(site, api)
    except VedrError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    sys.stdout.write(f"forms filled: {', '.join(sorted(done)) or 'none asks for choices'}\n")


if __name__ == "__main__":
    main()
