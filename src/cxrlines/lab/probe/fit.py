"""Training and measuring the quality probe: films in eight poses, cropped and whole, against other pictures.

`run_quality` is what `cxrlines quality` does with folders of films, measuring on held-out patients.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from cxrlines.core.errors import Error
from cxrlines.core.film import FilmError, film_name
from cxrlines.core.quality import OTHER, POSES
from cxrlines.io.films import is_film, read_film
from cxrlines.lab.probe.not_films import SEEN, SIDE, UNSEEN, Maker, of_films, part
from cxrlines.lab.probe.views import posed, toned, view
from cxrlines.models.orientation import SIZE, OrientationNet, write_orientation_net
from cxrlines.reading.probe import Probe, read_probe
from cxrlines.task import PATIENT_COLUMN

BATCH = 32
STEPS = 400
RATE, DECAY = 2e-3, 1e-2
BAD = 0.12
"""Share of the films that are badly cropped."""
LONGEST = 400
"""px; pictures that are no films are shrunk to this."""
Say = Callable[[str], None]
Films = Sequence[np.ndarray]


def fit_quality(
    groups: Sequence[Films],
    others: Films = (),
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
        optimizer = torch.optim.AdamW(weights, RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
        net.train()
        begun = time.process_time()
        for step in range(steps):
            loss = _loss(net, *_batch(groups, others, rng))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(weights, 2.0)
            optimizer.step()
            schedule.step()
            if (step + 1) % 50 == 0:
                say(f"{step + 1} of {steps}: loss {loss.item():.3f}, {time.process_time() - begun:.0f} s of processor")
    return net


def _batch(
    groups: Sequence[Films], others: Films, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shown, classes, cropped = [], [], []
    for place in range(BATCH):
        films = groups[int(rng.integers(len(groups)))]
        if place % 5 < 3:
            bad = rng.random() < BAD
            film = view(films[int(rng.integers(len(films)))], rng, cut=bool(bad))
            # Most films come upright: to reject or re-orient those is worse than to miss others.
            pose = 0 if rng.random() < 0.3 else int(rng.integers(len(POSES)))
            shown.append(posed(film, pose))
        else:
            bad, pose = False, OTHER
            shown.append(not_film(films, others, rng))
        classes.append(pose)
        cropped.append(float(bad))
    return torch.from_numpy(np.stack(shown)), torch.tensor(classes), torch.tensor(cropped)


def not_film(films: Films, others: Films, rng: np.random.Generator) -> np.ndarray:
    """An image (SIZE, SIZE) uint8 that is no frontal chest film: one of `others`, made of films, or drawn."""
    kind = rng.random()
    if others and kind < 0.5:
        image = part(others[int(rng.integers(len(others)))], rng, (0.15, 1.0))
    elif kind < 0.65:
        image = of_films(films, rng)
    else:
        image = SEEN[int(rng.integers(len(SEEN)))](rng)
    image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    image = toned(image, rng) if rng.random() < 0.5 else image
    return posed(image, int(rng.integers(len(POSES))))


def _loss(net: OrientationNet, films: torch.Tensor, classes: torch.Tensor, cropped: torch.Tensor) -> torch.Tensor:
    scores = net(films)
    film = classes != OTHER
    cut = functional.binary_cross_entropy_with_logits(scores[film, OTHER + 1], cropped[film])
    return functional.cross_entropy(scores[:, : OTHER + 1], classes) + 0.3 * cut


def measured(probe: Probe, films: Films, seed: int = 0, views: int = 0) -> dict[str, Any]:
    """How a probe assesses upright frontal films, (h, w) uint8: counts, of the films in each pose and of other views.

    `views`: how many ways each upright film is also seen, as in fitting but whole.
    """
    rng = np.random.default_rng(seed)
    poses: Counter[str] = Counter(films=len(films))
    upright: Counter[str] = Counter(shown=0)
    for film in films:
        for pose, (rotation, inverted) in enumerate(POSES):
            quality = probe(posed(film, pose))
            found = quality.rotation, quality.inverted
            poses.update(
                shown=1,
                rejected=not quality.usable,
                pose_right=quality.usable and found == (rotation, inverted),
                reoriented_wrongly=found not in ((rotation, inverted), (0, False)),
                inverted_wrongly=quality.inverted and not inverted,
            )
        square = cv2.resize(film, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        for image in [film, *(view(square, rng) for _ in range(views))]:
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
    without films (to learn from), or a table without these columns.
    """
    patient_of = _patients(patients) if patients else {}
    shuffled = np.random.default_rng(seed).permutation(sorted(set(patient_of.values()))).tolist()
    apart = {patient for place, patient in enumerate(shuffled) if place * held_out % 1 < held_out}
    groups, held = [], []
    for folder in films:
        group = []
        for path, pixels in _read(folder):
            if patient_of.get(film_name(path)) in apart:
                held.append(pixels)
            else:
                group.append(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
        if steps and not group:
            raise Error(f"{folder}: all its films are of patients that are held out", "lower --held-out, or add films")
        say(f"{folder}: {len(group)} films to learn from")
        groups.append(group)
    pictures = [_small(pixels) for _, pixels in _read(others)] if others and steps else []
    say(f"{len(held)} films of {len(apart)} patients held out; {len(pictures)} pictures that are no films")
    counts = [len(group) for group in groups]
    figures: dict[str, Any] = {}
    if steps:
        net = fit_quality(groups, pictures, seed=seed, steps=steps, say=say)
        probe = Probe.of_net(net)
        write_orientation_net(net, out, {"films": ", ".join(map(str, counts)), "seed": str(seed)})
        figures |= {"fitted_on": counts, "pictures": len(pictures)}
    else:
        probe = read_probe(out)
    if held:
        figures["held_out"] = {"patients": len(apart), **measured(probe, held, seed, views)}
    figures["rejected"] = rejection_rates(probe)
    if unseen:
        figures["unseen_rejected"] = {path.name: not probe(pixels).usable for path, pixels in _read(unseen)}
    return figures


def _read(folder: Path) -> list[tuple[Path, np.ndarray]]:
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


def _small(pixels: np.ndarray) -> np.ndarray:
    scale = min(1.0, LONGEST / max(pixels.shape))
    size = tuple(max(8, round(side * scale)) for side in pixels.shape[::-1])
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def _patients(path: Path) -> dict[str, str]:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    column = next((name for name in ("patient_id", PATIENT_COLUMN) if name in table), None)
    if column is None:
        has = ", ".join(map(str, table))
        raise Error(f"{path}: has no column patient_id or {PATIENT_COLUMN}, only {has}", "add one")
    return dict(zip(table.iloc[:, 0], table[column], strict=True))
