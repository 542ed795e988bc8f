"""A bundle: the folder that holds all that reading needs, weights as safetensors, everything else in one JSON file.

    bundle.json                 the manifest (`manifest`): models, preprocessing, sha256 and size of every file
    <member>-fold<k>.safetensors
    seen.json                   which patients each model has seen (`seen`)

Nothing in it is unpickled, and its manifest cannot name a file outside it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from cxrlines import __version__
from cxrlines.core.errors import Error
from cxrlines.core.files import sync
from cxrlines.io.prepare import PREPARATION
from cxrlines.models.two_step import Model, model_of
from cxrlines.models.weights import load_into, load_weights, save_weights
from cxrlines.reading.manifest import FORMAT, MANIFEST, FileEntry, Manifest, ModelEntry, StoreEntry, ThresholdEntry
from cxrlines.task import LABELS

EMBEDDED = Path(__file__).parent.parent / "embedded"
"""The bundle in the box; see its model card."""


class BundleError(Error):
    """A bundle that cannot be written or trusted; the message names the file and the way out."""


@dataclass(frozen=True)
class BundleMember:
    """One trained model on its way into a bundle: `config` is the model's own, `weights` a safetensors file.

    `header`: further text for the header of its file in the bundle.
    """

    name: str
    fold: int
    config: Mapping[str, Any]
    weights: Path
    input_size: int | None = None
    header: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        return f"{self.name}-fold{self.fold}.safetensors"


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory: its models on the CPU, ready to evaluate, in the manifest's order."""

    folder: Path
    manifest: Manifest
    identity: str  # 12 hex digits of the manifest's sha256, which fixes every file's
    models: tuple[Model, ...]

    @property
    def notice(self) -> str:
        """That it is for research, what it was trained on, and whether all of that is known."""
        meta, said = self.manifest.meta, [self.manifest.notice]
        if trained := meta.get("trained_on"):
            said.append(f"Trained on: {trained}.")
        if meta.get("ancestry_unknown"):
            said.append("What its first weights were trained on is not known.")
        elif meta.get("ancestry_trusted"):
            said.append("What its first weights were trained on was trusted, not checked.")
        return " ".join(said)

    @property
    def sizes(self) -> tuple[int, ...]:
        """px a side of the films that each model sees."""
        return tuple(entry.input_size or self.manifest.input_size for entry in self.manifest.models)


