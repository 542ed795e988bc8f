"""Atomic writes of files and folders, file names that do not collide, and checks of outputs before work begins.

A file is written under a hidden name beside its place, and renamed once it is complete and on disk: a kill, a full disk
or an exception leaves the old file as it was.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cxrlines.core.errors import Error

WINDOWS = os.name == "nt"
MAX_NAME = 255
"""Bytes of a file's name, at most, on the file systems in use."""
WAYS_OUT = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space on its disk, or name another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "change its permissions, or name another place"),
    errno.ENAMETOOLONG: "give a shorter name",
}
_CONTROL = r"\x00-\x1f\x7f-\x9f\ud800-\udfff"  # surrogates stand for bytes that are not UTF-8
_UNREADABLE, _UNFIT = re.compile(f"[{_CONTROL}]"), re.compile(rf'^\.|[{_CONTROL}/\\:*?"<>|%~]')


class OutputError(Error):
    """A file or folder cannot be written: which, why, and the way out."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file under; renamed to `path` when the block ends, removed when it raises.

    Where `path` is a link, the file that it points to is replaced. The new file has the permissions of the old one.

    Raises:
        OutputError: the folder cannot be made or written, the disk is full, or a folder or device is in the way; names
            `path`. An `OSError` of another file that the block opens is passed on as it is.
    """
    path = Path(path)
    place = Path(os.path.realpath(path))
    plain = place.name.encode("ascii", "ignore").decode()[:100]
    aside = place.with_name(f".{plain}.{os.getpid()}.{secrets.token_hex(3)}.partial")
    try:
        _check_free(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        _keep_mode(place, aside)
        sync(aside)
        aside.replace(place)
        sync(place.parent)
    except OSError as error:
        own = {str(path), str(place), str(aside), *map(str, place.parents)}
        if error.filename is not None and os.fsdecode(error.filename) not in own:
            raise
        raise _refused(str(path), error) from error
    finally:
        with contextlib.suppress(OSError):  # what the disk failed at is said already
            aside.unlink()


def _keep_mode(old: Path, new: Path) -> None:
    """Give a file or folder the permissions of the one that it replaces, if there is one, where its disk has any."""
    with contextlib.suppress(OSError):
        shutil.copymode(old, new)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) atomically; see `replacing`."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def put_folder(done: Path, place: Path) -> None:
    """Force a finished folder to disk and rename it to `place`, on the same disk, instead of an older one, whose
    permissions it gets.

    No folder is replaced in one move: the older one is beside `done` for a moment, and comes back if the move fails.
    """
    for path in [*(path for path in done.rglob("*") if path.is_file()), done]:
        sync(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    old = done.with_name(f".{place.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        _keep_mode(place, done)
        place.rename(old)
    try:
        done.rename(place)
    except BaseException:
        if old.exists():
            old.rename(place)
        raise
    sync(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def check_outputs(
    *,
    files: Mapping[str, Path | None] | None = None,
    folders: Mapping[str, Path | None] | None = None,
    made: Mapping[str, Path | None] | None = None,
    inputs: Iterable[Path | None] = (),
) -> None:
    """Whether all that a command is to write can be written, checked before its work begins. Leaves nothing behind.

    Args:
        files: what messages call it (its flag) -> a file; None: not given.
        folders: likewise, a folder that files are put into.
        made: likewise, a folder that is made beside its place and renamed, so that what lies there is gone.
        inputs: files and folders that are read, none of which may be an output, nor what lies in such a folder.

    Raises:
        OutputError: a place that cannot be written, holds the wrong kind of thing, is given twice, or is an input; a
            file that would replace one in a folder that is read; a folder that is made in the place of one that holds
            an input or another output.
    """
    read = {os.path.realpath(path) for path in inputs if path is not None}
    taken = dict.fromkeys(read, "is one of the inputs")
    for kind, paths in (("file", files), ("folder", folders), ("made", made)):
        for flag, path in (paths or {}).items():
            if path is None:
                continue
            what, place = f"{flag} {path}", Path(os.path.realpath(path))
            if problem := taken.get(str(place)):
                raise OutputError(f"{what}: {problem}", "name another place")
            for parent in map(str, place.parents):
                if taken.get(parent, "").startswith("is the file"):
                    raise OutputError(f"{what}: {parent} {taken[parent]}", "name another place")
                # A new file beside the films is welcome, as folds.csv is; what is there may be one that is read.
                if kind == "file" and parent in read and os.path.lexists(place):
                    problem = f"is in one of the inputs, {parent}, and would be replaced"
                    raise OutputError(f"{what}: {problem}", "name another place, or remove it if it is no input")
            if kind == "made" and (inner := next((name for name in taken if place in Path(name).parents), None)):
                raise OutputError(f"{what}: would be replaced whole, and {inner} {taken[inner]}", "name another place")
            taken[str(place)] = f"is the {'file' if kind == 'file' else 'folder'} of {flag}"
            try:
                _check_output(what, kind, path, place)
            except OSError as error:
                raise _refused(what, error) from error


def _check_output(what: str, kind: str, path: Path, place: Path) -> None:
    if kind == "file":
        _check_free(path)
    elif os.path.lexists(place) and not place.is_dir():
        raise OutputError(f"{what}: is a file", "name a folder")
    if kind == "made" and place.is_mount():
        raise OutputError(f"{what}: is where a disk is mounted", f"name a folder in it: {path / 'new'}")
    within = next(each for each in (place, *place.parents)[kind != "folder" :] if each.exists())
    if not within.is_dir():
        raise OutputError(f"{what}: {within} is a file", "name another place")
    with tempfile.TemporaryFile(dir=within) as file:
        file.write(bytes(4096))


def beside(table: Path, ending: str) -> Path:
    """The file that goes with a table: `readings.csv` -> `readings.json`, `readings.v1` -> `readings.v1.json`."""
    return table.with_name(table.name.removesuffix(".csv") + ending)


def check_ending(flag: str, path: Path, kind: str, *endings: str) -> None:
    """`OutputError` where a file's name does not end as that of its kind does, in one of `endings`, in any case."""
    if path.suffix.lower() not in endings:
        what = f"{flag} {path}: is written as {kind}, whose name ends in {' or '.join(endings)}"
        raise OutputError(what, f"name it, for instance, {path.with_suffix(endings[0])}")


SAFETENSORS = "safetensors", ".safetensors"
"""The kind and ending of a file of tensors, for `check_ending`."""
_NO_TABLES = (
    ".xlsx", ".xls", ".ods", ".parquet", ".jsonl", ".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pdf",
    ".safetensors", ".onnx",
)  # fmt: skip


def check_table(
    flag: str, table: Path, companions: Mapping[str, tuple[bytes, ...] | None] | None = None, head: str = ""
) -> None:
    """`OutputError` where the files `beside` a table could be taken for those of another, or the table for one of them.

    Tables `readings` and `readings.csv` would share them; no other two do. Nor may a table be named as a workbook or
    the like, which its reader would take for one.

    Args:
        companions: ending of a file beside it -> what such a file begins with, and one that is there must; None where
            none is to be written.
        head: what such a table begins with, if files are beside it.
    """
    name, companions = table.name, companions or {}
    if ending := next((ending for ending in companions if name.lower().endswith(ending)), None):
        better = table.with_name(f"{name[: -len(ending)] or 'table'}.csv")
        what = f"{flag} {table}: is a table (CSV), and a name in {ending} is that of a file beside a table"
        raise OutputError(what, f"name it, for instance, {better}")
    if table.suffix.lower() in _NO_TABLES:
        what = f"{flag} {table}: is written as a table (CSV), and a name in {table.suffix} is that of another format"
        raise OutputError(what, f"name it, for instance, {table.with_suffix('.csv')}")
    other = table.with_name(name.removesuffix(".csv") if name.endswith(".csv") else f"{name}.csv")
    if companions and other.is_file() and begins(other, head.encode()):
        what = f"{flag} {table}: the files beside it would have the same names as those of {other}"
        raise OutputError(what, "name another table, or remove that one")
    for ending, heads in companions.items():
        path = beside(table, ending)
        if heads and path.is_file() and not begins(path, *heads):
            what = f"{flag} {table}: would replace {path}, which no earlier command wrote"
            raise OutputError(what, "name another table")


def begins(path: Path, *heads: bytes) -> bool:
    """Whether a file begins with one of `heads`."""
    with path.open("rb") as file:
        return file.read(max(map(len, heads))).startswith(heads)


def readable(name: str | Path) -> str:
    """A name as text for any file and terminal: control characters and bytes that are not UTF-8 become `\\xNN`."""
    return _UNREADABLE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", str(name))


def file_names(names: Iterable[str], ending: str) -> dict[str, str]:
    """A plain file name for each name, with an ending: different for different names, also where case does not count.

    What no file name may hold, and a dot at the start, is written as `%NN`, so that `a/film` becomes `a%2Ffilm`. Names
    that are too long, or differ in case alone, end in `~` and a hash of the name.
    """
    plain = {name: _UNFIT.sub(_percent, name) or "%" for name in names}
    folded = {name: unicodedata.normalize("NFC", text).casefold() for name, text in plain.items()}
    count = Counter(folded.values())
    room = MAX_NAME - len(ending.encode())
    found = {}
    for name, text in plain.items():
        if count[folded[name]] > 1 or len(text.encode()) > room:
            digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
            text = f"{text.encode()[: room - 33].decode('utf-8', 'ignore')}~{digest}"
        found[name] = text + ending
    return found


def _percent(found: re.Match[str]) -> str:
    code = ord(found[0])
    data = bytes([code & 0xFF]) if 0xD800 <= code < 0xE000 else found[0].encode()
    return "".join(f"%{byte:02X}" for byte in data)


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk. A system that cannot sync folders leaves them."""
    if WINDOWS and path.is_dir():  # it cannot be opened there
        return
    handle = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)  # Windows syncs none that is open to read alone
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):  # so some shared folders answer
            raise
    finally:
        os.close(handle)


def _check_free(path: Path) -> None:
    """`OutputError` where something other than a file is in the way; `OSError` where that cannot be found out."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    if path.is_dir():
        raise OutputError(f"{path}: is a folder", f"name a file, e.g. {path / 'name'}")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is not a regular file but a device or the like", "name a file")


def _refused(what: str, error: OSError) -> OutputError:
    why = error.strerror or type(error).__name__
    return OutputError(f"{what}: cannot be written ({why})", WAYS_OUT.get(error.errno or 0, "name another place"))
