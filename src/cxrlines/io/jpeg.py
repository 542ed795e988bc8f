"""JPEG of 8 bits by Pillow, and whether the stream ends where its picture does.

libjpeg goes on where a stream is damaged: it makes noise of what it takes for codes, and gray of what is missing. Its
warnings stay within Pillow. But damage moves the end: codes are left over once the last line is there, or they run out
before. Where the decoder stands is seen by what it asks for, so that this costs nothing.
"""

import io

from PIL import Image

from cxrlines.io.dicom.streams import Stream, StreamError

LEFT_OVER = 16
"""Bytes between a picture's last code and its end marker that are no damage, besides padding by one value: a few
encoders write some."""
READ_AHEAD = bytes(16)
"""The decoder waits until it has up to 8 bytes beyond the code it is at; a marker's fill byte may take another."""
END = b"\xff\xd9"


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
