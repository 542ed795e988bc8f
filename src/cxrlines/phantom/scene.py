"""A film before it is exposed: a patient in a pose, the view, the devices in place, and what is true of them."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from cxrlines.core.polyline import Points, on_film
from cxrlines.phantom.anatomy import Anatomy, draw_patient, pose
from cxrlines.phantom.canvas import View
from cxrlines.phantom.devices import CONFLUENCE, STEP, Placed, cvc_routes, place
from cxrlines.phantom.position import Landmarks, state_of
from cxrlines.task import DEVICES, LABELS, Device, State, label_of

BALANCES = ("natural", "even")
SITES = ("a", "b")
Target = tuple[Device, State]
AIMS = 12  # tries at a wanted state before the scene takes what it got
VISIBLE = 3.0  # cm of a device that must be on the film
BEFORE_TIP = 4  # last points of a path that must be on the film where its tip is: two of them are annotated

_LONG_SIDE = (34.5, 41.5)  # cm on the patient of a film's longer side
_PORTRAIT = {"a": 0.12, "b": 0.3}  # share of films, by site
_OBLONG, _ASPECTS = 0.8, (0.80, 1.0)  # share of films that need not be square, their short side by their long one
_TURN = 2.2  # degrees, standard deviation

# Shares of films; see `_natural` for where they are from.
_ETT = {State.ABNORMAL: 0.0026, State.BORDERLINE: 0.038, State.NORMAL: 0.241}
_NGT_INTUBATED, _NGT_ALONE = 0.75, 0.09  # with a tracheal tube, without
_NGT = {State.ABNORMAL: 0.034, State.BORDERLINE: 0.064, State.INCOMPLETE: 0.33, State.NORMAL: 0.572}
_CVC_COUNTS = (0.02, 0.77, 0.2, 0.01)  # of 0 to 3 catheters
_CVC = {State.ABNORMAL: 0.09, State.BORDERLINE: 0.25}  # the others are normal
_SWAN = 0.0276
_BARE = 0.05  # of the films for which no device was drawn so many stay without; the others get a catheter
_OTHER_MIX = {"a": 1.0, "b": 1.5}  # site b: so many times as many catheters in a wrong place, as few tubes

_EVEN_ABSENT = {Device.ETT: 0.25, Device.NGT: 0.2, Device.SWAN: 0.75}
_EVEN_CVC_COUNTS = (0.1, 0.6, 0.3)  # of 0 to 2 catheters


@dataclass(frozen=True, eq=False)
class Line:
    """A device on the film: where it was placed, its path in px and the label its geometry earns."""

    placed: Placed
    path: Points  # (n, 2) px, unclipped
    label: str


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything true of a film: its patient, view and devices."""

    anatomy: Anatomy
    view: View
    lines: tuple[Line, ...] = ()

    @cached_property
    def landmarks(self) -> Landmarks:
        """Where the landmarks of the anatomy lie on the film."""
        anatomy = self.anatomy

        def px(x: float, y: float) -> Points:
            return self.view.px(np.array((x, y)) * anatomy.scale)

        return Landmarks(
            carina=px(0.0, 0.0),
            vein_confluence=px(*CONFLUENCE),
            cavo_atrial=px(-2.7, anatomy.cavo_atrial),
            gastro_oesophageal=px(*anatomy.junction),
            dome_right=px(-7.0, anatomy.dome_right),
            dome_left=px(7.0, anatomy.dome_left),
            midline_upper=px(0.0, anatomy.apex),
            midline_lower=px(0.0, anatomy.dome_right),
        )

    @property
    def labels(self) -> list[int]:
        """0/1 for each of `LABELS`."""
        present = {line.label for line in self.lines}
        return [int(label in present) for label in LABELS]

    def label_of(self, device: Device, path: Points) -> str:
        """The label that the geometry of a device's path, (n, 2) px, gives it."""
        return label_of(device, state_of(device, path, self.landmarks, self.view.mm_per_px, self.view.shape))

    def line(self, placed: Placed) -> Line:
        """A placed device on the film."""
        path = self.view.px(placed.path)
        return Line(placed, path, self.label_of(placed.device, path))


