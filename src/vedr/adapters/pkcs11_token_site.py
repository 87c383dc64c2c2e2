"""A site's tokens: their references made, checked, and set against what is on them.

Guarantees: each region's token is opened for the question and closed after it; a PIN is fetched at login.
Leaves out: every decision (vedr.custody).
"""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from vedr.adapters.pkcs11_token_process import TokenProcess
from vedr.adapters.secrets import resolve
from vedr.adapters.site import OpenSite, utc_now
from vedr.custody.hsm_check import OpenToken, Replication, check_replication
from vedr.custody.hsm_inventory import Inventory, Unanswered, take_inventory
from vedr.custody.hsm_reference import Holder, Reference, Role, make_reference
from vedr.custody.hsm_references import References
from vedr.errors import InvalidInputError, NotFoundError, VedrError
from vedr.inventory import Hsm


def references(opened: OpenSite) -> References:
    """The site's, in its stores."""
    signing = opened.site.signing
    return References(
        opened.journal.replicas, site=opened.site.name, signer=opened.signer, trusted=tuple(signing.trusted)
    )


def hsm_of(opened: OpenSite, region: str) -> Hsm:
    """NotFoundError when the region has none."""
    hsm = opened.site.region(region).hsm
    if hsm is None:
        raise NotFoundError(
            f"region {region} has no HSM", remedy=f"Choose one of: {', '.join(_regions(opened)) or 'none'}."
        )
    return hsm


def open_token(hsm: Hsm) -> TokenProcess:
    """Logged in, by the PIN that the site refers to."""
    return TokenProcess(hsm, lambda: resolve(hsm.pin))


def openers(opened: OpenSite) -> dict[str, OpenToken]:
    """How to open the token of each region that has one, by priority."""

    def opener(hsm: Hsm) -> OpenToken:
        return lambda: open_token(hsm)

    return {region: opener(hsm_of(opened, region)) for region in _regions(opened)}


def make(
    opened: OpenSite, label: str, *, role: Role, primary: str | None = None, regions: Sequence[str] = ()
) -> tuple[Reference, tuple[str, ...]]:
    """Examine a key on its tokens, and store the reference; it, and the regions whose stores hold it.

    Args:
        opened: The site.
        label: The key's.
        role: What the key is for.
        primary: Whose public key counts; default: the first of `regions`.
        regions: Where the key is; default: every region with a token.
    """
    chosen = tuple(regions) or _regions(opened)
    if not chosen:
        raise InvalidInputError(f"site {opened.site.name} has no HSM", remedy="Describe one: [regions.….hsm].")
    with ExitStack() as closing:
        holders = {
            region: Holder(closing.enter_context(open_token(hsm)), hsm.pin)
            for region in chosen
            for hsm in (hsm_of(opened, region),)
        }
        reference = make_reference(
            holders,
            primary=primary or chosen[0],
            label=label,
            role=role,
            site=opened.site.name,
            chain_id=opened.site.chain.chain_id,
            at=utc_now(),
            random=secrets.token_bytes,
        )
    return reference, references(opened).store(reference)


def check(opened: OpenSite, label: str | None = None) -> Iterator[Replication]:
    """Check the key of that label on all tokens, or every key that has a reference.

    Raises:
        NotFoundError: there is no reference, and so nothing was checked.
    """
    held = references(opened)
    chosen = held.all_newest() if label is None else (held.newest(label),)
    if not chosen:
        raise NotFoundError(f"site {opened.site.name} has no references", remedy="Make them: vedr hsm reference.")
    for reference in chosen:
        yield check_replication(
            reference,
            openers(opened),
            chain_id=opened.site.chain.chain_id,
            addresses=[node.address for node in opened.site.nodes if node.is_validator],
            clock=utc_now,
            random=secrets.token_bytes,
        )


def inventory(opened: OpenSite, region: str | None = None) -> Iterator[Inventory | Unanswered]:
    """The keys of that region's token, or of every token."""
    chosen = _regions(opened) if region is None else (region,)
    if not chosen:
        raise InvalidInputError(f"site {opened.site.name} has no HSM", remedy="Describe one: [regions.….hsm].")
    known = references(opened).all_newest()
    for name in chosen:
        hsm = hsm_of(opened, name)
        try:
            with open_token(hsm) as token:
                yield take_inventory(name, token.facts(), token.objects(), known)
        except VedrError as error:
            yield Unanswered(name, error.message, error.remedy)


def _regions(opened: OpenSite) -> tuple[str, ...]:
    return tuple(name for name in opened.site.regions_by_priority if opened.site.regions[name].hsm is not None)
