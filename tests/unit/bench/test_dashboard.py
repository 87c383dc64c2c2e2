"""The dashboard is drawn from what a Prometheus answers, whole, or not at all."""

import contextlib
import datetime as dt
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from bench.dashboard import DASHBOARD, SHIPPED, main, picture, readable
from bench.dashboards.asking import Answers, Sample, Series, Window, metrics_of, resolved
from bench.dashboards.drawing import DRAW, draw_dashboard
from bench.dashboards.frames import name_of, table_of
from bench.dashboards.graphs import unbroken
from bench.dashboards.layout import Dashboard, Panel
from bench.dashboards.scraping import Scraped, adapted, scraping
from bench.dashboards.values import axis, written
from vedr.errors import InvalidInputError, NotFoundError, UnavailableError
from vedr.reports import metrics

NEEDS = "is not installed (Debian: apt-get install --no-install-recommends prometheus)"
NOW_S = 1_800_000_000.0
WINDOW = Window(NOW_S - 600, NOW_S, 60)
LOSS = {"region": "us-east"}
Change = Callable[[dict[str, Any]], None]


def installed(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} {NEEDS}")
    return found


def changed(folder: Path, number: int, change: Change) -> Path:
    """The shipped dashboard with that panel changed."""
    told = json.loads(DASHBOARD.read_text())
    change(next(panel for panel in told["panels"] if panel["id"] == number))
    path = folder / "changed.json"
    path.write_text(json.dumps(told))
    return path


def texts(svg: str) -> list[str]:
    return [one.text or "" for one in ET.fromstring(svg).iter() if one.tag.endswith("}text")]  # noqa: S314 - our own


def series(value: float, since_s: float = 0, /, **labels: str) -> Series:
    """Of one value each minute, for so long; the newest alone by default."""
    times = [NOW_S - since_s + 60 * step for step in range(round(since_s / 60) + 1)]
    return Series(labels, tuple(Sample(at_s, value) for at_s in times))


def drawn(number: int, *frames: tuple[Series, ...], marks: tuple[Series, ...] = ()) -> list[str]:
    """The texts of one shipped panel's picture."""
    dashboard = readable(DASHBOARD)
    panel = next(one for one in dashboard.panels if one.id == number)
    alone = dashboard.model_copy(update={"panels": (panel,)})
    told = frames or tuple(() for _ in panel.targets)
    return texts(draw_dashboard(alone, Answers({number: told}, marks, {"site": ("lab",)}, WINDOW, "2.42.0")))


def shipped() -> Dashboard:
    return readable(DASHBOARD)


# --- the shipped dashboard


def test_every_panel_of_the_dashboard_can_be_drawn_and_reads_only_metrics_that_the_exporter_has() -> None:
    kinds = {panel.kind for panel in shipped().panels}
    assert kinds == {"row", *DRAW}, "the drawing knows the kinds that the dashboard has, no others"


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in shipped().panels:
        place = panel.place
        assert place.x + place.w <= 24, panel.name
        for x in range(place.x, place.x + place.w):
            for y in range(place.y, place.y + place.h):
                assert (x, y) not in taken, f"{panel.name} and {taken[x, y]}"
                taken[x, y] = panel.name


@pytest.mark.server
def test_every_query_of_the_dashboard_is_valid_promql(tmp_path: Path) -> None:
    promtool = installed("promtool")
    queries = [resolved(target.expr, shipped().every) for panel in shipped().panels for target in panel.targets]
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate([*queries, *shipped().marks])]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    told = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


# --- what can't be drawn is an error with the panel's name


def set_to(key: str, value: Any) -> Change:
    return lambda panel: panel.update({key: value})


def read_instead(expression: str) -> Change:
    return lambda panel: panel["targets"][0].update(expr=expression)


def override(matcher: str, name: str) -> Change:
    one = {"matcher": {"id": matcher, "options": "x"}, "properties": [{"id": name, "value": 1}]}
    return lambda panel: panel["fieldConfig"]["overrides"].append(one)


