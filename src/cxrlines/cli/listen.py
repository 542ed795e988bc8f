"""A DICOM node beside a PACS."""

import json
import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from cxrlines.cli.options import BundleFolder, Json, say, signals
from cxrlines.core.errors import Error
from cxrlines.core.text import plural
from cxrlines.core.toml_file import read_config

app = typer.Typer()


@app.command(
    epilog="Example: cxrlines listen --aet CXRLINES --port 11112 --host 0.0.0.0 --to PACS@10.0.0.5:104 --queue queue"
)
def listen(
    aet: Annotated[str | None, typer.Option(help="The node's AE title.")] = None,
    port: Annotated[int | None, typer.Option(help="Where it listens; default: 11112.")] = None,
    host: Annotated[
        str | None, typer.Option(help="Address it listens on; default: 127.0.0.1, this computer alone.")
    ] = None,
    to: Annotated[
        list[str] | None, typer.Option(help="Send results by C-STORE to AET@HOST:PORT; may be repeated.")
    ] = None,
    stow: Annotated[list[str] | None, typer.Option(help="Send results by STOW-RS to a URL; may be repeated.")] = None,
    queue: Annotated[Path | None, typer.Option(help="Folder of films and results until they are delivered.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of all settings; flags override it.")] = None,
    results: Annotated[
        list[str] | None,
        typer.Option(
            help="Kind of result: sr report, pr presentation state, sc capture; may be repeated; default: all."
        ),
    ] = None,
    bundle: BundleFolder = None,
    processes: Annotated[int | None, typer.Option(help="Processes that read; default: one for two cores.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep films and results once they are delivered.")] = False,
    status_port: Annotated[
        int | None, typer.Option(help="Port of a page that shows the queue, on this computer alone.")
    ] = None,
    status_host: Annotated[
        str | None, typer.Option(help="Address that the page listens on, in a container; default: 127.0.0.1.")
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Print how the queue stands; the node may be running.")
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try failed films and results again; the node may be running.")
    ] = False,
    discard: Annotated[
        bool, typer.Option("--discard", help="Give up failed films and results for good, and delete their files.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Receive films by DICOM, read them, and send the results to a PACS.

    Results are a structured report, a presentation state and a secondary capture of each film, or what --results names.
    SIGTERM ends it once films being read are finished; others stay in the queue.
    For research only.
    """
    from cxrlines.pacs.film_queue import FilmQueue
    from cxrlines.pacs.queue_database import DATABASE

    if retry and discard:
        raise Error("--retry and --discard: a dead letter is tried again or given up", "give one of them")
    if status or retry or discard:
        named = read_config(config, ("queue",))
        queue = queue or (named["queue"] if isinstance(named.get("queue"), Path) else None)
        if queue is None:
            raise Error("--queue is missing", "name the node's folder by --queue, or its file by --config")
        if not (queue / DATABASE).is_file():
            raise Error(f"--queue {queue}: is no queue of a node", "name the folder of its --queue")
        look_into(FilmQueue(queue, keep=keep or named.get("keep") is True), retry, discard, as_json)
        return

    from cxrlines.pacs.node import run_node
    from cxrlines.pacs.node_settings import load_settings

    flags: dict[str, Any] = {"aet": aet, "port": port, "host": host, "queue": queue, "bundle": bundle}
    flags |= {
        "to": tuple(to or ()),
        "stow": tuple(stow or ()),
        "results": tuple(results or ()),
        "processes": processes,
        "keep": keep or None,
        "status_port": status_port,
        "status_host": status_host,
    }
    settings = load_settings(config, flags)
    stop = threading.Event()
    where = f"{settings.aet} on {settings.host}"
    more = f"queue: {settings.queue}"
    more += f"; its page: http://127.0.0.1:{settings.status_port}/" if settings.status_port else ""
    with signals(lambda *_: stop.set(), signal.SIGTERM, signal.SIGINT):
        run_node(settings, stop, listening=lambda port: say(f"listening as {where}:{port}; {more}"))
    say("stopped; what is in the queue is taken up at the next start")


def look_into(queue: Any, retry: bool, discard: bool, as_json: bool) -> None:
    """Print how a queue stands, once its dead letters are taken up (`retry`) or given up (`discard`)."""
    if retry:
        say(f"{plural(queue.retry(), 'film')} taken up once more")
    if discard:
        dropped, unread = queue.discard()
        say(f"discarded: {plural(dropped, 'result')} not delivered, {plural(unread, 'film')} not read")
    found = queue.status()
    queue.close()
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    typer.echo("films:      " + ", ".join(f"{n} {state}" for state, n in found["films"].items()))
    typer.echo("results:    " + (", ".join(f"{n} {state}" for state, n in found["results"].items()) or "none"))
    for title, counts in (("skipped", found["skipped"]), ("not films", found["not_films"])):
        for what, n in counts.items():
            typer.echo(f"{title}: {n} {what}")
    if oldest := found["oldest_waiting"]:
        typer.echo(f"oldest waiting: film {oldest['number']}, {oldest['state']}, since {oldest['received']}")
    for film in found["urgent_waiting"]:
        typer.echo(f"urgent, not delivered: film {film['film']}, since {film['received']}")
    for letter in found["dead_letters"]:
        to = f" to {letter['destination']}" if letter["destination"] else ""
        typer.echo(f"dead letter: film {letter['film']}{to}: {letter['reason']}")
    for destination in found["unreachable"]:
        typer.echo(f"{destination['name']}: {destination['problem']}, since {destination['since']}")
