"""Prefect's command, with its garbage collected by a thread of its own.

    python -m vedr.lab.prefect_server server start ...

Python collects in whichever thread allocates, in a server mostly the event loop's.  A cursor that a refused statement
left behind is reset when it is collected, and for that waits for its connection, which another request may use by then:
one that waits in SQLite for the writer's lock, while the writer waits for the event loop.  So the server stood still
for SQLite's whole limit of 60 s, again and again (docs/decisions/prefect-front.md).  A thread of its own may wait.

Guarantees: everything is collected that would be, young objects within YOUNG_EVERY_S; the command does not know of it.
Leaves out: who else but the collector gives up a cursor, which is the request that used it, at once.
"""

import gc
import itertools
import runpy
import threading
import time
from typing import Final

YOUNG_EVERY_S: Final = 1.0
ALL_EVERY: Final = 30
"""Of so many collections one is of everything; it stops the server for some tenths of a second."""
_YOUNG: Final = 1  # the generation: with those that have survived one collection
_ALL: Final = 2


def _collect() -> None:
    for number in itertools.count(1):
        time.sleep(YOUNG_EVERY_S)
        gc.collect(_ALL if number % ALL_EVERY == 0 else _YOUNG)


def main() -> None:
    """Run Prefect with this program's arguments."""
    gc.disable()
    threading.Thread(target=_collect, name="garbage", daemon=True).start()
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
