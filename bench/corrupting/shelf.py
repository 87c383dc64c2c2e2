"""Regions in memory whose whole content can be kept and put back, and whose objects can be damaged.

Guarantees: `put_back` leaves exactly what was kept.  Leaves out: what a real S3 server makes of damaged files.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.corrupting.damage import Around, Damage, damage
from vedr.adapters.memory_registers import MemoryRegisters
from vedr.adapters.memory_store import MemoryStore
from vedr.ports import Clock, ObjectKey

REGIONS: Final = ("us-east", "eu-west", "ap-south")


class Shelf(MemoryStore):
    """A region's bucket."""

    def __init__(self, region: str, *, clock: Clock | None = None) -> None:
        super().__init__(region, clock=clock)
        self._kept: dict[ObjectKey, list[Any]] = {}

    def keep(self) -> None:
        """This is the original state."""
        self._kept = {key: list(versions) for key, versions in self._versions.items()}

    def put_back(self) -> None:
        self._versions.clear()
        self._versions.update({key: list(versions) for key, versions in self._kept.items()})

    def all_keys(self) -> tuple[ObjectKey, ...]:
        return tuple(sorted(self._kept))

    def held(self, key: ObjectKey) -> bytes | None:
        """What the disk has under the key: its newest version."""
        versions = self._versions.get(key)
        return versions[-1].data if versions else None

    def spoil(self, key: ObjectKey, data: bytes | None, *, on_top: bool = False) -> None:
        """Damage in place, remove, or put a newer version on top."""
        if data is None:
            self._versions.pop(key, None)
        elif on_top or not self._versions.get(key):
            self.overwrite(key, data)
        else:
            self.damage(key, data)


@dataclass(frozen=True, slots=True)
class Spoilt:
    """One damaged object; `on_top` when the original is still there as an older version."""

    region: str
    key: ObjectKey
    kind: str
    on_top: bool


def shelves(clock: Clock | None = None) -> dict[str, Shelf]:
    return {region: Shelf(region, clock=clock) for region in REGIONS}


def some_regions(chance: random.Random, regions: Sequence[str] = REGIONS) -> tuple[str, ...]:
    """One region mostly; sometimes two, or all."""
    count = chance.choices(range(1, len(regions) + 1), weights=(6, 2, 2)[: len(regions)])[0]
    return tuple(chance.sample(regions, count))


def spoil(
    stores: dict[str, Shelf],
    key: ObjectKey,
    chance: random.Random,
    around: Around,
    *,
    regions: Iterable[str],
    without: Sequence[str] = (),
) -> tuple[Spoilt, ...]:
    """Damage one object in these regions, half of the time the same way in each."""
    same: Damage | None = None
    alike, on_top = chance.random() < 1 / 2, chance.random() < 1 / 4
    found = []
    for region in regions:
        original = stores[region].held(key)
        if original is None:
            continue
        same = same if same is not None and alike else damage(original, chance, around, without=without)
        top = on_top and same.data is not None
        stores[region].spoil(key, same.data, on_top=top)
        found.append(Spoilt(region, key, same.kind, top))
    return tuple(found)


def told(spoilt: Sequence[Spoilt]) -> tuple[str, str]:
    """Kind and words for a report."""
    kinds = sorted({one.kind for one in spoilt})
    where = ", ".join(f"{one.region} {one.kind}{' (newer version)' if one.on_top else ''}" for one in spoilt)
    return kinds[0] if len(kinds) == 1 else "several at once", f"{spoilt[0].key}: {where}"


class RegisterShelf(MemoryRegisters):
    """A region's registers."""

    def held(self, key: ObjectKey) -> bytes | None:
        return self._contents.get(key)

    def spoil(self, key: ObjectKey, data: bytes | None) -> None:
        if data is None:
            self.wipe(key)
        else:
            self.overwrite(key, data)
