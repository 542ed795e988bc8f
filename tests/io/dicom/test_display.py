"""Stored values of words, and windows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cxrlines.io.dicom.display import stored_of, windowed


@given(st.integers(1, 16), st.integers(0, 15), st.booleans(), st.integers(0, 2**32))
def test_words_hold_their_values(bits, high, signed, seed):
    high = max(high, bits - 1)
    low = -(2 ** (bits - 1)) if signed else 0
    values = np.random.default_rng(seed).integers(low, low + 2**bits, 50)
    shift = high - bits + 1
    junk = np.random.default_rng(seed + 1).integers(0, 2**16, 50) & ~((2**bits - 1) << shift)
    words = (((values & (2**bits - 1)) << shift) | junk).astype(np.uint16)
    assert np.array_equal(stored_of(words, bits, high, signed), values)


def test_windows_without_meaning():
    values = np.arange(10.0)
    for centre, width, function in (
        (5, 0, "LINEAR"), (5, -1, "LINEAR"), (5, 0.5, "LINEAR"), (5, 0, "SIGMOID"), (5, -2, "LINEAR_EXACT"),
        (np.nan, 5, "LINEAR"), (5, np.inf, "SIGMOID"),
    ):  # fmt: skip
        assert windowed(values, centre, width, function) is None
    assert windowed(values, 5, 0.5, "LINEAR_EXACT") is not None
