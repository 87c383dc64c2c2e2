"""Watches sign-state files and ships each change to the regions; reads the copies back when a floor is wanted.

The file is read whole every 10 ms and compared with what it said before.  Not inotify: FilePV replaces the file by
rename, so a watch has to follow the folder, is lost when that is replaced in a restore, and does not exist on every
file system, while a read of 500 cached bytes takes 30 microseconds.  Not the file's times either: the kernel's clock
for them stands still for up to 10 ms and inode numbers come back, so that two changes in a row can look like none.

Guarantees: the newest state is on its way within POLL_S of its rename; a torn, absent or unreadable file and a store
that is away are waited out, and then only the newest state is sent; ending with SIGTERM ships the last state first.  A
key that may sign at several hosts has its shipper at each, and only the one beside it reads.
Leaves out: how to stop a validator; every alarm asks people to.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedr.chain.register import Validator
from vedr.chain.register_claim import ABSENT
from vedr.chain.register_regions import Regions
from vedr.chain.shipping import LAG_BUCKETS_S, MAX_BYTES, US_PER_S, Shipment, Shipped, key_of
from vedr.chain.sign_state import SignState, parse_sign_state
from vedr.errors import UnavailableError, VedrError
from vedr.ports import Registers

POLL_S: Final = 0.01
ALARM_CHECK_S: Final = 0.2
REPEAT_ALARM_S: Final = 60.0
UNREADABLE_AFTER_S: Final = 1.0  # a file that is being replaced is back much sooner
BEHIND_AFTER_S: Final = 5.0  # a region that is away, and its return, are over sooner or are an outage
FLUSH_DEADLINE_S: Final = 3.0
LOOK_DEADLINE_S: Final = 5.0

_LAG: Final = "vedr_sign_state_ship_lag_seconds"

Log = Callable[[str], None]


def now_us() -> int:
    """The clock that file systems use."""
    return time.time_ns() // 1000


class Shipper:
    """Ships one validator's file; close it when done.

    Args:
        validator: Whose key it is.
        path: The sign-state file, on this host.
        registers: The regions'.
        name: The validator's.
        source: The node whose file it is: the validator's own, or one that may be given its key.
        signs_here: Whether the key is on this host, if it may be elsewhere: while it is, nothing is read.
    """

    def __init__(
        self,
        validator: Validator,
        path: Path,
        registers: Mapping[str, Registers],
        *,
        name: str,
        source: str,
        signs_here: Callable[[], bool] = lambda: True,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        self.name: Final = name
        self._source: Final = source
        self._signs_here = signs_here
        self._is_here = True
        self._path = path
        self._clock_us = clock_us
        self._said: bytes | None = None
        self._unreadable_since_us: int | None = None
        self._unreadable = ""
        self._shipment = Shipment(validator, tuple(registers), now_us=clock_us)
        self._regions = Regions(self._shipment, key_of(validator), registers)

    def look(self) -> None:
        """Read the file, and offer what it says when that is new."""
        try:
            self._is_here = self._signs_here()
            if not self._is_here:
                self._unreadable_since_us = None
                return
            data, changed_us = _read(self._path)
            if data == self._said:
                self._unreadable_since_us = None
                return
            state = parse_sign_state(data, what=str(self._path))
        except OSError as error:
            self._cannot_read(f"{self._path}: {error.strerror}")
        except VedrError as error:
            self._cannot_read(error.message)
        else:
            self._said, self._unreadable_since_us = data, None
            with self._regions.changing():
                self._shipment.offer(Shipped(self._source, changed_us, state))

    def alarms(self) -> tuple[str, ...]:
        """What people have to look at now; nothing while the key signs elsewhere, and is looked at there."""
        if not self._is_here:
            return ()
        with self._regions.looking():
            found = list(self._shipment.alarms())
            if self._shipment.behind_us > BEHIND_AFTER_S * US_PER_S:
                without = ", ".join(sorted(self._shipment.problems())) or "the others"
                found.append(f"the newest state is in no majority of the regions: {without} did not take it")
        since = self._unreadable_since_us
        if since is not None and self._clock_us() - since > UNREADABLE_AFTER_S * US_PER_S:
            found.append(f"{self._unreadable}: nothing is shipped")
        return tuple(found)

    def flush(self, *, deadline_s: float) -> bool:
        """Wait until a majority of the regions has the newest state; True as well when there is none."""
        shipment = self._shipment
        return self._regions.wait_for(lambda: shipment.newest is None or shipment.is_durable, deadline_s=deadline_s)

    def close(self) -> None:
        """Send nothing more."""
        self._regions.close()

    def metrics(self) -> list[str]:
        """This validator's samples, in Prometheus' text format; while its key is elsewhere, that and no more."""
        who = f'validator="{self.name}"'
        here = f"vedr_sign_state_signs_here{{{who}}} {int(self._is_here)}"
        if not self._is_here:
            return [here]
        alarms = len(self.alarms())
        with self._regions.looking():
            shipment = self._shipment
            lines = [
                here,
                f"vedr_sign_state_alarms{{{who}}} {alarms}",
                f"vedr_sign_state_behind_seconds{{{who}}} {shipment.behind_us / US_PER_S:.6f}",
                f"vedr_sign_state_file_height{{{who}}} {shipment.newest.state.height if shipment.newest else 0}",
                *_lag_lines(who, shipment),
            ]
            problems = shipment.problems()
            for region, copy in shipment.copies().items():
                where = f'{who},region="{region}"'
                lines.append(f"vedr_sign_state_region_up{{{where}}} {int(problems.get(region, ABSENT) == ABSENT)}")
                if copy:
                    age_s = max(0, self._clock_us() - copy.changed_us) / US_PER_S
                    lines.append(f"vedr_sign_state_shipped_height{{{where}}} {copy.state.height}")
                    lines.append(f"vedr_sign_state_shipped_age_seconds{{{where}}} {age_s:.3f}")
        return lines

    def _cannot_read(self, why: str) -> None:
        self._unreadable = why
        if self._unreadable_since_us is None:
            self._unreadable_since_us = self._clock_us()


def metrics_text(shippers: Sequence[Shipper]) -> str:
    """Everything that a process exports."""
    samples = [line for shipper in shippers for line in shipper.metrics()]
    families = sorted({_family(line) for line in samples})
    lines: list[str] = []
    for family in families:
        kind = "histogram" if family == _LAG else "gauge"
        lines += [f"# TYPE {family} {kind}", *(line for line in samples if _family(line) == family)]
    return "\n".join(lines) + "\n"


def ship(
    shippers: Sequence[Shipper], stopping: threading.Event, log: Log, *, monotonic: Callable[[], float] = time.monotonic
) -> bool:
    """Ship until told to stop, then once more; True when every validator's last state reached its majority.

    Every alarm is logged when it appears and once a minute while it stays.
    """
    shouted: dict[tuple[str, str], float] = {}
    next_check_s = monotonic()
    while not stopping.wait(POLL_S):
        for shipper in shippers:
            shipper.look()
        if (now_s := monotonic()) >= next_check_s:
            _shout(shippers, shouted, log, now_s)
            next_check_s = now_s + ALARM_CHECK_S
    for shipper in shippers:
        shipper.look()
    shipped = [shipper.flush(deadline_s=FLUSH_DEADLINE_S) for shipper in shippers]
    for shipper in shippers:
        shipper.close()
    return all(shipped)


def _shout(shippers: Sequence[Shipper], shouted: dict[tuple[str, str], float], log: Log, now_s: float) -> None:
    standing = {(shipper.name, alarm) for shipper in shippers for alarm in shipper.alarms()}
    for gone in set(shouted) - standing:
        del shouted[gone]
        log(f"over: {gone[0]}: {gone[1]}")
    for name, alarm in sorted(standing):
        if now_s - shouted.get((name, alarm), -REPEAT_ALARM_S) >= REPEAT_ALARM_S:
            shouted[name, alarm] = now_s
            log(f"ALARM: {name}: {alarm}")


@dataclass(frozen=True, slots=True)
class Copies:
    """The shipped copies of one validator's state, by region, and what the other regions lack."""

    shipped: Mapping[str, Shipped]
    problems: Mapping[str, str]

    @property
    def is_majority(self) -> bool:
        """Whether the highest copy is at least what any majority ever held."""
        return len(self.shipped) > len(self.problems)

    @property
    def states(self) -> tuple[SignState, ...]:
        """For a floor, which takes the highest."""
        return tuple(copy.state for copy in self.shipped.values())


