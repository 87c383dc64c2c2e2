"""Kinds of damage: stored bytes and a source of chance in, other bytes out.

Guarantees: what comes out differs from what went in; equal chance gives equal damage.
Leaves out: where the bytes are stored (bench.corrupting.shelf, bench.corrupting.disk).
"""

import copy
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

PAGE_BYTES: Final = 4096
LONGEST_RUN_BYTES: Final = 512
HUGE: Final = 2**70
NONSENSE: Final[tuple[Any, ...]] = (
    -1,
    HUGE,
    0,
    "",
    "x" * 5000,
    None,
    True,
    [],
    {},
    [[[]]],
    "\u0000",
    "../../etc/passwd",
    "9" * 30,
)


@dataclass(frozen=True, slots=True)
class Around:
    """What else lies near the damaged bytes: what a confused disk, copy job or intruder would put in their place."""

    siblings: Sequence[bytes] = ()
    """Other objects of the same store."""
    older: Sequence[bytes] = ()
    """What stood in this place, or in such a place, before."""
    foreign: Sequence[bytes] = ()
    """The same thing of another chain, under other keys."""


@dataclass(frozen=True, slots=True)
class Damage:
    """What was done; `data` is None where nothing is left."""

    kind: str
    data: bytes | None


def bit_flip(data: bytes, chance: random.Random, _: Around) -> bytes | None:
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def byte_run(data: bytes, chance: random.Random, _: Around) -> bytes | None:
    start = chance.randrange(len(data))
    length = min(len(data) - start, chance.randint(1, LONGEST_RUN_BYTES))
    return data[:start] + chance.randbytes(length) + data[start + length :]


def truncation(data: bytes, chance: random.Random, _: Around) -> bytes | None:
    return data[: chance.randrange(1, len(data))] if len(data) > 1 else None


def extension(data: bytes, chance: random.Random, _: Around) -> bytes | None:
    tails = (b"\0", b"\n", b" ", data, chance.randbytes(chance.randint(1, LONGEST_RUN_BYTES)))
    return data + chance.choice(tails)


def zeroed_page(data: bytes, chance: random.Random, _: Around) -> bytes | None:
    page = chance.randrange(-(-len(data) // PAGE_BYTES)) * PAGE_BYTES
    length = min(PAGE_BYTES, len(data) - page)
    return data[:page] + bytes(length) + data[page + length :]


def empty(_data: bytes, _chance: random.Random, _: Around) -> bytes | None:
    return b""


def missing(_data: bytes, _chance: random.Random, _: Around) -> bytes | None:
    return None


def swapped(_data: bytes, chance: random.Random, around: Around) -> bytes | None:
    return chance.choice(around.siblings)


def rolled_back(_data: bytes, chance: random.Random, around: Around) -> bytes | None:
    return chance.choice(around.older)


def of_another_chain(_data: bytes, chance: random.Random, around: Around) -> bytes | None:
    return chance.choice(around.foreign)


def json_edit(data: bytes, chance: random.Random, _: Around) -> bytes | None:
    """A member dropped, renamed, doubled, negative, huge or of another type; written as canonical JSON again."""
    (document,) = edited([json.loads(data)], chance)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def json_layout(data: bytes, chance: random.Random, _: Around) -> bytes | None:
    """The same content in another layout: no second spelling may pass for what was signed."""
    document = json.loads(data)
    layouts: tuple[dict[str, Any], ...] = ({"indent": 1}, {"separators": (", ", ": ")}, {"separators": (",", ": ")})
    return json.dumps(document, **chance.choice(layouts)).encode()


def edited(document: Any, chance: random.Random) -> Any:
    """A copy of the document with one thing changed somewhere in it; not the document itself replaced."""
    whole = copy.deepcopy(document)
    places = list(_places(whole))
    holder, key = chance.choice(places)
    value = holder[key]
    choices: list[Callable[[], object]] = [lambda: chance.choice(NONSENSE)]
    if isinstance(value, int) and not isinstance(value, bool):
        choices += [lambda: -value - 1, lambda: HUGE, lambda: value + 1, lambda: str(value), lambda: max(0, value - 1)]
    if isinstance(value, str):
        choices += [lambda: value.upper() + " ", lambda: value[: len(value) // 2], lambda: value[::-1] + "0"]
    if isinstance(value, list) and value:
        choices += [lambda: value[:-1], lambda: [*value, value[0]], lambda: [*reversed(value), 0]]
    if isinstance(holder, dict) and chance.random() < 1 / 3:
        taken = holder.pop(key)
        if chance.random() < 1 / 2:
            holder[f"{key}2"] = taken
        return whole
    holder[key] = chance.choice(choices)()
    return whole


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every member and item, with what holds it."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        found.append((value, key))
        found.extend(_places(inner))
    return found


Kind = Callable[[bytes, random.Random, Around], bytes | None]
KINDS: Final[dict[str, Kind]] = {
    "bit flip": bit_flip,
    "byte run": byte_run,
    "truncation": truncation,
    "extension": extension,
    "zeroed page": zeroed_page,
    "empty": empty,
    "missing": missing,
    "swapped": swapped,
    "rolled back": rolled_back,
    "another chain's": of_another_chain,
    "JSON edit": json_edit,
    "JSON layout": json_layout,
}
_NEEDS: Final = {"swapped": "siblings", "rolled back": "older", "another chain's": "foreign"}
_JSON: Final = frozenset({"JSON edit", "JSON layout"})
_TRIES: Final = 50


def fitting(data: bytes, around: Around, *, without: Sequence[str] = ()) -> tuple[str, ...]:
    """The kinds that can be done to these bytes."""
    names = [
        name
        for name in KINDS
        if name not in without
        and all(getattr(around, _NEEDS.get(name, "older"), ()) or name not in _NEEDS for _ in "1")
    ]
    if not data:
        names = [name for name in names if name in {"missing", "swapped", "rolled back", "another chain's"}]
    if not data.startswith((b"{", b"[")):
        names = [name for name in names if name not in _JSON]
    return tuple(names)


def damage(data: bytes, chance: random.Random, around: Around, *, without: Sequence[str] = ()) -> Damage:
    """Damage of a kind drawn by chance.

    Raises:
        ValueError: nothing that can be done to these bytes changes them.
    """
    names = fitting(data, around, without=without)
    for _ in range(_TRIES if names else 0):
        name = chance.choice(names)
        changed = KINDS[name](data, chance, around)
        if changed != data and not (changed == b"" and name not in {"empty", "swapped", "rolled back"}):
            return Damage(name, changed)
    raise ValueError(f"{len(data)} bytes that no damage changes")
