"""JPEG of 8 bits by Pillow, and whether the stream ends where its picture does.

libjpeg goes on where a stream is damaged: it makes noise of what it takes for codes, and gray of what is missing. Its
warnings stay within Pillow. But damage moves the end: codes are left over once the last line is there, or they run out
before. Where the decoder stands is seen by what it asks for, so that this costs nothing.
"""

import io
from collections.abc import Sequence

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from cxrlines.io.dicom.streams import Stream, StreamError, parse

LEFT_OVER = 16
"""Bytes between a picture's last code and its end marker that are no damage, besides padding by one value: a few
encoders write some."""
READ_AHEAD = bytes(16)
"""The decoder waits until it has up to 8 bytes beyond the code it is at; a marker's fill byte may take another."""
START, END = b"\xff\xd8", b"\xff\xd9"
TABLES = 347
"""Tag of TIFF for what stands before each strip or tile, from a start marker to an end marker."""
MAX_PARTS = 2**14
"""Most strips or tiles, each of which takes some 0.3 ms: of 50 megapixels tiles of 56 x 56 px."""


class _Steps(io.BytesIO):
    """A file that is read as any other until it has steps: then each reading gives one of them, whatever its size."""

    steps: tuple[bytes, ...] = ()

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.steps:
            return super().read(size)
        step, *rest = self.steps
        self.steps = tuple(rest)
        return step


def decoded(data: bytes, stream: Stream, *, gray: bool = False) -> Image.Image:
    """The image of JPEG data, `stream` being what they say of themselves; of colours with `gray` the luma alone.

    Raises:
        StreamError: the stream ends before its last line does, or long after.
        Exception: whatever else Pillow raises of damaged data.
    """
    file = _Steps(data)
    image = Image.open(file, formats=["JPEG"])
    if gray:
        image.draft("L", image.size)
    codes = data[: stream.end - len(END)]
    last = max(0, len(codes.rstrip(codes[-1:])) - LEFT_OVER)
    file.steps = (codes[:last], codes[last:] + READ_AHEAD, END)
    image.load()
    if len(file.steps) == 2:
        raise StreamError("are damaged: the last line is decoded long before their end")
    if stream.by_line and not file.steps:  # any other is decoded from its end on
        raise StreamError("are damaged: they end before the last line is decoded")
    return image


def check_parts(data: bytes, places: Sequence[tuple[int, int]], width: int, height: int) -> None:
    """Decode JPEG strips or tiles of a TIFF file, of which libtiff reads on where they are damaged; nothing is kept.

    Args:
        data: The file.
        places: (start, size) of each part.
        width, height: Of a part, in px, at most.

    Raises:
        StreamError: parts are too many, larger, or damaged.
        Exception: whatever else Pillow raises of damaged data.
    """
    if len(places) > MAX_PARTS:
        raise StreamError(f"lie in {len(places):,} strips or tiles; at most {MAX_PARTS:,} of JPEG are read")
    tables = TiffImageFile(io.BytesIO(data)).tag_v2.get(TABLES, START + END)
    for start, size in places:
        part = tables[:-2] + data[start + 2 : start + size]
        stream = parse(part)
        if stream.width > width or stream.height > height:
            raise StreamError(f"are {stream.width} x {stream.height} px in a strip or tile of {width} x {height}")
        decoded(part, stream)
