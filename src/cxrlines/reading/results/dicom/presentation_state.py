"""Findings as a grayscale softcopy presentation state: lines, tips and the carina, laid over the film by its viewer.

A layer a device, so that each can be switched off. The film is shown as its file says: what a presentation state does
not name of window and LUT would not be applied at all (PS3.4 N.2).
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from pydicom.dataset import Dataset

from cxrlines.core.findings import Findings
from cxrlines.core.notes import Code
from cxrlines.io.dicom.decode import gray_span
from cxrlines.io.dicom.display import FUNCTIONS, MOST_WINDOWS, windowed
from cxrlines.io.dicom.header import Elements
from cxrlines.reading.distances import UNRULED
from cxrlines.reading.results.dicom.codes import LANDMARK_CODES
from cxrlines.reading.results.dicom.datasets import MARK, image_coordinates, new_result, reference_item, replaced_item
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.reading.results.dicom.source_film import SourceFilm
from cxrlines.reading.results.report_text import NOT_LOOKED_FOR, ends_at_earlier, looked_for, spacing_words, tip_words
from cxrlines.task import DEVICE_COLOURS, DEVICES, Device

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.11.1"
SERIES_NUMBER = 9902
MARK_LAYER, LANDMARK_LAYER = "RESEARCH USE", "LANDMARKS"
WHITE = (255, 255, 255)
SQUARE = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])
RING = 1 / 110
"""Radius of the ring around a tip, and half the side of the square where a line is followed to without one, as a share
of the film's longer side."""
DOUBTS = (*UNRULED, Code.CROPPED)
"""Notes without which distances and tips would seem surer than they are."""


class _Layer(NamedTuple):
    """A layer that viewers can switch off: its annotation, and how the layer is described and coloured (RGB)."""

    annotation: Dataset
    description: str
    colour: tuple[int, int, int]


def presentation_state(
    source: SourceFilm, findings: Findings, read_by: ReadBy, replaced: Sequence[str] = ()
) -> Dataset:
    """The presentation state of a film in gray, without its own UIDs. `FilmError` if the film cannot be decoded.

    Args:
        replaced: SOP instances of earlier states that this one replaces.
    """
    dataset = new_result(source, read_by, SOP_CLASS, "PR", "lines and tips", SERIES_NUMBER)
    dataset.PresentationCreationDate, dataset.PresentationCreationTime = source.date, source.time
    dataset.ContentLabel = "CXRLINES"
    dataset.ContentDescription = f"{MARK}, {read_by.name}"[:64]
    dataset.ContentCreatorName = None
    dataset.BodyPartExamined = "CHEST"
    series = Dataset()
    series.SeriesInstanceUID = source.series_uid
    series.ReferencedImageSequence = [reference_item(source.sop_class, source.sop_uid)]
    dataset.ReferencedSeriesSequence = [series]
    if replaced:
        dataset.ReferencedInstanceSequence = [replaced_item(SOP_CLASS, uid) for uid in replaced]
    dataset.DisplayedAreaSelectionSequence = [_displayed_area(source, findings)]
    layers = _layers(findings, read_by)
    dataset.GraphicAnnotationSequence = [layer.annotation for layer in layers]
    dataset.GraphicLayerSequence = [_layer_item(order, layer) for order, layer in enumerate(layers, start=1)]
    rescaled = _modality_lut(dataset, source.header)
    dataset.SoftcopyVOILUTSequence = [_voi_lut(source, findings, rescaled)]
    dataset.PresentationLUTShape = "INVERSE" if source.is_inverse else "IDENTITY"
    return dataset


def _displayed_area(source: SourceFilm, findings: Findings) -> Dataset:
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [findings.film_shape[1], findings.film_shape[0]]
    area.PresentationSizeMode = "SCALE TO FIT"
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        spacing = source.header.numbers(keyword)
        if len(spacing) == 2 and all(0 < mm < 100 for mm in spacing):
            area.PresentationPixelSpacing = [f"{mm:.10g}" for mm in spacing]
            return area
    aspect = source.header.numbers("PixelAspectRatio")
    whole = len(aspect) == 2 and all(0 < side < 2**31 and side == int(side) for side in aspect)
    area.PresentationPixelAspectRatio = [int(side) for side in aspect] if whole else [1, 1]
    return area


