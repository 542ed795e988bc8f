"""How frequent labels and devices are on a set of films, and a bundle's probabilities moved to other frequencies.

A classifier that was calibrated on films on which every state is as frequent as every other says "abnormal" too often
where it is rare. If films with a label look alike in both places, as do those without it, Bayes' rule moves its odds by
the ratio of the odds of its frequency there and here (Saerens et al., Neural Computation 2002;14:21). States that
exclude each other are moved together, each with its own ratio: films without one of them are a mixture of the others.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from cxrlines.io.tables import read_labels
from cxrlines.metrics.calibration import Calibration
from cxrlines.reading.bundle import FORMAT, Bundle, BundleError, DeviceName, Label, Manifest, Share, ThresholdEntry
from cxrlines.task import EXCLUSIVE, LABELS, LABELS_OF, UNKNOWN, Device

FREQUENCIES = "frequencies"
"""Key in a bundle's `meta["calibration"]`: the frequencies that its probabilities hold for."""


class Frequencies(BaseModel):
    """How frequent labels and devices are on a set of films.

    Attributes:
        source: Which films, in words.
        films: How many.
        labels: Label -> fraction of the films that have it.
        devices: `Device.name` -> fraction of the films that have a line of it.
    """

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
        labels = {label: _fraction(column == 1, column != UNKNOWN) for label, column in columns.items()}
        devices = {}
        for device in Device:
            own = np.stack([columns[label] for label in LABELS_OF[device]])
            # of films with all of its labels known: others would count where they have it, and not where they lack it
            devices[device.name] = _fraction((own == 1).any(axis=0), (own != UNKNOWN).all(axis=0))
        return cls(
            source=source,
            films=len(truth),
            labels={name: fraction for name, fraction in labels.items() if fraction is not None},
            devices={name: fraction for name, fraction in devices.items() if fraction is not None},
        )

    @classmethod
    def of_table(cls, table: Path) -> "Frequencies":
        """Those of a label table; `TableError` if it cannot be used."""
        return cls.of(read_labels(table)[list(LABELS)].to_numpy(), table.name)


def _fraction(positive: np.ndarray, known: np.ndarray) -> float | None:
    """The fraction of known films (n,) bool that are positive (n,) bool; None where none is known."""
    return float((positive & known).sum() / known.sum()) if known.any() else None


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
    """The bundle's manifest, its probabilities at other frequencies: `calibration`, `prior`, thresholds, limits moved.

    A label that either set has on no film, on all, or does not know, stays as it is; of an exclusive device all states
    do then. Thresholds of a wanted precision
    go, as it is another now; those of a wanted sensitivity call the same films, and their precision follows from their
    rates; of an exclusive device they are moved as of films on which its other states are out of question. Limits of
    suppression move by their device's frequency, which is near the same lines but not quite.

    Raises:
        BundleError: The bundle is not calibrated, or does not say at which frequencies.
    """
    manifest = bundle.manifest
    if manifest.calibration is None:
        raise BundleError(f"{bundle.folder}: is not calibrated, so that its frequencies cannot be changed")
    try:
        here = Frequencies.model_validate(manifest.meta["calibration"][FREQUENCIES])
    except (LookupError, TypeError, ValidationError):
        raise BundleError(
            f"{bundle.folder}: does not say at which frequencies it was calibrated",
            "export it again from its run (`cxrlines bundle RUN --out BUNDLE`)",
        ) from None
    odds = _state_odds(here.labels, wanted.labels, manifest.labels)
    of_states = {label for device in EXCLUSIVE for label in LABELS_OF[device]}
    label_shifts = {name: by for name, by in _shifts(here.labels, wanted.labels).items() if name not in of_states}
    limit_shifts = label_shifts | {label: float(np.log(by)) for label, by in odds.items()}
    still = {device.name for device in EXCLUSIVE if LABELS_OF[device][0] not in odds}
    device_shifts = {name: by for name, by in _shifts(here.devices, wanted.devices).items() if name not in still}
    now = wanted.model_copy(
        update={
            "labels": here.labels | {label: wanted.labels[label] for label in limit_shifts},
            "devices": here.devices | {name: wanted.devices[name] for name in device_shifts},
        }
    )
    about = manifest.meta["calibration"] | {FREQUENCIES: now.model_dump(), "frequencies_before": here.source}
    fields: dict[str, Any] = {
        "format": FORMAT,
        "calibration": _moved_calibration(manifest, label_shifts),
        "prior": {label: by * (manifest.prior or {}).get(label, 1.0) for label, by in odds.items()} or manifest.prior,
        "meta": manifest.meta | {"calibration": about},
    }
    if manifest.thresholds:
        fields["thresholds"] = {
            label: _moved_thresholds(own, limit_shifts[label], wanted.labels[label]) if label in limit_shifts else own
            for label, own in manifest.thresholds.items()
        }
    if manifest.denied:
        fields["denied"] = {name: moved(limit, device_shifts.get(name, 0.0)) for name, limit in manifest.denied.items()}
    return manifest.model_copy(update=fields)


