"""Commands that make, show and check data."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cxrlines.cli.options import PROBLEMS, BundleFolder, Json, Workers, resumable, say
from cxrlines.core.counted import counted
from cxrlines.core.errors import Error
from cxrlines.core.files import check_outputs, check_table, readable
from cxrlines.core.text import plural

app = typer.Typer()


@app.command(epilog="Example: cxrlines synth phantoms --studies 200 --seed 1")
def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write, in RANZCR's own layout.")],
    studies: Annotated[int, typer.Option(help="Training films.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same films, whatever the workers.")] = 0,
    test: Annotated[int | None, typer.Option(help="Test films, of other patients; default: an eighth.")] = None,
    size: Annotated[int, typer.Option(help="Longer side of the films, px.")] = 512,
    balance: Annotated[
        Literal["natural", "even"], typer.Option(help="Label frequencies: RANZCR's own, or all about even.")
    ] = "natural",
    site: Annotated[
        Literal["a", "b"], typer.Option(help="b is another hospital: other processing, frequencies, collimation.")
    ] = "a",
    difficulty: Annotated[float, typer.Option(help="0 easy; 0.5 like real ICU films; 1 harder.")] = 0.5,
    annotated: Annotated[
        float | None,
        typer.Option(help="Share of training films whose lines are annotated; default 0.3, with --onto 1."),
    ] = None,
    onto: Annotated[
        Path | None, typer.Option(help="Folder of real films to draw devices into, instead of phantoms.")
    ] = None,
    marks: Annotated[
        list[Path] | None,
        typer.Option(help="JSON with the carina and the lines of the real films of --onto; may be repeated."),
    ] = None,
    phantom_share: Annotated[float, typer.Option(help="With --onto: share of phantom films among them.")] = 0.0,
    workers: Workers = None,
) -> None:
    """Make phantom films: synthetic radiographs with known lines, tips, landmarks and labels."""
    from cxrlines.phantom.dataset import write_phantom
    from cxrlines.phantom.onto import write_onto

    check_outputs(made={"OUT": out}, inputs=[onto, *(marks or [])])
    share = {} if annotated is None else {"annotated": annotated}
    both: dict[str, Any] = {"studies": studies, "seed": seed, "size": size, "workers": workers} | share
    if onto is None:
        if marks or phantom_share:
            raise Error("--marks, --phantom-share: are for real films", "name their folder with --onto")
        with resumable():
            made = write_phantom(out, balance=balance, site=site, difficulty=difficulty, test=test, **both)
        typer.echo(f"{out}: {made['studies']:,} training and {plural(made['test'], 'test film')}")
        return
    if test is not None or (balance, site, difficulty) != ("natural", "a", 0.5):
        raise Error(
            "--test, --balance, --site, --difficulty: are of a phantom data set; with --onto all films are training "
            "films and the rest is drawn again for each",
            "leave them out",
        )
    with resumable():
        made = write_onto(out, onto, marks or [], phantom_share=phantom_share, **both)
    typer.echo(f"{out}: {plural(studies, 'training film')}, drawn onto {plural(made['backdrops'], 'real film')}")
    for reason, count in made["left_out"].items():
        typer.echo(f"not drawn onto: {count} x {reason}")


@app.command("pseudo-label", epilog="Example: cxrlines pseudo-label films --out labelled")
def pseudo_label(
    films: Annotated[list[Path], typer.Argument(help="Films without labels, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Data folder to write, in RANZCR's own layout.")],
    bundle: BundleFolder = None,
    seen: Annotated[
        Literal["leave-out", "keep"],
        typer.Option(help="Films of patients whom the bundle was trained on; a run's guard refuses those kept."),
    ] = "leave-out",
) -> None:
    """Label films by a bundle where it reads two views of a film alike, to train on.

    Lines, tips and the carina are kept where both views agree; a label is -1 where they do not.
    """
    from cxrlines.core.pool import keep_buffers
    from cxrlines.reading.bundle import EMBEDDED, load_bundle
    from cxrlines.reading.pseudo_labels import write_pseudo_labels
    from cxrlines.reading.sources import find_films

    check_outputs(folders={"--out": out}, inputs=[*films, bundle])
    found = find_films(films)
    if not found.films:
        raise Error("; ".join(f"{where}: {what}" for where, what in found.errors), "name films, or a folder of them")
    keep_buffers()
    loaded = load_bundle(bundle or EMBEDDED)
    with resumable(), counted() as progress:
        counts = write_pseudo_labels(found, loaded, out, keep_seen=seen == "keep", progress=progress)
    typer.echo(f"{out}: {counts.text()}")
    for where, what in found.errors:
        say(f"{readable(where)}: {readable(what)}")


@app.command(epilog="Example: cxrlines show ranzcr --films 12 --out sheet.png")
def show(
    data: Annotated[Path, typer.Argument(help="A data folder, or any folder of films.")],
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("sheet.png"),
    films: Annotated[int, typer.Option(min=1, help="How many films.")] = 24,
    columns: Annotated[int, typer.Option(min=1, help="Films side by side.")] = 6,
    size: Annotated[int, typer.Option(min=64, help="Width of a film on the sheet, px.")] = 384,
    seed: Annotated[int, typer.Option(min=0, help="Another seed shows other films.")] = 0,
    lines: Annotated[bool, typer.Option(help="Draw the annotated lines over the films.")] = True,
) -> None:
    """Draw a contact sheet of films with their lines and labels."""
    from cxrlines.io.sheet import contact_sheet

    check_outputs(files={"--out": out}, inputs=[data])
    typer.echo(contact_sheet(data, out, films=films, columns=columns, size=size, seed=seed, lines=lines))


@app.command(epilog="Example: cxrlines check ranzcr --folds folds.csv")
def check(
    data: Annotated[Path, typer.Argument(help="A data folder in RANZCR's layout.")],
    folds: Annotated[Path | None, typer.Option(help="A folds file to check as well.")] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Audit films, tables, annotations and folds, and list every problem.

    Exit code 0: no problems, 1: problems.
    """
    from cxrlines.core.pool import cores
    from cxrlines.io.audit import audit
    from cxrlines.reading.probe import embedded_probe

    found = audit(data, folds, workers=workers or cores(), probe=embedded_probe())
    typer.echo(json.dumps(found.as_dict(), indent=1) if as_json else found.text())
    raise typer.Exit(PROBLEMS if found.problems else 0)


