"""Small odd inputs made after public bug reports, as `index.csv` beside them says: read as a viewer does, or refused.

They are no part of the project; the tests skip where they are absent.
"""

import csv
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from scipy.stats import spearmanr

from cxrlines.core.film import Film, FilmError
from cxrlines.core.notes import Code
from cxrlines.core.spacing import SpacingKind
from cxrlines.io.films import read_film
from cxrlines.io.prepare import within_frame

ODD = Path(__file__).parents[1].parent / "shared/odd"
INDEX = ODD / "index.csv"
WANTED = {row["file"]: row["want"] for row in csv.DictReader(INDEX.open())} if INDEX.is_file() else {}
OTHER_FILMS = ("24-rsna-spacing", "61-jpegls-check")

if not WANTED:
    pytest.skip("the odd inputs are not on this machine (../shared/odd)", allow_module_level=True)


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    """The film that most of the inputs were made of, (h, w) uint8."""
    return cv2.imread(str(ODD / "reference.png"), cv2.IMREAD_GRAYSCALE)


def check_same(film: Film, reference: np.ndarray) -> None:
    """The film of the reference, shown by whatever curve its file says: in ranks, which a curve keeps."""
    height, width = reference.shape
    shown = cv2.resize(film.pixels, (width, height), interpolation=cv2.INTER_AREA)
    rows, columns = within_frame(shown)
    kept = reference[rows, columns]
    assert kept.size > 0.98 * reference.size
    assert spearmanr(shown[rows, columns].ravel()[::7], kept.ravel()[::7]).statistic > 0.97
    check_plausible(film)


def check_plausible(film: Film) -> None:
    assert 20 < np.median(film.pixels) < 235 and film.pixels.std() > 20


def test_a_saturated_border_is_black(reference):
    shown = read_film(ODD / "55-saturated-border/png-1pct-at-65535.png").pixels
    assert np.corrcoef(shown.ravel(), reference.ravel())[0, 1] > 0.97


@pytest.mark.parametrize(
    "name", [name for name, want in WANTED.items() if want == "film" and name.endswith((".dcm", ".png", ".tif"))]
)
def test_is_read_as_a_viewer_shows_it(name, reference):
    film = read_film(ODD / name)
    if name.startswith(OTHER_FILMS):
        check_plausible(film)
    else:
        check_same(film, reference)


@pytest.mark.parametrize("name", [name for name, want in WANTED.items() if want == "refuse"])
def test_is_refused(name):
    with pytest.raises(FilmError) as caught:
        read_film(ODD / name)
    assert caught.value.way_out and str(ODD / name) in caught.value.what


@pytest.mark.parametrize("name", [name for name, want in WANTED.items() if want == "either"])
def test_is_never_garbage(name, reference):
    try:
        film = read_film(ODD / name)
    except FilmError as error:
        assert error.way_out
    else:
        check_same(film, reference)


def test_sound_films_that_hung():
    with (ODD / "61-jpegls-check/train.csv").open() as table:
        studies = [row["StudyInstanceUID"] for row in csv.DictReader(table)]
    films = [path for path in (ODD / "61-jpegls-check/train").iterdir() if path.name.startswith(tuple(studies))]
    assert len(films) == len(studies)
    for path in films:
        check_plausible(read_film(path))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("01-voi-lut-narrow/monochrome1-top4095.dcm", Code.LUT_RESCALED),
        ("02-voi-lut-8bit/no-lut-data-with-window.dcm", Code.LUT_IGNORED),
        ("06-overlay-high-bits/j2k16-header12.dcm", Code.OVERLAY_MASKED),
        ("11-stream-end/jpeg-text-after.dcm", Code.BYTES_AFTER_END),
        ("12-no-sequence-delimiter/no-delimiter.dcm", Code.END_MISSING),
        ("18-missing-elements/no-SamplesPerPixel.dcm", Code.ELEMENT_ASSUMED),
        ("19-odd-windows/ww0-wc2048.dcm", Code.WINDOW_IGNORED),
        ("24-rsna-spacing/08d780ae-rsna-header-0.143.dcm", Code.SPACING_NOT_BELIEVED),
        ("55-saturated-border/png-1pct-at-65535.png", Code.BORDER_LEFT_OUT),
    ],
)
def test_what_is_odd_is_noted(name, code):
    assert [note.code for note in read_film(ODD / name).notes] == [code]


def test_a_spacing_of_a_larger_film_is_not_believed():
    spacing = read_film(ODD / "24-rsna-spacing/08d780ae-rsna-header-0.143.dcm").spacing
    assert (spacing.kind, spacing.mm_per_px) == (SpacingKind.NOT_BELIEVED, None)


@pytest.mark.parametrize("name", [name for name, want in WANTED.items() if want == "film" and name.endswith(".dcm")])
def test_a_dataset_reads_as_its_file(name):
    dataset = pydicom.dcmread(ODD / name, force=True)
    if "PixelData" not in dataset:  # pydicom cannot read it; the file can be read
        return
    assert np.array_equal(read_film(dataset).pixels, read_film(ODD / name).pixels)
