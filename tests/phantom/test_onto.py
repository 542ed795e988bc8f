"""A data set of real films with drawn devices. Phantom films, whose truth is known, stand in for real ones."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from cxrlines import cli
from cxrlines.core.errors import Error
from cxrlines.core.files import OutputError
from cxrlines.core.film import FilmError
from cxrlines.io.audit import audit
from cxrlines.io.marks import FilmMarks, MarkedLine, MarksError, read_marks
from cxrlines.io.tables import read_dataset
from cxrlines.phantom import dataset as write
from cxrlines.phantom import onto
from cxrlines.phantom.backdrop import find_backdrops
from cxrlines.phantom.dataset import write_phantom
from cxrlines.phantom.onto import Drawing, OntoParameters, make_drawing, write_onto
from cxrlines.task import DEVICE_OF, LABELS, UNKNOWN, Device, State, label_of

from .folders import files

INCOMPLETE = label_of(Device.NGT, State.INCOMPLETE)
SMALL = {"studies": 24, "seed": 5, "size": 160}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A folder of films with an index, and marks of them: the phantom's own truth."""
    root = tmp_path_factory.mktemp("real")
    write_phantom(root / "set", studies=8, seed=2, size=256, balance="even", test=0, annotated=1.0, workers=1)
    dataset = read_dataset(root / "set")
    films = {}
    for study in dataset.studies.itertuples():
        films[study.study] = {
            "carina": dataset.landmarks[study.study]["carina"].tolist(),
            "carina_sure": 3,
            "lines": [
                {
                    "device": DEVICE_OF[line.label].name.lower(),
                    "path": line.points.tolist(),
                    "tip_on_film": not line.label.endswith("Incompletely Imaged"),
                }
                for line in dataset.lines.get(study.study, [])
            ],
        }
    first, second, third, *_ = films
    films[first]["carina_sure"] = 1
    films[second]["carina"] = None
    films[third]["lines"].append({"device": "cvc", "path": [[1, 1], [60, 60]], "sure": 1})
    (root / "marks.json").write_text(json.dumps({"films": films}))
    rows = dataset.studies[["study", "patient"]].rename(columns={"study": "image_id", "patient": "patient_id"})
    rows.to_csv(root / "set/index.csv", index=False)
    return root / "set/train", root / "marks.json", dataset


@pytest.fixture(scope="module")
def made(real, tmp_path_factory):
    out = tmp_path_factory.mktemp("onto") / "data"
    return out, write_onto(out, real[0], [real[1]], **SMALL, phantom_share=0.25, workers=1)


def test_the_set_is_read_as_any_other_and_has_no_problem(made):
    out, summary = made
    dataset = read_dataset(out)
    # Real films are used again and again, each time for the same patient.
    assert {problem.kind for problem in audit(out).problems} <= {"same film re-encoded"} and not dataset.left_out
    assert len(dataset.studies) == 24 and dataset.meta == summary
    assert summary["backdrops"] == 6
    assert summary["left_out"] == {"carina not marked": 1, "doubtful line": 1}
    assert summary["counts"]["train"]["annotated"] == len(dataset.lines)
    assert not (out / "test_truth.csv").exists() and not (out / "sample_submission.csv").exists()


def test_lines_agree_with_the_labels(made):
    dataset = read_dataset(made[0])
    for study in dataset.studies.to_dict("records"):
        lines = dataset.lines.get(study["study"], [])
        assert {line.label for line in lines} == {label for label in LABELS if study[label]}  # every film is annotated
        height, width = cv2.imread(study["film"], cv2.IMREAD_UNCHANGED).shape
        assert 0.55 * 160 < max(height, width) <= 160
        for line in lines:
            assert (line.points >= 0).all() and (line.points < [width, height]).all()


