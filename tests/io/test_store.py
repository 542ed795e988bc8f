"""The store: what a film becomes, where its points go, and what survives a kill."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrlines.core.film import FilmError
from cxrlines.io import store as module
from cxrlines.io.prepare import shrink
from cxrlines.io.store import Store, StoreError, build_store, open_store
from cxrlines.io.tables import read_dataset

sides = st.integers(1, 300)
PREPARED = module._prepared


class TestShrink:
    @settings(max_examples=60, deadline=None)
    @given(sides, sides, st.integers(1, 128), st.sampled_from(["pad", "stretch"]))
    def test_points_go_and_come_back(self, height, width, size, aspect):
        film, place = shrink(np.full((height, width), 200, np.uint8), size, aspect)
        points = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5], [width / 3, height / 7]])
        assert film.shape == (size, size) and film.dtype == np.uint8
        assert np.allclose(place.to_film(place.from_film(points)), points)
        (left, top), (right, bottom) = place.from_film(points[:2])
        assert -0.5 - 1e-9 <= left < right <= size - 0.5 + 1e-9 and -0.5 - 1e-9 <= top < bottom <= size - 0.5 + 1e-9
        # Exactly what the placement says is film, all else is padding.
        rows, columns = np.flatnonzero(film.any(1)), np.flatnonzero(film.any(0))
        assert (rows[0] - 0.5, rows[-1] + 0.5) == pytest.approx((top, bottom))
        assert (columns[0] - 0.5, columns[-1] + 0.5) == pytest.approx((left, right))

    @pytest.mark.parametrize("aspect", ["pad", "stretch"])
    @pytest.mark.parametrize("size", [50, 128, 400])
    def test_a_blob_is_found_where_its_point_goes(self, aspect, size):
        y, x = np.mgrid[:240, :200]
        blob = 255 * np.exp(-((x - 140.0) ** 2 + (y - 60.0) ** 2) / 200)
        film, place = shrink(blob.astype(np.uint8), size, aspect)
        y, x = np.mgrid[:size, :size]
        found = np.array([(film * x).sum(), (film * y).sum()]) / film.sum()
        assert found == pytest.approx(place.from_film(np.array([[140.0, 60.0]]))[0], abs=0.1)

    def test_shrinking_averages_areas(self):
        film = np.random.default_rng(0).integers(0, 255, (120, 120), dtype=np.uint8)
        means = film.reshape(40, 3, 40, 3).mean(axis=(1, 3))
        assert np.abs(shrink(film, 40, "pad")[0] - means).max() <= 1

    def test_thin_lines_survive(self):
        film = np.zeros((3000, 3000), np.uint8)
        film[:, 1501] = 255
        assert (shrink(film, 300, "pad")[0].max(axis=1) > 20).all()

    def test_proportions_are_kept_or_not(self):
        _, pad = shrink(np.zeros((100, 200), np.uint8), 50, "pad")
        _, stretch = shrink(np.zeros((100, 200), np.uint8), 50, "stretch")
        assert pad.scale == (0.25, 0.25) and stretch.scale == (0.25, 0.5)

    @settings(max_examples=40, deadline=None)
    @given(sides, sides, st.tuples(sides, sides), st.sampled_from(["pad", "stretch"]))
    def test_a_size_that_is_not_square_is_filled(self, height, width, size, aspect):
        film, place = shrink(np.full((height, width), 200, np.uint8), size, aspect)
        assert film.shape == size
        (left, top), (right, bottom) = place.from_film(np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]]))
        rows, columns = np.flatnonzero(film.any(1)), np.flatnonzero(film.any(0))
        assert (rows[0] - 0.5, rows[-1] + 0.5) == pytest.approx((top, bottom))
        assert (columns[0] - 0.5, columns[-1] + 0.5) == pytest.approx((left, right))
        assert (len(rows) == size[0] and len(columns) == size[1]) or aspect == "pad"
        assert len(rows) == size[0] or len(columns) == size[1]
        if aspect == "pad" and min(len(rows), len(columns)) > 20:
            assert len(rows) / len(columns) == pytest.approx(height / width, rel=0.05)

    def test_the_input_is_left_alone_and_wrong_settings_are_named(self):
        film = np.full((9, 9), 3, np.uint8)
        shrink(film, 4, "pad")
        assert (film == 3).all()
        with pytest.raises(ValueError, match=r"aspect.*crop.*pad.*stretch"):
            shrink(film, 4, "crop")
        with pytest.raises(ValueError, match=r"size.*0"):
            shrink(film, 0, "pad")


def build(folder, where: Path, **options) -> Store:
    settings = {"size": 32, "aspect": "pad"} | options
    return build_store(read_dataset(folder.write()), where, **settings)


def prepared_or_not(out_of_order: Path, path: Path, **how):
    """As by a disk that does not answer for two films while a file is there."""
    if path.name in ("s003.png", "s007.png") and out_of_order.exists():
        return FilmError(f"{path}: cannot be read ({os.strerror(errno.EIO)})", "check the path", passing=True)
    return PREPARED(path, **how)


def prepared_by_a_process_that_ends(ended: Path, path: Path, **how):
    """As where the system ends a process for lack of memory, once."""
    if path.name == "s003.png" and not ended.exists():
        ended.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return PREPARED(path, **how)


class TestBuild:
    def test_rows_are_the_datasets_whatever_the_workers(self, folder, tmp_path):
        one, two = build(folder, tmp_path / "1", workers=1), build(folder, tmp_path / "2", workers=2)
        assert one.studies == two.studies == [row[0] for row in folder.rows]
        assert np.array_equal(one.films, two.films) and one.fingerprint == two.fingerprint
        assert np.array_equal(one.films[one.row("s007")], shrink(folder.films["s007"], 32, "pad")[0])
        assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["films.npy", "store.json"]

    def test_unreadable_films_are_left_out_with_the_reason(self, folder, tmp_path):
        root = folder.write()
        (root / "train/s000.png").write_bytes(b"")
        (root / "train/s004.png").write_bytes((root / "train/s004.png").read_bytes()[:200])
        store = build_store(read_dataset(root), tmp_path / "st", size=32, aspect="pad")
        assert set(store.left_out) == {"s000", "s004"} and "is empty (0 bytes)" in store.left_out["s000"]
        assert len(store) == len(store.films) == 10 and store.row("s005") == 3
        assert np.array_equal(store.films[3], shrink(folder.films["s005"], 32, "pad")[0])
        with pytest.raises(KeyError, match="is empty"):
            store.row("s000")

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_failure_of_the_machine_leaves_no_film_out_for_good(self, folder, tmp_path, monkeypatch, workers):
        whole = build(folder, tmp_path / "whole")
        dataset, out_of_order = read_dataset(folder.root), tmp_path / "out of order"
        out_of_order.touch()
        with monkeypatch.context() as patch:
            patch.setattr(module, "_prepared", partial(prepared_or_not, out_of_order))
            for _ in range(2):
                with pytest.raises(StoreError, match=r"2 of 12 films.*s003\.png.*Input/output error") as caught:
                    build_store(dataset, tmp_path / "st", size=32, aspect="pad", workers=workers)
                assert "same command" in caught.value.way_out
        out_of_order.unlink()
        read = TestKill.count_films(monkeypatch)
        repaired = build_store(dataset, tmp_path / "st", size=32, aspect="pad")
        assert sorted(path.name for path in read) == ["s003.png", "s007.png"]  # the others were kept
        assert repaired.fingerprint == whole.fingerprint and not repaired.left_out
        assert (tmp_path / "st/films.npy").read_bytes() == (tmp_path / "whole/films.npy").read_bytes()

    def test_a_film_that_ends_its_process_once_is_tried_again(self, folder, tmp_path, monkeypatch):
        whole = build(folder, tmp_path / "whole")
        monkeypatch.setattr(module, "_prepared", partial(prepared_by_a_process_that_ends, tmp_path / "ended"))
        store = build_store(read_dataset(folder.root), tmp_path / "st", size=32, aspect="pad", workers=2)
        assert (tmp_path / "ended").exists() and store.fingerprint == whole.fingerprint and not store.left_out

    def test_films_that_cannot_be_asked_for_leave_a_finished_store_as_it_is(self, folder, tmp_path, monkeypatch):
        build(folder, tmp_path / "st")
        dataset, stat = read_dataset(folder.root), Path.stat

        def unreachable(path: Path, **how):
            if path.name == "s003.png":
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return stat(path, **how)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "stat", unreachable)
            with pytest.raises(StoreError, match=r"s003\.png.*Input/output error"):
                build_store(dataset, tmp_path / "st", size=32, aspect="pad")
        assert len(open_store(tmp_path / "st")) == 12

    @pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="this system limits no file's size")
    def test_a_full_disk_is_an_error_of_the_store(self, folder, tmp_path, monkeypatch):
        import resource

        folder.write()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        start = module._start

        def full(path: Path) -> int:
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))
            return start(path)

        monkeypatch.setattr(module, "_start", full)
        try:
            with pytest.raises(StoreError, match="cannot be written"):
                build(folder, tmp_path / "st")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        monkeypatch.undo()
        assert len(build(folder, tmp_path / "st")) == 12

    def test_a_finished_store_is_opened_not_built(self, folder, tmp_path):
        build(folder, tmp_path / "st")
        before = (tmp_path / "st/films.npy").stat().st_mtime_ns
        dataset = read_dataset(folder.root)
        assert len(build_store(dataset, tmp_path / "st", size=32, aspect="pad")) == 12
        assert (tmp_path / "st/films.npy").stat().st_mtime_ns == before

    def test_other_films_or_settings_build_it_anew(self, folder, tmp_path):
        first = build(folder, tmp_path / "st")
        folder.films["s003"] = 255 - folder.films["s003"]
        second = build(folder, tmp_path / "st")
        assert not np.array_equal(first.films[3], second.films[3]) and first.fingerprint != second.fingerprint
        assert build(folder, tmp_path / "st", size=16).films.shape == (12, 16, 16)
        assert build(folder, tmp_path / "st", aspect="stretch").fingerprint != second.fingerprint

    def test_the_fingerprint_is_of_contents_alone(self, folder, tmp_path):
        first = build(folder, tmp_path / "st")
        for path in (folder.root / "train").iterdir():
            os.utime(path, (1, 1))
        folder.root.rename(tmp_path / "moved")
        second = build_store(read_dataset(tmp_path / "moved"), tmp_path / "other", size=32, aspect="pad")
        assert second.fingerprint == first.fingerprint and second.source != first.source

    def test_no_film_no_store(self, folder, tmp_path):
        folder.films, root = {}, folder.write()
        for row in folder.rows:
            (root / "train" / f"{row[0]}.png").write_bytes(b"no film")
        with pytest.raises(StoreError, match=r"12 films.*is not a film"):
            build_store(read_dataset(root), tmp_path / "st", size=32, aspect="pad")

    def test_what_is_no_store_says_so(self, folder, tmp_path):
        with pytest.raises(StoreError, match=r"store\.json"):
            open_store(tmp_path)
        build(folder, tmp_path / "st")
        manifest = json.loads((tmp_path / "st/store.json").read_text())
        for change, said in (
            ({"version": 99}, "is a store of version 99"),
            ({"studies": ["a"]}, "do not belong together"),
            ({"kept": 7}, "is damaged"),
        ):
            (tmp_path / "st/store.json").write_text(json.dumps(manifest | change))
            with pytest.raises(StoreError, match=said):
                open_store(tmp_path / "st")
        (tmp_path / "st/store.json").write_text("[" * 100_000)
        with pytest.raises(StoreError, match="is damaged"):
            open_store(tmp_path / "st")
        assert len(build(folder, tmp_path / "st")) == 12  # and is built anew over it

    def test_a_pickled_store_maps_the_file_again(self, folder, tmp_path):
        store = build(folder, tmp_path / "st")
        pickled = pickle.dumps(store)
        assert len(pickled) < 500 and np.array_equal(pickle.loads(pickled).films, store.films)  # noqa: S301
        with pytest.raises(ValueError, match="read-only"):
            store.films[0, 0, 0] = 1


BUILD = """
import sys, time
from pathlib import Path
from cxrlines.io import store
from cxrlines.io.tables import read_dataset
from cxrlines.reading.probe import embedded_probe
store.BATCH = 2
prepared = store._prepared
films = 0
def slow(path, **how):
    global films
    films += 1
    time.sleep(0.05 if films < 9 else 100)
    return prepared(path, **how)
