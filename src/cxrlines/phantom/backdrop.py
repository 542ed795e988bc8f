"""Real films as backgrounds: which can be used, and their contrast, sharpness, trachea and border by their pixels."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrlines.core.errors import Error
from cxrlines.core.film import FILM_SUFFIXES, film_name
from cxrlines.core.polyline import Points
from cxrlines.io.marks import NO_MARKS, FilmMarks, backdrop_patient, patients_of
from cxrlines.phantom.canvas import Field
from cxrlines.phantom.vary import Film
from cxrlines.task import Device

NO_CARINA = "carina not marked"
DOUBTFUL = "doubtful line"
_MAD_TO_SD = 1.48  # of values of a normal distribution around 0: their median size times this is their deviation
_DETAIL_SIZE, _DETAIL_BAND = 160, (0.5, 2)  # px of the longer side, of the standard deviations: detail of 0.3 to 1.3 %
_CONTRAST_OF_DETAIL = 9.3  # see `Look.of`: 3.7 or 3.9 in the peak of a line, which a drawn one of 1 has at 0.4
_LEAST_DETAIL = 0.8  # grey levels
_LEAST_WHITE, _WHITE = 200, 99.9  # grey level, percentile

_UP = 10.0  # cm of trachea above the carina
_GRID = 0.25  # cm
_ASIDE = 2.0  # cm that the axis of the trachea may lie beside the carina
_BESIDE = 8  # columns of the grid beyond that, in which the flanks of the band lie
_BAND, _FLANK = 5, 6  # columns: width of the dark band, and from its middle to what is compared with it
_DARKEST = 2.5  # standard deviations of darkness, beyond which more counts no more
_OFF_MIDLINE, _OFF_CARINA, _BEND = 0.25, 8, 1.5  # costs: a cm^2 beside the midline, a cm at the carina, a column

_INSIDE = (1, 12, 90)  # percentiles of the film's middle: its darkest, its dark and its bright parts
_BLACK, _DARKER, _EVEN = 10.0, 0.7, 0.07  # grey level, share of the darkest, share of the range from dark to bright


@dataclass(frozen=True, eq=False)
class Backdrop:
    """A real film to draw into."""

    path: Path
    patient: str  # a hash, the same for all films of a patient
    carina: Points  # (2,) px
    marks: FilmMarks


def find_backdrops(folder: Path, marks: dict[str, FilmMarks]) -> tuple[list[Backdrop], dict[str, int]]:
    """The films of a folder, however deep, that can be drawn into, by name; and how many cannot, by reason.

    A film needs a marked carina, as without one the anatomy cannot be placed. One with a doubtful line of the task has
    no certain ground truth and is left out, as is one on which not all devices were looked for. Patients are named as
    by `patients_of`; without an index each film is its own. `Error` where no film is left, or two have the same name.
    """
    if not folder.is_dir():
        raise Error(f"--onto {folder}: is not a folder", "give the folder of the real films")
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in FILM_SUFFIXES and path.is_file()]
    films = {film_name(path): path for path in paths}
    if len(films) < len(paths):
        twice = Counter(map(film_name, paths)).most_common(1)[0][0]
        raise Error(f"{folder}: two films are called {twice}", "marks name films, so names must differ")
    if not films:
        raise Error(f"--onto {folder}: has no films ({', '.join(FILM_SUFFIXES)})", "give the folder of real films")
    if not marks.keys() & films.keys():
        raise Error(
            f"--onto {folder}: none of its {len(films)} films is in the marks, e.g. not {next(iter(films))!r}",
            f"marks name films without suffix, as {next(iter(marks))!r}",
        )
    patients = patients_of(folder)
    left_out: Counter[str] = Counter()
    usable = []
    for name, path in films.items():
        known = marks.get(name)
        if known is None or known.carina is None or _doubtful(known):
            left_out[NO_MARKS if known is None else NO_CARINA if known.carina is None else DOUBTFUL] += 1
        else:
            usable.append(Backdrop(path, backdrop_patient(patients.get(name, name)), known.carina, known))
    if not usable:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise Error(f"--onto {folder}: no film can be drawn into ({reasons})", "mark the carina on some")
    return usable, dict(left_out)


def _doubtful(marks: FilmMarks) -> bool:
    uncertain = any(line.sure < 2 for line in marks.lines if line.device is not None)
    return uncertain or marks.devices != frozenset(Device)


@dataclass(frozen=True)
class Look:
    """How a film shows things, measured from its pixels."""

    contrast: float  # grey levels that a line of attenuation 1 (255 of a coverage image) stands out
    blur: float  # standard deviation of its point spread, px
    white: float  # the brightest it gets

    @classmethod
    def of(cls, film: Film) -> "Look":
        """Measured on the inner two thirds of a film (h, w).

        Contrast is in proportion to fine detail, between 0.3 and 1.3 % of the width: on 1,329 stretches of tracheal
        tubes and catheters of real films of two sources the peak of a line was 3.7 and 3.9 times its deviation in
        the median (its logarithm scattered by 0.57, no more than with a factor for each source); of the spread between
        the 10th and 90th percentile it was 0.08 and 0.24. A drawn line peaks at about 0.4. The blur is that of the
        film's grain, from second differences over one and two px: their ratio depends on the point spread alone.
        """
        values = _inner(film).astype(np.float32)
        size = [side * _DETAIL_SIZE // max(film.shape) for side in values.shape[::-1]]
        small = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
        fine, coarse = (cv2.GaussianBlur(small, (0, 0), deviation) for deviation in _DETAIL_BAND)
        detail = _MAD_TO_SD * float(np.median(np.abs(fine - coarse)))
        one, two = _differences(values), _differences(values[::2, ::2])
        blur = float(np.interp(one / max(two, 1e-6), _RATIOS, _SPREADS))
        contrast = _CONTRAST_OF_DETAIL * max(detail, _LEAST_DETAIL)
        return cls(float(contrast), blur, float(max(np.percentile(film, _WHITE), _LEAST_WHITE)))


def _inner(film: Film) -> Film:
    height, width = film.shape
    return film[height // 6 : height - height // 6, width // 6 : width - width // 6]


def _differences(values: Field) -> float:
    kernel = np.outer([1, -2, 1], [1, -2, 1]).astype(np.float32)
    found = _MAD_TO_SD * float(np.median(np.abs(cv2.filter2D(values, -1, kernel))))
    return float(np.sqrt(max(found**2 - 36 / 12, 0.01)))  # less what rounding to whole grey levels adds


# Of white noise blurred by s px, neighbours k px apart correlate as exp(-k^2 / 4 s^2).
_SPREADS = np.linspace(0.25, 2.0, 36)[::-1]
_RATIOS = np.array([
    (6 - 8 * np.exp(-1 / (4 * s * s)) + 2 * np.exp(-1 / (s * s)))
    / (6 - 8 * np.exp(-1 / (s * s)) + 2 * np.exp(-4 / (s * s)))
    for s in _SPREADS
])  # fmt: skip


def trachea(film: Film, carina: Points, px_per_cm: float) -> Points:
    """The axis of the trachea, (n, 2) cm around the carina, from 10 cm above down to it.

    The darkest upright band 1.4 cm wide between brighter ones, its course kept smooth and near the midline. `film`
    (h, w); above its upper edge the axis goes straight on.
    """
    count, half = round(_UP / _GRID), round(_ASIDE / _GRID)
    y = -np.arange(count)[::-1] * _GRID
    x = np.arange(-half, half + 1) * _GRID
    wide = np.arange(-half - _BESIDE, half + _BESIDE + 1) * _GRID
    at = np.float32(carina[0] + wide * px_per_cm), np.float32(carina[1] + y * px_per_cm)
    soft = cv2.GaussianBlur(film, (0, 0), max(0.6, 0.12 * px_per_cm))
    maps = np.meshgrid(*at)
    seen = cv2.remap(soft.astype(np.float32), maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    seen = cv2.blur(seen, (1, 9))
    band, flanks = cv2.blur(seen, (_BAND, 1)), (np.roll(seen, _FLANK, 1) + np.roll(seen, -_FLANK, 1)) / 2
    dark = (band - flanks)[:, _BESIDE:-_BESIDE]
    cost = np.clip(dark / max(float(dark.std()), 1e-3), -_DARKEST, _DARKEST) + _OFF_MIDLINE * x**2
    cost[at[1] < 0] = _OFF_MIDLINE * x**2
    cost[-1] = _OFF_CARINA * np.abs(x)
    path = _cheapest(cost, _BEND)
    axis = np.convolve(np.pad(x[path], 6, mode="edge"), np.ones(13) / 13, mode="valid")
    axis -= axis[-1] * np.linspace(0, 1, count) ** 2
    return np.stack([axis, y], 1)


def _cheapest(cost: Field, bend: float) -> NDArray[np.int64]:
    """The column of each row of the cheapest way down, which moves a column a row at most for `bend`."""
    total, came = cost.copy(), np.zeros(cost.shape, np.int64)
    for row in range(1, len(cost)):
        before = np.pad(total[row - 1], 1, constant_values=np.inf)
        choices = np.stack([before[:-2] + bend, before[1:-1], before[2:] + bend])
        came[row] = choices.argmin(0) - 1
        total[row] += choices.min(0)
    path = np.zeros(len(cost), np.int64)
    path[-1] = int(total[-1].argmin())
    for row in range(len(cost) - 1, 0, -1):
        path[row - 1] = path[row] + came[row, path[row]]
    return path


def exposed(film: Film) -> NDArray[np.bool_]:
    """(h, w): False on the border that collimation leaves, and on air beside the patient that runs into it.

    That is: black, or darker than nearly all of the inside and even, and reaching to the edge of the film.
    """
    height, width = film.shape
    size = (max(1, width // 4), max(1, height // 4))
    small = cv2.resize(film, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    darkest, dark, bright = np.percentile(_inner(small), _INSIDE)
    mean = cv2.blur(small, (5, 5))
    uneven = np.sqrt(np.maximum(cv2.blur(small * small, (5, 5)) - mean * mean, 0))
    border = (small < max(_BLACK, _DARKER * darkest)) | ((mean < dark) & (uneven < _EVEN * (bright - dark)))
    _, parts = cv2.connectedComponents(border.astype(np.uint8))
    rim = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    outside = np.isin(parts, rim[rim > 0]).astype(np.uint8)
    return cv2.resize(outside, (width, height), interpolation=cv2.INTER_NEAREST) == 0
