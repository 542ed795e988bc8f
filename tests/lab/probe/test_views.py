"""Films as other places show them: the seed fixes the view, the film stays, white stays bone."""

import numpy as np
import pytest

from cxrlines.core.quality import POSES, Quality
from cxrlines.io.prepare import turned_back
from cxrlines.lab.probe.views import posed, random_grays, random_view, windowed
from cxrlines.models.orientation import SIZE


def _film(seed: int = 0) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(-1, 1, 160), np.linspace(-1, 1, 160))
    noise = np.random.default_rng(seed).normal(0, 4, x.shape)
    return np.clip(170 - 110 * (((abs(x) - 0.45) / 0.3) ** 2 + (y / 0.6) ** 2 < 1) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("cut", [False, True])
def test_a_view_is_fixed_by_its_seed_and_leaves_the_film(cut: bool) -> None:
    film = _film()
    for seed in range(20):
        first, same = (random_view(film, np.random.default_rng(seed), cut=cut) for _ in range(2))
        assert first.shape == (SIZE, SIZE) and first.dtype == np.uint8
        np.testing.assert_array_equal(first, same)
    np.testing.assert_array_equal(film, _film())


def test_tones_never_invert_a_film() -> None:
    film = _film()
    for seed in range(60):
        changed = random_grays(film, np.random.default_rng(seed))
        assert np.corrcoef(film.ravel(), changed.ravel())[0, 1] > 0.3


def test_a_window_is_the_line_between_its_ends() -> None:
    grays = np.arange(256, dtype=np.uint8).reshape(16, 16)
    shown = windowed(grays, (50, 150), (20, 220)).ravel()
    assert (shown[:51] == 20).all() and (shown[150:] == 220).all() and shown[100] == 120


@pytest.mark.parametrize("pose", range(len(POSES)))
def test_a_posed_film_turned_back_is_the_film(pose: int) -> None:
    rotation, inverted = POSES[pose]
    np.testing.assert_array_equal(
        turned_back(posed(_film(), pose), Quality(rotation=rotation, inverted=inverted)), _film()
    )
