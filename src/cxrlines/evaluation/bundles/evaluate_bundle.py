"""A bundle evaluated against reference films: ground truth of patients that none of its models was trained on."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cxrlines.core.errors import ReadingFault
from cxrlines.core.film import film_name
from cxrlines.core.findings import Findings, Keypoint
from cxrlines.core.quality import Quality
from cxrlines.evaluation.bundles.reference import EvaluationError, ReferenceFilms
from cxrlines.io.films import read_film
from cxrlines.metrics.bundle_figures import FoundFigures, found_figures
from cxrlines.metrics.intervals import RESAMPLES
from cxrlines.metrics.line_matching import EvaluatedFilm
from cxrlines.reading.bundle import Bundle, BundleError
from cxrlines.reading.interpretation import distances_of
from cxrlines.reading.reader import Progress, Reader
from cxrlines.reading.results.drawing import draw_findings, save_drawing
from cxrlines.reading.training_patients import of_other_sites, seen_by, was_seen
from cxrlines.task import Landmark

SEEN_PATIENT = "of a patient that a model was trained on"
UNREADABLE = "not readable"
FAULT = "on which cxrlines failed"
AS_MARKED = "As it is marked: what is not marked, or doubtful, counts here as not found."


@dataclass(frozen=True)
class BundleEvaluation:
    """The figures of a bundle, and films left out by reason.

    `models`: the bundle's that were evaluated. `refused`: films that the reader took for none of the chest; they count,
    with nothing found. `notice`: that the bundle is for research, and what it was trained on.
    """

    figures: FoundFigures
    bundle: str
    models: tuple[str, ...]
    left_out: dict[str, int]
    refused: int
    remarks: tuple[str, ...]
    notice: str

    def text(self) -> str:
        """All of it for people."""
        out = [f"left out: {count} films {reason}" for reason, count in self.left_out.items()]
        if self.refused:
            out.append(f"{self.refused} films were refused as no chest film; they count as films with nothing found")
        models = f"bundle {self.bundle}: {', '.join(self.models)}"
        return "\n".join([models, self.figures.text(), "", *out, *self.remarks])

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON, `FoundFigures.as_dict` among it."""
        return {
            "bundle": self.bundle,
            "models": list(self.models),
            **self.figures.as_dict(),
            "left_out": self.left_out,
            "refused": self.refused,
            "remarks": list(self.remarks),
            "notice": self.notice,
        }


