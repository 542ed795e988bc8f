"""External folders: what is found in the layouts they come in, and what is said where something is missing."""

import gzip

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrlines.io.external.layouts import PRESENCE
from cxrlines.io.external.sets import KINDS, read_external
from cxrlines.io.rows import TableError
from cxrlines.task import LABELS, LABELS_OF, Device

NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
)
NIH_ROWS = "".join(f"{i:08}_000.png,No Finding,0,{i},5{i},M,PA,2682,2749,0.1,0.1\n" for i in range(4))
PADCHEST = "ImageID,ImageDir,PatientID,Projection,Pediatric,Labels\n"
PADCHEST_ROWS = "a_1.png,0,p1,PA,No,['normal']\nb_2.png,54,p2,AP_horizontal,No,['NSG tube']\n"
VINBIGDATA = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
VINBIGDATA_ROWS = "a.b,No finding,14,R1,,,,\nc,No finding,14,R1,,,,\na.b,No finding,14,R2,,,,\n"
CHEXPERT = "Path,Sex,Age,Frontal/Lateral,AP/PA,Support Devices\n"
CHEXPERT_FILMS = [f"patient0000{i}/study1/view1_frontal.jpg" for i in (1, 2)]
CHEXPERT_ROWS = "".join(f"CheXpert-v1.0/train/{film},Male,60,Frontal,AP,1.0\n" for film in CHEXPERT_FILMS)
PADCHEST_TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"

SETS = {
    "nih": ("Data_Entry_2017_v2020.csv", NIH + NIH_ROWS, [f"{i:08}_000.png" for i in range(4)]),
    "padchest": (PADCHEST_TABLE, PADCHEST + PADCHEST_ROWS, ["a_1.png", "b_2.png"]),
    "vinbigdata": ("train.csv", VINBIGDATA + VINBIGDATA_ROWS, ["a.b.dicom", "c.dicom"]),
    "chexpert": ("train.csv", CHEXPERT + CHEXPERT_ROWS, CHEXPERT_FILMS),
}


@pytest.fixture
def make(tmp_path):
    """Lay out a set: its table, and empty files as films."""

    def made(kind, films, table=None, content=None):
        root = tmp_path / "set"
        place = root / (table or SETS[kind][0])
        place.parent.mkdir(parents=True, exist_ok=True)
        text = (content or SETS[kind][1]).encode()
        place.write_bytes(gzip.compress(text) if place.suffix == ".gz" else text)
        for film in films:
            (root / film).parent.mkdir(parents=True, exist_ok=True)
            (root / film).touch()
        return root

    return made


def films_of(external):
    return [str(film) for film in external.studies["film"]]


def without_films(studies):
    return studies.assign(film=pd.Series([""] * len(studies), dtype=object))


class TestLayouts:
    @pytest.mark.parametrize(
        ("kind", "table", "films"),
        [
            ("nih", None, [f"images_{i + 1:03}/images/{i:08}_000.png" for i in range(4)]),
            ("nih", "Data_Entry_2017.csv", [f"images/{i:08}_000.png" for i in range(4)]),
            ("nih", "Data_Entry_2017_v2020.csv.gz", [f"images_00{i + 1}/{i:08}_000.png" for i in range(4)]),
            ("nih", None, [f"{i:08}_000.jpg" for i in range(4)]),
            ("padchest", None, ["0/a_1.png", "54/b_2.png"]),
            ("padchest", PADCHEST_TABLE + ".gz", ["a_1.png", "b_2.png"]),
            ("padchest", "chosen.csv", ["images/0/a_1.png", "images/54/b_2.png"]),
            ("vinbigdata", None, ["train/a.b.dicom", "train/c.dicom"]),
            ("vinbigdata", "train.csv.gz", ["train/a.b.png", "train/c.jpg"]),
            ("vinbigdata", None, ["train/a.b", "train/c.dcm"]),
            ("chexpert", None, [f"train/{film}" for film in CHEXPERT_FILMS]),
            ("chexpert", None, CHEXPERT_FILMS),
            ("chexpert", "CheXpert-v1.0-small/train.csv", [f"CheXpert-v1.0-small/train/{f}" for f in CHEXPERT_FILMS]),
            ("chexpert", None, [f"CheXpert-v1.0-small/train/{film}" for film in CHEXPERT_FILMS]),
            (
                "chexpert",
                "CheXpert-v1.0 batch 1 (validate & csv)/train.csv",
                [f"CheXpert-v1.0 batch {i + 2} (train {i + 1})/{film}" for i, film in enumerate(CHEXPERT_FILMS)],
            ),
        ],
    )
    def test_films_are_found(self, make, kind, table, films):
        root = make(kind, films, table)
        external = read_external(root)
        assert (external.kind, external.root, external.left_out) == (kind, root.resolve(), {})
        assert films_of(external) == [str(root.resolve() / film) for film in films]
        assert external.studies.columns.tolist() == ["study", "patient", "film", "view", *PRESENCE]
        assert external.studies.index.equals(pd.RangeIndex(len(films)))

    def test_the_table_alone_gives_the_same_without_films(self, make):
        for kind, (table, _, films) in SETS.items():
            root = make(kind, [f"train/{film}" for film in films] if kind == "chexpert" else films)
            whole, alone = read_external(root), read_external(root, check_films=False)
            pd.testing.assert_frame_equal(without_films(whole.studies), alone.studies)
            assert (alone.kind, alone.root) == (kind, root.resolve())
            (root / table).unlink()

    def test_of_two_films_the_authors_folder_and_name_win(self, make):
        films = [f"images_001/images/{i:08}_000.png" for i in range(4)]
        copies = ["00000000_000.png", "images/00000001_000.png", "images_001/images/00000002_000.jpg"]
        assert [f.rsplit("/set/")[1] for f in films_of(read_external(make("nih", films + copies)))] == films

    def test_the_newer_of_two_nih_tables(self, make):
        make("nih", [], "Data_Entry_2017.csv", NIH + NIH_ROWS.replace("PA", "AP"))
        root = make("nih", [f"images/{i:08}_000.png" for i in range(4)])
        assert read_external(root).studies["view"].tolist() == ["PA"] * 4

    def test_archives_and_other_tables_beside_the_films_do_not_matter(self, make):
        root = make("padchest", ["0/a_1.png", "54/b_2.png", "0.zip", "54.zip"], "mine.csv")
        (root / "broken.csv.gz").write_bytes(b"\x1f\x8bjunk")
        (root / "another.csv").write_text("a,b\n1,2\n")
        assert read_external(root).kind == "padchest"

    def test_presence_and_views_of_padchest(self, make):
        studies = read_external(make("padchest", ["0/a_1.png", "54/b_2.png"])).studies
        assert studies["NGT"].tolist() == [0, 1] and studies["view"].tolist() == ["PA", "AP"]


