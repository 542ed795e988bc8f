"""Commands that train and export."""

import json
import os
import shlex
import sys
import webbrowser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from cxrlines.cli.options import On, Workers, numbers, resumable, say
from cxrlines.core.errors import Error
from cxrlines.core.files import SAFETENSORS, check_ending, check_outputs
from cxrlines.core.text import did_you_mean, plural

app = typer.Typer()


@app.command("recipe", epilog="Example: cxrlines recipe hotwater > mine.yaml")
def print_recipe(
    name: Annotated[str | None, typer.Argument(help="A shipped recipe; without a name, they are listed.")] = None,
) -> None:
    """Print a shipped recipe as YAML, to be changed in a file of your own."""
    import yaml

    from cxrlines.recipe.spec.load import shipped

    texts = dict(sorted(shipped().items()))
    if name is None:
        wide = max(map(len, texts))
        typer.echo("\n".join(f"{each:{wide}}  {yaml.safe_load(text)['about']}" for each, text in texts.items()))
        return
    if name not in texts:
        raise Error(
            f"there is no shipped recipe {name!r}", f"name one of {', '.join(texts)}{did_you_mean(name, texts)}"
        )
    typer.echo(texts[name], nl=False)


@app.command(epilog="Example: cxrlines train three-stage --data ranzcr --dry-run")
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A YAML file, or a shipped recipe: recommended, baseline, three-stage, multi-head, multi-task, "
            "two-step, hotwater, hotwater-small, embedded, embedded-more, embedded-quick, demo (`cxrlines recipe` "
            "says what each is)."
        ),
    ],
    data: Annotated[Path, typer.Option(help="Folder with train.csv and train/; test films are predicted if there.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; the same command resumes it. Only --dry-run needs none.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="path.to.field=value: replaces a value of the recipe; * stands for any name. May be repeated."
        ),
    ] = None,
    external: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER: the films of an external set of the recipe, as distributed. May be repeated."),
    ] = None,
    folds: Annotated[str | None, typer.Option(help="Train these folds only, e.g. 0,1.")] = None,
    workers: Workers = None,
    on: On = None,
    devices: Annotated[int | None, typer.Option(min=1, help="GPUs that train each step together.")] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Machines that train each step together (torchrun, SLURM).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the stages and their estimated cost; train nothing.")
    ] = False,
) -> None:
    """Train all models of a recipe; write predictions, metrics.json and report.html.

    An external set is NIH ChestX-ray14, PadChest, VinBigData, CheXpert, or any folder of films.
    """
    from cxrlines.recipe.spec.load import load_recipe

    plain = settings or []
    sets = _folders(external, tuple(load_recipe(recipe, plain).external) if external else ())
    chosen = load_recipe(recipe, [*plain, *sets], say)
    wanted = None if folds is None else numbers("--folds", folds)
    check_outputs(folders={"--out": out}, inputs=[data])
    if dry_run:
        from cxrlines.lab.price.dry_run import dry_run as show_plan

        with TemporaryDirectory() as empty:  # without --out, the plan of a run of which nothing is done
            typer.echo(show_plan(chosen, data, out or Path(empty), wanted))
        return
    if out is None:
        raise Error("--out is missing", "name the run's folder, e.g. --out runs/first; with --dry-run none is needed")
    # PyTorch takes seconds to import: not before the command is known to be right
    from cxrlines.recipe.run.pipeline import train as run_recipe
    from cxrlines.training import distributed

    start = None
    if on:
        from cxrlines.cluster.step_workers import ray_workers

        start = ray_workers(on)
    distributed.begin(devices, nodes)
    command = shlex.join(["cxrlines", *sys.argv[1:]])
    with resumable():
        run_recipe(chosen, data, out, folds=wanted, workers=workers, start=start, command=command, say=say)
    if distributed.rank == 0:
        typer.echo(f"{out / 'metrics.json'}\n{out / 'report.html'}")
    distributed.leave()


def _folders(external: list[str] | None, known: tuple[str, ...]) -> list[str]:
    """`--external NAME=FOLDER` as settings of a recipe that has the sets `known`."""
    settings = []
    for text in external or []:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise Error(f"--external is {text!r}", "write it as NAME=FOLDER, e.g. --external nih=/data/nih")
        if name not in known:
            way_out = f"it has: {', '.join(known)}{did_you_mean(name, known)}" if known else "leave the option out"
            raise Error(f"--external {text}: the recipe has no external set {name!r}", way_out)
        settings.append(f"external.{name}.folder={json.dumps(folder)}")
    return settings


