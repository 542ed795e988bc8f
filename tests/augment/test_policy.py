"""The policies as a training step meets them: one draw for all that lies on a film, nothing that is forbidden."""

import dataclasses
import itertools
import os

import cv2
import numpy as np
import pytest
from scipy import stats

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

from cxrlines.augment import POLICIES, Policy, make_policy
from cxrlines.augment.policy import PARAMETERS
from cxrlines.lab.bench.augmentation_speed import oracle

SIZE = 96


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.uniform(20, 235, (7, 7)), (128, 128), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 5, smooth.shape), 0, 255).astype(np.uint8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_state_gives_the_same_film(film, name):
    policy = make_policy(name, SIZE)
    for seed in range(20):
        one, other = (
            policy(film, rng(seed), [np.array([[40.0, 50]])]),
            policy(film, rng(seed), [np.array([[40.0, 50]])]),
        )
        assert (one.film == other.film).all()
        assert (one.points[0] == other.points[0]).all()
        assert one.film.shape == (SIZE, SIZE) and one.film.dtype == np.uint8


def test_another_state_gives_another_film(film):
    policy = make_policy("hotwater", SIZE)
    shared = rng(0)
    films = [policy(film, shared).film for _ in range(10)]
    assert all((films[i] != films[j]).any() for i in range(10) for j in range(i))


def test_what_lies_on_a_film_does_not_change_its_draw(film):
    policy = make_policy("hotwater-code", SIZE)
    for seed in range(20):
        with_lines = policy(film, rng(seed), [np.array([[3.0, 4]]), np.empty((0, 2))])
        assert (policy(film, rng(seed)).film == with_lines.film).all()
        assert [len(line) for line in with_lines.points] == [1, 0]


def test_nothing_given_is_changed(film):
    points = np.array([[10.0, 20], [30, 40]])
    before = film.copy(), points.copy()
    for array in (film, points):
        array.flags.writeable = False  # as rows of a store opened for reading
    for name in POLICIES:
        for seed in range(10):
            out = make_policy(name, 128)(film, rng(seed), [points])
            assert not np.shares_memory(out.film, film) and not np.shares_memory(out.points[0], points)
    assert all((now == then).all() for now, then in zip((film, points), before, strict=True))


def test_none_shrinks_by_area_and_else_changes_nothing(film):
    assert (make_policy("none", 128)(film, rng()).film == film).all()
    small = make_policy("none", 64)(film, rng(), [np.array([[127.0, 63]])])
    assert np.abs(small.film - cv2.resize(film, (64, 64), interpolation=cv2.INTER_AREA).astype(int)).max() <= 1
    np.testing.assert_allclose(small.points[0], [[63.25, 31.25]])  # pixel centres at whole numbers


def test_a_row_of_a_memory_map_is_a_film(film, tmp_path):
    np.save(tmp_path / "films.npy", film[None])
    row = np.load(tmp_path / "films.npy", mmap_mode="r")[0]
    policy = make_policy("hotwater", SIZE)
    assert (policy(row, rng(1)).film == policy(film, rng(1)).film).all()


def test_a_film_that_is_not_square_is_stretched():
    wide = np.zeros((50, 100), np.uint8)
    out = make_policy("none", SIZE)(wide, rng(), [np.array([[99.5, 49.5], [-0.5, -0.5]])])
    np.testing.assert_allclose(out.points[0], [[SIZE - 0.5] * 2, [-0.5] * 2])


@pytest.mark.parametrize("name", POLICIES)
def test_points_stay_on_what_they_mark_on_a_canvas_that_is_not_square(name):
    """Dots on a film, found again where their points are said to be."""
    film, spots = np.zeros((220, 180), np.uint8), np.array([[60.0, 70], [110, 120], [70, 150]])
    for x, y in spots.astype(int):
        film[y - 3 : y + 4, x - 3 : x + 4] = 220
    plain = dict.fromkeys(("degrade", "coarsen", "cutout", "invert", "gamma", "clahe", "sharpen"), 0)
    policy, seen = make_policy({"policy": name} | plain, (190, 120)), 0
    for seed in range(25):
        out = policy(film, rng(seed), [spots])
        assert out.film.shape == (190, 120)
        for x, y in out.points[0]:
            if min(x, y) < 8 or x > 111 or y > 181:
                continue
            box = out.film[int(y) - 6 : int(y) + 8, int(x) - 6 : int(x) + 8].astype(float)
            box = np.where(box > 0.6 * box.max(), box, 0)
            rows, columns = np.indices(box.shape)
            centre = np.array([(box * columns).sum(), (box * rows).sum()]) / box.sum() + (int(x) - 6, int(y) - 6)
            assert np.linalg.norm(centre - (x, y)) < 1.7
            seen += 1
    assert seen > 40


def test_shares_are_of_width_and_height():
    policy = dataclasses.replace(make_policy("none", (400, 200)), shift_scale_rotate=1.0, shift=0.5, scale=0, rotate=0)
    shifts = np.array([np.linalg.inv(policy.draw_warp(rng(seed), 400, 200)[0].matrix)[:2, 2] for seed in range(200)])
    assert 95 < np.abs(shifts[:, 0]).max() <= 100 and 190 < np.abs(shifts[:, 1]).max() <= 200


def test_forbidden_flips_never_come_and_others_half_the_time(film):
    shared = rng(2)
    for name in ("light", "hotwater"):
        assert not any(make_policy(name, SIZE, flip=False).draw_warp(shared, 128, 128)[1] for _ in range(200))
        flips = sum(make_policy(name, SIZE).draw_warp(shared, 128, 128)[1] for _ in range(1000))
        assert 430 < flips < 570


def test_a_flip_mirrors_the_points(film):
    flip = dataclasses.replace(make_policy("none", 128), flip=1.0)
    out = flip(film, rng(), [np.array([[10.0, 20]])])
    assert (out.film == film[:, ::-1]).all()
    np.testing.assert_allclose(out.points[0], [[117, 20]])


@pytest.mark.parametrize(("name", "least"), [("light", 0.85), ("hotwater", 0.9)])
def test_a_crop_takes_the_share_of_the_area_that_the_list_says(name, least):
    shares, shared = [], rng(3)
    policy = Policy(SIZE, crop_area=make_policy(name, SIZE).crop_area)
    for _ in range(300):
        the_warp, _ = policy.draw_warp(shared, 200, 240)
        shares.append(np.linalg.det(the_warp.matrix) * SIZE * SIZE / (200 * 240))
        corners = np.array([[-0.5, -0.5, 1], [SIZE - 0.5, SIZE - 0.5, 1]]) @ the_warp.matrix.T
        assert corners[:, :2].min() > -0.5 - 1e-9 and (corners[1, :2] < np.array([239.5, 199.5]) + 1e-9).all()
        np.testing.assert_allclose((corners[:, :2] + 0.5).round(), corners[:, :2] + 0.5, atol=1e-9)
    rounded = 0.5 / 200 + 0.5 / 240  # edges are between pixels
    assert least - rounded < min(shares) < least + 0.02 and max(shares) <= 1 + 1e-9


def test_hotwater_is_the_list_of_the_write_up():
    p = make_policy("hotwater", SIZE)
    assert p.crop_area == (0.9, 1.0)
    assert (p.flip, p.shift_scale_rotate, p.value, p.brightness_contrast, p.clahe) == (0.5, 0.5, 0.7, 0.7, 0.5)
    assert (p.distort, p.degrade, p.coarsen, p.sharpen, p.cutout) == (0.2, 0.2, 0.2, 0, 0)
    assert (p.value_shift, p.brightness, p.contrast, p.clahe_clip) == (10, 0.2, 0.2, (1, 4))
    assert (p.grid_steps, p.grid_limit, p.lens[1], p.elastic_alpha) == (5, 1, 1, 3)
    assert (p.noise_variance, p.downscale) == ((10, 50), (0.1, 0.15))
    extra = make_policy("hotwater-code", SIZE)
    assert (extra.sharpen, extra.cutout, extra.cutout_holes, extra.cutout_side) == (0.2, 0.5, 5, 0.1)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Policy) if f.default == 0.0 and f.name != "flip"])
