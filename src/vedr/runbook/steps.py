"""Steps and runbooks as values: what is done, within which budget, retried how.

Guarantees: a runbook whose budgets exceed its target, or whose steps share a key, cannot be made; a step's result is
recorded in a form from which it is read back equal.
Leaves out: running (vedr.runbook.run) and keeping (vedr.runbook.journal).
"""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    Concatenate,
    Final,
    Generic,
    Never,
    NoReturn,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    cast,
    get_type_hints,
    overload,
)

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from vedr.errors import InvalidInputError
from vedr.ledger import RunId
from vedr.policies.approval import People
from vedr.runbook.approval import Answer
from vedr.runbook.order import Order
from vedr.runbook.plan import Action, Plan
from vedr.signature import Json
from vedr.targets import RUNBOOK_RTO_S

O_co = TypeVar("O_co", bound=Order, covariant=True)
O_contra = TypeVar("O_contra", bound=Order, contravariant=True)
O = TypeVar("O", bound=Order)  # noqa: E741 - reads as Order everywhere it is used
P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)

_KEY: Final = re.compile(r"^[a-z][a-z0-9_-]*(:[A-Za-z0-9._/-]+)?$")
_RUNBOOK_ID: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9-]{1,62}$")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a step is tried again after an error whose `transient` is true; other errors end it at once."""

    attempts: int = 1
    delay_s: float = 1.0
    backoff: float = 2.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.delay_s < 0 or self.backoff < 1:
            raise InvalidInputError(
                f"a retry policy needs attempts >= 1, delay_s >= 0, backoff >= 1: {self}", remedy="Correct the step."
            )

    @property
    def delays_s(self) -> tuple[float, ...]:
        """The waits between attempts."""
        return tuple(self.delay_s * self.backoff**n for n in range(self.attempts - 1))


def _outside_a_run(*_: object) -> NoReturn:
    raise InvalidInputError("this step is not performed in a run: it has no ledger", remedy="Report this.")


@dataclass(frozen=True, slots=True)
class Context(Generic[O_co]):
    """What a step is told besides its arguments.

    `site`: as it was ordered, for `open_site`; empty means the one that this process is set to.
    `resuming`: an earlier process began this step and nobody knows how far it came: look before acting.
    `say`: one line of progress for whoever watches; it is not recorded.
    `named`: which of several things this is for (`step.named("validator-0")`); empty where there is one.
    `note`: puts an observation into the run's ledger at once, for a step whose parts must outlive its process.
    `ask`: asks so many different people to agree to a plan, waits for them, and gives their answers; RefusedError when
    one refuses or too few answer in time.
    """

    order: O_co
    site: str
    run_id: RunId
    epoch: int
    attempt: int
    resuming: bool
    say: Callable[[str], None]
    named: str = ""
    note: Callable[[str, Mapping[str, Json]], None] = _outside_a_run
    ask: Callable[[Plan, People], Sequence[Answer]] = _outside_a_run


@dataclass(frozen=True, slots=True)
class Undo(Generic[O_contra]):
    """How a step is taken back when its run is abandoned.

    `effect`: what that does, as the operator reads it beforehand.
    `fn`: does it, given the step's result as it was recorded (None: it was begun and nobody knows how far it came);
    says what it did.
    """

    effect: str
    fn: Callable[[Context[O_contra], Json], str]


@dataclass(frozen=True, slots=True)
class AnyStep(Generic[O_contra]):
    """What a runbook knows of its steps, whatever they take and return: title, budget, retry policy, the way back.

    A step that needs less of an order fits every runbook whose order has more, hence contravariant.
    """

    key: str
    title: str
    budget_s: float
    retry: Retry
    acts: bool
    effect: str
    undo: Undo[O_contra] | None
    cannot_undo: str

    @property
    def base_key(self) -> str:
        return self.key.split(":", 1)[0]

    def named(self, what: str) -> Self:
        """The same step for one of several things (`start_node.named("validator-0")`), recorded apart."""
        return dataclasses.replace(self, key=f"{self.base_key}:{what}", title=f"{self.title}: {what}")


