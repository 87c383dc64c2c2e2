"""`vedr notify test` over a real webhook, and over one that is dead."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from continuity_services import PagerDuty, Receiver, Service, serving
from continuity_world import LedgerSite, example
from loopback_ports import free_port
from typer.testing import CliRunner

from vedr.cli import notify as notify_command
from vedr.errors import NotFoundError, VedrError, VerificationFailedError

pytestmark = pytest.mark.server


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Runs `vedr notify …` on a site with these channels; its output, or the error that it ended with."""
    with contextlib.ExitStack() as opened:

        def invoke(channels: list[dict[str, Any]], *words: str) -> str:
            site = opened.enter_context(LedgerSite(example(notifications={"channels": channels, "deadline_s": 3})))

            @contextlib.contextmanager
            def open_site(_: str | None = None) -> Iterator[LedgerSite]:
                yield site

            monkeypatch.setattr(notify_command, "open_site", open_site)
            app = typer.Typer()
            app.add_typer(notify_command.app, name="notify")
            result = CliRunner().invoke(app, ["notify", *words])
            if isinstance(result.exception, VedrError):
                raise result.exception
            assert result.exit_code == 0, result.output
            return result.stdout

        yield invoke


@pytest.fixture
def secret(tmp_path: Path) -> Callable[[str], str]:
    def make(value: str) -> str:
        path = tmp_path / f"secret-{len(list(tmp_path.iterdir()))}"
        path.touch(mode=0o600)
        path.write_text(value)
        return f"file:{path}"

    return make


def test_a_test_reaches_every_channel_and_leaves_no_alert_open(
    command: Callable[..., str], secret: Callable[[str], str]
) -> None:
    receiver, pager = Receiver(), PagerDuty()
    with serving(Service(receiver.judge)) as hook, serving(Service(pager.judge)) as events:
        url, key = secret(hook.base + receiver.path), secret(receiver.key.decode())
        routing_key, endpoint = secret(pager.routing_key), f"{events.base}/v2/enqueue"
        channels = [
            {"kind": "webhook", "name": "hook", "url": url, "key": key},
            {"kind": "pagerduty", "name": "pager", "routing_key": routing_key, "endpoint": endpoint},
        ]
        document = json.loads(command(channels, "test", "--json"))
        assert [one["state"] for one in document["deliveries"]] == ["delivered"] * 3
        assert list(pager.alerts.values()) == [["triggered", "resolved"]]
        assert next(iter(receiver.accepted.values()))["exercise"] is True
        assert "delivered" in command(channels, "test", "hook")
        assert len(receiver.accepted) == 1


def test_a_channel_that_is_dead_is_named_and_ends_with_an_error(
    command: Callable[..., str], secret: Callable[[str], str]
) -> None:
    channel = {"kind": "slack", "name": "gone", "url": secret(f"http://127.0.0.1:{free_port()}/services/x")}
    with pytest.raises(VerificationFailedError, match="1 of 1 channels were not reached: gone"):
        command([channel], "test")


def test_a_site_without_channels_has_nobody_to_tell_and_that_is_an_error(
    command: Callable[..., str], secret: Callable[[str], str]
) -> None:
    with pytest.raises(NotFoundError, match="nobody would be told"):
        command([], "test")
    channel = {"kind": "slack", "name": "there", "url": secret("https://hooks.example/services/x")}
    with pytest.raises(NotFoundError, match="no channel elsewhere"):
        command([channel], "test", "elsewhere")
