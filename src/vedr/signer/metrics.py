"""What the signer counts, as Prometheus reads it.

Guarantees: a series exists from the start, at 0, so that a first refusal is seen as an increase; threads may share it.
Leaves out: serving it (`vedr.adapters.metrics_http`).

Format: prometheus.io/docs/instrumenting/exposition_formats, text 0.0.4.
"""

import bisect
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from vedr.chain.sign_state import Hrs
from vedr.signer.rules import Reason

KINDS: Final = ("proposal", "prevote", "precommit")
TRIES: Final = ("published", "known", "passed", "conflicting", "not_published", "not_signed")
"""What can come of trying to bring a recorded vote to the network: vedr.signer.publishing.Outcome, or no signature."""
BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # the node waits 5 s

GAUGES: Final = ("epoch", "last_height", "last_round", "last_step", "connected", "waiting")
_LAST: Final = GAUGES[1:4]


class Histogram:
    """Counts of durations, by upper bound."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS_S) + 1)
        self._sum_s = 0.0

    def observe(self, took_s: float) -> None:
        self._counts[bisect.bisect_left(BUCKETS_S, took_s)] += 1
        self._sum_s += took_s

    def lines(self, name: str, label: str = "") -> list[str]:
        total, lines = 0, []
        comma = "," if label else ""
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self._counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{{label}{comma}le="{bound}"}} {total}')
        braces = f"{{{label}}}" if label else ""
        return [*lines, f"{name}_sum{braces} {self._sum_s:.6f}", f"{name}_count{braces} {total}"]


@dataclass(frozen=True, slots=True)
class Metrics:
    """The signer's counts and gauges."""

    _signed: Counter[str] = field(default_factory=Counter)
    _refused: Counter[str] = field(default_factory=Counter)
    _tries: Counter[str] = field(default_factory=Counter)
    _took: Histogram = field(default_factory=Histogram)
    _registers: dict[str, Histogram] = field(default_factory=dict)
    _failures: Counter[str] = field(default_factory=Counter)
    _gauges: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GAUGES, 0))
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def waits(self) -> None:
        """The node is served, and the registers are taken over when it asks for a signature."""
        with self._turn:
            self._gauges["waiting"] = 1

    def begins(self, epoch: int, hrs: Hrs) -> None:
        """The registers are held under this epoch, and were taken over at this height, round and step."""
        with self._turn:
            self._gauges["waiting"] = 0
            self._gauges["epoch"] = epoch
            self._gauges.update(zip(_LAST, hrs, strict=True))

    def signed(self, kind: str, hrs: Hrs, took_s: float) -> None:
        """A signature went out."""
        with self._turn:
            self._signed[kind] += 1
            self._took.observe(took_s)
            self._gauges.update(zip(_LAST, hrs, strict=True))

    def refused(self, reason: Reason) -> None:
        """A signature was asked for and not given."""
        with self._turn:
            self._refused[reason] += 1

    def tried(self, outcome: str) -> None:
        """To bring a recorded vote to the network, with this outcome."""
        with self._turn:
            self._tries[outcome] += 1

    def register(self, region: str, took_s: float, *, failed: bool) -> None:
        """A region's register answered, or did not."""
        with self._turn:
            self._registers.setdefault(region, Histogram()).observe(took_s)
            self._failures[region] += failed

    def connected(self, by: int) -> None:
        """A node's connection came (1) or went (-1)."""
        with self._turn:
            self._gauges["connected"] += by

    def text(self) -> str:
        """Everything, in Prometheus' text format."""
        with self._turn:
            return "\n".join(self._lines()) + "\n"

    def _lines(self) -> list[str]:
        lines = ["# TYPE vedr_signer_signatures_total counter"]
        lines += [f'vedr_signer_signatures_total{{kind="{kind}"}} {self._signed[kind]}' for kind in KINDS]
        lines.append("# TYPE vedr_signer_refusals_total counter")
        lines += [f'vedr_signer_refusals_total{{reason="{reason}"}} {self._refused[reason]}' for reason in Reason]
        lines.append("# TYPE vedr_signer_recorded_votes_total counter")
        lines += [f'vedr_signer_recorded_votes_total{{outcome="{name}"}} {self._tries[name]}' for name in TRIES]
        lines += ["# TYPE vedr_signer_sign_seconds histogram", *self._took.lines("vedr_signer_sign_seconds")]
        lines.append("# TYPE vedr_signer_register_seconds histogram")
        for region, histogram in sorted(self._registers.items()):
            lines += histogram.lines("vedr_signer_register_seconds", f'region="{region}"')
        lines.append("# TYPE vedr_signer_register_failures_total counter")
        lines += [f'vedr_signer_register_failures_total{{region="{r}"}} {n}' for r, n in sorted(self._failures.items())]
        for name in GAUGES:
            lines += [f"# TYPE vedr_signer_{name} gauge", f"vedr_signer_{name} {self._gauges[name]}"]
        return lines