def test_patients_stay_together_and_apart_from_phantoms(real, made):
    dataset = read_dataset(made[0])
    drawn = dataset.studies[dataset.studies["patient"].str.startswith("ee")]
    assert len(drawn) == 18
    assert drawn["patient"].nunique() <= real[2].studies["patient"].nunique() < 6 + 1
    assert not set(drawn["patient"]) & set(real[2].studies["patient"])
    assert dataset.studies["patient"].str.startswith("ff").sum() == 6


def test_every_carina_is_handed_on(made):
    dataset = read_dataset(made[0])
    assert set(dataset.landmarks) == set(dataset.studies["study"])


def test_lines_that_were_there_stay_in_the_truth(real, made, tmp_path, monkeypatch):
    """Without cropping and drawing, the truth of each film is what was marked, in px of the shrunk film."""
    monkeypatch.setattr(onto, "LEFT_ALONE", 1.0)
    monkeypatch.setattr(onto, "draw_crop", lambda shape, keep, rng: (0, 0, shape[1], shape[0]))
    (tmp_path / "train").mkdir()
    parameters = {key: value for key, value in made[1].items() if key != "counts"}
    lines = 0
    for number, backdrop in enumerate(find_backdrops(real[0], read_marks(real[1]))[0]):
        written = make_drawing(OntoParameters(**parameters), tmp_path, Drawing(number, backdrop))
        before = cv2.imread(str(backdrop.path), cv2.IMREAD_UNCHANGED)
        after = cv2.imread(str(tmp_path / f"train/{written.study}.jpg"), cv2.IMREAD_UNCHANGED)
        scale = np.array(after.shape[::-1]) / before.shape[::-1]
        assert len(written.lines) == len(backdrop.marks.lines) and written.patient == backdrop.patient
        for (label, points), marked in zip(written.lines, backdrop.marks.lines, strict=True):
            assert DEVICE_OF[label] is marked.device
            assert (label == "NGT - Incompletely Imaged") >= (not marked.tip_on_film)
            assert np.abs(points[-1] - ((marked.path[-1] + 0.5) * scale - 0.5)).max() <= 0.51
            lines += 1
        if backdrop.marks.carina_sure > 1:
            assert written.landmarks[:2] == pytest.approx((backdrop.carina + 0.5) * scale - 0.5, abs=0.01)
        small = cv2.resize(before, after.shape[::-1], interpolation=cv2.INTER_AREA)
        assert np.corrcoef(small.ravel(), after.ravel())[0, 1] > 0.7  # the same film in another tone
    assert lines > 8


def test_equal_parameters_give_equal_bytes_whatever_the_workers(real, made, tmp_path):
    write_onto(tmp_path / "data", real[0], [real[1]], **SMALL, phantom_share=0.25, workers=2)
    assert files(tmp_path / "data") == files(made[0])


def test_an_interrupted_call_goes_on(real, made, tmp_path, monkeypatch):
    whole, done = write.replacing, []

    def dies(path):
        if path.suffix == ".jpg":
            done.append(path.name)
            if len(done) == 7:
                raise KeyboardInterrupt
        return whole(path)

    call = {**SMALL, "phantom_share": 0.25, "workers": 1}
    monkeypatch.setattr(write, "replacing", dies)
    with pytest.raises(KeyboardInterrupt):
        write_onto(tmp_path / "data", real[0], [real[1]], **call)
    made_now = []
    monkeypatch.setattr(write, "replacing", lambda p: (made_now.append(p.suffix), whole(p))[1])
    write_onto(tmp_path / "data", real[0], [real[1]], **call)
    assert made_now.count(".jpg") == 24 - 6
    assert files(tmp_path / "data") == files(made[0])
    made_now.clear()
    assert write_onto(tmp_path / "data", real[0], [real[1]], **call) == made[1] and not made_now


def test_every_film_differs_and_other_marks_are_another_set(real, made, tmp_path):
    films = [content for name, content in files(made[0]).items() if name.endswith(".jpg")]
    assert len(set(films)) == 24
    marks = tmp_path / "marks.json"
    marks.write_text(real[1].read_text() + " ")
    with pytest.raises(OutputError, match="holds another phantom data set"):
        write_onto(made[0], real[0], [marks], **SMALL, phantom_share=0.25, workers=1)


