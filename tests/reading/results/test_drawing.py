"""Films with findings drawn: the film keeps its place and its pixels, what is found is seen, the rest is beside it."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from cxrlines.core.findings import Findings, Keypoint, Line
from cxrlines.core.notes import Code, Note
from cxrlines.core.quality import Quality
from cxrlines.core.spacing import Spacing, SpacingKind
from cxrlines.reading.distances import distances_of
from cxrlines.reading.results.drawing import MIN_SIDE, NOTICE, draw_findings, save_drawing
from cxrlines.reading.results.operating_points import OperatingPoint
from cxrlines.reading.results.report_text import NOT_LOOKED_FOR
from cxrlines.task import DEVICE_COLOURS, LABELS, Device, Landmark


def findings(shape, lines=True, labels=True, **more):
    height, width = shape
    at = np.array([width / 2, height / 2])
    path = np.stack([np.full(50, width / 3), np.linspace(0, height / 2, 50)], 1)
    found = (
        [Line(Device.CVC, path, path[-1], 0.9), Line(Device.ETT, path + np.array([width / 6, 0]), None, 0.5)]
        if lines
        else []
    )
    landmarks = {Landmark.CARINA: Keypoint(at, 0.8)} if lines else {}
    likely = dict.fromkeys(LABELS, 0.5) if labels else None
    findings = Findings(shape, tuple(found), landmarks, (), likely, **more)
    return replace(findings, distances=tuple(distances_of(findings)))


def film(shape, seed=0):
    return np.random.default_rng(seed).integers(60, 90, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(900, 700), (500, 500), (600, 1200)])
def test_the_film_keeps_its_place_and_its_pixels_away_from_findings(shape):
    before = film(shape)
    plain = before.copy()
    drawn = draw_findings(plain, findings(shape))
    assert (plain == before).all()
    assert drawn.dtype == np.uint8 and drawn.shape[0] == shape[0] and drawn.shape[1] > shape[1] * 1.1
    on_film = drawn[:, : shape[1]]
    changed = (on_film != before[:, :, None]).any(2)
    assert 0.001 < changed.mean() < 0.08
    nothing = draw_findings(plain, findings(shape, lines=False))
    assert (nothing[:, : shape[1]] == before[:, :, None]).all()


def test_a_line_is_drawn_in_its_colour_and_lets_the_film_through():
    shape = (900, 900)
    one, other = (draw_findings(np.full(shape, gray, np.uint8), findings(shape)) for gray in (40, 200))
    row, column = 150, 300
    for channel, colour in enumerate(DEVICE_COLOURS[Device.CVC]):
        low, high = int(one[row, column, channel]), int(other[row, column, channel])
        assert 40 <= high - low <= 110  # neither hidden nor gone
        assert low > 40 or colour <= 70
    assert (one[row, column].argmax(), other[row, column].argmax()) == (0, 0)


def test_nothing_covers_the_tip_itself():
    shape = (900, 900)
    before = film(shape)
    drawn = draw_findings(before, findings(shape))
    assert (drawn[449:452, 299:302] == before[449:452, 299:302, None]).all()
    assert (drawn[435:466, 285:316] != before[435:466, 285:316, None]).any()


def test_small_films_are_enlarged_and_all_sizes_have_the_text():
    small = draw_findings(film((100, 80)), findings((100, 80)))
    assert small.shape[0] == MIN_SIDE
    for shape in ((100, 80), (500, 500), (2000, 1600)):
        with_labels = draw_findings(film(shape), findings(shape))
        without = draw_findings(film(shape), findings(shape, labels=False))
        assert with_labels.shape == without.shape
        assert (with_labels != without).any()


def test_name_notes_and_notice_are_in_the_strip_only():
    shape = (700, 700)
    plain, found = film(shape), findings(shape)
    base = draw_findings(plain, found, notice="")
    for more in ({"name": "film 7.dcm"}, {"notes": ["rotated by 90 degrees, righted"]}, {"notice": NOTICE}):
        drawn = draw_findings(plain, found, **({"notice": ""} | more))
        assert (drawn[:, :700] == base[:, :700]).all()
        assert (drawn[:, 700:] != base[:, 700:]).any()


@pytest.fixture
def written(monkeypatch):
    """Every text that is drawn, in order."""
    texts = []
    whole = ImageDraw.ImageDraw.text

    def noted(self, at, text, *args, **more):
        texts.append(text)
        return whole(self, at, text, *args, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    return texts


def test_the_strip_has_every_note_once_and_what_distances_rest_on(written):
    shape = (1600, 1600)
    odd = Note(Code.WINDOW_IGNORED, "window ignored")
    found = findings(shape, quality=Quality(notes=(Note(Code.TURNED, "turned"),)), notes=(odd,))
    found = replace(found, spacing=Spacing(SpacingKind.DETECTOR, (0.25, 0.25)))
    found = replace(found, distances=tuple(distances_of(found)))
    draw_findings(film(shape), found, notes=["window ignored", "further"])
    words = " ".join(written)
    for once in ("turned", "window ignored", "further", "Distances at the detector"):
        assert words.count(once) == 1, once


def test_a_refused_film_is_drawn_with_why_it_was_not_read(written):
    shape = (900, 700)
    why = Note(Code.LATERAL, "its view is lateral")
    refused = Findings(shape, (), {}, (), quality=Quality(usable=False, notes=(why,)))
    plain = film(shape)
    drawn = draw_findings(plain, refused)
    assert (drawn[:, :700] == plain[:, :, None]).all()
    words = " ".join(written)
    assert "Not read: its view is lateral" in words and "No line" not in words and "Carina" not in words


@pytest.mark.parametrize(("evidence", "said"), [({}, "No line found. Carina not found."), (None, NOT_LOOKED_FOR)])
def test_what_was_not_looked_for_is_not_called_not_found(written, evidence, said):
    shape = (900, 900)
    draw_findings(film(shape), findings(shape, lines=False, evidence=evidence))
    words = " ".join(written)
    assert said in words
    assert ("not found" in words or "No line" in words) == (evidence is not None)


def test_lines_of_a_device_that_end_at_one_place_have_one_label(written):
    shape = (900, 900)
    one = findings(shape)
    catheter = one.lines[0]
    both = replace(one, lines=(catheter, replace(catheter, path=catheter.path[25:])))
    draw_findings(film(shape), replace(both, distances=tuple(distances_of(both))))
    words = " ".join(written)
    assert words.count("CVC 0.0 % of height") == 2  # beside the end, and in the strip
    assert words.count("perhaps it is the same") == 1


def test_the_strip_says_which_device_may_be_there_without_a_line(written):
    shape = (900, 900)
    draw_findings(film(shape), findings(shape, evidence=dict.fromkeys(Device.__members__, 0.9)))
    words = " ".join(written)
    assert words.count("but no line of it was found") == 2 and "No line found" not in words  # NGT and SWAN


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_the_mark_of_the_carina_turns_with_the_film(rotation):
    shape = (600, 600)
    black = np.zeros(shape, np.uint8)

    def mark(rotation):
        only = Findings(shape, (), {Landmark.CARINA: Keypoint(np.array([299.5, 299.5]), 0.9)}, ())
        drawn = draw_findings(black, replace(only, quality=Quality(rotation=rotation)))
        return drawn[:, :600, 0] > 0

    upright, turned = mark(0), mark(rotation)
    assert 20 < upright.sum() < 200 and (np.rot90(upright, 1) != upright).sum() > 20
    near = cv2.dilate(np.rot90(upright, rotation // 90).astype(np.uint8), np.ones((5, 5), np.uint8))
    assert turned.sum() > 20 and (near[turned] == 1).all()


def test_long_names_and_many_notes_never_leave_the_strip_or_hide_the_notice():
    shape = (500, 400)
    plain = film(shape)
    notice_only = draw_findings(plain, findings(shape, lines=False, labels=False))
    crowded = draw_findings(plain, findings(shape), name="x" * 300, notes=["a note of some length " * 5] * 12)
    assert crowded.shape == notice_only.shape
    assert (crowded[-30:, 400:].max(), crowded[:30, 400:].max()) > (100, 100)


def test_a_film_that_is_not_the_findings_own_is_refused():
    found = findings((700, 500))
    for wrong in (film((500, 700)), np.zeros((700, 500), np.float32), np.zeros((700, 500, 3), np.uint8)):
        with pytest.raises(
            ValueError, match=r"film: needs \(height, width\) \(700, 500\) of uint8, as its findings have"
        ):
            draw_findings(wrong, found)


def test_a_saved_drawing_is_the_one_that_was_drawn(tmp_path):
    drawn = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    save_drawing(tmp_path / "new" / "film.png", drawn)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new/film.png")), drawn)


def test_a_larger_film_is_shrunk_with_what_is_found():
    shape = (900, 600)
    drawn = draw_findings(np.full(shape, 70, np.uint8), findings(shape), largest=450)
    own = draw_findings(np.full((450, 300), 70, np.uint8), findings((450, 300)), largest=450)
    assert drawn.shape == own.shape and drawn.shape[0] == 450
    differ = np.abs(drawn.astype(int) - own).max(axis=2) > 40  # points lie a quarter of a px apart
    assert differ.mean() < 0.01
    one, other = (draw_findings(film(shape), findings(shape), **more) for more in ({}, {"largest": 2000}))
    assert (one == other).all()


def test_operating_points_decide_which_labels_are_bright():
    shape = (900, 900)
    found = findings(shape, lines=False)
    plain = draw_findings(film(shape), found)
    low, high = (
        draw_findings(film(shape), found, operating_points=dict.fromkeys(LABELS, OperatingPoint(p, "sensitivity 0.9")))
        for p in (0.2, 0.8)
    )
    strip = (slice(None), slice(900, None))
    assert plain[strip].astype(int).sum() < low[strip].astype(int).sum()  # as bright, and marked
    assert high[strip].astype(int).sum() < low[strip].astype(int).sum()
    other = dict.fromkeys(LABELS, OperatingPoint(0.2, "precision 0.5"))
    assert (draw_findings(film(shape), found, operating_points=other)[strip] != low[strip]).any()  # it is said


def test_an_end_that_is_no_tip_has_a_square_instead_of_a_ring_and_stays_visible():
    shape = (900, 900)
    before = film(shape)
    found = findings(shape)
    (tip, off) = found.lines
    faded = replace(found, lines=(replace(tip, tip=None, followed_to=tip.tip), off), distances=())
    ring, square = (draw_findings(before, each)[:, :900] for each in (found, faded))
    x, y, radius = 300, 450, 900 // 110
    assert (square[y - 2 : y + 3, x - 2 : x + 3] == before[y - 2 : y + 3, x - 2 : x + 3, None]).all()
    colour = np.array(DEVICE_COLOURS[Device.CVC])
    for dx, dy in ((1, 1), (1, -1), (-1, 1), (-1, -1)):  # a corner of the square lies outside the ring
        near = np.s_[y + dy * radius - 1 : y + dy * radius + 2, x + dx * radius - 1 : x + dx * radius + 2]
        assert (square[near] == colour).all(2).any() and not (ring[near] == colour).all(2).any()
