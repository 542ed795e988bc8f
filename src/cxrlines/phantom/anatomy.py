"""The anatomy of a phantom patient: numbers drawn once a patient, posed once a study, and the shapes they give.

Frame: nominal cm around the carina, x to the patient's left (the right of the film), y down. `Anatomy.scale`
turns nominal into true cm on the patient. Proportions are those of an adult in a frontal view.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from cxrlines.core.polyline import Points
from cxrlines.phantom.canvas import smooth

# Inner half-width of the rib cage, nominal cm, by height.
_CAGE_Y = np.array([-11, -9.6, -8.6, -7.2, -5, -2, 2, 6, 10, 14, 19])
_CAGE_X = np.array([3.2, 5.2, 7.2, 9.2, 11.0, 12.5, 13.4, 13.9, 14.2, 14.3, 13.6])
_PLEURA = 0.35  # cm between rib cage and lung
_RIBS = 12  # pairs
# Between these ribs (the first is 0) values are interpolated.
_RIB_DROP = [0, 1, 3, 6, 11], [3.4, 6.2, 8.8, 10.4, 9.5]  # cm from the posterior end down to the lowest point
_RIB_REACH = [0, 1, 5, 8, 11], [128, 135, 140, 132, 66]  # degrees round the cage; below 90 a rib ends behind
_RIB_JITTER = 0.12  # cm, standard deviation of a pair's height
_WOMEN = 0.42  # share of patients, as are the next two
_STERNOTOMY = 0.14  # with sternal wires
_PACEMAKER = 0.05  # or a defibrillator
_BREATH, _BREATH_SPREAD, _BREATHS = -0.2, 0.7, (-2.0, 1.2)  # cm of the domes against usual, + deeper: mean, SD, limits
_BREATH_LEFT = 0.9  # the left dome's share of that
_BREATH_JUNCTION = 0.8  # the gastro-oesophageal junction's
_BREATH_HEART = 0.05  # relative size that the heart loses a cm


@dataclass(frozen=True)
class Anatomy:
    """One patient in one breath. Lengths in nominal cm unless said otherwise."""

    width: float  # scale of x: true cm per nominal cm
    height: float  # scale of y
    fat: float  # 0 lean .. 1 obese
    breasts: float  # 0 none .. 1 large
    heart: float  # 1 = normal size
    knob: float  # aortic knob, 1 = normal
    scoliosis: float  # amplitude of the sideways curve of the spine
    trachea: float  # sideways shift of the trachea at the larynx
    apex: float  # y of the lung apices
    dome_right: float  # y of the right hemidiaphragm
    dome_left: float
    junction: tuple[float, float]  # gastro-oesophageal
    cavo_atrial: float  # y of the cavo-atrial junction
    rib_gap: float  # between neighbouring ribs at the spine
    rib_drop: float  # relative steepness of the ribs
    bone: float  # mineral density, 1 = normal
    clavicle: float  # y of its medial end
    clavicle_rise: float  # to its lateral end
    shoulder: float  # y of the humeral heads
    arm: float  # outward lean of the upper arms
    sternotomy: bool
    pacemaker: bool
    detail: int  # seed of what is the patient's own but too fine for a name (ribs, spine)
    yaw: float = 0.0  # rotation: sideways shift of what lies in front, relative to the spine
    lordotic: float = 0.0  # tilt of the beam: shift of the clavicles up (+) against the ribs

    @property
    def scale(self) -> Points:
        """(2,): true cm per nominal cm in x and y."""
        return np.array([self.width, self.height])

    def cage(self, y: ArrayLike) -> Points:
        """Inner half-width of the rib cage at heights `y`."""
        return np.interp(np.asarray(y, np.float64), _CAGE_Y, _CAGE_X)

    def lung(self, side: int) -> Points:
        """Closed outline of a lung; side -1 is the patient's right, +1 the left. Heart not taken off."""
        dome = self.dome_right if side < 0 else self.dome_left
        apex, flank = self.apex, np.array([self.apex + 1.6, -5.0, -2.0, 2.0, 6.0, dome + 0.5, dome + 3.2])
        lateral, angle = self.cage(flank) - _PLEURA, self.cage(dome + 5) - 0.45
        x = [2.2, 3.4, 5.4, *lateral, angle, 12.5, 10.6, 7.2, 4.2, 1.9, 1.5, 1.4, 1.8]
        base = [dome + 5.6, dome + 3.2, dome + 0.9, dome - 0.25, dome + 0.35, dome + 2.4]
        y = [apex + 1.6, apex + 0.2, apex - 0.2, *flank, *base, 6.0, 0.0, -5.0]
        return smooth(np.stack([x, y], 1) * [side, 1], closed=True)

    def heart_outline(self) -> Points:
        """Closed outline of the heart with the great vessels at its root."""
        right, left = 2.9 + 1.1 * self.heart, 4.9 + 3.3 * self.heart
        base = min(self.dome_right, self.dome_left) + 0.8
        crown = [left * 0.6, left * 0.97, left, left * 0.84, 3.9 + 0.5 * self.heart, 3.5, 2.9, 1.0]
        x = [-1.6, -2.6, -right * 0.93, -right, -right * 0.85, -1.0, *crown]
        down = [0.6, 2.2, self.cavo_atrial + 0.4, base - 4.4, base - 0.6]
        y = [*down, base + 1.2, base + 1.4, base - 0.2, base - 2.2, base - 4.8, 4.2, 2.2, 1.0, 0.2]
        return smooth(np.stack([x, y], 1) + np.array([self.yaw * 0.8, 0]), closed=True)

    def mediastinum_outline(self) -> Points:
        """Closed outline of the upper mediastinum: vena cava on the right, aortic knob on the left."""
        knob = 2.5 + 0.9 * self.knob
        x = [-1.9, -2.1, -2.6, -2.9, -3.0, -2.6, 2.4, 2.7, 2.6, knob, knob, 2.4, 2.4, 1.9]
        y = [-13.0, -8.0, -5.0, -2.0, 2.0, 7.0, 7.0, 2.0, 0.2, -1.2, -2.6, -4.4, -8.0, -13.0]
        return smooth(np.stack([x, y], 1) + np.array([self.yaw * 0.4, 0]), closed=True)

    def body_outline(self) -> Points:
        """Closed outline of neck, shoulders and trunk, arms left out."""
        trunk = 16.4 + 4.0 * self.fat
        neck = 5.2 + 1.2 * self.fat
        shoulder = self.shoulder
        flank = [trunk + 2.6, trunk + 0.4, trunk + 0.2, trunk + 0.8, trunk + 1.2]
        x = [neck, neck, neck + 0.8, 9.5, 17.5, 22.6, 22.0, *flank]
        top = [-30.0, -15.5, -13.0, -11.4 - self.fat, shoulder - 4.0, shoulder - 1.5, shoulder + 4.0]
        right = np.stack([x, [*top, 3.0, 7.0, 14.0, 22.0, 40.0]], 1)
        return smooth(np.vstack([right, right[::-1] * [-1, 1]]), closed=True, samples=4)

    def arm_axis(self, side: int) -> Points:
        """Axis of an upper arm from the humeral head down."""
        x = 18.6 + 0.6 * self.fat
        lean = self.arm
        axis = [(x, self.shoulder), (x + 1 + lean, self.shoulder + 6), (x + 1.6 + 3 * lean, self.shoulder + 30)]
        return smooth(np.array(axis) * [side, 1])

    def spine(self, y: ArrayLike) -> Points:
        """x of the middle of the spine at heights `y`."""
        return self.scoliosis * np.sin(np.asarray(y, np.float64) / 8.0)

    def airway(self) -> tuple[Points, Points, Points]:
        """Axes of the trachea (from the larynx to the carina), right and left main bronchus."""
        trachea = smooth([(self.trachea * 1.3, -13.5), (self.trachea, -9), (self.trachea * 0.4, -4), (0, -0.2)])
        right = smooth([(0, -0.8), (-1.4, 1.2), (-2.6, 2.6), (-3.6, 4.6)])
        left = smooth([(0, -0.8), (1.6, 1.3), (3.4, 2.6), (5.0, 3.8)])
        return trachea, right, left

    def ribs(self) -> list[tuple[Points, Points]]:
        """Axes of the ribs as (posterior part, anterior part), both sides; an anterior part may be empty (0, 2).

        A rib is an arc on the cage, seen from the front: from the spine (angle 0) round the flank (90 degrees).
        """
        rng = np.random.default_rng(self.detail)
        ribs = []
        for k in range(_RIBS):
            top = self.apex - 0.3 + self.rib_gap * k
            drop = self.rib_drop * float(np.interp(k, *_RIB_DROP))
            reach = np.deg2rad(np.interp(k, *_RIB_REACH))
            jitter = rng.normal(0, _RIB_JITTER, 2)
            for side in (-1, 1):
                half = float(self.cage(top + drop * 0.45)) + 0.25
                angle = np.linspace(np.arcsin(0.9 / half), reach, 26)
                y = top + drop * (0.52 * (1 - np.cos(angle)) - 0.10 * np.sin(2 * angle)) + jitter[0]
                arc = np.stack([side * half * np.sin(angle), y], 1)
                flank = int(np.searchsorted(angle, np.pi / 2)) + 1
                ribs.append((arc[:flank], arc[flank - 1 :] if reach > np.pi / 2 else np.empty((0, 2))))
        return ribs

    def clavicle_axis(self, side: int) -> Points:
        """Axis of a clavicle from the sternum outwards."""
        y, rise = self.clavicle - self.lordotic, self.clavicle_rise
        down = [y, y - 0.4, y - 0.2, y - 0.75 * rise, y - rise - 0.5, y - rise]
        return smooth(np.stack([[1.5, 3.6, 7.0, 11.0, 13.8, 16.8], down], 1) * [side, 1] + [self.yaw, 0])

    def scapula(self, side: int) -> Points:
        """Closed outline of a shoulder blade, medial border over the lateral lung."""
        y = self.shoulder
        outline = [(10.8, y - 1.6), (15.8, y - 1.0), (17.0, y + 1.0), (15.4, y + 3.2), (12.6, y + 11), (11.4, y + 9)]
        return smooth(np.array(outline) * [side, 1], closed=True)