def test_errors_say_the_way_out(real, tmp_path):
    folder, marks, _ = real
    with pytest.raises(MarksError, match=r"--onto needs --marks FILE: .* docs/phantom\.md shows how"):
        write_onto(tmp_path / "data", folder, [], **SMALL)
    with pytest.raises(ValueError, match=r"phantom-share: needs a number from 0 to 1, got 1\.5"):
        write_onto(tmp_path / "data", folder, [marks], **SMALL, phantom_share=1.5)
    with pytest.raises(ValueError, match="workers: needs a whole number"):
        write_onto(tmp_path / "data", folder, [marks], **SMALL, workers=0)
    found = json.loads(marks.read_text())
    for film in found["films"].values():
        film["carina"] = [900, 300] if film["carina"] else None
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(found))
    with pytest.raises(MarksError, match=r"the carina lies off it, which is \d+ x \d+ px; give px of the film"):
        write_onto(tmp_path / "data", folder, [wrong], **SMALL, workers=1)


class TestCommand:
    def run(self, *words):
        return CliRunner().invoke(cli.app, ["synth", *map(str, words)])

    def test_it_says_what_was_made_and_what_was_not_used(self, real, tmp_path):
        folder, marks, _ = real
        options = ["--studies", 3, "--size", 96, "--workers", 1, "--annotated", 0]
        result = self.run(tmp_path / "data", "--onto", folder, "--marks", marks, *options)
        assert result.exit_code == 0, result.output
        assert "3 training films, drawn onto 6 real films" in result.stdout
        assert "not drawn onto: 1 x carina not marked" in result.stdout
        assert not read_dataset(tmp_path / "data").lines

    @pytest.mark.parametrize("option", [("--test", 3), ("--site", "b"), ("--difficulty", 0.1), ("--balance", "even")])
    def test_options_of_a_phantom_are_refused(self, real, tmp_path, option):
        result = self.run(tmp_path / "data", "--onto", real[0], "--marks", real[1], *option)
        assert result.exit_code == 2 and "are of a phantom data set" in result.stderr

    def test_marks_without_films(self, real, tmp_path):
        result = self.run(tmp_path / "d", "--marks", real[1])
        assert result.exit_code == 2 and "name their folder with --onto" in result.stderr


