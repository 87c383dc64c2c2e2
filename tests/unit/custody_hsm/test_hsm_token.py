"""The PKCS#11 adapter against real SoftHSM tokens.

What SoftHSM 2.6.1 can't do (lock a PIN, lose a device, lack a PIN) is injected where the adapter calls python-pkcs11.
"""

import inspect
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pkcs11
import pytest
from pkcs11 import exceptions as codes

from vedr import errors
from vedr.adapters import pkcs11_token
from vedr.adapters.pkcs11_token import Pkcs11Token, open_here
from vedr.adapters.pkcs11_token_errors import translated
from vedr.adapters.pkcs11_token_provisioning import generate, import_ed25519
from vedr.custody.hsm import matching
from vedr.custody.hsm_keys import ED25519_NAME, ED25519_OID, KEY_KINDS, KeyKind, PublicKey
from vedr.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)

MakeKey = Callable[[int], tuple[bytes, PublicKey]]


def test_a_token_says_what_it_is(bench: Any, token: Pkcs11Token) -> None:
    facts = token.facts()
    assert (facts.label, facts.model, facts.manufacturer) == ("us-east", "SoftHSM v2", "SoftHSM project")
    assert len(facts.serial) == 16
    assert facts.module == str(bench.hsms["us-east"].module)
    assert len(facts.module_sha256) == 64
    assert {"EDDSA", "ECDSA", "SHA256_RSA_PKCS"} <= set(facts.mechanisms)
    assert list(facts.mechanisms) == sorted(facts.mechanisms)


@pytest.mark.parametrize("kind", [kind for kind in KEY_KINDS if kind != "rsa-4096"])
def test_a_generated_key_signs_and_is_kept_in(token: Pkcs11Token, bench: Any, kind: KeyKind) -> None:
    label, key_id = bench.fresh_name()
    public = generate(token, kind, label=label, key_id=key_id)
    assert public.kind == kind
    key = matching(token.objects(), "private", label=label, key_id=key_id)
    assert (key.attributes.sensitive, key.attributes.extractable) == (True, False)
    assert key.attributes.never_extractable
    assert key.attributes.always_sensitive
    public.verify(token.sign(key, b"message"), b"message", what=label)


def test_an_rsa_key_of_4096_bits_signs(token: Pkcs11Token, bench: Any) -> None:
    bench.put_rsa_4096(token, "big", b"\x01")  # making one takes up to half a minute
    private, public = token.objects()
    assert public.public is not None
    assert public.public.kind == "rsa-4096"
    public.public.verify(token.sign(private, b"message"), b"message", what="big")


def test_an_imported_key_shows_that_it_was_imported(token: Pkcs11Token, make_key: MakeKey) -> None:
    seed, public = make_key(1)
    assert import_ed25519(token, seed, label="val-0", key_id=b"\x01") == public
    key = matching(token.objects(), "private", label="val-0", key_id=None)
    assert (key.attributes.sensitive, key.attributes.extractable) == (True, False)
    assert not key.attributes.local
    assert not key.attributes.never_extractable
    assert not key.attributes.always_sensitive
    assert key.public is None


def test_the_curve_may_be_given_by_name(token: Pkcs11Token, bench: Any, make_key: MakeKey) -> None:
    _, public = make_key(1)
    bench.put_public(token, public.raw_ed25519, "named", b"\x01", EC_PARAMS=ED25519_NAME)
    bench.put_public(token, public.raw_ed25519, "numbered", b"\x02", EC_PARAMS=ED25519_OID)
    assert [key.public for key in token.objects()] == [public, public]


def test_keys_of_other_kinds_are_listed_and_not_signed_with(token: Pkcs11Token, bench: Any) -> None:
    label, key_id = bench.fresh_name()
    with token.session("make others") as session:
        session.generate_key(pkcs11.KeyType.AES, 256, store=True, label="wrapper")
        session.generate_keypair(pkcs11.KeyType.RSA, 1024, store=True, label=label, id=key_id)
        template = {
            pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY,
            pkcs11.Attribute.KEY_TYPE: pkcs11.KeyType.DSA,
            pkcs11.Attribute.TOKEN: True,
            pkcs11.Attribute.LABEL: "old",
            pkcs11.Attribute.ID: b"old",
            pkcs11.Attribute.PRIME: b"\xff" * 128,
            pkcs11.Attribute.SUBPRIME: b"\xff" * 20,
            pkcs11.Attribute.BASE: b"2",
            pkcs11.Attribute.VALUE: b"3",
        }
        session.create_object(template)
        public = {**template, pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PUBLIC_KEY}
        session.create_object(public)
    found = token.objects()
    assert {(key.object_class, key.label, key.key_type, key.public) for key in found} == {
        ("secret", "wrapper", "AES", None),
        ("private", label, "RSA", None),
        ("public", label, "RSA", None),
        ("private", "old", "DSA", None),
        ("public", "old", "DSA", None),
    }
    with pytest.raises(RefusedError, match="DSA key, which is not signed with"):
        token.sign(matching(found, "private", label="old", key_id=None), b"x")


