"""What a node's config.toml says of `double_sign_check_height` is read exactly, or not at all."""

from pathlib import Path

import pytest

from vedr.errors import NotFoundError, RefusedError
from vedr.failover.signer_disk import double_sign_check, set_double_sign_check


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.mark.parametrize("line", ["double_sign_check_height = 20", "double_sign_check_height=20\t# blocks"])
def test_the_height_that_is_there_is_read_with_or_without_a_comment(config: Path, line: str) -> None:
    config.write_text(f"[consensus]\n# double_sign_check_height = 7\n{line}\nz = 3\n")
    assert double_sign_check(config) == 20


def test_what_was_set_is_read_back(config: Path) -> None:
    config.write_text("double_sign_check_height = 0\n")
    set_double_sign_check(config, 20)
    assert double_sign_check(config) == 20


@pytest.mark.parametrize(
    "text",
    [
        "",
        "double_sign_check_height = 20\ndouble_sign_check_height = 0\n",
        "double_sign_check_height = -1\n",
        'double_sign_check_height = "20"\n',
        "double_sign_check_height =\n",
    ],
)
def test_a_height_that_is_missing_twice_there_or_no_number_is_never_taken_for_none(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(RefusedError, match="or is no number"):
        double_sign_check(config)


def test_a_home_without_a_config_is_not_one_that_checks_nothing(config: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        double_sign_check(config)
