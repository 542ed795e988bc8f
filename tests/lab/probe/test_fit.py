"""A probe fitted in a few steps: the same from the same seed, and in a file from a command's folders."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cxrlines.cli import app
from cxrlines.cli.options import ERROR
from cxrlines.core.notes import Code
from cxrlines.core.quality import OTHER, POSES
from cxrlines.lab.probe.fit import _read_patients, assessment_counts, fit_quality, run_quality
from cxrlines.lab.probe.not_films import SIDE
from cxrlines.models.orientation import OrientationNet
from cxrlines.models.weights import load_weights
from cxrlines.reading.probe import Probe, read_probe


def _films(count: int = 8) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [cv2.GaussianBlur(rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8), (0, 0), 5) for _ in range(count)]


def test_a_seed_fixes_the_probe_and_the_generator_outside_is_left() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, same, other = (fit_quality([_films()], seed=seed, steps=2, start="none") for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    pairs = list(zip(first.parameters(), same.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_no_films_and_films_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="no films to fit the probe on; give one or more in every group"):
        fit_quality([_films(), []])
    with pytest.raises(ValueError, match=r"a film is uint8 \(100, 100\); give uint8 \(160, 160\)"):
        fit_quality([[np.zeros((100, 100), np.uint8)]])


class _Always(OrientationNet):
    """Says one pose of every film."""

    def __init__(self, pose: int) -> None:
        super().__init__()
        self.pose = pose

    def forward(self, films: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(len(films), OTHER + 2)
        scores[:, self.pose] = 20
        return scores


def test_counts_are_those_of_what_the_probe_did() -> None:
    upright = assessment_counts(Probe.of_net(_Always(0)), _films(3), views=2)
    poses = {"films": 3, "shown": 24, "rejected": 0, "pose_right": 3, "reoriented_wrongly": 0, "inverted_wrongly": 0}
    assert upright["poses"] == poses
    assert upright["upright"] == {"shown": 9, "rejected": 0, "reoriented": 0, "called_cropped": 9}
    refuses = assessment_counts(Probe.of_net(_Always(OTHER)), _films(2))
    assert refuses["poses"]["rejected"] == 16 and refuses["upright"]["rejected"] == 2
    # It says of the re-oriented film, too, that it is turned: not sure, so nothing is turned.
    turns = Probe.of_net(_Always(POSES.index((180, False))))
    assert assessment_counts(turns, _films(1))["poses"]["reoriented_wrongly"] == 0
    assert turns(_films(1)[0]).notes[0].code is Code.POSE_UNSURE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for place, film in enumerate(_films(8)):
        (tmp_path / "films/deep").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"films/deep/f{place}.png"), film)
    (tmp_path / "films/notes.txt").write_text("no film")
    rows = "".join(f"f{place},p{place // 2}\n" for place in range(8))
    (tmp_path / "index.csv").write_text(f"image_id,patient_id\n{rows}")
    return tmp_path


def test_patients_held_out_are_measured_on_and_not_fitted_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = []

    def fit(groups: list[list[np.ndarray]], *rest: object, **options: object) -> OrientationNet:
        fitted.extend(groups[0])
        return _Always(0)

    monkeypatch.setattr("cxrlines.lab.probe.fit.fit_quality", fit)
    out = folder / "quality.safetensors"
    figures = run_quality([folder / "films"], out, patients=folder / "index.csv", held_out=0.5, views=0)
    assert figures["fitted_on"] == [4] and figures["held_out"]["patients"] == 2
    assert figures["held_out"]["poses"]["films"] == 4
    left = {film.tobytes() for film in _films(8)} - {film.tobytes() for film in fitted}
    pairs = [{film.tobytes() for film in _films(8)[k : k + 2]} for k in range(0, 8, 2)]
    assert sum(pair <= left for pair in pairs) == 2  # whole patients
    before = out.read_bytes()
    again = run_quality([folder / "films"], out, patients=folder / "index.csv", held_out=0.5, views=0, steps=0)
    assert out.read_bytes() == before and len(fitted) == 4  # measured, not fitted anew
    assert "fitted_on" not in again and again["held_out"]["poses"]["films"] == 4


def test_the_command_writes_a_probe_and_prints_what_it_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxrlines.models.orientation.imagenet_tensors", lambda name: (_random_tensors(name), "random"))
    out = folder / "out/quality.safetensors"
    said = CliRunner().invoke(app, ["quality", str(folder / "films"), "--out", str(out), "--steps", "2"])
    assert said.exit_code == 0, said.output
    figures = json.loads(said.stdout.splitlines()[-1])
    assert figures["fitted_on"] == [8] and "held_out" not in figures and set(figures["rejected"]) >= {"page", "hand"}
    assert isinstance(read_probe(out), Probe) and load_weights(out)[1] == {"films": "8", "seed": "0"}


def _random_tensors(name: str) -> dict[str, torch.Tensor]:
    import timm

    return dict(timm.create_model(name).state_dict())


def test_folders_and_tables_that_do_not_fit_are_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no film in it can be read"):
        run_quality([folder / "empty"], folder / "out.safetensors")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("image_id,person\na,b\n", "lacks the column 'patient_id'"),
        ("image_id;patient_id\na;b\n", "separated by semicolons"),
        ("image_id,patient_id\nf0,p0\nf1,p0,AP\n", "other.csv:3: the row has 3 cells, the header 2"),
    ],
)
def test_a_table_of_patients_that_cannot_be_used_is_named(folder: Path, text: str, said: str) -> None:
    """A row that is left out would be learned from, and its patient may be measured on."""
    table = folder / "other.csv"
    table.write_text(text)
    words = ["quality", str(folder / "films"), "--out", str(folder / "out.safetensors"), "--patients", str(table)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == ERROR and said in result.stderr, result.output


@pytest.mark.parametrize("column", ["patient_id", "PatientID"])
def test_patients_are_those_of_either_column(folder: Path, column: str) -> None:
    (folder / "other.csv").write_text(f"film,view,{column}\nf0,AP,007\nf1,PA,NA\n")
    assert _read_patients(folder / "other.csv") == {"f0": "007", "f1": "NA"}
