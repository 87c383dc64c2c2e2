"""Commands on a host over SSH (paramiko): one connection a host, opened when first needed and used again.

Guarantees: the host's key is compared with `known_hosts` before anything of ours is sent, and a host whose key is not
there, or is another, is refused; every command ends within its own time limit; arguments reach the remote program as
they were given, whatever they contain.  Neither the private key nor any part of it is in a message.
Leaves out: agents, passwords, jump hosts, host certificates (`@cert-authority`), and retries.
"""

import binascii
import contextlib
import io
import shlex
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from vedr.errors import InvalidInputError, RefusedError, UnavailableError, VedrError

CONNECT_LIMIT_S: Final = 5.0
KEEPALIVE_S: Final = 10
MAX_OUTPUT_BYTES: Final = 256 * 1024  # far below a channel's window: a command never waits for us to read
_KEY_TYPES: Final = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)

KnownHosts = tuple[tuple[str, paramiko.PKey], ...]
"""Host names, plain or hashed, each with its key."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended by itself."""

    exit_code: int
    output: str
    errors: str


def private_key(pem: bytes, reference: str) -> paramiko.PKey:
    """A private key in OpenSSH's or PEM form; InvalidInputError names the reference only."""
    for kind in _KEY_TYPES:
        with contextlib.suppress(paramiko.SSHException, ValueError, UnicodeDecodeError):
            return kind.from_private_key(io.StringIO(pem.decode("ascii") + "\n"))
    raise InvalidInputError(
        f"[fleet.ssh] key {reference} is no Ed25519, ECDSA or RSA private key without a passphrase",
        remedy="Make one: ssh-keygen -t ed25519 -N ''.",
    )


def known_hosts(text: bytes, reference: str) -> KnownHosts:
    """OpenSSH's known_hosts.

    A line that can't be read, or has a marker, is an error: to skip a `@revoked` is to believe it.
    """
    known: list[tuple[str, paramiko.PKey]] = []
    for number, line in enumerate(text.decode("utf-8", errors="replace").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            entry = None if line.lstrip().startswith("@") else HostKeyEntry.from_line(line.strip(), number)
        except (InvalidHostKey, paramiko.SSHException, ValueError, binascii.Error):
            entry = None
        if entry is None or entry.key is None or not entry.hostnames:
            raise InvalidInputError(
                f"known hosts {reference}, line {number}: no host key that this program understands",
                remedy="Write a line a host with ssh-keyscan, compare it with the host's own key; leave markers out.",
            )
        known += [(name, entry.key) for name in entry.hostnames]
    return tuple(known)


class SshConnection:
    """One host.  Safe for threads: each command has a channel of its own."""

    def __init__(self, name: str, address: str, port: int, *, user: str, key: paramiko.PKey, known: KnownHosts) -> None:
        self.name: Final = name
        self._address: Final = address
        self._port: Final = port
        self._user: Final = user
        self._key = key
        self._known = known
        self._client: paramiko.SSHClient | None = None
        self._lock = threading.Lock()

    def run(self, command: Sequence[str], *, limit_s: float) -> Ran:
        """Run it and wait for its end.

        Raises:
            UnavailableError: the host can't be reached, does not answer in time, or the connection broke; whether the
                command ran is then not known.
            RefusedError: the host is not who it should be, or does not accept our key.
        """
        until = time.monotonic() + limit_s
        channel = self._open(limit_s)
        try:
            channel.settimeout(limit_s)
            channel.exec_command(shlex.join(command))
            if not channel.status_event.wait(max(0.0, until - time.monotonic())):
                self._drop()
                raise UnavailableError(
                    f"host {self.name} ({self._where}): {command[0]} did not end within {limit_s:g} s",
                    remedy="Look at the host; whether the command did its work is not known.",
                )
            output = channel.makefile("rb").read(MAX_OUTPUT_BYTES).decode(errors="replace")
            errors = channel.makefile_stderr("rb").read(MAX_OUTPUT_BYTES).decode(errors="replace")
        except (paramiko.SSHException, OSError, EOFError) as error:
            self._drop()
            raise self._lost(error) from error
        finally:
            channel.close()
        if channel.exit_status < 0:
            self._drop()
            raise self._lost(None)
        return Ran(channel.exit_status, output, errors.strip())

    def close(self) -> None:
        self._drop()

    @property
    def _where(self) -> str:
        return f"{self._user}@{self._address}:{self._port}"

    def _open(self, limit_s: float) -> paramiko.Channel:
        """A channel over the connection that is there; a dead one is replaced once."""
        for is_last in (False, True):
            transport, is_fresh = self._transport()
            try:
                return transport.open_session(timeout=min(limit_s, CONNECT_LIMIT_S))
            except (paramiko.SSHException, OSError, EOFError) as error:
                self._drop()
                if is_fresh or is_last:
                    raise self._lost(error) from error
        raise self._lost(None)

    def _transport(self) -> tuple[paramiko.Transport, bool]:
        with self._lock:
            transport = self._client.get_transport() if self._client else None
            if transport is not None and transport.is_active():
                return transport, False
            self._client = self._connected()
            fresh = self._client.get_transport()
            if fresh is None:
                raise self._lost(None)
            fresh.set_keepalive(KEEPALIVE_S)
            return fresh, True

    def _connected(self) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        for name, key in self._known:
            client.get_host_keys().add(name, key.get_name(), key)
        try:
            client.connect(
                self._address,
                self._port,
                self._user,
                pkey=self._key,
                allow_agent=False,
                look_for_keys=False,
                timeout=CONNECT_LIMIT_S,
                banner_timeout=CONNECT_LIMIT_S,
                auth_timeout=CONNECT_LIMIT_S,
            )
        except (paramiko.SSHException, OSError, EOFError) as error:
            client.close()
            raise self._not_connected(error) from error
        return client

    def _not_connected(self, error: Exception) -> VedrError:
        if isinstance(error, paramiko.BadHostKeyException):
            return RefusedError(
                f"host {self.name} ({self._where}): its key is {error.key.fingerprint}, known_hosts has "
                f"{error.expected_key.fingerprint}",
                remedy="Somebody is in between, or the host is new: compare on its console, then change known_hosts.",
            )
        if isinstance(error, paramiko.AuthenticationException):
            return RefusedError(
                f"host {self.name} ({self._where}) does not accept our key",
                remedy=f"Put its public half into {self._user}'s authorized_keys on the host.",
            )
        if "not found in known_hosts" in str(error) or "no acceptable host key" in str(error):
            return RefusedError(
                f"host {self.name} ({self._where}): its key is not in known_hosts",
                remedy="Read the key on the host's console, and add it: ssh-keyscan alone proves nothing.",
            )
        return self._lost(error)

    def _lost(self, error: Exception | None) -> UnavailableError:
        why = f"{type(error).__name__}: {error}" if error else "the connection ended"
        return UnavailableError(
            f"host {self.name} ({self._where}) can't be asked: {why[:200]}",
            remedy="This proves nothing about its units; look at the host and its network.",
        )

    def _drop(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()
