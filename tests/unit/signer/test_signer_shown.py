"""What the signer shows: counts, metrics, log lines, and the commands that look at its register or found it."""

import contextlib
import copy
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from signer_made_site import ADDRESS, REGIONS, kept_in
from signer_world import CHAIN_ID
from typer.testing import CliRunner

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.adapters.metrics_http import serve_metrics
from vedr.adapters.privval_signer import CountedRegisters, Settings, register_buckets, register_of
from vedr.adapters.site import OpenSite
from vedr.chain.register import name_of_places
from vedr.cli import signer as command
from vedr.errors import (
    ConflictError,
    InvalidInputError,
    UnavailableError,
    VedrError,
)
from vedr.ports import ObjectKey
from vedr.signer.metrics import Metrics
from vedr.signer.tenure import Terms


def test_round_trips_are_counted_where_they_succeed_lose_and_fail() -> None:
    metrics, key = Metrics(), ObjectKey("a")
    store = MemoryRegisters("us-east")
    counted = CountedRegisters(store, metrics)
    assert counted.region == "us-east"
    assert counted.read(key) is None
    counted.swap(key, b"1", expected=None)
    with pytest.raises(ConflictError):
        counted.swap(key, b"2", expected=None)
    store.faults.down = True
    with pytest.raises(UnavailableError):
        counted.read(key)
    text = metrics.text()
    assert 'vedr_signer_register_seconds_count{region="us-east"} 4' in text
    assert 'vedr_signer_register_failures_total{region="us-east"} 1' in text


def test_metrics_are_served_and_nothing_else() -> None:
    with serve_metrics("127.0.0.1:0", lambda: "vedr_signer_epoch 7\n") as port:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert answer.read() == b"vedr_signer_epoch 7\n"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
        caught.value.close()
        assert caught.value.code == 404
        with pytest.raises(InvalidInputError, match="cannot be served"), serve_metrics(f"127.0.0.1:{port}", str):
            pass


