"""Lines and landmarks of maps: perfect ones give the truth back, spoilt ones nearly; nothing comes of nothing."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from cxrlines.core.heatmaps import KEYPOINT_SIGMA, draw_maps, to_map
from cxrlines.reading.trace.bounds import Bounds
from cxrlines.reading.trace.following import FAINT
from cxrlines.reading.trace.keypoints import SEPARATION
from cxrlines.reading.trace.lines import TIP_PEAK, _without_loose_start, find_landmarks, find_lines
from cxrlines.reading.trace.skeleton import HIGH
from cxrlines.task import LABELS_OF, MAPS, Device, Landmark, MapKind

SEEDS = range(40)
SIDE = 192


def judged(oracle, maps_by_seed):
    """(true lines, films and devices whose number of lines or tips differs, errors of tips as shares of the side)."""
    count, wrong, errors = 0, [], []
    for seed, maps in maps_by_seed:
        scene = oracle.scene_of(seed)
        placement = oracle.maps_of(scene)[1]
        found = find_lines(maps)
        for device in Device:
            true = oracle.tips_in_map(scene, placement, device)
            lines = [line for line in found if line.device is device]
            tips = [line.tip for line in lines if line.tip is not None]
            expected = sum(line.device is device for line in oracle.true_lines(scene))
            count += expected
            # The heatmap of two tips next to each other has one peak.
            near = min((np.hypot(*(a - b)) for a, b in combinations(true, 2)), default=np.inf) < SEPARATION * SIDE
            if len(lines) != expected or len(tips) > len(true) or len(tips) < len(true) - near:
                wrong.append((seed, device.name))
            elif tips:
                distance = np.hypot(*(np.array(true)[:, None] - np.array(tips)).transpose(2, 0, 1)) / SIDE
                errors += distance[linear_sum_assignment(distance)].tolist()
    return count, wrong, np.array(errors)


@pytest.fixture(scope="module")
def perfect(oracle):
    return [(seed, oracle.maps_of(oracle.scene_of(seed))[0]) for seed in SEEDS]


def test_perfect_maps_give_all_lines_and_tips_back(oracle, perfect):
    count, wrong, errors = judged(oracle, perfect)
    assert count > 100
    assert wrong == []
    # Where two catheters share a vein the maps do not say which of them ends first, or a coil hides its tip.
    assert (errors <= 0.005).mean() > 0.95
    assert np.median(errors) < 0.0005


def test_blurred_noisy_and_broken_maps_give_nearly_all_of_them(oracle, perfect):
    count, wrong, errors = judged(oracle, [(seed, oracle.spoilt(maps, seed)) for seed, maps in perfect])
    assert len(wrong) <= 0.09 * count, wrong  # .085 since phantoms have up to three catheters in a vein
    assert (errors <= 0.005).mean() > 0.93


def test_paths_run_from_the_entry_along_the_ridge_evenly(oracle, perfect):
    for seed, maps in perfect[:15]:
        scene = oracle.scene_of(seed)
        if sum(line.placed.device is Device.CVC for line in scene.lines) > 1:
            continue
        for line in find_lines(maps):
            true = next(t for t in oracle.true_lines(scene) if t.device is line.device)
            path = to_map(oracle.maps_of(scene)[1].from_film(true.path))
            dense = np.concatenate([a + (b - a) * np.linspace(0, 1, 20)[:, None] for a, b in pairwise(path)])
            off = np.hypot(*(line.path[:, None] - dense[None]).transpose(2, 0, 1)).min(1)
            assert np.median(off) < 0.35 and off.max() < 4
            steps = np.hypot(*np.diff(line.path, axis=0).T)
            assert steps.max() < 0.0115 * SIDE and steps.min() > 0.004 * SIDE
            entry, end = np.hypot(*(path[0] - line.path[[0, -1]]).T)
            assert entry < end or line.tip is None
            if line.tip is not None:
                assert (line.tip == line.path[-1]).all()


def test_the_end_with_the_tip_is_the_tip_whichever_way_it_points():
    maps = np.zeros((9, SIDE, SIDE), np.float32)
    maps[0, 40:150, 95:98] = 0.9
    down = find_lines(maps)[0]
    assert down.path[-1, 1] > 140  # an endotracheal tube without a tip map ends below
    y, x = np.mgrid[:SIDE, :SIDE]
    maps[4] = np.exp(-((x - 96.3) ** 2 + (y - 41.2) ** 2) / 2 / (KEYPOINT_SIGMA * SIDE) ** 2)
    up = find_lines(maps)[0]
    assert np.abs(up.tip - (96.3, 41.2)).max() < 0.05


def test_mirrored_and_moved_maps_give_mirrored_and_moved_lines(oracle, perfect):
    for _, maps in perfect[:6]:
        lines = find_lines(maps)
        flipped = find_lines(np.ascontiguousarray(maps[:, :, ::-1]))
        assert [line.device for line in lines] == [line.device for line in flipped]
        moved = np.zeros_like(maps)
        moved[:, 7:, 5:] = maps[:, :-7, :-5]
        moved[:, :7] = 0
        bounds = Bounds(4.5, 6.5, SIDE - 0.5, SIDE - 0.5)
        shifted = find_lines(moved, bounds)
        for device in Device:
            tips = [line.tip for line in lines if line.device is device and line.tip is not None]
            # A tip that is moved off the map, or comes to lie at its edge, is another film.
            if any((tip > SIDE - 25).any() or (tip < 25).any() for tip in tips) or not tips:
                continue
            back = [
                line.tip * (-1, 1) + (SIDE - 1, 0) for line in flipped if line.device is device and line.tip is not None
            ]
            there = [line.tip - (5, 7) for line in shifted if line.device is device and line.tip is not None]
            for other in (back, there):
                distance = np.hypot(*(np.array(tips)[:, None] - np.array(other)).transpose(2, 0, 1))
                assert distance.min(1).max() < 1


def test_the_landmark_is_the_peak_between_pixels(oracle, perfect):
    for seed, maps in perfect[:10]:
        scene = oracle.scene_of(seed)
        at = to_map(oracle.maps_of(scene)[1].from_film(scene.landmarks.carina[None]))[0]
        spot = find_landmarks(maps)[Landmark.CARINA]
        assert np.hypot(*(spot.xy - at)) < 0.05
        assert spot.confidence > 0.95
        rough = find_landmarks(oracle.spoilt(maps, seed))[Landmark.CARINA]
        assert np.hypot(*(rough.xy - at)) < 0.005 * SIDE


def test_a_peak_beside_the_film_is_no_landmark_of_it():
    """In a padded square the film takes a part of the maps: the padding may hold the highest peak."""
    y, x = np.mgrid[:SIDE, :SIDE]
    bells = [
        h * np.exp(-((x - cx) ** 2 + (y - 90) ** 2) / 2 / (KEYPOINT_SIGMA * SIDE) ** 2)
        for h, cx in ((1, 20), (0.5, 90))
    ]
    maps = np.zeros((9, SIDE, SIDE), np.float32)
    maps[MAPS.index((MapKind.LANDMARK, Landmark.CARINA))] = np.maximum(*bells)
    film = Bounds(39.5, -0.5, 151.5, 191.5)
    assert np.abs(find_landmarks(maps)[Landmark.CARINA].xy - (20, 90)).max() < 0.1
    assert np.abs(find_landmarks(maps, film)[Landmark.CARINA].xy - (90, 90)).max() < 0.1
    assert find_landmarks(maps, Bounds(120.0, -0.5, 151.5, 191.5)) == {}
    half_off = find_landmarks(maps, Bounds(20.4, -0.5, 151.5, 191.5))[Landmark.CARINA]
    assert half_off.xy[0] == 20.4, "of a peak on the very edge the place is on the film"


def test_a_path_begins_where_the_heatmap_shows_it_best():
    rng = np.random.default_rng(0)
    for _ in range(200):
        heat = np.zeros((5, 40), np.float32)
        heat[2] = rng.choice([0.0, 0.02, 0.1, 0.5, 0.9], 40) * np.repeat(rng.random(8) < 0.6, 5)
        gain = np.log(np.maximum(heat[2], FAINT) / HIGH)
        kept = _without_loose_start(np.array([[0.0, 2.0], [39.0, 2.0]]), heat)
        first, last = kept[[0, -1], 0].astype(int)
        assert last == 39 and len(kept) >= 2
        assert gain[first:].sum() == pytest.approx(max(gain[k:].sum() for k in range(39)), abs=1e-5)


@pytest.mark.parametrize(("length", "joined"), [(6, False), (45, True)])
def test_what_lies_beyond_a_gap_belongs_to_a_line_where_it_is_worth_the_gap(length, joined):
    """A catheter from the right; beyond a gap at its first point there is more in its direction."""
    maps = np.zeros((9, SIDE, SIDE), np.float32)
    maps[2, 95:98, 60:140] = 0.9
    maps[2, 95:98, 174 - length : 174] = 0.4
    y, x = np.mgrid[:SIDE, :SIDE]
    maps[6] = np.exp(-((x - 60) ** 2 + (y - 96) ** 2) / 2 / (KEYPOINT_SIGMA * SIDE) ** 2)
    (line,) = find_lines(maps, min_confidence={"CVC": 0.5})
    assert line.tip is not None and (line.path[0, 0] > 160) == joined


def test_confidence_grows_with_probability_and_with_length():
    def confidence(p, length):
        maps = np.zeros((9, SIDE, SIDE), np.float32)
        maps[2, 40 : 40 + length, 95:98] = p
        (line,) = find_lines(maps)
        return line.confidence

    assert confidence(0.9, 80) > confidence(0.7, 80) > confidence(0.5, 80)
    assert 1 >= confidence(0.9, 120) > confidence(0.9, 60) > confidence(0.9, 30)


def test_a_line_that_leaves_the_film_has_no_tip():
    maps = np.zeros((9, SIDE, SIDE), np.float32)
    maps[1, :, 95:98] = 0.9
    (line,) = find_lines(maps)
    assert line.tip is None and line.leaves_film
    assert line.path[0, 1] < 1 and line.path[-1, 1] > SIDE - 2
    (line,) = find_lines(maps, Bounds(-0.5, 19.5, SIDE - 0.5, 171.5))  # the same maps, of a film with padding
    assert line.tip is None
    assert line.path[:, 1].min() >= 19.5 and line.path[:, 1].max() <= 171.5


@pytest.mark.parametrize(
    ("height", "is_tip"), [(0.0, False), (0.8 * TIP_PEAK, False), (1.2 * TIP_PEAK, True), (1.0, True)]
)
def test_the_end_of_what_is_seen_is_a_tip_where_the_tips_map_agrees(height, is_tip):
    """A gastric tube that fades in the middle of the film, and a peak of some height where it does."""
    maps = np.zeros((9, SIDE, SIDE), np.float32)
    maps[1, :110, 95:98] = 0.9
    y, x = np.mgrid[:SIDE, :SIDE]
    maps[5] = height * np.exp(-((x - 96) ** 2 + (y - 108) ** 2) / 2 / (KEYPOINT_SIGMA * SIDE) ** 2)
    (line,) = find_lines(maps)
    end, other = (line.tip, line.followed_to) if is_tip else (line.followed_to, line.tip)
    assert other is None and (end == line.path[-1]).all() and np.abs(end - (96, 108)).max() < 2
    assert not line.leaves_film


def test_a_peak_on_the_line_s_way_and_far_from_its_end_is_no_tip_of_it():
    maps = np.zeros((9, SIDE, SIDE), np.float32)
    maps[1, :150, 95:98] = 0.9
    y, x = np.mgrid[:SIDE, :SIDE]
    maps[5] = np.exp(-((x - 96) ** 2 + (y - 75) ** 2) / 2 / (KEYPOINT_SIGMA * SIDE) ** 2)
    (line,) = find_lines(maps)
    assert line.tip is None and line.followed_to[1] > 145


@pytest.mark.parametrize(
    ("device", "height", "leaves"),
    [
        (Device.NGT, 0.8 * TIP_PEAK, True),
        (Device.NGT, 1.2 * TIP_PEAK, False),
        (Device.ETT, 1.2 * TIP_PEAK, False),
        (Device.CVC, 1.2 * TIP_PEAK, True),  # which may have come in at either edge
    ],
)
def test_a_line_does_not_leave_the_film_past_where_its_tip_may_be(device, height, leaves):
    """Too far from the end of the line for a tip of it, and too likely for a line that goes on beyond the film."""
    maps = np.zeros((len(MAPS), SIDE, SIDE), np.float32)
    maps[MAPS.index((MapKind.LINE, device)), :, 95:98] = 0.9
    y, x = np.mgrid[:SIDE, :SIDE]
    heat = height * np.exp(-((x - 96) ** 2 + (y - 160) ** 2) / 2 / (KEYPOINT_SIGMA * SIDE) ** 2)
    maps[MAPS.index((MapKind.TIP, device))] = heat
    (line,) = find_lines(maps)
    assert line.tip is None and line.leaves_film is leaves
    if leaves:
        assert line.path[:, 1].min() < 1 and line.path[:, 1].max() > SIDE - 2
    else:
        assert line.path[0, 1] < 1
        assert (line.followed_to == line.path[-1]).all() and line.followed_to == pytest.approx((96, 160), abs=1)


def test_there_is_one_endotracheal_tube_at_most():
    maps = np.zeros((9, SIDE, SIDE), np.float32)
    maps[0, 10:150, 60:63] = 0.9
    maps[0, 10:100, 120:123] = 0.9
    (line,) = find_lines(maps)
    assert abs(line.path[:, 0].mean() - 61) < 0.5


def course_of(device, *points, p):
    """Maps that show one line, by a given probability, and its tip."""
    drawn = draw_maps([(LABELS_OF[device][0], np.array(points, float))], {}, 2 * SIDE)
    return p * drawn


def test_a_further_catheter_is_believed_for_what_is_its_own():
    trunk = course_of(Device.CVC, (150, 20), (200, 150), (200, 280), p=0.9)
    far = course_of(Device.CVC, (330, 20), (200, 150), (200, 280), p=0.9)
    spur = course_of(Device.CVC, (222, 128), (200, 150), (200, 280), p=0.9)
    assert len(find_lines(np.maximum(trunk, far))) == 2
    (line,) = find_lines(np.maximum(trunk, spur))
    assert np.hypot(*(line.path[0] - to_map(np.array([150, 20])))) < 4


@pytest.mark.parametrize(("central", "told"), [(0.9, [Device.CVC, Device.SWAN]), (0.6, [Device.SWAN])])
def test_maps_that_are_not_sure_which_catheter_they_see_tell_one(central, told):
    way = (150, 20), (200, 150), (200, 280)
    maps = course_of(Device.CVC, *way, p=central) + course_of(Device.SWAN, *way, (250, 330), p=0.95)
    assert [line.device for line in find_lines(maps)] == told
    apart = course_of(Device.CVC, (330, 20), (260, 300), p=central) + course_of(Device.SWAN, *way, p=0.95)
    assert [line.device for line in find_lines(apart)] == [Device.CVC, Device.SWAN]


def test_nothing_comes_of_nothing():
    rng = np.random.default_rng(0)
    for maps in (
        np.zeros((9, SIDE, SIDE), np.float32),
        np.full((9, SIDE, SIDE), 0.05, np.float32),
        rng.uniform(0, 0.15, (9, SIDE, SIDE)).astype(np.float32),
    ):
        assert find_lines(maps) == []
        assert find_landmarks(maps) == {}


def test_maps_of_any_content_are_read_without_an_error():
    rng = np.random.default_rng(1)
    for shape in ((64, 64), (192, 100), (33, 192)):
        for maps in (rng.random((9, *shape)), np.ones((9, *shape)), rng.random((9, *shape)) > 0.9):
            for line in find_lines(maps.astype(np.float32)):
                assert np.isfinite(line.path).all() and 0 <= line.confidence <= 1


def test_the_maps_are_not_changed_and_the_same_maps_give_the_same_lines(oracle, perfect):
    maps = perfect[0][1].copy()
    one, other = find_lines(maps), find_lines(maps)
    assert (maps == perfect[0][1]).all()
    assert all((a.path == b.path).all() and a.confidence == b.confidence for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("shape", [(8, 192, 192), (9, 192), (9, 4, 192)])
def test_maps_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"maps: needs \(9, h, w\) of at least 8 px a side"):
        find_lines(np.zeros(shape, np.float32))


def test_heatmaps_that_are_named_twice_are_refused():
    with pytest.raises(ValueError, match="channels"):
        find_lines(np.zeros((2, SIDE, SIDE), np.float32), channels=[(MapKind.TIP, Device.CVC)] * 2)


def test_maps_that_are_no_numbers_are_refused():
    maps = np.zeros((9, SIDE, SIDE), np.float32)
    maps[MAPS.index((MapKind.TIP, Device.CVC)), 3, 3] = np.nan
    with pytest.raises(ValueError, match="maps: holds values that are not numbers; the network that made them"):
        find_lines(maps)
