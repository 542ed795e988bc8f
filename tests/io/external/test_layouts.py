"""Tables of external sets: the real ones whole, and the ways in which they differ from copy to copy."""

import ast
import csv
import gzip
import re
from functools import cache

import numpy as np
import pandas as pd
import pytest

from cxrlines.io.external.layouts import LAYOUTS, PRESENCE, padchest_presence, read_header, usable
from cxrlines.io.rows import TableError

NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
CHEXPERT = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Support Devices"
PADCHEST = ",ImageID,ImageDir,StudyDate_DICOM,PatientID,PatientBirth,Projection,Pediatric,MethodLabel,Labels"
TABLES = {
    "nih": "Data_Entry_2017_v2020.csv.gz",
    "vinbigdata": "vinbigdata-train.csv.gz",
    "chexpert": "chexpert_train.csv.gz",
    "padchest": "padchest_sample.csv.gz",
}


def read(path, kind, laterals=False, children=False):
    studies, left_out = usable(path, LAYOUTS[kind], laterals=laterals, children=children)
    return studies, dict(left_out)


def nih_row(film="00000001_000.png", patient="1", age="57", view="PA"):
    return f"{film},No Finding,0,{patient},{age},M,{view},2682,2749,0.143,0.143"


def chexpert_row(path="CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg", age="68", side="Frontal",
                 view="AP", devices=""):  # fmt: skip
    return f"{path},Male,{age},{side},{view},,{devices}"


def padchest_row(film="a_1.png", patient="p", birth="1956.0", view="PA", child="No", labels="['normal']"):
    return f'0,{film},3,20150527,{patient},{birth},{view},{child},Physician,"{labels}"'


