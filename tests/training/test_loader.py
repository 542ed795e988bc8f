"""Batches depend on seed, epoch and film alone; film and overlay share one draw."""

import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cxrlines.core.heatmaps import DrawnLine
from cxrlines.task import LABEL_COLOURS, LABELS, MAPS, Device, MapKind
from cxrlines.training import distributed
from cxrlines.training.loader import SQUARE, Films, FilmSet, in_order, load, overlay
from cxrlines.training.sampling import Key, epoch_batches

from .small_stages import MemoryStore, noise_store

LINE = np.array([[10.0, 12.0], [40.0, 50.0]])


def film_set(policy: str | dict[str, object] = "hotwater", with_overlay: bool = True, count: int = 6) -> FilmSet:
    films = Films(
        noise_store(count, side=64),
        np.arange(count),
        np.eye(count, 11, dtype=np.float32),
        [[DrawnLine(LABELS[0], LINE)]] * count,
    )
    return FilmSet(films, policy, 48, seed=3, overlay=with_overlay, colour_by="label")


def test_a_film_is_the_same_whenever_it_is_asked_for():
    one, other = film_set(), film_set()
    other[(0, 1)], other[(1, 5)]
    assert (one[(2, 4)]["film"] == other[(2, 4)]["film"]).all()
    assert not (one[(2, 4)]["film"] == one[(3, 4)]["film"]).all()


def test_a_policy_changed_in_a_recipe_changes_the_batch():
    plain, inverted = film_set("none"), film_set({"policy": "none", "invert": 1.0})
    assert (inverted[(0, 0)]["film"] == 255 - plain[(0, 0)]["film"]).all()
    usual, same = film_set(), film_set({"policy": "hotwater"})
    assert (same[(1, 2)]["overlay"] == usual[(1, 2)]["overlay"]).all()


def test_the_store_is_not_changed():
    films = film_set()
    before = films.films.store.films.copy()
    films[(0, 0)]
    assert (films.films.store.films == before).all()


def test_overlay_is_the_very_film_with_the_line_in_its_colour():
    for position in range(6):
        sample = film_set()[(1, position)]
        film, drawn = sample["film"].numpy()[0], sample["overlay"].numpy()
        touched = (drawn != film).any(axis=0)
        assert 0 < touched.mean() < 0.2
        untouched = np.repeat(film[None], 3, 0)[:, ~touched]
        assert (drawn[:, ~touched] == untouched).all()


def test_overlay_colour_tells_label_or_device():
    film = np.zeros((64, 64), np.uint8)
    by_label = overlay(film, [DrawnLine(LABELS[0], LINE)], "label")
    assert tuple(by_label[31, 25]) == LABEL_COLOURS[LABELS[0]]
    same_device = [overlay(film, [DrawnLine(label, LINE)], "device") for label in LABELS[:2]]
    assert (same_device[0] == same_device[1]).all()
    assert not (by_label == overlay(film, [DrawnLine(LABELS[1], LINE)], "label")).all()


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_in_order_is_every_film_in_order(batch):
    targets = np.concatenate([item["labels"].numpy() for item in in_order(film_set("none", False), batch)])
    assert (targets == np.eye(6, 11)).all()


def test_further_targets_come_with_their_film_in_any_order():
    films = film_set("none", False).films
    more = {
        "soft": np.random.default_rng(0).random((6, 11)).astype(np.float32),
        "film_weights": np.arange(6, dtype=np.float32),
        "presence": np.full((6, 5), np.nan, np.float32),
    }
    more["presence"][2, 1] = 1
    given = FilmSet(replace(films, more=more), "none", 48, seed=3, overlay=False, colour_by="label")
    for batch in DataLoader(given, batch_sampler=epoch_batches(6, 3, seed=1, epoch=0)):
        places = batch["labels"].argmax(dim=1).numpy()
        for name, values in more.items():
            np.testing.assert_array_equal(batch[name].numpy(), values[places])
            assert batch[name].dtype == torch.float32
    assert set(film_set("none", False)[(0, 0)]) == {"film", "labels"}


def mapped_films(policy: str) -> FilmSet:
    """Black films whose tip and carina are bright spots, so that what is drawn can be told from what is seen."""
    store = MemoryStore(np.zeros((6, 64, 64), np.uint8))
    marks = np.full((6, 1, 2), np.nan)
    lines = []
    for film in range(6):
        tip, carina = np.array([20.0 + 2 * film, 30.0]), np.array([44.0, 40.0 - 2 * film])
        store.films[film, int(tip[1]) - 1 : int(tip[1]) + 2, int(tip[0]) - 1 : int(tip[0]) + 2] = 255
        store.films[film, int(carina[1]) - 1 : int(carina[1]) + 2, int(carina[0]) - 1 : int(carina[0]) + 2] = 120
        lines.append([DrawnLine(LABELS[0], np.array([[10.0, 12.0], tip]))])
        if film != 5:
            marks[film, 0] = carina
    films = Films(
        store, np.arange(6), np.zeros((6, 11), np.float32), lines, {"mapped": np.ones((6, 9), np.float32)}, marks
    )
    found = FilmSet(films, policy, 96, seed=3, maps=True)
    found.policy = replace(found.policy, degrade=0, coarsen=0, cutout=0, invert=0)
    return found


def test_drawing_maps_changes_neither_the_film_nor_what_is_given():
    films = mapped_films("light")
    lines, marks = [line[0][1].copy() for line in films.films.lines], films.films.landmarks.copy()
    plain = FilmSet(films.films, "none", 96, seed=3)
    plain.policy = films.policy
    for position in range(6):
        assert (films[(1, position)]["film"] == plain[(1, position)]["film"]).all()
        assert "maps" not in plain[(1, position)]
    assert all((line[0][1] == then).all() for line, then in zip(films.films.lines, lines, strict=True))
    np.testing.assert_array_equal(films.films.landmarks, marks)


