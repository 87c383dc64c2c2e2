"""CometBFT's RPC over HTTP.

Guarantees: each call ends within its deadline and reads no more than its size limit; every failure is one of ours.
Leaves out: retries, which the callers' steps have; a node that sends its HTTP head byte by byte, each within the
deadline.
"""

import time
from types import TracebackType
from typing import Final, Self

import httpx

from vedr.chain import rpc
from vedr.chain.block import Header, SignedHeader, ValidatorSet
from vedr.chain.wire import Value, parse_json
from vedr.errors import CorruptError, NotFoundError, UnavailableError
from vedr.inventory import Height

DEFAULT_DEADLINE_S: Final = 3.0
CONNECT_LIMIT_S: Final = 1.0  # a host that is gone costs no more; between continents a connection takes a quarter of it
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024  # a genesis chunk is 16 MiB in base64, a full block up to 100 MiB is refused
VALIDATORS_A_PAGE: Final = 100  # rpc/core/env.go: maxPerPage
MAX_PAGES: Final = 100
_HEIGHT_ERRORS: Final = (
    "must be less than or equal to the current blockchain height",
    "is not available, lowest height is",
    "could not find validator set for height",
    "can't be greater than max height",
)


class HttpChainRpc:
    """A node's RPC, as `chain.rpc.ChainRpc`.  Thread-safe; close it, or use it with `with`."""

    def __init__(self, url: str, *, name: str | None = None, deadline_s: float = DEFAULT_DEADLINE_S) -> None:
        self.url: Final = url.rstrip("/")
        self._name = name or self.url
        self._deadline_s = deadline_s
        tls = self.url.startswith("https:")  # without it no certificates are loaded, 90 ms for each of many nodes
        self._client = httpx.Client(
            timeout=httpx.Timeout(deadline_s, connect=min(CONNECT_LIMIT_S, deadline_s)),
            trust_env=False,
            verify=tls,
            headers={"Cache-Control": "no-cache"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of its connections."""
        self._client.close()

    @property
    def name(self) -> str:
        return self._name

    def status(self) -> rpc.Status:
        return rpc.parse_status(self._call("status"))

    def commit(self, height: Height | None = None) -> SignedHeader:
        answer = self._call("commit", **_at(height))["signed_header"]
        signed = SignedHeader.parse(answer)
        if height is not None and signed.header.height != height:
            raise answer["header"]["height"].wrong(f"height {height}")
        return signed

    def validators(self, height: Height) -> ValidatorSet:
        pages: list[Value] = []
        listed, total = 0, 1
        while listed < total and len(pages) < MAX_PAGES:
            page = self._call("validators", height=height, page=len(pages) + 1, per_page=VALIDATORS_A_PAGE)
            count, total = page["count"].int64(low=1), page["total"].int64(low=1)
            listed += count
            pages.append(page)
        return rpc.parse_validators(pages, height)

    def header(self, height: Height) -> Header:
        answer = self._call("header", height=height)["header"]
        header = Header.parse(answer)
        if header.height != height:
            raise answer["height"].wrong(f"height {height}")
        return header

    def headers(self, low: Height, high: Height) -> tuple[Header, ...]:
        return rpc.parse_headers(self._call("blockchain", minHeight=low, maxHeight=high), low, high)

    def abci_info(self) -> rpc.AbciInfo:
        return rpc.parse_abci_info(self._call("abci_info"))

    def net_info(self) -> rpc.NetInfo:
        return rpc.parse_net_info(self._call("net_info"))

    def consensus_state(self) -> rpc.ConsensusState:
        return rpc.parse_consensus_state(self._call("dump_consensus_state"))

    def vote_extensions_from(self) -> Height:
        """The first height whose precommits carry extensions; 0 for never."""
        return rpc.parse_vote_extensions(self._call("consensus_params"))

    def block(self, height: Height | None = None) -> rpc.Block:
        return rpc.parse_block(self._call("block", **_at(height)))

    def genesis(self) -> bytes:
        chunks = [self._call("genesis_chunked", chunk=0)]
        total = chunks[0]["total"].int64(low=1, high=MAX_PAGES)
        chunks += [self._call("genesis_chunked", chunk=index) for index in range(1, total)]
        return rpc.join_genesis(chunks)

    def _call(self, method: str, **parameters: int) -> Value:
        what = f"{self._name} /{method}"
        try:
            document = parse_json(self._fetch(method, parameters), what=what)
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"{what}: {type(error).__name__}: {error}", remedy="Check that the node runs and its RPC is reachable."
            ) from error
        if document["error"].present():
            raise _refused(what, document["error"])
        if not document["result"].present():
            raise document.wrong("a JSON-RPC result")
        return document["result"]

    def _fetch(self, method: str, parameters: dict[str, int]) -> bytes:
        """The answer's body, whatever its HTTP status (CometBFT sends errors with 500), within the deadline."""
        deadline = time.monotonic() + self._deadline_s
        body = bytearray()
        query = {name: str(number) for name, number in parameters.items()}
        with self._client.stream("GET", f"{self.url}/{method}", params=query) as answer:
            for piece in answer.iter_bytes():  # as it comes: pieces of a given size would be waited for, however long
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    raise CorruptError(
                        f"{self._name} /{method}: more than {MAX_ANSWER_BYTES} bytes", remedy="Ask another node."
                    )
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        f"{self._name} /{method}: not whole after {self._deadline_s:g} s", remedy="Ask another node."
                    )
            if answer.status_code != httpx.codes.OK and not body.startswith(b"{"):
                raise UnavailableError(
                    f"{self._name} /{method}: HTTP {answer.status_code}", remedy="Check the node and what is before it."
                )
        return bytes(body)


def _at(height: Height | None) -> dict[str, int]:
    return {} if height is None else {"height": height}


def _refused(what: str, error: Value) -> Exception:
    data = error["data"]
    said = data.text() if data.present() else error["message"].text()
    message = f"{what}: {said[:300]}"
    if any(known in said for known in _HEIGHT_ERRORS):
        return NotFoundError(message, remedy="Ask for a height that the node keeps, or another node.")
    return UnavailableError(message, remedy="Look into the node's log.")
