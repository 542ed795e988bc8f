"""Whether stored values run on smoothly: read with too few bits, or the wrong sign, they leap."""

import numpy as np

from cxrlines.io.contrast import PERCENTILES

LEAPS, RARER = 0.002, 10
"""Values read with too few bits or the wrong sign leap where they cross a limit: this share of neighbours at least,
and so many times as many as with the right ones."""
FEW_LEAPS = 0.0002
"""Share of leaps from which on it is worth asking whether values run on below 0."""
NEAR, PARTS = 0.05, 8
"""How far from 0, of the range of a film, values below it run on to, and in how many parts that is looked at."""


ROUGH, ROUGHER, LEAST_SIDE = 0.1, 4, 64
"""In the wrong order of bytes or of colours rows differ by this share of the range at least, and so many times as much
as in the right one; of a film of fewer px a side that says nothing."""


def bytes_swapped(values: np.ndarray) -> bool:
    """Whether the two bytes of each word of a film (h, w) uint16 lie in the other order: it is far smoother so."""
    pairs = _pairs(values)
    return min(values.shape) >= LEAST_SIDE and _rougher(pairs, pairs.byteswap())


def misordered(values: np.ndarray, other: np.ndarray) -> bool:
    """Whether the colours of a film (h, w, 3), unsigned, lie as in `other`: all gray there alone, or far smoother."""
    if min(values.shape[:2]) < LEAST_SIDE:
        return False
    pairs, others = _pairs(values), _pairs(other)
    gray, other_gray = (bool((some == some[..., :1]).all()) for some in (pairs, others))
    return other_gray if gray != other_gray else _rougher(pairs, others)


def _pairs(values: np.ndarray) -> np.ndarray:
    """Some of a film's rows, each with the one below it: (n, 2, w) or (n, 2, w, 3)."""
    return values[: len(values) // 2 * 2].reshape(-1, 2, *values.shape[1:])[:: max(1, len(values) // 128)]


def _rougher(pairs: np.ndarray, others: np.ndarray) -> bool:
    return _roughness(pairs) > max(ROUGH, ROUGHER * _roughness(others))


def _roughness(pairs: np.ndarray) -> float:
    """Mean difference of rows that lie beside each other, as a share of the range."""
    low, high = np.percentile(pairs, PERCENTILES)
    return float(np.abs(np.diff(pairs.astype(np.int64), axis=1)).mean() / max(1.0, high - low))


def leaps(values: np.ndarray, bits: int, high_bit: int, signed: bool) -> float:
    """Share of neighbours in a row, in some rows of words (h, w), that are half of all values apart or more.

    The values are `bits` bits up to `high_bit`.
    """
    words, counts = _some_words(values, bits, high_bit)
    half = 2 ** (bits - 1)
    both = counts[:, 1:] & counts[:, :-1]
    numbers = (words + half) % (2 * half) if signed else words
    return float((np.abs(np.diff(numbers, axis=1))[both] >= half).sum() / max(1, both.sum()))


def run_on_below_0(values: np.ndarray, bits: int, high_bit: int) -> bool:
    """Whether words (h, w), read as signed values, run on from above 0 to below it, without a gap between them.

    Letters and borders near the highest of unsigned values are read as values below 0 too, but leave a gap. Bits above
    `high_bit` that are no copy of it may be those of higher values: then it is not believed.
    """
    above = np.unique(_some_rows(values) >> (high_bit + 1))
    words, counts = _some_words(values, bits, high_bit)
    half = 2 ** (bits - 1)
    numbers = ((words + half) % (2 * half) - half)[counts]
    if not numbers.size or not np.isin(above, (0, 2 ** (8 * values.itemsize - high_bit - 1) - 1)).all():
        return False
    reach = np.ptp(np.percentile(numbers, PERCENTILES)) * NEAR
    near, _ = np.histogram(numbers, PARTS, (-reach, reach))
    return bool(near.min() > near.mean() / RARER)


def _some_rows(values: np.ndarray) -> np.ndarray:
    return values[:: max(1, len(values) // 64)].astype(np.int64)


def _some_words(values: np.ndarray, bits: int, high_bit: int) -> tuple[np.ndarray, np.ndarray]:
    """The bits of the values in some rows, int64, and which of them count, bool.

    Words that borders and padding are made of do not: all zeros, all ones, the sign alone.
    """
    words, half = _some_rows(values) >> (high_bit - bits + 1) & 2**bits - 1, 2 ** (bits - 1)
    return words, ~np.isin(words, (0, half, 2 * half - 1))
