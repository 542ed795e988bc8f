"""Films of studies in a folder: found by name; and what is there instead of one that is missing."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cxrlines.core.film import FILM_SUFFIXES
from cxrlines.core.text import shown
from cxrlines.io.rows import TableError

PACKED_SUFFIXES = (".gz", ".zip", ".bz2", ".xz", ".7z")
LINKED_FOLDER, BROKEN_LINK = "linked folder (not looked into)", "link to nothing"
CLOSED_FOLDER = "folder that cannot be listed"
MAKE_READABLE = "make the folder readable"


def listed(folder: Path) -> list[Path]:
    """What lies in a folder, by name; `TableError` where it cannot be listed."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise TableError(f"{folder}: cannot be listed ({error.strerror})", MAKE_READABLE) from error


def find_films(folder: Path, studies: Iterable[str]) -> dict[str, list[Path]]:
    """Study -> its files in `folder`: `<study>` with one of FILM_SUFFIXES, or bare (study ids contain dots)."""
    wanted = set(studies)
    films: dict[str, list[Path]] = {}
    for path in listed(folder):
        suffixed = path.suffix.lower() in FILM_SUFFIXES
        study = next((name for name in (path.name, path.stem)[: 1 + suffixed] if name in wanted), None)
        if study is not None and path.is_file():
            films.setdefault(study, []).append(path)
    return films


def bare_names(folder: Path) -> dict[str, Path]:
    """The files and folders in a folder of films by their bare names, for `film_instead`; of two the first by name."""
    return {_bare(path.name): path for path in reversed(listed(folder))}


def film_instead(study: str, names: Mapping[str, Path]) -> tuple[str, str]:
    """For a study without a film: what is there instead, to follow `has no film of study ...`, and the way out."""
    path = names.get(_bare(study))
    if path is None:
        return "", "add the film or remove the row"
    if re.search(r"[/\\]", study):
        return f", but {shown(path.name, 80)}", "the column holds ids, not paths: leave the folders out of it"
    there = f", but {shown(path.name, 80)}"
    if path.is_dir():
        return there, "put the film itself there, under the study's id"
    if path.suffix.lower() in PACKED_SUFFIXES:
        return there, "unpack it"
    return there, "name both alike; if a spreadsheet changed the id, import its column as text"


def _bare(name: str) -> str:
    """A name or id without what copies and spreadsheets change: folders, quotes, suffixes, zeros before, `.0`, case."""
    name = re.split(r"[/\\]", name.removeprefix("=").strip("'\""))[-1].lower()
    for suffix in (*PACKED_SUFFIXES, *FILM_SUFFIXES, ".0"):
        name = name.removesuffix(suffix)
    return name.lstrip("0")


def files_below(root: Path, left_out: Counter[str]) -> Iterator[Path]:
    """All regular files in a folder and those in it, but hidden ones. Links to folders are counted, not followed.

    So are folders that cannot be listed; `TableError` if the folder itself is one.
    """
    listed(root)
    closed: list[OSError] = []
    for folder, inner, files in os.walk(root, onerror=closed.append):
        inner[:] = [name for name in inner if not name.startswith(".")]
        if linked := sum(Path(folder, name).is_symlink() for name in inner):
            left_out[LINKED_FOLDER] += linked
        for path in (Path(folder, name) for name in files if not name.startswith(".")):
            if path.is_file():
                yield path
            elif path.is_symlink():
                left_out[BROKEN_LINK] += 1
    left_out.update({CLOSED_FOLDER: len(closed)} if closed else {})


def closed_below(root: Path) -> list[tuple[Path, str]]:
    """The folders in a folder that cannot be listed, each with the reason."""
    closed: list[OSError] = []
    for _, inner, _ in os.walk(root, onerror=closed.append):
        inner[:] = [name for name in inner if not name.startswith(".")]
    return [(Path(os.fsdecode(error.filename)), error.strerror or "") for error in closed]


def packed_as(table: Path) -> str:
    """The name of a compressed form of a table that is not there itself; "" if there is none."""
    packed = (table.with_name(table.name + suffix) for suffix in PACKED_SUFFIXES)
    return "" if table.is_file() else next((path.name for path in packed if path.is_file()), "")
