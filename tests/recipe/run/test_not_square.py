"""A run on films that are not square: trained, predicted, bundled and read alike."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cxrlines.core.heatmaps import draw_maps
from cxrlines.evaluation.predictions import read_predictions
from cxrlines.io.prepare import shrink
from cxrlines.phantom.dataset import write_phantom
from cxrlines.reading.bundle import load_bundle
from cxrlines.reading.engines.pytorch import PyTorchEngine
from cxrlines.reading.interpretation import FilmMaps, findings_of
from cxrlines.reading.reader import Reader
from cxrlines.recipe.run import pipeline as runs
from cxrlines.recipe.run.export import export_run
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.task import LABELS, LABELS_OF, Device

RECIPE = """
name: oblong
size: [96, 64]
store: {size: [112, 80], aspect: ASPECT}
folds: {count: 3, seed: 0}
defaults: {schedule: {batch: 8, lr: 0.002, epochs: 1}, films: {augment: hotwater}}
members:
  one:
    backbone: resnet10t
    stages:
      segmenter: {start: scratch, films: {which: annotated}, targets: {maps: {}, labels: {}}}
      last: {start: scratch, films: {maps_of: segmenter}}
  other: {backbone: resnet10t, stages: {only: {start: scratch, size: [64, 96], targets: {maps: {}, labels: {}}}}}
  small: {backbone: resnet10t, head: attention, stages: {only: {start: scratch, size: 64}}}
tracking: {use: []}
quality: {probe: none}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oblong") / "data"
    write_phantom(folder, studies=27, test=4, seed=3, size=160, balance="even", annotated=0.6, workers=1)
    return folder


@pytest.mark.parametrize("aspect", ["pad", "stretch"])
def test_a_bundle_gives_the_predictions_of_its_own_run(data, tmp_path, do_here, aspect):
    path = tmp_path / "oblong.yaml"
    path.write_text(RECIPE.replace("ASPECT", aspect))
    run = do_here(runs.prepare(load_recipe(str(path)), data, tmp_path / "run", 1), [0])
    assert run.store.films.shape[1:] == (112, 80)
    (run.root / runs.STEPS).write_text(json.dumps({step.name: step.identity for step in runs.plan_of(run, [0])}))
    bundle = load_bundle(export_run(run.root, tmp_path / "bundle", onnx=False))
    assert bundle.sizes == ((96, 64), (64, 96), 64) and bundle.manifest.store.size == (112, 80)
    plain = bundle.manifest.model_copy(update={"fold_calibration": None, "calibration": None})
    bundle = replace(bundle, manifest=plain)
    reader = Reader(bundle, engine=PyTorchEngine(bundle, fast=False))
    wanted = read_predictions(run.root / "predictions/test/ensemble.csv").set_index("study")
    for film in sorted((data / "test").glob("*")):
        found = reader.read(film)
        given = [found.labels[label] for label in LABELS]
        np.testing.assert_allclose(given, wanted.loc[film.stem, list(LABELS)].to_numpy(float), atol=1e-5)


@pytest.mark.parametrize("aspect", ["pad", "stretch"])
@pytest.mark.parametrize("size", [(192, 320), (320, 192)])
def test_tips_are_found_in_px_of_the_original_film(aspect, size):
    line = np.array([[300.0, 20], [310, 200], [330, 420]])
    shape = (700, 600)
    placement = shrink(np.zeros(shape, np.uint8), size, aspect)[1]
    carina = np.array([340.0, 470])
    maps = draw_maps(
        [(LABELS_OF[Device.ETT][0], placement.from_film(line))], [placement.from_film(carina[None])[0]], size
    )
    found = findings_of(FilmMaps.of(maps, placement, shape))
    (seen,) = found.lines
    per_px = 1 / min(placement.scale)  # px of the film a px of what is read
    assert seen.device is Device.ETT and np.linalg.norm(seen.tip - line[-1]) < 1.5 * per_px
    (spot,) = found.landmarks.values()
    assert np.linalg.norm(spot.xy - carina) < 1.5 * per_px
