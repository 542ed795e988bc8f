"""Views of a film: what each shows, and that the plain one is what training shows."""

import cv2
import numpy as np
import pytest

from cxrlines.augment.policy import make_policy
from cxrlines.io.prepare import shrink
from cxrlines.reading.tta import views

SIZE = 64


def film() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (150, 120), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def test_the_plain_view_is_what_training_shows_and_the_flipped_one_its_mirror_image() -> None:
    stored, _ = shrink(film(), 96, "pad")
    before = stored.copy()
    seen = views(stored, SIZE, ["scale", "flip", "flip"])
    assert seen.shape == (4, SIZE, SIZE) and seen.dtype == np.uint8
    np.testing.assert_array_equal(seen[0], make_policy("none", SIZE)(stored, np.random.default_rng(5)).film)
    np.testing.assert_array_equal(seen[1], seen[0][:, ::-1])
    np.testing.assert_array_equal(views(stored, SIZE), seen[:1])
    np.testing.assert_array_equal(views(stored, SIZE, ["scale"]), seen[[0, 2, 3]])
    np.testing.assert_array_equal(stored, before)


def test_scaled_views_are_the_film_at_nine_tenths_and_eleven_about_its_centre() -> None:
    stored = np.zeros((200, 200), np.uint8)
    for x, y in ((50, 60), (150, 60), (100, 140)):
        cv2.circle(stored, (x, y), 6, 255, -1, cv2.LINE_AA)
    seen = views(stored, 100, ["scale"])

    def blobs(view: np.ndarray) -> np.ndarray:
        centres = cv2.connectedComponentsWithStats((view > 60).astype(np.uint8))[3][1:]
        return centres[np.lexsort(centres.T)]

    centre = (100 - 1) / 2
    for view, scale in zip(seen[1:], (0.9, 1.1), strict=True):
        np.testing.assert_allclose(blobs(view) - centre, scale * (blobs(seen[0]) - centre), atol=0.3)
        assert view.sum() / seen[0].sum() == pytest.approx(scale**2, rel=0.03)
    # one interpolation: as sharp as the plain view is, which a second one would not be
    line = np.zeros((200, 200), np.uint8)
    line[:, 101:103] = 255
    assert views(line, 200, ["scale"])[2].max() == 255
