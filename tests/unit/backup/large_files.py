"""Backs up and restores a folder through a store that keeps files, and writes the peak of this process in bytes.

python large_files.py ACTION STORE FOLDER       with ACTION backup or restore
"""

import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.stores.folder_store import FolderStore
from vedr.backup import restore, snapshot
from vedr.backup.layout import Source
from vedr.backup.manifest import Facts
from vedr.backup.repository import Repository
from vedr.backup.sealing import Codec
from vedr.backup.tree import read_tree
from vedr.signature import Signer
from vedr.targets import Retention

SOURCE = Source("us-east", "state", "full-0")


def main() -> None:
    action, store, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    signer = Signer(Ed25519PrivateKey.from_private_bytes(b"s" * 32))
    stores = {"us-east": FolderStore(store)}
    repository = Repository(stores, signer, (signer.public_hex,), Codec(b"k" * 32), Retention())
    if action == "backup":
        snapshot.create(repository, SOURCE, read_tree(folder), Facts())
    else:
        newest = restore.candidates(repository, origins=[SOURCE.origin])[0]
        restore.fetch(repository, restore.open_manifest(repository, newest, chain_id=None), folder, "i")
    status = Path("/proc/self/status").read_text(encoding="ascii")  # resource's peak begins at the parent's
    sys.stdout.write(str(int(status.partition("VmHWM:")[2].split()[0]) * 1024))


if __name__ == "__main__":
    main()
