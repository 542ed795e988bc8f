"""Files written whole or not at all, under names that do not collide."""

import errno
import itertools
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrlines.core import files
from cxrlines.core.files import (
    MAX_NAME,
    SAFETENSORS,
    OutputError,
    beside,
    check_ending,
    check_outputs,
    check_table,
    file_names,
    put_folder,
    readable,
    replacing,
    sync,
    write_text,
)

COMPANIONS = {".json": (b"[",), ".errors.csv": (b"file,error",)}
NAMES = st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1, max_size=6, unique=True)
BYTES = st.lists(st.binary(min_size=1, max_size=300).filter(lambda b: b"\0" not in b), min_size=1, unique=True)


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    out = tmp_path / "new" / "x.txt"
    write_text(out, "old\n")
    write_text(out, "new\r\nü\n")
    assert out.read_bytes() == "new\r\nü\n".encode()
    assert tree(tmp_path) == {"new", "new/x.txt"}


def test_an_exception_leaves_the_old_file(tmp_path):
    out = tmp_path / "x.txt"
    out.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(out) as aside:
        aside.write_text("half")
        raise ZeroDivisionError
    assert out.read_text() == "old" and tree(tmp_path) == {"x.txt"}


def test_a_full_disk_names_the_file_and_the_way_out_and_keeps_the_old_one(tmp_path, monkeypatch, disk_full):
    out = tmp_path / "x.txt"
    out.write_text("old")
    monkeypatch.setattr(files.os, "fsync", disk_full)
    with pytest.raises(OutputError) as caught:
        write_text(out, "new")
    assert str(out) in caught.value.what and os.strerror(errno.ENOSPC) in caught.value.what
    assert "space" in caught.value.way_out
    assert out.read_text() == "old" and tree(tmp_path) == {"x.txt"}


def test_a_disk_that_takes_so_much_and_no_more(tmp_path):
    """A real write that fails half way, by the system's own limit."""
    (tmp_path / "x.txt").write_text("old")
    code = (
        "import resource, sys; from pathlib import Path; from cxrlines.core.files import OutputError, write_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_text(Path(sys.argv[1]), 'x' * 100_000)\n"
        "except OutputError as error: print(error.what)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.txt"], capture_output=True, text=True, check=True)
    assert str(tmp_path / "x.txt") in done.stdout
    assert (tmp_path / "x.txt").read_text() == "old" and tree(tmp_path) == {"x.txt"}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_kill_leaves_the_old_file_or_the_new(tmp_path):
    out = tmp_path / "x.txt"
    write_text(out, "0" * 300_000)
    code = (
        "import itertools, sys; from pathlib import Path; from cxrlines.core.files import write_text\n"
        "for k in itertools.count(): write_text(Path(sys.argv[1]), str(k % 10) * 300_000); print(k, flush=True)"
    )
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", code, out], stdout=subprocess.PIPE) as process:
            assert process.stdout
            for _ in range(3):
                process.stdout.readline()
            time.sleep(os.getpid() % 7 / 1000)
            process.kill()
        found = out.read_text()
        assert len(found) == 300_000 and len(set(found)) == 1


def test_an_error_of_another_file_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "x.txt"):
        (tmp_path / "input").read_text()
    assert caught.value.filename == str(tmp_path / "input")
    assert tree(tmp_path) == set()


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_what_is_replaced_keeps_its_permissions(tmp_path):
    path, new = tmp_path / "secret.csv", tmp_path / "new.csv"
    write_text(path, "old")
    usual = path.stat().st_mode
    path.chmod(0o600)
    write_text(path, "new")
    write_text(new, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and new.stat().st_mode == usual
    (tmp_path / "place").mkdir(mode=0o700)
    (tmp_path / "made").mkdir()
    put_folder(tmp_path / "made", tmp_path / "place")
    assert stat.S_IMODE((tmp_path / "place").stat().st_mode) == 0o700


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "x.txt").symlink_to(tmp_path / "disk/x.txt")
    write_text(tmp_path / "x.txt", "new")
    assert (tmp_path / "x.txt").is_symlink() and (tmp_path / "disk/x.txt").read_text() == "new"


