"""What runs the networks of a bundle: two small interfaces, so that reading itself needs no PyTorch."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from cxrlines.core.transform import Size

FilmViews = dict[Size, np.ndarray]
"""A film as models see it: its size -> uint8 (views, h, w), the plain view first."""


class Engine(Protocol):
    """The networks of a bundle, ready to compute. Threads may share one.

    Attributes:
        map_size: of the film whose heatmaps are given; None where no model gives any.
        at_once: how many films it computes beside each other; None: all that it is given, in one pass.
    """

    map_size: Size | None
    at_once: int | None

    def __call__(self, films: Sequence[FilmViews], *, maps: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities of the bundle's labels, float64 (b, labels), and where wanted and given its heatmaps.

        Those are float32 (b, maps, h, w) in [0, 1] of the plain view, (h, w) that of `map_size` / `heatmaps.STRIDE`.
        Films must have the same number of views. What one film gives does not depend on the others.
        """

    def embed(self, films: Sequence[FilmViews]) -> np.ndarray:
        """The first model's last feature map of the plain views, mean over places, at length 1: float32 (b, c)."""


class Network(Protocol):
    """One model of a bundle, ready to compute films uint8 (b, 1, h, w).

    Attributes:
        labels: of its logits, in order.
        map_names: of its heatmaps, in order; empty where it gives none.
    """

    labels: tuple[str, ...]
    map_names: tuple[str, ...]

    def start(self, films: np.ndarray, *, maps: bool = False) -> Callable[[], tuple[np.ndarray, np.ndarray | None]]:
        """Begin to compute films; the function that is returned waits for what they give.

        Logits float32 (b, labels), and where wanted and given heatmaps float32 (b, maps, h/2, w/2) in [0, 1].
        """

    def embed(self, films: np.ndarray) -> np.ndarray:
        """The last feature map, mean over places, at length 1: float32 (b, c)."""
