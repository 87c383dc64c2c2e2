"""The topology as a picture: what is left of the voting power after each loss against the line of 2/3, and where
everything stands.

Guarantees: drawn from the audit alone; a loss that halts the chain is told by colour, by word and by its side of the
line.
Leaves out: pairs of losses, which the audit's text has.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vedr.chain.quorum import OUTSIDE
from vedr.readiness.topology import Audit
from vedr.readiness.topology_losses import Loss, Restoration
from vedr.readiness.topology_places import RegionRow, ZoneRow, percent
from vedr.reports.svg import Canvas, clipped

WIDTH: Final = 1000.0
_MARGIN: Final = 28.0
_NAME_WIDTH: Final = 150.0
_BAR_WIDTH: Final = 470.0
_ROW: Final = 40.0
_TOP: Final = 168.0
_COLUMNS: Final = 3
_CARD_GAP: Final = 16.0
_COLOURS: Final = ("c0", "c1", "c2", "c3")
_LEGEND: Final = "⇄ 2: its key can sign at two other nodes.  Dashed: power that is lost or takes no part."


@dataclass(frozen=True, slots=True)
class _Box:
    x: float
    y: float
    width: float
    height: float


def draw(found: Audit, *, at: dt.datetime, height: int) -> str:
    """The SVG.

    Args:
        found: The audit.
        at: When the newest block was made.
        height: Its height.
    """
    cards = [row for row in found.regions if row.name != OUTSIDE]
    map_top = _TOP + _ROW * (len(found.regions) + 1) + 92
    rows_of_cards = [cards[start : start + _COLUMNS] for start in range(0, len(cards), _COLUMNS)]
    heights = [max(map(_card_height, row)) for row in rows_of_cards]
    canvas = Canvas(WIDTH, map_top + sum(heights) + _CARD_GAP * len(heights) + 30, f"Topology of {found.site}")
    canvas.rect(0, 0, canvas.width, canvas.height, "paper")
    _headline(canvas, found, at, height)
    _bars(canvas, found)
    y = map_top
    canvas.text(_MARGIN, y - 18, "Where everything stands", bold=True, size=15)
    width = (WIDTH - 2 * _MARGIN - _CARD_GAP * (_COLUMNS - 1)) / _COLUMNS
    for row, tall in zip(rows_of_cards, heights, strict=True):
        for column, region in enumerate(row):
            box = _Box(_MARGIN + column * (width + _CARD_GAP), y, width, tall)
            _card(canvas, region, _colour(found.regions.index(region), region), box)
        y += tall + _CARD_GAP
    canvas.text(_MARGIN, y + 8, _LEGEND, "soft", size=11)
    return str(canvas)


def _headline(canvas: Canvas, found: Audit, at: dt.datetime, height: int) -> None:
    now = found.now
    halting = [row.name for row in found.regions if row.loss.halts]
    if now.halted:
        words, kind = f"HALTED: {-now.margin} voting power is missing", "bad"
    elif halting:
        words, kind = f"The loss of {_either(halting)} halts the chain", "bad"
    else:
        words, kind = "The chain survives the loss of any one region", "good"
    canvas.text(_MARGIN, 34, f"Site {found.site}: voting power by place", "soft", size=14)
    canvas.text(_MARGIN, 68, words, kind, size=26, bold=True)
    stamp = f"{at:%Y-%m-%d %H:%M:%S} UTC, height {height}"
    state = f"{now.online} of {found.total} power takes part, {now.needed} needed, margin {now.margin}"
    canvas.text(_MARGIN, 94, f"{state}.  {stamp}", "soft", size=13)


def _either(names: Sequence[str]) -> str:
    if len(names) > 3:  # noqa: PLR2004 - what fits the line
        return f"any of {len(names)} regions"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _bars(canvas: Canvas, found: Audit) -> None:
    """One bar a scenario: what is left, by region; the lost part is an outline."""
    left, unit = _MARGIN + _NAME_WIDTH, _BAR_WIDTH / found.total
    line = left + found.now.needed * unit
    bottom = _TOP + _ROW * (len(found.regions) + 1) - 8
    canvas.text(line, _TOP - 22, f"needed: {found.now.needed}, more than 2/3", bold=True, end="middle", size=12)
    _bar(canvas, found, _TOP, None)
    canvas.text(_MARGIN, _TOP + 19, "now", bold=True)
    canvas.text(left + _BAR_WIDTH + 18, _TOP + 13, *_verdict_now(found), bold=True)
    canvas.text(left + _BAR_WIDTH + 18, _TOP + 28, _way_back(found.now.restoration), "soft", size=11)
    for number, row in enumerate(found.regions, start=1):
        y = _TOP + number * _ROW
        others = "others back, no" if found.now.halted else "without"
        canvas.text(_MARGIN, y + 19, clipped(f"{others} {row.name}", _NAME_WIDTH, 13))
        _bar(canvas, found, y, row)
        words, kind = _verdict(row.loss)
        canvas.text(left + _BAR_WIDTH + 18, y + 13, words, kind, bold=True)
        canvas.text(left + _BAR_WIDTH + 18, y + 28, _way_back(row.loss.restoration), "soft", size=11)
    canvas.line(line, _TOP - 14, line, bottom, "line", width=2, dash="5 3")
    if found.layout and not found.survives_any_region:
        shares = ", ".join(f"{name} {power}" for name, power in found.layout.powers.items())
        words = f"Would survive the loss of any one: {shares} ({found.layout.moved} power moved)"
        canvas.text(_MARGIN, bottom + 24, clipped(words, WIDTH - 2 * _MARGIN, 13), "ink")


def _bar(canvas: Canvas, found: Audit, y: float, lost: RegionRow | None) -> None:
    x, unit = _MARGIN + _NAME_WIDTH, _BAR_WIDTH / found.total
    canvas.rect(x, y, _BAR_WIDTH, 28, "lost", radius=3)
    for number, row in enumerate(found.regions):
        power = row.power if found.now.halted and lost is not None else row.online_power
        if row is lost or not power:
            continue
        width = power * unit
        canvas.rect(x, y, width, 28, _colour(number, row), radius=3)
        if width > 40:  # noqa: PLR2004 - room for a number
            canvas.text(x + width / 2, y + 19, str(power), "onc", end="middle", bold=True)
        x += width


def _colour(number: int, row: RegionRow) -> str:
    return "c4" if row.name == OUTSIDE else _COLOURS[number % len(_COLOURS)]


def _verdict_now(found: Audit) -> tuple[str, str]:
    if found.now.halted:
        return f"✕ halted, {-found.now.margin} short", "bad"
    return f"✓ runs, {found.now.margin} to spare", "good"


def _verdict(loss: Loss) -> tuple[str, str]:
    if not loss.halts:
        return f"✓ goes on, {loss.margin} to spare", "good"
    return f"✕ HALTS, {-loss.margin} short", "bad"


def _way_back(way: Restoration | None) -> str:
    if way is None:
        return ""
    if way.possible:
        more = f" and {len(way.promote) - 1} more" if len(way.promote) > 1 else ""
        return clipped(f"restored by promoting {way.promote[0].validator}{more}", 320, 11)
    return "no promotion restores it" if not way.promote else f"promoting all {len(way.promote)} is not enough"


def _card_height(row: RegionRow) -> float:
    return 62 + sum(_zone_height(zone) + 10 for zone in row.zones)


def _zone_height(zone: ZoneRow) -> float:
    return 30 + 20 * max(1, len(zone.validators))


def _card(canvas: Canvas, row: RegionRow, colour: str, box: _Box) -> None:
    x, y, width = box.x, box.y, box.width
    canvas.rect(x, y, width, box.height, "card", radius=6)
    canvas.rect(x, y, 6, box.height, colour, radius=3)
    canvas.text(x + 18, y + 24, row.name, bold=True, size=15)
    canvas.text(x + width - 12, y + 24, percent(row.share_permille), "ink", end="end", bold=True, size=15)
    serving = f"{row.serving} of {row.full_nodes}" if row.serving is not None else str(row.full_nodes)
    canvas.text(x + 18, y + 44, f"{serving} full nodes  ·  {'HSM' if row.hsm else 'no HSM'}", "soft", size=12)
    top = y + 56
    for zone in row.zones:
        _zone(canvas, zone, colour, _Box(x + 16, top, width - 28, _zone_height(zone)))
        top += _zone_height(zone) + 10


def _zone(canvas: Canvas, zone: ZoneRow, colour: str, box: _Box) -> None:
    x, y, width = box.x, box.y, box.width
    canvas.rect(x, y, width, box.height, "zone", radius=4)
    if zone.loss.halts:
        canvas.rect(x, y, width, box.height, "badline", radius=4)
    canvas.text(x + 10, y + 18, zone.name, "soft", size=12)
    note = ("its loss halts", "bad") if zone.loss.halts else (f"{zone.full_nodes} full", "soft")
    canvas.text(x + width - 10, y + 18, *note, size=11, end="end")
    if not zone.validators:
        canvas.text(x + 10, y + 38, "no validator", "soft", size=12)
    for number, validator in enumerate(zone.validators):
        row = y + 27 + 20 * number
        canvas.rect(x + 10, row, 12, 12, colour if validator.online else "off", radius=2)
        away = f"  ⇄ {len(validator.standbys)}" if validator.standbys else ""
        offline = "" if validator.online else "  offline"
        name = clipped(validator.name, width - 100, 12)
        canvas.text(x + 28, row + 11, f"{name}{offline}{away}", "ink" if validator.online else "bad", size=12)
        canvas.text(x + width - 10, row + 11, str(validator.power), "ink", size=12, end="end")
