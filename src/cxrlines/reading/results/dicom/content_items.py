"""Content items of a DICOM structured report (PS3.3 C.17.3), as datasets."""

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from cxrlines.reading.results.dicom.codes import Concept
from cxrlines.reading.results.dicom.datasets import code_item

CONTAINS, MODIFIER, CONTEXT = "CONTAINS", "HAS CONCEPT MOD", "HAS OBS CONTEXT"
PROPERTIES, ACQUISITION, SELECTED = "HAS PROPERTIES", "HAS ACQ CONTEXT", "SELECTED FROM"


def container(
    relationship: str | None, name: Concept, children: Sequence[Dataset], template: str | None = None
) -> Dataset:
    """A container of items; of `template` (a number in DCMR) where it begins one. None: the root."""
    item = _item(relationship, "CONTAINER", name, children)
    item.ContinuityOfContent = "SEPARATE"
    if template:
        of = Dataset()
        of.MappingResource, of.TemplateIdentifier = "DCMR", template
        item.ContentTemplateSequence = [of]
    return item


def code(relationship: str, name: Concept, value: Concept) -> Dataset:
    """A concept."""
    item = _item(relationship, "CODE", name)
    item.ConceptCodeSequence = [code_item(value)]
    return item


def text(relationship: str, name: Concept, value: str) -> Dataset:
    """A sentence, in ASCII, as any character set of the film has it."""
    item = _item(relationship, "TEXT", name)
    item.TextValue = value.encode("ascii", "replace").decode("ascii").replace("\\", "/")
    return item


def uid(relationship: str, name: Concept, value: str) -> Dataset:
    """A UID."""
    item = _item(relationship, "UIDREF", name)
    item.UID = value
    return item


def number(
    relationship: str, name: Concept, value: float, unit: Concept, children: Sequence[Dataset] = (), digits: int = 1
) -> Dataset:
    """A measurement, to so many `digits` after the point: the last ones differ between batches of one and of eight."""
    item = _item(relationship, "NUM", name, children)
    measured = Dataset()
    measured.MeasurementUnitsCodeSequence = [code_item(unit)]
    measured.NumericValue = f"{round(value, digits) + 0.0:.10g}"
    item.MeasuredValueSequence = [measured]
    return item


def image(relationship: str, reference: Dataset, name: Concept | None = None) -> Dataset:
    """A reference to the film."""
    item = _item(relationship, "IMAGE", name)
    item.ReferencedSOPSequence = [reference]
    return item


def region(name: Concept, points: np.ndarray, reference: Dataset) -> Dataset:
    """A point or a line (n, 2) on the film, in `datasets` coordinates: (0, 0) is the corner of its first pixel."""
    item = _item(CONTAINS, "SCOORD", name, [image(SELECTED, reference)])
    item.GraphicType = "POINT" if len(points) == 1 else "POLYLINE"
    item.GraphicData = points.ravel().tolist()
    return item


def _item(relationship: str | None, kind: str, name: Concept | None, children: Sequence[Dataset] = ()) -> Dataset:
    item = Dataset()
    if relationship:
        item.RelationshipType = relationship
    item.ValueType = kind
    if name:
        item.ConceptNameCodeSequence = [code_item(name)]
    if children:
        item.ContentSequence = list(children)
    return item
