"""What a film is, by rule and by the probe, and points of righted films back on the original."""

import importlib.resources
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_sample_image

import cxrlines
from cxrlines.data.films import Film, read_film
from cxrlines.data.notes import Code
from cxrlines.data.prepare import Quality, assess, by_rule, prepare, turned_back, within_frame
from cxrlines.inference import quality
from cxrlines.inference.findings import Findings
from cxrlines.inference.not_films import SEEN, UNSEEN
from cxrlines.inference.other_scans import hand
from cxrlines.inference.quality import NOT_A_FILM, Probe, read_probe
from cxrlines.inference.quality_fit import measured, refused
from cxrlines.inference.quality_views import posed
from cxrlines.inference.reader import EMBEDDED, Reader
from cxrlines.models.poses import POSES
from cxrlines.models.weights import WeightsError
from cxrlines.phantom.render import render
from cxrlines.phantom.scene import make_scene

REAL = Path(__file__).parents[2].parent / "shared/data/cxr/images"


def _film(seed: int = 0, shape: tuple[int, int] = (120, 150)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _ruled(pixels: np.ndarray, bits: int = 8, view: str | None = None) -> Quality:
    return by_rule(Film(pixels, "DICOM", bits, view=view), pixels)


def _codes(quality: Quality) -> list[Code]:
    return [note.code for note in quality.notes]


@pytest.mark.parametrize("pose", range(len(POSES)))
def test_a_righted_film_is_the_one_that_was_turned_and_its_points_lie_on_the_original(pose: int) -> None:
    upright = _film()
    rotation, inverted = POSES[pose]
    told = Quality(rotation=rotation, inverted=inverted)
    original = posed(upright, pose)
    before = original.copy()
    np.testing.assert_array_equal(turned_back(original, told), upright)
    np.testing.assert_array_equal(original, before)
    points = np.array([[0, 0], [149, 0], [149, 119], [37, 81]])
    placed = prepare(Film(original, "array", 8), 150, "pad", lambda _: told).placement
    x, y = placed.to_film(points + np.array([0, 15])).round().astype(int).T  # 120 px high, centred in 150
    value = upright[points[:, 1], points[:, 0]]
    np.testing.assert_array_equal(original[y, x], 255 - value if inverted else value)


def test_a_lateral_view_and_a_film_of_one_gray_value_are_refused_with_the_reason() -> None:
    lateral = _ruled(_film(), view="LL")
    assert not lateral.usable and _codes(lateral) == [Code.LATERAL]
    assert lateral.notes[0].text == "not a frontal chest film: its DICOM view position is LL"
    black = _ruled(np.zeros((200, 200), np.uint8))
    assert not black.usable and _codes(black) == [Code.NO_CONTRAST]
    for view in ("PA", "AP", None):
        assert _ruled(_film(), view=view) == Quality()


def test_small_films_and_those_of_one_bit_are_read_and_it_is_said() -> None:
    told = _ruled(_film(shape=(99, 130)), bits=1)
    assert told.usable and _codes(told) == [Code.SMALL, Code.ONE_BIT] and "130 x 99 px" in told.notes[0].text
    assert _ruled(_film(shape=(100, 100))).notes == ()


@pytest.mark.parametrize("gray", [0, 20, 255])
@pytest.mark.parametrize("shape", [(120, 90), (1400, 1100)])
def test_a_frame_of_one_gray_value_is_looked_past(gray: int, shape: tuple[int, int]) -> None:
    film = _film(shape=shape)
    (height, width), rng = shape, np.random.default_rng(0)
    framed = np.pad(film, ((height // 2, height // 3), (0, width)), constant_values=gray)
    noise = rng.integers(0, 4, framed.shape).astype(np.int16)  # as a JPEG leaves it
    framed = np.clip(framed + noise - 2, 0, 255).astype(np.uint8)
    before = framed.copy()
    inner = framed[within_frame(framed)]
    assert (framed == before).all()
    step = max(framed.shape) // 512 + 1
    assert abs(inner.shape[0] - height) <= step and abs(inner.shape[1] - width) <= step
    assert inner[0, 0] == framed[height // 2, 0]


def test_what_has_no_frame_or_nothing_within_stays_whole() -> None:
    film = _film()
    assert within_frame(film) == (slice(0, 120), slice(0, 150))
    assert within_frame(np.full((50, 40), 7, np.uint8)) == (slice(0, 50), slice(0, 40))
    speck = np.zeros((100, 100), np.uint8)
    speck[40:60, 40:60] = _film(shape=(20, 20))
    assert within_frame(speck) == (slice(0, 100), slice(0, 100))


@pytest.fixture(scope="module")
def reader() -> Reader:
    return cxrlines.load_reader()


@pytest.fixture(scope="module")
def probe() -> Probe:
    return read_probe(EMBEDDED / quality.FILE)


def _phantom(seed: int) -> np.ndarray:
    scene = make_scene([seed], [seed, 7], size=360, balance="even", site="a")
    return render(scene, difficulty=0.5, site="a", rng=np.random.default_rng(seed))


def test_poses_of_films_are_told_and_righted_and_a_mirrored_film_is_left(probe: Probe) -> None:
    right = 0
    for seed in range(900, 906):
        film = _phantom(seed)
        for pose, (rotation, inverted) in enumerate(POSES):
            told = probe(posed(film, pose))
            assert told.usable and told.frontal_chest is not None and told.frontal_chest > 0.5
            right += (told.rotation, told.inverted) == (rotation, inverted)
            if (told.rotation, told.inverted) != (0, False):
                turned_round = {Code.TURNED} if rotation else set()
                assert set(_codes(told)) - {Code.CROPPED} == turned_round | ({Code.INVERTED} if inverted else set())
        assert probe(film[:, ::-1]) == replace(probe(film), cropped=probe(film[:, ::-1]).cropped)
    assert right >= 47  # of 48


def test_what_is_no_film_is_refused_kinds_it_was_not_fitted_on_among_them(probe: Probe) -> None:
    shares = refused(probe, SEEN + UNSEEN, seed=77, each=4)
    assert min(shares.values()) >= 0.75 and sum(shares.values()) / len(shares) > 0.98
    told = probe(hand(np.random.default_rng(0)))
    assert told.frontal_chest is not None and told.frontal_chest <= 0.5
    assert (told.rotation, told.inverted, told.cropped) == (0, False, None)
    assert told.notes == (NOT_A_FILM,) and _codes(told) == [Code.NOT_A_CHEST_FILM]


def test_a_film_cut_to_a_part_of_the_chest_is_said_to_be_cropped_and_a_whole_one_is_not(probe: Probe) -> None:
    whole = cut = 0
    for seed in range(900, 912):
        film = _phantom(seed)
        height, width = film.shape
        plain, part = probe(film), probe(film[height // 2 :, : width // 2])
        whole += plain.cropped is not None and plain.cropped < 0.5
        cut += not part.usable or bool(
            part.cropped is not None and part.cropped >= 0.5 and Code.CROPPED in _codes(part)
        )
    assert whole >= 11 and cut >= 10


def test_a_photograph_gets_no_findings_and_the_film_beside_it_is_read(reader: Reader) -> None:
    photograph = load_sample_image("china.jpg").mean(axis=2).astype(np.uint8)
    refusal, film = reader.read_many([photograph, _phantom(900)])
    assert isinstance(refusal, Findings) and isinstance(film, Findings)
    assert refusal.labels is None and refusal.lines == () and refusal.landmarks == {}
    assert refusal.all_notes == (NOT_A_FILM,) and refusal.as_dict()["notes"] == [NOT_A_FILM.as_dict()]
    assert film.labels is not None and film.quality.usable


def test_a_turned_film_is_read_as_the_upright_one_is(reader: Reader) -> None:
    film = _phantom(901)
    upright = reader.read(film)
    turned = reader.read(posed(film, POSES.index((90, True))))
    assert (turned.quality.rotation, turned.quality.inverted) == (90, True)
    assert upright.labels is not None and turned.labels == pytest.approx(upright.labels, abs=1e-6)
    x, y = upright.landmarks["carina"].xy
    np.testing.assert_allclose(turned.landmarks["carina"].xy, (y, film.shape[1] - 1 - x), atol=1e-6)


@pytest.mark.skipif(
    importlib.util.find_spec("data_store") is None, reason="pydicom-data, part of the extra `demo`, is not installed"
)
def test_a_real_chest_is_read_and_other_scans_are_refused(probe: Probe) -> None:
    with importlib.resources.as_file(importlib.resources.files("data_store") / "data") as place:
        chest, _ = assess(read_film(place / "RG1_UNCR.dcm"), probe)
        assert chest.usable and (chest.rotation, chest.inverted) == (0, False)
        for name in ("693_UNCR", "MR2_UNCR", "US1_UNCR", "RG3_UNCR", "explicit_VR-UN"):  # head, shoulder, node, leg, CT
            assert not assess(read_film(place / f"{name}.dcm"), probe)[0].usable, name


@pytest.mark.skipif(not REAL.is_dir(), reason="the real films of shared/data/cxr are not at hand")
def test_real_films_are_not_refused_and_none_is_turned_wrongly(probe: Probe) -> None:
    figures = measured(probe, [read_film(path).pixels for path in sorted(REAL.glob("*.jpg"))[::10]], views=2)
    poses, upright = figures["poses"], figures["upright"]
    assert poses["shown"] == 8 * 25 and poses["told"] >= 0.99 * poses["shown"]
    assert poses["refused"] == poses["righted_wrongly"] == poses["inverted_wrongly"] == 0
    assert upright["refused"] == upright["turned"] == 0


def test_a_damaged_probe_says_which_file_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / quality.FILE
    path.write_bytes((EMBEDDED / quality.FILE).read_bytes()[:5000])
    with pytest.raises(WeightsError) as caught:
        read_probe(path)
    assert str(path) in caught.value.what and "cxrlines quality" in caught.value.way_out
