"""The fleet of a site whose nodes are services of systemd, on hosts reached over SSH.

Guarantees: what vedr.ports.Fleet promises.  `stop` also keeps the unit from starting at boot, `start` lets it again.  A
pause is held by a service on the host, which thaws the unit when its time is over, when it is stopped, and when it is
killed, whatever becomes of us.  A unit is called stopped only when its control group has no process left.
Leaves out: retries; units' files (deployments/systemd has the settings that the promises rest on).
"""

import datetime as dt
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from vedr.adapters.fleet_ssh import Ran, SshConnection, known_hosts, private_key
from vedr.errors import (
    ConflictError,
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VerificationFailedError,
)
from vedr.policies.fleet import Ssh
from vedr.ports import Pause, UnitState, UnitStatus

ANSWER_LIMIT_S: Final = 10.0
START_LIMIT_S: Final = 30.0
KILL_LIMIT_S: Final = 15.0
LONGEST_PAUSE_S: Final = 600.0  # a validator's neighbours notice after seconds
POLL_S: Final = 0.1
NEVER: Final = dt.datetime.fromtimestamp(0, dt.UTC)
_STARTERS: Final = ("WantedBy", "RequiredBy", "BoundBy", "UpheldBy", "TriggeredBy", "OnSuccessOf", "OnFailureOf")
_SHOWN: Final = (
    *(
        "LoadState",
        "ActiveState",
        "SubState",
        "Result",
        "Job",
        "MainPID",
        "ControlGroup",
        "FreezerState",
        "InvocationID",
    ),
    *("UnitFileState", "StateChangeTimestamp", "ExecMainCode", "ExecMainStatus", *_STARTERS),
)
_EXITED: Final = "1"  # CLD_EXITED; 2 and 3 are signals (waitid(2))
_REFUSALS: Final = (
    "access denied",
    "authentication is required",
    "authentication required",
    "not allowed",
    "a password is",
    "permission denied",
)


@dataclass(frozen=True, slots=True)
class _Unit:
    """One service on its host: how to ask for it."""

    connection: SshConnection
    service: str
    zone: str
    systemctl: tuple[str, ...]
    systemd_run: tuple[str, ...]

    @property
    def guard(self) -> str:
        """The service that holds its pause."""
        return f"vedr-pause-{self.service.removesuffix('.service')}.service"

    @property
    def where(self) -> str:
        return f"{self.service} on {self.connection.name}"

    def show(self, service: str | None = None) -> Mapping[str, str]:
        ran = self.do("show", "--timestamp=us+utc", f"--property={','.join(_SHOWN)}", "--", service or self.service)
        return dict(line.split("=", 1) for line in ran.output.splitlines() if "=" in line)

    def do(self, *arguments: str) -> Ran:
        return self.run((*self.systemctl, *arguments))

    def run(self, command: Sequence[str]) -> Ran:
        ran = self.connection.run(command, limit_s=ANSWER_LIMIT_S)
        if ran.exit_code:
            self._failed(command, ran)
        return ran

    def _failed(self, command: Sequence[str], ran: Ran) -> NoReturn:
        said = ran.errors.splitlines()[-1][:200] if ran.errors else "nothing"
        message = f"{self.where}: `{' '.join(command[:4])} …` ended with {ran.exit_code}: {said}"
        if any(word in ran.errors.lower() for word in _REFUSALS):
            raise RefusedError(message, remedy="Give the user the rights that docs/fleet.md lists.")
        raise UnavailableError(message, remedy="Look at systemd on the host: this proves nothing about the unit.")


@dataclass(frozen=True, slots=True)
class _Held:
    """A pause of ours: which run of the guard holds it, since when and for how long."""

    invocation: str
    since_s: float
    limit_s: float


