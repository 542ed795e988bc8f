"""The same film under two names and two processings is found; two films of one patient are not the same."""

import csv as csv_files
import itertools
import json
import os
import shutil
import time
from functools import partial

import cv2
import numpy as np
import pytest

from cxrlines.core.pool import in_parallel
from cxrlines.io.dedup.twins import SIGNATURE, Twin, find_twins, signature, twins_of_folders, twins_of_stores
from cxrlines.io.films import read_film
from cxrlines.io.rows import TableError
from cxrlines.io.store import build_store
from cxrlines.io.tables import read_dataset
from cxrlines.phantom.render import render
from cxrlines.phantom.scene import make_scene


def phantom(number: int, size: int) -> np.ndarray:
    """Film `number` of a large phantom set: six films a patient, every site, balance and difficulty."""
    patient = number // 6
    balance, site = ("natural", "even")[patient % 2], "aab"[patient % 3]
    scene = make_scene([9, patient], [9, patient, number], size=size, balance=balance, site=site)
    return render(scene, difficulty=0.1 + 0.1 * (patient % 8), site=site, rng=np.random.default_rng([9, number, 1]))


def processed(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another archive's version: cut at each side, windowed into saturation, gamma, equalised, resized, encoded."""
    height, width = film.shape
    left, right, top, bottom = rng.uniform(0, 0.08, 4) * [width, width, height, height]
    film = film[round(top) : height - round(bottom), round(left) : width - round(right)]
    low, high = np.percentile(film, [rng.uniform(0, 6), 100 - rng.uniform(0, 6)])
    gray = np.clip((film - low) / max(high - low, 1), 0, 1) ** np.exp(rng.uniform(-0.7, 0.7))
    film = (gray * 255).astype(np.uint8)
    how = rng.integers(4)
    if how == 1:
        film = cv2.createCLAHE(float(rng.uniform(1, 4)), (8, 8)).apply(film)
    if how == 2:
        film = cv2.equalizeHist(film)
    if rng.random() < 0.1:
        film = 255 - film
    scale = rng.uniform(0.5, 1.5)
    height, width = round(film.shape[0] * scale), round(film.shape[1] * scale)
    if rng.random() < 0.5:
        height = width = max(height, width)
    film = cv2.resize(film, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return cv2.imdecode(cv2.imencode(".jpg", film, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 96))])[1], 0)


