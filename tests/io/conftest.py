"""A small data folder in RANZCR's layout, made of noise that looks like nothing else."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

import cxrlines
from cxrlines.task import LABEL_INDEX, LABELS, PATIENT_COLUMN, STUDY_COLUMN


def make_noise(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    """(h, w) uint8: smooth noise with detail, its own for every seed."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 255, (6, 8), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(rng.integers(0, 255, (45, 60), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.addWeighted(coarse, 0.6, fine, 0.4, 0)


@dataclass
class Folder:
    """Rows as they will be written: change them, then `write`."""

    root: Path
    header: list[str] = field(default_factory=lambda: [STUDY_COLUMN, *LABELS, PATIENT_COLUMN])
    rows: list[list[str]] = field(default_factory=list)
    annotations: list[list[str]] = field(default_factory=list)
    films: dict[str, np.ndarray] = field(default_factory=dict)
    folds: list[list[str]] = field(default_factory=list)

    @staticmethod
    def make(root: Path, studies: int) -> "Folder":
        """Studies s000, s001, ... two a patient, one label each, every third annotated, two folds."""
        folder = Folder(root)
        for index in range(studies):
            study, patient, label = f"s{index:03}", f"p{index // 2}", index % len(LABELS)
            folder.rows.append([study, *("1" if i == label else "0" for i in range(len(LABELS))), patient])
            folder.films[study] = make_noise(index)
            folder.folds.append([study, patient, str(index // 2 % 2)])
            if index % 3 == 0:
                folder.annotations.append([study, LABELS[label], "[[10, 10], [60, 50], [119, 89]]"])
        return folder

    def set_label(self, row: int, label: str, value: str) -> None:
        self.rows[row][1 + LABEL_INDEX[label]] = value

    def write(self) -> Path:
        (self.root / "train").mkdir(parents=True, exist_ok=True)
        self._table("train.csv", self.header, self.rows)
        self._table("train_annotations.csv", [STUDY_COLUMN, "label", "data"], self.annotations)
        self._table("folds.csv", [STUDY_COLUMN, PATIENT_COLUMN, "fold"], self.folds)
        for study, pixels in self.films.items():
            cv2.imwrite(str(self.root / "train" / f"{study}.png"), pixels)
        return self.root

    def _table(self, name: str, header: list[str], rows: list[list[str]]) -> None:
        with (self.root / name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])


@pytest.fixture
def noise_film() -> Callable[..., np.ndarray]:
    return make_noise


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.make(tmp_path / "data", 12)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a folder one that cannot be listed, for root too."""
    scandir, listdir, shut = os.scandir, os.listdir, list[str]()

    def checked(call: Callable[..., object]) -> Callable[..., object]:
        def made(path: os.PathLike[str] | str = ".") -> object:
            if os.path.realpath(path) in shut:
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return call(path)

        return made

    monkeypatch.setattr(os, "scandir", checked(scandir))
    monkeypatch.setattr(os, "listdir", checked(listdir))
    return lambda path: shut.append(os.path.realpath(path))


@pytest.fixture(scope="session")
def with_chest_tube(tmp_path_factory) -> Callable[..., str]:
    """Runs Python code with a copy of the package whose task has an optional fifth device; returns what it prints."""
    package = tmp_path_factory.mktemp("fifth") / "cxrlines"
    shutil.copytree(Path(cxrlines.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    task = package / "task.py"
    lines = task.read_text().splitlines()
    spec = 'DeviceSpec("chest tube", (State.PRESENT,), (255, 255, 0), mapped=False, optional=True)'
    for last, added in (("SWAN = ", 'CHEST_TUBE = "Chest Tube"'), ("Device.SWAN: ", f"Device.CHEST_TUBE: {spec},")):
        (place,) = (i for i, line in enumerate(lines) if line.strip().startswith(last))
        lines.insert(place + 1, f"    {added}")
    task.write_text("\n".join(lines))

    def run(code: str, *words: object) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            env=os.environ | {"PYTHONPATH": str(package.parent)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
