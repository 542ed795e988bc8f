"""The networks of a bundle run one by one, and averaged as its manifest says."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from cxrlines.core.heatmaps import STRIDE
from cxrlines.core.transform import height_width
from cxrlines.metrics.calibration import Calibration
from cxrlines.reading.bundle import Bundle, BundleError
from cxrlines.reading.engines import Engine, FilmViews, Network


class AveragedNetworks(Engine):
    """An engine of the networks of a bundle, one for each of its models, in order.

    Probabilities are those of the bundle's average over members, each the mean over its folds and views; where the
    manifest calibrates folds, the mean over folds of the calibrated average of each. Heatmaps are means over the models
    that give any, at the size of the largest one's.

    Raises:
        BundleError: a network that lacks a label, or gives heatmaps and lacks one.
    """

    def __init__(self, bundle: Bundle, networks: Sequence[Network], *, at_once: int | None = None) -> None:
        self.manifest, self.map_names, self.averaging = bundle.manifest, bundle.map_names, bundle.averaging
        self.at_once = at_once
        self.networks = list(zip(networks, bundle.sizes, strict=True))
        for network, entry in zip(networks, bundle.manifest.models, strict=True):
            wanted = {*self.manifest.labels, *(self.map_names if network.map_names else ())}
            if lacking := sorted(wanted - {*network.labels, *network.map_names}):
                raise BundleError(
                    f"{bundle.folder}: the network of {entry.file} does not give {lacking[0]!r}, which the manifest "
                    "promises",
                    "copy the bundle again, or export it again with `cxrlines bundle`",
                )
        with_maps = [size for network, size in self.networks if network.map_names]
        self.map_size = max(with_maps, key=lambda size: math.prod(height_width(size)), default=None)

    def __call__(self, films: Sequence[FilmViews], *, maps: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
        """As `Engine`. All networks and views are started before the first is waited for; a view a pass.

        Where a network's values for a film are not numbers, all probabilities of that film are NaN.
        """
        rows: list[np.ndarray] = []
        folds: list[int] = []
        members: list[str] = []
        shown: list[np.ndarray] = []
        batches = {size: np.stack([film[size] for film in films], axis=1)[:, :, None] for size in films[0]}
        started = [
            (network, entry, network.start(view, maps=maps and not place))
            for (network, size), entry in zip(self.networks, self.manifest.models, strict=True)
            for place, view in enumerate(batches[size])
        ]
        for network, entry, wait in started:
            labels = [network.labels.index(label) for label in self.manifest.labels]
            logits, heat = wait()
            with np.errstate(invalid="ignore"):  # of what is no number
                rows.append(np.exp(-np.logaddexp(0, -logits[:, labels].astype(np.float64))))
            folds.append(entry.fold)
            members.append(entry.name)
            if heat is not None:
                shown.append(self._sized(heat[:, [network.map_names.index(name) for name in self.map_names]]))
        each = np.stack(rows)
        finite = np.isfinite(each).all(axis=(0, 2))  # of a film that is not, nothing can be calibrated
        mean = np.full(each.shape[1:], np.nan)
        mean[finite] = self._mean(each[:, finite], np.array(folds), np.array(members))
        return mean, np.mean(shown, axis=0) if shown else None

    def embed(self, films: Sequence[FilmViews]) -> np.ndarray:
        """As `Engine`."""
        network, size = self.networks[0]
        return network.embed(np.stack([film[size][:1] for film in films]))

    def _sized(self, heat: np.ndarray) -> np.ndarray:
        """Heatmaps (b, maps, h, w) at the size of the largest."""
        height, width = (side // STRIDE for side in height_width(self.map_size or 0))
        if heat.shape[2:] == (height, width):
            return heat
        flat = [
            cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR)
            for one in heat.reshape(-1, *heat.shape[2:])
        ]
        return np.stack(flat).reshape(*heat.shape[:2], height, width)

    def _mean(self, rows: np.ndarray, folds: np.ndarray, members: np.ndarray) -> np.ndarray:
        """The ensemble's probabilities (b, labels) of those of its models and views (n, b, labels)."""
        if self.manifest.fold_calibration is None:
            return self._averaged(rows, members)
        calibration = Calibration(self.manifest.fold_calibration)
        each = [self._averaged(rows[folds == fold], members[folds == fold]) for fold in np.unique(folds)]
        return np.asarray(np.mean([calibration.apply(row, self.manifest.labels) for row in each], axis=0))

    def _averaged(self, rows: np.ndarray, members: np.ndarray) -> np.ndarray:
        """The average (b, labels) over members, of each the mean over its models and views (n, b, labels)."""
        names = list(dict.fromkeys(members.tolist()))
        values = np.stack([rows[members == name].mean(axis=0) for name in names])
        return self.averaging.apply(values, names, self.manifest.labels)
