"""The whole system in small: its films, its twins, and every member of hotwater-small."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxrlines.io.tables import read_dataset
from cxrlines.lab.experiments import small
from cxrlines.lab.experiments.small import Films, plant_twins, run_small
from cxrlines.phantom.dataset import write_phantom
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.training.lineage import read_lineage


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    write_phantom(root / "own", studies=8, test=0, seed=0, size=160, workers=1)
    write_phantom(root / "nih", studies=6, test=0, seed=1, size=160, site="b", workers=1)
    return root


@pytest.fixture
def films(phantoms, tmp_path) -> Path:
    shutil.copytree(phantoms, tmp_path, dirs_exist_ok=True)
    return tmp_path


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (folder / "train").iterdir()}


def test_planted_twins_are_own_films_seen_otherwise_and_all_others_stay(films):
    own, before = pictures(films / "own"), pictures(films / "nih")
    pairs = plant_twins(films / "own", films / "nih", 3)
    after = pictures(films / "nih")
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 3
    assert {study for study in after if after[study] != before[study]} == {theirs for _, theirs in pairs}
    assert pictures(films / "own") == own

    def seen(encoded: bytes) -> np.ndarray:
        picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
        return cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA).ravel().astype(float)

    for mine, theirs in pairs:
        likeness = {study: np.corrcoef(seen(own[study]), seen(after[theirs]))[0, 1] for study in own}
        assert max(likeness, key=likeness.get) == mine
        assert own[mine] != after[theirs]


def test_planted_again_they_are_the_same(films):
    first = plant_twins(films / "own", films / "nih", 3), pictures(films / "nih")
    assert (plant_twins(films / "own", films / "nih", 3), pictures(films / "nih")) == first


@pytest.mark.long
def test_hotwater_small_in_smaller(tmp_path, monkeypatch, in_process):
    """Every member and stage on a handful of films, from the films to the report, and again for nothing."""

    def smaller(name, settings):
        laid = ["members.*.backbone=resnet10t", "size=64", "store.size=96"]
        laid += ["members.*.stages.*.schedule.epochs=0.3", "members.*.stages.*.schedule.validate_films=0"]
        laid += [f"{place}.start=scratch" for place, stage in load_recipe(name).stages() if stage.start == "imagenet"]
        return load_recipe(name, [*laid, *settings])

    monkeypatch.setattr(small, "load_recipe", smaller)
    films = Films(own=48, test=12, external=20, twins=3, stranger=24, size=128)
    options = {"films": films, "workers": 1, "say": lambda text: None}
    root = run_small(tmp_path, **options)
    members = list(load_recipe("hotwater-small").members)
    metrics = json.loads((root / "metrics.json").read_text())
    assert list(metrics["members"]) == members
    assert list(metrics["ancestry_trusted"]) == ["public"] and not metrics["ancestry_unknown"]
    assert (root / "report.html").stat().st_size > 10_000
    records = {path: path.stat().st_mtime_ns for path in root.glob("*/fold*/*/step.json")}
    assert {path.parts[-4] for path in records} == set(members)
    patient_of = read_dataset(tmp_path / "data/own").studies.set_index("study")["patient"]
    for path in root.glob("*/fold?/*/lineage.json"):
        held = (path.parent / "predictions.csv").is_file()
        if held:
            studies = [line.split(",")[0] for line in (path.parent / "predictions.csv").read_text().splitlines()[1:]]
            read_lineage(path).refuse_seen(patient_of[studies])
    run_small(tmp_path, **options)
    assert {path: path.stat().st_mtime_ns for path in records} == records
