"""Drawing the phantom: smooth curves, the view of the patient, and shapes in cm as anti-aliased coverage images.

Curves are float64 (n, 2) arrays of [x, y], y down.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxrlines.core.polyline import Points, lengths

Coverage = NDArray[Any]  # uint8 (height, width), 255 = fully covered; OpenCV's own stubs know no dtype
Field = NDArray[Any]  # float32 (height, width), attenuation in natural-log units
Range = tuple[float, float]  # of a uniform draw
_BITS = 4  # sub-pixel bits of OpenCV's drawing
_PEN_EXCESS = 1.3  # px by which OpenCV's anti-aliased strokes are too wide, see `Raster`
_THINNEST = 0.5  # px, of an exact stroke
_LEAST_BLUR = 0.35  # px: a smaller standard deviation leaves a picture as it is


@dataclass(frozen=True)
class Pens:
    """How strokes of one kind look: the range of their width in cm, and of their ink, 0 to 255."""

    width: Range
    ink: Range

    def draw(self, rng: np.random.Generator) -> tuple[float, float]:
        """A width and an ink, in this order."""
        return rng.uniform(*self.width), rng.uniform(*self.ink)


def smooth(points: ArrayLike, *, closed: bool = False, samples: int = 6) -> Points:
    """The quadratic B-spline of control points: `samples` points a control point.

    An open curve starts at the first control point and ends at the last.
    """
    control = np.asarray(points, np.float64)
    before, after = (control[-1:], control[:1]) if closed else (control[:1], control[-1:])
    control = np.vstack([before, control, after])
    t = np.linspace(0, 1, samples, endpoint=False)[:, None]
    basis = 0.5 * np.hstack([(1 - t) ** 2, -2 * t**2 + 2 * t + 1, t**2])
    triples = np.stack([control[:-2], control[1:-1], control[2:]], 1)
    curve = (basis @ triples).reshape(-1, 2)
    return curve if closed else np.vstack([curve, control[-1:]])


def cut(points: Points, length: float) -> Points:
    """The first `length` of a polyline; all of it if it is shorter."""
    along = lengths(points)
    length = float(np.clip(length, 0, along[-1]))
    end = [np.interp(length, along, points[:, 0]), np.interp(length, along, points[:, 1])]
    return np.vstack([points[along < length], [end]])


def offset(points: Points, distance: float) -> Points:
    """The polyline moved sideways by `distance` (to the right of its direction, as seen with y down)."""
    tangent = np.gradient(points, axis=0)
    tangent /= np.maximum(np.hypot(tangent[:, 0], tangent[:, 1])[:, None], 1e-9)
    return points + distance * np.stack([-tangent[:, 1], tangent[:, 0]], 1)


def blob(rng: np.random.Generator, centre: ArrayLike, radii: ArrayLike, rough: float) -> Points:
    """A closed irregular oval around `centre` with half-axes `radii`; `rough` is the relative unevenness."""
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1) * rng.normal(1, rough, (12, 1))
    return smooth(np.asarray(centre) + ring * np.asarray(radii), closed=True, samples=4)


@dataclass(frozen=True, eq=False)
class View:
    """How the patient projects onto the film: true cm around the carina to px, pixel centres at integers."""

    shape: tuple[int, int]  # height, width px
    px_per_cm: float
    angle: float  # radians, positive turns the patient clockwise on the film
    origin: Points  # (2,) the carina, px

    @property
    def matrix(self) -> Points:
        """(2, 2): px = cm @ matrix + origin."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return self.px_per_cm * np.array([[c, s], [-s, c]])

    @property
    def mm_per_px(self) -> float:
        """Spacing on the patient."""
        return 10 / self.px_per_cm

    def px(self, cm: ArrayLike) -> Points:
        """Points in true cm, (n, 2) or (2,), to px."""
        return np.asarray(cm, np.float64) @ self.matrix + self.origin


