"""A remote signer, put together: key, registers, connections, metrics.

Guarantees: the key is the validator's and has signed a check before anything is taken over; one process at a time uses
a sign-state file on this host; what was opened is closed.
Leaves out: every rule (vedr.signer).
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from vedr.adapters.file_key import FileKey
from vedr.adapters.metrics_http import serve_metrics
from vedr.adapters.pkcs11_token_key import open_token_key
from vedr.adapters.privval_socket import TcpAddress, UnixAddress, dial, parse_address
from vedr.adapters.rpc import HttpChainRpc
from vedr.adapters.secrets import resolve
from vedr.adapters.site import OpenSite
from vedr.chain.appointment import appointed
from vedr.chain.block import ADDRESS_BYTES
from vedr.chain.register import Content, Validator, name_of_places
from vedr.chain.register_holding import TAKE_OVER_DEADLINE_S, SignStateRegister
from vedr.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    VerificationFailedError,
)
from vedr.inventory import Node, Site
from vedr.ports import ObjectKey, Registers, SigningKey, Tagged
from vedr.signer.finishing import Finishing
from vedr.signer.link import Answering, Link
from vedr.signer.messages import Signable
from vedr.signer.metrics import Metrics
from vedr.signer.publishing import LONGEST_VISIT_S, Entrance, Publisher
from vedr.signer.rules import Mark
from vedr.signer.service import Answers, Log, Signer
from vedr.signer.standby import Standby, check_is_near
from vedr.signer.stream import Stream
from vedr.signer.tenure import (
    LOOK_DEADLINE_S,
    Terms,
    begin,
    holder_of,
    look,
    own_mark,
    takes_over,
    terms_when_appointed,
)

KEY_CALL_DEADLINE_S: Final = 2.0  # the node waits 5 s, of which the registers may take 2.5
CLAIM_DEADLINE_S: Final = 2.0  # beside two looks of a second each; what the node gave up waiting for is asked again
_CHECK: Final = b"vedr-signer/key-check\0"  # as sign-bytes it would announce 118 bytes: it can't be a vote
_CHECK_RANDOM_BYTES: Final = 16
_STOP_GRACE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What one signer process is told.

    Attributes:
        validator: Whose key it is.
        region: Whose HSM holds it, for keys on tokens.
        key: `token:<label>`, or `file:/…/priv_validator_key.json`.
        connect: Addresses of the validator's nodes, usually one.
        connection_key: Secret reference of a PKCS#8 PEM, who this signer is over TCP; None: a new one each time.
        state_file: This host's sign state.
        metrics: Where to serve them, `host:port`; None: nowhere.
        floor: From the promotion protocol.
        when_appointed: Whether an appointment decides on taking over (vedr.chain.appointment).
        when_asked: Whether to take over at the node's first request for a signature only.
    """

    validator: Node
    region: str
    key: str
    connect: tuple[str, ...]
    connection_key: str | None
    state_file: Path
    terms: Terms
    metrics: str | None = None
    floor: Mark | None = None
    when_appointed: bool = False
    when_asked: bool = False


def register_of(opened: OpenSite, validator: Node, metrics: Metrics | None = None) -> SignStateRegister:
    """The validator's register in the site's regions, its round trips counted."""
    registers: dict[str, Registers] = dict(opened.registers)
    if metrics is not None:
        registers = {region: CountedRegisters(one, metrics) for region, one in opened.registers.items()}
    return SignStateRegister(registers, subject_of(opened, validator))


def register_buckets(site: Site) -> dict[str, str]:
    """Where the site's registers are, by region."""
    return {name: region.store.register_bucket or region.store.bucket for name, region in site.regions.items()}


def subject_of(opened: OpenSite, validator: Node) -> Validator:
    """Whose register and appointment it is."""
    return Validator(opened.site.chain.chain_id, validator.address)


def run(opened: OpenSite, settings: Settings, *, log: Log, stopping: threading.Event) -> None:
    """Sign until told to stop.

    Raises:
        ConflictError: another signer has taken over, or is appointed: this one must not come back by itself.
        VedrError: it could not begin; nothing was taken over unless a majority of the regions answered.
    """
    addresses = {text: parse_address(text) for text in settings.connect}
    connection_key = _connection_key(settings.connection_key)
    metrics = Metrics()
    with contextlib.ExitStack() as closing:
        key = closing.enter_context(open_key(opened, settings))
        check_key(key, settings.validator)
        closing.enter_context(_only_process(settings.state_file))  # makes its folder: only for the right key
        if settings.metrics:
            closing.enter_context(serve_metrics(settings.metrics, metrics.text))
        beginning = Beginning(opened, settings, key, closing=closing, metrics=metrics, log=log)
        signer = beginning.signer()
        _serve(signer, addresses, connection_key, metrics=metrics, log=log, stopping=stopping)
    if isinstance(signer, Standby) and signer.failure is not None:
        raise signer.failure
    if signer.superseded.is_set():
        raise ConflictError(
            f"another signer has taken over {settings.validator.name}; epoch {beginning.epoch} signs no more",
            remedy="Leave it stopped.  To take the key back on purpose: appoint it, or --take-over --planned.",
        )


