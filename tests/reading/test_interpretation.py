"""Findings in px of the original film from its heatmaps, and what the classifier says to them."""

import json
from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrlines.core.findings import Distance, Findings, presence_of
from cxrlines.core.heatmaps import draw_maps
from cxrlines.core.notes import Code, Note
from cxrlines.core.quality import Quality
from cxrlines.core.spacing import Spacing, SpacingKind
from cxrlines.core.transform import Affine
from cxrlines.io.prepare import shrink
from cxrlines.reading.interpretation import (
    MIN_RECALL,
    SUPPRESS_BELOW,
    FilmMaps,
    evidence_of,
    findings_of,
    fit_suppression,
)
from cxrlines.reading.trace.lines import TIP_PEAK
from cxrlines.task import DEVICE_OF, LABEL_INDEX, LABELS, LABELS_OF, MAPS, Device, Landmark, MapKind

SHAPE = (1000, 800)


def probabilities(**named):
    return dict.fromkeys(LABELS, 0.01) | {name.replace("_", " - "): p for name, p in named.items()}


@pytest.mark.parametrize("aspect", ["stretch", "pad"])
def test_points_are_in_px_of_the_original_film(oracle, aspect):
    for seed in range(8):
        scene = oracle.scene_of(seed, size=1024)
        maps, placement = oracle.maps_of(scene, aspect)
        before = maps.copy()
        spacing = Spacing(SpacingKind.CALIBRATED, (scene.view.mm_per_px,) * 2)
        found = findings_of(FilmMaps.of(maps, placement, scene.view.shape), spacing=spacing)
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
                assert above.patient_cm == (above.cm, above.cm)
                assert above.percent_of_height == pytest.approx(100 * above.px / height)


def test_a_line_ends_at_the_same_place_of_the_original_film_whether_that_is_a_tip_or_not(oracle):
    ends = {}
    scene = oracle.scene_of(0)
    maps, placement = oracle.maps_of(scene)
    faint = maps.copy()
    for channel, (kind, _) in zip(faint, MAPS, strict=True):
        if kind is MapKind.TIP:
            channel *= 0.9 * TIP_PEAK
    for name, each in (("tip", maps), ("followed_to", faint)):
        lines = findings_of(FilmMaps.of(each, placement, scene.view.shape)).lines
        ends[name] = [getattr(line, name) for line in lines if not line.leaves_film]
        assert all((end == line.path[-1]).all() for end, line in zip(ends[name], lines, strict=False))
    assert len(ends["tip"]) == len(ends["followed_to"]) > 0
    for one, other in zip(ends["tip"], ends["followed_to"], strict=True):
        assert np.hypot(*(one - other)) < 0.01 * max(scene.view.shape)


def test_no_line_is_told_of_a_device_that_the_classifier_denies(oracle):
    scene = next(
        scene
        for scene in map(oracle.scene_of, range(50))
        if len({line.device for line in oracle.true_lines(scene)}) > 1
    )
    maps, placement = oracle.maps_of(scene)
    alone = findings_of(FilmMaps.of(maps, placement, scene.view.shape))
    denied = alone.lines[0].device

    def told(p, limits=None):
        labels = {label: p if DEVICE_OF[label] is denied else 0.9 for label in LABELS}
        found = findings_of(FilmMaps.of(maps, placement, scene.view.shape), labels, suppress_below=limits)
        return [line.device for line in found.lines]

    every = [line.device for line in alone.lines]
    assert told(0.9) == told(SUPPRESS_BELOW) == every
    assert told(0.01) == [device for device in every if device is not denied] != []
    assert told(0.01, {denied.name: 0.001}) == every, "a bundle whose probabilities are low has a limit of its own"


def test_a_device_that_the_classifier_denies_does_not_take_the_place_of_another():
    way = [[75.0, 10.0], [100.0, 75.0], [100.0, 140.0]]
    shape = (512, 512)
    drawn = [
        draw_maps([(LABELS_OF[device][0], 2 * np.array(path))], {}, 512)
        for device, path in ((Device.CVC, way), (Device.SWAN, [*way, [125.0, 165.0]]))
    ]
    maps = 0.6 * drawn[0] + 0.95 * drawn[1]  # one catheter, read as two

    def given(**labels):
        film = FilmMaps.of(maps, Affine(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))), shape)
        return film, [line.device for line in findings_of(film, probabilities(**labels)).lines]

    assert given(CVC_Normal=0.9, **{"Swan Ganz Catheter Present": 0.9})[1] == [Device.SWAN]
    film, devices = given(CVC_Normal=0.9)
    assert devices == [Device.CVC]
    assert {line.device for line in film.traced()} == {Device.CVC, Device.SWAN}, "those that are asked for later too"


