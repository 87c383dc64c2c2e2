"""What a dashboard asks of a Prometheus, and its answers.

Guarantees: every query of every panel is asked, and one that Prometheus refuses, warns of, or that names a metric which
the exporter does not have is an error with the panel's name; a sample that is not there stays away.
Leaves out: drawing.

Format: prometheus.io/docs/prometheus/latest/querying/api.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import httpx

from bench.dashboards.layout import Dashboard, Panel, Target
from vedr.errors import InvalidInputError, NotFoundError, UnavailableError

ANSWER_S: Final = 30.0
OF_PROMETHEUS: Final = frozenset({"ALERTS"})  # that it makes itself, of its rules
_VARIABLE_QUERY: Final = re.compile(r"label_values\((\w+),\s*(\w+)\)")
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_NOT_METRICS: Final = re.compile(
    r"\{[^}]*\}|\[[^]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)|\b(?:and|or|unless|bool|offset)\b"
)
_NAME: Final = re.compile(r"(?<![\w.:])[a-zA-Z_:][\w:]*(?!\w)(?!\s*\()")


class Sample(NamedTuple):
    """A value at a time (seconds since 1970)."""

    at_s: float
    value: float


@dataclass(frozen=True, slots=True)
class Series:
    """Samples in the order of their times."""

    labels: Mapping[str, str]
    samples: tuple[Sample, ...]

    @property
    def last(self) -> float:
        return self.samples[-1].value


@dataclass(frozen=True, slots=True)
class Window:
    """What is looked at, in seconds since 1970; a graph has a value every `step_s`."""

    start_s: float
    end_s: float
    step_s: float


@dataclass(frozen=True, slots=True)
class Answers:
    """All that is drawn: of each panel by its id, for each of its targets, the series."""

    panels: Mapping[int, tuple[tuple[Series, ...], ...]]
    marks: tuple[Series, ...]
    chosen: Mapping[str, tuple[str, ...]]
    window: Window
    version: str


def metrics_of(expression: str) -> set[str]:
    """The names of all metrics that a query reads."""
    bare = _STRING.sub('""', expression)
    while (shorter := _NOT_METRICS.sub(" ", bare)) != bare:
        bare = shorter
    return set(_NAME.findall(bare))


def check_names(panels: Iterable[Panel], known: set[str]) -> None:
    """InvalidInputError for the first panel that reads a metric which is not known."""
    for panel in panels:
        for target in panel.targets:
            if strange := sorted(metrics_of(target.expr) - known - OF_PROMETHEUS):
                raise InvalidInputError(
                    f"{panel.name} reads {', '.join(strange)}, which the exporter does not have",
                    remedy="Correct the panel's query; docs/metrics.md lists every metric.",
                )


class Prometheus:
    """One that runs; closed as a context."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=ANSWER_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of its answer; UnavailableError when none comes, InvalidInputError when it refuses."""
        try:
            told = self._client.get(f"/api/v1/{path}", params=parameters).json()
        except (httpx.HTTPError, ValueError) as error:
            raise UnavailableError(
                f"Prometheus at {self._client.base_url} does not answer: {error}",
                remedy="Start it, or give --start.",
            ) from error
        if told["status"] != "success" or told.get("warnings"):
            raise InvalidInputError(str(told.get("error") or told.get("warnings")), remedy="Correct the query.")
        return told["data"]

    def version(self) -> str:
        return str(self.get("status/buildinfo")["version"])

    def label_values(self, query: str) -> tuple[str, ...]:
        """Of a dashboard's `label_values(metric, label)`."""
        found = _VARIABLE_QUERY.fullmatch(query)
        if found is None:
            raise InvalidInputError(f"no such query of a variable: {query}", remedy="Use label_values(metric, label).")
        return tuple(self.get(f"label/{found[2]}/values", **{"match[]": found[1]}))

    def ask(self, target: Target, window: Window) -> tuple[Series, ...]:
        """The series over the window, or now alone when the target is instant."""
        if target.instant:
            data = self.get("query", query=target.expr, time=str(window.end_s))
            return tuple(_series(one, [one["value"]]) for one in _of_kind(data, "vector"))
        data = self.get(
            "query_range",
            query=target.expr,
            start=str(window.start_s),
            end=str(window.end_s),
            step=str(window.step_s),
        )
        return tuple(_series(one, one["values"]) for one in _of_kind(data, "matrix"))


def ask_all(prometheus: Prometheus, dashboard: Dashboard, window: Window, chosen: Mapping[str, str]) -> Answers:
    """Every panel's answers.

    Args:
        prometheus: Whom to ask.
        dashboard: What it asks.
        window: Of which time.
        chosen: Values of the dashboard's variables; all values of those that are not given.

    Raises:
        NotFoundError: a variable has no values, or not the chosen one: no exporter is scraped.
        InvalidInputError: a query is refused; the message names the panel.
    """
    values, meant = {}, {}
    for name, query in dashboard.variables.items():
        there = prometheus.label_values(query)
        values[name] = (chosen[name],) if name in chosen else there
        if not there or not set(values[name]) <= set(there):
            raise NotFoundError(
                f"Prometheus knows no {name} {chosen.get(name, '')}: {query} gives {', '.join(there) or 'nothing'}",
                remedy="Let it scrape the exporter, with that label, first.",
            )
        meant[name] = re.escape(chosen[name]) if name in chosen else dashboard.every[name]
    panels = {panel.id: tuple(_ask(prometheus, panel, one, window, meant) for one in panel.targets)
              for panel in dashboard.panels}  # fmt: skip
    marks = [prometheus.ask(Target(ref_id="", expr=expr), window) for expr in dashboard.marks]
    return Answers(panels, tuple(series for one in marks for series in one), values, window, prometheus.version())


def _ask(
    prometheus: Prometheus, panel: Panel, target: Target, window: Window, meant: Mapping[str, str]
) -> tuple[Series, ...]:
    try:
        return prometheus.ask(target.model_copy(update={"expr": resolved(target.expr, meant)}), window)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"{panel.name}, query {target.ref_id}: {error.message}", remedy="Correct the panel's query."
        ) from error


def resolved(expression: str, meant: Mapping[str, str]) -> str:
    """The query with its variables' values; InvalidInputError when it names another variable."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in meant:
            raise InvalidInputError(f"the dashboard has no variable {name}", remedy="Correct the query.")
        return meant[name].replace("\\", "\\\\")

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, expression)


def _of_kind(data: Any, kind: str) -> Any:
    if data["resultType"] != kind:
        raise InvalidInputError(f"it gives a {data['resultType']}, not a {kind}", remedy="Ask for series.")
    return data["result"]


def _series(told: Any, samples: Any) -> Series:
    return Series(told["metric"], tuple(Sample(float(at), float(value)) for at, value in samples))
