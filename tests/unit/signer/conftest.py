from pathlib import Path
from typing import Any

import pytest
from beside import beside

beside("signer_world", Path(__file__).parent / "world.py")
_made = beside("signer_made_site", Path(__file__).parent / "made_site.py")


@pytest.fixture
def opened() -> Any:
    """What the signer needs of an open site."""
    return _made.open_made_site()


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    """What the validator's signer is started with."""
    return _made.make_settings(tmp_path)
