"""The lab's secrets manager: moto's server, which speaks AWS Secrets Manager's protocol for all regions at once.

Guarantees: what was stored is there again after the lab was down: the server records every request, and they are
repeated when it starts.  The record holds the lab's passphrases and lies among its secrets.
Leaves out: what one process can't show: the loss of one region's secrets manager, promotion of a replica, KMS
(docs/custody/escrow.md).
"""

import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from vedr.errors import UnavailableError
from vedr.lab.credentials import LabSecrets, write_whole
from vedr.lab.plan import Plan

_REPLAY_LIMIT_S: Final = 60.0
_NO_PROXY: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def command(plan: Plan) -> tuple[str, ...]:
    """The server, on the lab's own address."""
    program = Path(sys.executable).with_name("moto_server")
    return (str(program), "-H", plan.addresses.ops, "-p", str(plan.vault_port))


def environment(plan: Plan) -> dict[str, str]:
    record = LabSecrets(plan.folder).vault_record
    return {"MOTO_ENABLE_RECORDING": "true", "MOTO_RECORDER_FILEPATH": str(record), "PYTHONUNBUFFERED": "1"}


def remember(plan: Plan, process: int | None) -> bool:
    """Repeat what was recorded, once in a server's life; whether there was anything.

    Args:
        plan: The lab.
        process: The server's process id, by which a restarted one is known.
    """
    record = LabSecrets(plan.folder).vault_record
    mark = record.with_suffix(".taken-up-by")
    if mark.exists() and mark.read_text(encoding="ascii") == str(process):
        return False
    if not record.exists() or not record.stat().st_size:
        record.touch(mode=0o600)
        write_whole(mark, str(process))
        return False
    request = urllib.request.Request(f"{plan.vault_url}/moto-api/recorder/replay-recording", method="POST")  # noqa: S310
    try:
        _NO_PROXY.open(request, timeout=_REPLAY_LIMIT_S).close()
    except (OSError, urllib.error.URLError) as error:
        raise UnavailableError(
            f"the secrets manager did not take up its record: {error}", remedy="See `vedr lab logs vault`."
        ) from error
    write_whole(mark, str(process))
    return True
