"""Preparing a film for the network: frame cut off, assessed, turned upright and bone white, resized to one size.

It is the one way, in training, evaluation and reading. One `Affine` maps points of the original film to it.
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import cv2
import numpy as np

from cxrlines.core.film import Film
from cxrlines.core.notes import Code, Note
from cxrlines.core.quality import Quality
from cxrlines.core.transform import Affine, Size, height_width
from cxrlines.io.contrast import to_uint8

PREPARATION = 6
"""Raised when the same file comes out as other pixels than before (decoding, assessing, resizing): stores are then
built again, and a bundle says by which its models were trained. 1: frames stayed on, nothing was turned. 2: a
border of a TIFF with white at zero could stay white, a PNG's transparent colour was shown, a side view named by code
alone was taken for frontal. 3: several films in one picture, and side views by other words, were taken for one. 4: a
TIFF's predictor was undone where its compression has none, and signed values under an unsigned header were not seen.
5: films of few grays stayed so, dark frames with letters stayed on."""

Aspect = Literal["pad", "stretch"]
LeaveOut = Literal["nothing", "not-films", "doubtful"]
"""What the quality gate keeps out of training; see `why_left_out`."""
DOUBTFUL = (Code.PERHAPS_NO_CHEST_FILM, Code.TURNED, Code.INVERTED, Code.POSE_UNSURE, Code.CROPPED)
"""Notes on films that can be used, and that the gate leaves out as `doubtful`."""

MIN_SIDE = 100
"""px; a line is about 1 mm wide, a third of a px on a smaller film."""
MAX_FRAME_RANGE = 6
"""Gray levels by which a row of a frame of one value may vary, by the noise of a JPEG."""
FRAME_SHARE = 16
"""A film's contrast is at least so many times as much: of one with few grays less is noise."""
MIN_WITHIN = 0.3
"""Share of a side that a film within a frame has at least."""
MIN_LETTERED = 0.03
"""Share of a side that the lines of a dark frame from the first with letters on have at least."""
MIN_FRAME = 0.01
"""Share of a side above which it is said that a frame was cut off."""
MIN_CONTRAST, FEW_GRAYS, LOW_CONTRAST, SPREAD = 16, 48, 100, (0.5, 99.5)
"""Gray levels between the 1st and 99th percentile. Below the first a film is not read, below the second lines are lost.
Below the third it is spread, so that the percentiles at the end become black and white: networks miss devices there,
as they have hardly seen such films (docs/experiments.md, "2026-11-30: films of few grays and other odd inputs")."""
DARK, DRAWN, LETTERS, EDGE = 16, 0.6, 0.1, 0.25
"""A line of a dark frame may hold letters: its median is at most so bright, this share is of that value, and at most
the next share differs from it. Of the film's first line beside it at least the last share does."""
MAX_WIDE = 1.35
"""Most that a film within its frame is wider than high without a doubt. Of the 907 films of docs/model-card.md none is
wider than 1.3 to 1; two films side by side may be."""
MAX_SIDES = 1.6
"""Most that the longer side of a film within its frame is by the shorter one. Of NIH's 112,120 films 3 are wider, and 2
are narrower than 1 to 1.5. Of two films side by side one is read, and of a stretched film states are others."""
LATERAL = ("LL", "RL", "LATERAL")
"""DICOM View Position (0018,5101) of side views."""


def why_left_out(quality: Quality, leave_out: LeaveOut) -> Note | None:
    """Why the quality gate leaves a film out of training; None where it is taken.

    `not-films` leaves out what is not usable (no frontal chest film, a lateral one, one without contrast), `doubtful`
    also what carries a note of `DOUBTFUL`, `nothing` keeps every film that could be read.
    """
    if leave_out == "nothing":
        return None
    if not quality.usable:
        return quality.notes[0]
    doubts = [note for note in quality.notes if note.code in DOUBTFUL]
    return doubts[0] if doubts and leave_out == "doubtful" else None


