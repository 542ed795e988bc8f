"""A folder of films in, a folder of results out, as mercure runs its processing modules.

Mercure names the folders by `MERCURE_IN_DIR` and `MERCURE_OUT_DIR`, and writes the module's settings into `task.json`
(`process` > `settings`) of the former. What the module writes as DICOM goes on to the rule's targets; `result.json`
is kept with the task, and its `__mercure_notification` is what mercure sends to those who are to know.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxrlines.core.errors import Error, ReadingFault
from cxrlines.core.files import OutputError, check_outputs, file_names, readable, replacing, write_text
from cxrlines.core.film import FilmError, NotAFilm, film_name
from cxrlines.core.findings import Findings, prediction_json
from cxrlines.core.text import must_be, plural
from cxrlines.io.dicom.header import parse
from cxrlines.io.dicom.origin import ORIGIN_KEYWORDS, own_or_derived
from cxrlines.io.films import kind_of, read_bytes, read_film
from cxrlines.pacs.result_writers import of_sender
from cxrlines.reading.bundle import EMBEDDED, load_bundle
from cxrlines.reading.engines.choice import engine_name
from cxrlines.reading.reader import Reader
from cxrlines.reading.results.dicom.objects import Kind, result_objects
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.reading.results.drawing import draw_findings, save_drawing
from cxrlines.reading.urgency import is_urgent

TASK, RESULT = "task.json", "result.json"
IN_VARIABLE, OUT_VARIABLE = "MERCURE_IN_DIR", "MERCURE_OUT_DIR"


class ModuleSettings(BaseModel):
    """The module's settings in `task.json`.

    Attributes:
        dicom: Kinds of DICOM results: `sr` report, `pr` presentation state, `sc` capture.
        json_files: Whether to write findings as JSON too; `json` in the file.
        drawing: Whether to write drawings as PNG too.
        bundle: Folder of the bundle that reads; default: the embedded one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dicom: tuple[Kind, ...] = tuple(Kind)
    json_files: Annotated[bool, Field(alias="json")] = True
    drawing: bool = True
    bundle: Path | None = None


_NAMES = tuple(each.alias or name for name, each in ModuleSettings.model_fields.items())


@dataclass
class ModuleRun:
    """What became of the films of a folder.

    Attributes:
        read: Films that were read.
        urgent: Of those, the ones to be seen first.
        refused: Films that are no usable frontal chest films.
        passed_over: What it is -> how many files of it.
        errors: File -> why it has no results. Holds no patient data but what the file's name has.
        faults: How many of the errors are faults of cxrlines.
    """

    read: int = 0
    urgent: int = 0
    refused: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)
    errors: dict[str, str] = field(default_factory=dict)
    faults: int = 0

    @property
    def text(self) -> str:
        """A sentence for those who are notified."""
        parts = [f"{plural(self.read, 'film')} read", f"{self.urgent} urgent", f"{self.refused} refused"]
        parts += [f"{len(self.errors)} with errors"] if self.errors else []
        return f"{', '.join(parts)}. For research use only."

    def as_dict(self) -> dict[str, Any]:
        """What `result.json` holds."""
        return {
            "read": self.read,
            "urgent": self.urgent,
            "refused": self.refused,
            "passed_over": dict(self.passed_over),
            "errors": self.errors,
            "__mercure_notification": {"text": self.text, "requested": bool(self.urgent)},
        }


def module_folders(films: Path | None, out: Path | None, environment: Mapping[str, str]) -> tuple[Path, Path]:
    """The folders that are given, else those of mercure's variables. `Error` where one is missing or is the other."""
    found = []
    for given, variable in ((films, IN_VARIABLE), (out, OUT_VARIABLE)):
        path = given or (Path(environment[variable]) if environment.get(variable) else None)
        if path is None:
            raise Error(f"no folder is named, and {variable} is not set", "cxrlines module IN OUT")
        found.append(path)
    if not found[0].is_dir():
        raise Error(f"{found[0]}: is no folder", f"name the folder of the films, or set {IN_VARIABLE}")
    check_outputs(folders={"OUT": found[1]}, inputs=[found[0]])
    return found[0], found[1]


def read_settings(films: Path) -> ModuleSettings:
    """The settings of `task.json` in the folder of films; all as by default without one. `Error` for others."""
    path = films / TASK
    if not path.is_file():
        return ModuleSettings()
    try:
        task = json.loads(path.read_text("utf-8"))
        process: Any = task.get("process") or {}
        if "process" not in task and (astray := [name for name in _NAMES if name in task]):
            way_out = 'write {"process": {"settings": {...}}}, as mercure does'
            raise Error(f"{path}: {', '.join(astray)} is not read: settings are within process > settings", way_out)
        process = process[0] if isinstance(process, list) and process else process
        settings = process.get("settings") or {}
        return ModuleSettings.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        raise Error(f"{path}: process > settings: {name} {_refused(first)}", f"there are {', '.join(_NAMES)}") from None
    except Error:
        raise
    except (OSError, ValueError, AttributeError, KeyError) as error:
        what = f"{path}: process > settings cannot be read ({type(error).__name__})"
        raise Error(what, "correct it, or remove it") from None


