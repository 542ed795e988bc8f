"""Devices on a real film: where they are placed, what is true of them, and how they are exposed onto it."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from cxrlines.core.line_drawing import line_mask
from cxrlines.core.polyline import on_film
from cxrlines.io.marks import MarkedLine
from cxrlines.phantom.anatomy import draw_patient, pose
from cxrlines.phantom.canvas import Raster, View
from cxrlines.phantom.device_appearance import draw_devices
from cxrlines.phantom.devices import DRAWN, Placed
from cxrlines.phantom.overlay import airway_of, draw_scene, expose, from_exposed
from cxrlines.phantom.position import state_of
from cxrlines.phantom.scene import Line, Scene
from cxrlines.task import DEVICE_OF, LABELS_OF, Device, label_of

VIEW = View((420, 512), 13.0, 0.02, np.array([250.0, 170.0]))
SEEN = np.ones(VIEW.shape, bool)
STRAIGHT = np.array([[0.0, -10.0], [0.0, 0.0]])


@pytest.fixture(scope="module")
def film():
    rng = np.random.default_rng(0)
    shapes = cv2.resize(rng.normal(130, 25, (12, 16)).astype(np.float32), (512, 420), interpolation=cv2.INTER_CUBIC)
    return np.clip(shapes + rng.normal(0, 4, shapes.shape), 0, 255).astype(np.uint8)


def draw(seed, marked=(), airway=STRAIGHT, seen=SEEN, view=VIEW):
    rng = np.random.default_rng(seed)
    return draw_scene(marked, Scene(pose(draw_patient(rng), rng), view), airway, seen, rng)


def mark(name):
    return MarkedLine(name, np.array([[255.0, 0.0], [252.0, 100.0]]), True, 3)


class TestDrawScene:
    def test_every_label_occurs_often_and_is_what_the_geometry_says(self):
        labels: Counter[str] = Counter()
        for seed in range(150):
            scene = draw(seed)
            labels.update({line.label for line in scene.lines})
            for line in scene.lines:
                device = line.placed.device
                state = state_of(device, line.path, scene.landmarks, VIEW.mm_per_px, VIEW.shape)
                assert line.label == label_of(device, state)
                assert device is Device.NGT or on_film(line.path[-1], VIEW.shape)
                assert np.allclose(VIEW.px(line.placed.path), line.path)
        assert all(labels[label] > 0.05 * 150 for device in DRAWN for label in LABELS_OF[device]), labels

    @pytest.mark.parametrize(
        "there, none", [("ett", Device.ETT), ("trach", Device.ETT), ("ngt", Device.NGT), ("swan", Device.SWAN)]
    )
    def test_what_is_there_is_not_drawn_twice(self, there, none):
        drawn = Counter(line.placed.device for seed in range(60) for line in draw(seed, (mark(there),)).lines)
        assert drawn[none] == 0 and all(drawn[device] > 3 for device in set(DRAWN) - {none})

    def test_catheters_that_are_there_count(self):
        alone, more = (
            sum(line.placed.device is Device.CVC for seed in range(80) for line in draw(seed, marked).lines)
            for marked in ((), (mark("cvc"),))
        )
        assert 0 < more < 0.6 * alone

    @pytest.mark.parametrize("angle", [VIEW.angle, -0.15, 0.15])
    def test_tubes_follow_the_trachea_of_the_film(self, angle):
        bent = np.array([[2.0, -10.0], [1.0, -5.0], [0.0, 0.0]])
        offsets = []
        for seed in range(60):
            for line in draw(seed, airway=bent, view=replace(VIEW, angle=angle)).lines:
                path = (line.path - VIEW.origin) / VIEW.px_per_cm  # in the film's axes, as the airway
                if line.placed.device is Device.ETT and path[-1, 1] < -2:
                    inside = path[(path[:, 1] > -9) & (path[:, 1] < -1)]
                    offsets += (inside[:, 0] - np.interp(inside[:, 1], bent[:, 1], bent[:, 0])).tolist()
        assert len(offsets) > 100 and np.abs(offsets).max() < 0.9  # cm: within the trachea

    def test_no_tip_where_the_film_was_not_exposed(self):
        seen = SEEN.copy()
        seen[:, 256:] = False
        tips = [line.path[-1] for seed in range(40) for line in draw(seed, seen=seen).lines]
        assert tips and all(x < 257 or not on_film((x, y), VIEW.shape) for x, y in tips)


def test_a_path_begins_where_the_film_was_exposed():
    seen = SEEN.copy()
    seen[:50] = False
    path = np.stack([np.full(30, 100.0), np.linspace(0, 145, 30)], 1)
    assert from_exposed(path, seen)[0].tolist() == [100, 50]
    assert (from_exposed(path, SEEN) == path).all()


def test_a_tube_in_the_trachea_tells_where_it_is(film):
    axis = airway_of(film, (mark("ngt"), mark("ett")), np.array([250.0, 170.0]), 10.0)
    assert axis.tolist() == [[0.5, -17.0], [0.2, -7.0], [0.0, 0.0]]
    assert len(airway_of(film, (mark("ngt"),), np.array([250.0, 170.0]), 10.0)) > 30  # looked for


class TestExpose:
    def test_only_the_lines_change_and_only_towards_white(self, film):
        before, brighter = film.copy(), []
        for seed in range(12):
            scene = draw(seed)
            lines = scene.lines
            shown = expose(film, (), SEEN, scene, 0.0, np.random.default_rng(seed))
            rise = shown.astype(int) - film
            assert rise.min() >= 0
            hubs = [line for line in lines if line.placed.device is Device.CVC]  # hubs and ports beside their path
            near = line_mask([line.path for line in lines], VIEW.shape, 26) > 0
            if not hubs:
                assert rise[~near].max(initial=0) <= 1
            if lines:
                brighter.append(rise[line_mask([line.path for line in lines], VIEW.shape, 3) > 128].mean())
        assert len(brighter) > 8 and 4 < np.median(brighter) < 50
        assert (film == before).all()

    def test_the_grain_stays(self, film):
        """Attenuation is added below the film's own noise: what is drawn is smooth."""
        scene = next(drawn for drawn in map(draw, range(99)) if len(drawn.lines) > 2)
        rise = expose(film, (), SEEN, scene, 0.0, np.random.default_rng(0)).astype(np.float32) - film
        kernel = np.outer([1, -2, 1], [1, -2, 1]).astype(np.float32)
        on = line_mask([line.path for line in scene.lines], VIEW.shape, 8) > 128
        grain = [np.median(np.abs(cv2.filter2D(image.astype(np.float32), -1, kernel))[on]) for image in (rise, film)]
        assert grain[0] < 0.4 * grain[1]

    def test_nothing_where_the_film_was_not_exposed_and_nothing_without_lines(self, film):
        scene = draw(3)
        bare = replace(scene, lines=())
        dark = np.zeros(VIEW.shape, bool)
        rng = np.random.default_rng
        assert (expose(film, (), dark, scene, 1.0, rng(0)) == film).all()
        assert (expose(film, (), SEEN, bare, 0.0, rng(0)) == film).all()
        assert (expose(film, (), SEEN, bare, 1.0, rng(1)) != film).any()  # distractors alone

    @pytest.mark.parametrize("there", ["ett", "trach"])
    def test_no_cannula_is_drawn_where_the_film_has_a_tube_in_the_airway(self, film, there):
        bare = replace(draw(3), lines=())
        for seed in range(20):
            alone, marked = (
                expose(film, lines, SEEN, bare, 1.0, np.random.default_rng(seed)) for lines in ((), (mark(there),))
            )
            changed = np.argwhere(alone != marked)
            if len(changed) and changed.max(0)[0] < VIEW.origin[1]:  # a cannula lies above the carina
                return
        raise AssertionError("a cannula was drawn as if there were no tube")

    def test_weak_films_show_lines_weakly(self, film):
        scene = draw(4)
        weak = (128 + (film.astype(np.float32) - 128) * 0.4).astype(np.uint8)
        rise = [(expose(f, (), SEEN, scene, 0.0, np.random.default_rng(5)).astype(int) - f).sum() for f in (film, weak)]
        assert 0.3 < rise[1] / rise[0] < 0.8


