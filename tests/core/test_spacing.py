"""Spacing of a film: which value is taken, what it rests on, and what is not believed."""

import pytest

from cxrlines.core.notes import Code
from cxrlines.core.spacing import NO_SPACING, Spacing, SpacingKind, pixel_aspect, spacing_of

D, C = SpacingKind.DETECTOR, SpacingKind.CALIBRATED
A, B = (0.14, 0.14), (0.1273, 0.1273)
"""The detector's spacing, and that divided by 1.1."""


@pytest.mark.parametrize(
    ("given", "kind", "mm", "divided"),
    [
        # one value
        ({"pixel": A}, D, A, None),
        ({"imager": A}, D, A, None),
        ({"nominal": A}, D, A, None),
        ({"imager": (0.14, 0.15)}, D, (0.14, 0.15), None),
        ({"pixel": A, "nominal": B}, D, A, None),
        # two: equal, one of them corrected by what is known, or not known
        ({"pixel": A, "imager": A}, D, A, None),
        ({"pixel": A, "imager": A, "calibration": "GEOMETRY"}, D, A, None),  # the detector's all the same
        ({"pixel": B, "imager": A, "calibration": "GEOMETRY"}, C, B, None),
        ({"pixel": B, "imager": A, "calibration": "FIDUCIAL"}, C, B, None),
        ({"pixel": A, "calibration": "FIDUCIAL"}, C, A, None),
        ({"imager": A, "calibration": "FIDUCIAL"}, D, A, None),  # it is of PixelSpacing
        ({"pixel": B, "imager": A}, D, B, None),
        ({"pixel": B, "imager": A, "calibration": "Doe"}, D, B, None),
        # a magnification is applied once
        ({"imager": A, "factor": 1.1}, C, (0.14 / 1.1, 0.14 / 1.1), 1.1),
        ({"pixel": A, "factor": 1.1}, C, (0.14 / 1.1, 0.14 / 1.1), 1.1),
        ({"pixel": A, "imager": A, "factor": 1.1}, C, (0.14 / 1.1, 0.14 / 1.1), 1.1),
        ({"pixel": B, "imager": A, "factor": 1.1}, C, B, None),  # is in it already
        (
            {"pixel": (0.28, 0.28), "imager": A, "factor": 1.1, "columns": 1250},
            D,
            (0.28, 0.28),
            None,
        ),  # made smaller: is it in it?
        ({"pixel": B, "imager": A, "factor": 1.1, "calibration": "FIDUCIAL"}, C, B, None),
        ({"imager": A, "source_to_detector": 1800.0, "source_to_patient": 1650.0}, C, (0.14 / 12 * 11,) * 2, 12 / 11),
        ({"imager": A, "factor": 1.1, "source_to_detector": 1800.0, "source_to_patient": 1500.0}, C, B, 1.1),
        # 1 and 0 fill the elements; the distance to the table is not that to the patient
        ({"imager": A, "factor": 1.0}, D, A, None),
        ({"imager": A, "factor": 0.0}, D, A, None),
        ({"imager": A, "source_to_detector": 1800.0, "source_to_patient": 1800.0}, D, A, None),
        ({"imager": A, "source_to_detector": 1800.0, "source_to_patient": 0.0}, D, A, None),
    ],
)
def test_what_it_rests_on(given, kind, mm, divided):
    spacing, notes = spacing_of(**{"columns": 2500} | given)
    assert (spacing.kind, spacing.mm_per_px) == (kind, pytest.approx(mm, rel=1e-3))
    assert spacing.magnification == (None if divided is None else pytest.approx(divided)) and not notes


@pytest.mark.parametrize(
    "given",
    [
        {"pixel": (0, 0)}, {"pixel": (0.2,)}, {"pixel": (0.1, 0.1, 0.1)}, {"pixel": (float("nan"), 0.14)},
        {"pixel": (-0.14, 0.14)}, {"pixel": (14.0, 14.0)}, {"pixel": (0.14, 0.5)},
    ],
)  # fmt: skip
def test_what_is_no_spacing_gives_way(given):
    assert [note.code for note in spacing_of(2500, **given)[1]] == [Code.SPACING_IGNORED]
    assert spacing_of(2500, **given)[0] == NO_SPACING
    assert spacing_of(2500, **given, imager=A)[0] == Spacing(D, A)


