"""The report of a run: what the page needs, and the writing of `report.html` and `metrics.json`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import pandas as pd

from cxrlines.core.files import write_text
from cxrlines.core.film import FilmError
from cxrlines.evaluation.report import figures
from cxrlines.evaluation.report.mistakes import FilmOf, Mistake, Picture, css_colour, picture, worst
from cxrlines.evaluation.scores import Evaluation, compare, evaluate
from cxrlines.io.folds import describe_folds
from cxrlines.metrics.intervals import RESAMPLES
from cxrlines.task import DEVICE_OF, DEVICES, STATE_OF

ENSEMBLE = "ensemble"
"""The name under which the ensemble's predictions are kept, beside those of the members."""


OUT_OF_FOLD_SCOPE, TEST_SCOPE = "out_of_fold", "test"
"""The scopes of `Viewed`."""


@dataclass(frozen=True)
class DataSummary:
    """The training films, for the page's data section."""

    name: str  # e.g. "phantom, site a" or the folder's name
    films: int
    patients: int
    annotated: int  # films that have lines drawn by hand
    positives: Mapping[str, int]  # label -> films
    left_out: Mapping[str, int] = field(default_factory=dict)  # reason, in words -> films or rows
    settings: Mapping[str, object] = field(default_factory=dict)  # how the films were made or prepared, in short


@dataclass(frozen=True)
class Member:
    """One member of the ensemble, or the baseline it is compared with.

    Attributes:
        name: the key of its predictions.
        role: a baseline is shown and compared, but is not part of the ensemble.
        stages: a mapping of short strings a stage, e.g. `{"stage": "teacher", "start": "ImageNet"}`; the keys become
            table columns.
        seconds: training time of all its steps together.
        lineage: what it was made from, as short strings, e.g. `{"parents": "teacher of fold 0"}`.
        ancestry_unknown, ancestry_trusted: what of that is not known, and what is trusted and not checked, in words;
            else empty. Every figure of such a member, and of an ensemble holding it, is marked on the page.
        pseudo_labels: the steps it descends from that learnt the test films under soft labels. Its figures of test
            films are marked.
        epochs_chosen: the stages it is made from, or its own, whose epoch was chosen on the fold held out.
    """

    name: str
    role: Literal["baseline", "member"]
    stages: Sequence[Mapping[str, str]]
    seconds: float
    lineage: Mapping[str, str] = field(default_factory=dict)
    ancestry_unknown: str = ""
    ancestry_trusted: str = ""
    pseudo_labels: str = ""
    epochs_chosen: str = ""


@dataclass(frozen=True)
class Predictions:
    """Predictions on one set of films, with their ground truth."""

    scope: str  # which films, in words that continue "on ...", e.g. "test films of patients no member saw"
    by_name: Mapping[str, pd.DataFrame]  # member name, and `ENSEMBLE` -> `study` and the labels (probabilities)
    truth: pd.DataFrame  # `study`, `patient` and the labels (0, 1 or `task.UNKNOWN`)
    members_per_film: pd.Series | None = None  # study -> of how many members the ensemble's is the average


@dataclass(frozen=True)
class Viewed:
    """Predictions averaged over several views of each film, of the ensemble and the members that it averages."""

    about: str  # which views, in words
    by_scope: Mapping[str, Predictions]  # `OUT_OF_FOLD_SCOPE`, `TEST_SCOPE`: whichever are scored plain


@dataclass(frozen=True)
class Report:
    """Everything `report.html` shows."""

    title: str
    command: str  # what to type to repeat the run
    seed: int
    environment: Mapping[str, str]  # e.g. {"Python": "3.11.7", "machine": "2 cores"}
    data: DataSummary
    folds: pd.DataFrame | None  # `study`, `patient`, the labels and `fold`; None where none were drawn
    members: Sequence[Member]  # in the order in which they are shown
    main: Predictions  # of the headline; `metrics.json` is computed from them
    out_of_fold: Predictions | None = None  # on the training films, each by members that did not see its patient
    film_of: FilmOf | None = None  # gives a study of `main` as pixels and lines; None leaves the films off the page
    views: "Viewed | None" = None
    ranks: bool = False  # whether the ensemble's values are mean ranks, which are no probabilities
    steps: Sequence[Mapping[str, object]] = ()  # of each `member, fold, stage, seconds, films`; fold, films: or None
    notes: Sequence[str] = ()  # sentences to be read with the headline

    @property
    def seconds(self) -> float:
        """Training time of the ensemble's members."""
        return sum(member.seconds for member in self.members if member.role == "member")


Evaluations = dict[str, Evaluation]
"""By name: the baseline and members in the report's order, the ensemble last."""