def unit(name: str) -> Change:
    return lambda panel: panel["fieldConfig"]["defaults"].update(unit=name)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (set_to("type", "piechart"), "piechart"),
        (set_to("transformations", [{"id": "reduce", "options": {}}]), "reduce"),
        (set_to("transformations", []), "Grafana shows one at a time"),
        (set_to("targets", []), "asks nothing"),
        (override("byRegexp", "unit"), "byRegexp"),
        (override("byName", "links"), "links"),
        (unit("furlongs"), "furlongs"),
        (read_instead("vedr_region_loss_halts + vedr_made_up"), "vedr_made_up, which the exporter does not have"),
        (read_instead("sum by (region) (up)"), "up, which the exporter does not have"),
    ],
    ids=["kind", "transformation", "not merged", "no query", "matcher", "property", "unit", "metric", "others' metric"],
)
def test_a_panel_that_can_not_be_drawn_is_named(change: Change, why: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"panel 11 \(If the region is lost\)") as refused:
        readable(changed(tmp_path, 11, change))
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('time() - a_b{site=~"$site", x!="c_d{"}', {"a_b"}),
        ("a / ignoring (of, region) group_left () b", {"a", "b"}),
        ("max by (region) (rate(a[5m] offset 1h)) > bool 2", {"a"}),
        ("count(a == 0) or vector(0) unless on (x) b", {"a", "b"}),
        ("sum(1 - a:b) without (c) and 1e9 * d", {"a:b", "d"}),
    ],
)
def test_every_metric_of_a_query_is_found_and_nothing_else(expression: str, names: set[str]) -> None:
    assert metrics_of(expression) == names


def test_a_query_with_a_variable_that_the_dashboard_has_not_is_refused() -> None:
    assert resolved('a{x=~"$site|${site}"}', {"site": r"lab\.1"}) == r'a{x=~"lab\\.1|lab\\.1"}'
    with pytest.raises(InvalidInputError, match="no variable node"):
        resolved('a{x="$node"}', {"site": ".*"})


# --- pictures of canned answers


def test_a_stat_shows_its_value_in_its_unit_and_one_box_a_site() -> None:
    assert "85%" in drawn(3, (series(0.85, site="lab"),))
    assert {"eu", "us", "85%", "40%"} <= set(drawn(3, (series(0.85, site="eu"), series(0.4, site="us"))))


def test_a_stat_has_the_colour_of_the_threshold_that_is_reached() -> None:
    margin = next(panel for panel in shipped().panels if panel.id == 2)
    assert [margin.look.color_of(value) for value in (-1, 0, 1, 16)] == ["red", "yellow", "green", "green"]


def test_bars_show_each_region_and_its_share() -> None:
    assert {"us-east", "40%", "eu-west", "20%"} <= set(drawn(10, (series(0.4, **LOSS), series(0.2, region="eu-west"))))


def test_a_table_merges_answers_about_the_same_region_and_says_mappings_words() -> None:
    height = series(12345, **LOSS)
    told = drawn(11, (series(1, **LOSS),), (series(0, **LOSS),), (series(0, **LOSS),), (height,), ())
    assert told.count("us-east") == 1
    assert {"halts", "promotion", "12,345"} <= set(told)
    assert "its store" in told
    assert "-" in told, "what was not answered is not shown as a value"


def test_rows_that_differ_in_a_label_are_not_merged_just_as_in_grafana() -> None:
    panel = next(panel for panel in shipped().panels if panel.id == 11)
    other = Series({**LOSS, "__name__": "b"}, (Sample(NOW_S, 1),))
    assert len(table_of(panel, ((series(1, **LOSS),), (other,), (), (), ())).rows) == 2


def test_a_table_puts_what_is_wrong_first_and_counts_what_does_not_fit() -> None:
    checks = [series(1, check=f"check-{number}", status="passed") for number in range(40)]
    told = drawn(27, (*checks, series(1, check="late", status="failed")))
    assert told.index("late") < told.index("check-0")
    shown = sum(text.startswith("check-") for text in told)
    assert f"and {40 - shown} rows more" in told


def test_a_graph_has_a_legend_with_the_newest_values_and_names_a_limit_that_is_far_above() -> None:
    told = drawn(23, (series(0.04, 540, runbook="RB-DR-003", **{"in": "exercise"}),))
    assert {"RB-DR-003 (exercise)", "4%", "limit far above: 80%, 100%"} <= set(told)


