"""Scenes: the sampler aims, geometry decides, and no state is walled off from its neighbours."""

import numpy as np
import pytest

from cxrlines.core.polyline import lengths, on_film
from cxrlines.phantom.dataset import annotated_points
from cxrlines.phantom.devices import DRAWN
from cxrlines.phantom.position import Landmarks, state_of
from cxrlines.phantom.scene import make_scene
from cxrlines.task import DEVICE_OF, EXCLUSIVE, LABELS, LABELS_OF, Device, label_of


def scenes(count, balance, site="a", size=512):
    return [make_scene([0, i // 3], [0, i // 3, i], size=size, balance=balance, site=site) for i in range(count)]


@pytest.fixture(scope="module")
def even():
    return scenes(500, "even")


@pytest.fixture(scope="module")
def natural():
    return scenes(1500, "natural")


def test_every_label_is_what_the_geometry_earns(even):
    for scene in even[:150]:
        for line in scene.lines:
            state = state_of(line.placed.device, line.path, scene.landmarks, scene.view.mm_per_px, scene.view.shape)
            assert line.label == label_of(line.placed.device, state)
            assert scene.labels[LABELS.index(line.label)] == 1
        assert sum(scene.labels) == len({line.label for line in scene.lines})


def test_even_balance_gives_every_label_its_share(even):
    shares = dict(zip(LABELS, np.mean([scene.labels for scene in even], 0), strict=True))
    assert min(shares[label] for device in DRAWN for label in LABELS_OF[device]) >= 0.08, shares


def test_natural_balance_is_near_the_real_table(natural):
    # Positives of the 30,083 studies of the challenge's training table.
    real = np.array([79, 1138, 7240, 279, 529, 2748, 4797, 3195, 8460, 21324, 830]) / 30083
    shares = np.mean([scene.labels for scene in natural], 0)
    error = 4 * np.sqrt(real * (1 - real) / len(natural))  # four standard errors, and a tenth for the aim
    assert (np.abs(shares - real) < error + 0.1 * real + 0.01).all(), dict(zip(LABELS, shares, strict=True))
    assert np.mean([sum(scene.labels) == 0 for scene in natural]) < 0.01


def test_a_film_may_have_several_catheters_but_one_tracheal_tube(even):
    cvc = [[x.label for x in s.lines if x.placed.device is Device.CVC] for s in even]
    assert any(len(set(labels)) == 2 for labels in cvc)
    for scene in even:
        for device in EXCLUSIVE:
            assert sum(DEVICE_OF[x.label] is device for x in scene.lines) <= 1


def test_tips_fall_right_up_to_the_limits_without_gaps(even):
    heights = []
    for scene in even:
        for line in scene.lines:
            if line.placed.device is Device.ETT:
                heights.append(-line.placed.path[-1, 1])
    heights = np.sort(heights)
    for limit in (0.5, 2.0, 6.0):
        near = heights[np.abs(heights - limit) < 0.35]
        assert (near < limit).any() and (near > limit).any()
    assert np.diff(heights[(heights > -2) & (heights < 9)]).max() < 0.4


def test_lines_are_in_view_and_tips_on_the_film(even):
    for scene in even:
        for line in scene.lines:
            inside = [on_film(point, scene.view.shape) for point in line.path]
            assert sum(inside) * lengths(line.placed.path)[1] >= 2.5
            assert inside[-1] or line.label == "NGT - Incompletely Imaged"


def test_an_annotation_ends_at_the_tip_wherever_that_is_on_the_film(even, natural):
    for scene in even + natural:
        for line in scene.lines:
            if on_film(line.path[-1], scene.view.shape):
                points = annotated_points(line.path, scene.view.shape)
                assert len(points) > 1 and np.abs(points[-1] - line.path[-1]).max() <= 1


def test_landmarks_lie_on_the_film_in_anatomical_order(natural):
    for scene in natural[:200]:
        marks = scene.landmarks
        assert marks.vein_confluence[1] < marks.carina[1] < marks.cavo_atrial[1] < marks.gastro_oesophageal[1]
        assert all(on_film(getattr(marks, name), scene.view.shape) for name in ("carina", "cavo_atrial"))
        assert marks.dome_right[0] < marks.carina[0] < marks.dome_left[0]
        assert np.allclose(marks.carina, scene.view.origin)


def test_the_same_seed_gives_the_same_scene_and_size_only_scales_it():
    first, second = (scenes(6, "even")[5] for _ in range(2))
    larger = scenes(6, "even", size=1024)[5]
    assert first.labels == second.labels == larger.labels
    for a, b, c in zip(first.lines, second.lines, larger.lines, strict=True):
        assert (a.path == b.path).all()
        assert a.placed.route == c.placed.route
    assert larger.view.mm_per_px == pytest.approx(first.view.mm_per_px / 2)


def test_studies_of_a_patient_share_anatomy():
    one, two = scenes(2, "natural")
    other = scenes(4, "natural")[3]
    assert one.anatomy.detail == two.anatomy.detail != other.anatomy.detail
    assert one.anatomy.width == two.anatomy.width
    assert one.landmarks.carina.tolist() != two.landmarks.carina.tolist()  # another view on another day
    assert Landmarks._fields[0] == "carina"


def test_site_b_has_another_mix(natural):
    other = scenes(600, "natural", site="b")
    ett = LABELS.index("ETT - Normal")
    assert np.mean([s.labels[ett] for s in other]) < np.mean([s.labels[ett] for s in natural]) - 0.03
