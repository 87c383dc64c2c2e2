"""Real SoftHSM tokens in this process; SOFTHSM2_CONF is read once, so all stand in one configuration."""

import datetime as dt
import itertools
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.util import biginteger

from vedr.adapters.pkcs11_token import Pkcs11Token, open_here
from vedr.adapters.pkcs11_token_provisioning import import_ed25519
from vedr.custody.hsm_check import Replication, check_replication
from vedr.custody.hsm_keys import ED25519_OID, PublicKey, from_ed25519
from vedr.custody.hsm_reference import Holder, Reference, make_reference, seal
from vedr.inventory import Hsm
from vedr.signature import Signer


@dataclass
class Bench:
    """Tokens `us-east` and `eu-west`, and two that are both called `twin`."""

    hsms: dict[str, Hsm]
    pin: bytes
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def open(self, label: str, *, writable: bool = True) -> Pkcs11Token:
        return open_here(self.hsms[label].module, label, self.pin, writable=writable)

    def fresh_name(self) -> tuple[str, bytes]:
        number = next(self._numbers)
        return f"key-{number}", number.to_bytes(2, "big")

    @staticmethod
    def put_private(token: Pkcs11Token, seed: bytes, label: str, key_id: bytes, **changed: object) -> None:
        """A private object as nobody should make it: name the attributes that are to be different."""
        template = {
            Attribute.CLASS: ObjectClass.PRIVATE_KEY,
            Attribute.KEY_TYPE: KeyType.EC_EDWARDS,
            Attribute.EC_PARAMS: ED25519_OID,
            Attribute.LABEL: label,
            Attribute.ID: key_id,
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.SIGN: True,
            Attribute.VALUE: seed,
        }
        template |= {Attribute[name]: value for name, value in changed.items()}
        with token.session("put a private object") as session:
            session.create_object(template)

    @staticmethod
    def put_public(token: Pkcs11Token, raw: bytes, label: str, key_id: bytes, **changed: object) -> None:
        template = {
            Attribute.CLASS: ObjectClass.PUBLIC_KEY,
            Attribute.KEY_TYPE: KeyType.EC_EDWARDS,
            Attribute.EC_PARAMS: ED25519_OID,
            Attribute.LABEL: label,
            Attribute.ID: key_id,
            Attribute.TOKEN: True,
            Attribute.EC_POINT: b"\x04\x20" + raw,
        }
        template |= {Attribute[name]: value for name, value in changed.items()}
        with token.session("put a public object") as session:
            session.create_object(template)

    @staticmethod
    def put_rsa_4096(token: Pkcs11Token, label: str, key_id: bytes) -> None:
        """A pair of primes that anybody can check and nobody would use."""
        p, q = (3 << 2046) + 439, (3 << 2046) + 469
        d = pow(65537, -1, (p - 1) * (q - 1))
        numbers = {
            "MODULUS": p * q,
            "PUBLIC_EXPONENT": 65537,
            "PRIVATE_EXPONENT": d,
            "PRIME_1": p,
            "PRIME_2": q,
            "EXPONENT_1": d % (p - 1),
            "EXPONENT_2": d % (q - 1),
            "COEFFICIENT": pow(q, -1, p),
        }
        packed = {Attribute[name]: biginteger(number) for name, number in numbers.items()}
        names = {Attribute.KEY_TYPE: KeyType.RSA, Attribute.TOKEN: True, Attribute.LABEL: label, Attribute.ID: key_id}
        kept = {Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.SIGN: True}
        public = {name: packed[name] for name in (Attribute.MODULUS, Attribute.PUBLIC_EXPONENT)}
        with token.session("put an RSA key") as session:
            session.create_object({Attribute.CLASS: ObjectClass.PRIVATE_KEY, **names, **kept, **packed})
            session.create_object({Attribute.CLASS: ObjectClass.PUBLIC_KEY, **names, **public})

    @staticmethod
    def empty(token: Pkcs11Token) -> None:
        with token.session("empty it") as session:
            for found in list(session.get_objects()):
                found.destroy()


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory, make_soft_hsm: Callable[[Path], Any]) -> Iterator[Bench]:
    maker = make_soft_hsm(tmp_path_factory.mktemp("bench"))
    first = maker.make("us-east")
    hsms = {"us-east": first}
    for label in ("eu-west", "twin", "twin"):
        hsms[label] = maker.make(label, config=first.config)
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(first.config)
    yield Bench(hsms, maker.pin())
    pkcs11.unload(str(first.module))
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before


