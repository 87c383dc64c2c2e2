"""A second, independent reader of the ledger: written from docs/formats/ledger.md, importing nothing of vedr.

    second_reader.py RUN_FOLDER SITE

RUN_FOLDER is what `vedr ledger export` writes: a folder for each region, and trusted-keys.json.  Prints the run's
entries and what is wrong as JSON; ends with 1 when anything is.
"""

import hashlib
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FIELDS = {"format", "site", "run", "seq", "kind", "time", "epoch", "prev", "payload"}
NAME = re.compile(r"(\d{8})(\.[0-9a-f]{8})?\.json")


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def signed(data: bytes, trusted: list[str], site: str, run: str, seq: int) -> Any:
    """The entry, or None when these bytes are not one of a trusted key for this place."""
    keys = {digest(bytes.fromhex(key)): bytes.fromhex(key) for key in trusted}
    try:
        document = json.loads(data)
        entry = document["signed"]
        if canonical(document) != data or set(document) != {"signed", "signatures"} or set(entry) != FIELDS:
            return None
        if (entry["format"], entry["site"], entry["run"], entry["seq"]) != ("vedr-ledger/1", site, run, seq):
            return None
        for one in document["signatures"]:
            raw = bytes.fromhex(one["sig"])
            if raw.hex() == one["sig"] and one["keyid"] in keys:
                Ed25519PublicKey.from_public_bytes(keys[one["keyid"]]).verify(raw, canonical(entry))
                return entry
    except (ValueError, KeyError, TypeError, InvalidSignature):
        pass
    return None


def follows(entry: Any, before: Any, prev: str) -> bool:
    if before is None:
        return (entry["kind"], entry["epoch"], entry["prev"]) == ("opened", 1, "0" * 64)
    epoch = before["epoch"] + (entry["kind"] == "resumed")
    ends = before["kind"] == "closed" or entry["kind"] == "opened"
    return entry["prev"] == prev and entry["epoch"] == epoch and not ends


def read(folder: Path, site: str) -> dict[str, Any]:
    """The run's decided entries, and every finding."""
    trusted = json.loads((folder / "trusted-keys.json").read_text())
    regions = sorted(path.name for path in folder.iterdir() if path.is_dir())
    main: dict[int, dict[str, bytes]] = {}
    beside: dict[int, dict[str, bytes]] = {}
    for region in regions:
        for path in (folder / region).iterdir():
            if name := NAME.fullmatch(path.name):
                (beside if name[2] else main).setdefault(int(name[1]), {})[region] = path.read_bytes()
    entries: list[Any] = []
    wrong: list[str] = []
    prev = "0" * 64
    for seq in range(max((*main, *beside), default=-1) + 1):
        held, others = main.get(seq, {}), beside.get(seq, {})
        genuine = {
            data: entry
            for data in (*held.values(), *others.values())
            if (entry := signed(data, trusted, site, folder.name, seq)) is not None
        }
        wrong += [f"{seq}: {region}: not signed for it" for region, data in held.items() if data not in genuine]
        fitting = {data for data, entry in genuine.items() if follows(entry, entries[-1] if entries else None, prev)}
        decided = decide(regions, held, others, fitting, following(main, seq, trusted, site, folder.name))
        if decided is None:
            if seq < max((*main, *beside)):
                wrong.append(f"{seq}: undecidable, with later entries")
                break
            continue
        lack = [region for region in regions if decided not in (held.get(region), others.get(region))]
        wrong += [f"{seq}: {region}: missing" for region in lack]
        entries.append(genuine[decided])
        prev = digest(decided)
    return {"entries": entries, "wrong": wrong, "head": prev}


def following(main: dict[int, dict[str, bytes]], seq: int, trusted: list[str], site: str, run: str) -> set[str]:
    later = (signed(data, trusted, site, run, seq + 1) for data in main.get(seq + 1, {}).values())
    return {entry["prev"] for entry in later if entry is not None}


def decide(
    regions: list[str], held: dict[str, bytes], others: dict[str, bytes], fitting: set[bytes], named: set[str]
) -> bytes | None:
    counted = {**held, **{region: data for region, data in others.items() if data in fitting}}  # rule 2: given later
    votes = Counter(data for data in counted.values() if data in fitting)
    ranked = sorted(votes, key=lambda data: (-votes[data], digest(data)))
    if ranked and votes[ranked[0]] > len(regions) // 2:
        return ranked[0]
    if ranked and len(held) == len(regions):
        return ranked[0]  # rule 4
    return next((data for data in ranked if digest(data) in named), None)  # rule 3


if __name__ == "__main__":
    found = read(Path(sys.argv[1]), sys.argv[2])
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    sys.exit(1 if found["wrong"] else 0)
