"""A film with its findings drawn on it, and what they say in a strip beside it, never over the anatomy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cxrlines.core.files import replacing
from cxrlines.core.findings import Findings
from cxrlines.core.line_drawing import draw_lines
from cxrlines.reading.distances import turned
from cxrlines.reading.results.operating_points import OperatingPoint
from cxrlines.reading.results.report_text import (
    NOT_LOOKED_FOR,
    carina_words,
    ends_at_earlier,
    line_words,
    looked_for,
    note_words,
    rules_of,
    spacing_words,
    tip_words,
    unfound_words,
)
from cxrlines.task import DEVICE_COLOURS, DEVICE_OF, Landmark

NOTICE = "For research only. Not a medical device; not for diagnosis."
MIN_SIDE = 480
"""Smaller films are enlarged to this longer side before they are drawn on, so that text can be read."""
STRIP = 0.34
"""Width of the strip beside the film as a fraction of the film's longer side."""
MIN_STRIP = 19.0
"""Least width of the strip in heights of its letters: the longest label with its probability."""
OPACITY = 0.55
"""Of a drawn line: the tube under it stays visible."""
SHOWN = 0.5
"""Labels of at least this probability are written bright."""
_PAPER, _INK, _PALE = (16, 16, 18), (238, 238, 238), (150, 150, 155)
_CARINA, _EMPTY_BAR = (255, 255, 255), (45, 45, 48)
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom px."""


def draw_findings(
    film: np.ndarray,
    findings: Findings,
    *,
    name: str = "",
    notes: Sequence[str] = (),
    notice: str = NOTICE,
    largest: int | None = None,
    operating_points: Mapping[str, OperatingPoint] | None = None,
) -> np.ndarray:
    """The film in RGB with lines, tips and the carina, and a strip to its right: (H, W, 3) uint8.

    A ring is a tip; a square is where a line is followed to and its further course is not seen.
    The strip has the labels, what was found, what the distances rest on, and all notes, each once. The film is drawn
    as it is in its file, however it was turned to be read. Of a film that was refused the strip says why.

    H and the film's place (top left) are the film's own size, unless its longer side is below `MIN_SIDE` or above
    `largest`: then it is drawn at that size. Widths and letters grow with the film.

    Args:
        film: (h, w) uint8, as `Findings.film_shape` says; not changed.
        name: Of the film, at the head of the strip.
        notes: Further ones than those of the findings, a paragraph each, below what was found.
        notice: At the foot of the strip.
        largest: Longer side in px that a film is shrunk to, if it is larger.
        operating_points: By label, from which probability on it is positive: a mark on its bar, what makes it bright
            instead of `SHOWN`, and a note of what they were chosen for.

    Raises `ValueError` for a film of another shape than its findings, or of another type.
    """
    if film.ndim != 2 or film.dtype != np.uint8 or film.shape != findings.film_shape:
        raise ValueError(
            f"film: needs (height, width) {findings.film_shape} of uint8, as its findings have; "
            f"got {film.shape} of {film.dtype}"
        )
    enlarged = max(MIN_SIDE, max(film.shape))
    scale = min(enlarged, largest or enlarged) / max(film.shape)
    if scale != 1:
        size = (max(1, round(film.shape[1] * scale)), max(1, round(film.shape[0] * scale)))
        film = cv2.resize(film, size, interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA)
    side = max(film.shape)
    canvas = Image.fromarray(_with_lines(film, findings, scale))
    _mark_points(canvas, findings, scale)
    letters = _letters(side)
    width = max(round(STRIP * side), round(MIN_STRIP * letters))
    text = _StripText(findings, name, notes, notice, operating_points or {})
    strip = _strip(text, (width, film.shape[0]), letters)
    sheet = Image.new("RGB", (canvas.width + strip.width, canvas.height), _PAPER)
    sheet.paste(canvas, (0, 0))
    sheet.paste(strip, (canvas.width, 0))
    return np.asarray(sheet).copy()


def save_drawing(path: Path, drawn: np.ndarray) -> None:
    """Write an (h, w, 3) uint8 RGB picture as PNG, atomically; its folder is made. `OutputError` if not."""
    written, png = cv2.imencode(".png", drawn[:, :, ::-1])
    assert written
    with replacing(path) as aside:
        aside.write_bytes(png.tobytes())


def _scaled(points: np.ndarray, scale: float) -> np.ndarray:
    """Points (..., 2) of the film, in px of the scaled film.

    Pixel centres are at whole numbers, so the scale acts around the film's outer corner at -0.5.
    """
    return (points + 0.5) * scale - 0.5


def _with_lines(film: np.ndarray, findings: Findings, scale: float) -> np.ndarray:
    """The scaled film (h, w) uint8 in RGB (h, w, 3) with its lines drawn half transparent."""
    colour = cv2.cvtColor(film, cv2.COLOR_GRAY2RGB)
    lines = []
    for line in findings.lines:
        path = _scaled(line.path, scale)
        if not line.leaves_film:  # nothing is drawn within the ring or the square, so that the end itself stays visible
            path = path[np.hypot(*(path - path[-1]).T) > _ring(max(film.shape))]
        if len(path) > 1:
            lines.append((path, DEVICE_COLOURS[line.device]))
    if not lines:
        return colour
    drawn = draw_lines(colour, lines, max(1.2, max(film.shape) / 700))
    return cv2.addWeighted(drawn, OPACITY, colour, 1 - OPACITY, 0)


def _mark_points(canvas: Image.Image, findings: Findings, scale: float) -> None:
    """Mark the carina and the ends of lines on the scaled film, in place.

    A Y at the carina, its arms where the bronchi leave; rings at tips, squares where lines are followed to without a
    tip, both with their names and heights beside them; where several lines of a device end, once.
    """
    pen = ImageDraw.Draw(canvas)
    side = max(canvas.size)
    width, radius = max(1, round(side / 700)), _ring(side)
    taken: list[Box] = []
    carina = findings.landmarks.get(Landmark.CARINA)
    if carina is not None:
        x, y = _scaled(carina.xy, scale)
        arm = 1.5 * radius
        for upright in ((0.0, -arm), (-0.8 * arm, 0.6 * arm), (0.8 * arm, 0.6 * arm)):
            dx, dy = turned(np.array(upright), -findings.quality.rotation).tolist()
            pen.line((x, y, x + dx, y + dy), _CARINA, width)
        taken.append((x - arm, y - arm, x + arm, y + arm))
    ends = [
        (k, line, *_scaled(line.path[-1], scale).tolist())
        for k, line in enumerate(findings.lines)
        if not line.leaves_film
    ]
    for _, line, x, y in ends:
        taken.append((x - radius, y - radius, x + radius, y + radius))
        mark = pen.ellipse if line.tip is not None else pen.rectangle
        mark(taken[-1], outline=DEVICE_COLOURS[line.device], width=width)
    font = ImageFont.load_default(_letters(side))
    for k, line, x, y in ends:
        if ends_at_earlier(findings, k):
            continue
        text = tip_words(findings, k)
        left, top, right, bottom = pen.textbbox((0, 0), text, font)
        place = _free_place((x, y), (right - left, bottom - top), 1.6 * radius, taken, canvas.size)
        taken.append((*place, place[0] + right - left, place[1] + bottom - top))
        stroke = max(1, round((bottom - top) / 16))
        origin = (place[0] - left, place[1] - top)
        pen.text(origin, text, DEVICE_COLOURS[line.device], font, stroke_width=stroke, stroke_fill=(0, 0, 0))


def _free_place(
    point: tuple[float, float], size: tuple[float, float], away: float, taken: Sequence[Box], canvas: tuple[int, int]
) -> tuple[float, float]:
    """The left top corner of text beside a point: the first place that is on the canvas and free, else one on it.

    Args:
        point: [x, y] px.
        size: (width, height) px of the text.
        away: px between the point and the text.
        taken: Where nothing may be written.
        canvas: (width, height) px.
    """
    (x, y), (wide, tall) = point, size
    for rows_down in (0, 1, -1, 2, -2, 3, -3):
        for left in (x + away, x - away - wide):
            top = y + rows_down * 1.3 * tall - tall / 2
            box = (left, top, left + wide, top + tall)
            inside = left >= 0 and top >= 0 and box[2] <= canvas[0] and box[3] <= canvas[1]
            if inside and not any(_overlap(box, other) for other in taken):
                return left, top
    return min(max(0.0, x + away), max(0.0, canvas[0] - wide)), min(max(0.0, y), canvas[1] - tall)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _ring(side: int) -> float:
    """Radius of the ring around a tip in px; half the side of the square at an end that is no tip."""
    return max(4.0, side / 110)


def _letters(side: int) -> int:
    """Height of small print in px."""
    return max(11, round(side / 60))


@dataclass(frozen=True)
class _StripText:
    """What the strip beside a film says; the fields are the arguments of `draw_findings`."""

    findings: Findings
    name: str
    notes: Sequence[str]
    notice: str
    operating_points: Mapping[str, OperatingPoint]

    @property
    def all_notes(self) -> list[str]:
        """The notes of the findings, then the further ones, each once."""
        own = {note.text for note in self.findings.all_notes}
        further = dict.fromkeys([*self.notes, *self._marks])
        return [*note_words(self.findings), *(note for note in further if note not in own)]

    @property
    def _marks(self) -> list[str]:
        """What the marks on the bars are, as a note; none where there are none."""
        labels = self.findings.labels or {}
        words = dict.fromkeys(point.words for label, point in self.operating_points.items() if label in labels)
        return [f"Marks on the bars: operating points ({', '.join(words)})."] if words else []


def _strip(text: _StripText, size: tuple[int, int], letters: int) -> Image.Image:
    """The text beside the film, `size` (width, height) px; letters shrink from `letters` px until all of it fits."""
    for height in range(letters, 6, -1):
        strip = _Strip(size, height)
        strip.write_all(text)
        if strip.fits:
            break
    return strip.image


class _Strip:
    """A strip that is written from the top down, in letters of one height in px."""

    def __init__(self, size: tuple[int, int], letters: int) -> None:
        self.image = Image.new("RGB", size, _PAPER)
        self.letters, self.size = letters, size
        self.font, self.step = ImageFont.load_default(letters), round(letters * 1.35)
        self.margin = letters
        self.room = size[0] - 2 * self.margin
        self.y, self.limit = self.margin, size[1] - self.margin
        self._pen = ImageDraw.Draw(self.image)

    @property
    def fits(self) -> bool:
        """Whether all that was written ends above the notice at the foot."""
        return self.y <= self.limit

    def write_all(self, text: _StripText) -> None:
        """Name, labels, what was found, notes; and the notice at the foot, over what does not fit."""
        findings = text.findings
        if text.name:
            self._write(text.name, _INK)
            self.y += self.step // 2
        for label, p in (findings.labels or {}).items():
            point = text.operating_points.get(label)
            self._write_label(label, p, None if point is None else point.probability)
        if findings.labels:
            self.y += self.step // 2
        if findings.quality.usable:
            self._write_found(findings)
        for note in text.all_notes:
            self.y += self.step // 2
            self._write(note, _INK)
        self._write_notice(text.notice)

    def _write(self, text: str, colour: Colour, indent: int = 0) -> None:
        for part in _wrapped(self._pen, text, self.room - indent, self.font):
            self._pen.text((self.margin + indent, self.y), part, colour, self.font)
            self.y += self.step

    def _write_label(self, label: str, p: float, point: float | None) -> None:
        """A label with its probability as a number and a bar, and a mark at its operating point, if it has one."""
        device, thick = DEVICE_OF[label], max(1, self.letters // 9)
        left, right = self.margin, self.margin + self.room
        ink = _INK if p >= (SHOWN if point is None else point) else _PALE
        self._pen.text((left, self.y), device.name + label.removeprefix(device.value), ink, self.font)
        self._pen.text((right, self.y), f"{p:.2f}", ink, self.font, anchor="ra")
        base = self.y + round(self.letters * 1.12)
        self._pen.line((left, base, right, base), _EMPTY_BAR, thick)
        if p * self.room >= 1:
            self._pen.line((left, base, left + p * self.room, base), DEVICE_COLOURS[device], thick)
        if point is not None:
            at = left + point * self.room
            self._pen.line((at, base, at, base + max(2, self.letters // 4)), _INK, thick)
        self.y += self.step

    def _write_found(self, findings: Findings) -> None:
        """The lines with their rules, devices without one, the carina, and what distances rest on."""
        if not looked_for(findings):
            self._write(NOT_LOOKED_FOR, _INK)
            return
        for k, line in enumerate(findings.lines):
            self._write(line_words(findings, k), DEVICE_COLOURS[line.device])
            for rule in rules_of(findings, k):
                self._write(rule, _INK, self.letters)
        for words in unfound_words(findings):
            self._write(words, _INK)
        self._write(carina_words(findings), _PALE)
        rests_on = spacing_words(findings)
        if rests_on:
            self._write(rests_on, _PALE)

    def _write_notice(self, notice: str) -> None:
        foot = _wrapped(self._pen, notice, self.room, self.font)
        self.limit -= len(foot) * self.step
        self._pen.rectangle((0, self.limit, *self.size), _PAPER)
        for k, part in enumerate(foot):
            self._pen.text((self.margin, self.limit + k * self.step), part, _PALE, self.font)


def _wrapped(
    pen: ImageDraw.ImageDraw, text: str, room: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[str]:
    """Text in lines no wider than `room` px; words too long for one are cut."""
    lines = [""]
    for word in text.split():
        if lines[-1] and pen.textlength(f"{lines[-1]} {word}", font) <= room:
            lines[-1] += f" {word}"
            continue
        if lines[-1]:
            lines.append("")
        while pen.textlength(word, font) > room and len(word) > 1:
            keep = max(1, int(len(word) * room / pen.textlength(word, font)))
            lines[-1], word = word[:keep], word[keep:]
            lines.append("")
        lines[-1] = word
    return lines
