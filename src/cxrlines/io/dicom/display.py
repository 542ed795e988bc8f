"""DICOM display chain: Modality LUT, VOI LUT or window, contrast (PS3.4 N.2), from stored values to 8-bit gray.

It is computed once for every code (a pixel's word as stored) that occurs in a film, and then looked up.
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from cxrlines.core.notes import Code, Note
from cxrlines.io.contrast import LEAST_LEVELS, PERCENTILES, border_black, contrast, count, quantiles, to_uint8
from cxrlines.io.dicom.header import Elements
from cxrlines.io.dicom.pixels import PixelHeader

ONE_GRAY = 0.995
"""Share of a film in one gray, its commonest value left out, from which on a window or table shows nothing of it."""
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
"""VOI LUT Functions of PS3.3 C.11.2.1.2 and C.11.2.1.3."""
LEAST_WHITE, LEAST_GRAYS = 64, 48
"""Level of 256 that the film's brightest values (the upper of PERCENTILES) reach, and how far its darkest ones are
below them at least. Else the window or table is of two bits more than the film, as one of 12 bits beside pixels that
were exported as 8."""
EIGHT_BITS, FEWEST, AT_ONE_END = 256, 8, 2 / 3
"""The reverse, a window of 8 bits beside pixels of more: it reaches over fewer values, the film over so many times as
many, and more than this share of the film lies at one end of it."""
MOST_WINDOWS = 16
"""Windows that are looked at; an element may hold thousands."""


def displayed(elements: Elements, stored: np.ndarray, header: PixelHeader, notes: list[Note]) -> np.ndarray:
    """Stored values (h, w) as a viewer shows them: (h, w) uint8, white = bone; `notes` gets what is odd about them."""
    words, signed = stored.view(f"u{stored.itemsize}"), header.signed
    counts = count(words)
    codes = np.flatnonzero(counts)
    bits, high_bit = _field(elements, header, words, codes, notes)
    values = stored_of(codes, bits, high_bit, signed)
    film = ~_padding(elements, codes, values, signed, notes)
    low = -(2 ** (bits - 1)) if signed else 0
    shown = _shown(elements, values[film], counts[codes][film], (low, low + 2**bits - 1), notes)
    table = np.zeros(len(counts), np.uint8)  # padding is black, whatever black is
    table[codes[film]] = 255 - shown if _is_inverse(elements, notes) else shown
    gray = np.asarray(cv2.LUT(words, table))
    gray = border_black(gray) if any(note.code is Code.BORDER_LEFT_OUT for note in notes) else gray
    if (share := float(counts[codes][~film].sum() / counts.sum())) >= PERCENTILES[0] / 100:
        text = f"{share:.1%} of its pixels are padding by PixelPaddingValue, left out of the contrast, and shown black"
        notes.append(Note(Code.BORDER_LEFT_OUT, text))
    return gray


def span_of(elements: Elements, stored: np.ndarray, header: PixelHeader) -> tuple[float, float]:
    """The values, after Modality LUT or rescale, that become black and white where a film names no window."""
    words = stored.view(f"u{stored.itemsize}")
    counts = count(words)
    codes = np.flatnonzero(counts)
    bits, high_bit = _field(elements, header, words, codes, [])
    values = stored_of(codes, bits, high_bit, header.signed)
    film = ~_padding(elements, codes, values, header.signed, [])
    stored_values = values[film]
    shown, _ = _rescaled(elements, stored_values, [])
    if bits <= 8 and shown is stored_values:
        low = -(2 ** (bits - 1)) if header.signed else 0
        return low, low + 2**bits - 1
    order = np.argsort(shown, kind="stable")
    span = contrast(shown[order], counts[codes][film][order])
    return span.black, span.white


def stored_of(codes: np.ndarray, bits: int, high_bit: int, signed: bool) -> np.ndarray:
    """The values of words: `bits` bits up to `high_bit`, in two's complement if `signed`; int64."""
    values: np.ndarray = codes.astype(np.int64) >> (high_bit - bits + 1) & (2**bits - 1)
    return values - (values >> (bits - 1) << bits) if signed else values


