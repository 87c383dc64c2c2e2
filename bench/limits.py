"""What this machine can do at all: the figures that no backup program on it can beat.

Each is measured alone, on both cores, over the benchmark's own data.  A snapshot needs several of them at once, so
their sum on the machine's cores is the nearer bound; the slowest alone is the strict one.

    python -m bench.limits DATA SCRATCH SINK_ENDPOINT      prints JSON

A process of its own: a child's peak memory, as the kernel accounts it, starts at its parent's, so the benchmark itself
must stay small.
"""

import hashlib
import json
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import obstore
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from obstore.store import S3Store

from bench.measuring import MIB, cold, sync_file_system
from bench.report import Limit
from bench.servers import ACCESS_KEY, BUCKET, CLOUD_REGION, SECRET_KEY
from vedr.backup.sealing import PARAMETERS

PART_BYTES: Final = 16 * MIB
SAMPLE_PARTS: Final = 24  # kept in memory for the CPU's limits
THREADS: Final = 2
REQUESTS: Final = 4


def measure(data: Path, scratch: Path, sink_endpoint: str) -> list[Limit]:
    """All limits, in the order in which a snapshot meets them, then a restore."""
    files = sorted(path for path in data.rglob("*") if path.is_file())
    total = sum(path.stat().st_size for path in files)
    limits: list[Limit] = []

    def note(title: str, moved_bytes: int, took_s: float, whole_bytes: float) -> None:
        speed = moved_bytes / took_s
        limits.append(Limit(title, speed / MIB, whole_bytes / speed))

    cold(data)
    note("disk read, cold", total, _timed(_read, files, THREADS), total)
    parts = _sample(files)
    plain = sum(map(len, parts))
    note("SHA-256", plain, _timed(lambda p: hashlib.sha256(p).digest(), parts, THREADS), total)
    compressed = [zstandard.ZstdCompressor(compression_params=PARAMETERS).compress(part) for part in parts]
    squeezed = sum(map(len, compressed))
    stored = total * squeezed / plain
    note("zstd", plain, _timed(_contexts(zstandard.ZstdCompressor, "compress"), parts, THREADS), total)
    cipher, nonce = AESGCM(secrets.token_bytes(32)), secrets.token_bytes(12)
    encrypt_s = _timed(lambda p: cipher.encrypt(nonce, p, None), compressed, THREADS)
    note("AES-256-GCM", squeezed, encrypt_s, stored)
    store = S3Store(
        BUCKET,
        endpoint=sink_endpoint,
        region=CLOUD_REGION,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        client_options={"allow_http": True},
    )
    keys = {f"limit/{number}": part for number, part in enumerate(compressed)}
    put_s = _timed(lambda key: obstore.put(store, key, keys[key], use_multipart=False), keys, REQUESTS)
    note("PUT to the sink", squeezed, put_s, stored)
    get_s = _timed(lambda key: len(obstore.get(store, key).bytes()), keys, REQUESTS)
    note("GET from the sink", squeezed, get_s, stored)
    note(
        "zstd, decompressing", plain, _timed(_contexts(zstandard.ZstdDecompressor, "decompress"), compressed, 2), total
    )
    cold(data)
    note("cp -r, durable, from cold", total, _copy(data, scratch / "copy"), total)
    return limits


def _timed(act: Callable[..., object], items: Iterable[object], threads: int) -> float:
    began = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(act, items):
            pass
    return time.monotonic() - began


def _contexts(make: Callable[..., object], method: str) -> Callable[[bytes], object]:
    """A zstd context for each thread, as making one anew for each part costs."""
    kept = threading.local()

    def act(part: bytes) -> object:
        if not hasattr(kept, "act"):
            made = make(compression_params=PARAMETERS) if method == "compress" else make()
            kept.act = getattr(made, method)
        return kept.act(part)

    return act


def _read(path: Path) -> None:
    buffer = bytearray(4 * MIB)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _sample(files: list[Path]) -> list[bytes]:
    """Parts from all over the set: every file's head until there are enough."""
    stride = max(1, sum(path.stat().st_size for path in files) // (SAMPLE_PARTS * PART_BYTES))
    chosen = files[::stride]
    return [path.read_bytes()[:PART_BYTES] for path in chosen if path.stat().st_size]


def _copy(source: Path, target: Path) -> float:
    began = time.monotonic()
    shutil.copytree(source, target)
    sync_file_system(target)
    took_s = time.monotonic() - began
    shutil.rmtree(target)
    return took_s


if __name__ == "__main__":
    print(json.dumps([limit._asdict() for limit in measure(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])]))
