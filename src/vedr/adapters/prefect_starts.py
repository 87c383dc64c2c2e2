"""Starts runbooks through Prefect's REST API, without Prefect's library.

The deployment is found by its name, the runbook's id; its flow run is created with an idempotency key, so that
asking again gives the same flow run and makes no second one (Prefect keeps keys per flow, for as long as the run).

Guarantees: `not-sent` is only said when the server cannot have made a run: no connection, or its own refusal; every
other silence is `unclear`.  Nothing is raised for a server that is away.
Leaves out: whether a worker takes the run, which the ledger shows.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx

from vedr.failover.controller_starting import Request, Result

AUTH_ENV: Final = "PREFECT_API_AUTH_STRING"  # as Prefect's own clients take it: user:password
PROBE_DEADLINE_S: Final = 2.0
DEADLINE_S: Final = 8.0  # SQLite behind the server makes it slow when it is busy
ATTEMPTS: Final = 3
PAUSE_S: Final = 1.0
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.PoolTimeout)
_MAX_SAID: Final = 200


class PrefectStart:
    """`vedr.failover.controller_starting.Starter` over an API's URL, which ends in `/api`.

    Args:
        api_url: Where it is.
        ui_url: Where people look; empty: no link is given.
        sleep: Waits between attempts.
    """

    def __init__(self, api_url: str, ui_url: str = "", *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._ui_url = ui_url.rstrip("/")
        self._sleep = sleep
        user, _, password = os.environ.get(AUTH_ENV, "").partition(":")
        self._client = httpx.Client(
            base_url=api_url.rstrip("/"),
            timeout=httpx.Timeout(DEADLINE_S, connect=PROBE_DEADLINE_S),
            auth=httpx.BasicAuth(user, password) if user else None,
            trust_env=False,
        )

    def close(self) -> None:
        self._client.close()

    def answers(self) -> bool:
        try:
            return self._client.get("/health", timeout=PROBE_DEADLINE_S).is_success
        except httpx.HTTPError:
            return False

    def start(self, request: Request) -> Result:
        deployment = self._deployment(request.runbook)
        if isinstance(deployment, Result):
            return deployment
        body = {
            "name": request.outage_id,
            "parameters": {"order": dict(request.order)},
            "idempotency_key": request.key,
            "tags": ["failover-controller"],
        }
        result = Result("unclear", why="it was not tried")
        was_sent = False
        for attempt in range(ATTEMPTS):
            if attempt:
                self._sleep(PAUSE_S)
            result = self._create(deployment, body)
            if result.kind == "started" or (result.kind == "not-sent" and not was_sent):
                return result
            was_sent = True
        return Result("unclear", why=result.why)

    def _deployment(self, name: str) -> str | Result:
        """Its id; a Result when there is none: nothing was started then."""
        wanted = {"deployments": {"name": {"any_": [name]}}}
        try:
            answer = self._client.post("/deployments/filter", json=wanted)
            found = answer.json() if answer.is_success else None
        except httpx.HTTPError as error:
            return Result("not-sent", why=f"Prefect: {type(error).__name__}")
        except ValueError:
            return Result("not-sent", why="Prefect: its answer is not JSON")
        match found:
            case [{"id": str(id_)}]:
                return id_
            case list(several):
                return Result("not-sent", why=f"Prefect has {len(several)} deployments named {name}, 1 is needed")
            case _:
                return Result("not-sent", why=f"Prefect answered {answer.status_code} to the search for {name}")

    def _create(self, deployment: str, body: Mapping[str, Any]) -> Result:
        try:
            answer = self._client.post(f"/deployments/{deployment}/create_flow_run", json=dict(body))
        except _NOT_SENT as error:
            return Result("not-sent", why=f"Prefect: {type(error).__name__}")
        except httpx.HTTPError as error:
            return Result("unclear", why=f"Prefect: {type(error).__name__}")
        if answer.is_client_error:
            return Result("not-sent", why=f"Prefect refused with {answer.status_code}: {answer.text[:_MAX_SAID]}")
        try:
            run = answer.json()
        except ValueError:
            run = None
        match run:
            case {"id": str(id_)} if answer.is_success:
                where = f"{self._ui_url}/runs/flow-run/{id_}" if self._ui_url else f"flow run {id_}"
                return Result("started", reference=where)
            case _:
                return Result("unclear", why=f"Prefect answered {answer.status_code}")
