"""A film with its findings drawn on it, and what they say in a strip beside it, never over the anatomy."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cxrlines.core.files import replacing
from cxrlines.core.findings import Findings
from cxrlines.core.line_drawing import draw_lines
from cxrlines.reading.interpretation import turned
from cxrlines.reading.results.report_text import (
    carina_words,
    line_words,
    note_words,
    rules_of,
    spacing_words,
    tip_words,
)
from cxrlines.task import DEVICE_COLOURS, DEVICE_OF, Landmark

NOTICE = "For research only. Not a medical device; not for diagnosis."
LEAST_SIDE = 480
"""Smaller films are enlarged to this longer side before they are drawn on, so that text can be read."""
STRIP = 0.34
"""Width of the strip beside the film as a share of the film's longer side."""
LEAST_STRIP = 19.0
"""Least width of the strip in heights of its letters: the longest label with its probability."""
OPACITY = 0.55
"""Of a drawn line: the tube under it stays visible."""
SHOWN = 0.5
"""Labels of at least this probability are written bright."""
_PAPER, _INK, _PALE = (16, 16, 18), (238, 238, 238), (150, 150, 155)
_CARINA = (255, 255, 255)
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
    operating_points: Mapping[str, float] | None = None,
) -> np.ndarray:
    """The film in RGB with lines, tips and the carina, and a strip to its right: (H, W, 3) uint8.

    A ring is a tip; a square is where a line is followed to and its further course is not seen.
    The strip has the labels, what was found, what the distances rest on, and all notes, each once. The film is drawn
    as it is in its file, however it was turned to be read. Of a film that was refused the strip says why.

    H and the film's place (top left) are the film's own size, unless its longer side is below `LEAST_SIDE` or above
    `largest`: then it is drawn at that size. Widths and letters grow with the film.

    Args:
        film: (h, w) uint8, as `Findings.film_shape` says; not changed.
        name: Of the film, at the head of the strip.
        notes: Further ones than those of the findings, a paragraph each, below what was found.
        notice: At the foot of the strip.
        largest: Longer side in px that a film is shrunk to, if it is larger.
        operating_points: By label, the probability from which on it is positive: a mark on its bar, and what makes it
            bright instead of `SHOWN`.

    Raises `ValueError` for a film of another shape than its findings, or of another type.
    """
    if film.ndim != 2 or film.dtype != np.uint8 or film.shape != findings.film_shape:
        raise ValueError(
            f"film: needs (height, width) {findings.film_shape} of uint8, as its findings have; "
            f"got {film.shape} of {film.dtype}"
        )
    wanted = min(max(LEAST_SIDE, max(film.shape)), largest or max(LEAST_SIDE, max(film.shape)))
    scale = wanted / max(film.shape)
    if scale != 1:
        size = (max(1, round(film.shape[1] * scale)), max(1, round(film.shape[0] * scale)))
        film = cv2.resize(film, size, interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA)
    side = max(film.shape)
    canvas = Image.fromarray(_with_lines(film, findings, scale))
    _mark_points(canvas, findings, scale)
    width = max(round(STRIP * side), round(LEAST_STRIP * _letters(side)))
    strip = _strip(findings, (width, film.shape[0]), side, name, notes, notice, operating_points or {})
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


def _moved(points: np.ndarray, scale: float) -> np.ndarray:
    """Pixel centres sit at whole numbers, so the scale acts around the film's outer corner at -0.5."""
    return (points + 0.5) * scale - 0.5


def _with_lines(film: np.ndarray, findings: Findings, scale: float) -> np.ndarray:
    colour = cv2.cvtColor(film, cv2.COLOR_GRAY2RGB)
    lines = []
    for line in findings.lines:
        path = _moved(line.path, scale)
        if not line.leaves_film:  # nothing is drawn within the ring or the square, so that the end itself stays visible
            path = path[np.hypot(*(path - path[-1]).T) > _ring(max(film.shape))]
        if len(path) > 1:
            lines.append((path, DEVICE_COLOURS[line.device]))
    if not lines:
        return colour
    drawn = draw_lines(colour, lines, max(1.2, max(film.shape) / 700))
    return cv2.addWeighted(drawn, OPACITY, colour, 1 - OPACITY, 0)