@pytest.mark.parametrize(
    "given",
    [
        {"factor": 1.7}, {"factor": 0.9}, {"factor": -1.1},
        {"factor": 1.02}, {"factor": 1.049},  # to the table
        {"source_to_detector": 1800.0, "source_to_patient": 1760.0},  # to the table
        {"source_to_detector": 1000.0, "source_to_patient": 1800.0},
        {"source_to_detector": 1800.0, "source_to_patient": 180.0},  # cm
    ],
)  # fmt: skip
def test_a_magnification_that_cannot_be_is_not_applied(given):
    spacing, notes = spacing_of(2500, imager=A, **given)
    assert spacing == Spacing(D, A) and [note.code for note in notes] == [Code.SPACING_IGNORED]


def test_a_factor_near_1_makes_no_pixel_spacing_the_patients():
    """Not even one that differs from the detector's by it; what the file calls calibrated is."""
    by_table = {"pixel": (0.14 / 1.03, 0.14 / 1.03), "imager": A, "factor": 1.03}
    assert spacing_of(2500, **by_table)[0] == Spacing(D, by_table["pixel"])
    assert spacing_of(2500, **by_table, calibration="GEOMETRY")[0] == Spacing(C, by_table["pixel"])
    assert spacing_of(2500, imager=A, factor=1.05)[0].kind is C


@pytest.mark.parametrize(
    ("columns", "believed"), [(1024, False), (1750, False), (1800, True), (4200, True), (4300, False)]
)
def test_a_film_of_no_width_is_not_believed(columns, believed):
    for factor in (None, 1.1):  # the width is that of the detector, whatever is divided out
        spacing, notes = spacing_of(columns, imager=A, factor=factor)
        assert (spacing.kind != SpacingKind.NOT_BELIEVED) == believed == (spacing.mm_per_px is not None)
        assert [note.code for note in notes] == [Code.SPACING_NOT_BELIEVED] * (not believed)


@pytest.mark.parametrize("given", [{"pixel": (1, 1)}, {"imager": (1, 1)}, {"pixel": (1, 1), "imager": (1, 1)}])
def test_exactly_one_millimetre_only_fills_the_element(given):
    """Of 400 px it would make a film of 40 cm."""
    spacing, notes = spacing_of(400, **given)
    assert spacing == Spacing(SpacingKind.NOT_BELIEVED)
    assert [note.code for note in notes] == [Code.SPACING_NOT_BELIEVED]
    beside, notes = spacing_of(2500, pixel=(1, 1), imager=A)
    assert beside == Spacing(D, A) and [note.code for note in notes] == [Code.SPACING_IGNORED]
    assert spacing_of(400, pixel=(1.0, 0.99))[0].kind is D


@pytest.mark.parametrize(
    ("spacings", "ratio", "aspect", "noted"),
    [
        ([(), (), ()], (), 1.0, False),
        ([(), (), ()], (1, 1), 1.0, False),
        ([(), (), ()], (3, 2), 1.5, True),
        ([(), (), ()], (0, 2), 1.0, False),
        ([(), (), ()], (float("nan"), 2), 1.0, False),
        ([(0.2, 0.1), (), ()], (), 2.0, False),
        ([(0.2, 0.1), (), ()], (3, 2), 2.0, False),
        ([(0.14, 0.5), (0.1, 0.2), ()], (), 0.5, False),
        ([(0.14, 0.5), (), ()], (), 1.0, True),
        ([(0.14, 0.5), (), ()], (2, 3), 2 / 3, True),
        ([(0, 0), (), ()], (), 1.0, False),
    ],
)
def test_pixels_that_are_not_square(spacings, ratio, aspect, noted):
    found, notes = pixel_aspect(spacings, ratio)
    assert found == pytest.approx(aspect)
    assert [note.code for note in notes] == [Code.PIXELS_NOT_SQUARE] * noted


def test_a_file_that_names_none_has_none():
    assert spacing_of(2500) == (NO_SPACING, [])
    assert spacing_of(2500, factor=1.1, source_to_detector=1800.0, source_to_patient=1500.0) == (NO_SPACING, [])
