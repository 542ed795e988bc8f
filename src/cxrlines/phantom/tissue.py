"""Attenuation of the patient: soft tissue on a third of the px a side, bones, airway and vessels on half.

Values are natural-log attenuation along the beam: 0.19 / cm for soft tissue at portable-film energies, air-filled
lung about a quarter of that, 0.3 / cm more for bone.
"""

import cv2
import numpy as np

from cxrlines.core.polyline import Points
from cxrlines.phantom.anatomy import Anatomy
from cxrlines.phantom.canvas import Coverage, Field, Raster, attenuation, blob, smooth

WATER = 0.19  # / cm: that of water at about 70 keV (NIST XCOM: 0.206 at 60, 0.184 at 80)
AIR_IN_LUNG = 0.14  # soft tissue minus lung, / cm

# Along the beam, cm. Fat is that of `Anatomy`: 0 lean to 1 obese.
_TRUNK, _TRUNK_FAT = (17.5, 20.5), 5  # thickness of a lean trunk, and what fat adds
_SKIN = 0.12  # share of the trunk's thickness that begins at its outline as a step
_ARM = (12, 16)
_LUNG, _LUNG_FAT = (11.5, 14.5), 1.5  # and what fat takes away
_HEART, _GREAT_VESSELS = (0.58, 0.8), (0.6, 0.78)  # shares of the lung's thickness whose air they replace

# On the film, cm.
_ARM_WIDTH, _ARM_WIDTH_FAT = 8.0, 4
_AORTA = 2.3
_RIB_BEHIND, _RIB_BEHIND_SHELL = 1.05, 0.17  # a rib's width, and its cortex along each edge
_RIB_AHEAD, _RIB_AHEAD_SHELL = 1.2, 0.14
_CLAVICLE, _CLAVICLE_SHELL = 1.1, 0.15
_TRACHEA, _RIGHT_BRONCHUS, _LEFT_BRONCHUS = 1.75, 1.3, 1.15

# Attenuation that is added or taken away at most, natural log.
_AORTIC_ARCH = 0.16  # with a knob of normal size
_BELLY, _STOMACH_GAS, _BOWEL_GAS = (0.15, 0.4), (0.15, 0.5), (0.08, 0.35)
_CONSOLIDATION, _OEDEMA, _HAZE, _EFFUSION = (0.22, 0.85), (0.0, 1.0), (0.08, 0.32), (0.4, 1.5)
_RIB, _CLAVICLE_BONE, _SCAPULA, _HUMERUS, _SPINE, _VERTEBRA = (0.26, 0.46), 0.45, 0.4, 0.45, (0.18, 0.42), 0.4
_AIRWAY, _VESSEL, _WALL_FAT = (0.24, 0.38), (0.2, 0.38), (0.1, 0.3)

_GASTRIC_BUBBLE = 0.75  # share of films
# Mean number of patches, and shares of films, with the most disease; in proportion with less.
_PATCHES, _HAZY, _EFFUSIONS = 2.2, 0.5, 0.45
_VERTEBRAE = 23


def soft_tissue(grid: Raster, anatomy: Anatomy, disease: float, rng: np.random.Generator) -> tuple[Field, Field]:
    """Attenuation of the soft tissue, and the share of aerated lung at each px (0-1)."""
    u = rng.uniform
    body = grid.fill(anatomy.body_outline(), blur=0.1)
    depth = u(*_TRUNK) + _TRUNK_FAT * anatomy.fat
    # Skin meets the air at a step, the trunk is rounded behind it.
    field = body.astype(np.float32) * np.float32(_SKIN / 255 * WATER * depth)
    field += grid.blur(grid.dome(body, 4.0), 0.2) * np.float32((1 - _SKIN) * WATER * depth)
    for side in (-1, 1):
        arm = grid.stroke(grid.blank(), [anatomy.arm_axis(side)], _ARM_WIDTH + _ARM_WIDTH_FAT * anatomy.fat, 255)
        field = np.maximum(field, grid.blur(grid.dome(arm, 2.5), 0.2) * np.float32(WATER * u(*_ARM)))
    lungs = [grid.fill(anatomy.lung(side), blur=0.07) for side in (-1, 1)]
    lung = cv2.max(*lungs)
    thickness = u(*_LUNG) - _LUNG_FAT * anatomy.fat
    air = grid.blur(grid.dome(lung, 2.4), 0.26) * (1 - _mediastinum(grid, anatomy, rng))
    field -= air * np.float32(AIR_IN_LUNG * thickness)
    _aorta(grid, anatomy, field)
    _abdomen(grid, anatomy, field, rng)
    if anatomy.breasts:
        _breasts(grid, anatomy, field, rng)
    aerated = attenuation(lung, 1)
    full = [side.astype(np.float32) * air * np.float32(1 / 255) for side in lungs]
    _opacities(grid, anatomy, field, full, disease, rng)
    field += grid.clouds(rng, 4) * np.float32(0.05)
    field += grid.clouds(rng, 14, 3) * (np.float32(0.018) + aerated * np.float32(0.03))
    return np.maximum(field, 0.0), aerated