def look_at_copies(
    validator: Validator, registers: Mapping[str, Registers], *, deadline_s: float = LOOK_DEADLINE_S
) -> Copies:
    """What every region that answers holds; writes nothing.

    A copy is never proof of the last signature: the vote that was being shipped when the host died may be missing.

    Raises:
        UnavailableError: no region answered with a copy that can be read, or that it has none.
    """
    shipment = Shipment(validator, tuple(registers), now_us=now_us)
    with Regions(shipment, key_of(validator), registers, only_asks=True) as regions:
        regions.wait_for(lambda: shipment.is_looked_at, deadline_s=deadline_s)
        with regions.looking():
            shipped = {region: copy for region, copy in shipment.copies().items() if copy}
            problems = shipment.problems()
    if len(shipped) + list(problems.values()).count(ABSENT) == 0:
        raise UnavailableError(
            f"no region tells a shipped state of {validator.address}: {'; '.join(problems.values())}",
            remedy="Restore the connection to one of these regions' stores.",
        )
    return Copies(shipped, problems)


def _lag_lines(who: str, shipment: Shipment) -> list[str]:
    lags, total, lines = shipment.lags, 0, []
    for bound, count in zip((*map(str, LAG_BUCKETS_S), "+Inf"), lags.counts, strict=True):
        total += count
        lines.append(f'{_LAG}_bucket{{{who},le="{bound}"}} {total}')
    return [
        *lines,
        f"{_LAG}_sum{{{who}}} {lags.sum_us / US_PER_S:.6f}",
        f"{_LAG}_count{{{who}}} {total}",
        f"vedr_sign_state_last_lag_seconds{{{who}}} {lags.last_us / US_PER_S:.6f}",
    ]


def _family(line: str) -> str:
    name = line.partition("{")[0]
    return _LAG if name.startswith(_LAG) else name


def _read(path: Path) -> tuple[bytes, int]:
    """Content and time of change of one and the same file; bare calls, since this runs a hundred times a second."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, MAX_BYTES + 1), os.fstat(file).st_mtime_ns // 1000
    finally:
        os.close(file)
