"""The films that reading and serving are measured on."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from cxrlines.core.errors import Error
from cxrlines.io.films import read_bytes
from cxrlines.phantom.dataset import JPEG_QUALITY
from cxrlines.phantom.render import render
from cxrlines.phantom.scene import make_scene
from cxrlines.reading.sources import find_films

HEIGHT, WIDTH = 3000, 2500


class BenchError(Error):
    """There is nothing to measure with; the message says why."""


def film_files(films: int, folder: Path | None) -> Iterator[bytes]:
    """The bytes of phantoms, or of a folder's first films by name."""
    if folder is None:
        yield from (_phantom(seed) for seed in range(films))
        return
    found = find_films([folder])
    for path, why in found.errors:
        raise BenchError(f"{path}: {why}", "name a folder of films")
    yield from (read_bytes(path) for path, _ in found.films[:films])


def _phantom(seed: int) -> bytes:
    """A phantom of WIDTH x HEIGHT px as JPEG."""
    scene = make_scene([seed, 1], [seed, 1, 0], size=max(HEIGHT, WIDTH), balance="even", site="a")
    film = render(scene, difficulty=0.5, site="a", rng=np.random.default_rng(seed))
    sized = cv2.resize(film, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    done, jpeg = cv2.imencode(".jpg", sized, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    assert done
    return jpeg.tobytes()