class SystemdFleet:
    """vedr.ports.Fleet over systemd.

    Args:
        policy: Hosts and their units.
        key: The private key to log in with.
        known: The hosts' keys, as OpenSSH's known_hosts has them.
    """

    def __init__(self, policy: Ssh, key: bytes, known: bytes) -> None:
        self._policy = policy
        ours, theirs = private_key(key, policy.key), known_hosts(known, policy.known_hosts)
        self._units: dict[tuple[str, str], _Unit] = {}
        self._connections: list[SshConnection] = []
        become = ("sudo", "-n") if policy.become == "sudo" else ()
        manager = ("--user",) if policy.manager == "user" else ()
        for name, host in policy.hosts.items():
            connection = SshConnection(name, host.address, host.port, user=policy.user, key=ours, known=theirs)
            self._connections.append(connection)
            for unit, service in host.units.items():
                systemctl = ("env", "LC_ALL=C", *become, "systemctl", *manager, "--no-ask-password", "--no-pager")
                run = ("env", "LC_ALL=C", *become, "systemd-run", *manager, "--no-ask-password", "--quiet", "--collect")
                self._units[unit, host.zone] = _Unit(connection, service, host.zone, systemctl, run)
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()

    def status(self, unit: str, zone: str) -> UnitStatus:
        there = self._unit(unit, zone)
        return _status(unit, there, there.show())

    def start(self, unit: str, zone: str) -> UnitStatus:
        there = self._unit(unit, zone)
        shown = _loaded(there, there.show())
        if shown["LoadState"] == "masked":
            raise RefusedError(f"{there.where} is masked", remedy="Somebody forbade it: ask who, then unmask it.")
        if shown["UnitFileState"] == "disabled":
            there.do("enable", "--", there.service)
        if shown["ActiveState"] == "failed":
            there.do("reset-failed", "--", there.service)
        there.do("start", "--no-block", "--", there.service)
        status = self._await_process(unit, there)
        if shown["MainPID"] == "0" and status.state == "paused":
            there.do("thaw", "--", there.service)  # systemd 252 takes the state over from a run that was killed frozen
            return self.status(unit, zone)
        return status

    def stop(self, unit: str, zone: str) -> UnitStatus:
        there = self._unit(unit, zone)
        before = _loaded(there, there.show())
        if before["UnitFileState"] in ("enabled", "enabled-runtime"):
            there.do(
                "disable", *(("--runtime",) if before["UnitFileState"] == "enabled-runtime" else ()), there.service
            )
        self._release(there)
        there.do("stop", "--no-block", "--", there.service)
        after = self._await_end(unit, there, self._policy.stop_grace_s)
        if _is_alive(before) and after["Result"] == "timeout":
            raise DeadlineError(
                f"{there.where} did not end within its TimeoutStopSec: systemd killed it",
                remedy=f"Set TimeoutStopSec above {self._policy.stop_grace_s:g} s; its data may need a check.",
            )
        return _status(unit, there, after)

    def kill(self, unit: str, zone: str) -> UnitStatus:
        there = self._unit(unit, zone)
        before = _loaded(there, there.show())
        if _is_alive(before):
            there.do("kill", "--signal=SIGKILL", "--kill-who=all", "--", there.service)
            self._await_other_run(there, before)
        self._release(there)
        return self.status(unit, zone)

    def pause(self, unit: str, zone: str, *, limit_s: float) -> None:
        """ConflictError when it does not run, or is paused already."""
        if not 0 < limit_s <= LONGEST_PAUSE_S:
            raise InvalidInputError(
                f"a pause of {limit_s:g} s: want above 0 and at most {LONGEST_PAUSE_S:g}", remedy="Stop it instead."
            )
        there = self._unit(unit, zone)
        state = _status(unit, there, there.show()).state
        if state != "running":
            raise ConflictError(
                f"{there.where} is {state}, only a running one can be paused", remedy="See who acts on it."
            )
        since_s = time.monotonic()
        there.run((*there.systemd_run, *_guarding(there, limit_s)))
        is_frozen = there.show()["FreezerState"] == "frozen"
        guard = there.show(there.guard)
        with self._lock:
            self._held[there.where] = _Held(guard["InvocationID"], since_s, limit_s)
        if not is_frozen and guard["ActiveState"] == "active":
            self._release(there)
            raise UnavailableError(
                f"{there.where} did not freeze",
                remedy="The host needs control groups of version 2, and systemd 246 or newer.",
            )

    def resume(self, unit: str, zone: str) -> Pause:
        """ConflictError when it was not paused."""
        there = self._unit(unit, zone)
        with self._lock:
            held = self._held.pop(there.where, None)
        is_frozen = _loaded(there, there.show())["FreezerState"] == "frozen"
        guard = there.show(there.guard)
        if held is None and not is_frozen:
            raise ConflictError(f"{there.where} is not paused", remedy="Its pause may have ended by itself before.")
        is_ours = held is None or guard["InvocationID"] == held.invocation
        self._release(there)
        if not is_frozen or not is_ours or guard["ActiveState"] != "active":
            return Pause(paused_s=held.limit_s if held else 0.0, expired=True)
        if held is not None:
            return Pause(paused_s=time.monotonic() - held.since_s, expired=False)
        # another process paused it: the host's clock against ours
        took = dt.datetime.now(dt.UTC) - _moment(guard["StateChangeTimestamp"])
        return Pause(paused_s=max(0.0, took.total_seconds()), expired=False)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _unit(self, unit: str, zone: str) -> _Unit:
        if (unit, zone) not in self._units:
            there = ", ".join(name for name, place in self._units if place == zone) or "none"
            raise NotFoundError(
                f"no host is known for unit {unit!r} in zone {zone!r}", remedy=f"[fleet.ssh.hosts] has there: {there}."
            )
        return self._units[unit, zone]

    def _release(self, there: _Unit) -> None:
        """End the guard, which thaws the unit; quiet when there is none."""
        if there.show(there.guard)["ActiveState"] not in ("inactive", "failed"):
            there.do("stop", "--", there.guard)

    def _await_process(self, unit: str, there: _Unit) -> UnitStatus:
        until = time.monotonic() + START_LIMIT_S
        while True:
            shown = there.show()
            status = _status(unit, there, shown)
            if status.pid is not None or (shown["Job"] in ("", "0") and status.state == "stopped"):
                return status  # also one that had its process and has ended well since
            if status.state == "failed" and shown["Job"] in ("", "0"):
                raise VerificationFailedError(
                    f"{there.where} did not start: {shown['Result']}, status {shown['ExecMainStatus']}",
                    remedy=f"Read its log on the host: journalctl -u {there.service}.",
                )
            if time.monotonic() > until:
                raise DeadlineError(
                    f"{there.where} has no process {START_LIMIT_S:g} s after its start ({shown['SubState']})",
                    remedy="See what it waits for: systemctl list-jobs.",
                )
            time.sleep(POLL_S)

    def _await_end(self, unit: str, there: _Unit, limit_s: float) -> Mapping[str, str]:
        until = time.monotonic() + limit_s
        while True:
            shown = there.show()
            if not _is_alive(shown) and shown["Job"] in ("", "0"):
                return shown
            if time.monotonic() > until:
                status = _status(unit, there, shown)
                raise DeadlineError(
                    f"{there.where} is still there {limit_s:g} s after it was told to stop (pid {status.pid}, "
                    f"{shown['SubState']})",
                    remedy="It was not killed: look at its log, then kill it.",
                )
            time.sleep(POLL_S)

    def _await_other_run(self, there: _Unit, before: Mapping[str, str]) -> None:
        """Until the processes that were there are gone; systemd may have started the next by then."""
        until = time.monotonic() + KILL_LIMIT_S
        while True:
            shown = there.show()
            if not _is_alive(shown) or shown["InvocationID"] != before["InvocationID"]:
                return
            if time.monotonic() > until:
                raise DeadlineError(
                    f"{there.where} is still there {KILL_LIMIT_S:g} s after SIGKILL (pid {shown['MainPID']})",
                    remedy="It hangs in the kernel: stop the machine.",
                )
            time.sleep(POLL_S)


