"""The ways to keep a host from signing, each behind `vedr.chain.fence.Fence`.

Guarantees: a way proves only what somebody who can know it says; silence, an error or a doubt is no fence.  What undoes
each is in docs/signing-safety.md.
Leaves out: order and leases (`promotion`); cloud, HSM and firewall calls, which adapters behind the Protocols make.
"""

import datetime as dt
import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from vedr.chain.attestation import Statement, two_people
from vedr.chain.fence import Closed, Fence, FenceMethod, UnitStopped
from vedr.chain.sign_state import SignState
from vedr.errors import CorruptError, DeadlineError, NotFoundError, RefusedError, UnavailableError, VedrError
from vedr.failover.signer_disk import SignerDisk, Ticket
from vedr.inventory import Node
from vedr.ports import Clock, Fleet


@dataclass(frozen=True, slots=True)
class ProcessAndDisk:
    """Process ended, then its disk renamed: neither a supervisor nor a forgotten process can sign from there."""

    fleet: Fleet
    node: Node
    disk: SignerDisk
    ticket: Ticket
    method: FenceMethod = "process ended and disk renamed"

    @property
    def host(self) -> str:
        return self.node.name

    def close(self) -> None:
        """Stop or kill the unit, rename, and end whatever was started between the two."""
        self._end()
        self.disk.take_away(self.ticket)
        self._end()

    def _end(self) -> None:
        try:
            self.fleet.stop(self.node.unit, self.node.zone)
        except DeadlineError:  # paused or stuck: it need not end cleanly
            self.fleet.kill(self.node.unit, self.node.zone)
            self.fleet.stop(self.node.unit, self.node.zone)  # and stay so

    def prove(self) -> Closed:
        """The disk first: whoever starts from there after this look would have to rename it back."""
        now = self.disk.place()
        if now.ticket > self.ticket or now.where == "open":
            raise RefusedError(
                f"{self.host} is not fenced: its signer disk is {now.where} under ticket {now.ticket}, ours is "
                f"{self.ticket}",
                remedy="Somebody acts on this host: find out who, then resume.",
            )
        if now.where == "fenced" and now.ticket != self.ticket:
            raise RefusedError(
                f"{self.host}: it is fenced by ticket {now.ticket}, not by ours, {self.ticket}",
                remedy="Fence it again: a process that is older than this one could open it.",
            )
        facts = {"disk": f"disk {now.where} under ticket {now.ticket}"}
        return Closed({**UnitStopped(self.fleet, self.node).prove().facts, **facts}, self._final(now.where))

    def _final(self, where: Literal["open", "fenced", "missing"]) -> SignState | None:
        if where == "missing":
            return None
        try:
            return self.disk.state(self.ticket)
        except (NotFoundError, CorruptError):
            return None


InstanceState = Literal["running", "pending", "stopping", "stopped", "terminated"]


class Instances(Protocol):
    """A cloud's machines."""

    def stop(self, instance: str) -> None:
        """Begin to stop it by force and keep it from being started by any group or schedule; idempotent."""

    def state(self, instance: str) -> InstanceState:
        """What it is, as the cloud's control plane says.  UnavailableError when it can't be asked."""

    def restarts_itself(self, instance: str) -> bool:
        """Whether a group, a schedule or a recovery alarm would start it again."""


@dataclass(frozen=True, slots=True)
class InstanceStopped:
    """The machine is off.  Its disk is not read: the signer's last state stays unknown."""

    instances: Instances
    host: str
    instance: str
    method: FenceMethod = "instance stopped"

    def close(self) -> None:
        self.instances.stop(self.instance)

    def prove(self) -> Closed:
        """Stopped or terminated; `stopping` still runs."""
        state = self.instances.state(self.instance)
        if state not in ("stopped", "terminated") or self.instances.restarts_itself(self.instance):
            raise RefusedError(
                f"{self.host} is not fenced: instance {self.instance} is {state}, or would be started again",
                remedy="Stop it by force, take it out of its group, and wait until the cloud says stopped.",
            )
        return Closed({"instance": f"instance {self.instance} {state}"})


class HsmKeys(Protocol):
    """A token's keys, by label."""

    def disable(self, label: str) -> None:
        """Make the token refuse to sign with it; idempotent."""

    def signs(self, label: str) -> bool:
        """Whether the token signs a challenge with it now.  UnavailableError when the token can't be asked."""


@dataclass(frozen=True, slots=True)
class HsmKeyDisabled:
    """The host's own token refuses; a key that could leave the token would not be fenced by this."""

    keys: HsmKeys
    host: str
    label: str
    method: FenceMethod = "HSM key disabled"

    def close(self) -> None:
        self.keys.disable(self.label)

    def prove(self) -> Closed:
        """The token was asked for a signature and refused."""
        if self.keys.signs(self.label):
            raise RefusedError(
                f"{self.host} is not fenced: its token signs with {self.label}", remedy="Disable the key in that token."
            )
        return Closed({"key": f"key {self.label} refused by its token"})


