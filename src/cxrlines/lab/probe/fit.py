"""Training and measuring the quality probe: films in eight poses, cropped and whole, against other pictures.

`run_quality` is what `cxrlines quality` does with folders of films, measuring on held-out patients.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn import functional

from cxrlines.core.errors import Error
from cxrlines.core.film import FilmError, film_name
from cxrlines.core.quality import OTHER, POSES
from cxrlines.core.text import plural
from cxrlines.io.films import is_film, read_film
from cxrlines.io.rows import TableError, read_rows
from cxrlines.lab.probe.not_films import SEEN, SIDE, UNSEEN, Maker, made_of_films, random_part
from cxrlines.lab.probe.views import posed, random_grays, random_view
from cxrlines.models.orientation import SIZE, OrientationNet, write_orientation_net
from cxrlines.reading.probe import Probe, read_probe
from cxrlines.task import PATIENT_COLUMN

BATCH = 32
STEPS = 400
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 1e-2
FILMS_OF_5 = 3
"""Of five images of a batch so many are films; the others are pictures that are none."""
BAD_CROPS = 0.12
"""Share of the films that are badly cropped."""
UPRIGHT = 0.3
"""Share of the films that are shown upright for certain: to reject or re-orient those is worse than to miss others."""
CROP_WEIGHT = 0.3
"""Of the loss of bad crops, beside that of the poses."""
LONGEST = 400
"""px; pictures that are no films are shrunk to this."""
Say = Callable[[str], None]
Images = Sequence[np.ndarray]


def fit_quality(
    groups: Sequence[Images],
    others: Images = (),
    *,
    seed: int = 0,
    steps: int = STEPS,
    start: str = "imagenet",
    say: Say = lambda text: None,
) -> OrientationNet:
    """Train a probe's network in `steps` batches of `BATCH`, from the weights `start` (see `OrientationNet`).

    `groups` are of upright frontal films, (SIDE, SIDE) uint8, stretched to a square; every group is seen as often as
    the others, however few its films. `others` are images (h, w) uint8 that are no frontal chest films; whole and in
    parts, in any pose. The same `seed` gives the same network. `ValueError` for no film or one of another shape,
    `WeightsError` where the weights to begin with are missing.
    """
    if not groups or not all(len(films) for films in groups):
        raise ValueError("no films to fit the probe on; give one or more in every group")
    if wrong := [film for films in groups for film in films if film.shape != (SIDE, SIDE) or film.dtype != np.uint8]:
        raise ValueError(f"a film is {wrong[0].dtype} {wrong[0].shape}; give uint8 ({SIDE}, {SIDE})")
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = OrientationNet(start)
        weights = [p for name, p in net.named_parameters() if not name.startswith("early")]
        optimizer = torch.optim.AdamW(weights, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
        net.train()
        begun = time.process_time()
        for step in range(steps):
            loss = _loss(net, *_random_batch(groups, others, rng))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(weights, 2.0)
            optimizer.step()
            schedule.step()
            if (step + 1) % 50 == 0:
                say(f"{step + 1} of {steps}: loss {loss.item():.3f}, {time.process_time() - begun:.0f} s of processor")
    return net


def _random_batch(
    groups: Sequence[Images], others: Images, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images uint8 (BATCH, SIZE, SIZE), their classes int64 (pose, or `OTHER`), and 1.0 for each bad crop, else 0.0."""
    images, classes, bad_crops = [], [], []
    for place in range(BATCH):
        films = groups[int(rng.integers(len(groups)))]
        if place % 5 < FILMS_OF_5:
            bad_crop = rng.random() < BAD_CROPS
            film = random_view(films[int(rng.integers(len(films)))], rng, cut=bool(bad_crop))
            pose = 0 if rng.random() < UPRIGHT else int(rng.integers(len(POSES)))
            images.append(posed(film, pose))
        else:
            bad_crop, pose = False, OTHER
            images.append(random_other(films, others, rng))
        classes.append(pose)
        bad_crops.append(float(bad_crop))
    return torch.from_numpy(np.stack(images)), torch.tensor(classes), torch.tensor(bad_crops)


def random_other(films: Images, others: Images, rng: np.random.Generator) -> np.ndarray:
    """An image (SIZE, SIZE) uint8 that is no frontal chest film: one of `others`, made of films, or drawn."""
    kind = rng.random()
    if others and kind < 0.5:
        image = random_part(others[int(rng.integers(len(others)))], rng, (0.15, 1.0))
    elif kind < 0.65:
        image = made_of_films(films, rng)
    else:
        image = SEEN[int(rng.integers(len(SEEN)))](rng)
    image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    image = random_grays(image, rng) if rng.random() < 0.5 else image
    return posed(image, int(rng.integers(len(POSES))))