def _mark_points(canvas: Image.Image, findings: Findings, scale: float) -> None:
    """Rings at tips with their names and heights, squares where lines are followed to without a tip, and a Y at the
    carina, its arms where the bronchi leave."""
    pen = ImageDraw.Draw(canvas)
    side = max(canvas.size)
    width, radius = max(1, round(side / 700)), _ring(side)
    font = ImageFont.load_default(_letters(side))
    taken: list[Box] = []
    carina = findings.landmarks.get(Landmark.CARINA)
    if carina is not None:
        x, y = _moved(carina.xy, scale)
        arm = 1.5 * radius
        for upright in ((0.0, -arm), (-0.8 * arm, 0.6 * arm), (0.8 * arm, 0.6 * arm)):
            dx, dy = turned(np.array(upright), -findings.quality.rotation).tolist()
            pen.line((x, y, x + dx, y + dy), _CARINA, width)
        taken.append((x - arm, y - arm, x + arm, y + arm))
    ends = [
        (k, line, *_moved(line.path[-1], scale).tolist())
        for k, line in enumerate(findings.lines)
        if not line.leaves_film
    ]
    for _, line, x, y in ends:
        taken.append((x - radius, y - radius, x + radius, y + radius))
        mark = pen.ellipse if line.tip is not None else pen.rectangle
        mark(taken[-1], outline=DEVICE_COLOURS[line.device], width=width)
    for k, line, x, y in ends:
        text = tip_words(findings, k)
        left, top, right, bottom = pen.textbbox((0, 0), text, font)
        at = _free_place((x, y), (right - left, bottom - top), 1.6 * radius, taken, canvas.size)
        taken.append((*at, at[0] + right - left, at[1] + bottom - top))
        stroke = max(1, round((bottom - top) / 16))
        place = (at[0] - left, at[1] - top)
        pen.text(place, text, DEVICE_COLOURS[line.device], font, stroke_width=stroke, stroke_fill=(0, 0, 0))


def _free_place(
    point: tuple[float, float], size: tuple[float, float], away: float, taken: Sequence[Box], canvas: tuple[int, int]
) -> tuple[float, float]:
    """Where text of a size (width, height) goes: the first place beside a point that is on the film and free."""
    (x, y), (wide, tall) = point, size
    for up in (0, 1, -1, 2, -2, 3, -3):
        for left in (x + away, x - away - wide):
            top = y + up * 1.3 * tall - tall / 2
            right, bottom = left + wide, top + tall
            inside = left >= 0 and top >= 0 and right <= canvas[0] and bottom <= canvas[1]
            if inside and not any(left < r and lf < right and top < b and t < bottom for lf, t, r, b in taken):
                return left, top
    return min(max(0.0, x + away), max(0.0, canvas[0] - wide)), min(max(0.0, y), canvas[1] - tall)


def _ring(side: int) -> float:
    """Radius of the ring around a tip in px; half the side of the square at an end that is no tip."""
    return max(4.0, side / 110)


def _letters(side: int) -> int:
    """Height of small print in px."""
    return max(11, round(side / 60))


def _strip(
    findings: Findings,
    size: tuple[int, int],
    side: int,
    name: str,
    notes: Sequence[str],
    notice: str,
    points: Mapping[str, float],
) -> Image.Image:
    """The text beside the film; letters shrink until all of it fits."""
    for letters in range(_letters(side), 6, -1):
        strip, fits = _strip_at(findings, size, letters, name, notes, notice, points)
        if fits:
            break
    return strip


def _strip_at(
    findings: Findings,
    size: tuple[int, int],
    letters: int,
    name: str,
    notes: Sequence[str],
    notice: str,
    points: Mapping[str, float],
) -> tuple[Image.Image, bool]:
    """The strip in letters of a size, and whether everything found room."""
    width, height = size
    strip = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(strip)
    font, step, margin = ImageFont.load_default(letters), round(letters * 1.35), letters
    room = width - 2 * margin
    foot = _wrapped(pen, notice, room, font)
    limit = height - margin - len(foot) * step
    y = margin

    def write(text: str, colour: Colour, indent: int = 0) -> None:
        nonlocal y
        for part in _wrapped(pen, text, room - indent, font):
            pen.text((margin + indent, y), part, colour, font)
            y += step

    if name:
        write(name, _INK)
        y += step // 2
    for label, p in (findings.labels or {}).items():  # with its probability as a number and a bar
        device, thick, point = DEVICE_OF[label], max(1, letters // 9), points.get(label)
        ink = _INK if p >= (SHOWN if point is None else point) else _PALE
        pen.text((margin, y), device.name + label.removeprefix(device.value), ink, font)
        pen.text((margin + room, y), f"{p:.2f}", ink, font, anchor="ra")
        base = y + round(letters * 1.12)
        pen.line((margin, base, margin + room, base), (45, 45, 48), thick)
        if p * room >= 1:
            pen.line((margin, base, margin + p * room, base), DEVICE_COLOURS[device], thick)
        if point is not None:
            at = margin + point * room
            pen.line((at, base, at, base + max(2, letters // 4)), _INK, thick)
        y += step
    if findings.labels:
        y += step // 2
    if findings.quality.usable:
        if not findings.lines:
            write("No line found.", _INK)
        for k, line in enumerate(findings.lines):
            write(line_words(findings, k), DEVICE_COLOURS[line.device])
            for rule in rules_of(findings, k):
                write(rule, _INK, letters)
        write(carina_words(findings), _PALE)
        if rests_on := spacing_words(findings):
            write(rests_on, _PALE)
    own = {note.text for note in findings.all_notes}
    for note in (*note_words(findings), *(note for note in dict.fromkeys(notes) if note not in own)):
        y += step // 2
        write(note, _INK)
    fits = y <= limit
    pen.rectangle((0, limit, width, height), _PAPER)
    for k, part in enumerate(foot):
        pen.text((margin, limit + k * step), part, _PALE, font)
    return strip, fits


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
