"""Probabilities moved to other frequencies: those that Bayes' rule gives, and calibrated on films drawn at these."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxrlines.evaluation.calibrators import fit_calibration
from cxrlines.metrics.calibration import Calibration, calibration_error
from cxrlines.reading.bundle import EMBEDDED, FORMAT, Bundle, BundleError, Manifest, load_bundle
from cxrlines.reading.bundle_writing import with_manifest
from cxrlines.reading.frequencies import FREQUENCIES, RANZCR, Frequencies, at_frequencies, moved, with_prior
from cxrlines.task import DEVICE_OF, LABEL_INDEX, LABELS, LABELS_OF, Device

LABEL = "NGT - Normal"
ALONE = [k for k, label in enumerate(LABELS) if DEVICE_OF[label] is not Device.ETT]
"""Labels that are moved each by itself; the states of an ETT are moved together."""


def frequencies(share, source="films"):
    devices = {device.name: share for device in Device}
    return Frequencies(source=source, films=100, labels=dict.fromkeys(LABELS, share), devices=devices)


def bundle(calibration, here, **more):
    meta = {"calibration": {FREQUENCIES: here.model_dump()} if here else {}}
    manifest = Manifest(
        store={"size": 64, "aspect": "pad"},
        input_size=64,
        models=[{"name": "a", "fold": 0, "file": "a.safetensors", "config": {}}],
        files={},
        meta=meta,
        calibration=calibration,
        **more,
    )
    return Bundle(Path("bundle"), manifest, "0" * 12)


def test_a_probability_moves_as_bayes_says():
    """One finding that half the films with the label show, and one in ten of those without."""

    def posterior(share):
        return 0.5 * share / (0.5 * share + 0.1 * (1 - share))

    manifest = at_frequencies(bundle({LABEL: (1.0, 0.0)}, frequencies(0.4)), frequencies(0.03))
    row = np.full(len(LABELS), posterior(0.4))
    assert Calibration(manifest.calibration).apply(row)[ALONE] == pytest.approx(posterior(0.03))
    assert moved(posterior(0.4), np.log(0.03 / 0.97) - np.log(0.4 / 0.6)) == pytest.approx(posterior(0.03))
    assert moved(0.0, 3.0) == 0 and moved(1.0, -3.0) == 1


def drawn(rng, shares, count=20_000):
    """Truth at these shares, and probabilities of a classifier that is neither sure enough nor centred."""
    truth = (rng.random((count, len(LABELS))) < shares).astype(int)
    score = rng.normal(2.0 * truth, 1.0)
    return truth, 1 / (1 + np.exp(-(0.6 * score - 0.2)))


def test_what_was_calibrated_at_even_states_is_calibrated_at_the_wards_frequencies():
    rng = np.random.default_rng(1)
    there = np.linspace(0.02, 0.9, len(LABELS))
    truth, p = drawn(rng, 0.3)
    fitted = bundle(fit_calibration(p, truth).lines, Frequencies.of(truth, "even"))
    other_truth, other = drawn(rng, there)
    manifest = at_frequencies(fitted, Frequencies.of(drawn(rng, there)[0], "ward"))
    before, after = (Calibration(m.calibration).apply(other) for m in (fitted.manifest, manifest))
    for k in ALONE:
        assert calibration_error(other_truth[:, k], after[:, k]) < 0.015
    errors = [calibration_error(other_truth[:, ALONE], p[:, ALONE]) for p in (before, after)]
    assert errors[0] > 0.05 > 5 * errors[1]
    # There and back again is where it was.
    back = at_frequencies(
        Bundle(Path("b"), manifest, "1" * 12),
        Frequencies.model_validate(fitted.manifest.meta["calibration"][FREQUENCIES]),
    )
    for label, line in fitted.manifest.calibration.items():
        assert back.calibration[label] == pytest.approx(line)


def test_thresholds_call_the_same_films_and_say_their_precision_there():
    rng = np.random.default_rng(2)
    truth, p = drawn(rng, 0.3)
    limit = 0.4
    called, k = p[:, 3] >= limit, 3
    own = {
        "probability": limit,
        "sensitivity": float(called[truth[:, k] == 1].mean()),
        "specificity": float((~called)[truth[:, k] == 0].mean()),
        "precision": 0.5,
        "positives": 9,
    }
    each = [{"wanted": "sensitivity", "at_least": 0.9, **own}, {"wanted": "precision", "at_least": 0.5, **own}]
    packed = bundle(
        {LABELS[k]: (1.0, 0.0)}, Frequencies.of(truth, "even"), thresholds={LABELS[k]: each}, denied={"NGT": 0.2}
    )
    there, other = drawn(rng, 0.05)
    manifest = at_frequencies(packed, Frequencies.of(there, "ward"))
    (threshold,) = manifest.thresholds[LABELS[k]]
    after = Calibration(manifest.calibration).apply(other)[:, k]
    now = after >= threshold.probability
    assert np.array_equal(now, other[:, k] >= limit)
    assert threshold.precision == pytest.approx(there[now, k].mean(), abs=0.03) and threshold.positives == 9
    assert 0 < manifest.denied["NGT"] < 0.2


def test_labels_whose_frequency_says_nothing_stay():
    here, there = frequencies(0.4), frequencies(0.1)
    here = here.model_copy(update={"labels": here.labels | {LABELS[3]: 0.0}})
    there = there.model_copy(update={"labels": {label: 0.1 for label in LABELS[:-1]} | {LABELS[4]: 1.0}})
    line = (1.2, 0.3)
    packed = bundle(dict.fromkeys(LABELS, line), here)
    manifest = at_frequencies(packed, there)
    assert [label for label in LABELS if manifest.calibration[label] == line] == [*LABELS[:5], LABELS[-1]]
    assert all(manifest.calibration[label][0] == line[0] for label in LABELS)
    assert packed.manifest.calibration == dict.fromkeys(LABELS, line), "the bundle itself is not changed"
    now = manifest.meta["calibration"][FREQUENCIES]["labels"]
    assert (now[LABELS[3]], now[LABELS[4]], now[LABELS[5]]) == (0.0, 0.4, 0.1)


def test_frequencies_are_counted_among_what_is_known():
    truth = np.full((4, len(LABELS)), -1)
    first, second, *rest = (LABEL_INDEX[label] for label in LABELS_OF[Device.ETT])
    truth[:, first] = [1, 0, 0, -1]
    truth[:, [second, *rest]] = [[0], [0], [0], [1]]
    counted = Frequencies.of(truth, "four films")
    assert counted.labels[LABELS[first]] == pytest.approx(1 / 3) and counted.labels[LABELS[second]] == 0.25
    assert counted.devices == {"ETT": pytest.approx(1 / 3)}, "of the three films with all of its labels known"
    assert {DEVICE_OF[label] for label in counted.labels} == {Device.ETT}


def test_the_frequencies_of_ranzcr_are_those_of_its_table(ranzcr):
    table = Frequencies.of_table(ranzcr / "train.csv")
    assert table.labels == pytest.approx(RANZCR.labels) and table.devices == pytest.approx(RANZCR.devices)
    assert table.films == RANZCR.films == 30083


def test_a_bundle_whose_folds_alone_are_calibrated_moves_too():
    each = {LABEL: (1.0, 0.0)}
    manifest = at_frequencies(bundle({}, frequencies(0.4), fold_calibration=each), frequencies(0.03))
    out = Calibration(manifest.calibration).apply(np.full(len(LABELS), 0.4))
    assert out[ALONE] == pytest.approx(0.03)
    embedded = load_bundle(EMBEDDED)
    manifest = at_frequencies(embedded, RANZCR)
    assert embedded.manifest.calibration == {} and manifest.calibration["NGT - Abnormal"][1] < -1
    assert manifest.prior["ETT - Abnormal"] < 0.1, "of .26 % of films, not of 12"


def test_states_that_exclude_each_other_are_moved_together_as_bayes_says():
    """Films of four classes, of which a finding is seen by different shares: no ETT, and one in each state."""
    seen = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])  # class, finding
    states = LABELS_OF[Device.ETT]

    def posterior(shares):
        return np.array([1 - sum(shares), *shares])[:, None] * seen / (np.array([1 - sum(shares), *shares]) @ seen)

    def of(shares):
        own = frequencies(0.4).model_copy(update={"labels": dict(zip(states, shares, strict=True))})
        return own.model_copy(update={"devices": {"ETT": sum(shares)}})

    here, there = (0.16, 0.15, 0.17), (0.003, 0.04, 0.24)
    p = np.zeros((3, len(LABELS)))
    p[:, :3] = posterior(here)[1:].T
    packed = bundle({}, of(here), denied={"ETT": 0.2})
    moved_there = at_frequencies(packed, of(there))
    out = with_prior(p, LABELS, moved_there.prior)
    np.testing.assert_allclose(out[:, :3], posterior(there)[1:].T)
    assert (out[:, 3:] == 0).all() and 0 < moved_there.denied["ETT"] < 0.2
    assert out[:, :3].sum(axis=1) @ (np.array([1 - sum(there), *there]) @ seen) == pytest.approx(sum(there))
    other = (0.1, 0.2, 0.1)  # and on from there
    again = at_frequencies(Bundle(Path("b"), moved_there, "1" * 12), of(other))
    np.testing.assert_allclose(with_prior(p, LABELS, again.prior)[:, :3], posterior(other)[1:].T)
    back = at_frequencies(Bundle(Path("b"), moved_there, "1" * 12), of(here))
    assert back.prior == pytest.approx(dict.fromkeys(states, 1.0))
    # Probabilities that are too sure, of 1 together or more, stay probabilities.
    sure = np.zeros((2, len(LABELS)))
    sure[0, 0], sure[1, :3] = 1, 0.6
    out = with_prior(sure, LABELS, moved_there.prior)
    assert out[0, 0] == 1 and out[1].sum() == pytest.approx(1)


def test_states_of_which_one_is_nowhere_or_the_device_always_there_stay():
    for here, there in [((0.1, 0.0, 0.2), (0.1, 0.1, 0.2)), ((0.4, 0.3, 0.3), (0.1, 0.1, 0.2))]:
        own, other = (
            frequencies(0.4).model_copy(update={"labels": dict(zip(LABELS_OF[Device.ETT], shares, strict=True))})
            for shares in (here, there)
        )
        manifest = at_frequencies(bundle({}, own, denied={"ETT": 0.2}), other)
        assert manifest.prior is None and manifest.calibration == {} and manifest.denied == {"ETT": 0.2}


def test_bundles_without_calibration_or_its_frequencies_are_refused():
    with pytest.raises(BundleError, match="is not calibrated"):
        at_frequencies(bundle(None, frequencies(0.3)), RANZCR)
    with pytest.raises(BundleError, match="at which frequencies it was calibrated; export it again"):
        at_frequencies(bundle({LABEL: (1.0, 0.0)}, None), RANZCR)


def test_a_bundle_that_was_moved_has_the_format_that_knows_it():
    old = load_bundle(EMBEDDED)
    old = replace(old, manifest=old.manifest.model_copy(update={"format": 7}))
    assert at_frequencies(old, RANZCR).format == FORMAT >= 8


def test_a_bundle_is_written_with_another_manifest_over_itself_too(tmp_path):
    shutil.copytree(EMBEDDED, tmp_path / "bundle", ignore=shutil.ignore_patterns("example.jpg"))
    packed = load_bundle(tmp_path / "bundle")
    changed = packed.manifest.model_copy(update={"denied": {"ETT": 0.5}})
    out = load_bundle(with_manifest(packed, changed, tmp_path / "bundle"))
    assert out.manifest == changed and out.identity != packed.identity
    assert json.loads((tmp_path / "bundle/bundle.json").read_text())["denied"] == {"ETT": 0.5}
