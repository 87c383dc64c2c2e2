"""Asks gateways for a sign of health, as users reach them: `vedr.failover.traffic_steering.Prober` over HTTP.

Guarantees: a proof needs status 200 at the site's health path within seconds; every gateway is asked at once, so a
dead region costs one time-out, not one a gateway.
Leaves out: whether the chain moves on, which the consensus steps of a runbook see.
"""

import concurrent.futures
from collections.abc import Sequence
from typing import Final

import httpx

from vedr.failover.traffic_steering import Proof
from vedr.inventory import Gateway
from vedr.ports import Clock

TIMEOUT_S: Final = 3.0
MAX_THREADS: Final = 16


class HttpProber:
    """Proofs by GET."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._path, self._clock = path, clock

    def probe(self, gateways: Sequence[Gateway]) -> tuple[Proof, ...]:
        if not gateways:
            return ()
        with (
            httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client,
            concurrent.futures.ThreadPoolExecutor(min(MAX_THREADS, len(gateways))) as pool,
        ):
            return tuple(pool.map(lambda gateway: self._probe(client, gateway), gateways))

    def _probe(self, client: httpx.Client, gateway: Gateway) -> Proof:
        at = self._clock()
        try:
            status = client.get(f"{gateway.url}{self._path}").status_code
        except httpx.HTTPError as error:
            return Proof(gateway.name, at, f"{type(error).__name__}: {error}")
        return Proof(gateway.name, at, "" if status == httpx.codes.OK else f"status {status}")
