"""A CometBFT light client: headers that are true, from nodes that may lie.

Guarantees: a `VerifiedHeader` exists only when the header follows from the trust anchor by signatures of more than the
trust level of trusted power and more than 2/3 of its own, and when at least one independent node shows the same header.
A check that could not run is a failure.  Leaves out: punishing liars (the evidence is in `DivergenceError`).

How `LightClient.verified_header(height)` works:
    (1) A remembered header of that height is the answer: it was verified when it was fresh.  But nothing is answered
        while what is remembered contradicts an anchor: one of the two histories is false.
    (2) The first source that answers is the primary; the others are witnesses.
    (3) The start is the highest remembered header at or below the height that has not expired; else the anchor.
    (4) Above the start: verify the target directly; when too little trusted power signed it, verify the middle first
        (bisection), and go on from there.
    (5) Below every fresh trusted header: walk back from the lowest one above by the hashes that headers name.
    (6) Every witness that has the height must show the same header, and at least one must have it.
    (7) The header is remembered; the store only ever gains.

Sources: cometbft v0.38 light/client.go, light/detector.go; spec/light-client.
"""

import datetime as dt
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import InitVar, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from vedr.chain import verification
from vedr.chain.block import Header, SignedHeader
from vedr.chain.rpc import MAX_HEADERS_A_CALL, HeaderSource, Status
from vedr.chain.trust import Anchor, Genesis, TrustStore, read_genesis
from vedr.chain.verification import ExpiredError, LightBlock, Rules, TooLittleTrustError
from vedr.chain.wire import to_datetime
from vedr.errors import (
    CorruptError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VedrError,
    VerificationFailedError,
)
from vedr.inventory import Chain, Height

MIN_SOURCES: Final = 2
MAX_BACKWARD_HEADERS: Final = 20_000  # 1,000 calls; older headers need an anchor of their own time
MAX_FORWARD_STEPS: Final = 1024  # a real chain needs a few dozen; a hostile one could invent them without end
MAX_ASKED_AT_ONCE: Final = 64  # witnesses; all of a small fleet, and of a large one no thread each
WAIT_S: Final = 20.0
_POLL_S: Final = 0.2
_SEAL: Final = object()


@dataclass(frozen=True, slots=True)
class VerifiedHeader:
    """A header that the light client verified; only this module can make one.  Hashes are upper-case hexadecimal.

    `app_hash` is the application's state after the block *before* this one.
    """

    height: Height
    hash: str
    app_hash: str
    validators_hash: str
    chain_id: str
    time: dt.datetime
    header: Header
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise RefusedError("only a light client makes a VerifiedHeader", remedy="Call LightClient.verified_header.")


class DivergenceError(VerificationFailedError):
    """Two nodes show different headers for one height; both are kept here, as evidence."""

    def __init__(self, primary: tuple[str, SignedHeader], witness: tuple[str, SignedHeader]) -> None:
        (self.primary, self.primary_header), (self.witness, self.witness_header) = primary, witness
        height = self.primary_header.header.height
        super().__init__(
            f"header {height}: {self.primary} shows {self.primary_header.header.hash().hex().upper()}, "
            f"{self.witness} shows {self.witness_header.header.hash().hex().upper()}",
            remedy="Trust neither: one is on a fork or hostile.  Compare with a third source, raise an incident.",
        )


