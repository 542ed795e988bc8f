"""Commands that measure speed and robustness on this machine."""

import json
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cxrlines.cli.options import BundleFolder, Json, signals
from cxrlines.core.counted import counted

app = typer.Typer(help="Measure speed and robustness on this machine.", no_args_is_help=True)

Seconds = Annotated[float, typer.Option(help="Seconds to measure each of the two.")]
Count = Annotated[int, typer.Option(min=1, help="Number of films to read.")]
FilmFolder = Annotated[
    Path | None, typer.Option(help="Folder of films; default: phantoms of 2,500 x 3,000 px as JPEG.")
]


@app.command("augment", epilog="Example: cxrlines bench augment --seconds 5")
def bench_augment(seconds: Seconds = 10.0, as_json: Json = False) -> None:
    """Measure the speed of augmentation: the full list at 512 px on one core, against albumentations."""
    from cxrlines.lab.bench.augmentation_speed import bench_augment as measure

    _print(measure(seconds=seconds), as_json)


@app.command("train", epilog="Example: cxrlines bench train --backbone resnet50d --size 512")
def bench_train(
    seconds: Seconds = 20.0,
    backbone: Annotated[str, typer.Option(help="Any timm model.")] = "tf_efficientnet_lite0",
    size: Annotated[int, typer.Option(min=32, help="Side of a film, px.")] = 256,
    batch: Annotated[int, typer.Option(min=2, help="Films per batch.")] = 16,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that load films; default: as in training.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the speed of training: films per second, and the share of the time that waits for films.

    On a GPU also the share of its peak, on a CPU the factor over PyTorch's defaults.
    """
    from cxrlines.lab.bench.training_speed import Work
    from cxrlines.lab.bench.training_speed import bench_train as measure

    _print(measure(seconds, Work(backbone, size, batch, workers)), as_json)


@app.command("predict", epilog="Example: cxrlines bench predict --films 20 --json")
def bench_predict(
    bundle: BundleFolder = None,
    films: Count = 12,
    folder: FilmFolder = None,
    as_json: Json = False,
) -> None:
    """Measure the speed of reading, decoding included, one by one and in batches, against PyTorch with two networks."""
    from cxrlines.lab.bench.inference_speed import bench_predict as measure
    from cxrlines.reading.bundle import EMBEDDED, load_bundle

    _print(measure(load_bundle(bundle or EMBEDDED), films, folder), as_json)


@app.command("serve", epilog="Example: cxrlines bench serve --films 100 --clients 8 --json")
def bench_serve(
    films: Count = 50,
    clients: Annotated[int, typer.Option(min=1, max=64, help="Clients that send at the same time.")] = 8,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that read; default: one for two cores.")
    ] = None,
    bundle: BundleFolder = None,
    folder: FilmFolder = None,
    as_json: Json = False,
) -> None:
    """Measure the HTTP API and the DICOM node: films per second and latency; each is started for this alone."""
    from cxrlines.lab.bench.serving_speed import bench_serve as measure

    # Ended as by Ctrl-C, so that the services end as well.
    with signals(signal.default_int_handler, signal.SIGTERM), counted("measuring") as progress:
        found = measure(films, clients, folder=folder, bundle=bundle, processes=processes, progress=progress)
    _print(found, as_json)


@app.command("robustness", epilog="Example: cxrlines bench robustness --films 1000")
def bench_robustness(
    films: Count = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the films and their damage.")] = 0,
    as_json: Json = False,
) -> None:
    """Read films of every format that were damaged at random, and count the outcomes."""
    from cxrlines.lab.robustness import soak

    with counted() as progress:
        report = soak(films, seed, progress)
    _print(asdict(report), as_json)


def _print(figures: dict[str, Any], as_json: bool) -> None:
    typer.echo(json.dumps(figures) if as_json else "\n".join(f"{name}: {value}" for name, value in figures.items()))
