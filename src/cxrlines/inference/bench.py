"""Reading speed: a bundle as cxrlines reads with it against the same networks as PyTorch comes."""

import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from cxrlines.data.films import read_film
from cxrlines.data.store import shrink
from cxrlines.evaluation.calibrate import Calibration
from cxrlines.inference.bundle import Bundle
from cxrlines.inference.reader import Reader
from cxrlines.inference.views import views

HEIGHT, WIDTH = 3000, 2500


def bench_predict(bundle: Bundle, films: int = 12) -> dict[str, float]:
    """Seconds a film of 2,500 x 3,000 px as JPEG, from its bytes to its findings.

    `latency_s` is one film after the other, `batch_s` many at once; `plain_s` is decoding, shrinking and the networks
    one film after the other in PyTorch's own memory format, without finding lines; `decode_s` the decoding alone.
    `largest_difference` is that of a probability between the two ways.
    """
    jpegs = [_jpeg(seed) for seed in range(films)]
    plain_models = [model.to(memory_format=torch.contiguous_format) for model in bundle.models]

    def plain(jpeg: bytes) -> np.ndarray:
        store = bundle.manifest.store
        film, _ = shrink(read_film(jpeg).pixels, store.size, store.aspect)
        with torch.no_grad():
            each = [
                torch.sigmoid(model(torch.from_numpy(views(film, size)[:, None])))
                for model, size in zip(plain_models, bundle.sizes, strict=True)
            ]
        return torch.stack(each).mean(dim=0)[0].numpy()

    plain_s, expected = _timed(lambda: [plain(jpeg) for jpeg in jpegs], films)
    reader = Reader(bundle)  # puts the models back into its own memory format
    latency_s, found = _timed(lambda: [reader.read(jpeg) for jpeg in jpegs], films)
    batch_s, _ = _timed(lambda: list(reader.read_many(jpegs)), films)
    decode_s, _ = _timed(lambda: [read_film(jpeg) for jpeg in jpegs], films)
    got = np.array([list((each.labels or {}).values()) for each in found])
    lines_of = bundle.manifest.calibration
    wanted = np.array(expected, np.float64)
    wanted = Calibration(lines_of).apply(wanted) if lines_of else wanted
    return {
        "latency_s": round(latency_s, 3),
        "batch_s": round(batch_s, 3),
        "plain_s": round(plain_s, 3),
        "decode_s": round(decode_s, 3),
        "largest_difference": float(np.abs(got - wanted).max().round(6)),
    }


def _timed(work: Callable[[], Any], films: int) -> tuple[float, Any]:
    """Seconds a film, after one warm-up, and what the work gives."""
    work()
    begun = time.perf_counter()
    done = work()
    return (time.perf_counter() - begun) / films, done


def _jpeg(seed: int) -> bytes:
    """Clouds and grain of a film's size, as JPEG."""
    rng = np.random.default_rng(seed)
    clouds = Image.fromarray(rng.integers(40, 220, (12, 10), dtype=np.uint8))
    clouds = clouds.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 4, (HEIGHT, WIDTH))
    file = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(clouds) + grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()
