"""What a store keeps of its films' quality: the same as reading finds, and what the gate makes of it."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from cxrlines.core.quality import POSES, Quality
from cxrlines.io.films import read_film
from cxrlines.io.prepare import PREPARATION, prepare, shrink
from cxrlines.io.store import Store, StoreError, build_store
from cxrlines.io.tables import read_dataset
from cxrlines.lab.probe.views import posed
from cxrlines.phantom.render import render
from cxrlines.phantom.scene import make_scene
from cxrlines.reading.probe import embedded_probe


def build(folder, where: Path, **options) -> Store:
    settings = {"size": 32, "aspect": "pad"} | options
    return build_store(read_dataset(folder.write()), where, **settings)


def phantom(seed: int) -> np.ndarray:
    scene = make_scene([seed], [seed, 7], size=200, balance="even", site="a")
    rng = np.random.default_rng(seed)
    film = render(scene, difficulty=0.1, site="a", rng=rng).astype(np.int16)
    return np.clip(film + rng.integers(0, 9, film.shape), 0, 255).astype(np.uint8)  # no edge is of one gray value


@pytest.fixture
def odd(folder) -> Path:
    """Films as they come: sound, framed, turned, inverted, in a frame and turned; noise, black, white; one damaged."""
    films = [phantom(seed) for seed in range(6)]
    framed = np.pad(films[1], ((40, 20), (10, 60)), constant_values=30)
    turned = np.pad(posed(films[4], POSES.index((270, True))), ((0, 50), (30, 0)))
    noise = np.random.default_rng(0).integers(0, 256, (200, 170), dtype=np.uint8)
    black, white = np.zeros((160, 150), np.uint8), np.full((160, 150), 255, np.uint8)
    made = [films[0], framed, posed(films[2], POSES.index((90, False))), 255 - films[3], turned, noise, black, white]
    folder.rows = folder.rows[:9]
    folder.films = {f"s{index:03}": film for index, film in enumerate(made)}
    root = folder.write()
    (root / "train/s008.png").write_bytes(b"")
    return root


class TestPrepared:
    """A film in the store is what reading makes of the same file."""

    @pytest.mark.parametrize("aspect", ["pad", "stretch"])
    def test_pixels_and_all_that_is_known_are_those_of_reading(self, odd, tmp_path, aspect):
        probe = embedded_probe()
        store = build_store(read_dataset(odd), tmp_path / "st", size=96, aspect=aspect, probe=probe)
        assert len(store) == 8 and list(store.left_out) == ["s008"]
        for row, study in enumerate(store.studies):
            made = prepare(read_film(odd / f"train/{study}.png"), 96, aspect, probe)
            kept = store.kept[row]
            assert np.array_equal(store.films[row], made.pixels)
            assert (kept.placement, kept.film_shape, kept.within) == (made.placement, made.film_shape, made.within)
            assert kept.quality == made.quality and kept.notes == ()
        done = [(kept.quality.rotation, kept.quality.inverted) for kept in store.kept]
        assert done[:5] == [(0, False), (0, False), (90, False), (0, True), (270, True)]
        height, width = phantom(1).shape
        assert store.kept[1].within == (10, 40, 10 + width, 40 + height)
        assert store.kept[1].film_shape == (height + 60, width + 70)
        # What is upright and bone white in the store is what it was made of.
        for row, seed in ((1, 1), (2, 2), (3, 3), (4, 4)):
            wanted = shrink(phantom(seed), 96, aspect)[0].astype(int)
            assert np.abs(store.films[row][store.inner(row)] - wanted[store.inner(row)]).max() <= 2

    def test_the_gate(self, odd, tmp_path):
        store = build_store(read_dataset(odd), tmp_path / "st", size=64, aspect="stretch", probe=embedded_probe())
        good = {f"s{index:03}" for index in range(5)}
        assert store.taken("not-films") == good and store.taken("nothing") == set(store.studies)
        assert store.taken("doubtful") == {"s000", "s001"}
        out, noted = store.counts("not-films")
        assert out == {"no-contrast": 2, "not-a-chest-film": 1}
        assert {code: noted[code] for code in ("turned", "inverted", "frame-cut")} == {
            "turned": 2, "inverted": 2, "frame-cut": 2,
        }  # fmt: skip
        assert sum(store.counts("doubtful")[0].values()) == 6 and store.counts("nothing")[0] == {}

    def test_several_workers_with_a_probe_make_the_same_store(self, odd, tmp_path):
        dataset, probe = read_dataset(odd), embedded_probe()
        one, two = (
            build_store(dataset, tmp_path / str(workers), size=64, aspect="pad", probe=probe, workers=workers)
            for workers in (1, 2)
        )
        assert one.kept == two.kept and one.fingerprint == two.fingerprint and np.array_equal(one.films, two.films)

    def test_another_probe_or_preparation_is_another_store(self, folder, tmp_path, monkeypatch):
        dataset = read_dataset(folder.write())

        def store(probe=None):
            return build_store(dataset, tmp_path / "st", size=32, aspect="pad", probe=probe)

        def never(pixels):
            raise AssertionError("asked again")

        never.identity = Upright.identity
        none, upright = store(), store(Upright())
        assert none.probe == "" and upright.probe == "upright" and none.fingerprint != upright.fingerprint
        assert store(never).fingerprint == upright.fingerprint
        monkeypatch.setattr("cxrlines.io.store.PREPARATION", PREPARATION + 1)
        assert store(Upright()).fingerprint != upright.fingerprint

    @pytest.mark.parametrize("aspect", ["pad", "stretch"])
    @pytest.mark.parametrize("pose", range(4))
    def test_inner_is_what_the_film_fills(self, folder, tmp_path, aspect, pose):
        """Dark edges of the film are film; a frame around it and what pads it are not."""
        film = np.zeros((150, 90), np.uint8)
        film[60:90, 40:50] = np.random.default_rng(0).integers(100, 255, (30, 10))
        film[::149, ::7] = film[::7, ::89] = 8
        folder.rows, folder.films = folder.rows[:1], {"s000": np.rot90(film, pose)}
        store = build(folder, tmp_path / "st", size=50, aspect=aspect)
        height, width = (150, 90) if pose % 2 == 0 else (90, 150)
        shape = (50, 50) if aspect == "stretch" else (50, 30) if pose % 2 == 0 else (30, 50)
        rows, columns = store.inner(0)
        assert (rows.stop - rows.start, columns.stop - columns.start) == shape
        inner = np.asarray(store.films[0][rows, columns])
        wanted = cv2.resize(np.ascontiguousarray(np.rot90(film, pose)), shape[::-1], interpolation=cv2.INTER_AREA)
        assert store.kept[0].within == (0, 0, width, height) and np.array_equal(inner, wanted)

    def test_a_full_disk_names_the_store_and_the_way_out(self, folder, tmp_path, monkeypatch, disk_full):
        monkeypatch.setattr("cxrlines.io.store._record", disk_full)
        with pytest.raises(StoreError) as caught:
            build(folder, tmp_path / "st")
        assert (
            str(tmp_path / "st") in caught.value.what and "No space left" in caught.value.what and caught.value.way_out
        )


class Upright:
    """A probe that finds nothing odd."""

    identity = "upright"

    def __call__(self, pixels: np.ndarray) -> Quality:
        return Quality(frontal_chest=1.0)