@pytest.fixture
def write(tmp_path):
    def written(header, *rows, name="t.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes("\n".join((header, *rows, "")).encode(encoding))
        return path

    return written


@pytest.fixture(scope="module")
def real(shared):
    """Each real table read once: its path, the rows, and what is left out."""

    @cache
    def read_once(kind):
        path = shared / "external" / TABLES[kind]
        return path, *read(path, kind)

    return read_once


class TestRealTables:
    """Figures counted from the tables by pandas, row by row, without this reader."""

    @pytest.mark.parametrize(
        ("kind", "rows", "left_out"),
        [
            ("nih", 106_718, {"child": 5_402}),
            ("vinbigdata", 15_000, {}),
            ("chexpert", 191_007, {"lateral view": 32_387, "view not frontal or not known": 17, "child": 3}),
            ("padchest", 5_984, {"lateral view": 1_655, "view not frontal or not known": 20, "child": 341}),
        ],
    )
    def test_every_row_is_used_or_counted(self, real, kind, rows, left_out):
        path, studies, counted = real(kind)
        assert (len(studies), counted) == (rows, left_out)
        assert studies["study"].is_unique and studies.index.equals(pd.RangeIndex(rows))
        assert (studies[["study", "patient", "film"]] != "").all(axis=None)
        names = pd.read_csv(path, dtype=str, index_col=False, usecols=[LAYOUTS[kind].mark[0]]).iloc[:, 0]
        assert rows + sum(left_out.values()) == (names.nunique() if kind == "vinbigdata" else len(names))

    def test_laterals_and_children_on_request(self, shared):
        studies, left_out = read(shared / "external" / TABLES["padchest"], "padchest", laterals=True, children=True)
        assert left_out == {"view not frontal or not known": 20} and len(studies) == 7_980
        assert studies["view"].value_counts().to_dict() == {"AP": 674 + 2_579, "PA": 3_072, "L": 1_655}

    def test_support_devices(self, real):
        path, studies, _ = real("chexpert")
        names = ["Path", "Age", "Frontal/Lateral", "AP/PA", "Support Devices"]
        whole = pd.read_csv(path, usecols=names)
        whole = whole[whole["AP/PA"].isin(["AP", "PA"]) & (whole["Age"] >= 18)]
        expected = whole["Support Devices"].replace(-1, np.nan)
        assert expected.notna().sum() > 100_000
        assert np.array_equal(studies["any"], expected, equal_nan=True)
        assert studies["view"].tolist() == whole["AP/PA"].tolist()
        assert whole["Path"].str.contains(studies["patient"].iloc[-1]).iloc[-1]

    def test_padchest_labels_agree_with_a_python_reader(self, shared):
        path = shared / "external" / TABLES["padchest"]
        studies, _ = read(path, "padchest", laterals=True, children=True)
        whole = pd.read_csv(path, dtype=str).set_index("ImageID").loc[studies["film"]]
        said = [
            {label.strip().lower() for label in ast.literal_eval(cell)} if isinstance(cell, str) else set()
            for cell in whole["Labels"]
        ]
        silent = np.array([not labels - {"", "exclude", "unchanged", "suboptimal study"} for labels in said])
        for device, word in (("ETT", "endotracheal"), ("NGT", "nsg tube"), ("CVC", "central venous")):
            there = np.array([any(word in label for label in labels) for labels in said])
            assert there.sum() > 100
            assert np.array_equal(studies[device] == 1, there)
            assert not studies[device][silent].notna().any()
        # Whatever else is called a tube, drain or catheter is counted as one: no spelling is missed.
        some = np.array([any(re.search(r"\btube\b|catheter|drain", x) for x in labels) for labels in said])
        assert np.array_equal(studies["any"] == 1, some)
        assert np.array_equal(studies["any"].isna(), silent)

    def test_most_minors_of_padchest_are_not_marked_so(self, shared, real):
        path = shared / "external" / TABLES["padchest"]
        whole = pd.read_csv(path, dtype=str).set_index("ImageID")
        years = whole["StudyDate_DICOM"].str[:4].astype(float) - whole["PatientBirth"].astype(float)
        kept = real("padchest")[1]["film"]
        assert years[kept].min() >= 18 and (whole.loc[kept, "Pediatric"] == "No").all()
        assert (years[whole["Pediatric"] == "No"] < 18).sum() == 332


class TestNih:
    @pytest.mark.parametrize(
        "header",
        [
            NIH,
            NIH + ",",
            NIH.replace("OriginalImage[Width,Height]", '"OriginalImage[Width,Height]"').replace(
                "OriginalImagePixelSpacing[x,y]", '"OriginalImagePixelSpacing[x,y]"'
            ),
            "\ufeff" + NIH,
        ],
        ids=["v2020", "trailing comma", "quoted", "byte order mark"],
    )
    @pytest.mark.parametrize("end", ["", ","])
    def test_every_header_gives_the_same(self, write, header, end):
        path = write(header, nih_row() + end, nih_row("00000002_000.png", "2", view="AP") + end)
        studies, left_out = read(path, "nih")
        assert studies[["study", "patient", "film", "view"]].to_numpy().tolist() == [
            ["00000001_000", "1", "00000001_000.png", "PA"],
            ["00000002_000", "2", "00000002_000.png", "AP"],
        ]
        assert studies[list(PRESENCE)].isna().all(axis=None) and left_out == {}

    def test_rows_with_quoted_pairs_too(self, write):
        row = '00000001_000.png,No Finding,0,1,57,M,PA,"2682,2749","0.143,0.143"'
        assert len(read(write(NIH.replace("OriginalImage[Width,Height]", '"OriginalImage[Width,Height]"').replace(
            "OriginalImagePixelSpacing[x,y]", '"OriginalImagePixelSpacing[x,y]"'), row), "nih")[0]) == 1  # fmt: skip

    def test_ages(self, write):
        ages = {"057Y": True, "17": False, "017Y": False, "18": True, "011M": False, "220M": True, "005D": False,
                "411": True, "414Y": True, "": True, "old": True, "57.0": True}  # fmt: skip
        path = write(NIH, *(nih_row(f"{i:08}_000.png", str(i), age) for i, age in enumerate(ages)))
        studies, left_out = read(path, "nih")
        kept = [age for i, age in enumerate(ages) if f"{i:08}_000" in set(studies["study"])]
        assert kept == [age for age, stays in ages.items() if stays]
        assert left_out == {"child": 4}
        assert len(read(path, "nih", children=True)[0]) == len(ages)

    def test_placeholders_and_changed_ids(self, write):
        path = write(
            NIH,
            nih_row("a.png", "nan"),
            nih_row("b.png", "nan"),
            nih_row("c.png", "1.28E+20"),
            nih_row("1.28E+20", "5"),
            nih_row("nan.png", "6"),
            nih_row("d.png", "None"),
        )
        studies, left_out = read(path, "nih")
        assert studies["study"].tolist() == ["nan", "d"]
        assert left_out == {"row of no patient": 2, "id changed by a spreadsheet": 2}

    def test_rows_left_out_are_counted_by_reason(self, write):
        path = write(
            NIH,
            nih_row(),
            nih_row(view="AP"),
            nih_row(""),
            nih_row("b.png", patient=""),
            nih_row("c.png", view=""),
            nih_row("d.png", view="L"),
            nih_row("../../etc/passwd"),
            nih_row("/etc/passwd"),
            nih_row("..\\x.png"),
            nih_row(".."),
            "e.png,No Finding,0",
            nih_row("f.png") + ",more",
            "",
            'g.png,"No Finding,0,1,57',
        )
        studies, left_out = read(path, "nih")
        assert studies["study"].tolist() == ["00000001_000"] and studies["view"].tolist() == ["PA"]
        assert left_out == {
            "study in two rows": 1,
            "row without a study": 1,
            "row of no patient": 1,
            "view not frontal or not known": 1,
            "lateral view": 1,
            "film path not of this layout": 4,
            "row of another length": 2,
            "row not readable": 1,
        }

    def test_an_unusable_row_takes_no_usable_one_of_its_film_with_it(self, write):
        rows = [nih_row(patient=""), nih_row(), nih_row(), nih_row("b.png", view="L"), nih_row("b.png")]
        studies, left_out = read(write(NIH, *rows), "nih")
        assert studies["study"].tolist() == ["00000001_000"]
        # Of a film said to be lateral the first row stays too: which view is true is not guessed.
        assert left_out == {"row of no patient": 1, "study in two rows": 2, "lateral view": 1}

    def test_a_quote_left_open_does_not_swallow_rows_uncounted(self, write):
        rows = [nih_row(f"{i:08}_000.png", str(i)) for i in range(20)]
        rows[5] = rows[5].replace("No Finding", '"No Finding')
        rows[9] = rows[9].replace("No Finding", '"No Finding"')
        studies, left_out = read(write(NIH, *rows), "nih")
        assert len(studies) + sum(left_out.values()) == 20 and left_out == {"row not readable": 5}


class TestVinBigData:
    def test_a_row_a_film(self, write):
        rows = ["x,Cardiomegaly,3,R10,691,1375,1653,1831", "y,No finding,14,R1,,,,", "x,No finding,14,R2,,,,"]
        path = write("image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max", *rows)
        studies, left_out = read(path, "vinbigdata")
        assert studies["study"].tolist() == studies["patient"].tolist() == ["x", "y"] and left_out == {}
        assert studies[list(PRESENCE)].isna().all(axis=None)


class TestChexpert:
    def test_study_patient_view_and_devices(self, write):
        at = "CheXpert-v1.0/train/patient0000{}/study{}/view{}.jpg"
        path = write(
            CHEXPERT,
            chexpert_row(at.format(1, 1, "1_frontal"), devices="1.0"),
            chexpert_row(at.format(1, 2, "1_frontal"), view="PA", devices="0.0"),
            chexpert_row(at.format(1, 2, "2_lateral"), side="Lateral", view="", devices="1.0"),
            chexpert_row(at.format(2, 1, "1_frontal"), view="", devices="-1.0"),
            chexpert_row(at.format(3, 1, "1_frontal"), view="LL"),
            chexpert_row(at.format(4, 1, "1_frontal"), age="17"),
            chexpert_row("train/patient00005/study1/view1_frontal.jpg", view="PA"),
        )
        studies, left_out = read(path, "chexpert")
        assert studies["study"].tolist() == [
            "patient00001/study1/view1_frontal",
            "patient00001/study2/view1_frontal",
            "patient00002/study1/view1_frontal",
            "patient00005/study1/view1_frontal",
        ]
        assert studies["patient"].tolist() == ["patient00001", "patient00001", "patient00002", "patient00005"]
        assert studies["view"].tolist() == ["AP", "PA", "", "PA"]
        assert np.array_equal(studies["any"], [1, 0, np.nan, np.nan], equal_nan=True)
        assert studies[["ETT", "NGT", "CVC", "Swan Ganz Catheter"]].isna().all(axis=None)
        assert left_out == {"lateral view": 1, "view not frontal or not known": 1, "child": 1}
        more = read(path, "chexpert", laterals=True, children=True)[0]
        assert len(more) == 6 and more["view"].tolist()[2] == "L"

    @pytest.mark.parametrize(
        "path",
        [
            "../../etc/passwd",
            "/patient00009/study1/view1_frontal.jpg",
            "CheXpert-v1.0/../train/patient00009/study1/view1_frontal.jpg",
            "CheXpert-v1.0/train/patient00009/../view1_frontal.jpg",
            "CheXpert-v1.0/train/patient00009/study1/..",
            "CheXpert-v1.0\\train\\patient00009/study1/view1_frontal.jpg",
            "view1_frontal.jpg",
        ],
    )
    def test_paths_of_another_kind(self, write, path):
        studies, left_out = read(write(CHEXPERT, chexpert_row(), chexpert_row(path)), "chexpert")
        assert len(studies) == 1 and left_out == {"film path not of this layout": 1}


class TestPadchest:
    @pytest.mark.parametrize(
        ("labels", "ett", "ngt", "cvc", "some"),
        [
            ("['endotracheal tube', ' NSG tube']", 1, 1, 0, 1),
            ("['Endotracheal tube ']", 1, 0, 0, 1),
            ("['central venous catheter via jugular vein']", 0, 0, 1, 1),
            ("['central venous catheter']", 0, 0, 1, 1),
            ("['reservoir central venous catheter', 'catheter']", 0, 0, 1, 1),
            ("['catheter']", 0, 0, None, 1),
            ("['tracheostomy tube']", 0, 0, 0, 1),
            ("['tracheostomy tube', 'endotracheal tube']", 1, 0, 0, 1),
            ("['chest drain tube', 'pacemaker']", 0, 0, 0, 1),
            ("['pacemaker', 'dual chamber device']", 0, 0, 0, 0),
            ("['normal']", 0, 0, 0, 0),
            ("['unchanged', 'normal', '']", 0, 0, 0, 0),
            ("['unchanged', ' ']", None, None, None, None),
            ("['exclude']", None, None, None, None),
            ("[nan]", None, None, None, None),
            ("[]", None, None, None, None),
            ("nan", None, None, None, None),
            ("", None, None, None, None),
            ("__import__('os').getcwd()", None, None, None, None),
        ],
    )
    def test_presence(self, labels, ett, ngt, cvc, some):
        expected = [np.nan if x is None else x for x in (ett, ngt, cvc, None, some)]
        assert np.array_equal(padchest_presence(labels), expected, equal_nan=True)

    def test_views_and_children(self, write):
        path = write(
            PADCHEST,
            padchest_row("a.b_1.png", view="AP_horizontal"),
            padchest_row("b.png", view="L"),
            padchest_row("c.png", view="COSTAL"),
            padchest_row("d.png", view="EXCLUDE"),
            padchest_row("e.png", view=""),
            padchest_row("f.png", child="PED"),
            padchest_row("g.png", birth="1998.0"),
            padchest_row("h.png", birth="1997.0"),
            padchest_row("i.png", birth=""),
            padchest_row("j.png", birth="2051.0"),
        )
        studies, left_out = read(path, "padchest")
        assert studies["study"].tolist() == ["a.b_1", "h", "i", "j"]
        assert studies["view"].tolist() == ["AP", "PA", "PA", "PA"]
        assert left_out == {"lateral view": 1, "view not frontal or not known": 3, "child": 2}

    def test_a_cell_over_several_lines(self, write):
        studies, left_out = read(write(PADCHEST, padchest_row(labels="['nsg\n tube',\n 'NSG tube']")), "padchest")
        assert studies["NGT"].tolist() == [1] and left_out == {}

    def test_without_years_of_birth(self, write):
        header = PADCHEST.replace(",PatientBirth", "")
        row = padchest_row(birth="x").replace("x,", "", 1)
        assert len(read(write(header, row), "padchest")[0]) == 1


class TestAnyTable:
    def test_compressed_or_not_and_whatever_its_name(self, write, tmp_path):
        plain = write(NIH, nih_row(), nih_row("b.png", "2"))
        expected = read(plain, "nih")[0]
        for name in ("t.csv.gz", "odd.csv"):
            (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
            pd.testing.assert_frame_equal(read(tmp_path / name, "nih")[0], expected)
        plain.rename(tmp_path / "u.csv.gz")
        pd.testing.assert_frame_equal(read(tmp_path / "u.csv.gz", "nih")[0], expected)

    def test_order_of_columns_and_rows(self, write):
        rows = [nih_row(f"{i}.png", str(i % 3), str(10 * i), ("AP", "PA", "L")[i % 3]) for i in range(9)]
        plain, left_out = read(write(NIH, *rows), "nih")
        cells = [row.split(",")[::-1] for row in (NIH.replace("[Width,Height]", "W,H"), *rows[::-1])]
        turned, also = read(write(*(",".join(row) for row in cells), name="u.csv"), "nih")
        pd.testing.assert_frame_equal(turned.iloc[::-1].reset_index(drop=True), plain)
        assert also == left_out

    def test_dtypes(self, write):
        studies = read(write(NIH, nih_row()), "nih")[0]
        assert studies.columns.tolist() == ["study", "patient", "film", "view", *PRESENCE]
        assert set(studies[list(PRESENCE)].dtypes) == {np.dtype(np.float32)}
        assert all(isinstance(cell, str) for cell in studies.iloc[0, :4])

    @pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00", b"\0" * 100, b'"' * 999, bytes(range(256)) * 9])
    def test_what_is_no_table(self, tmp_path, content):
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(
            TableError,
            match=r"t\.csv: (is empty|its first line is blank|lacks the columns 'Image Index'|is UTF-16|is not text)",
        ):
            read(tmp_path / "t.csv", "nih")

    def test_no_file_and_no_archive(self, tmp_path):
        with pytest.raises(TableError, match=r"none\.csv.*No such file or directory"):
            read_header(tmp_path / "none.csv")
        whole = gzip.compress("\n".join((NIH, *(nih_row(f"{i}.png") for i in range(5000)))).encode())
        for name, content in (("cut", whole[:-500]), ("bad", whole[:2000] + b"\xff" * 99), ("junk", b"\x1f\x8bjunk")):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(TableError, match="damaged"):
                read(tmp_path / name, "nih")

    def test_a_column_missing_or_no_row_left(self, write):
        with pytest.raises(TableError, match=r"'Patient Age'.*'Patient age'"):
            read(write(NIH.replace("Patient Age", "Patient age"), nih_row()), "nih")
        with pytest.raises(TableError, match=r"no row is usable.*no rows"):
            read(write(NIH), "nih")
        with pytest.raises(TableError, match="1 x lateral view, 1 x child"):
            read(write(NIH, nih_row(view="L"), nih_row("b.png", age="3")), "nih")

    def test_a_field_too_long_costs_its_own_row(self, write):
        studies, left_out = read(write(NIH, nih_row("x" * (csv.field_size_limit() + 1)), nih_row()), "nih")
        assert len(studies) == 1 and left_out == {"row not readable": 1}
