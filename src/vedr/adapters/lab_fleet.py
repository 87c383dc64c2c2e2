"""The lab's fleet: units of a zone, controlled through the zone's supervisor (deployments/lab, labzoned).

Guarantees: what vedr.ports.Fleet promises; every call ends within its own time limit, and a supervisor that can't be
reached is an UnavailableError, which says nothing about the units behind it.
Leaves out: retries.
"""

import datetime as dt
import socket as sockets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import httpx

from vedr.errors import ConflictError, DeadlineError, InvalidInputError, NotFoundError, RefusedError, UnavailableError
from vedr.inventory import Node
from vedr.ports import Pause, UnitStatus

CONNECT_LIMIT_S: Final = 2.0
ANSWER_LIMIT_S: Final = 5.0
STOP_LIMIT_S: Final = 90.0  # the supervisor waits for the unit's own grace, at most a minute, then says so itself
_REMEDIES: Final = "Check with `vedr lab status`; a zone that is down comes back with `vedr lab start ZONE`."


class ZoneAgent:
    """One zone's supervisor.

    Args:
        zone: Its zone's name, for messages.
        url: Where it listens; `http://…`.
        token: The lab's bearer token.
        socket: A unix socket to use instead of the network: it stays reachable while the zone is cut.
    """

    def __init__(self, zone: str, url: str, token: str, *, socket: Path | None = None) -> None:
        self.zone: Final = zone
        self._socket = socket
        self._client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(ANSWER_LIMIT_S, connect=CONNECT_LIMIT_S),
            transport=httpx.HTTPTransport(uds=str(socket) if socket else None),
            trust_env=False,
        )

    def close(self) -> None:
        self._client.close()

    def info(self) -> dict[str, Any]:
        """The supervisor itself: zone, pid, mode, cut."""
        info: dict[str, Any] = self._call("GET", "/v1/zone")
        return info

    def units(self) -> dict[str, UnitStatus]:
        """Every unit that it knows, by name."""
        answer = self._call("GET", "/v1/units")
        return {unit["name"]: _status(unit) for unit in answer}

    def unit(self, name: str) -> UnitStatus:
        return _status(self._call("GET", f"/v1/units/{name}"))

    def define(self, definition: Mapping[str, object]) -> None:
        """Add a unit, or replace it while it is stopped."""
        self._call("PUT", f"/v1/units/{definition['name']}", json=dict(definition))

    def act(self, name: str, action: str, *, limit_s: float = ANSWER_LIMIT_S) -> UnitStatus:
        """`start`, `stop` or `kill`; returns the unit as it then is."""
        return _status(self._call("POST", f"/v1/units/{name}/{action}", limit_s=limit_s))

    def pause(self, name: str, *, limit_s: float) -> None:
        self._call("POST", f"/v1/units/{name}/pause", params={"limit_ms": str(max(1, round(limit_s * 1000)))})

    def resume(self, name: str) -> Pause:
        answer = self._call("POST", f"/v1/units/{name}/resume")
        return Pause(paused_s=float(answer["paused_ms"]) / 1000, expired=bool(answer["expired"]))

    def cut(self) -> None:
        """Relays only: nothing passes in or out of the zone any more."""
        self._call("POST", "/v1/zone/cut")

    def heal(self) -> None:
        self._call("POST", "/v1/zone/heal")

    def _call(self, method: str, path: str, *, limit_s: float = ANSWER_LIMIT_S, **request: Any) -> Any:
        limits = httpx.Timeout(limit_s, connect=CONNECT_LIMIT_S)
        try:
            self._try_socket()
            answer = self._client.request(method, path, timeout=limits, **request)
        except (httpx.HTTPError, OSError) as error:
            raise UnavailableError(
                f"zone {self.zone}'s supervisor: {type(error).__name__} on {method} {path}", remedy=_REMEDIES
            ) from error
        if answer.is_error:
            self._refused(answer, f"{method} {path}")
        return answer.json() if answer.content else {}

    def _try_socket(self) -> None:
        """Connect once before httpx does: it leaves a unix socket open when nobody listens there."""
        if self._socket:
            with sockets.socket(sockets.AF_UNIX) as probe:
                probe.settimeout(CONNECT_LIMIT_S)
                probe.connect(str(self._socket))

    def _refused(self, answer: httpx.Response, what: str) -> NoReturn:
        message = f"zone {self.zone}'s supervisor answered {answer.status_code} to {what}: {_said(answer)}"
        match answer.status_code:
            case httpx.codes.NOT_FOUND:
                raise NotFoundError(message, remedy="Check the unit's name in the site file.")
            case httpx.codes.UNAUTHORIZED | httpx.codes.FORBIDDEN:
                raise RefusedError(message, remedy="Check [fleet] token in the site file.")
            case httpx.codes.CONFLICT:
                raise ConflictError(message, remedy="See what else acts on this unit.")
            case httpx.codes.GATEWAY_TIMEOUT:
                raise DeadlineError(message, remedy="It was not killed: look at its log, then `vedr lab kill` it.")
            case code if code < httpx.codes.INTERNAL_SERVER_ERROR:
                raise InvalidInputError(message, remedy="This is a mistake in vedr or an older supervisor.")
        raise UnavailableError(message, remedy=_REMEDIES)


