"""One way for pixels: films that come framed, turned or inverted are trained on, predicted and read alike."""

import itertools
import json
import re
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrlines.core.quality import POSES
from cxrlines.evaluation.predictions import read_predictions
from cxrlines.io.films import read_film
from cxrlines.io.tables import read_dataset
from cxrlines.lab.probe.views import posed
from cxrlines.phantom.dataset import write_phantom
from cxrlines.reading.bundle import load_bundle
from cxrlines.reading.reader import Reader
from cxrlines.recipe.run import pipeline as runs
from cxrlines.recipe.run.export import export_run
from cxrlines.recipe.run.plan import make_plan
from cxrlines.recipe.run.training_data import films_of
from cxrlines.recipe.spec.load import RecipeError, load_recipe
from cxrlines.task import LABELS

RECIPE = """
name: pixels
size: 64
store: {size: 80, aspect: pad}
folds: {count: 2, seed: 0}
defaults: {schedule: {batch: 8, lr: 0.002, epochs: 2}}
members:
  one: {backbone: resnet10t, stages: {only: {start: scratch}}}
  other: {backbone: resnet10t, stages: {only: {start: scratch, size: 80}}}
tracking: {use: []}
"""
FRAME = (25, 40, 60, 15)
"""px above, below, left, right."""
NOT_FILMS, TURNED = 3, 4
"""Test films that are none, of 12; and films that come turned, of 10."""


def framed(film: np.ndarray, gray: int = 20) -> np.ndarray:
    top, bottom, left, right = FRAME
    return np.pad(film, ((top, bottom), (left, right)), constant_values=gray)


def spoil(folder, odd: int) -> dict[str, str]:
    """Films of a folder as they come: of every five one framed, two turned, one inverted. Study -> what was done."""
    done = {}
    for index, path in enumerate(sorted(folder.glob("*.jpg"))):
        film = read_film(path).pixels
        match index % 5:
            case 0:
                how, film = "framed", framed(film)
            case 1:
                how, film = "turned", posed(film, POSES.index((90, False)))
            case 2:
                how, film = "turned and framed", framed(posed(film, POSES.index((180, False))))
            case 3:
                how, film = "inverted", posed(film, POSES.index((0, True)))
            case _:
                continue
        done[path.stem] = how
        cv2.imwrite(str(path.with_suffix(".png")), film)
        path.unlink()
    for path in sorted(folder.glob("*"))[-odd:] if odd else []:
        path.unlink()
        cv2.imwrite(str(path.with_suffix(".png")), np.random.default_rng(0).integers(0, 256, (90, 80), dtype=np.uint8))
        done[path.stem] = "noise"
    return done


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixels") / "sound"
    write_phantom(folder, studies=30, test=12, seed=3, size=160, balance="even", annotated=0.5, workers=1)
    return folder


@pytest.fixture(scope="module")
def data(sound, tmp_path_factory):
    folder = shutil.copytree(sound, tmp_path_factory.mktemp("odd") / "data")
    spoil(folder / "train", 2)
    spoil(folder / "test", NOT_FILMS)
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "pixels.yaml"
    path.write_text(RECIPE)
    return load_recipe(str(path))


@pytest.fixture(scope="module")
def done(data, recipe, tmp_path_factory, do_here):
    """A run of it, as `cxrlines train` leaves it."""
    run = do_here(runs.prepare(recipe, data, tmp_path_factory.mktemp("run") / "run", 1))
    steps = {step.name: step.identity for step in runs.plan_of(run, None)}
    (run.root / runs.STEPS).write_text(json.dumps(steps))
    return run


