"""What Prefect's deployments lack after `prefect deploy`: the choices in their forms, and the site's own times.

A field of an order that carries `json_schema_extra={"vedr_choices": "nodes"}` becomes a list of the site's nodes in the
form, and Prefect refuses anything else at submission, from the form and from the API alike.  A schedule whose cron is
not what the site's `[schedule]` says gets that one: prefect.yaml has VirtEngine's times, the checks go by the site's.
Deployments whose orders ask for nothing, and schedules that the site does not name, are left as they are.

`python -m tasks.forms --site lab` exits 0 when every form that asks for choices has them, and every schedule its time.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import httpx

from vedr.errors import UnavailableError, VedrError, VerificationFailedError
from vedr.inventory import Site, load_site
from vedr.readiness.drill_schedule import drill_crons
from vedr.readiness.schedule import crons, looks
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


def times(site: Site) -> Mapping[str, str]:
    """The site's cron expressions, by the name that a scheduled flow has in the ledger."""
    drills = {f"drill-{cadence}": cron for cadence, cron in drill_crons(site).items()}
    return {**crons(site), **looks(site), **drills}


def job_of(entrypoint: str) -> str:
    """`flows.chain_snapshot.chain_snapshot` is `chain-snapshot`, `flows.drills.weekly` is `drill-weekly`."""
    module, _, function = entrypoint.rpartition(".")
    return f"drill-{function}" if module.endswith(".drills") else function.replace("_", "-")


def fit_deployments(site: Site, api: httpx.Client) -> tuple[dict[str, int], dict[str, str]]:
    """Fill the forms of all deployments, and set their times; filled fields and changed times, by deployment.

    Raises:
        UnavailableError: Prefect's API does not answer.
        VerificationFailedError: it did not keep what it was given.
    """
    lists, own, filled, changed = offered(site), times(site), {}, {}
    try:
        for deployment in _deployments(api):
            name, path = deployment["name"], f"/deployments/{deployment['id']}"
            schema = deployment["parameter_openapi_schema"]
            if count := fill(schema, lists):
                _patiently(api, "PATCH", path, {"parameter_openapi_schema": schema})
                if _patiently(api, "GET", path).json()["parameter_openapi_schema"] != schema:
                    raise VerificationFailedError(f"Prefect did not keep the form of {name}")
                filled[name] = count
            job = job_of(deployment["entrypoint"] or "")
            if job in own and _set_times(api, path, deployment["schedules"], own[job]):
                changed[f"{job}/{name}"] = own[job]
    except httpx.HTTPError as error:
        raise UnavailableError(f"Prefect's API: {error}", remedy="Check that the server runs, then repeat.") from error
    return filled, changed


def _set_times(api: httpx.Client, path: str, schedules: list[dict[str, Any]], cron: str) -> bool:
    """Give every cron schedule of a deployment this expression; whether any had another."""
    stale = [one for one in schedules if "cron" in one["schedule"] and one["schedule"]["cron"] != cron]
    for one in stale:
        body = {"schedule": {**one["schedule"], "cron": cron}}
        _patiently(api, "PATCH", f"{path}/schedules/{one['id']}", body)
    if stale:
        kept = _patiently(api, "GET", path).json()["schedules"]
        if [one for one in kept if one["schedule"].get("cron", cron) != cron]:
            raise VerificationFailedError(f"Prefect did not keep the schedule {cron!r} of {path}")
    return bool(stale)


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
            filled, changed = fit_deployments(site, api)
    except VedrError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    sys.stdout.write(f"forms filled: {', '.join(sorted(filled)) or 'none asks for choices'}\n")
    for deployment, cron in sorted(changed.items()):
        sys.stdout.write(f"the site's own time: {deployment} at {cron} UTC\n")


if __name__ == "__main__":
    main()