class Raster:
    """A grid over the film, `factor` times as many px a side; draws points given in cm * `scale`.

    OpenCV's anti-aliased strokes are 1.3 px too wide (measured at 0.06 to 1 cm on grids of 26 to 52 px per cm): phantom
    films are drawn like that, `exact` ones as wide as asked for.
    """

    def __init__(self, view: View, factor: float, scale: ArrayLike = (1.0, 1.0), *, exact: bool = False) -> None:
        height, width = view.shape
        self.shape = (max(1, round(height * factor)), max(1, round(width * factor)))
        self.px_per_cm = view.px_per_cm * factor
        self.exact = exact
        self._matrix = np.asarray(scale, np.float64)[:, None] * view.matrix * factor
        self._origin = (view.origin + 0.5) * factor - 0.5

    def px(self, cm: ArrayLike) -> Points:
        """Points in px of this grid, pixel centres at integers."""
        return np.asarray(cm, np.float64) @ self._matrix + self._origin

    def blank(self) -> Coverage:
        """Nothing covered yet."""
        return np.zeros(self.shape, np.uint8)

    def fill(self, outline: Points, *, blur: float = 0.0, on: Coverage | None = None, value: int = 255) -> Coverage:
        """The inside of a closed outline; `blur` in cm; drawn onto `on` where given (in place)."""
        image = self.blank() if on is None else on
        cv2.fillPoly(image, [self._fixed(outline)], value, cv2.LINE_AA, _BITS)
        return self.blur(image, blur) if blur else image

    def stroke(
        self, image: Coverage, paths: Iterable[Points], width: float, value: float, closed: bool = False
    ) -> Coverage:
        """Paths of a `width` in cm, (k, n, 2) or a list of (n, 2), drawn into `image`, which is returned.

        One thinner than a pixel is drawn a pixel wide and fainter.
        """
        if self.exact:
            width = max(width - _PEN_EXCESS / self.px_per_cm, _THINNEST / self.px_per_cm)
        px = width * self.px_per_cm
        pen = max(1, round(px))
        ink = int(min(255, value * min(_PEN_EXCESS, px / pen)))
        fixed = list(self._fixed(paths)) if isinstance(paths, np.ndarray) else [self._fixed(path) for path in paths]
        cv2.polylines(image, fixed, closed, ink, pen, cv2.LINE_AA, _BITS)
        return image

    def disc(self, image: Coverage, centre: ArrayLike, radius: float, value: float, pen: float = 0.0) -> None:
        """A disc of `radius` cm, or with a `pen` in cm a ring, drawn into `image`."""
        x, y = self._fixed(np.asarray(centre)[None])[0].tolist()
        thickness = max(1, round(pen * self.px_per_cm)) if pen else -1
        reach = max(1, int(radius * self.px_per_cm * (1 << _BITS)))
        cv2.circle(image, (x, y), reach, int(value), thickness, cv2.LINE_AA, _BITS)

    def blur(self, image: Field, cm: float) -> Field:
        """Gaussian blur of standard deviation `cm`, at least 0.35 px."""
        return cv2.GaussianBlur(image, (0, 0), max(_LEAST_BLUR, cm * self.px_per_cm))

    def dome(self, inside: Coverage, depth: float) -> Field:
        """Thickness of a rounded body over its outline, 0 to 1: a quarter circle rising over `depth` cm."""
        away = cv2.distanceTransform((inside > 127).view(np.uint8), cv2.DIST_L2, 3)
        rise = np.minimum(away * (1 / (depth * self.px_per_cm)), 1.0)
        return np.sqrt(rise * (2 - rise))

    def clouds(self, rng: np.random.Generator, coarse: int, octaves: int = 1) -> Field:
        """Smooth random field, mean 0: `coarse` cells over the longer side, then octaves of half the amplitude."""
        field = np.zeros(self.shape, np.float32)
        for octave in range(octaves):
            cells = coarse << octave
            grid = rng.standard_normal((max(3, cells * self.shape[0] // max(self.shape)), max(3, cells)), np.float32)
            size = self.shape[::-1]
            field += cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC) * np.float32(0.5**octave)
        return field

    def _fixed(self, cm: Points) -> NDArray[np.int32]:
        return np.clip(np.round(self.px(cm) * (1 << _BITS)), -(1 << 24), 1 << 24).astype(np.int32)


def attenuation(coverage: Coverage, full: float) -> Field:
    """A coverage image, 0 to 255, as attenuation: `full` where it is fully covered."""
    return coverage.astype(np.float32) * np.float32(full / 255)


def enlarge(field: Field, shape: tuple[int, int]) -> Field:
    """A field on a finer grid, (height, width)."""
    return cv2.resize(field, shape[::-1], interpolation=cv2.INTER_LINEAR)
