"""Codes of the concepts in results: DICOM, SNOMED CT, LOINC, UCUM, and a private scheme for what none of them has.

docs/dicom.md lists the private ones.
"""

from typing import NamedTuple

from cxrlines.core.spacing import SpacingKind
from cxrlines.task import DEVICE_OF, DEVICES, STATE_OF, Device, Landmark, State

PRIVATE = "99CXRLINES"
"""Designator of the private coding scheme. A code of it never changes its meaning."""
CODE_LENGTH = 16
"""Most characters of a code value (VR SH)."""


class Concept(NamedTuple):
    """A coded concept: its value in a scheme, and its meaning in words."""

    value: str
    scheme: str
    meaning: str


def _private(value: str, meaning: str) -> Concept:
    return Concept(value[:CODE_LENGTH], PRIVATE, meaning[:64])


ENGLISH = Concept("en", "RFC5646", "English")
PERCENT = Concept("%", "UCUM", "percent")
MILLIMETER = Concept("mm", "UCUM", "millimeter")
PIXELS = Concept("{pixels}", "UCUM", "pixels")

LANGUAGE = Concept("121049", "DCM", "Language of Content Item and Descendants")
OBSERVER_TYPE = Concept("121005", "DCM", "Observer Type")
OBSERVER_IS_DEVICE = Concept("121007", "DCM", "Device")
DEVICE_UID = Concept("121012", "DCM", "Device Observer UID")
DEVICE_NAME = Concept("121013", "DCM", "Device Observer Name")
DEVICE_MANUFACTURER = Concept("121014", "DCM", "Device Observer Manufacturer")
DEVICE_MODEL = Concept("121015", "DCM", "Device Observer Model Name")
DEVICE_SERIAL = Concept("121016", "DCM", "Device Observer Serial Number")
PROCEDURE = Concept("121058", "DCM", "Procedure reported")
RADIOGRAPHY = Concept("43468-8", "LN", "XR unspecified body region Views")
REPORT = Concept("126000", "DCM", "Imaging Measurement Report")
MEASUREMENTS = Concept("126010", "DCM", "Imaging Measurements")
GROUP = Concept("125007", "DCM", "Measurement Group")
LIBRARY = Concept("111028", "DCM", "Image Library")
LIBRARY_GROUP = Concept("126200", "DCM", "Image Library Group")
MODALITY = Concept("121139", "DCM", "Modality")
ROWS = Concept("110910", "DCM", "Pixel Data Rows")
COLUMNS = Concept("110911", "DCM", "Pixel Data Columns")
TRACKING_ID = Concept("112039", "DCM", "Tracking Identifier")
TRACKING_UID = Concept("112040", "DCM", "Tracking Unique Identifier")
ALGORITHM_FAMILY = Concept("111000", "DCM", "Algorithm Family")
ALGORITHM_NAME = Concept("111001", "DCM", "Algorithm Name")
ALGORITHM_PARAMETERS = Concept("111002", "DCM", "Algorithm Parameters")
ALGORITHM_VERSION = Concept("111003", "DCM", "Algorithm Version")
ARTIFICIAL_INTELLIGENCE = Concept("123110", "DCM", "Artificial Intelligence")
FINDING = Concept("121071", "DCM", "Finding")
REGION = Concept("111030", "DCM", "Image Region")
SOURCE = Concept("121112", "DCM", "Source of Measurement")
CERTAINTY = Concept("111012", "DCM", "Certainty of Finding")
DISTANCE = Concept("121206", "DCM", "Distance")
METHOD = Concept("370129005", "SCT", "Measurement Method")
COMMENT = Concept("121106", "DCM", "Comment")
FOR_RESEARCH = Concept("113009", "DCM", "For Research")
PRESENT = Concept("52101004", "SCT", "Present")
ABSENT = Concept("272519000", "SCT", "Absent")
UNDETERMINED = Concept("373068000", "SCT", "Undetermined")
SOURCE_IMAGE = Concept("121322", "DCM", "Source image for image processing operation")