@pytest.fixture
def token(bench: Bench) -> Iterator[Pkcs11Token]:
    """The token us-east, writable, emptied afterwards."""
    with bench.open("us-east") as opened:
        yield opened
        bench.empty(opened)


@pytest.fixture
def replica(bench: Bench) -> Iterator[Pkcs11Token]:
    """The token eu-west, writable, emptied afterwards."""
    with bench.open("eu-west") as opened:
        yield opened
        bench.empty(opened)


def seed_and_key(number: int) -> tuple[bytes, PublicKey]:
    seed = number.to_bytes(32, "big")
    return seed, from_ed25519(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())


@pytest.fixture(scope="session")
def make_key() -> Callable[[int], tuple[bytes, PublicKey]]:
    """A seed and its public key, by number."""
    return seed_and_key


REFERENCE_SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
NOW = dt.datetime(2026, 11, 23, 2, 0, 0, 123456, tzinfo=dt.UTC)
PINS = {"us-east": "file:/secrets/us-east.pin", "eu-west": "aws-secret:dr/eu-west-pin"}


@dataclass
class Pair:
    """Two tokens with the same key `val-0`, as they ought to be."""

    bench: Bench
    tokens: Mapping[str, Pkcs11Token]
    public: PublicKey

    def reference(self, *, label: str = "val-0", role: Any = "validator", **changed: Any) -> Reference:
        holders = {region: Holder(token, PINS[region]) for region, token in self.tokens.items()}
        given = {"holders": holders, "primary": "us-east", "site": "lab", "chain_id": "lab-1", "at": NOW} | changed
        holders = given.pop("holders")
        return make_reference(holders, label=label, role=role, random=secrets.token_bytes, **given)

    def check(self, reference: Reference, **changed: Any) -> Replication:
        openers: dict[str, Any] = {region: lambda token=token: Borrowed(token) for region, token in self.tokens.items()}
        openers |= changed.pop("openers", {})
        given = {"chain_id": "lab-1", "addresses": [self.public.consensus_address]} | changed
        openers = {region: opener for region, opener in openers.items() if opener is not None}
        return check_replication(reference, openers, clock=lambda: NOW, random=secrets.token_bytes, **given)

    def borrowed(self, region: str) -> "Borrowed":
        return Borrowed(self.tokens[region])

    def spoil(self, region: str, *writes: Callable[[Pkcs11Token], object]) -> None:
        """Replace what is on a token."""
        self.bench.empty(self.tokens[region])
        for write in writes:
            write(self.tokens[region])


class Borrowed:
    """A token of a fixture: closing is the fixture's affair."""

    def __init__(self, token: Pkcs11Token) -> None:
        self.facts, self.objects, self.sign = token.facts, token.objects, token.sign

    def close(self) -> None:
        pass


@pytest.fixture
def pair(bench: Bench, token: Pkcs11Token, replica: Pkcs11Token) -> Pair:
    seed, public = seed_and_key(1)
    for each in (token, replica):
        import_ed25519(each, seed, label="val-0", key_id=b"\x01")
    return Pair(bench, {"us-east": token, "eu-west": replica}, public)


@pytest.fixture(scope="session")
def sealed(bench: Bench) -> bytes:
    """A signed record of `val-0` on both tokens."""
    seed, public = seed_and_key(1)
    with bench.open("us-east") as token, bench.open("eu-west") as replica:
        for each in (token, replica):
            import_ed25519(each, seed, label="val-0", key_id=b"\x01")
        pair = Pair(bench, {"us-east": token, "eu-west": replica}, public)
        data = seal(pair.reference(), REFERENCE_SIGNER)
        for each in (token, replica):
            bench.empty(each)
    return data


@pytest.fixture(scope="session")
def signer() -> Signer:
    """Who signs records, and the only one who is trusted."""
    return REFERENCE_SIGNER
