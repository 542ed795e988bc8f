"""Findings as a Comprehensive 3D SR: Imaging Measurement Report, TID 1500 (PS3.16).

A group (TID 1410) a line with its path, one with its tip and the distances, one for the carina: viewers draw one region
a group. A group without a region (TID 1501) for the film, and one for each device that the classifier knows.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset

from cxrlines.core.findings import Distance, Findings, presence_of
from cxrlines.core.notes import Code
from cxrlines.io.dicom.origin import MANUFACTURER
from cxrlines.reading.interpretation import SUPPRESS_BELOW
from cxrlines.reading.results.dicom import codes
from cxrlines.reading.results.dicom import content_items as items
from cxrlines.reading.results.dicom.datasets import (
    MARK,
    image_coordinates,
    new_result,
    reference_item,
    series_of,
    study_reference,
    uid_of,
)
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.reading.results.dicom.source_film import SourceFilm
from cxrlines.reading.results.report_text import as_text
from cxrlines.task import LABELS_OF, Device

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.88.34"
"""Comprehensive 3D SR Storage: what IHE AIR names for regions."""
SERIES_NUMBER = 9901
HIDING = (Code.SMALL, Code.ONE_BIT, Code.LOW_CONTRAST, Code.CROPPED, Code.POSE_UNSURE, Code.PERHAPS_NO_CHEST_FILM)
"""Notes on films on which no device is called absent: it may be there and not be seen."""
P_DIGITS, POINT_DIGITS = 2, 6
"""Digits after the point of a probability, in %, which is never as exact as its operating point: that is the same
for all films."""


def structured_report(
    source: SourceFilm, findings: Findings | str, read_by: ReadBy, replaced: Sequence[tuple[str, str]] = ()
) -> Dataset:
    """The report without its own UIDs.

    Args:
        findings: Of the film; or in a sentence why it was not read.
        replaced: (study, SOP instance) UIDs of earlier reports that this one replaces.
    """
    dataset = new_result(source, read_by, SOP_CLASS, "SR", "report", SERIES_NUMBER)
    dataset.ReferencedPerformedProcedureStepSequence = []
    dataset.PerformedProcedureCodeSequence = []
    dataset.ContentDate, dataset.ContentTime = source.date, source.time
    dataset.CompletionFlag, dataset.VerificationFlag, dataset.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    dataset.AuthorObserverSequence = [_author(read_by)]
    film = (source.series_uid, source.sop_class, source.sop_uid)
    dataset.CurrentRequestedProcedureEvidenceSequence = [study_reference(source.study_uid, [film])]
    if replaced:
        earlier: dict[str, list[tuple[str, str, str]]] = {}
        for study, uid in replaced:
            earlier.setdefault(study, []).append((series_of(uid), SOP_CLASS, uid))
        dataset.PredecessorDocumentsSequence = [study_reference(*each) for each in earlier.items()]
    groups = _groups(source, findings, read_by)
    children = [
        items.code(items.MODIFIER, codes.LANGUAGE, codes.ENGLISH),
        *_observer(read_by),
        items.code(items.MODIFIER, codes.PROCEDURE, codes.RADIOGRAPHY),
        items.container(items.CONTAINS, codes.LIBRARY, [_library(source)]),
        items.container(items.CONTAINS, codes.MEASUREMENTS, groups),
    ]
    dataset.update(items.container(None, codes.REPORT, children, "1500"))
    return dataset


def device_uid(read_by: ReadBy) -> str:
    """The UID of the reader as a device: that of its weights."""
    return uid_of("device", read_by.weights)


def _author(read_by: ReadBy) -> Dataset:
    author = Dataset()
    author.ObserverType, author.DeviceUID = "DEV", device_uid(read_by)
    author.Manufacturer, author.ManufacturerModelName = MANUFACTURER, read_by.name
    author.StationName = None
    author.InstitutionName, author.InstitutionCodeSequence = None, []
    return author


def _observer(read_by: ReadBy) -> list[Dataset]:
    """TID 1002, 1004."""
    return [
        items.code(items.CONTEXT, codes.OBSERVER_TYPE, codes.OBSERVER_IS_DEVICE),
        items.uid(items.CONTEXT, codes.DEVICE_UID, device_uid(read_by)),
        items.text(items.CONTEXT, codes.DEVICE_NAME, "cxrlines"),
        items.text(items.CONTEXT, codes.DEVICE_MANUFACTURER, MANUFACTURER),
        items.text(items.CONTEXT, codes.DEVICE_MODEL, read_by.name),
        items.text(items.CONTEXT, codes.DEVICE_SERIAL, read_by.weights),
    ]


def _library(source: SourceFilm) -> Dataset:
    """TID 1600: the film."""
    modality = codes.MODALITIES.get(source.modality, codes.OTHER_MODALITY)
    about = [items.code(items.ACQUISITION, codes.MODALITY, modality)]
    for name, keyword in ((codes.ROWS, "Rows"), (codes.COLUMNS, "Columns")):
        if (count := source.header.integer(keyword)) is not None:
            about.append(items.number(items.ACQUISITION, name, count, codes.PIXELS))
    film = items.image(items.CONTAINS, reference_item(source.sop_class, source.sop_uid))
    return items.container(items.CONTAINS, codes.LIBRARY_GROUP, [*about, film])


def _groups(source: SourceFilm, findings: Findings | str, read_by: ReadBy) -> list[Dataset]:
    """The measurement groups of a report; of a film that was not read one alone, which says why."""
    if isinstance(findings, str):
        return [_GroupWriter(source, read_by).film(codes.FILM_REFUSED, f"Not read: {findings}")]
    if not findings.quality.usable:
        return [_GroupWriter(source, read_by).film(codes.FILM_REFUSED, as_text(findings))]
    return list(_FindingsWriter(source, read_by, findings).all())


class _GroupWriter:
    """Writes measurement groups about a film."""

    def __init__(self, source: SourceFilm, read_by: ReadBy) -> None:
        self.source, self.read_by = source, read_by

    def film(self, finding: codes.Concept, words: str) -> Dataset:
        """The group of the whole film, with a comment for each line of `words`."""
        purpose = items.code(items.CONTAINS, codes.PURPOSE, codes.FOR_RESEARCH)
        comments = [items.text(items.CONTAINS, codes.COMMENT, line.strip()) for line in (*words.splitlines(), MARK)]
        return self._group("film", finding, [purpose, *comments])

    def _group(
        self, name: str, finding: codes.Concept, about: Sequence[Dataset], region: Dataset | None = None
    ) -> Dataset:
        """TID 1410 with a region, else TID 1501; with TID 4019, what found it."""
        tracking = uid_of("tracking", self.source.sop_uid, self.read_by.fingerprint, name)
        where = region or items.image(
            items.CONTAINS, reference_item(self.source.sop_class, self.source.sop_uid), codes.SOURCE
        )
        children = [
            items.text(items.CONTEXT, codes.TRACKING_ID, name),
            items.uid(items.CONTEXT, codes.TRACKING_UID, tracking),
            *self._algorithm(),
            items.code(items.CONTAINS, codes.FINDING, finding),
            where,
            *about,
        ]
        return items.container(items.CONTAINS, codes.GROUP, children, "1410" if region else "1501")

    def _algorithm(self) -> list[Dataset]:
        """TID 4019."""
        parameters = (MARK, f"weights {self.read_by.weights}", *self.read_by.parameters)
        return [
            items.text(items.MODIFIER, codes.ALGORITHM_NAME, "cxrlines"),
            items.text(items.MODIFIER, codes.ALGORITHM_VERSION, self.read_by.version),
            *(items.text(items.MODIFIER, codes.ALGORITHM_PARAMETERS, each) for each in parameters),
            items.code(items.MODIFIER, codes.ALGORITHM_FAMILY, codes.ARTIFICIAL_INTELLIGENCE),
        ]


class _FindingsWriter(_GroupWriter):
    """Writes the measurement groups of a film's findings."""

    def __init__(self, source: SourceFilm, read_by: ReadBy, findings: Findings) -> None:
        super().__init__(source, read_by)
        self.findings = findings

    def all(self) -> Iterator[Dataset]:
        """The film, its devices, its lines, its landmarks."""
        yield self.film(codes.FILM_READ, as_text(self.findings))
        for device in Device:
            if any(label in (self.findings.labels or {}) for label in LABELS_OF[device]):
                yield self._device(device)
        for k in range(len(self.findings.lines)):
            yield from self._line(k)
        for landmark, point in self.findings.landmarks.items():
            certainty, region = [_certainty(point.confidence)], self._region(point.xy[None])
            yield self._group(landmark.value, codes.LANDMARK_CODES[landmark], certainty, region)

    def _device(self, device: Device) -> Dataset:
        """What the classifier says of a device: a line that was not found is not absent for that."""
        labels = self.findings.labels or {}
        p = presence_of(labels)[device.name]
        about = []
        if any(line.device is device for line in self.findings.lines):
            about += [items.code(items.CONTAINS, codes.PRESENCE, codes.PRESENT), _certainty(p)]
        elif self._is_absent(device, p):
            about += [items.code(items.CONTAINS, codes.PRESENCE, codes.ABSENT), _certainty(1 - p)]
        else:
            about.append(items.code(items.CONTAINS, codes.PRESENCE, codes.UNDETERMINED))
        about += [self._label(label, labels[label]) for label in LABELS_OF[device] if label in labels]
        return self._group(device.name, codes.device_code(device), about)

    def _is_absent(self, device: Device, p: float) -> bool:
        """Whether a device without a line is absent by its probability.

        A bundle's limit for suppressing lines may be higher: it spares false lines, and says nothing of absence. Nor is
        a device absent of which a label is at its operating point, nor any on a film that may hide it.
        """
        if any(map(self.findings.has, HIDING)):
            return False
        points = self.read_by.operating_points
        labels = {label: q for label, q in (self.findings.labels or {}).items() if label in LABELS_OF[device]}
        called = any(label in points and q >= points[label].probability for label, q in labels.items())
        return not called and p < min(SUPPRESS_BELOW, self.read_by.denied.get(device.name, SUPPRESS_BELOW))

    def _label(self, label: str, p: float) -> Dataset:
        """The probability of a label, with its operating point, if it has one, on the side of it where it lies."""
        percent, limit = round(100 * p, P_DIGITS), []
        point = self.read_by.operating_points.get(label)
        if point is not None:
            least = round(100 * point.probability, POINT_DIGITS)
            if point.probability > 0:
                least = max(least, 10**-POINT_DIGITS)  # or 0 % would lie at it
            if (percent >= least) != (p >= point.probability):  # by rounding alone
                percent += math.copysign(10**-P_DIGITS, p - point.probability)
            limit.append(
                items.number(items.PROPERTIES, codes.OPERATING_POINT, least, codes.PERCENT, digits=POINT_DIGITS)
            )
        return items.number(items.CONTAINS, codes.label_code(label), percent, codes.PERCENT, limit, P_DIGITS)

    def _line(self, k: int) -> Iterator[Dataset]:
        """The groups of line `k`: its path, and its tip with the distances, if that is on the film."""
        line = self.findings.lines[k]
        number = 1 + sum(earlier.device is line.device for earlier in self.findings.lines[:k])
        name = f"{line.device.name} {number}"
        if line.leaves_film:
            course = codes.OFF_FILM
        else:
            course = codes.UNSEEN if line.tip is None else codes.COMPLETE
        about = [_certainty(line.confidence), items.code(items.CONTAINS, codes.COURSE, course)]
        distances = [each for each in self.findings.distances if each.line == k]
        states = [each.state for each in distances if each.state is not None]
        if states:
            about.append(items.code(items.CONTAINS, codes.POSITION, codes.STATE_CODES[states[0]]))
        if len(line.path) > 1:
            yield self._group(f"{name} path", codes.device_code(line.device), about, self._region(line.path))
        if line.tip is not None:
            measured = [self._distance(each) for each in distances if each.px is not None]
            yield self._group(f"{name} tip", codes.tip_code(line.device), measured, self._region(line.tip[None]))

    def _distance(self, distance: Distance) -> Dataset:
        """In mm, with what they are mm of; in % of the film's height without a spacing that is believed."""
        value = 10 * distance.cm if distance.cm is not None else distance.percent_of_height
        assert value is not None
        what = distance.what.split(" tip ", 1)[-1]
        direction = codes.DIRECTIONS[what][int(round(value, 1) < 0)]
        modifier = items.code(items.MODIFIER, codes.DIRECTION, direction)
        if distance.cm is None:
            return items.number(items.CONTAINS, codes.SHARE_OF_HEIGHT, abs(value), codes.PERCENT, [modifier])
        method = items.code(items.MODIFIER, codes.METHOD, codes.SPACING_CODES[self.findings.spacing.kind])
        return items.number(items.CONTAINS, codes.DISTANCE, abs(value), codes.MILLIMETER, [method, modifier])

    def _region(self, points: np.ndarray) -> Dataset:
        """A point or a path (n, 2) px on the film."""
        reference = reference_item(self.source.sop_class, self.source.sop_uid)
        return items.region(codes.REGION, image_coordinates(points, self.findings.film_shape), reference)


def _certainty(share: float) -> Dataset:
    return items.number(items.CONTAINS, codes.CERTAINTY, 100 * share, codes.PERCENT)