def _loss(net: OrientationNet, images: torch.Tensor, classes: torch.Tensor, bad_crops: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the classes, and binary cross-entropy of bad crops over the films among the images."""
    logits = net(images)
    is_film = classes != OTHER
    crop_loss = functional.binary_cross_entropy_with_logits(logits[is_film, OTHER + 1], bad_crops[is_film])
    return functional.cross_entropy(logits[:, : OTHER + 1], classes) + CROP_WEIGHT * crop_loss


def assessment_counts(probe: Probe, films: Images, seed: int = 0, views: int = 0) -> dict[str, dict[str, int]]:
    """How a probe assesses upright frontal films, (h, w) uint8.

    Returns:
        poses: Counts of the films in each of the eight poses: `films`, and of the images `shown` how many were
            `rejected`, assigned their pose (`pose_right`), re-oriented into another pose than upright or their own
            (`reoriented_wrongly`), or inverted though they were not (`inverted_wrongly`).
        upright: Counts of the films as they are and in `views` random views each, whole: `shown`, `rejected`,
            `reoriented`, and `called_cropped`.
    """
    rng = np.random.default_rng(seed)
    poses: Counter[str] = Counter(films=len(films))
    upright: Counter[str] = Counter(shown=0)
    for film in films:
        for pose, (rotation, inverted) in enumerate(POSES):
            quality = probe(posed(film, pose))
            assigned = quality.rotation, quality.inverted
            poses.update(
                shown=1,
                rejected=not quality.usable,
                pose_right=quality.usable and assigned == (rotation, inverted),
                reoriented_wrongly=assigned not in ((rotation, inverted), (0, False)),
                inverted_wrongly=quality.inverted and not inverted,
            )
        square = cv2.resize(film, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        for image in [film, *(random_view(square, rng) for _ in range(views))]:
            quality = probe(image)
            upright.update(
                shown=1,
                rejected=not quality.usable,
                reoriented=(quality.rotation, quality.inverted) != (0, False),
                called_cropped=quality.cropped is not None and quality.cropped >= 0.5,
            )
    return {"poses": dict(poses), "upright": dict(upright)}


def rejection_rates(probe: Probe, makers: Sequence[Maker] = SEEN + UNSEEN, each: int = 20) -> dict[str, float]:
    """Share of made pictures of each kind that a probe rejects."""
    rng = np.random.default_rng(1)
    return {
        maker.__name__.strip("_"): sum(not probe(maker(rng)).usable for _ in range(each)) / each for maker in makers
    }


def run_quality(
    films: Sequence[Path],
    out: Path,
    *,
    others: Path | None = None,
    unseen: Path | None = None,
    patients: Path | None = None,
    held_out: float = 0.25,
    steps: int = STEPS,
    seed: int = 0,
    views: int = 4,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Fit a probe and write it to `out`, or, with no steps, read the one that is there; return what was measured.

    `films` are folders of upright frontal films, searched to the bottom, each seen as often as the others; `others` and
    `unseen` folders of pictures that are no such films, to learn from and to measure on only. `patients` is a CSV whose
    first column names films (without suffix) and `patient_id` or `PatientID` their patients; a share `held_out` of them
    is not learned from, but measured on, each film in its eight poses and in `views` other ways. `Error` for a folder
    without films (to learn from), a table without these columns, or a row of it that is not readable.
    """
    patient_of = _read_patients(patients) if patients else {}
    test_patients = _held_out(patient_of.values(), held_out, seed)
    groups, test_films = [], []
    for folder in films:
        group = []
        for path, pixels in _read_films(folder):
            if patient_of.get(film_name(path)) in test_patients:
                test_films.append(pixels)
            else:
                group.append(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
        if steps and not group:
            raise Error(f"{folder}: all its films are of patients that are held out", "lower --held-out, or add films")
        say(f"{folder}: {len(group)} films to learn from")
        groups.append(group)
    pictures = [_shrunk(pixels) for _, pixels in _read_films(others)] if others and steps else []
    say(
        f"{len(test_films)} films of {len(test_patients)} patients held out; {len(pictures)} pictures that are no films"
    )

    figures: dict[str, Any] = {}
    if steps:
        counts = [len(group) for group in groups]
        net = fit_quality(groups, pictures, seed=seed, steps=steps, say=say)
        probe = Probe.of_net(net)
        write_orientation_net(net, out, {"films": ", ".join(map(str, counts)), "seed": str(seed)})
        figures |= {"fitted_on": counts, "pictures": len(pictures)}
    else:
        probe = read_probe(out)
    if test_films:
        figures["held_out"] = {"patients": len(test_patients), **assessment_counts(probe, test_films, seed, views)}
    figures["rejected"] = rejection_rates(probe)
    if unseen:
        figures["unseen_rejected"] = {path.name: not probe(pixels).usable for path, pixels in _read_films(unseen)}
    return figures


def _held_out(patients: Iterable[str], share: float, seed: int) -> set[str]:
    """A share of the patients, drawn at random, evenly spread over their random order."""
    shuffled = np.random.default_rng(seed).permutation(sorted(set(patients))).tolist()
    return {patient for place, patient in enumerate(shuffled) if place * share % 1 < share}


def _read_films(folder: Path) -> list[tuple[Path, np.ndarray]]:
    """The films in a folder, in the order of their paths; those that cannot be read are left out."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and is_film(path)):
        try:
            found.append((path, read_film(path).pixels))
        except FilmError:
            continue
    if not found:
        raise Error(f"{folder}: no film in it can be read", "name a folder of JPEG, PNG, TIFF or DICOM files")
    return found


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    """At most `LONGEST` px a side."""
    scale = min(1.0, LONGEST / max(pixels.shape))
    size = tuple(max(8, round(side * scale)) for side in pixels.shape[::-1])
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def _read_patients(path: Path) -> dict[str, str]:
    """Patients by the names of their films; see `run_quality`."""
    try:
        column, rows = PATIENT_COLUMN, read_rows(path, (PATIENT_COLUMN,))
    except TableError:
        column, rows = "patient_id", read_rows(path, ("patient_id",))
    if rows.problems:
        raise Error(f"{rows.problems[0].text()} ({plural(len(rows.problems), 'such row')})")
    return {film: patient for (film, *_), patient in zip(rows.fields, rows.column(column), strict=True)}
