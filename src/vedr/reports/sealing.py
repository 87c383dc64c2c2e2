"""A page's signature, and the check of a page against its signature and the ledger.

The signed document names the runs that the page tells of, each with the digest of the last entry that the page knew,
the facts that it tells, and the SHA-256 of the page with the place of the signature empty.  It stands in the page, in
an element that browsers ignore, and beside it as a file.  Format: docs/formats/evidence.md.

Guarantees: `check_page` accepts only a page of which no byte differs from what the site signed, whose runs stand in the
ledger as the page knew them, and whose facts are what the ledger tells.
Leaves out: what became of a run after the page was made; that is told, not refused.
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
from vedr.reports.evidence import Evidence, gather
from vedr.reports.record import read_record
from vedr.reports.templates import SEAL_PLACE
from vedr.runbook.journal import Journal
from vedr.signature import Json, Signer, canonical_json, open_document

FORMAT: Final = "vedr-evidence/1"
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
class Checked:
    """A page that holds; `grown` are its runs that have more entries by now."""

    site: str
    runs: tuple[Head, ...]
    made_at: str
    keyid: str
    grown: tuple[RunId, ...]


def facts_of(evidence: Evidence) -> dict[str, Json]:
    """What a page tells of a run, in figures."""
    measured = evidence.timing
    return {
        "run": evidence.run_id,
        "runbook": evidence.runbook,
        "outcome": evidence.outcome,
        "verdict": evidence.verdict,
        "detected_at": evidence.detected_at.astimezone(dt.UTC).isoformat(),
        "target_ms": measured.target_ms,
        "total_ms": measured.total_ms,
        "waiting_ms": measured.waiting_ms,
        "interrupted_ms": measured.interrupted_ms,
        "overhead_ms": measured.overhead_ms,
        "steps": [
            {"key": row.key, "state": row.state, "budget_ms": row.budget_ms, "took_ms": row.took_ms}
            for row in measured.rows
        ],
        "data_lost": [{"name": f.name, "value": f.value, "by": f.source} for f in evidence.data_lost],
        "approvals": [{"person": a.person, "approved": a.approved, "plan": a.plan} for a in evidence.approvals],
        "ledger": evidence.proof,
        "exercise": evidence.subject == "exercise",
    }


def seal_page(
    page: str, signer: Signer, *, site: str, heads: Iterable[Head], facts: Sequence[Json], made_at: dt.datetime
) -> tuple[str, bytes]:
    """The page with its signature in place, and the signed document alone."""
    document = signer.seal_document(
        {
            "format": FORMAT,
            "site": site,
            "version": vedr.__version__,
            "made_at": made_at.astimezone(dt.UTC).isoformat(),
            "heads": [{"run": head.run_id, "seq": head.seq, "digest": head.digest} for head in heads],
            "facts": [*facts],
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
    grown = tuple(head.run_id for head in heads if _grown(head, facts.get(head.run_id), journal, what))
    return Checked(journal.site, heads, str(signed.get("made_at")), _keyid(document), grown)


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


def _grown(head: Head, facts: Mapping[str, Json] | None, journal: Journal, what: str) -> bool:
    """Whether the run went on; VerificationFailedError when the ledger tells something else than the page."""
    record = read_record(journal, head.run_id)
    chain = record.chain[: head.seq + 1]
    if len(chain) <= head.seq or chain[head.seq].digest != head.digest:
        observed = chain[head.seq].digest if len(chain) > head.seq else f"only {len(chain)} entries"
        raise VerificationFailedError(
            f"{what}: run {head.run_id} entry {head.seq} is {head.digest[:16]} in the page, "
            f"{observed[:16]} in the ledger",
            remedy=f"Compare the regions: vedr ledger verify {head.run_id}; one of the two was replaced.",
        )
    if facts is not None:
        told = facts_of(gather(replace(record, chain=chain)))
        if differing := [name for name in told if name != "ledger" and told[name] != facts.get(name)]:
            raise VerificationFailedError(
                f"{what}: run {head.run_id}: the ledger tells other {', '.join(differing)} than the page",
                remedy="Made by another version of vedr?  Make the page again from the ledger and compare.",
            )
    return len(record.chain) > head.seq + 1


def _tables(signed: Mapping[str, Json], name: str) -> list[dict[str, Json]]:
    listed = signed.get(name)
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _keyid(document: bytes) -> str:
    return str(json.loads(document)["signatures"][0]["keyid"])