class LabFleet:
    """vedr.ports.Fleet over the lab's supervisors."""

    def __init__(self, agents: Mapping[str, str], token: str) -> None:
        self._urls = dict(agents)
        self._token = token
        self._agents: dict[str, ZoneAgent] = {}
        self._lock = threading.Lock()

    def status(self, unit: str, zone: str) -> UnitStatus:
        return self._agent(zone).unit(unit)

    def start(self, unit: str, zone: str) -> UnitStatus:
        return self._agent(zone).act(unit, "start")

    def stop(self, unit: str, zone: str) -> UnitStatus:
        return self._agent(zone).act(unit, "stop", limit_s=STOP_LIMIT_S)

    def kill(self, unit: str, zone: str) -> UnitStatus:
        return self._agent(zone).act(unit, "kill")

    def pause(self, unit: str, zone: str, *, limit_s: float) -> None:
        self._agent(zone).pause(unit, limit_s=limit_s)

    def resume(self, unit: str, zone: str) -> Pause:
        return self._agent(zone).resume(unit)

    def close(self) -> None:
        for agent in self._agents.values():
            agent.close()

    def _agent(self, zone: str) -> ZoneAgent:
        if zone not in self._urls:
            raise NotFoundError(
                f"no supervisor is known for zone {zone!r}", remedy=f"Choose one of: {', '.join(self._urls)}."
            )
        with self._lock:
            if zone not in self._agents:
                self._agents[zone] = ZoneAgent(zone, self._urls[zone], self._token)
            return self._agents[zone]


class LocalFiles:
    """vedr.ports.Files where every node's disk is on this machine, as in the lab."""

    def home(self, node: Node) -> Path:
        if not node.home.is_dir():
            raise UnavailableError(
                f"{node.name}: its home {node.home} is not on this machine",
                remedy=f"Run this on the host of {node.name}, or on its region's worker.",
            )
        return node.home


def _status(unit: Mapping[str, Any]) -> UnitStatus:
    since = unit.get("since")
    return UnitStatus(
        name=unit["name"],
        state=unit["state"],
        pid=unit.get("pid") or None,
        since=dt.datetime.fromisoformat(since) if since else dt.datetime.fromtimestamp(0, dt.UTC),
        exit_code=unit.get("exit_code"),
        desired=unit["desired"],
    )


def _said(answer: httpx.Response) -> str:
    try:
        said = answer.json()
    except ValueError:
        return answer.text[:200]
    return str(said.get("error", said))[:200] if isinstance(said, dict) else str(said)[:200]
