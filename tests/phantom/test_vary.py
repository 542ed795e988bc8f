"""Crops, tones and burned-in text."""

import cv2
import numpy as np
import pytest

from cxrlines.phantom.vary import burn_in, change_tone, draw_crop


@pytest.fixture
def film():
    rng = np.random.default_rng(0)
    coarse = cv2.resize(rng.integers(40, 220, (9, 12), dtype=np.uint8), (240, 200), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse + rng.normal(0, 4, coarse.shape), 0, 255).astype(np.uint8)


def test_crops_keep_what_must_stay_and_vary():
    keep = np.array([[120.0, 80.0], [300.0, 20.0]])
    crops = [draw_crop((400, 600), keep, np.random.default_rng(seed)) for seed in range(300)]
    whole = 0
    for left, top, right, bottom in crops:
        assert 0 <= left < 120 and 0 <= top < 20 and 300 < right <= 600 and 80 < bottom <= 400
        whole += (left, top, right, bottom) == (0, 0, 600, 400)
    assert 0.25 < whole / 300 < 0.6
    assert max(left for left, *_ in crops) > 60  # some are odd ones


def test_a_point_at_the_very_edge_forbids_to_cut_there():
    keep = np.array([[1.0, 399.0]])
    crops = [draw_crop((400, 600), keep, np.random.default_rng(seed)) for seed in range(100)]
    assert {left for left, *_ in crops} == {0} and {bottom for *_, bottom in crops} == {400}


def test_tones_leave_a_film_readable_and_the_input_alone(film):
    before = film.copy()
    for seed in range(60):
        toned = change_tone(film, np.random.default_rng(seed))
        assert toned.dtype == np.uint8 and toned.shape == film.shape
        assert 45 < np.median(toned) < 200
        assert np.corrcoef(toned.ravel(), film.ravel())[0, 1] > 0.6  # darker stays darker
    assert (film == before).all()
    assert (change_tone(film, np.random.default_rng(1)) == change_tone(film, np.random.default_rng(1))).all()


def test_text_is_near_the_edges_on_half_of_the_films(film):
    height, width = film.shape
    centre = np.s_[height // 4 : -height // 4, width // 4 : -width // 4]
    before, changed = film.copy(), 0
    for seed in range(80):
        marked = burn_in(film, np.random.default_rng(seed))
        changed += bool((marked != film).any())
        assert (marked[centre] == film[centre]).all()
    assert 0.3 < changed / 80 < 0.7
    assert (film == before).all()