@pytest.mark.parametrize("place", ["/dev/null", "/proc/cxrlines.csv"])
def test_devices_and_folders_of_the_system_are_refused(place):
    if not Path(place).parent.is_dir():
        pytest.skip(f"there is no {Path(place).parent} here")
    with pytest.raises(OutputError):
        write_text(Path(place), "x")
    with pytest.raises(OutputError):
        check_outputs(files={"--out": Path(place)})
    assert not Path("/dev/null").is_file()


def test_names_of_any_length_and_bytes_can_be_replaced(tmp_path):
    for name in ["ü" * 127, os.fsdecode(b"\xff\xfe.csv")]:
        write_text(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"
    with pytest.raises(OutputError) as caught:
        write_text(tmp_path / ("x" * 256), "x")
    assert "shorter" in caught.value.way_out


def test_a_check_leaves_everything_as_it_was(tmp_path):
    (tmp_path / "old.csv").write_text("old")
    check_outputs(
        files={"--out": tmp_path / "a/b/x.csv", "--json": tmp_path / "old.csv", "--not": None},
        folders={"--draw": tmp_path / "d/e"},
        made={"--bundle": tmp_path / "f/g"},
        inputs=[tmp_path / "in.csv", None],
    )
    assert tree(tmp_path) == {"old.csv"} and (tmp_path / "old.csv").read_text() == "old"


@pytest.mark.parametrize(
    "outputs",
    [
        {"files": {"--out": "in.csv"}},
        {"files": {"--out": "folder"}},
        {"files": {"--out": "films/deep/a.jpg"}},
        {"files": {"--out": "link.jpg"}},
        {"files": {"--out": "file/x.csv"}},
        {"files": {"--out": "new/../in.csv"}},
        {"files": {"--out": "link.csv"}},
        {"files": {"--out": "x.csv", "--weights": "./x.csv"}},
        {"files": {"--out": "x"}, "folders": {"--draw": "x/drawn"}},
        {"files": {"--out": "x"}, "folders": {"--draw": "x"}},
        {"files": {"--out": "y" * 300}},
        {"folders": {"--draw": "file"}},
        {"folders": {"--draw": "file/deep"}},
        {"folders": {"--draw": "films"}},
        {"made": {"--out": "file"}},
        {"made": {"--out": "file/deep"}},
        {"made": {"--out": "with"}},
        {"files": {"--table": "folder/deep/x.csv"}, "made": {"--out": "folder"}},
    ],
)
def test_places_that_cannot_be_written_or_collide_are_refused_and_left_alone(tmp_path, outputs):
    (tmp_path / "in.csv").write_text("in")
    (tmp_path / "file").write_text("file")
    (tmp_path / "link.csv").symlink_to(tmp_path / "in.csv")
    (tmp_path / "folder").mkdir()
    (tmp_path / "films/deep").mkdir(parents=True)
    (tmp_path / "films/deep/a.jpg").write_text("a film")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "films/deep/a.jpg")
    (tmp_path / "with/input").mkdir(parents=True)
    before = tree(tmp_path)
    placed = {kind: {flag: tmp_path / name for flag, name in each.items()} for kind, each in outputs.items()}
    with pytest.raises(OutputError) as caught:
        check_outputs(**placed, inputs=[tmp_path / "in.csv", tmp_path / "films", tmp_path / "with/input"])
    assert caught.value.way_out
    assert tree(tmp_path) == before and (tmp_path / "in.csv").read_text() == "in"


