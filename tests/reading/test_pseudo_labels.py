"""Pseudo-labels: what two views agree on becomes a data folder that trains; the guard knows who labelled it."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cxrlines.cli import app
from cxrlines.cli.predict import EXAMPLE
from cxrlines.core.errors import Error, ReadingFault
from cxrlines.core.film import FilmError
from cxrlines.core.findings import Findings, Keypoint, Line
from cxrlines.core.quality import NOT_ASSESSED
from cxrlines.io.annotations import Line as AnnotatedLine
from cxrlines.io.patients import is_phantom, tokens
from cxrlines.io.tables import META_FILE, read_data_folder, read_dataset
from cxrlines.models.classifier import Classifier
from cxrlines.models.weights import save_weights
from cxrlines.reading import pseudo_labels
from cxrlines.reading.bundle import Bundle, BundleError, load_bundle
from cxrlines.reading.bundle_writing import BundleMember, write_bundle
from cxrlines.reading.pseudo_labels import JOURNAL, NOTHING, SEEN, UNREAD, both_views, write_pseudo_labels
from cxrlines.reading.sources import find_films
from cxrlines.reading.training_patients import SEEN as SEEN_FILE
from cxrlines.reading.training_patients import patients_text
from cxrlines.reading.view_agreement import Doubt, on_first
from cxrlines.recipe.run.pipeline import plan_of, prepare
from cxrlines.recipe.run.step_lineage import made_from, refuse_held_out
from cxrlines.recipe.run.training_data import TableFilms
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.task import DEVICE_OF, LABELS, LABELS_OF, Device, Landmark
from cxrlines.training.lineage import LeakError
from cxrlines.training.targets.presence import PresenceTarget

SHAPE = (120, 96)
ETT = np.array([[48.0, 0], [50, 20], [49, 40.5]])
FILMS = ("agree", "empty", "elsewhere", "broken", "seen")


def bundle_of(folder: Path, seen: list[str] | None) -> Bundle:
    """A bundle of an untrained network that saw these patients."""
    model = Classifier("resnet10t", "gap", weights="none", decoder="unet")
    save_weights(folder / "0.safetensors", model.state_dict(), {})
    member = BundleMember("m", 0, model.config(), folder / "0.safetensors")
    further = {} if seen is None else {SEEN_FILE: patients_text({"m-fold0.safetensors": tokens(seen, "ours")})}
    store = {"size": 64, "aspect": "pad"}
    return load_bundle(
        write_bundle(folder / "bundle", [member], store=store, input_size=64, meta={}, further=further, onnx=False)
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    torch.manual_seed(0)
    return bundle_of(tmp_path_factory.mktemp("bundle"), ["P-seen", "P-other"])


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Five films with an index of their patients."""
    folder = tmp_path / "films"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in FILMS:
        cv2.imwrite(str(folder / f"{name}.png"), cv2.GaussianBlur(rng.integers(0, 256, SHAPE, np.uint8), (0, 0), 4))
    rows = [["file", "patient_id"], *([f"{name}.png", f"P-{name}"] for name in FILMS)]
    with (folder / "index.csv").open("w") as file:
        csv.writer(file).writerows(rows)
    return folder


def reading(*lines: Line, carina=None) -> Findings:
    there = {line.device for line in lines}
    labels = {label: 0.9 if DEVICE_OF[label] in there else 0.001 for label in LABELS}
    landmarks = {} if carina is None else {Landmark.CARINA: Keypoint(np.array(carina), 0.9)}
    return Findings(SHAPE, lines, landmarks, (), labels, quality=NOT_ASSESSED)


def in_second(found: Findings) -> Findings:
    """Findings in px of the film, in those of its second view: found by the way back of a marker, not by its matrix."""
    corners = np.array([[0.0, 0], [90, 0], [0, 110]])
    back = on_first(reading(Line(Device.CVC, corners, None))).lines[0].path
    linear = np.linalg.inv((back[1:] - back[0]).T @ np.linalg.inv((corners[1:] - corners[0]).T))

    def moved(points):
        return (np.atleast_2d(points) - back[0]) @ linear.T

    lines = tuple(replace(x, path=moved(x.path), tip=None if x.tip is None else moved(x.tip)[0]) for x in found.lines)
    marks = {name: Keypoint(moved(spot.xy)[0], spot.confidence) for name, spot in found.landmarks.items()}
    return replace(found, lines=lines, landmarks=marks)