def evaluate_bundle(
    reference: ReferenceFilms,
    bundle: Bundle,
    *,
    report_seen: bool = False,
    batch_size: int = 8,
    resamples: int = RESAMPLES,
    seed: int = 0,
    draw: Path | None = None,
    progress: Progress | None = None,
) -> BundleEvaluation:
    """The figures of a bundle on reference films.

    Args:
        reference: as `marked_films` or `data_films` gives them.
        report_seen: whether films of patients that a model was trained on are evaluated too, and counted; else they
            are left out.
        draw: folder for each film as PNG, with its ground truth on the left and what was found on the right.
        progress: called with (films read, films in all).

    Raises:
        EvaluationError: the bundle does not say which patients it was trained on, or no film is left.
    """
    seen = seen_by(bundle)
    left_out, remarks = Counter(reference.left_out), list(reference.remarks)
    films = reference.films
    if seen is None:
        if not report_seen:
            raise EvaluationError(
                f"{bundle.folder}: does not list the patients that its models were trained on, so that their films "
                "cannot be left out",
                "pack it anew from its run (`cxrlines bundle RUN --out BUNDLE`), or evaluate all films with --seen "
                "report, which the figures then say",
            )
        remarks.append("The bundle does not list its training patients: these films may be of them.")
    else:
        own = [any(was_seen(name, seen) for name in (film.patient, *film.aliases)) for film in films]
        if report_seen:
            remarks.append(f"{sum(own)} of these {len(films)} films are {SEEN_PATIENT}: the figures flatter.")
        else:
            films = [film for film, is_seen in zip(films, own, strict=True) if not is_seen]
            left_out += Counter({SEEN_PATIENT: sum(own)})
            if not films:
                raise EvaluationError(
                    f"all {len(own)} films are {SEEN_PATIENT} ({', '.join(_models(bundle))})",
                    "give films of other patients, evaluate the models of one fold with --fold, or these with "
                    "--seen report",
                )
    if seen and of_other_sites(seen):
        remarks.append("Some of its training patients are kept under another site's key: these films may be of them.")
    for field, words in (
        ("ancestry_unknown", "unknown ancestry"),
        ("ancestry_trusted", "ancestry trusted, not checked"),
    ):
        if origins := bundle.manifest.meta.get(field):
            remarks.append(f"Of {words}, which may have seen any patient: {', '.join(map(str, origins))}.")
    if learnt := bundle.manifest.meta.get("pseudo_labels"):
        remarks.append(f"Its run's test films were learnt under soft labels, by {', '.join(map(str, learnt))}.")
    evaluated, refused, why = [], 0, ""
    reader = Reader(bundle, batch_size=batch_size)
    for film, found in zip(films, reader.read_many([film.path for film in films], progress), strict=True):
        if isinstance(found, Exception):
            left_out[FAULT if isinstance(found, ReadingFault) else UNREADABLE] += 1
            why = why or str(found)
        else:
            refused += not found.quality.usable
            evaluated.append(film.compare(found))
            if draw:
                _draw_both(film.path, evaluated[-1].read, found, draw, bundle.notice)
    if FAULT in left_out:
        remarks.append("Films on which cxrlines failed are missing from the figures; please report the fault.")
    if not evaluated:
        first = f"; the first: {why}" if why else ""
        raise EvaluationError(f"none of {len(films)} films could be read{first}", "give films that can be read")
    figures = found_figures(evaluated, resamples=resamples, seed=seed)
    return BundleEvaluation(
        figures, bundle.identity, _models(bundle), dict(left_out), refused, tuple(remarks), bundle.notice
    )


def of_fold(bundle: Bundle, fold: int) -> Bundle:
    """The bundle with the models of one fold alone. `BundleError` if it has none of that fold.

    What was fitted on the mean of several folds is left out where each is calibrated by itself.
    """
    models = tuple(entry for entry in bundle.manifest.models if entry.fold == fold)
    if not models:
        folds = sorted({entry.fold for entry in bundle.manifest.models})
        raise BundleError(f"{bundle.folder}: has no model of fold {fold}", f"it has folds {', '.join(map(str, folds))}")
    manifest = bundle.manifest.model_copy(update={"models": models})
    if manifest.fold_calibration is not None and len(models) < len(bundle.manifest.models):
        manifest = manifest.model_copy(update={"calibration": {}})
    return replace(bundle, manifest=manifest)


def _draw_both(path: Path, read: EvaluatedFilm, found: Findings, folder: Path, notice: str) -> None:
    carina = {} if read.true_carina is None else {Landmark.CARINA: Keypoint(read.true_carina, 1.0)}
    as_turned = Quality(rotation=found.quality.rotation)  # without notes; the truth is shown of a refused film, too
    true = replace(found, lines=tuple(read.true), landmarks=carina, labels=None, quality=as_turned, notes=())
    true = replace(true, distances=tuple(distances_of(true)))
    pixels, name = read_film(path).pixels, film_name(path)
    left = draw_findings(pixels, true, name=f"{name}: true", notes=(AS_MARKED,))
    right = draw_findings(pixels, found, name=f"{name}: found", notice=notice)
    save_drawing(folder / f"{name}.png", np.hstack([left, right]))


def _models(bundle: Bundle) -> tuple[str, ...]:
    return tuple(f"{entry.name} fold {entry.fold}" for entry in bundle.manifest.models)
