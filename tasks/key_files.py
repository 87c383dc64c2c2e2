"""Steps that move the key of a validator that signs from a file: docs/signing-safety.md, on a site's own hosts.

1. Nothing is touched before: a backup of the key opens, and the chain goes on while the validator is silent.
2. The promotion: every host is fenced and the chain observed; the floor is recorded; the key is put on its host.
3. The other full nodes that may have it are given their own keys back, and serve again.

Guarantees: those of `vedr.failover.promotion`, whose stages are in the run's ledger before the next begins, and are
given back to it on a resume; a key is taken off a host only while that host is fenced under this run's ticket, and
after another one was seen to sign, or before any was let sign.
Leaves out: deciding (tasks.outages, tasks.returning).
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.key_hosts import earlier_stages, still_heard_of
from tasks.observing import ask, in_sync
from tasks.outages import KEY_FILE_BUDGET_S, situation_of
from tasks.risks import two_people_say
from tasks.signing import SLOWEST_BLOCK_TIMES, shipped_copies
from vedr.adapters.fence_site import fence_of, process_and_disk
from vedr.adapters.site import OpenSite, open_site, utc_now
from vedr.chain.attestation import Statement
from vedr.chain.fence import MIN_QUIET_COMMITS
from vedr.chain.quorum import needed_power
from vedr.custody import key_backup_store
from vedr.custody.key_backup_catalogue import Backup
from vedr.custody.key_material import VALIDATOR_FILE
from vedr.custody.key_material_process import no_core_dumps
from vedr.errors import ConflictError, NotFoundError, RefusedError, VedrError
from vedr.failover import promotion
from vedr.failover.key_disk import address_on, put_key, take_key_off
from vedr.failover.promotion import Hosts, Means, Patience
from vedr.failover.promotion_key import FILE_NAME, KeySeen, read_key_file
from vedr.failover.promotion_record import TEXT, facts_of, stages_in
from vedr.failover.promotion_stages import Evidence, StageName, Watched
from vedr.failover.promotion_stages import Order as Promotion
from vedr.failover.relocation_key_files import KeyMove, would_halt
from vedr.failover.signer_disk import Ticket, double_sign_check, set_double_sign_check
from vedr.failover.watch import SecondSignerError
from vedr.inventory import Node
from vedr.policies.key_files import KeyFile
from vedr.runbook.lease import Leases
from vedr.runbook.order import Order
from vedr.runbook.steps import Context, Retry, step

STILL_S: Final = 30.0  # several rounds: a chain without a block for so long stands still
CATCH_UP_S: Final = 900.0  # at home, where the node was stopped since the failover
CHECK_TEXT: Final = "check height"
ACT: Final = Retry(attempts=2, delay_s=5.0)

Ctx = Context[Order]


@dataclass(frozen=True, slots=True)
class KeyMoved:
    """A key file that signs elsewhere now; `floor`: what its host began above, `signed`: the blocks it was seen in."""

    validator: str
    host: str
    floor: str
    signed: int
    released: tuple[str, ...]
    not_released: tuple[str, ...]


@step(
    title="Move the key file", budget_s=KEY_FILE_BUDGET_S, retry=ACT,
    cannot_undo="the key signs where it is now, or is fenced everywhere: run the failback, which proves it again",
)  # fmt: skip
def move_key_file(ctx: Ctx, move: KeyMove) -> KeyMoved:
    """Fences every host that may have it, awaits silence on the chain, finds the floor, puts the key there, watches."""
    no_core_dumps()
    with open_site(ctx.order.site) as opened:
        return KeyHandling(ctx, opened, move).carry_out()


class KeyHandling:
    """One key file's move within a step."""

    def __init__(self, ctx: Ctx, opened: OpenSite, move: KeyMove) -> None:
        found = opened.site.key_file_of(move.validator)
        if found is None:
            raise NotFoundError(
                f"no [[key_files]] of {move.validator}", remedy="The site's file changed since: plan again."
            )
        self._ctx, self._opened, self._move = ctx, opened, move
        self._key_file: KeyFile = found
        self._validator, self._host = opened.site.node(move.validator), opened.site.node(move.host)
        self._order = Promotion(opened.site.chain.chain_id, self._validator, self._host, ctx.run_id, ctx.epoch)
        self._leases = Leases(opened.journal)
        self._chosen: dict[str, int] = {}
        self._said: dict[str, Sequence[Statement]] = {}

    def carry_out(self) -> KeyMoved:
        """(1) to (3)."""
        past = stages_in(self._opened.journal.read(self._ctx.run_id).entries, self._validator.name)
        backup = self._newest_backup()
        self._check_power()
        if not past:
            self._note_check_height()
        with self._released_on_refusal():
            watched = promotion.promote(self._means(backup), self._order, past)
        released, not_released = self._release(watched.armed.locked.ticket, besides=self._host.name)
        if not not_released:
            self._restore_check_height()
        self._say_done(watched)
        return KeyMoved(
            self._validator.name, self._host.name, str(watched.armed.floor), watched.signed, released, not_released
        )

    # --- (1)

    def _newest_backup(self) -> Backup | None:
        """The one that the key comes from; None when it is on its host already.  Proven to open before all else.

        Raises:
            NotFoundError: there is none.
            RefusedError: the key was revoked, or no region's copy opens.
        """
        keys, name = self._opened.keys, self._validator.name
        backup = key_backup_store.newest(keys, self._validator.region, "validator", name)
        for revocation in key_backup_store.revocations(keys, backup.origin, backup.fingerprints) if backup else ():
            raise RefusedError(
                f"{name}: its key was revoked on {revocation.at:%Y-%m-%d} ({revocation.incident})",
                remedy="It may never be used again; restore the key that replaced it.",
            )
        if address_on(self._opened.files.home(self._host)) == self._validator.address:
            return None
        if backup is None:
            raise NotFoundError(f"no backup of the key of {name}", remedy="Run key-backup while its host answers.")
        wrong = key_backup_store.verify(keys, backup)
        if len(wrong) == len(keys.stores):
            raise RefusedError(
                f"{name}: no copy of {backup.id} opens: {'; '.join(error.message for error in wrong.values())}",
                remedy="See vedr keys verify; open it by shares and vedr keys restore, then go on with this run.",
            )
        return backup

    def _check_power(self) -> None:
        """RefusedError when the chain would halt while it is silent: what was planned may have changed since."""
        opened, name = self._opened, self._validator.name
        situation = situation_of(opened, in_sync(ask(opened, opened.site.nodes)), lost=None)
        online = situation.outside_online + sum(situation.powers.get(one, 0) for one in situation.signing)
        power = situation.powers.get(name, 0) if name in situation.signing else 0
        needed = needed_power(sum(situation.powers.values()))
        silent = KeyMove(name, power, self._move.origin, self._host.name, self._host.zone, self._host.region)
        if reason := would_halt(silent, online=online, needed=needed):
            raise RefusedError(f"{name}: {reason}", remedy="Then go on with this run.")

    # --- (2)

    def _means(self, backup: Backup | None) -> Means:
        opened, hosts = self._opened, set(self._key_file.every_host)
        seen = in_sync(ask(opened, [node for node in opened.site.nodes if node.name not in hosts]))
        return Means(
            leases=self._leases,
            hosts=self._hosts,
            observers=[one.rpc for one in seen],
            copies=functools.partial(shipped_copies, opened, self._validator, self._ctx.say),
            earlier=functools.partial(earlier_stages, opened, self._validator.name),
            statements=functools.partial(two_people_say, self._ctx, self._validator.name),
            place_key=functools.partial(self._place_key, backup),
            record=self._record,
            patience=self._patience(),
            clock=utc_now,
        )

    def _hosts(self, ticket: Ticket) -> Hosts:
        others = tuple(
            fence_of(
                self._opened,
                self._key_file,
                host,
                ticket,
                reached=functools.partial(still_heard_of, self._opened),
                statements=self._seen_stopped,
                chosen=self._chosen,
            )
            for host in self._key_file.every_host
            if host != self._host.name
        )
        return Hosts(others, process_and_disk(self._opened, self._host, ticket))

    def _seen_stopped(self, sentence: str) -> Sequence[Statement]:
        """Asked once in a process: the same word is looked at again before arming."""
        if sentence not in self._said:
            self._said[sentence] = two_people_say(self._ctx, self._validator.name, sentence)
        return self._said[sentence]

    def _place_key(self, backup: Backup | None) -> KeySeen:
        """From the sealed backup, opened through the escrow for as long as this takes."""
        home = self._opened.files.home(self._host)
        if backup is None or address_on(home) == self._validator.address:
            return read_key_file(home / "config" / FILE_NAME)
        bundle = key_backup_store.open_from(self._opened.keys, backup, prefer=self._host.region)
        content = next((file.content for file in bundle.files if file.path == VALIDATOR_FILE), None)
        if content is None:
            raise NotFoundError(f"{backup.id} holds no {VALIDATOR_FILE}", remedy="Run key-backup again.")
        return put_key(home, content)

    def _record(self, stage: StageName, evidence: Evidence) -> None:
        self._ctx.note(TEXT, facts_of(self._validator.name, stage, evidence))
        self._ctx.say(f"{self._validator.name}: {stage}")

    def _patience(self) -> Patience:
        block_s = self._opened.site.chain.block_time_s
        quiet_s = SLOWEST_BLOCK_TIMES * (MIN_QUIET_COMMITS + 2) * block_s
        is_home = self._host.name == self._validator.name
        watch_s = quiet_s + (CATCH_UP_S if is_home else 60.0)
        return Patience(quiet_s=quiet_s, still_s=max(STILL_S, 6 * block_s), watch_s=watch_s)

    @contextmanager
    def _released_on_refusal(self) -> Iterator[None]:
        """When a step said no before any host was let sign: full nodes that were fenced for it serve again.

        But for the one where it signed before: its key stays on its disk, fenced.
        """
        try:
            yield
        except (ConflictError, SecondSignerError):
            raise
        except VedrError:
            entries = self._opened.journal.read(self._ctx.run_id).entries
            if not any(stage in ("arming", "armed") for stage, _ in stages_in(entries, self._validator.name)):
                with suppress(VedrError):  # what made it fail matters more; a resume fences and releases again
                    lease = self._leases.acquire(self._order.subject, self._ctx.run_id)
                    self._release(Ticket(lease.epoch, self._order.attempt), besides=self._move.origin)
            raise

    # --- (3)

    def _release(self, ticket: Ticket, *, besides: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Full nodes but for that one: those that serve again, and those that can't be told so, with reasons."""
        released, not_released = [], []
        for name in self._key_file.hosts:
            if name == besides:
                continue
            try:
                self._give_own_key_back(self._opened.site.node(name), ticket)
                released.append(name)
            except VedrError as error:
                not_released.append(f"{name}: {error.message}")
                self._ctx.say(f"{name} stays fenced, and may have the key still: {error.message}")
        return tuple(released), tuple(not_released)

    def _give_own_key_back(self, node: Node, ticket: Ticket) -> None:
        """Take the validator's key off, then open the disk.  The sign-state stays in it: it is the key's last there.

        Raises:
            ConflictError: its disk is not fenced under our ticket.
        """
        self._leases.check(self._leases.acquire(self._order.subject, self._ctx.run_id))
        way = process_and_disk(self._opened, node, ticket)
        place = way.disk.place()
        home = self._opened.files.home(node)
        if place.where == "open" and address_on(home) != self._validator.address:
            return  # it never was fenced, or is released already
        if (place.where, place.ticket) != ("fenced", ticket):
            raise ConflictError(
                f"{node.name}: its signer disk is {place.where} under ticket {place.ticket}, ours is {ticket}",
                remedy="Run the failback again: it fences it first.",
            )
        if take_key_off(home, self._validator.address):
            self._ctx.say(f"{node.name}: the key of {self._validator.name} is off its disk")
        way.disk.bring_back(ticket)
        self._opened.fleet.start(node.unit, node.zone)

    def _note_check_height(self) -> None:
        """What the host's configuration had before it was armed: at home it has that again afterwards."""
        height = double_sign_check(self._config())
        self._ctx.note(CHECK_TEXT, {"host": self._host.name, "double_sign_check_height": height})

    def _restore_check_height(self) -> None:
        """At home, for its next start: no other host has the key, and a restart need not be silent first."""
        if self._host.name != self._validator.name:
            return
        wanted = (CHECK_TEXT, self._host.name)
        for entry in self._opened.journal.read(self._ctx.run_id).entries:
            match entry.payload:
                case {"text": text, "host": host, "double_sign_check_height": int(height)} if (text, host) == wanted:
                    set_double_sign_check(self._config(), height)
                    return
                case _:
                    continue

    def _config(self) -> Path:
        return self._opened.files.home(self._host) / "config" / "config.toml"

    def _say_done(self, watched: Watched) -> None:
        self._ctx.say(
            f"{self._validator.name} signs at {self._host.name}, above {watched.armed.floor}: {watched.signed} blocks "
            f"to {watched.last} seen"
        )
