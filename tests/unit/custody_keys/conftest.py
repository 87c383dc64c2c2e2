"""Makes the world of key backups importable, and one for each test."""

import hashlib
import sys
from pathlib import Path

import pytest
from beside import beside

from vedr.custody import envelope_slots, key_manager_import
from vedr.custody.envelope_format import PassphraseSlot

HERE = Path(__file__).parent
beside("chainmaker", HERE.parent / "chain" / "chainmaker.py")
for _name in ("keysworld", "sitemaker", "compromise_world"):
    beside(_name, HERE / f"{_name}.py")


REMEMBERED: dict[object, bytes] = {}


@pytest.fixture(autouse=True)
def cheap_derivation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id's cost is the envelope's promise (tests/unit/custody); here it would only be waited for.

    Tests marked `server` keep the real one.
    """

    def derived(passphrase: bytes, slot: PassphraseSlot) -> bytes:
        return hashlib.blake2b(passphrase, digest_size=32, salt=slot.salt).digest()

    real = key_manager_import._derive

    def once(passphrase: bytes, salt: bytes, cost: key_manager_import.Derivation) -> bytes:
        asked = (passphrase, salt, cost)
        if asked not in REMEMBERED:
            REMEMBERED[asked] = real(passphrase, salt, cost)
        return REMEMBERED[asked]

    if request.node.name != "test_a_machine_without_the_memory_says_so":
        monkeypatch.setattr(key_manager_import, "_derive", once)
    if request.node.get_closest_marker("server") is None:
        monkeypatch.setattr(envelope_slots, "_derived", derived)


@pytest.fixture
def keys() -> object:
    return sys.modules["keysworld"].make_world()
