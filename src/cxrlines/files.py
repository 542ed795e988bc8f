"""Files written whole or not at all.

What is written lies under a hidden name beside its place until it is complete and on disk, and is then renamed. A kill,
a full disk or an exception leaves the old file as it was.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cxrlines.errors import Error


class OutputError(Error):
    """A file or folder cannot be written: which, why, and the way out."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file under; renamed to `path` when the block ends, removed when it raises.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full; names `path`.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name[:200]}.{os.getpid()}.{secrets.token_hex(3)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        sync(aside)
        aside.replace(path)
        sync(path.parent)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or type(error).__name__})",
            "free space on its disk, or name another place",
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) whole or not at all; see `replacing`."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
