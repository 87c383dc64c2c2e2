"""The exporter as Prometheus meets it: a real server, real threads, and collectors that fail and hang."""

import contextlib
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from vedr.adapters.exporter import choose, collect_once, collecting, collectors
from vedr.adapters.metrics_http import serve_metrics
from vedr.errors import InvalidInputError, UnavailableError
from vedr.readiness.ports import Ports
from vedr.reports import metrics, metrics_backups, metrics_chain
from vedr.reports.metrics import FAMILIES, NODE_UP, RTO_TARGET, Family, render
from vedr.reports.metrics_board import Board, Collector

DEADLINE_S = 20.0


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def parsed(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """By an independent reader: the Python client's."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def until(holds: Callable[[], bool]) -> None:
    """Wait for what other threads do."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline_s, "it never came"
        time.sleep(0.01)


# --- the text


def test_another_reader_reads_what_was_meant() -> None:
    odd = 'a"b\\c\nd'
    seen = parsed(
        render([RTO_TARGET(0.25, odd), NODE_UP(True, "a", "b", "c"), metrics.DR_BACKUP_AGE(float("inf"), "x")])
    )
    assert seen["vedr_rto_target_seconds"] == {(odd,): 0.25}
    assert seen["vedr_node_up"] == {("a", "b", "c"): 1}
    assert seen["dr_backup_age_hours"] == {("x",): float("inf")}


def test_every_family_is_named_once_as_prometheus_wants_it() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert family.name.startswith(("vedr_", "dr_"))
        assert (family.kind == "counter") == family.name.endswith("_total")
        assert not {"job", "instance", "site"} & set(family.labels), "a scrape's own labels"
        assert "\n" not in family.says


def test_a_sample_with_other_labels_than_its_family_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        NODE_UP(1, "a")


# --- the board


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> Board:
    return Board([Collector("one", 60, 10, lambda _: ())], monotonic=clock)


def bring(board: Board) -> None:
    board.begins("one")
    board.succeeds("one", [RTO_TARGET(300, "RB-DR-001")])


def test_nothing_is_shown_before_the_first_collection_ended(board: Board) -> None:
    board.begins("one")
    seen = parsed(board.text())
    assert seen["vedr_collect_success"] == {("one",): 0}
    assert "vedr_rto_target_seconds" not in seen
    assert "vedr_collect_age_seconds" not in seen


def test_a_failed_collection_takes_the_old_values_away(board: Board, clock: Clock) -> None:
    bring(board)
    assert "vedr_rto_target_seconds" in parsed(board.text())
    clock.now_s += 60
    board.begins("one")
    board.fails("one")
    seen = parsed(board.text())
    assert "vedr_rto_target_seconds" not in seen
    assert seen["vedr_collect_success"] == {("one",): 0}
    assert seen["vedr_collect_failures_total"] == {("one",): 1}
    assert seen["vedr_collect_age_seconds"] == {("one",): 60}
    bring(board)
    assert "vedr_rto_target_seconds" in parsed(board.text())


def test_a_collection_that_hangs_takes_the_old_values_away_at_its_deadline(board: Board, clock: Clock) -> None:
    bring(board)
    board.begins("one")
    clock.now_s += 10
    assert board.failing() == ()
    clock.now_s += 0.1
    assert board.failing() == ("one",)
    assert "vedr_rto_target_seconds" not in parsed(board.text())


def test_what_comes_after_the_deadline_counts_for_nothing(board: Board, clock: Clock) -> None:
    board.begins("one")
    clock.now_s += 11
    assert not board.succeeds("one", [RTO_TARGET(300, "RB-DR-001")])
    assert "vedr_rto_target_seconds" not in parsed(board.text())


def test_a_collector_whose_thread_died_is_not_shown_for_ever(board: Board, clock: Clock) -> None:
    bring(board)
    clock.now_s += 80
    assert board.failing() == ()
    clock.now_s += 1
    assert board.failing() == ("one",)


# --- the server over a whole site


def scrape(port: int) -> dict[str, dict[tuple[str, ...], float]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE_S) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return parsed(answer.read().decode())


@pytest.mark.server
def test_a_store_that_hangs_freezes_no_scrape_and_takes_only_its_own_metrics_away(fleet: Any) -> None:
    released, hanging, reached = threading.Event(), threading.Event(), threading.Event()
    said: list[tuple[str, Mapping[str, str]]] = []

    def backups(at: Ports) -> Iterator[metrics.Sample]:
        if hanging.is_set():
            reached.set()
            released.wait(DEADLINE_S)  # a store that takes the connection and never answers
        return metrics_backups.backups(at)

    @contextlib.contextmanager
    def open_ports() -> Iterator[Ports]:
        yield fleet.ports

    fleet.take_all()
    wanted = (Collector("nodes", 0.02, 5, metrics_chain.nodes), Collector("backups", 0.02, 5, backups))
    clock = Clock()
    with (
        collecting(wanted, open_ports, lambda *what: said.append(what), monotonic=clock) as board,
        serve_metrics("127.0.0.1:0", board.text) as port,
    ):
        until(lambda: not board.failing())
        assert {"dr_backup_age_hours", "vedr_node_up"} <= scrape(port).keys()
        hanging.set()
        assert reached.wait(DEADLINE_S)
        clock.now_s += 6
        until(lambda: board.failing() == ("backups",))
        began_s = time.monotonic()
        seen = scrape(port)
        assert time.monotonic() - began_s < 2, "a scrape reads memory"
        assert "dr_backup_age_hours" not in seen
        assert seen["vedr_collect_success"] == {("nodes",): 1, ("backups",): 0}
        assert "vedr_node_up" in seen
        hanging.clear()
        released.set()
        until(lambda: not board.failing())
        assert "dr_backup_age_hours" in scrape(port)


@pytest.mark.server
def test_a_collector_that_fails_says_so_once_and_recovers(fleet: Any) -> None:
    broken, said = threading.Event(), []
    broken.set()

    def collect(_at: Ports) -> Iterator[metrics.Sample]:
        if broken.is_set():
            raise UnavailableError("no answer", remedy="Wait.")
        yield RTO_TARGET(300, "RB-DR-001")

    @contextlib.contextmanager
    def open_ports() -> Iterator[Ports]:
        yield fleet.ports

    def say(event: str, facts: Mapping[str, str]) -> None:
        said.append((event, facts["why"]))

    with collecting((Collector("one", 0.01, 5, collect),), open_ports, say) as board:
        until(lambda: parsed(board.text())["vedr_collect_failures_total"]["one",] > 3)
        assert "vedr_rto_target_seconds" not in parsed(board.text())
        broken.clear()
        until(lambda: not board.failing())
        until(lambda: len(said) == 2)
    assert said == [("failing", "no answer"), ("works again", "")]


def test_one_look_gives_what_it_can_and_names_what_failed(fleet: Any) -> None:
    @contextlib.contextmanager
    def open_ports() -> Iterator[Ports]:
        yield fleet.ports

    def fail(_at: Ports) -> Iterator[metrics.Sample]:
        raise UnavailableError("no answer", remedy="Wait.")

    text, failures = collect_once(
        (Collector("nodes", 1, 5, metrics_chain.nodes), Collector("bad", 1, 5, fail)), open_ports
    )
    assert "vedr_node_up" in parsed(text)
    assert failures == {"bad": "no answer"}


def test_a_name_that_is_no_collector_is_refused() -> None:
    assert [one.name for one in choose(collectors(), ["power"])] == ["power"]
    with pytest.raises(InvalidInputError, match="powers"):
        choose(collectors(), ["powers"])


def test_every_family_belongs_to_the_catalogue() -> None:
    declared = [value for value in vars(metrics).values() if isinstance(value, Family)]
    assert tuple(declared) == FAMILIES