def test_a_file_may_be_new_in_a_folder_that_is_read_or_lie_beside_a_file_that_is(tmp_path):
    for name in ("train.csv", "folds.csv"):
        (tmp_path / name).write_text("old")
    check_outputs(files={"--out": tmp_path / "new.csv"}, inputs=[tmp_path])
    check_outputs(files={"--out": tmp_path / "folds.csv"}, inputs=[tmp_path / "train.csv"])
    with pytest.raises(OutputError, match="is in one of the inputs"):
        check_outputs(files={"--out": tmp_path / "folds.csv"}, inputs=[tmp_path])


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    def forbidden(dir: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", forbidden)
    with pytest.raises(OutputError) as caught:
        check_outputs(files={"--out": tmp_path / "new/x.csv"})
    assert "--out" in caught.value.what and "permissions" in caught.value.way_out
    assert tree(tmp_path) == set()


def test_what_lies_beside_a_table_is_its_own():
    out = [Path(name) for name in ("r.csv", "r.v1", "r.v2", "r.v1.csv2", "s", "r.CSV")]
    endings = (".json", ".errors.csv")
    every = [beside(table, ending) for table, ending in itertools.product(out, endings)] + out
    assert len(set(every)) == len(every)
    assert beside(Path("a/r.csv"), ".json") == Path("a/r.json") and beside(Path("r.v1"), ".json") == Path("r.v1.json")


def test_a_file_is_called_as_its_format_is(tmp_path):
    for name in ("x.safetensors", "x.v1.SafeTensors"):
        check_ending("--out", tmp_path / name, *SAFETENSORS)
    for name in ("x.csv", "x", ".safetensors", "safetensors", "x.safetensors.gz"):
        with pytest.raises(OutputError) as caught:
            check_ending("--out", tmp_path / name, *SAFETENSORS)
        assert "--out" in caught.value.what and ".safetensors" in caught.value.way_out


def test_a_table_with_nothing_beside_it_may_have_any_name_but_that_of_another_format(tmp_path):
    for name in ("folds", "folds.csv", "folds.v1", "folds.txt"):
        (tmp_path / name).write_text("x")
        check_table("--out", tmp_path / name)
    for name in ("folds.safetensors", "folds.xlsx", "folds.PNG"):
        with pytest.raises(OutputError) as caught:
            check_table("--out", tmp_path / name)
        assert "folds.csv" in caught.value.way_out


@pytest.mark.parametrize("name", ["x.json", "x.JSON", "x.errors.csv", ".json", "x.xlsx", "x.PNG"])
def test_a_table_is_not_called_as_a_file_beside_one_or_of_another_format(tmp_path, name):
    with pytest.raises(OutputError) as caught:
        check_table("--out", tmp_path / name, COMPANIONS, "Study")
    assert ".csv" in caught.value.way_out


@pytest.mark.parametrize(("old", "new"), [("r", "r.csv"), ("r.csv", "r"), ("r.v1.csv", "r.v1")])
def test_two_tables_that_would_share_the_files_beside_them(tmp_path, old, new):
    (tmp_path / old).write_text("a film")
    check_table("--out", tmp_path / new, COMPANIONS, "Study")
    (tmp_path / old).write_text("StudyInstanceUID,...")
    check_table("--out", tmp_path / old, COMPANIONS, "Study")
    with pytest.raises(OutputError):
        check_table("--out", tmp_path / new, COMPANIONS, "Study")


def test_a_file_beside_a_table_that_is_somebody_elses_is_not_replaced(tmp_path):
    (tmp_path / "r.json").write_text('[{"film": 1}]')
    check_table("--out", tmp_path / "r.csv", COMPANIONS, "Study")
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(OutputError):
        check_table("--out", tmp_path / "r.csv", COMPANIONS, "Study")


def check_names(names: list[str], folder: Path) -> None:
    found = file_names(names, ".png")
    assert list(found) == names
    assert len({text.casefold() for text in found.values()}) == len(names)
    for text in found.values():
        assert len(os.fsencode(text)) <= MAX_NAME and text.endswith(".png")
        assert Path(text).name == text and not text.startswith(".")
        (folder / text).write_bytes(b"")
        assert (folder / text).resolve().parent == folder.resolve()
        (folder / text).unlink()


@given(NAMES)
def test_any_names_become_plain_and_different_file_names(tmp_path_factory, names):
    check_names(names, tmp_path_factory.getbasetemp())


@given(BYTES)
def test_names_of_any_bytes_do(tmp_path_factory, names):
    check_names([os.fsdecode(name) for name in names], tmp_path_factory.getbasetemp())


def test_names_that_look_alike_stay_apart(tmp_path):
    long = "x" * 300
    (cut,) = file_names([long], "").values()
    names = ["a/film", "a_film", "a%2Ffilm", "..", "../../etc/passwd", "Film", "film", "", long, long + "y", cut]
    check_names(names, tmp_path)
    found = file_names(names, ".png")
    assert found["a_film"] == "a_film.png" and found["a/film"] == "a%2Ffilm.png"
    assert file_names(["Film"], ".png") == {"Film": "Film.png"}
    assert file_names(names[::-1], ".png") == found


@given(st.binary(max_size=50))
def test_any_name_becomes_text_that_any_file_and_terminal_takes(name):
    text = readable(os.fsdecode(name))
    text.encode()
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text)