def test_looks_differ_from_draw_to_draw():
    lines = draw(4).lines
    one, same, other = (draw_devices(VIEW, lines, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert (one == same).all() and np.abs(one - other).max() > 0.15 and one.dtype == np.float32
    assert one.min() == 0 and 0.3 < one.max() < 3
    assert {DEVICE_OF[line.label] for line in lines}


def extent_mm(device, route, seed):
    """How wide a straight drawn device is on the film: where it is above a twentieth of its peak, less the edges."""
    view = View((400, 400), 26.0, 0.0, np.array([200.0, 200.0]))
    placed = Placed(device, route, np.stack([np.zeros(40), np.linspace(-7.4, 7.4, 40)], 1))
    line = Line(placed, view.px(placed.path), "")
    profile = draw_devices(view, (line,), np.random.default_rng(seed))[190:210].mean(0)
    return (np.ptp(np.flatnonzero(profile > 0.05 * profile.max())) - 1) * view.mm_per_px


@pytest.mark.parametrize(
    "device, route, low, high",
    [
        (Device.ETT, "", 8, 11.5),
        (Device.NGT, "", 2.4, 6),
        (Device.CVC, "jugular right", 1.2, 3.2),
        (Device.CVC, "picc left", 1.2, 1.9),
        (Device.CVC, "dialysis left", 3.6, 4.8),
        (Device.SWAN, "jugular right", 1.9, 2.8),
    ],
)
def test_devices_are_as_thick_on_the_film_as_said(device, route, low, high):
    widths = np.array([extent_mm(device, route, seed) for seed in range(12)])
    assert widths.max() <= high + 0.5
    outer = widths if device not in (Device.ETT, Device.NGT) else np.sort(widths)[6:]  # of some the stripe alone shows
    assert outer.min() >= low - 0.5


@pytest.mark.parametrize("width", [0.1, 0.16, 0.24, 0.4, 1.0])
def test_strokes_of_the_fine_grid_are_as_wide_as_asked(width):
    grid = Raster(VIEW, 3.0, exact=True)
    covered = []
    for angle in np.linspace(0, 1.5, 7):
        image, way = grid.blank(), 6 * np.array([np.sin(angle), np.cos(angle)])
        grid.stroke(image, [np.array([-way, way])], width, 200)
        covered.append(image.sum() / 200 / (12 * grid.px_per_cm) / grid.px_per_cm)
    assert np.mean(covered) == pytest.approx(width, rel=0.2)
