"""A bundle evaluated against reference films: ground truth of patients that none of its models was trained on."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cxrlines.core.errors import ReadingFault
from cxrlines.core.film import film_name
from cxrlines.core.findings import Findings, Keypoint
from cxrlines.core.quality import Quality
from cxrlines.core.text import plural
from cxrlines.evaluation.bundles.limit_counts import limit_counts
from cxrlines.evaluation.bundles.reference import EvaluationError, ReferenceFilm, ReferenceFilms
from cxrlines.evaluation.bundles.withheld_lines import mean_along, withheld_lines
from cxrlines.io.films import read_film
from cxrlines.io.patients import sets_shared_with
from cxrlines.metrics.bundle_figures import FoundFigures, found_figures
from cxrlines.metrics.device_presence import EvaluatedReading
from cxrlines.metrics.failure_causes import FailureTable, FilmCauses, failure_table, film_causes
from cxrlines.metrics.intervals import RESAMPLES
from cxrlines.metrics.limit_trade import LimitTrade, limit_trade
from cxrlines.metrics.line_figures import EvaluatedFilm
from cxrlines.reading.bundle import Bundle, BundleError
from cxrlines.reading.distances import distances_of
from cxrlines.reading.interpretation import FilmMaps
from cxrlines.reading.reader import Progress, Reader
from cxrlines.reading.results.drawing import draw_findings, save_drawing
from cxrlines.reading.training_patients import has_other_sites, is_training_patient, training_patients
from cxrlines.task import Landmark

SEEN_PATIENT = "of a patient that a model was trained on"
UNREADABLE = "not readable"
FAULT = "on which cxrlines failed"
AS_MARKED = "As it is marked: what is not marked, or doubtful, counts here as not found."


@dataclass(frozen=True)
class BundleEvaluation:
    """The figures of a bundle, and films left out by reason.

    `models`: the bundle's that were evaluated. `refused`: films that the reader took for none of the chest; they count,
    with nothing found. `notice`: that the bundle is for research, and what it was trained on. `views`: the figures of
    the films of each view that is known. `failures`: None where the bundle gives no heatmaps. `limits`: if asked for.
    """

    figures: FoundFigures
    views: dict[str, FoundFigures]
    failures: FailureTable | None
    limits: LimitTrade | None
    bundle: str
    models: tuple[str, ...]
    left_out: dict[str, int]
    refused: int
    remarks: tuple[str, ...]
    notice: str

    def text(self) -> str:
        """All of it for people."""
        out = [f"left out: {plural(count, 'film')} {reason}" for reason, count in self.left_out.items()]
        if self.refused:
            out.append(f"{plural(self.refused, 'film')} refused as no chest film; nothing counts as found there")
        models = f"bundle {self.bundle}: {', '.join(self.models)}"
        views = []
        if len(self.views) == 1 and self.figures.films in (one.films for one in self.views.values()):
            views = [f"All films are {next(iter(self.views))}.", ""]
        elif self.views:
            views = [part for view, figures in self.views.items() for part in (f"{view} alone: {figures.text()}", "")]
        failures = [part for one in (self.failures, self.limits) if one for part in (one.text(), "")]
        return "\n".join([models, self.figures.text(), "", *views, *failures, *out, *self.remarks])

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON, `FoundFigures.as_dict` among it."""
        return {
            "bundle": self.bundle,
            "models": list(self.models),
            **self.figures.as_dict(),
            "views": {view: figures.as_dict() for view, figures in self.views.items()},
            "failures": self.failures.as_dict() if self.failures else None,
            **({"limits": self.limits.as_dict()} if self.limits else {}),
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
    false_positives: float | None = None,
    progress: Progress | None = None,
) -> BundleEvaluation:
    """The figures of a bundle on reference films.

    Args:
        reference: as `marked_films` or `data_films` gives them.
        report_seen: whether films of patients that a model was trained on are evaluated too, and counted; else they
            are left out.
        draw: folder for each film as PNG, with its ground truth on the left and what was found on the right.
        false_positives: limits are fitted to so many a film, and what other limits would give is shown.
        progress: called with (films read, films in all).

    Raises:
        EvaluationError: the bundle does not say which patients it was trained on, nobody says whose films are (nor
            `report_seen`), or no film is left.
    """
    films, left_out, remarks = _unseen(reference, bundle, report_seen)
    evaluated, views, causes, counts, refused, why = [], [], [], [], 0, ""
    reader = Reader(bundle, batch_size=batch_size)
    for film, one in zip(films, reader.read_with_maps([film.path for film in films], progress), strict=True):
        if isinstance(one, Exception):
            left_out[FAULT if isinstance(one, ReadingFault) else UNREADABLE] += 1
            why = why or str(one)
            continue
        found, maps = one
        refused += not found.quality.usable
        evaluated.append(film.compare(found))
        views.append(film.view)
        if false_positives is not None:
            counts.append(limit_counts(film, found, maps, bundle.manifest.denied))
        causes.append((film.view, _causes(evaluated[-1], found, maps, bundle)))
        if draw:
            _draw_both(film.path, evaluated[-1].read, found, draw, bundle.notice)
    if FAULT in left_out:
        remarks.append("Films on which cxrlines failed are missing from the figures; please report the fault.")
    if not evaluated:
        first = f"; the first: {why}" if why else ""
        raise EvaluationError(f"none of {len(films)} films could be read{first}", "give films that can be read")

    def figures(view: str | None = None) -> FoundFigures:
        own = [film for film, its in zip(evaluated, views, strict=True) if view in (None, its)]
        return found_figures(own, resamples=resamples, seed=seed)

    limits = None
    if false_positives is not None:
        patients = [film.read.patient for film in evaluated]
        limits = limit_trade(counts, patients, false_positives, resamples=resamples, seed=seed)
    return BundleEvaluation(
        figures=figures(),
        limits=limits,
        views={view: figures(view) for view in sorted({view for view in views if view})},
        failures=failure_table(causes) if bundle.channels and any(film.lines_known for film in evaluated) else None,
        bundle=bundle.identity,
        models=_models(bundle),
        left_out=dict(left_out),
        refused=refused,
        remarks=tuple(remarks),
        notice=bundle.notice,
    )