def test_every_transform_is_drawn_as_often_as_its_probability_says(film, field):
    plain = make_policy("none", 128)(film, rng()).film
    policy, shared = dataclasses.replace(Policy(128), **{field: 0.3}), rng(4)
    changed = sum((policy(film, shared).film != plain).any() for _ in range(400))
    assert 0.22 < changed / 400 < 0.38


def test_grays_are_distributed_as_those_of_albumentations(film):
    policy = dataclasses.replace(
        make_policy("hotwater-code", 128), crop_area=(1.0, 1.0), flip=0, shift_scale_rotate=0, distort=0
    )
    rest, _ = oracle(policy)
    shared = rng(5)
    ours = [policy.change_grays(film, shared) for _ in range(400)]
    theirs = [rest(image=film)["image"] for _ in range(400)]
    for statistic in (np.mean, np.std, lambda f: np.abs(np.diff(f.astype(float), axis=1)).mean()):
        assert stats.ks_2samp([statistic(f) for f in ours], [statistic(f) for f in theirs]).pvalue > 0.01


def test_an_unknown_policy_is_named_with_the_nearest_right_one():
    with pytest.raises(
        ValueError,
        match=r"augment is 'hotwatr'; allowed: none, light, hotwater, .*wild \(did you mean 'hotwater'\?\)",
    ):
        make_policy("hotwatr", SIZE)


