"""All figures of films together: which films each is of, as text and as JSON."""

import json

import numpy as np
import pytest

from cxrlines.core.findings import Line
from cxrlines.metrics.bundle_figures import found_figures
from cxrlines.metrics.device_presence import EvaluatedReading
from cxrlines.metrics.line_figures import EvaluatedFilm, line_figures
from cxrlines.task import LABELS, Device

SHAPE = (1000, 800)


def tube(x):
    path = np.array([[x, 0.0], [x, 600.0]])
    return Line(Device.ETT, path, path[-1], 1.0)


def film(patient, there, score, off=0.0, **more):
    """A film with a tube or not, found in its place; its carina found `off` % of the height from where it is."""
    lines = [tube(400)] if there else []
    read = EvaluatedFilm(patient, SHAPE, lines, lines, np.array([400.0, 300.0]), np.array([400.0, 300.0 + 10 * off]))
    presence = {device.name: score for device in Device}
    return EvaluatedReading(
        read,
        {device: there and device is Device.ETT for device in Device},
        presence,
        dict.fromkeys(LABELS, score),
        **more,
    )


def test_guessed_carinas_and_tracheostomies_are_told_apart():
    films = [
        film("a", True, 0.9, off=1.0),
        film("b", False, 0.1, off=1.0),
        film("c", False, 0.95, off=5.0, tracheostomy=True, carina_sure=False),
    ]
    told = found_figures(films, resamples=20)
    assert (told.films, told.patients) == (3, 3)
    assert told.presence[Device.ETT].presence.value == 0.5
    assert told.tube_without_tracheostomy.presence.value == 1.0
    assert told.tube_without_tracheostomy.films == 2
    assert (told.carina.films, told.carina_sure.films) == (3, 2)
    assert told.carina_sure.median.value == pytest.approx(1) and told.carina.p95.value == pytest.approx(5)
    assert found_figures(films[:2], resamples=5).tube_without_tracheostomy is None


def test_lines_are_judged_where_they_are_known_and_the_carina_everywhere():
    films = [film("a", True, 0.9), film("b", True, 0.8, off=2.0, lines_known=False)]
    told = found_figures(films, resamples=20)
    assert told.lines.films == 1 and told.lines.devices[Device.ETT].true == 1
    assert told.lines.devices == line_figures([films[0].read], resamples=20).devices
    assert told.carina.films == 2
    assert found_figures(films[1:], resamples=5).lines is None


def test_text_and_json_say_the_same():
    told = found_figures([film("a", True, 0.9), film("b", False, 0.1, tracheostomy=True)], resamples=20)
    values = json.loads(json.dumps(told.as_dict()))
    assert set(values["presence"]) == set(values["lines"]["devices"]) == {"ETT", "NGT", "CVC", "SWAN"}
    assert values["presence"]["ETT"]["presence"] == {"value": 1.0, "ci95": [1.0, 1.0]}
    assert values["lines"]["devices"]["ETT"]["dice"]["value"] == pytest.approx(1)
    counts = {"right": 1, "wrong": 0, "unseen": 0, "not_given": 0, "of_false_lines": 0}
    assert values["lines"]["devices"]["ETT"]["tip_counts"] == counts
    text = told.text()
    assert "ETT, no tracheostomy" in text and "1.000 (1.000-1.000)" in text and "carina, all known (2 films)" in text


def test_nothing_has_no_figures():
    with pytest.raises(ValueError, match="films: none were given"):
        found_figures([])
