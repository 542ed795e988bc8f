"""Found lines against true ones: perfect, moved, false negatives and positives; the same in any order of films."""

from dataclasses import replace

import numpy as np
import pytest

from cxrlines.core.findings import Line
from cxrlines.metrics.line_figures import EvaluatedFilm, StateCall, TipCounts, line_figures
from cxrlines.metrics.line_matching import match
from cxrlines.phantom.scene import make_scene
from cxrlines.task import Device, State

SHAPE = (1000, 800)


def course(device, x=400.0, bottom=600.0, tip=True):
    path = np.array([[x, -50.0], [x, bottom]])
    return Line(device, path, path[-1] if tip else None)


def moved(line, by):
    return Line(line.device, line.path + by, None if line.tip is None else line.tip + by)


def film(true, found, patient="a", **more):
    return EvaluatedFilm(patient, SHAPE, true, found, **more)


def figures(*films):
    return line_figures(films, resamples=50)


def test_what_is_found_perfectly_has_perfect_figures():
    for seed in range(10):
        scene = make_scene([seed], [seed, 0], size=700, balance="even", site="a")
        lines = [Line(line.placed.device, line.path, line.path[-1]) for line in scene.lines]
        carina = scene.landmarks.carina
        read = EvaluatedFilm("p", scene.view.shape, lines, list(lines), carina, carina)
        told = line_figures([read], resamples=10)
        assert told.false_positives.value == told.carina_median.value == told.carina_95.value == 0
        for device in {line.device for line in lines}:
            one = told.devices[device]
            assert one.true == one.matched
            assert (one.dice.value, one.recall.value, one.tip_median.value) == pytest.approx((1, 1, 0))


def test_errors_are_in_percent_of_the_height():
    one = course(Device.ETT)
    told = figures(
        film([one], [moved(one, (0, 10))], true_carina=np.array([1.0, 1.0]), found_carina=np.array([31.0, 41.0])),
        film([one], [moved(one, (0, 30))], "b", true_carina=np.array([1.0, 1.0])),
        film([one], [moved(one, (0, 30))], "b"),
    )
    tube = told.devices[Device.ETT]
    assert (tube.tip_median.value, tube.tip_95.value, tube.tips) == (3, 3, 3)
    assert (told.carina_median.value, told.carina_found.value) == (5, 0.5)


def test_the_height_is_that_of_the_upright_film():
    """A film of 1000 x 800 px that lies on its side in its file."""
    lying = Line(Device.ETT, np.array([[-50.0, 400.0], [600.0, 400.0]]), np.array([600.0, 400.0]))
    spots = {"true_carina": np.array([1.0, 1.0]), "found_carina": np.array([31.0, 41.0])}
    read = EvaluatedFilm("a", (800, 1000), [lying], [moved(lying, (10, 0))], **spots, height=1000)
    assert read.upright_height == 1000 and replace(read, height=None).upright_height == 800
    found = figures(read)
    assert (found.devices[Device.ETT].tip_median.value, found.carina_median.value) == (1, 5)
    beside = moved(lying, (0, 19))  # 1.9 % of 1000, 2.4 % of 800
    assert match([lying], [beside], (800, 1000), 1000) == [(0, 0)]
    assert match([lying], [beside], (800, 1000)) == []


def test_false_negatives_and_false_positives_are_counted_by_device_and_by_film():
    tube, line = course(Device.ETT, 300), course(Device.CVC, 500)
    told = figures(film([tube, line], [tube]), film([], [line, course(Device.CVC, 100)]))
    assert (told.devices[Device.ETT].recall.value, told.devices[Device.ETT].false_positives.value) == (1, 0)
    catheter = told.devices[Device.CVC]
    assert (catheter.true, catheter.matched, catheter.recall.value, catheter.false_positives.value) == (1, 0, 0, 1)
    assert catheter.dice.value == 0 and catheter.tip_median.value is None
    assert told.false_positives.value == 1
    assert told.devices[Device.NGT].dice.value is None