def ett(by: float = 0) -> Line:
    return Line(Device.ETT, ETT + by, ETT[-1] + by)


SWAN = Line(Device.SWAN, np.array([[10.0, 20], [40, 90]]), None, followed_to=np.array([40.0, 90]))
READ = {
    "agree": (reading(ett(), SWAN, carina=(50, 50)), reading(ett(0.5), SWAN, carina=(50.5, 50))),
    "empty": (reading(), reading()),
    "elsewhere": (reading(ett()), reading(ett(20))),
    "seen": (reading(ett()), reading(ett())),
}


@pytest.fixture
def scripted(monkeypatch) -> list[str]:
    """The readings of the films; which were read, in order."""
    asked: list[str] = []

    def both(reader, film: Path):
        asked.append(film.stem)
        if film.stem == "broken":
            return FilmError("it is torn"), FilmError("it is torn")
        one, other = READ[film.stem]
        return one, in_second(other)

    monkeypatch.setattr(pseudo_labels, "both_views", both)
    return asked


def test_the_folder_holds_what_is_agreed_on_and_counts_the_rest(films, bundle, scripted, tmp_path):
    counts = write_pseudo_labels(find_films([films]), bundle, tmp_path / "out")
    assert counts.as_dict() == {
        "films": 5,
        "kept": 3,
        "left_out": {UNREAD: 1, SEEN: 1},
        "lines": {
            "ETT": {"found": 2, "kept": 1, "tips": 1, Doubt.LINES.value: 1},
            "SWAN": {"found": 1, "kept": 1, "tips": 0},
        },
    }
    data = read_data_folder(tmp_path / "out")
    assert not data.left_out and data.studies.ids == ["agree", "elsewhere", "empty"]
    assert data.studies.patients == ["P-agree", "P-elsewhere", "P-empty"]
    assert [Path(film).read_bytes() for film in data.studies.films] == [
        (films / f"{name}.png").read_bytes() for name in data.studies.ids
    ]
    first, second = data.lines["agree"]
    np.testing.assert_array_equal(first.points, ETT)
    assert (first.tip_seen, second.tip_seen, second.label) == (True, False, LABELS_OF[Device.SWAN][0])
    np.testing.assert_array_equal(data.landmarks["agree"]["carina"], [50, 50])
    known = {study.id: study.labels for study in data.studies}
    assert known["empty"] == dict.fromkeys(LABELS, 0.0)
    without = {label: 0.0 for label in LABELS if DEVICE_OF[label] is not Device.ETT}
    assert known["elsewhere"] == without, "what the views do not agree on is -1"
    assert known["agree"] == without | {LABELS_OF[Device.SWAN][0]: 1.0}, "a state is not known by its line"
    assert not (tmp_path / "out" / JOURNAL).exists()


def test_it_trains_maps_and_presence_on_films_without_lines_too(films, bundle, scripted, tmp_path):
    write_pseudo_labels(find_films([films]), bundle, tmp_path / "out")
    data = read_dataset(tmp_path / "out")
    source = TableFilms(data, None, np.arange(3))  # type: ignore[arg-type]
    assert data.annotated.all() and not is_phantom(data)
    presence = PresenceTarget().data(source).arrays["presence"]
    devices = list(Device)
    ett_column = presence[:, devices.index(Device.ETT)]
    assert ett_column.tolist()[0] == 1 and np.isnan(ett_column[1]) and ett_column[2] == 0