@app.command(epilog="Example: cxrlines bundle runs/three-stage --out bundle --half")
def bundle(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder, or a bundle to change.")],
    out: Annotated[Path, typer.Option(help="The bundle's folder.")],
    half: Annotated[bool, typer.Option("--half", help="Weights in 16 bits: half the size.")] = False,
    onnx: Annotated[
        bool, typer.Option(help="Write ONNX files too, which reading without PyTorch needs; takes seconds per network.")
    ] = True,
    size: Annotated[
        int | None,
        typer.Option(
            min=64,
            max=4096,
            help="Side in px of the films that the networks see from now on: a smaller one reads faster and finds "
            "less. RUN must be a bundle.",
        ),
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            help="Adjust probabilities to the label frequencies of a table (train.csv of the place where it will read) "
            "or of `ranzcr`; RUN may be any bundle."
        ),
    ] = None,
    limits: Annotated[
        Path | None,
        typer.Option(help="Limits by device, as `evaluate-bundle --limits --json` printed them of this bundle."),
    ] = None,
    may_share: Annotated[
        list[str] | None,
        typer.Option(
            help="Public data set, e.g. ranzcr, of which some patients may be among the training patients under other "
            "identifiers: the leak guard and `evaluate-bundle` then say so. May be repeated."
        ),
    ] = None,
) -> None:
    """Export a run as a bundle, which reading needs: weights as safetensors and ONNX, the rest as JSON."""
    from cxrlines.reading import frequencies
    from cxrlines.reading.bundle import MANIFEST, load_bundle
    from cxrlines.reading.bundle_writing import with_manifest, with_onnx
    from cxrlines.reading.fitted_limits import with_limits
    from cxrlines.recipe.run.export import export_run

    wanted = None
    if prior is not None:
        table = None if prior == "ranzcr" else Path(prior)
        wanted = frequencies.RANZCR if table is None else frequencies.Frequencies.of_table(table)
    check_outputs(made={"--out": out}, inputs=[run, limits])
    made, is_bundle = run, (run / MANIFEST).is_file()
    if not is_bundle:
        if size is not None:
            raise Error(f"--size {size}: {run} is no bundle", "export it without --size first, then the bundle with it")
        made = export_run(run, out, half=half, onnx=onnx, may_share=may_share or [])
    elif may_share:
        raise Error("--may-share: a bundle's list of patients cannot be changed", "name the run that it was made from")
    if limits is not None:  # first, as they hold for the bundle that was evaluated: the prior moves them with the rest
        made = with_manifest(packed := load_bundle(made), with_limits(packed, limits), out)
    if is_bundle and (size is not None or (wanted is None and limits is None)):
        made = with_onnx(load_bundle(made), out, size=size)
    if wanted is not None:
        made = with_manifest(packed := load_bundle(made), frequencies.at_frequencies(packed, wanted), out)
    typer.echo(made)


@app.command(epilog="Example: cxrlines quality films --others pictures --out quality.safetensors")
def quality(
    films: Annotated[
        list[Path], typer.Argument(help="Folders of upright frontal films; each is sampled equally often.")
    ],
    out: Annotated[Path, typer.Option(help="The probe to write; `quality.safetensors` in a bundle.")],
    others: Annotated[
        Path | None, typer.Option(help="Folder of pictures that are no frontal chest films, to learn from.")
    ] = None,
    unseen: Annotated[Path | None, typer.Option(help="Folder of such pictures to measure on only.")] = None,
    patients: Annotated[
        Path | None, typer.Option(help="CSV of films and their patient_id; some are held out to measure on.")
    ] = None,
    held_out: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the patients held out.")] = 0.25,
    steps: Annotated[int, typer.Option(min=0, help="Batches to learn from; 0 only measures the probe at OUT.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same probe.")] = 0,
) -> None:
    """Fit the quality probe, which detects turned, inverted and cropped films and images that are not chest films."""
    from cxrlines.core.pool import keep_buffers
    from cxrlines.lab.probe.fit import run_quality

    check_outputs(files={"--out": out if steps else None}, inputs=[*films, others, unseen, patients])
    check_ending("--out", out, *SAFETENSORS)
    keep_buffers()
    figures = run_quality(
        films, out, others=others, unseen=unseen, patients=patients, held_out=held_out, steps=steps, seed=seed, say=say
    )
    typer.echo(json.dumps(figures))


@app.command(epilog="Example: cxrlines demo --out runs/demo")
def demo(
    out: Annotated[Path, typer.Option(help="The demo's folder.")] = Path("runs/demo"),
    full: Annotated[bool, typer.Option("--full", help="More and larger films: three times the work.")] = False,
    workers: Workers = None,
) -> None:
    """Read a film, then do the whole job on phantom films: make, check, train, evaluate, export, read."""
    from cxrlines.lab.demo import FULL, SHORT, run_demo

    check_outputs(folders={"--out": out})
    with resumable():
        run_demo(out, FULL if full else SHORT, workers=workers)


@app.command("open", epilog="Example: cxrlines open runs/demo")
def open_run(run: Annotated[Path, typer.Argument(help="A run's folder.")] = Path("runs/demo")) -> None:
    """Open a run's report in the browser, and print where it is.

    Without a screen it is only printed.
    """
    report = run / "report.html"
    if not report.is_file():
        if not run.is_dir():
            raise Error(f"{run} is no folder", "name that of a run: the --out of `cxrlines train` or `cxrlines demo`")
        unfinished = (run / "recipe.json").is_file()
        raise Error(
            f"{run} has no report.html" + (", as its run is not finished" if unfinished else ": it is no run"),
            "give its command again: what is done is kept" if unfinished else "name the --out of `cxrlines train`",
        )
    typer.echo(report)
    if not (has_screen() and webbrowser.open(report.resolve().as_uri())):
        say(f"no browser here; in one elsewhere: {report.resolve().as_uri()}")


def has_screen() -> bool:
    """Whether a browser can show a window; where none can, `webbrowser` would run a text browser in the terminal."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in screens)


@app.command(epilog="Example: cxrlines weights resnet200d.pth --out resnet200d.safetensors")
def weights(
    file: Annotated[Path, typer.Argument(help="A PyTorch or Lightning file that a recipe refuses to start from.")],
    out: Annotated[Path, typer.Option(help="The weights to write, a .safetensors file.")],
) -> None:
    """Copy the tensors of a foreign weights file to safetensors. No code in the file is run."""
    from cxrlines.models.foreign_files import convert

    check_outputs(files={"--out": out}, inputs=[file])
    check_ending("--out", out, *SAFETENSORS)
    typer.echo(f"{out}: {plural(convert(file, out), 'tensor')}")
