"""Notes: what is odd about a film that was read all the same. Each has a code from one list, and a sentence."""

from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """What a note is about; programs count by it. Values are part of the JSON format and never change their meaning."""

    # how the file is written
    BYTES_AFTER_END = "bytes-after-end"
    STREAM_DIFFERS_FROM_HEADER = "stream-differs-from-header"
    ELEMENT_ASSUMED = "element-assumed"
    COLOUR_TO_GRAY = "colour-to-gray"
    METADATA_IGNORED = "metadata-ignored"
    # how it is to be shown
    LUT_RESCALED = "lut-rescaled"
    LUT_IGNORED = "lut-ignored"
    WINDOW_IGNORED = "window-ignored"
    OVERLAY_MASKED = "overlay-masked"
    BORDER_LEFT_OUT = "border-left-out"
    # how large it is
    SPACING_NOT_BELIEVED = "spacing-not-believed"
    SPACING_IGNORED = "spacing-ignored"
    PIXELS_NOT_SQUARE = "pixels-not-square"
    # what it shows
    NOT_A_CHEST_FILM = "not-a-chest-film"
    LATERAL = "lateral"
    PERHAPS_NO_CHEST_FILM = "perhaps-no-chest-film"
    NO_CONTRAST = "no-contrast"
    TURNED = "turned"
    INVERTED = "inverted"
    POSE_UNSURE = "pose-unsure"
    CROPPED = "cropped"
    SMALL = "small"
    ONE_BIT = "one-bit"
    FRAME_CUT = "frame-cut"
    # how the file is written, too
    END_MISSING = "end-missing"
    # how it is to be shown, too
    FOR_PROCESSING = "for-processing"
    # whom it shows
    CHILD = "child"
    # how it is turned, too
    MIRRORED = "mirrored"
    ORIENTATION_OBEYED = "orientation-obeyed"
    # what it shows, too
    LOW_CONTRAST = "low-contrast"


@dataclass(frozen=True)
class Note:
    """One odd thing about a film: `code`, and `text`, one sentence without patient data."""

    code: Code
    text: str

    def as_dict(self) -> dict[str, str]:
        """JSON values."""
        return {"code": self.code.value, "text": self.text}
