"""Label tables: what is read, what is left out, and what is said."""

import gzip
import shutil
import time

import numpy as np
import pytest

from cxrlines.data.audit import audit
from cxrlines.data.rows import TableError
from cxrlines.data.tables import read_dataset, read_labels, read_landmarks
from cxrlines.task import LABELS, PATIENT_COLUMN, STUDY_COLUMN


class TestReadLabels:
    def test_the_real_table(self, shared):
        start = time.perf_counter()
        table = read_labels(shared / "ranzcr/train.csv")
        assert time.perf_counter() - start < 2
        assert (len(table), table["patient"].nunique(), table["study"].is_unique) == (30_083, 3_255, True)
        assert table[list(LABELS)].sum().tolist() == [
            79, 1138, 7240, 279, 529, 2748, 4797, 3195, 8460, 21324, 830
        ]  # fmt: skip
        assert set(table[list(LABELS)].dtypes) == {np.dtype(np.int8)}

    def test_extra_columns_and_their_order_do_not_matter(self, folder):
        plain = read_labels(folder.write() / "train.csv")
        folder.header = ["fold", *reversed(folder.header)]
        folder.rows = [["3", *reversed(row)] for row in folder.rows]
        assert read_labels(folder.write() / "train.csv").equals(plain)

    def test_a_missing_column_names_the_nearest(self, folder):
        folder.header[1] = "ETT-Abnormal"
        with pytest.raises(TableError, match=r"lacks the column 'ETT - Abnormal' \(is 'ETT-Abnormal' meant\?\)"):
            read_labels(folder.write() / "train.csv")

    def test_bad_rows_never_stop_good_ones(self, folder, capsys):
        folder.rows[2][0] = ""
        folder.rows[4][-1] = ""
        folder.set_label(6, "CVC - Normal", "yes")
        folder.rows[8] = list(folder.rows[7])
        table = read_labels(folder.write() / "train.csv")
        assert len(table) == 8
        assert table.attrs["left_out"] == {
            "row without a study": 1,
            "row of no patient": 1,
            "label not 0 or 1": 1,
            "study in two rows": 1,
        }
        said = capsys.readouterr().err
        assert "4 of 12 rows left out" in said and "train.csv:4: StudyInstanceUID is empty" in said
        assert "train.csv:8: CVC - Normal is 'yes'; a label is 0 or 1" in said

    @pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe", b"\0" * 100, b'"' * 999])
    def test_what_is_no_table_is_said_to_be_none(self, tmp_path, content):
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(TableError, match=r"t\.csv: (is empty|lacks the column|is UTF-16|is no text)"):
            read_labels(tmp_path / "t.csv")

    def test_no_file_no_rows(self, tmp_path):
        with pytest.raises(TableError, match="cannot be read"):
            read_labels(tmp_path / "none.csv")
        (tmp_path / "t.csv").write_text(",".join([STUDY_COLUMN, *LABELS, PATIENT_COLUMN]))
        with pytest.raises(TableError, match="no row is usable"):
            read_labels(tmp_path / "t.csv")

    def test_compressed_tables_are_not_mistaken(self, tmp_path):
        (tmp_path / "t.csv").write_bytes(gzip.compress(b"StudyInstanceUID"))
        with pytest.raises(TableError, match="lacks the column"):
            read_labels(tmp_path / "t.csv")