def test_a_mapping_changes_fields_of_a_policy():
    given = {"policy": "hotwater", "clahe": 0.3, "rotate": 10, "downscale": [0.3, 0.5], "blur_kernels": [3]}
    usual, changed = make_policy("hotwater", SIZE), make_policy(given, SIZE)
    assert (changed.clahe, changed.rotate, changed.downscale, changed.blur_kernels) == (0.3, 10.0, (0.3, 0.5), (3,))
    same = dict.fromkeys(("clahe", "rotate", "downscale", "blur_kernels"))
    assert dataclasses.replace(changed, **{name: getattr(usual, name) for name in same}) == usual
    assert make_policy({"policy": "hotwater"}, SIZE) == usual
    assert make_policy({"policy": "hotwater"}, SIZE, flip=False).flip == 0
    whole = dataclasses.asdict(usual) | {"policy": "none"}
    del whole["size"]
    assert make_policy(whole, SIZE) == usual


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"policy": "hotwatr"}, r"augment.policy is 'hotwatr'; allowed: none, light.*did you mean 'hotwater'"),
        ({"clahe": 0.3}, "augment.policy is None; allowed: none"),
        ({"policy": "none", "clhae": 0.3}, r"augment.clhae: there is no such field; allowed: .*did you mean 'clahe'"),
        ({"policy": "none", "size": 64}, "augment.size: there is no such field"),
        ({"policy": "none", "clahe": 2}, "augment.clahe is 2; allowed: 0 to 1"),
        ({"policy": "none", "clahe": float("nan")}, "augment.clahe is nan; allowed: 0 to 1"),
        ({"policy": "none", "clahe": "often"}, "augment.clahe is 'often'; .*valid number"),
        ({"policy": "none", "gammas": [1.7, 0.6]}, r"augment.gammas is \[1.7, 0.6\]; a range is \[low, high\]"),
        ({"policy": "none", "jpeg_quality": [99, 101]}, r"augment.jpeg_quality is \[99, 101\]; allowed: 1 to 100"),
        ({"policy": "none", "flip": True}, "augment.flip is true; must be a number"),
        ({"policy": "none", "gammas": [False, 2]}, r"augment.gammas is \[false, 2\]; must be a number"),
        ({"policy": "none", "lens": [-1, 1]}, r"augment.lens is \[-1, 1\]; allowed: -0.35 to 10"),
        ({"policy": "none", "downscale": [0.5]}, "augment.downscale.1 is .*Field required"),
        ({"policy": "none", "blur_kernels": [4]}, r"augment.blur_kernels is \[4\]; allowed: one or more odd numbers"),
        ({"policy": "none", "grid_steps": 2.5}, "augment.grid_steps is 2.5; .*valid integer"),
        ({"policy": "none", "order": ["clahe", "gama"]}, r"augment.order.1 is 'gama'; .*did you mean 'gamma'"),
        ({"policy": "none", "order": ["clahe", "clahe"]}, "augment.order is .*clahe is named twice"),
        ({"policy": "none", "gamma": 0.5, "order": ["clahe"]}, "augment.gamma is 0.5, but augment.order leaves gamma"),
    ],
)
def test_what_a_mapping_gets_wrong_is_named_by_its_path(given, said):
    with pytest.raises(ValueError, match=said):
        make_policy(given, SIZE)


