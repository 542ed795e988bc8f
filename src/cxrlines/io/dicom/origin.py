"""Whose work a DICOM file is: a film, or a result, made of one by this system or by another."""

from cxrlines.io.dicom.header import Elements

MANUFACTURER = "cxrlines"
"""Manufacturer (0008,0070) of every object that is made here; it says which ones are not to be read again."""
OWN_RESULT = f"result of {MANUFACTURER}"
ORIGIN_KEYWORDS = (
    *("TransferSyntaxUID", "MediaStorageSOPClassUID", "SOPClassUID", "Modality", "ImageType", "Manufacturer"),
)
"""What `own_or_derived` looks at, for `header.parse`."""
RESULT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.88.59": "key object selection",
    "1.2.840.10008.5.1.4.1.1.88": "structured report",
    "1.2.840.10008.5.1.4.1.1.11": "presentation state",
    "1.2.840.10008.5.1.4.1.1.66": "segmentation or registration",
}
"""SOP classes, or their beginnings, of results."""
RESULT_MODALITIES = {
    "SR": "structured report",
    "PR": "presentation state",
    "SEG": "segmentation or registration",
    "KO": "key object selection",
    "OT": "image of no modality",
}


def is_own(header: Elements) -> bool:
    """Whether an object was made by this system."""
    return header.text("Manufacturer").lower() == MANUFACTURER


def own_or_derived(header: Elements) -> str | None:
    """What an object is in a few words, if it is a result rather than a film; None for what may be a film.

    A result is an object of this system (by Manufacturer), one of `RESULT_CLASSES` or `RESULT_MODALITIES`, or an image
    that was derived from another and captured (Image Type DERIVED\\SECONDARY). A node that reads such objects reads its
    own results, and sends results of results.

    Args:
        header: With `ORIGIN_KEYWORDS`.
    """
    if is_own(header):
        return OWN_RESULT
    sop_class = header.text("SOPClassUID") or header.text("MediaStorageSOPClassUID")
    for begin, kind in RESULT_CLASSES.items():
        if f"{sop_class}.".startswith(f"{begin}."):
            return kind
    kinds = [word.strip().upper() for word in header.text("ImageType").split("\\", 2)[:2]]
    if kinds == ["DERIVED", "SECONDARY"]:
        return "derived, secondary image"
    return RESULT_MODALITIES.get(header.text("Modality").upper())