class TestReadDataset:
    def test_rows_films_and_lines(self, folder):
        dataset = read_dataset(folder.write())
        assert dataset.studies["study"].tolist() == [row[0] for row in folder.rows]
        assert dataset.annotated.tolist() == [i % 3 == 0 for i in range(12)]
        assert dataset.lines["s003"][0].points.tolist() == [[10, 10], [60, 50], [119, 89]]
        assert dataset.left_out == {} and dataset.meta == {}

    def test_what_is_left_out_is_counted(self, folder):
        del folder.films["s005"]
        folder.rows[0][-1] = ""
        folder.annotations.append(["s001", "unknown", "[[1, 2]]"])
        dataset = read_dataset(folder.write())
        assert len(dataset.studies) == 10
        assert dataset.left_out == {
            "row of no patient": 1,
            "film missing": 1,
            "annotation of an unknown label": 1,
            "annotation of a study left out or unknown": 1,
        }
        assert "s000" not in dataset.lines

    def test_landmarks_of_a_split(self, folder):
        root = folder.write()
        assert read_dataset(root).landmarks == {}
        rows = [
            f"other,{STUDY_COLUMN},split,carina_y,carina_x",
            "a,s001,train,20.25,10.5",
            "b,s002,train,,",
            "c,s003,test,1,2",
            "d,s004,train,left,2",
            "e,s001,train,9,9",
            "f,unknown,train,3,4",
            "g,s005,train,nan,2",
            "h,s006,train,,7",
            "i,s007,train,0,-0.5",
        ]
        (root / "landmarks.csv").write_text("\n".join(rows))
        dataset = read_dataset(root)
        assert {study: {n: p.tolist() for n, p in spots.items()} for study, spots in dataset.landmarks.items()} == {
            "s001": {"carina": [10.5, 20.25]},
            "s007": {"carina": [-0.5, 0]},
        }
        assert dataset.landmarks["s001"]["carina"].dtype == np.float64
        assert dataset.left_out == {"landmark not readable": 3}
        _, problems = read_landmarks(root / "landmarks.csv", "train")
        assert problems[0].text() == (
            "landmarks.csv:5: carina is at '2', 'left'; give two numbers in px, or leave both cells empty"
        )
        assert list(read_landmarks(root / "landmarks.csv", "test")[0]) == ["s003"]
        (root / "landmarks.csv").write_text(f"{STUDY_COLUMN},carina_x,carina_Y\ns001,1,2")
        with pytest.raises(TableError, match=r"lacks the column 'carina_y' \(is 'carina_Y' meant\?\)"):
            read_dataset(root)

    def test_study_ids_with_dots_and_films_without_suffix(self, folder):
        folder.rows[0][0], folder.rows[1][0] = "1.2.840.1", "1.2.840.2"
        root = folder.write()
        (root / "train/s000.png").rename(root / "train/1.2.840.1.PNG")
        (root / "train/s001.png").rename(root / "train/1.2.840.2")
        films = read_dataset(root).studies["film"]
        assert films[0].endswith("1.2.840.1.PNG") and films[1].endswith("1.2.840.2")

    def test_the_test_split_takes_its_truth_where_there_is_one(self, folder):
        root = folder.write()
        (root / "train").rename(root / "test")
        (root / "train.csv").rename(root / "test_truth.csv")
        studies = [row[0] for row in folder.rows]
        lines = [",".join([STUDY_COLUMN, *LABELS])] + [",".join([study] + ["0"] * 11) for study in studies]
        (root / "sample_submission.csv").write_text("\n".join(lines))
        labelled = read_dataset(root, "test").studies
        assert labelled["patient"].tolist() == [row[-1] for row in folder.rows]
        assert labelled[LABELS[3]].tolist() == [int(row[4]) for row in folder.rows]
        (root / "test_truth.csv").unlink()
        plain = read_dataset(root, "test").studies
        assert plain.columns.tolist() == ["study", "patient", "film"]

    @pytest.mark.parametrize("number", ["0.5", "", "0.123"])
    def test_the_numbers_of_a_sample_submission_are_placeholders(self, folder, number):
        root = folder.write()
        shutil.copytree(root / "train", root / "test")
        rows = [[STUDY_COLUMN, *LABELS]] + [[row[0], *[number] * len(LABELS)] for row in folder.rows]
        (root / "sample_submission.csv").write_text("\n".join(map(",".join, rows)))
        dataset = read_dataset(root, "test")
        assert dataset.studies["study"].tolist() == [row[0] for row in folder.rows] and not dataset.left_out
        assert set(audit(root).as_dict()["kinds"]) == {"same film twice"}

    def test_a_plain_folder(self, tmp_path, folder):
        root = folder.write() / "train"
        (root / "deep").mkdir()
        (root / "s001.png").rename(root / "deep/film-of-no-suffix")
        (root / "notes.txt").write_text("not a film")
        dataset = read_dataset(root)
        assert dataset.studies["study"].tolist()[0] == "deep/film-of-no-suffix"
        assert len(dataset.studies) == 12 and not dataset.annotated.any()
        assert dataset.left_out == {"file that is no film": 1}

    def test_errors_say_the_way_out(self, tmp_path, folder):
        with pytest.raises(TableError, match="is not a folder; give the folder that holds"):
            read_dataset(tmp_path / "none")
        (tmp_path / "empty").mkdir()
        with pytest.raises(TableError, match=r"has no films .* give a folder"):
            read_dataset(tmp_path / "empty")
        with pytest.raises(TableError, match=r"has no sample_submission\.csv; the test split needs it"):
            read_dataset(folder.write(), "test")
        (folder.root / "phantom.json").write_text("{")
        with pytest.raises(TableError, match="is not readable as JSON"):
            read_dataset(folder.root)
