"""The signing key on a token, through losses, refusals and exchanged keys."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vedr.adapters.pkcs11_token import Pkcs11Token
from vedr.adapters.pkcs11_token_key import TokenKey, open_token_key
from vedr.adapters.pkcs11_token_process import TokenProcess
from vedr.adapters.pkcs11_token_provisioning import generate, import_ed25519
from vedr.custody.hsm_keys import PublicKey
from vedr.errors import NotFoundError, RefusedError, UnavailableError, VerificationFailedError

MakeKey = Callable[[int], tuple[bytes, PublicKey]]


@pytest.fixture
def reader(bench: Any) -> Iterator[Callable[[], Pkcs11Token]]:
    """Opens the token us-east, which is emptied afterwards; this process may have one session at a time."""
    yield lambda: bench.open("us-east")
    again = bench.open("us-east")
    bench.empty(again)
    again.close()


def put(bench: Any, *writes: Callable[[Pkcs11Token], object]) -> None:
    with bench.open("us-east") as token:
        for write in writes:
            write(token)


def test_a_lost_session_is_one_clear_error_and_then_signs_again(soft_hsm: Any, make_key: MakeKey) -> None:
    hsm, (seed, public) = soft_hsm.make("us-east"), make_key(1)
    with TokenProcess(hsm, soft_hsm.pin, writable=True) as token:
        token.import_ed25519(seed, label="val-0", key_id=b"\x01")
    opened: list[TokenProcess] = []

    def open_token() -> TokenProcess:
        opened.append(TokenProcess(hsm, soft_hsm.pin))
        return opened[-1]

    with TokenKey(open_token, label="val-0", expected=public.raw_ed25519) as key:
        for _ in range(2):
            os.kill(opened[-1]._process.pid, signal.SIGKILL)
            with pytest.raises(UnavailableError):
                key.sign(b"x")
            public.verify(key.sign(b"x"), b"x", what="key")
    assert len(opened) == 3
    assert all(token._process.returncode is not None for token in opened)


def test_a_token_that_went_and_came_back_signs_again(soft_hsm: Any, make_key: MakeKey, tmp_path: Path) -> None:
    hsm, (seed, public) = soft_hsm.make("us-east"), make_key(1)
    with TokenProcess(hsm, soft_hsm.pin, writable=True) as token:
        token.import_ed25519(seed, label="val-0", key_id=b"\x01")
    with open_token_key(hsm, soft_hsm.pin, label="val-0") as key:
        tokens, away = tmp_path / "hsm" / "us-east" / "tokens", tmp_path / "away"
        shutil.move(tokens, away)
        for _ in range(2):
            with pytest.raises((UnavailableError, NotFoundError)):
                key.sign(b"x")
        shutil.move(away, tokens)
        public.verify(key.sign(b"x"), b"x", what="key")


def test_a_pin_that_was_refused_is_not_tried_again(soft_hsm: Any, make_key: MakeKey) -> None:
    hsm, (seed, _) = soft_hsm.make("us-east"), make_key(1)
    with TokenProcess(hsm, soft_hsm.pin, writable=True) as token:
        token.import_ed25519(seed, label="val-0", key_id=b"\x01")
    pins = [soft_hsm.pin(), b"0000"]
    opened: list[TokenProcess] = []

    def open_token() -> TokenProcess:
        opened.append(TokenProcess(hsm, lambda: pins.pop(0)))
        return opened[-1]

    with TokenKey(open_token, label="val-0") as key:
        os.kill(opened[0]._process.pid, signal.SIGKILL)
        with pytest.raises(UnavailableError):
            key.sign(b"x")
        for _ in range(3):  # a third login would find no PIN to pop
            with pytest.raises(RefusedError, match="PIN is wrong"):
                key.sign(b"x")
    assert len(opened) == 1


def test_a_wrong_private_key_never_speaks_for_the_validator(
    bench: Any, reader: Callable[[], Pkcs11Token], make_key: MakeKey
) -> None:
    (_, public), (other, _) = make_key(1), make_key(2)
    put(
        bench,
        lambda token: bench.put_public(token, public.raw_ed25519, "val-0", b"\x01"),
        lambda token: bench.put_private(token, other, "val-0", b"\x01"),
    )
    with (
        TokenKey(reader, label="val-0", expected=public.raw_ed25519) as key,
        pytest.raises(VerificationFailedError, match="does not verify"),
    ):
        key.sign(b"x")


def test_another_key_under_the_label_is_refused_at_once(
    bench: Any, reader: Callable[[], Pkcs11Token], make_key: MakeKey
) -> None:
    (seed, _), (_, expected) = make_key(1), make_key(2)
    put(bench, lambda token: import_ed25519(token, seed, label="val-0", key_id=b"\x01"))
    with pytest.raises(VerificationFailedError, match="not the expected one"):
        TokenKey(reader, label="val-0", expected=expected.raw_ed25519)


def test_a_key_that_was_exchanged_during_a_loss_is_refused(
    bench: Any, reader: Callable[[], Pkcs11Token], make_key: MakeKey
) -> None:
    put(bench, lambda token: import_ed25519(token, make_key(1)[0], label="val-0", key_id=b"\x01"))
    with TokenKey(reader, label="val-0") as key:
        assert key._held is not None
        key._held[0].close()
        with pytest.raises(UnavailableError, match="session or the token is lost"):
            key.sign(b"x")
        put(
            bench,
            bench.empty,
            lambda token: import_ed25519(token, make_key(2)[0], label="val-0", key_id=b"\x01"),
        )
        with pytest.raises(VerificationFailedError, match="not the expected one"):
            key.sign(b"x")


def test_a_key_of_another_kind_is_refused(bench: Any, reader: Callable[[], Pkcs11Token]) -> None:
    put(bench, lambda token: generate(token, "p-256", label="val-0", key_id=b"\x01"))
    with pytest.raises(VerificationFailedError, match="p-256 key, where Ed25519 is needed"):
        TokenKey(reader, label="val-0")


def test_a_public_key_of_no_known_kind_is_refused(
    bench: Any, reader: Callable[[], Pkcs11Token], make_key: MakeKey
) -> None:
    seed, public = make_key(1)
    put(
        bench,
        lambda token: bench.put_private(token, seed, "val-0", b"\x01"),
        lambda token: bench.put_public(token, public.raw_ed25519, "val-0", b"\x01", EC_PARAMS=b"\x06\x03\x2b\x65\x71"),
    )
    with pytest.raises(VerificationFailedError, match="of no known kind"):
        TokenKey(reader, label="val-0")


@pytest.mark.parametrize("label", ["val-1", "VAL-0", ""])
def test_a_missing_key_is_not_found_and_the_token_let_go(
    bench: Any, reader: Callable[[], Pkcs11Token], make_key: MakeKey, label: str
) -> None:
    put(bench, lambda token: import_ed25519(token, make_key(1)[0], label="val-0", key_id=b"\x01"))
    with pytest.raises(NotFoundError, match="it has: 'val-0'"):
        TokenKey(reader, label=label)
    reader().close()  # a session that was left would be a conflict


def test_a_label_on_two_keys_is_refused(bench: Any, reader: Callable[[], Pkcs11Token], make_key: MakeKey) -> None:
    put(
        bench,
        lambda token: import_ed25519(token, make_key(1)[0], label="val-0", key_id=b"\x01"),
        lambda token: bench.put_private(token, make_key(2)[0], "val-0", b"\x02"),
    )
    with pytest.raises(RefusedError, match="2 objects on the token answer"):
        TokenKey(reader, label="val-0")
    with pytest.raises(RefusedError, match="2 objects on the token answer"):
        TokenKey(reader, label="val-0", key_id=b"\x01")


def test_a_label_and_an_id_that_are_of_two_keys_are_refused(
    bench: Any, reader: Callable[[], Pkcs11Token], make_key: MakeKey
) -> None:
    put(bench, lambda token: import_ed25519(token, make_key(1)[0], label="val-0", key_id=b"\x01"))
    for label, key_id in (("val-0", b"\x02"), ("val-1", b"\x01")):
        with pytest.raises(RefusedError, match="label and id disagree"):
            TokenKey(reader, label=label, key_id=key_id)


def test_a_closed_key_is_unavailable_and_may_be_closed_again(
    bench: Any, reader: Callable[[], Pkcs11Token], make_key: MakeKey
) -> None:
    put(bench, lambda token: import_ed25519(token, make_key(1)[0], label="val-0", key_id=b"\x01"))
    key = TokenKey(reader, label="val-0")
    key.close()
    key.close()
    with pytest.raises(UnavailableError, match="is closed"):
        key.sign(b"x")
