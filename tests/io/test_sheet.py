"""The contact sheet: every asked film on it, lines where they belong, and nothing that stops the rest."""

import cv2
import numpy as np
import pytest
from PIL import Image

from cxrlines.io.sheet import contact_sheet
from cxrlines.phantom.dataset import write_phantom
from cxrlines.task import LABELS, PATIENT_COLUMN, STUDY_COLUMN


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    out = tmp_path_factory.mktemp("sheet") / "data"
    write_phantom(out, studies=8, seed=2, size=128, balance="even", annotated=1.0, workers=1)
    return out


def picture(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def coloured(sheet):
    """Pixels that are not grey."""
    return int((np.ptp(sheet, axis=2) > 60).sum())


def test_a_phantom_is_drawn_with_lines_and_captions(phantom, tmp_path):
    out = contact_sheet(phantom, tmp_path / "a" / "sheet.png", films=6, columns=3, size=128)
    bare = contact_sheet(phantom, tmp_path / "bare.png", films=6, columns=3, size=128, lines=False)
    assert out == tmp_path / "a" / "sheet.png"
    drawn, plain = picture(out), picture(bare)
    assert drawn.shape == plain.shape
    assert drawn.shape[1] == 3 * (128 + 6) + 6
    assert coloured(drawn) > coloured(plain) + 500  # the lines
    assert coloured(plain) > 50  # the captions, in the colours of their devices
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["sheet.png"]


def test_a_line_lies_where_it_was_annotated(tmp_path):
    (tmp_path / "train").mkdir()
    film = np.full((100, 200), 90, np.uint8)
    cv2.imwrite(str(tmp_path / "train" / "s1.png"), film)
    values = ",".join(str(int(label == "ETT - Normal")) for label in LABELS)
    (tmp_path / "train.csv").write_text(f"{STUDY_COLUMN},{','.join(LABELS)},{PATIENT_COLUMN}\ns1,{values},p1\n")
    (tmp_path / "train_annotations.csv").write_text(
        'StudyInstanceUID,label,data\ns1,ETT - Normal,"[[100, 10], [100, 90]]"\n'
    )
    sheet = picture(contact_sheet(tmp_path, tmp_path / "s.png", size=400))
    # The film fits the square's width at twice its size, 100 px below its top; 6 px of paper around.
    spot = sheet[6 + 100 + 100, 6 : 6 + 400]
    blue = spot[:, 2] - spot[:, 0]  # of an ETT's line, none on grey
    assert blue.max() > 100
    assert (blue * np.arange(400)).sum() / blue.sum() == pytest.approx((100 + 0.5) * 2 - 0.5, abs=0.1)


def test_the_seed_chooses_and_repeats(phantom, tmp_path):
    one, same, other = (
        contact_sheet(phantom, tmp_path / f"{i}.png", films=3, size=64, seed=seed).read_bytes()
        for i, seed in enumerate((1, 1, 2))
    )
    assert one == same != other


def test_a_plain_folder_and_a_bad_film_among_good_ones(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    for k in range(3):
        cv2.imwrite(str(folder / f"{k}.png"), np.full((60, 50), 60 * k + 40, np.uint8))
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:40])
    sheet = picture(contact_sheet(folder, tmp_path / "s.jpg", columns=4, size=100))
    assert sheet.shape[1] == 4 * (100 + 6) + 6
    assert all((np.abs(sheet - level).max(2) < 6).sum() > 3000 for level in (40, 100, 160))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"films": 0}, "films: needs a whole number of at least 1, got 0"),
        ({"columns": 0}, "columns: needs a whole number of at least 1, got 0"),
        ({"size": 10}, "size: needs a whole number of at least 64, got 10"),
    ],
)
def test_numbers_out_of_range_name_themselves(phantom, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        contact_sheet(phantom, tmp_path / "s.png", **change)


def test_other_formats_and_empty_folders_say_the_way_out(phantom, tmp_path):
    with pytest.raises(ValueError, match=r"out.*\.png, \.jpg, \.jpeg.*s\.gif"):
        contact_sheet(phantom, tmp_path / "s.gif")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        contact_sheet(tmp_path / "empty", tmp_path / "s.png")
    assert not (tmp_path / "s.png").exists()
