"""Affine transform between a film and the picture of it that networks see, and the size of such a picture.

Coordinates are [x, y] in px; pixel centres lie at whole numbers. Quarter turns, cutting, padding and resizing of a film
are one `Affine`, so that a point is carried from the film to the network and back with no other arithmetic.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import CoreSchema, core_schema

Size = int | tuple[int, int]
"""Of a film as networks see it: px a side where it is square, else (height, width) px."""


def height_width(size: Size) -> tuple[int, int]:
    """(height, width) px of any size."""
    return (size, size) if isinstance(size, int) else size


def size_text(size: Size) -> str:
    """A size in words, height first: `640 px`, `640 x 512 px`."""
    return f"{size} px" if isinstance(size, int) else f"{size[0]} x {size[1]} px"


@dataclass(frozen=True)
class Sides:
    """A `Size` in recipes and manifests, `Annotated[Size, Sides(32, 4096)]`: px a side, or [height, width].

    Each is from `low` to `high`. Where both are the same, the value is that of a square.
    """

    low: int
    high: int

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            self._checked,
            core_schema.int_schema(ge=self.low, le=self.high),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda size: size),
        )

    @staticmethod
    def _checked(given: Any, side: Callable[[Any], int]) -> Size:
        if not isinstance(given, list | tuple):
            return side(given)
        if len(given) != 2:
            raise ValueError("a size is px a side, or [height, width]")
        height, width = side(given[0]), side(given[1])
        return height if height == width else (height, width)


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

    def at(self, store: Size, size: Size) -> "Affine":
        """The map once the other picture, of the size `store`, is resized to `size`."""
        y, x = (new / old for new, old in zip(height_width(size), height_width(store), strict=True))
        return Affine(((x, 0.0, 0.5 * x - 0.5), (0.0, y, 0.5 * y - 0.5))).after(self)
