"""The demo: the whole job on phantom films, laptop-sized; every part of it is a command of its own as well."""

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from cxrlines.core.pool import cores
from cxrlines.evaluation.predictions import read_predictions
from cxrlines.evaluation.scores import compare, evaluate
from cxrlines.io.audit import audit
from cxrlines.io.folds import describe_folds
from cxrlines.io.tables import read_dataset
from cxrlines.phantom.dataset import write_phantom
from cxrlines.reading.batch import predict
from cxrlines.reading.bundle import load_bundle
from cxrlines.reading.results.prediction_files import write_predictions
from cxrlines.recipe.run.export import export_run
from cxrlines.recipe.run.pipeline import train
from cxrlines.recipe.run.progress import clock
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.task import LABELS

FILMS: dict[str, Any] = dict(studies=2400, test=500, seed=0, size=320, balance="even", difficulty=0.1, annotated=0.5)
"""The demo's phantom: labels about even and lines that stand out, so that minutes are enough to learn them."""

READ = 4
"""Phantom films read at the end, besides the real DICOM."""


def run_demo(out: Path, workers: int | None = None) -> None:
    """Make films, check them, train the recipe `demo`, evaluate and export it, read films. Resumes where it was."""
    begun = time.monotonic()
    processes = workers or cores()
    data = out / "data"

    _head(1, "Making films: a phantom with known lines, tips and labels")
    summary = write_phantom(data, workers=processes, **FILMS)
    typer.echo(f"{summary['studies']} training and {summary['test']} test films in {data}")

    _head(2, "Checking them")
    typer.echo(audit(data, None, workers=processes).text())

    _head(3, "Training: a one-stage baseline and three stages (teacher, student, fine-tune), each on two folds")
    run = train(load_recipe("demo"), data, out, workers=workers, command="make demo", say=typer.echo)
    typer.echo(describe_folds(run.train.studies, run.folds).text())

    _head(4, "Evaluating: test films of patients no model saw, 95 % intervals from resampling patients")
    typer.echo(_figures(json.loads((out / "metrics.json").read_text())))
    typer.echo(_compared(out / "predictions/test", read_dataset(data, "test").studies))

    _head(5, "Exporting a bundle, and reading films with it")
    export_run(out, out / "bundle")
    films = sorted((data / "test").glob("*.jpg"))[:READ] + _real_dicom()
    result = predict(films, load_bundle(out / "bundle"))
    for path in write_predictions(result, out / "read.csv"):
        typer.echo(path)
    for study, *scores in result.rows.itertuples(index=False):
        likely = [f"{label} {score:.2f}" for label, score in zip(LABELS, scores, strict=True) if score >= 0.5]
        typer.echo(f"  {str(study)[-24:]}: {', '.join(likely) or 'nothing above 0.5'}")
    typer.echo("  (trained on synthetic films alone, for minutes: its reading of the real film is not to be relied on)")

    typer.echo(f"\nDone in {clock(time.monotonic() - begun)}. Open {out / 'report.html'} in a browser.")


def _head(number: int, text: str) -> None:
    typer.echo(f"\n[{number}/5] {text}")


def _figures(metrics: dict[str, Any]) -> str:
    """Members and ensemble, each with its interval and training time."""
    lines = [f"{'':16} macro AUC   95 % interval    training"]
    for name, figures in [*metrics["members"].items(), ("ensemble", metrics["ensemble"])]:
        low, high = figures["ci95"]
        seconds = clock(figures["seconds"]) if "seconds" in figures else ""
        lines.append(f"{name:16} {figures['macro_auc']:.4f}      {low:.4f}-{high:.4f}    {seconds:>8}")
    return "\n".join(lines)


def _compared(predictions: Path, truth: pd.DataFrame) -> str:
    """How the three stages fare against one at equal training time, with the interval of the difference."""
    names = ("three-stage", "baseline")
    found = compare(*(evaluate(read_predictions(predictions / f"{name}.csv"), truth) for name in names))
    if found is None:
        return "too few films to compare three stages with one"
    difference, (low, high) = found
    return f"three stages less one, at equal time: {difference:+.4f}  ({low:+.4f} to {high:+.4f})"


def _real_dicom() -> list[Path]:
    """The real chest film of the package pydicom-data, where it is installed."""
    package = importlib.util.find_spec("data_store")
    folder = Path(package.origin).parent / "data" if package and package.origin else None
    return sorted(folder.glob("RG1_UNCR.dcm")) if folder else []
