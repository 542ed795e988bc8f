"""How frequent labels and devices are on a set of films, and a bundle's probabilities moved to other frequencies.

A classifier that was calibrated on films on which every state is as frequent as every other says "abnormal" too often
where it is rare. If films with a label look alike in both places, as do those without it, Bayes' rule moves its odds by
the ratio of the odds of its frequency there and here (Saerens et al., Neural Computation 2002;14:21).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from cxrlines.io.tables import read_labels
from cxrlines.metrics.calibration import Calibration
from cxrlines.reading.bundle import Bundle, BundleError, DeviceName, Label, Manifest, Share, ThresholdEntry
from cxrlines.task import LABELS, LABELS_OF, UNKNOWN, Device

FREQUENCIES = "frequencies"
"""Key in a bundle's `meta["calibration"]`: the frequencies that its probabilities hold for."""


class Frequencies(BaseModel):
    """Shares of films by label and by device (`Device.name`), of `films` films; `source` says in words which."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    films: int
    labels: dict[Label, Share]
    devices: dict[DeviceName, Share]

    @classmethod
    def of(cls, truth: np.ndarray, source: str) -> "Frequencies":
        """Those of `truth`, (n, labels) 0, 1 or `UNKNOWN`, in label order; what is nowhere known is left out."""
        truth = np.asarray(truth)
        columns = dict(zip(LABELS, truth.T, strict=True))
        labels = {label: _share(column == 1, column != UNKNOWN) for label, column in columns.items()}
        devices = {}
        for device in Device:
            own = np.stack([columns[label] for label in LABELS_OF[device]])
            has = (own == 1).any(axis=0)
            devices[device.name] = _share(has, has | (own != UNKNOWN).all(axis=0))
        return cls(
            source=source,
            films=len(truth),
            labels={name: share for name, share in labels.items() if share is not None},
            devices={name: share for name, share in devices.items() if share is not None},
        )

    @classmethod
    def of_table(cls, table: Path) -> "Frequencies":
        """Those of a label table; `TableError` if it cannot be used."""
        return cls.of(read_labels(table)[list(LABELS)].to_numpy(), table.name)


def _share(of: np.ndarray, among: np.ndarray) -> float | None:
    return float((of & among).sum() / among.sum()) if among.any() else None


_RANZCR = {
    Device.ETT: (79, 1138, 7240),
    Device.NGT: (279, 529, 2748, 4797),
    Device.CVC: (3195, 8460, 21324),
    Device.SWAN: (830,),
}
RANZCR = Frequencies(
    source="train.csv of the RANZCR CLiP challenge, 30,083 films of 3,255 patients",
    films=30083,
    labels={
        label: count / 30083
        for device, counts in _RANZCR.items()
        for label, count in zip(LABELS_OF[device], counts, strict=True)
    },
    devices={device.name: count / 30083 for device, count in zip(_RANZCR, (8457, 8308, 29333, 830), strict=True)},
)
"""Films with and without each label, counted in that table; the challenge chose films with lines."""


def at_frequencies(bundle: Bundle, wanted: Frequencies) -> Manifest:
    """The bundle's manifest with probabilities at other frequencies: `calibration`, `thresholds` and `denied` moved.

    A label that either set has on no film, on all, or does not know, stays as it is. Thresholds of a wanted precision
    go, as it is another now; those of a wanted sensitivity call the same films, and their precision follows from their
    rates. Limits of suppression move by their device's frequency, which is near the same lines but not quite.

    `BundleError` where the bundle is not calibrated, or does not say at which frequencies.
    """
    manifest = bundle.manifest
    if not manifest.calibration:
        raise BundleError(f"{bundle.folder}: is not calibrated, so that its frequencies cannot be changed")
    try:
        here = Frequencies.model_validate(manifest.meta["calibration"][FREQUENCIES])
    except (LookupError, TypeError, ValidationError):
        raise BundleError(
            f"{bundle.folder}: does not say at which frequencies it was calibrated",
            "export it again from its run (`cxrlines bundle RUN --out BUNDLE`)",
        ) from None
    by_label = _moves(here.labels, wanted.labels)
    by_device = _moves(here.devices, wanted.devices)
    lines = {label: manifest.calibration.get(label, (1.0, 0.0)) for label in manifest.labels}
    calibration = {
        label: (slope, offset + by_label.get(label, 0.0))
        for label, (slope, offset) in lines.items()
        if label in manifest.calibration or label in by_label
    }
    thresholds = manifest.thresholds and {
        label: tuple(_moved_threshold(each, by_label[label], wanted.labels[label]) for each in own if _stays(each))
        if label in by_label
        else own
        for label, own in manifest.thresholds.items()
    }
    denied = manifest.denied and {
        name: moved(limit, by_device.get(name, 0.0)) for name, limit in manifest.denied.items()
    }
    now = wanted.model_copy(update={"labels": here.labels | _known(wanted.labels, by_label)})
    now = now.model_copy(update={"devices": here.devices | _known(wanted.devices, by_device)})
    about = manifest.meta["calibration"] | {FREQUENCIES: now.model_dump(), "frequencies_before": here.source}
    meta = manifest.meta | {"calibration": about}
    fields = {"calibration": calibration, "thresholds": thresholds, "denied": denied, "meta": meta}
    return manifest.model_copy(update=fields)


def moved(p: float, by: float) -> float:
    """A probability with its log odds moved; 0 and 1 stay."""
    return float(Calibration({"": (1.0, by)}).apply(np.array([p]), [""])[0])


def _moves(here: Mapping[str, float], there: Mapping[str, float]) -> dict[str, float]:
    """By name, how far log odds move from one frequency to another; of names that both know, neither at 0 nor at 1."""
    return {
        name: float(np.log(there[name] / (1 - there[name])) - np.log(share / (1 - share)))
        for name, share in here.items()
        if 0 < share < 1 and 0 < there.get(name, 0) < 1
    }


def _known(shares: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    return {name: shares[name] for name in names}


def _stays(threshold: ThresholdEntry) -> bool:
    return threshold.wanted == "sensitivity"


def _moved_threshold(threshold: ThresholdEntry, by: float, frequency: float) -> ThresholdEntry:
    found, passed = threshold.sensitivity, threshold.specificity
    precision = None
    if found is not None and passed is not None:
        called = found * frequency + (1 - passed) * (1 - frequency)
        precision = found * frequency / called if called else None
    p = None if threshold.probability is None else moved(threshold.probability, by)
    return threshold.model_copy(update={"probability": p, "precision": precision})
