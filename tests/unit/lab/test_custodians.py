"""The lab's own ceremony, and the certificate of its status page."""

import datetime as dt
import itertools
import stat

import pytest
from cryptography import x509

from vedr.custody.envelope_slots import recovery_public_key
from vedr.custody.shares import combine, parse_share
from vedr.custody.shares_record import open_record
from vedr.lab import custodians, status_page
from vedr.lab.credentials import LabSecrets
from vedr.lab.plan import Plan

NOW = dt.datetime(2026, 11, 2, 12, 0, 0, tzinfo=dt.UTC)


@pytest.fixture
def held(plan: Plan) -> Plan:
    LabSecrets(plan.folder).create_missing(plan)
    assert custodians.hold_ceremony(plan)
    return plan


def test_any_three_custodians_of_a_lab_open_its_backups_and_the_signed_record_says_so(held: Plan) -> None:
    secrets = LabSecrets(held.folder)
    record = open_record(custodians.record_path(held).read_bytes(), trusted=[secrets.public_key_hex()])
    assert record.public_key.hex() == secrets.recovery_public_hex()
    assert [one.name for one in record.custodians] == list(custodians.CUSTODIANS)
    shares = [parse_share(custodians.share_path(held, name).read_text()) for name in custodians.CUSTODIANS]
    for chosen in itertools.combinations(shares, record.threshold):
        assert recovery_public_key(combine(list(chosen), expected=record.public_key)) == record.public_key


def test_a_ceremony_is_held_once_and_shares_are_their_owners_only(held: Plan) -> None:
    before = custodians.record_path(held).read_bytes()
    assert not custodians.hold_ceremony(held)
    assert custodians.record_path(held).read_bytes() == before
    for name in custodians.CUSTODIANS:
        assert stat.S_IMODE(custodians.share_path(held, name).stat().st_mode) == 0o600


def test_a_ceremony_that_was_interrupted_is_held_again(held: Plan) -> None:
    custodians.record_path(held).unlink()
    assert custodians.hold_ceremony(held)


def ends(plan: Plan) -> dt.datetime:
    return x509.load_pem_x509_certificate((status_page.folder(plan) / "tls.pem").read_bytes()).not_valid_after_utc


def test_the_status_pages_certificate_is_renewed_long_before_it_runs_out(plan: Plan) -> None:
    status_page.write_missing(plan, NOW)
    assert ends(plan) == NOW + status_page.LIFETIME
    later = NOW + dt.timedelta(days=200)
    status_page.write_missing(plan, later)
    assert ends(plan) == NOW + status_page.LIFETIME
    late = NOW + status_page.LIFETIME - dt.timedelta(days=59)
    status_page.write_missing(plan, late)
    assert ends(plan) == late + status_page.LIFETIME
    assert stat.S_IMODE((status_page.folder(plan) / "tls.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("broken", [b"", b"no certificate"])
def test_a_certificate_that_cannot_be_read_is_made_anew(plan: Plan, broken: bytes) -> None:
    status_page.write_missing(plan, NOW)
    (status_page.folder(plan) / "tls.pem").write_bytes(broken)
    status_page.write_missing(plan, NOW)
    assert ends(plan) == NOW + status_page.LIFETIME
