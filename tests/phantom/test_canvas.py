import numpy as np

from cxrlines.core.polyline import lengths, resample
from cxrlines.phantom.canvas import blob, cut, offset, smooth

CORNER = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])


def test_a_smooth_curve_keeps_its_ends_and_stays_inside_its_control_points():
    curve = smooth(CORNER)
    assert np.allclose(curve[[0, -1]], CORNER[[0, -1]])
    assert (curve >= -1e-9).all() and (curve <= [3 + 1e-9, 4 + 1e-9]).all()
    assert lengths(curve)[-1] < lengths(CORNER)[-1]


def test_a_closed_curve_does_not_depend_on_where_it_starts():
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], float)
    turned = smooth(np.roll(square, -1, 0), closed=True)
    assert np.allclose(np.roll(smooth(square, closed=True), -6, 0), turned)


def test_length_cut_and_resample_agree():
    assert lengths(CORNER).tolist() == [0, 3, 7]
    assert cut(CORNER, 5).tolist() == [[0, 0], [3, 0], [3, 2]]
    assert cut(CORNER, 99).tolist() == CORNER.tolist()
    assert cut(CORNER, 3).tolist() == [[0, 0], [3, 0]]
    again = resample(CORNER, 0.5)
    assert len(again) == 15
    assert np.allclose(again[[0, -1]], CORNER[[0, -1]])


def test_offset_moves_sideways_and_back():
    line = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]])  # downwards
    assert np.allclose(offset(line, 2.0), line - np.array([2, 0]))
    assert np.allclose(offset(offset(line, 2.0), -2.0), line)


def test_a_blob_surrounds_its_centre():
    ring = blob(np.random.default_rng(0), (5, -3), (2, 1), 0.05)
    assert np.allclose(ring.mean(0), (5, -3), atol=0.2)
    assert np.abs(ring - [5, -3]).max() < 2.5
