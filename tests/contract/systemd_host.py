"""A host for the tests of the fleet: a real sshd, and a real systemd behind it that can reach nothing of this machine.

systemd runs as a user's manager, in name spaces of its own: processes, mounts, control groups.  Its root is read-only,
/tmp, /run and /var/tmp are its own, and of the distribution's units it sees only a few targets.  (A system manager
would run the distribution's boot units, one of which empties /tmp.)  Needs root and control groups of version 2.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

READY_S: Final = 20.0
TARGETS: Final = (
    "basic.target",
    "shutdown.target",
    "sockets.target",
    "timers.target",
    "paths.target",
    "default.target",
)
SYSTEMD: Final = "/lib/systemd/systemd"
SSHD: Final = "/usr/sbin/sshd"
DBUS: Final = "/usr/bin/dbus-daemon"
INSIDE: Final = Path("/run/fleet")
ENVIRONMENT: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": f"{INSIDE}/home",
    "XDG_RUNTIME_DIR": f"{INSIDE}/run",
    "XDG_CONFIG_HOME": f"{INSIDE}/config",
    "XDG_DATA_HOME": f"{INSIDE}/data",
}

BOOT: Final = f"""
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p {INSIDE} /run/sshd /run/systemd/system
mount --bind "$1" {INSIDE}
for folder in /tmp /var/tmp /etc/systemd/user /usr/lib/systemd/user; do
    [ ! -d $folder ] || mount -t tmpfs tmpfs $folder
done
cp {INSIDE}/targets/* /usr/lib/systemd/user/
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -o remount,bind,ro /
{SSHD} -f {INSIDE}/sshd_config -E {INSIDE}/sshd.log
env -i {" ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())} \\
    {SYSTEMD} --user --log-target=console --log-level=notice &
wait $!
"""

BUS: Final = {
    "dbus.socket": "[Socket]\nListenStream=%t/bus\n",
    "dbus.service": f"[Unit]\nRequires=dbus.socket\n[Service]\nType=notify\nExecStart={DBUS} --session "
    "--address=systemd: --nofork --nopidfile --systemd-activation\n",
    "ready.service": "[Unit]\nAfter=dbus.service\n[Service]\nExecStart=/bin/sh -c 'until busctl --user status "
    "org.freedesktop.systemd1; do sleep 0.05; done; touch %t/ready'\n",
}
"""systemctl freeze asks systemd over the bus, not over its own socket."""


@dataclass
class SystemdHost:
    """One sshd and one systemd, and the keys to them."""

    folder: Path
    port: int
    cgroup: Path = field(init=False)
    process: subprocess.Popen[bytes] | None = None

    @property
    def key(self) -> str:
        return f"file:{self.folder / 'client_key'}"

    @property
    def known_hosts(self) -> str:
        return f"file:{self.folder / 'known_hosts'}"

    @property
    def units(self) -> Path:
        return self.folder / "config" / "systemd" / "user"

    def define(self, name: str, service: str, *, install: bool = True) -> None:
        """A unit file; the manager reads it when it is first asked for the unit."""
        wanted = "\n[Install]\nWantedBy=default.target\n" if install else ""
        (self.units / name).write_text(f"[Service]\n{service}\n{wanted}")

    def start(self) -> None:
        _require()
        self._prepare()
        groups = next(line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " cgroup2 " in line)
        self.cgroup = Path(groups) / f"vedr-test-{os.getpid()}-{self.port}"
        self.cgroup.mkdir()
        enter = f'echo $$ > {self.cgroup}/cgroup.procs; exec "$@"'
        spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--mount-proc"]
        boot = ["sh", "-c", BOOT, "sh", str(self.folder)]
        with (self.folder / "systemd.log").open("ab") as log:
            self.process = subprocess.Popen(["sh", "-c", enter, "sh", *spaces, *boot], stdout=log, stderr=log)
        self._wait_until_it_answers()

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGKILL)  # the name space ends with its first process, and all in it
        self.process.wait()
        self.process = None
        deadline = time.monotonic() + READY_S
        while self.cgroup.exists() and time.monotonic() < deadline:
            for folder, _, _ in os.walk(self.cgroup, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
            time.sleep(0.02)

    def _prepare(self) -> None:
        for name in ("run", "home", "data", "targets", "config/systemd/user"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "run").chmod(0o700)
        for target in TARGETS:
            shutil.copy(f"/usr/lib/systemd/user/{target}", self.folder / "targets")
        wanted = self.units / "default.target.wants"
        wanted.mkdir()
        for name, text in BUS.items():
            (self.units / name).write_text(text)
            (wanted / name).symlink_to(f"../{name}")
        make_key(self.folder / "host_key")
        make_key(self.folder / "client_key")
        shutil.copy(self.folder / "client_key.pub", self.folder / "authorized_keys")
        self.trust(self.folder / "host_key.pub")
        (self.folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {INSIDE}/host_key\nPidFile none\nUsePAM no\n"
            f"StrictModes no\nAuthorizedKeysFile {INSIDE}/authorized_keys\nPasswordAuthentication no\n"
            f"KbdInteractiveAuthentication no\nSetEnv {' '.join(f'{n}={v}' for n, v in ENVIRONMENT.items())}\n"
        )

    def trust(self, public_key: Path, *, name: str | None = None) -> None:
        """Write the file of known hosts anew, with this one key."""
        kind, key, *_ = public_key.read_text().split()
        known = self.folder / "known_hosts"
        known.touch(mode=0o600)
        known.write_text(f"{name or f'[127.0.0.1]:{self.port}'} {kind} {key}\n")

    def _wait_until_it_answers(self) -> None:
        assert self.process is not None
        ready = self.folder / "run" / "ready"
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                if ready.exists():
                    return
            time.sleep(0.02)
        said = [path.read_text() for path in self.folder.glob("*.log")]
        self.stop()
        pytest.fail("\n".join(said), pytrace=False)


def make_key(path: Path) -> None:
    """An Ed25519 pair in OpenSSH's form."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _require() -> None:
    missing = [program for program in (SYSTEMD, SSHD, DBUS) if not Path(program).exists()]
    if missing:
        pytest.fail(f"{', '.join(missing)} missing: run `make build`", pytrace=False)
    if os.geteuid() != 0:
        pytest.skip("a systemd of the test's own needs root: name spaces and control groups")
    if not any(" cgroup2 " in line for line in Path("/proc/mounts").read_text().splitlines()):
        pytest.skip("a systemd of the test's own needs control groups of version 2, which this machine does not mount")