def test_a_film_whose_views_disagree_in_all_is_left_out(films, bundle, scripted, tmp_path, monkeypatch):
    wild = [Line(device, ETT + 5 * k, None) for k, device in enumerate(Device)]
    monkeypatch.setitem(READ, "elsewhere", (reading(*wild), reading()))
    counts = write_pseudo_labels(find_films([films]), bundle, tmp_path / "out")
    assert counts.left_out[NOTHING] == 1 and "elsewhere" not in read_data_folder(tmp_path / "out").studies.ids


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_same_films_same_bytes_also_after_a_kill(films, bundle, scripted, tmp_path):
    write_pseudo_labels(find_films([films]), bundle, tmp_path / "whole")
    read = len(scripted)

    def killed(done: int, total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pseudo_labels(find_films([films]), bundle, tmp_path / "out", progress=killed)
    assert (tmp_path / "out" / JOURNAL).exists()
    steps: list[int] = []
    write_pseudo_labels(find_films([films]), bundle, tmp_path / "out", progress=lambda done, total: steps.append(done))
    assert content(tmp_path / "whole") == content(tmp_path / "out")
    again = ["agree", "broken", "elsewhere", "broken", "empty", "seen"]
    assert scripted[read:] == again, "what could not be read is tried again"
    write_pseudo_labels(find_films([films]), bundle, tmp_path / "out")
    assert content(tmp_path / "whole") == content(tmp_path / "out"), "and anew into the same folder"


def test_a_folder_with_anything_else_is_not_touched(films, bundle, scripted, tmp_path):
    (tmp_path / "out/train").mkdir(parents=True)
    (tmp_path / "out/train/mine.jpg").write_bytes(b"1")
    with pytest.raises(Error, match="is not empty, and holds no earlier output"):
        write_pseudo_labels(find_films([films]), bundle, tmp_path / "out")
    assert (tmp_path / "out/train/mine.jpg").exists() and not scripted


def test_a_bundle_that_does_not_say_whom_it_saw_labels_only_where_that_is_accepted(films, scripted, tmp_path):
    silent = bundle_of(tmp_path, None)
    with pytest.raises(Error, match="does not list the patients that it was trained on"):
        write_pseudo_labels(find_films([films]), silent, tmp_path / "out")
    write_pseudo_labels(find_films([films]), silent, tmp_path / "out", keep_seen=True)
    by = json.loads((tmp_path / "out" / META_FILE).read_text())["labelled_by"]
    assert by["patients"] == [] and len(by["unknown"]) == 1


def test_films_whose_patients_nobody_names_are_labelled_only_where_that_is_accepted(films, bundle, scripted, tmp_path):
    (films / "index.csv").write_text("file,patient_id\n" + "".join(f"{name}.png,P-{name}\n" for name in FILMS[1:]))
    with pytest.raises(Error, match=r"1 of 5 films: .*index\.csv.*--seen keep"):
        write_pseudo_labels(find_films([films]), bundle, tmp_path / "out")
    assert not scripted and not (tmp_path / "out").exists(), "before any is read"
    write_pseudo_labels(find_films([films]), bundle, tmp_path / "out", keep_seen=True)
    by = json.loads((tmp_path / "out" / META_FILE).read_text())["labelled_by"]
    assert by["patients"] and by["unknown"] == ["the patients of 1 film that it labelled are not named"]
    assert read_data_folder(tmp_path / "out").studies.patients[0] == "agree"


def test_patients_are_those_of_the_index_beside_a_film_in_each_folder_and_of_a_film_that_is_named(
    films, bundle, scripted, tmp_path
):
    """Two films of one name are two patients'."""
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(films / "agree.png", other / "seen.png")
    (other / "index.csv").write_text("file,patient_id\nseen.png,P-new\n")
    counts = write_pseudo_labels(find_films([films, other]), bundle, tmp_path / "out")
    assert counts.left_out[SEEN] == 1 and "P-new" in read_data_folder(tmp_path / "out").studies.patients
    named = write_pseudo_labels(find_films([films / "seen.png", films / "agree.png"]), bundle, tmp_path / "named")
    assert named.left_out == {SEEN: 1} and named.kept == 1


RECIPE = """
name: noisy
size: 64
store: {size: 72}
quality: {leave_out: nothing, probe: none}
folds: {count: 2}
members:
  one:
    backbone: resnet10t
    stages:
      only: {start: scratch, targets: {maps: {}, presence: {}}}
"""


@pytest.mark.parametrize("keep_seen", [False, True])
def test_the_guard_knows_who_labelled_the_films(films, bundle, scripted, tmp_path, keep_seen):
    write_pseudo_labels(find_films([films]), bundle, tmp_path / "out", keep_seen=keep_seen)
    (tmp_path / "noisy.yaml").write_text(RECIPE)
    run = prepare(load_recipe(str(tmp_path / "noisy.yaml")), tmp_path / "out", tmp_path / "run", 1)
    refused = 0
    for step in plan_of(run, None):
        stage, held = run.recipe.spec(step.key.source), run.films.held(step.key.held)
        lineage = made_from(run, step, stage, run.films.training(stage, step.key.held), None)
        assert [role for role, _ in lineage.parents] == ["pseudo-labels"]
        try:
            refuse_held_out(run, lineage, held)
        except LeakError as error:
            refused += 1
            assert f"bundle {bundle.identity[:12]}" in str(error)
            assert "P-seen" in set(run.films.own.studies["patient"].iloc[held])
    assert refused == keep_seen, "the fold that holds out a patient whom the bundle saw"


def test_the_guard_knows_who_labelled_an_external_set(phantom, films, bundle, scripted, tmp_path):
    write_pseudo_labels(find_films([films]), bundle, tmp_path / "out")
    text = RECIPE.replace("only: {", "only: {films: {set: rest}, ").replace("maps: {}, ", "")
    (tmp_path / "noisy.yaml").write_text(f"{text}external: {{rest: {{folder: {tmp_path / 'out'}}}}}\n")
    recipe = load_recipe(str(tmp_path / "noisy.yaml"))
    run = prepare(recipe, phantom, tmp_path / "run", 1)
    step, *_ = plan_of(run, None)
    stage = run.recipe.spec(step.key.source)
    lineage = made_from(run, step, stage, run.films.training(stage, step.key.held), None)
    by = json.loads((tmp_path / "out" / META_FILE).read_text())["labelled_by"]
    ((role, labeller),) = lineage.parents
    assert role == "pseudo-labels" and labeller.patients == frozenset(by["patients"]) != frozenset()


def test_processes_do_not_label_with_a_bundle_that_was_exchanged(films, bundle, tmp_path, monkeypatch):
    mine = load_bundle(shutil.copytree(bundle.folder, tmp_path / "bundle"))
    manifest = mine.folder / "bundle.json"
    manifest.write_text(manifest.read_text().replace('"meta": {}', '"meta": {"trained_on": "something else"}'))
    monkeypatch.setattr(pseudo_labels, "FILMS_A_PROCESS", 1)
    monkeypatch.setattr(pseudo_labels, "cores", lambda: 2)
    with pytest.raises(BundleError, match=mine.identity):
        write_pseudo_labels(find_films([films]), mine, tmp_path / "out")


def test_a_fault_in_decoding_costs_its_film_alone(films, monkeypatch):
    def fails(film):
        raise IndexError("a fault of a decoder")

    monkeypatch.setattr(pseudo_labels, "read_film", fails)
    film = films / "agree.png"
    one, other = both_views(None, film)
    assert isinstance(one, ReadingFault) and one is other and str(film) in str(one)


def test_the_embedded_reader_labels_a_film_by_the_command(tmp_path):
    film = tmp_path / "film/example.jpg"
    film.parent.mkdir()
    shutil.copy(EXAMPLE, film)
    (film.parent / "index.csv").write_text("file,patient_id\nexample.jpg,somebody\n")
    done = CliRunner().invoke(app, ["pseudo-label", str(film), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "1 of 1 films kept" in done.output
    data = read_data_folder(tmp_path / "out")
    assert data.lines["example"] and all(isinstance(line, AnnotatedLine) for line in data.lines["example"])
    again = tmp_path / "again"
    assert CliRunner().invoke(app, ["pseudo-label", str(film), "--out", str(again)]).exit_code == 0
    assert content(again) == content(tmp_path / "out")
