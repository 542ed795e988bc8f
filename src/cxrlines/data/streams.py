"""What an encoded stream of pixels says of itself."""


def encoded_size(frame: bytes) -> tuple[int, int] | None:
    """(width, height) a JPEG, JPEG-LS or JPEG 2000 stream says it has; None if it says none."""
    if (start := frame.find(b"\xff\x4f\xff\x51", 0, 4096)) >= 0:  # JPEG 2000, bare or boxed: SOC, SIZ
        x1, y1, x0, y0 = (int.from_bytes(frame[start + i : start + i + 4]) for i in (8, 12, 16, 20))
        return x1 - x0, y1 - y0
    place = 2
    while frame[:2] == b"\xff\xd8" and place + 9 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):  # start of frame
            return int.from_bytes(frame[place + 7 : place + 9]), int.from_bytes(frame[place + 5 : place + 7])
        else:
            place += 2 + int.from_bytes(frame[place + 2 : place + 4])
    return None