class NotText(str):
    """A label as another program may have written it."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return b"\xff\xfe"


def test_a_label_that_is_no_text_is_listed_without(token: Pkcs11Token, bench: Any, make_key: MakeKey) -> None:
    seed, _ = make_key(1)
    bench.put_private(token, seed, NotText(), b"\x01")
    (key,) = token.objects()
    assert (key.label, key.key_id) == ("", b"\x01")


def test_a_key_that_may_not_sign_is_refused(token: Pkcs11Token, bench: Any, make_key: MakeKey) -> None:
    seed, _ = make_key(1)
    bench.put_private(token, seed, "mute", b"\x01", SIGN=False)
    (key,) = token.objects()
    with pytest.raises(RefusedError, match="'mute' may not sign"):
        token.sign(key, b"x")


def test_only_private_keys_that_were_listed_sign(token: Pkcs11Token, make_key: MakeKey) -> None:
    seed, _ = make_key(1)
    import_ed25519(token, seed, label="val-0", key_id=b"\x01")
    private = matching(token.objects(), "private", label="val-0", key_id=None)
    public = matching(token.objects(), "public", label="val-0", key_id=None)
    for wrong in (public, replace(private, handle=99_999)):
        with pytest.raises(NotFoundError, match="no private key with handle"):
            token.sign(wrong, b"x")


def test_a_missing_module_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="is missing"):
        open_here(tmp_path / "lib.so", "us-east", b"1234")


def test_a_file_that_is_no_module_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "lib.so").write_text("no library")
    with pytest.raises(InvalidInputError, match="can't be loaded as a PKCS#11 module"):
        open_here(tmp_path / "lib.so", "us-east", b"1234")


def test_a_token_that_is_not_there_is_said_so(bench: Any) -> None:
    with pytest.raises(NotFoundError, match=r"'ap-south'.*no such token"):
        open_here(bench.hsms["us-east"].module, "ap-south", bench.pin)


def test_two_tokens_of_one_label_are_refused(bench: Any) -> None:
    with pytest.raises(RefusedError, match="several tokens"):
        bench.open("twin")


def test_a_second_login_of_this_process_is_a_conflict(bench: Any, token: Pkcs11Token) -> None:
    with pytest.raises(ConflictError, match="logged in to the token already"):
        bench.open("us-east")
    assert token.facts().label == "us-east"


def test_a_session_that_reads_cannot_write(bench: Any, make_key: MakeKey) -> None:
    with bench.open("us-east", writable=False) as token, pytest.raises(RefusedError, match="SessionReadOnly"):
        import_ed25519(token, make_key(1)[0], label="val-0", key_id=b"\x01")


@pytest.mark.parametrize("pin", [b"", b"0000", b"9" * 300])
def test_a_wrong_pin_is_refused_and_never_shown(bench: Any, pin: bytes) -> None:
    with pytest.raises(RefusedError, match="the PIN is wrong") as caught:
        open_here(bench.hsms["us-east"].module, "us-east", pin)
    assert "Do not try again" in caught.value.remedy
    assert not pin or pin.decode() not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_pin_that_is_no_text_is_refused_and_never_shown(bench: Any) -> None:
    with pytest.raises(RefusedError, match="not UTF-8") as caught:
        open_here(bench.hsms["us-east"].module, "us-east", b"\xff\xfegeheim")
    assert "geheim" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_locked_pin_is_refused_with_what_to_do(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Injected: SoftHSM counts wrong PINs (CKF_USER_PIN_COUNT_LOW) and never locks one, as twelve tries showed."""

    def locked(**_: object) -> None:
        raise codes.PinLocked

    library = SimpleNamespace(get_token=lambda **_: SimpleNamespace(open=locked, label="us-east"))
    monkeypatch.setattr(pkcs11_token.pkcs11, "lib", lambda _: library)
    with pytest.raises(RefusedError, match="locked: too many wrong ones") as caught:
        open_here(bench.hsms["us-east"].module, "us-east", b"1234")
    assert "security officer" in caught.value.remedy


def test_a_module_that_does_not_initialise_is_unavailable(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: str) -> None:
        raise codes.GeneralError

    monkeypatch.setattr(pkcs11_token.pkcs11, "lib", fails)
    with pytest.raises(UnavailableError, match="cannot initialise it"):
        open_here(bench.hsms["us-east"].module, "us-east", b"1234")


