"""The demo: a film read, then the whole job on phantom films; every part of it is a command of its own as well."""

import importlib
import json
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from cxrlines.reading.batch import predict
from cxrlines.reading.bundle import EMBEDDED, load_bundle
from cxrlines.reading.results.prediction_files import drawings, write_each, write_predictions
from cxrlines.reading.results.report_text import as_text
from cxrlines.task import LABELS

if TYPE_CHECKING:
    import pandas as pd


class Scale(NamedTuple):
    """How large a demo is: the phantom's films, settings laid over the recipe `demo`, and the command that runs it."""

    films: Mapping[str, Any]
    settings: tuple[str, ...]
    command: str


KIND: dict[str, Any] = dict(seed=0, balance="even", difficulty=0.1, annotated=0.5)
"""The demo's phantom: labels about even and lines that stand out, so that minutes are enough to learn them."""

SHORT = Scale(
    {"studies": 1800, "test": 300, "size": 256, **KIND},
    (
        "size=160",
        "store.size=184",
        "members.*.stages.*.schedule.batch=8",
        "members.*.stages.*.schedule.validate_films=64",
        "members.baseline.stages.only.schedule.epochs=3.8",
        "members.three-stage.stages.teacher.schedule.epochs=0.8",
        "members.three-stage.stages.student.schedule.epochs=1.4",
        "members.three-stage.stages.finetune.schedule.epochs=2.5",
    ),
    "make demo",
)
FULL = Scale({"studies": 2400, "test": 500, "size": 320, **KIND}, (), "make demo-full")

READ = 4
"""Phantom films read at the end, besides the real one."""


def run_demo(out: Path, scale: Scale = SHORT, workers: int | None = None) -> None:
    """Read a film; make films, check them, train the recipe `demo`, evaluate and export it, read films with it.

    Called again, it resumes where it was.
    """
    begun = time.monotonic()
    importlib.import_module("torch")  # without it this ends here, and not after the films are made
    film = real_film()

    _head(1, "Reading a film with the embedded reader")
    _read(film, out / "drawn")
    _whole_job(out, scale, workers, film)

    minutes, seconds = divmod(round(time.monotonic() - begun), 60)
    typer.echo(f"\nDone in {minutes}:{seconds:02}. The report: {out / 'report.html'} (cxrlines open {out})")


def _whole_job(out: Path, scale: Scale, workers: int | None, film: Path) -> None:
    """From making films to reading them."""
    # Here, as they take seconds: the first film is read before.
    from cxrlines.core.pool import cores
    from cxrlines.io.audit import audit
    from cxrlines.io.folds import describe_folds
    from cxrlines.io.tables import read_dataset
    from cxrlines.phantom.dataset import write_phantom
    from cxrlines.recipe.run.export import export_run
    from cxrlines.recipe.run.pipeline import train
    from cxrlines.recipe.spec.load import load_recipe

    data, processes = out / "data", workers or cores()
    _head(2, "Making films: a phantom with known lines, tips and labels")
    summary = write_phantom(data, workers=processes, **scale.films)
    typer.echo(f"{summary['studies']} training and {summary['test']} test films in {data}")

    _head(3, "Checking them")
    typer.echo(audit(data, None, workers=processes).text())

    _head(4, "Training: a one-stage baseline and three stages (teacher, student, fine-tune), each on two folds")
    recipe = load_recipe("demo", list(scale.settings))
    run = train(recipe, data, out, workers=workers, command=scale.command, say=typer.echo)
    typer.echo(describe_folds(run.train.studies, run.folds).text())

    _head(5, "Evaluating: test films of patients no model saw, 95 % intervals from resampling patients")
    typer.echo(_figures(json.loads((out / "metrics.json").read_text())))
    typer.echo(_compared(out / "predictions/test", read_dataset(data, "test").studies))

    _head(6, "Exporting a bundle, and reading films with it")
    export_run(out, out / "bundle")
    result = predict([*sorted((data / "test").glob("*.jpg"))[:READ], film], load_bundle(out / "bundle"))
    for path in write_predictions(result, out / "read.csv"):
        typer.echo(path)
    for study, *scores in result.rows.itertuples(index=False):
        likely = [f"{label} {score:.2f}" for label, score in zip(LABELS, scores, strict=True) if score >= 0.5]
        typer.echo(f"  {str(study)[-24:]}: {', '.join(likely) or 'nothing above 0.5'}")
    typer.echo("  (trained on synthetic films alone, for minutes: its reading of other films is not to be relied on)")


def real_film() -> Path:
    """The real chest film of the package pydicom-data; where it is not installed, the example in the package."""
    package = find_spec("data_store")
    film = Path(package.origin).parent / "data/RG1_UNCR.dcm" if package and package.origin else None
    return film if film and film.is_file() else EMBEDDED / "example.jpg"


def _read(film: Path, drawn: Path) -> None:
    """Read a film with the embedded reader; print its findings and where the picture of them is."""
    result = predict([film], load_bundle(EMBEDDED), lines=True)
    typer.echo(f"{film.name}\n{as_text(result.findings[0])}")
    write_each(result, [drawings(result, drawn)])
    typer.echo(f"The picture: {drawn / f'{result.studies[0]}.png'}")


def _head(number: int, text: str) -> None:
    typer.echo(f"\n[{number}/6] {text}")


def _figures(metrics: dict[str, Any]) -> str:
    """Members and ensemble, each with its interval and training time."""
    from cxrlines.core.text import clock

    lines = [f"{'':16} macro AUC   95 % interval    training"]
    for name, figures in [*metrics["members"].items(), ("ensemble", metrics["ensemble"])]:
        low, high = figures["ci95"]
        seconds = clock(figures["seconds"]) if "seconds" in figures else ""
        lines.append(f"{name:16} {figures['macro_auc']:.4f}      {low:.4f}-{high:.4f}    {seconds:>8}")
    return "\n".join(lines)


def _compared(predictions: Path, truth: "pd.DataFrame") -> str:
    """How the three stages fare against one at equal training time, with the interval of the difference."""
    from cxrlines.evaluation.predictions import read_predictions
    from cxrlines.evaluation.scores import compare, evaluate

    names = ("three-stage", "baseline")
    found = compare(*(evaluate(read_predictions(predictions / f"{name}.csv"), truth) for name in names))
    if found is None:
        return "too few films to compare three stages with one"
    difference, (low, high) = found
    return f"three stages less one, at equal time: {difference:+.4f}  ({low:+.4f} to {high:+.4f})"