class Beginning:
    """How this process comes to hold the key: now, or when its node first asks for a signature."""

    def __init__(
        self,
        opened: OpenSite,
        settings: Settings,
        key: SigningKey,
        *,
        closing: contextlib.ExitStack,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._opened, self._settings, self._key = opened, settings, key
        self._closing, self._metrics, self._log = closing, metrics, log
        self._register = register_of(opened, settings.validator, metrics)
        self._holder = holder_of(settings.terms.name, os.getpid(), places=name_of_places(register_buckets(opened.site)))
        self.epoch = 0

    def signer(self) -> Signer | Standby:
        """One that holds the key, or waits to be asked.  Errors as of `vedr.signer.tenure.begin`."""
        settings, terms = self._settings, self._terms()
        if not settings.when_asked and not settings.when_appointed:
            return self._begin(terms)
        newest = look(self._register)
        if not takes_over(newest, terms) and not settings.when_asked:
            return self._begin(terms)
        self._metrics.waits()
        self._log("waiting", {"held_by": newest.holder, "epoch": newest.epoch, "validator": settings.validator.name})
        chain_id = self._opened.site.chain.chain_id
        return Standby(Answers(chain_id, self._key.public_key, self._metrics, self._log), self._begin_for)

    def _begin_for(self, message: Signable) -> Signer:
        """Take over for this message; by the appointment of now, since the key may have gone elsewhere meanwhile."""
        return self._begin(
            self._terms(), check=lambda shown: check_is_near(message, shown), deadline_s=CLAIM_DEADLINE_S
        )

    def _terms(self) -> Terms:
        if not self._settings.when_appointed:
            return self._settings.terms
        subject = subject_of(self._opened, self._settings.validator)
        return terms_when_appointed(
            self._settings.terms, appointed(self._opened.registers, subject, deadline_s=LOOK_DEADLINE_S)
        )

    def _begin(
        self,
        terms: Terms,
        *,
        check: Callable[[Content], None] = lambda _: None,
        deadline_s: float = TAKE_OVER_DEADLINE_S,
    ) -> Signer:
        settings = self._settings
        tenure = begin(
            self._register,
            terms,
            holder=self._holder,
            own=own_mark(settings.state_file),
            floor=settings.floor,
            check=check,
            deadline_s=deadline_s,
        )
        self._closing.callback(tenure.holding.close)
        self.epoch = tenure.epoch
        self._metrics.begins(tenure.epoch, tenure.last.hrs)
        self._log("holds", {"epoch": tenure.epoch, "hrs": str(tenure.last), "validator": settings.validator.name})
        if tenure.left_out:
            self._log("left_out", {"hrs": str(tenure.last), "sign_bytes": tenure.left_out.hex().upper()})
        signer = Signer(
            chain_id=self._opened.site.chain.chain_id,
            key=self._key,
            register=tenure.holding,
            state_file=settings.state_file,
            last=tenure.last,
            metrics=self._metrics,
            log=self._log,
        )
        self._finish(signer)
        return signer

    def _finish(self, signer: Signer) -> None:
        """Let the network have the vote that this key may be bound to, now and whenever a request fails half-way."""
        site = self._opened.site
        publisher = Publisher(site.chain.chain_id, self._key.public_key, entrances(site, self._settings))
        finishing = Finishing(
            signer,
            lambda vote, by_all, is_over: publisher.publish(vote, by_all=by_all, is_over=is_over),
            metrics=self._metrics,
            log=self._log,
        )
        finishing.start()
        self._closing.callback(finishing.stop)


def entrances(site: Site, settings: Settings) -> tuple[Entrance, ...]:
    """The site's nodes, by which a vote may enter the network: the signer's own, those of its region, the others."""
    own = next((one.node for one in site.signers if one.name == settings.terms.name), settings.validator.name)
    region = site.node(own).region
    ordered = sorted(site.nodes, key=lambda node: (node.name != own, node.region != region))
    return tuple(_entrance(node) for node in ordered)


def _entrance(node: Node) -> Entrance:
    def dial_peer(node_id: str, key: Ed25519PrivateKey) -> contextlib.AbstractContextManager[Stream]:
        return dial(parse_address(f"tcp://{node_id}@{node.p2p}"), key, lifetime_s=LONGEST_VISIT_S)

    return Entrance(node.name, lambda: HttpChainRpc(node.rpc, name=node.name), dial_peer)


def _serve(
    signer: Answering,
    addresses: Mapping[str, UnixAddress | TcpAddress],
    connection_key: Ed25519PrivateKey,
    *,
    metrics: Metrics,
    log: Log,
    stopping: threading.Event,
) -> None:
    """A thread for each node, until stopped or superseded; UnavailableError when one ended of itself."""

    def link(name: str, address: UnixAddress | TcpAddress) -> Link:
        return Link(name, lambda: dial(address, connection_key), signer, metrics=metrics, log=log)

    links = [link(name, address) for name, address in addresses.items()]
    threads = [threading.Thread(target=one.run, name="link", daemon=True) for one in links]
    for thread in threads:
        thread.start()
    while all(thread.is_alive() for thread in threads) and not stopping.wait(0.1):
        pass
    is_faulty = not stopping.is_set() and not signer.superseded.is_set()
    for one in links:
        one.stop()
    deadline = time.monotonic() + _STOP_GRACE_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if is_faulty:
        raise UnavailableError("a connection's thread ended by a fault of this program", remedy="See the trace above.")


@contextlib.contextmanager
def open_key(opened: OpenSite, settings: Settings) -> Iterator[SigningKey]:
    """The validator's key, closed with the block."""
    kind, _, where = settings.key.partition(":")
    if kind == "file" and where.startswith("/"):
        yield FileKey(Path(where))
    elif kind == "token" and where:
        hsm = opened.site.region(settings.region).hsm
        if hsm is None:
            raise NotFoundError(
                f"region {settings.region} has no HSM", remedy="Name the region of the token: --region."
            )
        with open_token_key(hsm, lambda: resolve(hsm.pin), label=where, call_deadline_s=KEY_CALL_DEADLINE_S) as key:
            yield key
    else:
        raise InvalidInputError(
            f"--key of kind {kind[:20]!r} is not known",
            remedy="Write token:<label> or file:/path/priv_validator_key.json.",
        )


def check_key(key: SigningKey, validator: Node) -> None:
    """VerificationFailedError unless it is this validator's and signs."""
    address = hashlib.sha256(key.public_key).digest()[:ADDRESS_BYTES].hex().upper()
    if address != validator.address:
        raise VerificationFailedError(
            f"the key is of address {address}, {validator.name} is {validator.address}",
            remedy="Name this validator's key: vedr hsm inventory shows what is on the tokens.",
        )
    challenge = _CHECK + secrets.token_bytes(_CHECK_RANDOM_BYTES)
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(key.sign(challenge), challenge)
    except InvalidSignature:
        raise VerificationFailedError(
            f"the key of {validator.name} gives signatures that do not verify", remedy="vedr hsm check."
        ) from None


@contextlib.contextmanager
def _only_process(state_file: Path) -> Iterator[None]:
    """ConflictError when another process uses this sign-state file."""
    path = state_file.with_name(f"{state_file.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror}", remedy="Name a folder that this user owns.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConflictError(
            f"another signer process on this host uses {state_file}", remedy="Stop that one first."
        ) from None
    finally:
        os.close(lock)


def _connection_key(reference: str | None) -> Ed25519PrivateKey:
    if reference is None:
        return Ed25519PrivateKey.generate()
    try:
        key = serialization.load_pem_private_key(resolve(reference), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInputError(
            f"{reference} is not an unencrypted Ed25519 key in PEM",
            remedy="Make one: openssl genpkey -algorithm ed25519.",
        )
    return key


class CountedRegisters:
    """A region's registers, each call timed."""

    def __init__(self, registers: Registers, metrics: Metrics) -> None:
        self._registers, self._metrics = registers, metrics

    @property
    def region(self) -> str:
        return self._registers.region

    def read(self, key: ObjectKey) -> Tagged | None:
        with self._counted():
            return self._registers.read(key)

    def swap(self, key: ObjectKey, data: bytes, *, expected: str | None) -> str:
        with self._counted():
            return self._registers.swap(key, data, expected=expected)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        began, failed = time.monotonic(), True
        try:
            yield
            failed = False
        except ConflictError:
            failed = False  # it answered
            raise
        finally:
            self._metrics.register(self.region, time.monotonic() - began, failed=failed)
