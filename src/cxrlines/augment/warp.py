"""All geometry of an augmentation as ONE resampling, alike for a film and its points.

Every transform is written as a *pull*: where in its input does a position of its output come from? Pulls compose by
plain function application, so crop, flip, rotation and any distortions become one map from the augmented film
(of `size`, the *canvas*) to the original film: a line one pixel wide is interpolated once, not seven times. An
affine map is left to `cv2.warpAffine`; one with distortions is evaluated at nodes `SPACING` px apart, interpolated in
between, and left to `cv2.remap`.

Positions are `[x, y]` in px, y down, pixel centres at whole numbers; a film `w` px wide spans x in [-0.5, w - 0.5].
A pull given as a matrix is (3, 3), acting on `[x, y, 1]`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np

from cxrlines.core.transform import Size, height_width

Pull = Callable[[np.ndarray], np.ndarray]
"""Canvas positions (..., 2) float64 -> canvas positions (..., 2) they are taken from."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in px from the upper left corner of a film."""

SPACING = 8
"""px between the nodes of a map. A kink (of a grid or a piecewise affine map) is rounded off over this distance."""

SEARCHED = 4
"""Of the nodes, each way, every how many a point's place is first looked for at."""

DENSEST = 1.25
"""Film px per sample up to which bilinear samples still meet every film px at a fair weight."""

RIM = 1
"""px by which a film's border is repeated, so that the outer half of its border pixels does not fade to black."""

_NO_SECOND_MAP = np.empty(0, np.float32)  # x and y are interleaved in the first


# Pulls as matrices


def crop(box: Box, size: Size) -> np.ndarray:
    """Pull (3, 3) that lets the canvas span `box` of the film."""
    left, top, right, bottom = box
    height, width = height_width(size)
    across, down = (right - left) / width, (bottom - top) / height
    return np.array([[across, 0, left + (across - 1) / 2], [0, down, top + (down - 1) / 2], [0, 0, 1]])


def mirror(size: Size) -> np.ndarray:
    """Pull (3, 3) that swaps left and right of the canvas; its own inverse."""
    return np.array([[-1.0, 0, height_width(size)[1] - 1], [0, 1, 0], [0, 0, 1]])


def shift_scale_rotate(size: Size, shift: tuple[float, float], scale: float, degrees: float) -> np.ndarray:
    """Pull (3, 3) of a rotation (counter-clockwise), a scale about the centre, then a shift.

    Args:
        size: of the canvas.
        shift: x and y as shares of width and height, positive to the right and down.
        scale: above 1 enlarges.
        degrees: angle of the rotation.
    """
    height, width = height_width(size)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    cos, sin = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
    x, y = middle_x + shift[0] * width, middle_y + shift[1] * height
    return np.array([[cos, -sin, middle_x - cos * x + sin * y], [sin, cos, middle_y - sin * x - cos * y], [0, 0, 1]])


def three_point(size: Size, jitter: np.ndarray) -> np.ndarray:
    """Pull (3, 3) that moves three points a third of its shorter side from the centre by `jitter`, (3, 2) in px."""
    height, width = height_width(size)
    arm = min(height, width) / 3
    start = np.array([width / 2, height / 2]) + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    push = cv2.getAffineTransform(start.astype(np.float32), (start + jitter).astype(np.float32))
    return np.linalg.inv(np.vstack([push, [0, 0, 1]]))


# Pulls as functions of canvas positions


def optical(size: Size, k: float) -> Pull:
    """Lens distortion r -> r (1 + k r^2 + k r^4), r in canvas sides from the centre (OpenCV's k1 = k2 = k).

    k > 0 pulls the film in (barrel), k < 0 spreads it; below -0.36 the corners of the canvas would fold over.
    """
    height, width = height_width(size)

    def pull(at: np.ndarray) -> np.ndarray:
        x, y = at[..., 0] - (width - 1) / 2, at[..., 1] - (height - 1) / 2
        square = (x / width) ** 2 + (y / height) ** 2
        grown = k * square * (1 + square)
        return np.stack([at[..., 0] + x * grown, at[..., 1] + y * grown], axis=-1)

    return pull