def test_a_classifier_of_low_probabilities_denies_a_twentieth_of_those_that_have_a_device_at_most():
    rng = np.random.default_rng(0)
    truth = (rng.random((400, len(LABELS))) < 0.3).astype(int)
    truth[:, LABEL_INDEX["Swan Ganz Catheter Present"]] = 0
    labels = rng.random((400, len(LABELS))) * np.where(truth, 1.0, 0.3)
    limits = fit_suppression(labels, truth)
    assert list(limits) == [device.name for device in Device] and limits["SWAN"] == SUPPRESS_BELOW
    shy = fit_suppression(labels / 20, truth)
    there = [presence_of(dict(zip(LABELS, row, strict=True))) for row in labels / 20]
    for device in (Device.ETT, Device.NGT, Device.CVC):
        assert 0 < shy[device.name] < limits[device.name] <= SUPPRESS_BELOW
        has_it = truth[:, [LABEL_INDEX[label] for label in LABELS_OF[device]]].any(axis=1)
        p = np.array([each[device.name] for each in there])[has_it]
        assert MIN_RECALL <= np.mean(p >= shy[device.name]) <= MIN_RECALL + 0.01
    order = rng.permutation(400)
    assert fit_suppression(labels[order] / 20, truth[order]) == shy


def test_the_json_says_it_all_in_plain_values(oracle):
    scene = oracle.scene_of(0)
    maps, placement = oracle.maps_of(scene)
    labels = dict(zip(LABELS, np.linspace(0, 1, len(LABELS), dtype=np.float32), strict=True))
    turned_note, file_note = Note(Code.TURNED, "it is turned"), Note(Code.WINDOW_IGNORED, "its window is ignored")
    found = findings_of(
        FilmMaps.of(maps, placement, scene.view.shape, (0, 0, *scene.view.shape[::-1])),
        labels,
        Spacing(SpacingKind.CALIBRATED, (0.4, 0.4), 1.05),
        quality=Quality(notes=(turned_note,)),
    )
    found = replace(found, notes=(file_note, turned_note))
    told = json.loads(json.dumps(found.as_dict()))
    assert list(told) == [
        "schema_version",
        "labels",
        "calibrated",
        "presence",
        "lines",
        "landmarks",
        "distances",
        "quality",
        "notes",
        "film_shape",
        "within",
        "mm_per_px",
        "spacing",
    ]
    assert told["labels"] == found.labels and told["presence"] == found.presence, "in full precision"
    assert told["lines"] and told["distances"]
    for one, plain in zip(found.lines, told["lines"], strict=True):
        assert list(plain) == ["device", "path", "tip", "confidence", "followed_to"]
        assert Device[plain["device"]] is one.device
        assert np.abs(np.array(plain["path"]) - one.path).max() <= 0.0501
        assert (plain["tip"] is None) == (one.tip is None)
        assert (plain["followed_to"] is None) == (one.followed_to is None)
    assert set(told["landmarks"]["carina"]) == {"xy", "confidence"}
    for one, plain in zip(found.distances, told["distances"], strict=True):
        assert list(plain) == [field.name for field in fields(Distance)]
        assert 0 <= plain["line"] < len(told["lines"])
        assert plain["what"].startswith(told["lines"][plain["line"]]["device"])
        if one.cm is not None:
            assert plain["patient_cm"] == [plain["cm"]] * 2 and plain["cm"] == round(one.cm, 2)
    assert told["mm_per_px"] == told["spacing"]["mm_per_px"] == [0.4, 0.4]
    assert (told["spacing"]["kind"], told["spacing"]["magnification"]) == ("calibrated", 1.05)
    assert told["film_shape"] == list(scene.view.shape) and told["within"] is None
    assert told["notes"] == [turned_note.as_dict(), file_note.as_dict()], "each once"


def test_empty_maps_have_no_findings(oracle):
    scene = oracle.scene_of(0)
    maps, placement = oracle.maps_of(scene)
    found = findings_of(FilmMaps.of(np.zeros_like(maps), placement, scene.view.shape))
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
    found = findings_of(FilmMaps.of(maps, placement, shape))
    assert (maps == before).all()
    text = json.dumps(found.as_dict(), allow_nan=False)
    assert text == json.dumps(findings_of(FilmMaps.of(maps, placement, shape)).as_dict()), "the same again"
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
        findings_of(FilmMaps.of(maps, shrink(np.zeros(SHAPE, np.uint8), 2 * SIDE, "pad")[1], SHAPE))


def test_evidence_is_the_mean_of_the_highest_values():
    maps = np.random.default_rng(0).random((9, 40, 48)).astype(np.float32)
    found = evidence_of(maps)
    for device in Device:
        values = np.sort(maps[MAPS.index((MapKind.LINE, device))], axis=None)[::-1]
        assert found[device.name] == pytest.approx(values[:10].mean(), abs=1e-6)  # a quarter of 40
    moved = np.random.default_rng(1).permuted(maps.reshape(9, -1), axis=1).reshape(maps.shape)
    assert evidence_of(moved) == found  # to the last bit, wherever the values lie


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
@pytest.mark.parametrize("shape", [(8, 30), (64, 48)])
def test_evidence_is_the_mean_of_the_highest_values_however_many_are_equal(levels, shape):
    drawn = np.random.default_rng(levels).integers(0, levels, (len(MAPS), *shape)) / np.float32(levels)
    maps = drawn.astype(np.float32)
    highest = np.sort(maps.reshape(len(MAPS), -1), axis=1)[:, -(shape[0] // 4) :]
    wanted = [mean for mean, (kind, _) in zip(highest.mean(axis=1), MAPS, strict=True) if kind is MapKind.LINE]
    assert list(evidence_of(maps).values()) == pytest.approx(wanted, rel=1e-6)
