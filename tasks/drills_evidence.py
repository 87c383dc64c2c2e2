"""A drill's signed answer: kept in every region's store, and given to whoever started the drill by Prefect's API.

`drills/<run id>/<last entry, 8 digits>.json` in the stores; an artifact `<run id>-evidence` of the flow run.

Guarantees: there is an answer however the drill ended, once its run was opened; a drill that completed and whose answer
no majority of the regions took ends in an error.
Leaves out: what the answer says (vedr.reports.drill_bundle).
"""

import contextlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vedr.adapters.site import OpenSite, open_site, utc_now
from vedr.errors import ConflictError, UnavailableError, VedrError
from vedr.ledger import RunId
from vedr.ports import ObjectKey
from vedr.reports.drill_bundle import Bundle, make_bundle
from vedr.runbook.order import Order

ROOT: Final = "drills"
ARTIFACT_TYPE: Final = "vedr-evidence"
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Told:
    """Which run the answer is about, once it is open."""

    run_id: RunId | None = None


@contextlib.contextmanager
def with_evidence(order: Order) -> Iterator[Told]:
    """Sign and keep the answer of the drill that is run in here, when its run has ended or paused."""
    told = Told()
    try:
        yield told
    except BaseException:
        if told.run_id is not None:
            try:
                publish(order.site, told.run_id)
            except VedrError as error:  # the drill's own error matters more
                log.warning("the evidence of %s could not be kept: %s", told.run_id, error.message)
        raise
    if told.run_id is not None:
        publish(order.site, told.run_id)


def publish(site: str, run_id: RunId) -> Bundle:
    """Make the answer and keep it.  UnavailableError when no majority of the regions took it."""
    with open_site(site or None) as opened:
        bundle = make_bundle(opened.journal, run_id, made_at=utc_now())
        _keep(opened, bundle)
    _show(bundle)
    return bundle


def _keep(opened: OpenSite, bundle: Bundle) -> None:
    key = ObjectKey(f"{ROOT}/{bundle.run_id}/{bundle.seq:08d}.json")
    silent: dict[str, str] = {}
    for region, store in opened.stores.items():
        try:
            with contextlib.suppress(ConflictError):  # told before, in other words about the same entries
                store.create(key, bundle.document)
        except VedrError as error:
            silent[region] = error.message
    if 2 * len(silent) >= len(opened.stores):
        raise UnavailableError(
            f"the evidence of {bundle.run_id} is in no majority of the regions: {silent}",
            remedy=f"Make it again when they answer: vedr drill evidence {bundle.run_id}.",
        )


def _show(bundle: Bundle) -> None:
    """As an artifact of the flow run that this is in; a caller of the API reads it there."""
    if "prefect.context" not in sys.modules:
        return
    from prefect.context import FlowRunContext  # noqa: PLC0415 - an optional dependency

    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.client.schemas.actions import ArtifactCreate  # noqa: PLC0415

    try:
        get_client(sync_client=True).create_artifact(
            ArtifactCreate(
                key=f"{bundle.run_id}-evidence",
                type=ARTIFACT_TYPE,
                description=f"{bundle.drill}: {bundle.verdict}",
                data=bundle.document.decode(),
                flow_run_id=context.flow_run.id,
            )
        )
    except Exception as error:  # noqa: BLE001 - the stores have it
        log.warning("Prefect does not show the evidence of %s: %s", bundle.run_id, type(error).__name__)
