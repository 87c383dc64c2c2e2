"""The template refuses what would not start."""

from pathlib import Path

import pytest

from vedr.errors import InvalidInputError, NotFoundError
from vedr.lab.template import load_template

TEMPLATE = Path(__file__).parents[3] / "deployments" / "sites" / "lab.toml"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[load]", "[loud]", "loud"),
        ('zone = "us-east-1a"', 'zone = "us-east-1z"', "no region has"),
        ('name = "fullnode-us-east-2"', 'name = "fullnode-us-east-0"', "is used 2 times"),
        ("timeout_commit_s = 0.8", "timeout_commit_s = -1", "greater than 0"),
        ('role = "archive"', 'role = "keeper"', "archive"),
        ("template = 1", "template = [", "not TOML"),
    ],
)
def test_a_broken_template_is_refused_with_what_is_wrong(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = TEMPLATE.read_text(encoding="utf-8")
    assert old in text
    changed = tmp_path / "lab.toml"
    changed.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InvalidInputError) as caught:
        load_template(changed)
    assert said in caught.value.message
    assert str(changed) in caught.value.message


def test_a_missing_template_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="Run from the project"):
        load_template(tmp_path / "none.toml")
