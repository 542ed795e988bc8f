"""Which real films are used, and what their pixels tell."""

import json

import cv2
import numpy as np
import pytest

from cxrlines.io.marks import read_marks
from cxrlines.phantom.backdrop import Look, exposed, find_backdrops, trachea

CARINA = {"carina": [50, 40], "carina_sure": 3}


def line(device, **more):
    return {"device": device, "path": [[50, 0], [50, 30]]} | more


@pytest.fixture
def films(tmp_path):
    """Films in tmp_path/films, and a function that reads marks of them."""
    folder = tmp_path / "films"
    folder.mkdir()

    def make(marks, names=None):
        for name in names or marks:
            cv2.imwrite(str(folder / f"{name}.png"), np.full((90, 120), 99, np.uint8))
        (tmp_path / "marks.json").write_text(json.dumps({"films": marks}))
        return folder, read_marks(tmp_path / "marks.json")

    return make


class TestFindBackdrops:
    def test_films_that_cannot_be_used_are_counted_by_reason(self, films):
        marks = {
            "good": CARINA,
            "other_things": CARINA | {"lines": [line("drain", sure=1), line("pacer", tip_on_film=False)]},
            "ngt_leaves": CARINA | {"lines": [line("ngt", tip_on_film=False)]},
            "no_carina": {"carina": None},
            "doubtful": CARINA | {"lines": [line("cvc", sure=1)]},
            "unseen": CARINA | {"lines": [line("cvc", tip_on_film=False)]},
            "elsewhere": CARINA,
        }
        folder, read = films(marks, [*[name for name in marks if name != "elsewhere"], "unmarked"])
        usable, left_out = find_backdrops(folder, read)
        assert [backdrop.path.stem for backdrop in usable] == ["good", "ngt_leaves", "other_things", "unseen"]
        assert usable[0].carina.tolist() == [50, 40]
        assert left_out == {
            "carina not marked": 1,
            "doubtful line": 1,
            "film without marks": 1,
        }

    @pytest.mark.parametrize("beside", [True, False])
    def test_patients_are_named_by_an_index_and_hidden(self, films, beside):
        folder, read = films({"a": CARINA, "b": CARINA, "c": CARINA, "d": CARINA})
        place = folder if beside else folder.parent
        (place / "index.csv").write_text("image_id,patient_id,icu\na,Jane,1\nb.png,Jane,1\nc,John,0\n")
        a, b, c, d = (backdrop.patient for backdrop in find_backdrops(folder, read)[0])
        assert a == b and len({a, c, d}) == 3
        assert all(len(p) == 16 and p.startswith("ee") and "Jan" not in p for p in (a, c, d))

    def test_errors_say_the_way_out(self, films, tmp_path):
        folder, read = films({"a": {"carina": None}})
        with pytest.raises(ValueError, match=r"no film can be drawn into \(1 carina not marked\); mark the carina"):
            find_backdrops(folder, read)
        with pytest.raises(ValueError, match=r"--onto .*none: is not a folder"):
            find_backdrops(tmp_path / "none", read)
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="has no films"):
            find_backdrops(tmp_path / "empty", read)
        with pytest.raises(ValueError, match=r"none of its 1 films is in the marks, .*'a'; .* as 'z'"):
            find_backdrops(folder, {"z": read["a"]})
        (folder / "deep").mkdir()
        (folder / "a.png").rename(folder / "deep/a.png")
        cv2.imwrite(str(folder / "a.jpg"), np.zeros((9, 9), np.uint8))
        with pytest.raises(ValueError, match="two films are called a"):
            find_backdrops(folder, read)


def scene(contrast=1.0, blur=0.0, noise=0.0, seed=0):
    """A film (420, 512) of soft shapes, with noise of a known deviation after a known blur."""
    rng = np.random.default_rng(seed)
    shapes = cv2.resize(rng.normal(0, 1, (12, 16)).astype(np.float32), (512, 420), interpolation=cv2.INTER_CUBIC)
    grain = rng.standard_normal(shapes.shape).astype(np.float32)
    if blur:
        grain = cv2.GaussianBlur(grain, (0, 0), blur)
    return np.clip(128 + 25 * contrast * shapes + noise * grain / grain.std(), 0, 255).astype(np.uint8)


class TestLook:
    def test_contrast_grows_with_the_films(self):
        weak, strong = (Look.of(scene(c, noise=2)).contrast for c in (0.5, 1.0))
        assert 1.5 < strong / weak < 2.0

    @pytest.mark.parametrize("sigma", [0.5, 0.8, 1.2])
    def test_blur_from_the_grain(self, sigma):
        assert Look.of(scene(0.3, blur=sigma, noise=12)).blur == pytest.approx(sigma, abs=0.2)


def test_the_trachea_is_found_where_it_is_dark():
    film = np.full((400, 400), 150, np.float32)
    y = np.arange(0, 221)
    true = 200 + 0.0006 * (220 - y) ** 2  # px: bends to the right going up
    for row, x in zip(y, true, strict=True):
        film[row, int(x) - 10 : int(x) + 11] -= 40
    film += np.random.default_rng(0).normal(0, 5, film.shape)
    axis = trachea(np.clip(film, 0, 255).astype(np.uint8), np.array([200.0, 220.0]), 14.0)
    assert axis[-1].tolist() == [0, 0] and axis[0, 1] == pytest.approx(-9.75)
    wanted = (np.interp(220 + 14 * axis[:, 1], y, true) - 200) / 14
    assert np.abs(axis[:, 0] - wanted).max() < 0.45  # cm
    plain = trachea(np.full((400, 400), 150, np.uint8), np.array([200.0, 220.0]), 14.0)
    assert np.abs(plain[:, 0]).max() < 0.1  # nothing to see: the midline


def test_the_dark_border_is_not_exposed_but_lungs_are():
    film = np.full((200, 240), 160, np.uint8)
    film[:, :20] = 3
    film[60:140, 60:110] = 3  # as dark, but inside
    seen = exposed(film)
    assert seen.shape == film.shape and seen.dtype == bool
    assert not seen[:, :16].any() and seen[:, 24:].all()
