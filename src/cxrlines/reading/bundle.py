"""A bundle: the folder that holds all that reading needs, weights as safetensors, everything else in one JSON file.

    bundle.json                 the `Manifest`: models, preprocessing, sha256 and size of every file
    <member>-fold<k>.safetensors
    <member>-fold<k>.onnx       what is computed with them, for reading without PyTorch
    quality.safetensors         the network that assesses films, see `models.orientation`
    seen.json                   which patients each model was trained on (`training_patients`)

Nothing in it is unpickled, and its manifest cannot name a file outside it.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from cxrlines import __version__
from cxrlines.core.errors import Error
from cxrlines.core.transform import Sides, Size
from cxrlines.io.prepare import PREPARATION
from cxrlines.reading.averaging import Averaging
from cxrlines.reading.trace.lines import Channel
from cxrlines.task import DEVICE_OF, LABELS, MAP_NAMES, Device, MapKind

EMBEDDED = Path(__file__).parent.parent / "embedded"
"""The bundle of the embedded reader; see its model card."""
MANIFEST, PROBE_FILE = "bundle.json", "quality.safetensors"
FORMAT = 8
"""1 had neither `store.preparation` nor `fold_calibration`, 2 no `maps`, 3 no average but the mean, 4 no ONNX files, 5
weights within these, 6 no `confident`, 7 no `prior`; all are read."""
NOTICE = "For research only. Not a medical device; not for diagnosis or treatment."


def _one_of(*known: str) -> AfterValidator:
    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"{name!r} is not one of: {', '.join(known)}")
        return name

    return AfterValidator(check)


def _each_once(maps: tuple[str, ...]) -> tuple[str, ...]:
    for name in maps:
        if maps.count(name) > 1:
            raise ValueError(f"{name!r} is named twice")
    return maps


Label = Annotated[str, _one_of(*LABELS)]
MapNames = Annotated[tuple[Annotated[str, _one_of(*MAP_NAMES)], ...], AfterValidator(_each_once)]
DeviceName = Annotated[str, _one_of(*Device.__members__)]
Share = Annotated[float, Field(ge=0, le=1)]
Logistic = tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], Annotated[float, Field(allow_inf_nan=False)]]
"""(slope, offset) on log odds."""
FilmSize = Annotated[Size, Sides(16, 8192)]


_PLAIN = r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*"
"""How the name of a file in the bundle begins: no way out of its folder."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelEntry(_Part):
    """One model of the ensemble: `file` in safetensors, and `onnx`, what is computed with it, where there is one.

    `input_size`: of what it sees; None: the bundle's.
    """

    name: str
    fold: int
    file: Annotated[str, Field(pattern=rf"{_PLAIN}\.safetensors$")]
    onnx: Annotated[str, Field(pattern=rf"{_PLAIN}\.onnx$")] | None = None
    config: dict[str, Any]
    input_size: FilmSize | None = None


