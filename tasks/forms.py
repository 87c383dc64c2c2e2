"""The run forms' choices: after `prefect deploy`, fill in what only the site knows.

A field of an order that carries `json_schema_extra={"vedr_choices": "nodes"}` becomes a list of the site's nodes in the
form, and Prefect refuses anything else at submission, from the form and from the API alike.  Deployments whose orders
ask for nothing are left as they are.

`python -m tasks.forms --site lab` exits 0 when every form that asks for choices has them.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

import httpx

from vedr.errors import UnavailableError, VedrError, VerificationFailedError
from vedr.inventory import Site, load_site

MARK: Final = "vedr_choices"
PAGE: Final = 200  # the most deployments that Prefect's API lists at once
TIMEOUT_S: Final = 30.0


def choices(site: Site) -> Mapping[str, list[str]]:
    """What the site offers, by the mark's value."""
    return {
        "nodes": [node.name for node in site.nodes],
        "regions": list(site.regions_by_priority),
        "providers": [provider.name for provider in site.providers],
    }


def fill(schema: dict[str, Any], offered: Mapping[str, list[str]]) -> int:
    """Give every marked property of a parameter schema its `enum`, in place; how many there were."""
    filled = 0
    for definition in schema.get("definitions", {}).values():
        for field in definition.get("properties", {}).values():
            if MARK in field:
                optional = [""] if field.get("default") == "" else []
                field["enum"] = optional + offered[field[MARK]]
                field.pop("pattern", None)
                filled += 1
    return filled


def fill_deployments(site: Site, api: httpx.Client) -> dict[str, int]:
    """Fill the forms of all deployments; the number of filled fields by deployment.

    Raises:
        UnavailableError: Prefect's API does not answer.
        VerificationFailedError: it did not keep what it was given.
    """
    offered = choices(site)
    done = {}
    try:
        for deployment in _deployments(api):
            schema = deployment["parameter_openapi_schema"]
            if filled := fill(schema, offered):
                path = f"/deployments/{deployment['id']}"
                api.patch(path, json={"parameter_openapi_schema": schema}).raise_for_status()
                if api.get(path).raise_for_status().json()["parameter_openapi_schema"] != schema:
                    raise VerificationFailedError(f"Prefect did not keep the form of {deployment['name']}")
                done[deployment["name"]] = filled
    except httpx.HTTPError as error:
        raise UnavailableError(f"Prefect's API: {error}", remedy="Check that the server runs, then repeat.") from error
    return done


def _deployments(api: httpx.Client) -> Iterator[dict[str, Any]]:
    offset = 0
    while page := api.post("/deployments/filter", json={"limit": PAGE, "offset": offset}).raise_for_status().json():
        yield from page
        offset += len(page)


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
