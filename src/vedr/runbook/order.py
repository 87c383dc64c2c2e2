"""What an operator orders: the parameters of a runbook, checked; and the ids of its runs.

Guarantees: an order that parses has a detection time that can be true and ids of the right form.
Leaves out: whether the things named exist, which each runbook's preflight finds out.
"""

import datetime as dt
import hashlib
import secrets
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from vedr.errors import InvalidInputError
from vedr.ledger import RunId

MAX_DETECTION_AGE: Final = dt.timedelta(hours=24)
MAX_CLOCK_DRIFT: Final = dt.timedelta(seconds=60)
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_TAIL_LENGTH: Final = 4

IncidentId = Annotated[str, StringConstraints(pattern=r"^((inc|run)-\d{8}-\d{6}-[a-z0-9]{4})?$")]


def _own_fields_first(schema: dict[str, Any]) -> None:
    """A form begins with what this runbook is about; what all orders have comes last."""
    fields = schema.get("properties", {})
    schema["properties"] = {name: fields[name] for name in sorted(fields, key=lambda name: name in Order.model_fields)}


class Order(BaseModel):
    """Base of every runbook's parameters: flat, small, filled in at three in the morning."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_own_fields_first)

    site: str = Field(
        default="",
        title="Site",
        description="Name of the site.  Empty: the one that the worker or shell is set to (VEDR_SITE), else lab.",
        pattern=r"^[A-Za-z0-9._/-]*$",
    )
    incident: IncidentId = Field(
        default="",
        title="Incident to resume",
        description="Id of an interrupted run, like inc-20260214-031500-k3x9: it goes on.  Empty: a new one.",
    )
    detected_at: dt.datetime | None = Field(
        default=None,
        title="Detected at",
        description="When the failure was noticed: the RTO clock starts there.  Empty: now.",
    )

    @field_validator("detected_at")
    @classmethod
    def _is_aware(cls, value: dt.datetime | None) -> dt.datetime | None:
        if value is not None and value.tzinfo is None:
            return value.replace(tzinfo=dt.UTC)  # the form's picker sends no zone; everything here is UTC
        return value


def detection_time(order: Order, now: dt.datetime) -> dt.datetime:
    """When the RTO clock started; InvalidInputError when that is in the future or over a day ago."""
    detected = (order.detected_at or now).astimezone(dt.UTC)
    if detected > now + MAX_CLOCK_DRIFT:
        raise InvalidInputError(
            f"detected_at is {detected.isoformat()}, in the future (now {now.isoformat()})",
            remedy="Give the time in UTC, or leave it empty for now.",
        )
    if now - detected > MAX_DETECTION_AGE:
        raise InvalidInputError(
            f"detected_at is {detected.isoformat()}, more than 24 h ago (now {now.isoformat()})",
            remedy="Check the date; to go on with an older incident give its id as incident.",
        )
    return min(detected, now)


def new_run_id(kind: Literal["inc", "run"], now: dt.datetime, seed: str = "") -> RunId:
    """A fresh id; the same `seed` (an orchestrator's own run id) and time give the same one."""
    if seed:
        number = int.from_bytes(hashlib.sha256(seed.encode()).digest())
        tail = "".join(_ALPHABET[number // len(_ALPHABET) ** place % len(_ALPHABET)] for place in range(_TAIL_LENGTH))
    else:
        tail = "".join(secrets.choice(_ALPHABET) for _ in range(_TAIL_LENGTH))
    return RunId(f"{kind}-{now.astimezone(dt.UTC):%Y%m%d-%H%M%S}-{tail}")