class FileEntry(_Part):
    """What a file must be."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class StoreEntry(_Part):
    """How a film is prepared, by `io.prepare.prepare`: its size, and the aspect ratio.

    `preparation` is the version of it that made the films the models were trained on; the probe that assessed them, if
    any, is the bundle's file `quality.safetensors`.
    """

    size: FilmSize
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
        maps: Names of the heatmaps, see `MAP_NAMES`, each once, each line with its tip. None (format 2): those of all
            mapped devices that have labels.
        input_size: of the films that the models see: px a side, or (height, width).
        ensemble: How members are averaged, each fold's where folds are calibrated, else over all their folds.
        fold_calibration: (slope, offset) on the log odds of the mean over each fold's models; a label left out stays as
            it is.
        calibration: The same on those of the mean over folds (of all models, where folds are not calibrated).
        prior: By state of an exclusive device, its odds against none of the device's states at the frequencies that the
            probabilities hold for, over those where they were calibrated; see `frequencies.with_prior`.
        thresholds: On calibrated probabilities.
        denied: By `Device.name`, the probability below which no line is given; see `interpretation.fit_suppression`.
        confident: By `Device.name`, the confidence below which no line is given; see `trace.lines.find_lines`.
    """

    format: Annotated[int, Field(ge=1, le=FORMAT)] = FORMAT
    notice: str = NOTICE
    made_by: str = f"cxrlines {__version__}"
    labels: Annotated[tuple[Label, ...], Field(min_length=1)] = LABELS
    maps: MapNames | None = None
    store: StoreEntry
    input_size: FilmSize
    ensemble: Literal["mean of probabilities"] | Averaging = "mean of probabilities"
    models: Annotated[tuple[ModelEntry, ...], Field(min_length=1)]
    files: dict[str, FileEntry]
    meta: dict[str, Any]
    fold_calibration: dict[Label, Logistic] | None = None
    calibration: dict[Label, Logistic] | None = None
    prior: dict[Label, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = None
    thresholds: dict[Label, tuple[ThresholdEntry, ...]] | None = None
    denied: dict[DeviceName, Share] | None = None
    confident: dict[DeviceName, Share] | None = None


class BundleError(Error):
    """A bundle that cannot be written or trusted; the message names the file and the way out."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were checked; an engine (`reading.engines`) makes its models.

    Attributes:
        identity: 12 hex digits of the manifest's sha256, which fixes every file's.
    """

    folder: Path
    manifest: Manifest
    identity: str

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """Of the films that each model sees, in the manifest's order."""
        return tuple(entry.input_size or self.manifest.input_size for entry in self.manifest.models)

    @cached_property
    def map_names(self) -> tuple[str, ...]:
        """The names of the heatmaps, in order."""
        if self.manifest.maps is not None:
            return self.manifest.maps
        labelled = {DEVICE_OF[label] for label in self.manifest.labels}
        return tuple(n for n, (kind, what) in MAP_NAMES.items() if kind is MapKind.LANDMARK or what in labelled)

    @cached_property
    def channels(self) -> tuple[Channel, ...]:
        """What each heatmap shows."""
        return tuple(MAP_NAMES[name] for name in self.map_names)

    @cached_property
    def averaging(self) -> Averaging:
        """How members are averaged."""
        given = self.manifest.ensemble
        return given if isinstance(given, Averaging) else Averaging()

    @property
    def notice(self) -> str:
        """That it is for research, what it was trained on, and whether all of that is known."""
        meta, notice = self.manifest.meta, [self.manifest.notice]
        if trained := meta.get("trained_on"):
            notice.append(f"Trained on: {trained}.")
        if meta.get("ancestry_unknown"):
            notice.append("What its first weights were trained on is not known.")
        elif meta.get("ancestry_trusted"):
            notice.append("What its first weights were trained on was trusted, not checked.")
        return " ".join(notice)

    def read(self, name: str) -> bytes:
        """The content of one of its files.

        Raises:
            BundleError: It is missing, cannot be read, or is not what was written.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.folder / MANIFEST}: files has no entry for {name}", "copy the bundle again")
        data = _content(self.folder / name) if Path(name).name == name else None
        if data is None:
            raise BundleError(f"{self.folder}: its file {name!r} is missing", "copy the bundle again")
        wanted, found = self.manifest.files[name], describe(data)
        if found.bytes != wanted.bytes:
            what = f"{self.folder / name} has {found.bytes} bytes where {wanted.bytes} were written"
            raise BundleError(what, "copy the bundle again")
        if found != wanted:
            what = f"sha256 {found.sha256[:12]}..., not {wanted.sha256[:12]}..."
            raise BundleError(
                f"{self.folder / name} has other content than was written ({what})", "copy the bundle again"
            )
        return data


def _content(path: Path) -> bytes | None:
    """The content of a file; None where there is none. `BundleError`: it cannot be read."""
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror})", "change its permissions, or copy the bundle again"
        ) from error


def load_bundle(folder: Path, identity: str | None = None) -> Bundle:
    """A bundle, after checking its format and every file's size and sha256.

    Args:
        identity: of the bundle that is in use already; None: any.

    Raises:
        BundleError: not a bundle, of a newer format, with a file missing, cut or changed or that cannot be read, or of
            another `identity`.
    """
    path = folder / MANIFEST
    text = _content(path)
    if text is None:
        raise BundleError(
            f"{folder} is not a bundle: it has no {MANIFEST}", "`cxrlines bundle RUN --out BUNDLE` makes one"
        )
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{path} is not JSON ({error})", "it was cut short or edited, copy the bundle again"
        ) from error
    given = content.get("format") if isinstance(content, dict) else None
    if isinstance(given, int) and given > FORMAT:
        raise BundleError(
            f"{path}: format {given} is newer than this cxrlines {__version__} reads (up to {FORMAT})",
            "update cxrlines",
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"{path}: {first_problem(error)}", "copy the bundle again") from error
    if manifest.store.preparation > PREPARATION:
        raise BundleError(
            f"{path}: its films were prepared by version {manifest.store.preparation} of what cxrlines {__version__} "
            f"does by version {PREPARATION}",
            "update cxrlines",
        )
    if manifest.labels != tuple(label for label in LABELS if label in manifest.labels):
        raise BundleError(
            f"{path}: its labels are not in the order of this task: {', '.join(LABELS)}", "copy the bundle again"
        )
    bundle = Bundle(folder, manifest, hashlib.sha256(text).hexdigest()[:12])
    if identity not in (None, bundle.identity):
        raise BundleError(
            f"{folder}: the bundle was exchanged for {bundle.identity} while {identity} was in use",
            "start again to read with the new one, or put the old one back",
        )
    if lacking := bundle.averaging.lacking([entry.name for entry in manifest.models], manifest.labels):
        raise BundleError(f"{path}: field ensemble says nothing of {lacking}", "copy the bundle again")
    named = {name for entry in manifest.models for name in (entry.file, entry.onnx) if name}
    for name in named | set(manifest.files):
        bundle.read(name)
    return bundle


def describe(data: bytes) -> FileEntry:
    """The manifest's entry for a file of this content."""
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def first_problem(error: ValidationError) -> str:
    """The first problem of a manifest: its field, the value, and what is allowed."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "content"
    return f"field {field} is {str(first['input'])[:80]!r}: {first['msg']}"
