"""Commands that index films and find similar ones."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cxrlines.cli.options import BundleFolder, Json, say
from cxrlines.core.counted import counted
from cxrlines.core.files import SAFETENSORS, check_ending, check_outputs, readable
from cxrlines.core.text import plural

app = typer.Typer()


@app.command(epilog="Example: cxrlines index ranzcr --out ranzcr.safetensors")
def index(
    data: Annotated[Path, typer.Argument(help="A data folder: train.csv and train/, or any folder of films.")],
    out: Annotated[Path, typer.Option(help="The index to write, a .safetensors file.")],
    bundle: BundleFolder = None,
) -> None:
    """Index films for `similar`.

    The index holds studies, hashed patients, labels and lines: keep it as safe as the films.
    """
    from cxrlines.io.tables import read_data_folder
    from cxrlines.reading.bundle import EMBEDDED, load_bundle
    from cxrlines.reading.index import build_index

    check_outputs(files={"--out": out}, inputs=[data, bundle])
    check_ending("--out", out, *SAFETENSORS)
    found = read_data_folder(data)
    with counted() as progress:
        built = build_index(load_bundle(bundle or EMBEDDED), found, progress=progress)
    built.save(out)
    typer.echo(f"{out}: {plural(len(built.films), 'film')}")
    for reason, rows in found.left_out.items():
        say(f"not indexed: {rows} x {reason}")
    for study, reason in built.left_out.items():
        say(f"{readable(study)}: {readable(reason)}")


@app.command(epilog="Example: cxrlines similar film.dcm --index ranzcr.safetensors --count 3")
def similar(
    film: Annotated[Path, typer.Argument(help="A film.")],
    index: Annotated[Path, typer.Option(help="An index that `cxrlines index` wrote.")],
    bundle: Annotated[
        Path | None, typer.Option(help="The bundle it was built with; default: the embedded reader.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many films.")] = 5,
    patient: Annotated[
        str | None, typer.Option(help="The film's patient, where its file does not name it: JPEG, PNG, TIFF.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the most similar films of an index, with labels and lines; never films of the same patient.

    The patient is known by the film's pixels, its file's name, its DICOM header and --patient.
    """
    from cxrlines.core.film import film_name
    from cxrlines.io.films import read_bytes
    from cxrlines.reading.bundle import EMBEDDED, load_bundle
    from cxrlines.reading.index import open_index
    from cxrlines.reading.reader import Reader

    read = load_bundle(bundle or EMBEDDED)
    known = open_index(index, read)
    (asked,) = Reader(read).embed([film])
    if isinstance(asked, Exception):
        raise asked
    own = known.own_patients(read_bytes(film), asked.key, study=film_name(film), patient=patient or "")
    (found,) = known.nearest(asked.vector[None], count, [own])
    if as_json:
        typer.echo(json.dumps([neighbour.as_dict() for neighbour in found], indent=1))
    else:
        for neighbour in found:
            typer.echo(f"{neighbour.film.study}  distance {neighbour.distance:.4f}\n  {neighbour.film.text()}")
    say(read.notice)
