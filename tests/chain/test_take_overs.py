"""Take-over after take-over under load, each from a signer that was killed, frozen or cut off: nothing is signed twice.

Signers that were frozen or cut off come back to life and stay until they find out themselves.  A few in each run; the
long form is `VEDR_TAKE_OVERS=100 pytest tests/chain/test_take_overs.py`.  `-o log_cli=1` shows the figures.
"""

import logging
import os
import signal
import statistics
import threading
import time
import urllib.request
from dataclasses import dataclass, field

import pytest
from chain_signing import SignerProcess, Wires, World, WorldMaker

from vedr.inventory import Height

pytestmark = pytest.mark.server

TAKE_OVERS = int(os.environ.get("VEDR_TAKE_OVERS", "3"))
WAYS = ("kill", "freeze", "cut")
TRANSACTIONS_PER_S = 10
SUPERSEDED = 5


@dataclass
class Post:
    """A signer, its wires, and what was done to it."""

    signer: SignerProcess
    wires: Wires
    ended_by: str = ""


@dataclass
class Log:
    took_s: list[float] = field(default_factory=list)
    missed: list[int] = field(default_factory=list)


def test_take_overs_under_load_never_sign_twice(make_signing_world: WorldMaker) -> None:
    with make_signing_world(tcp=True) as world:
        assert world.vedr("found", "--new-key").returncode == 0
        posts = [occupy(world, 0)]
        posts[0].signer.holds()
        world.network.start()
        posts[0].signer.signs_above(3)
        log = Log()
        stopping = threading.Event()
        load = threading.Thread(target=transact, args=(world, stopping))
        load.start()
        try:
            for number in range(1, TAKE_OVERS + 1):
                take_over(world, posts, number, log)
            world.network.reach(world.network.height("full0") + 5, "full0")
            for post in posts[:-1]:
                assert ended(post), f"{post.signer.name} was passed and runs on"
        finally:
            stopping.set()
            load.join()
            for post in posts:
                post.wires.close()
        world.nothing_is_signed_twice()
        no_height_has_two_blocks(world)
        report(log)


def occupy(world: World, number: int) -> Post:
    name = f"{('us-east-1a', 'eu-west-1a')[number % 2]}-{number}"
    wires = Wires(world, name)
    return Post(world.sign(name, *(["--take-over"] if number else []), wires=wires), wires)


def take_over(world: World, posts: list[Post], number: int, log: Log) -> None:
    old = posts[-1]
    old.ended_by = WAYS[number % len(WAYS)]
    signed = old.signer.events("signed")[-1]["hrs"]
    began, before = time.monotonic(), world.network.height("full0")
    {"kill": lambda: old.signer.signal(signal.SIGKILL), "freeze": lambda: old.signer.signal(signal.SIGSTOP),
     "cut": old.wires.cut}[old.ended_by]()  # fmt: skip
    posts.append(occupy(world, number))
    posts[-1].signer.signs_above(max(before, int(signed.split("/")[0])))
    log.took_s.append(time.monotonic() - began)
    after = world.network.height("full0")
    world.network.reach(after + 1, "full0")
    log.missed.append(len(world.missed(before, after)))
    if old.ended_by == "freeze":
        old.signer.signal(signal.SIGCONT)
    old.wires.heal()
    for passed in posts[:-3]:  # a while later they are told, as a supervisor would
        if passed.signer.process.poll() is None:
            passed.signer.signal(signal.SIGTERM)


def ended(post: Post) -> bool:
    """It was killed, found out that it was passed, or ends when asked; a signer that only dials in vain is asked."""
    if post.signer.process.poll() is None:
        post.signer.signal(signal.SIGTERM)
    status = post.signer.wait()
    return status in ((-signal.SIGKILL,) if post.ended_by == "kill" else (0, SUPERSEDED))


def no_height_has_two_blocks(world: World) -> None:
    """Every node has the same block at every height."""
    tips = [world.network.height(name) for name in ("val1", "full0")]
    with world.network.rpc("val1") as one, world.network.rpc("full0") as other:
        for height in range(1, min(tips) - 1):
            assert one.commit(Height(height)).header.hash() == other.commit(Height(height)).header.hash()


def transact(world: World, stopping: threading.Event) -> None:
    number = 0
    while not stopping.wait(1 / TRANSACTIONS_PER_S):
        number += 1
        url = f'{world.network.url("full0")}/broadcast_tx_async?tx="load-{number}={number}"'
        urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - our own node


def report(log: Log) -> None:
    took = sorted(log.took_s)
    logging.getLogger(__name__).warning(
        "%d take-overs: %.1f s at the median, %.1f s at most; votes missed in each: %.0f at the median, %d at most",
        len(took), statistics.median(took), took[-1], statistics.median(log.missed), max(log.missed),
    )  # fmt: skip
