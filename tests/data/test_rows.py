"""CSV files row by row: quotes left open, other separators, other encodings."""

import pytest

from cxrlines.data.rows import TableError, read_rows

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


class TestOtherFormats:
    @pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs")])
    def test_other_separators_are_named(self, tmp_path, mark, name):
        with pytest.raises(TableError, match=f"separated by {name}, not commas; save it as CSV UTF-8"):
            read(tmp_path, (HEAD + "a,b,c\n").replace(",", mark))

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
    def test_utf_16_is_named(self, tmp_path, encoding):
        with pytest.raises(TableError, match="is UTF-16, not UTF-8; save it as CSV UTF-8"):
            read(tmp_path, "\ufeff" * (encoding == "utf-16-be") + HEAD, encoding)