def test_a_vendors_own_mechanism_is_named_by_number() -> None:
    assert pkcs11_token._mechanism_name(0x8000_1234) == "0x80001234"


def test_a_closed_token_is_unavailable_and_may_be_closed_again(bench: Any) -> None:
    token = bench.open("us-east")
    token.close()
    with pytest.raises(UnavailableError, match="session or the token is lost"):
        token.objects()
    token.close()


ALL_CODES = [kind for _, kind in inspect.getmembers(codes, inspect.isclass) if issubclass(kind, codes.PKCS11Error)]


@pytest.mark.parametrize("code", ALL_CODES, ids=lambda code: code.__name__)
def test_every_code_becomes_an_error_of_ours_with_a_remedy(code: type[codes.PKCS11Error]) -> None:
    error = translated(code("vendor's text with PIN 1234"), "token 'x': cannot sign")
    assert type(error).__module__ == errors.__name__
    assert code.__name__ in error.message
    assert error.remedy
    assert "1234" not in str(error)


@pytest.mark.parametrize("code", [codes.DeviceError, codes.DeviceRemoved, codes.SessionClosed, codes.UserNotLoggedIn])
def test_what_a_new_session_may_cure_is_transient(code: type[codes.PKCS11Error]) -> None:
    assert translated(code(), "x").transient


@pytest.mark.parametrize("code", [codes.PinIncorrect, codes.PinLocked, codes.PinExpired, codes.MultipleTokensReturned])
def test_what_must_not_be_repeated_is_not_transient(code: type[codes.PKCS11Error]) -> None:
    assert not translated(code(), "x").transient


def test_importing_twice_leaves_one_key(token: Pkcs11Token, make_key: MakeKey) -> None:
    seed, public = make_key(1)
    for _ in range(2):
        assert import_ed25519(token, seed, label="val-0", key_id=b"\x01") == public
    assert len(token.objects()) == 2


def test_an_import_that_was_cut_short_is_completed(token: Pkcs11Token, bench: Any, make_key: MakeKey) -> None:
    seed, public = make_key(1)
    bench.put_public(token, public.raw_ed25519, "val-0", b"\x01")
    import_ed25519(token, seed, label="val-0", key_id=b"\x01")
    key = matching(token.objects(), "private", label="val-0", key_id=b"\x01")
    public.verify(token.sign(key, b"x"), b"x", what="key")


@pytest.mark.parametrize(("label", "key_id"), [("val-0", b"\x01"), ("val-0", b"\x02"), ("val-1", b"\x01")])
def test_a_name_that_is_taken_is_never_given_again(
    token: Pkcs11Token, make_key: MakeKey, label: str, key_id: bytes
) -> None:
    import_ed25519(token, make_key(1)[0], label="val-0", key_id=b"\x01")
    before = token.objects()
    with pytest.raises(ConflictError, match="is taken"):
        import_ed25519(token, make_key(2)[0], label=label, key_id=key_id)
    with pytest.raises(ConflictError, match="is taken"):
        generate(token, "ed25519", label=label, key_id=key_id)
    assert [key.label for key in token.objects()] == [key.label for key in before]


def test_a_private_object_alone_is_never_completed(token: Pkcs11Token, bench: Any, make_key: MakeKey) -> None:
    seed, _ = make_key(1)
    bench.put_private(token, seed, "val-0", b"\x01")
    with pytest.raises(ConflictError):
        import_ed25519(token, seed, label="val-0", key_id=b"\x01")


@pytest.mark.parametrize(("label", "key_id"), [("", b"\x01"), ("val-0", b"")])
def test_a_key_needs_a_whole_name(token: Pkcs11Token, make_key: MakeKey, label: str, key_id: bytes) -> None:
    with pytest.raises(InvalidInputError, match="label and an id"):
        import_ed25519(token, make_key(1)[0], label=label, key_id=key_id)


def test_a_seed_of_another_length_is_refused_and_not_shown(token: Pkcs11Token) -> None:
    with pytest.raises(InvalidInputError, match="32 bytes") as caught:
        import_ed25519(token, b"S" * 64, label="val-0", key_id=b"\x01")
    assert "SSS" not in str(caught.value)
    assert os.environ["SOFTHSM2_CONF"]


def test_a_generated_key_that_cannot_be_read_back_is_said_so(
    token: Pkcs11Token, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Injected: a module that shows another curve than it was asked for."""
    label, key_id = bench.fresh_name()
    monkeypatch.setattr(pkcs11_token, "from_point", lambda *_: None)
    with pytest.raises(UnavailableError, match="shows no ed25519 key"):
        generate(token, "ed25519", label=label, key_id=key_id)
