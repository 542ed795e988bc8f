"""How films are augmented in training: the named policies, and one call that carries a policy out.

Where the write-up behind `hotwater` names a transform without its parameters, the defaults of the library it used
(albumentations of early 2021, imgaug for the piecewise affine map and the sharpening) are taken. Departures:

- All geometry comes first, in one resampling. In the list, the optical, grid and elastic distortions follow the
  changes of gray and the piecewise affine map ends it. Pointwise changes commute with geometry; CLAHE nearly does.
- On a gray film hue and saturation mean nothing; of their transform the shift in value is left.
- Beyond the film all is black, where the library mirrored: a mirrored tube is in nobody's label.
- A lens distortion below k = -0.35 is not drawn (the list allows -1): it folds the corners over, so that a line is
  seen twice. A grid distortion is scaled to fill the film, as later versions of the library do.
- Motion blur is symmetric and a downscaled block shows its middle, so that what is seen stays where its points are.
- The elastic transform's displacement (alpha 3, sigma 50) is below 0.1 px; what it did in 2021 it did by moving three
  points by up to 50 px (at 640 px), and so it does here. Later versions of the library dropped that part.
- The piecewise affine map moves a mesh of 4 x 4 points and is affine between them, as imgaug's. albumentations 2
  moves them by a third of that and blends between them otherwise. The list gives it no probability: 0.5, the default.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal, NamedTuple, assert_never, get_args

import numpy as np
from pydantic import AfterValidator, ValidationError
from pydantic.dataclasses import dataclass

from cxrlines.augment import intensity, warp
from cxrlines.core.text import did_you_mean
from cxrlines.core.transform import Sides, Size, height_width, size_text

Filter = Literal["clahe", "degrade", "coarsen", "sharpen", "cutout"]
"""What changes grays by more than the gray of their own pixel."""
GrayTransform = Literal["value", "brightness_contrast", Filter, "gamma", "invert"]
"""What changes grays: each is drawn with the probability that the field of its name says."""
ORDER: tuple[GrayTransform, ...] = get_args(GrayTransform)
"""That of the write-up; what its list has not comes last."""


def _within(low: float, high: float) -> AfterValidator:
    """Bounds of a number, or of every number of a range or a list."""

    def check(given: Any) -> Any:
        if not all(low <= number <= high for number in (given if isinstance(given, tuple) else (given,))):
            raise ValueError(f"allowed: {low:g} to {high:g}")
        return given

    return AfterValidator(check)


def _ascending(ends: tuple[Any, Any]) -> tuple[Any, Any]:
    if ends[0] > ends[1]:
        raise ValueError("a range is [low, high]: the lower end comes first")
    return ends


def _odd(sides: tuple[int, ...]) -> tuple[int, ...]:
    if not sides or not all(side % 2 for side in sides):
        raise ValueError("allowed: one or more odd numbers")
    return sides


def _each_once(order: tuple[GrayTransform, ...]) -> tuple[GrayTransform, ...]:
    if twice := [name for name in order if order.count(name) > 1]:
        raise ValueError(f"{twice[0]} is named twice; each is done at most once")
    return order


Probability = Annotated[float, _within(0, 1)]
Range = Annotated[tuple[float, float], AfterValidator(_ascending)]


class Augmented(NamedTuple):
    """A film (h, w) uint8 as a model sees it; and `points`, for each array given, (n, 2) float64 [x, y] px of it.

    Points that left the film lie outside.
    """

    film: np.ndarray
    points: list[np.ndarray]


@dataclass(frozen=True)
class Policy:
    """Probabilities and ranges of an augmentation; calling it augments a film. The default changes nothing.

    A field named like a transform is its probability; a range is drawn from uniformly. Sizes in px are px of the
    augmented film, shares are of its width and height. `pydantic.ValidationError` for a value out of its bounds.
    """

    size: Annotated[Size, Sides(16, 8192)]
    # Geometry, in one resampling, before all changes of gray. The crop is always done.

    # area of the random crop, as a share of the film; aspect ratio 3:4 to 4:3 where that fits
    crop_area: Annotated[Range, _within(0.05, 1)] = (1.0, 1.0)
    flip: Probability = 0.0  # probability of a left-right flip
    shift_scale_rotate: Probability = 0.0  # probability of shift, scale and rotation together
    shift: Annotated[float, _within(0, 1)] = 0.0625  # largest shift in x and y, as a share of width and height
    scale: Annotated[float, _within(0, 0.9)] = 0.1  # largest change of scale, up or down, as a share
    rotate: Annotated[float, _within(0, 180)] = 45.0  # largest rotation in degrees, either way
    distort: Probability = 0.0  # probability of one of optical, grid and elastic distortion
    lens: Annotated[Range, _within(-0.35, 10)] = (-0.35, 1.0)  # coefficient k of the optical distortion
    grid_steps: Annotated[int, _within(1, 64)] = 5  # rows and columns of the grid distortion
    # grid distortion: cells are 1 - limit to 1 + limit times as wide and high
    grid_limit: Annotated[float, _within(0, 1)] = 1.0
    elastic_alpha: Annotated[float, _within(0, 1000)] = 3.0  # strength of the elastic distortion in px
    elastic_sigma: Annotated[float, _within(warp.SPACING, 1000)] = 50.0  # smoothing of the elastic distortion in px
    # largest shift of the three points of the affine part of the elastic distortion, as a share of the shorter side
    elastic_affine: Annotated[float, _within(0, 0.15)] = 50 / 640
    piecewise_affine: Probability = 0.0  # probability of PiecewiseAffine
    piecewise_mesh: Annotated[int, _within(2, 32)] = 4  # control points a side of PiecewiseAffine
    # standard deviation of the shift of control points, as a share of the side
    piecewise_scale: Annotated[Range, _within(0, 0.25)] = (0.03, 0.05)
    # Grays
    # the order of the changes of gray; what it does not name is never done
    order: Annotated[tuple[GrayTransform, ...], AfterValidator(_each_once)] = ORDER
    value: Probability = 0.0  # probability of a constant added to all gray levels
    value_shift: Annotated[float, _within(0, 255)] = 10.0  # largest constant, either way, in gray levels
    brightness_contrast: Probability = 0.0  # probability of a change of brightness and contrast
    brightness: Annotated[float, _within(0, 1)] = 0.2  # largest change of brightness, either way, as a share of white
    contrast: Annotated[float, _within(0, 1)] = 0.2  # largest change of contrast, either way, as a factor around 1
    clahe: Probability = 0.0  # probability of CLAHE (contrast-limited adaptive histogram equalisation)
    clahe_clip: Annotated[Range, _within(0.1, 100)] = (1.0, 4.0)  # clip limit of CLAHE
    degrade: Probability = 0.0  # probability of one of Gaussian noise, Gaussian blur, motion blur and median blur
    noise_variance: Annotated[Range, _within(0, 10_000)] = (10.0, 50.0)  # variance of the noise, in gray levels squared
    # sides of the blur kernels in px
    blur_kernels: Annotated[tuple[int, ...], _within(3, 31), AfterValidator(_odd)] = (3, 5, 7)
    coarsen: Probability = 0.0  # probability of one of JPEG compression and downscaling
    # quality of the JPEG compression
    jpeg_quality: Annotated[tuple[int, int], AfterValidator(_ascending), _within(1, 100)] = (99, 100)
    # scale to which the film is shrunk before it is enlarged again
    downscale: Annotated[Range, _within(0.05, 1)] = (0.1, 0.15)
    sharpen: Probability = 0.0  # probability of sharpening
    sharpen_alpha: Annotated[Range, _within(0, 1)] = (0.2, 0.5)  # weight of the sharpened film against the original
    # lightness of the sharpened film, added to the centre weight of the 3 x 3 kernel
    sharpen_lightness: Annotated[Range, _within(0, 10)] = (0.5, 1.0)
    cutout: Probability = 0.0  # probability of black squares cut out
    cutout_holes: Annotated[int, _within(1, 1000)] = 5  # number of squares
    # largest side of a square, as a share of the film's shorter side
    cutout_side: Annotated[float, _within(0, 1)] = 0.1
    gamma: Probability = 0.0  # probability of a gamma change
    gammas: Annotated[Range, _within(0.1, 10)] = (0.6, 1.7)  # exponent of the gamma change
    invert: Probability = 0.0  # probability that black and white are exchanged

    def __call__(self, film: np.ndarray, rng: np.random.Generator, points: Sequence[np.ndarray] = ()) -> Augmented:
        """Augments a film, and moves the points on it in the same way.

        Args:
            film: (h, w) uint8; the augmented film spans it, stretched where it is not square.
            rng: draws the augmentation; the same state gives the same draw whatever points there are.
            points: arrays (n, 2) [x, y] px of `film`, pixel centres at whole numbers.

        Raises:
            ValueError: for an array of another type or shape.
        """
        if film.dtype != np.uint8 or film.ndim != 2:
            given = f"{film.dtype} {film.shape}"
            raise ValueError(f"film: {given}; it must be uint8 (height, width): one channel, 0-255")
        for i, line in enumerate(points):
            if np.ndim(line) != 2 or np.shape(line)[1] != 2:
                raise ValueError(f"points[{i}]: shape {np.shape(line)}; it must be (n, 2), [x, y] in px")
        the_warp, _ = self.draw_warp(rng, film.shape[0], film.shape[1])
        moved = the_warp.resample(film)
        ends = np.cumsum([len(line) for line in points])
        places = np.split(the_warp.move(np.concatenate([np.empty((0, 2)), *points])), ends)[:-1]  # all at once: faster
        return Augmented(self.change_grays(moved, rng), places)

    def draw_warp(self, rng: np.random.Generator, height: int, width: int) -> tuple[warp.Warp, bool]:
        """Draws the geometry for a film of `height` x `width` px: the map, and whether it flips the film."""
        size = self.size
        height_out, width_out = height_width(size)
        matrix = warp.crop(_draw_box(rng, height, width, self.crop_area), size)
        distortions: list[warp.Pull] = []
        flipped = rng.random() < self.flip
        if flipped:
            matrix = matrix @ warp.mirror(size)
        if rng.random() < self.shift_scale_rotate:
            shift = rng.uniform(-self.shift, self.shift, 2)
            scale = 1 + _between(rng, -self.scale, self.scale)
            degrees = _between(rng, -self.rotate, self.rotate)
            matrix = matrix @ warp.shift_scale_rotate(size, (shift[0], shift[1]), scale, degrees)
        if rng.random() < self.piecewise_affine:
            spread = _between(rng, *self.piecewise_scale) * np.array([width_out, height_out])
            jitter = rng.normal(0, spread, (self.piecewise_mesh, self.piecewise_mesh, 2))
            distortions.append(warp.piecewise_affine(size, jitter))
        if rng.random() < self.distort:
            match rng.integers(3):
                case 0:
                    distortions.append(warp.optical(size, _between(rng, *self.lens)))
                case 1:
                    steps = 1 + rng.uniform(-self.grid_limit, self.grid_limit, (2, self.grid_steps))
                    distortions.append(warp.grid(size, steps[0], steps[1]))
                case _:
                    distortions.append(warp.elastic(size, self.elastic_alpha, self.elastic_sigma, rng))
                    reach = self.elastic_affine * min(height_out, width_out)
                    matrix = matrix @ warp.three_point(size, rng.uniform(-reach, reach, (3, 2)))
        return warp.Warp(size, matrix, tuple(distortions)), flipped

    def change_grays(self, film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws and applies what changes grays to a film (h, w) uint8, in `order`; nothing moves.

        Pointwise changes in a row are one table. The film given is left as it is, and returned if nothing is drawn.
        """
        tones = intensity.SAME
        for name in self.order:
            if rng.random() >= getattr(self, name):
                continue
            match name:
                case "value":
                    tones = intensity.tone_table(_between(rng, -self.value_shift, self.value_shift))[tones]
                case "brightness_contrast":
                    brightness = _between(rng, -self.brightness, self.brightness)
                    contrast = _between(rng, -self.contrast, self.contrast)
                    tones = intensity.tone_table(0.0, brightness, contrast)[tones]
                case "gamma":
                    tones = intensity.gamma_table(_between(rng, *self.gammas))[tones]
                case "invert":
                    tones = 255 - tones
                case _:
                    film, tones = self._filter(name, intensity.by_table(film, tones), rng), intensity.SAME
        return intensity.by_table(film, tones)

    def _filter(self, name: Filter, film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws and applies a filter."""
        match name:
            case "clahe":
                return intensity.equalise(film, _between(rng, *self.clahe_clip))
            case "degrade":
                kernel = self.blur_kernels[rng.integers(len(self.blur_kernels))]
                match rng.integers(4):
                    case 0:
                        return intensity.add_noise(film, _between(rng, *self.noise_variance) ** 0.5, rng)
                    case 1:
                        return intensity.gaussian_blur(film, kernel)
                    case 2:
                        return intensity.motion_blur(film, kernel, _between(rng, 0, 180))
                return intensity.median_blur(film, kernel)
            case "coarsen":
                if rng.random() < 0.5:
                    return intensity.jpeg(film, int(rng.integers(*self.jpeg_quality, endpoint=True)))
                return intensity.downscale(film, _between(rng, *self.downscale))
            case "sharpen":
                alpha, lightness = _between(rng, *self.sharpen_alpha), _between(rng, *self.sharpen_lightness)
                return intensity.sharpen(film, alpha, lightness)
            case "cutout":
                height, width = height_width(self.size)
                side = int(self.cutout_side * min(height, width))
                most = np.array([width - side, height - side])
                corners = rng.integers(0, most, (self.cutout_holes, 2), endpoint=True)
                return intensity.cut_out(film, corners, side)
            case _:
                assert_never(name)


_HOTWATER: dict[str, Any] = {
    "crop_area": (0.9, 1.0), "flip": 0.5, "shift_scale_rotate": 0.5, "value": 0.7, "brightness_contrast": 0.7,
    "clahe": 0.5, "distort": 0.2, "degrade": 0.2, "coarsen": 0.2, "piecewise_affine": 0.5,
}  # fmt: skip

POLICIES: dict[str, dict[str, Any]] = {
    # The film shrunk to size.
    "none": {},
    # That of the public three-stage kernel.
    "light": {"crop_area": (0.85, 1.0), "flip": 0.5},
    # The list of the silver solution's write-up.
    "hotwater": _HOTWATER,
    # With the two that its code has and its write-up has not.
    "hotwater-code": _HOTWATER | {"sharpen": 0.2, "cutout": 0.5},
    # For films of other hospitals: what varies between machines, archives and figures of papers, and nothing that would
    # bend a line.
    "wild": {
        "crop_area": (0.6, 1.0), "shift_scale_rotate": 0.7, "shift": 0.08, "scale": 0.2, "rotate": 12.0,
        "brightness_contrast": 0.6, "brightness": 0.15, "contrast": 0.4, "clahe": 0.25, "clahe_clip": (1.0, 3.0),
        "degrade": 0.4, "noise_variance": (4.0, 150.0), "blur_kernels": (3,), "coarsen": 0.2, "jpeg_quality": (40, 95),
        "downscale": (0.5, 0.8), "sharpen": 0.2, "cutout": 0.15, "cutout_side": 0.08, "gamma": 0.6, "invert": 0.05,
    },
}  # fmt: skip
"""What each named policy sets; everything else is as in `Policy`."""


PARAMETERS: dict[str, tuple[str, ...]] = {
    "shift_scale_rotate": ("shift", "scale", "rotate"),
    "distort": ("lens", "grid_steps", "grid_limit", "elastic_alpha", "elastic_sigma", "elastic_affine"),
    "piecewise_affine": ("piecewise_mesh", "piecewise_scale"),
    "value": ("value_shift",),
    "brightness_contrast": ("brightness", "contrast"),
    "clahe": ("clahe_clip",),
    "degrade": ("noise_variance", "blur_kernels"),
    "coarsen": ("jpeg_quality", "downscale"),
    "sharpen": ("sharpen_alpha", "sharpen_lightness"),
    "cutout": ("cutout_holes", "cutout_side"),
    "gamma": ("gammas",),
}
"""The parameters of each transform: they do nothing where its probability is 0."""


def make_policy(augment: str | Mapping[str, Any], size: Size, *, flip: bool = True) -> Policy:
    """The policy that a recipe says, for augmented films of `size`.

    Args:
        augment: a name in `POLICIES`; or a mapping whose `policy` is such a name, and whose other entries are fields of
            `Policy`, set instead of the policy's own.
        size: of the augmented films, each side 16 px or more.
        flip: False forbids left-right flips, which swap the patient's sides.

    Raises:
        ValueError: for what a recipe may not say, from `augment` on, the path of the field; or a smaller size.
    """
    changed = {} if isinstance(augment, str) else dict(augment)
    name, path = (augment, "augment") if isinstance(augment, str) else (changed.pop("policy", None), "augment.policy")
    if name not in POLICIES:
        raise ValueError(f"{path} is {name!r}; allowed: {', '.join(POLICIES)}{did_you_mean(name, POLICIES)}")
    if min(height_width(size)) < 16:
        raise ValueError(f"size of augmented films: {size_text(size)}; it must be 16 or more")
    known = [field.name for field in fields(Policy) if field.name != "size"]
    for field in changed:
        if field not in known:
            near = did_you_mean(field, known)
            raise ValueError(f"augment.{field}: there is no such field; allowed: policy, {', '.join(known)}{near}")
        given = changed[field] if isinstance(changed[field], list | tuple) else [changed[field]]
        if any(isinstance(value, bool) for value in given):  # it would count as 1 or 0
            raise ValueError(f"augment.{field} is {str(changed[field]).lower()}; must be a number")
    try:
        policy = Policy(size, **POLICIES[name] | ({} if flip else {"flip": 0.0}) | changed)
    except ValidationError as error:
        raise ValueError(_first_problem(error)) from None
    if policy.flip and not flip:
        raise ValueError(f"augment.flip is {policy.flip:g}, but flip is false: leave out one of them")
    if undone := [name for name in ORDER if name not in policy.order and changed.get(name)]:
        raise ValueError(f"augment.{undone[0]} is {changed[undone[0]]}, but augment.order leaves {undone[0]} out")
    _refuse_idle(policy, Policy(size, **POLICIES[name]), changed)
    return policy


def _refuse_idle(policy: Policy, usual: Policy, changed: Mapping[str, Any]) -> None:
    """`ValueError` where a parameter is changed from the usual policy's, and its transform is never drawn."""
    for transform, parameters in PARAMETERS.items():
        left_out = transform in ORDER and transform not in policy.order
        if getattr(policy, transform) and not left_out:
            continue
        for name in parameters:
            if getattr(policy, name) != getattr(usual, name):
                if left_out:
                    why, way_out = f"augment.order leaves {transform} out", f"name {transform} there"
                else:
                    why, way_out = f"the probability augment.{transform} is 0", "make it above 0"
                raise ValueError(
                    f"augment.{name} is {changed[name]}, but {why}, so that it changes nothing: {way_out}, or leave "
                    f"{name} out"
                )


def _first_problem(error: ValidationError) -> str:
    """The path and value of the first field that does not fit, and what is allowed."""
    first = error.errors()[0]
    path = ".".join(map(str, first["loc"]))
    near = did_you_mean(first["input"], ORDER) if first["type"] == "literal_error" else ""
    return f"augment.{path} is {first['input']!r}; {first['msg'].removeprefix('Value error, ')}{near}"


_LONG = math.log(4 / 3)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between two: what `rng.uniform` gives, in a third of its time."""
    return low + (high - low) * rng.random()


def _draw_box(rng: np.random.Generator, height: int, width: int, area: Range) -> warp.Box:
    """A box (left, top, right, bottom) in px that takes a share of the film's area, aspect ratio 3:4 to 4:3.

    Its edges lie between pixels. Ten tries, then the whole film: what RandomResizedCrop does. (Of a film longer than
    4:3 that transform would then take the middle.)
    """
    if area[0] < 1:
        for _ in range(10):
            taken = _between(rng, *area) * height * width
            ratio = math.exp(_between(rng, -_LONG, _LONG))
            across, down = max(1, round(math.sqrt(taken * ratio))), max(1, round(math.sqrt(taken / ratio)))
            if across <= width and down <= height:
                left, top = int(rng.random() * (width - across + 1)), int(rng.random() * (height - down + 1))
                return left, top, left + across, top + down
    return 0.0, 0.0, float(width), float(height)
