"""A phantom data set on disk, in the file layout of the RANZCR CLiP challenge.

`write_set` writes films of any making (those of `onto` too); `write_phantom` is the phantom's.
"""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrlines.core.errors import Error
from cxrlines.core.files import OutputError, replacing, write_text
from cxrlines.core.polyline import Points
from cxrlines.core.pool import cores, in_parallel
from cxrlines.io.annotations import DATA_COLUMN, LABEL_COLUMN, TIP_SEEN_COLUMN
from cxrlines.phantom.position import Landmarks
from cxrlines.phantom.render import render
from cxrlines.phantom.scene import BALANCES, SITES, make_scene
from cxrlines.task import LABEL_INDEX, LABELS, PATIENT_COLUMN, STUDY_COLUMN

VERSION = 4  # of the generator: goes up whenever the same parameters give other films
JPEG_QUALITY = 92
_UID_ROOT = "1.2.826.0.1.3680043.8.498."
_TRAIN, _TEST = 0, 1
_SPLITS = ("train", "test")
_PARAMETERS = "phantom.json"
_NOTE = "parameters.json"  # of a set that is being made
_FILMS, _FILMS_SPREAD = 5, 0.9  # a patient's films in the real set: median, standard deviation of the logarithm

Item = TypeVar("Item")


@dataclass(frozen=True)
class Parameters:
    """What a phantom data set is made from; equal parameters give equal bytes.

    Attributes:
        studies: Training films.
        size: px of a film's longer side.
        balance, site: One of `BALANCES`, of `SITES`.
        difficulty: 0 to 1, see `render`.
        test: Test films.
        annotated: Fraction of the studies with a device whose lines are written.
        version: Of the generator.

    Raises:
        Error: A value out of range.
    """

    studies: int
    seed: int
    size: int = 512
    balance: str = "natural"
    site: str = "a"
    difficulty: float = 0.5
    test: int = 1
    annotated: float = 0.3
    version: int = VERSION

    def __post_init__(self) -> None:
        check_integer("studies", self.studies, 1, 10_000_000)
        check_integer("seed", self.seed, 0, 2**63 - 1)
        check_integer("size", self.size, 64, 4096)
        check_integer("test", self.test, 0, 10_000_000)
        check_fraction("difficulty", self.difficulty)
        check_fraction("annotated", self.annotated)
        check_choice("balance", self.balance, BALANCES)
        check_choice("site", self.site, SITES)


@dataclass(frozen=True)
class Study:
    """Which film this is: its split (0 training, 1 test), its patient's number and its own number."""

    split: int
    patient: int
    number: int


@dataclass(frozen=True)
class FilmRows:
    """One film's rows in the tables.

    Attributes:
        study, patient: Their identifiers.
        split: As of `Study`.
        labels: 0, 1 or `UNKNOWN` in label order.
        lines: (label, points [x, y] in whole px) of every device.
        annotated: Whether the lines of a training film are written.
        landmarks: x, y of each of `Landmarks._fields` in px, then mm per px; None where not known.
        tips_unseen: Lines, by their index, whose last point is not their tip.
    """

    study: str
    patient: str
    split: int
    labels: list[int]
    lines: list[tuple[str, list[list[int]]]]
    annotated: bool
    landmarks: Sequence[float | None]
    tips_unseen: frozenset[int] = frozenset()