def test_an_ordinary_name_is_readable_as_it_is():
    assert readable("Müller 1.2.3 – ä.dcm") == "Müller 1.2.3 – ä.dcm"
    assert readable(os.fsdecode(b"a\xff\n\x1b[31m")) == "a\\xff\\x0a\\x1b[31m"


def test_a_system_that_syncs_no_folder_is_no_error(tmp_path, monkeypatch):
    def no_sync(handle: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(files.os, "fsync", no_sync)
    sync(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError):
        sync(tmp_path / "file")


def test_windows_syncs_files_that_are_open_to_write_and_opens_no_folder(tmp_path, monkeypatch):
    import fcntl  # no system but Windows lacks it

    opened, synced = os.open, []

    def as_windows_opens(path, flags):
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, flags)

    def as_windows_syncs(handle: int) -> None:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        synced.append(handle)

    monkeypatch.setattr(files, "WINDOWS", True)
    monkeypatch.setattr(files.os, "open", as_windows_opens)
    monkeypatch.setattr(files.os, "fsync", as_windows_syncs)
    write_text(tmp_path / "x.txt", "new")
    assert len(synced) == 1
    (tmp_path / "done").mkdir()
    (tmp_path / "done/y.txt").write_text("y")
    put_folder(tmp_path / "done", tmp_path / "place")
    assert len(synced) == 2 and tree(tmp_path) == {"x.txt", "place", "place/y.txt"}


def test_a_folder_replaces_an_older_one(tmp_path):
    for content in ("old", "new"):
        (tmp_path / "made/deep").mkdir(parents=True)
        (tmp_path / "made/deep/x").write_text(content)
        put_folder(tmp_path / "made", tmp_path / "new/place")
        assert (tmp_path / "new/place/deep/x").read_text() == content
    assert tree(tmp_path) == {"new", "new/place", "new/place/deep", "new/place/deep/x"}


def test_a_folder_steps_aside_outside_its_place_and_comes_back_when_interrupted(tmp_path, monkeypatch):
    (tmp_path / "work/made").mkdir(parents=True)
    (tmp_path / "run/place").mkdir(parents=True)
    rename, between = Path.rename, []

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == "made":
            between.append(tree(tmp_path / "run"))
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        put_folder(tmp_path / "work/made", tmp_path / "run/place")
    assert between == [set()] and tree(tmp_path) == {"run", "run/place", "work", "work/made"}


def test_a_folder_that_cannot_be_moved_leaves_the_older_one(tmp_path, monkeypatch):
    (tmp_path / "place").mkdir()
    (tmp_path / "place/x").write_text("old")
    (tmp_path / "made").mkdir()
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == "made":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError):
        put_folder(tmp_path / "made", tmp_path / "place")
    assert tree(tmp_path) == {"place", "place/x", "made"}
