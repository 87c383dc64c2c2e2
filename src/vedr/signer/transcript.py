"""Merlin transcripts: what both ends of a connection have seen, boiled down to bytes that both can compute.

Guarantees: the same bytes as the Rust and Go libraries of Merlin 1.0, for appending messages and drawing challenges.
Leaves out: the random generator and rekeying; secrecy against timing, since what is hashed here is used once.

Sources: merlin.cool, strobe.sourceforge.io (STROBE-128 v1.0.2), FIPS 202 (Keccak-f[1600]).
"""

import struct
from typing import Final

_RATE: Final = 166  # bytes; STROBE-128: 200 - 2 * 128 / 8 - 2
_INPUT: Final = 1
_ASSOCIATED: Final = 2
_CIPHER: Final = 4
_META: Final = 16
_KEY: Final = 32

_LANES: Final = struct.Struct("<25Q")
_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_ROUNDS: Final = 24


def _round_constants() -> tuple[int, ...]:
    """FIPS 202, 3.2.5: a shift register gives bits 2^j - 1 of each round's constant."""
    register, constants = 1, []
    for _ in range(_ROUNDS):
        constant = 0
        for j in range(7):
            constant |= (register & 1) << (1 << j) - 1
            register = register << 1 ^ (register >> 7) * 0x171
        constants.append(constant)
    return tuple(constants)


def _walk() -> tuple[tuple[int, int], ...]:
    """FIPS 202, 3.2.2 and 3.2.3: where each lane goes, and how far it is turned."""
    x, y, steps = 1, 0, []
    for t in range(24):
        source = x + 5 * y
        x, y = y, (2 * x + 3 * y) % 5
        steps.append((source, ((t + 1) * (t + 2) // 2) % 64))
    return tuple(steps)


_CONSTANTS: Final = _round_constants()
_WALK: Final = _walk()
_TARGETS: Final = tuple(source for source, _ in (*_WALK[1:], _WALK[0]))


def _rotate(lane: int, bits: int) -> int:
    return (lane << bits | lane >> 64 - bits) & _MASK


def keccak_f1600(state: bytes) -> bytes:
    """The permutation of 200 bytes."""
    lanes = list(_LANES.unpack(state))
    for constant in _CONSTANTS:
        columns = [lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20] for x in range(5)]
        for x in range(5):
            mix = columns[x - 1] ^ _rotate(columns[(x + 1) % 5], 1)
            for y in range(0, 25, 5):
                lanes[x + y] ^= mix
        moved = lanes[:]
        for (source, bits), target in zip(_WALK, _TARGETS, strict=True):
            moved[target] = _rotate(lanes[source], bits)
        for y in range(0, 25, 5):
            row = moved[y : y + 5]
            for x in range(5):
                lanes[x + y] = row[x] ^ (~row[(x + 1) % 5] & row[(x + 2) % 5])
        lanes[0] ^= constant
    return _LANES.pack(*lanes)


class _Strobe:
    """STROBE-128, as far as Merlin uses it."""

    def __init__(self, label: bytes) -> None:
        seed = bytes((1, _RATE + 2, 1, 0, 1, 96)) + b"STROBEv1.0.2"
        self._state = bytearray(keccak_f1600(seed.ljust(200, b"\0")))
        self._at = 0
        self._began = 0
        self.meta(label)

    def meta(self, *parts: bytes) -> None:
        self._begin(_META | _ASSOCIATED)
        for part in parts:
            self._absorb(part)

    def associate(self, data: bytes) -> None:
        self._begin(_ASSOCIATED)
        self._absorb(data)

    def draw(self, size_bytes: int) -> bytes:
        self._begin(_INPUT | _ASSOCIATED | _CIPHER)
        drawn = bytearray()
        while len(drawn) < size_bytes:
            drawn.append(self._state[self._at])
            self._state[self._at] = 0
            self._step()
        return bytes(drawn)

    def _begin(self, flags: int) -> None:
        began, self._began = self._began, self._at + 1
        self._absorb(bytes((began, flags)))
        if flags & (_CIPHER | _KEY) and self._at:
            self._permute()

    def _absorb(self, data: bytes) -> None:
        for byte in data:
            self._state[self._at] ^= byte
            self._step()

    def _step(self) -> None:
        self._at += 1
        if self._at == _RATE:
            self._permute()

    def _permute(self) -> None:
        self._state[self._at] ^= self._began
        self._state[self._at + 1] ^= 0x04
        self._state[_RATE + 1] ^= 0x80
        self._state[:] = keccak_f1600(bytes(self._state))
        self._at = self._began = 0


class Transcript:
    """One protocol run, as both ends saw it."""

    def __init__(self, label: bytes) -> None:
        self._strobe = _Strobe(b"Merlin v1.0")
        self.append(b"dom-sep", label)

    def append(self, label: bytes, message: bytes) -> None:
        self._strobe.meta(label, len(message).to_bytes(4, "little"))
        self._strobe.associate(message)

    def challenge(self, label: bytes, size_bytes: int) -> bytes:
        """Bytes that depend on everything so far, and are themselves part of it from now on."""
        self._strobe.meta(label, size_bytes.to_bytes(4, "little"))
        return self._strobe.draw(size_bytes)
