"""The ways to keep a host from signing, each behind `vedr.chain.fence.Fence`.

Guarantees: a way proves only what somebody who can know it says; silence, an error or a doubt is no fence.  `WAYS`
tells of each what it rests on and what undoes it.
Leaves out: order and leases (`promotion`); cloud, HSM and firewall calls, which adapters behind the Protocols make.
"""

import datetime as dt
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from vedr.chain.attestation import Statement, two_people
from vedr.chain.fence import Closed, Fence, FenceMethod, UnitStopped
from vedr.chain.register_survey import Seen
from vedr.chain.sign_state import SignState
from vedr.errors import CorruptError, DeadlineError, NotFoundError, RefusedError, UnavailableError
from vedr.failover.signer_disk import SignerDisk, Ticket
from vedr.inventory import Node
from vedr.ports import Clock, Fleet


@dataclass(frozen=True, slots=True)
class Way:
    """What a fence rests on, for the runbook's page."""

    proof: str
    undone_by: str
    final_state: bool


WAYS: Final[Mapping[FenceMethod, Way]] = {
    "unit stopped": Way(
        "the host's supervisor: no process, and none wanted", "anybody who starts the unit", final_state=False
    ),
    "process ended and disk renamed": Way(
        "the supervisor, and the host's disk: no process, and no folder to start or sign from",
        "renaming the folder back, which the next check sees",
        final_state=True,
    ),
    "instance stopped": Way(
        "the cloud: the instance is stopped or terminated, and nothing starts it again",
        "starting the instance, which the next check sees",
        final_state=False,
    ),
    "HSM key disabled": Way(
        "the token: the key is disabled and a signature with it is refused",
        "enabling the key, which the next check sees",
        final_state=False,
    ),
    "signer epoch passed": Way(
        "a majority of the regions' registers: they refuse every signature of an older epoch",
        "nothing: epochs only grow",
        final_state=True,
    ),
    "network denied and attested": Way(
        "the network: all is denied; and two people who saw the process stopped",
        "lifting the deny while the key is on the host: never do",
        final_state=False,
    ),
}


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


@dataclass(frozen=True, slots=True)
class SignerEpochPassed:
    """A remote signer whose epoch is over: whatever it still holds, no majority of registers takes its next signature.

    `epoch`: the newest that the host's signer may have had; `take_over`: claims a higher one, for the standby.
    """

    look: Callable[[], Seen]
    take_over: Callable[[], None]
    host: str
    epoch: int
    method: FenceMethod = "signer epoch passed"

    def close(self) -> None:
        self.take_over()

    def prove(self) -> Closed:
        """A majority of the regions shows a newer epoch; what they hold covers all that was ever released."""
        seen = self.look()
        passed = sorted(region for region, content in seen.contents.items() if content.epoch > self.epoch)
        regions = seen.contents.keys() | seen.problems.keys()
        if seen.newest is None or 2 * len(passed) <= len(regions):
            raise RefusedError(
                f"{self.host} is not fenced: {len(passed)} of {len(regions)} regions show an epoch above {self.epoch}",
                remedy="Take the register over with a higher epoch, in a majority of the regions.",
            )
        position = seen.newest.position
        return Closed(
            {"epoch": f"epoch {seen.newest.epoch} above {self.epoch} in {', '.join(passed)}"},
            SignState(position.height, position.round, position.step),
        )


class NetworkDeny(Protocol):
    """The firewall around a host."""

    def deny(self, host: str) -> None:
        """Let nothing in or out; idempotent."""

    def denied_since(self, host: str) -> dt.datetime | None:
        """Since when nothing passes, asked of the network and not of the host; None when something may."""


@dataclass(frozen=True, slots=True)
class NetworkDenied:
    """The network lets nothing out, and two people saw the process stopped.

    One without the other is not enough: votes that were signed behind a closed network get out when it opens.
    `statements` asks people for a sentence, or gives what they said to it before.
    """

    network: NetworkDeny
    host: str
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
        """Both halves, the people's after the network's."""
        since = self.network.denied_since(self.host)
        if since is None:
            raise RefusedError(
                f"{self.host} is not fenced: its network is not denied", remedy="Deny it first, in and out."
            )
        said = self.statements(self.sentence)
        word = two_people(said, self.sentence, after=since, now=self.clock())
        people = f"process stopped, say {' and '.join(word.people)}"
        return Closed({"network": f"network denied since {since.isoformat()}", "people": people})


STOP_LIMIT_S: Final = (
    120.0  # a machine that is stopped by force is off within two minutes, or its hypervisor is in trouble
)
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
        """UnavailableError with every way's reason when none of them is proven; ConflictError ends it at once."""
        reasons = []
        for number, way in enumerate(self.ways):
            if number < self.chosen.get(self.host, 0):
                continue
            try:
                way.close()
                self._await(way)
            except (UnavailableError, DeadlineError, NotFoundError, RefusedError) as error:
                reasons.append(f"{way.method}: {error.message}")
                continue
            self.chosen[self.host] = number
            return
        raise UnavailableError(
            f"{self.host} is not fenced: {'; '.join(reasons)}",
            remedy="Bring its supervisor and disk back, or name another way in [[key_files]] fences.  Until then the "
            "key stays where it is.",
        )

    def _await(self, way: Fence) -> None:
        """A machine takes a while to stop; the other ways are there at once, or not at all."""
        until = self.monotonic() + (self.limit_s if way.method == "instance stopped" else 0.0)
        while True:
            try:
                way.prove()
            except RefusedError:
                if self.monotonic() >= until:
                    raise
                self.sleep(_STOP_POLL_S)
            else:
                return

    def prove(self) -> Closed:
        return self._way.prove()
