"""Starting a runbook by Prefect's REST API: once, and never a guess about what came of it."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from vedr.adapters.prefect_starts import PrefectStart
from vedr.failover.controller_starting import Request

ORDER = {"zone": "us-east-1a", "detected_at": "2026-11-02T12:00:00.000+00:00", "reason": "seen"}
REQUEST = Request("out-zone-us-east-1a-20261102T120000Z", "RB-DR-002", ORDER, "vedr-controller/out-1")


@pytest.fixture
def server(real: ModuleType) -> Iterator[tuple[Any, Any]]:
    prefect = real.FakePrefect()
    service = prefect.service()
    with real.running(service):
        yield prefect, service


def starter(service: Any, ui_url: str = "") -> PrefectStart:
    return PrefectStart(f"{service.url}/api", ui_url, sleep=lambda _: None)


def test_a_run_of_the_runbooks_deployment_is_created_with_the_order(server: tuple[Any, Any]) -> None:
    prefect, service = server
    start = starter(service, "http://ui")
    assert start.answers()
    result = start.start(REQUEST)
    assert (result.kind, result.reference) == ("started", "http://ui/runs/flow-run/run-1")
    run = prefect.runs["vedr-controller/out-1"]
    assert (run["deployment"], run["parameters"], run["name"]) == ("dep-2", {"order": ORDER}, REQUEST.outage_id)
    start.close()


def test_the_same_key_gives_the_same_run(server: tuple[Any, Any]) -> None:
    prefect, service = server
    start = starter(service)
    assert [start.start(REQUEST).reference for _ in range(3)] == ["flow run run-1"] * 3
    assert len(prefect.runs) == 1
    start.close()


def test_nothing_was_sent_to_a_server_that_refuses_the_connection(server: tuple[Any, Any]) -> None:
    _, service = server
    service.stop()
    start = starter(service)
    assert not start.answers()
    assert start.start(REQUEST).kind == "not-sent"
    start.close()


@pytest.mark.parametrize("deployments", [{}, {"RB-DR-003": "dep-3"}])
def test_without_its_deployment_nothing_is_started(server: tuple[Any, Any], deployments: dict[str, str]) -> None:
    prefect, service = server
    prefect.deployments = deployments
    start = starter(service)
    result = start.start(REQUEST)
    assert (result.kind, prefect.runs) == ("not-sent", {})
    assert "0 deployments named RB-DR-002" in result.why
    start.close()


def test_a_refused_order_is_not_sent_and_says_why(server: tuple[Any, Any]) -> None:
    prefect, service = server
    prefect.creating = 409
    start = starter(service)
    result = start.start(REQUEST)
    assert result.kind == "not-sent"
    assert "refused with 409" in result.why
    start.close()


def test_a_server_that_is_overloaded_leaves_it_unclear(server: tuple[Any, Any]) -> None:
    prefect, service = server
    prefect.creating = 503
    start = starter(service)
    assert (start.start(REQUEST).kind, prefect.runs) == ("unclear", {})
    start.close()


def test_a_lost_answer_is_unclear_until_the_same_key_is_asked_again(server: tuple[Any, Any]) -> None:
    prefect, service = server
    prefect.lose_answers = True
    start = starter(service)
    assert start.start(REQUEST).kind == "unclear"
    prefect.lose_answers = False
    assert start.start(REQUEST).kind == "started"
    assert len(prefect.runs) == 1
    start.close()


def test_a_shared_credential_is_taken_from_the_environment(
    server: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:pass")
    start = starter(server[1])
    assert start._client.auth is not None
    assert start.start(REQUEST).kind == "started"
    start.close()
