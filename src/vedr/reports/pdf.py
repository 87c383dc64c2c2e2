r"""A run's evidence as a PDF, drawn from the evidence itself: no browser, no network.

Guarantees: the same evidence, time and key give the same bytes; what the built-in fonts lack is written as its code
point (`\u4e2d`), so that nothing is silently left out.
Leaves out: the signature and the appendix of every entry, which the page and the signed document beside it have.
"""

import re
from collections.abc import Sequence
from typing import Final

from fpdf import FPDF
from fpdf.enums import TableBordersLayout, WrapMode, XPos, YPos
from fpdf.fonts import FontFace

from vedr.reports.evidence import Evidence
from vedr.reports.gantt import Row, rows_of
from vedr.reports.pages import TONES, Card, Imprint, besides, cards, headline, story, title
from vedr.reports.spans import SpanKind
from vedr.reports.svg import shown
from vedr.reports.words import moment, span

Colour = tuple[int, int, int]
_INK: Final[Colour] = (22, 32, 43)
_SOFT: Final[Colour] = (91, 104, 117)
_LINE: Final[Colour] = (212, 218, 224)
_CARD: Final[Colour] = (244, 246, 248)
_TONES: Final[dict[str, Colour]] = {"good": (26, 127, 75), "bad": (198, 40, 40), "warn": (154, 91, 0), "": _INK}
_SPANS: Final[dict[SpanKind, Colour]] = {
    "before": (154, 167, 180),
    "step": (46, 158, 99),
    "running": (59, 110, 168),
    "failed": (214, 69, 69),
    "interrupted step": (214, 69, 69),
    "waiting": (224, 160, 48),
    "interrupted": (154, 167, 180),
    "undo": (142, 107, 191),
}
_BUDGET: Final[Colour] = (223, 231, 239)
_WIDTH_MM: Final = 180.0
_LABELS_MM: Final = 52.0
_FIGURES_MM: Final = 40.0
_ROW_MM: Final = 6.0
_BEYOND_LATIN: Final = re.compile("[^\x20-\x7e\xa1-\xff]")


def run_pdf(evidence: Evidence, imprint: Imprint) -> bytes:
    """The PDF's bytes."""
    sheet = _Sheet(evidence, imprint)
    sheet.title(evidence, imprint)
    sheet.summary(cards(evidence))
    sheet.heading("Time line")
    sheet.time_line(evidence)
    sheet.heading("Steps: planned and achieved")
    sheet.table(("Step", "State", "Budget", "Took", "Tries", "Remarks"), (46, 20, 20, 20, 10, 64), _steps(evidence))
    sheet.heading("Data lost")
    if evidence.data_lost:
        sheet.table(
            ("Recorded", "Value", "By"), (60, 60, 60), [(f.name, f.value, f.source) for f in evidence.data_lost]
        )
    else:
        sheet.words("No step recorded how much data was lost.  That is not a statement that none was.")
    sheet.heading("Who approved what")
    answers = [
        (a.person, "approved" if a.approved else "refused", a.why, a.at, a.plan[:16]) for a in evidence.approvals
    ]
    if answers:
        sheet.table(("Person", "Said", "Reason", "At", "Plan"), (30, 20, 50, 45, 35), answers)
    else:
        sheet.words("The ledger has no answer." if evidence.asked else "Nobody was asked.")
    if evidence.remarks:
        sheet.heading("What else happened")
        sheet.table(("At", "What", "Detail"), (20, 34, 126), [(r.source, r.name, r.value) for r in evidence.remarks])
    sheet.heading("The record")
    sheet.words(
        f"{len(evidence.entries)} entries of the ledger in {', '.join(evidence.regions)}: {evidence.proof}.  "
        f"Head: entry {evidence.head_seq}, {evidence.head}.  The page {evidence.run_id}.html has every entry and the "
        f"signature of key {imprint.keyid}; check it with: vedr report verify {evidence.run_id}.html"
    )
    return bytes(sheet.pdf.output())


def _steps(evidence: Evidence) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            step.row.title,
            step.row.state,
            span(step.row.budget_ms),
            "" if step.row.took_ms is None else span(step.row.took_ms),
            str(step.row.attempts or ""),
            "; ".join(filter(None, ("over budget" if step.row.over_budget else "", step.error))),
        )
        for step in evidence.steps
    ]
    rows += [(name, "", "", span(ms), "", "") for name, ms in besides(evidence)]
    total = ("From detection to the end", "", span(evidence.timing.target_ms), span(evidence.timing.total_ms), "", "")
    return [*rows, total]


