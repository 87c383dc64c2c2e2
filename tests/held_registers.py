"""What tests of sign-state registers have in common: whose it is, positions to sign at, and that all regions agree."""

import time
from hashlib import sha256
from typing import Final

from vedr.chain.register import Position, Validator
from vedr.chain.register_holding import SignStateRegister
from vedr.chain.sign_state import Hrs
from vedr.inventory import Height

REGIONS: Final = ("us-east", "eu-west", "ap-south")
VALIDATOR: Final = Validator("chain-1", "AB" * 20)


def position_of(hrs: Hrs, message: bytes) -> Position:
    """Of a message that is about to be signed."""
    return Position(Height(hrs[0]), hrs[1], hrs[2], sha256(message).hexdigest(), message)


def at(height: int, message: bytes = b"vote") -> Position:
    return position_of((height, 0, 2), message)


def all_agree(register: SignStateRegister, *, deadline_s: float = 5) -> bool:
    """Whether every region shows the same within that time: what the slower ones missed was sent to them."""
    ends = time.monotonic() + deadline_s
    while True:
        seen = register.look(deadline_s=max(0.01, ends - time.monotonic()))
        if not seen.problems and len(set(seen.contents.values())) == 1:
            return True
        if time.monotonic() >= ends:
            return False
        time.sleep(0.002)