def make_scene(patient_seed: list[int], study_seed: list[int], *, size: int, balance: str, site: str) -> Scene:
    """The scene of a study: the patient depends on `patient_seed` alone, everything else on `study_seed`."""
    rng = np.random.default_rng(study_seed)
    anatomy = pose(draw_patient(np.random.default_rng(patient_seed)), rng)
    scene = Scene(anatomy, _draw_view(size, site, rng))
    targets = _natural(rng, site) if balance == "natural" else _even(rng)
    return replace(scene, lines=place_all(targets, site, scene, rng))


def _draw_view(size: int, site: str, rng: np.random.Generator) -> View:
    """Field of view of a portable film: the longer side 34.5 to 41.5 cm on the patient, landscape or near square."""
    aspect = rng.uniform(*_ASPECTS) if rng.random() < _OBLONG else 1.0
    portrait = rng.random() < _PORTRAIT[site]
    long_side = rng.uniform(*_LONG_SIDE)
    shape = (size, round(size * aspect)) if portrait else (round(size * aspect), size)
    height, width = shape
    origin = np.array([width * (0.5 + rng.normal(0, 0.025)), height * rng.uniform(0.35, 0.45)])
    return View(shape, size / long_side, float(np.deg2rad(rng.normal(0, _TURN))), origin)


def place_all(targets: list[Target], site: str, scene: Scene, rng: np.random.Generator) -> tuple[Line, ...]:
    """Devices aimed at their target states; those that never come into view are left out. CVCs differ in access."""
    view = scene.view
    routes = iter(cvc_routes(rng, sum(device is Device.CVC for device, _ in targets), site))
    lower_edge = (view.shape[0] - view.origin[1]) / view.px_per_cm
    lines = []
    for device, state in targets:
        route = next(routes) if device is Device.CVC else ""
        best = None
        for _ in range(AIMS):
            line = scene.line(place(device, state, route, scene.anatomy, lower_edge, rng))
            inside = [on_film(point, view.shape) for point in line.path]
            ends = all(inside[-BEFORE_TIP:]) or (device is Device.NGT and not inside[-1])
            if ends and sum(inside) >= VISIBLE / STEP:
                best = line
                if line.label == label_of(device, state):
                    break
        if best:
            lines.append(best)
    return tuple(lines)


def _pick(rng: np.random.Generator, states: dict[State, float]) -> State | None:
    """A state with the given probability; None for what is left of 1."""
    draw = rng.random()
    for state, share in states.items():
        draw -= share
        if draw < 0:
            return state
    return None


def _natural(rng: np.random.Generator, site: str) -> list[Target]:
    """Devices at about the frequencies of the 30,083 studies of the RANZCR CLiP training table.

    There: ETT 0.3 / 3.8 / 24.1 %, NGT 0.9 / 1.8 / 9.1 / 15.9 %, CVC 10.6 / 28.1 / 70.9 %, Swan-Ganz 2.8 %, more
    than one CVC state in 12 %, no device in 0.08 %. Site b has fewer tubes and more catheters in a wrong place.
    """
    more = _OTHER_MIX[site]
    targets: list[Target] = []
    ett = _pick(rng, {state: share / more if state is State.NORMAL else share * more for state, share in _ETT.items()})
    if ett:
        targets.append((Device.ETT, ett))
    if rng.random() < (_NGT_INTUBATED if ett else _NGT_ALONE):
        targets.append((Device.NGT, _pick(rng, _NGT) or State.NORMAL))
    swan = rng.random() < _SWAN / more
    count = int(rng.choice(4, p=_CVC_COUNTS))
    if not targets and not swan and count == 0 and rng.random() > _BARE:
        count = 1
    for _ in range(count):
        cvc = _pick(rng, _CVC | {State.ABNORMAL: _CVC[State.ABNORMAL] * more}) or State.NORMAL
        targets.append((Device.CVC, cvc))
    if swan:
        targets.append((Device.SWAN, State.PRESENT))
    return targets


def _even(rng: np.random.Generator) -> list[Target]:
    """Every label on a fifth to two fifths of the films, with films that lack a device."""
    targets: list[Target] = []
    for device, absent in _EVEN_ABSENT.items():
        states = DEVICES[device].states
        if state := _pick(rng, dict.fromkeys(states, (1 - absent) / len(states))):
            targets.append((device, state))
    for _ in range(int(rng.choice(3, p=_EVEN_CVC_COUNTS))):
        targets.append((Device.CVC, random_state(Device.CVC, rng)))
    return targets


def random_state(device: Device, rng: np.random.Generator) -> State:
    """One of a device's states, all equally often."""
    states = DEVICES[device].states
    return states[int(rng.integers(len(states)))]