def test_squares_are_drawn_where_lines_points_are_and_as_large_as_the_film():
    given = replace(film_set("none"), draw="squares")
    sample = given[(0, 0)]
    touched = (sample["overlay"] != sample["film"]).any(dim=0).numpy()
    moved = given.policy(given.films.store.films[0], np.random.default_rng(0), points=[LINE]).points[0]
    side = max(2, round(48 * SQUARE))
    there = np.abs(np.argwhere(touched)[:, None, ::-1] - moved[None]).max(axis=2).min(axis=1)
    assert there.max() <= side / 2 and touched.sum() == 2 * side**2
    assert (film_set("none")[(0, 0)]["overlay"] != sample["overlay"]).any()


def test_a_film_that_comes_again_is_augmented_anew():
    given = film_set()
    first, second, other = given[Key(1, 2)], given[Key(1, 2, again=1)], given[Key(1, 2, again=2)]
    assert (first["film"] == given[(1, 2)]["film"]).all()
    assert not (first["film"] == second["film"]).all() and not (second["film"] == other["film"]).all()


def test_rare_films_are_asked_for_where_a_share_is_named():
    labels = np.zeros((6, 11), np.float32)
    labels[0, 3], labels[:, 1] = 1, 1
    films = replace(film_set("none", False).films, labels=labels)
    assert FilmSet(films, "none", 48, seed=3).repeats is None
    np.testing.assert_allclose(FilmSet(films, "none", 48, seed=3, rare_below=2 / 3).repeats, [2, 1, 1, 1, 1, 1])


def test_an_unknown_landmark_leaves_its_map_empty():
    sample = mapped_films("none")[(0, 5)]["maps"]
    assert not sample[-1].any() and sample[MAPS.index((MapKind.TIP, Device.ETT))].max() == 1


def batches_of(films: FilmSet, workers: int) -> list[dict]:
    order = epoch_batches(6, 2, seed=1, epoch=0, mapped=films.mapped)
    return list(load(films, order, workers))


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_whoever_makes_them(workers):
    mapped = np.zeros((6, 9), np.float32)
    mapped[[0, 3], :4] = 1
    films = replace(film_set().films, more={"mapped": mapped, "segmenter": np.arange(6) % 3 - 1})
    given = FilmSet(films, "hotwater", 48, seed=3, overlay=True, maps=True)
    here, there = batches_of(given, 0), batches_of(given, workers)
    assert len(here) == len(there) == 3
    for one, other in zip(here, there, strict=True):
        assert set(one) == {"film", "overlay", "labels", "mapped", "maps", "rows", "segmenter"}
        assert same(one, other)
    state = torch.get_rng_state()
    batches_of(given, workers)
    assert torch.equal(torch.get_rng_state(), state), "the host's generator is left alone"


def test_maps_are_made_of_films_that_have_some_and_of_one_where_none_has(monkeypatch):
    mapped = np.zeros((6, 9), np.float32)
    mapped[[0, 3], :4] = 1
    given = FilmSet(replace(film_set().films, more={"mapped": mapped}), "none", 48, seed=3, maps=True)
    for epoch in range(4):
        order = epoch_batches(6, 2, seed=1, epoch=epoch, mapped=given.mapped)
        for keys, batch in zip(order, load(given, order), strict=True):
            known = [row for row, key in enumerate(keys) if key[1] in (0, 3)]
            assert batch["rows"].tolist() == (known or [0])
            assert batch["maps"].shape == (len(known or [0]), 9, 24, 24) and batch["maps"].dtype == torch.float16
        halves = []
        for rank in (0, 1):
            with monkeypatch.context() as two:
                two.setattr(distributed, "rank", rank)
                two.setattr(distributed, "world", 2)
                halves.append(epoch_batches(6, 2, seed=1, epoch=epoch, mapped=given.mapped))
        for keys, *mine in zip(order, *halves, strict=True):
            assert [key for part in mine for key in part] == keys
            rows = [given.collate([given[key] for key in part])["rows"].tolist() for part in mine]
            assert rows != [[], []] and given.collate([given[keys[1]]])["maps"].shape[1:] == (9, 24, 24)


class Whose(FilmSet):
    """Films that say which process made them, and with how many threads."""

    def __getitem__(self, key):
        made = {"process": os.getpid(), "threads": cv2.getNumThreads()}
        return super().__getitem__(key) | {name: torch.tensor(value) for name, value in made.items()}


def test_the_processes_of_a_loader_stay_for_all_its_epochs_and_have_one_thread_as_the_host_has_not():
    given = Whose(film_set("none", False).films, "none", 48, seed=3)
    left: list[list] = []
    loader = load(given, left, 1, stay=True)
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        seen = set()
        for begun in (0, 1, 1, 2):  # what is left is read anew
            left[:] = epoch_batches(6, 2, seed=1, epoch=0, start=begun)
            made = list(loader)
            assert len(made) == len(loader) == 3 - begun
            seen |= {(int(batch["process"][0]), int(batch["threads"][0])) for batch in made}
        here = next(iter(load(given, epoch_batches(6, 2, seed=1, epoch=0))))
        assert (int(here["process"][0]), int(here["threads"][0]), cv2.getNumThreads()) == (os.getpid(), 3, 3)
    finally:
        cv2.setNumThreads(before)
    ((process, threads),) = seen
    assert process != os.getpid() and threads == 1
