"""Shares: exactly k of them give the key, and everything else says why it does not."""

import itertools
import json
import traceback
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shamir_mnemonic import generate_mnemonics

from vedr.custody.envelope_slots import recovery_public_key
from vedr.custody.shares import (
    Share,
    ShareError,
    ShareRefusal,
    combine,
    expand_word,
    parse_share,
    prove_all,
    split,
    unknown_positions,
)
from vedr.errors import InvalidInputError

VECTORS = Path(__file__).parents[2] / "vectors" / "slip39.json"
PRIVATE = bytes(range(1, 33))
PUBLIC = recovery_public_key(PRIVATE)
SHARES = split(PRIVATE)
OTHER_SET = split(PRIVATE)


def refusal(shares: list[Share], expected: bytes = PUBLIC) -> ShareRefusal:
    with pytest.raises(ShareError) as caught:
        combine(shares, expected=expected)
    assert caught.value.message == f"shares: {caught.value.refusal.value}"
    return caught.value.refusal


@pytest.mark.parametrize(("threshold", "count"), [(3, 5), (2, 2), (2, 3), (4, 7), (16, 16)])
def test_every_choice_of_threshold_shares_gives_the_key(threshold: int, count: int) -> None:
    shares = split(PRIVATE, threshold=threshold, count=count)
    assert len(shares) == count
    assert combine(shares[-threshold:], expected=PUBLIC) == PRIVATE
    choices = len(list(itertools.combinations(range(count), threshold)))
    assert prove_all(shares, expected=PUBLIC) == choices


def test_the_default_is_three_of_five_and_ten_choices() -> None:
    assert (len(SHARES), SHARES[0].threshold, prove_all(SHARES, expected=PUBLIC)) == (5, 3, 10)


@pytest.mark.parametrize(("threshold", "count"), [(1, 1), (1, 5), (4, 3), (3, 17), (0, 0)])
def test_shapes_that_protect_nothing_or_cannot_be_are_refused(threshold: int, count: int) -> None:
    with pytest.raises(InvalidInputError):
        split(PRIVATE, threshold=threshold, count=count)


def test_only_a_key_of_32_bytes_is_split() -> None:
    with pytest.raises(InvalidInputError):
        split(bytes(16))


def test_two_shares_are_too_few_and_four_too_many() -> None:
    assert refusal([]) is ShareRefusal.TOO_FEW
    assert refusal([*SHARES[:2]]) is ShareRefusal.TOO_FEW
    assert refusal([*SHARES[:4]]) is ShareRefusal.TOO_MANY
    with pytest.raises(ShareError, match="fewer"):
        prove_all(SHARES[:2], expected=PUBLIC)
    with pytest.raises(ShareError, match="fewer"):
        prove_all([], expected=PUBLIC)


def test_a_share_given_twice_is_refused() -> None:
    assert refusal([SHARES[0], SHARES[1], SHARES[0]]) is ShareRefusal.REPEATED


def test_a_share_of_another_set_is_refused() -> None:
    assert refusal([SHARES[0], SHARES[1], OTHER_SET[2]]) is ShareRefusal.OTHER_SET


def test_shares_of_another_key_are_refused() -> None:
    assert refusal([*split(bytes(range(2, 34)))[:3]]) is ShareRefusal.OTHER_KEY


def test_a_forged_share_with_a_right_checksum_is_refused_in_every_choice_that_has_it() -> None:
    from shamir_mnemonic import Share as Slip39Share  # noqa: PLC0415 (only to forge)

    real = Slip39Share.from_mnemonic(" ".join(SHARES[2].words))
    fields = {name: getattr(real, name) for name in Slip39Share.__dataclass_fields__}
    fields["value"] = bytes([real.value[0] ^ 1]) + real.value[1:]
    forged = parse_share(Slip39Share(**fields).mnemonic())
    assert refusal([SHARES[0], SHARES[1], forged]) is ShareRefusal.FORGED
    with pytest.raises(ShareError, match="forged"):
        prove_all([*SHARES[:2], forged, *SHARES[3:]], expected=PUBLIC)


def test_a_wrong_iteration_exponent_or_passphrase_cannot_give_a_silently_wrong_key() -> None:
    (group,) = generate_mnemonics(1, [(3, 5)], PRIVATE, passphrase=b"not empty")
    assert refusal([parse_share(text) for text in group[:3]]) is ShareRefusal.OTHER_KEY