def test_a_copy_that_was_never_made_is_called_so_and_presses_no_other_line_flat() -> None:
    never, young = series(332_000, 540, component="configuration"), series(0.5, component="chain-state")
    assert {"never", "50%", "100%", "configuration"} <= set(drawn(16, (never, young)))


def test_a_legend_counts_the_lines_that_it_has_no_room_for() -> None:
    many = tuple(series(1, 60, region=f"region-{number}") for number in range(99))
    told = drawn(19, many)
    shown = sum(text.startswith("region-") for text in told)
    assert f"and {99 - shown} more" in told


@pytest.mark.parametrize("number", [panel.id for panel in shipped().panels if panel.kind != "row"])
def test_a_panel_without_an_answer_says_so(number: int) -> None:
    panel = next(panel for panel in shipped().panels if panel.id == number)
    assert panel.look.no_value in drawn(number)
    assert panel.look.no_value


def test_a_line_is_not_drawn_through_what_is_missing_or_off_the_axis() -> None:
    values = [(0, 1), (60, 1), (240, 1), (300, float("inf")), (360, 1), (420, 99), (480, float("nan")), (540, 1)]
    parts = list(unbroken([Sample(*one) for one in values], 60, 0, 10))
    assert [[sample.at_s for sample in part] for part in parts] == [[0, 60], [240], [360], [540]]


def test_alerts_mark_the_graphs() -> None:
    dashboard = shipped()
    panel = next(one for one in dashboard.panels if one.id == 12)
    alone = dashboard.model_copy(update={"panels": (panel,)})
    answers = Answers({12: ((series(16, 600),),)}, (series(1, 120),), {}, WINDOW, "")
    assert draw_dashboard(alone, answers).count('class="mark"') == 1


# --- values


@pytest.mark.parametrize(
    ("value", "in_unit", "text"),
    [
        (16, "short", "16"), (0, "short", "0"), (12_345, "short", "12.3K"), (12_345, "none", "12,345"),
        (0.00215, "percentunit", "0.215%"), (3.5, "percentunit", "350%"), (161, "s", "2 min 41 s"),
        (0.25, "h", "15 min"), (1_272_935, "bytes", "1.21 MiB"), (1_010, "bytes", "1010 B"),
        (float("inf"), "h", "∞"), (float("nan"), "s", "nan"), (-24, "short", "-24"),
    ],
)  # fmt: skip
def test_a_value_is_written_as_its_size_asks_for(value: float, in_unit: Any, text: str) -> None:
    assert written(value, in_unit) == text


@pytest.mark.parametrize(
    ("ends", "in_unit", "marks"),
    [
        ((0, 17), "short", (0, 5, 10, 15)),
        ((-25, 17), "short", (-20, -10, 0, 10)),
        ((0, 129_600), "s", (0, 43_200, 86_400, 129_600)),
        ((0, 0.5), "h", (0, 1 / 6, 1 / 3, 0.5)),
        ((0, 3_000_000), "bytes", (0, 1_048_576, 2_097_152)),
        ((0, 9e8), "s", None),
    ],
)
def test_an_axis_has_a_few_round_marks(ends: tuple[float, float], in_unit: Any, marks: Any) -> None:
    found = axis(*ends, in_unit)
    assert 2 <= len(found) <= 6
    assert marks is None or found == pytest.approx(marks)


def test_a_series_is_named_by_the_legends_form_or_its_labels() -> None:
    one = series(1, runbook="RB-DR-001", region="us-east")
    assert name_of(one, "{{runbook}} in {{ region }}") == "RB-DR-001 in us-east"
    assert name_of(one, "") == "runbook=RB-DR-001, region=us-east"


# --- the configuration of our own Prometheus


def test_the_shipped_configuration_is_adapted_to_one_exporter_and_keeps_the_rules() -> None:
    example = (SHIPPED / "prometheus.example.yml").read_text()
    told = yaml.safe_load(adapted(example, Scraped("http://10.77.0.1:4255/metrics", "lab")))
    (job,) = told["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["10.77.0.1:4255"], "labels": {"site": "lab"}}]
    assert told["rule_files"] == ["vedr.rules.yml"]
    assert told["global"] == yaml.safe_load(example)["global"]
    with pytest.raises(InvalidInputError, match=r"10\.77\.0\.1:4255 is no address"):
        adapted(example, Scraped("10.77.0.1:4255", "lab"))


def test_without_prometheus_it_says_which_package_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(NotFoundError, match="apt-get install"),
        scraping(tmp_path, SHIPPED, Scraped("http://127.0.0.1:1/metrics", "lab")),
    ):
        pass


