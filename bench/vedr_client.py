"""vedr's engine as a command that takes a folder and endpoints instead of a site: capture and boot are left out.

python -m bench.vedr_client backup [--encrypt] FOLDER ENDPOINT…
python -m bench.vedr_client restore [--encrypt] FOLDER ENDPOINT…
"""

import argparse
import hashlib
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.servers import ACCESS_KEY, BUCKET, CLOUD_REGION, SECRET_KEY
from vedr.adapters.s3_store import Credentials, S3Store
from vedr.backup import restore, snapshot
from vedr.backup.layout import Source
from vedr.backup.manifest import Facts
from vedr.backup.repository import Repository
from vedr.backup.sealing import Codec
from vedr.backup.tree import read_tree
from vedr.inventory import StoreConfig
from vedr.signature import Signer
from vedr.targets import Retention

SOURCE: Final = Source("bench", "state", "bench-node")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("backup", "restore"))
    parser.add_argument("--encrypt", action="store_true")
    parser.add_argument("folder", type=Path)
    parser.add_argument("endpoints", nargs="+")
    order = parser.parse_args()
    repository = _repository(order.endpoints, encrypt=order.encrypt)
    if order.action == "backup":
        snapshot.create(repository, SOURCE, read_tree(order.folder), Facts(), min_regions=len(order.endpoints))
    else:
        newest = restore.candidates(repository, origins=[SOURCE.origin], kind=SOURCE.kind)[0]
        verified = restore.open_manifest(repository, newest, chain_id=None)
        restore.fetch(repository, verified, order.folder, "bench")


def _repository(endpoints: list[str], *, encrypt: bool) -> Repository:
    """Keys that follow from nothing secret: the next run must find the same ones."""
    signer = Signer(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"bench signing").digest()))
    stores = {}
    for number, endpoint in enumerate(endpoints):
        config = StoreConfig(endpoint=endpoint, bucket=BUCKET, cloud_region=CLOUD_REGION)
        stores[f"region-{number}"] = S3Store(f"region-{number}", config, Credentials(ACCESS_KEY, SECRET_KEY))
    return Repository(
        stores=stores,
        signer=signer,
        trusted=(signer.public_hex,),
        codec=Codec(hashlib.sha256(b"bench encryption").digest() if encrypt else None),
        retention=Retention(),
    )


if __name__ == "__main__":
    main()
