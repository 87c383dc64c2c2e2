"""Who is appointed to sign, kept in three real servers: through the loss of one, and by many at once."""

import concurrent.futures
import datetime as dt
import threading
from collections.abc import Callable
from typing import Any

import pytest

from vedr.adapters.s3_registers import S3Registers
from vedr.chain.appointment import Appointment, appoint, appointed, key_of
from vedr.chain.register import Validator
from vedr.errors import ConflictError, UnavailableError
from vedr.ledger import RunId

pytestmark = pytest.mark.server

VALIDATOR = Validator("chain-1", "AB" * 20)
NOON = dt.datetime(2026, 11, 2, 12, 0, tzinfo=dt.UTC)
REGIONS = ("us-east", "eu-west", "ap-south")


def run_id(number: int) -> RunId:
    return RunId(f"run-20261102-120000-{number:04}")


def on_server(server: Any, region: str) -> S3Registers:
    return S3Registers(region, server.store(region).config, server.credentials)


def test_an_appointment_survives_the_loss_of_a_server_and_reaches_it_with_the_next(
    start_server: Callable[[], Any],
) -> None:
    servers = {region: start_server() for region in REGIONS}
    registers = {region: on_server(server, region) for region, server in servers.items()}
    try:
        assert appointed(registers, VALIDATOR) is None
        home = appoint(registers, VALIDATOR, "us-east-1a", run_id=run_id(1), at=NOON)
        assert appointed(registers, VALIDATOR) == home
        servers["us-east"].stop()
        standby = appoint(registers, VALIDATOR, "eu-west-1a", run_id=run_id(2), at=NOON)
        assert appointed(registers, VALIDATOR) == standby
        servers["eu-west"].stop()
        with pytest.raises(UnavailableError, match="no majority"):
            appointed(registers, VALIDATOR, deadline_s=2)
        servers["us-east"].start()
        assert appointed(registers, VALIDATOR) == standby, "us-east shows the one before"
        assert appoint(registers, VALIDATOR, "eu-west-1a", run_id=run_id(2), at=NOON) == standby
        found = registers["us-east"].read(key_of(VALIDATOR))
        assert found is not None
        assert b'"seq":2' in found.data
    finally:
        for server in servers.values():
            server.stop()


def test_of_many_at_once_no_two_succeed_with_one_number(s3_server: Any) -> None:
    registers = {region: on_server(s3_server, region) for region in REGIONS}
    gate, made = threading.Barrier(5), list[Appointment]()

    def try_often(me: int) -> None:
        gate.wait()
        for _ in range(5):
            try:
                made.append(appoint(registers, VALIDATOR, f"signer-{me}", run_id=run_id(me), at=NOON))
            except ConflictError:
                continue

    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        for future in [pool.submit(try_often, me) for me in range(5)]:
            future.result()
    assert len({one.seq for one in made}) == len(set(made))
    last = appoint(registers, VALIDATOR, "the-last", run_id=run_id(99), at=NOON)
    assert appointed(registers, VALIDATOR) == last