def _guarding(there: _Unit, limit_s: float) -> tuple[str, ...]:
    """A service that freezes the unit before it starts and thaws it after it ends, however it ends.

    systemd-run returns when it has started: the unit then stands still, and the guard is there.
    """
    manager = "--user " if "--user" in there.systemctl else ""
    return (
        f"--unit={there.guard}",
        f"--property=ExecStartPre=systemctl {manager}freeze {there.service}",
        f"--property=ExecStopPost=systemctl {manager}thaw {there.service}",
        "sleep",
        f"{limit_s:.3f}",
    )


def _loaded(there: _Unit, shown: Mapping[str, str]) -> Mapping[str, str]:
    if missing := [name for name in ("LoadState", "ActiveState", "MainPID") if name not in shown]:
        raise UnavailableError(
            f"{there.where}: systemctl did not tell {', '.join(missing)}", remedy="Look at systemd on the host."
        )
    if shown["LoadState"] == "not-found":
        raise NotFoundError(f"{there.where}: systemd knows no such unit", remedy="Check its name in [fleet.ssh.hosts].")
    return shown


def _is_alive(shown: Mapping[str, str]) -> bool:
    """Whether any process is left, also of a unit that systemd gave up on."""
    ended = shown["ActiveState"] in ("inactive", "failed") or shown["SubState"] == "auto-restart"
    return not ended or shown["MainPID"] != "0" or bool(shown["ControlGroup"])


def _status(unit: str, there: _Unit, shown: Mapping[str, str]) -> UnitStatus:
    shown = _loaded(there, shown)
    is_wanted = shown["ActiveState"] in ("active", "activating", "reloading") or any(shown.get(by) for by in _STARTERS)
    is_enabled = shown["UnitFileState"].startswith("enabled")
    pid = int(shown["MainPID"])
    return UnitStatus(
        name=unit,
        state=_state(shown),
        pid=pid or None,
        since=_moment(shown["StateChangeTimestamp"]),
        exit_code=_exit_code(shown),
        desired="running" if is_wanted or is_enabled else "stopped",
    )


def _state(shown: Mapping[str, str]) -> UnitState:
    if _is_alive(shown):
        return "paused" if shown["FreezerState"] == "frozen" else "running"
    return "stopped" if shown["ActiveState"] == "inactive" else "failed"


def _exit_code(shown: Mapping[str, str]) -> int | None:
    """Of the last run; negative is a signal."""
    code, status = shown["ExecMainCode"], int(shown["ExecMainStatus"])
    if code == "0":
        return None
    return status if code == _EXITED else -status


def _moment(stamp: str) -> dt.datetime:
    """`Mon 2026-11-23 04:47:47.175530 UTC`; the epoch when systemd tells none."""
    parts = stamp.split()
    return dt.datetime.fromisoformat(f"{parts[1]}T{parts[2]}+00:00") if len(parts) == 4 else NEVER  # noqa: PLR2004