def other(name: str) -> object:
    """A value of a parameter that no policy has."""
    usual = getattr(Policy(SIZE), name)
    if isinstance(usual, tuple):
        return [usual[0]] if name == "blur_kernels" else [usual[0], usual[0]]
    return usual + 1 if isinstance(usual, int) else usual / 2 if name != "elastic_sigma" else usual + 1


@pytest.mark.parametrize("transform", PARAMETERS)
def test_a_parameter_of_a_transform_that_is_never_drawn_is_refused(transform):
    for name in PARAMETERS[transform]:
        given = {"policy": "none", name: other(name)}
        said = (
            rf"augment.{name} is .*, but the probability augment.{transform} is 0, .*make it above 0.*leave {name} out"
        )
        with pytest.raises(ValueError, match=said):
            make_policy(given, SIZE)
        with pytest.raises(ValueError, match=said):
            make_policy({"policy": "hotwater-code", transform: 0, name: other(name)}, SIZE)
        assert make_policy(given | {transform: 0.1}, SIZE) != make_policy({"policy": "none", transform: 0.1}, SIZE)
        unchanged = {"policy": "none", name: getattr(Policy(SIZE), name)}
        assert make_policy(unchanged, SIZE) == make_policy("none", SIZE), "as the policy has it, it may be named"


def test_a_parameter_of_a_transform_that_is_left_out_of_the_order_is_refused():
    with pytest.raises(ValueError, match=r"augment.clahe_clip is \[1, 2\], but augment.order leaves clahe out"):
        make_policy({"policy": "hotwater", "order": ["value"], "clahe_clip": [1, 2]}, SIZE)


def test_every_parameter_is_of_one_transform():
    owned = [name for parameters in PARAMETERS.values() for name in parameters]
    chances = {field.name for field in dataclasses.fields(Policy) if field.default == 0.0}
    others = {field.name for field in dataclasses.fields(Policy)} - chances - {"size", "crop_area", "order"}
    assert PARAMETERS.keys() <= chances and len(owned) == len(set(owned)) and set(owned) == others


def test_a_flip_that_is_forbidden_is_refused():
    with pytest.raises(ValueError, match=r"augment.flip is 0.2, but flip is false"):
        make_policy({"policy": "none", "flip": 0.2}, SIZE, flip=False)


def test_grays_change_in_the_order_that_is_named(film):
    always = {"policy": "none", "gamma": 1.0, "gammas": [0.5, 0.5], "invert": 1.0, "sharpen": 1.0}
    always |= {"sharpen_alpha": [0.5, 0.5], "sharpen_lightness": [0.5, 0.5]}
    apply = {
        "gamma": lambda film: cv2.LUT(film, np.rint(255 * np.sqrt(np.arange(256) / 255)).astype(np.uint8)),
        "invert": lambda film: 255 - film,
        "sharpen": lambda film: cv2.filter2D(film, -1, np.float32([[-0.5] * 3, [-0.5, 4.75, -0.5], [-0.5] * 3])),
    }
    seen = []
    for order in itertools.permutations(apply):
        expected = film
        for name in order:
            expected = apply[name](expected)
        out = make_policy(always | {"order": list(order)}, 128)(film, rng()).film
        assert (out == expected).all()
        seen.append(out.tobytes())
    assert len(set(seen)) == 6
    partly = {"policy": "none", "invert": 1.0, "order": ["invert"]}
    assert (make_policy(partly, 128)(film, rng()).film == 255 - film).all()
    assert (make_policy({"policy": "hotwater", "order": []}, 128).change_grays(film, rng()) == film).all()


