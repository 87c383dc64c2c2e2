"""One action on a folder, through stores that keep files; writes the peak of this process in bytes.

python large_files.py ACTION STORE FOLDER       with ACTION backup, restore, verify, heal or repair

A backup goes to us-east alone; heal brings it to eu-west, repair mends what was damaged there.
"""

import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.stores.folder_store import FolderStore
from vedr.backup import replicate, restore, snapshot, verify
from vedr.backup.layout import Source
from vedr.backup.manifest import Facts
from vedr.backup.repository import Repository
from vedr.backup.sealing import Codec
from vedr.backup.tree import read_tree
from vedr.signature import Signer
from vedr.targets import Retention

SOURCE = Source("us-east", "state", "full-0")


def act(repository: Repository, action: str, folder: Path) -> None:
    newest = restore.candidates(repository, origins=[SOURCE.origin])[0]
    if action == "restore":
        restore.fetch(repository, restore.open_manifest(repository, newest, chain_id=None), folder, "i")
    elif action == "verify":
        verify.verify(repository, newest, depth=2, regions=["us-east"]).require()
    else:
        (healed,) = (
            replicate.heal(repository, [newest])
            if action == "heal"
            else (replicate.repair(repository, newest, "eu-west"),)
        )
        assert healed.error is None, healed
        assert healed.copied_objects


def main() -> None:
    action, store, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    signer = Signer(Ed25519PrivateKey.from_private_bytes(b"s" * 32))
    regions = ("us-east",) if action in ("backup", "restore") else ("us-east", "eu-west")
    stores = {region: FolderStore(store / region) for region in regions}
    repository = Repository(stores, signer, (signer.public_hex,), Codec(b"k" * 32), Retention())
    if action == "backup":
        snapshot.create(repository, SOURCE, read_tree(folder), Facts())
    else:
        act(repository, action, folder)
    status = Path("/proc/self/status").read_text(encoding="ascii")  # resource's peak begins at the parent's
    sys.stdout.write(str(int(status.partition("VmHWM:")[2].split()[0]) * 1024))


if __name__ == "__main__":
    main()
