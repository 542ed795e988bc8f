"""What the routes work with: the readers, the films kept for the page, the queue, metrics and tokens."""

import asyncio
import time
from concurrent.futures import Future
from typing import Any, Protocol

from cxrlines import __version__
from cxrlines.core.film import FilmError
from cxrlines.core.findings import Findings, prediction_json
from cxrlines.corrections.project import Project
from cxrlines.reading.bundle import Bundle
from cxrlines.reading.reading_pool import Outcome
from cxrlines.reading.results.dicom.film_identifiers import Identifiers
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.web.counters import Counters
from cxrlines.web.kept_films import KeptFilm, KeptFilms
from cxrlines.web.problems import Problem
from cxrlines.web.rendering import Kind, Renderer
from cxrlines.web.serve_settings import ServeSettings
from cxrlines.web.similar_films import SimilarFilms
from cxrlines.web.tokens import Tokens
from cxrlines.web.uploads import Intake


class Pool(Protocol):
    """What reads: `reading.reading_pool.ReadingPool`."""

    @property
    def read_by(self) -> ReadBy:
        """What reads, as results name it."""
        ...

    def read(self, source: bytes) -> "Future[Outcome]":
        """The findings of a film's file, once they are there."""
        ...


class Service:
    """All of it. `settings`, `bundle` and `tokens` say what it does; the pool is started and ended by the caller."""

    def __init__(
        self,
        settings: ServeSettings,
        bundle: Bundle,
        pool: Pool,
        tokens: Tokens,
        project: Project | None = None,
        similar: SimilarFilms | None = None,
    ) -> None:
        self.settings, self.bundle, self.tokens, self._pool = settings, bundle, tokens, pool
        self.read_by = pool.read_by
        self.intake, self.counters = Intake(settings), Counters(bundle.identity)
        self.project, self.similar = project, similar
        self.kept, self._renderer = KeptFilms(settings.keep, settings.memory), Renderer()

    @property
    def about(self) -> dict[str, Any]:
        """What reads here."""
        return {
            "version": __version__,
            "bundle": self.bundle.identity,
            "notice": self.bundle.notice,
            "project": self.project is not None,
            "similar": self.similar is not None,
        }

    async def read(self, source: bytes) -> Outcome:
        """The findings of a film's file, counted."""
        begun = time.monotonic()
        found = await asyncio.wrap_future(self._pool.read(source))
        seconds = time.monotonic() - begun
        if isinstance(found, Findings):
            self.intake.took(found.seconds)
            outcome = "read" if found.quality.usable else "refused"
        else:
            outcome = "unreadable" if isinstance(found, FilmError) else "fault"
        self.counters.film(outcome, seconds)
        return found

    def film_json(self, findings: Findings, name: str) -> dict[str, Any]:
        """A film as `cxrlines schema` describes it."""
        read_by, study = self.read_by, findings.study_uid or name
        return prediction_json(findings, name, study, read_by.weights, read_by.tta, self.bundle.notice)

    async def make(
        self, kind: Kind, source: bytes, findings: Findings | None, identifiers: Identifiers | None = None
    ) -> bytes:
        """A picture or an object of a film. `Error` where the film allows none."""
        return await asyncio.to_thread(self._renderer.make, kind, source, findings, self.read_by, identifiers)

    def film(self, name: str) -> KeptFilm:
        """A film kept for the page; `Problem` 404 where it is not, or no more."""
        film = self.kept.get(name)
        if film is None:
            raise Problem(404, "film-not-kept", "no film of this name is in memory (any more)", "send the film again")
        return film

    def begin(self) -> None:
        """Start what takes a moment."""
        self._renderer.begin()

    def close(self) -> None:
        """End what it started."""
        self._renderer.close()
        if self.similar is not None:
            self.similar.close()