def draw_patient(rng: np.random.Generator) -> Anatomy:
    """A patient, from a skewed but plausible adult population."""
    u = rng.uniform
    size = u(0.90, 1.09)
    dome_right = u(8.6, 12.2)
    dome_left = dome_right + u(0.1, 1.5)
    woman = bool(rng.random() < _WOMEN)
    return Anatomy(
        width=size * u(0.93, 1.09),
        height=size * u(0.93, 1.07),
        fat=float(rng.beta(1.6, 2.0)),
        breasts=float(u(0.25, 1.0)) if woman else 0.0,
        heart=float(np.clip(rng.normal(1.1, 0.22), 0.7, 1.65)),
        knob=u(0.55, 1.5),
        scoliosis=float(rng.normal(0, 0.4)),
        trachea=float(rng.normal(-0.1, 0.35)),
        apex=-u(8.2, 9.6),
        dome_right=dome_right,
        dome_left=dome_left,
        junction=(u(1.2, 2.3), dome_left + u(-0.4, 1.1)),
        cavo_atrial=u(3.7, 4.8),
        rib_gap=u(1.9, 2.25),
        rib_drop=u(0.95, 1.3),
        bone=u(0.6, 1.35),
        clavicle=u(-6.6, -4.2),
        clavicle_rise=u(1.2, 5.2),
        shoulder=u(-10.2, -6.0),
        arm=u(-0.4, 1.4),
        sternotomy=bool(rng.random() < _STERNOTOMY),
        pacemaker=bool(rng.random() < _PACEMAKER),
        detail=int(rng.integers(1 << 31)),
    )


def pose(patient: Anatomy, rng: np.random.Generator) -> Anatomy:
    """The patient on one day: another breath, rotation and tilt; the anatomy stays."""
    breath = float(np.clip(rng.normal(_BREATH, _BREATH_SPREAD), *_BREATHS))
    x, y = patient.junction
    return replace(
        patient,
        dome_right=patient.dome_right + breath,
        dome_left=patient.dome_left + breath * _BREATH_LEFT,
        junction=(x, y + _BREATH_JUNCTION * breath),
        heart=patient.heart * (1 - _BREATH_HEART * breath) * rng.uniform(0.97, 1.03),
        yaw=float(rng.normal(0, 0.45)),
        lordotic=float(rng.normal(0, 0.8)),
        clavicle_rise=patient.clavicle_rise + float(rng.normal(0, 0.5)),
        shoulder=patient.shoulder + float(rng.normal(0, 0.5)),
        arm=patient.arm + float(rng.normal(0, 0.2)),
    )
