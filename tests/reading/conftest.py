"""What a perfect reader would give: maps drawn from the truth of phantom scenes, whole or spoilt."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from cxrlines.core.findings import Line
from cxrlines.core.heatmaps import draw_maps, to_map
from cxrlines.core.polyline import on_film
from cxrlines.core.transform import Affine
from cxrlines.io.prepare import shrink
from cxrlines.phantom.scene import Scene, make_scene
from cxrlines.task import MAPS, Device, MapKind

SIZE = 384


def scene_of(seed: int, size: int = 768) -> Scene:
    return make_scene([seed, 1], [seed, 1, 0], size=size, balance="even", site="a")


def true_lines(scene: Scene) -> list[Line]:
    shape = scene.view.shape
    return [
        Line(line.placed.device, line.path, line.path[-1] if on_film(line.path[-1], shape) else None)
        for line in scene.lines
    ]


def maps_of(scene: Scene, aspect: str = "stretch") -> tuple[np.ndarray, Affine]:
    placement = shrink(np.zeros(scene.view.shape, np.uint8), SIZE, aspect)[1]
    lines = [(line.label, placement.from_film(line.path)) for line in scene.lines]
    return draw_maps(lines, [placement.from_film(scene.landmarks.carina[None])[0]], SIZE), placement


def spoilt(maps: np.ndarray, seed: int) -> np.ndarray:
    """Blurred, noisy, of lower probability, and with a gap of 2 to 6 % of the side in each line."""
    rng = np.random.default_rng(seed)
    out = maps.copy()
    for channel, (kind, _) in zip(out, MAPS, strict=True):
        rows, columns = np.nonzero(channel[20:] > 0.5)
        if kind is MapKind.LINE and len(rows):
            k = rng.integers(len(rows))
            radius = rng.uniform(0.01, 0.03) * len(channel)
            cv2.circle(channel, (int(columns[k]), int(rows[k]) + 20), round(radius), 0.0, -1)
    out = np.stack([cv2.GaussianBlur(channel, (0, 0), 1.2) for channel in out])
    return np.clip(out + np.abs(rng.normal(0, 0.03, out.shape)), 0, 1).astype(np.float32)


def tips_in_map(scene: Scene, placement: Affine, device: Device) -> list[np.ndarray]:
    tips = [line.tip for line in true_lines(scene) if line.device is device and line.tip is not None]
    return [to_map(placement.from_film(tip[None]))[0] for tip in tips]


@pytest.fixture(scope="session")
def oracle() -> SimpleNamespace:
    return SimpleNamespace(
        scene_of=scene_of, true_lines=true_lines, maps_of=maps_of, spoilt=spoilt, tips_in_map=tips_in_map
    )