class Probe(Protocol):
    """A network that assesses films. `identity` is a hash of its weights: other weights may prepare films otherwise."""

    identity: str

    def __call__(self, pixels: np.ndarray) -> Quality:
        """The quality of a film (h, w) uint8 within its frame, by the network alone."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A film as networks see it.

    Attributes:
        pixels: uint8 of that size, upright, bone white.
        placement: Map of px of the original film to those of `pixels`.
        quality: Quality of the film, and what was done to it.
        film_shape: (height, width) px of the original film.
        within: (left, top, right, bottom) px of the original film within its frame; right and bottom are exclusive.
    """

    pixels: np.ndarray
    placement: Affine
    quality: Quality
    film_shape: tuple[int, int]
    within: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Framed:
    """A film within its frame, and its quality by rule.

    Attributes:
        pixels: (h, w) uint8, what a frame leaves of the film; spread where its grays are few.
        within: (left, top, right, bottom) px of the film, right and bottom exclusive.
        quality: By rule alone; a film that is not usable by it no probe is asked about.
        film_shape: (height, width) px of the whole film.
    """

    pixels: np.ndarray
    within: tuple[int, int, int, int]
    quality: Quality
    film_shape: tuple[int, int]

    def assessed(self, probed: Quality | None) -> Quality:
        """The quality by rule and by a probe's answer, if one was asked, with the notes of both."""
        quality = self.quality if probed is None else replace(probed, notes=probed.notes + self.quality.notes)
        if any(left < (1 - MIN_FRAME) * side for left, side in zip(self.pixels.shape, self.film_shape, strict=True)):
            sizes = " of ".join(f"{width} x {height}" for height, width in (self.pixels.shape, self.film_shape))
            text = f"a frame was cut off, which left {sizes} px; points are of the whole film"
            quality = replace(quality, notes=(*quality.notes, Note(Code.FRAME_CUT, text)))
        return quality

    def prepared(self, probed: Quality | None, size: Size, aspect: Aspect) -> Prepared:
        """The film as networks see it, as `prepare` gives it where the probe's answer is `probed`."""
        quality, corner = self.assessed(probed), (self.within[0], self.within[1])
        pixels, placement = shrink(turned_back(self.pixels, quality), size, aspect)
        placement = placement.after(_upright(quality.rotation, self.pixels.shape, corner))
        return Prepared(pixels, placement, quality, self.film_shape, self.within)


def prepare(film: Film, size: Size, aspect: Aspect, probe: Probe | None = None) -> Prepared:
    """A film at the `size` at which networks see it.

    A film that is not usable is prepared all the same: whether it is read is the caller's to decide by its quality.
    """
    framed = cut_frame(film)
    return framed.prepared(_probed(framed, probe), size, aspect)


def assess(film: Film, probe: Probe | None) -> tuple[Quality, tuple[int, int, int, int]]:
    """The quality of a film, by rule and by the probe if given, and where it lies within its frame.

    The latter is (left, top, right, bottom) px, right and bottom exclusive. The film is not changed.
    """
    framed = cut_frame(film)
    return framed.assessed(_probed(framed, probe)), framed.within


def cut_frame(film: Film) -> Framed:
    """A film within its frame, assessed by rule: the first half of `prepare`, for who asks the probe on its own."""
    rows, columns = within_frame(film.pixels)
    inner = film.pixels[rows, columns]
    within = (columns.start, rows.start, columns.stop, rows.stop)
    quality = by_rule(film, inner)
    if any(note.code is Code.LOW_CONTRAST for note in quality.notes):
        low, high = _percentiles(inner, SPREAD)
        inner = np.asarray(cv2.LUT(inner, to_uint8((np.arange(256) - low) / (high - low))))
    return Framed(inner, within, quality, film.pixels.shape)


def _probed(framed: Framed, probe: Probe | None) -> Quality | None:
    return probe(framed.pixels) if probe is not None and framed.quality.usable else None