class LightClient:
    """Verifies headers of one chain.

    Args:
        chain: The site's chain: id, genesis, anchor, trust period, clock drift.
        sources: Nodes, the preferred first; independent of each other, two at least.
        store_folder: Where verified headers are remembered.
        later: Anchors from signed manifests, tried when the site's own has expired.
        now_ns: Gives nanoseconds since 1970.
        sleep: Waits that many seconds.
        monotonic: Gives seconds that never go back.
        wait_s: How long to wait for a block that is not yet made, or for a witness that lags.
    """

    def __init__(
        self,
        chain: Chain,
        sources: Sequence[HeaderSource],
        store_folder: Path,
        *,
        later: Sequence[Anchor] = (),
        now_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        wait_s: float = WAIT_S,
    ) -> None:
        if len({source.name for source in sources}) < max(MIN_SOURCES, len(sources)):
            raise InvalidInputError(
                f"light client: sources {', '.join(s.name for s in sources) or 'none'}: two different nodes are needed",
                remedy="Name at least two independent RPC servers, each once.",
            )
        self._chain = chain
        self._sources = tuple(sources)
        self._store = TrustStore(store_folder, chain.chain_id)
        self._later = tuple(sorted(later, key=lambda anchor: -anchor.height))
        self._now_ns, self._sleep, self._monotonic, self._wait_s = now_ns, sleep, monotonic, wait_s
        self._rules = Rules(
            chain_id=chain.chain_id,
            trust_period_ns=chain.trust_period_s * 1_000_000_000,
            max_clock_drift_ns=int(chain.max_clock_drift_s * 1_000_000_000),
        )

    def verified_header(self, height: Height) -> VerifiedHeader:
        """The header of that height; waits when the chain has not made it yet.

        Raises:
            InvalidInputError: there is no such height.
            VerificationFailedError: it did not verify or could not be checked; DivergenceError: nodes disagree.
        """
        if height < 1:
            raise InvalidInputError(f"there is no header {height}", remedy="Heights begin at 1.")
        if (known := self._remembered().get(height)) is not None:  # (1)
            return _sealed(known)
        return self._through_a_primary(lambda primary: self._verified(primary, height))

    def verified_tip(self) -> VerifiedHeader:
        """The newest header that the primary has, verified like any other."""
        return self._through_a_primary(lambda primary: self._verified(primary, None))

    def _through_a_primary(self, verify: Callable[[HeaderSource], VerifiedHeader]) -> VerifiedHeader:  # (2)
        failures: list[VedrError] = []
        for primary in self._sources:
            try:
                return verify(primary)
            except (UnavailableError, NotFoundError) as error:
                failures.append(error)
        raise VerificationFailedError(
            "light client: could not run: " + "; ".join(error.message for error in failures),
            remedy="Bring back one of these nodes, or name others; a header is never trusted unchecked.",
        ) from failures[-1]

    def _verified(self, primary: HeaderSource, wanted: Height | None) -> VerifiedHeader:
        status = self._checked_status(primary)
        height = status.latest_height if wanted is None else wanted
        remembered = self._remembered()
        if height in remembered:
            return _sealed(remembered[height])
        start = self._start(primary, remembered, height)  # (3)
        if start.header.height <= height:
            target = self._forward(primary, start, height).signed  # (4)
        else:
            target = self._backward(primary, start.header, height)  # (5)
        self._cross_check(primary, status.node_id, target)  # (6)
        self._store.remember(target.header)  # (7)
        return _sealed(target.header)

    def _remembered(self) -> Mapping[Height, Header]:
        """What was verified before; VerificationFailedError when an anchor says otherwise."""
        remembered = self._store.load()
        for anchor in (*self._site_anchor(), *self._later):
            known = remembered.get(anchor.height)
            if known is not None and known.hash() != anchor.hash:
                raise VerificationFailedError(
                    f"header {anchor.height} is remembered as {known.hash().hex().upper()}, the anchor says "
                    f"{anchor.hash.hex().upper()}",
                    remedy="Find out from two sources that you trust which one is the chain's.  If the anchor is: move "
                    f"{self._store.path} aside, and trust nothing that was verified with it.",
                )
        return remembered

    def _checked_status(self, source: HeaderSource) -> Status:
        status = source.status()
        if status.chain_id != self._chain.chain_id:
            raise VerificationFailedError(
                f"{source.name}: chain id observed {status.chain_id}, expected {self._chain.chain_id}",
                remedy="Correct the node's address in the site file.",
            )
        return status

    def _start(self, primary: HeaderSource, remembered: Mapping[Height, Header], height: Height) -> LightBlock:
        """The trusted block to begin with: the highest fresh one not above the height, else the lowest above it."""
        now_ns = self._now_ns()
        starts: dict[Height, Callable[[], LightBlock]] = {
            anchor.height: partial(self._anchored, primary, anchor) for anchor in (*self._later, *self._site_anchor())
        }
        if not self._chain.trust_height:
            genesis = read_genesis(self._chain)
            starts[genesis.initial_height] = partial(self._from_genesis, primary, genesis)
        for known, header in remembered.items():
            if header.time_ns + self._rules.trust_period_ns > now_ns:
                starts[known] = partial(self._anchored, primary, Anchor(known, header.hash()))
        failures: list[VedrError] = []
        for candidate in sorted(starts, key=lambda h: (h > height, abs(height - h))):
            try:
                return starts[candidate]()
            except (ExpiredError, NotFoundError) as error:
                failures.append(error)
        raise failures[0]

    def _site_anchor(self) -> tuple[Anchor, ...]:
        if not self._chain.trust_height:
            return ()
        return (Anchor(Height(self._chain.trust_height), bytes.fromhex(self._chain.trust_hash)),)

    def _anchored(self, primary: HeaderSource, anchor: Anchor) -> LightBlock:
        """The anchor's block: its hash is the trusted one, and it has not expired."""
        block = self._block(primary, anchor.height)
        if block.header.hash() != anchor.hash:
            raise VerificationFailedError(
                f"{primary.name}: header {anchor.height} has hash {block.header.hash().hex().upper()}, trusted is "
                f"{anchor.hash.hex().upper()}",
                remedy="The node is on a fork, or the anchor in the site file is wrong: ask two others.",
            )
        return self._checked_start(block)

    def _from_genesis(self, primary: HeaderSource, genesis: Genesis) -> LightBlock:
        """The first block: signed by the validators that the pinned genesis file names."""
        block = self._block(primary, genesis.initial_height)
        if block.header.validators_hash != genesis.validators.hash():
            raise VerificationFailedError(
                f"{primary.name}: header {genesis.initial_height} has validators "
                f"{block.header.validators_hash.hex().upper()}, "
                f"genesis names {genesis.validators.hash().hex().upper()}",
                remedy="If the application changes the set at its start, give trust_height and trust_hash instead.",
            )
        return self._checked_start(block)

    def _checked_start(self, block: LightBlock) -> LightBlock:
        verification.check_fresh(block.header, self._rules, self._now_ns())
        verification.check_itself(block, self._rules.chain_id)
        verification.check_commit(block, self._rules.chain_id)
        return block

    def _forward(self, primary: HeaderSource, start: LightBlock, height: Height) -> LightBlock:
        """From the trusted start to the target, by bisection; `ahead` holds what is not yet verified, nearest last."""
        trusted, ahead = start, [start if start.header.height == height else self._block(primary, height)]
        for _ in range(MAX_FORWARD_STEPS):
            if trusted.header.height == height:
                return trusted
            try:
                verification.verify_later(trusted, ahead[-1], self._rules, self._now_ns())
            except TooLittleTrustError:
                middle = Height((trusted.header.height + ahead[-1].header.height) // 2)
                ahead.append(self._block(primary, middle))
            else:
                trusted = ahead.pop()
        raise VerificationFailedError(
            f"{primary.name}: header {height} not reached from {start.header.height} in {MAX_FORWARD_STEPS} steps",
            remedy="Give a newer anchor (trust_height, trust_hash); if it stays so, the node is hostile.",
        )

    def _backward(self, primary: HeaderSource, trusted: Header, height: Height) -> SignedHeader:
        """Down the chain of hashes, MAX_HEADERS_A_CALL headers at a time."""
        if trusted.height - height > MAX_BACKWARD_HEADERS:
            raise VerificationFailedError(
                f"header {height} is {trusted.height - height} below the trusted header {trusted.height}, "
                f"more than {MAX_BACKWARD_HEADERS}",
                remedy="Use the header in the snapshot's signed manifest, or give an anchor near that height.",
            )
        while trusted.height > height:
            low = Height(max(height, trusted.height - MAX_HEADERS_A_CALL))
            for earlier in primary.headers(low, Height(trusted.height - 1)):
                verification.verify_earlier(trusted, earlier)
                trusted = earlier
        signed = primary.commit(height)
        if signed.header != trusted:
            raise VerificationFailedError(
                f"{primary.name}: /commit and /blockchain show different headers {height}", remedy=verification.FORGED
            )
        return signed

    def _block(self, source: HeaderSource, height: Height) -> LightBlock:
        """The signed header and its validators, waited for when the chain is about to make it."""
        deadline = self._monotonic() + self._wait_s
        while True:
            try:
                return LightBlock(source.commit(height), source.validators(height))
            except NotFoundError:
                latest = source.status().latest_height
                soon = latest < height <= latest + self._wait_s / self._chain.block_time_s
                if not soon or self._monotonic() >= deadline:
                    raise
            self._sleep(_POLL_S)

    def _cross_check(self, primary: HeaderSource, primary_id: str, target: SignedHeader) -> None:
        """Witnesses are asked side by side; those that lag are waited for only while none has agreed."""
        witnesses = [source for source in self._sources if source is not primary]
        deadline = self._monotonic() + self._wait_s
        with ThreadPoolExecutor(min(MAX_ASKED_AT_ONCE, len(witnesses)), "witness") as pool:
            while True:
                ask = partial(self._ask_witness, primary.name, primary_id, target)
                answers = list(pool.map(ask, witnesses))
                if any(answer.agrees for answer in answers):
                    return
                if not any(answer.lags for answer in answers) or self._monotonic() >= deadline:
                    break
                self._sleep(_POLL_S)
        raise VerificationFailedError(
            f"header {target.header.height} of {primary.name}: could not run the cross-check: "
            + "; ".join(answer.reason for answer in answers),
            remedy="Bring back an independent node that has this height; one source alone is never believed.",
        )

    def _ask_witness(
        self, primary: str, primary_id: str, target: SignedHeader, witness: HeaderSource
    ) -> "_WitnessAnswer":
        try:
            status = self._checked_status(witness)
            if status.node_id == primary_id:
                return _WitnessAnswer(reason=f"{witness.name} is the same node as {primary}")
            if status.latest_height < target.header.height:
                return _WitnessAnswer(reason=f"{witness.name} is at height {status.latest_height}", lags=True)
            shown = witness.commit(target.header.height)
        except (UnavailableError, NotFoundError, CorruptError) as error:
            return _WitnessAnswer(reason=error.message)
        if shown.header.hash() != target.header.hash():
            raise DivergenceError((primary, target), (witness.name, shown))
        return _WitnessAnswer(agrees=True)


@dataclass(frozen=True, slots=True)
class _WitnessAnswer:
    agrees: bool = False
    lags: bool = False
    reason: str = ""


def _sealed(header: Header) -> VerifiedHeader:
    return VerifiedHeader(
        height=header.height,
        hash=header.hash().hex().upper(),
        app_hash=header.app_hash.hex().upper(),
        validators_hash=header.validators_hash.hex().upper(),
        chain_id=header.chain_id,
        time=to_datetime(header.time_ns),
        header=header,
        seal=_SEAL,
    )