# --- a real Prometheus


@contextlib.contextmanager
def exporter(text: str) -> Iterator[str]:
    """The URL of an exporter that always says this."""

    class Says(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Says) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One that has scraped a small site."""
    installed("prometheus")
    said = metrics.render(
        [
            metrics.COLLECT_SUCCESS(1, "nodes"),
            metrics.COLLECT_SUCCESS(0, "power"),
            metrics.NODE_UP(1, "n", "us-east", "full"),
            metrics.REGION_HEIGHT(12345, "us-east"),
            metrics.REGION_HEIGHT(12344, "eu-west"),
        ]
    )
    with (
        exporter(said) as url,
        scraping(tmp_path_factory.mktemp("prometheus"), SHIPPED, Scraped(url, "lab", interval_s=0.5)) as running,
    ):
        yield running


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@pytest.mark.server
def test_the_whole_dashboard_is_drawn_from_a_real_prometheus(prometheus: str, tmp_path: Path) -> None:
    path = tmp_path / "dashboard.svg"
    arguments = ["dashboard", "--prometheus", prometheus, "--minutes", "1", "--site", "lab", "--write", str(path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", arguments)
        assert main() == 0
    told = texts(path.read_text())
    assert {panel.title for panel in shipped().panels} <= set(told)
    assert {"site lab", "us-east", "12,345", "12,344", "not known"} <= set(told)


@pytest.mark.server
def test_a_query_that_prometheus_refuses_is_named_and_nothing_is_written(prometheus: str, tmp_path: Path) -> None:
    broken = changed(tmp_path, 4, read_instead("sum(vedr_node_up"))
    with pytest.raises(InvalidInputError, match=r"panel 4 \(Since the newest block\), query A: .*parse error"):
        picture(prometheus, readable(broken), minutes=1, until=now())
    scalar = changed(tmp_path, 4, read_instead("scalar(vedr_node_up)"))
    with pytest.raises(InvalidInputError, match=r"panel 4 .* gives a scalar, not a vector"):
        picture(prometheus, readable(scalar), minutes=1, until=now())


@pytest.mark.server
def test_a_site_that_nothing_is_known_of_is_no_empty_picture(prometheus: str) -> None:
    with pytest.raises(NotFoundError, match=r"no site elsewhere: .* gives lab"):
        picture(prometheus, shipped(), minutes=1, until=now(), site="elsewhere")


@pytest.mark.server
def test_an_exporter_that_can_not_be_scraped_is_told_with_the_reason(tmp_path: Path) -> None:
    installed("prometheus")
    with (
        pytest.raises(UnavailableError, match=r"can't be scraped: .*refused"),
        scraping(tmp_path, SHIPPED, Scraped("http://127.0.0.1:1/metrics", "lab", interval_s=0.5)),
    ):
        pass


@pytest.mark.server
def test_a_prometheus_that_does_not_start_is_told_with_its_own_words(tmp_path: Path) -> None:
    installed("prometheus")
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "prometheus.example.yml").write_text(
        (SHIPPED / "prometheus.example.yml").read_text().replace("scrape_interval: 15s", "scrape_interval: soon")
    )
    with (
        pytest.raises(UnavailableError, match=r"Prometheus did not start: .*soon"),
        scraping(tmp_path / "run", tmp_path / "shipped", Scraped("http://127.0.0.1:1/metrics", "lab")),
    ):
        pass


def test_a_prometheus_that_is_not_there_is_told() -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        picture("http://127.0.0.1:1", shipped(), minutes=1, until=now())


def test_a_panel_without_a_title_is_still_named() -> None:
    assert (
        Panel.model_validate({"id": 7, "kind": "row", "title": "", "place": {"x": 0, "y": 0, "w": 1, "h": 1}}).name
        == "panel 7 ()"
    )
