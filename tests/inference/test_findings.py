"""Findings in px of the original film, distances, the rule that applies, and what the classifier says to it."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrlines.data.position import ett_state
from cxrlines.data.prepare import shrink
from cxrlines.inference.findings import (
    DENIED,
    HEARD,
    Findings,
    distances_of,
    evidence_of,
    findings_of,
    fit_denied,
    presence_of,
)
from cxrlines.inference.locate import Line
from cxrlines.inference.spots import Spot
from cxrlines.task import (
    DEVICE_OF,
    LABEL_INDEX,
    LABELS,
    LABELS_OF,
    MAPS,
    STATE_OF,
    Device,
    Landmark,
    MapKind,
    State,
)

SHAPE = (1000, 800)
CARINA = {Landmark.CARINA: Spot(np.array([400.0, 400.0]), 0.9)}


def line(device, tip, entry=(400.0, 0.0)):
    path = np.array([entry, tip if tip is not None else (400.0, 999.0)], float)
    return Line(device, path, None if tip is None else path[-1], 0.8)


def distances(device, tip, **more):
    return {d.what: d for d in distances_of([line(device, tip)], CARINA, SHAPE, **more)}


def probabilities(**named):
    return dict.fromkeys(LABELS, 0.01) | {name.replace("_", " - "): p for name, p in named.items()}


@pytest.mark.parametrize("aspect", ["stretch", "pad"])
def test_points_are_in_px_of_the_original_film(oracle, aspect):
    for seed in range(8):
        scene = oracle.scene_of(seed, size=1024)
        maps, placement = oracle.maps_of(scene, aspect)
        before = maps.copy()
        found = findings_of(maps, placement, scene.view.shape, mm_per_px=(scene.view.mm_per_px,) * 2)
        assert (maps == before).all()
        height, width = scene.view.shape
        for one in found.lines:
            assert (one.path >= -0.51).all() and (one.path <= (width - 0.49, height - 0.49)).all()
        carina = found.landmarks[Landmark.CARINA].xy
        assert np.hypot(*(carina - scene.landmarks.carina)) < 0.001 * height
        for true in oracle.true_lines(scene):
            if true.device is Device.ETT:
                (one,) = (one for one in found.lines if one.device is Device.ETT)
                assert np.hypot(*(one.tip - true.tip)) < 0.005 * height
                above = next(d for d in found.distances if d.what == "ETT tip above the carina")
                wanted = (scene.landmarks.carina - true.tip)[1]
                assert above.px == pytest.approx(wanted, abs=0.005 * height)
                assert above.cm == pytest.approx(above.px * scene.view.mm_per_px / 10)
                assert above.percent_of_height == pytest.approx(100 * above.px / height)


def test_distances_along_and_across_have_their_signs():
    tube = distances(Device.ETT, (410.0, 340.0), mm_per_px=(0.5, 0.25))
    assert list(tube) == [
        "ETT tip above the carina",
        "ETT tip to the patient's right of the carina",
        "ETT tip to the carina, straight",
    ]
    above, across, straight = tube.values()
    assert (above.px, above.percent_of_height, above.cm) == pytest.approx((60, 6, 3))
    assert (across.px, across.cm) == pytest.approx((-10, -0.25))  # the patient's right is the film's left
    assert straight.px == pytest.approx(np.hypot(10, 60))
    assert straight.cm == pytest.approx(np.hypot(0.25, 3))
    below = distances(Device.CVC, (350.0, 500.0))
    assert [(d.what, d.px, d.cm) for d in below.values()] == [
        ("CVC tip below the carina", 100.0, None),
        ("CVC tip to the patient's right of the carina", 50.0, None),
    ]
    assert distances(Device.NGT, (400.0, 300.0))["NGT tip below the carina"].px == -100


@pytest.mark.parametrize(
    ("height", "state"), [(30, "Borderline"), (60, "Normal"), (-10, "Abnormal"), (150, "Borderline")]
)
def test_the_rule_of_the_tracheal_tube_where_the_spacing_is_known(height, state):
    above = distances(Device.ETT, (400.0, 400.0 - height), mm_per_px=(0.5, 0.5))["ETT tip above the carina"]
    assert above.state is ett_state(height * 0.05) is State(state)
    assert above.rule == "tip 2 to 6 cm above the carina is normal, 0.5 to 10 cm borderline, else abnormal"


def test_without_spacing_the_height_is_estimated_and_said_to_be():
    # The film is 1000 px high: 35 to 43 cm.
    clear = distances(Device.ETT, (400.0, 300.0))["ETT tip above the carina"]
    assert clear.cm is None and clear.state is State.NORMAL
    assert "estimated, as the film has no spacing: 3.5 to 4.3 cm if its longer side is 35 to 43 cm" in clear.rule
    unclear = distances(Device.ETT, (400.0, 349.0))["ETT tip above the carina"]  # 1.8 to 2.2 cm
    assert unclear.state is None and unclear.classifier is None and unclear.agrees is None
    assert unclear.rule.endswith("which does not decide")


def test_the_classifier_agrees_if_the_state_is_its_most_probable():
    agrees = distances(Device.ETT, (400.0, 340.0), mm_per_px=(0.5, 0.5), labels=probabilities(ETT_Normal=0.7))
    assert (agrees["ETT tip above the carina"].classifier, agrees["ETT tip above the carina"].agrees) == (0.7, True)
    labels = probabilities(ETT_Normal=0.3, ETT_Abnormal=0.6)
    differs = distances(Device.ETT, (400.0, 340.0), mm_per_px=(0.5, 0.5), labels=labels)
    assert (differs["ETT tip above the carina"].classifier, differs["ETT tip above the carina"].agrees) == (0.3, False)


def test_a_gastric_tube_that_leaves_the_film_is_incompletely_imaged_with_or_without_a_carina():
    for landmarks in (CARINA, {}):
        labels = {name: 0.9 if STATE_OF[name] is State.INCOMPLETE else 0.1 for name in LABELS}
        (only,) = distances_of([line(Device.NGT, None)], landmarks, SHAPE, labels)
        assert (only.what, only.px, only.state) == ("NGT tip off the film", None, State.INCOMPLETE)
        assert (only.classifier, only.agrees) == (0.9, True)
    assert distances_of([line(Device.CVC, None)], CARINA, SHAPE) == []
    assert distances_of([line(Device.CVC, (400.0, 500.0))], {}, SHAPE) == []


def test_no_line_is_told_of_a_device_that_the_classifier_denies(oracle):
    scene = next(
        scene
        for scene in map(oracle.scene_of, range(50))
        if len({line.device for line in oracle.true_lines(scene)}) > 1
    )
    maps, placement = oracle.maps_of(scene)
    alone = findings_of(maps, placement, scene.view.shape)
    denied = alone.lines[0].device

    def told(p, limits=None):
        labels = {label: p if DEVICE_OF[label] is denied else 0.9 for label in LABELS}
        found = findings_of(maps, placement, scene.view.shape, labels, denied=limits)
        return [line.device for line in found.lines]

    every = [line.device for line in alone.lines]
    assert told(0.9) == told(DENIED) == every
    assert told(0.01) == [device for device in every if device is not denied] != []
    assert told(0.01, {denied.name: 0.001}) == every, "a bundle whose probabilities are low has a limit of its own"


def test_a_classifier_of_low_probabilities_denies_a_twentieth_of_those_that_have_a_device_at_most():
    rng = np.random.default_rng(0)
    truth = (rng.random((400, len(LABELS))) < 0.3).astype(int)
    truth[:, LABEL_INDEX["Swan Ganz Catheter Present"]] = 0
    labels = rng.random((400, len(LABELS))) * np.where(truth, 1.0, 0.3)
    limits = fit_denied(labels, truth)
    assert list(limits) == [device.name for device in Device] and limits["SWAN"] == DENIED
    shy = fit_denied(labels / 20, truth)
    there = [presence_of(dict(zip(LABELS, row, strict=True))) for row in labels / 20]
    for device in (Device.ETT, Device.NGT, Device.CVC):
        assert 0 < shy[device.name] < limits[device.name] <= DENIED
        has_it = truth[:, [LABEL_INDEX[label] for label in LABELS_OF[device]]].any(axis=1)
        p = np.array([each[device.name] for each in there])[has_it]
        assert HEARD <= np.mean(p >= shy[device.name]) <= HEARD + 0.01
    order = rng.permutation(400)
    assert fit_denied(labels[order] / 20, truth[order]) == shy


def test_the_json_says_it_all_in_plain_values(oracle):
    scene = oracle.scene_of(0)
    maps, placement = oracle.maps_of(scene)
    labels = dict(zip(LABELS, np.linspace(0, 1, len(LABELS), dtype=np.float32), strict=True))
    found = findings_of(maps, placement, scene.view.shape, labels, (0.4, 0.4))
    told = json.loads(json.dumps(found.as_dict()))
    assert list(told) == [
        "labels",
        "calibrated",
        "presence",
        "lines",
        "landmarks",
        "distances",
        "quality",
        "mm_per_px",
    ]
    assert told["lines"] and told["distances"]
    for one, plain in zip(found.lines, told["lines"], strict=True):
        assert list(plain) == ["device", "path", "tip", "confidence"]
        assert Device[plain["device"]] is one.device
        assert np.abs(np.array(plain["path"]) - one.path).max() <= 0.0501
        assert (plain["tip"] is None) == (one.tip is None)
    assert set(told["landmarks"]["carina"]) == {"xy", "confidence"}
    for plain in told["distances"]:
        assert 0 <= plain["line"] < len(told["lines"])
        assert plain["what"].startswith(told["lines"][plain["line"]]["device"])
    assert told["mm_per_px"] == [0.4, 0.4]


def test_empty_maps_have_no_findings(oracle):
    scene = oracle.scene_of(0)
    maps, placement = oracle.maps_of(scene)
    found = findings_of(np.zeros_like(maps), placement, scene.view.shape)
    assert isinstance(found, Findings)
    told = found.as_dict()
    assert told["labels"] is told["presence"] is told["mm_per_px"] is None
    assert told["lines"] == told["distances"] == [] and told["landmarks"] == {} and told["quality"]["usable"]


# -- maps of any content

SIDE = 96


def drawn(kind: str, seed: int) -> np.ndarray:
    """One map (SIDE, SIDE) of a kind that no film gives, or hardly one."""
    rng = np.random.default_rng(seed)
    heat, value, width = (
        np.zeros((SIDE, SIDE), np.float32),
        float(rng.choice([0.1, 0.25, 0.5, 1.0])),
        int(rng.integers(1, 5)),
    )

    def points(count: int) -> np.ndarray:
        return rng.integers(0, SIDE, (count, 2)).astype(np.int32)

    match kind:
        case "full":
            heat[:] = value
        case "pixels":
            heat[tuple(points(int(rng.integers(1, 20))).T)] = value
        case "ring":
            cv2.circle(heat, points(1)[0].tolist(), int(rng.integers(1, SIDE // 2)), value, width)
        case "border":
            heat[[0, -1]] = heat[:, [0, -1]] = value
            heat[:, -1] *= rng.integers(2)
        case "polygons":
            cv2.polylines(heat, [points(int(rng.integers(2, 9))), points(2)], bool(rng.integers(2)), value, width)
        case "specks":
            heat[rng.random(heat.shape) > rng.choice([0.5, 0.98, 0.998])] = value
        case "clouds":
            heat = cv2.GaussianBlur(rng.random(heat.shape).astype(np.float32), (0, 0), float(rng.choice([1, 3])))
            heat = (heat - heat.min()) / np.ptp(heat)
    return cv2.GaussianBlur(heat, (0, 0), 1.0) if rng.integers(3) == 0 else heat


KINDS = st.sampled_from(["empty", "full", "pixels", "ring", "border", "polygons", "specks", "clouds"])
SHAPES = st.tuples(*[st.sampled_from([1, 2, 33, 100, 700, 3000])] * 2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(KINDS, st.integers(0, 2**31)), min_size=9, max_size=9),
    SHAPES,
    st.sampled_from(["pad", "stretch"]),
)
def test_maps_of_any_content_give_findings_on_the_film(kinds, shape, aspect):
    maps = np.stack([drawn(*kind) for kind in kinds])
    before = maps.copy()
    placement = shrink(np.zeros(shape, np.uint8), 2 * SIDE, aspect)[1]
    found = findings_of(maps, placement, shape)
    assert (maps == before).all()
    text = json.dumps(found.as_dict(), allow_nan=False)
    assert text == json.dumps(findings_of(maps, placement, shape).as_dict()), "the same again"
    places = [one.path for one in found.lines] + [spot.xy[None] for spot in found.landmarks.values()]
    for points in places:
        assert (points >= -0.5 - 1e-6).all() and (points <= np.array(shape[::-1]) - 0.5 + 1e-6).all(), text
    for one in found.lines:
        assert len(one.path) >= 2 and 0.25 <= one.confidence <= 1
        assert one.tip is None or (one.tip == one.path[-1]).all()
    assert sum(one.device is Device.ETT for one in found.lines) <= 1
    assert all(0 <= evidence <= 1 for evidence in found.evidence.values())


@pytest.mark.parametrize("channel", range(len(MAPS)))
def test_maps_that_are_no_numbers_are_refused_whichever_they_are(channel):
    maps = np.zeros((len(MAPS), SIDE, SIDE), np.float32)
    maps[channel, 3, 3] = np.inf if channel % 2 else np.nan
    with pytest.raises(ValueError, match=r"maps: holds values that are not numbers; the network .* has diverged"):
        findings_of(maps, shrink(np.zeros(SHAPE, np.uint8), 2 * SIDE, "pad")[1], SHAPE)


def test_evidence_is_the_mean_of_the_highest_values():
    maps = np.random.default_rng(0).random((9, 40, 48)).astype(np.float32)
    found = evidence_of(maps)
    for device in Device:
        values = np.sort(maps[MAPS.index((MapKind.LINE, device))], axis=None)[::-1]
        assert found[device.name] == pytest.approx(values[:10].mean(), abs=1e-6)  # a quarter of 40
    moved = np.random.default_rng(1).permuted(maps.reshape(9, -1), axis=1).reshape(maps.shape)
    assert evidence_of(moved) == found  # to the last bit, wherever the values lie
