"""Writing of a bundle: weights as safetensors and, for reading without PyTorch, as ONNX; atomically."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cxrlines.core.files import put_folder
from cxrlines.core.transform import Size, height_width
from cxrlines.reading.averaging import Averaging
from cxrlines.reading.bundle import FORMAT, MANIFEST, PROBE_FILE, Bundle, BundleError, Manifest, describe, first_problem
from cxrlines.task import LABELS, MAP_NAMES

if TYPE_CHECKING:
    from cxrlines.models.classifier import Model


@dataclass(frozen=True)
class BundleMember:
    """One trained model on its way into a bundle: `config` is the model's own, `weights` a safetensors file.

    `header`: further text for the header of its file in the bundle.
    """

    name: str
    fold: int
    config: Mapping[str, Any]
    weights: Path
    input_size: Size | None = None
    header: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """Its file's name in the bundle."""
        return f"{self.name}-fold{self.fold}.safetensors"

    @property
    def onnx(self) -> str:
        """The name of its ONNX file."""
        return f"{self.name}-fold{self.fold}.onnx"


@dataclass(frozen=True)
class Fitted:
    """What is fitted to films once the models of a bundle are trained.

    Attributes:
        fold_calibration: Label -> (slope, offset) on the log odds of the mean over the models of each fold.
        calibration: The same on those of the ensemble's probability, the mean over folds; None: not calibrated.
        thresholds: Label -> fields of `ThresholdEntry`, on calibrated probabilities.
        denied: By `Device.name`, as `interpretation.fit_suppression` gives it; None: `SUPPRESS_BELOW` there for all.
    """

    fold_calibration: Mapping[str, tuple[float, float]] | None = None
    calibration: Mapping[str, tuple[float, float]] | None = None
    thresholds: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
    denied: Mapping[str, float] | None = None


def write_bundle(
    out: Path,
    members: Sequence[BundleMember],
    *,
    store: Mapping[str, Any],
    input_size: Size,
    meta: Mapping[str, Any],
    half: bool = False,
    onnx: bool = True,
    averaging: Averaging | None = None,
    fitted: Fitted = Fitted(),
    further: Mapping[str, str | bytes] | None = None,
) -> Path:
    """Write the bundle folder `out`, atomically; an older bundle there is replaced, with nothing else beside its files.

    Args:
        store: fields of `StoreEntry`, of the store the models were trained from.
        input_size: of the films that the models see: px a side, or (height, width).
        meta: JSON values for people: what it was trained on, its lineage. It travels with the bundle, so it must
            name no patient. The headers of the weights files are left behind.
        half: whether weights are stored in 16 bits, half the size; they are read as 32.
        onnx: whether each model is written as an ONNX file too, which reading without PyTorch needs: seconds a model.
        averaging: how members are averaged; None: the mean of their probabilities.
        fitted: calibration, thresholds and limits of suppression.
        further: plain name -> content of further files.

    Raises:
        BundleError: no members, two of one name and fold, weights that do not fit, or another folder or
            further files in the way.
        ExportError: a model that cannot be exported to ONNX, or gives other values there.
    """
    _check_members(members)
    manifest = _manifest(
        members,
        {
            "store": dict(store),
            "input_size": input_size,
            "ensemble": averaging if averaging and averaging.how != "mean" else "mean of probabilities",
            "meta": dict(meta),
            **vars(fitted),
        },
        onnx=onnx,
    )
    with _folder(out, manifest) as folder:
        _write_models(folder, members, manifest.input_size, half=half, onnx=onnx)
        for name, content in (further or {}).items():
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return out


def _check_members(members: Sequence[BundleMember]) -> None:
    if not members:
        raise BundleError("a bundle needs at least one trained model", "none was given")
    names = [member.file for member in members]
    for name in names:
        if names.count(name) > 1:
            raise BundleError(f"two members of the bundle would be {name}", "give each name and fold once")


def _manifest(members: Sequence[BundleMember], fields: Mapping[str, Any], *, onnx: bool) -> Manifest:
    """The manifest of a bundle, without its files; labels and heatmaps are those of the members' configs.

    Raises:
        BundleError: A field has a value that is not allowed.
    """
    configs = [member.config for member in members]  # those of a two-step model's networks lie within
    parts = [part for config in configs for part in (config, *config.values()) if isinstance(part, Mapping)]
    models = [
        {
            "name": member.name,
            "fold": member.fold,
            "file": member.file,
            "onnx": member.onnx if onnx else None,
            "config": dict(member.config),
            "input_size": member.input_size,
        }
        for member in members
    ]
    labels = next((part["labels"] for part in parts if "labels" in part), LABELS)
    mapped = [part["maps"] for part in parts if "maps" in part]
    maps = [name for name in MAP_NAMES if all(name in names for names in mapped)]  # what each of them learnt
    try:
        return Manifest.model_validate({**fields, "labels": labels, "maps": maps, "models": models, "files": {}})
    except ValidationError as error:
        raise BundleError(f"the bundle's {first_problem(error)}") from error