def _mediastinum(grid: Raster, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """The share of the lung's thickness that heart and great vessels take."""
    heart = grid.blur(grid.dome(grid.fill(anatomy.heart_outline()), 2.4), 0.16)
    great = grid.blur(grid.dome(grid.fill(anatomy.mediastinum_outline()), 2.2), 0.14)
    return np.maximum(heart * np.float32(rng.uniform(*_HEART)), great * np.float32(rng.uniform(*_GREAT_VESSELS)))


def _aorta(grid: Raster, anatomy: Anatomy, field: Field) -> None:
    knob = 1.9 + 0.75 * anatomy.knob
    arch = smooth([(0.3, -2.6), (knob - 0.4, -2.4), (knob, -0.6), (2.5, 4), (1.6, 13)])
    aorta = grid.stroke(grid.blank(), [arch], _AORTA, 255)
    field += attenuation(grid.blur(aorta, 0.22), _AORTIC_ARCH * anatomy.knob)


def _abdomen(grid: Raster, anatomy: Anatomy, field: Field, rng: np.random.Generator) -> None:
    u = rng.uniform
    right, left = anatomy.dome_right, anatomy.dome_left
    low = max(right, left)
    top = [(-15, right + 6), (-12, right + 3), (-7, right), (0, low + 1), (7, left), (12, left + 3), (15, left + 6)]
    belly = grid.fill(smooth([*top, (24, 40), (-24, 40)], closed=True), blur=0.25)
    field += attenuation(belly, u(*_BELLY))
    if rng.random() < _GASTRIC_BUBBLE:
        centre = (anatomy.junction[0] + u(3.0, 5.6), anatomy.junction[1] + u(0.8, 2.6))
        bubble = grid.fill(blob(rng, centre, (u(1.5, 3.4), u(0.8, 2.2)), 0.1), blur=0.14)
        field -= attenuation(bubble, u(*_STOMACH_GAS))
    for _ in range(rng.integers(0, 8)):
        centre = (u(-11, 12), u(low + 4.5, low + 13))
        gas = grid.fill(blob(rng, centre, (u(0.7, 2.6), u(0.6, 1.5)), 0.14), blur=0.16)
        field -= attenuation(gas, u(*_BOWEL_GAS))


def _breasts(grid: Raster, anatomy: Anatomy, field: Field, rng: np.random.Generator) -> None:
    for side in (-1, 1):
        size = anatomy.breasts * rng.uniform(0.85, 1.15)
        centre = (side * (8.6 + 1.5 * size), 7.2 + 2.5 * size)
        breast = grid.fill(blob(rng, centre, (4.2 + 1.8 * size, 4.0 + 2.2 * size), 0.03))
        field += grid.blur(grid.dome(breast, 3.5), 0.15) * np.float32(0.16 + 0.3 * size)


def _opacities(
    grid: Raster, anatomy: Anatomy, field: Field, lungs: list[Field], disease: float, rng: np.random.Generator
) -> None:
    """Patches of consolidation, oedema from the hila, effusions and basal collapse.

    `lungs` is the share of air there is to replace on each side, `disease` 0-1.
    """
    u = rng.uniform
    both = np.maximum(*lungs)
    texture = 1 + 0.4 * grid.clouds(rng, 22, 2)
    for _ in range(rng.poisson(_PATCHES * disease)):
        patch = grid.fill(blob(rng, (rng.choice([-1, 1]) * u(4, 11), u(-5, 11)), (u(1.2, 4.5), u(1.2, 4.5)), 0.2))
        patch = grid.blur(patch, u(0.6, 1.5))
        field += patch.astype(np.float32) * both * texture * np.float32(u(*_CONSOLIDATION) / 255)
    field += both * np.float32(disease * u(*_OEDEMA))  # oedema, expiration, a veil of both
    if rng.random() < _HAZY * disease:
        haze = grid.clouds(rng, 9, 3)
        field += both * np.maximum(haze + 0.5, 0) * texture * np.float32(u(*_HAZE))
    for side, lung in zip((-1, 1), lungs, strict=True):
        if rng.random() < _EFFUSIONS * disease:
            level = (anatomy.dome_right if side < 0 else anatomy.dome_left) - u(-2.5, 5)
            start, end = (side * u(2, 6), level + u(0, 2)), (side * 16, level - u(0, 3))
            fluid = grid.fill(np.array([start, end, (side * 17, 40), (side * 1.0, 40)]))
            fluid = grid.blur(fluid, u(0.8, 2.2))
            field += fluid.astype(np.float32) * lung * np.float32(u(*_EFFUSION) / 255)


def bones(grid: Raster, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Attenuation that ribs, clavicles, shoulder and spine add."""
    total = _ribs(grid, anatomy, rng)
    _shoulders(grid, anatomy, total)
    _spine(grid, anatomy, total, rng.uniform(*_SPINE))
    return total * np.float32(anatomy.bone)


def _cortex(grid: Raster, axes: list, width: float, shell: float) -> tuple[Coverage, Coverage]:
    """A long bone seen from the side: its whole width, and the brighter shell along both edges."""
    whole = grid.stroke(grid.blank(), axes, width, 255)
    return whole, cv2.subtract(whole, grid.stroke(grid.blank(), axes, width - 2 * shell, 255))


def _ribs(grid: Raster, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    total = np.zeros(grid.shape, np.float32)
    ribs = anatomy.ribs()
    # Even and odd ribs apart, so that neighbours add up where they overlap at the flank.
    for parity in (0, 1):
        back = [behind for k, (behind, _) in enumerate(ribs) if k // 2 % 2 == parity]
        front = [ahead for k, (_, ahead) in enumerate(ribs) if k // 2 % 2 == parity and len(ahead)]
        whole, shell = _cortex(grid, back, _RIB_BEHIND, _RIB_BEHIND_SHELL)
        total += grid.blur(cv2.addWeighted(whole, 0.34, shell, 0.2, 0), 0.1).astype(np.float32)
        whole, shell = _cortex(grid, front, _RIB_AHEAD, _RIB_AHEAD_SHELL)
        total += grid.blur(cv2.addWeighted(whole, 0.2, shell, 0.1, 0), 0.16).astype(np.float32)
    wall = grid.blank()
    y = np.linspace(anatomy.apex + 1.0, anatomy.dome_right + 5, 20)
    for side in (-1, 1):
        grid.stroke(wall, [np.stack([side * (anatomy.cage(y) + 0.05), y], 1)], 0.75, 35)
    total += grid.blur(wall, 0.18)
    return total * np.float32(rng.uniform(*_RIB) / 255)


def _shoulders(grid: Raster, anatomy: Anatomy, total: Field) -> None:
    for side in (-1, 1):
        whole, shell = _cortex(grid, [anatomy.clavicle_axis(side)], _CLAVICLE, _CLAVICLE_SHELL)
        total += attenuation(grid.blur(cv2.addWeighted(whole, 0.4, shell, 0.3, 0), 0.07), _CLAVICLE_BONE)
        blade = grid.fill(anatomy.scapula(side), value=60)
        rim = grid.stroke(grid.blank(), [anatomy.scapula(side)], 0.4, 90, closed=True)
        y = anatomy.shoulder
        spine = smooth(np.array([(11.2, y + 0.2), (14, y - 1.6), (17.6, y - 2.9), (18.8, y - 2.4)]) * [side, 1])
        grid.stroke(rim, [spine], 0.55, 120)
        total += attenuation(grid.blur(cv2.add(blade, rim), 0.09), _SCAPULA)
        humerus = grid.stroke(grid.blank(), [anatomy.arm_axis(side)], 2.1, 150)
        grid.stroke(humerus, [anatomy.arm_axis(side)], 1.3, 70)
        grid.disc(humerus, anatomy.arm_axis(side)[0], 2.35, 130)
        grid.disc(humerus, anatomy.arm_axis(side)[0], 2.35, 190, pen=0.2)
        total += attenuation(grid.blur(humerus, 0.09), _HUMERUS)


def _spine(grid: Raster, anatomy: Anatomy, total: Field, seen: float) -> None:
    rng = np.random.default_rng(anatomy.detail + 1)
    level = np.arange(_VERTEBRAE)
    y = (level - 7) * anatomy.rib_gap * 1.02 + rng.normal(0, 0.05, _VERTEBRAE)
    at = np.stack([anatomy.spine(y), y], 1)[:, None]  # (vertebrae, 1, 2)
    half = (1.35 + 0.035 * level)[:, None, None]
    tall = 0.40 * anatomy.rib_gap
    unit = np.array([[-1, -0.3, 0.3, 1, 0.86, 1, 0.3, -0.3, -1, -0.86], [-1, -0.9, -0.9, -1, 0, 1, 0.9, 0.9, 1, 0]]).T
    size = np.concatenate([half, np.full_like(half, tall)], 2)
    vertebrae = at + unit * size
    bodies, marks = grid.blank(), grid.blank()
    for vertebra in vertebrae:
        grid.fill(vertebra, on=bodies, value=150)
    grid.stroke(bodies, vertebrae, 0.14, 235, closed=True)
    for side in (-1, 1):
        for pedicle in at[:, 0] + np.concatenate([side * 0.62 * half[:, 0], np.full((_VERTEBRAE, 1), -0.25)], 1):
            grid.disc(marks, pedicle, 0.36, 170, pen=0.16)
        process = np.array([(side * 0.9, -0.2), (side * 1.35, -0.4), (side * 1.75, -0.75)])
        grid.stroke(marks, at + process * np.concatenate([half, np.ones_like(half)], 2), 0.7, 75)
    # The spinous processes point backwards: a rotated patient shows them off the middle.
    grid.stroke(marks, at + np.array([(-0.3 * anatomy.yaw, -0.1), (-0.3 * anatomy.yaw, 0.75)]), 0.34, 190)
    total += attenuation(grid.blur(cv2.addWeighted(bodies, 0.7, marks, 0.7, 0), 0.11), _VERTEBRA * seen)


def airway(grid: Raster, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Attenuation the air in trachea and main bronchi takes away (positive)."""
    trachea, right, left = anatomy.airway()
    tube = grid.stroke(grid.blank(), [trachea], _TRACHEA, 255)
    grid.stroke(tube, [right], _RIGHT_BRONCHUS, 215)
    grid.stroke(tube, [left], _LEFT_BRONCHUS, 195)
    return attenuation(grid.blur(tube, 0.14), rng.uniform(*_AIRWAY))


def vessels(grid: Raster, rng: np.random.Generator) -> Field:
    """Attenuation of the pulmonary vessels: trees that branch and thin out from the hila, and the hila themselves."""
    image, soft = grid.blank(), grid.blank()
    for side in (-1, 1):
        trunk, twigs = _vessel_tree(side, rng)
        grid.stroke(image, twigs, 0.16, 60)
        grid.stroke(image, trunk[:, 4:], 0.2, 95)
        grid.stroke(image, trunk[:, 1:6], 0.32, 125)
        grid.stroke(image, trunk[:, :3], 0.62, 150)
        grid.stroke(soft, trunk[:, :2], 1.3, 120)
        grid.disc(image, trunk[3, 1], 0.3, 190, pen=0.12)  # a bronchus seen end on
    drawn = grid.blur(image, 0.06).astype(np.float32) + grid.blur(soft, 0.5).astype(np.float32)
    return drawn * np.float32(rng.uniform(*_VESSEL) / 255)


def _vessel_tree(side: int, rng: np.random.Generator) -> tuple[Points, Points]:
    """Courses in nominal cm of the vessels of a lung: (11, 9, 2) from the hilum outwards, and (154, 5, 2) of twigs."""
    trunks, steps, forks = 11, 9, 7
    hilum = np.array([side * 3.6, 1.7 if side < 0 else 0.9])
    heading = np.linspace(-1.35, 1.5, trunks) + rng.normal(0, 0.1, trunks)  # radians, from upwards to downwards
    turn = heading[:, None] + np.cumsum(rng.normal(0, 0.16, (trunks, steps)), 1)
    step = rng.uniform(0.8, 1.3, (trunks, 1, 1)) * np.stack([side * np.cos(turn), np.sin(turn)], 2)
    trunk = hilum + rng.normal(0, [0.4, 0.8], (trunks, 1, 2)) + np.cumsum(step, 1)
    twigs = []
    for _ in range(2):
        angle = rng.choice([-1, 1], (trunks, forks)) * rng.uniform(0.3, 0.9, (trunks, forks))
        bend = (turn[:, 1:8] + angle)[..., None] + np.cumsum(rng.normal(0, 0.2, (trunks, forks, 4)), 2)
        twig = np.stack([side * np.cos(bend), np.sin(bend)], 3) * rng.uniform(0.4, 0.85, (trunks, forks, 1, 1))
        start = trunk[:, 1:8, None]
        twigs.append(np.concatenate([start, start + np.cumsum(twig, 2)], 2).reshape(-1, 5, 2))
    return trunk, np.concatenate(twigs)


def chest_wall(grid: Raster, anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Attenuation of what lies in folds along the flanks: fat between muscles (negative) and skin folds."""
    image = grid.blank()
    y = np.linspace(anatomy.shoulder + 4, anatomy.dome_right + 8, 14)
    for side in (-1, 1):
        for out in np.cumsum(rng.uniform(0.5, 1.1, 3)):
            drift = np.linspace(0, rng.normal(0.6, 0.6), 14)
            fold = np.stack([side * (anatomy.cage(y) + 0.6 + out + drift), y], 1)
            first = int(rng.integers(0, 6))
            grid.stroke(image, [smooth(fold[first:])], rng.uniform(0.12, 0.4), 120)
        armpit = smooth([(side * 21, anatomy.shoulder + 5), (side * 16.5, anatomy.shoulder + 6.5), (side * 14, 4)])
        grid.stroke(image, [armpit], 0.3, 90)
    return attenuation(grid.blur(image, 0.12), -rng.uniform(*_WALL_FAT))
