"""One resampling does what a chain of albumentations' transforms does, and points follow it."""

import dataclasses
import os

import cv2
import numpy as np
import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A
from albumentations.augmentations.geometric import functional as oracle

from cxrlines.augment import make_policy, warp

SIZE = 256


def clouds(size: int = SIZE, seed: int = 0) -> np.ndarray:
    """A smooth film that fades to black at its border, so that borders do not decide a comparison."""
    noise = np.random.default_rng(seed).normal(size=(size, size))
    film = cv2.GaussianBlur(noise, (0, 0), size / 32)
    film = 120 + 100 * film / np.abs(film).max()
    window = np.clip(4 * np.hanning(size), 0, 1)
    return (film * np.outer(window, window)).astype(np.uint8)


def positions(size: int = SIZE) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).astype(float)


def gap(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def dot(at: np.ndarray, size: int = SIZE, radius: float = 2.0) -> np.ndarray:
    return (255 * np.exp(-((positions(size) - at) ** 2).sum(-1) / (2 * radius**2))).round().astype(np.uint8)


def centroid(film: np.ndarray) -> np.ndarray:
    """Of the upper half of the grays, so that the skirts of a distorted dot do not pull."""
    weight = np.clip(film - film.max() / 2.0, 0, None)
    return (positions(len(film)) * weight[..., None]).sum((0, 1)) / weight.sum()


def test_identity_changes_no_pixel():
    film = clouds()
    same = warp.Warp(SIZE, warp.crop((0, 0, SIZE, SIZE), SIZE)).resample(film)
    assert (same == film).all() and same is not film


def test_flip_is_exact_and_its_own_inverse():
    film = clouds(SIZE + 3)
    matrix = warp.crop((0, 0, SIZE + 3, SIZE + 3), SIZE + 3)
    flip = warp.Warp(SIZE + 3, matrix @ warp.mirror(SIZE + 3))
    assert (flip.resample(film) == film[:, ::-1]).all()
    assert (flip.resample(flip.resample(film)) == film).all()
    np.testing.assert_allclose(flip.move(np.array([[0.0, 7.0]])), [[SIZE + 2, 7]])


@pytest.mark.parametrize("box", [(10, 20, 202, 230), (0, 0, 256, 256), (31, 5, 131, 100)])
def test_crop_agrees_with_albumentations(box):
    film = clouds()
    theirs = A.Compose([A.Crop(*box), A.Resize(200, 200)])(image=film)["image"]
    assert gap(warp.Warp(200, warp.crop(box, 200)).resample(film), theirs) < 0.5


@pytest.mark.parametrize("box", [(10, 20, 202, 230), (0, 0, 256, 256), (31, 5, 131, 100)])
@pytest.mark.parametrize("flipped", [False, True])
def test_a_box_of_whole_pixels_is_seen_as_if_it_were_turned_by_nothing(box, flipped):
    """A map that only crops and flips is resampled in a faster way than one that turns."""
    film = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    matrix = warp.crop(box, (280, 220)) @ (warp.mirror((280, 220)) if flipped else np.eye(3))
    turn = warp.shift_scale_rotate((280, 220), (0, 0), 1, 1e-7)
    ours, turned = (warp.Warp((280, 220), each).resample(film) for each in (matrix, matrix @ turn))
    assert ours.shape == (280, 220)
    inner = np.abs(ours.astype(int) - turned)[2:-2, 2:-2]  # px of the turned one's rim see what is beyond the box
    assert inner.max() <= 10 and inner.mean() < 1.5  # a turned map is rounded to 1/32 px


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_shrinking_is_by_area(factor):
    film = np.random.default_rng(1).integers(0, 256, (64 * factor, 64 * factor), dtype=np.uint8)
    ours = warp.Warp(64, warp.crop((0, 0, 64 * factor, 64 * factor), 64)).resample(film)
    theirs = cv2.resize(film, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("stretch", [1.2, 1.7, 2.3, 3.9])
def test_a_line_of_one_pixel_survives_shrinking(stretch):
    wide = round(128 * stretch)
    peaks = []
    for x in range(wide // 2, wide // 2 + 12):
        film = np.zeros((wide, wide), np.uint8)
        film[:, x] = 240
        small = warp.Warp(128, warp.crop((0, 0, wide, wide), 128)).resample(film)
        assert small[64].sum() == pytest.approx(240 / stretch, rel=0.25)
        peaks.append(small[64].max())
    assert min(peaks) > 0.35 * 240 / stretch


@pytest.mark.parametrize("stretch", [0.8, 1.3, 1.7, 2.3, 3.0])
def test_a_distortion_that_moves_nothing_changes_nothing(stretch):
    """A map with distortions is sampled at other places in a px than one without: lines are as bright all the same."""
    wide = round(128 * stretch)
    whole = warp.crop((0, 0, wide, wide), 128) @ warp.shift_scale_rotate(128, (0.01, 0.02), 1, 20)
    bent = warp.Warp(128, whole, (lambda at: at,))
    film = clouds(wide)
    assert gap(bent.resample(film), warp.Warp(128, whole).resample(film)) < 0.4
    for x in range(wide // 2, wide // 2 + 6):
        film = np.zeros((wide, wide), np.uint8)
        film[:, x] = 240
        seen = bent.resample(film).astype(float)
        across = seen[40:90].sum(axis=1) * np.cos(np.radians(20))
        assert across.mean() == pytest.approx(240 / stretch, rel=0.1) and across.std() < 0.2 * 240 / stretch


@pytest.mark.parametrize("size", [(32, 64), (64, 32), (16, 400), (400, 16), (1024, 96)])
def test_a_long_film_is_bent_like_any_other(size):
    film = np.random.default_rng(13).integers(0, 256, size, dtype=np.uint8)
    bent = warp.Warp(size, np.eye(3), (lambda at: at,))
    assert (bent.resample(film) == film).all()
    policy, rng = dataclasses.replace(make_policy("hotwater", size), piecewise_affine=1.0), np.random.default_rng(14)
    for _ in range(5):
        seen = policy(film, rng, [np.array([[size[1] / 2, size[0] / 2]])])
        assert seen.film.shape == size and np.isfinite(seen.points[0]).all()


@pytest.mark.parametrize(
    ("shift", "scale", "degrees"),
    [((8, 0), 1, 0), ((0, -16), 1, 0), ((0, 0), 1.1, 0), ((0, 0), 1, 33), ((-8, 4), 0.9, -45)],
)
def test_shift_scale_rotate_agrees_with_albumentations(shift, scale, degrees):
    film = clouds()
    matrix = warp.shift_scale_rotate(SIZE, (shift[0] / SIZE, shift[1] / SIZE), scale, degrees)
    affine = A.Affine(scale=scale, rotate=(degrees, degrees), translate_px={"x": shift[0], "y": shift[1]}, p=1)
    theirs = A.Compose([affine], keypoint_params=A.KeypointParams("xy", remove_invisible=False))
    truth = theirs(image=film, keypoints=[(50.0, 90.0)])
    ours = warp.Warp(SIZE, matrix)
    assert gap(ours.resample(film), truth["image"]) < 0.6
    np.testing.assert_allclose(ours.move(np.array([[50.0, 90.0]])), truth["keypoints"], atol=0.01)


@pytest.mark.parametrize("k", [-0.35, -0.1, 0.3, 1.0])
def test_optical_agrees_with_albumentations(k):
    map_x, map_y = oracle.get_camera_matrix_distortion_maps((SIZE, SIZE), k)
    theirs = np.stack([map_x, map_y], axis=-1) - 0.5  # its camera looks half a px beside the film's centre
    np.testing.assert_allclose(warp.optical(SIZE, k)(positions()), theirs, atol=0.01)
    film = clouds()
    ours = warp.Warp(SIZE, np.eye(3), (warp.optical(SIZE, k),)).resample(film)
    theirs = theirs.astype(np.float32)
    assert gap(ours, cv2.remap(film, theirs[..., 0], theirs[..., 1], cv2.INTER_LINEAR)) < 0.4
    assert gap(ours, A.OpticalDistortion((k, k), p=1)(image=film)["image"]) < 1.5  # that half px included


def test_optical_does_not_fold_over_within_the_range_that_is_drawn():
    for k in make_policy("hotwater", SIZE).lens:
        moved = warp.optical(SIZE, k)(np.stack([np.linspace(SIZE / 2, SIZE, 200)] * 2, axis=-1))
        assert (np.diff(moved[:, 0]) > 0).all()


def test_grid_agrees_with_albumentations():
    steps = 1 + np.random.default_rng(2).uniform(-0.8, 0.8, (2, 5))
    even = 255  # divisible by five: albumentations leaves a remainder out
    # albumentations has one width more than columns, for a remainder that is not there
    widths = oracle.normalize_grid_distortion_steps((even, even), 5, [*steps[0], 1.0], [*steps[1], 1.0])
    map_x, map_y = oracle.generate_grid((even, even), widths["steps_x"], widths["steps_y"], 5)
    pull = warp.grid(even, steps[0], steps[1])(positions(even))
    # It counts a column from its first pixel's centre to its last's, we from edge to edge: half a px here and there.
    assert np.abs(pull - np.stack([map_x, map_y], axis=-1)).max() < 1.5
    film = clouds(even)
    theirs = cv2.remap(film, map_x, map_y, cv2.INTER_LINEAR)
    assert gap(warp.Warp(even, np.eye(3), (warp.grid(even, steps[0], steps[1]),)).resample(film), theirs) < 2.5


def test_grid_of_equal_steps_is_the_identity():
    pull = warp.grid(SIZE, np.full(5, 0.7), np.full(5, 0.7))
    np.testing.assert_allclose(pull(positions()), positions(), atol=1e-9)


def test_elastic_has_the_spread_and_the_smoothness_of_albumentations():
    alpha, sigma = 900.0, 16.0
    rng = np.random.default_rng(3)

    def spread_and_smoothness(field: np.ndarray) -> tuple[float, float]:
        inner = field[16:-16, 16:-16]
        return inner.std(), np.corrcoef(inner[:, 16:].ravel(), inner[:, :-16].ravel())[0, 1]

    def theirs() -> np.ndarray:
        return oracle.generate_displacement_fields(
            (SIZE, SIZE), alpha, sigma, False, (0, 0), random_generator=rng, noise_distribution="uniform"
        )[0]

    def ours() -> np.ndarray:
        return (warp.elastic(SIZE, alpha, sigma, rng)(positions()) - positions())[..., 0]

    expected = np.mean([spread_and_smoothness(theirs()) for _ in range(20)], axis=0)
    got = np.mean([spread_and_smoothness(ours()) for _ in range(20)], axis=0)
    np.testing.assert_allclose(got, expected, rtol=0.1)


def test_three_point_moves_its_points():
    jitter = np.random.default_rng(4).uniform(-20, 20, (3, 2))
    start = SIZE / 2 + SIZE / 3 * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = warp.Warp(SIZE, warp.three_point(SIZE, jitter)).move(start)
    np.testing.assert_allclose(moved, start + jitter, atol=1e-3)


class TestPiecewiseAffine:
    def test_without_displacement_is_the_identity(self):
        pull = warp.piecewise_affine(SIZE, np.zeros((4, 4, 2)))
        np.testing.assert_allclose(pull(positions()), positions(), atol=1e-9)

    def test_mesh_points_go_where_those_of_albumentations_go(self):
        size = 61  # mesh points at 0, 20, 40 and 60, on pixel centres
        map_x, map_y = oracle.create_piecewise_affine_maps((size, size), (4, 4), 0.15, False, np.random.default_rng(5))
        jitter = np.random.default_rng(5).normal(0, 0.15 * size / 3, (4, 4, 2)).astype(np.float32)
        pull = warp.piecewise_affine(size, jitter[..., ::-1])(positions(size))
        np.testing.assert_allclose(pull[::20, ::20, 0], map_x[::20, ::20], atol=1e-3)
        np.testing.assert_allclose(pull[::20, ::20, 1], map_y[::20, ::20], atol=1e-3)

    def test_an_affine_displacement_is_reproduced_everywhere(self):
        matrix, offset = np.array([[0.9, 0.03], [-0.02, 0.92]]), np.array([6.0, 12.0])
        mesh = np.stack(np.meshgrid(np.linspace(0, SIZE - 1, 4), np.linspace(0, SIZE - 1, 4)), axis=-1)
        pull = warp.piecewise_affine(SIZE, mesh @ matrix.T + offset - mesh)
        np.testing.assert_allclose(pull(positions()), positions() @ matrix.T + offset, atol=1e-6)

    def test_neighbouring_triangles_meet(self):
        pull = warp.piecewise_affine(SIZE, np.random.default_rng(6).normal(0, 8, (4, 4, 2)))
        fine = np.stack(np.meshgrid(np.linspace(0, 255, 2000), [100.0]), axis=-1)
        assert np.linalg.norm(np.diff(pull(fine), axis=1), axis=-1).max() < 0.4  # no jump


def test_composition_equals_the_chain():
    film = clouds()
    matrices = [
        warp.crop((12, 4, 250, 240), SIZE),
        warp.mirror(SIZE),
        warp.shift_scale_rotate(SIZE, (0.03, -0.02), 1.06, 12),
    ]
    bend, lens = warp.piecewise_affine(SIZE, np.random.default_rng(7).normal(0, 6, (4, 4, 2))), warp.optical(SIZE, 0.2)
    at_once = warp.Warp(SIZE, matrices[0] @ matrices[1] @ matrices[2], (bend, lens))
    chained = film
    for step in [*(warp.Warp(SIZE, m) for m in matrices), *(warp.Warp(SIZE, np.eye(3), (d,)) for d in (lens, bend))]:
        chained = step.resample(chained)
    assert gap(at_once.resample(film), chained) < 1.5


def test_points_lie_on_what_they_were_drawn_on():
    size, rng = 512, np.random.default_rng(8)
    policy = make_policy("hotwater", size)
    misses = []
    for _ in range(150):
        the_warp, _ = policy.draw_warp(rng, size, size)
        at = rng.uniform(30, size - 30, (1, 2))
        moved = the_warp.move(at)[0]
        nearby = the_warp.move(at + np.array([[2.0, 0], [-2, 0], [0, 2], [0, -2]]))
        widths = np.linalg.norm(nearby[0::2] - nearby[1::2], axis=-1) / 4
        if moved.min() < 12 or moved.max() > size - 12 or widths.max() > 2 or widths.min() < 0.5:
            continue  # off the film, or blown up or squeezed so far that the dot is none any more
        misses.append(np.linalg.norm(centroid(the_warp.resample(dot(at, size, 1.2))) - moved))
    assert len(misses) > 100
    assert max(misses) < 0.5
    assert np.median(misses) < 0.1


def test_at_a_moved_point_the_film_shows_where_it_came_from():
    policy, rng = make_policy("hotwater", SIZE), np.random.default_rng(9)
    ramp_x = np.tile(np.arange(SIZE, dtype=np.uint8), (SIZE, 1))
    for _ in range(100):
        the_warp, _ = policy.draw_warp(rng, SIZE, SIZE)
        at = rng.uniform(5, SIZE - 6, (20, 2))
        moved = the_warp.move(at)
        inside = ((moved > 1) & (moved < SIZE - 2)).all(axis=1)
        x, y = moved[inside].astype(np.float32).T
        if not inside.any():
            continue
        # A film whose gray is its x (and then its y) shows at each moved point where the point came from.
        for i, ramp in enumerate((ramp_x, ramp_x.T)):
            shown = cv2.remap(the_warp.resample(ramp), x[:, None], y[:, None], cv2.INTER_LINEAR)[:, 0]
            assert np.abs(shown - at[inside, i]).max() < 3.0  # whole grays, and kinks between pixels
            assert np.abs(shown - at[inside, i]).mean() < 0.6


def test_points_off_the_film_stay_off_and_none_are_lost():
    rng = np.random.default_rng(10)
    turn = warp.Warp(SIZE, warp.shift_scale_rotate(SIZE, (0, 0), 1, 20))
    far = np.array([[-400.0, 30], [SIZE + 300, 50], [30, -500]])
    back = np.column_stack([turn.move(far), np.ones(3)]) @ turn.matrix.T
    np.testing.assert_allclose(back[:, :2], far, atol=1e-6)
    bend = warp.Warp(SIZE, np.eye(3), (warp.piecewise_affine(SIZE, rng.normal(0, 8, (4, 4, 2))),))
    moved = bend.move(far)
    assert moved.shape == (3, 2) and np.isfinite(moved).all()
    assert ((moved < 0) | (moved > SIZE)).any(axis=1).all()
    assert bend.move(np.empty((0, 2))).shape == (0, 2)


def test_points_moved_together_go_where_each_goes_alone():
    policy, rng = make_policy("hotwater", SIZE), np.random.default_rng(12)
    for _ in range(20):
        the_warp, _ = policy.draw_warp(rng, SIZE, SIZE)
        at = rng.uniform(-40, SIZE + 40, (6, 2))
        alone = np.concatenate([the_warp.move(point[None]) for point in at])
        np.testing.assert_allclose(the_warp.move(at), alone, atol=1e-6)


def test_a_binary_mask_stays_binary_and_follows_the_film():
    policy, rng = make_policy("hotwater", SIZE), np.random.default_rng(11)
    disc = (np.linalg.norm(positions() - 128, axis=-1) < 40).astype(np.uint8)
    for _ in range(20):
        the_warp, _ = policy.draw_warp(rng, SIZE, SIZE)
        small, large = the_warp.resample(disc), the_warp.resample(disc * 255)
        assert set(np.unique(small)) <= {0, 1}
        assert ((large > 127) != small).mean() < 0.002


def test_beyond_the_film_all_is_black():
    film = np.full((SIZE, SIZE), 200, np.uint8)
    out = warp.Warp(SIZE, warp.shift_scale_rotate(SIZE, (0.25, 0), 1, 0)).resample(film)
    assert (out[:, : SIZE // 4 - 1] == 0).all() and (out[:, SIZE // 4 + 1 :] == 200).all()