def _layers(findings: Findings, read_by: ReadBy) -> list[_Layer]:
    """A layer for each device, one for the landmarks, and one for the mark of research use."""
    radius = max(4.0, RING * max(findings.film_shape))
    layers = [
        _device_layer(device, findings, radius) for device in dict.fromkeys(line.device for line in findings.lines)
    ]
    if findings.landmarks:
        layers.append(_landmark_layer(findings, radius))
    lacking = "" if findings.lines else "No line found." if looked_for(findings) else NOT_LOOKED_FOR
    doubts = dict.fromkeys(note.text for note in findings.all_notes if note.code in DOUBTS)
    words = (MARK, read_by.name, lacking, spacing_words(findings), *doubts)
    text = _text_on_top("\r\n".join(filter(None, words)))
    layers.append(_Layer(_annotation(MARK_LAYER, [], [text]), MARK, WHITE))
    return layers


def _device_layer(device: Device, findings: Findings, radius: float) -> _Layer:
    """The paths of a device's lines, their tips as rings of a `radius` px, or squares where they are followed to."""
    shape = findings.film_shape
    graphics, texts = [], []
    for k, line in enumerate(findings.lines):
        if line.device is not device:
            continue
        path = image_coordinates(line.path, shape)
        if len(path) > 1:
            graphics.append(_graphic("POLYLINE", path))
        if line.tip is not None:
            (tip,) = image_coordinates(line.tip[None], shape)
            graphics.append(_graphic("POINT", tip[None]))
            inward = radius if tip[0] + radius <= shape[1] else -radius
            graphics.append(_graphic("CIRCLE", _inside(np.stack([tip, tip + np.array([inward, 0])]), shape)))
        if line.followed_to is not None:
            (end,) = image_coordinates(line.followed_to[None], shape)
            graphics.append(_graphic("POLYLINE", _inside(end + radius * SQUARE, shape)))
        if not ends_at_earlier(findings, k):
            texts.append(_text_at(tip_words(findings, k), _inside(path[-1] + np.array([1.6 * radius, 0]), shape)))
    return _Layer(_annotation(device.name, graphics, texts), DEVICES[device].text, DEVICE_COLOURS[device])


def _landmark_layer(findings: Findings, radius: float) -> _Layer:
    graphics, texts = [], []
    for landmark, point in findings.landmarks.items():
        (place,) = image_coordinates(point.xy[None], findings.film_shape)
        graphics.append(_graphic("POINT", place[None]))
        beside = _inside(place + np.array([0.5 * radius, 0]), findings.film_shape)
        texts.append(_text_at(LANDMARK_CODES[landmark].meaning, beside))
    return _Layer(_annotation(LANDMARK_LAYER, graphics, texts), "landmarks", WHITE)


def _inside(points: np.ndarray, film_shape: tuple[int, int]) -> np.ndarray:
    """Points (n, 2) or (2,) in image coordinates, those outside moved to the edge: viewers may hide or refuse them."""
    clipped: np.ndarray = np.clip(points, 0.0, [film_shape[1], film_shape[0]])
    return clipped


def _annotation(layer: str, graphics: Sequence[Dataset], texts: Sequence[Dataset]) -> Dataset:
    annotation = Dataset()
    annotation.GraphicLayer = layer[:16]
    if texts:
        annotation.TextObjectSequence = list(texts)
    if graphics:
        annotation.GraphicObjectSequence = list(graphics)
    return annotation


def _layer_item(order: int, layer: _Layer) -> Dataset:
    item = Dataset()
    item.GraphicLayer, item.GraphicLayerOrder = layer.annotation.GraphicLayer, order
    item.GraphicLayerDescription = layer.description
    lightness, a, b = cv2.cvtColor(np.array([[layer.colour]], np.float32) / 255, cv2.COLOR_RGB2LAB)[0, 0].tolist()
    fractions = (lightness / 100, (a + 128) / 255, (b + 128) / 255)  # PS3.3 C.10.7.1.1
    item.GraphicLayerRecommendedDisplayCIELabValue = [round(65535 * min(max(value, 0), 1)) for value in fractions]
    item.GraphicLayerRecommendedDisplayGrayscaleValue = 65535
    return item


def _graphic(kind: str, points: np.ndarray) -> Dataset:
    graphic = Dataset()
    graphic.GraphicAnnotationUnits, graphic.GraphicDimensions = "PIXEL", 2
    graphic.NumberOfGraphicPoints = len(points)
    graphic.GraphicData = np.round(points, 1).ravel().tolist()
    graphic.GraphicType = kind
    if kind == "CIRCLE":
        graphic.GraphicFilled = "N"
    return graphic


