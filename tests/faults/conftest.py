"""Sites in files, and those whose validator signs from a key file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beside import beside
from moto import mock_aws

HERE = Path(__file__).parent
for _name in ("forks", "killed_run", "failover_world", "key_file_world", "key_file_site"):  # each needs those before it
    beside(_name, HERE / f"{_name}.py")

import key_file_site  # noqa: E402 - was just made
import key_file_world  # noqa: E402


@pytest.fixture(scope="module")
def paper() -> Any:
    """A site whose validators sign from key files that may be moved."""
    key_file_world.quick_derivation()
    return key_file_world.paper_site()


@pytest.fixture
def made(paper: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes that site in files, with some of its settings changed, and lets the flows of this process act on it."""

    def make(**changed: Any) -> Any:
        site = key_file_site.Site(tmp_path / "world", paper.model_copy(update=changed))
        key_file_site.put_in_place(site, monkeypatch)
        return site

    return make


@pytest.fixture
def aws() -> Iterator[None]:
    """A cloud that answers, as moto has it."""
    with mock_aws(), pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, "testing")
        yield
