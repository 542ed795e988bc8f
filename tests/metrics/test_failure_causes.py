"""Each missed and each false line has one cause, found by construction: what is where on a film of our own making."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cxrlines.core.findings import Line
from cxrlines.metrics.device_presence import EvaluatedReading
from cxrlines.metrics.failure_causes import (
    ALL_VIEWS,
    IN_MAP,
    FalseLine,
    MissedLine,
    Withheld,
    failure_table,
    film_causes,
)
from cxrlines.metrics.line_figures import EvaluatedFilm, line_figures
from cxrlines.metrics.line_matching import share_along
from cxrlines.task import Device

SHAPE = (1000, 800)


def course(device, x=400.0, top=0.0, bottom=600.0):
    path = np.array([[x, top], [x, bottom]])
    return Line(device, path, path[-1])


def reading(true, found, **more):
    return EvaluatedReading(EvaluatedFilm("a", SHAPE, true, found), {}, {}, {}, **more)


def missed(true, found, withheld=(), value=0.0, **more):
    """The cause of the first true line."""
    return film_causes(reading([true], found), withheld, lambda line: value, **more).true[0][1]


def test_a_found_line_has_no_cause_and_a_missed_one_has_the_first_that_holds():
    ngt = course(Device.NGT)
    assert missed(ngt, [course(Device.NGT, 405)]) is None
    assert missed(ngt, [], value=IN_MAP - 0.01) is MissedLine.NOT_IN_MAP
    assert missed(ngt, [], value=IN_MAP) is MissedLine.NOT_TRACED
    assert missed(ngt, [course(Device.NGT, bottom=200)]) is MissedLine.TOO_SHORT
    assert missed(course(Device.NGT, bottom=200), [ngt]) is MissedLine.TOO_FAR
    assert missed(ngt, [course(Device.CVC, 405)]) is MissedLine.OTHER_DEVICE
    assert missed(ngt, [course(Device.NGT, 700)], value=1) is MissedLine.NOT_TRACED, (
        "a line elsewhere is no trace of it"
    )
    assert missed(ngt, [], refused=True) is MissedLine.REFUSED
    faint, denied = Withheld(ngt, MissedLine.CONFIDENCE), Withheld(replace(ngt, confidence=0.9), MissedLine.SUPPRESSED)
    assert missed(ngt, [], [faint]) is MissedLine.CONFIDENCE
    assert missed(ngt, [], [Withheld(replace(ngt, confidence=0.5), MissedLine.CONFIDENCE), denied]) is (
        MissedLine.SUPPRESSED
    ), "the surer of two traces counts"
    assert missed(ngt, [], [Withheld(course(Device.CVC), MissedLine.SUPPRESSED)]) is MissedLine.NOT_IN_MAP


def test_a_given_line_of_another_true_one_explains_no_missed_one():
    one, two = course(Device.CVC, 400), course(Device.CVC, 430)
    causes = film_causes(reading([one, two], [course(Device.CVC, 400)]), [], lambda line: 1.0)
    assert causes.true == ((Device.CVC, None), (Device.CVC, MissedLine.NOT_TRACED)) and causes.false == ()


@pytest.mark.parametrize(
    ("line", "cause", "thing"),
    [
        (course(Device.CVC, 100), FalseLine.NOTHING, ""),
        (course(Device.CVC, 405), FalseLine.OTHER_DEVICE, ""),
        (course(Device.NGT, 402), FalseLine.DUPLICATE, ""),
        (course(Device.NGT, 600, bottom=150), FalseLine.IN_PART, ""),
        (course(Device.SWAN, 700), FalseLine.DISTRACTOR, "drain"),
        (course(Device.SWAN, 200), FalseLine.OTHER_DEVICE, ""),
        # Three quarters of it on the drain, one quarter on the tube that bends into it: the drain it is.
        (
            Line(Device.SWAN, np.array([[700.0, 0], [700, 450], [400, 450], [400, 460]]), None),
            FalseLine.DISTRACTOR,
            "drain",
        ),
    ],
)
def test_a_false_line_is_what_most_of_it_lies_on(line, cause, thing):
    true = [course(Device.NGT), course(Device.NGT, 600)]
    marked = {"doubtful": [course(Device.CVC, 200)], "others": [("drain", course(None, 700).path)]}
    causes = film_causes(reading(true, [course(Device.NGT), line], **marked), [], lambda line: 0.0)
    assert causes.false == ((line.device, cause, thing),)


def test_counts_agree_with_the_figures_of_the_same_films_in_any_order():
    rng = np.random.default_rng(3)
    films = []
    for _ in range(12):
        true = [course(device, x) for device in (Device.ETT, Device.CVC) for x in rng.uniform(0, 800, 2)]
        given = [course(line.device, line.path[0, 0] + rng.normal(0, 20)) for line in true if rng.random() < 0.7]
        films.append(reading(true, given))
    causes = [("AP" if k % 3 else "PA", film_causes(film, [], lambda line: 0.5)) for k, film in enumerate(films)]
    table = failure_table(causes)
    figures = line_figures([film.read for film in films], resamples=5)
    for device, own in figures.devices.items():
        one = table.devices[ALL_VIEWS][device]
        assert (one.true, one.found) == (own.true, own.matched)
        assert sum(one.missed.values()) == own.true - own.matched
        assert sum(one.false.values()) == round((own.false_positives.value or 0) * len(films))
        views = [table.devices[view][device] for view in ("AP", "PA")]
        assert sum(view.true for view in views) == one.true and sum(view.found for view in views) == one.found
    assert table.films == {ALL_VIEWS: 12, "AP": 8, "PA": 4}
    assert failure_table(causes[::-1]).as_dict() == table.as_dict()


def test_text_and_json_show_views_things_and_no_row_without_lines():
    film = reading([course(Device.ETT)], [course(Device.CVC, 700)], others=[("lead", course(None, 700).path)])
    table = failure_table(
        [("PA", film_causes(film, [], lambda line: 0.0)), (None, film_causes(film, [], lambda _: 1.0))]
    )
    values = json.loads(json.dumps(table.as_dict()))
    assert values["views"]["all"]["devices"]["ETT"]["missed"] == {
        **{cause.value: 0 for cause in MissedLine},
        "not traced": 1,
        "not in map": 1,
    }
    assert values["views"]["PA"]["devices"]["CVC"]["things"] == {"lead": 1}
    text = table.text()
    assert "1 (lead 1)" in text and "2 (lead 2)" in text and "NGT" not in text and "SWAN" not in text


def test_the_share_along_is_of_the_path_on_the_film():
    whole, part = course(None).path, course(None, bottom=300).path
    assert share_along(part, whole, SHAPE) == 1 and share_along(whole, part, SHAPE) == pytest.approx(0.53, abs=0.01)
    off = np.array([[-50.0, 10], [-20, 10]])
    assert share_along(off, whole, SHAPE) == share_along(whole, off, SHAPE) == 0
