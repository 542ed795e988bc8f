"""The presentation state: the film as it is shown here, and lines a layer a device."""

import io
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from cxrlines.core.findings import Keypoint, Line
from cxrlines.core.notes import Code, Note
from cxrlines.io.films import read_film
from cxrlines.reading.results.dicom.objects import Kind, result_objects
from cxrlines.reading.results.report_text import NOT_LOOKED_FOR
from cxrlines.task import Device, Landmark


@pytest.fixture
def state(results):
    def of(source: bytes, findings=None) -> Dataset:
        given = results.found() if findings is None else findings
        (made,) = result_objects(source, given, results.read_by, kinds=[Kind.PRESENTATION])
        return pydicom.dcmread(io.BytesIO(made.content))

    return of


def shown(source: bytes, state: Dataset) -> np.ndarray:
    """The film through the transforms of a state alone (PS3.4 N.2), by pydicom: uint8."""
    film = pydicom.dcmread(io.BytesIO(source))
    stored = film.pixel_array
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        setattr(film, keyword, state.get(keyword, 1 if keyword == "RescaleSlope" else 0))
    (voi,) = state.SoftcopyVOILUTSequence
    for keyword in ("VOILUTFunction", "VOILUTSequence"):
        if keyword in film:
            delattr(film, keyword)
    film.PhotometricInterpretation = "MONOCHROME2"
    film.WindowCenter, film.WindowWidth = voi.WindowCenter, voi.WindowWidth
    values = apply_modality_lut(stored, film)
    gray = apply_voi_lut(values, film).astype(np.float64)
    low = float(state.get("RescaleIntercept", 0))
    high = low + 4095 * float(state.get("RescaleSlope", 1))
    share = (gray - low) / (high - low)
    return np.rint(255 * (1 - share if state.PresentationLUTShape == "INVERSE" else share)).astype(int)


@pytest.mark.parametrize("name", ["dx", "mono1", "mono1-identity", "no-window", "rescaled"])
def test_a_viewer_shows_the_film_as_it_is_shown_here(results, state, name):
    """Through the state alone: a viewer applies nothing of the film's own window and LUT beside it."""
    source = results.film_file(**results.films[name])
    ours = read_film(source).pixels.astype(int)
    assert np.abs(shown(source, state(source)) - ours).max() <= 1


def lut_of(entries: int = 4096, data: int | None = None) -> Dataset:
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [entries, 0, 16])
    lut.add_new("LUTData", "OW", (np.arange(entries, dtype="<u2") * 16)[:data].tobytes())
    return lut


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ({"WindowCenter": [1000, 2048], "WindowWidth": [1500, 4096]}, (1000, 1500, None)),
        ({"WindowCenter": [60000, 2000], "WindowWidth": [10, 3000]}, (2000, 3000, None)),  # the first shows nothing
        ({"WindowCenter": [0, 2000], "WindowWidth": [0, 3000]}, (2000, 3000, None)),
        ({"WindowCenter": [2000, 1900], "WindowWidth": [-1, 3000]}, (1900, 3000, None)),
        (
            {"WindowCenter": [60000, 2000], "WindowWidth": [10, 3000], "VOILUTFunction": ["LINEAR", "SIGMOID"]},
            (2000, 3000, "SIGMOID"),
        ),
        ({"WindowCenter": [60000] * 15 + [2000], "WindowWidth": [10] * 15 + [3000]}, (2000, 3000, None)),
        ({"VOILUTSequence": [lut_of()]}, None),  # beside its window
        ({"VOILUTSequence": [lut_of(), lut_of(2048)]}, None),
        ({"VOILUTSequence": [lut_of(data=100), lut_of()]}, None),
        ({"VOILUTSequence": [lut_of(data=100)]}, (2048, 4096, None)),
    ],
)
def test_a_state_has_one_lut_or_one_window_by_which_the_film_is_shown_here(results, state, tags, wanted):
    """PS3.3 C.11.8: there is no other choice for a viewer."""
    source = results.film_file(**tags)
    made = state(source, replace(results.found(), notes=read_film(source).notes))
    (voi,) = made.SoftcopyVOILUTSequence
    assert ("VOILUTSequence" in voi) is (wanted is None) is ("WindowCenter" not in voi) is ("WindowWidth" not in voi)
    if wanted is None:
        (lut,) = voi.VOILUTSequence
        assert lut == lut_of() and "VOILUTFunction" not in voi
    else:
        assert (voi.WindowCenter, voi.WindowWidth, voi.get("VOILUTFunction")) == wanted


