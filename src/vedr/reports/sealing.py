"""A page's signature, and the check of a page against its signature and the ledger.

The signed document names the runs that the page tells of, each with the digest of the last entry that the page knew,
the facts that it tells, and the SHA-256 of the page with the place of the signature empty.  It stands in the page, in
an element that browsers ignore, and beside it as a file.  Format: docs/formats/evidence.md.

Guarantees: `check_page` accepts only a page of which no byte differs from what the site signed, whose runs stand in the
ledger as the page knew them, and whose facts, whose answer to a drill and, of a run's page by this version, whose every
word are what the ledger tells: a signature alone proves none of it.
Leaves out: what became of a run after the page was made; that is told, not refused.  The tables of an index, beyond the
facts of its runs.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import vedr
from vedr.errors import CorruptError, VerificationFailedError
from vedr.ledger import Digest, RunId, parse_run_id
from vedr.reports.drill_bundle import check_answer
from vedr.reports.evidence import Evidence, gather
from vedr.reports.facts import FORMAT, facts_of
from vedr.reports.pages import Imprint, run_page
from vedr.reports.record import PROOFS, read_record
from vedr.reports.templates import SEAL_PLACE
from vedr.runbook.journal import Journal
from vedr.signature import Json, Signer, canonical_json, open_document

_OPEN, _, _CLOSE = SEAL_PLACE.partition("><")
_BEGIN: Final = f"{_OPEN}>"
_END: Final = f"<{_CLOSE}"
_ALTERED: Final = "Do not use it: make it again from the ledger with vedr report, and find out who changed it."


@dataclass(frozen=True, slots=True)
class Head:
    """A run as a page knew it: its last entry."""

    run_id: RunId
    seq: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Made:
    """What a page says that its runs' entries do not tell; `run`: what was known of the one run that it is of."""

    label: str
    run: Evidence | None = None

    def document(self) -> dict[str, Json]:
        if self.run is None:
            return {"kind": "index", "label": self.label}
        told: dict[str, Json] = {"problems": [*self.run.problems], "regions": [*self.run.regions]}
        return {"kind": "run", "label": self.label, **told}


@dataclass(frozen=True, slots=True)
class Checked:
    """A page that holds.

    `grown` are its runs that have more entries by now; `drill` is the verdict of the drill that it answers, or empty;
    `unproven` says which words of a page were not made again.
    """

    site: str
    runs: tuple[Head, ...]
    made_at: str
    keyid: str
    grown: tuple[RunId, ...]
    drill: str
    unproven: str


def seal_page(
    page: str, signer: Signer, *, site: str, evidence: Sequence[Evidence], made_at: dt.datetime, made: Made
) -> tuple[str, bytes]:
    """The page with its signature in place, and the signed document alone."""
    document = signer.seal_document(
        {
            "format": FORMAT,
            "site": site,
            "version": vedr.__version__,
            "made_at": made_at.astimezone(dt.UTC).isoformat(),
            "heads": [{"run": one.run_id, "seq": one.head_seq, "digest": one.head} for one in evidence],
            "facts": [facts_of(one) for one in evidence],
            "page": made.document(),
            "page_sha256": hashlib.sha256(page.encode()).hexdigest(),
        }
    )
    return page.replace(SEAL_PLACE, f"{_BEGIN}{_escaped(document)}{_END}"), document


def check_page(text: str, journal: Journal, *, what: str) -> Checked:
    """Check a page, or a signed document alone, against the site's keys and its ledger.

    Args:
        text: The file's content.
        journal: The site's ledger.
        what: Names the file in errors.

    Raises:
        CorruptError: not such a page, or a byte of it was changed.
        VerificationFailedError: nobody trusted signed it, or the ledger tells something else.
    """
    document, page = _taken_apart(text, what)
    signed = open_document(document, journal.trusted, what=what)
    if page is not None and hashlib.sha256(page.encode()).hexdigest() != signed.get("page_sha256"):
        raise CorruptError(f"{what}: the page is not the one that was signed", remedy=_ALTERED)
    if (signed.get("format"), signed.get("site")) != (FORMAT, journal.site):
        raise VerificationFailedError(
            f"{what}: {signed.get('format')} of site {signed.get('site')}, expected {FORMAT} of {journal.site}",
            remedy="Name the site that it is of: --site.",
        )
    heads = tuple(_heads(signed, what))
    facts = {fact.get("run"): fact for fact in _tables(signed, "facts")}
    if facts.keys() != {head.run_id for head in heads}:
        raise VerificationFailedError(f"{what}: it tells figures of other runs than it names", remedy=_ALTERED)
    found = [_found(head, facts[head.run_id], journal, what) for head in heads]
    evidence = [one for one, _ in found]
    drill = signed.get("drill")
    return Checked(
        site=journal.site,
        runs=heads,
        made_at=str(signed.get("made_at")),
        keyid=_keyid(document),
        grown=tuple(one.run_id for one, grown in found if grown),
        drill=check_answer(drill, evidence, what=what) if isinstance(drill, dict) else "",
        unproven="" if page is None else _check_words(page, signed, evidence, _keyid(document), what),
    )


