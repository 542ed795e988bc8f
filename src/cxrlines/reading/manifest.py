"""What a bundle's `bundle.json` holds: models, preprocessing, calibration, and what every file must be."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cxrlines import __version__
from cxrlines.reading.trace.lines import Channel
from cxrlines.task import DEVICE_OF, LABELS, MAP_NAMES, Device, MapKind

MANIFEST = "bundle.json"
FORMAT = 3
"""1 had neither `store.preparation` nor `fold_calibration`, 2 no `maps`; both are still read."""
NOTICE = "For research only. Not a medical device; not for diagnosis or treatment."


def _one_of(*known: str) -> AfterValidator:
    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"{name!r} is not one of: {', '.join(known)}")
        return name

    return AfterValidator(check)


Label = Annotated[str, _one_of(*LABELS)]
DeviceName = Annotated[str, _one_of(*Device.__members__)]
Share = Annotated[float, Field(ge=0, le=1)]
Line = tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], Annotated[float, Field(allow_inf_nan=False)]]
Side = Annotated[int, Field(ge=16, le=8192)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelEntry(_Part):
    """One model of the ensemble. `input_size`: px a side of what it sees; None: the bundle's."""

    name: str
    fold: int
    file: Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*\.safetensors$")]  # a plain name: no way out
    config: dict[str, Any]
    input_size: Side | None = None


class FileEntry(_Part):
    """What a file must be."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class StoreEntry(_Part):
    """How a film is prepared, by `io.prepare.prepare`: px a side, and the aspect ratio.

    `preparation` is the version of it that made the films the models were trained on; the probe that assessed them, if
    any, is the bundle's file `quality.safetensors`.
    """

    size: Side
    aspect: Literal["pad", "stretch"]
    preparation: Annotated[int, Field(ge=1)] = 1


class ThresholdEntry(_Part):
    """A threshold of a label; see `evaluation.calibrators.Threshold`."""

    wanted: Literal["sensitivity", "precision"]
    at_least: Annotated[float, Field(gt=0, le=1)]
    probability: Share | None
    sensitivity: Share | None
    specificity: Share | None
    precision: Share | None
    positives: Annotated[int, Field(ge=0)]


class Manifest(_Part):
    """`bundle.json`. Its labels and heatmaps are those of the models, which may be fewer than the vocabulary's.

    Attributes:
        labels: In the order of the vocabulary.
        maps: Names of the heatmaps, see `MAP_NAMES`. None (format 2): those of all mapped devices that have labels.
        input_size: px a side of what the models see.
        fold_calibration: (slope, offset) on the log odds of the mean over each fold's models; a label left out stays as
            it is.
        calibration: The same on those of the mean over folds (of all models, where folds are not calibrated).
        thresholds: On calibrated probabilities.
        denied: By `Device.name`, the probability below which no line is given; see `findings.fit_suppression`.
    """

    format: Annotated[int, Field(ge=1, le=FORMAT)] = FORMAT
    notice: str = NOTICE
    made_by: str = f"cxrlines {__version__}"
    labels: Annotated[tuple[Label, ...], Field(min_length=1)] = LABELS
    maps: tuple[Annotated[str, _one_of(*MAP_NAMES)], ...] | None = None
    store: StoreEntry
    input_size: Side
    ensemble: Literal["mean of probabilities"] = "mean of probabilities"
    models: Annotated[tuple[ModelEntry, ...], Field(min_length=1)]
    files: dict[str, FileEntry]
    meta: dict[str, Any]
    fold_calibration: dict[Label, Line] | None = None
    calibration: dict[Label, Line] | None = None
    thresholds: dict[Label, tuple[ThresholdEntry, ...]] | None = None
    denied: dict[DeviceName, Share] | None = None

    @property
    def map_names(self) -> tuple[str, ...]:
        """The names of the heatmaps, in order."""
        if self.maps is not None:
            return self.maps
        labelled = {DEVICE_OF[label] for label in self.labels}
        return tuple(n for n, (kind, what) in MAP_NAMES.items() if kind is MapKind.LANDMARK or what in labelled)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """What each heatmap shows."""
        return tuple(MAP_NAMES[name] for name in self.map_names)