def test_a_bundle_gives_the_predictions_of_its_own_run(done, data, tmp_path):
    run = done
    bundle = load_bundle(export_run(run.root, tmp_path / "bundle", onnx=False))
    plain = bundle.manifest.model_copy(update={"fold_calibration": None, "calibration": None})
    reader = Reader(replace(bundle, manifest=plain), batch_size=5)
    films = sorted((data / "test").glob("*"))
    wanted = read_predictions(run.root / "predictions/test/ensemble.csv").set_index("study")
    assert len(wanted) == len(films) == 12
    read = {path.stem: found for path, found in zip(films, reader.read_many(films), strict=True)}
    refused = [study for study, found in read.items() if found.labels is None]
    assert len(refused) == NOT_FILMS
    changed = {(found.quality.rotation, found.quality.inverted) for found in read.values()}
    assert changed >= {(0, False), (90, False), (180, False), (0, True)}
    spread = wanted[list(LABELS)].to_numpy().std(axis=0)
    assert spread.max() > 1e-3, "the films must differ by more than what is asked for"
    for study in sorted(set(read) - set(refused)):
        given = [read[study].labels[label] for label in LABELS]
        np.testing.assert_allclose(given, wanted.loc[study, list(LABELS)].to_numpy(float), atol=1e-5)


def test_the_calibrated_bundle_gives_the_calibrated_predictions(done, data, tmp_path):
    run = done
    bundle = load_bundle(export_run(run.root, tmp_path / "bundle", onnx=False))
    assert bundle.manifest.fold_calibration
    (path,) = [path for path in (data / "test").glob("*") if "jpg" in path.suffix][:1]
    found, plain = Reader(bundle).read(path), read_predictions(run.root / "predictions/test/ensemble.csv")
    assert found.calibrated
    row = plain.set_index("study").loc[path.stem]
    moved = [abs(found.labels[label] - row[label]) for label in bundle.manifest.fold_calibration]
    assert max(moved) > 1e-3


def test_train_says_how_many_films_it_takes_along_and_the_report_counts_them(done):
    text = runs.films_text("training films", done.store, "not-films")
    assert re.search(r"^training films: 28 taken along, 2 left out \(2 not-a-chest-film\)", text)
    assert re.search(r"\d+ turned", text) and re.search(r"\d+ inverted", text) and re.search(r"\d+ frame-cut", text)
    said: list[str] = []
    runs._say_films(done, said.append)
    assert said[0] == text and "12 predicted, 0 left out" in said[1] and "3 not-a-chest-film" in said[1]
    page = (done.root / "report.html").read_text()
    assert "training films: not-a-chest-film" in page and re.search(r"\d+ frame-cut", page)


def test_what_shows_no_chest_makes_no_two_patients_one(done):
    """The same noise, or a page that stands for a film, may lie in training and test under any number of patients."""
    refused = [store.kept[store.row(study)] for store in (done.store, done.test_store) for study in store.studies]
    assert sum(not kept.quality.usable for kept in refused) == 2 + NOT_FILMS
    assert len(done.groups.pairs) == 0


def test_what_is_left_out_is_neither_trained_on_nor_predicted_but_every_test_film_is(done):
    run = done
    held = read_predictions(run.root / "predictions/out_of_fold/ensemble.csv")
    assert set(held["study"]) == run.store.taken("not-films")
    for step in runs.plan_of(run, None):
        assert step.films + len(run.films.held(step.key.held)) == 28
    submission = pd.read_csv(run.root / "predictions/test/ensemble.csv")
    assert len(submission) == len(run.test.studies) == 12


@pytest.mark.parametrize(("gate", "films"), [("nothing", 30), ("not-films", 28), ("doubtful", 10)])
def test_the_gate_is_a_field_of_the_recipe(done, data, recipe, tmp_path, gate, films):
    """Another gate is another plan on the same store."""
    run = done
    root = shutil.copytree(run.root, tmp_path / "run")
    other = recipe.model_copy(update={"quality": recipe.quality.model_copy(update={"leave_out": gate})})
    before = (root / "store/train/films.npy").stat().st_mtime_ns
    again = runs.prepare(other, data, root, 1)
    assert (root / "store/train/films.npy").stat().st_mtime_ns == before
    assert again.films.stored.sum() == pytest.approx(films, abs=2 * (gate == "doubtful"))
    opened = type(run).open(root, data)
    assert opened.films.stored.tolist() == again.films.stored.tolist()
    same = {step.identity for step in make_plan(other, again.films, [0, 1])} == {
        step.identity for step in make_plan(recipe, run.films, [0, 1])
    }
    assert same == (gate == "not-films")


