"""Label tables: what is read, what is left out, and what is said."""

import gzip
import shutil

import numpy as np
import pytest

from cxrlines.core.files import OutputError
from cxrlines.io.audit import audit
from cxrlines.io.rows import TableError
from cxrlines.io.tables import check_own_files, read_dataset, read_labels
from cxrlines.task import LABELS, PATIENT_COLUMN, STUDY_COLUMN


class TestReadLabels:
    def test_the_real_table(self, shared):
        table = read_labels(shared / "ranzcr/train.csv")
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
        with pytest.raises(TableError, match=r"ETT - Abnormal.*ETT-Abnormal"):
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
        said = r"t\.csv: (is empty|its first line is blank|lacks the column|is UTF-16|is not text)"
        with pytest.raises(TableError, match=said):
            read_labels(tmp_path / "t.csv")

    def test_no_file_no_rows(self, tmp_path):
        with pytest.raises(TableError, match="cannot be read"):
            read_labels(tmp_path / "none.csv")
        (tmp_path / "t.csv").write_text(",".join([STUDY_COLUMN, *LABELS, PATIENT_COLUMN]))
        with pytest.raises(TableError, match="no row is usable"):
            read_labels(tmp_path / "t.csv")

    def test_an_unusable_row_takes_no_usable_one_of_its_study_with_it(self, folder):
        folder.rows[4] = list(folder.rows[3])
        folder.rows[5] = list(folder.rows[3])
        folder.set_label(3, LABELS[0], "x")
        table = read_labels(folder.write() / "train.csv")
        assert table["study"].tolist().count("s003") == 1 and len(table) == 10
        assert table.attrs["left_out"] == {"label not 0 or 1": 1, "study in two rows": 1}
        (twice,) = (problem for problem in audit(folder.root).problems if problem.kind == "study in two rows")
        assert twice.row == 7 and "already in line 6" in twice.message

    def test_rows_are_counted_not_cells(self, folder, capsys):
        for row in range(4):
            for label in LABELS:
                folder.set_label(row, label, "x")
        folder.rows[0][-1] = ""
        table = read_labels(folder.write() / "train.csv")
        assert len(table) == 8 and "4 of 12 rows left out" in capsys.readouterr().err
        assert table.attrs["left_out"] == {"row of no patient": 1, "label not 0 or 1": 3}
        assert read_dataset(folder.root).left_out["label not 0 or 1"] == 3

    def test_a_placeholder_is_no_patient(self, folder, capsys):
        for row in (1, 2, 3):
            folder.rows[row][-1] = "nan"
        table = read_labels(folder.write() / "train.csv")
        assert len(table) == 9 and table.attrs["left_out"] == {"row of no patient": 3}
        assert "PatientID 'nan' stands in several rows" in capsys.readouterr().err
        for row in folder.rows:
            row[-1] = "unknown"
        with pytest.raises(TableError, match="no row is usable") as caught:
            read_labels(folder.write() / "train.csv")
        assert "12 x row of no patient" in caught.value.what

    def test_a_changed_patient_id_is_not_repeated(self, folder, capsys):
        folder.rows[1][-1], folder.rows[2][-1] = "7.7E+18", "7"
        folder.rows[3][-1] = "7.0"
        table = read_labels(folder.write() / "train.csv")
        assert len(table) == 10 and table.attrs["left_out"] == {"id changed by a spreadsheet": 2}
        said = capsys.readouterr().err
        assert "import the column as text" in said and "7.7E+18" not in said

    def test_na_is_a_study_like_any_other(self, folder):
        folder.rows[0][0], folder.rows[1][0], folder.rows[2][0] = "NA", "nan", "007"
        folder.films |= {"NA": folder.films["s000"], "nan": folder.films["s001"], "007": folder.films["s002"]}
        studies = read_dataset(folder.write()).studies
        assert studies["study"].tolist()[:4] == ["NA", "nan", "007", "s003"] and len(studies) == 12

    def test_ids_that_a_spreadsheet_changed_are_named(self, folder):
        long = [f"12826{index:059}" for index in range(3)]
        for row, name in enumerate(long):
            folder.films[name] = folder.films[f"s{row:03}"]
            folder.rows[row][0] = f"{float(name):.4E}"
        dataset = read_dataset(folder.write())
        assert len(dataset.studies) == 9 and dataset.left_out["id changed by a spreadsheet"] == 3
        problems = [p for p in audit(folder.root).problems if p.kind == "id changed by a spreadsheet"]
        assert [problem.row for problem in problems] == [2, 3, 4] and "as text" in problems[0].way_out

    def test_compressed_tables_are_read(self, folder):
        plain = read_labels(folder.write() / "train.csv")
        table = folder.root / "train.csv"
        table.write_bytes(gzip.compress(table.read_bytes()))
        assert read_labels(table).equals(plain)


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
        folder.set_label(0, LABELS[0], "x")
        folder.rows[1][-1] = ""
        folder._table("test_truth.csv", folder.header, folder.rows)
        dataset = read_dataset(root, "test")
        assert dataset.studies["patient"].tolist()[:3] == [folder.rows[0][-1], "s001", folder.rows[2][-1]]
        assert np.isnan(dataset.studies[LABELS[0]]).tolist() == [True, True] + [False] * 10
        assert dataset.left_out == {"label not 0 or 1": 1, "row of no patient": 1}
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
        (root / "other.bmp").write_bytes(b"BM" + bytes(200))
        left_out = {"file that is no film": 1, "BMP image, which is not read; save it as PNG": 1}
        assert read_dataset(root).left_out == left_out

    def test_a_compressed_table_alone_is_not_read_as_a_plain_folder(self, folder):
        table = folder.write() / "train.csv"
        table.rename(folder.root / "train.csv.zip")
        with pytest.raises(TableError, match=r"train\.csv\.zip.*unpack"):
            read_dataset(folder.root)

    def test_a_second_film_of_a_study_is_counted(self, folder):
        root = folder.write()
        shutil.copy(root / "train/s001.png", root / "train/s001.JPG")
        assert read_dataset(root).left_out == {"second film of a study": 1}

    def test_a_folder_of_a_studys_name_is_no_film(self, folder):
        root = folder.write()
        (root / "train/s001.png").unlink()
        (root / "train/s001").mkdir()
        assert read_dataset(root).left_out == {"film missing": 1}

    def test_no_film_at_all_names_what_is_there_instead(self, folder):
        folder.rows = [[f"{int(row[0][1:]) + 1}.0", *row[1:]] for row in folder.rows]
        folder.films = {str(index + 1): film for index, film in enumerate(folder.films.values())}
        with pytest.raises(TableError) as caught:
            read_dataset(folder.write())
        assert "'1.png'" in caught.value.what and "as text" in caught.value.way_out

    def test_points_as_shares_of_the_film_are_left_out(self, folder):
        folder.annotations[0][2] = "[[0.5, 0.02], [0.5, 0.3]]"
        folder.annotations[1][2] = "[[-0.01, 0.5], [1.02, 0.31]]"
        dataset = read_dataset(folder.write())
        assert dataset.left_out == {"annotation not in px": 2} and set(dataset.lines) == {"s006", "s009"}

    def test_links_are_counted_and_not_followed(self, folder, tmp_path):
        root = folder.write() / "train"
        (tmp_path / "elsewhere").mkdir()
        shutil.copy(root / "s001.png", tmp_path / "elsewhere/other.png")
        (root / "linked").symlink_to(tmp_path / "elsewhere")
        (root / "circle").symlink_to(root)
        (root / "film.png").symlink_to(tmp_path / "elsewhere/other.png")
        (root / "gone.png").symlink_to(tmp_path / "nowhere")
        dataset = read_dataset(root)
        assert len(dataset.studies) == 13 and "film.png" in set(dataset.studies["study"])
        assert dataset.left_out == {"linked folder (not looked into)": 2, "link to nothing": 1}

    def test_a_folder_that_cannot_be_listed_is_counted_and_the_folder_itself_an_error(self, folder, closed):
        root = folder.write() / "train"
        (root / "shut").mkdir()
        closed(root / "shut")
        dataset = read_dataset(root)
        assert len(dataset.studies) == 12 and dataset.left_out == {"folder that cannot be listed": 1}
        closed(root)
        for place in (root, folder.root):
            with pytest.raises(TableError, match=r"train: cannot be listed \(Permission denied\)") as caught:
                read_dataset(place)
            assert isinstance(caught.value.__cause__, PermissionError)

    def test_a_file_without_suffix_that_cannot_be_opened_may_be_a_film(self, folder, monkeypatch):
        root = folder.write() / "train"
        (root / "IM1").write_bytes(bytes(128) + b"DICM")
        opened = type(root).open

        def refuse(path, *how, **more):
            if path.name == "IM1":
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *how, **more)

        monkeypatch.setattr(type(root), "open", refuse)
        assert "IM1" in set(read_dataset(root).studies["study"])
        assert [problem.file for problem in audit(root).problems] == ["IM1"]

    def test_errors_say_the_way_out(self, tmp_path, folder):
        with pytest.raises(TableError, match="is not a folder"):
            read_dataset(tmp_path / "none")
        (tmp_path / "empty").mkdir()
        with pytest.raises(TableError, match="no films"):
            read_dataset(tmp_path / "empty")
        with pytest.raises(TableError, match=r"sample_submission\.csv.*test"):
            read_dataset(folder.write(), "test")
        (folder.root / "phantom.json").write_bytes(b'\xef\xbb\xbf{"kind": "x"}')  # as some editors save it
        assert read_dataset(folder.root).meta == {"kind": "x"}
        for text in ("{", "[" * 100_000):
            (folder.root / "phantom.json").write_text(text)
            with pytest.raises(TableError, match="JSON"):
                read_dataset(folder.root)


@pytest.mark.parametrize("name", ["train.csv", "Index.csv", "train_annotations.csv", "landmarks.csv", "phantom.json"])
def test_what_people_know_of_films_is_not_replaced_by_results(tmp_path, name):
    check_own_files("--out", tmp_path / name)
    (tmp_path / name).write_text("known")
    with pytest.raises(OutputError, match=rf"--out .*{name}: would replace this file of a data folder; name another"):
        check_own_files("--out", tmp_path / name)
    (tmp_path / "readings.csv").write_text("old")
    check_own_files("--out", tmp_path / "readings.csv")
