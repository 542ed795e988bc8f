"""The commands that read films with a bundle, and print the schema of what is read."""

import json
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrlines.cli.options import DEBUG, ERROR, FAULT, STOPPED, BundleFolder, On, say, signals
from cxrlines.core.counted import counted
from cxrlines.core.errors import Error
from cxrlines.core.files import OutputError, beside, readable
from cxrlines.core.text import plural

if TYPE_CHECKING:
    from cxrlines.reading.batch import Predictions
    from cxrlines.reading.bundle import Bundle
    from cxrlines.reading.results.dicom.film_identifiers import Identifiers
    from cxrlines.reading.sources import Found

app = typer.Typer()


class View(StrEnum):
    flip = "flip"
    scale = "scale"
    plain = "plain"


class Form(StrEnum):
    text = "text"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


EXAMPLE = Path(__file__).parents[1] / "embedded/example.jpg"
"""A phantom film that comes with the package; docs/install.md says how it was made."""


@app.command(epilog="Example: cxrlines predict film.dcm folder --out readings.csv --json --draw drawn")
def predict(
    films: Annotated[
        list[Path] | None, typer.Argument(help="Films, or folders of them: JPEG, PNG, TIFF, DICOM.")
    ] = None,
    example: Annotated[bool, typer.Option("--example", help="Read the example film in the package.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="CSV to write, with the columns of sample_submission.csv; without it findings are printed."),
    ] = None,
    bundle: BundleFolder = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Lines, tips, distances and quality as JSON: beside OUT, or printed.")
    ] = False,
    form: Annotated[
        Form | None,
        typer.Option(
            "--format", help="What is printed without OUT: text, JSON, a JSON object a line, or the table as CSV."
        ),
    ] = None,
    draw: Annotated[Path | None, typer.Option(help="Folder for the films with their findings drawn, as PNG.")] = None,
    dicom: Annotated[
        Path | None,
        typer.Option(help="Folder for results as DICOM: report, presentation state and capture of each film."),
    ] = None,
    patient_id: Annotated[
        str | None, typer.Option(help="With --dicom: patient of films that name none, such as JPEG and PNG.")
    ] = None,
    study_uid: Annotated[str | None, typer.Option(help="With --dicom: StudyInstanceUID of those films.")] = None,
    studies: Annotated[
        Path | None,
        typer.Option(
            help="With --dicom: table of those films, as train.csv: PatientID, and StudyInstanceUID, which is the "
            "film's name."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Films computed together.")] = 8,
    tta: Annotated[
        list[View] | None,
        typer.Option(
            help="Average over views: flip (if trained with flips), scale; plain: none. Default: the bundle's own."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume a reading that was stopped or killed, or that filled the disk.")
    ] = False,
    on: On = None,
) -> None:
    """Read films: which tubes and lines they show, and where the tips lie.

    Films that cannot be read are listed on stderr and in OUT's .errors.csv; then the exit code is 2.
    Ctrl-C keeps what is read, and --resume continues from there.
    """
    from cxrlines.core.pool import keep_buffers
    from cxrlines.reading.bundle import EMBEDDED, load_bundle
    from cxrlines.reading.results import prediction_files as files
    from cxrlines.reading.sources import find_films

    as_json, form = _form(form, out, as_json)
    if not films and not example:
        raise Error("predict: no film is named", "cxrlines predict FILM, or cxrlines predict --example")
    if resume and out is None:
        raise Error("--resume: goes on with what is beside the table of --out", "name that table by --out")
    identifiers = _identifiers(dicom, patient_id, study_uid, studies, on)
    keep_buffers()
    found = find_films([*(films or []), *([EXAMPLE] if example else [])])
    files.check_places(found, out, as_json=as_json, draw=draw, dicom=dicom)
    if patient_id is not None:
        from cxrlines.reading.results.dicom.result_files import check_one_unnamed

        check_one_unnamed(film for film, _ in found.films)
    loaded = load_bundle(bundle or EMBEDDED)
    options: dict[str, Any] = {
        "batch_size": batch,
        "tta": None if tta is None else [view.value for view in tta if view is not View.plain],
        "lines": as_json or draw is not None or dicom is not None or (out is None and form is not Form.csv),
        "journal": beside(out, files.JOURNAL) if out else None,
        "resume": resume,
    }
    count = len(found.films)
    failed: list[tuple[str, str]] = []
    with signals(signal.default_int_handler, signal.SIGTERM):
        result, stopped = _read(found, loaded, on, options)
        if result.resumed:
            say(f"{result.resumed} of {count} films were read before, and are not read again")
        with closing(result.journal) as journal:
            if stopped and len(result.unread) == count:
                journal.remove()
                say(f"none of {count} films was read; nothing is written")
                raise typer.Exit(STOPPED)
            if out:
                with signals(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM):  # nothing is lost now that it is read
                    for path in _written(result, out, as_json):
                        typer.echo(path)
            else:
                for text in _printed(result, form):
                    typer.echo(text, nl=False)
            if (draw or dicom) and not stopped:
                # Without OUT stdout has the findings alone, so that JSON stays JSON.
                failed, stopped = _write_results(result, loaded, draw, dicom, identifiers, to_stderr=out is None)
            if not stopped:
                journal.remove()
    _say_remarks(result, failed)
    if stopped:
        kept = "is written" if out else "is printed"
        goes_on = "; the same command with --resume goes on from there" if out else ""
        say(f"stopped: what was found on {count - len(result.unread)} of {count} films {kept}{goes_on}")
        raise typer.Exit(STOPPED)
    raise typer.Exit(FAULT if result.faults else ERROR if result.errors or failed else 0)


def _identifiers(
    dicom: Path | None, patient_id: str | None, study_uid: str | None, studies: Path | None, on: str | None
) -> Callable[[str], "Identifiers | None"]:
    """Patient and study by a film's name. `Error` for options of --dicom that do not fit together."""
    options = {"--patient-id": patient_id, "--study-uid": study_uid, "--studies": studies}
    given = [flag for flag, value in options.items() if value is not None]
    if dicom is None and given:
        raise Error(f"{given[0]}: applies to results as DICOM only", "name their folder by --dicom")
    if dicom is not None and on:
        raise Error(
            "--dicom: results name the engine that read a film, and each machine of a cluster chooses its own",
            "leave out --on",
        )
    if studies is not None and len(given) > 1:
        raise Error(f"--studies, {given[0]}: both name patients and studies of films", "give one of them")
    from cxrlines.reading.results.dicom.film_identifiers import Identifiers, check_identifiers, read_identifiers

    check_identifiers(patient_id, study_uid)
    one = Identifiers(patient_id, study_uid) if patient_id is not None and study_uid is not None else None
    return read_identifiers(studies).get if studies is not None else lambda name: one


def _form(form: Form | None, out: Path | None, as_json: bool) -> tuple[bool, Form]:
    """Whether JSON is wanted, and how findings are printed. `Error` where two options contradict."""
    if as_json and form not in (None, Form.json):
        raise Error(f"--json, --format {form}: contradict each other", "give one of them")
    if out is not None and form in (Form.text, Form.jsonl):
        raise Error(
            f"--format {form}: is how findings are printed; --out writes a table, and JSON beside it with --json",
            f"leave one of them out, e.g. cxrlines predict FILMS --format {form} > FILE",
        )
    return as_json or form is Form.json, form or (Form.json if as_json else Form.text)


def _read(found: "Found", bundle: "Bundle", on: str | None, options: dict[str, Any]) -> tuple["Predictions", bool]:
    """What is read of the films, here or by a cluster, and whether it was stopped before it had them all."""
    from cxrlines.reading.batch import Stopped
    from cxrlines.reading.batch import predict as read

    try:
        with counted() as progress:
            if on:
                from cxrlines.cluster.bulk_reading import predict_on_ray

                return predict_on_ray(found, bundle.folder, on, progress=progress, **options), False
            return read(found, bundle, progress=progress, **options), False
    except Stopped as stop:
        return stop.predictions, True


def _printed(result: "Predictions", form: Form) -> Iterator[str]:
    from cxrlines.reading.results import prediction_files as files

    ways = {Form.text: files.report_text, Form.json: files.json_text, Form.jsonl: files.jsonl_text}
    return ways.get(form, files.csv_text)(result)


def _written(result: "Predictions", out: Path, as_json: bool) -> list[Path]:
    """What was written beside OUT; where its disk is full by now, the journal has what was found."""
    from cxrlines.reading.results.prediction_files import write_predictions

    try:
        return write_predictions(result, out, as_json=as_json)
    except OutputError as error:
        raise OutputError(
            error.what,
            f"what was found is in {result.journal.path}: free space, and give the same command with --resume",
        ) from error


def _write_results(
    result: "Predictions",
    bundle: "Bundle",
    draw: Path | None,
    dicom: Path | None,
    identifiers: Callable[[str], "Identifiers | None"],
    *,
    to_stderr: bool,
) -> tuple[list[tuple[str, str]], bool]:
    """Write drawings and DICOM objects, and name their folders: on stderr if `to_stderr`.

    Returns (file, what is wrong) of films that could not be written, and whether it was stopped before it had them all.
    """
    from cxrlines.reading.results import prediction_files as files
    from cxrlines.reading.results.operating_points import operating_points_of

    failed, stopped = [], False
    writers = [files.drawings(result, draw, operating_points_of(bundle))] if draw else []
    if dicom:
        from cxrlines.reading.engines.choice import engine_name
        from cxrlines.reading.results.dicom import result_files
        from cxrlines.reading.results.dicom.read_by import ReadBy

        read_by = ReadBy.of(bundle, engine_name(bundle), result.tta)
        writers.append(result_files.dicom_objects(result, dicom, read_by, identifiers))
    try:
        with counted("writing results") as progress:
            failed = files.write_each(result, writers, progress)
        if dicom:
            failed += result_files.write_reports_of_unread(result, dicom, read_by)
    except KeyboardInterrupt:
        stopped = True
    for writer in writers:
        if writer.folder.is_dir():  # else nothing was written
            typer.echo(writer.folder, err=to_stderr)
    return failed, stopped


def _say_remarks(result: "Predictions", failed: Sequence[tuple[str, str]]) -> None:
    """Print on stderr what was passed over or renamed, and each film that was not read or whose results `failed`."""
    say(result.notice)
    if result.skipped:
        each = ", ".join(f"{what} ({number})" for what, number in result.skipped.items())
        say(f"passed over in the folders: {each}")
    if result.same_study:
        say(f"{result.same_study} films share their StudyInstanceUID with another and are called by their files' names")
    if result.renamed:
        say(f"{result.renamed} films share their name with another and are called by their relative path")
    for film, reason in [*result.errors, *failed]:
        say(f"{readable(film)}: {readable(reason)}")
    if os.environ.get(DEBUG):
        for _, fault in result.faults:
            say("".join(traceback.format_exception(fault)).rstrip())
    if result.faults:
        say(
            f"{plural(len(result.faults), 'film was', 'films were')} not read by a fault of cxrlines; please report it "
            "with what the same command prints after `cxrlines --debug`"
        )


@app.command(epilog="Example: cxrlines schema > findings.schema.json")
def schema() -> None:
    """Print the JSON schema of what `predict --json` writes."""
    from cxrlines.core.findings import json_schema

    typer.echo(json.dumps(json_schema(), indent=1))
