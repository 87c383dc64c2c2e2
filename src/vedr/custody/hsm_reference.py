"""The reference of a key in hardware: what every token that holds it must agree with.  Never key material.

Guarantees: a record is only made of a key that was examined on each of its tokens; what is read back was signed by a
trusted key, is whole and canonical, and its own challenge signatures verify; a record with a field for a private value
is refused, whoever signed it.
Leaves out: where records are kept (`hsm_references`), and whether they still hold (`hsm_check`).

Format: docs/formats/hsm-reference.md.
"""

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, Literal, get_args

from vedr.backup.documents import Reader, broken, rfc3339
from vedr.custody.hsm import CHALLENGE_TAG, Attributes, Token, TokenFacts, matching
from vedr.custody.hsm_examine import Examined, KeyName, Random, examine
from vedr.custody.hsm_keys import CURVES, KEY_KINDS, PublicKey, from_spki
from vedr.errors import InvalidInputError, RefusedError, VedrError, VerificationFailedError
from vedr.signature import Json, Signer, canonical_json, open_document

FORMAT: Final = "vedr-hsm-reference/1"
MAX_RECORD_BYTES: Final = 1024 * 1024  # some 3 KiB a token, and attestations
LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_PIN_REFERENCE: Final = re.compile(r"(file:/|env:[A-Z]|aws-secret:[a-z]).*")

