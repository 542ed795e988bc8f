"""Contact sheet: films side by side with their lines drawn over and their labels written under them."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cxrlines.core.errors import Error
from cxrlines.core.files import replacing
from cxrlines.core.film import FilmError
from cxrlines.core.line_drawing import draw_lines
from cxrlines.io.annotations import Line
from cxrlines.io.films import read_film
from cxrlines.io.studies import Studies
from cxrlines.io.tables import DataFolder, read_data_folder
from cxrlines.task import DEVICE_COLOURS, DEVICE_OF, LABELS

_PAPER, _INK = (16, 16, 18), (235, 235, 235)
_GAP = 6  # px between films
_FORMATS = (".png", ".jpg", ".jpeg")


def contact_sheet(
    root: Path, out: Path, *, films: int = 24, columns: int = 6, size: int = 384, seed: int = 0, lines: bool = True
) -> Path:
    """Draw `films` films of a data set or of a plain folder, chosen by `seed`, and write the sheet to `out`.

    Each film fits a square of `size` px, lines in the colour of their device, drawn at the size they are seen.
    A film that cannot be read leaves a square that says so. `out` is a PNG or JPEG. Returns `out`. Raises
    `Error` for a number out of range, another suffix, or a folder without films.
    """
    for name, value, low in (("films", films, 1), ("columns", columns, 1), ("size", size, 64)):
        if value < low:
            raise Error(f"{name}: needs a whole number of at least {low}, got {value}")
    out = Path(out)
    if out.suffix.lower() not in _FORMATS:
        raise Error(f"out: needs a name ending in {', '.join(_FORMATS)}, got {out.name!r}")
    data = read_data_folder(Path(root))
    count = min(films, len(data.studies))
    rows = np.sort(np.random.default_rng(seed).choice(len(data.studies), count, replace=False))
    sheet = _lay_out([_cell(data, int(row), size, lines) for row in rows], min(columns, count))
    with replacing(out) as aside:
        sheet.save(aside, format="PNG" if out.suffix.lower() == ".png" else "JPEG")
    return out


def _cell(data: DataFolder[Studies], row: int, size: int, lines: bool) -> Image.Image:
    """One film in its square, its labels below, for which there is room for five; films with more are very rare."""
    study = data.studies[row]
    height = max(11, size // 24)
    step = round(height * 1.2)
    cell = Image.new("RGB", (size, size + 5 * step + 4), _PAPER)
    pen = ImageDraw.Draw(cell)
    font = ImageFont.load_default(height)
    try:
        film = read_film(Path(study.film)).pixels
    except FilmError:
        pen.text((size / 2, size / 2), "unreadable film", _INK, font, anchor="mm")
    else:
        drawn = _scaled(film, size, data.lines.get(study.id, []) if lines else [])
        cell.paste(Image.fromarray(drawn), ((size - drawn.shape[1]) // 2, (size - drawn.shape[0]) // 2))
    positive = [label for label in LABELS if study.labels.get(label) == 1]
    for place, label in enumerate(positive):
        pen.text((2, size + 2 + place * step), label, DEVICE_COLOURS[DEVICE_OF[label]], font)
    return cell


def _scaled(film: np.ndarray, size: int, lines: list[Line]) -> np.ndarray:
    """(h, w, 3): the film with its longer side at `size` px and its lines drawn at that scale."""
    scale = size / max(film.shape)
    shape = (max(1, round(film.shape[1] * scale)), max(1, round(film.shape[0] * scale)))
    small = cv2.resize(film, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    # Pixel centres lie at whole numbers, so the scale acts around the film's outer corner at -0.5.
    paths = [((line.points + 0.5) * scale - 0.5, DEVICE_COLOURS[DEVICE_OF[line.label]]) for line in lines]
    return draw_lines(cv2.cvtColor(small, cv2.COLOR_GRAY2RGB), paths, max(1.0, size / 256))


def _lay_out(cells: list[Image.Image], columns: int) -> Image.Image:
    width, height = cells[0].size
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP), _PAPER)
    for k, cell in enumerate(cells):
        sheet.paste(cell, (_GAP + k % columns * (width + _GAP), _GAP + k // columns * (height + _GAP)))
    return sheet