def test_a_window_that_is_not_looked_at_is_not_taken_over(results, state):
    source = results.film_file(WindowCenter=[60000] * 16 + [100], WindowWidth=[10] * 16 + [50])
    made = state(source, replace(results.found(), notes=read_film(source).notes))
    assert made.SoftcopyVOILUTSequence[0].WindowWidth > 1000
    assert np.abs(shown(source, made) - read_film(source).pixels.astype(int)).max() <= 1


def test_windows_that_rest_on_a_broken_rescale_are_not_taken_over(results, state):
    source = results.film_file(RescaleSlope="1e20", WindowCenter=1, WindowWidth=2)
    made = state(source, replace(results.found(), notes=read_film(source).notes))
    assert "RescaleSlope" not in made and made.SoftcopyVOILUTSequence[0].WindowWidth > 1000
    assert np.abs(shown(source, made) - read_film(source).pixels.astype(int)).max() <= 1


def test_a_lut_goes_along(results, state):
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [4096, 0, 16], (np.arange(4096, dtype="<u2") * 16).tobytes()
    lut["LUTDescriptor"].VR, lut["LUTData"].VR = "US", "OW"
    source = results.film_file(VOILUTSequence=[lut], WindowCenter=None, WindowWidth=None)
    (voi,) = state(source).SoftcopyVOILUTSequence
    assert list(voi.VOILUTSequence[0].LUTDescriptor) == [4096, 0, 16]
    assert voi.VOILUTSequence[0].LUTData == lut.LUTData
    assert "WindowCenter" not in voi


@pytest.mark.parametrize(
    ("vr", "descriptor", "wanted"),
    [
        ("US", [40000, 0, 16], ("US", [40000, 0, 16])),
        ("US", [40000, 65000, 16], ("SS", [40000, 65000 - 2**16, 16])),
        ("SS", [4096, -2048, 16], ("SS", [4096, -2048, 16])),
        ("SS", [40000, 0, 16], ("US", [40000, 0, 16])),
    ],
)
def test_the_number_of_entries_of_a_lut_is_unsigned(results, state, vr, descriptor, wanted):
    """Of signed pixels only the first value mapped is signed."""
    lut = Dataset()
    lut.add_new("LUTDescriptor", vr, descriptor)
    lut.add_new("LUTData", "OW", np.linspace(0, 65535, descriptor[0]).astype("<u2").tobytes())
    source = results.film_file(PixelRepresentation=1, VOILUTSequence=[lut])
    (voi,) = state(source).SoftcopyVOILUTSequence
    made = voi.VOILUTSequence[0]["LUTDescriptor"]
    assert (made.VR, list(made.value)) == wanted
    assert voi.VOILUTSequence[0].LUTData == lut.LUTData


@pytest.mark.parametrize(
    ("given", "wanted"), [([2, 1], [2, 1]), ([1, 1], [1, 1]), ([0, 1], [1, 1]), (None, [1, 1]), ([3, 2, 1], [1, 1])]
)
def test_pixels_that_are_not_square_are_shown_so(results, state, given, wanted):
    tags = {} if given is None else {"PixelAspectRatio": given}
    (area,) = state(results.film_file(ImagerPixelSpacing=None, **tags)).DisplayedAreaSelectionSequence
    assert list(area.PresentationPixelAspectRatio) == wanted


def test_lines_lie_in_a_layer_for_each_device(results, state):
    findings = results.found()
    made = state(results.film_file())
    layers = {layer.GraphicLayer: layer for layer in made.GraphicLayerSequence}
    assert list(layers) == ["ETT", "NGT", "CVC", "LANDMARKS", "RESEARCH USE"]
    assert len({tuple(layer.GraphicLayerRecommendedDisplayCIELabValue) for layer in layers.values()}) == 4
    annotations = {each.GraphicLayer: each for each in made.GraphicAnnotationSequence}
    for k, name in enumerate(("ETT", "NGT", "CVC")):
        line = annotations[name].GraphicObjectSequence[0]
        assert line.GraphicType == "POLYLINE"
        points = np.reshape(line.GraphicData, (-1, 2))
        assert np.allclose(points, findings.lines[k].path + 0.5, atol=0.051)
        assert len(points) == line.NumberOfGraphicPoints
    point = annotations["ETT"].GraphicObjectSequence[1]
    assert np.allclose(point.GraphicData, findings.lines[0].tip + 0.5, atol=0.051)
    (text,) = annotations["ETT"].TextObjectSequence
    assert "above carina" in text.UnformattedTextValue


