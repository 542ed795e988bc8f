"""How a node's queue stands, as a page for this computer: counts, the node's own numbers of films, times, reasons.

Nothing of a patient is in it, nor can anything be changed by it.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cxrlines.core.errors import Error
from cxrlines.pacs.queue_database import FilmState

STYLE = Path(__file__).with_name("status_page.css")
NAMES = ("127.0.0.1", "localhost")
"""By which it may be called: a page elsewhere can point a name of its own at this computer."""
REFRESH_S = 10
TIMEOUT_S = 10.0
"""How long a connection may be silent."""
MOST = 200
"""Rows of a table; the rest is counted."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Status = Mapping[str, Any]
"""What `QueueDatabase.status` gives."""


@contextmanager
def status_page(host: str, port: int | None, title: str, status: Callable[[], Status]) -> Iterator[None]:
    """Serve the page at an address and port of this computer while the block runs; without a port nothing.

    `/` is the page, which asks again every few seconds (`/?still`: it does not), `/status.json` the same as JSON.
    `Error` where the port is taken.
    """
    if port is None:
        yield
        return

    class Handler(_Handler):
        def body(self, path: str, query: str) -> tuple[str, bytes] | None:
            if path == "/status.json":
                return "application/json", json.dumps(status()).encode()
            if path == "/page.css":
                return "text/css", STYLE.read_bytes()
            return ("text/html", page(title, status(), query == "still").encode()) if path == "/" else None

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        what = f"--status-port {port}: {host} cannot be listened on there ({error.strerror})"
        raise Error(what, "stop what listens there, or give another port") from None
    thread = threading.Thread(target=server.serve_forever, name="status page", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version, server_version, sys_version, timeout = "HTTP/1.1", "cxrlines", "", TIMEOUT_S

    def body(self, path: str, query: str) -> tuple[str, bytes] | None:
        """Media type and content of a path; None where nothing is."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Answer."""
        url = urlsplit(self.path)
        try:
            name = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        except ValueError:
            name = None
        if name not in NAMES:
            return self._answer(421, "text/plain", b"this server has another name\n")
        try:
            found = self.body(url.path, url.query)
        except Exception as error:  # the queue's disk
            return self._answer(503, "text/plain", f"the queue cannot be read ({type(error).__name__})\n".encode())
        if found is None:
            return self._answer(404, "text/plain", b"nothing is here\n")
        refresh = {"Refresh": str(REFRESH_S)} if url.path == "/" and url.query != "still" else {}
        return self._answer(200, *found, refresh)

    def _answer(self, code: int, media: str, content: bytes, extra: Mapping[str, str] | None = None) -> None:
        self.send_response(code)
        more = {"Content-Type": f"{media}; charset=utf-8", "Content-Length": str(len(content))}
        for header, value in {**more, **HEADERS, **(extra or {})}.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: who looks is not logged."""


def page(title: str, status: Status, still: bool = False) -> str:
    """The page (HTML) of a queue that stands as `status` says."""
    trouble = len(status["dead_letters"]) + len(status["unreachable"])
    retry = (
        "<p>Dead letters are taken up once more by <code>cxrlines listen --retry --queue DIR</code>, and given up for "
        "good by <code>cxrlines listen --discard --queue DIR</code>.</p>"
    )
    parts = [
        _table("Urgent, not delivered", status["urgent_waiting"], film="film", received="since", state="state"),
        _table("Destinations with a problem", status["unreachable"], name="destination", since="since", problem="why"),
        _table(
            "Dead letters", status["dead_letters"], film="film", received="received", destination="to", reason="why"
        ),
        retry if status["dead_letters"] else "",
        *(
            _table(what, [{"what": name, "n": f"{n:,}"} for name, n in status[key].items()], what="", n="number")
            for what, key in (
                ("Results", "results"),
                ("Skipped films", "skipped"),
                ("Objects that are no films", "not_films"),
            )
        ),
    ]
    hold = '<a href="/">Update every 10 seconds</a>' if still else '<a href="/?still">Stop updating</a>'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="dark">'
        f'<title>{"(!) " if trouble else ""}{escape(title)}</title><link rel="stylesheet" href="/page.css"></head>'
        f'<body><header><h1>{escape(title)}</h1><p>{hold} <a href="/status.json">JSON</a></p></header><main>'
        f'<p class="{"bad" if trouble else "well"}">{_summary(status, trouble)}</p>{_tiles(status["films"])}'
        f"{''.join(parts)}</main>"
        "<footer>Films are numbered by the node; no patient is named here. Times are UTC. For research only.</footer>"
        "</body></html>\n"
    )


def _summary(status: Status, trouble: int) -> str:
    """Whether all is well, with so many matters of `trouble`, and how old the oldest film under way is: HTML."""
    needs = f"{trouble} {'matter needs' if trouble == 1 else 'matters need'} a person." if trouble else "All is well."
    sentences = [f"<strong>{needs}</strong>"]
    if oldest := status["oldest_waiting"]:
        since = _when(oldest["received"])
        sentences.append(f"The oldest film under way is {oldest['number']}, {oldest['state']}, since {since}.")
    else:
        sentences.append("No film is under way.")
    if again := status["sent_again"]:
        sentences.append(f"Sent again and known: {again:,}.")
    return " ".join(sentences)


def _tiles(films: Mapping[str, int]) -> str:
    """How many films are in each state: HTML."""
    each = (
        f"<div{' class=bad' if state == FilmState.DEAD and n else ''}><dt>{escape(state)}</dt><dd>{n:,}</dd></div>"
        for state, n in films.items()
    )
    return f"<h2>Films</h2><dl>{''.join(each)}</dl>"


def _table(title: str, rows: Sequence[Mapping[str, Any]], **columns: str) -> str:
    """A table with its title, of columns (key of a row -> head); nothing without rows."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(name) or "<span>what</span>"}</th>' for name in columns.values())
    body = "".join(f"<tr>{''.join(f'<td>{_cell(key, row[key])}</td>' for key in columns)}</tr>" for row in rows[:MOST])
    more = f"<p>and {len(rows) - MOST:,} more</p>" if len(rows) > MOST else ""
    return f"<h2>{escape(title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    return escape(_when(value) if key in ("received", "since") else str(value))


def _when(time: str) -> str:
    """A time of the queue, as a person reads it."""
    return time.replace("T", " ").removesuffix("+00:00")
