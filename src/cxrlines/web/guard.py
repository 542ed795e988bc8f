"""What every request passes: who may call, from which page, how the answer is marked, and what of it is logged."""

import asyncio
import logging
import time
from typing import Any
from urllib.parse import urlsplit

from h11 import LocalProtocolError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cxrlines.web.counters import METHODS, Counters
from cxrlines.web.problems import Problem
from cxrlines.web.serve_settings import ServeSettings
from cxrlines.web.tokens import Tokens

LOG = logging.getLogger("cxrlines.web")
OPEN = ("/", "/healthz")
STATIC = "/static/"
"""Paths, and what lies below the last, that need no token: nothing of a film is there."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
DISCARD_S = 5.0
"""How long the rest of a body that is refused is taken in: a client that still sends would not see the answer."""


class Guard:
    """The outermost part of the server, around the application.

    Attributes:
        draining: Whether the server is about to end: what is under way is finished, nothing new begun.
        under_way: Requests that are being answered.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, tokens: Tokens, counters: Counters) -> None:
        self._app, self._settings, self._tokens, self._counters = app, settings, tokens, counters
        self.draining, self.under_way = False, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass on what is none."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        begun, status, whole, lost = time.monotonic(), 0, False, False

        async def marked(message: Message) -> None:
            nonlocal status, lost
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400 and not whole:
                    await _discard(scope, receive, self._settings.max_body)
                own = {name.lower() for name, _ in message["headers"]}
                extra = {**HEADERS, "Cache-Control": "no-store", **({"Connection": "close"} if self.draining else {})}
                message["headers"] = [
                    *message["headers"],
                    *((k.lower().encode(), v.encode()) for k, v in extra.items() if k.lower().encode() not in own),
                ]
            if not lost:
                try:
                    await send(message)
                except LocalProtocolError:  # after a body that is no HTTP, which uvicorn has answered by 400
                    lost = True

        async def taken() -> Message:
            nonlocal whole
            message = await receive()
            whole = whole or not message.get("more_body", False)
            return message

        self.under_way += 1
        try:
            try:
                self._check(scope)
                await self._app(scope, taken, marked)
            except Problem as problem:
                await problem.response()(scope, receive, marked)
            except Exception:  # the application raises again what it has answered and logged
                if not status:
                    await Problem(500, "fault", "this is a fault of cxrlines").response()(scope, receive, marked)
        finally:
            self.under_way -= 1
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = _route(scope)
            self._counters.request(method, route, status)
            LOG.info("%s %s %d %.0f ms", method, route, status, 1000 * (time.monotonic() - begun))

    def _check(self, scope: Scope) -> None:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        host = headers.get("host", "")
        if not self._settings.allows(_hostname(host)):
            what = "the request's Host is no name of this server"
            raise Problem(421, "host", what, "call it by its own name, or add the name to hosts in its --config")
        if _is_foreign(headers, host):
            what = "the request comes from a page of another site"
            raise Problem(403, "origin", what, "open this server's own page; programs send no Origin")
        if self.draining and scope["method"] == "POST":
            raise Problem(503, "draining", "the server is about to end", "send it again soon", {"Retry-After": "5"})
        path = scope["path"]
        if path not in OPEN and not path.startswith(STATIC):
            self._tokens.check(headers.get("authorization"))


def _route(scope: Scope) -> str:
    """The template of a request's route; what callers write into paths is neither counted nor logged."""
    if scope["path"].startswith(STATIC):
        return STATIC
    return getattr(scope.get("route"), "path", None) or "other"


def _hostname(host: str) -> str:
    """Of a Host header, without its port; empty where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_own(origin: str, host: str) -> bool:
    """Whether an Origin header is of the host and port of a Host header; either may leave out the usual port."""
    try:
        asked, called = urlsplit(origin), urlsplit(f"//{host}")
        usual = {"http": 80, "https": 443}.get(asked.scheme)
        return bool(asked.hostname) and (asked.hostname, asked.port or usual) == (called.hostname, called.port or usual)
    except ValueError:
        return False


def _is_foreign(headers: dict[str, str], host: str) -> bool:
    """Whether a browser sends this for a page of another site; a link that a person follows to the page is not."""
    origin = headers.get("origin")
    if origin is not None and not _is_own(origin, host):
        return True
    followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not followed


async def _discard(scope: Scope, receive: Receive, most: int) -> None:
    """Take in what is still sent of a body that is refused, without keeping it."""
    headers: list[tuple[Any, Any]] = scope["headers"]
    if any(name == b"expect" for name, _ in headers):
        return  # the client waits for leave before it sends
    size = 0
    try:
        async with asyncio.timeout(DISCARD_S):
            while size <= most:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