def _field(
    elements: Elements, header: PixelHeader, words: np.ndarray, codes: np.ndarray, notes: list[Note]
) -> tuple[int, int]:
    """(bits, high bit) of the values in their words: as stored, unless the pixels are values of more bits."""
    bits, high_bit, signed = header.bits, header.high_bit, header.signed
    lowest, word = high_bit - bits + 1, 8 * words.itemsize
    beside = codes & ~(2 ** (high_bit + 1) - 2**lowest)
    extended = signed & (codes >> high_bit & 1 == 1) & (beside == 2**word - 2 ** (high_bit + 1))
    values = stored_of(codes, bits, high_bit, signed)
    odd = (beside != 0) & ~extended & ~_padding(elements, codes, values, signed, [])
    if not odd.any():
        return bits, high_bit
    overlays = sum(2**bit for bit in elements.overlay_bits)
    top = word - 1 if signed else int(codes.max()).bit_length() - 1
    if (beside[odd] & ~overlays).any() and top > high_bit:
        # Values of more bits than the header says run on smoothly, where overlays stand out.
        rows = words[:: max(1, len(words) // 256)]
        wider, narrower = (
            np.abs(np.diff(stored_of(rows, high - lowest + 1, high, signed), axis=1)).sum() for high in (top, high_bit)
        )
        if wider < narrower:
            text = f"pixels have values of {top - lowest + 1} bits, BitsStored says {bits}"
            notes.append(Note(Code.STREAM_DIFFERS_FROM_HEADER, text))
            return top - lowest + 1, top
    notes.append(Note(Code.OVERLAY_MASKED, "bits beside those of the values, as of an overlay, are left out"))
    return bits, high_bit


def _padding(elements: Elements, codes: np.ndarray, values: np.ndarray, signed: bool, notes: list[Note]) -> np.ndarray:
    """Which codes are padding (PixelPaddingValue to PixelPaddingRangeLimit); none where all would be. A range that
    holds values of the film gives way to PixelPaddingValue alone."""
    value = elements.numbers("PixelPaddingValue", signed)
    limit = elements.numbers("PixelPaddingRangeLimit", signed) or value
    none = np.zeros(len(codes), bool)
    if not value or not np.isfinite((value[0], limit[0])).all():
        return none
    found = (values >= min(value[0], limit[0])) & (values <= max(value[0], limit[0]))
    if _run_on(values[found], values[~found]):
        text = f"PixelPaddingRangeLimit makes padding of {found.sum():,} values that run on into others; it is ignored"
        notes.append(Note(Code.METADATA_IGNORED, text))
        found = values == value[0]
    found |= codes == int(value[0]) % 2**16  # a word that is no value
    return none if found.all() else found


def _run_on(values: np.ndarray, others: np.ndarray) -> bool:
    """Whether values (n,) are as many as a film's, and as near to `others` (m,) as to each other."""
    inner = np.unique(values)
    if len(inner) <= LEAST_LEVELS or not len(others):
        return False
    return bool(np.abs(others[:, None] - inner[[0, -1]]).min() <= np.median(np.diff(inner)))


def _is_inverse(elements: Elements, notes: list[Note]) -> bool:
    """Whether black and white are to change places: as Presentation LUT Shape says, else MONOCHROME1."""
    inverse = elements.text("PhotometricInterpretation").upper() == "MONOCHROME1"
    shape = elements.text("PresentationLUTShape").upper()
    if shape != ("IDENTITY" if inverse else "INVERSE"):
        return inverse
    text = f"PresentationLUTShape {shape} contradicts MONOCHROME{2 - inverse}; it decides what is white"
    notes.append(Note(Code.METADATA_IGNORED, text))
    return not inverse


def _shown(
    elements: Elements, stored: np.ndarray, counts: np.ndarray, limits: tuple[int, int], notes: list[Note]
) -> np.ndarray:
    """Gray (n,) uint8 of the stored values (n,) that occur, by the first table or window that shows something."""
    values, whole = _rescaled(elements, stored, notes)
    inner = np.where(np.arange(len(counts)) == counts.argmax(), 0, counts)  # without what may be all its background
    flat = inner.max() >= ONE_GRAY * inner.sum()
    for voi in _voi_transforms(elements, values, notes) if whole else ():
        gray = to_uint8(voi.share)
        if flat or (_is_picture(gray, inner) and not (values is stored and _is_of_8_bits(gray, values, inner))):
            notes += voi.notes
            return gray
        text = f"{voi.name} shows nothing of the film's values, or too few grays of them, and is not used"
        notes.append(Note(voi.ignored, text))
    low, high = limits
    if high - low < 256 and values is stored:
        return to_uint8((stored - low) / (high - low))
    order = np.argsort(values, kind="stable")
    span = contrast(values[order], counts[order])
    notes += span.notes
    return span.gray(values)


def _is_picture(gray: np.ndarray, counts: np.ndarray) -> bool:
    """Whether grays (n,) uint8 of these counts (n,) show something: they are not one, nor few beside each other."""
    of_gray = np.bincount(gray, counts, 256)
    darkest, brightest = quantiles(np.arange(256), of_gray, np.array(PERCENTILES) / 100)
    enough = brightest >= LEAST_WHITE and brightest - darkest >= LEAST_GRAYS
    return bool(of_gray.max() < ONE_GRAY * counts.sum() and enough)


def _is_of_8_bits(gray: np.ndarray, values: np.ndarray, counts: np.ndarray) -> bool:
    """Whether a window that makes these grays (n,) of values (n,) was made for values of 8 bits; see EIGHT_BITS."""
    within, order = values[(gray > 0) & (gray < 255)], np.argsort(values, kind="stable")
    at_an_end = max(counts[gray == 0].sum(), counts[gray == 255].sum()) > AT_ONE_END * counts.sum()
    narrow = len(within) == 0 or np.ptp(within) < EIGHT_BITS
    low, high = quantiles(values[order], counts[order], np.array(PERCENTILES) / 100)
    return bool(at_an_end and narrow and high - low > FEWEST * EIGHT_BITS)


def _rescaled(elements: Elements, stored: np.ndarray, notes: list[Note]) -> tuple[np.ndarray, bool]:
    """Stored values through the Modality LUT or rescale (`stored` itself where that does nothing, as a slope of 0), and
    whether windows may be applied to them."""
    if items := elements["ModalityLUTSequence"].items:
        if lut := _lut(items[0], stored):
            return lut.of(stored), True
        text = "the Modality LUT is missing or short and is ignored; so are windows, which rest on it"
        notes.append(Note(Code.LUT_IGNORED, text))
        return stored, False
    slope, intercept = (next(iter(elements.numbers(name)), 0.0) for name in ("RescaleSlope", "RescaleIntercept"))
    slope = slope or 1.0
    if (slope, intercept) == (1, 0):
        return stored, True
    if not (1e-9 < abs(slope) < 1e9 and abs(intercept) <= 1e9):  # NaN, what is no number, is neither
        text = f"a rescale by {slope:g} and {intercept:g} is invalid and ignored; so are windows, which rest on it"
        notes.append(Note(Code.METADATA_IGNORED, text))
        return stored, False
    return stored * slope + intercept, True


class _VoiTransform(NamedTuple):
    """Values through a VOI LUT or window: its name, share of white, notes if it is used, the code if it is not."""

    name: str
    share: np.ndarray
    notes: list[Note]
    ignored: Code


def _voi_transforms(elements: Elements, values: np.ndarray, notes: list[Note]) -> Iterator[_VoiTransform]:
    """Each VOI LUT, then each window, that can be computed; `notes` gets those that cannot."""
    for item in elements["VOILUTSequence"].items:
        if (lut := _lut(item, values)) is None:
            notes.append(Note(Code.LUT_IGNORED, "a VOI LUT is missing or short and is ignored"))
            continue
        white = lut.white
        text = f"the VOI LUT says {lut.bits} bits and reaches {lut.table.max()}; {white} is shown white"
        rescaled = [] if white == 2**lut.bits - 1 else [Note(Code.LUT_RESCALED, text)]
        yield _VoiTransform("a VOI LUT", lut.of(values) / white, rescaled, Code.LUT_IGNORED)
    functions = elements.text("VOILUTFunction").upper().split("\\")
    windows = list(zip(elements.numbers("WindowCenter"), elements.numbers("WindowWidth"), strict=False))
    for place, (centre, width) in enumerate(windows[:MOST_WINDOWS]):
        if (centre, width) == (0, 0):  # zeros only fill the elements
            continue
        function = functions[place if len(functions) == len(windows) else 0].strip() or "LINEAR"
        assumed = []
        if function not in FUNCTIONS:
            text = f"VOILUTFunction is not one of {', '.join(FUNCTIONS)}; LINEAR is assumed"
            function, assumed = "LINEAR", [Note(Code.ELEMENT_ASSUMED, text)]
        name = f"the window of centre {centre:g} and width {width:g}"
        if (share := windowed(values, centre, width, function)) is None:
            notes.append(Note(Code.WINDOW_IGNORED, f"{name} is invalid ({function}) and ignored"))
        else:
            yield _VoiTransform(name, share, assumed, Code.WINDOW_IGNORED)


def windowed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray | None:
    """Share of white by one of FUNCTIONS, not clipped; None for a window that has no meaning."""
    if not np.isfinite(centre) or not np.isfinite(width) or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    if function == "LINEAR":
        return (values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))


class _Lut(NamedTuple):
    """A lookup table: the value of its first entry, its entries (n,) int64, and the bits it says they have."""

    first: int
    table: np.ndarray
    bits: int

    def of(self, values: np.ndarray) -> np.ndarray:
        """What values become; those beyond an end become what the end is."""
        entries: np.ndarray = self.table[np.clip(np.rint(values) - self.first, 0, len(self.table) - 1).astype(np.int64)]
        return entries

    @property
    def white(self) -> int:
        """The entry that is white: of the bits that the table says, if it uses the highest of them and no more; else of
        those it needs, as Horos, Cornerstone and dcmtk (--ignore-vlut-depth) have it."""
        top = int(self.table.max())
        needed: int = max(2 ** (top - 1).bit_length() - 1, top, 1)
        return needed if top.bit_length() != self.bits else max(2**self.bits - 1, 1)


def _lut(item: Elements, values: np.ndarray) -> _Lut | None:
    """The table of an item of a LUT sequence, for these values; None where its data are missing or short."""
    descriptor, data = item.words("LUTDescriptor"), item["LUTData"].data
    if len(descriptor) < 3:
        return None
    entries, first, bits = int(descriptor[0]) or 2**16, int(descriptor[1]), int(descriptor[2])
    if first >= 2**15 and (values.min() < 0 or values.max() < first):  # its VR says wrongly, or not, if it is signed
        first -= 2**16
    table = item.words("LUTData")[:entries]
    if len(table) < entries:
        if bits > 8 or len(data) < entries:
            return None
        low_first = item.words("LUTData").astype("<u2").tobytes() + data[len(data) // 2 * 2 :]  # two entries a word
        table = np.frombuffer(low_first, np.uint8)[:entries]
    return _Lut(first, table.astype(np.int64), bits)