def by_rule(film: Film, inner: np.ndarray) -> Quality:
    """Quality of a film without a network; `inner` (h, w) uint8 is what its frame leaves of it."""
    height, width = inner.shape
    low, high = _percentiles(inner[:: max(1, height // 512), :: max(1, width // 512)], (1, 99))
    if film.view in LATERAL:
        note = Note(Code.LATERAL, f"not a frontal chest film: by its DICOM header its view is {film.view}")
        return Quality(usable=False, notes=(note,))
    if high - low < MIN_CONTRAST:
        text = f"not a frontal chest film: it is almost all of one gray value ({low:.0f} to {high:.0f} of 0 to 255)"
        return Quality(usable=False, notes=(Note(Code.NO_CONTRAST, text),))
    notes = []
    shown = height * film.pixel_aspect
    if (sides := max(shown, width) / min(shown, width)) > MAX_SIDES:
        what = f"its longer side is {sides:.2f} times the shorter one; films of up to {MAX_SIDES:g} are read"
        way_out = "if it shows several films, give each alone; if it is stretched, give it in its true proportions"
        notes.append(Note(Code.NOT_A_CHEST_FILM, f"not a frontal chest film: {what}; {way_out}"))
    elif width > MAX_WIDE * shown:
        what = f"it is {width / shown:.2f} times as wide as high"
        text = f"perhaps not one chest film: {what}; if it shows several films, give each alone"
        notes.append(Note(Code.PERHAPS_NO_CHEST_FILM, text))
    if min(height, width) < MIN_SIDE:
        text = f"it is {width} x {height} px: below {MIN_SIDE} px a side lines are hardly seen"
        notes.append(Note(Code.SMALL, text))
    if high - low < LOW_CONTRAST:
        lost = "; so few show not all lines: export it with its full contrast" if high - low < FEW_GRAYS else ""
        text = f"its grays span {high - low:.0f} of 256 levels, and were spread before it was read{lost}"
        notes.append(Note(Code.LOW_CONTRAST, text))
    if film.bits == 1:
        notes.append(Note(Code.ONE_BIT, "it has 1 bit a pixel: grays, and with them most lines, are lost"))
    return Quality(usable=sides <= MAX_SIDES, notes=tuple(notes))


def _percentiles(gray: np.ndarray, percents: tuple[float, ...]) -> np.ndarray:
    """`np.percentile` of uint8 pixels (h, w), from their histogram: in a tenth of the time."""
    counts = cv2.calcHist([np.ascontiguousarray(gray)], [0], None, [256], [0, 256])
    up_to = np.cumsum(counts, dtype=np.float64)
    at = np.array(percents) / 100 * (gray.size - 1)
    below, above = (np.searchsorted(up_to, rank, side="right") for rank in (np.floor(at), np.ceil(at)))
    return np.asarray(below + (at - np.floor(at)) * (above - below))


def within_frame(pixels: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a film (h, w) uint8 within a frame: of one gray value, or dark, with letters.

    An export adds the former, a picture of a viewer's window has the latter. All of a side of which less than
    `MIN_WITHIN` would be left, and of one without a frame.
    """
    step = max(1, max(pixels.shape) // 512)
    same = min(MAX_FRAME_RANGE, np.ptp(_percentiles(pixels[::step, ::step], (1, 99))) / FRAME_SHARE)
    rows, columns = slice(0, len(pixels)), slice(0, pixels.shape[1])
    for _ in range(2):  # where columns of letters are cut, rows have none
        rows = _part(rows, _inside(pixels[rows, columns][:, ::step], same))
        columns = _part(columns, _inside(pixels[rows, columns][::step].T, same))
    return rows, columns


def _inside(lines: np.ndarray, same: float) -> slice:
    """Which lines (n, length) uint8 lie within a frame, in which grays differ by `same` at most, but for letters."""
    whole = slice(0, len(lines))
    if not _of_frame(lines[[0, -1]], same)[0].any():  # as of nearly every film
        return whole
    framed, apart = _of_frame(lines, same)
    plain, film = np.flatnonzero(np.ptp(lines, axis=1) > same), np.flatnonzero(~framed)
    if not len(film):
        return whole
    # A frame with letters is wide and ends at once; a film's own dark margin is narrow, or ends slowly.
    first, last, wide = int(plain[0]), int(plain[-1]), MIN_LETTERED * len(lines)
    first = int(film[0]) if film[0] - first >= wide and apart[film[0]] >= EDGE else first
    last = int(film[-1]) if last - film[-1] >= wide and apart[film[-1]] >= EDGE else last
    return slice(first, last + 1) if last + 1 - first >= MIN_WITHIN * len(lines) else whole


def _of_frame(lines: np.ndarray, same: float) -> tuple[np.ndarray, np.ndarray]:
    """Which lines (n, length) uint8 are of a frame: of grays within `same`, or dark but for letters; (n,) bool. And
    which share of each differs from its median, (n,)."""
    middle = np.median(lines, axis=1)
    off = np.abs(lines - middle[:, None])
    apart = (off > same).mean(axis=1)
    # A viewer draws it in one value, which JPEG changes beside letters alone; a film's dark margin has noise.
    lettered = (middle <= DARK) & (apart <= LETTERS) & ((off <= 1).mean(axis=1) >= DRAWN)
    return (np.ptp(lines, axis=1) <= same) | lettered, apart


def _part(whole: slice, part: slice) -> slice:
    return slice(whole.start + part.start, whole.start + part.stop)


def turned_back(pixels: np.ndarray, quality: Quality) -> np.ndarray:
    """A film (h, w) uint8 as it should have been taken: upright, bone white."""
    pixels = np.rot90(pixels, -quality.rotation // 90)
    return np.ascontiguousarray(255 - pixels if quality.inverted else pixels)


def _upright(rotation: int, shape: tuple[int, ...], corner: tuple[int, int]) -> Affine:
    """Map of px of the original to those of its part at `corner` [x, y] of `shape` (h, w), turned back."""
    (height, width), (left, top) = shape, corner
    turned = Affine(((1.0, 0.0, float(-left)), (0.0, 1.0, float(-top))))
    for _ in range(rotation // 90):  # clockwise, as np.rot90 by -1
        turned = Affine(((0.0, -1.0, height - 1.0), (1.0, 0.0, 0.0))).after(turned)
        height, width = width, height
    return turned


def shrink(pixels: np.ndarray, size: Size, aspect: Aspect) -> tuple[np.ndarray, Affine]:
    """A film (h, w) uint8 resized to `size`, and the map of its px to those of the resized film.

    `pad` keeps proportions: the side that is the longer one against `size` fills it, the other is centred between
    black. `stretch` fills both. Shrinking averages areas, so that thin lines fade but never break; enlarging
    interpolates.
    """
    if aspect not in ("pad", "stretch"):
        raise ValueError(f"aspect is {aspect!r}; it is 'pad' or 'stretch'")
    tall, wide = height_width(size)
    if min(tall, wide) < 1:
        raise ValueError(f"size is {size}; it has at least 1 px a side")
    height, width = pixels.shape
    filled, longest = (tall, height) if height * wide >= width * tall else (wide, width)
    fitted = (max(1, round(side * filled / longest)) for side in (height, width))
    new_height, new_width = fitted if aspect == "pad" else (tall, wide)
    # One step where both sides shrink, as nearly always; else first what shrinks, then what grows.
    film = cv2.resize(pixels, (min(width, new_width), min(height, new_height)), interpolation=cv2.INTER_AREA)
    if film.shape != (new_height, new_width):
        film = cv2.resize(film, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    top, left = (tall - new_height) // 2, (wide - new_width) // 2
    placed = np.zeros((tall, wide), np.uint8)
    placed[top : top + new_height, left : left + new_width] = film
    scale_x, scale_y = new_width / width, new_height / height
    return placed, Affine(((scale_x, 0.0, (scale_x - 1) / 2 + left), (0.0, scale_y, (scale_y - 1) / 2 + top)))
