"""The methods compared: each as the commands that somebody would type.

A method backs up the folder `live`, twice, and then restores the newest state to an empty folder.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.servers import ACCESS_KEY, BUCKET, CLOUD_REGION, SECRET_KEY, Server, client_environment, find_program

RESTIC_PASSWORD: Final = "bench"  # noqa: S105 (of a repository that lives for minutes)
PYTHON: Final = sys.executable


@dataclass(frozen=True, slots=True)
class Place:
    """Where a method works: the servers (several where it writes to several regions), the data, its own scratch."""

    servers: tuple[Server, ...]
    live: Path
    scratch: Path

    @property
    def server(self) -> Server:
        return self.servers[0]


Command = Callable[[Place], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Method:
    """`restored` is where, under the target, the files are found again."""

    name: str
    title: str
    encrypts: bool
    history: bool
    prepare: Command | None
    backup: Command
    restore: Callable[[Place, Path], Sequence[str]]
    restored: Callable[[Path, Path], Path] = lambda target, _live: target
    regions: int = 1
    environment: Callable[[Place], Mapping[str, str]] = lambda _place: {}
    sinkable: bool = False
    rounds: int | None = None
    """At most so many, where a method is too slow to be run as often as the others."""


def environment(method: Method, place: Place) -> dict[str, str]:
    """What the method's commands run with; nothing here speaks TLS, and rclone 1.60 refuses the caller's CA bundle."""
    root = str(Path(__file__).resolve().parent.parent)
    inherited = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}
    return {**inherited, **client_environment(), "PYTHONPATH": root, **method.environment(place)}


def _pipe(action: str, place: Place, *more: str) -> list[str]:
    return [PYTHON, "-m", "bench.s3_pipe", action, place.server.endpoint, *more]


def _make_bucket(place: Place) -> Sequence[str]:
    return _pipe("bucket", place, *(server.endpoint for server in place.servers[1:]))


def _vedr(name: str, title: str, *, encrypts: bool, regions: int = 1, sinkable: bool = False) -> Method:
    def client(action: str, place: Place, folder: Path) -> list[str]:
        key = ["--encrypt"] if encrypts else []
        return [PYTHON, "-m", "bench.vedr_client", action, *key, str(folder), *(s.endpoint for s in place.servers)]

    return Method(
        name,
        title,
        encrypts,
        history=True,
        prepare=_make_bucket,
        backup=lambda place: client("backup", place, place.live),
        restore=lambda place, target: client("restore", place, target),
        restored=lambda target, _live: next(target.glob("data.vedr-staged-*")),
        regions=regions,
        sinkable=sinkable,
    )


def _restic_environment(place: Place) -> Mapping[str, str]:
    return {
        "RESTIC_PASSWORD": RESTIC_PASSWORD,
        "RESTIC_REPOSITORY": f"s3:{place.server.endpoint}/{BUCKET}",
        "RESTIC_CACHE_DIR": str(place.scratch / "restic-cache"),
    }


def _restic(name: str, title: str, *options: str) -> Method:
    return Method(
        name,
        title,
        encrypts=True,
        history=True,
        prepare=lambda _place: [find_program("restic"), "init", "--quiet"],
        backup=lambda place: [find_program("restic"), "backup", "--quiet", *options, str(place.live)],
        restore=lambda _place, target: [
            find_program("restic"), "restore", "latest", "--quiet", *options, "--target", str(target)
        ],
        restored=lambda target, live: target / live.relative_to("/"),
        environment=_restic_environment,
    )  # fmt: skip


def _rclone_environment(place: Place) -> Mapping[str, str]:
    return {
        "RCLONE_CONFIG": str(place.scratch / "rclone.conf"),
        "RCLONE_CONFIG_B_TYPE": "s3",
        "RCLONE_CONFIG_B_PROVIDER": "Other",
        "RCLONE_CONFIG_B_ENDPOINT": place.server.endpoint,
        "RCLONE_CONFIG_B_REGION": CLOUD_REGION,
        "RCLONE_CONFIG_B_ACCESS_KEY_ID": ACCESS_KEY,
        "RCLONE_CONFIG_B_SECRET_ACCESS_KEY": SECRET_KEY,
    }


def _rclone(source: str, target: str) -> list[str]:
    return [find_program("rclone"), "sync", "--quiet", "--fast-list", source, target]


def _tar(name: str, title: str, squeeze: str, expand: str, *, rounds: int | None = None) -> Method:
    def shell(script: str) -> list[str]:
        return ["bash", "-c", f"set -euo pipefail; {script}"]

    def backup(place: Place) -> list[str]:
        put = " ".join(_pipe("put", place, f"{name}.tar"))
        return shell(f"tar -C {place.live.parent} -cf - {place.live.name} | {squeeze} | {put}")

    def restore(place: Place, target: Path) -> list[str]:
        get = " ".join(_pipe("get", place, f"{name}.tar"))
        return shell(f"{get} | {expand} | tar -C {target} -xf -")

    return Method(
        name,
        title,
        encrypts=False,
        history=False,
        prepare=_make_bucket,
        backup=backup,
        restore=restore,
        restored=lambda target, live: target / live.name,
        rounds=rounds,
    )


METHODS: Final = {
    method.name: method
    for method in (
        _vedr("vedr", "vedr", encrypts=True, sinkable=True),
        _vedr("vedr-plain", "vedr, not encrypting", encrypts=False, sinkable=True),
        _vedr("vedr-3", "vedr, three regions at once", encrypts=True, regions=3, sinkable=True),
        _restic("restic", "restic"),
        _restic("restic-tuned", "restic, 64 MiB packs, 8 connections", "--pack-size=64", "-o", "s3.connections=8"),
        Method(
            "rclone",
            "rclone sync (a mirror)",
            encrypts=False,
            history=False,
            prepare=_make_bucket,
            backup=lambda place: _rclone(str(place.live), f"b:{BUCKET}/live"),
            restore=lambda _place, target: _rclone(f"b:{BUCKET}/live", str(target)),
            environment=_rclone_environment,
        ),
        _tar("tar-zstd", "tar, zstd -1, upload", "zstd -1 -c", "zstd -dc"),
        _tar("tar-gzip", "tar, gzip, upload", "gzip -c", "gzip -dc", rounds=1),
    )
}
