"""The command that serves the API and the page."""

from pathlib import Path
from typing import Annotated

import typer

from cxrlines.cli.options import BundleFolder, say

app = typer.Typer()


@app.command(epilog="Example: cxrlines serve --port 8080")
def serve(
    port: Annotated[int | None, typer.Option(help="Port; 0: a free one. Default: 8080.")] = None,
    host: Annotated[
        str | None, typer.Option(help="Address; others than loopback need a token. Default: 127.0.0.1.")
    ] = None,
    project: Annotated[
        Path | None, typer.Option(help="Folder to save corrections in; without one nothing is stored.")
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="Index of known films (`cxrlines index`), to show similar ones.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of these and more settings; see docs/api.md.")] = None,
    bundle: BundleFolder = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Processes that read. Default: 1.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File of bearer tokens, one a line; or set CXRLINES_TOKEN.")
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="Certificate (PEM), for HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM).")] = None,
) -> None:
    """Serve the HTTP API, and a page that shows films with their findings.

    SIGTERM ends it once all requests are answered.
    """
    from cxrlines.web.serve_settings import load_settings

    flags = {
        "port": port,
        "host": host,
        "project": project,
        "index": index,
        "bundle": bundle,
        "processes": processes,
        "token_file": token_file,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
    }
    settings = load_settings(config, flags)
    from cxrlines.web.server import serve as run

    run(settings, lambda address: say(f"cxrlines serves at {address} (Ctrl-C ends it)"))
