"""Settings of services in TOML files."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cxrlines.core.errors import Error


def read_config(config: Path | None, paths: Iterable[str] = ()) -> dict[str, Any]:
    """What the TOML file of `--config` says; nothing where none is named.

    Args:
        paths: Fields that are paths (`tls.key`: a field of a table). They are relative to the file.

    Raises:
        Error: it cannot be read.
    """
    if config is None:
        return {}
    try:
        found = tomllib.loads(config.read_text("utf-8-sig"))
    except OSError as error:
        raise Error(f"--config {config}: cannot be read ({error.strerror})", "name a TOML file") from None
    except ValueError as error:
        raise Error(f"--config {config}: is not valid TOML ({error})", "write lines such as port = 8080") from None
    for path in paths:
        table, _, field = path.rpartition(".")
        part = found.get(table) if table else found
        if isinstance(part, dict) and isinstance(part.get(field), str):
            part[field] = config.parent / part[field]
    return found