store._prepared = slow
probe = embedded_probe()
store.build_store(read_dataset(Path(sys.argv[1])), Path(sys.argv[2]), size=32, aspect="pad", probe=probe, workers=1)
"""


class TestKill:
    def test_a_killed_build_goes_on_and_ends_in_the_same_bytes(self, folder, tmp_path, monkeypatch, wait_until):
        from cxrlines.reading.probe import embedded_probe

        whole = build(folder, tmp_path / "whole", probe=embedded_probe())
        journal = tmp_path / "st/journal.jsonl"
        process = subprocess.Popen([sys.executable, "-c", BUILD, folder.root, tmp_path / "st"])
        wait_until(lambda: process.poll() is not None or (journal.is_file() and journal.read_text().count("\n") > 3))
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = journal.read_text().count("\n") - 1
        assert 0 < done < 12
        with pytest.raises(StoreError, match=r"store\.json"):
            open_store(tmp_path / "st")
        read = self.count_films(monkeypatch)
        resumed = build_store(read_dataset(folder.root), tmp_path / "st", size=32, aspect="pad", probe=embedded_probe())
        assert len(read) == 12 - done
        assert resumed.fingerprint == whole.fingerprint and resumed.kept == whole.kept
        for name in ("films.npy", "store.json"):
            assert (tmp_path / "st" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    @staticmethod
    def count_films(monkeypatch) -> list:
        read = []
        original = __import__("cxrlines.io.store", fromlist=["x"]).read_bytes
        monkeypatch.setattr("cxrlines.io.store.read_bytes", lambda path: read.append(path) or original(path))
        return read

    @pytest.mark.parametrize("bad_film", [False, True])
    def test_a_kill_at_the_very_end_loses_nothing(self, folder, tmp_path, monkeypatch, bad_film):
        root = folder.write()
        if bad_film:
            (root / "train/s002.png").write_bytes(b"")
        dataset = read_dataset(root)
        whole = build_store(dataset, tmp_path / "whole", size=32, aspect="pad")

        def killed(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("cxrlines.io.store.json.dump", killed)  # as the manifest is written
            with pytest.raises(KeyboardInterrupt):
                build_store(dataset, tmp_path / "st", size=32, aspect="pad")
        read = self.count_films(monkeypatch)
        resumed = build_store(dataset, tmp_path / "st", size=32, aspect="pad")
        assert not read and resumed.fingerprint == whole.fingerprint
        assert np.array_equal(resumed.films, whole.films) and resumed.left_out == whole.left_out

    def test_a_kill_while_clearing_up_leaves_no_array_behind(self, folder, tmp_path, monkeypatch):
        (folder.write() / "train/s002.png").write_bytes(b"")  # with a gap the partial array is copied, not renamed
        removed = Path.unlink

        def killed(path: Path, missing_ok: bool = False) -> None:
            removed(path, missing_ok=missing_ok)
            if path.name == "films.partial.npy" and (tmp_path / "st/store.json").exists():
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", killed)
            with pytest.raises(KeyboardInterrupt):
                build_store(read_dataset(folder.root), tmp_path / "st", size=32, aspect="pad")
        assert not (tmp_path / "st/films.partial.npy").exists()

    @pytest.mark.parametrize("hurt", ["torn", "garbage", "gone", "other size"])
    def test_a_hurt_journal_costs_time_not_truth(self, folder, tmp_path, monkeypatch, hurt):
        whole = build(folder, tmp_path / "whole")
        with monkeypatch.context() as patch:
            patch.setattr("cxrlines.io.store._finish", lambda *_: None)
            build(folder, tmp_path / "st", size=16 if hurt == "other size" else 32)
        journal = tmp_path / "st/journal.jsonl"
        if hurt == "torn":
            journal.write_text(journal.read_text()[:-30])
        elif hurt == "garbage":
            journal.write_bytes(b"\0" * 100)
        elif hurt == "gone":
            (tmp_path / "st/films.partial.npy").unlink()
        store = build(folder, tmp_path / "st")
        assert np.array_equal(store.films, whole.films) and store.fingerprint == whole.fingerprint


MEMORY = r"""
import re, sys
from pathlib import Path
from cxrlines.io.store import build_store
from cxrlines.io.tables import read_dataset
build_store(read_dataset(Path(sys.argv[1])), Path(sys.argv[2]), size=1024, aspect="pad", workers=1)
print(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has /proc")
def test_memory_does_not_grow_with_the_films(tmp_path, noise_film):
    peaks = []
    for count in (5, 205):
        films = tmp_path / f"films{count}"
        films.mkdir()
        for index in range(count):
            cv2.imwrite(str(films / f"{index}.png"), noise_film(index, 20, 20))
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, films, tmp_path / f"store{count}"], capture_output=True, check=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 30_000  # kB, while the store grew by 200 MB


def test_films_may_be_of_any_size(folder, tmp_path):
    folder.films["s001"] = cv2.resize(folder.films["s001"], (7, 500))
    store = build(folder, tmp_path / "st")
    assert store.placements[1].scale[1] == pytest.approx(32 / 500)
