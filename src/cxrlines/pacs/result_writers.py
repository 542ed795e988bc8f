"""Results of films into files, made in processes of their own: the node receives and sends meanwhile."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeAlias

from cxrlines.core.errors import Error, ReadingFault, light
from cxrlines.core.files import OutputError, replacing
from cxrlines.core.film import FilmError
from cxrlines.core.findings import Findings
from cxrlines.core.pool import Team
from cxrlines.core.processes import Died
from cxrlines.reading.results.dicom.objects import Kind, Replaced, result_objects
from cxrlines.reading.results.dicom.read_by import ReadBy


class Order(NamedTuple):
    """Results to be made: of a film's file, what was found on it or why it cannot be read, by what, which earlier
    results they replace, which kinds are wanted, and a file for each of them."""

    film: Path
    found: Findings | str
    read_by: ReadBy
    replaces: tuple[Replaced, ...]
    kinds: tuple[Kind, ...]
    places: tuple[Path, ...]


class Written(NamedTuple):
    """A result on disk: its kind and SOP Instance UID."""

    kind: str
    sop_uid: str


Made: TypeAlias = tuple[Written, ...] | Error | OSError | ReadingFault
"""Results, in the order of their places; or what is wrong: with the film, the disk (`OutputError`, `OSError`) or us."""


class ResultWriters:
    """Processes that write results, started when they are needed, and again if one dies or is ended over its time.

    Args:
        processes: How many.
        film_s: Seconds that the results of a film may take.
    """

    def __init__(self, processes: int, film_s: float) -> None:
        self._team = Team(write_results, film_s)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="writing")

    def write(self, order: Callable[[], Order]) -> "Future[Made]":
        """Have results written; the future raises nothing. `order` is called in a thread."""
        return self._threads.submit(self._write, order)

    def close(self) -> None:
        """End the processes; what they are at is lost."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._team.stop()
        self._threads.shutdown()

    def _write(self, order: Callable[[], Order]) -> Made:
        try:
            made: Made = self._team.result(order())
        except Died as died:
            return ReadingFault(f"its results: the process that writes them {died}")
        except Exception as error:
            return ReadingFault.of("its results", error)
        return made


def of_sender(error: Error) -> Error:
    """What is wrong with a film that no result can refer to, with the way out of who receives films from others."""
    if isinstance(error, FilmError):
        return error
    return Error(error.what, "have its sender give it one, and send it again")


def unread(error: Exception) -> ReadingFault:
    """The fault of a film whose file in the queue cannot be read."""
    return ReadingFault(f"the film's file in the queue cannot be read ({type(error).__name__})")


def write_results(order: Order) -> Made:
    """A process's work: each result is whole and on disk when this returns."""
    try:
        film = order.film.read_bytes()
    except OSError as error:
        return unread(error)
    try:
        results = result_objects(film, order.found, order.read_by, replaces=order.replaces, kinds=order.kinds)
    except Error as error:
        return light(of_sender(error))
    except Exception as error:  # of pydicom, say an OSError over a value that it cannot encode
        return ReadingFault.of("its results", error)
    try:
        for place, result in zip(order.places, results, strict=False):
            with replacing(place) as aside:
                aside.write_bytes(result.content)
    except (OutputError, OSError) as error:
        return light(error)
    return tuple(Written(result.kind.value, result.sop_instance_uid) for result in results)
