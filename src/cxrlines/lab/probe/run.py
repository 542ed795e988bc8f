"""`cxrlines quality`: train the quality probe on folders of films, and measure it on held-out patients."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from cxrlines.core.errors import Error
from cxrlines.core.film import FilmError, film_name
from cxrlines.io.films import is_film, read_film
from cxrlines.lab.probe.fit import STEPS, Say, fit_quality, measured, rejection_rates
from cxrlines.lab.probe.not_films import SIDE
from cxrlines.models.orientation import read_probe, write_orientation_net
from cxrlines.task import PATIENT_COLUMN

LONGEST = 400
"""px; pictures that are no films are shrunk to this."""


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

    Args:
        films: folders of upright frontal films, searched to the bottom; each is seen as often as the others.
        others: folder of pictures that are no such films, to learn from.
        unseen: folder of further such pictures, to measure on only.
        patients: CSV whose first column names films (without suffix) and `patient_id` or `PatientID` their patients.
            Of these patients a share `held_out` is not learned from, but measured on.
        views: ways in which each held-out film is seen besides its eight poses.

    `Error` for a folder without films (to learn from), or a table without these columns.
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
        probe = fit_quality(groups, pictures, seed=seed, steps=steps, say=say)
        write_orientation_net(probe.net, out, {"films": ", ".join(map(str, counts)), "seed": str(seed)})
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
