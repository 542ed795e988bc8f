"""What tests of training share: films in memory, and stages that are killed and resumed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, equal

from cxrlines.core.transform import Affine
from cxrlines.training.checkpoint import State, load_state, save_state
from cxrlines.training.module import StageModule


class MemoryStore:
    """A store as the loader uses it, of films in memory: uint8 (n, h, w), each of which lies where it lay before."""

    def __init__(self, films: np.ndarray) -> None:
        self.films = films
        self.placements = [Affine(((1, 0, 0), (0, 1, 0)))] * len(films)


def noise_store(count: int, side: int = 40) -> MemoryStore:
    """`count` films of noise, the same ones at every call."""
    return MemoryStore(np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8))


class Killed(Exception):
    """Stands for a kill."""


def killed_and_resumed(path: Path, stage: Callable[..., StageModule], is_last: Callable[[State], bool]) -> StageModule:
    """A stage that was killed right after the first state that `is_last`, made anew and resumed from that state.

    `stage` makes it, with the options of `StageModule` that it is called with; states are kept in `path` whenever that
    is possible.
    """

    def keep(state: State) -> None:
        save_state(path, "id", state)
        if is_last(state):
            raise Killed

    with pytest.raises(Killed):
        stage(keep=keep, keep_every_s=0).fit()
    return stage().resume(load_state(path, "id"))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two models have the same tensors bit for bit."""
    return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
