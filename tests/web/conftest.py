"""The server around readers that answer what a test wants, without a process or a port."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from cxrlines.core.film import FilmError
from cxrlines.core.findings import Distance, Findings, Keypoint, Line
from cxrlines.core.notes import Code, Note
from cxrlines.core.quality import Quality
from cxrlines.corrections.project import Project
from cxrlines.io.films import read_film
from cxrlines.reading.bundle import EMBEDDED, Bundle, load_bundle
from cxrlines.reading.reading_pool import Outcome
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.task import LABELS, Device, Landmark, State
from cxrlines.web.api import make_guard
from cxrlines.web.serve_settings import ServeSettings
from cxrlines.web.service import Service
from cxrlines.web.tokens import Tokens

EXAMPLE = (EMBEDDED / "example.jpg").read_bytes()
SHAPE = read_film(EXAMPLE).pixels.shape


def found(**changes: Any) -> Findings:
    """An endotracheal tube whose tip is 30 px above the carina."""
    tip = np.array([600.0, 500.0])
    line = Line(Device.ETT, np.array([[600.0, 20.0], tip]), tip, 0.9)
    what = Distance(
        "ETT tip above the carina", 0, 30.0, 2.48, None, (0.7, 1.1), "the rule", State.BORDERLINE, 0.1, False
    )
    labels = {label: 0.1 + 0.01 * k for k, label in enumerate(LABELS)}
    carina = {Landmark.CARINA: Keypoint(np.array([620.0, 530.0]), 0.8)}
    return replace(Findings(SHAPE, (line,), carina, (what,), labels, seconds=0.2, calibrated=True), **changes)


REFUSED = found(
    lines=(), landmarks={}, distances=(), labels=None,
    quality=Quality(usable=False, notes=(Note(Code.LATERAL, "a lateral film"),)),
)  # fmt: skip


class FakePool:
    """Answers by what a file begins with; holds its answers back while `held`."""

    def __init__(self, read_by: ReadBy) -> None:
        self.read_by = read_by
        self.given: list[bytes] = []
        self.held: list[tuple[Future[Outcome], bytes]] | None = None
        self.answer: Callable[[bytes], Outcome] = self._answer

    def _answer(self, source: bytes) -> Outcome:
        if source.startswith(b"refuse"):
            return REFUSED
        if source.startswith(b"bad"):
            return FilmError("the film: is damaged", "copy it again")
        return found()

    def read(self, source: bytes) -> "Future[Outcome]":
        """As `ReadingPool.read`."""
        self.given.append(source)
        future: Future[Outcome] = Future()
        if self.held is None:
            future.set_result(self.answer(source))
        else:
            self.held.append((future, source))
        return future

    def release(self) -> None:
        """Answer what was held back."""
        held, self.held = self.held or [], None
        for future, source in held:
            future.set_result(self.answer(source))


class Web(SimpleNamespace):
    """A server under test: its `pool`, `service`, `guard`."""

    async def ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        """A response, within an event loop of the test's own."""
        transport = httpx.ASGITransport(self.guard, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
            return await client.request(method, path, **given)

    def __call__(self, method: str, path: str, **given: Any) -> httpx.Response:
        """A response."""
        return asyncio.run(self.ask(method, path, **given))


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return load_bundle(EMBEDDED)


@pytest.fixture(scope="session")
def read_by(bundle) -> ReadBy:
    return ReadBy.of(bundle, "onnx", ())


@pytest.fixture
def web(bundle, read_by):
    """Makes a server of settings, with tokens (the lines of a file) or none."""
    made: list[Service] = []

    def make(tokens: str | None = None, project: Path | None = None, **settings: Any) -> Web:
        pool = FakePool(read_by)
        service = Service(ServeSettings(**settings), bundle, pool, Tokens(None, tokens), project and Project(project))
        made.append(service)
        return Web(pool=pool, service=service, guard=make_guard(service))

    yield make
    for service in made:
        service.close()
