"""All keys of a token, and what is wrong with them.

Guarantees: every key object is shown; every problem that listing can show is named.
Leaves out: whether a private key fits its public object, which only a signature tells (`hsm_check`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from vedr.custody.hsm import KeyObject, TokenFacts
from vedr.custody.hsm_reference import Reference
from vedr.errors import VerificationFailedError
from vedr.signature import Json

Fault = Literal[
    "extractable",
    "duplicate label",
    "duplicate id",
    "public without private",
    "private without public",
    "not in a reference",
    "missing",
    "other public key",
]
"""`missing`: a reference names the token for a key that is not there.  Extractable also means: not SENSITIVE."""


@dataclass(frozen=True, slots=True)
class Problem:
    fault: Fault
    label: str
    key_id: bytes

    def __str__(self) -> str:
        return f"{self.label!r} ({self.key_id.hex() or 'no id'}): {self.fault}"


@dataclass(frozen=True, slots=True)
class Inventory:
    """One token's."""

    region: str
    facts: TokenFacts
    objects: tuple[KeyObject, ...]
    problems: tuple[Problem, ...]

    def require_clean(self) -> None:
        """VerificationFailedError naming every problem."""
        if self.problems:
            raise VerificationFailedError(
                f"{self.region}: {'; '.join(map(str, self.problems))}",
                remedy="Settle each: see the table in docs/custody/hsm.md.",
            )

    def as_json(self) -> Json:
        return {
            "region": self.region,
            "token": self.facts.label,
            "serial": self.facts.serial,
            "keys": [_object_json(each) for each in self.objects],
            "problems": [{"fault": p.fault, "label": p.label, "id": p.key_id.hex()} for p in self.problems],
        }


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A token that could not be asked, which is a failure."""

    region: str
    problem: str
    remedy: str

    def require_clean(self) -> NoReturn:
        """Always raises."""
        raise VerificationFailedError(f"{self.region}: {self.problem}", remedy=self.remedy)

    def as_json(self) -> Json:
        return {"region": self.region, "problem": self.problem, "remedy": self.remedy}


def take_inventory(
    region: str, facts: TokenFacts, objects: Sequence[KeyObject], references: Sequence[Reference]
) -> Inventory:
    """Set a token's objects against the references.

    Args:
        region: The token's.
        facts: What it says of itself.
        objects: Everything that it lists.
        references: The newest of every key of the site.
    """
    ordered = tuple(sorted(objects, key=lambda each: (each.label, each.key_id, each.object_class)))
    here = [reference for reference in references if region in reference.tokens]
    problems = [
        *_exposed(ordered),
        *_doubled(ordered),
        *_halves(ordered),
        *_strange(ordered, here),
        *_lost(ordered, here),
    ]
    return Inventory(region, facts, ordered, tuple(problems))


def _exposed(objects: Sequence[KeyObject]) -> Iterator[Problem]:
    for each in objects:
        kept = each.attributes.sensitive is True and each.attributes.extractable is False
        if each.object_class != "public" and not kept:
            yield Problem("extractable", each.label, each.key_id)


def _doubled(objects: Sequence[KeyObject]) -> Iterator[Problem]:
    labels = Counter((each.object_class, each.label) for each in objects)
    ids = Counter((each.object_class, each.key_id) for each in objects if each.key_id)
    for each in objects:
        if labels[each.object_class, each.label] > 1:
            yield Problem("duplicate label", each.label, each.key_id)
        if ids[each.object_class, each.key_id] > 1:
            yield Problem("duplicate id", each.label, each.key_id)


def _halves(objects: Sequence[KeyObject]) -> Iterator[Problem]:
    private, public = _names(objects, "private"), _names(objects, "public")
    for label, key_id in sorted(public - private):
        yield Problem("public without private", label, key_id)
    for label, key_id in sorted(private - public):
        yield Problem("private without public", label, key_id)


def _strange(objects: Sequence[KeyObject], here: Sequence[Reference]) -> Iterator[Problem]:
    known = {(reference.name.label, reference.name.key_id): reference.public for reference in here}
    for label, key_id in sorted(_names(objects, "private") | _names(objects, "public")):
        if (label, key_id) not in known:
            yield Problem("not in a reference", label, key_id)
    for each in objects:
        expected = known.get((each.label, each.key_id))
        if each.object_class == "public" and expected not in (None, each.public):
            yield Problem("other public key", each.label, each.key_id)


def _lost(objects: Sequence[KeyObject], here: Sequence[Reference]) -> Iterator[Problem]:
    private = _names(objects, "private")
    for reference in here:
        if (reference.name.label, reference.name.key_id) not in private:
            yield Problem("missing", reference.name.label, reference.name.key_id)


def _names(objects: Sequence[KeyObject], wanted: str) -> set[tuple[str, bytes]]:
    return {(each.label, each.key_id) for each in objects if each.object_class == wanted}


def _object_json(each: KeyObject) -> Json:
    return {
        "class": each.object_class,
        "label": each.label,
        "id": each.key_id.hex(),
        "type": each.key_type,
        "public_key": None if each.public is None else each.public.spki.hex(),
        "sensitive": each.attributes.sensitive,
        "extractable": each.attributes.extractable,
        "local": each.attributes.local,
    }