def test_one_wrong_word_or_two_that_changed_places_fail_the_checksum() -> None:
    words = list(SHARES[0].words)
    swapped = [*words[:10], words[11], words[10], *words[12:]]
    other = "academic" if words[20] != "academic" else "acid"
    for text in (" ".join(swapped), " ".join([*words[:20], other, *words[21:]])):
        if text == " ".join(words):
            continue
        with pytest.raises(ShareError) as caught:
            parse_share(text)
        assert caught.value.refusal is ShareRefusal.CHECKSUM


def test_four_letters_of_a_word_in_any_case_are_enough() -> None:
    assert parse_share(" ".join(word[:4].upper() for word in SHARES[0].words)) == SHARES[0]
    assert expand_word("academ") == "academic"


@pytest.mark.parametrize("typed", ["aca", "acadx", "academics", "needle", "", "ÿÿÿÿ"])
def test_what_is_no_word_of_the_list_is_not_guessed(typed: str) -> None:
    with pytest.raises(ShareError) as caught:
        expand_word(typed)
    assert caught.value.refusal is ShareRefusal.UNKNOWN_WORD


def test_shares_of_the_wrong_length_group_or_kind_are_refused() -> None:
    short = generate_mnemonics(1, [(3, 5)], bytes(16))[0][0]
    one_of_one = generate_mnemonics(1, [(1, 1)], PRIVATE)[0][0]
    two_groups = generate_mnemonics(2, [(2, 3), (2, 3)], PRIVATE)[0][0]
    not_extendable = generate_mnemonics(1, [(3, 5)], PRIVATE, extendable=False)[0][0]
    for text, expected in (
        ("", ShareRefusal.LENGTH),
        (short, ShareRefusal.LENGTH),
        (" ".join(SHARES[0].words[:-1]), ShareRefusal.LENGTH),
        (one_of_one, ShareRefusal.FOREIGN),
        (two_groups, ShareRefusal.FOREIGN),
        (not_extendable, ShareRefusal.FOREIGN),
    ):
        with pytest.raises(ShareError) as caught:
            parse_share(text)
        assert caught.value.refusal is expected


def test_places_of_unknown_words_are_told_and_nothing_else() -> None:
    words = list(SHARES[0].words)
    words[2], words[30] = "needle", "haystack"
    assert unknown_positions(" ".join(words)) == (3, 31)
    assert unknown_positions(" ".join(SHARES[0].words)) == ()


def test_no_words_of_a_share_are_in_a_repr_or_an_error() -> None:
    words = SHARES[0].words
    shown = [repr(SHARES)]
    for text in (" ".join([*words[:-1], "needle"]), " ".join([*words[:-2], words[-1], words[-2]])):
        with pytest.raises(ShareError) as caught:
            parse_share(text)
        shown += traceback.format_exception_only(caught.value)
        assert caught.value.__context__ is None or caught.value.__suppress_context__
    for one, next_one in itertools.pairwise(words):
        assert f"{one} {next_one}" not in "".join(shown)
        assert f"'{one}', '{next_one}'" not in "".join(shown)
    assert "needle" not in "".join(shown)


@pytest.mark.parametrize(
    "mnemonics",
    [vector["mnemonics"] for vector in json.loads(VECTORS.read_text())["vectors"] if not vector["secret"]],
    ids=itertools.count(),
)
def test_what_the_standards_vectors_call_invalid_is_refused_with_our_error(mnemonics: list[str]) -> None:
    with pytest.raises(ShareError):
        combine([parse_share(text) for text in mnemonics], expected=PUBLIC)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    text=st.text(max_size=40)
    | st.lists(st.sampled_from([*SHARES[0].words, "ACAD", "\u0130"]), max_size=40).map(" ".join)
)
def test_any_text_is_refused_with_our_error_only(text: str) -> None:
    with pytest.raises(ShareError):
        parse_share(text)


def test_a_fingerprint_tells_shares_apart_and_is_stable() -> None:
    assert len({share.fingerprint for share in (*SHARES, *OTHER_SET)}) == 10
    assert parse_share(" ".join(SHARES[0].words)).fingerprint == SHARES[0].fingerprint
