"""Runs a site's own program to take a stopped node one block back (`[chain] rollback` of the site file).

Guarantees: the program is given a home and a time limit and nothing else; whatever it complains about is one error.
Leaves out: whether what comes out is the chain's state, which its caller proves.
"""

import subprocess
from pathlib import Path
from typing import Final

from vedr.errors import NotFoundError, VerificationFailedError
from vedr.inventory import Chain

LIMIT_S: Final = 600.0  # opens the databases and rewrites one version
_TAIL_CHARACTERS: Final = 500


def roll_back(chain: Chain, home: Path, *, limit_s: float = LIMIT_S) -> None:
    """Change the databases in `home`/data, which no process uses.

    Raises:
        NotFoundError: there is no such program.
        VerificationFailedError: it said no, or did not end in time: the data may be half-way and must not be used.
    """
    fill = {"home": str(home), "data": str(home / "data")}
    command = [argument.format_map(fill) for argument in chain.rollback]
    try:
        subprocess.run(command, capture_output=True, check=True, timeout=limit_s)
    except FileNotFoundError as error:
        raise NotFoundError(f"{command[0]}: no such program", remedy="Correct [chain] rollback.") from error
    except subprocess.TimeoutExpired as error:
        raise VerificationFailedError(
            f"rolling {home} back took more than {limit_s:g} s", remedy="Take another way back."
        ) from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()[-_TAIL_CHARACTERS:]
        raise VerificationFailedError(
            f"rolling {home} back failed: {said or f'exit status {error.returncode}'}", remedy="Take another way back."
        ) from error