def write_report(report: Report, out: Path, *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Write the page to `out` (`.../report.html`) and its figures to `metrics.json` beside it; return the latter.

    Every figure and interval is computed here, from the predictions, with the report's seed. Both files appear
    atomically. `ValueError` if the predictions lack the ensemble or a member.
    """
    out = Path(out)
    if out.suffix != ".html":
        raise ValueError(f"out is {out}; name the page itself, e.g. {out / 'report.html'}")
    main = _evaluated(report, report.main, resamples)
    out_of_fold = _evaluated(report, report.out_of_fold, resamples) if report.out_of_fold else None
    viewed = _viewed(report, main, out_of_fold, resamples)
    metrics = _metrics(report, main, out_of_fold, resamples) | ({"views": viewed} if viewed else {})
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, _page(report, main, out_of_fold, viewed))
    write_text(out.with_name("metrics.json"), json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    return metrics


def _evaluated(report: Report, predictions: Predictions, resamples: int) -> Evaluations:
    names = [*(member.name for member in report.members), ENSEMBLE]
    if missing := [name for name in names if name not in predictions.by_name]:
        there = ", ".join(predictions.by_name) or "nobody"
        raise ValueError(f"no predictions of {', '.join(missing)} on {predictions.scope}; there are those of {there}")
    how = {"resamples": resamples, "seed": report.seed}
    found = {name: evaluate(predictions.by_name[name], predictions.truth, **how) for name in names}
    return found | ({ENSEMBLE: found[ENSEMBLE].of_ranks()} if report.ranks else {})


def _metrics(report: Report, main: Evaluations, out_of_fold: Evaluations | None, resamples: int) -> dict[str, Any]:
    """What `metrics.json` holds: plain numbers, strings and None."""
    whole = main[ENSEMBLE].as_dict()
    differences = {
        f"{ENSEMBLE} - {member.name}": {"macro_auc": found[0], "ci95": list(found[1])}
        for member in report.members
        if (found := compare(main[ENSEMBLE], main[member.name]))
    }
    metrics: dict[str, Any] = {
        "scope": report.main.scope,
        "members": {
            member.name: {**_macro(main[member.name]), "seconds": member.seconds, "role": member.role}
            for member in report.members
        },
        "ensemble": {**_macro(main[ENSEMBLE]), "seconds": report.seconds},
        "labels": whole["labels"],
        "differences": differences,
        **{name: whole[name] for name in ("ece", "brier", "films", "patients", "not_predicted", "undefined")},
        "ancestry_unknown": {m.name: m.ancestry_unknown for m in report.members if m.ancestry_unknown},
        "ancestry_trusted": {m.name: m.ancestry_trusted for m in report.members if m.ancestry_trusted},
        "pseudo_labels": {m.name: m.pseudo_labels for m in report.members if m.pseudo_labels},
        "epochs_chosen_on_held_out": {m.name: m.epochs_chosen for m in report.members if m.epochs_chosen},
        **_members_per_film(report, report.main, resamples),
        "seed": report.seed,
    }
    if out_of_fold and report.out_of_fold:
        metrics["out_of_fold"] = {
            "scope": report.out_of_fold.scope,
            "members": {member.name: _macro(out_of_fold[member.name]) for member in report.members},
            "ensemble": _macro(out_of_fold[ENSEMBLE]),
            **_members_per_film(report, report.out_of_fold, resamples),
        }
    return metrics


def _members_per_film(report: Report, predictions: Predictions, resamples: int) -> dict[str, Any]:
    """Where the ensemble averages more members on some films: of how many -> films, and its figures where most."""
    counts = predictions.members_per_film
    if counts is None or counts.nunique() < 2:
        return {}
    films = {str(count): int(number) for count, number in sorted(counts.value_counts().items())}
    most = predictions.by_name[ENSEMBLE]["study"].astype(str).isin(set(counts.index[counts == counts.max()]))
    frame = predictions.by_name[ENSEMBLE][most]
    truth = predictions.truth[predictions.truth["study"].astype(str).isin(set(frame["study"].astype(str)))]
    figures = evaluate(frame, truth, resamples=resamples, seed=report.seed)
    return {"members_per_film": films, "ensemble_of_most_members": {"films": figures.films, **_macro(figures)}}


def _macro(evaluation: Evaluation) -> dict[str, Any]:
    return {"macro_auc": evaluation.macro_auc, "ci95": list(evaluation.ci95) if evaluation.ci95 else None}


def _viewed(
    report: Report, main: Evaluations, out_of_fold: Evaluations | None, resamples: int
) -> dict[str, Any] | None:
    """The figures with views, and what they gain on the plain ones; None where nothing was predicted so."""
    if report.views is None:
        return None
    found: dict[str, Any] = {"about": report.views.about}
    for scope, predictions in report.views.by_scope.items():
        plain = out_of_fold if scope == OUT_OF_FOLD_SCOPE and out_of_fold else main
        how: dict[str, Any] = {"resamples": resamples, "seed": report.seed}
        scored = {name: evaluate(frame, predictions.truth, **how) for name, frame in predictions.by_name.items()}
        found[scope] = {name: _macro(each) | {"gain": _gain(each, plain.get(name))} for name, each in scored.items()}
    return found


def _gain(viewed: Evaluation, plain: Evaluation | None) -> dict[str, Any] | None:
    difference = compare(viewed, plain) if plain else None
    return {"macro_auc": difference[0], "ci95": list(difference[1])} if difference else None


def _page(report: Report, main: Evaluations, out_of_fold: Evaluations | None, viewed: Mapping[str, Any] | None) -> str:
    how: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, **how)
    environment.filters |= {"duration": _duration, "percent": _percent}
    ensemble = main[ENSEMBLE]
    labels = list(ensemble.labels)
    devices = list(dict.fromkeys(DEVICE_OF[label] for label in labels))
    films = list(_mistakes(report))
    marked = [m for m in report.members if m.ancestry_unknown or m.ancestry_trusted]
    learnt = [m for m in report.members if m.pseudo_labels]
    return environment.get_template("page.html.j2").render(
        report=report,
        main=main,
        out_of_fold=out_of_fold,
        viewed=viewed,
        ensemble=ensemble,
        ensemble_name=ENSEMBLE,
        unknown={member.name for member in marked} | {ENSEMBLE for member in marked if member.role == "member"},
        pseudo_labelled={m.name for m in learnt} | {ENSEMBLE for m in learnt if m.role == "member"},
        verdicts=_verdicts(report, main),
        folds=None if report.folds is None else describe_folds(report.folds, report.folds["fold"]),
        split=0 if report.folds is None else int((report.folds.groupby("patient")["fold"].nunique() > 1).sum()),
        stage_columns=list(dict.fromkeys(key for member in report.members for stage in member.stages for key in stage)),
        forest=figures.forest(main),
        rocs=figures.roc_curves(ensemble.truth, ensemble.scores, labels),
        calibrations=[] if report.ranks else figures.calibration_curves(ensemble.truth, ensemble.scores, labels),
        few_films=figures.FEW_FILMS,
        devices=[(device, DEVICES[device].text, css_colour(DEVICES[device].colour)) for device in devices],
        states_of={
            device: [(STATE_OF[name].value, figures.state_class(name)) for name in labels if DEVICE_OF[name] is device]
            for device in devices
        },
        films=[shown for shown in films if shown[1]],
        unreadable=sum(film is None for _, film in films),
        labels=labels,
    )


def _mistakes(report: Report) -> Iterator[tuple[Mistake, Picture | None]]:
    """The worst films with their pictures; None where one cannot be shown."""
    if report.film_of is None or report.ranks:
        return
    for mistake in worst(report.main.truth, report.main.by_name[ENSEMBLE]):
        try:
            yield mistake, picture(*report.film_of(mistake.study))
        except (FilmError, OSError, KeyError):  # a film that went missing must not cost the report
            yield mistake, None


SENTENCES = 4
"""Members that the ensemble is compared with in words; the table has all."""


def _verdicts(report: Report, evaluations: Evaluations) -> list[str]:
    """The ensemble against the baseline and its members, each in one plain sentence; of many members, the best."""
    sentences = []
    members = [member for member in report.members if member.role == "member"]
    best = sorted(report.members, key=lambda member: evaluations[member.name].macro_auc or 0, reverse=True)[:SENTENCES]
    for member in report.members:
        if members == [member] and np.array_equal(evaluations[ENSEMBLE].scores, evaluations[member.name].scores):
            sentences.append(f"It has one member, {member.name}: their figures are the same.")
            continue
        difference = compare(evaluations[ENSEMBLE], evaluations[member.name])
        if difference is None or (member.role == "member" and member not in best):
            continue
        value, (low, high) = difference
        who = f"the baseline “{member.name}”" if member.role == "baseline" else f"its member “{member.name}”"
        who = "the baseline" if member.name == "baseline" else who
        size = f"{abs(value):.3f} {'more' if value >= 0 else 'less'} than {who}"
        interval = f"95 % interval of the difference {low:+.3f} to {high:+.3f}".replace("-", "\u2212")
        doubt = "" if low > 0 or high < 0 else ": the difference may be chance"
        sentences.append(f"It scores {size} ({interval}){doubt}.")
    return sentences


def _percent(probability: float) -> str:
    """Whole percents, with no 0 or 100 where a probability is neither."""
    if 0 < probability < 0.01:
        return "<1\u00a0%"
    if 0.99 < probability < 1:
        return ">99\u00a0%"
    return f"{100 * probability:.0f}\u00a0%"


def _duration(seconds: float) -> str:
    """`42 s`, `13 min 5 s`, `2 h 10 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
