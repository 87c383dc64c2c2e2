"""What Prefect's UI shows of a run: a table of its steps, a progress bar, the way to its ledger, and events.

Guarantees: the run never waits for it and never fails by it; when Prefect's API does not answer, what would have been
shown is skipped, and the newest table is shown when it answers again.
Leaves out: the record, which is the ledger's.
"""

import contextvars
import logging
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self, cast
from uuid import UUID

from vedr.ledger import Entry
from vedr.runbook.timing import Forecast, Timing

FLUSH_S: Final = 2.0  # how long a run's end waits for the last table
_SILENT_KINDS: Final = frozenset({"heartbeat"})
_SHOWN_FACTS: Final = frozenset(
    {
        *("step", "title", "took_ms", "attempts", "budget_ms", "waiting_ms", "what"),
        *("outcome", "total_ms", "target_ms", "met", "predicted_ms", "elapsed_ms"),
    }
)
"""Facts of an entry that an event carries; results, orders and errors stay in the ledger."""
_MARKS: Final = {"to do": "·", "running": "▶", "completed": "✓", "failed": "✗"}

log = logging.getLogger(__name__)


class PrefectShow:
    """A listener that shows; use it with `with`, inside the flow run."""

    def __init__(self, api_answers: Callable[[], bool]) -> None:
        self._api_answers = api_answers
        self._todo: queue.SimpleQueue[tuple[Entry, Timing, Forecast] | None] = queue.SimpleQueue()
        self._progress: UUID | None = None
        self._table: UUID | None = None
        self._logger: logging.Logger | logging.LoggerAdapter[Any] = log
        context = contextvars.copy_context()  # artifacts find their flow run in it
        self._thread = threading.Thread(target=context.run, args=(self._work,), name="showing", daemon=True)

    def __enter__(self) -> Self:
        from prefect.logging import get_run_logger  # noqa: PLC0415 - an optional dependency

        self._logger = get_run_logger()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._todo.put(None)
        self._thread.join(FLUSH_S)

    def entry(self, entry: Entry, measured: Timing, forecast: Forecast) -> None:
        """As vedr.runbook.execution.Listener says."""
        if entry.kind not in _SILENT_KINDS:
            self._todo.put((entry, measured, forecast))

    def say(self, message: str) -> None:
        """To the flow run's log."""
        self._logger.info("%s", message)

    def _work(self) -> None:
        ended = False
        while not ended:
            batch = [self._todo.get()]
            while not self._todo.empty():
                batch.append(self._todo.get())
            ended = batch[-1] is None
            items = [item for item in batch if item is not None]
            if items and self._api_answers():
                try:
                    self._show(items)
                except Exception as error:  # noqa: BLE001 - showing a run must never end it
                    log.warning("Prefect does not show the run's progress: %s", type(error).__name__)

    def _show(self, items: list[tuple[Entry, Timing, Forecast]]) -> None:
        from prefect.artifacts import (  # noqa: PLC0415 - an optional dependency
            create_markdown_artifact,
            create_progress_artifact,
            update_progress_artifact,
        )
        from prefect.client.orchestration import get_client  # noqa: PLC0415
        from prefect.client.schemas.actions import ArtifactUpdate  # noqa: PLC0415

        for entry, measured, _ in items:
            _emit(entry, measured)
        entry, measured, forecast = items[-1]
        done = sum(row.state == "completed" for row in measured.rows)
        share = 100.0 * done / max(1, len(measured.rows))
        if self._progress is None:
            self._progress = cast("UUID", create_progress_artifact(progress=share, key=f"{entry.run_id}-progress"))
        else:
            update_progress_artifact(self._progress, progress=share)
        markdown = table(entry, measured, forecast)
        if self._table is None:
            self._table = cast(
                "UUID",
                create_markdown_artifact(key=entry.run_id, markdown=markdown, description=measured.runbook),
            )
        else:  # in place: the run's page lists every version of an artifact
            get_client(sync_client=True).update_artifact(self._table, ArtifactUpdate(data=markdown))


def _emit(entry: Entry, measured: Timing) -> None:
    from prefect.events import emit_event  # noqa: PLC0415 - an optional dependency

    subject, _, what = entry.kind.partition("_")
    name = f"vedr.step.{what}" if subject == "step" else f"vedr.run.{entry.kind}"
    payload: dict[str, Any] = {key: value for key, value in entry.payload.items() if key in _SHOWN_FACTS}
    emit_event(
        event=name,
        resource={
            "prefect.resource.id": f"vedr.run.{entry.run_id}",
            "vedr.runbook": measured.runbook,
            "vedr.site": entry.site,
        },
        occurred=entry.time,
        payload={"seq": entry.seq, "epoch": entry.epoch, **payload},
    )


def table(entry: Entry, measured: Timing, forecast: Forecast) -> str:
    """A run's steps with budgets and times, as Markdown."""
    state = measured.outcome or ("predicted to overrun" if forecast.overrun else "in time so far")
    lines = [
        f"### {measured.runbook} · {entry.run_id}",
        f"**{state}**: {_seconds(measured.total_ms)} since detection, target {_seconds(measured.target_ms)}"
        + ("" if measured.outcome else f", predicted {_seconds(forecast.predicted_ms)} (by {forecast.basis})"),
        "",
        "| | Step | Budget | Took | Waited | Tries |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {_MARKS[row.state]} | {row.title} | {_seconds(row.budget_ms)} |"
        f" {'' if row.took_ms is None else _seconds(row.took_ms)}{' **over**' if row.over_budget else ''} |"
        f" {_seconds(row.waited_ms) if row.waited_ms else ''} | {row.attempts or ''} |"
        for row in measured.rows
    ]
    path = ", ".join(f"{name} {_seconds(ms)}" for name, ms in measured.critical_path)
    lines += ["", f"Where the time went: {path}.", "", f"Ledger: `vedr ledger show {entry.run_id}`"]
    return "\n".join(lines)


def _seconds(ms: int) -> str:
    minutes, seconds = divmod(ms / 1000, 60)
    return f"{minutes:.0f} min {seconds:.1f} s" if minutes else f"{seconds:.1f} s"
