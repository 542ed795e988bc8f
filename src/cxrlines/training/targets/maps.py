"""Heatmaps of lines, tips and landmarks as a training target: cross-entropy, Dice, and focal loss of keypoints."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from cxrlines.core.errors import Error
from cxrlines.task import LABEL_INDEX, LABELS_OF, MAP_NAMES, MAPS, Device, MapKind
from cxrlines.training.targets.base import BatchOutputs, FilmSource, FilmsSpec, Losses, Sums, Target, TargetData

if TYPE_CHECKING:
    from torch import Tensor


LINE_PIXELS = 20.0
"""Weight of the lines' cross-entropy, a mean over pixels of which one in a hundred is a line."""

MapKinds = Annotated[tuple[Literal["line", "tip", "landmark"], ...], Field(min_length=1)]
KINDS: MapKinds = ("line", "tip", "landmark")


def kinds_of(*names: Sequence[str]) -> tuple[str, ...]:
    """The kinds of which networks, each with the heatmaps `names`, give all of the vocabulary's."""
    lacking = {kind for name, (kind, _) in MAP_NAMES.items() if not all(name in given for given in names)}
    return tuple(kind for kind in KINDS if kind not in lacking)


_LINES = sum(kind is MapKind.LINE for kind, _ in MAPS)
assert all(kind is MapKind.LINE for kind, _ in MAPS[:_LINES])  # slices, since a list of channels makes a GPU wait


class MapTarget(Target):
    """Heatmaps of the annotated films: where lines run, where they end, where the carina lies.

    In an `all` stage films without annotation teach no line and no tip. On an annotated film, a device without a line
    teaches an empty map where all its labels are 0, else nothing. Landmarks are those of `landmarks.csv`, on any film.
    Where the tip of a line is not seen (`tip_seen` 0), its film teaches no tip of the device, and nothing ahead of the
    line's end (`heatmaps.BEYOND`).
    """

    key = "maps"
    own_films = True
    lacking = "have no annotated lines"
    classifies = False
    reads_maps = True
    draws_maps = True

    kinds: MapKinds = KINDS  # which heatmaps are learnt

    def check(self, films: FilmsSpec, earlier: Mapping[str, FilmsSpec]) -> None:
        super().check(films, earlier)
        if films.view == "overlay" or films.maps_of:
            raise ValueError("targets.maps: a stage that is shown the lines cannot learn to find them; use view: plain")

    def data(self, films: FilmSource) -> TargetData:
        """`mapped` (n, maps) float32: 1 where the ground truth of a heatmap is known.

        Of a device: on annotated films with a line of it, or whose labels all say that it is not there. One that is
        there, or may be, without a line was not drawn. Of its tips: where each is seen.
        """
        landmarks = iter(np.isfinite(films.landmarks).all(axis=2).T)
        none = films.labels == 0
        of_device = {
            device: films.annotated & (none[:, [LABEL_INDEX[label] for label in labels]].all(axis=1) | shown)
            for (device, labels), shown in zip(LABELS_OF.items(), films.shown.T, strict=True)
        }
        of_tip = {device: of_device[device] & seen for device, seen in zip(Device, films.tips_seen.T, strict=True)}
        of = {MapKind.LINE: of_device, MapKind.TIP: of_tip}
        known = [next(landmarks) if kind is MapKind.LANDMARK else of[kind][Device(what)] for kind, what in MAPS]
        wanted = [kind in self.kinds for kind, _ in MAPS]
        mapped = np.stack(known, axis=1) & wanted
        if not mapped.any():
            raise Error(
                "targets.maps: none of the films has an annotated line or a landmark (train_annotations.csv, "
                "landmarks.csv)",
                "add annotations or leave the target out",
            )
        return TargetData({"mapped": mapped.astype(np.float32)})

    def losses(self, outputs: BatchOutputs, batch: Mapping[str, Any]) -> Losses:
        maps = outputs.maps
        return maps_loss(maps, batch["maps"].to(maps.dtype), batch["mapped"][batch["rows"]])

    def describe(self) -> tuple[str, str]:
        return f"maps ({', '.join(self.kinds)})", "maps"


def maps_loss(logits: "Tensor", wanted: "Tensor", known: "Tensor") -> Losses:
    """Loss of heatmaps, in weighted parts: lines by cross-entropy and Dice, keypoints by the focal loss.

    `logits` and `wanted` (in [0, 1], 1 at a keypoint's own pixel alone) are (batch, maps, height, width) in `task.MAPS`
    order, `known` (batch, maps) 1 where the ground truth is known. In a line's map single pixels may be unknown
    (`heatmaps.UNKNOWN`): they count nothing. Lines: mean cross-entropy over the pixels times `LINE_PIXELS`, plus 1 -
    Dice for each device that is there, its overlap and sizes summed over all films of the batch. Keypoints: the
    penalty-reduced focal loss of CenterNet (Zhou et al., 2019, alpha 2, beta 4), a film and map.
    Each part is a mean over what is known.
    """
    lines, points = slice(0, _LINES), slice(_LINES, None)
    return [
        *_line_losses(logits[:, lines], wanted[:, lines], known[:, lines]),
        (1.0, _point_loss(logits[:, points], wanted[:, points], known[:, points])),
    ]


def _line_losses(logits: "Tensor", wanted: "Tensor", known: "Tensor") -> Losses:
    import torch
    from torch.nn import functional

    seen, wanted = (wanted >= 0).to(logits.dtype), wanted.clamp(min=0)
    mask = known[:, :, None, None] * seen
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    entropy = (entropy * seen).mean(dim=(2, 3))
    predicted, truth = torch.sigmoid(logits) * mask, wanted * mask
    both, sizes = (predicted * truth).sum(dim=(0, 2, 3)), (predicted + truth).sum(dim=(0, 2, 3))
    # 1 - (2 both + 1) / (sizes + 1), with a sum above and a sum below the line.
    dice = Sums(sizes - 2 * both, sizes, truth.sum(dim=(0, 2, 3)), smooth=1.0)
    return [(LINE_PIXELS, Sums.mean((entropy * known).sum(), known.sum())), (1.0, dice)]


def _point_loss(logits: "Tensor", wanted: "Tensor", known: "Tensor") -> Sums:
    import torch
    from torch.nn import functional

    predicted = torch.sigmoid(logits)
    hit = (wanted >= 1).to(logits.dtype)
    right = hit * (1 - predicted) ** 2 * functional.logsigmoid(logits)
    wrong = (1 - hit) * (1 - wanted) ** 4 * predicted**2 * functional.logsigmoid(-logits)
    return Sums.mean((-(right + wrong).sum(dim=(2, 3)) * known).sum(), known.sum())