class Terminal:
    """The command line over the site in memory; stopped as soon as it holds."""

    def __init__(self, opened: OpenSite, monkeypatch: pytest.MonkeyPatch) -> None:
        @contextlib.contextmanager
        def open_site(_: str | None = None) -> Iterator[OpenSite]:
            yield opened

        monkeypatch.setattr(command, "open_site", open_site)
        monkeypatch.setenv("COLUMNS", "200")  # a width that is set on the console stays with it

    def __call__(self, *arguments: str) -> str:
        result = CliRunner().invoke(command.app, list(arguments))
        if isinstance(result.exception, VedrError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout


@pytest.fixture
def vedr(opened: OpenSite, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return Terminal(opened, monkeypatch)


def test_the_process_that_holds_the_key_leaves_no_core_dump(vedr: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(command, "no_core_dumps", lambda: done.append("no core dumps"))
    monkeypatch.setattr(command, "run", lambda *_, **__: done.append("runs"))
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    vedr(
        "run", "--validator", "val0", "--connect", "unix:///n.sock", "--key", "file:/key.json", "--name", "us-east-1a",
        "--state", "state.json",
    )  # fmt: skip
    assert done == ["no core dumps", "runs"]


def test_status_shows_every_region_and_fails_without_a_majority(vedr: Terminal, opened: OpenSite) -> None:
    with pytest.raises(UnavailableError, match="3 of 3 regions"):
        vedr("status", "--validator", "val0")
    assert "founded at 9/0/0" in vedr("found", "--validator", "val0", "--floor", "9/0/0")
    shown = vedr("status", "--validator", "val0")
    assert "val0: 9/0/0 under epoch 0 of nobody" in shown
    assert all(region in shown for region in REGIONS)
    document = json.loads(vedr("status", "--validator", "val0", "--json"))
    assert (document["epoch"], document["holder"], document["position"]) == (0, "", "9/0/0")
    for region in REGIONS[:2]:
        opened.registers[region].wipe(ObjectKey(f"sign-state/{CHAIN_ID}/{ADDRESS}.json"))  # type: ignore[attr-defined]
    with pytest.raises(UnavailableError, match="2 of 3 regions"):
        vedr("status", "--validator", "val0", "--json")


def test_status_shows_who_is_appointed_beside_who_holds_the_key(vedr: Terminal, opened: OpenSite) -> None:
    vedr("found", "--validator", "val0", "--new-key")
    assert "appointed: nobody" in vedr("status", "--validator", "val0")
    assert json.loads(vedr("status", "--validator", "val0", "--json"))["appointed"] is None
    run_id = "inc-20261102-120000-aaaa"
    made = vedr("appoint", "--validator", "val0", "--name", "eu-west-1a", "--run-id", run_id)
    assert f"val0: to be signed for by eu-west-1a (appointment 1, by {run_id}" in made
    assert "appointed: eu-west-1a (appointment 1" in vedr("status", "--validator", "val0")
    assert "appointment 2, by run-" in vedr("appoint", "--validator", "val0", "--name", "us-east-1a")
    assert json.loads(vedr("status", "--validator", "val0", "--json"))["appointed"] == "us-east-1a"
    with pytest.raises(InvalidInputError, match="not a run id"):
        vedr("appoint", "--validator", "val0", "--name", "us-east-1a", "--run-id", "mine")
    for region in REGIONS[:2]:
        opened.registers[region].overwrite(  # type: ignore[attr-defined]
            ObjectKey(f"signer-appointment/{CHAIN_ID}/{ADDRESS}.json"), b"{"
        )
    assert "appointed: no majority of the regions shows" in vedr("status", "--validator", "val0")


def test_a_register_goes_with_the_site_s_file_when_a_bucket_is_changed_there(
    vedr: Terminal, opened: OpenSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    vedr("found", "--validator", "val0", "--floor", "9/0/0")
    site: Any = opened.site
    before = copy.copy(site)
    monkeypatch.setattr(command, "load_site", {"before.toml": before}.__getitem__)
    places = name_of_places(register_buckets(before))
    register_of(opened, opened.site.node("val0")).take_over(1, f"us-east-1a/7#a@{places}").close()
    site.regions = kept_in(ap_south="other")
    opened.registers["ap-south"].wipe(ObjectKey(f"sign-state/{CHAIN_ID}/{ADDRESS}.json"))  # type: ignore[attr-defined]
    move = ("regions", "--validator", "val0", "--was", "before.toml")
    document = json.loads(vedr(*move, "--json"))
    assert (document["epoch"], document["position"], document["problems"]) == (2, "9/0/0", {})
    assert document["holder"].startswith("us-east-1a/regions#")
    assert document["holder"].endswith(f"@{name_of_places(register_buckets(site))}")
    assert "val0: 9/0/0 under epoch 2 of us-east-1a/regions#" in vedr(*move)
    before.chain = SimpleNamespace(chain_id="another")
    with pytest.raises(InvalidInputError, match="another key or chain"):
        vedr(*move)


def test_a_register_is_founded_by_exactly_one_statement_of_how_far_the_key_signed(
    vedr: Terminal, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    for arguments in ([], ["--new-key", "--floor", "1/0/0"]):
        with pytest.raises(InvalidInputError, match="how far"):
            vedr("found", "--validator", "val0", *arguments)
    with pytest.raises(InvalidInputError, match="does not exist"):
        vedr("found", "--validator", "val0", "--state", str(state))
    with pytest.raises(InvalidInputError, match="no height/round/step"):
        vedr("found", "--validator", "val0", "--floor", "12")
    with pytest.raises(InvalidInputError, match="full0 is no validator"):
        vedr("found", "--validator", "full0", "--new-key")
    state.write_text('{"height": "7", "round": 1, "step": 2}')
    assert "founded at 7/1/2" in vedr("found", "--validator", "val0", "--state", str(state))
    with pytest.raises(ConflictError):
        vedr("found", "--validator", "val0", "--new-key")


def test_run_takes_its_terms_from_the_command_line(
    vedr: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Settings] = []

    def run_once(_: OpenSite, settings: Settings, *, log: Any, stopping: threading.Event) -> None:
        seen.append(settings)
        log("holds", {"epoch": 1})
        assert not stopping.is_set()
        signal_handlers[15](15, None)
        assert stopping.is_set()

    signal_handlers: dict[int, Callable[[int, None], None]] = {}
    monkeypatch.setattr(command, "run", run_once)
    monkeypatch.setattr(command.signal, "signal", lambda number, handler: signal_handlers.update({number: handler}))
    fixed = ["run", "--validator", "val0", "--connect", "unix:///a", "--connect", "tcp://b:1", "--key", "token:x"]
    fixed += ["--name", "eu-west-1a", "--state", str(tmp_path / "s.json")]
    vedr(*fixed)
    vedr(*fixed, "--take-over", "--planned", "--watch-s", "7", "--floor", "5/1/0", "--region", "eu-west")
    assert seen[0].terms == Terms("eu-west-1a", take_over=False, planned=False, watch_s=0.2)
    assert (seen[0].connect, seen[0].region, seen[0].floor) == (("unix:///a", "tcp://b:1"), "us-east", None)
    assert seen[1].terms == Terms("eu-west-1a", take_over=True, planned=True, watch_s=7)
    assert (seen[1].region, str(seen[1].floor)) == ("eu-west", "5/1/0")
    assert not seen[1].when_appointed
    vedr(*fixed, "--when-appointed")
    vedr(*fixed, "--when-asked", "--take-over", "--planned")
    assert (seen[2].when_appointed, seen[2].when_asked, seen[2].terms.take_over) == (True, False, False)
    assert (seen[3].when_appointed, seen[3].when_asked, seen[3].terms.planned) == (False, True, True)
    for flags, said in (
        (["--planned"], "--planned without"),
        (["--when-appointed", "--take-over"], "--when-appointed with --take-over"),
        (["--when-asked", "--take-over"], "not --planned"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            vedr(*fixed, *flags)


def test_a_log_line_is_one_json_object_with_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    command.log_line("signed", {"hrs": "5/0/2"})
    document = json.loads(capsys.readouterr().err)
    assert (document["event"], document["hrs"]) == ("signed", "5/0/2")
    assert document["at"].endswith("+00:00")