def test_old_policies_draw_as_before_gamma_and_inversion_came(film):
    """Both are drawn last: whatever else is drawn is the same with them."""
    for name in ("none", "light", "hotwater", "hotwater-code"):
        policy = make_policy(name, SIZE)
        assert policy.gamma == policy.invert == 0
        for seed in range(10):
            plain = policy(film, rng(seed), [np.array([[40.0, 50]])])
            inverted = dataclasses.replace(policy, invert=1.0)(film, rng(seed), [np.array([[40.0, 50]])])
            assert (inverted.film == 255 - plain.film).all() and (inverted.points[0] == plain.points[0]).all()


def test_gamma_keeps_the_order_of_grays_and_black_and_white(film):
    policy = dataclasses.replace(Policy(128), gamma=1.0, gammas=(0.6, 1.7))
    plain, shared, shifts = make_policy("none", 128)(film, rng()).film, rng(8), []
    for _ in range(50):
        out = policy(film, shared).film.astype(float)
        order = np.argsort(plain, axis=None)
        assert (np.diff(out.flat[order]) >= 0).all()
        gray = np.median(plain)
        shifts.append(np.log(np.median(out) / 255) / np.log(gray / 255))
    assert 0.55 < min(shifts) < 0.8 and 1.4 < max(shifts) < 1.75


def test_wild_keeps_points_on_what_they_mark_and_never_bends_or_flips():
    policy = dataclasses.replace(make_policy("wild", 192), cutout=0, invert=0, noise_variance=(0, 1))
    film = np.zeros((200, 240), np.uint8)
    points = np.array([[100.0, 60], [60, 140], [170, 120]])
    for x, y in points.astype(int):
        film[y - 2 : y + 3, x - 2 : x + 3] = 200
    shared, seen = rng(9), 0
    for _ in range(60):
        out = policy(film, shared, [points])
        the_warp, flipped = policy.draw_warp(shared, 200, 240)
        assert not flipped and not the_warp.distortions
        for x, y in out.points[0]:
            if min(x, y) < 10 or max(x, y) > 181:
                continue
            left, top = int(x) - 9, int(y) - 9
            box = out.film[top : top + 20, left : left + 20].astype(float)
            box = np.where(box > 0.6 * box.max(), box, 0)
            rows, columns = np.indices(box.shape)
            centre = np.array([(box * columns).sum(), (box * rows).sum()]) / box.sum() + (left, top)
            assert np.linalg.norm(centre - (x, y)) < 1.5
            seen += 1
    assert seen > 60


def test_wrong_input_is_named_with_what_is_allowed(film):
    policy = make_policy("light", SIZE)
    with pytest.raises(ValueError, match="size of augmented films: 8 px; it must be 16 or more"):
        make_policy("light", 8)
    with pytest.raises(ValueError, match=r"film: float64 \(128, 128\); it must be uint8 \(height, width\)"):
        policy(film.astype(float), rng())
    with pytest.raises(ValueError, match=r"film: uint8 \(128, 128, 3\); it must be uint8 \(height, width\)"):
        policy(np.dstack([film] * 3), rng())
    with pytest.raises(ValueError, match=r"points\[0\]: shape \(4, 3\); it must be \(n, 2\)"):
        policy(film, rng(), [np.zeros((4, 3))])