def test_dice_is_the_overlap_of_the_drawn_lines():
    one = course(Device.NGT, bottom=400, tip=False)
    half = course(Device.NGT, bottom=187.5, tip=False)  # on the film: 400 against 187.5 px
    told = figures(film([one], [half]))
    assert told.devices[Device.NGT].dice.value == pytest.approx(2 * 187.5 / (400 + 187.5), abs=0.01)
    assert told.devices[Device.NGT].tips == 0
    apart = figures(film([one], [moved(one, (15, 0))]))
    assert apart.devices[Device.NGT].dice.value < 0.05


def test_what_lies_off_the_film_does_not_count():
    one = course(Device.NGT, bottom=1400, tip=False)
    clipped = Line(Device.NGT, np.array([[400.0, 0.0], [400.0, 999.0]]), None)
    told = figures(film([one, course(Device.NGT, x=2000)], [clipped])).devices[Device.NGT]
    assert (told.true, told.matched) == (1, 1)
    assert told.dice.value == pytest.approx(1, abs=0.005)


def test_states_by_rule_against_states_by_classifier():
    calls = [
        StateCall(Device.ETT, State.NORMAL, State.NORMAL, State.NORMAL),
        StateCall(Device.ETT, State.NORMAL, None, State.NORMAL),
        StateCall(Device.ETT, State.ABNORMAL, State.ABNORMAL, State.NORMAL),
        StateCall(Device.ETT, State.BORDERLINE, State.ABNORMAL, State.BORDERLINE),
    ]
    told = figures(*(film([], [], f"p{k}", states=[call]) for k, call in enumerate(calls)))
    tube = told.states[Device.ETT]
    assert (tube.films, tube.rule.value, tube.classifier.value, tube.undecided) == (4, 0.5, 0.75, 0.25)
    assert set(told.states) == {Device.ETT}


def varied(count=24):
    rng = np.random.default_rng(0)
    films = []
    for k in range(count):
        true = [course(Device.CVC, rng.uniform(100, 700)) for _ in range(rng.integers(1, 3))]
        found = [moved(line, rng.normal(0, 8, 2)) for line in true if rng.random() > 0.2]
        films.append(film(true, found, f"p{k // 3}"))
    return films


def test_the_order_of_films_and_of_lines_changes_nothing():
    films = varied()
    turned = [replace(f, true=f.true[::-1], found=f.found[::-1]) for f in films[::-1]]
    one, other = line_figures(films, resamples=100), line_figures(turned, resamples=100)
    for name in ("dice", "recall", "false_positives", "tip_median", "tip_95"):
        a, b = (getattr(f.devices[Device.CVC], name) for f in (one, other))
        assert a.value == pytest.approx(b.value) and a.ci95 == pytest.approx(b.ci95)


def test_intervals_hold_the_figure_and_shrink_with_more_patients():
    few = line_figures(varied(), resamples=200).devices[Device.CVC]
    more = line_figures([replace(f, patient=f"{f.patient}-{k}") for k in range(8) for f in varied()], resamples=200)
    for name in ("dice", "recall", "tip_median"):
        narrow, wide = getattr(more.devices[Device.CVC], name).ci95, getattr(few, name).ci95
        assert wide[0] <= getattr(few, name).value <= wide[1]
        assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_what_comes_of_one_patient_has_no_interval():
    """Neither where all films are of one, nor where one alone has the device, a tip or the carina."""
    tube, spot = course(Device.ETT), np.array([1.0, 1.0])
    call = StateCall(Device.ETT, State.NORMAL, State.NORMAL, State.ABNORMAL)
    mine = film([tube], [moved(tube, (0, 10))], states=[call], true_carina=spot, found_carina=spot)
    alone, beside = figures(mine, mine), figures(mine, mine, film([], [], "b"), film([], [course(Device.NGT)], "c"))
    for read in (alone, beside):
        one = read.devices[Device.ETT]
        for figure in (one.dice, one.recall, one.tip_median, one.tip_95, read.carina_median, read.carina_found,
                       read.states[Device.ETT].rule):  # fmt: skip
            assert figure.value is not None and figure.ci95 is None
    assert alone.false_positives.ci95 is None and beside.false_positives.ci95 is not None


