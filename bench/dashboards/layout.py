"""A Grafana dashboard as its file tells it: panels in a grid, what each asks, how its values are shown.

Guarantees: a panel of a kind, with a unit, a transformation or an override that the drawing does not know is an error
that names the panel, never a picture that leaves something out; so is a panel that Grafana itself would not show whole,
such as a table of several queries that are not merged.
Leaves out: what only a screen has: links, tooltips, refreshing.

Format: grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model, schemaVersion 39.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from vedr.errors import InvalidInputError

COLUMNS: Final = 24
Kind = Literal["row", "stat", "timeseries", "bargauge", "table"]
Unit = Literal["short", "none", "percentunit", "s", "h", "bytes"]
Color = Literal["green", "yellow", "red", "blue"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class Place(_Part):
    """In columns and rows of the grid."""

    x: int
    y: int
    w: int
    h: int


class Target(_Part):
    """A query; `instant` asks for now alone."""

    ref_id: str
    expr: str
    legend_format: str = ""
    instant: bool = False


class Step(_Part):
    """From this value on (None: from the least there is) the colour holds."""

    color: Color
    value: float | None


class Thresholds(_Part):
    mode: Literal["absolute"] = "absolute"
    steps: tuple[Step, ...] = ()


class Shown(_Part):
    """What stands for a value."""

    text: str = ""
    color: Color | None = None


class ByValue(_Part):
    type: Literal["value"]
    options: dict[str, Shown]


class Span(_Part):
    """Both ends belong to it; None is no end."""

    low: float | None = Field(default=None, alias="from")
    high: float | None = Field(default=None, alias="to")
    result: Shown


class ByRange(_Part):
    type: Literal["range"]
    options: Span


Mapping = Annotated[ByValue | ByRange, Field(discriminator="type")]


class ThresholdsStyle(_Part):
    mode: Literal["off", "dashed"] = "off"


class CellOptions(_Part):
    type: Literal["auto", "color-text"] = "auto"


class Custom(_Part):
    thresholds_style: ThresholdsStyle = ThresholdsStyle()
    cell_options: CellOptions = CellOptions()


class Look(_Part):
    """How a field's values are shown."""

    unit: Unit = "short"
    no_value: str = "no data"
    min: float | None = None
    max: float | None = None
    thresholds: Thresholds = Thresholds()
    mappings: tuple[Mapping, ...] = ()
    custom: Custom = Custom()

    def color_of(self, value: float) -> Color | None:
        """By the thresholds alone; None when there are none."""
        reached = [step.color for step in self.thresholds.steps if step.value is None or value >= step.value]
        return reached[-1] if reached else None

    def limits(self) -> tuple[Step, ...]:
        """The thresholds that a graph draws."""
        if self.custom.thresholds_style.mode == "off":
            return ()
        return tuple(step for step in self.thresholds.steps if step.value is not None)

    def mapped(self, value: float | str) -> Shown | None:
        """What stands for it, when a mapping says so."""
        for mapping in self.mappings:
            if isinstance(mapping, ByValue):
                key = value if isinstance(value, str) else f"{value:g}"
                if key in mapping.options:
                    return mapping.options[key]
            elif not isinstance(value, str):
                span = mapping.options
                if (span.low is None or value >= span.low) and (span.high is None or value <= span.high):
                    return span.result
        return None


class Panel(_Part):
    """One panel; `looks` are those of the columns that have their own."""

    id: int
    kind: Kind
    title: str
    description: str = ""
    place: Place
    targets: tuple[Target, ...] = ()
    look: Look = Look()
    looks: dict[str, Look] = {}
    merged: bool = False
    left_out: frozenset[str] = frozenset()
    renamed: dict[str, str] = {}
    sorted_by: str = ""

    @property
    def name(self) -> str:
        return f"panel {self.id} ({self.title})"


class Dashboard(_Part):
    """The panels in their order, the queries of its variables and of its marks."""

    title: str
    panels: tuple[Panel, ...]
    variables: dict[str, str]
    every: dict[str, str]  # what a variable stands for when all of its values are chosen
    marks: tuple[str, ...]


def read_dashboard(path: Path) -> Dashboard:
    """The dashboard of that file; InvalidInputError names the panel that can't be drawn."""
    told = json.loads(path.read_text())
    variables = [one for one in told["templating"]["list"] if one["type"] == "query"]
    return Dashboard(
        title=told["title"],
        panels=tuple(_panel(one) for one in told["panels"]),
        variables={one["name"]: one["query"] for one in variables},
        every={one["name"]: one.get("allValue", ".*") for one in variables},
        marks=tuple(one["expr"] for one in told["annotations"]["list"] if one.get("enable")),
    )


def _panel(told: dict[str, Any]) -> Panel:
    where = f"panel {told.get('id')} ({told.get('title')})"
    try:
        panel = Panel.model_validate(
            {
                **{key: told[key] for key in ("id", "title", "description", "targets") if key in told},
                "kind": told["type"],
                "place": told["gridPos"],
                **_looks(told.get("fieldConfig", {})),
                **_transformed(told.get("transformations", ())),
                "sorted_by": _sorted_by(told.get("options") or {}),
            }
        )
    except (ValidationError, KeyError) as error:
        raise _unknown(where, str(error)) from error
    if panel.kind == "table" and len(panel.targets) > 1 and not panel.merged:
        raise _unknown(where, "it asks several queries and does not merge them: Grafana shows one at a time")
    if panel.kind != "row" and not panel.targets:
        raise _unknown(where, "it asks nothing")
    return panel


def _looks(config: dict[str, Any]) -> dict[str, Any]:
    base = config.get("defaults", {})
    looks = {}
    for override in config.get("overrides", ()):
        if override["matcher"]["id"] != "byName":
            raise KeyError(override["matcher"]["id"])
        own = dict(base)
        for one in override["properties"]:
            if one["id"] == "custom.cellOptions":
                own["custom"] = {**own.get("custom", {}), "cellOptions": one["value"]}
            elif one["id"] in ("unit", "mappings", "thresholds"):
                own[one["id"]] = one["value"]
            else:
                raise KeyError(one["id"])
        looks[override["matcher"]["options"]] = own
    return {"look": base, "looks": looks}


def _transformed(told: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in told:
        if one["id"] == "merge":
            found["merged"] = True
        elif one["id"] == "organize":
            found["left_out"] = [name for name, out in one["options"].get("excludeByName", {}).items() if out]
            found["renamed"] = one["options"].get("renameByName", {})
        else:
            raise KeyError(one["id"])
    return found


def _sorted_by(options: dict[str, Any]) -> str:
    columns = options.get("sortBy", ())
    return str(columns[0]["displayName"]) if columns else ""


def _unknown(where: str, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"{where} can't be drawn: {why}", remedy="Change the panel, or teach bench/dashboards to draw it."
    )
