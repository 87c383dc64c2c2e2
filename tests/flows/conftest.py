from collections.abc import Iterator
from pathlib import Path

import pytest
from beside import beside

Server = beside("prefect_server", Path(__file__).with_name("prefect_server.py")).Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """One for all files: a test that may have left it dead starts it again."""
    made = Server(tmp_path_factory.mktemp("prefect"))
    try:
        made.start()
        yield made
    finally:
        made.close()