def film_and_twin(number: int, size: int, every: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The signatures of a phantom film and, for one in `every`, of a twin of it."""
    film = phantom(number, size)
    twin = signature(processed(film, np.random.default_rng([3, number]))) if number % every == 0 else None
    return signature(film), twin


def two_collections(count: int, size: int, every: int, workers: int = 1):
    """Collections a and b that share every patient but no film, twins of films of a that were put into b, and which."""
    assert every % 2 == 0
    work = partial(film_and_twin, size=size, every=every)
    made = dict(in_parallel(work, range(count), workers, "rendering"))
    a = [made[number][0] for number in range(0, count, 2)]
    b = [made[number][0] for number in range(1, count, 2)]
    twins = [(number // 2, made[number][1]) for number in range(0, count, every)]
    return a, b + [film for _, film in twins], [(place, len(b) + k) for k, (place, _) in enumerate(twins)]


def pairs(found: list[Twin]) -> list[tuple[int, int]]:
    return [(twin.a, twin.b) for twin in found]


@pytest.fixture(scope="module")
def collections():
    return two_collections(96, 160, 4)


@pytest.fixture(scope="module")
def found(collections):
    return find_twins(*collections[:2])


@pytest.fixture(scope="module")
def real(shared):
    with (shared / "cxr/index.csv").open() as file:
        rows = list(csv_files.DictReader(file))
    return [read_film(shared / f"cxr/images/{row['image_id']}.jpg").pixels for row in rows]


def real_twins(films: list[np.ndarray], seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Signatures of films, and of a twin of each."""
    twins = [processed(film, np.random.default_rng([seed, k])) for k, film in enumerate(films)]
    return [signature(film) for film in films], [signature(film) for film in twins]


class TestPhantom:
    def test_twins_are_found_and_other_films_of_a_patient_are_not(self, collections, found):
        planted = collections[2]
        assert len(planted) == 24
        assert len(set(pairs(found)) & set(planted)) >= 23
        assert set(pairs(found)) <= set(planted)
        assert pairs(found) == sorted(pairs(found))
        assert all(0.7 < twin.correlation <= 1 for twin in found)

    def test_neither_the_order_of_films_nor_of_collections_matters(self, collections, found):
        a, b = collections[0][:20], collections[1][-24:-12]
        straight = find_twins(a, b)
        order_a, order_b = (np.random.default_rng(seed).permutation(len(films)) for seed, films in ((0, a), (1, b)))
        turned = find_twins([b[k] for k in order_b], [a[k] for k in order_a])
        back = sorted((int(order_a[t.b]), int(order_b[t.a]), t.correlation) for t in turned)
        assert back == [(t.a, t.b, t.correlation) for t in straight]
        assert len(straight) >= 9

    @pytest.mark.long
    def test_an_array_and_worker_processes_give_the_same(self, collections):
        """Long for the processes it starts, each of which imports all it needs."""
        a, b = collections[0][:8], collections[1][-24:-20]
        assert find_twins(np.stack(a), np.stack(b), workers=2) == find_twins(a, b) != []

    def test_a_film_may_have_many_twins(self, collections):
        film = phantom(0, 160)
        rng = np.random.default_rng(0)
        many = [signature(processed(film, rng)) for _ in range(18)]
        found = find_twins(collections[0][:10], collections[1][:10] + many)
        assert [twin.a for twin in found] == [0] * len(found) and len(found) >= 17
        assert {twin.b for twin in found} <= set(range(10, 28))


def turned(film: np.ndarray, way: int) -> np.ndarray:
    """Mirrored or turned, in one of seven ways, shrunk and re-encoded."""
    film = np.rot90(film[:, ::-1] if way >= 4 else film, way % 4)
    film = cv2.resize(film, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    return cv2.imdecode(cv2.imencode(".jpg", film, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 0)


class TestTurned:
    def test_mirrored_and_turned_copies_are_twins(self, collections):
        films = [phantom(2 * k, 160) for k in range(14)]
        copies = [signature(turned(film, 1 + k % 7)) for k, film in enumerate(films)]
        found = find_twins([signature(film) for film in films], [*collections[1][:5], *copies])
        assert pairs(found) == [(k, 5 + k) for k in range(14)]

    def test_real_ones_too(self, real):
        copies = [signature(turned(film, 1 + k % 7)) for k, film in enumerate(real[:30])]
        assert pairs(find_twins([signature(film) for film in real[:30]], copies)) == [(k, k) for k in range(30)]


class TestRealFilms:
    """Few: what is found of them is not what is claimed for thousands. All of them are in the long tests."""

    def test_their_twins_are_found_and_other_films_of_a_patient_are_not(self, real):
        films, twins = real_twins(real[:30], 0)
        found = pairs(find_twins(films, twins))
        assert set(found) <= {(k, k) for k in range(30)}
        assert len(found) >= 28

    def test_a_border_they_share_does_not_make_them_one(self, real):
        border = cv2.BORDER_CONSTANT
        bordered = [signature(cv2.copyMakeBorder(film, *[40] * 4, border, value=255)) for film in real[:30]]
        assert pairs(find_twins(bordered[::2], bordered[1::2])) == []


class TestOddFilms:
    def test_nothing_to_compare(self, noise_film):
        film = signature(noise_film(0))
        assert find_twins([], []) == find_twins([film], []) == find_twins([], [film]) == []

    def test_films_without_contrast_are_like_nothing(self, noise_film):
        blank = [
            signature(np.full(shape, gray, np.uint8)) for shape, gray in (((1, 1), 7), ((9, 5), 0), ((99, 99), 255))
        ]
        assert {film.shape for film in blank} == {(SIGNATURE, SIGNATURE)}
        assert find_twins(blank, blank) == []
        film = signature(noise_film(0))
        assert find_twins([*blank, film], [film, *blank]) == [Twin(3, 0, 1.0)]

    def test_few_films_suffice(self, noise_film):
        films = [signature(noise_film(seed)) for seed in range(3)]
        lighter = [signature(cv2.resize(noise_film(seed), (200, 200)) // 2 + 60) for seed in (2, 0)]
        assert pairs(find_twins(films, lighter)) == [(0, 1), (2, 0)]
        assert pairs(find_twins(films[:1], lighter[1:])) == [(0, 0)]
        assert pairs(find_twins(films[:1], [255 - lighter[1]])) == [(0, 0)]
        assert find_twins(films[:1], lighter[:1]) == []

    def test_a_collection_beside_itself(self, noise_film):
        films = [signature(noise_film(seed)) for seed in range(12)]
        assert find_twins(films, films) == [Twin(k, k, 1.0) for k in range(12)]

    def test_what_is_no_signature_is_an_error(self, noise_film):
        with pytest.raises(ValueError, match=r"b\[1\].*\(90, 120\).*\(96, 96\)"):
            find_twins([], [signature(noise_film(0)), noise_film(1)])


class TestFolders:
    @pytest.fixture
    def two_folders(self, folder, tmp_path):
        """The table's folder of 12 films, and a plain one: twins of three of them, a film of its own and a bad one."""
        other = tmp_path / "other"
        (other / "images").mkdir(parents=True)
        for study in ("s002", "s005", "s011"):
            cut = folder.films[study][2:, 3:]
            cv2.imwrite(str(other / "images" / f"x{study}.jpg"), cv2.resize(cut, (200, 200)))
        cv2.imwrite(str(other / "own.png"), np.random.default_rng(0).integers(0, 255, (80, 80), dtype=np.uint8))
        (other / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no film")
        return folder.write(), other

    def test_pairs_with_names_and_counts(self, two_folders, tmp_path):
        found = twins_of_folders(*two_folders)
        expected = [(study, f"images/x{study}.jpg") for study in ("s002", "s005", "s011")]
        assert [*zip(found.twins["study_a"], found.twins["study_b"], strict=True)] == expected
        assert found.films == (12, 4)
        assert found.left_out == ({}, {"film not readable": 1})
        as_dict = json.loads(json.dumps(found.as_dict()))
        assert as_dict["b"] == {"films": 4, "with_twins": 3, "left_out": {"film not readable": 1}}
        assert "B: 4 films, 3 with a twin; left out: film not readable 1" in found.text()
        assert "3 pairs of twins" in found.text() and "s002  images/xs002.jpg" in found.text()
        found.write(tmp_path / "new" / "twins.csv")
        with (tmp_path / "new" / "twins.csv").open() as file:
            rows = list(csv_files.DictReader(file))
        assert [(row["study_a"], row["study_b"]) for row in rows] == expected
        assert all(0.75 <= float(row["correlation"]) <= 1 for row in rows)

    def test_an_external_set_is_read_as_it_is_distributed(self, folder, tmp_path):
        name = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
        (tmp_path / "chexpert" / name).parent.mkdir(parents=True)
        (tmp_path / "chexpert" / "train.csv").write_text(
            f"Path,Sex,Age,Frontal/Lateral,AP/PA,Support Devices\n{name},Female,68,Frontal,AP,1.0\n"
        )
        cv2.imwrite(str(tmp_path / "chexpert" / name), cv2.resize(folder.films["s002"][2:, 3:], (200, 200)))
        found = twins_of_folders(folder.write(), tmp_path / "chexpert")
        assert found.twins.iloc[:, :2].to_numpy().tolist() == [["s002", "patient00001/study1/view1_frontal"]]

    def test_names_that_are_not_utf_8(self, two_folders, tmp_path):
        other = two_folders[1]
        odd = other / os.fsdecode(b"own-\xff.png")
        (other / "own.png").rename(odd)
        shutil.copytree(other, tmp_path / "copy")
        found = twins_of_folders(other, tmp_path / "copy")
        assert odd.name in set(found.twins["study_a"])
        assert "own-\\xff.png" in found.text() and found.text().encode()
        found.write(tmp_path / "twins.csv")
        assert b"own-\xff.png,own-\xff.png,1.0" in (tmp_path / "twins.csv").read_bytes()

    def test_no_twins_is_a_table_without_rows(self, two_folders, tmp_path):
        found = twins_of_folders(two_folders[1], two_folders[1])
        assert len(found.twins) == 4
        found = type(found)(found.twins[:0], found.films, found.left_out)
        found.write(tmp_path / "none.csv")
        assert (tmp_path / "none.csv").read_text() == "study_a,study_b,correlation\n"
        assert "0 pairs of twins" in found.text()

    @pytest.mark.parametrize("aspects", list(itertools.combinations_with_replacement(["pad", "stretch"], 2)))
    def test_stores_of_either_aspect(self, two_folders, tmp_path, aspects):
        a, b = (
            build_store(read_dataset(root), tmp_path / f"store{side}", size=128, aspect=aspect)
            for side, (root, aspect) in enumerate(zip(two_folders, aspects, strict=True))
        )
        found = [(a.studies[twin.a], b.studies[twin.b]) for twin in twins_of_stores(a, b)]
        assert found == [(study, f"images/x{study}.jpg") for study in ("s002", "s005", "s011")]

    @pytest.mark.parametrize("aspect", ["pad", "stretch"])
    def test_frames_are_not_compared(self, folder, tmp_path, aspect):
        """Films of one collection come in frames of an export: what lies within is found, as it is in the store."""
        root = folder.write()
        framed = shutil.copytree(root, tmp_path / "framed")
        for path in (framed / "train").iterdir():
            film = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            cv2.imwrite(str(path), np.pad(film, ((40, 10), (5, 70)), constant_values=25))
        a, b = (
            build_store(read_dataset(each), tmp_path / f"store-{each.name}", size=128, aspect=aspect)
            for each in (root, framed)
        )
        assert [(twin.a, twin.b) for twin in twins_of_stores(a, b)] == [(row, row) for row in range(len(a))]
        for row in range(len(a)):
            assert np.array_equal(a.films[row][a.inner(row)], b.films[row][b.inner(row)])

    def test_a_folder_without_films_is_an_error(self, two_folders, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(TableError, match="empty"):
            twins_of_folders(two_folders[0], tmp_path / "empty")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_twins_of_all_real_films(real):
    """243 films with a twin each, processed in three ways. 239, 240 and 239 were found when this was written: 98 to
    99 %. That 99 % are found holds for phantom films (below), not for these; 97 % leaves room for three more misses."""
    for seed in (1, 2, 3):
        films, twins = real_twins(real, seed)
        found = pairs(find_twins(films, twins))
        print(f"seed {seed}: {len(found)} of {len(films)} found")
        assert set(found) <= {(k, k) for k in range(len(films))}
        assert len(found) >= 0.97 * len(films)
    assert pairs(find_twins(films, films)) == [(k, k) for k in range(len(films))]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_2000_twins_among_20000_films():
    """20,000 films and 2,000 twins of some of them; and a quarter of it, to see how cost grows."""
    a, b, planted = two_collections(20000, 160, 10, workers=2)
    times = []
    for share in (4, 1):
        start = time.perf_counter()
        few_a, few_b = a[: len(a) // share], b[: 10000 // share] + b[10000 : 10000 + 2000 // share]
        found = pairs(find_twins(few_a, few_b, workers=2))
        times.append(time.perf_counter() - start)
    hit = len(set(found) & set(planted))
    print(f"{len(a) + len(b)} films: {hit} of {len(planted)} found, {len(found) - hit} false, {times} s")
    assert len(planted) == 2000 and hit >= 0.99 * len(planted) and len(found) - hit <= 1
    assert times[1] < 8 * times[0]  # four times as many films; 16 times would be quadratic