def with_prior(p: np.ndarray, labels: Sequence[str], prior: Mapping[str, float]) -> np.ndarray:
    """Probabilities (..., labels) at other frequencies of exclusive states, by Bayes' rule; float64.

    Of a device's states k with probabilities p_k and odds w_k (`Manifest.prior`): w_k p_k / (1 - sum p + sum w p). A
    device of which not every state is among `labels` and in `prior` stays as it is.
    """
    out = np.array(p, np.float64)
    for device in EXCLUSIVE:
        if all(label in labels and label in prior for label in LABELS_OF[device]):
            columns = [labels.index(label) for label in LABELS_OF[device]]
            weighted = out[..., columns] * [prior[label] for label in LABELS_OF[device]]
            none = np.maximum(0.0, 1 - out[..., columns].sum(axis=-1, keepdims=True))
            whole = none + weighted.sum(axis=-1, keepdims=True)
            out[..., columns] = np.divide(weighted, whole, out=weighted, where=whole > 0)
    return out


def _state_odds(here: Mapping[str, float], there: Mapping[str, float], labels: Sequence[str]) -> dict[str, float]:
    """By state of each exclusive device, its odds against none of the states there, over those here; of devices whose
    states are all among `labels` and, like their absence, above 0 in both places."""
    odds: dict[str, float] = {}
    for device in EXCLUSIVE:
        states = LABELS_OF[device]
        if not all(label in labels and here.get(label, 0) > 0 and there.get(label, 0) > 0 for label in states):
            continue
        none_here, none_there = (1 - sum(of[label] for label in states) for of in (here, there))
        if min(none_here, none_there) > 0:
            odds |= {label: there[label] / here[label] * none_here / none_there for label in states}
    return odds


def moved(p: float, shift: float) -> float:
    """A probability with its log odds moved by `shift`; 0 and 1 stay."""
    return float(Calibration({"": (1.0, shift)}).apply(np.array([p]), [""])[0])


def _shifts(here: Mapping[str, float], there: Mapping[str, float]) -> dict[str, float]:
    """By name, how far log odds move from one frequency to another; of names that both know, neither at 0 nor at 1."""
    return {
        name: float(np.log(there[name] / (1 - there[name])) - np.log(frequency / (1 - frequency)))
        for name, frequency in here.items()
        if 0 < frequency < 1 and 0 < there.get(name, 0) < 1
    }


def _moved_calibration(manifest: Manifest, shifts: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Label -> (slope, offset) on log odds, with offsets moved; of labels that are calibrated or have a shift."""
    calibration = manifest.calibration or {}
    found = {}
    for label in manifest.labels:
        if label in calibration or label in shifts:
            slope, offset = calibration.get(label, (1.0, 0.0))
            found[label] = (slope, offset + shifts.get(label, 0.0))
    return found


def _moved_thresholds(
    thresholds: Iterable[ThresholdEntry], shift: float, frequency: float
) -> tuple[ThresholdEntry, ...]:
    """The thresholds of a label at another frequency: those of a wanted sensitivity."""
    return tuple(_moved_threshold(each, shift, frequency) for each in thresholds if each.wanted == "sensitivity")


def _moved_threshold(threshold: ThresholdEntry, shift: float, frequency: float) -> ThresholdEntry:
    sensitivity, specificity = threshold.sensitivity, threshold.specificity
    precision = None
    if sensitivity is not None and specificity is not None:
        called = sensitivity * frequency + (1 - specificity) * (1 - frequency)
        precision = sensitivity * frequency / called if called else None
    p = None if threshold.probability is None else moved(threshold.probability, shift)
    return threshold.model_copy(update={"probability": p, "precision": precision})
