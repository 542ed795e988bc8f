"""What is marked on the page is what a trainer gets: the same place of the film, however the file holds it."""

import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cxrlines.core.quality import Quality
from cxrlines.corrections.correction import CorrectedLine, Correction, Mark
from cxrlines.corrections.project import Project
from cxrlines.io.store import build_store
from cxrlines.io.tables import read_dataset
from cxrlines.lab.intact_films import as_dicom
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.recipe.run.training_data import TableFilms
from cxrlines.task import Device, Landmark, State
from cxrlines.web.rendering import Asked, Kind, make

TIP, CARINA = (140, 205), (90, 120)
RNG = np.random.default_rng(5)


@dataclass(frozen=True)
class Turned:
    """A probe that knows how a film lies."""

    rotation: int
    identity: str = "turned"

    def __call__(self, pixels: np.ndarray) -> Quality:
        return Quality(rotation=self.rotation)


def film() -> np.ndarray:
    """An upright film (300, 260), on which the tip and the carina are the whitest and next white spots."""
    noise = cv2.GaussianBlur(RNG.normal(0, 60, (300, 260)), (0, 0), 9)
    made = np.clip(90 + 12 * noise + RNG.integers(0, 20, noise.shape), 10, 170).astype(np.uint8)
    for (x, y), gray in ((TIP, 255), (CARINA, 215)):
        made[y - 5 : y + 6, x - 5 : x + 6] = gray
    return made


def spot(pixels: np.ndarray, gray: int) -> tuple[float, float]:
    """Where the spot of that gray is, [x, y]: the largest, as the other one's edge has all grays."""
    mask = (abs(pixels.astype(int) - gray) < 12).astype(np.uint8)
    _, _, stats, centres = cv2.connectedComponentsWithStats(mask)
    x, y = centres[1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])]
    return float(x), float(y)


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def tagged(pixels: np.ndarray) -> bytes:
    """A TIFF that says that it is to be shown turned by a quarter."""
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(pixels))).save(out, "TIFF", exif=exif)
    return out.getvalue()


FRAME = ((30, 10), (5, 45))
FILES = {
    "as it is": (png, 0),
    "MONOCHROME1": (lambda film: as_dicom(255 - film, 8, PhotometricInterpretation="MONOCHROME1"), 0),
    "cropped": (lambda film: png(np.pad(film, FRAME)), 0),
    "rotated": (lambda film: png(np.ascontiguousarray(np.rot90(film))), 90),
    "upside down in a frame, MONOCHROME1": (
        lambda film: as_dicom(255 - np.pad(np.rot90(film, 2), FRAME), 8, PhotometricInterpretation="MONOCHROME1"),
        180,
    ),
    "rotated in a frame": (lambda film: png(np.pad(np.rot90(film, 3), FRAME, constant_values=30)), 270),
    "turned by its tag": (tagged, 0),
}


@pytest.mark.parametrize("aspect", ["pad", "stretch"])
@pytest.mark.parametrize("kind", FILES)
def test_a_point_of_the_page_is_that_point_in_training(tmp_path, kind, aspect):
    write, rotation = FILES[kind]
    file = write(film())
    shown = make(Asked(Kind.PIXELS, file, None, ReadBy("0123456789ab", "none")))
    page = np.asarray(Image.open(io.BytesIO(shown)))
    tip, carina = spot(page, 255), spot(page, 215)
    line = CorrectedLine(device=Device.ETT, points=(carina, tip), mark=Mark.DRAWN, state=State.NORMAL)
    said = Correction(author="R", time="2026-03-01T09:30:00Z", lines=(line,), landmarks={Landmark.CARINA: carina})
    Project(tmp_path / "project").save(file, "film", None, said)

    dataset = read_dataset(tmp_path / "project")
    (study,) = dataset.studies["study"]
    np.testing.assert_array_equal(dataset.lines[study][0].points, [carina, tip])
    store = build_store(dataset, Path(tmp_path / "store"), size=200, aspect=aspect, probe=Turned(rotation))
    films = TableFilms(dataset, store, np.arange(1))
    (((_, points, _),),), stored = films.lines(), np.asarray(store.films[films.stored[0]])
    for found, gray in ((points[1], 255), (points[0], 215), (films.landmarks[0, 0], 215)):
        np.testing.assert_allclose(found, spot(stored, gray), atol=1.0)
    assert points[1][1] > points[0][1] and points[1][0] > points[0][0]  # upright: the tip is below, and to the right
