"""Settings of services in TOML files."""

import tomllib
from pathlib import Path
from typing import Any

from cxrlines.core.errors import Error


def read_config(config: Path | None) -> dict[str, Any]:
    """What the TOML file of `--config` says; nothing where none is named. `Error` where it cannot be read."""
    if config is None:
        return {}
    try:
        return tomllib.loads(config.read_text("utf-8"))
    except OSError as error:
        raise Error(f"--config {config}: cannot be read ({error.strerror})", "name a TOML file") from None
    except ValueError as error:
        raise Error(f"--config {config}: is no TOML ({error})", "write lines such as port = 8080") from None
