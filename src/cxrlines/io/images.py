"""JPEG, PNG and TIFF files as films. Every size is taken from the header before a pixel is decoded."""

import io
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cxrlines.core.film import MAX_PIXELS, Film, FilmError, check_size
from cxrlines.core.notes import Code, Note
from cxrlines.core.text import plural
from cxrlines.io import jpeg, png
from cxrlines.io.contrast import FEW, LEAST_KEPT, colour_note, luma, spread
from cxrlines.io.dicom import streams

Result = TypeVar("Result")

MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L", "I")
"""Pillow's modes that are gray or become so; not F, whose black and white are unknown, nor LAB and HSV."""
MAX_VALUES = 75_000_000
"""Most values of 16 bits in all channels of an image: 18 megapixels, the largest detectors', in four."""
PREDICTED = (5, 8, 32946, 34925, 50000)
"""Compressions of a TIFF that may have a predictor: LZW, Deflate by two numbers, LZMA, Zstandard. Of others libtiff
ignores its tag."""
AGAIN = "copy or export it again"
ORIENTATIONS = range(2, 9)
"""Values of the orientation tag of EXIF and TIFF by which a picture is turned or mirrored to be shown."""
OBEYED = Note(
    Code.ORIENTATION_OBEYED,
    "it was turned or mirrored as its orientation tag says; points are of the picture as it is then shown",
)


def decode_image(data: bytes, kind: str) -> Film:
    """A film of kind JPEG, PNG or TIFF; `FilmError` for what is not read or damaged."""
    return {"JPEG": _jpeg, "PNG": _png, "TIFF": _tiff}[kind](data)


def _jpeg(data: bytes) -> Film:
    stream = _decoded(streams.parse, data)
    check_size("", stream.width, stream.height)
    if stream.kind != streams.Kind.JPEG or stream.bits != 8:
        raise FilmError(f"is {stream.kind} of {stream.bits} bits, which is read within DICOM alone", "save it as PNG")
    return _of_pillow(_decoded(jpeg.decoded, data, stream), "JPEG", 8, _after(data, stream.end))


