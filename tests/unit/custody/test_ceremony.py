"""The ceremony, with custodians who follow a script, make mistakes and walk away."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import pytest

from vedr.custody import ceremony
from vedr.custody.ceremony import Page, gather, hold, identify
from vedr.custody.envelope_slots import recovery_public_key
from vedr.custody.shares import Share, ShareError, ShareRefusal, split
from vedr.custody.shares_record import new_record
from vedr.errors import InvalidInputError

PRIVATE = bytes(range(1, 33))
PUBLIC = recovery_public_key(PRIVATE)
NAMES = ["Ann", "Bob", "Cid", "Dora", "Eve"]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def clock() -> datetime:
    return NOW


class ScriptedDesk:
    """Custodians who remember what they were handed, and answer as the script says, else rightly."""

    def __init__(self, answers: Iterable[Callable[[str], str]] = ()) -> None:
        self.answers = list(answers)
        self.pages: dict[str, Page] = {}
        self.handed: list[str] = []
        self.said: list[str] = []
        self.summoned: list[tuple[str, int, int]] = []

    def summon(self, name: str, seat: int, seats: int) -> None:
        self.summoned.append((name, seat, seats))

    def hand_out(self, page: Page) -> None:
        self.pages[page.name] = page
        self.handed.append(page.name)

    def ask(self, name: str) -> str:
        right = " ".join(self.pages[name].share.words) if name in self.pages else ""
        return self.answers.pop(0)(right) if self.answers else right

    def say(self, text: str) -> None:
        self.said.append(text)


def test_every_custodian_gets_one_share_and_all_ten_choices_are_proven() -> None:
    desk = ScriptedDesk()
    record = hold(desk, NAMES, threshold=3, private_key=PRIVATE, now=clock, replaces=bytes(32))
    assert desk.handed == NAMES
    assert desk.summoned == [(name, seat, 5) for seat, name in enumerate(NAMES, start=1)]
    assert desk.said[-1].startswith("All 10 choices of 3 of these 5 shares")
    assert [custodian.name for custodian in record.custodians] == NAMES
    assert (record.public_key, record.threshold, record.created, record.replaces) == (PUBLIC, 3, NOW, bytes(32))
    assert [record.holder(desk.pages[name].share).name for name in NAMES] == NAMES


def test_a_share_read_back_wrongly_is_shown_again_until_it_is_right() -> None:
    other = " ".join(split(PRIVATE)[0].words)
    desk = ScriptedDesk(
        [
            lambda right: right.replace(right.split()[4], "needle", 1),
            lambda right: " ".join(right.split()[:-1]),
            lambda right: " ".join(reversed(right.split())),
            lambda _right: other,
        ]
    )
    hold(desk, NAMES, threshold=3, private_key=PRIVATE, now=clock)
    assert desk.handed == ["Ann"] * 5 + NAMES[1:]
    assert "needle" not in "".join(desk.said)
    assert desk.said[0].startswith("Not in SLIP-39's list: word ")
    assert "33 words" in desk.said[1]
    assert "checksum" in desk.said[2]
    assert "not the one just handed out" in desk.said[3]


def test_a_custodian_who_walks_away_ends_it_without_a_record() -> None:
    def leaves(_right: str) -> str:
        raise KeyboardInterrupt

    desk = ScriptedDesk([lambda right: right, leaves])
    with pytest.raises(KeyboardInterrupt):
        hold(desk, NAMES, threshold=3, private_key=PRIVATE, now=clock)
    assert desk.handed == ["Ann", "Bob"]


def test_shares_that_do_not_combine_end_it_without_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_key: bytes, *, threshold: int, count: int) -> tuple[Share, ...]:
        return split(bytes(range(2, 34)), threshold=threshold, count=count)

    monkeypatch.setattr(ceremony, "split", wrong)
    with pytest.raises(ShareError) as caught:
        hold(ScriptedDesk(), NAMES, threshold=3, private_key=PRIVATE, now=clock)
    assert caught.value.refusal is ShareRefusal.OTHER_KEY


@pytest.mark.parametrize(("names", "threshold"), [(NAMES, 6), (["Ann", "Ann"], 2), (["Ann"], 1)])
def test_nobody_is_summoned_when_names_and_threshold_do_not_fit(names: list[str], threshold: int) -> None:
    desk = ScriptedDesk()
    with pytest.raises(InvalidInputError):
        hold(desk, names, threshold=threshold, private_key=PRIVATE, now=clock)
    assert desk.summoned == []


SHARES = split(PRIVATE)
RECORD = new_record(SHARES, NAMES, public_key=PUBLIC, now=NOW)


def says(share: Share) -> Callable[[str], str]:
    return lambda _right: " ".join(share.words)


def test_gathering_takes_exactly_the_threshold_in_any_order_and_gives_the_key() -> None:
    desk = ScriptedDesk(map(says, [SHARES[4], SHARES[0], SHARES[2]]))
    assert gather(desk, RECORD) == PRIVATE
    assert len(desk.summoned) == 3


def test_a_repeated_foreign_or_misread_share_is_asked_for_again() -> None:
    foreign = split(PRIVATE)[0]
    desk = ScriptedDesk(
        [
            says(SHARES[0]),
            says(SHARES[0]),
            says(foreign),
            lambda _right: "needle",
            says(SHARES[1]),
            says(SHARES[2]),
        ]
    )
    assert gather(desk, RECORD) == PRIVATE
    assert desk.said[0].startswith("Ann's share was given already")
    assert "not one of this record" in desk.said[1]
    assert "word 1" in desk.said[2]


def test_a_record_whose_public_key_is_another_is_found_out() -> None:
    record = new_record(SHARES, NAMES, public_key=bytes(32), now=NOW)
    with pytest.raises(ShareError) as caught:
        gather(ScriptedDesk(map(says, SHARES[:3])), record)
    assert caught.value.refusal is ShareRefusal.OTHER_KEY


def test_a_share_is_identified_by_its_words() -> None:
    share, custodian = identify(ScriptedDesk([says(SHARES[3])]), RECORD)
    assert (share, custodian.name) == (SHARES[3], "Dora")


def test_a_page_fits_a_small_screen_and_has_every_word_in_order() -> None:
    page = Page("Ann", 1, 5, SHARES[0], PUBLIC, NOW)
    lines = page.text().splitlines()
    assert len(lines) <= 22
    assert max(map(len, lines)) <= 78
    numbered = {}
    for line in lines[5:16]:
        fields = line.split()
        numbered |= dict(zip(map(int, fields[::2]), fields[1::2], strict=True))
    assert tuple(numbered[place] for place in range(1, 34)) == SHARES[0].words
    assert SHARES[0].words[5] not in repr(page)
