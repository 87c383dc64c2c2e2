import pytest

from vedr.chain.inspection import parse_inspected
from vedr.chain.wire import RawJson, Value
from vedr.errors import CorruptError

WHOLE: dict[str, RawJson] = {
    "chain_id": "made-1",
    "store_base": 1,
    "store_height": 9,
    "state_height": 8,
    "app_height": 8,
    "app_hash": "ab",
    "db_backend": "goleveldb",
    "consistent": True,
}


def test_an_inspection_of_databases_that_fit_is_read() -> None:
    seen = parse_inspected(Value(WHOLE, "inspection"))
    assert (seen.store_height, seen.state_height, seen.app_hash) == (9, 8, "AB")


@pytest.mark.parametrize("changes", [{"consistent": False}, {"app_height": -1}, {"app_hash": None}])
def test_databases_that_do_not_belong_together_or_cannot_be_read_are_corrupt(changes: dict[str, RawJson]) -> None:
    with pytest.raises(CorruptError):
        parse_inspected(Value({**WHOLE, **changes}, "inspection"))
