"""The server as a process: bound, watched, ended by SIGTERM once what is under way is answered."""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from cxrlines.core.errors import Error
from cxrlines.corrections.project import Project
from cxrlines.reading.bundle import EMBEDDED, load_bundle
from cxrlines.reading.reading_pool import ReadingPool
from cxrlines.web.api import make_guard
from cxrlines.web.guard import Guard
from cxrlines.web.serve_settings import ServeSettings, is_loopback
from cxrlines.web.service import Service
from cxrlines.web.similar_films import SimilarFilms
from cxrlines.web.tokens import VARIABLE, Tokens

DRAIN_S = 1.0
"""How long at least `/healthz` answers 503 before the port closes, so that who watches it notices."""
GRACE_S = 120
"""How long requests that are under way, and their answers, may still take: who does not read them holds nothing up."""
KEEP_ALIVE_S = 20


class _Connection(H11Protocol):
    """uvicorn's, that ends a connection whose next request has not come, with all of its headers, within `head_s`."""

    head_s: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Open."""
        super().connection_made(transport)
        self._await_request(None)

    def on_response_complete(self) -> None:
        """An answer is out."""
        answered = self.cycle
        super().on_response_complete()
        self._await_request(answered)

    def _await_request(self, last: RequestResponseCycle | None) -> None:
        self.loop.call_later(self.head_s, self._end_unless_asked, last)

    def _end_unless_asked(self, last: RequestResponseCycle | None) -> None:
        if self.cycle is last and not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn's, that drains: on SIGTERM it answers 503 to new work, and closes its port once none is under way."""

    def __init__(self, config: uvicorn.Config, guard: Guard, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._guard, self._started = guard, started
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal ends it at once."""
        if self._guard.draining:
            self.should_exit = self.force_exit = True
        self._guard.draining = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; then say so."""
        await super().startup(sockets)
        self._started()

    async def main_loop(self) -> None:
        """Serve; then drain."""
        self._draining = asyncio.ensure_future(self._drain())
        await super().main_loop()

    async def _drain(self) -> None:
        while not self._guard.draining:
            await asyncio.sleep(0.05)
        end = time.monotonic() + GRACE_S
        await asyncio.sleep(DRAIN_S)
        while self._guard.under_way and time.monotonic() < end:
            await asyncio.sleep(0.05)
        self.config.timeout_graceful_shutdown = max(1, round(end - time.monotonic()))
        self.should_exit = True


def serve(settings: ServeSettings, started: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        started: Called with the server's address once films are taken.

    Raises:
        Error: The port is in use or may not be bound, a certificate or a token is none, no token is given for an
            address that others reach, the project's folder is none, the bundle cannot be trusted, or the index is
            none of it.
    """
    tokens = Tokens.configured(settings.token_file)
    if not is_loopback(settings.host) and not tokens:
        raise Error(
            f"--host {settings.host}: others reach it, and no token is given",
            f"name a file by --token-file, or set {VARIABLE}; or leave out --host",
        )
    _check_certificate(settings)
    project = None if settings.project is None else Project(settings.project)
    bundle = load_bundle(settings.bundle or EMBEDDED)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it logs bytes of what is malformed
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with (
        _bound(settings.host, settings.port) as listener,
        ReadingPool(settings.bundle, settings.processes, settings.timeout_s) as pool,
        closing(Service(settings, bundle, pool, tokens, project, _similar(settings))) as service,
    ):
        service.begin()
        _run(settings, make_guard(service), listener, started)


def _similar(settings: ServeSettings) -> SimilarFilms | None:
    if settings.index is None:
        return None
    return SimilarFilms(settings.bundle, settings.index, settings.timeout_s)


def _run(settings: ServeSettings, guard: Guard, listener: socket.socket, started: Callable[[str], None]) -> None:
    config = uvicorn.Config(
        guard,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        http=type("Connection", (_Connection,), {"head_s": settings.body_s}),
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    scheme = "https" if settings.tls_certificate else "http"
    name = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{scheme}://{name}:{listener.getsockname()[1]}"
    _Server(config, guard, lambda: started(address)).run(sockets=[listener])


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
    except OSError as error:
        raise Error(
            f"--port {port}: {host} cannot be listened on there ({error.strerror})",
            "give another --port, or end what listens on it",
        ) from None
    return listener


def _check_certificate(settings: ServeSettings) -> None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror
        what = f"tls_certificate {settings.tls_certificate}, tls_key {settings.tls_key}: cannot be used ({reason})"
        raise Error(what, "give a certificate and its key as PEM files") from None