@dataclass(frozen=True, slots=True)
class Step(AnyStep[O_contra], Generic[O_contra, P, R]):
    """One step of a runbook with the function that does it."""

    fn: Callable[Concatenate[Context[O_contra], P], R]

    def encode(self, result: R) -> Json:
        """As the ledger keeps it; InvalidInputError when it would not come back equal."""
        adapter = _adapter(self.fn)
        try:
            recorded = without_floats(adapter.dump_python(result, mode="json", warnings="error"))
            if adapter.validate_python(recorded) == result:
                return recorded
        except (PydanticSerializationError, ValidationError):
            pass  # said below
        raise InvalidInputError(
            f"step {self.key}: its result {type(result).__name__} does not survive being recorded",
            remedy="Return a frozen dataclass or pydantic model of plain values, and annotate the return type.",
        )

    def decode(self, recorded: Json) -> R:
        """The result that was recorded; pydantic's ValidationError when the step's type has changed since."""
        return cast("R", _adapter(self.fn).validate_python(recorded))


@overload
def step(
    *, title: str, budget_s: float, retry: Retry = ..., acts: bool = ..., cannot_undo: str = ...
) -> Callable[[Callable[Concatenate[Context[O], P], R]], Step[O, P, R]]: ...


@overload
def step(
    *, title: str, budget_s: float, retry: Retry = ..., undo: Callable[[Context[O], T | None], str]
) -> "_WithUndo[O, T]": ...


def step(
    *,
    title: str,
    budget_s: float,
    retry: Retry = Retry(),
    acts: bool = True,
    undo: Callable[[Context[O], T | None], str] | None = None,
    cannot_undo: str = "",
) -> "Callable[[Callable[Concatenate[Context[O], P], R]], Step[O, P, R]] | _WithUndo[O, T]":
    """Make a function a step.

    Args:
        title: As the operator reads it.
        budget_s: Its share of the runbook's target.
        retry: Applies to errors whose `transient` is true.
        acts: Whether it changes the world; a step that only looks leaves a refused run without consequences.
        undo: Takes it back when its run is abandoned, given its result (None: it was begun and nobody knows how far it
            came), and says what it did.  It must be safe to repeat, and raise where going back is not safe.
        cannot_undo: Why there is no way back, and what a person has to do instead.

    The function's first line of documentation is the effect that a plan shows; that of `undo` what abandoning shows.
    """
    if undo is not None:
        return _WithUndo(title, budget_s, retry, undo)

    def decorate(fn: Callable[Concatenate[Context[O], P], R]) -> Step[O, P, R]:
        return Step(_key_of(fn, budget_s), title, budget_s, retry, acts, _first_line(fn, title), None, cannot_undo, fn)

    return decorate


