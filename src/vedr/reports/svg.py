"""Pictures as SVG: a canvas of rectangles, lines and text.

Guarantees: well-formed XML whatever the text holds; nothing is fetched from anywhere; colours follow the reader's light
or dark setting.
Leaves out: what is drawn.
"""

import re
from typing import Final, Literal
from xml.etree import ElementTree as ET

NAMESPACE: Final = "http://www.w3.org/2000/svg"
FONT: Final = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
CHAR_WIDTH: Final = 0.56  # of the font size, about, for digits and lower case

_NOT_SHOWN: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)

STYLE: Final = """
.ink{fill:#16202b}.soft{fill:#5b6875}.paper{fill:#fff}.card{fill:#f4f6f8;stroke:#d4dae0}.zone{fill:#fff;stroke:#d4dae0}
.grid{stroke:#d4dae0}.line{stroke:#16202b}.good{fill:#1a7f4b}.warn{fill:#b26a00}.bad{fill:#c62828}.off{fill:#c9d1d9}
.lost{fill:none;stroke:#8a97a3;stroke-dasharray:3 3}.badline{fill:none;stroke:#c62828;stroke-width:2}
.amber{fill:#e0a030}.red{fill:#d64545}.green{fill:#2e9e63}.blue{fill:#3b6ea8}.grey{fill:#9aa7b4}
.budget{fill:#dfe7ef;stroke:#b9c7d6}.away{fill:#8a97a3;opacity:.18}.target{stroke:#c62828}.plot{fill:none;stroke:#3b6ea8;stroke-width:2}
.c0{fill:#3b6ea8}.c1{fill:#2a9d8f}.c2{fill:#8e6bbf}.c3{fill:#c08a2d}.c4{fill:#7a8894}.onc{fill:#fff}
@media (prefers-color-scheme:dark){.ink{fill:#e6ebf0}.soft{fill:#9aa7b4}.paper{fill:#12181f}
.card{fill:#1a222b;stroke:#33404d}.zone{fill:#12181f;stroke:#33404d}.grid{stroke:#33404d}.line{stroke:#e6ebf0}
.good{fill:#4cc38a}.warn{fill:#f0a94a}.bad{fill:#ff6b6b}.off{fill:#3a4653}.badline{stroke:#ff6b6b}.budget{fill:#26323e;stroke:#40505f}.target{stroke:#ff6b6b}.plot{stroke:#7fb2e8}}
@media print{.ink{fill:#16202b}.soft{fill:#5b6875}.paper{fill:#fff}.card{fill:#f4f6f8;stroke:#d4dae0}
.zone{fill:#fff;stroke:#d4dae0}.grid{stroke:#d4dae0}.line{stroke:#16202b}.good{fill:#1a7f4b}.warn{fill:#b26a00}
.bad{fill:#c62828}.off{fill:#c9d1d9}.budget{fill:#dfe7ef;stroke:#b9c7d6}.target{stroke:#c62828}
.plot{stroke:#3b6ea8}.line{stroke:#16202b}.badline{stroke:#c62828}}
"""


def shown(text: str) -> str:
    """Text as pictures and pages show it: what can't be drawn, or turns the reading direction, is made visible."""
    return _NOT_SHOWN.sub("\ufffd", text)


class Canvas:
    """A picture being drawn; lengths are pixels, (0, 0) is the upper left corner; `style` adds classes to STYLE's."""

    def __init__(self, width: float, height: float, title: str, *, style: str = "") -> None:
        self.width, self.height = width, height
        self._root = ET.Element(
            "svg",
            {
                "xmlns": NAMESPACE,
                "viewBox": f"0 0 {width:g} {height:g}",
                "width": f"{width:g}",
                "height": f"{height:g}",
                "role": "img",
                "font-family": FONT,
            },
        )
        ET.SubElement(self._root, "title").text = shown(title)
        ET.SubElement(self._root, "style").text = STYLE + style

    def rect(self, x: float, y: float, width: float, height: float, kind: str, *, radius: float = 0) -> None:
        """A rectangle, its colours by class."""
        place = {"x": x, "y": y, "width": max(0.0, width), "height": height, "rx": radius}
        ET.SubElement(self._root, "rect", {**_numbers(place), "class": kind})

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str, *, width: float = 1, dash: str = "") -> None:
        ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "stroke-width": width}
        dashed = {"stroke-dasharray": dash} if dash else {}
        ET.SubElement(self._root, "line", {**_numbers(ends), "class": kind, **dashed})

    def polyline(self, points: list[tuple[float, float]], kind: str) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        ET.SubElement(self._root, "polyline", {"points": path, "class": kind})

    def circle(self, x: float, y: float, radius: float, kind: str, *, hint: str = "") -> None:
        dot = ET.SubElement(self._root, "circle", {**_numbers({"cx": x, "cy": y, "r": radius}), "class": kind})
        if hint:
            ET.SubElement(dot, "title").text = shown(hint)

    def text(
        self,
        x: float,
        y: float,
        content: str,
        kind: str = "ink",
        *,
        size: float = 13,
        bold: bool = False,
        end: Literal["start", "middle", "end"] = "start",
    ) -> None:
        """One line; `end` tells which end of it is at x."""
        if not content:
            return
        style = {"class": kind, "text-anchor": end, **({"font-weight": "600"} if bold else {})}
        line = ET.SubElement(self._root, "text", {**_numbers({"x": x, "y": y, "font-size": size}), **style})
        line.text = shown(content)

    def __str__(self) -> str:
        return ET.tostring(self._root, encoding="unicode")


def clipped(text: str, width: float, size: float) -> str:
    """The text, cut to about that width."""
    room = max(1, int(width / (size * CHAR_WIDTH)))
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _numbers(values: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.2f}".rstrip("0").rstrip(".") for name, value in values.items()}
