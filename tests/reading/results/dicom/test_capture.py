"""The capture: the film as it is, findings on it, and what they rest on."""

import io

import numpy as np
import pydicom
import pytest

from cxrlines.io.films import read_film
from cxrlines.reading.results.dicom.capture import LARGEST
from cxrlines.reading.results.dicom.objects import Kind, result_objects


@pytest.fixture
def capture(results):
    def of(source: bytes, findings) -> pydicom.Dataset:
        (made,) = result_objects(source, findings, results.read_by, kinds=[Kind.CAPTURE])
        return pydicom.dcmread(io.BytesIO(made.content))

    return of


def test_the_film_is_drawn_at_its_own_resolution(results, capture):
    shape = (600, 500)
    source = results.film_file(shape)
    drawn = capture(source, results.found(shape)).pixel_array
    film = read_film(source).pixels
    assert drawn.shape[0] == 600 and drawn.shape[1] > 500
    untouched = (drawn[:, :500] == film[:, :, None]).all(axis=2)
    assert 0.9 < untouched.mean() < 1  # but for lines, tips and their names


def test_a_large_film_is_shrunk(results, capture):
    shape = (2500, 2000)
    drawn = capture(results.film_file(shape), results.found(shape)).pixel_array
    assert drawn.shape[0] == LARGEST
    tip = results.found(shape).lines[0].tip * LARGEST / 2500
    near = drawn[int(tip[1]) - 25 : int(tip[1]) + 25, int(tip[0]) - 25 : int(tip[0]) + 25].astype(int)
    assert (np.ptp(near, axis=2) > 60).any()  # the ring around the tip is where the tip is


def test_it_is_an_image_derived_from_the_film(results, capture):
    made = capture(results.film_file(), results.found())
    assert list(made.ImageType) == ["DERIVED", "SECONDARY"]
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.826.0.1.3680043.10.1.1"
    assert (made.Modality, made.ConversionType) == ("OT", "WSD")
    assert made.DerivationDescription.startswith("FOR RESEARCH USE ONLY")


@pytest.mark.parametrize(("given", "said"), [("YES", "YES"), ("NO", "NO"), ("perhaps", None), (None, None)])
def test_whether_names_are_burnt_in_is_said_where_the_film_says_it(results, capture, given, said):
    tags = {} if given is None else {"BurnedInAnnotation": given}
    assert capture(results.film_file(**tags), results.found()).get("BurnedInAnnotation") == said


def test_loss_of_the_film_is_loss_of_its_picture(results, capture):
    assert "LossyImageCompression" not in capture(results.film_file(LossyImageCompression="00"), results.found())
    earlier = {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": ["12", "3.5"],
        "LossyImageCompressionMethod": ["ISO_10918_1", "ISO_15444_1"],
    }
    made = capture(results.film_file(**earlier), results.found())
    assert {name: made.get(name) for name in earlier} == earlier
    jpeg = capture(results.jpeg_film(), results.found())  # its header says nothing of it
    assert (jpeg.LossyImageCompression, jpeg.LossyImageCompressionMethod) == ("01", "ISO_10918_1")


def test_operating_points_are_marked(results, capture):
    source, findings = results.film_file(), results.found()
    with_points = capture(source, findings).pixel_array
    (bare,) = result_objects(
        source, findings, type(results.read_by)("0123456789ab", "onnx", version="1.2.3"), kinds=[Kind.CAPTURE]
    )
    assert (with_points != pydicom.dcmread(io.BytesIO(bare.content)).pixel_array).any()
