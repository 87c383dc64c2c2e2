"""References in the regions' stores: `hsm/<label>/<time>.json`, written once, the newest counts.

Guarantees: a record counts once a majority of regions hold it, and is found again as long as a majority answers; older
ones are kept.
Leaves out: deletion; a key that was retired keeps its record.
"""

import contextlib
import functools
import re
from typing import Final

from vedr.backup.layout import stamp
from vedr.custody.hsm_reference import LABEL, Reference, open_reference, seal
from vedr.errors import (
    ConflictError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    VerificationFailedError,
)
from vedr.ports import ObjectStore
from vedr.runbook.replicas import Replicas, Slot
from vedr.signature import Signer

ROOT: Final = "hsm"
_KEY: Final = re.compile(rf"^{ROOT}/({LABEL.pattern})/(\d{{8}}T\d{{6}}Z)\.json$", re.ASCII)


class References:
    """The records of a site."""

    def __init__(self, replicas: Replicas, *, site: str, signer: Signer, trusted: tuple[str, ...]) -> None:
        self._replicas = replicas
        self._site = site
        self._signer = signer
        self._trusted = trusted

    def store(self, reference: Reference) -> tuple[str, ...]:
        """Put it in every region; those that hold it now.

        Raises:
            ConflictError: another record of the label was stored in the same second.
            UnavailableError: no majority of regions answered; repeat.
        """
        slot = _slot(reference.name.label, stamp(reference.created_at))
        data = seal(reference, self._signer)
        decided = self._replicas.propose(slot, data, functools.partial(self._counts, slot))
        if decided != data:
            raise ConflictError(
                f"{reference.name.label}: another reference was stored in this second",
                remedy="Look at it, then repeat.",
            )
        self._replicas.repair(slot, data)
        return tuple(sorted(region for region, copy in self._replicas.copies(slot).main.items() if copy == data))

    def newest(self, label: str) -> Reference:
        """The record of a label that counts.

        Raises:
            NotFoundError: there is none.
            UnavailableError: too few regions answered to know.
            CorruptError, VerificationFailedError, RefusedError: as `open_reference`; never an older one instead.
        """
        if not LABEL.fullmatch(label):
            raise InvalidInputError(f"{label!r} can't be a key's label", remedy="List the labels: vedr hsm inventory.")
        times = self._times(f"{ROOT}/{label}/").get(label)
        found = self._settled(label, times or set())
        if found is None:
            raise NotFoundError(f"no reference of {label}", remedy=f"Make one: vedr hsm reference {label}.")
        return found

    def all_newest(self) -> tuple[Reference, ...]:
        """The record of every label, by label; errors as `newest`."""
        found = (self._settled(label, times) for label, times in sorted(self._times(f"{ROOT}/").items()))
        return tuple(reference for reference in found if reference is not None)

    def _times(self, prefix: str) -> dict[str, set[str]]:
        def listed(store: ObjectStore) -> list[tuple[str, str]]:
            names = (_KEY.match(found.key) for found in store.list(prefix))
            return [(name[1], name[2]) for name in names if name]

        times: dict[str, set[str]] = {}
        for pairs in self._replicas.gather(listed, what="list the references of keys").values():
            for label, time in pairs:
                times.setdefault(label, set()).add(time)
        return times

    def _settled(self, label: str, times: set[str]) -> Reference | None:
        """The newest; bytes that only a minority of regions hold and nobody trusted signed are as good as absent."""
        for time in sorted(times, reverse=True):
            slot = _slot(label, time)
            with contextlib.suppress(NotFoundError):
                return self._open(self._replicas.settle(slot, functools.partial(self._counts, slot)), slot)
        return None

    def _counts(self, slot: Slot, copy: bytes) -> bool:
        try:
            self._open(copy, slot)
        except RefusedError:
            return True  # signed by us, and to be refused loudly by whoever reads it, not passed over
        except VerificationFailedError:
            return False
        return True

    def _open(self, data: bytes, slot: Slot) -> Reference:
        reference = open_reference(data, self._trusted, what=slot.key)
        place = _slot(reference.name.label, stamp(reference.created_at))
        if (place, reference.site) != (slot, self._site):
            raise CorruptError(
                f"{slot.key}: a record of {reference.site}, {place.key}", remedy="Use another region's copy."
            )
        return reference


def _slot(label: str, time: str) -> Slot:
    return Slot(f"{ROOT}/{label}/{time}")
