"""The films in files and folders: found, and named so that no two are called alike."""

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cxrlines.core.files import readable
from cxrlines.core.film import FILM_SUFFIXES, FilmError, film_name
from cxrlines.io.films import is_film, kind_of, read_bytes, unread_picture
from cxrlines.io.marks import film_place
from cxrlines.io.rows import PLACEHOLDERS

NO_FILM, ARCHIVE, LINKED, BROKEN = "no film", "archive, not unpacked", "link to a folder", "link to nothing"
FOLDER, PERMISSIONS = "folder", "check the path and its permissions"
ARCHIVES = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".zst", ".7z", ".rar")


@dataclass(frozen=True)
class Found:
    """Films to read.

    Attributes:
        films: each path with the folder it was found from.
        errors: (source, what is wrong with it).
        skipped: what it is -> how many of it were passed over.
        named: of the films, those that were named themselves.
        folders: that were searched.
    """

    films: list[tuple[Path, Path]]
    errors: list[tuple[str, str]]
    skipped: Counter[str] = field(default_factory=Counter)
    named: frozenset[Path] = frozenset()
    folders: tuple[Path, ...] = ()

    def names(self, studies: Mapping[Path, str] | None = None) -> dict[Path, str]:
        """What each film is called; no two are called alike, whatever their order.

        That is the StudyInstanceUID of its file, from `studies`, or else the file's name without the suffix of a film.
        Films that would share a name are called by the next of: file's name, place in the folder without suffix, with
        it, path.
        """
        names = {path: (studies or {}).get(path) or readable(film_name(path)) for path, _ in self.films}
        ways: dict[Path, Iterator[str]] = {}  # of those that share a name alone: most films are called by their first
        while shared := {name for name, count in Counter(names.values()).items() if count > 1}:
            for path, base in self.films:
                if names[path] in shared:
                    if path not in ways:
                        ways[path] = _further_names(path, base, by_study=bool((studies or {}).get(path)))
                    names[path] = next(ways[path], names[path])
        return names


def _further_names(path: Path, base: Path, *, by_study: bool) -> Iterator[str]:
    """What a film found from the folder `base` is called where others are called alike, one after the other."""
    place = path.relative_to(base)
    if by_study:
        yield readable(film_name(path))
    yield from map(readable, (place.with_name(film_name(path)).as_posix(), place.as_posix(), path.as_posix()))
    yield ascii(path.as_posix())


def find_films(sources: Iterable[Path]) -> Found:
    """Every film of the sources once: files as they are named, folders searched in the order of names.

    A link to a film counts as a film of the link's own name.
    """
    films: dict[tuple[str, str], tuple[Path, Path]] = {}  # by the folder it lies in, so that none is read twice
    errors: list[tuple[str, str]] = []
    skipped: Counter[str] = Counter()
    named, searched = set(), []
    for source in sources:
        if (fault := _fault(source)) is None:
            if source.suffix.lower() in ARCHIVES:
                errors.append((str(source), "is an archive; unpack it, and name what it holds"))
                continue
            path, _ = films.setdefault(_place(source), (source, source.parent))
            named.add(path)
        elif fault == FOLDER:
            searched.append(source)
            before, empty = len(errors), True
            for path in _files_below(source, errors, skipped):
                if path.suffix.lower() in FILM_SUFFIXES or is_film(path):
                    films.setdefault(_place(path), (path, source))
                    empty = False
                elif not os.access(path, os.R_OK):
                    errors.append((str(path), f"cannot be read ({os.strerror(errno.EACCES)}); {PERMISSIONS}"))
                else:
                    picture = f"{name} image, which is not read" if (name := unread_picture(path)) else NO_FILM
                    skipped[ARCHIVE if path.suffix.lower() in ARCHIVES else picture] += 1
            if empty and len(errors) == before:
                kinds = ", ".join(FILM_SUFFIXES)
                errors.append((str(source), f"the folder holds no film: none ends in {kinds} or is one by content"))
        else:
            errors.append((str(source), fault))
    return Found(list(films.values()), errors, +skipped, frozenset(named), tuple(searched))


def _place(path: Path) -> tuple[str, str]:
    """Folder and name of a file, the same however the way to the folder is written."""
    return os.path.realpath(path.parent), path.name


def patient_of(path: Path, indexed: Mapping[str, str]) -> str:
    """The patient of a film: as an index has it (`io.marks.patients_of`), else PatientID of a DICOM file.

    Empty where neither names one: a placeholder such as `unknown` does not.
    """
    named = indexed.get(film_place(path)) or indexed.get(film_name(path), "")
    return named if named.lower() not in PLACEHOLDERS and named else _dicom_patient(path)


def _dicom_patient(path: Path) -> str:
    """PatientID of a DICOM file; empty where there is none, or the film cannot be read."""
    try:
        with path.open("rb") as file:
            if kind_of(file.read(132)) != "DICOM":
                return ""
        from cxrlines.io.dicom.header import parse

        text = parse(read_bytes(path), ("TransferSyntaxUID", "PatientID")).text("PatientID")
    except (OSError, FilmError):
        return ""
    return "" if text.lower() in PLACEHOLDERS else text


def _fault(path: Path) -> str | None:
    """Why a path is no regular file: FOLDER, or a sentence; None if it is one."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: of a NUL in it
        if _is_link(path) and isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ELOOP):
            return "is a link to nothing; fetch what it stands for, or remove it"
        if isinstance(error, ValueError | FileNotFoundError | NotADirectoryError):
            return "there is no such file or folder"
        return f"cannot be read ({error.strerror}); {PERMISSIONS}"
    if stat.S_ISREG(mode):
        return None
    return FOLDER if stat.S_ISDIR(mode) else "is not a regular file; name a film or a folder"


def _is_link(path: Path) -> bool:
    return os.path.islink(path)  # noqa: PTH114 - Path.is_symlink raises for a name that is too long


def _files_below(folder: Path, errors: list[tuple[str, str]], skipped: Counter[str]) -> Iterator[Path]:
    """Plain files in a folder and its folders, by name; hidden ones are left alone.

    Links to folders are not followed, but counted; a folder that cannot be listed is an error, and so is what has the
    name of a film but is no file, such as a link to one that is not there.
    """

    def unlisted(error: OSError) -> None:
        errors.append((os.fsdecode(error.filename), f"the folder cannot be listed ({error.strerror})"))

    for place, folders, files in os.walk(folder, onerror=unlisted):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        skipped[LINKED] += sum(Path(place, name).is_symlink() for name in folders)
        for name in sorted(files):
            path = Path(place) / name
            if name.startswith("."):
                continue
            if (fault := _fault(path)) is None:
                yield path
            elif path.suffix.lower() in FILM_SUFFIXES:
                errors.append((str(path), fault))
            else:
                skipped[BROKEN if _is_link(path) else NO_FILM] += 1