def _unseen(
    reference: ReferenceFilms, bundle: Bundle, report_seen: bool
) -> tuple[list[ReferenceFilm], Counter[str], list[str]]:
    """The films to evaluate, films left out by reason, and remarks of whom the models may have seen.

    The arguments and `EvaluationError` as of `evaluate_bundle`.
    """
    seen = training_patients(bundle)
    left_out, remarks = Counter(reference.left_out), list(reference.remarks)
    films = reference.films
    if seen is None:
        if not report_seen:
            raise EvaluationError(
                f"{bundle.folder}: does not list the patients that its models were trained on, so that their films "
                "cannot be left out",
                "export it again from its run (`cxrlines bundle RUN --out BUNDLE`), or evaluate all films with --seen "
                "report, which the figures then say",
            )
        remarks.append("The bundle does not list its training patients: these films may be of them.")
    else:
        own = [any(is_training_patient(name, seen) for name in (film.patient, *film.aliases)) for film in films]
        unnamed = sum(not (film.named or is_seen) for film, is_seen in zip(films, own, strict=True)) if seen else 0
        if unnamed and not report_seen:
            raise EvaluationError(
                f"{unnamed} of {plural(len(films), 'film')}: neither an index.csv beside them nor a DICOM header names "
                f"their patients, whom the models of {bundle.folder} may have been trained on",
                "name them in an index.csv of file and patient_id, or evaluate all films with --seen report, which the "
                "figures then say",
            )
        if unnamed:
            remarks.append(
                f"The patients of {plural(unnamed, 'film')} are not named: they may be training patients, too."
            )
        if report_seen:
            verb = "is" if sum(own) == 1 else "are"
            remarks.append(
                f"{sum(own)} of these {plural(len(films), 'film')} {verb} {SEEN_PATIENT}: the figures flatter."
            )
        else:
            films = [film for film, is_seen in zip(films, own, strict=True) if not is_seen]
            left_out += Counter({SEEN_PATIENT: sum(own)})
            if not films:
                raise EvaluationError(
                    f"all {len(own)} films are {SEEN_PATIENT} ({', '.join(_models(bundle))})",
                    "give films of other patients, evaluate the models of one fold with --fold, or these with "
                    "--seen report",
                )
    return films, left_out, remarks + _ancestry_remarks(bundle, seen)


def _ancestry_remarks(bundle: Bundle, seen: frozenset[str] | None) -> list[str]:
    """What else the models may have seen than the patients that the bundle lists."""
    remarks = []
    if seen and has_other_sites(seen):
        remarks.append("Some of its training patients are kept under another site's key: these films may be of them.")
    if seen and (sets := sets_shared_with(seen)):
        remarks.append(
            f"Some patients of {', '.join(sets)} may be among its training patients under other identifiers: "
            "figures on such films may be too good."
        )
    for field, words in (
        ("ancestry_unknown", "unknown ancestry"),
        ("ancestry_trusted", "ancestry trusted, not checked"),
    ):
        if origins := bundle.manifest.meta.get(field):
            remarks.append(f"Of {words}, which may have seen any patient: {', '.join(map(str, origins))}.")
    if learnt := bundle.manifest.meta.get("pseudo_labels"):
        remarks.append(f"Its run's test films were learnt under soft labels, by {', '.join(map(str, learnt))}.")
    return remarks


def _causes(film: EvaluatedReading, found: Findings, maps: FilmMaps | None, bundle: Bundle) -> FilmCauses:
    """Why lines of a film are missed, and false ones given."""
    if maps is None:
        return film_causes(film, [], lambda line: 0.0, refused=not found.quality.usable)
    withheld = withheld_lines(maps, found, bundle.manifest.denied, bundle.manifest.confident)
    return film_causes(film, withheld, partial(mean_along, maps))


def of_fold(bundle: Bundle, fold: int) -> Bundle:
    """The bundle with the models of one fold alone. `BundleError` if it has none of that fold.

    What was fitted on the mean of several folds is left out where each is calibrated by itself. `BundleError` also
    where probabilities were moved to other frequencies, which one fold's are not.
    """
    if "frequencies_before" in bundle.manifest.meta.get("calibration", {}):
        raise BundleError(
            f"{bundle.folder}: its probabilities were moved to other frequencies (--prior), not those of one fold",
            "leave --fold out, or evaluate the bundle that it was made from",
        )
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
    as_turned = Quality(rotation=found.quality.rotation)  # without its notes: the truth is shown of a refused film, too
    true = replace(found, lines=tuple(read.true), landmarks=carina, labels=None, quality=as_turned)
    true = replace(true, evidence={})  # also of such a film, lines were looked for by who marked it
    true = replace(true, distances=tuple(distances_of(true)))
    pixels, name = read_film(path).pixels, film_name(path)
    left = draw_findings(pixels, true, name=f"{name}: true", notes=(AS_MARKED,))
    right = draw_findings(pixels, found, name=f"{name}: found", notice=notice)
    save_drawing(folder / f"{name}.png", np.hstack([left, right]))


def _models(bundle: Bundle) -> tuple[str, ...]:
    return tuple(f"{entry.name} fold {entry.fold}" for entry in bundle.manifest.models)
