"""Commands that score predictions and bundles, and average predictions."""

import functools
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cxrlines.cli.options import BundleFolder, Json, say
from cxrlines.core.counted import counted
from cxrlines.core.errors import Error
from cxrlines.core.files import check_outputs

app = typer.Typer()


class Seen(StrEnum):
    leave_out = "leave-out"
    report = "report"


class Split(StrEnum):
    train = "train"
    test = "test"


@app.command(epilog="Example: cxrlines ensemble a.csv b.csv --out mean.csv")
def ensemble(
    predictions: Annotated[list[Path], typer.Argument(help="Two or more prediction files of the same studies.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    how: Annotated[
        Literal["mean", "rank", "power", "weighted", "fitted"],
        typer.Option(
            help="Mean of probabilities or ranks, power mean, or mean under given (weighted) or fitted weights."
        ),
    ] = "mean",
    power: Annotated[float | None, typer.Option(help="Exponent of the power mean.")] = None,
    truth: Annotated[
        Path | None, typer.Option(help="With fitted: the label table; the predictions must be out of fold.")
    ] = None,
    folds: Annotated[
        Path | None,
        typer.Option(help="With fitted: the folds file; each fold is averaged by weights of the others."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="With weighted: a number for each file, e.g. 2,1. With fitted: a file of weights, written with "
            "--truth, read without."
        ),
    ] = None,
) -> None:
    """Average the predictions of several models."""
    from cxrlines.evaluation.ensemble.average import POWER
    from cxrlines.evaluation.ensemble.blend import blend_files

    if power is not None and how != "power":
        raise Error(f"--power: --how {how} takes no such option", "leave it out, or add --how power")
    exponent = POWER if power is None else power
    for path in blend_files(predictions, out, how, power=exponent, truth=truth, folds=folds, weights=weights):
        typer.echo(path)


@app.command(epilog="Example: cxrlines evaluate predictions.csv ranzcr/train.csv --against other.csv")
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Predictions: a CSV of StudyInstanceUID and the labels.")],
    truth: Annotated[Path, typer.Argument(help="train.csv, or another table with the labels (and PatientID).")],
    against: Annotated[
        Path | None,
        typer.Option(help="Other predictions to compare with: the difference in macro AUC, with its interval."),
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples of patients for each interval.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resampling.")] = 0,
    as_json: Json = False,
) -> None:
    """Score predictions against labels: AUC with 95 % intervals by patient, Brier score, calibration error.

    With --against, both are scored on the same resamples of patients: the interval of the difference is
    narrower than the two intervals suggest.
    """
    from cxrlines.evaluation.predictions import read_predictions, read_truth
    from cxrlines.evaluation.scores import compare_predictions
    from cxrlines.evaluation.scores import evaluate as score

    scored, labels = read_predictions(predictions), read_truth(truth)
    result = score(scored, labels, resamples=resamples, seed=seed)
    figures, text = result.as_dict(), result.text()
    if against is not None:
        found = compare_predictions(scored, read_predictions(against), labels, resamples=resamples, seed=seed)
        figures["against"], text = found.as_dict(), f"{text}\n{found.text(str(against))}"
    typer.echo(json.dumps(figures, indent=1) if as_json else text)


@app.command("evaluate-bundle", epilog="Example: cxrlines evaluate-bundle ranzcr --bundle bundle --fold 0")
def evaluate_bundle(
    films: Annotated[
        Path, typer.Argument(help="Folder of real films (with --marks), or a data folder with its annotations.")
    ],
    marks: Annotated[
        list[Path] | None,
        typer.Option(help="JSON with the carina and the lines of real films; may be repeated."),
    ] = None,
    patients: Annotated[
        Path | None, typer.Option(help="Text file of patient ids, one a line: only films of these are evaluated.")
    ] = None,
    bundle: BundleFolder = None,
    fold: Annotated[int | None, typer.Option(help="Evaluate the bundle's models of this fold alone.")] = None,
    seen: Annotated[
        Seen, typer.Option(help="Films of patients that a model was trained on: leave them out, or report them.")
    ] = Seen.leave_out,
    split: Annotated[
        Split | None, typer.Option(help="Split of a data folder; default: test, where its films have labels.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples of patients for each interval.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resampling.")] = 0,
    draw: Annotated[
        Path | None,
        typer.Option(help="Folder for drawings as PNG: ground truth on the left, findings on the right."),
    ] = None,
    limits: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Fit limits of confidence and presence, by device, to this many false positives a film; show what "
            "other limits give.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a bundle on films with reference annotations.

    Gives presence AUC, recall, false positives, errors of tips and carina, and states.
    Says why lines are missed and what false ones lie on; by view where index.csv names it.
    """
    from cxrlines.evaluation.bundles import evaluate_bundle as evaluation
    from cxrlines.evaluation.bundles.reference import data_films, marked_films
    from cxrlines.reading.bundle import EMBEDDED, load_bundle
    from cxrlines.reading.results.prediction_files import check_places
    from cxrlines.reading.sources import Found

    if marks and split:
        raise Error("--split: is of a data folder; films with --marks have no splits", "leave it out")
    check_outputs(folders={"--draw": draw}, inputs=[films, *(marks or []), patients, bundle])
    check_places(Found([], [], folders=(films,)), None, draw=draw)
    read = load_bundle(bundle or EMBEDDED)
    read = read if fold is None else evaluation.of_fold(read, fold)
    reference = marked_films(films, *marks) if marks else data_films(films, split.value if split else None)
    reference = reference.of_patients(patients) if patients else reference
    with counted() as progress:
        result = evaluation.evaluate_bundle(
            reference,
            read,
            report_seen=seen is Seen.report,
            resamples=resamples,
            seed=seed,
            draw=draw,
            false_positives=limits,
            progress=progress,
        )
    typer.echo(json.dumps(result.as_dict(), indent=1) if as_json else result.text())
    say(result.notice)


@app.command("judge", hidden=True)
@functools.wraps(evaluate_bundle)
def _judge(**options: Any) -> None:
    say("judge is now evaluate-bundle; the old name goes with the next release")
    evaluate_bundle(**options)
