"""A table of a dashboard: the answers' labels and values as rows.

Guarantees: rows are merged as Grafana merges them: only where every label is the same, a metric's name included.
Leaves out: colours and units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.dashboards.asking import Series
from bench.dashboards.layout import Panel

Cell = str | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """Columns by the names that are shown; a cell is None where an answer has no such value."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def table_of(panel: Panel, answers: Sequence[Sequence[Series]]) -> Table:
    """The panel's answers, merged, columns left out and renamed as the panel says, sorted."""
    merged: dict[tuple[tuple[str, str], ...], dict[str, Cell]] = {}
    labels: dict[str, None] = {}
    values: dict[str, None] = {}
    for target, frame in zip(panel.targets, answers, strict=True):
        column = f"Value #{target.ref_id}" if len(panel.targets) > 1 else "Value"
        values[column] = None
        for series in frame:
            labels |= dict.fromkeys(series.labels)
            row = merged.setdefault(tuple(sorted(series.labels.items())), dict(series.labels))
            row[column] = series.last
    kept = [name for name in (*labels, *values) if name not in panel.left_out]
    shown = tuple(panel.renamed.get(name, name) for name in kept)
    rows = [tuple(row.get(name) for name in kept) for row in merged.values()]
    if panel.sorted_by in shown:
        place = shown.index(panel.sorted_by)
        rows.sort(key=lambda row: _order(row[place]))
    return Table(shown, tuple(rows))


def _order(cell: Cell) -> tuple[int, float, str]:
    """Numbers before texts before what is missing."""
    if cell is None:
        return (2, 0.0, "")
    return (1, 0.0, cell) if isinstance(cell, str) else (0, cell, "")


def name_of(series: Series, form: str) -> str:
    """The series' name by its legend's form; its labels where there is none."""
    if not form:
        labels: Mapping[str, str] = {name: value for name, value in series.labels.items() if name != "__name__"}
        return ", ".join(f"{name}={value}" for name, value in labels.items())
    for name, value in series.labels.items():
        form = form.replace(f"{{{{{name}}}}}", value).replace(f"{{{{ {name} }}}}", value)
    return form
