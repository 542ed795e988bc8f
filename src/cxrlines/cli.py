"""The command line: thin; each command calls one function of a room. Errors are said, not thrown."""

import json
import os
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cxrlines import __version__

app = typer.Typer(
    help="Reads tubes and lines in frontal chest radiographs; trains such readers and proves how good they are. "
    "For research; not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
bench = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)
app.add_typer(bench, name="bench")
experiment = typer.Typer(help="Repeat an experiment of docs/experiments.md.", no_args_is_help=True)
app.add_typer(experiment, name="experiment")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
On = Annotated[
    str | None, typer.Option(help="ray (a cluster started here) or ray://HOST:PORT instead of this process.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes side by side; default: one a core (or GPU).")]


class Balance(StrEnum):
    natural = "natural"
    even = "even"


class Site(StrEnum):
    a = "a"
    b = "b"


class How(StrEnum):
    mean = "mean"
    rank = "rank"
    power = "power"
    fitted = "fitted"


class Seen(StrEnum):
    leave_out = "leave-out"
    report = "report"


class Split(StrEnum):
    train = "train"
    test = "test"


class View(StrEnum):
    flip = "flip"
    scale = "scale"


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write, in RANZCR's own layout.")],
    studies: Annotated[int, typer.Option(help="Training films.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same films, whatever the workers.")] = 0,
    test: Annotated[int | None, typer.Option(help="Test films, of other patients; default: an eighth.")] = None,
    size: Annotated[int, typer.Option(help="Longer side of a film, px.")] = 512,
    balance: Annotated[
        Balance, typer.Option(help="Label frequencies: RANZCR's own, or all about even.")
    ] = Balance.natural,
    site: Annotated[Site, typer.Option(help="b is another hospital: other processing, mix, collimation.")] = Site.a,
    difficulty: Annotated[float, typer.Option(help="0 easy; 0.5 like real ICU films; 1 harder.")] = 0.5,
    annotated: Annotated[
        float | None,
        typer.Option(help="Share of training films whose lines are annotated; default 0.3, with --onto 1."),
    ] = None,
    onto: Annotated[Path | None, typer.Option(help="Folder of real films: draw devices into those instead.")] = None,
    marks: Annotated[
        Path | None, typer.Option(help="JSON with the carina and the lines of the real films of --onto.")
    ] = None,
    phantom_share: Annotated[float, typer.Option(help="With --onto: share of plain phantom films among them.")] = 0.0,
    workers: Workers = None,
) -> None:
    """Make phantom films: synthetic radiographs with known lines, tips, landmarks and labels."""
    if onto is not None:
        from cxrlines.phantom.onto import write_onto

        if test is not None or (balance, site, difficulty) != (Balance.natural, Site.a, 0.5):
            raise ValueError(
                "--test, --balance, --site, --difficulty: are of a phantom data set; with --onto all films are "
                "training films and the rest is drawn anew for each, so leave them out"
            )
        share = 1.0 if annotated is None else annotated
        made = write_onto(
            out,
            onto,
            marks,
            studies=studies,
            seed=seed,
            size=size,
            phantom_share=phantom_share,
            annotated=share,
            workers=workers,
        )
        typer.echo(f"{out}: {studies} training films, drawn onto {made['backdrops']} real ones")
        for reason, count in made["left_out"].items():
            typer.echo(f"not drawn onto: {count} x {reason}")
        return
    if marks is not None or phantom_share:
        raise ValueError("--marks, --phantom-share: are for real films; name their folder with --onto")
    from cxrlines.phantom.write import write_phantom

    summary = write_phantom(
        out,
        studies=studies,
        seed=seed,
        size=size,
        balance=balance.value,
        site=site.value,
        difficulty=difficulty,
        test=test,
        annotated=0.3 if annotated is None else annotated,
        workers=workers,
    )
    typer.echo(f"{out}: {summary['studies']} training and {summary['test']} test films")


