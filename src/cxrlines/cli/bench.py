"""Commands that measure, on this machine: speed, and how damaged films are read."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cxrlines.cli.options import BundleFolder, Json, counted

app = typer.Typer(help="Measure speed, and the reading of damaged films, on this machine.", no_args_is_help=True)


@app.command("augment")
def bench_augment(
    seconds: Annotated[float, typer.Option(help="How long to measure each side.")] = 10.0, as_json: Json = False
) -> None:
    """The full augmentation list, one core, 512 px, against albumentations in the same run."""
    from cxrlines.lab.bench.augment import bench_augment as measure

    _print(measure(seconds=seconds), as_json)


@app.command("train")
def bench_train(
    seconds: Annotated[float, typer.Option(help="How long to measure each side.")] = 20.0, as_json: Json = False
) -> None:
    """Training on the processor as cxrlines sets it up, against PyTorch's defaults in the same run."""
    from cxrlines.lab.bench.train import bench_train as measure

    _print(measure(seconds=seconds), as_json)


@app.command("predict")
def bench_predict(
    bundle: BundleFolder = None,
    films: Annotated[int, typer.Option(min=1, help="Films to read.")] = 12,
    folder: Annotated[
        Path | None, typer.Option(help="A folder of films; default: phantoms of 2,500 x 3,000 px as JPEG.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Reading films, decoding included, one by one and in batches, against plain PyTorch in the same run."""
    from cxrlines.lab.bench.predict import bench_predict as measure
    from cxrlines.reading.bundle import load_bundle
    from cxrlines.reading.reader import EMBEDDED

    _print(measure(load_bundle(bundle or EMBEDDED), films, folder), as_json)


@app.command("robustness")
def bench_robustness(
    films: Annotated[int, typer.Option(min=1, help="Films to read.")] = 1000,
    seed: Annotated[int, typer.Option(help="Which films, and how they are damaged.")] = 0,
    as_json: Json = False,
) -> None:
    """Reading of damaged films: sound ones of every kind, damaged at random; counts what becomes of them."""
    from cxrlines.lab.robustness import soak

    with counted() as progress:
        report = soak(films, seed, progress)
    _print(report.as_dict(), as_json)


def _print(figures: dict[str, Any], as_json: bool) -> None:
    typer.echo(json.dumps(figures) if as_json else "\n".join(f"{name}: {value}" for name, value in figures.items()))