class TestFilmsMissing:
    def test_some(self, make):
        external = read_external(make("nih", ["images/00000002_000.png"]))
        assert external.studies["study"].tolist() == ["00000002_000"] and external.left_out == {"film missing": 3}

    def test_a_folder_or_a_dangling_link_is_no_film(self, make):
        root = make("nih", ["images/00000002_000.png", "images/00000001_000.png/inside"])
        (root / "images/00000003_000.png").symlink_to(root / "nowhere")
        assert read_external(root).left_out == {"film missing": 3}

    def test_a_link_that_leads_in_a_circle_is_no_film(self, make):
        root = make("nih", ["images/00000002_000.png"])
        for name in ("images/00000003_000.png", "images/other"):
            (root / name).symlink_to(root / name)
        assert read_external(root).left_out == {"film missing": 3}

    def test_a_folder_that_cannot_be_listed_is_counted(self, make, closed):
        root = make("chexpert", [f"train/{film}" for film in CHEXPERT_FILMS])
        closed(root / "train/patient00001/study1")
        assert read_external(root).left_out == {"folder that cannot be listed": 1, "film missing": 1}
        closed(root / "train/patient00002/study1")
        with pytest.raises(TableError, match="2 x folder that cannot be listed"):
            read_external(root)
        closed(root)
        with pytest.raises(TableError, match=r"set: cannot be listed \(Permission denied\)"):
            read_external(root)

    def test_none(self, make):
        for kind, (table, _, _) in SETS.items():
            root = make(kind, ["notes.txt"])
            with pytest.raises(TableError, match="films; looked in") as caught:
                read_external(root)
            said = str(caught.value)
            assert f"{root.resolve()}: has {table} but" in said and "unpack the films there" in said
            assert {"nih": "images_*/images", "padchest": "[0-9]*", "vinbigdata": "train",
                    "chexpert": "CheXpert-v1.0*/train/patient*/study*"}[kind] in said  # fmt: skip
            assert not any(film in said for film in SETS[kind][2])
            (root / table).unlink()

    def test_no_table_leads_outside(self, make, tmp_path):
        (tmp_path / "secret.png").touch()
        (tmp_path / "patient00009/study1").mkdir(parents=True)
        (tmp_path / "patient00009/study1/view1_frontal.jpg").touch()
        row = NIH_ROWS.splitlines()[0]
        names = ["../secret.png", str(tmp_path / "secret.png"), "images/../../secret.png", "secret.png"]
        rows = "\n".join((row, *(row.replace("00000000_000.png", name) for name in names)))
        external = read_external(make("nih", ["images/00000000_000.png"], content=NIH + rows))
        assert external.studies["study"].tolist() == ["00000000_000"]
        assert external.left_out == {"film path not of this layout": 3, "film missing": 1}
        (tmp_path / "set/Data_Entry_2017_v2020.csv").unlink()
        row = CHEXPERT_ROWS.splitlines()[0]
        rows = f"{row}\n{row.replace(CHEXPERT_FILMS[0], '../../patient00009/study1/view1_frontal.jpg')}"
        external = read_external(make("chexpert", [f"train/{CHEXPERT_FILMS[0]}"], content=CHEXPERT + rows))
        assert len(external.studies) == 1 and external.left_out == {"film path not of this layout": 1}


