"""Forms and times in a real Prefect are the site's, whatever prefect.yaml came with."""

import tomllib
from typing import Any

import httpx
import pytest
import yaml
from prefect_server import ROOT, URL, Server, asked

from tasks.forms import fit_deployments, job_of, times
from tasks.orders import SingleNodeFailure
from vedr.errors import UnavailableError
from vedr.inventory import Site

pytestmark = pytest.mark.server

EXAMPLE = tomllib.loads((ROOT / "deployments" / "sites" / "production.example.toml").read_text(encoding="utf-8"))
OWN = "15 */2 * * *"


@pytest.fixture
def site() -> Site:
    return Site.model_validate(EXAMPLE | {"schedule": {"chain_state": OWN}})


def deployed(name: str, entrypoint: str, cron: str, schema: dict[str, Any]) -> str:
    flow = asked("POST", "/flows/", {"name": name})
    made = asked(
        "POST",
        "/deployments/",
        {
            "name": name,
            "flow_id": flow["id"],
            "entrypoint": entrypoint,
            "schedules": [{"schedule": {"cron": cron, "timezone": "UTC"}, "slug": "own"}],
            "parameter_openapi_schema": schema,
            "enforce_parameter_schema": True,
        },
    )
    return str(made["id"])


def schema_of_the_form() -> dict[str, Any]:
    order = SingleNodeFailure.model_json_schema()
    order.pop("$defs", None)
    return {
        "type": "object",
        "properties": {"order": {"$ref": "#/definitions/SingleNodeFailure"}},
        "required": ["order"],
        "definitions": {"SingleNodeFailure": order},
    }


def test_forms_offer_what_the_site_has_and_schedules_keep_the_site_s_times(server: Server, site: Site) -> None:
    server.start()
    snapshot = deployed("forms-a", "flows.chain_snapshot.chain_snapshot", "0 */4 * * *", {"type": "object"})
    watchdog = deployed("forms-b", "flows.watchdog.watchdog", "*/5 * * * *", {"type": "object"})
    runbook = deployed("forms-c", "flows.single_node_failure.single_node_failure", "0 0 1 1 *", schema_of_the_form())
    try:
        with httpx.Client(base_url=URL, timeout=30) as api:
            filled, changed = fit_deployments(site, api)
            assert (filled, changed) == ({"forms-c": 1}, {"chain-snapshot/forms-a": OWN})
            assert fit_deployments(site, api)[1] == {}  # as often as one likes
        [schedule] = asked("GET", f"/deployments/{snapshot}")["schedules"]
        assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == (OWN, "UTC")
        assert (schedule["active"], schedule["slug"]) == (True, "own")
        [untouched] = asked("GET", f"/deployments/{watchdog}")["schedules"]
        assert untouched["schedule"]["cron"] == "*/5 * * * *"
        order = {"node": "validator-us-west-0"}
        answer = httpx.post(f"{URL}/deployments/{runbook}/create_flow_run", json={"parameters": {"order": order}})
        assert answer.status_code == 409  # what the site does not have is refused before a run is made
        assert "validator-us-west-0" in answer.text
    finally:
        for made in (snapshot, watchdog, runbook):
            asked("DELETE", f"/deployments/{made}")


def test_every_schedule_of_prefect_yaml_but_the_rounds_has_a_time_in_the_site_file(site: Site) -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    scheduled = {job_of(one["entrypoint"]) for one in deployments if one["schedules"]}
    assert scheduled - set(times(site)) == {"watchdog", "bcp-status"}
    assert set(times(site)) <= scheduled


def test_a_prefect_that_does_not_answer_is_named(site: Site) -> None:
    with (
        httpx.Client(base_url="http://127.0.0.1:1/api", timeout=1) as nobody,
        pytest.raises(UnavailableError, match="Prefect's API"),
    ):
        fit_deployments(site, nobody)