@app.command()
def show(
    data: Annotated[Path, typer.Argument(help="A data folder, or any folder of films.")],
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("sheet.png"),
    films: Annotated[int, typer.Option(min=1, help="How many films.")] = 24,
    columns: Annotated[int, typer.Option(min=1)] = 6,
    size: Annotated[int, typer.Option(min=64, help="Width of a film on the sheet, px.")] = 384,
    seed: int = 0,
    lines: Annotated[bool, typer.Option(help="Draw the annotated lines over the films.")] = True,
) -> None:
    """Draw a contact sheet of films with their lines and labels."""
    from cxrlines.data.sheet import contact_sheet

    typer.echo(contact_sheet(data, out, films=films, columns=columns, size=size, seed=seed, lines=lines))


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="A data folder in RANZCR's layout.")],
    folds: Annotated[Path | None, typer.Option(help="A folds file to check with it.")] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Audit films, tables, annotations and folds; every problem at once. Exit 0 clean, 1 problems."""
    from cxrlines.data.audit import audit
    from cxrlines.data.pool import cores

    found = audit(data, folds, workers=workers or cores())
    typer.echo(json.dumps(found.as_dict(), indent=1) if as_json else found.text())
    raise typer.Exit(1 if found.problems else 0)


@app.command()
def folds(
    train: Annotated[Path, typer.Argument(help="train.csv")],
    out: Annotated[Path, typer.Option(help="File to write: StudyInstanceUID, PatientID, fold.")] = Path("folds.csv"),
    count: Annotated[int, typer.Option(help="How many folds.")] = 5,
    seed: int = 0,
    against: Annotated[Path | None, typer.Option(help="Another folds file to compare with.")] = None,
    as_json: Json = False,
) -> None:
    """Draw folds: no patient in two, every label level across them, whatever the order of rows."""
    from cxrlines.data.folds import describe_folds, folds_of, make_folds, read_folds, write_folds
    from cxrlines.data.tables import read_labels

    table = read_labels(train)
    drawn = make_folds(table, count, seed)
    write_folds(table, drawn, out)
    mine = describe_folds(table, drawn)
    other = describe_folds(table, folds_of(table, read_folds(against))) if against else None
    if as_json:
        typer.echo(json.dumps(mine.as_dict() | ({"against": other.as_dict()} if other else {}), indent=1))
        return
    typer.echo(f"{out}\n{mine.text()}")
    if other:
        typer.echo(f"\n{against}\n{other.text()}")


@app.command()
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A shipped recipe (recommended, baseline, three-stage, multi-head, multi-task, two-step, "
            "hotwater, hotwater-small, embedded, embedded-more, demo) or a YAML file."
        ),
    ],
    data: Annotated[Path, typer.Option(help="Folder with train.csv and train/; test films are read if there.")],
    out: Annotated[Path, typer.Option(help="The run's folder; the same command goes on where it was.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="path.to.field=value, laid over the recipe.")
    ] = None,
    external: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER: the films of an external set of the recipe, as distributed."),
    ] = None,
    folds: Annotated[str | None, typer.Option(help="Only these folds, e.g. 0,1.")] = None,
    workers: Workers = None,
    on: On = None,
    devices: Annotated[int | None, typer.Option(min=1, help="GPUs that each step takes, side by side.")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Machines that each step takes (torchrun, SLURM).")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the steps and what they would cost, do none.")
    ] = False,
) -> None:
    """Train a recipe: store, folds, steps, predictions, metrics.json and report.html."""
    from cxrlines.recipes import run as runs
    from cxrlines.recipes.load import load_recipe
    from cxrlines.training import distributed

    chosen = load_recipe(recipe, [*(settings or []), *_folders(external)])
    wanted = _numbers("--folds", folds)
    if dry_run:
        from cxrlines.recipes.dry import dry_run as show_plan

        typer.echo(show_plan(chosen, data, out, wanted))
        return
    distributed.begin(devices, nodes)
    runs.train(chosen, data, out, folds=wanted, workers=workers, on=on, command=_command(), say=_say)
    if distributed.is_first():
        typer.echo(f"{out / 'metrics.json'}\n{out / 'report.html'}")
    distributed.leave()


def _folders(external: list[str] | None) -> list[str]:
    """`--external NAME=FOLDER` as settings of a recipe."""
    settings = []
    for text in external or []:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise ValueError(f"--external is {text!r}; write it as NAME=FOLDER, e.g. --external nih=/data/nih")
        settings.append(f"external.{name}.folder={json.dumps(folder)}")
    return settings


def _numbers(flag: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{flag} is {text!r}; write whole numbers with commas, e.g. {flag} 0,1") from None


@app.command()
def ensemble(
    predictions: Annotated[list[Path], typer.Argument(help="Two or more prediction files of the same studies.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    how: Annotated[
        How, typer.Option(help="Mean of probabilities, of ranks, power mean, or fitted weights.")
    ] = How.mean,
    power: Annotated[float | None, typer.Option(help="Exponent of the power mean.")] = None,
    truth: Annotated[
        Path | None, typer.Option(help="fitted: the label table; the predictions are then out of fold.")
    ] = None,
    folds: Annotated[Path | None, typer.Option(help="fitted: their folds; each is blended by the others'.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="fitted: the weights, written with --truth, read without it (test films).")
    ] = None,
) -> None:
    """Average predictions."""
    from cxrlines.evaluation.blend import blend_files
    from cxrlines.evaluation.ensemble import POWER

    exponent = POWER if power is None else power
    for path in blend_files(predictions, out, how.value, power=exponent, truth=truth, folds=folds, weights=weights):
        typer.echo(path)


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="StudyInstanceUID and the 11 labels.")],
    truth: Annotated[Path, typer.Argument(help="train.csv, or another table with the labels (and PatientID).")],
    resamples: Annotated[int, typer.Option(min=1, help="Resamples of patients behind an interval.")] = 1000,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Score predictions: AUC with 95 % intervals from resampling patients, Brier, calibration error."""
    from cxrlines.evaluation.evaluate import evaluate as score
    from cxrlines.evaluation.evaluate import read_predictions, read_truth

    result = score(read_predictions(predictions), read_truth(truth), resamples=resamples, seed=seed)
    typer.echo(json.dumps(result.as_dict(), indent=1) if as_json else result.text())


