"""Training patients are left out, or counted and said; turned films are evaluated as upright ones."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cxrlines.core.findings import Findings, Line
from cxrlines.core.heatmaps import draw_maps
from cxrlines.core.notes import Code, Note
from cxrlines.core.quality import Quality
from cxrlines.core.text import plural
from cxrlines.evaluation.bundles import evaluate_bundle as module
from cxrlines.evaluation.bundles.evaluate_bundle import FAULT, SEEN_PATIENT, evaluate_bundle, of_fold
from cxrlines.evaluation.bundles.reference import EvaluationError, ReferenceFilm, ReferenceFilms, data_films
from cxrlines.io.films import read_film
from cxrlines.io.marks import backdrop_patient
from cxrlines.io.patients import SOME, tokens
from cxrlines.io.prepare import prepare
from cxrlines.io.tables import read_dataset
from cxrlines.metrics.line_figures import EvaluatedFilm
from cxrlines.models.classifier import Classifier
from cxrlines.models.weights import save_weights
from cxrlines.phantom.dataset import write_phantom
from cxrlines.reading.bundle import BundleError, load_bundle
from cxrlines.reading.bundle_writing import BundleMember, write_bundle
from cxrlines.reading.interpretation import FilmMaps, findings_of
from cxrlines.reading.results.report_text import as_text, looked_for
from cxrlines.reading.training_patients import SEEN, patients_text
from cxrlines.task import LABELS, LABELS_OF, Device


@pytest.fixture(scope="module")
def known(phantom) -> ReferenceFilms:
    return data_films(phantom)


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory):
    """A bundle of a small model a fold; each fold was trained on these patients. None: it has no list."""
    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    model = Classifier("resnet10t", "gap", weights="none")
    save_weights(folder / "w.safetensors", model.state_dict(), {})

    def make(*seen, meta=None, shares=()):
        members = [BundleMember("a", fold, model.config(), folder / "w.safetensors") for fold in range(2)]
        shared = [f"{name}:{SOME}" for name in shares]
        keys = {m.file: tokens(p, "phantom") + shared for m, p in zip(members, seen, strict=False)}
        further = {SEEN: patients_text(keys)} if seen else None
        way = {"store": {"size": 80, "aspect": "stretch"}, "input_size": 64, "meta": meta or {}}
        return load_bundle(write_bundle(folder / "bundle", members, further=further, onnx=False, **way))

    return make


def test_films_of_patients_that_a_model_has_seen_are_left_out_and_counted(known, bundle_of):
    first = known.films[0].patient
    own = sum(film.patient == first for film in known.films)
    bundle = bundle_of([first, "another"], ["somebody"])
    told = evaluate_bundle(known, bundle, resamples=5)
    assert told.figures.films == len(known.films) - own and told.left_out[SEEN_PATIENT] == own
    assert told.models == ("a fold 0", "a fold 1")
    # The model of the other fold has not seen him.
    other = evaluate_bundle(known, of_fold(bundle, 1), resamples=5)
    assert other.figures.films == len(known.films) and SEEN_PATIENT not in other.left_out
    assert other.models == ("a fold 1",)
    assert f"left out: {plural(own, 'film')} {SEEN_PATIENT}" in told.text()
    values = json.loads(json.dumps(told.as_dict()))
    assert values["left_out"] == told.left_out and values["presence"]["ETT"]["films"] == told.figures.films


def test_training_patients_are_evaluated_only_when_asked_and_then_counted(known, bundle_of):
    first = known.films[0].patient
    own = sum(film.patient == first for film in known.films)
    told = evaluate_bundle(known, bundle_of([first], []), report_seen=True, resamples=5)
    assert told.figures.films == len(known.films)
    verb = "is" if own == 1 else "are"
    assert f"{own} of these {len(known.films)} films {verb} {SEEN_PATIENT}: the figures flatter" in told.text()


def test_public_sets_that_may_share_training_patients_are_named_and_no_film_is_left_out_for_it(known, bundle_of):
    remark = "Some patients of ranzcr may be among its training patients under other identifiers"
    told = evaluate_bundle(known, bundle_of([], [], shares=["ranzcr"]), resamples=5)
    assert told.figures.films == len(known.films) and remark in told.text()
    assert remark not in evaluate_bundle(known, bundle_of([], []), resamples=5).text()


def test_a_patient_is_seen_under_the_name_of_his_backdrop(known, bundle_of):
    film = known.films[0]
    aliased = ReferenceFilm(film.path, "p", film.compare, (backdrop_patient("p"),))
    other = ReferenceFilm(film.path, "q", film.compare, (backdrop_patient("q"),))
    told = evaluate_bundle(
        ReferenceFilms([aliased, other], {}, ()), bundle_of([backdrop_patient("p")], []), resamples=5
    )
    assert told.figures.films == 1 and told.left_out == {SEEN_PATIENT: 1}


def test_films_whose_patients_nobody_names_are_refused_as_nobody_can_say_whether_they_were_seen(known, bundle_of):
    bare = [replace(film, named=False) for film in known.films[:2]]
    mixed = ReferenceFilms([*bare, *known.films[2:]], {}, ())
    bundle = bundle_of(["somebody"], [])
    with pytest.raises(EvaluationError, match=r"2 of 8 films: .*index\.csv.*--seen report") as said:
        evaluate_bundle(mixed, bundle, resamples=5)
    assert all(film.patient not in str(said.value) for film in bare)
    told = evaluate_bundle(mixed, bundle, report_seen=True, resamples=5)
    assert told.figures.films == 8 and "The patients of 2 films are not named: they may be training" in told.text()
    # What is known by its name all the same is left out; a bundle that was trained on nobody asks nobody's name.
    patients = [film.patient for film in bare]
    told = evaluate_bundle(mixed, bundle_of(patients, []), resamples=5)
    assert told.figures.films == sum(film.patient not in patients for film in known.films)
    assert evaluate_bundle(mixed, bundle_of([], []), resamples=5).figures.films == 8


def test_films_are_drawn_with_the_truth_on_the_left(phantom, known, bundle_of, tmp_path):
    evaluate_bundle(known, bundle_of([], []), resamples=5, draw=tmp_path / "drawn")
    assert {path.stem for path in (tmp_path / "drawn").iterdir()} == {film.path.stem for film in known.films}

    def colour(sheet: np.ndarray) -> int:
        """Coloured px of the film, without the strip beside it."""
        return int((np.ptp(sheet[:, : sheet.shape[1] // 2].astype(int), axis=2) > 60).sum())

    with_lines = 0
    lines = read_dataset(phantom, "test").lines
    for film in known.films:
        sheet = cv2.imread(str(tmp_path / f"drawn/{film.path.stem}.png"))
        true, found = np.hsplit(sheet, 2)
        assert (colour(true) > 100) == bool(lines.get(film.path.stem)), film.path.stem
        assert colour(found) == 0, "an untrained network finds nothing"
        with_lines += film.path.stem in lines
    assert with_lines


@pytest.fixture
def drawn(monkeypatch):
    """The findings that are drawn, in their order."""
    findings_of_films = []

    def noted(pixels, findings, **more):
        findings_of_films.append(findings)
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr(module, "draw_findings", noted)
    return findings_of_films


def test_on_the_left_lines_were_looked_for_on_a_film_that_was_refused_too(known, tmp_path, drawn):
    path = known.films[0].path
    shape = read_film(path).pixels.shape
    refused = Findings(shape, (), {}, (), quality=Quality(usable=False))
    module._draw_both(path, EvaluatedFilm("p", shape, (), ()), refused, tmp_path, "")
    true, found = drawn
    assert looked_for(true) and true.quality.usable and not looked_for(found)


def test_on_the_left_no_state_is_given_of_a_film_to_which_no_rule_is_applied(known, tmp_path, drawn):
    path = known.films[0].path
    shape = read_film(path).pixels.shape
    tip = np.array([40.0, 30.0])
    tube = Line(Device.ETT, np.stack([[40.0, 0.0], tip]), tip)
    read = EvaluatedFilm("p", shape, (tube,), (), true_carina=np.array([40.0, 40.0]))
    for notes in ((), (Note(Code.MIRRORED, "mirrored"),)):
        module._draw_both(path, read, Findings(shape, (), {}, (), notes=notes), tmp_path, "")
        true, _ = drawn[-2:]
        assert bool(true.distances[0].possible) == (not notes) and as_text(true)


def test_what_cannot_be_evaluated_is_named(known, bundle_of):
    with pytest.raises(EvaluationError, match=r"does not list the patients.*export it again.*--seen report"):
        evaluate_bundle(known, bundle_of(), resamples=5)
    told = evaluate_bundle(known, bundle_of(meta={"ancestry_unknown": ["resnet.pth"]}), report_seen=True, resamples=5)
    assert "does not list its training patients" in told.text() and "resnet.pth" in told.text()
    everyone = [film.patient for film in known.films]
    with pytest.raises(EvaluationError, match=r"all 8 films are of a patient.*one fold with --fold.*--seen report"):
        evaluate_bundle(known, bundle_of(everyone, []), resamples=5)
    with pytest.raises(BundleError, match="has no model of fold 7; it has folds 0, 1"):
        of_fold(bundle_of([], []), 7)


def test_one_fold_of_a_bundle_at_other_frequencies_is_refused(bundle_of):
    moved = bundle_of([], [])
    meta = {"calibration": {"frequencies_before": "films"}}
    moved = replace(moved, manifest=moved.manifest.model_copy(update={"meta": meta}))
    with pytest.raises(BundleError, match=r"moved to other frequencies .*; leave --fold out, or evaluate the bundle"):
        of_fold(moved, 0)


def test_an_unreadable_film_is_counted_and_costs_no_other(known, bundle_of, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no film")
    bad = ReferenceFilm(tmp_path / "bad.jpg", "p", known.films[0].compare)
    bundle = bundle_of([], [])
    told = evaluate_bundle(ReferenceFilms([bad, *known.films], {}, ()), bundle, resamples=5)
    assert told.left_out == {"not readable": 1}
    assert told.figures == evaluate_bundle(known, bundle, resamples=5).figures
    with pytest.raises(EvaluationError, match=r"none of 1 films could be read; the first: .*bad\.jpg"):
        evaluate_bundle(ReferenceFilms([bad], {}, ()), bundle)


def test_films_on_which_cxrlines_fails_are_counted_apart(known, bundle_of, tmp_path, monkeypatch):
    (tmp_path / "bad.jpg").write_bytes(b"no film")
    bad = ReferenceFilm(tmp_path / "bad.jpg", "p", known.films[0].compare)
    whole = module.Reader.prepare

    def failing(self, film, name):
        if name == str(known.films[0].path):
            raise LookupError
        return whole(self, film, name)

    monkeypatch.setattr(module.Reader, "prepare", failing)
    figures = evaluate_bundle(ReferenceFilms([bad, *known.films], {}, ()), bundle_of([], []), resamples=5)
    assert figures.left_out == {"not readable": 1, FAULT: 1} and "please report the fault" in figures.text()
    assert figures.figures.films == len(known.films) - 1


def test_figures_and_causes_are_given_by_view(known, bundle_of):
    views = ["AP", "PA", None]
    films = [replace(film, view=views[k % 3]) for k, film in enumerate(known.films)]
    told = evaluate_bundle(ReferenceFilms(films, {}, ()), bundle_of([], []), resamples=5)
    assert told.figures == evaluate_bundle(known, bundle_of([], []), resamples=5).figures
    for view in ("AP", "PA"):
        own = [film for film in films if film.view == view]
        alone = evaluate_bundle(ReferenceFilms(own, {}, ()), bundle_of([], []), resamples=5)
        assert told.views[view] == alone.figures == alone.views[view] and list(alone.views) == [view]
        assert f"{view} alone: {len(own)} films" in told.text() and f"All films are {view}." in alone.text()
    true = sum(figures.true for figures in told.figures.lines.devices.values())
    missed = told.failures.as_dict()["views"]["all"]["devices"].values()
    assert sum(sum(one["missed"].values()) for one in missed) == true > 0, "an untrained network finds nothing"
    values = json.loads(json.dumps(told.as_dict()))
    assert set(values["views"]) == {"AP", "PA"} and set(values["failures"]["views"]) == {"all", "AP", "PA"}
    assert values["views"]["AP"]["films"] == values["failures"]["views"]["AP"]["films"]
    assert "why lines are missed" in told.text()


# -- films that are turned in their files

SIZE = 256
AMISS = np.array([3.0, -4.0])
"""px of the square by which the reader of these tests places every tip and carina wrongly."""


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """A phantom of which films are lower than wide, with tubes of every state."""
    folder = tmp_path_factory.mktemp("wide") / "data"
    write_phantom(folder, studies=2, test=14, seed=5, size=400, balance="even", workers=1)
    shapes = [read_film(path).pixels.shape for path in (folder / "test").iterdir()]
    assert sum(height < 0.97 * width for height, width in shapes) >= 4
    return folder


def turned_folder(folder: Path, out: Path, quarters: int) -> Path:
    """The same data with its test films turned counter-clockwise, and all that is known of them."""
    shutil.copytree(folder, out)
    shapes = {}
    for path in (out / "test").iterdir():
        film = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        shapes[path.stem] = film.shape
        path.write_bytes(cv2.imencode(".png", np.rot90(film, quarters))[1])  # another JPEG of it may have another frame

    def turn(study: str, point: list[float]) -> list[float]:
        (height, width), (x, y) = shapes[study], point
        for _ in range(quarters):
            (x, y), (height, width) = (y, width - 1 - x), (width, height)
        return [x, y]

    def rewrite(name: str, change) -> None:
        with (out / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        with (out / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(map(change, rows))

    def turn_line(row: dict) -> dict:
        return row | {"data": json.dumps([turn(row["StudyInstanceUID"], point) for point in json.loads(row["data"])])}

    def turn_landmarks(row: dict) -> dict:
        if row["split"] != "test":
            return row
        names = [name.removesuffix("_x") for name in row if name.endswith("_x")]
        points = {n: turn(row["StudyInstanceUID"], [float(row[f"{n}_x"]), float(row[f"{n}_y"])]) for n in names}
        return row | {f"{n}_{axis}": value for n, xy in points.items() for axis, value in zip("xy", xy, strict=True)}

    rewrite("test_annotations.csv", turn_line)
    rewrite("landmarks.csv", turn_landmarks)
    return out


class Oracle:
    """A reader that sees what is true, `AMISS`, and how its films are turned."""

    def __init__(self, folder: Path, rotation: int) -> None:
        self.data = read_dataset(folder, "test")
        self.quality = Quality(rotation=rotation, notes=(Note(Code.TURNED, "turned"),) if rotation else ())
        self.labels = self.data.studies.set_index("study")[list(LABELS)]

    def __call__(self, bundle, **options):
        return self

    def read_with_maps(self, paths, progress=None):
        for path in paths:
            made = prepare(read_film(path), SIZE, "stretch", lambda _: self.quality)
            lines = self.data.lines.get(path.stem, ())
            carina = made.placement.from_film(self.data.landmarks[path.stem]["carina"])[0]
            drawn = [(line.label, made.placement.from_film(line.points) + AMISS) for line in lines]
            labels = self.labels.loc[path.stem].clip(0.01, 0.99).to_dict()
            drawn_maps = draw_maps(drawn, [carina - AMISS], SIZE)
            maps = FilmMaps.of(drawn_maps, made.placement, made.film_shape, made.within)
            yield findings_of(maps, labels, quality=made.quality), maps


def test_a_turned_film_is_evaluated_as_the_upright_one_is(wide, bundle_of, tmp_path, monkeypatch):
    def figures(folder: Path, rotation: int):
        monkeypatch.setattr(module, "Reader", Oracle(folder, rotation))
        return evaluate_bundle(data_films(folder), bundle_of([], []), resamples=5).figures

    upright = figures(wide, 0)
    tube = upright.lines.devices[Device.ETT]
    assert tube.matched == tube.true >= 8 and tube.tip_median.value > 1 and upright.carina.median.value > 1
    states = upright.lines.states[Device.ETT]
    assert states.films >= 8 and states.undecided == 0 and states.rule.value >= 0.5
    truths = read_dataset(wide, "test").studies[list(LABELS_OF[Device.ETT])].max()
    assert truths["ETT - Normal"] and truths["ETT - Abnormal"]
    for quarters in (1, 2, 3):
        turned = figures(turned_folder(wide, tmp_path / str(quarters), quarters), 90 * quarters)
        for device, expected in upright.lines.devices.items():
            got = turned.lines.devices[device]
            assert (got.true, got.matched, got.tips) == (expected.true, expected.matched, expected.tips), device
            assert got.tip_median.value == pytest.approx(expected.tip_median.value, rel=1e-3)
            assert got.dice.value == pytest.approx(expected.dice.value, abs=0.02)
        assert turned.lines.states == upright.lines.states
        assert turned.carina.median.value == pytest.approx(upright.carina.median.value, rel=1e-3)
