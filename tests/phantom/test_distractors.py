"""What distracts from lines is drawn, differs from film to film, and never becomes truth."""

import numpy as np
import pytest

from cxrlines.phantom.anatomy import draw_patient, pose
from cxrlines.phantom.canvas import Raster, View
from cxrlines.phantom.dataset import Parameters, Study, make_study
from cxrlines.phantom.distractors import CHANCES, draw_clutter

VIEW = View((300, 360), 9.5, 0.0, np.array([180.0, 120.0]))


def patient(seed):
    rng = np.random.default_rng(seed)
    return pose(draw_patient(rng), rng)


def clutter(seed, much=1.0, **options):
    anatomy = patient(seed)
    return draw_clutter(Raster(VIEW, 1.0, anatomy.scale), anatomy, much, np.random.default_rng(seed), **options)


@pytest.mark.parametrize("draw", CHANCES, ids=lambda draw: draw.__name__.strip("_"))
def test_each_kind_shows_and_differs_from_film_to_film(draw):
    images = []
    for seed in range(6):
        anatomy = patient(seed)
        grid = Raster(VIEW, 1.0, anatomy.scale)
        image = grid.blank()
        draw(grid, image, anatomy, np.random.default_rng(seed))
        images.append(image)
    assert sum(image.any() for image in images) >= 5
    assert len({image.tobytes() for image in images}) >= 5
    assert all((image > 0).mean() < 0.3 for image in images)


def test_the_same_seed_gives_the_same_and_more_clutter_more():
    assert (clutter(3) == clutter(3)).all() and (clutter(3) != clutter(4)).any()
    few, many = (sum(int((clutter(seed, much) > 30).sum()) for seed in range(12)) for much in (0.2, 1.2))
    assert many > 1.5 * few


def test_a_cannula_is_left_out_of_the_intubated_and_nothing_else_changes(monkeypatch):
    monkeypatch.setattr("cxrlines.phantom.distractors.CHANCES", dict.fromkeys(CHANCES, 0.5))
    differ = [seed for seed in range(10) if (clutter(seed) != clutter(seed, intubated=True)).any()]
    assert 1 <= len(differ) < 10
    for seed in differ:
        changed = np.argwhere(clutter(seed) != clutter(seed, intubated=True))
        assert changed[:, 0].max() < VIEW.origin[1]  # above the carina


def test_distractors_add_no_label_and_no_line(tmp_path, monkeypatch):
    """The rows of a phantom film depend on its scene alone, whatever the clutter."""
    study, rows = Study(0, 1, 2), []
    for chance in (0.0, 1.0):
        folder = tmp_path / str(chance)
        (folder / "train").mkdir(parents=True)
        monkeypatch.setattr("cxrlines.phantom.distractors.CHANCES", dict.fromkeys(CHANCES, chance))
        written = make_study(Parameters(1, 3, 128, "even", annotated=1.0), folder, study)
        rows.append((written, (folder / f"train/{written.study}.jpg").read_bytes()))
    assert rows[0][0] == rows[1][0] and rows[0][1] != rows[1][1]