def test_a_thin_line_on_a_real_film_is_still_seen_under_its_points(real_films):
    path = min(real_films.glob("*.jpg"))
    film = cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (512, 512), interpolation=cv2.INTER_AREA)
    t = np.linspace(0, 1, 60)
    line = np.stack([250 + 60 * t + 25 * np.sin(5 * t), 120 + 250 * t], axis=1)
    film = (film * 0.6).astype(np.uint8)
    cv2.polylines(film, [np.round(line * 16).astype(np.int32)], False, 255, 2, cv2.LINE_AA, 4)
    policy, shared = dataclasses.replace(make_policy("hotwater", 384), degrade=0, coarsen=0), rng(6)
    for _ in range(40):
        out = policy(film, shared, [line])
        points = out.points[0]
        inside = points[((points > 8) & (points < 375)).all(axis=1)]
        x, y = np.round(inside).astype(int).T
        on_line = np.max([out.film[y + i, x + j] for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0)
        beside = np.median([out.film[y, x + 7], out.film[y, x - 7], out.film[y + 7, x], out.film[y - 7, x]], axis=0)
        assert (on_line.astype(float) - beside > 8).mean() > 0.9


class TestGeometryIsDrawnFromTheRangesOfTheList:
    """Against the spread of albumentations' own draws, or that of imgaug where those differ."""

    def warps(self, count: int = 300, **fields: float):
        policy, shared = dataclasses.replace(make_policy("none", 255), **fields), rng(7)
        return [policy.draw_warp(shared, 255, 255)[0] for _ in range(count)]

    def agree(self, ours, theirs) -> bool:
        return stats.ks_2samp(ours, theirs).pvalue > 0.01

    def test_shift_scale_rotate(self):
        push = [np.linalg.inv(w.matrix) for w in self.warps(shift_scale_rotate=1.0)]
        transform = A.Compose([A.ShiftScaleRotate(p=1)], seed=1).transforms[0]
        drawn = [transform.get_params_dependent_on_data({"shape": (255, 255)}, {})["matrix"] for _ in range(300)]
        turns = ([np.arctan2(m[0, 1], m[1, 1]) for m in matrices] for matrices in (push, drawn))
        assert self.agree(*turns)
        # One scale for both directions, as in 2021; later versions draw two.
        assert all(m[0, 0] == pytest.approx(m[1, 1]) for m in push)
        assert self.agree([np.hypot(m[0, 0], m[0, 1]) for m in push], [np.hypot(m[0, 0], m[1, 0]) for m in drawn])
        centre = np.array([127, 127, 1.0])
        for axis in (0, 1):
            # albumentations shifts by whole px, cut off towards zero.
            shifts = ([np.trunc(round((m @ centre)[axis] - 127, 6)) for m in matrices] for matrices in (push, drawn))
            assert self.agree(*shifts)

    def test_grid(self):
        ours = [w.distortions[0](POSITION)[0] for w in self.warps(1200, distort=1.0) if is_grid(w)]
        transform = A.Compose([A.GridDistortion(5, (-1.0, 1.0), p=1)], seed=1).transforms[0]
        x, y = int(POSITION[0]), int(POSITION[1])
        drawn = [transform.get_params_dependent_on_data({"shape": (255, 255)}, {}) for _ in range(300)]
        assert len(ours) > 300 and self.agree(ours, [maps["map_x"][y, x] for maps in drawn])

    def test_piecewise_affine(self):
        inner = np.array([[85.0, 170.0]]) * 254 / 255  # a mesh point inside the film
        moved = np.array([w.distortions[0](inner)[0] - inner[0] for w in self.warps(600, piecewise_affine=1.0)])
        share = moved / 255  # imgaug: normal, its standard deviation uniform in 0.03 to 0.05
        assert share.std() == pytest.approx(np.sqrt((0.05**3 - 0.03**3) / 3 / 0.02), rel=0.06)
        assert abs(share.mean()) < 0.005

    def test_elastic_jitters_within_its_reach_and_keeps_the_flip(self):
        for w in self.warps(200, distort=1.0, flip=1.0):
            assert np.linalg.det(w.matrix) < 0
            start = 255 / 2 + 85 * np.array([[1, 1, 0], [1, -1, 0], [-1, -1, 0]])[:, :2]
            shift = w.matrix[:2, :2] @ start.T + w.matrix[:2, 2:]
            mirrored = np.stack([254 - start[:, 0], start[:, 1]])
            assert np.abs(shift - mirrored).max() < 3 * 255 * 50 / 640


POSITION = np.array([60.0, 130.0])


def is_grid(w) -> bool:
    """Whether a column stays a column: only the grid distortion does that and yet moves it."""
    column = w.distortions[0](np.array([[60.0, 20], [60, 130], [60, 240]]))[:, 0]
    return bool(np.ptp(column) < 1e-9)
