"""What a bundle's `bundle.json` holds: models, preprocessing, calibration, and what every file must be."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cxrlines import __version__
from cxrlines.task import LABELS, Device

MANIFEST = "bundle.json"
FORMAT = 2
"""1 had neither `store.preparation` nor `fold_calibration`; it is still read."""
NOTICE = "For research only. Not a medical device; not for diagnosis or treatment."


def _is_label(name: str) -> str:
    if name not in LABELS:
        raise ValueError(f"{name!r} is no label; there are: {', '.join(LABELS)}")
    return name


def _is_device(name: str) -> str:
    if name not in Device.__members__:
        raise ValueError(f"{name!r} is no device; there are: {', '.join(Device.__members__)}")
    return name


Label = Annotated[str, AfterValidator(_is_label)]
DeviceName = Annotated[str, AfterValidator(_is_device)]
Share = Annotated[float, Field(ge=0, le=1)]
Slope = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Offset = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelEntry(_Part):
    """One model of the ensemble."""

    name: str
    fold: int
    file: Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*\.safetensors$")]  # a plain name: no way out
    config: dict[str, Any]
    input_size: Annotated[int, Field(ge=16, le=8192)] | None = None  # px a side of what it sees; none: the bundle's


class FileEntry(_Part):
    """What a file must be."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class StoreEntry(_Part):
    """How a film is prepared before all else, by `data.prepare.prepare`: px a side, and the aspect ratio.

    `preparation` is the version of it that made the films the models were trained on; the probe that assessed them, if
    any, is the bundle's file `quality.safetensors`.
    """

    size: Annotated[int, Field(ge=16, le=8192)]
    aspect: Literal["pad", "stretch"]
    preparation: Annotated[int, Field(ge=1)] = 1


class ThresholdEntry(_Part):
    """A threshold of a label; see `evaluation.calibrate.Threshold`."""

    wanted: Literal["sensitivity", "precision"]
    at_least: Annotated[float, Field(gt=0, le=1)]
    probability: Share | None
    sensitivity: Share | None
    specificity: Share | None
    precision: Share | None
    positives: Annotated[int, Field(ge=0)]


class Manifest(_Part):
    """`bundle.json`."""

    format: Literal[1, 2] = 2
    notice: str = NOTICE
    made_by: str = f"cxrlines {__version__}"
    labels: tuple[str, ...] = LABELS
    store: StoreEntry
    input_size: Annotated[int, Field(ge=16, le=8192)]  # px a side of what the models see
    ensemble: Literal["mean of probabilities"] = "mean of probabilities"
    models: Annotated[tuple[ModelEntry, ...], Field(min_length=1)]
    files: dict[str, FileEntry]
    meta: dict[str, Any]
    # (slope, offset) on log odds; a label left out stays as it is. First of the mean over each fold's models, where it
    # is given, then of the mean over folds (of all models, where it is not).
    fold_calibration: dict[Label, tuple[Slope, Offset]] | None = None
    calibration: dict[Label, tuple[Slope, Offset]] | None = None
    thresholds: dict[Label, tuple[ThresholdEntry, ...]] | None = None  # on calibrated probabilities
    denied: dict[DeviceName, Share] | None = None  # below it a device's lines are not told; `findings.fit_suppression`
