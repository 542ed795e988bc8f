"""Affine transform between a film and the square that networks see: points from film px to square px, and back.

Coordinates are [x, y] in px; pixel centres lie at whole numbers. Quarter turns, cutting, padding and resizing of a film
are one `Affine`, so that a point is carried from the film to the network and back with no other arithmetic.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Affine:
    """Affine map of film px to the px of another picture of it: [x, y] there = `matrix` @ [x, y, 1] of the film.

    `matrix` is ((xx, xy, x0), (yx, yy, y0)); it is invertible.
    """

    matrix: tuple[tuple[float, float, float], tuple[float, float, float]]

    @classmethod
    def of(cls, matrix: np.ndarray) -> "Affine":
        """From an array (2, 3)."""
        x, y = np.asarray(matrix, np.float64).tolist()
        return cls((tuple(x), tuple(y)))

    def from_film(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 2) [x, y] in film px, as px of the other picture; float64."""
        matrix = np.array(self.matrix)
        moved: np.ndarray = np.asarray(points, np.float64).reshape(-1, 2) @ matrix[:, :2].T + matrix[:, 2]
        return moved

    def to_film(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 2) [x, y] in px of the other picture, as film px; float64. The inverse of `from_film`."""
        matrix = np.array(self.matrix)
        shifted = np.asarray(points, np.float64).reshape(-1, 2) - matrix[:, 2]
        moved: np.ndarray = shifted @ np.linalg.inv(matrix[:, :2]).T
        return moved

    def after(self, first: "Affine") -> "Affine":
        """The map that applies `first`, then this one."""
        return Affine.of(np.array(self.matrix) @ np.vstack([first.matrix, (0, 0, 1)]))

    @property
    def scale(self) -> tuple[float, float]:
        """px of the other picture per px of the film, along its (x, y)."""
        x, y = np.linalg.norm(np.array(self.matrix)[:, :2], axis=1)
        return float(x), float(y)

    def at(self, store: int, size: int) -> "Affine":
        """The map once the square of `store` px a side is resized to `size` px."""
        ratio = size / store
        shift = 0.5 * ratio - 0.5
        return Affine(((ratio, 0.0, shift), (0.0, ratio, shift))).after(self)