def test_a_folder_of_no_films_is_refused_with_the_way_out(sound, recipe, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "data")
    for path in (folder / "train").iterdir():
        cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (90, 80), dtype=np.uint8))
    with pytest.raises(runs.RunError) as error:
        runs.prepare(recipe, folder, tmp_path / "run", 1)
    assert "30 not-a-chest-film" in error.value.what and "quality.leave_out=nothing" in error.value.way_out


def test_a_probe_that_is_not_there_is_named_before_anything_is_written(sound, recipe, tmp_path):
    other = recipe.model_copy(update={"quality": recipe.quality.model_copy(update={"probe": "no.safetensors"})})
    with pytest.raises(RecipeError) as error:
        runs.train(other, sound, tmp_path / "run")
    assert "quality.probe" in error.value.what and error.value.way_out and not (tmp_path / "run").exists()


@pytest.mark.parametrize("pose", range(len(POSES)))
def test_a_line_of_a_turned_and_framed_film_lies_on_the_line_in_the_store(sound, recipe, tmp_path, pose):
    """Annotated in px of the file as it is, drawn in the store: on the very line that the film shows."""
    folder = shutil.copytree(sound, tmp_path / "data")
    (folder / "sample_submission.csv").unlink()
    dataset = read_dataset(folder, "train")
    study = next(study for study in dataset.studies["study"] if dataset.lines.get(study))
    (path,) = (folder / "train").glob(f"{study}.*")
    upright = read_film(path).pixels
    height, width = upright.shape
    points = np.array([[0.2 * width, 0.25 * height], [0.5 * width, 0.4 * height], [0.6 * width, 0.8 * height]]).round()
    cv2.polylines(upright, [points.astype(int)], False, 255, 2)
    rotation, _ = POSES[pose]
    x, y = points.T
    turned = {  # counter-clockwise, as np.rot90 does it
        0: (x, y),
        90: (y, width - 1 - x),
        180: (width - 1 - x, height - 1 - y),
        270: (height - 1 - y, x),
    }[rotation]
    annotated = np.stack(turned, axis=1) + np.array([FRAME[2], FRAME[0]])
    path.unlink()
    cv2.imwrite(str(path.with_suffix(".png")), framed(posed(upright, pose)))
    table = pd.read_csv(folder / "train_annotations.csv")
    label = table.loc[table["StudyInstanceUID"] == study, "label"].iloc[0]
    table = table[table["StudyInstanceUID"] != study]
    table.loc[len(table) + 1000] = {
        "StudyInstanceUID": study, "label": label, "data": json.dumps(annotated.tolist()),
    }  # fmt: skip
    table.to_csv(folder / "train_annotations.csv", index=False)
    rows = pd.read_csv(folder / "train.csv")
    few = pd.concat([rows[rows["StudyInstanceUID"] == study], rows.iloc[:6]]).drop_duplicates("StudyInstanceUID")
    few.to_csv(folder / "train.csv", index=False)
    run = runs.prepare(recipe, folder, tmp_path / "run", 1)
    kept = run.store.kept[run.store.row(study)]
    assert (kept.quality.rotation, kept.quality.inverted) == POSES[pose]
    place = run.train.studies["study"].tolist().index(study)
    films = films_of(run.train, run.store, np.array([place]), lines=True)
    ((_, drawn, _),) = films.lines[0]
    film = np.asarray(run.store.films[films.rows[0]], float)
    along = np.concatenate([np.linspace(a, b, 40) for a, b in itertools.pairwise(drawn)])
    on, beside = (
        cv2.remap(film.astype(np.float32), *np.float32(along + shift).T[:, None], cv2.INTER_LINEAR).mean()
        for shift in ((0, 0), (5, 0))
    )
    assert on > beside + 60


@pytest.mark.parametrize(
    ("setting", "says"),
    [("quality.leave_out=some", ("leave_out", "'some'", "doubtful")), ("quality.prob=box", ("quality.prob", "probe"))],
)
def test_a_wrong_field_of_the_gate_is_named_with_what_is_allowed(setting, says):
    with pytest.raises(RecipeError) as error:
        load_recipe("baseline", [setting])
    assert all(word in str(error.value) for word in says)