def _write_models(folder: Path, members: Sequence[BundleMember], input_size: Size, *, half: bool, onnx: bool) -> None:
    """Write the weights of each member, and with `onnx` its ONNX file; errors as of `write_bundle`."""
    traced: dict[str, bytes] = {}  # tracing takes seconds, and members of one config and size share its result
    for member in members:
        model = _write_weights(folder / member.file, member, half)
        if onnx:
            from cxrlines.models.onnx_export import export_model, trace_model

            size = height_width(member.input_size or input_size)
            kind = json.dumps([member.config, size], sort_keys=True, default=str)
            if kind not in traced:
                traced[kind] = trace_model(model, size)
            (folder / member.onnx).write_bytes(export_model(model, size, traced=traced[kind]))


@contextmanager
def _folder(out: Path, manifest: Manifest) -> Iterator[Path]:
    """A new folder for the bundle's files; then the manifest, with what they are, and the folder takes `out`'s place.

    `BundleError` where something else is in the way, or lies in the folder of an older bundle.
    """
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out} exists and is not a bundle", "name another place, or remove it first")
    if further := _further_files(out):
        raise BundleError(
            f"{out}: the bundle there would be replaced, and with it {further[0]}, which is none of its files",
            "move that elsewhere, or name another place",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        files = {path.name: describe(path.read_bytes()) for path in sorted(aside.iterdir())}
        manifest = manifest.model_copy(update={"files": files})
        (aside / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")
        put_folder(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _further_files(folder: Path) -> list[str]:
    """What lies in the folder of a bundle and is none of its files, by name; all but the manifest where that is cut."""
    if not (folder / MANIFEST).is_file():
        return []
    try:
        own = set(json.loads((folder / MANIFEST).read_bytes())["files"])
    except (ValueError, KeyError, TypeError, RecursionError):
        own = set()
    return sorted({path.name for path in folder.iterdir()} - own - {MANIFEST})


def _write_weights(path: Path, member: BundleMember, half: bool) -> "Model":
    """Write the weights of a member; its model with these very weights. `BundleError` if they do not fit its config."""
    from cxrlines.models.classifier import model_of
    from cxrlines.models.weights import load_into, load_weights, save_weights

    what = f"{member.name}, fold {member.fold}"
    try:
        model, (tensors, _) = model_of(member.config), load_weights(member.weights)
        load_into(model, tensors)
    except (ValueError, TypeError) as error:
        raise BundleError(f"{what}: {error}") from error
    if half:
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
        if wrong := [name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]:
            raise BundleError(f"{what}: {wrong[0]} does not fit into 16 bits", "leave out half")
        load_into(model, tensors)
    save_weights(path, tensors, {**member.header, "name": member.name, "fold": str(member.fold)})
    return model


def with_manifest(bundle: Bundle, manifest: Manifest, out: Path) -> Path:
    """Write a bundle's files to `out` under another manifest; `out` may be its own folder.

    `BundleError`: another folder or further files in the way.
    """
    contents = {name: bundle.read(name) for name in bundle.manifest.files}
    with _folder(out, manifest) as folder:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    return out


def with_onnx(bundle: Bundle, out: Path, *, size: Size | None = None) -> Path:
    """Write a bundle to `out`, with ONNX files of its models and its probe, so that it is read without PyTorch.

    `size`: of the films that its models see from now on, (height, width) or px a side; None: as before. Weights,
    calibration and limits stay those that were fitted at the size before.

    `BundleError`: another folder or further files in the way. `ExportError`: a model cannot be exported, or gives other
    values there.
    """
    from cxrlines.models.onnx_export import export_model
    from cxrlines.models.orientation import exported, read_orientation_net
    from cxrlines.reading.engines.pytorch import load_models

    names = [Path(entry.file).with_suffix(".onnx").name for entry in bundle.manifest.models]
    sizes = [size or own for own in bundle.sizes]
    given = zip(bundle.manifest.models, names, sizes, strict=True)
    entries = tuple(entry.model_copy(update={"onnx": name, "input_size": own}) for entry, name, own in given)
    changed: dict[str, Any] = {"format": FORMAT, "models": entries, "input_size": size or bundle.manifest.input_size}
    if size:
        changed["meta"] = bundle.manifest.meta | {
            "resized": {"bundle": bundle.identity, "trained_at": list(bundle.sizes)}
        }
    manifest = bundle.manifest.model_copy(update=changed)
    with _folder(out, manifest) as folder:
        for name in bundle.manifest.files:
            (folder / name).write_bytes(bundle.read(name))
        for name, model, own in zip(names, load_models(bundle), sizes, strict=True):
            (folder / name).write_bytes(export_model(model, height_width(own)))
        if PROBE_FILE in bundle.manifest.files:
            net = read_orientation_net(bundle.folder / PROBE_FILE)
            (folder / PROBE_FILE).with_suffix(".onnx").write_bytes(exported(net))
    return out