def test_where_a_line_is_followed_to_without_a_tip_there_is_a_square_and_no_ring(results, state):
    findings = results.found(faded=True)
    made = state(results.film_file(), findings)
    (cvc,) = [each for each in made.GraphicAnnotationSequence if each.GraphicLayer == "CVC"]
    _, square = cvc.GraphicObjectSequence
    points = np.reshape(square.GraphicData, (-1, 2))
    assert square.GraphicType == "POLYLINE" and len(points) == 5 and (points[0] == points[-1]).all()
    assert np.allclose(points[:4].mean(0), findings.lines[2].path[-1] + 0.5, atol=0.06)
    (text,) = cvc.TextObjectSequence
    assert text.UnformattedTextValue == "CVC followed to here"


def test_lines_of_a_device_that_end_at_one_place_have_one_text(results, state):
    findings = results.found()
    made = state(results.film_file(), replace(findings, lines=(*findings.lines, findings.lines[2])))
    (cvc,) = [each for each in made.GraphicAnnotationSequence if each.GraphicLayer == "CVC"]
    assert [each.GraphicType for each in cvc.GraphicObjectSequence].count("POLYLINE") == 2
    assert len(cvc.TextObjectSequence) == 1


def test_the_mark_is_where_people_look(results, state):
    for findings in (results.found(), results.found(lines=False, carina=False)):
        made = state(results.film_file(), findings)
        assert made.ContentDescription.startswith("FOR RESEARCH USE ONLY")
        words = made.GraphicAnnotationSequence[-1].TextObjectSequence[0].UnformattedTextValue
        assert words.startswith("FOR RESEARCH USE ONLY") and "cxrlines 1.2.3, weights 0123456789ab" in words


@pytest.mark.parametrize(("evidence", "said"), [({}, "No line found."), (None, NOT_LOOKED_FOR)])
def test_what_was_not_looked_for_is_not_called_not_found(results, state, evidence, said):
    findings = replace(results.found(lines=False, carina=False), evidence=evidence)
    text = state(results.film_file(), findings).GraphicAnnotationSequence[-1].TextObjectSequence[0]
    assert text.UnformattedTextValue.splitlines()[-1] == said


def test_nothing_is_laid_beside_the_film(results, state):
    """Rings, squares and the places of texts of what ends at its edge."""
    ends = np.array([[99.4, 30.0], [99.4, 119.4], [-0.4, -0.4], [99.4, 60.0]])
    lines = tuple(
        Line(Device.CVC, np.stack([[50.0, 60.0], end]), *((None, 1.0, end) if k == 3 else (end, 1.0)))
        for k, end in enumerate(ends)
    )
    carina = {Landmark.CARINA: Keypoint(ends[1], 0.8)}
    made = state(results.film_file(), replace(results.found(), lines=lines, landmarks=carina, distances=()))
    rings = 0
    for annotation in made.GraphicAnnotationSequence[:-1]:
        texts = [each.AnchorPoint for each in annotation.TextObjectSequence]
        for points in [*texts, *(each.GraphicData for each in annotation.GraphicObjectSequence)]:
            points = np.reshape(points, (-1, 2))
            assert (points >= 0).all() and (points <= [100, 120]).all()
        for each in annotation.GraphicObjectSequence:
            if each.GraphicType == "CIRCLE":
                (x, y), (on_ring, beside) = np.reshape(each.GraphicData, (2, 2))
                assert abs(on_ring - x) == pytest.approx(4.0, abs=0.051) and beside == y
                rings += 1
    assert rings == 3


@pytest.mark.parametrize("code", ["perhaps-no-chest-film", "pose-unsure", "mirrored", "child", "cropped"])
def test_doubts_about_distances_stand_on_top(results, state, code):
    note, other = Note(Code(code), "it may be another film"), Note(Code.END_MISSING, "its end is missing")
    made = state(results.film_file(), replace(results.found(), notes=(note, note, other)))
    text = made.GraphicAnnotationSequence[-1].TextObjectSequence[0].UnformattedTextValue
    assert text.count("it may be another film") == 1 and "its end is missing" not in text


def test_a_film_in_colour_has_none(results):
    colour = results.film_file(PhotometricInterpretation="RGB", SamplesPerPixel=3)
    assert not result_objects(colour, results.found(), results.read_by, kinds=[Kind.PRESENTATION])