def _text_at(words: str, point: np.ndarray) -> Dataset:
    text = Dataset()
    text.UnformattedTextValue = words
    text.AnchorPointAnnotationUnits, text.AnchorPointVisibility = "PIXEL", "N"
    text.AnchorPoint = np.round(point, 1).tolist()
    return text


def _text_on_top(words: str) -> Dataset:
    """Along the top of what is displayed."""
    text = Dataset()
    text.UnformattedTextValue = words
    text.BoundingBoxAnnotationUnits, text.BoundingBoxTextHorizontalJustification = "DISPLAY", "LEFT"
    height = 0.02 * max(4, 1 + words.count("\n"))
    text.BoundingBoxTopLeftHandCorner, text.BoundingBoxBottomRightHandCorner = [0.0, 0.0], [1.0, height]
    return text


def _modality_lut(dataset: Dataset, header: Elements) -> bool:
    """The film's Modality LUT, else its rescale; whether they can be used, as LUTs and windows rest on them."""
    if items := header["ModalityLUTSequence"].items:
        if lut := _lut(items[0], header):
            lut.ModalityLUTType = "US"
            dataset.ModalityLUTSequence = [lut]
        return lut is not None
    names = ("RescaleSlope", "RescaleIntercept")
    slope, intercept = (next(iter(header.numbers(name)), 0.0) for name in names)
    slope = slope or 1.0
    if not (1e-9 < abs(slope) < 1e9 and abs(intercept) <= 1e9):  # NaN, what is no number, is neither
        return False
    if any(name in header for name in names):
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = f"{intercept:.10g}", f"{slope:.10g}", "US"
    return True


def _voi_lut(source: SourceFilm, findings: Findings, rescaled: bool) -> Dataset:
    """The VOI LUT or the window that the film is shown by here: one of them, no more (PS3.3 C.11.8).

    LUTs go before windows, and of each that shows nothing there is a note. A film with neither gets the window that its
    values are shown by.
    """
    header, voi = source.header, Dataset()
    passed = [note.code for note in findings.notes]
    luts = [_lut(item, header) for item in header["VOILUTSequence"].items][passed.count(Code.LUT_IGNORED) :]
    if rescaled and (lut := next(filter(None, luts), None)):
        voi.VOILUTSequence = [lut]
        return voi
    functions = header.text("VOILUTFunction").upper().split("\\")
    pairs = list(zip(header.numbers("WindowCenter"), header.numbers("WindowWidth"), strict=False))
    named = functions if len(functions) == len(pairs) else functions[:1] * len(pairs)
    looked_at = list(zip(pairs, named, strict=True))[:MOST_WINDOWS]
    windows = [(*pair, name.strip()) for pair, name in looked_at if pair != (0, 0)]
    windows = [each for each in windows[passed.count(Code.WINDOW_IGNORED) :] if _has_meaning(*each)]
    if rescaled and windows:
        centre, width, function = windows[0]
        if function in FUNCTIONS:
            voi.VOILUTFunction = function
    else:
        black, white = gray_span(source.data)
        centre, width = (black + white + 1) / 2, white - black + 1
    voi.WindowCenter, voi.WindowWidth = f"{centre:.10g}", f"{width:.10g}"
    return voi


def _has_meaning(centre: float, width: float, function: str) -> bool:
    return windowed(np.zeros(1), centre, width, function if function in FUNCTIONS else "LINEAR") is not None


def _lut(item: Elements, header: Elements) -> Dataset | None:
    """A LUT of the film; None for one that is not whole."""
    descriptor, data = item.words("LUTDescriptor"), item.words("LUTData")
    if len(descriptor) != 3 or not len(data):
        return None
    signed = item["LUTDescriptor"].vr == "SS" or header.integer("PixelRepresentation") == 1
    entries, first, bits = descriptor.tolist()
    if (len(data) if bits > 8 else len(item["LUTData"].data)) < (entries or 2**16):
        return None
    if signed and first >= 2**15:
        first -= 2**16
    lut = Dataset()  # the number of entries is unsigned in either VR (PS3.3 C.11.2.1.1)
    lut.add_new("LUTDescriptor", "SS" if first < 0 else "US", [entries, first, bits])
    lut.add_new("LUTData", "OW", data.astype("<u2").tobytes())
    return lut