class NetworkDeny(Protocol):
    """The firewall around a host."""

    def deny(self, host: str) -> None:
        """Let nothing in or out; idempotent."""

    def denied_since(self, host: str) -> dt.datetime | None:
        """Since when nothing passes, asked of the network and not of the host; None when something may."""


class UnattestedError(RefusedError):
    """People did not give their word: asking the same ones again at once would only teach them to agree."""


@dataclass(frozen=True, slots=True)
class NetworkDenied:
    """The network lets nothing out, and two people saw the process stopped.

    One without the other is not enough: votes that were signed behind a closed network get out when it opens.
    `reached` says how the host is heard of although it is denied, empty when it is not: connections that were open
    before may outlive their rule.  `statements` asks people for a sentence, or gives what they said to it before.
    """

    network: NetworkDeny
    host: str
    reached: Callable[[], str]
    statements: Callable[[str], Sequence[Statement]]
    clock: Clock
    method: FenceMethod = "network denied and attested"

    @property
    def sentence(self) -> str:
        """What both people have to say."""
        return f"I saw that the signer process on {self.host} is stopped and can't be started by itself."

    def close(self) -> None:
        self.network.deny(self.host)

    def prove(self) -> Closed:
        """The network's half first, so that nobody is asked to look at a host that is not cut off.

        Raises:
            RefusedError: something passes.
            UnattestedError: nothing does, and two different people did not say so, after that and not long ago.
        """
        since = self.network.denied_since(self.host)
        if since is None:
            raise RefusedError(
                f"{self.host} is not fenced: its network is not denied", remedy="Deny it first, in and out."
            )
        if heard := self.reached():
            raise RefusedError(
                f"{self.host} is not fenced: its network is denied since {since.isoformat()}, and yet {heard}",
                remedy="Find what lets it through: an open connection, another interface.  Or stop the machine.",
            )
        try:
            word = two_people(self.statements(self.sentence), self.sentence, after=since, now=self.clock())
        except RefusedError as error:
            raise UnattestedError(
                f"{self.host} is not fenced: {error.message}",
                remedy="Let two different people see for themselves, on the machine's console.  Then go on with this "
                "run, which asks them anew.",
            ) from error
        people = f"process stopped, say {' and '.join(word.people)}"
        return Closed({"network": f"network denied since {since.isoformat()}", "people": people})


STOP_LIMIT_S: Final = 120.0
"""A machine that is stopped by force is off by then, or its hypervisor is in trouble; and CometBFT gives a peer up that
sends nothing for 105 s."""
_SLOW_WAYS: Final[tuple[FenceMethod, ...]] = ("instance stopped", "network denied and attested")
_STOP_POLL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class FirstWay:
    """The first of a host's ways that closes and is proven; the later ones are for a host that does not answer.

    `chosen` remembers which one it was, by host, for all looks of one process: a proof that changes its way between two
    looks is another proof, and `promotion` refuses it by the last state.
    """

    host: str
    ways: Sequence[Fence]
    chosen: MutableMapping[str, int]
    limit_s: float = STOP_LIMIT_S
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic

    @property
    def method(self) -> FenceMethod:
        return self._way.method

    @property
    def _way(self) -> Fence:
        return self.ways[self.chosen.get(self.host, 0)]

    def close(self) -> None:
        """Close one; ConflictError ends it at once.

        Raises:
            UnavailableError: none of them is proven, with every way's reason.
            UnattestedError: so too, and people did not give their word: not to be tried again by itself.
        """
        reasons = []
        failure: type[VedrError] = UnavailableError
        for number, way in enumerate(self.ways):
            if number < self.chosen.get(self.host, 0):
                continue
            try:
                way.close()
                self._await(way)
            except (UnavailableError, DeadlineError, NotFoundError, RefusedError) as error:
                reasons.append(f"{way.method}: {error.message}")
                failure = UnattestedError if isinstance(error, UnattestedError) else failure
                continue
            self.chosen[self.host] = number
            return
        raise failure(
            f"{self.host} is not fenced: {'; '.join(reasons)}",
            remedy="Bring its supervisor and disk back, or name another way in [[key_files]] fences, or let two people "
            "look at it where its network is denied.  Until then the key stays where it is; go on with this run.",
        )

    def _await(self, way: Fence) -> None:
        """A machine takes a while to stop, and a peer to be given up; the other ways are there at once, or never."""
        until = self.monotonic() + (self.limit_s if way.method in _SLOW_WAYS else 0.0)
        while True:
            try:
                way.prove()
            except UnattestedError:
                raise
            except RefusedError:
                if self.monotonic() >= until:
                    raise
                self.sleep(_STOP_POLL_S)
            else:
                return

    def prove(self) -> Closed:
        return self._way.prove()
