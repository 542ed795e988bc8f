"""Presence of devices: AUC against scikit-learn, what is unknown left out, false positives where there is none."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxrlines.core.findings import Line
from cxrlines.metrics.device_presence import EvaluatedReading, presence_figures, without_doubtful
from cxrlines.metrics.line_figures import EvaluatedFilm
from cxrlines.task import LABELS, LABELS_OF, Device

SHAPE = (1000, 800)


def course(device, x):
    path = np.array([[x, 0.0], [x, 600.0]])
    return Line(device, path, path[-1])


def film(there, presence=0.5, labels=0.5, patient="a", found=(), **more):
    """All devices there or not; `presence` of each; `labels` of each label, or the same for all."""
    every = {label: labels for label in LABELS} if isinstance(labels, float) else labels
    read = EvaluatedFilm(patient, SHAPE, (), found)
    return EvaluatedReading(
        read, dict.fromkeys(Device, there), {device.name: presence for device in Device}, every, **more
    )


def every_device(films, **how):
    return {device: presence_figures(films, device, **how) for device in Device}


def varied(count=60):
    rng = np.random.default_rng(1)
    films = []
    for k in range(count):
        there = bool(rng.random() < 0.4)
        labels = {label: float(np.round(rng.random() * 0.7 + 0.3 * there, 1)) for label in LABELS}  # with ties
        films.append(film(there, float(np.round(rng.random() + 0.5 * there, 1)), labels, f"p{k // 3}"))
    return films


def test_both_aucs_are_those_of_scikit_learn():
    films = varied()
    truth = [f.present[Device.NGT] for f in films]
    for device, told in every_device(films, resamples=20).items():
        largest = [max(f.labels[label] for label in LABELS_OF[device]) for f in films]
        assert told.presence.value == pytest.approx(roc_auc_score(truth, [f.presence[device.name] for f in films]))
        assert told.label.value == pytest.approx(roc_auc_score(truth, largest))
        assert (told.films, told.positives) == (len(films), sum(truth))
        assert told.presence.ci95[0] < told.presence.value < told.presence.ci95[1]


def test_more_films_of_the_same_patients_do_not_make_it_surer():
    films = varied()
    once = every_device(films, resamples=200)[Device.ETT].presence.ci95
    twice = every_device([*films, *films], resamples=200)[Device.ETT].presence.ci95
    assert twice == pytest.approx(once)


def test_a_film_that_does_not_tell_counts_for_the_other_devices_alone():
    films = varied()
    odd = film(True, 0.0)
    odd = replace(odd, present={device: True for device in Device if device is not Device.CVC})
    before, after = (every_device(each, resamples=20) for each in (films, [*films, odd]))
    assert before[Device.CVC] == after[Device.CVC]
    assert after[Device.ETT].positives == before[Device.ETT].positives + 1
    assert after[Device.ETT].presence.value < before[Device.ETT].presence.value


def test_without_both_kinds_there_is_no_auc():
    told = every_device([film(False), film(False)], resamples=5)[Device.SWAN]
    assert told.presence.value is told.presence.ci95 is None and told.positives == 0


def test_false_positives_are_counted_on_films_without_the_device_whose_lines_are_known():
    tubes = [course(Device.ETT, 100), course(Device.ETT, 500)]
    films = [
        film(False, found=tubes),
        film(False, patient="b"),
        film(True, found=tubes, patient="c"),
        film(False, found=tubes, patient="d", lines_known=False),
    ]
    told = every_device(films, resamples=20)
    assert (told[Device.ETT].false_positives.value, told[Device.ETT].without) == (1.0, 2)
    assert told[Device.NGT].false_positives.value == 0
    assert every_device([film(True)], resamples=5)[Device.ETT].false_positives.value is None


def test_what_runs_along_a_doubtful_line_is_left_out_unless_it_is_a_true_one():
    true, doubtful = [course(Device.CVC, 100)], [course(Device.CVC, 110), course(Device.CVC, 400)]
    on_true, on_doubtful, nowhere = (course(Device.CVC, x) for x in (105, 402, 700))
    other = course(Device.ETT, 400)
    found = [nowhere, on_doubtful, on_true, other]
    assert without_doubtful(true, doubtful, found, SHAPE, SHAPE[0]) == [nowhere, on_true, other]
    assert without_doubtful(true, [], found, SHAPE, SHAPE[0]) == found
    # Two found where one is true: the second runs along the doubtful one beside it.
    again = course(Device.CVC, 112)
    assert without_doubtful(true, doubtful, [on_true, again], SHAPE, SHAPE[0]) == [on_true]