@app.command()
def judge(
    films: Annotated[Path, typer.Argument(help="Real films' folder (with --marks), or a data folder with its lines.")],
    marks: Annotated[Path | None, typer.Option(help="JSON with the carina and the lines of the real films.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="A bundle's folder; default: the reader in the box.")] = None,
    fold: Annotated[int | None, typer.Option(help="Judge the bundle's models of this fold alone.")] = None,
    seen: Annotated[
        Seen, typer.Option(help="Films of patients that a model has seen: leave them out, or judge and report them.")
    ] = Seen.leave_out,
    split: Annotated[Split | None, typer.Option(help="Of a data folder; default: test, where there is one.")] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Resamples of patients behind an interval.")] = 1000,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Judge what a bundle finds: presence AUC, lines found, missed and invented, tips, carina, states."""
    from cxrlines.inference.bundle import load_bundle
    from cxrlines.inference.reader import EMBEDDED
    from cxrlines.recipes.judge import judge as judged
    from cxrlines.recipes.judge import of_fold
    from cxrlines.recipes.known import data_films, marked_films

    if marks and split:
        raise ValueError("--split: is of a data folder; films with --marks have no splits, so leave it out")
    read = load_bundle(bundle or EMBEDDED)
    read = read if fold is None else of_fold(read, fold)
    known = marked_films(films, marks) if marks else data_films(films, split.value if split else None)
    result = judged(known, read, report_seen=seen is Seen.report, resamples=resamples, seed=seed)
    typer.echo(json.dumps(result.as_dict(), indent=1) if as_json else result.text())
    _say(result.notice)


@app.command()
def bundle(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    out: Annotated[Path, typer.Option(help="The bundle's folder.")],
    half: Annotated[bool, typer.Option("--half", help="Weights in 16 bits: half the size.")] = False,
) -> None:
    """Pack what reading needs from a run: weights as safetensors, the rest as JSON."""
    from cxrlines.recipes.pack import pack

    typer.echo(pack(run, out, half=half))


@app.command()
def quality(
    films: Annotated[list[Path], typer.Argument(help="Folders of upright frontal films, seen equally often.")],
    out: Annotated[Path, typer.Option(help="The probe to write; `quality.safetensors` in a bundle.")],
    others: Annotated[
        Path | None, typer.Option(help="Folder of pictures that are no such films, to learn from.")
    ] = None,
    unseen: Annotated[Path | None, typer.Option(help="Folder of such pictures to measure on only.")] = None,
    patients: Annotated[
        Path | None, typer.Option(help="CSV of films and their patient_id; some are held out to measure on.")
    ] = None,
    held_out: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the patients held out.")] = 0.25,
    steps: Annotated[int, typer.Option(min=1, help="Batches to learn from.")] = 400,
    seed: Annotated[int, typer.Option(help="The same seed gives the same probe.")] = 0,
) -> None:
    """Fit the probe that tells turned, inverted and cropped films, and what is no chest film; print how good it is."""
    from cxrlines.inference.quality_run import run_quality
    from cxrlines.training.process import keep_buffers

    keep_buffers()
    figures = run_quality(
        films,
        out,
        others=others,
        unseen=unseen,
        patients=patients,
        held_out=held_out,
        steps=steps,
        seed=seed,
        say=_say,
    )
    _print(figures, True)


@app.command()
def predict(
    films: Annotated[list[Path], typer.Argument(help="Films, or folders of them: JPEG, PNG, TIFF, DICOM.")],
    out: Annotated[Path, typer.Option(help="CSV to write, with the columns of sample_submission.csv.")],
    bundle: Annotated[Path | None, typer.Option(help="A bundle's folder; default: the reader in the box.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write OUT as JSON as well, with more about each film.")
    ] = False,
    draw: Annotated[Path | None, typer.Option(help="Folder for the films with their findings drawn, as PNG.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Films computed together.")] = 8,
    tta: Annotated[
        list[View] | None, typer.Option(help="Average over further views: flip (if it was trained with), scale.")
    ] = None,
    on: On = None,
) -> None:
    """Read films. Unreadable ones are listed on stderr and in OUT's .errors.csv; then the exit code is 2."""
    from cxrlines.inference.bundle import load_bundle
    from cxrlines.inference.engine import predict as read
    from cxrlines.inference.engine import write_drawings, write_predictions
    from cxrlines.inference.reader import EMBEDDED
    from cxrlines.training.process import keep_buffers

    keep_buffers()
    views = [view.value for view in tta or []]
    lines = as_json or draw is not None
    bundle = bundle or EMBEDDED
    if on:
        from cxrlines.inference.cluster import predict_on_ray

        result = predict_on_ray(films, bundle, on, batch_size=batch, tta=views, lines=lines)
    else:
        result = read(films, load_bundle(bundle), batch_size=batch, tta=views, lines=lines)
    for path in write_predictions(result, out, as_json=as_json):
        typer.echo(path)
    if draw:
        typer.echo(write_drawings(result, draw))
    _say(result.notice)
    if result.skipped:
        _say(f"{result.skipped} files in the folders are no films and were passed over")
    if result.renamed:
        _say(f"{result.renamed} films share their name with another and are called by their relative path")
    for film, reason in result.errors:
        _say(f"{film}: {reason}")
    raise typer.Exit(2 if result.errors else 0)


@app.command()
def index(
    data: Annotated[Path, typer.Argument(help="A data folder: train.csv and train/, or any folder of films.")],
    out: Annotated[Path, typer.Option(help="The index to write, a .safetensors file.")],
    bundle: Annotated[Path | None, typer.Option(help="A bundle's folder; default: the reader in the box.")] = None,
) -> None:
    """Index films for `similar`. The index holds studies, hashed patients, labels and lines: keep it with the films."""
    from cxrlines.data.tables import read_dataset
    from cxrlines.inference.bundle import load_bundle
    from cxrlines.inference.index import build_index
    from cxrlines.inference.reader import EMBEDDED

    built = build_index(load_bundle(bundle or EMBEDDED), read_dataset(data))
    built.save(out)
    typer.echo(f"{out}: {len(built.films)} films")
    for study, reason in built.left_out.items():
        _say(f"{study}: {reason}")


@app.command()
def similar(
    film: Annotated[Path, typer.Argument(help="A film.")],
    index: Annotated[Path, typer.Option(help="An index that `cxrlines index` wrote.")],
    bundle: Annotated[Path | None, typer.Option(help="The bundle it was built with; default: in the box.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many films.")] = 5,
    patient: Annotated[str | None, typer.Option(help="The film's patient, none of whose films is shown.")] = None,
    as_json: Json = False,
) -> None:
    """Show the nearest known films with their labels and lines; never films of the query's own patient."""
    from cxrlines.data.films import FilmError
    from cxrlines.inference.bundle import load_bundle
    from cxrlines.inference.index import open_index, patient_key
    from cxrlines.inference.reader import EMBEDDED, Reader

    read = load_bundle(bundle or EMBEDDED)
    known = open_index(index, read)
    (asked,) = Reader(read).embed([film])
    if isinstance(asked, FilmError):
        raise asked
    own = known.patients_of(key=asked.key, study=film.stem) | ({patient_key(patient)} if patient else set())
    (found,) = known.nearest(asked.vector[None], count, [own])
    if as_json:
        typer.echo(json.dumps([neighbour.as_dict() for neighbour in found], indent=1))
    else:
        for neighbour in found:
            typer.echo(f"{neighbour.film.study}  distance {neighbour.distance:.4f}\n  {neighbour.film.text()}")
    _say(read.notice)


@app.command()
def twins(
    a: Annotated[Path, typer.Argument(help="A data folder, or any folder of films.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
    out: Annotated[Path, typer.Option(help="Table to write: study_a, study_b, correlation.")] = Path("twins.csv"),
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Find the films that are in both folders, under two names and processings."""
    from cxrlines.data.pool import cores
    from cxrlines.data.twins import twins_of_folders

    found = twins_of_folders(a, b, workers or cores())
    found.write(out)
    typer.echo(json.dumps(found.as_dict(), indent=1) if as_json else f"{out}\n{found.text()}")


@experiment.command("claims")
def experiment_claims(
    out: Annotated[Path, typer.Option(help="Folder; the same command goes on where it was.")] = Path("runs/claims"),
    seeds: Annotated[str, typer.Option(help="Worlds to do: films, folds and draws of their own each.")] = "0,1,2",
    claims: Annotated[str | None, typer.Option(help="Only these, e.g. 1,2; default: all.")] = None,
    workers: Workers = None,
) -> None:
    """Test the claims of the write-up on a phantom benchmark: a table of differences with intervals."""
    from cxrlines.experiments.claims import CLAIMS, run_claims

    chosen = _numbers("--claims", claims) or CLAIMS
    table = run_claims(out, seeds=_numbers("--seeds", seeds) or (), claims=chosen, workers=workers, say=_say)
    typer.echo(f"{table.text()}\n{out / 'claims.md'}\n{out / 'claims.json'}")


@experiment.command("small")
def experiment_small(
    out: Annotated[Path, typer.Option(help="Folder; the same command goes on where it was.")] = Path("runs/small"),
    workers: Workers = None,
) -> None:
    """The recipe hotwater in small, on phantoms: every member, stage and external set, in under an hour."""
    from cxrlines.experiments.small import run_small

    run = run_small(out, workers=workers, say=_say)
    typer.echo(f"{run / 'metrics.json'}\n{run / 'report.html'}")


@experiment.command("recommended")
def experiment_recommended(
    out: Annotated[Path, typer.Option(help="Folder; may be that of `experiment small`.")] = Path("runs/small"),
    films: Annotated[int, typer.Option(min=24, help="Own films; external and planted ones in proportion.")] = 360,
    test: Annotated[int, typer.Option(min=10, help="Test films, of other patients.")] = 200,
    workers: Workers = None,
) -> None:
    """The margin of `recommended` over hotwater-small: same films, folds and backbone, equal compute; on phantoms."""
    from cxrlines.experiments.margin import run_margin
    from cxrlines.experiments.small import Films

    margin = run_margin(out, films=Films.of(films, test), workers=workers, say=_say)
    typer.echo(f"{margin.text()}\n{out / 'margin.md'}\n{out / 'margin.json'}")


@bench.command("augment")
def bench_augment(
    seconds: Annotated[float, typer.Option(help="How long to measure each side.")] = 10.0, as_json: Json = False
) -> None:
    """The full augmentation list, one core, 512 px, against albumentations in the same run."""
    from cxrlines.augment.bench import bench_augment as measure

    _print(measure(seconds=seconds), as_json)


@bench.command("train")
def bench_train(
    seconds: Annotated[float, typer.Option(help="How long to measure each side.")] = 20.0, as_json: Json = False
) -> None:
    """Training on the processor as cxrlines sets it up, against PyTorch's defaults in the same run."""
    from cxrlines.training.bench import bench_train as measure

    _print(measure(seconds=seconds), as_json)


@bench.command("predict")
def bench_predict(
    bundle: Annotated[Path | None, typer.Option(help="A bundle's folder; default: the reader in the box.")] = None,
    films: Annotated[int, typer.Option(min=1, help="Films to read.")] = 12,
    folder: Annotated[
        Path | None, typer.Option(help="A folder of films; default: phantoms of 2,500 x 3,000 px as JPEG.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Reading films, decoding included, one by one and in batches, against plain PyTorch in the same run."""
    from cxrlines.inference.bench import bench_predict as measure
    from cxrlines.inference.bundle import load_bundle
    from cxrlines.inference.reader import EMBEDDED

    _print(measure(load_bundle(bundle or EMBEDDED), films, folder), as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The demo's folder.")] = Path("runs/demo"),
    workers: Workers = None,
) -> None:
    """The whole job on phantom films: make, check, train, prove, pack, read."""
    from cxrlines.recipes.demo import run_demo

    run_demo(out, workers=workers)


def _print(figures: dict[str, Any], as_json: bool) -> None:
    typer.echo(json.dumps(figures) if as_json else "\n".join(f"{name}: {value}" for name, value in figures.items()))


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _command() -> str:
    return shlex.join(["cxrlines", *sys.argv[1:]])


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of SIGINT."""


def main() -> None:
    """Run a command; an error is one message on stderr and exit code 2 (CXRLINES_DEBUG=1 shows where it arose)."""
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _say("stopped; what is finished is kept, the same command goes on from there")
        raise
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("CXRLINES_DEBUG"):
            raise
        _say(f"cxrlines: {error}")
        sys.exit(2)