class TestLinesThatFade:
    """Lines whose tip nobody saw: of a catheter that fades, of a tube that fades and of one that leaves the film."""

    @pytest.fixture
    def written(self, real, made, tmp_path, monkeypatch):
        """Makes a film with these lines: device, path in shares of the film's sides, whether its tip is seen."""
        monkeypatch.setattr(onto, "LEFT_ALONE", 1.0)
        monkeypatch.setattr(onto, "draw_crop", lambda shape, keep, rng: (0, 0, shape[1], shape[0]))
        (tmp_path / "train").mkdir()
        parameters = OntoParameters(**{key: value for key, value in made[1].items() if key != "counts"})
        backdrop = find_backdrops(real[0], read_marks(real[1]))[0][0]
        shape = cv2.imread(str(backdrop.path), cv2.IMREAD_UNCHANGED).shape

        def write(*lines):
            marked = tuple(MarkedLine(name, np.array(path) * shape[::-1], seen, 3) for name, path, seen in lines)
            marks = FilmMarks(backdrop.carina, 3, marked)
            return make_drawing(parameters, tmp_path, Drawing(0, replace(backdrop, marks=marks)))

        return write

    def test_has_no_state_and_no_tip(self, written):
        found = written(("cvc", [[0.3, 0.02], [0.5, 0.35]], False))
        assert found.tips_unseen == {0} and DEVICE_OF[found.lines[0][0]] is Device.CVC
        assert found.labels == [UNKNOWN if DEVICE_OF[label] is Device.CVC else 0 for label in LABELS]

    def test_a_tube_that_leaves_the_film_is_incompletely_imaged_and_one_that_fades_is_not(self, written):
        leaves = written(("ngt", [[0.5, 0.01], [0.5, 0.5], [0.5, 0.99]], False))
        assert leaves.lines[0][0] == INCOMPLETE and leaves.labels[LABELS.index(INCOMPLETE)] == 1
        assert not leaves.tips_unseen and UNKNOWN not in leaves.labels
        fades = written(("ngt", [[0.5, 0.01], [0.5, 0.4]], False))
        assert fades.tips_unseen == {0} and 1 not in fades.labels

    def test_a_tube_that_leaves_the_film_and_comes_back_is_annotated_to_its_tip(self, written, tmp_path):
        there = [[0.5, 0.01], [0.5, 0.5], [0.5, 1.04], [0.6, 1.04]]
        long = written(("ngt", [*there, [0.6, 0.8]], True))
        height = cv2.imread(str(tmp_path / f"train/{long.study}.jpg"), cv2.IMREAD_UNCHANGED).shape[0]
        assert abs(long.lines[0][1][-1][1] - 0.8 * height) < 2 and not long.tips_unseen
        short = written(("ngt", [*there, [0.6, 0.985]], True))
        assert short.lines[0][1][0][1] < 0.1 * height and short.tips_unseen == {0}

    def test_what_is_known_of_another_catheter_stays(self, written):
        seen = ("cvc", [[0.3, 0.02], [0.45, 0.4]], True)
        (alone,) = (label for label, _ in written(seen).lines)
        both = written(seen, ("cvc", [[0.7, 0.02], [0.55, 0.25]], False))
        of = dict(zip(LABELS, both.labels, strict=True))
        assert of[alone] == 1 and both.tips_unseen == {1}
        assert {of[label] for label in LABELS if DEVICE_OF[label] is Device.CVC and label != alone} == {UNKNOWN}


def test_a_film_in_two_marks_files_is_refused(real, tmp_path):
    with pytest.raises(MarksError, match="is in another marks file as well; leave it in one of them"):
        write_onto(tmp_path / "data", real[0], [real[1], real[1]], **SMALL, workers=1)


def test_a_film_that_cannot_be_read_is_left_out_before_drawing(real, tmp_path, monkeypatch):
    folder = tmp_path / "films"
    shutil.copytree(real[0], folder)
    usable = find_backdrops(folder, read_marks(real[1]))[0]
    usable[0].path.write_bytes(b"")
    made = write_onto(tmp_path / "out", folder, [real[1]], studies=3, seed=1, size=96, workers=1)
    assert made["backdrops"] == 5 and made["left_out"]["film not readable"] == 1
    usable[0].path.write_bytes(usable[1].path.read_bytes())

    def full(path):
        raise FilmError(f"{path.name}: no memory is left for it", "close other programs", passing=True)

    with monkeypatch.context() as patched:  # the machine's failure drops no film of a set
        patched.setattr(onto, "read_film", full)
        with pytest.raises(FilmError, match="no memory is left"):
            write_onto(tmp_path / "later", folder, [real[1]], studies=3, seed=1, size=96, workers=1)
    for backdrop in usable:
        backdrop.path.write_bytes(b"")
    with pytest.raises(Error, match=r"--onto .*: none of 6 films that could be drawn into is readable"):
        write_onto(tmp_path / "none", folder, [real[1]], studies=3, seed=1, size=96, workers=1)


def test_no_set_is_written_among_the_real_films(real, tmp_path):
    shutil.copytree(real[0], tmp_path / "films")
    (tmp_path / "link").symlink_to(tmp_path / "films")
    for out in ("films/out", "link/deep/out"):
        with pytest.raises(OutputError, match="is in the folder of --onto"):
            write_onto(tmp_path / out, tmp_path / "films", [real[1]], studies=3, seed=1, workers=1)
    assert not [path for path in (tmp_path / "films").iterdir() if path.is_dir()]