def grid(size: Size, steps_x: np.ndarray, steps_y: np.ndarray) -> Pull:
    """Columns and rows of equal width on the canvas, taken from columns and rows of widths `steps_x`, `steps_y`.

    Args:
        size: of the canvas.
        steps_x: (n,) positive relative widths of the columns the film is cut into; they are scaled to fill it.
        steps_y: (n,) likewise the heights of the rows.
    """

    def edges(steps: np.ndarray, side: float) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum(steps / steps.sum())]) * side - 0.5

    height, width = height_width(size)
    even = np.linspace(0, width, len(steps_x) + 1) - 0.5, np.linspace(0, height, len(steps_y) + 1) - 0.5
    taken = edges(steps_x, width), edges(steps_y, height)

    def pull(at: np.ndarray) -> np.ndarray:
        return np.stack([at[..., i] + np.interp(at[..., i], even[i], taken[i] - even[i]) for i in (0, 1)], axis=-1)

    return pull


def elastic(size: Size, alpha: float, sigma: float, rng: np.random.Generator) -> Pull:
    """Smooth random displacement: uniform noise in [-1, 1] a px, blurred with a Gaussian of `sigma` px, times `alpha`.

    The noise is drawn at the nodes only; its height is set so that the displacement has the variance and the
    correlation length that noise at every pixel would give (`sigma` must be at least `SPACING` for that).
    """
    noise = rng.uniform(-1, 1, (*_node_shape(size), 2)).astype(np.float32)
    # Blurring white noise leaves a standard deviation in proportion to node spacing / sigma.
    field = cv2.GaussianBlur(noise, (0, 0), sigma / SPACING, borderType=cv2.BORDER_REFLECT) * (alpha / SPACING)

    def pull(at: np.ndarray) -> np.ndarray:
        place = ((at + 0.5) / SPACING + 0.5).astype(np.float32).reshape(len(at), -1, 2)
        moved = cv2.remap(field, place, _NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return at + moved.reshape(at.shape)

    return pull


def piecewise_affine(size: Size, jitter: np.ndarray) -> Pull:
    """Triangles between the points of a regular mesh; canvas point (i, j) is taken from itself moved by `jitter`.

    Args:
        size: of the canvas; the mesh spans the pixel centres of its corners.
        jitter: (rows, columns, 2) displacement [x, y] in px. Moved points are kept inside the canvas.
    """
    rows, columns = jitter.shape[:2]
    far_corner = _sides(size) - 1
    along = [np.linspace(0, far, count) for far, count in zip(far_corner, (columns, rows), strict=True)]
    mesh = np.stack(np.meshgrid(*along), axis=-1)
    moved = np.clip(mesh + jitter, 0, far_corner) - mesh

    # What a triangle adds, as a plane over its cell (triangle, row, column, [at the origin, by u, by v], [x, y]).
    origin, right, down, far = moved[:-1, :-1], moved[:-1, 1:], moved[1:, :-1], moved[1:, 1:]
    below = np.stack([origin, far - down, down - origin], axis=2)
    above = np.stack([origin, right - origin, far - right], axis=2)  # right of the diagonal
    planes = np.stack([below, above]).reshape(-1, 6)

    def pull(at: np.ndarray) -> np.ndarray:
        u = at[..., 0].clip(0, far_corner[0]) * ((columns - 1) / far_corner[0])
        v = at[..., 1].clip(0, far_corner[1]) * ((rows - 1) / far_corner[1])
        x, y = np.minimum(u.astype(int), columns - 2), np.minimum(v.astype(int), rows - 2)
        u, v = u - x, v - y
        plane = planes.T.take(((u >= v) * (rows - 1) + y) * (columns - 1) + x, axis=1)
        return np.stack([at[..., i] + plane[i] + u * plane[2 + i] + v * plane[4 + i] for i in (0, 1)], axis=-1)

    return pull


# The composed map


def _sides(size: Size) -> np.ndarray:
    """[width, height] of a canvas, as positions have them."""
    return np.array(height_width(size)[::-1])


def _node_shape(size: Size) -> tuple[int, int]:
    rows, columns = (-(-side // SPACING) + 2 for side in height_width(size))  # one beyond the canvas on either side
    return rows, columns


@lru_cache
def _node_positions(size: Size) -> np.ndarray:
    y, x = ((np.arange(count) - 0.5) * SPACING - 0.5 for count in _node_shape(size))
    positions = np.stack(np.meshgrid(x, y), axis=-1)
    positions.flags.writeable = False
    return positions


def _interpolate(nodes: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bilinear values (2, n) of `nodes` (2, rows, columns) at canvas positions (2, n), and their slopes.

    The slopes, (2, n) each, are what a value gains by a px to the right and down. Beyond the nodes the last cell goes
    on.
    """
    _, rows, columns = nodes.shape
    place = at * (1 / SPACING) + (0.5 / SPACING + 0.5)
    x, y = np.minimum(np.maximum(place, 0), [[columns - 2], [rows - 2]]).astype(int)
    (u, v), corner, flat = place - (x, y), y * columns + x, nodes.reshape(2, -1)
    a, b, c, d = (flat.take(corner + step, axis=1) for step in (0, 1, columns, columns + 1))
    above, below, left, right = b - a, d - c, c - a, d - b
    down = left + (right - left) * u
    return a + above * u + down * v, (above + (below - above) * v) / SPACING, down / SPACING


def _rimmed(film: np.ndarray) -> np.ndarray:
    return cv2.copyMakeBorder(film, RIM, RIM, RIM, RIM, cv2.BORDER_REPLICATE)


@dataclass(frozen=True)
class Warp:
    """A map from a canvas to a film: distortions of the canvas first, then one affine pull.

    Attributes:
        size: of the canvas.
        matrix: (3, 3) affine pull, canvas -> film.
        distortions: pulls on the canvas, the one nearest the output first.
    """

    size: Size
    matrix: np.ndarray
    distortions: tuple[Pull, ...] = ()

    @cached_property
    def _nodes(self) -> np.ndarray:
        """(rows, columns, 2): where the canvas is taken from at each node, before the affine pull."""
        nodes = _node_positions(self.size)
        for pull in self.distortions:
            nodes = pull(nodes)
        return nodes

    @cached_property
    def _film_nodes(self) -> np.ndarray:
        """(rows, columns, 2) float64: film position of each node."""
        return cv2.transform(self._nodes, self.matrix[:2])

    @cached_property
    def _stretch(self) -> float:
        """Film px per canvas px along the axis that has more, at nearly all places."""
        if not self.distortions:
            (xx, xy), (yx, yy) = self.matrix[:2, :2].tolist()
            return max(math.hypot(xx, yx), math.hypot(xy, yy))
        x, y = np.moveaxis(self._film_nodes, -1, 0)
        squares = [np.diff(x[::2], axis=1) ** 2 + np.diff(y[::2], axis=1) ** 2]  # every other row and column will do
        squares.append(np.diff(x[:, ::2], axis=0) ** 2 + np.diff(y[:, ::2], axis=0) ** 2)
        most = [int(0.95 * each.size) for each in squares]  # of a film that is not square there are more of one
        found = (np.partition(each, place, axis=None)[place] for each, place in zip(squares, most, strict=True))
        return float(max(found)) ** 0.5 / SPACING

    @property
    def _density(self) -> int:
        """Samples a canvas px needs along each axis so that no film px between them is passed over."""
        return max(1, math.ceil(self._stretch / DENSEST - 1e-6))

    def resample(self, film: np.ndarray) -> np.ndarray:
        """The film (h, w) uint8 as seen through the map: uint8 of `size`, a new array.

        Bilinear; where the film shrinks, the mean of several samples a px, so that thin lines are kept in
        proportion. Black beyond the film.
        """
        if self.distortions:
            return self._bent(_rimmed(film))
        if self._density == 1 and (box := self._box(film.shape[1], film.shape[0])):
            left, top, right, bottom = box
            out = cv2.resize(film[top:bottom, left:right], height_width(self.size)[::-1])
            return cv2.flip(out, 1) if self.matrix[0, 0] < 0 else out
        return self._affine(_rimmed(film))

    def _box(self, width: int, height: int) -> tuple[int, int, int, int] | None:
        """Of a film of `width` x `height` px the box (left, top, right, bottom) that spans the canvas, flipped or not.

        None where that is none: turned, with edges across pixels, or beyond the film.
        """
        (xx, xy, x), (yx, yy, y), _ = self.matrix.tolist()
        high, wide = height_width(self.size)
        left, top = x - (xx - 1) / 2, y - (yy - 1) / 2
        edges = min(left, left + xx * wide), top, max(left, left + xx * wide), top + yy * high
        left, top, right, bottom = whole = [round(edge) for edge in edges]
        if xy or yx or max(abs(edge - near) for edge, near in zip(edges, whole, strict=True)) > 1e-6:
            return None
        return (left, top, right, bottom) if 0 <= left < right <= width and 0 <= top < bottom <= height else None

    def _affine(self, rimmed: np.ndarray) -> np.ndarray:
        """Without distortions: `_density` samples a px along each axis."""
        density = self._density
        matrix = self.matrix[:2] / [density, density, 1]
        matrix[:, 2] += RIM - (1 - 1 / density) / 2 * self.matrix[:2, :2].sum(axis=1)
        height, width = height_width(self.size)
        sides, how = (width * density, height * density), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        out = cv2.warpAffine(rimmed, matrix, sides, flags=how, borderMode=cv2.BORDER_CONSTANT)
        return out if density == 1 else cv2.resize(out, (width, height), interpolation=cv2.INTER_AREA)

    def _bent(self, rimmed: np.ndarray) -> np.ndarray:
        """With distortions: at each place in a px one remapping, and their mean."""
        nodes = (self._film_nodes + RIM).astype(np.float32)
        slopes = np.gradient(nodes, SPACING, axis=(1, 0))
        seen = [self._remap(rimmed, nodes + x * slopes[0] + y * slopes[1]) for x, y in self._places()]
        if len(seen) == 1:
            return seen[0]
        total = np.zeros(seen[0].shape, np.float32)
        for each in seen:
            cv2.accumulate(each, total)
        return cv2.convertScaleAbs(total, alpha=1 / len(seen))

    def _places(self) -> list[tuple[float, float]]:
        """Where in a px it is sampled, [x, y] px from its centre: a lattice close enough for the stretch.

        Two samples on the diagonal of each px are together a square lattice, 1 / sqrt(2) px apart.
        """
        if 1 < self._stretch / DENSEST <= math.sqrt(2):
            return [(-0.25, -0.25), (0.25, 0.25)]
        along = (np.arange(self._density) + 0.5) / self._density - 0.5
        return [(x, y) for y in along.tolist() for x in along.tolist()]

    def _remap(self, rimmed: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """The film in its rim through the map that takes the values `nodes`, float32 px of it, at the nodes."""
        (rows, columns), (height, width) = nodes.shape[:2], height_width(self.size)
        dense = cv2.resize(nodes, (columns * SPACING, rows * SPACING), interpolation=cv2.INTER_LINEAR)
        dense = dense[SPACING : SPACING + height, SPACING : SPACING + width]
        return cv2.remap(rimmed, dense, _NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)

    def move(self, points: np.ndarray) -> np.ndarray:
        """Where points (n, 2) of the film lie on the canvas, (n, 2) float64; points off the canvas as well.

        The inverse of the very map that `resample` uses, to about 0.01 px. Points off the canvas of a distorted
        film are only roughly placed, yet off the canvas.
        """
        points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        back = np.linalg.inv(self.matrix)
        target = points @ back[:2, :2].T + back[:2, 2]
        if not self.distortions or not len(points):
            return target
        return _invert(self._nodes, target, _node_positions(self.size))


def _invert(nodes: np.ndarray, target: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Canvas positions (n, 2) where the interpolated `nodes` take the values `target` (n, 2).

    Levenberg-Marquardt from the best of some nodes, a step at a time for all points together: it also ends, near the
    right place, where the map is almost flat. Where the map folds over, it is one of the places.
    """
    flat, start = (each[::SEARCHED, ::SEARCHED].reshape(-1, 2) for each in (nodes, positions))
    miss = (flat**2).sum(-1) - 2 * target @ flat.T  # squared distance, less a constant per target
    at = start[miss.argmin(axis=1)].T.copy()
    nodes, target = np.ascontiguousarray(np.moveaxis(nodes, -1, 0)), target.T
    value, right, down = _interpolate(nodes, at)
    off = target - value
    error = (off**2).sum(axis=0)
    damping = np.full(len(error), 1e-3)
    for _ in range(40):
        far = error >= 1e-4
        if not far.any():
            break
        xx, xy, yy = (right**2).sum(axis=0) + damping, (right * down).sum(axis=0), (down**2).sum(axis=0) + damping
        x, y = (right * off).sum(axis=0), (down * off).sum(axis=0)
        tried = at + np.stack([yy * x - xy * y, xx * y - xy * x]) / (xx * yy - xy * xy)
        value, tried_right, tried_down = _interpolate(nodes, tried)
        tried_off = target - value
        tried_error = (tried_off**2).sum(axis=0)
        better = (tried_error < error) & far  # a point that is there stays, whatever the others need
        at, right, down = np.where(better, [tried, tried_right, tried_down], [at, right, down])
        off, error = np.where(better, tried_off, off), np.where(better, tried_error, error)
        damping = np.where(better, damping / 5, damping * 5).clip(1e-9, 1e6)
    return at.T
