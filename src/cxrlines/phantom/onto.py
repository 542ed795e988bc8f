"""Devices drawn into real films: training films that are real except for lines with a known centerline."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from cxrlines.core.errors import Error
from cxrlines.core.files import OutputError
from cxrlines.core.film import FilmError, film_name
from cxrlines.core.polyline import Points, resample
from cxrlines.core.pool import cores, in_parallel
from cxrlines.io.films import read_film
from cxrlines.io.marks import MarkedLine, MarksError, read_marks
from cxrlines.phantom.anatomy import draw_patient, pose
from cxrlines.phantom.backdrop import Backdrop, exposed, find_backdrops
from cxrlines.phantom.canvas import View
from cxrlines.phantom.dataset import (
    FilmRows,
    Parameters,
    Study,
    annotated_points,
    check_fraction,
    check_integer,
    film_path,
    make_study,
    plan_studies,
    save_film,
    study_uid,
    write_set,
)
from cxrlines.phantom.devices import STEP
from cxrlines.phantom.overlay import airway_of, draw_scene, expose, from_exposed
from cxrlines.phantom.position import Landmarks
from cxrlines.phantom.scene import Scene
from cxrlines.phantom.vary import Film, burn_in, change_tone, draw_crop
from cxrlines.task import DEVICE_OF, LABELS, LABELS_OF, STATE_OF, UNKNOWN, Device, State, label_of

ONTO_VERSION = 5  # goes up whenever the same parameters give other films
RARE, RARE_TURNS = frozenset({Device.ETT, Device.NGT, Device.SWAN}), 2
"""Real films with a line of these devices are used so many times as often as others: of 601 training films 280 show a
central catheter, but 56, 64 and 6 these."""
LEFT_ALONE = 0.4  # share of the real films into which nothing is drawn: there the real lines alone are learnt
CLUTTERED = 0.6  # share of the real films onto which distractors are drawn: a guess, see `phantom.distractors`
CLUTTER = (0.2, 1.2)  # as `distractors.draw_clutter` takes it
PORTABLE_WIDTH, UPRIGHT_WIDTH = (34.5, 43), (31, 38)  # cm on the patient
UPRIGHT = 1.1  # height by width above which a film is taken to be upright
TURN = 2.0  # degrees, standard deviation of the patient's tilt
SMALLER, SMALLER_SIZES = 0.2, (0.6, 1.0)  # share of films below the wanted size, shares of it
QUALITIES = (70, 96)  # of JPEG, the upper one excluded
OFF_FILM = 0.05  # share of the longer side by which marks may lie off the film
UNREADABLE = "film not readable"
_PHANTOM_DIFFICULTIES = (0.2, 0.8)


@dataclass(frozen=True)
class OntoParameters:
    """What a data set of real films with drawn devices is made from; equal parameters give equal bytes.

    Attributes:
        studies: Films.
        films: SHA-256 of the real films' names and sizes, of the marks and the patients.
        backdrops: How many real films can be drawn into.
        left_out: How many cannot, by reason.
        size: The most px of a film's longer side.
        phantom_share: Fraction of the films that are phantoms.
        annotated: Fraction of the films with a line whose lines are written.

    Raises:
        Error: A value out of range.
    """

    studies: int
    seed: int
    films: str
    backdrops: int
    left_out: dict[str, int]
    size: int = 512
    phantom_share: float = 0.0
    annotated: float = 1.0
    test: int = 0
    version: int = ONTO_VERSION
    kind: str = "onto"

    def __post_init__(self) -> None:
        check_integer("studies", self.studies, 1, 10_000_000)
        check_integer("seed", self.seed, 0, 2**63 - 1)
        check_integer("size", self.size, 64, 4096)
        check_fraction("phantom-share", self.phantom_share)
        check_fraction("annotated", self.annotated)


@dataclass(frozen=True, eq=False)
class Drawing:
    """Which film this is: its number and the real film below it."""

    number: int
    backdrop: Backdrop


def write_onto(
    out: Path,
    folder: Path,
    marks: Sequence[Path],
    *,
    studies: int,
    seed: int,
    size: int = 512,
    phantom_share: float = 0.0,
    annotated: float = 1.0,
    workers: int | None = None,
) -> dict:
    """Write `studies` training films: those of `folder` with devices drawn in, a `phantom_share` of phantom films.

    The layout is that of `write_phantom`, without test films; of the landmarks only the carina is written. The marks
    files (see `io.marks`) hold the ground truth and decide which real films can be used (`backdrop.find_backdrops`);
    each is used about equally often, those with `RARE` devices RARE_TURNS times as often, cropped, developed and drawn
    into again, a share of LEFT_ALONE without drawing.
    Lines that were on a film stay in its truth, their states by `position.state_of` with landmarks estimated from the
    carina. Where a line fades before its tip, its state is unknown (-1 in the table) and its tip is marked as not
    seen. Films keep their resolution but are at most `size` px on the longer side.

    Same films, marks and parameters, same bytes, whatever the `workers`; the same call after an interruption goes on.
    `MarksError` without marks, with unusable ones or a film in two files, `Error` for a parameter out of range or no
    usable film.
    """
    if not marks:
        raise MarksError(
            "--onto needs --marks FILE: a JSON file with the carina and the lines of the real films, as the "
            "anatomy is placed at the carina and lines already there belong to the ground truth",
            "docs/phantom.md shows how to write it",
        )
    if folder.resolve() in Path(out).resolve().parents:
        what = f"OUT {out}: is in the folder of --onto, {folder}, and its films would be taken for real ones"
        raise OutputError(what, "name a folder outside")
    if workers is not None:
        check_integer("workers", workers, 1, 1024)
    known = read_marks(*marks)
    digest = hashlib.sha256()
    for path in marks:
        digest.update(Path(path).read_bytes())
    backdrops, left_out = find_backdrops(folder, known)
    good = dict(in_parallel(_can_be_read, [each.path for each in backdrops], workers or cores(), "reading films"))
    if bad := len(backdrops) - sum(map(bool, good.values())):
        left_out[UNREADABLE] = bad
        backdrops = [each for place, each in enumerate(backdrops) if good[place]]
    if not backdrops:
        raise Error(f"--onto {folder}: none of {bad} films that could be drawn into is readable", "export them again")
    for backdrop in backdrops:
        line = f"{backdrop.path.name}\t{backdrop.path.stat().st_size}\t{backdrop.patient}\n"
        digest.update(line.encode(errors="surrogateescape"))
    films, shares = digest.hexdigest(), (float(phantom_share), float(annotated))
    parameters = OntoParameters(studies, seed, films, len(backdrops), left_out, size, *shares)
    return write_set(out, parameters, partial(_plan, parameters, backdrops), partial(_make, parameters), workers)


def _can_be_read(path: Path) -> bool:
    try:
        read_film(path)
    except FilmError as error:
        if error.passing:
            raise
        return False
    return True


def _plan(parameters: OntoParameters, backdrops: list[Backdrop]) -> Sequence[Drawing | Study]:
    """All real films in one order after another, then phantom films."""
    phantoms = round(parameters.studies * parameters.phantom_share)
    rng = np.random.default_rng([parameters.seed, 3])
    rare = [bool(RARE & {line.device for line in backdrop.marks.lines}) for backdrop in backdrops]
    order = np.repeat(np.arange(len(backdrops)), np.where(rare, RARE_TURNS, 1))
    turns: list[int] = []
    while len(turns) < parameters.studies - phantoms:
        turns += rng.permutation(order).tolist()
    drawings = [Drawing(number, backdrops[at]) for number, at in enumerate(turns[: parameters.studies - phantoms])]
    return [*drawings, *(plan_studies(_phantom(parameters, phantoms)) if phantoms else [])]


def _phantom(parameters: OntoParameters, studies: int) -> Parameters:
    return Parameters(studies, parameters.seed, parameters.size, "even", "a", 0.5, 0, parameters.annotated)


def _make(parameters: OntoParameters, folder: Path, item: Drawing | Study) -> FilmRows:
    """Make one film of the set and its rows."""
    if isinstance(item, Drawing):
        return make_drawing(parameters, folder, item)
    # Phantom films of both sites and any difficulty, a patient always of one site.
    site = "ab"[int(np.random.default_rng([parameters.seed, 4, item.patient]).integers(2))]
    difficulty = np.random.default_rng([parameters.seed, 5, item.number]).uniform(*_PHANTOM_DIFFICULTIES)
    return make_study(replace(_phantom(parameters, 1), site=site, difficulty=difficulty), folder, item)


@dataclass(frozen=True, eq=False)
class _TrueLine:
    """A line of the film that is made.

    Attributes:
        label: Of its device and state; of its device alone, unless `state_known`.
        points: (n, 2) px, to the tip or as far as is seen.
    """

    label: str
    points: Points
    tip_seen: bool = True
    state_known: bool = True


@dataclass(frozen=True, eq=False)
class _Background:
    """A real film cropped and shrunk, and what is marked on it, in px of that.

    Attributes:
        film: (h, w) uint8.
        carina: (2,) px.
        px_per_cm: On the patient; guessed from the usual sizes of chests.
    """

    film: Film
    carina: Points
    lines: tuple[MarkedLine, ...]
    px_per_cm: float


def make_drawing(parameters: OntoParameters, folder: Path, drawing: Drawing) -> FilmRows:
    """One real film with devices drawn in, unless an interrupted call already wrote it, and its rows."""
    rng, rng_lines, rng_film, rng_rows = (
        np.random.default_rng([parameters.seed, 6, drawing.number, part]) for part in range(4)
    )
    background = _background(drawing.backdrop, parameters.size, rng)
    film, px_per_cm = background.film, background.px_per_cm
    view = View(film.shape, px_per_cm, float(np.deg2rad(rng.normal(0, TURN))), background.carina)
    scene = Scene(pose(draw_patient(rng), rng), view)
    exposed_part = exposed(film)
    truth = [
        _marked(line, line.device, scene, resample(line.path, STEP * px_per_cm))
        for line in background.lines
        if line.device
    ]
    if rng.random() >= LEFT_ALONE:
        airway = airway_of(film, background.lines, background.carina, px_per_cm)
        scene = draw_scene(background.lines, scene, airway, exposed_part, rng)
        truth += [_TrueLine(line.label, from_exposed(line.path, exposed_part)) for line in scene.lines]
    uid = study_uid(f"onto-{parameters.films}-{parameters.seed}-{drawing.number}")
    path = film_path(folder, 0, uid)
    if not path.exists():
        clutter = float(rng_film.uniform(*CLUTTER)) if rng_film.random() < CLUTTERED else 0.0
        film = expose(film, background.lines, exposed_part, scene, clutter, rng_lines)
        film = burn_in(change_tone(film, rng_film), rng_film)
        save_film(path, film, int(rng_film.integers(*QUALITIES)))
    lines = _annotated_lines(truth, view.shape)
    return FilmRows(
        uid,
        drawing.backdrop.patient,
        0,
        _labels(lines),
        [(line.label, line.points.tolist()) for line in lines],
        rng_rows.random() < parameters.annotated and bool(lines),
        _landmarks(background.carina),
        frozenset(index for index, line in enumerate(lines) if not line.tip_seen),
    )


def _annotated_lines(truth: Sequence[_TrueLine], shape: tuple[int, int]) -> list[_TrueLine]:
    """The lines of which more than a point is annotated on a film of `shape` (height, width), as they are annotated."""
    lines = []
    for line in truth:
        points = np.array(annotated_points(line.points, shape))
        if len(points) > 1:
            to_the_end = bool((points[-1] == np.round(line.points[-1])).all())
            at_tip = to_the_end or STATE_OF[line.label] is State.INCOMPLETE  # by its label that one has no tip here
            lines.append(replace(line, points=points, tip_seen=line.tip_seen and at_tip))
    return lines


def _landmarks(carina: Points) -> list[float | None]:
    """`FilmRows.landmarks` of a film of which the carina alone is known."""
    points: dict[str, list[float | None]] = {name: [None, None] for name in Landmarks._fields}
    points["carina"] = [round(float(value), 2) for value in carina]
    return [*chain(*points.values()), None]


def _background(backdrop: Backdrop, size: int, rng: np.random.Generator) -> _Background:
    """The film below, cropped, at most `size` px on the longer side."""
    film = read_film(backdrop.path).pixels
    height, width = film.shape
    lines = backdrop.marks.lines
    for what, points in [("the carina", backdrop.carina[None]), *((f"a line ({x.name})", x.path) for x in lines)]:
        far = OFF_FILM * max(film.shape)
        if (points < -far).any() or (points > (1 + OFF_FILM) * np.array([width, height])).any():
            raise MarksError(
                f"the marks of film {film_name(backdrop.path)}: {what} lies off it, which is {width} x {height} px",
                "give px of the film as it lies in the folder",
            )
    tips = [line.path[-1] for line in lines if line.device and line.tip_on_film and line.device is not Device.NGT]
    left, top, right, bottom = draw_crop(film.shape, np.array([backdrop.carina, *tips]), rng)
    cropped = film[top:bottom, left:right]
    longest = size * (rng.uniform(*SMALLER_SIZES) if rng.random() < SMALLER else 1.0)
    by = min(1.0, longest / max(cropped.shape))
    shape = max(1, round(cropped.shape[1] * by)), max(1, round(cropped.shape[0] * by))
    small = cv2.resize(cropped, shape, interpolation=cv2.INTER_AREA) if by < 1 else cropped
    scale = np.array(shape) / cropped.shape[::-1]

    def moved(points: Points) -> Points:
        return (points - (left, top) + 0.5) * scale - 0.5

    wide = rng.uniform(*(UPRIGHT_WIDTH if height > UPRIGHT * width else PORTABLE_WIDTH))
    moved_lines = tuple(replace(line, path=moved(line.path)) for line in lines)
    return _Background(small, moved(backdrop.carina), moved_lines, width * by / wide)


def _marked(line: MarkedLine, device: Device, scene: Scene, points: Points) -> _TrueLine:
    """The truth of a marked line: of unknown state where it fades before its tip, incompletely imaged where a
    nasogastric tube leaves the film."""
    if device is Device.NGT and line.leaves_film(scene.view.shape):
        return _TrueLine(label_of(device, State.INCOMPLETE), points)
    state_known = line.tip_on_film or len(LABELS_OF[device]) == 1
    return _TrueLine(scene.label_of(device, line.path), points, line.tip_on_film, state_known)


def _labels(lines: Sequence[_TrueLine]) -> list[int]:
    """0, 1 or `UNKNOWN` of each label: a device with a line of unknown state may have any of its labels."""
    certain = {line.label for line in lines if line.state_known}
    unsure = {DEVICE_OF[line.label] for line in lines if not line.state_known}
    return [1 if label in certain else UNKNOWN if DEVICE_OF[label] in unsure else 0 for label in LABELS]
