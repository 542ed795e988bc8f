"""CSV files row by row: quotes left open, other separators, other encodings; which ids are believed; counts of rows."""

import csv
import gzip
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrlines.io.rows import (
    CHANGED_ID,
    GARBLED_ID,
    MAX_LINE,
    NO_PATIENT,
    Problem,
    TableError,
    check_columns,
    doubted,
    read_rows,
    rows_left_out,
)

HEAD = "study,label,data\n"


def read(tmp_path, text: str, encoding: str = "utf-8"):
    (tmp_path / "t.csv").write_text(text, encoding=encoding)
    return read_rows(tmp_path / "t.csv", ("study", "label"))


class TestOpenQuotes:
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_every_swallowed_line_counts(self, tmp_path, place):
        lines = [[f"s{i}", "CVC", "x"] for i in range(50)]
        lines[10][place] = '"' + lines[10][place]
        rows = read(tmp_path, HEAD + "".join(",".join(line) + "\n" for line in lines))
        assert rows.column("study") == [f"s{i}" for i in range(10)]
        assert [problem.row for problem in rows.problems] == list(range(12, 52))
        said = "lines 12 to 51 are read as one row, as a quote in line 12 is not closed; close or remove it"
        assert rows.problems[0].text() == f"t.csv:12: {said}"

    def test_up_to_the_next_quote_and_no_further(self, tmp_path):
        good = '{},CVC,"[[1, 2], [3, 4]]"\n'
        text = HEAD + good.format("a") + '"b,CVC,x\n' + good.format("c") + good.format("d")
        rows = read(tmp_path, text)
        assert rows.column("study") == ["a", "d"] and [problem.row for problem in rows.problems] == [3, 4]

    def test_more_than_a_cell_can_hold(self, tmp_path):
        rows = read(tmp_path, HEAD + '"a,b,c\n' + "s,CVC,x\n" * 200_000)
        assert len(rows.lines) + len(rows.problems) == 200_001
        assert "a quote in line 2 is not closed" in rows.problems[0].message

    def test_cells_may_be_of_several_lines(self, tmp_path):
        rows = read(tmp_path, HEAD + 'a,CVC,"two\nlines, of text"\nb,CVC,\n')
        assert rows.column("study") == ["a", "b"] and rows.lines == [2, 4] and not rows.problems


class TestLongLines:
    @pytest.mark.parametrize("packed", [False, True])
    def test_a_line_that_no_row_has_is_refused(self, tmp_path, packed):
        data = (HEAD + "s,CVC,x\n" + "a" * (MAX_LINE + 1) + "\n").encode()
        (tmp_path / "t.csv").write_bytes(gzip.compress(data) if packed else data)
        with pytest.raises(TableError, match=r"t\.csv: its line 3 has more than 4,194,304 characters"):
            read_rows(tmp_path / "t.csv", ("study", "label"))

    def test_not_all_of_a_line_is_unpacked(self, tmp_path):
        (tmp_path / "t.csv").write_bytes(gzip.compress(b"a" * 16 * MAX_LINE))
        tracemalloc.start()
        with pytest.raises(TableError, match="its line 1 has"):
            read_rows(tmp_path / "t.csv", ("study", "label"))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 8 * MAX_LINE


class TestOtherFormats:
    @pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs")])
    def test_other_separators_are_named(self, tmp_path, mark, name):
        with pytest.raises(TableError, match=f"{name}.*commas.*CSV"):
            read(tmp_path, (HEAD + "a,b,c\n").replace(",", mark))

    @pytest.mark.parametrize(
        ("content", "what", "way_out"),
        [
            (b"sep=;\nstudy;label\na;b\n", "first line is 'sep=;'", "remove that line"),
            (b'"sep=,"\nstudy,label\na,b\n', "first line", "remove that line"),
            (b'"study,label"\n"a,b"\n', "in quotes", "remove them"),
            (b"study|label\na|b\n", "separated by bars", "comma delimited"),
            ("study,label\na,b\n".encode("utf-16-le"), "zero bytes", "UTF-8"),
            (b"PK\x03\x04" + b"\0" * 60, "ZIP archive or an Excel workbook", "unpack it"),
            (b"\xd0\xcf\x11\xe0" + b"\0" * 60, "an Excel workbook", "save it as CSV"),
            (b"PAR1" + b"\0" * 60, "a Parquet file", "write it as CSV"),
            (b'{"study": ["a"]}', "is JSON", "write it as CSV"),
            (b"\x1f\x8bjunk", "cannot be unpacked", "again"),
        ],
    )
    def test_what_is_no_csv_table_is_named(self, tmp_path, content, what, way_out):
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(TableError) as caught:
            read_rows(tmp_path / "t.csv", ("study", "label"))
        assert caught.value.what.startswith(f"{tmp_path}/t.csv: ") and what in caught.value.what
        assert way_out in caught.value.way_out

    def test_gzip_is_read_whatever_the_name(self, tmp_path):
        content = (HEAD + "a,CVC,x\n").encode()
        (tmp_path / "t.csv").write_bytes(gzip.compress(content))
        rows = read_rows(tmp_path / "t.csv", ("study", "label"))
        assert rows.column("study") == ["a"] and rows.lines == [2]
        (tmp_path / "t.csv").write_bytes(gzip.compress(content * 9999)[:-20])
        with pytest.raises(TableError, match="cannot be unpacked"):
            read_rows(tmp_path / "t.csv", ("study", "label"))

    def test_marks_that_show_nothing_are_no_part_of_a_cell(self, tmp_path):
        rows = read(tmp_path, "\ufeff\ufeffstudy,label\n\u200ba\xa0, CVC \n\ufeff NA ,007\n")
        assert rows.columns == ["study", "label"] and rows.fields == [("a", "CVC"), ("NA", "007")]

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
    def test_utf_16_is_named(self, tmp_path, encoding):
        with pytest.raises(TableError, match=r"UTF-16.*UTF-8"):
            read(tmp_path, "\ufeff" * (encoding == "utf-16-be") + HEAD, encoding)