def _png(data: bytes) -> Film:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise FilmError("is a PNG file cut off within its header", AGAIN)
    width, height, bits, colour, interlaced = struct.unpack(">IIBBxx?", data[16:29])
    check_size("", width, height)
    data, notes, suspect, end = png.essential(whole := data)
    notes += _after(whole, end)
    channels, deep = {2: 3, 4: 2, 6: 4}.get(colour, 1), bits == 16 and colour != 0
    if deep:  # Pillow keeps 8 bits of them. OpenCV does not, but takes the header's word for what it allocates
        _check_values(width * height * channels)
    if deep or suspect:
        _decoded(png.check_pixels, data, png.inflated_size(width, height, bits * channels, interlaced), suspect)
    if not deep:
        image = _decoded(_opened, data, "PNG")
        if bits < 8 and colour == 0 and "transparency" in image.info:  # Pillow spreads the pixels alone to 8 bits
            image.info["transparency"] = min(255, image.info["transparency"] * (255 // (2**bits - 1)))
        return _of_pillow(image, "PNG", bits, notes)
    pixels = _decoded(cv2.imdecode, np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != (height, width):
        raise FilmError("is damaged: its pixels cannot be decoded", AGAIN)
    try:
        orientation = Image.open(io.BytesIO(data), formats=["PNG"]).getexif().get(0x0112, 1)
    except Exception:  # what Pillow makes of a damaged tag does not concern the pixels
        orientation = 1
    pixels, notes = _turned(pixels, orientation), notes + _obeyed(orientation)
    rgb, alpha = pixels[..., 2::-1], pixels[..., 3] if colour in (4, 6) else None
    clear = next((data[start + 8 : end - 4] for kind, start, end in png.chunks(data) if kind == b"tRNS"), b"")
    if colour == 2 and len(clear) == 6:
        alpha = (rgb != struct.unpack(">3H", clear)).any(axis=2)
    return _film(rgb, "PNG", 16, notes, alpha=alpha)


def _check_values(values: int) -> None:
    if values > MAX_VALUES:
        what = f"has {values:,} values of 16 bits in all its channels; at most {MAX_VALUES:,} are read"
        raise FilmError(what, "save it as gray")


def _after(data: bytes, end: int) -> tuple[Note, ...]:
    """A note if more than padding follows the end of an image."""
    if not data[end:].strip(b"\0\xff"):
        return ()
    return (
        Note(Code.BYTES_AFTER_END, f"{plural(len(data) - end, 'byte follows', 'bytes follow')} the image; left out"),
    )


def _tiff(data: bytes) -> Film:
    """TIFF tags by number: 256 width, 257 height, 258 bits a sample, 262 photometric, 273 strips, 274 orientation, 277
    samples a pixel, 278 rows a strip, 284 planar configuration, 317 predictor, 322 and 323 sides of a tile, 324 tiles,
    338 extra samples, 339 sample format."""
    tags, more = _directory(data)
    width, height, samples = (tags.get(tag, (default,))[0] for tag, default in ((256, 0), (257, 0), (277, 1)))
    if not tags or (273 not in tags and 324 not in tags):
        raise FilmError("is a TIFF file without an image, or cut off", AGAIN)
    check_size("", width, height)
    tile = 0
    if 324 in tags:  # each is decoded whole, whatever of it lies within the film
        across, down = (tags.get(tag, (0,))[0] for tag in (322, 323))
        if (tile := across * down) > MAX_PIXELS:
            what = f"has tiles of {across} x {down} px; at most {MAX_PIXELS:,} px are read"
            raise FilmError(what, "save it without tiles")
    if more:
        raise FilmError("has several pages; a film is one", "save the page that is the film")
    depths = tags.get(258, (1,))
    if max(depths) > 32 and not set(tags.get(339, (1,))) & {3, 6}:
        raise FilmError(f"is a TIFF file of {max(depths)} bits, which is not read", "save it as 8 or 16 bit gray")
    if max(depths) > 16 and set(tags.get(339, (1,))) & {3, 6}:
        raise FilmError("has float pixels, of unknown black and white", "save it as 8 or 16 bit gray")
    photometric, planes, compression = (tags.get(tag, (1,))[0] for tag in (262, 284, 259))
    predictor = tags.get(317, (1,))[0] if compression in PREDICTED else 1
    inverted = photometric == 0 and max(depths) > 8  # Pillow turns the others round itself
    signed = not set(tags.get(339, (1,))) <= {1, 4}
    if signed and max(depths) <= 8:  # Pillow takes them for unsigned
        raise FilmError("is a TIFF file of signed values of 8 bits, which is not read", "save it as PNG")
    unsigned = set(depths) == {16} and not signed
    if data[:4] == b"MM\0+" and not unsigned:  # Pillow reads none of them
        what = "is a BigTIFF file with the highest byte first, of which those of 16 bits without a sign alone are read"
        raise FilmError(what, "save it as PNG")
    orientation = tags.get(274, (1,))[0]
    notes = _obeyed(orientation)
    by_pillow = data[:4] != b"MM\0+" and not (unsigned and samples == 1 and inverted and data[:2] == b"MM")
    if by_pillow and (samples == 1 or set(depths) != {16}):
        _check_parts(data, tags)
        image = _decoded(_opened, data, "TIFF")
        return _of_pillow(image, "TIFF", max(depths), notes, inverted=inverted, unsigned=not signed)
    # Of 16 bits in several channels Pillow keeps 8, or refuses them: they are read as one channel, as wide as all. So
    # are those of one, white at zero, with the highest byte first, which it does not know.
    colours = samples <= 2 if photometric in (0, 1) else photometric == 2 and samples in (3, 4)
    if not unsigned or planes != 1 or not colours or predictor not in ((1,) if 324 in tags else (1, 2)):
        what = "signed channels, separate planes, tiles with a predictor, or colours other than gray and RGB"
        raise FilmError(f"is a TIFF file of {what}, which is not read", "save it as PNG")
    if max(map(max, tags.values())) >= 2**32:
        raise FilmError("is a TIFF file whose directory points beyond it, or cut off", AGAIN)
    _check_values(max(width * height, tile) * samples)
    _check_parts(data, tags)
    wide = np.asarray(_decoded(_opened, _as_one_channel(data, tags, samples), "TIFF"), np.uint16)
    pixels = wide.reshape(height, width, samples)
    if predictor == 2:
        pixels = np.cumsum(pixels, axis=1, dtype=np.uint16)
    pixels = _turned(pixels, orientation)
    alpha = pixels[..., -1] if samples in (2, 4) and tags.get(338, (0,))[0] in (1, 2) else None
    gray_or_rgb = pixels[..., :3] if photometric == 2 else pixels[..., 0]
    return _film(gray_or_rgb, "TIFF", 16, notes, inverted=inverted, alpha=alpha)


_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # types of TIFF tags
_PLACES = (273, 279, 324, 325)
"""Tags that have a number a strip or tile."""
_OTHERS = (256, 257, 258, 259, 262, 266, 274, 277, 278, 284, 317, 322, 323, 338, 339)
_MOST_PLACES, _MOST_OTHERS = 2**18, 256
"""Most numbers of these tags: 50 megapixels are fewer tiles of 16 x 16 px, the smallest; of others one a sample."""


def _directory(data: bytes) -> tuple[dict[int, tuple[int, ...]], bool]:
    """(tags that are used of the first page, whether there is another) of a TIFF or BigTIFF file; none if cut off.

    A tag's numbers take far more memory than its bytes, and any number of tags may lie on the same bytes: only those
    that are used are read, and each once.
    """
    order, big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    count, entry, word = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    found: dict[int, tuple[str, bytes]] = {}
    tags: dict[int, tuple[int, ...]] = {}
    try:
        (place,) = struct.unpack_from(order + word, data, 8 if big else 4)
        (entries,) = struct.unpack_from(order + count, data, place)
        place += struct.calcsize(count)
        for _ in range(min(entries, 1000)):
            tag, kind, number, value = struct.unpack_from(order + entry, data, place)
            place += struct.calcsize("=" + entry)
            if kind in _INTEGERS:
                size = number * struct.calcsize(_INTEGERS[kind])
                if size > len(data) or (size > len(value) and struct.unpack(order + word, value)[0] + size > len(data)):
                    return {}, False
                if number and tag in _PLACES + _OTHERS:
                    if number > (most := _MOST_PLACES if tag in _PLACES else _MOST_OTHERS):
                        what = f"is a TIFF file whose tag {tag} has {number:,} numbers; at most {most:,} are read"
                        raise FilmError(what, "save it as PNG")
                    found[tag] = f"{order}{number}{_INTEGERS[kind]}", value
        for tag, (form, value) in found.items():
            inside = struct.calcsize(form) <= len(value)
            source, offset = (value, 0) if inside else (data, *struct.unpack(order + word, value))
            tags[tag] = struct.unpack_from(form, source, offset)
        return tags, struct.unpack_from(order + word, data, place)[0] != 0
    except (struct.error, OverflowError):
        return {}, False


def _check_parts(data: bytes, tags: dict[int, tuple[int, ...]]) -> None:
    """`FilmError` for a TIFF file without all of its strips or tiles, or with damaged ones of JPEG: the decoder would
    make the rest of it black, or noise."""
    width, height = tags[256][0], tags[257][0]
    tiled = 324 in tags
    across, down = (
        (tags.get(tag, (0,))[0] for tag in (322, 323)) if tiled else (width, min(height, tags.get(278, (height,))[0]))
    )
    parts = -(-width // max(1, across)) * -(-height // max(1, down))
    parts *= tags.get(277, (1,))[0] if tags.get(284) == (2,) else 1
    starts, sizes = (tags.get(tag, ())[:parts] for tag in ((324, 325) if tiled else (273, 279)))
    if (there := len(starts)) < parts:
        raise FilmError(f"is a TIFF file with {there:,} of the {parts:,} strips or tiles of its image", AGAIN)
    if tags.get(259) == (7,):
        _decoded(jpeg.check_parts, data, list(zip(starts, sizes, strict=False)), across, down)


def _as_one_channel(data: bytes, tags: dict[int, tuple[int, ...]], samples: int) -> bytes:
    """A TIFF or BigTIFF file of contiguous channels of 16 bits as a TIFF of one channel: the same strips."""
    layout = (256, 257, 259, 266, 273, 278, 279, 322, 323, 324, 325)  # size, compression, strips, tiles
    kept = {tag: tags[tag] for tag in layout if tag in tags}
    kept |= {tag: (kept[tag][0] * samples,) for tag in (256, 322) if tag in kept}
    order, start = "<" if data[:2] == b"II" else ">", len(data) + len(data) % 2
    head = data[:2] + struct.pack(order + "HI", 42, start)
    directory = tiff_directory({**kept, 258: (16,), 262: (1,), 277: (1,)}, start, order)
    return head + data[8:].ljust(start - 8, b"\0") + directory


def tiff_directory(tags: Mapping[int, Sequence[int]], start: int, order: str = "<") -> bytes:
    """The one directory of a TIFF file, at `start`, in byte order `<` or `>`: its tags, all of 32 bits."""
    place = start + 2 + 12 * len(tags) + 4
    entries, arrays = b"", b""
    for tag, numbers in sorted(tags.items()):
        value = numbers[0] if len(numbers) == 1 else place + len(arrays)
        arrays += struct.pack(f"{order}{len(numbers)}I", *numbers) if len(numbers) > 1 else b""
        entries += struct.pack(order + "HHII", tag, 4, len(numbers), value)
    return struct.pack(order + "H", len(tags)) + entries + bytes(4) + arrays


def _opened(data: bytes, kind: str) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=[kind])
    image.load()
    return image


def _of_pillow(
    image: Image.Image,
    kind: str,
    bits: int,
    notes: tuple[Note, ...] = (),
    *,
    inverted: bool = False,
    unsigned: bool = False,
) -> Film:
    mode = image.mode
    if mode not in MODES:
        what = "float pixels, of unknown black and white" if mode == "F" else f"pixels of the kind {mode}"
        raise FilmError(f"has {what}", "save it as 8 or 16 bit gray")
    if mode in ("P", "PA"):  # Pillow makes colours beyond the palette black
        colours, highest = (
            len(image.palette.palette) // 3 if image.palette else 0,
            np.asarray(image.getchannel(0)).max(),
        )
        if highest >= colours:
            raise FilmError(f"is damaged: its pixels name colour {highest}, its palette has {colours}", AGAIN)
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        if orientation in ORIENTATIONS:  # not of a TIFF, which Pillow has turned; else that would be a copy
            image, notes = ImageOps.exif_transpose(image), (*notes, OBEYED)
    except Exception:  # what Pillow makes of a damaged tag does not concern the pixels
        notes += (Note(Code.METADATA_IGNORED, "its orientation tag is damaged, and not obeyed"),)
    if mode.startswith("I"):
        pixels = np.asarray(image)  # of 32 bits as signed, whatever they are
        pixels = pixels.view(np.uint32) if unsigned and pixels.dtype == np.int32 else pixels
        clear = image.info.get("transparency")
        return _film(pixels, kind, bits, notes, inverted=inverted, alpha=None if clear is None else pixels != clear)
    if "transparency" in image.info:  # a PNG's gray value or colour that is not seen
        image = _decoded(image.convert, "LA" if mode in ("1", "L") else "RGBA")
    if through := {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}.get(mode):  # Pillow converts them no other way
        image = image.convert(through)
    gray = np.array(image if image.mode == "L" else image.convert("L"))
    if "A" in image.getbands():
        visible, transparent = _visible(np.asarray(image.getchannel("A")))
        notes += transparent
        if visible is not None:
            gray[~visible] = 0
    if mode in ("1", "L", "LA", "La"):
        return Film(gray, kind, bits, notes=notes)
    few = image.resize([min(side, FEW) for side in image.size], Image.Resampling.NEAREST)  # not all: they take long
    notes += colour_note(np.asarray(few.convert("RGB")))
    return Film(gray, kind, bits, notes=notes)


def _visible(alpha: np.ndarray) -> tuple[np.ndarray | None, tuple[Note, ...]]:
    """Pixels (h, w) bool that are not wholly transparent, and a note; None where all are visible, or so few that
    transparency says nothing of what is film."""
    visible = alpha > 0
    if (share := float(visible.mean())) == 1 or share < LEAST_KEPT:
        return None, ()
    return visible, (Note(Code.BORDER_LEFT_OUT, f"{1 - share:.1%} of its pixels are transparent, and shown black"),)


def _film(
    pixels: np.ndarray,
    kind: str,
    bits: int,
    notes: tuple[Note, ...] = (),
    *,
    inverted: bool = False,
    alpha: np.ndarray | None = None,
) -> Film:
    """A film of pixels (h, w) or (h, w, 3) of more than 8 bits, which do not say what is black and white."""
    if pixels.ndim == 3:
        notes += colour_note(pixels)
        pixels = luma(pixels)
    visible, transparent = (None, ()) if alpha is None else _visible(alpha)
    gray, left_out = spread(pixels, visible, inverted=inverted)
    if visible is not None:
        gray[~visible] = 0
    return Film(gray, kind, bits, notes=notes + transparent + left_out)


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (h, w, ...) as the Orientation tag of EXIF and TIFF, 1 to 8, says they are to be shown."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _obeyed(orientation: int) -> tuple[Note, ...]:
    return (OBEYED,) if orientation in ORIENTATIONS else ()


def _decoded(decode: Callable[..., Result], *arguments: Any) -> Result:
    """What a decoder gives; `FilmError` for whatever it raises: of sizes and kinds that were checked, damage."""
    try:
        return decode(*arguments)
    except streams.StreamError as error:
        raise FilmError(f"its compressed pixels {error}", f"{AGAIN}, or save it as PNG") from None
    except MemoryError:  # it says nothing of the file
        raise
    except UnidentifiedImageError:  # its beginning, and a TIFF's tags, were read before
        what = "is of a kind that is not read, by its bits, colours or compression, or its header is damaged"
        raise FilmError(what, "save it as PNG, or export it again") from None
    except Exception as error:
        what = f"is damaged or of a kind its decoder does not know ({type(error).__name__})"
        raise FilmError(what, f"{AGAIN}, or save it as PNG") from None
