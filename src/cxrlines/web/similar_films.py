"""Known films that look most like a film, from an index; found in a process of its own, as decoders are."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cxrlines.core.errors import Error, OverTime, ReadingFault
from cxrlines.core.pool import Team
from cxrlines.core.processes import Died, Overdue
from cxrlines.reading.bundle import EMBEDDED, load_bundle
from cxrlines.reading.index import Index, open_index
from cxrlines.reading.reader import Reader

COUNT = 5
"""Films that are shown."""


class Query(NamedTuple):
    """A film's file, the bundle that embeds it (None: the embedded one), and the index of known films."""

    source: bytes
    bundle: Path | None
    known: Path


class SimilarFilms:
    """The search; a film after the other.

    Args:
        bundle: Folder of the bundle that the index was made with; None: the embedded one.
        index: The index's file.
        timeout_s: Seconds that a search may take, with loading both where its process is new.

    Raises:
        Error: There is no such index, another bundle made it, or it cannot be loaded.
    """

    def __init__(self, bundle: Path | None, index: Path, timeout_s: float) -> None:
        self._bundle, self._index = bundle, index
        self._team, self._threads = Team(similar, timeout_s), ThreadPoolExecutor(1, thread_name_prefix="similar")
        try:
            self._threads.submit(self._team.result, self._query(b"")).result()
        except Died as died:
            self.close()
            what = f"--index {index}: the process that searches it {died} as it loaded it"
            raise Error(what, "free memory, or raise timeout_s in --config") from None
        except BaseException:
            self.close()
            raise

    async def of(self, source: bytes) -> list[dict[str, Any]]:
        """The nearest films, as `Neighbour.as_dict` gives them; none of the film's own patient.

        `Error` where the film has no embedding, `ReadingFault` where the search failed, `OverTime` where it took too
        long.
        """
        ask = asyncio.get_running_loop().run_in_executor(self._threads, self._team.result, self._query(source))
        try:
            found: list[dict[str, Any]] = await ask
        except Died as died:
            kind = OverTime if isinstance(died, Overdue) else ReadingFault
            raise kind(f"the film: similar films were not found; the process that searches them {died}") from None
        return found

    def close(self) -> None:
        """End the process."""
        self._team.stop()
        self._threads.shutdown(cancel_futures=True)

    def _query(self, source: bytes) -> Query:
        return Query(source, self._bundle, self._index)


def similar(query: Query) -> list[dict[str, Any]]:
    """The process's work; of an empty film nothing, once all is loaded."""
    reader, index = _loaded(query.bundle, query.known)
    if not query.source:
        return []
    (asked,) = reader.embed([query.source])
    if isinstance(asked, Exception):
        raise asked
    (found,) = index.nearest(asked.vector[None], COUNT, [index.own_patients(query.source, asked.key)])
    return [each.as_dict() for each in found]


@cache
def _loaded(bundle: Path | None, index: Path) -> tuple[Reader, Index]:
    read = load_bundle(bundle or EMBEDDED)
    return Reader(read), open_index(index, read)