def write_bundle(
    out: Path,
    members: Sequence[BundleMember],
    *,
    store: Mapping[str, Any],
    input_size: int,
    meta: Mapping[str, Any],
    half: bool = False,
    fold_calibration: Mapping[str, tuple[float, float]] | None = None,
    calibration: Mapping[str, tuple[float, float]] | None = None,
    thresholds: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    denied: Mapping[str, float] | None = None,
    further: Mapping[str, str | bytes] | None = None,
) -> Path:
    """Write the bundle folder `out`, whole or not at all; an older bundle there is replaced.

    Args:
        store: fields of `StoreEntry`, of the store the models were trained from.
        input_size: px a side of what the models see.
        meta: JSON values for people: what it was trained on, its lineage. It travels with the bundle, so it must
            name no patient. The headers of the weights files are left behind.
        half: whether weights are stored in 16 bits, half the size; they are read as 32.
        fold_calibration: label -> (slope, offset) on the log odds of the mean over the models of each fold.
        calibration: the same on those of the ensemble's probability, the mean over folds; None: not calibrated.
        thresholds: label -> fields of `ThresholdEntry`, on calibrated probabilities.
        denied: by `Device.name`, as `findings.fit_suppression` gives it; None: `findings.SUPPRESS_BELOW` for all.
        further: plain name -> content of further files.

    Raises:
        BundleError: no members, two of one name and fold, weights that do not fit, or another folder in the way.
    """
    if not members:
        raise BundleError("a bundle needs at least one trained model", "none was given")
    names = [member.file for member in members]
    for name in names:
        if names.count(name) > 1:
            raise BundleError(f"two members of the bundle would be {name}", "give each name and fold once")
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out} exists and is not a bundle", "name another place, or remove it first")
    try:
        manifest = Manifest(
            store=StoreEntry(**store),
            input_size=input_size,
            models=tuple(
                ModelEntry(name=m.name, fold=m.fold, file=m.file, config=dict(m.config), input_size=m.input_size)
                for m in members
            ),
            files={},
            meta=dict(meta),
            fold_calibration=None if fold_calibration is None else dict(fold_calibration),
            calibration=None if calibration is None else dict(calibration),
            thresholds=None
            if thresholds is None
            else {label: tuple(ThresholdEntry(**entry) for entry in each) for label, each in thresholds.items()},
            denied=None if denied is None else dict(denied),
        )
    except ValidationError as error:
        raise BundleError(f"the bundle's {_said(error)}") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        for member in members:
            try:
                tensors, _ = load_weights(member.weights)
                load_into(model_of(member.config), tensors)
            except (ValueError, TypeError) as error:
                raise BundleError(f"{member.name}, fold {member.fold}: {error}") from error
            if half:
                tensors = _halved(tensors, member)
            header = {**member.header, "name": member.name, "fold": str(member.fold)}
            save_weights(aside / member.file, tensors, header)
        for name, content in (further or {}).items():
            (aside / name).write_bytes(content if isinstance(content, bytes) else content.encode())
            sync(aside / name)
        every = {name: _describe(aside / name) for name in [*names, *(further or {})]}
        manifest = manifest.model_copy(update={"files": every})
        (aside / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")
        sync(aside / MANIFEST)
        sync(aside)
        _put_in_place(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out


def _halved(tensors: Mapping[str, Tensor], member: BundleMember) -> dict[str, Tensor]:
    halved = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    if wrong := [name for name, t in halved.items() if t.is_floating_point() and not t.isfinite().all()]:
        raise BundleError(f"{member.name}, fold {member.fold}: {wrong[0]} does not fit into 16 bits", "leave out half")
    return halved


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle after checking its format and every file's size and sha256.

    Raises:
        BundleError: not a bundle, of a newer format, or with a file missing, cut, changed or unfit.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"{folder} is not a bundle: it has no {MANIFEST}. `cxrlines bundle RUN --out BUNDLE` makes one"
        )
    text = path.read_bytes()
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
        raise BundleError(f"{path}: {_said(error)}") from error
    if manifest.store.preparation > PREPARATION:
        raise BundleError(
            f"{path}: its films were prepared by version {manifest.store.preparation} of what cxrlines {__version__} "
            f"does by version {PREPARATION}",
            "update cxrlines",
        )
    if manifest.labels != LABELS:
        raise BundleError(f"{path}: its labels are not those of this task, in their order: {', '.join(LABELS)}")
    for name in {entry.file for entry in manifest.models} | set(manifest.files):
        _check_file(folder, name, manifest.files)
    models = []
    for entry in manifest.models:
        try:
            model = model_of(entry.config)
            load_into(model, load_weights(folder / entry.file)[0])
        except (ValueError, TypeError) as error:
            raise BundleError(f"{folder / entry.file}: {error}") from error
        models.append(model.eval())
    return Bundle(folder, manifest, hashlib.sha256(text).hexdigest()[:12], tuple(models))


def _check_file(folder: Path, name: str, files: Mapping[str, FileEntry]) -> None:
    if name not in files:
        raise BundleError(f"{folder / MANIFEST}: files has no entry for {name}; copy the bundle again")
    if Path(name).name != name or not (folder / name).is_file():
        raise BundleError(f"{folder}: its file {name!r} is missing; copy the bundle again")
    found = _describe(folder / name)
    if found != files[name]:
        what = (
            f"has {found.bytes} bytes where {files[name].bytes} were written"
            if found.bytes != files[name].bytes
            else f"has other content than was written (sha256 {found.sha256[:12]}..., not {files[name].sha256[:12]}...)"
        )
        raise BundleError(f"{folder / name} {what}; copy the bundle again")


def _describe(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=path.stat().st_size)


def _put_in_place(aside: Path, out: Path) -> None:
    """Rename `aside` to `out`; a folder cannot be replaced in one move, so an older bundle steps aside for a moment."""
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        out.rename(old)
    try:
        aside.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _said(error: ValidationError) -> str:
    """The first problem of a manifest: its field, the value, and what is allowed."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "content"
    return f"field {field} is {str(first['input'])[:80]!r}: {first['msg']}"