def write_phantom(
    out: Path,
    *,
    studies: int,
    seed: int,
    size: int = 512,
    balance: str = "natural",
    site: str = "a",
    difficulty: float = 0.5,
    test: int | None = None,
    annotated: float = 0.3,
    workers: int | None = None,
) -> dict[str, Any]:
    """Write `studies` training films and `test` films of other patients (an eighth as many by default) to `out`.

    Films are 8-bit grey JPEGs, `size` px on the longer side. Files: `train/`, `test/`, `train.csv`,
    `train_annotations.csv`, `sample_submission.csv` as in the challenge, and `landmarks.csv` (px, pixel centres
    at integers, and mm per px on the patient), `test_truth.csv`, `test_annotations.csv` (the lines of every test
    film), `phantom.json` (parameters, version, counts: what is returned). Equal parameters give equal bytes, whatever
    the `workers` (default: one a core). An interrupted call leaves no `out`; the same call goes on where it was.

    Raises:
        Error: A parameter is out of range.
        OutputError: `out` holds something else.
    """
    test = max(1, studies // 8) if test is None else test
    parameters = Parameters(studies, seed, size, balance, site, float(difficulty), test, float(annotated))
    return write_set(out, parameters, partial(plan_studies, parameters), partial(make_study, parameters), workers)


def write_set(
    out: Path,
    parameters: Any,
    plan: Callable[[], Sequence[Item]],
    make: Callable[[Path, Item], FilmRows],
    workers: int | None,
) -> dict[str, Any]:
    """Write the films that `make(folder, item)` makes of the items of `plan()`, and their tables; the summary.

    `parameters` is a dataclass of JSON's own types with `studies` and `test`; equal ones are taken to give equal
    films. `make` puts its film into the folder's `train/` or `test/` with `save_film`, unless it is there already;
    it and the items must be picklable. Otherwise as `write_phantom`.
    """
    if workers is not None:
        check_integer("workers", workers, 1, 1024)
    out, wanted = Path(out), json.loads(json.dumps(asdict(parameters), default=int))  # NumPy's numbers as Python's
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        return _finished(out, wanted)
    aside = _partial_folder(out, wanted)
    items = plan()
    made = dict(in_parallel(partial(make, aside), items, workers or cores(), "making films"))
    rows = [row for number in range(len(items)) if (row := made[number])]
    if len(rows) < len(items):
        raise Error("a process that made films was killed (out of memory?)", "the same call goes on from there")
    summary = wanted | {"counts": _counts(rows)}
    _write_tables(aside, rows)
    write_text(aside / _PARAMETERS, json.dumps(summary, indent=2) + "\n")
    if out.is_dir():
        out.rmdir()
    (aside / _NOTE).unlink()  # last: without it the films would be made anew
    aside.rename(out)
    return summary


def _finished(out: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The summary of a finished data set with the wanted parameters; `OutputError` if `out` holds something else."""
    other = "name another folder, or remove this one"
    try:
        found: Any = json.loads((out / _PARAMETERS).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise OutputError(f"{out}: exists and is no phantom data set", other)
    if differ := [f"{k} {found.get(k)!r} not {v!r}" for k, v in wanted.items() if found.get(k) != v]:
        raise OutputError(f"{out}: holds another phantom data set ({', '.join(differ)})", other)
    return found


def _partial_folder(out: Path, wanted: dict[str, Any]) -> Path:
    """The folder in which the data set grows: a matching one of an interrupted call, or a new one."""
    aside = out.parent / f".{out.name}.partial"
    note, text = aside / _NOTE, json.dumps(wanted)
    if aside.exists() and not (note.is_file() and note.read_text("utf-8") == text):
        shutil.rmtree(aside)
    for split in _SPLITS:
        (aside / split).mkdir(parents=True, exist_ok=True)
        for half in (aside / split).glob(".*.partial"):  # of a call that was killed
            half.unlink()
    write_text(note, text)
    return aside


def plan_studies(parameters: Parameters) -> list[Study]:
    """Films shared out to patients with skewed counts, as in the real set; fewer each in small sets."""
    studies = []
    for split, total in ((_TRAIN, parameters.studies), (_TEST, parameters.test)):
        rng = np.random.default_rng([parameters.seed, split, 0])
        middle, most = float(np.clip(total / 150, 1.5, _FILMS)), max(2, total // 20)
        number = patient = 0
        while number < total:
            count = int(np.clip(round(rng.lognormal(np.log(middle), _FILMS_SPREAD)), 1, min(most, total - number)))
            studies += [Study(split, patient, number + k) for k in range(count)]
            number, patient = number + count, patient + 1
    return studies


def make_study(parameters: Parameters, folder: Path, study: Study) -> FilmRows:
    """Make one film, unless an interrupted call already did, and its rows."""
    site, seeds = parameters.site, [parameters.seed, study.split, 1, study.patient]
    scene = make_scene(seeds, [*seeds, study.number, 0], size=parameters.size, balance=parameters.balance, site=site)
    uid = study_uid(f"{parameters.site}-{parameters.seed}-{study.split}-{study.number}")
    film = film_path(folder, study.split, uid)
    if not film.exists():
        rng = np.random.default_rng([*seeds, study.number, 1])
        save_film(film, render(scene, difficulty=parameters.difficulty, site=site, rng=rng))
    lines = [(line.label, annotated_points(line.path, scene.view.shape)) for line in scene.lines]
    annotated = np.random.default_rng([*seeds, study.number, 2]).random() < parameters.annotated and bool(lines)
    landmarks = [round(float(value), 2) for value in np.concatenate(scene.landmarks)]
    return FilmRows(
        uid,
        _patient_id(parameters, study),
        study.split,
        scene.labels,
        lines,
        annotated,
        [*landmarks, round(scene.view.mm_per_px, 5)],
    )


def film_path(folder: Path, split: int, uid: str) -> Path:
    """Where the film of a study belongs."""
    return folder / _SPLITS[split] / f"{uid}.jpg"


def save_film(path: Path, pixels: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> None:
    """Write a film (h, w) as a grey JPEG, atomically."""
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    with replacing(path) as aside:
        aside.write_bytes(encoded.tobytes())


def annotated_points(path: Points, shape: tuple[int, int]) -> list[list[int]]:
    """A path (n, 2) px as a person annotates it on a film of `shape` (height, width).

    In whole px, about one point a cm. A path may leave the film and come back: of its stretches on the film the one
    that ends at the tip, if it has two points or more, else the longest. None where no point is on the film.
    """
    height, width = shape
    points = np.round(path[::-1][::3][::-1]).astype(int)
    inside = (points >= 0).all(1) & (points[:, 0] < width) & (points[:, 1] < height)
    stretches = np.split(np.arange(len(points)), np.flatnonzero(np.diff(inside.astype(int))) + 1)
    if inside[-1] and len(stretches[-1]) > 1:
        return points[stretches[-1]].tolist()
    return points[max((stretch for stretch in stretches if inside[stretch[0]]), key=len, default=slice(0))].tolist()


def study_uid(key: str) -> str:
    """A study id of the challenge's form for what `key` names; ten nines after the root say that it is synthetic."""
    return f"{_UID_ROOT}9999999999{int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10**28:028d}"


def _patient_id(parameters: Parameters, study: Study) -> str:
    """Nine hex digits, `ff` first; the odd multiplier keeps different patients different."""
    start = int(hashlib.sha256(f"{parameters.site}-{parameters.seed}".encode()).hexdigest(), 16)
    return f"ff{(start + 0x9E3779B1 * (2 * study.patient + study.split)) % 16**7:07x}"


def _counts(rows: list[FilmRows]) -> dict[str, dict[str, Any]]:
    counts: dict[str, dict[str, Any]] = {}
    for split, name in enumerate(_SPLITS):
        own = [row for row in rows if row.split == split]
        labels = {label: sum(row.labels[i] == 1 for row in own) for label, i in LABEL_INDEX.items()}
        counts[name] = {"films": len(own), "patients": len({row.patient for row in own}), "labels": labels}
    annotated = [row for row in rows if row.annotated and row.split == _TRAIN]
    counts["train"] |= {"annotated": len(annotated), "lines": sum(len(row.lines) for row in annotated)}
    return counts


def _write_tables(folder: Path, rows: list[FilmRows]) -> None:
    # In the order of the ids, which are hashes: neighbours in a table are not of one patient.
    train, test = (sorted((r for r in rows if r.split == s), key=lambda r: r.study) for s in (_TRAIN, _TEST))
    header = [STUDY_COLUMN, *LABELS]
    labelled = [*header, PATIENT_COLUMN]
    _write_csv(folder / "train.csv", labelled, ([r.study, *r.labels, r.patient] for r in train))
    says_tips = any(r.tips_unseen for r in train)  # a phantom's are all seen
    _write_annotations(folder / "train_annotations.csv", [r for r in train if r.annotated], says_tips)
    if test:  # without any, the set has no test split, and no table says it has
        _write_csv(folder / "test_truth.csv", labelled, ([r.study, *r.labels, r.patient] for r in test))
        _write_csv(folder / "sample_submission.csv", header, ([r.study, *[0] * len(LABELS)] for r in test))
        _write_annotations(folder / "test_annotations.csv", test, says_tips)
    coordinates = [f"{name}_{axis}" for name in Landmarks._fields for axis in "xy"]
    landmarks = ([r.study, _SPLITS[r.split], *r.landmarks] for r in [*train, *test])
    _write_csv(folder / "landmarks.csv", [STUDY_COLUMN, "split", *coordinates, "mm_per_px"], landmarks)


def _write_annotations(path: Path, films: list[FilmRows], says_tips: bool) -> None:
    """A table of lines; with a column that says of each whether its last point is its tip, if `says_tips`."""
    header = [STUDY_COLUMN, LABEL_COLUMN, DATA_COLUMN] + [TIP_SEEN_COLUMN] * says_tips
    rows = (
        [film.study, label, points] + [int(index not in film.tips_unseen)] * says_tips
        for film in films
        for index, (label, points) in enumerate(film.lines)
    )
    _write_csv(path, header, rows)


def _write_csv(path: Path, header: list[str], rows: Iterator) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """`Error` unless `value` is a whole number from `low` to `high`."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not low <= value <= high:
        raise Error(f"{name}: needs a whole number from {low} to {high}, got {value!r}")


def check_fraction(name: str, value: float) -> None:
    """`Error` unless `value` is from 0 to 1."""
    if not 0 <= value <= 1:
        raise Error(f"{name}: needs a number from 0 to 1, got {value!r}")


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """`Error` unless `value` is one of those allowed."""
    if value not in allowed:
        raise Error(f"{name}: needs one of {', '.join(allowed)}, got {value!r}")