def run_module(films: Path, out: Path, *, progress: Callable[[int, int | None], None] | None = None) -> ModuleRun:
    """Read the films of a folder and write their results; what is wrong with one costs the others nothing.

    Into `out`: `<film>#<kind>.dcm` for each DICOM film, `<film>.json`, `<film>.png`, and `result.json`, where `<film>`
    is a file's name without its ending. A DICOM film that cannot be read gets a report that says why.

    Raises:
        Error: the settings or the bundle cannot be used, or there is no file in the folder.
        OutputError: `out` cannot be written.
    """
    settings = read_settings(films)
    run = ModuleRun()
    files = [path for path in sorted(films.iterdir()) if path.is_file() and not path.name.startswith(".")]
    if not files:
        raise Error(f"{films}: has no files", "name the folder of the films")
    wanted = [path for path in files if path.name != TASK and _is_wanted(path, run)]
    bundle = load_bundle(settings.bundle or EMBEDDED)
    reader = Reader(bundle)
    read_by = ReadBy.of(bundle, engine_name(bundle), reader.tta)
    stems = {path: film_name(path) for path in wanted}
    shared = Counter(stems.values())
    names = {path: stem if shared[stem] == 1 else path.name for path, stem in stems.items()}
    plain = file_names(names.values(), "")
    for path, found in zip(wanted, reader.read_many(wanted, progress), strict=True):
        _finish(path, found, out / plain[names[path]], settings, read_by, bundle.notice, run)
    write_text(out / RESULT, json.dumps(run.as_dict(), indent=1) + "\n")
    return run


def _refused(problem: Mapping[str, Any]) -> str:
    return "is not a setting" if problem["type"] == "extra_forbidden" else must_be(problem)


def _is_wanted(path: Path, run: ModuleRun) -> bool:
    """Whether a file is to be read; counts it in `run` if not."""
    try:
        film = read_bytes(path)
    except FilmError as error:
        run.errors[path.name] = _reason(path, error)
        return False
    other = _other_kind(film)
    if other is not None:
        run.passed_over[other] += 1
    return other is None


def _other_kind(file: bytes) -> str | None:
    """What a file is that is none to be read; None: it is to be read."""
    kind = kind_of(file)
    if kind != "DICOM":
        return "file that is no film" if kind is None else None
    try:
        return own_or_derived(parse(file, ORIGIN_KEYWORDS))
    except FilmError:
        return None  # reading it says what is wrong


def _finish(
    path: Path,
    found: Findings | FilmError | ReadingFault,
    place: Path,
    settings: ModuleSettings,
    read_by: ReadBy,
    notice: str,
    run: ModuleRun,
) -> None:
    """Write the results of a film and count it. Raises `OutputError` alone."""
    if isinstance(found, NotAFilm):
        run.passed_over[found.kind] += 1
        return
    if isinstance(found, Findings):
        run.read += found.quality.usable
        run.refused += not found.quality.usable
        run.urgent += found.quality.usable and is_urgent(found, read_by)
    else:
        run.errors[path.name] = _reason(path, found)
    fault = found if isinstance(found, ReadingFault) else None
    try:
        if isinstance(found, Findings) and settings.json_files:
            study = found.study_uid or film_name(path)
            values = prediction_json(found, path.name, study, read_by.weights, read_by.tta, notice)
            write_text(place.with_name(f"{place.name}.json"), json.dumps(values, indent=1) + "\n")
        if isinstance(found, Findings) and settings.drawing:
            drawn = draw_findings(
                read_film(path).pixels, found, name=place.name, operating_points=read_by.operating_points
            )
            save_drawing(place.with_name(f"{place.name}.png"), drawn)
        if settings.dicom and not isinstance(found, ReadingFault) and kind_of(film := read_bytes(path)) == "DICOM":
            content = found if isinstance(found, Findings) else _reason(path, found)
            for result in result_objects(film, content, read_by, kinds=settings.dicom):
                with replacing(place.with_name(f"{place.name}#{result.kind}.dcm")) as aside:
                    aside.write_bytes(result.content)
    except OutputError:
        raise
    except Error as error:
        run.errors.setdefault(path.name, _reason(path, of_sender(error)))
    except Exception as error:  # of pydicom, say, over a value that it cannot encode
        fault = ReadingFault.of("its results", error)
        run.errors.setdefault(path.name, str(fault))
    run.faults += fault is not None


def _reason(path: Path, error: Exception) -> str:
    """An error's text without the film's path, which may name a patient."""
    return str(error).removeprefix(f"{readable(path)}: ")