class _Sheet:
    def __init__(self, evidence: Evidence, imprint: Imprint) -> None:
        self.pdf = FPDF(format="A4")
        self.pdf.set_margins(15, 15)
        self.pdf.set_auto_page_break(auto=True, margin=15)
        self.pdf.set_title(_latin(f"{title(evidence)} {evidence.run_id}"))
        self.pdf.set_creation_date(imprint.made_at)
        self.pdf.add_page()

    def title(self, evidence: Evidence, imprint: Imprint) -> None:
        self._line(f"{imprint.label}{evidence.subject.capitalize()} report, site {evidence.site}", 9, _SOFT)
        self._line(title(evidence), 18, _INK, bold=True)
        self._line(f"{evidence.run_id}, made {moment(imprint.made_at)}", 9, _SOFT)
        if evidence.proof == "unverifiable":
            self._alarm(["The ledger of this run does not hold: nothing below is proven.", *evidence.problems])
        tone = "bad" if evidence.proof == "unverifiable" else TONES[evidence.verdict]
        self.pdf.ln(2)
        self._line(headline(evidence), 14, _TONES[tone], bold=True)
        self.words(story(evidence))
        if evidence.error and evidence.outcome != "completed":
            self.words(f"{evidence.error}  Next: {evidence.remedy}", _TONES["bad"])

    def _alarm(self, lines: Sequence[str]) -> None:
        self.pdf.ln(2)
        self.pdf.set_fill_color(*_TONES["bad"])
        for number, line in enumerate(lines):
            self._line(line, 11 if number == 0 else 9, (255, 255, 255), bold=number == 0, fill=True)

    def summary(self, figures: Sequence[Card]) -> None:
        self.pdf.ln(2)
        rows = [[(card.name, card.value, card.more, card.tone) for card in figures[at : at + 3]] for at in (0, 3)]
        for row in rows:
            top, left = self.pdf.get_y(), self.pdf.l_margin
            for column, (name, value, more, tone) in enumerate(row):
                x = left + column * (_WIDTH_MM / 3)
                self.pdf.set_fill_color(*_CARD)
                self.pdf.rect(x, top, _WIDTH_MM / 3 - 3, 19, style="F")
                for offset, text, size, colour in (
                    (2, name, 8, _SOFT),
                    (7, value, 11, _TONES[tone]),
                    (13, more, 7, _SOFT),
                ):
                    self.pdf.set_xy(x + 2, top + offset)
                    self._font(size, colour, bold=offset == 7)  # noqa: PLR2004 - the value's line
                    self.pdf.cell(_WIDTH_MM / 3 - 7, 4, self._cut(text, _WIDTH_MM / 3 - 7))
            self.pdf.set_xy(left, top + 22)

    def heading(self, words: str) -> None:
        if self.pdf.will_page_break(30):
            self.pdf.add_page()
        self.pdf.ln(3)
        self._line(words, 12, _INK, bold=True)

    def words(self, text: str, colour: Colour = _INK) -> None:
        self._line(text, 9, colour)

    def table(self, head: Sequence[str], widths: Sequence[int], rows: Sequence[Sequence[str]]) -> None:
        self._font(8, _INK)
        self.pdf.set_draw_color(*_LINE)
        self.pdf.set_fill_color(255, 255, 255)
        with self.pdf.table(
            borders_layout=TableBordersLayout.HORIZONTAL_LINES,
            col_widths=tuple(widths),
            headings_style=FontFace(emphasis="BOLD", color=_SOFT),
            line_height=4.4,
            text_align="LEFT",
            width=_WIDTH_MM,
        ) as table:
            for cells in (head, *rows):
                row = table.row()
                for cell in cells:
                    row.cell(_latin(cell))

    def time_line(self, evidence: Evidence) -> None:
        rows = rows_of(evidence)
        measured = evidence.timing
        scale = (_WIDTH_MM - _LABELS_MM - _FIGURES_MM) / max(1, measured.total_ms)
        for row in rows:
            if self.pdf.will_page_break(_ROW_MM):
                self.pdf.add_page()
            self._time_row(row, scale)
        budget = "light: budget; green: within it; red: over it or failed; yellow: waiting for people; grey: nobody"
        self._line(f"{span(measured.total_ms)} from detection, target {span(measured.target_ms)}.  {budget}.", 7, _SOFT)

    def _time_row(self, row: Row, scale: float) -> None:
        y, left = self.pdf.get_y(), self.pdf.l_margin
        chart, right = left + _LABELS_MM, left + _WIDTH_MM - _FIGURES_MM
        self._font(8, _INK)
        self.pdf.cell(_LABELS_MM, _ROW_MM, self._cut(row.label, _LABELS_MM - 2))
        steps = [one for one in row.spans if one.kind != "waiting"]
        if row.budget_ms and steps:
            x = chart + steps[-1].start_ms * scale
            self._bar(x, y + 0.8, min(row.budget_ms * scale, right - x), _ROW_MM - 1.6, _BUDGET)
        for one in (*steps, *(each for each in row.spans if each.kind == "waiting")):
            colour = _SPANS["failed"] if one.kind == "step" and row.over else _SPANS[one.kind]
            self._bar(chart + one.start_ms * scale, y + 1.8, max(0.4, one.length_ms * scale), _ROW_MM - 3.6, colour)
        self.pdf.set_xy(right + 1, y)
        self._font(7, _TONES["bad"] if row.over else _SOFT)
        self.pdf.cell(_FIGURES_MM - 1, _ROW_MM, self._cut(row.figures, _FIGURES_MM - 2), align="R")
        self.pdf.set_xy(left, y + _ROW_MM)

    def _bar(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        self.pdf.set_fill_color(*colour)
        self.pdf.rect(x, y, width, height, style="F")

    def _font(self, size: float, colour: Colour, *, bold: bool = False) -> None:
        self.pdf.set_font("Helvetica", style="B" if bold else "", size=size)
        self.pdf.set_text_color(*colour)

    def _line(self, text: str, size: float, colour: Colour, *, bold: bool = False, fill: bool = False) -> None:
        self._font(size, colour, bold=bold)
        self.pdf.multi_cell(
            _WIDTH_MM,
            size * 0.5,
            _latin(text),
            fill=fill,
            new_x=XPos.LMARGIN,
            new_y=YPos.NEXT,
            align="L",
            wrapmode=WrapMode.WORD,
        )

    def _cut(self, text: str, width: float) -> str:
        """The text, cut to that width in the present font."""
        text = _latin(text)
        while text and self.pdf.get_string_width(text) > width:
            text = f"{text[:-4]}..." if text.endswith("...") else f"{text[:-3]}..."
        return text


def _latin(text: str) -> str:
    """What the fonts of every PDF reader have; line ends and anything else by its code point."""
    plain = shown(text).replace("\n", " ").replace("\t", " ").replace("…", "...")
    return _BEYOND_LATIN.sub(lambda found: f"\\u{ord(found[0]):04x}", plain)
