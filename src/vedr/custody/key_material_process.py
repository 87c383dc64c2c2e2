"""Keeps a process that handles keys from writing its memory to disk when it crashes.

Guarantees: after `no_core_dumps` this process leaves no core file and hands none to a crash handler, and other
processes of the same user cannot attach to it.
Leaves out: swap, and wiping memory, which Python cannot do.

Source: core(5), prctl(2).  A handler behind `|` in core_pattern ignores a limit of 0, hence both.
"""

import ctypes
import resource
import sys
from typing import Final

PR_SET_DUMPABLE: Final = 4


def no_core_dumps() -> None:
    """Safe to repeat; on systems other than Linux only the limit is set."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