PURPOSE = _private("PURPOSE", "Purpose of the result")
FILM_READ = _private("FILM-READ", "Chest film, read")
FILM_REFUSED = _private("FILM-REFUSED", "Film not read")
PRESENCE = _private("PRESENCE", "Presence on the film")
POSITION = _private("POSITION", "Position of the device by rule")
OFF_FILM = _private("OFF-FILM", "Leaves the film before its tip")
COURSE = _private("COURSE", "Course of the line")
UNSEEN = _private("TIP-NOT-SEEN", "Followed to its last point, further course not seen")
COMPLETE = _private("TO-ITS-TIP", "Ends at its tip on the film")
DIRECTION = _private("DIRECTION", "Direction of the distance")
SHARE_OF_HEIGHT = _private("SHARE-OF-HEIGHT", "Distance in % of the film's height")
OPERATING_POINT = _private("OPERATING-POINT", "Operating point of the label")
REPLACED = _private("REPLACES", "Earlier result that this one replaces")

DEVICE_CODES = {
    Device.ETT: Concept("26412008", "SCT", "Endotracheal tube"),
    Device.NGT: Concept("17102003", "SCT", "Nasogastric tube"),
    Device.CVC: Concept("52124006", "SCT", "Central venous catheter"),
    Device.SWAN: Concept("397755005", "SCT", "Swan-Ganz catheter"),
}
STATE_CODES = {
    State.ABNORMAL: Concept("263654008", "SCT", "Abnormal"),
    State.BORDERLINE: _private("BORDERLINE", "Borderline"),
    State.INCOMPLETE: _private("INCOMPLETE", "Incompletely imaged"),
    State.NORMAL: Concept("17621005", "SCT", "Normal"),
    State.PRESENT: PRESENT,
}
LANDMARK_CODES = {Landmark.CARINA: Concept("28700002", "SCT", "Carina")}
MODALITIES = {
    "CR": Concept("CR", "DCM", "Computed Radiography"),
    "DX": Concept("DX", "DCM", "Digital Radiography"),
    "RG": Concept("RG", "DCM", "Radiographic imaging"),
    "RF": Concept("RF", "DCM", "Radiofluoroscopy"),
}
OTHER_MODALITY = Concept("OT", "DCM", "Other")
DIRECTIONS = {
    "above the carina": (
        _private("ABOVE-CARINA", "above the carina, along the upright film"),
        _private("BELOW-CARINA", "below the carina, along the upright film"),
    ),
    "below the carina": (
        _private("BELOW-CARINA", "below the carina, along the upright film"),
        _private("ABOVE-CARINA", "above the carina, along the upright film"),
    ),
    "to the patient's right of the carina": (
        _private("RIGHT-OF-CARINA", "to the patient's right of the carina, across the upright film"),
        _private("LEFT-OF-CARINA", "to the patient's left of the carina, across the upright film"),
    ),
    "to the carina, straight": (
        _private("STRAIGHT", "from the tip to the carina, straight"),
        _private("STRAIGHT", "from the tip to the carina, straight"),
    ),
}
"""By the words of `Distance.what`: what a positive and what a negative distance is."""
SPACING_CODES = {
    SpacingKind.CALIBRATED: _private("MM-PATIENT", "mm in the patient, by calibrated spacing"),
    SpacingKind.DETECTOR: _private("MM-DETECTOR", "mm at the detector, magnification not corrected"),
}
"""What mm are mm of."""


def device_code(device: Device) -> Concept:
    """A device's concept; of one that is new to the task, a private one by its name."""
    return DEVICE_CODES.get(device) or _private(device.name, DEVICES[device].text.capitalize())


def tip_code(device: Device) -> Concept:
    """The concept of the tip of a device."""
    return _private(f"TIP-{device.name}", f"Tip of {DEVICES[device].text}")


def label_code(label: str) -> Concept:
    """The concept of the probability of a label."""
    device, state = DEVICE_OF[label], STATE_OF[label]
    return _private(f"P-{device.name[:10]}-{state.name[:3]}", f"Probability of {label}")