class TestColumns:
    def test_of_a_table_without_a_header_no_cell_is_quoted(self, tmp_path):
        for first in ("img001,Doe^Jane\n", "img001,Doe^Jane,Studie Meier\n", "Study Lable Miller,Labelle\n"):
            with pytest.raises(TableError, match="lacks the column") as caught:
                read(tmp_path, first + "img002,Roe^Jim\n")
            said = str(caught.value)
            assert "first line is not a known header" in said and "a table needs study, label" in said
            assert not any(cell in said for cell in first.strip().split(","))

    def test_of_one_with_a_header_the_names_it_may_mean_are(self, tmp_path):
        for header, said in (
            ("study,device", "'label' (its other columns: 'device')"),
            ("study,lable", "'label' (did you mean 'lable'?)"),
            ("Study,Label", "'study' (did you mean 'Study'?), 'label' (did you mean 'Label'?)"),
        ):
            with pytest.raises(TableError) as caught:
                read(tmp_path, header + "\ns,CVC\n")
            assert said in str(caught.value)

    def test_optional_ones_are_known_too(self):
        with pytest.raises(TableError, match=r"its other columns: 'view'"):
            check_columns(Path("t.csv"), ["view"], ["study"], ["view"])


class TestHost:
    """The limit of a cell is the csv module's own, for the whole process: it is not changed."""

    @pytest.fixture(params=[100_000, sys.maxsize])
    def limit(self, request):
        before = csv.field_size_limit(request.param)
        yield request.param
        assert csv.field_size_limit(before) == request.param

    def test_never_changes_while_threads_read(self, tmp_path, limit):
        (tmp_path / "t.csv").write_text(HEAD + "a,CVC,some words\n" * 2000)
        seen, ended = {csv.field_size_limit()}, threading.Event()

        def watch() -> None:
            while not ended.is_set():
                seen.add(csv.field_size_limit())

        watching = threading.Thread(target=watch)
        readers = [threading.Thread(target=read_rows, args=(tmp_path / "t.csv", ("study", "label"))) for _ in range(4)]
        for thread in (watching, *readers):
            thread.start()
        for thread in readers:
            thread.join()
        ended.set()
        watching.join()
        assert seen == {limit}


class TestIds:
    def test_names_of_nobody_that_stand_in_several_rows_are_no_patients(self):
        for name in ("nan", "NaN", "None", "null", "NA", "unknown", "#N/A", "ANONYMOUS"):
            assert doubted([name, "a", name, "b", name], patients=True) == [NO_PATIENT, "", NO_PATIENT, "", NO_PATIENT]
            assert doubted([name, "a", "b"], patients=True) == ["", "", ""]
            assert doubted([name, "a", name]) == ["", "", ""]

    def test_numbers_that_a_spreadsheet_wrote_are_no_ids(self):
        ids = ["1.2826E+63", "1,2826E+63", "5e+20", "1.2.826.0.1", "12E63", "1e5", "128260", "E+1", "12.0"]
        assert doubted(ids) == [CHANGED_ID] * 3 + [""] * 6
        assert doubted(ids, patients=True) == [CHANGED_ID] * 3 + [""] * 6

    def test_a_patient_in_two_spellings(self):
        assert doubted(["12", "12.0", "13.0", "12.1"], patients=True) == ["", CHANGED_ID, "", ""]
        assert doubted(["12", "12.0"]) == ["", ""]

    def test_letters_that_were_lost(self):
        assert doubted(["M\ufffdller", "Müller"]) == [GARBLED_ID, ""]

    @given(
        st.lists(st.from_regex(r"[0-9a-f]{32}", fullmatch=True) | st.from_regex(r"1(\.[0-9]{1,9}){5}", fullmatch=True))
    )
    def test_hashes_and_uids_are_believed(self, ids):
        assert not any(doubted(ids)) and not any(doubted(ids, patients=True))


def test_rows_are_counted_not_their_problems():
    def problem(kind, row, file="a.csv"):
        return Problem(kind, file, row, f"{kind} {row}", "")

    found = [problem("x", 2), problem("y", 2), problem("x", 2), problem("y", 3), problem("y", 3, "b.csv")]
    found += [problem("z", None), problem("z", None, "b.csv")]
    assert rows_left_out(found) == {"x": 1, "y": 2, "z": 2}


@pytest.mark.parametrize("text", ["\n", "\r\n", " \n"])
def test_a_blank_first_line_is_named(tmp_path, text):
    (tmp_path / "t.csv").write_text(f"{text}a,b\n1,2\n")
    with pytest.raises(TableError, match=r"t\.csv: its first line is blank; remove it"):
        read_rows(tmp_path / "t.csv", ("a",))
