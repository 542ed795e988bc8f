"""Devices placed into a real film at its carina and exposed onto it: attenuation adds, seen as the film sees things."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrlines.core.polyline import Points, on_film
from cxrlines.io.marks import TRACHEOSTOMY, MarkedLine
from cxrlines.phantom.backdrop import Look, trachea
from cxrlines.phantom.canvas import Field, Raster
from cxrlines.phantom.device_appearance import FINE, draw_devices, shrink
from cxrlines.phantom.distractors import draw_clutter
from cxrlines.phantom.scene import BEFORE_TIP, Line, Scene, place_all, random_state
from cxrlines.phantom.vary import Film
from cxrlines.task import Device

Mask = NDArray[np.bool_]

_ABSENT = {Device.ETT: 0.35, Device.NGT: 0.5, Device.SWAN: 0.85}  # as most errors of a reader are false positives
_CVC_COUNTS = (0.3, 0.35, 0.25, 0.1)  # shares of films with 0 to 3 catheters, those already there included
_FOLLOWS = {Device.ETT: 1.0, Device.NGT: 0.7}  # share of the way from the drawn anatomy's trachea to the film's own
_LEAST_SEEN = 8  # points of a line on the exposed part of the film, a point each `devices.STEP`

# Strengths vary log-normally: standard deviation of the logarithm. Reaches are standard deviations in cm.
_STRENGTH, _FAINT, _FAINTER = 0.25, 0.1, 0.6  # of a film's lines; of its films so many have lines so much fainter
_THINGS, _THINGS_STRENGTH = 0.2, 0.35  # of distractors: mean and deviation of the logarithm
_FOCAL_SPOT, _SPOTS = 0.02, (0.7, 1.5)  # of focal spot and movement: cm, and its range
_GRAIN_AT_MOST = 0.025  # cm: smoother grain is processing, lines there are as sharp
_DENSE = (15, 90)  # percentiles of grey between which a film counts as ever denser
_SCATTER = (0.42, 0.9)  # share of contrast lost where it is densest


def airway_of(film: Film, lines: tuple[MarkedLine, ...], carina: Points, px_per_cm: float) -> Points:
    """The axis of the trachea, (n, 2) cm around the carina in the film's axes, down to it: along a tube that lies in
    it, or looked for."""
    for line in lines:
        above = (line.path - carina) / px_per_cm
        above = above[above[:, 1] < 0]
        if line.device is Device.ETT and len(above) > 1:
            return np.vstack([above, [0, 0]])
    return trachea(film, carina, px_per_cm)


def draw_scene(
    marked: tuple[MarkedLine, ...], scene: Scene, airway: Points, seen: Mask, rng: np.random.Generator
) -> Scene:
    """The scene with devices to draw in, in states drawn evenly: none that is there already but more catheters.

    A film with a tracheal tube or a tracheostomy gets no tracheal tube. Tubes in the airway follow `airway`
    (`airway_of`), those beside it partly. A device whose end would lie where the film was not exposed
    (`seen`, (h, w)) is left away. Films are taken to be upright.
    """
    there = Counter(line.device for line in marked)
    there[Device.ETT] += sum(line.name == TRACHEOSTOMY for line in marked)
    targets = [
        (device, random_state(device, rng))
        for device, absent in _ABSENT.items()
        if not there[device] and rng.random() >= absent
    ]
    for _ in range(max(0, int(rng.choice(4, p=_CVC_COUNTS)) - there[Device.CVC])):
        targets.append((Device.CVC, random_state(Device.CVC, rng)))
    lines = place_all(targets, "ab"[int(rng.integers(2))], scene, rng)
    upright = airway @ scene.view.matrix.T / scene.view.px_per_cm  # in the patient's axes, as placed paths are
    moved = [_along(line, upright, scene) for line in lines]
    return replace(scene, lines=tuple(line for line in moved if _in_exposed(line, seen)))


def _along(line: Line, airway: Points, scene: Scene) -> Line:
    """A tube moved sideways above the carina, from the drawn anatomy's trachea to the film's own."""
    part = _FOLLOWS.get(line.placed.device, 0.0)
    if not part:
        return line
    drawn, _, _ = scene.anatomy.airway()
    own = drawn * scene.anatomy.scale
    y = line.placed.path[:, 1]
    order = np.argsort(airway[:, 1])
    found = np.interp(y, airway[order, 1], airway[order, 0]) - np.interp(y, own[:, 1], own[:, 0])
    shift = np.where(y < 0, found, 0.0) * part
    path = line.placed.path + shift[:, None] * [1, 0]
    if line.placed.device is Device.ETT:
        path = _stiff(path)
    return scene.line(replace(line.placed, path=path))


def _stiff(path: Points) -> Points:
    """A path whose bends are those of a thick tube: averaged over 2.8 cm, ends kept."""
    reach = min(3, (len(path) - 1) // 2)
    ends = np.pad(path, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    return np.stack([np.convolve(ends[:, k], np.full(2 * reach + 1, 1 / (2 * reach + 1)), "valid") for k in (0, 1)], 1)


def _in_exposed(line: Line, seen: Mask) -> bool:
    """Whether enough of a line is on the exposed part of the film, its end too if the tip is on the film."""
    inside = _at(seen, line.path)
    ends = inside[-BEFORE_TIP:].all() or not on_film(line.path[-1], seen.shape)
    return bool(ends and inside.sum() > _LEAST_SEEN)


def from_exposed(path: Points, seen: Mask) -> Points:
    """A path in px from the first point that lies on the exposed part of the film."""
    return path[int(np.argmax(_at(seen, path))) :]


def _at(seen: Mask, path: Points) -> Mask:
    x, y = np.round(path).astype(int).T
    height, width = seen.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return inside & seen[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]


def expose(
    film: Film, marked: tuple[MarkedLine, ...], seen: Mask, scene: Scene, clutter: float, rng: np.random.Generator
) -> Film:
    """The film as if devices and distractors had lain in the beam too: their attenuation adds to what is there.

    Grey is taken as affine in attenuation, with a slope from the film's own contrast (`Look`), less where the film is
    dense and scatter prevails, bending softly into its white; what is added is blurred as the film is. `marked` are the
    lines that are on the film already.
    """
    if not scene.lines and not clutter:
        return film
    look = Look.of(film)
    drawn = draw_devices(scene.view, scene.lines, rng) * np.float32(
        np.exp(rng.normal(0.0, _STRENGTH)) * (_FAINTER if rng.random() < _FAINT else 1.0)
    )
    if clutter:
        grid = Raster(scene.view, FINE, scene.anatomy.scale, exact=True)
        there = {line.placed.device for line in scene.lines} | {line.device for line in marked}
        intubated = Device.ETT in there or any(line.name == TRACHEOSTOMY for line in marked)
        things = draw_clutter(grid, scene.anatomy, clutter, rng, intubated=intubated)
        drawn += shrink(things, film.shape) * np.float32(np.exp(rng.normal(_THINGS, _THINGS_STRENGTH)))
    spot = _FOCAL_SPOT * scene.view.px_per_cm * rng.uniform(*_SPOTS)
    grain = min(look.blur, _GRAIN_AT_MOST * scene.view.px_per_cm)
    added: Field = cv2.GaussianBlur(drawn, (0, 0), max(0.35, float(np.hypot(grain, spot))))
    grey: Field = film.astype(np.float32)
    rise = added * _primary(film, rng) * np.float32(look.contrast) * seen
    room = np.maximum(np.float32(rng.uniform(look.white, 255)) - grey, 4)
    grey += room * (1 - np.exp(-rise / room))
    return np.clip(np.round(grey), 0, 255).astype(np.uint8)


def _primary(film: Film, rng: np.random.Generator) -> Field:
    """How much of an added contrast is seen at each px: less where the film is dense and scatter prevails."""
    coarse = cv2.resize(film, (max(1, film.shape[1] // 8), max(1, film.shape[0] // 8)), interpolation=cv2.INTER_AREA)
    low, high = np.percentile(coarse, _DENSE)
    dense = np.clip((coarse.astype(np.float32) - low) / max(high - low, 1.0), 0, 1)
    fade = np.float32(rng.uniform(*_SCATTER))
    return cv2.resize((1 - fade * dense) / (1 - 0.45 * fade), film.shape[::-1], interpolation=cv2.INTER_LINEAR)