def test_the_table_says_the_figures():
    one = course(Device.ETT)
    call = StateCall(Device.ETT, State.NORMAL, State.NORMAL, State.ABNORMAL)
    spot = np.array([1.0, 1.0])
    text = figures(
        film([one], [one], states=[call], true_carina=spot, found_carina=spot),
        film([one], [one], "b", states=[call], true_carina=spot, found_carina=spot),
    ).text()
    lines = text.splitlines()
    assert lines[0].split("  ")[0] == "device"
    ett = next(row for row in lines if row.startswith("ETT"))
    assert ett.split()[1:3] == ["2", "2"] and "1.00 (1.00-1.00)" in ett
    assert next(row for row in lines if row.startswith("SWAN")).split()[3:] == [
        "-",
        "0.00",
        "(0.00-0.00)",
        "-",
        "-",
        "-",
        "-",
    ]
    assert "ETT state right on 2 films: by rule 1.00 (1.00-1.00) (undecided 0.00), by classifier 0.00" in text


def test_tips_that_are_given_and_right_given_and_wrong_and_not_given_are_counted():
    one, unseen = course(Device.CVC), course(Device.CVC, tip=False)
    films = [
        film([one], [moved(one, (0, 40))], "a"),  # 4 % of the height
        film([one], [moved(one, (0, 60))], "b"),
        film([one], [unseen], "c"),
        film([unseen], [one], "d"),
        film([], [one], "e"),
        film([unseen], [unseen], "f"),
    ]
    told = figures(*films).devices[Device.CVC]
    assert told.tip_counts == TipCounts(right=1, wrong=1, unseen=1, not_given=1, of_false_lines=1)
    assert told.tips_right.value == pytest.approx(1 / 3) and told.tips == 2
    again = figures(*films[::-1]).devices[Device.CVC]
    assert again.tip_counts == told.tip_counts and again.tips_right.value == told.tips_right.value
    row = next(row for row in figures(*films).text().split("tips given")[1].splitlines() if row.startswith("CVC"))
    assert row.split()[1:7] == ["1", "1", "1", "1", "1", "0.33"]


def test_a_tube_that_is_followed_beyond_its_marked_end_is_found_as_far_as_marked():
    path = np.array([[400.0, 0.0], [400.0, 300.0]])
    faded, tipped = Line(Device.NGT, path, None, followed_to=path[-1]), Line(Device.NGT, path, path[-1])
    longer = Line(Device.NGT, np.array([[405.0, 0.0], [405.0, 900.0]]), None)
    found = figures(film([faded], [longer]), film([tipped], [longer]), film([tipped], [tipped])).devices[Device.NGT]
    assert found.recall.value == pytest.approx(1 / 3) and found.false_positives.value == pytest.approx(2 / 3)
    assert found.recall_as_far_as_marked.value == pytest.approx(2 / 3)


def test_no_films_have_no_figures():
    with pytest.raises(ValueError, match="films: none were given; line figures need at least one film that was read"):
        line_figures([])


def test_films_on_which_a_device_is_unknown_do_not_count_for_it():
    one, other = course(Device.ETT), course(Device.CVC, 100)
    told = figures(
        film([], [one, other]),
        film([], [one], "b", unknown=frozenset({Device.CVC})),
        film([], [], "c", unknown=frozenset({Device.CVC, Device.SWAN})),
    )
    assert told.devices[Device.ETT].false_positives.value == pytest.approx(2 / 3)
    assert told.devices[Device.CVC].false_positives.value == 1
    assert told.devices[Device.SWAN].false_positives.value == 0
    assert told.false_positives.value == pytest.approx(2 / 3 + 1)
    nothing = figures(film([], [], unknown=frozenset(Device)))
    assert nothing.false_positives.value is None and nothing.devices[Device.ETT].false_positives.value is None


def test_the_false_positives_of_all_devices_are_their_sum():
    rng = np.random.default_rng(5)
    films = [
        film([], [course(device, x) for device in Device for x in rng.uniform(0, 800, rng.integers(0, 3))], str(k % 4))
        for k in range(9)
    ]
    told = figures(*films)
    each = [own.false_positives.value for own in told.devices.values()]
    assert told.false_positives.value == pytest.approx(sum(each)) == sum(len(one.found) for one in films) / 9
    assert told.false_positives.ci95[0] <= told.false_positives.value <= told.false_positives.ci95[1]
