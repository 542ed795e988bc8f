"""Options that several commands have, and how commands speak."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
On = Annotated[
    str | None, typer.Option(help="ray (a cluster started here) or ray://HOST:PORT instead of this process.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes side by side; default: one a core (or GPU).")]
BundleFolder = Annotated[Path | None, typer.Option(help="A bundle's folder; default: the reader in the box.")]


def numbers(flag: str, text: str | None) -> list[int] | None:
    """`0,1` as whole numbers; None as it is. `ValueError` names the flag."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{flag} is {text!r}; write whole numbers with commas, e.g. {flag} 0,1") from None


def say(text: str) -> None:
    """Tell a person something that is no part of the output: on stderr."""
    typer.echo(text, err=True)
