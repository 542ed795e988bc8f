"""What a folder of phantoms holds, for tests to compare."""

import csv
from pathlib import Path


def files(root: Path) -> dict[str, bytes]:
    """The content of every file below a folder, by its path there."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV table."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
