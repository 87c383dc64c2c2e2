"""A runbook whose only step does nothing, over stores of one's choice instead of a site's."""

import contextlib
import datetime as dt
import time
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.servers import ACCESS_KEY, BUCKET, CLOUD_REGION, SECRET_KEY
from tasks import binding
from tasks.showing import PrefectShow
from vedr.adapters.memory_store import MemoryStore
from vedr.adapters.s3_store import Credentials, S3Store
from vedr.inventory import StoreConfig
from vedr.ports import ObjectStore
from vedr.runbook.execution import Executor, Plainly
from vedr.runbook.journal import Journal
from vedr.runbook.opening import opened_run
from vedr.runbook.order import Order
from vedr.runbook.run import Outcome
from vedr.runbook.steps import Context, Runbook, step
from vedr.signature import Signer

SIGNER: Final = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
REGIONS: Final = ("us-east", "eu-west", "ap-south")


class Settings:
    """What a runbook's body cannot be told by its order."""

    stores: dict[str, ObjectStore]
    in_prefect: bool
    steps: int
    step_ms: float


@step(title="Do nothing", budget_s=1, acts=False)
def nothing(_ctx: Context[Order], number: int) -> int:
    """Nothing."""
    return number


RUNBOOK: Final = Runbook("bench-steps", "what a step costs", Order, [nothing], target_s=60)


def configure(endpoints: list[str], *, in_prefect: bool) -> None:
    """A ledger in these S3 servers, one a region; in memory when there are none."""
    Settings.in_prefect = in_prefect
    Settings.stores = {
        region: S3Store(
            region,
            StoreConfig(endpoint=endpoints[number], bucket=BUCKET, cloud_region=CLOUD_REGION),
            Credentials(ACCESS_KEY, SECRET_KEY),
        )
        if endpoints
        else MemoryStore(region)
        for number, region in enumerate(REGIONS)
    }


@binding.runbook_flow(RUNBOOK)
def body(order: Order) -> Outcome:
    """The steps, timed without opening and closing the run; executed and shown as `tasks.binding.open_run` has it."""
    with contextlib.ExitStack() as stack:
        journal = Journal(Settings.stores, site="bench", signer=SIGNER, trusted=[SIGNER.public_hex], clock=_now)
        stack.callback(journal.close)
        executor: Executor = Plainly()
        listeners = []
        if Settings.in_prefect:
            api = binding.Api()
            executor, listeners = binding.PrefectExecutor(api), [stack.enter_context(PrefectShow(api.answers))]
        run = stack.enter_context(opened_run(RUNBOOK, order, journal, executor=executor, listeners=listeners))
        began = time.monotonic()
        for number in range(Settings.steps):
            run.step(nothing.named(str(number)), number)
        Settings.step_ms = (time.monotonic() - began) * 1000 / Settings.steps
    return run.outcome


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def perform(steps: int) -> float:
    """One run; milliseconds a step."""
    Settings.steps = steps
    body(Order())
    return Settings.step_ms
