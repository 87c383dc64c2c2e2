from collections.abc import Iterator
from pathlib import Path

import pytest
from beside import beside
from held_registers import REGIONS, VALIDATOR

from vedr.adapters.memory_registers import MemoryRegisters
from vedr.chain.register import NEVER_SIGNED
from vedr.chain.register_holding import Holding, SignStateRegister

beside("chainmaker", Path(__file__).parent / "chainmaker.py")


@pytest.fixture
def regions() -> dict[str, MemoryRegisters]:
    return {region: MemoryRegisters(region) for region in REGIONS}


@pytest.fixture
def register(regions: dict[str, MemoryRegisters]) -> SignStateRegister:
    """Founded for a key that has signed nothing."""
    made = SignStateRegister(regions, VALIDATOR)
    made.found(NEVER_SIGNED)
    return made


@pytest.fixture
def active(register: SignStateRegister) -> Iterator[Holding]:
    with register.take_over(1, "us-east/1#a") as holding:
        yield holding