Role = Literal["validator", "node", "provider"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
TokenRole = Literal["primary", "replica"]
TOKEN_ROLES: Final[tuple[TokenRole, ...]] = get_args(TokenRole)

_PRIVATE_NAMES: Final = frozenset(
    (
        *("value", "privatekey", "privkey", "privatevalue", "privateexponent", "prime1", "prime2", "exponent1"),
        *("exponent2", "coefficient", "d", "p", "q", "dp", "dq", "qi", "seed", "secret", "secretkey", "scalar"),
        *("mnemonic", "pin", "password", "passphrase", "pkcs8", "pem"),
    )
)
_PRIVATE_TEXT: Final = ("PRIVATE KEY", b"PRIVATE KEY".hex())


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A key as one token held it: `role` is the token's, `attestation` the vendor's document, if it makes one."""

    role: TokenRole
    facts: TokenFacts
    attributes: Attributes
    pin_reference: str
    challenge: bytes
    signature: bytes
    attestation: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """The record.  `tokens` by region; `role` is what the key is for."""

    site: str
    created_at: dt.datetime
    chain_id: str
    name: KeyName
    role: Role
    public: PublicKey
    ec_params: bytes
    tokens: Mapping[str, TokenRecord]

    @property
    def consensus_address(self) -> str | None:
        """Of Ed25519 keys."""
        return self.public.consensus_address if self.public.kind == "ed25519" else None


@dataclass(frozen=True, slots=True)
class Holder:
    """A token that a reference is made of."""

    token: Token
    pin_reference: str
    attestation: bytes | None = field(default=None, kw_only=True)


def make_reference(
    holders: Mapping[str, Holder],
    *,
    primary: str,
    label: str,
    role: Role,
    site: str,
    chain_id: str,
    at: dt.datetime,
    random: Random,
) -> Reference:
    """Examine the key on every token and write down what they say.

    Args:
        holders: By region.
        primary: The region whose token's public key is the reference for the others.
        label: The key's.
        role: What the key is for.
        site: The site's name.
        chain_id: Of the chain that the key signs for.
        at: Now.
        random: As in `examine`.

    Raises:
        InvalidInputError: the label can't name a record, or there is no token in `primary`.
        VerificationFailedError: the key is of no known kind, or a replica is none; as `examine`, naming the region.
    """
    if not LABEL.fullmatch(label):
        raise InvalidInputError(
            f"label {label!r} can't name a record", remedy="Use at most 63 letters, digits, dots, dashes, underscores."
        )
    if primary not in holders:
        raise InvalidInputError(
            f"no token in {primary}", remedy=f"Choose the primary among: {', '.join(holders) or 'none'}."
        )
    first = matching(holders[primary].token.objects(), "public", label=label, key_id=None)
    if first.public is None:
        raise VerificationFailedError(
            f"{label}: a {first.key_type} key of no known kind", remedy=f"Known are {', '.join(KEY_KINDS)}."
        )
    name = KeyName(label, first.key_id)
    tokens = {}
    for region, holder in holders.items():
        try:
            seen = examine(holder.token, name, first.public, at=at, random=random)
        except VedrError as error:
            raise type(error)(f"{region}: {error.message}", remedy=error.remedy) from error
        tokens[region] = _record("primary" if region == primary else "replica", holder, seen)
    second = at.astimezone(dt.UTC).replace(microsecond=0)
    return Reference(site, second, chain_id, name, role, first.public, first.ec_params, tokens)


def _record(role: TokenRole, holder: Holder, seen: Examined) -> TokenRecord:
    return TokenRecord(
        role=role,
        facts=seen.facts,
        attributes=seen.attributes,
        pin_reference=holder.pin_reference,
        challenge=seen.challenge,
        signature=seen.signature,
        attestation=holder.attestation,
    )


def seal(reference: Reference, signer: Signer) -> bytes:
    """The document's bytes, ready to store; the record is held to every rule of reading first."""
    signed = _signed(reference)
    _refuse_private_values(signed, "the new reference")
    _parsed(signed, "the new reference")
    return signer.seal_document(signed)


def open_reference(data: bytes, trusted: tuple[str, ...], *, what: str) -> Reference:
    """The record, verified.

    Args:
        data: The stored bytes.
        trusted: Public keys, as in the site's `[signing]`.
        what: Names the document in errors.

    Raises:
        CorruptError: not such a record, or its parts disagree.
        VerificationFailedError: no trusted key signed it, or a token's challenge signature does not verify.
        RefusedError: it has a field for a private value.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise broken(what, f"{len(data)} bytes, more than {MAX_RECORD_BYTES}")
    signed = open_document(data, trusted, what=what)
    _refuse_private_values(signed, what)
    return _parsed(signed, what)


def _signed(reference: Reference) -> dict[str, Json]:
    return {
        "format": FORMAT,
        "site": reference.site,
        "created_at": rfc3339(reference.created_at),
        "chain_id": reference.chain_id,
        "key": {
            "label": reference.name.label,
            "id": reference.name.key_id.hex(),
            "role": reference.role,
            "type": reference.public.kind,
            "ec_params": reference.ec_params.hex(),
            "public_key": reference.public.spki.hex(),
            "consensus_address": reference.consensus_address,
        },
        "tokens": {region: _token_signed(token) for region, token in reference.tokens.items()},
    }


def _token_signed(token: TokenRecord) -> dict[str, Json]:
    return {
        "role": token.role,
        "facts": {**asdict(token.facts), "mechanisms": " ".join(token.facts.mechanisms)},
        "attributes": asdict(token.attributes),
        "pin_reference": token.pin_reference,
        "challenge": token.challenge.hex(),
        "signature": token.signature.hex(),
        "attestation": None if token.attestation is None else token.attestation.hex(),
    }


def _parsed(signed: dict[str, Json], what: str) -> Reference:
    """Read leniently, then compare with what would be written: unknown, missing and mistyped fields all differ."""
    reader = Reader(signed, what)
    reader.expect("format", FORMAT)
    key, tokens = reader.inner("key"), reader.inner("tokens")
    try:
        reference = Reference(
            site=reader.text("site"),
            created_at=reader.moment("created_at"),
            chain_id=reader.text("chain_id"),
            name=KeyName(key.text("label"), bytes.fromhex(key.text("id"))),
            role=key.choice("role", ROLES),
            public=from_spki(bytes.fromhex(key.text("public_key")), what=what),
            ec_params=bytes.fromhex(key.text("ec_params")),
            tokens={region: _parsed_token(tokens.inner(region)) for region in tokens.names},
        )
    except ValueError:
        raise broken(what, "a field that is not hexadecimal") from None
    if canonical_json(_signed(reference)) != canonical_json(signed):
        raise broken(what, "its fields are not those of the format, or disagree with the public key")
    _hold_together(reference, what)
    return reference


def _parsed_token(reader: Reader) -> TokenRecord:
    facts, attributes = reader.inner("facts"), reader.inner("attributes")
    attestation = reader.optional_text("attestation")
    return TokenRecord(
        role=reader.choice("role", TOKEN_ROLES),
        facts=TokenFacts(
            module=facts.text("module"),
            module_sha256=facts.hex256("module_sha256"),
            module_version=facts.text("module_version"),
            manufacturer=facts.text("manufacturer"),
            model=facts.text("model"),
            firmware=facts.text("firmware"),
            label=facts.text("label"),
            serial=facts.text("serial"),
            mechanisms=tuple(facts.text("mechanisms").split()),
        ),
        attributes=Attributes(**{name: _optional_flag(attributes, name) for name in Attributes.__slots__}),
        pin_reference=reader.text("pin_reference"),
        challenge=bytes.fromhex(reader.text("challenge")),
        signature=bytes.fromhex(reader.text("signature")),
        attestation=None if attestation is None else bytes.fromhex(attestation),
    )


def _optional_flag(reader: Reader, name: str) -> bool | None:
    return reader.flag(name) if reader.has(name) else None


def _hold_together(reference: Reference, what: str) -> None:
    """What the format can't say: that the record's parts are of one key."""
    tokens = reference.tokens.values()
    curve = CURVES.get(reference.ec_params, "")
    if not LABEL.fullmatch(reference.name.label) or not reference.name.key_id:
        raise broken(what, "the key's label or id can't be one")
    if curve != ("" if reference.public.kind.startswith("rsa") else reference.public.kind):
        raise broken(what, f"ec_params are not those of {reference.public.kind}")
    if [token.role for token in tokens].count("primary") != 1:
        raise broken(what, "not exactly one token is the primary")
    if len({token.facts.serial for token in tokens}) != len(tokens):
        raise broken(what, "two regions have the same token")
    for region, token in reference.tokens.items():
        serial = f"serial={token.facts.serial}\n".encode()
        if not _PIN_REFERENCE.fullmatch(token.pin_reference):
            raise broken(what, f"{region}: pin_reference is no reference")  # nor shown: it may be the PIN
        if (token.attributes.sensitive, token.attributes.extractable) != (True, False):
            raise broken(what, f"{region}: the key is not kept in the token")
        if not token.challenge.startswith(CHALLENGE_TAG + serial):
            raise broken(what, f"{region}: the challenge is not one, or of another token")
        reference.public.verify(token.signature, token.challenge, what=f"{what}: {region}")


def _refuse_private_values(signed: Json, what: str) -> None:
    waiting = [signed]
    while waiting:
        match waiting.pop():
            case dict() as members:
                waiting += members.values()
                for name in members:
                    if re.sub(r"[^a-z0-9]", "", name.lower().removeprefix("cka")) in _PRIVATE_NAMES:
                        raise _private(what, f"a field {name!r}")
            case list() as items:
                waiting += items
            case str(text) if any(mark in text for mark in _PRIVATE_TEXT):
                raise _private(what, "a private key's text")


def _private(what: str, found: str) -> RefusedError:
    return RefusedError(
        f"{what} has {found}: a reference never holds a private value",
        remedy="Delete the record in every region and treat the key as compromised: RB-DR-005.",
    )