@app.command(epilog="Example: cxrlines folds ranzcr/train.csv --count 5 --out folds.csv")
def folds(
    train: Annotated[Path, typer.Argument(help="Table of labels and patients (train.csv).")],
    out: Annotated[Path, typer.Option(help="File to write: StudyInstanceUID, PatientID, fold.")] = Path("folds.csv"),
    count: Annotated[int, typer.Option(help="How many folds.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other folds.")] = 0,
    against: Annotated[Path | None, typer.Option(help="Another folds file to compare with.")] = None,
    as_json: Json = False,
) -> None:
    """Split films into folds by patient, with every label about equally frequent in each.

    The order of rows changes nothing.
    """
    from cxrlines.io.folds import describe_folds, folds_of, make_folds, read_folds, write_folds
    from cxrlines.io.tables import check_own_files, read_labels

    check_outputs(files={"--out": out}, inputs=[train, against])
    check_own_files("--out", out)
    check_table("--out", out)
    table = read_labels(train)
    other = describe_folds(table, folds_of(table, read_folds(against))) if against else None
    drawn = make_folds(table, count, seed)
    write_folds(table, drawn, out)
    mine = describe_folds(table, drawn)
    if as_json:
        typer.echo(json.dumps(mine.as_dict() | ({"against": other.as_dict()} if other else {}), indent=1))
        return
    typer.echo(f"{out}\n{mine.text()}")
    if other:
        typer.echo(f"\n{against}\n{other.text()}")


@app.command(epilog="Example: cxrlines twins ranzcr nih --out twins.csv")
def twins(
    a: Annotated[Path, typer.Argument(help="A data folder, or any folder of films.")],
    b: Annotated[Path, typer.Argument(help="Another such folder.")],
    out: Annotated[Path, typer.Option(help="Table to write: study_a, study_b, correlation.")] = Path("twins.csv"),
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Find films that two folders share, under other names or in other processing."""
    from cxrlines.core.pool import cores
    from cxrlines.io.dedup.twins import twins_of_folders

    check_outputs(files={"--out": out}, inputs=[a, b])
    check_table("--out", out)
    found = twins_of_folders(a, b, workers or cores())
    found.write(out)
    typer.echo(json.dumps(found.as_dict(), indent=1) if as_json else f"{out}\n{found.text()}")
