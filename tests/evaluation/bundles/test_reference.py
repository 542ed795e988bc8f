"""What is known of films, real ones with marks and a phantom's, and how findings are set against it."""

import json

import cv2
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from cxrlines.core.findings import Findings, Keypoint, Line
from cxrlines.evaluation.bundles.reference import NOT_NAMED, EvaluationError, data_films, marked_films
from cxrlines.io.marks import MarksError, backdrop_patient, read_marks
from cxrlines.io.rows import TableError
from cxrlines.io.tables import read_dataset
from cxrlines.phantom.backdrop import find_backdrops
from cxrlines.task import DEVICE_OF, LABELS, LABELS_OF, Device, Landmark, State

PATH = [[50, 0], [50, 60]]
SHAPE = (90, 120)


def mark(device, sure=3, **more):
    return {"device": device, "path": PATH, "sure": sure} | more


def dicom_of(pixels, patient):
    """A DICOM file of a film."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    made.PatientID, made.PixelData = patient, pixels.tobytes()
    return made


@pytest.fixture
def folder(tmp_path):
    """Films in tmp_path/films of these marks, written to tmp_path/marks.json."""

    def make(marks, names=None):
        (tmp_path / "films").mkdir()
        for name in names or marks:
            cv2.imwrite(str(tmp_path / "films" / f"{name}.png"), np.full(SHAPE, 99, np.uint8))
        (tmp_path / "marks.json").write_text(json.dumps({"films": marks}))
        return tmp_path / "films", tmp_path / "marks.json"

    return make


def found(*lines, carina=None, shape=SHAPE, labels=0.5):
    spots = {} if carina is None else {Landmark.CARINA: Keypoint(np.array(carina), 1.0)}
    return Findings(shape, lines, spots, (), dict.fromkeys(LABELS, labels), None)


def line(device, x=50.0):
    path = np.array([[x, 0.0], [x, 60.0]])
    return Line(device, path, path[-1], 0.9)


def test_sure_lines_are_true_doubtful_ones_neither_and_other_things_none(folder):
    marks = {
        "a": {
            "carina": [60, 50],
            "carina_sure": 1,
            "lines": [mark("ett"), mark("cvc", 1), mark("trach"), mark("drain", 1), mark("ngt", tip_on_film=False)],
        }
    }
    (film,) = marked_films(*folder(marks)).films
    evaluated = film.compare(found(line(Device.ETT), line(Device.CVC), line(Device.SWAN), carina=(60.0, 53.0)))
    assert evaluated.present == {Device.ETT: True, Device.NGT: True, Device.SWAN: False}
    assert [course.device for course in evaluated.read.true] == [Device.ETT, Device.NGT]
    assert evaluated.read.true[0].tip.tolist() == [50, 60] and evaluated.read.true[1].tip is None
    assert evaluated.read.true[1].followed_to.tolist() == [50, 60], "it fades on the film"
    assert [course.device for course in evaluated.read.found] == [Device.ETT, Device.SWAN]
    assert evaluated.tracheostomy and not evaluated.carina_sure and evaluated.lines_known
    assert evaluated.read.true_carina.tolist() == [60, 50] and evaluated.read.found_carina.tolist() == [60, 53]


def test_a_refused_film_says_that_nothing_is_there(folder):
    (film,) = marked_films(*folder({"a": {"lines": [mark("ett")], "carina": [60, 50]}})).films
    evaluated = film.compare(Findings(SHAPE, (), {}, (), None))
    assert evaluated.present[Device.ETT] and evaluated.presence["ETT"] == 0 and set(evaluated.labels.values()) == {0.0}
    assert evaluated.read.found_carina is None and evaluated.carina_sure


def test_patients_are_known_by_the_name_that_drawing_onto_their_films_gave_them_too(folder, tmp_path):
    films, marks = folder({"a": {"carina": [60, 50]}, "b": {"carina": [60, 50]}}, ["a", "b", "c"])
    (tmp_path / "index.csv").write_text("image_id,patient_id\na,one\nb,one\n")
    known = marked_films(films, marks)
    assert [film.patient for film in known.films] == ["one", "one"]
    backdrops, _ = find_backdrops(films, read_marks(marks))
    assert {film.aliases for film in known.films} == {(backdrop.patient,) for backdrop in backdrops}
    assert known.left_out == {"without marks": 1}
    (tmp_path / "index.csv").unlink()
    assert all(film.named for film in known.films)
    alone = marked_films(films, marks)
    assert [(film.patient, film.named) for film in alone.films] == [("a", False), ("b", False)]
    assert "each film counts as a patient of its own" in alone.remarks[-1]
    (tmp_path / "index.csv").write_text("image_id,patient_id\na,one\n")
    part = marked_films(films, marks)
    assert [(film.patient, film.named) for film in part.films] == [("one", True), ("b", False)]
    assert part.remarks[-1].startswith("Of 1 film ")


def test_a_patient_whom_no_index_names_is_the_dicom_files_own(folder, tmp_path):
    films, marks = folder({"a": {}, "b": {}, "c": {}})
    for name, patient in (("a", "p7"), ("b", "ANONYMOUS")):
        dicom_of(np.full(SHAPE, 99, np.uint8), patient).save_as(films / f"{name}.dcm", enforce_file_format=True)
        (films / f"{name}.png").unlink()
    known = marked_films(films, marks)
    assert [(film.patient, film.named) for film in known.films] == [("p7", True), ("b", False), ("c", False)]
    assert {backdrop_patient("p7"), backdrop_patient("a")} == {*known.films[0].aliases}, "as films drawn onto are named"
    (tmp_path / "index.csv").write_text("image_id,patient_id\na,one\nc,Unknown\n")
    assert [(film.patient, film.named) for film in marked_films(films, marks).films] == [
        ("one", True),
        ("b", False),
        ("c", False),
    ]


def test_a_uid_as_the_name_of_a_file_keeps_its_last_number(folder, tmp_path):
    marks = {"1.2.3.7": {"carina": [60, 50]}, "1.2.3.8": {"carina": [60, 50]}}
    films, path = folder(marks)
    for name in marks:
        (films / f"{name}.png").rename(films / name)
    (tmp_path / "index.csv").write_text("image_id,patient_id\n1.2.3.7,one\n1.2.3.8.dcm,two\n")
    known = marked_films(films, path)
    assert [(film.path.name, film.patient) for film in known.films] == [("1.2.3.7", "one"), ("1.2.3.8", "two")]


def test_marks_of_several_files_are_one_reference(folder, tmp_path):
    films, marks = folder({"a": {"carina": [60, 50]}}, ["a", "b"])
    more = tmp_path / "more.json"
    more.write_text(marks.read_text().replace('"a"', '"b"'))
    assert [film.path.stem for film in marked_films(films, marks, more).films] == ["a", "b"]


def test_wrong_folders_and_marks_are_said(folder, tmp_path):
    films, marks = folder({"a": {}}, ["b"])
    with pytest.raises(EvaluationError, match=r"none of its films is in .*marks\.json.*'a' \(here: 'b'\)"):
        marked_films(films, marks)
    with pytest.raises(EvaluationError, match="is not a folder; give the folder of the films that"):
        marked_films(tmp_path / "nowhere", marks)
    with pytest.raises(MarksError, match="cannot be read"):
        marked_films(films, tmp_path / "none.json")
    (films / "deep").mkdir()
    for place in (films, films / "deep"):
        cv2.imwrite(str(place / "a.png"), np.full(SHAPE, 99, np.uint8))
    with pytest.raises(EvaluationError, match="two films are called a; marks name films"):
        marked_films(films, marks)


def truth_of(data, study, labels):
    """What a perfect reader finds on a film of a data set."""
    lines = tuple(Line(DEVICE_OF[each.label], each.points, each.points[-1], 1.0) for each in data.lines.get(study, ()))
    spot = {Landmark.CARINA: Keypoint(data.landmarks[study]["carina"], 1.0)}
    height, width = cv2.imread(data.studies.set_index("study").loc[study, "film"], cv2.IMREAD_GRAYSCALE).shape
    return Findings((height, width), lines, spot, (), labels)


def test_a_phantom_tells_lines_carina_and_states_of_its_test_films(phantom):
    data = read_dataset(phantom, "test")
    known = data_films(phantom)
    assert len(known.films) == len(data.studies) == 8
    calls = []
    for film, row in zip(known.films, data.studies.to_dict("records"), strict=True):
        labels = {label: float(row[label]) for label in LABELS}
        evaluated = film.compare(truth_of(data, row["study"], labels))
        assert film.patient == row["patient"] and film.path.stem == row["study"]
        assert evaluated.present == {d: any(labels[x] for x in LABELS if DEVICE_OF[x] is d) for d in Device}
        assert len(evaluated.read.true) == len(data.lines.get(row["study"], ()))
        assert evaluated.read.true_carina is not None and evaluated.lines_known
        calls += evaluated.read.states
    assert all(call.classifier is call.truth for call in calls)
    tubes = [call for call in calls if call.device is Device.ETT]
    assert tubes and sum(call.rule is call.truth for call in tubes) >= len(tubes) - 1  # points are whole px
    assert {call.truth for call in calls if call.device is Device.NGT} <= set(State)


def test_lines_that_are_not_annotated_are_not_known(phantom):
    known, data = data_films(phantom, "train"), read_dataset(phantom, "train")
    evaluated = [film.compare(found(shape=(96, 96))) for film in known.films]
    rows = data.studies.to_dict("records")
    for film, annotated, row in zip(evaluated, data.annotated, rows, strict=True):
        there = {device for device, own in LABELS_OF.items() if any(row[label] for label in own)}
        assert film.read.unknown == (frozenset() if annotated else there)
        assert film.lines_known == (film.read.unknown < set(Device))
    assert any(film.read.unknown for film in evaluated) and not all(film.read.unknown for film in evaluated)
    assert all(film.read.true_carina is not None for film in evaluated)


def test_a_folder_of_films_alone_is_told_what_it_lacks(folder):
    films, _ = folder({"a": {}})
    with pytest.raises(
        EvaluationError, match=r"has no train\.csv; give a data folder, or name the marks of real films"
    ):
        data_films(films)


def test_test_films_of_which_nothing_is_known_are_refused(phantom, tmp_path):
    for name in ("test", "sample_submission.csv"):
        (tmp_path / name).symlink_to(phantom / name)
    with pytest.raises(
        EvaluationError, match=r"its test films have no labels; give a test_truth\.csv, or take --split train"
    ):
        data_films(tmp_path)


def test_the_train_split_is_evaluated_where_test_films_have_no_labels(phantom, tmp_path):
    for name in ("train", "train.csv", "test", "sample_submission.csv"):
        (tmp_path / name).symlink_to(phantom / name)
    reference = data_films(tmp_path)
    assert "Films of the train split." in reference.remarks
    assert {film.path.stem for film in reference.films} == {path.stem for path in (phantom / "train").iterdir()}
    (tmp_path / "test_truth.csv").symlink_to(phantom / "test_truth.csv")
    assert "Films of the test split." in data_films(tmp_path).remarks


def test_a_study_without_a_row_of_ground_truth_has_no_patient_that_is_named(phantom, tmp_path):
    for name in ("test", "sample_submission.csv"):
        (tmp_path / name).symlink_to(phantom / name)
    head, first, *others = (phantom / "test_truth.csv").read_text().splitlines()
    (tmp_path / "test_truth.csv").write_text("\n".join([head, *others]) + "\n")
    unnamed = [film for film in data_films(tmp_path).films if not film.named]
    assert [film.path.stem for film in unnamed] == [first.split(",")[0]]
    assert all(film.named for film in data_films(phantom).films)


def test_views_and_patients_come_from_an_index_of_either_form(folder, tmp_path):
    films, marks = folder({"a": {}, "b": {}, "c": {}})
    (tmp_path / "index.csv").write_text("file,patient_id,view\na.png,one,AP\nb.png,two,PA\nc.png,two,\n")
    known = marked_films(films, marks)
    assert [(film.patient, film.view) for film in known.films] == [("one", "AP"), ("two", "PA"), ("two", None)]
    (tmp_path / "index.csv").write_text("image_id,patient_id,projection\na,one,ap\n")
    assert [film.view for film in marked_films(films, marks).films] == ["AP", None, None]
    (tmp_path / "index.csv").write_text("patient_id,view\none,AP\n")
    with pytest.raises(TableError, match="has no column image_id or file"):
        marked_films(films, marks)


def test_only_films_of_named_patients_are_kept_and_the_others_counted(folder, tmp_path):
    films, marks = folder({"a": {}, "b": {}, "c": {}})
    (tmp_path / "index.csv").write_text("image_id,patient_id\na,one\nb,two\nc,two\n")
    known = marked_films(films, marks)
    names = tmp_path / "chosen.txt"
    names.write_text("\ufefftwo\r\n\r\nnobody\r\n", "utf-8")
    chosen = known.of_patients(names)
    assert [film.path.stem for film in chosen.films] == ["b", "c"] and len(known.films) == 3
    assert chosen.left_out == {NOT_NAMED: 1}
    assert chosen.remarks[-1] == "Only films of patients in chosen.txt: 1 of its 2 have films here."
    names.write_text("nobody")
    with pytest.raises(EvaluationError, match=r"none of its 1 patients has a film here.*as the table .* has") as said:
        known.of_patients(names)
    assert "'one'" not in str(said.value), "ids of patients stay out of errors"
    with pytest.raises(EvaluationError, match=r"cannot be read \(.*\); give a text file"):
        known.of_patients(tmp_path / "none.txt")
    names.write_bytes(b"\xff\xfe")
    with pytest.raises(EvaluationError, match=r"cannot be read \(no UTF-8\)"):
        known.of_patients(names)


def test_of_devices_that_were_not_looked_for_nothing_counts(folder):
    marks = {"a": {"devices": ["ett", "NGT"], "lines": [mark("ett"), mark("cvc")]}}
    known = marked_films(*folder(marks))
    evaluated = known.films[0].compare(found(line(Device.NGT), line(Device.CVC), line(Device.SWAN)))
    assert evaluated.present == {Device.ETT: True, Device.NGT: False}
    assert [each.device for each in evaluated.read.true] == [Device.ETT]
    assert [each.device for each in evaluated.read.found] == [Device.NGT]
    assert evaluated.read.unknown == {Device.CVC, Device.SWAN}
    assert any("On 1 film not all devices were looked for" in remark for remark in known.remarks)


def test_a_device_half_corrected_counts_neither_way(phantom, tmp_path):
    """Labels of -1, or a device that is there by its label but was not drawn."""
    data = read_dataset(phantom, "train")
    row = next(
        row
        for row in data.studies.to_dict("records")
        if {DEVICE_OF[each.label] for each in data.lines.get(row["study"], ())} >= {Device.ETT, Device.CVC}
    )
    (tmp_path / "train").mkdir()
    film = next((phantom / "train").glob(f"{row['study']}.*"))
    (tmp_path / "train" / film.name).symlink_to(film)

    def evaluated(change, skip=()):
        cells = {label: int(row[label]) for label in LABELS} | change
        head = ",".join(["StudyInstanceUID", *LABELS, "PatientID"])
        body = ",".join([row["study"], *(str(cells[label]) for label in LABELS), "p"])
        (tmp_path / "train.csv").write_text(f"{head}\n{body}\n")
        rows = [
            f'{row["study"]},{each.label},"{json.dumps(each.points.tolist())}"'
            for each in data.lines[row["study"]]
            if DEVICE_OF[each.label] not in skip
        ]
        (tmp_path / "train_annotations.csv").write_text("\n".join(["StudyInstanceUID,label,data", *rows]) + "\n")
        (known,) = data_films(tmp_path).films
        return known.compare(found(line(Device.CVC), line(Device.ETT), shape=(96, 96)))

    whole = evaluated({})
    assert whole.read.unknown == frozenset() and {each.device for each in whole.read.found} == {Device.CVC, Device.ETT}
    for half in (evaluated(dict.fromkeys(LABELS_OF[Device.CVC], -1)), evaluated({}, skip=(Device.CVC,))):
        assert half.read.unknown == {Device.CVC}
        assert Device.CVC not in {each.device for each in (*half.read.true, *half.read.found)}
        assert Device.ETT in {each.device for each in half.read.true} & {each.device for each in half.read.found}
    assert Device.CVC not in evaluated(dict.fromkeys(LABELS_OF[Device.CVC], -1)).present
    assert evaluated({}, skip=(Device.CVC,)).present[Device.CVC]
    # One label that is known to hold says that the device is there; one that does not hold says nothing.
    assert evaluated({LABELS_OF[Device.ETT][0]: 1, LABELS_OF[Device.ETT][1]: -1}).present[Device.ETT]


@pytest.mark.parametrize("end", [[50, 89], [119, 40], [50, 87.5]])
def test_a_marked_line_without_a_tip_leaves_the_film_where_it_ends_at_its_edge(folder, end):
    marks = {"a": {"carina": [60, 50], "lines": [mark("ngt", path=[[50, 0], end], tip_on_film=False)]}}
    (film,) = marked_films(*folder(marks)).films
    (true,) = film.compare(found()).read.true
    assert true.leaves_film