class _Gives(Protocol[O_contra, P, R_co, T_co]):
    """A step's function, whose result, R, its undo can take, as T.  For type checkers only, which find R by it.

    Of two signatures a function has to fit both; the first, which nothing can call, is there for its result.
    """

    @overload
    def __call__(self, ctx: Never, /, *args: P.args, **kwargs: P.kwargs) -> T_co: ...
    @overload
    def __call__(self, ctx: Context[O_contra], /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


@dataclass(frozen=True, slots=True)
class _WithUndo(Generic[O_contra, T_contra]):
    """Makes a function a step that has a way back."""

    title: str
    budget_s: float
    retry: Retry
    undo: Callable[[Context[O_contra], T_contra | None], str]

    def __call__(self, fn: _Gives[O, P, R, T_contra]) -> Step[O, P, R]:
        key, effect = _key_of(fn, self.budget_s), _first_line(fn, self.title)
        back = Undo(_first_line(self.undo, self.title), functools.partial(_undo_recorded, fn, self.undo))
        return Step(key, self.title, self.budget_s, self.retry, True, effect, back, "", fn)


def _key_of(fn: Callable[..., object], budget_s: float) -> str:
    key = getattr(fn, "__name__", "")
    if not _KEY.fullmatch(key) or budget_s < 0:
        raise InvalidInputError(f"step {key!r}: bad name or budget {budget_s}", remedy="Use a plain function.")
    return str(key)


def _first_line(fn: object, otherwise: str) -> str:
    return (inspect.getdoc(fn) or otherwise).split("\n", 1)[0]


def _undo_recorded(
    fn: Callable[..., R], undo: Callable[[Context[O], R | None], str], ctx: Context[O], recorded: Json
) -> str:
    result = None if recorded is None else cast("R", _adapter(fn).validate_python(recorded))
    return undo(ctx, result)


@functools.cache
def _adapter(fn: Callable[..., object]) -> TypeAdapter[object]:
    hints = get_type_hints(fn)
    if "return" not in hints:
        raise InvalidInputError(f"step {fn.__name__}: no return annotation", remedy="Annotate what it returns.")
    return TypeAdapter(hints["return"])


def without_floats(value: object) -> Json:
    """JSON with floats as their shortest exact text: signed documents hold no floats."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {str(key): without_floats(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_floats(inner) for inner in value]
    return cast("Json", value)


class Runbook(Generic[O]):
    """An ordered list of budgeted steps with a target for the whole, and the order it takes.

    Args:
        runbook_id: `RB-DR-001` to `-006`, or the name of a scheduled flow.
        title: As the operator reads it.
        order: The pydantic model of its parameters.
        steps: In their order; their budgets may not exceed the target.
        target_s: From detection to verified service; default: VirtEngine's RTO of that runbook.  A site's own target is
            checked when a run is opened.
        plan: What a run of an order would do, found out without changing anything; shown by `vedr run … --plan`.
        subjects: What a run acts on (`node/validator-0`), so that no two runs act on one thing at once.
    """

    def __init__(
        self,
        runbook_id: str,
        title: str,
        order: type[O],
        steps: Sequence[AnyStep[O]],
        *,
        target_s: float | None = None,
        subjects: Callable[[O], Sequence[str]] = lambda _: (),
        plan: Callable[[O], Plan] | None = None,
    ) -> None:
        default_s = next((rto_s for known, rto_s in RUNBOOK_RTO_S.items() if known == runbook_id), None)
        if not _RUNBOOK_ID.fullmatch(runbook_id) or (target_s is None and default_s is None):
            raise InvalidInputError(
                f"runbook {runbook_id!r}: no such runbook in the targets, and none given", remedy="Give target_s."
            )
        self.id: Final = runbook_id
        self.title: Final = title
        self.order: Final = order
        self.steps: Final = tuple(steps)
        self.target_s: Final = float(target_s if target_s is not None else default_s or 0)
        self.subjects: Final = subjects
        self.plan: Final = plan
        self._body: Callable[[O], object] | None = None
        keys = [one.key for one in steps]
        if len(set(keys)) != len(keys) or not keys:
            raise InvalidInputError(f"runbook {self.id}: steps {keys} share a key, or none", remedy="Name each once.")
        self.check_budgets(self.target_s)

    @property
    def is_incident(self) -> bool:
        return self.id.startswith("RB-")

    @property
    def budget_s(self) -> float:
        return sum(one.budget_s for one in self.steps)

    def check_budgets(self, target_s: float) -> None:
        """InvalidInputError when the steps' budgets exceed this target."""
        if self.budget_s > target_s:
            raise InvalidInputError(
                f"runbook {self.id}: its steps' budgets are {self.budget_s:g} s together, its target is {target_s:g} s",
                remedy="Lower budgets, or the site's rto_s is set too low for how the steps are written.",
            )

    def has(self, base_key: str) -> bool:
        return any(one.base_key == base_key for one in self.steps)

    def plan_of_steps(self, order: O) -> Plan:
        """What any run of this order may do, for a runbook that has no plan of its own: the steps that act."""
        where = ", ".join(self.subjects(order))
        actions = tuple(Action(one.title, where, one.budget_s, one.effect) for one in self.steps if one.acts)
        given = order.model_dump(mode="json", exclude_defaults=True, exclude={"incident", "detected_at"})
        notes = tuple(f"{name}: {value}" for name, value in given.items())
        return Plan(f"{self.id} {self.title}", actions, notes)

    def bind(self, body: Callable[[O], object]) -> None:
        """Say which function performs it, so that it can be found from the runbook; once."""
        self._body = body

    def perform(self, order: O) -> object:
        """Run it plainly, as `vedr run` does."""
        if self._body is None:
            raise InvalidInputError(f"runbook {self.id} has no body", remedy="Bind one where it is defined.")
        return self._body(order)
