"""Limits of an evaluation in a bundle: they decide which lines are given, and a bad file is named."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cxrlines.core.errors import Error
from cxrlines.core.heatmaps import draw_maps
from cxrlines.core.transform import Affine
from cxrlines.metrics.limit_trade import CONFIDENCES, FilmCounts, limit_trade
from cxrlines.reading.bundle import EMBEDDED, FORMAT, load_bundle
from cxrlines.reading.bundle_writing import with_manifest
from cxrlines.reading.fitted_limits import with_limits
from cxrlines.reading.interpretation import FilmMaps, findings_of
from cxrlines.task import LABELS_OF, Device


@pytest.fixture
def evaluation(tmp_path):
    """What `evaluate-bundle --limits --json` prints of one film, in a file."""
    counts = FilmCounts(0.9, 1, (1,) * len(CONFIDENCES), (0,) * len(CONFIDENCES))
    told = limit_trade([{Device.ETT: counts}], ["a"], 0.25, resamples=5)
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps({"bundle": load_bundle(EMBEDDED).identity, "limits": told.as_dict()}))
    return path, told.fitted[Device.ETT]


def test_the_limits_of_an_evaluation_are_in_the_bundle_and_survive_its_file(evaluation, tmp_path):
    path, fitted = evaluation
    embedded = load_bundle(EMBEDDED)
    manifest = with_limits(embedded, path)
    assert manifest.confident == embedded.manifest.confident | {"ETT": fitted.confidence}
    assert manifest.denied == embedded.manifest.denied | {"ETT": fitted.presence} and manifest.format == FORMAT
    assert manifest.meta["limits"] == {"films": 1, "wanted": 0.25, "bundle": embedded.identity}
    assert load_bundle(with_manifest(embedded, manifest, tmp_path / "out")).manifest == manifest
    none_yet = replace(embedded, manifest=embedded.manifest.model_copy(update={"confident": None}))
    assert with_limits(none_yet, path).confident == {"ETT": fitted.confidence}, "bundles from before have none"


def test_a_limit_of_confidence_decides_which_lines_of_its_device_are_given():
    tube, catheter = np.array([[100.0, 0.0], [110.0, 120.0]]), np.array([[255.0, 60.0], [180.0, 60.0], [150.0, 150.0]])
    drawn = [(LABELS_OF[Device.ETT][0], tube), (LABELS_OF[Device.CVC][0], catheter)]
    maps = draw_maps(drawn, [np.full(2, np.nan)], 256) * np.float32(0.5)
    film = FilmMaps.of(maps, Affine(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))), (256, 256))

    def given(least):
        return {line.device: line.confidence for line in findings_of(film, min_confidence=least).lines}

    all_lines = given(None)
    assert set(all_lines) == {Device.ETT, Device.CVC}
    tubes = all_lines[Device.ETT]
    assert set(given({"ETT": tubes + 0.001})) == {Device.CVC}
    assert given({"ETT": tubes}) == given({"NGT": 1.0}) == given({}) == all_lines


@pytest.mark.parametrize(
    "content",
    [
        None,
        "[",
        "{}",
        '{"bundle": "1", "limits": {"fitted": {"ETT": {"confidence": 2, "presence": 0}}, "films": 1, "wanted": 1}}',
        '{"limits": {"fitted": {"ETT": {"confidence": 1, "presence": 0}}, "films": 1, "wanted": 1}}',
    ],
)
def test_a_file_without_limits_is_named(tmp_path, content):
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Error, match=r"--limits .*other\.json: .*evaluate-bundle FILMS --marks MARKS --limits"):
        with_limits(load_bundle(EMBEDDED), path)


def test_limits_of_another_bundle_are_refused_with_both_named(evaluation):
    path, _ = evaluation
    embedded = load_bundle(EMBEDDED)
    other = replace(embedded, identity="0123456789ab")
    with pytest.raises(Error, match=rf"--limits .*evaluation\.json: .*{embedded.identity}.*0123456789ab; evaluate"):
        with_limits(other, path)