def _check_words(page: str, signed: Mapping[str, Json], evidence: Sequence[Evidence], keyid: str, what: str) -> str:
    """Make a run's page again from the ledger; returns which words could not be."""
    if signed.get("version") != vedr.__version__:
        return f"the page's words: vedr {signed.get('version')} made it, this is {vedr.__version__}"
    match signed.get("page"):
        case {"kind": "index"}:
            return "an index's tables: check the pages that it links to"
        case {"kind": "run", "label": str(label), "problems": list(problems), "regions": list(regions)} if (
            len(evidence) == 1
        ):
            known = replace(evidence[0], problems=(*map(str, problems),), regions=(*map(str, regions),))
            if run_page(known, Imprint(_moment(signed.get("made_at"), what), keyid, label)) == page:
                return ""
    raise VerificationFailedError(
        f"{what}: the ledger gives another page than the one that was signed",
        remedy="Make the page again from the ledger with vedr report and compare; find out who signed this one.",
    )


def _taken_apart(text: str, what: str) -> tuple[bytes, str | None]:
    """The signed document's bytes, and the page as it was hashed; None for a document alone.

    A document alone may end in the newline that a terminal or `jq -r` puts there.
    """
    before, begin, rest = text.partition(_BEGIN)
    inside, end, after = rest.partition(_END)
    if not begin:
        return text.removesuffix("\n").encode(), None
    try:
        document = canonical_json(json.loads(inside))
    except (ValueError, RecursionError):
        raise CorruptError(f"{what}: its signature cannot be read", remedy=_ALTERED) from None
    if not end or _escaped(document) != inside:
        raise CorruptError(f"{what}: its signature is not in its one form", remedy=_ALTERED)
    return document, f"{before}{SEAL_PLACE}{after}"


def _escaped(document: bytes) -> str:
    return document.decode().replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _heads(signed: Mapping[str, Json], what: str) -> Iterable[Head]:
    for item in _tables(signed, "heads"):
        match item:
            case {"run": str(run), "seq": int(seq), "digest": str(digest)}:
                yield Head(parse_run_id(run), seq, Digest(digest))
            case _:
                raise CorruptError(f"{what}: it names no runs", remedy=_ALTERED)


def _found(head: Head, facts: Mapping[str, Json], journal: Journal, what: str) -> tuple[Evidence, bool]:
    """The run as the page knew it, and whether it went on.

    Raises:
        VerificationFailedError: the ledger tells something else than the page.
    """
    record = read_record(journal, head.run_id)
    chain = record.chain[: head.seq + 1]
    if len(chain) <= head.seq or chain[head.seq].digest != head.digest:
        observed = chain[head.seq].digest if len(chain) > head.seq else f"only {len(chain)} entries"
        raise VerificationFailedError(
            f"{what}: run {head.run_id} entry {head.seq} is {head.digest[:16]} in the page, "
            f"{observed[:16]} in the ledger",
            remedy=f"Compare the regions: vedr ledger verify {head.run_id}; one of the two was replaced.",
        )
    evidence = gather(replace(record, chain=chain))
    if (proof := facts.get("ledger")) in PROOFS:  # as it was then: a region may have caught up, or fallen silent
        evidence = replace(evidence, proof=proof)
    told = facts_of(evidence)
    if differing := [name for name in told if told[name] != facts.get(name)]:
        raise VerificationFailedError(
            f"{what}: run {head.run_id}: the ledger tells other {', '.join(differing)} than the page",
            remedy="Made by another version of vedr?  Make the page again from the ledger and compare.",
        )
    return evidence, len(record.chain) > head.seq + 1


def _moment(told: Json, what: str) -> dt.datetime:
    try:
        return dt.datetime.fromisoformat(str(told))
    except ValueError:
        raise CorruptError(f"{what}: it does not say when it was made", remedy=_ALTERED) from None


def _tables(signed: Mapping[str, Json], name: str) -> list[dict[str, Json]]:
    listed = signed.get(name)
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _keyid(document: bytes) -> str:
    return str(json.loads(document)["signatures"][0]["keyid"])