class TestOtherFolders:
    def test_ranzcr(self, folder):
        folder.set_label(0, LABELS_OF[Device.CVC][0], "1")
        external = read_external(folder.write())
        assert external.kind == "ranzcr" and external.left_out == {}
        truth = np.array([row[1:-1] for row in folder.rows], int)
        for device in Device:
            columns = [LABELS.index(label) for label in LABELS_OF[device]]
            assert external.studies[device].tolist() == truth[:, columns].any(axis=1).tolist()
        assert external.studies["any"].tolist() == [1] * 12 and set(external.studies["view"]) == {""}
        assert external.studies["patient"].tolist() == [row[-1] for row in folder.rows]
        alone = read_external(folder.root, check_films=False)
        pd.testing.assert_frame_equal(alone.studies, without_films(external.studies))

    def test_ranzcr_without_any_line(self, folder):
        for label in LABELS:
            folder.set_label(3, label, "0")
        folder.rows[4][-1] = ""
        external = read_external(folder.write())
        assert external.studies.loc[3, list(PRESENCE)].tolist() == [0] * 5
        assert external.left_out == {"row of no patient": 1}

    def test_ranzcr_compressed(self, folder):
        table = folder.write() / "train.csv"
        table.with_name("train.csv.gz").write_bytes(gzip.compress(table.read_bytes()))
        table.unlink()
        with pytest.raises(TableError, match=r"train\.csv\.gz.*RANZCR.*unpack"):
            read_external(folder.root)

    def test_plain(self, tmp_path, noise_film):
        for name in ("b/2.png", "1.jpg"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / name), noise_film(1))
        (tmp_path / "notes.csv").write_text("a,b\n")
        external = read_external(tmp_path)
        assert external.kind == "folder" and external.left_out == {"file that is no film": 1}
        assert external.studies["study"].tolist() == external.studies["patient"].tolist() == ["1.jpg", "b/2.png"]
        assert external.studies[list(PRESENCE)].isna().all(axis=None)

    def test_nothing(self, tmp_path):
        with pytest.raises(TableError, match="not an external set") as caught:
            read_external(tmp_path)
        said = str(caught.value)
        assert all(f"{kind}: " in said for kind in KINDS if kind != "folder")
        assert "Data_Entry_2017*.csv" in said and "give the folder that holds one of them" in said
        with pytest.raises(TableError, match="is not a folder"):
            read_external(tmp_path / "none")

    def test_a_table_of_no_known_set(self, tmp_path):
        (tmp_path / "train.csv").write_text("id,label\n1,2\n")
        with pytest.raises(TableError, match=r"train\.csv.*nih: Image Index") as caught:
            read_external(tmp_path)
        assert "ranzcr: StudyInstanceUID" in str(caught.value)


@pytest.mark.long
def test_films_of_a_whole_set_are_found(tmp_path, shared):
    table = shared / "external/Data_Entry_2017_v2020.csv.gz"
    (tmp_path / table.name).write_bytes(table.read_bytes())
    names = pd.read_csv(table, dtype=str, index_col=False, usecols=["Image Index"])["Image Index"]
    for place, name in enumerate(names):
        folder = tmp_path / f"images_{1 + place // 10_000:03}/images"
        if place % 10_000 == 0:
            folder.mkdir(parents=True)
        (folder / name).touch()
    external = read_external(tmp_path)
    assert len(external.studies) == 106_718 and external.left_out == {"child": 5_402}


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_table_of_other_marks_than_commas_is_named_so(make, mark, name):
    for kind, (table, text, films) in SETS.items():
        for place in {table, "mine.csv"} if kind in ("nih", "padchest") else {table}:
            root = make(kind, films, place, text.replace(",", mark))
            with pytest.raises(TableError, match=rf"{place}: its cells are separated by {name}, not commas"):
                read_external(root)
            (root / place).unlink()


def test_nih_under_another_name_keeps_its_patients(make):
    films = SETS["nih"][2]
    root = make("nih", films, "sample_labels.csv", (NIH + NIH_ROWS).replace("[Width,Height]", "Width,Height"))
    (root / "BBox_List_2017.csv").write_text("Image Index,Finding Label,Bbox [x\n")
    external = read_external(root)
    assert external.kind == "nih" and external.studies["patient"].tolist() == ["0", "1", "2", "3"]
    (root / "part.csv").write_text(NIH + NIH_ROWS)
    with pytest.raises(
        TableError, match=r"has 2 tables that .* may be read from: part\.csv, sample_labels\.csv; leave"
    ):
        read_external(root)


def test_padchest_under_another_name_says_which_column_it_lacks(make):
    _, text, films = SETS["padchest"]
    root = make("padchest", films, "mine.csv", text.replace("Pediatric", "Child"))
    with pytest.raises(TableError, match=r"mine\.csv.* lacks the column 'Pediatric'"):
        read_external(root)
