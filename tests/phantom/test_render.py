"""Rendering: what is drawn shows, where it should, and as strongly as the difficulty says."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from cxrlines.phantom.render import render
from cxrlines.phantom.scene import make_scene


@pytest.fixture(autouse=True)
def _one_thread():
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


def film(scene, difficulty=0.5, site="a", seed=0):
    return render(scene, difficulty=difficulty, site=site, rng=np.random.default_rng(seed))


def scene_of(k, size=256, balance="even", site="a"):
    return make_scene([4, k], [4, k, 0], size=size, balance=balance, site=site)


def test_a_film_is_grey_of_the_viewed_shape_and_deterministic():
    for site in "ab":
        scene = scene_of(1, site=site)
        first = film(scene, site=site)
        assert first.dtype == np.uint8
        assert first.shape == scene.view.shape
        assert max(first.shape) == 256
        assert (first == film(scene, site=site)).all()
        assert first.std() > 10
        assert (film(scene, site=site, seed=1) != first).any()


def line_contrast(difficulty, count=10):
    """How much brighter films are along their lines than the same films without, mean grey levels at 192 px."""
    values = []
    for k in range(count):
        scene = scene_of(k, size=192)
        bare = film(replace(scene, lines=()), difficulty).astype(float)
        difference = film(scene, difficulty) - bare
        mask = np.zeros(bare.shape, np.uint8)
        for line in scene.lines:
            cv2.polylines(mask, [np.round(line.path).astype(np.int32)], False, 1, 1)
        values.append((difference[mask > 0] - np.median(difference)).mean())
        # Far from every line the two are one film, but for the exposure, which sees the lines.
        away = cv2.dilate(mask, np.ones((31, 31), np.uint8)) == 0
        assert np.abs(difference[away]).mean() < 8
    return float(np.mean(values))


def test_lines_stand_out_less_as_difficulty_rises():
    easy, real, hard = (line_contrast(d) for d in (0.0, 0.5, 1.0))
    assert easy > 1.8 * real
    assert real > 1.4 * hard
    assert easy > 30  # grey levels: seen at a glance
    assert hard > 1  # and never nothing


def test_site_b_is_inverted_now_and_then_and_site_a_never():
    def dark_lungs(site, k):
        scene = scene_of(k, size=96, site=site)
        picture = film(scene, site=site, seed=k).astype(float)
        x, y = np.round(scene.view.px(np.array([[-7.0, 1.0]]))[0]).astype(int)
        belly = picture[-14:-4, 40:56].mean()
        return picture[y - 3 : y + 4, x - 3 : x + 4].mean() < belly

    assert np.mean([dark_lungs("a", k) for k in range(40)]) > 0.85
    assert 0.02 < 1 - np.mean([dark_lungs("b", k) for k in range(60)]) < 0.35
