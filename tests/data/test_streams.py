"""What encoded streams say of themselves."""

from cxrlines.data.streams import encoded_size


def test_sizes_of_streams():
    assert encoded_size(b"") is None and encoded_size(b"\xff\xd8\xff") is None
    assert encoded_size(b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x0b\x08\x00\x10\x00\x20\x01\x01\x11") == (32, 16)
